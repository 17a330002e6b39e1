/** Runs a builder to its end: its output as lines, its time and talk limited, its death certain. */
import { StringDecoder } from 'node:string_decoder';
import { FlkError } from '../../base/errors.ts';
import { watchDisk } from './disk-watch.ts';
import type { BuildRequest } from './engine.ts';
import type { Ended } from './sandbox.ts';
import type { Program } from './starter.ts';
import type { Workplace } from './workshop.ts';

export interface Supervised extends Pick<Program, 'argv' | 'cwd' | 'inputs' | 'reports'> {
  readonly workplace: Workplace;
  /** What the builder can write: all of it counts for the limit on its files. */
  readonly folders: readonly string[];
  /** What it starts cannot outlive it. */
  readonly isolated: boolean;
}

/** A line longer than this is cut, so that a builder cannot fill flk's memory. */
const maxLine = 16 * 1024;
const keptLines = 20;
/** Milliseconds from a builder's end to the end of its output. */
const grace = 1000;

/**
 * Throws FLK_BUILD_TIMEOUT, FLK_BUILD_LIMIT, FLK_BUILD_OUTPUT_LIMIT (log too long) and FLK_INTERRUPTED, each only after the program and
 * what shares its output has ended; and what `Starter.run` throws.
 */
export async function supervise(
  what: Supervised,
  { limits, log, signal }: Pick<BuildRequest, 'limits' | 'log' | 'signal'>,
): Promise<Ended> {
  const { workplace, isolated, folders, ...program } = what;
  const { starter, confinement, output } = workplace;
  let verdict: FlkError | undefined;
  const end = (error: FlkError): void => {
    verdict ??= error;
    starter.kill();
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
  const disk = watchDisk(folders, { maxBytes: maxDiskBytes, minFree: minFreeBytes }, end);
  const interrupt = (): void =>
    end(new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: signal?.reason }));
  signal?.addEventListener('abort', interrupt, { once: true });
  // It may have come while the place was being made.
  if (signal?.aborted) interrupt();

  const lastLines: string[] = [];
  const lines = new Lines((line) => {
    lastLines.push(line);
    if (lastLines.length > keptLines) lastLines.shift();
    log(line);
  });
  let logged = 0;
  output.on('data', (chunk: Buffer) => {
    if (verdict) return;
    silence?.refresh();
    logged += chunk.length;
    if (logged > limits.maxLogBytes)
      end(
        new FlkError('FLK_BUILD_OUTPUT_LIMIT', `the builder printed more than ${limits.maxLogBytes} bytes`),
      );
    else lines.push(chunk);
  });
  let drained = false;
  output.on('end', () => {
    drained = true;
  });
  const closed = new Promise((done) => output.on('close', done));
  try {
    const ended = await starter.run(program);
    if (!isolated) {
      starter.kill();
      void confinement.kill();
    }
    workplace.shut();
    // Without a process namespace something may have left the group and still hold the pipe: it is not waited for.
    timers.push(setTimeout(() => output.destroy(), grace));
    await closed;
    lines.end();
    if (verdict) throw verdict;
    confinement.assertWithin(ended?.status);
    return { status: ended?.status ?? 'SIGKILL', report: ended?.report ?? '', lastLines };
  } finally {
    for (const timer of timers) clearTimeout(timer);
    disk.stop();
    signal?.removeEventListener('abort', interrupt);
    await workplace.leave(drained);
  }
}

export function late(did: string, seconds: number, limit: string): FlkError {
  return new FlkError('FLK_BUILD_TIMEOUT', `the builder ${did} more than ${seconds} seconds`, {
    facts: { limit: `${limit} ${seconds} s` },
  });
}

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
