/** Runs a builder to its end: its output as lines, its time and talk limited, its death certain. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { FlkError, systemCode } from '../../base/errors.ts';
import type { Confinement } from './confinement.ts';
import { watchDisk } from './disk-watch.ts';
import type { BuildRequest } from './engine.ts';
import type { Ended } from './sandbox.ts';
import type { OutputPipe } from './workshop.ts';

export interface Supervised {
  readonly output: OutputPipe;
  readonly program: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  /** Open files that the program finds as descriptors 4, 5 and so on. */
  readonly inputs: readonly number[];
  /** What holds it to the limits on memory and processes. */
  readonly confinement: Confinement;
  /** What the builder can write: all of it counts for the limit on its files. */
  readonly folders: readonly string[];
}

/**
 * Sets what is the same for every builder, then becomes the program: umask, no core dumps, as many open files as programs are used to,
 * no file larger than $1 blocks of 512 bytes, no more processes of this user than $2 and no more KiB of private memory each than $3
 * (`unlimited`: as it is); then it enters the $4 groups that follow. One pipe for stdout and stderr, so that lines keep their order.
 * Shells name the option for processes -u or -p.
 */
const wrapper = `
umask 022; ulimit -c 0; ulimit -S -n 1024 2>/dev/null || :; ulimit -f "$1" 2>/dev/null || :
[ "$2" = unlimited ] || ulimit -u "$2" 2>/dev/null || ulimit -p "$2" 2>/dev/null || :
[ "$3" = unlimited ] || ulimit -d "$3" 2>/dev/null || :
n=$4; shift 4
while [ "$n" -gt 0 ]; do { echo 0 > "$1"; } || exit 125; shift; n=$((n - 1)); done
exec "$@" 2>&1
`;

/** A line longer than this is cut, so that a builder cannot fill flk's memory. */
const maxLine = 16 * 1024;
const keptLines = 20;
/** Milliseconds from a builder's end to the end of its output. */
const grace = 1000;
const maxReport = 64 * 1024;

/**
 * Throws FLK_BUILD_TIMEOUT, FLK_BUILD_OUTPUT_LIMIT (log too long) and FLK_INTERRUPTED, each only after the program and what
 * shares its output has ended; FLK_BUILD_FAILED where the kernel hands over no environment of this length.
 */
export async function supervise(
  what: Supervised,
  { limits, log, signal }: Pick<BuildRequest, 'limits' | 'log' | 'signal'>,
): Promise<Ended> {
  const { output } = what;
  return new Promise((resolve, reject) => {
    const nothing = openSync('/dev/null', 'r+');
    // Its own session: Ctrl-C reaches flk, which then ends the build as a whole.
    let child: ChildProcess;
    try {
      const { entrances, ulimits } = what.confinement;
      const before = [fileBlocks(limits), ...ulimits, String(entrances.length), ...entrances];
      child = spawn('sh', ['-c', wrapper, 'flk', ...before, what.program, ...what.args], {
        cwd: what.cwd,
        env: what.env,
        detached: true,
        stdio: [
          nothing,
          output.end,
          nothing,
          'pipe',
          ...what.inputs,
          ...covers(nothing, 4 + what.inputs.length),
        ],
      });
    } catch (error) {
      output.stream.destroy();
      throw systemCode(error) === 'E2BIG' ? tooLong(error) : error;
    } finally {
      closeSync(output.end);
      closeSync(nothing);
    }
    let verdict: FlkError | undefined;
    const end = (error: FlkError): void => {
      verdict ??= error;
      killGroup(child.pid);
    };
    const timers: NodeJS.Timeout[] = [];
    const { timeout, maxSilent } = limits;
    if (timeout !== undefined)
      timers.push(setTimeout(() => end(late('ran for', timeout, 'timeout')), timeout * 1000));
    const silence =
      maxSilent === undefined
        ? undefined
        : setTimeout(() => end(late('was silent for', maxSilent, 'maxSilent')), maxSilent * 1000);
    if (silence) timers.push(silence);
    const { maxDiskBytes = Number.POSITIVE_INFINITY, minFreeBytes = 0 } = limits;
    const disk = watchDisk(what.folders, { maxBytes: maxDiskBytes, minFree: minFreeBytes }, end);
    const interrupt = (): void =>
      end(new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: signal?.reason }));
    signal?.addEventListener('abort', interrupt, { once: true });

    const lastLines: string[] = [];
    let drained = false;
    output.stream.on('end', () => {
      drained = true;
    });
    const lines = new Lines((line) => {
      lastLines.push(line);
      if (lastLines.length > keptLines) lastLines.shift();
      log(line);
    });
    let logged = 0;
    output.stream.on('data', (chunk: Buffer) => {
      if (verdict) return;
      silence?.refresh();
      logged += chunk.length;
      if (logged > limits.maxLogBytes)
        end(
          new FlkError('FLK_BUILD_OUTPUT_LIMIT', `the builder printed more than ${limits.maxLogBytes} bytes`),
        );
      else lines.push(chunk);
    });
    let report = '';
    const reportPipe = child.stdio[3] as Readable;
    reportPipe.on('data', (chunk: Buffer) => {
      if (report.length < maxReport) report += chunk.toString('latin1');
    });
    const finish = (): void => {
      for (const timer of timers) clearTimeout(timer);
      disk.stop();
      signal?.removeEventListener('abort', interrupt);
    };
    child.on('error', (error) => {
      finish();
      output.stream.destroy();
      reject(new FlkError('FLK_SANDBOX_UNAVAILABLE', `cannot run sh: ${error.message}`, { cause: error }));
    });
    child.on('exit', () => {
      killGroup(child.pid);
      disk.stop();
      void what.confinement.kill();
      // Without a process namespace something may have left the group and still hold the pipes: it is not waited for.
      timers.push(setTimeout(() => [output.stream, reportPipe].map((pipe) => pipe.destroy()), grace));
    });
    const closed = new Promise<[number | null, NodeJS.Signals | null]>((done) => {
      child.on('close', (status, by) => done([status, by]));
    });
    // The output ends when nobody is left who could write to it.
    output.stream.on('close', async () => {
      output.release(drained);
      const [status, by] = await closed;
      finish();
      lines.end();
      if (verdict) reject(verdict);
      else resolve({ status: status ?? by ?? 'SIGKILL', report, lastLines });
    });
  });
}

/** Linux hands over 128 KiB in one variable or argument, and in all of them a quarter of the stack's limit: execve(2). */
const tooLong = (cause: unknown): FlkError =>
  new FlkError('FLK_BUILD_FAILED', 'the builder could not be started', {
    facts: { status: 'its environment or arguments are too long' },
    hint: 'a variable holds at most 128 KiB: put what is longer into a file of src',
    cause,
  });

/**
 * Descriptors that flk itself was started with and knows nothing of (a CI job's, a make's) would reach the builder, and one of
 * them may be a folder of the host: /dev/null takes their places, from `first` up.
 */
function covers(nothing: number, first: number): (number | 'ignore')[] {
  // What Node opens later ends with the exec: one look is enough.
  inherited ??= readdirSync('/proc/self/fdinfo')
    .map(Number)
    .filter((fd) => fd > 2 && fd <= maxDescriptor && !isClosedOnExec(fd));
  const places: (number | 'ignore')[] = [];
  for (const fd of inherited) {
    if (fd < first) continue;
    while (places.length < fd - first) places.push('ignore');
    places[fd - first] = nothing;
  }
  return places;
}

let inherited: readonly number[] | undefined;

/** A number so high needs a raised limit; nobody hands such a descriptor on by accident. */
const maxDescriptor = 65_536;

/** Whether it ends with the next exec, as all do that Node opens. Format: proc(5), fdinfo. */
function isClosedOnExec(fd: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'));
    return (Number.parseInt(flags?.[1] ?? '0', 8) & 0o2000000) !== 0;
  } catch {
    // It was the listing's own and is closed by now.
    return true;
  }
}

export function late(did: string, seconds: number, limit: string): FlkError {
  return new FlkError('FLK_BUILD_TIMEOUT', `the builder ${did} more than ${seconds} seconds`, {
    facts: { limit: `${limit} ${seconds} s` },
  });
}

/** The leader is dead or dying: within a process namespace that ends all; outside one, the group is what can be reached. */
function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Nobody is left in it.
  }
}

const fileBlocks = (limits: BuildRequest['limits']): string => String(Math.ceil(limits.maxOutputBytes / 512));

/** Bytes to lines. What a carriage return overwrites (progress bars) is dropped, as a terminal would. */
export class Lines {
  readonly #take: (line: string) => void;
  readonly #decoder = new StringDecoder('utf8');
  #rest = '';

  constructor(take: (line: string) => void) {
    this.#take = take;
  }

  push(chunk: Buffer): void {
    const lines = (this.#rest + this.#decoder.write(chunk)).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#emit(line);
    while (this.#rest.length > maxLine) {
      const start = this.#rest.lastIndexOf('\r', this.#rest.length - 2) + 1;
      if (start > 0) this.#rest = this.#rest.slice(start);
      else {
        this.#take(this.#rest.slice(0, maxLine));
        this.#rest = this.#rest.slice(maxLine);
      }
    }
  }

  end(): void {
    const rest = this.#rest + this.#decoder.end();
    this.#rest = '';
    if (rest !== '') this.#emit(rest);
  }

  #emit(line: string): void {
    const text = line.endsWith('\r') ? line.slice(0, -1) : line;
    let visible = text.slice(text.lastIndexOf('\r') + 1);
    for (; visible.length > maxLine; visible = visible.slice(maxLine)) this.#take(visible.slice(0, maxLine));
    this.#take(visible);
  }
}
