/** Other programs: no shell, a scrubbed environment, captured errors, an end for the whole group. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { FlkError, systemCode } from './errors.ts';

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: Buffer | string;
  /** Captured stdout above this many bytes is FLK_LIMIT. Default 64 MiB. */
  readonly maxOutput?: number;
  readonly signal?: AbortSignal;
}

export interface Finished {
  /** Exit status; null when a signal ended it. */
  readonly status: number | null;
  readonly stdout: Buffer;
  /** The last 64 KiB. */
  readonly stderr: string;
}

const stderrKept = 64 * 1024;

/** Runs a program to its end. Rejects with `FLK_GIT_MISSING`-like errors only through `missing`; a non-zero status is an answer. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Finished> {
  const chunks: Buffer[] = [];
  let size = 0;
  const max = options.maxOutput ?? 64 * 1024 * 1024;
  const child = start(program, args, options);
  let tooMuch = false;
  child.stdout.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > max) {
      tooMuch = true;
      child.kill();
    } else chunks.push(chunk);
  });
  // A program may end without reading its input; that is its answer, not our failure.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input);
  const { status, stderr } = await child.finished;
  if (tooMuch) throw new FlkError('FLK_LIMIT', `${program} printed more than ${max} bytes`);
  return { status, stdout: Buffer.concat(chunks), stderr };
}

export interface Running {
  readonly pid: number | undefined;
  /** Whether it wrote anything to descriptor 3 by the time that it closed it; false where it has none. */
  readonly told: Promise<boolean>;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly finished: Promise<{ status: number | null; stderr: string }>;
  kill(): void;
}

interface StartOptions extends Omit<RunOptions, 'input' | 'maxOutput'> {
  /** It gets a descriptor 3, by which it may tell that it is what was meant. */
  readonly tells?: boolean;
}

/** Starts a program whose stdin and stdout the caller streams. `finished` rejects when it could not be started. */
export function start(program: string, args: readonly string[], options: StartOptions = {}): Running {
  const child = spawn(program, args, { ...common(options), stdio: ['pipe', 'pipe', ...rest(options)] });
  return { ...running(program, child, options.signal), stdout: child.stdout! };
}

/** The same where stdout leads elsewhere. */
export function startInto(
  stdout: Socket,
  program: string,
  args: readonly string[],
  options: StartOptions = {},
): Omit<Running, 'stdout'> {
  const child = spawn(program, args, { ...common(options), stdio: ['pipe', stdout, ...rest(options)] });
  return running(program, child, options.signal);
}

/** Of its descriptors, those that are always pipes. */
const rest = ({ tells }: StartOptions): 'pipe'[] => (tells ? ['pipe', 'pipe'] : ['pipe']);

const common = ({ cwd, env, signal }: StartOptions): SpawnOptions => ({
  ...(cwd === undefined ? {} : { cwd }),
  ...(env === undefined ? {} : { env }),
  ...(signal === undefined ? {} : { signal }),
});

function running(
  program: string,
  child: ChildProcess,
  signal: AbortSignal | undefined,
): Omit<Running, 'stdout'> {
  let stderr = '';
  child.stderr!.setEncoding('utf8');
  child.stderr!.on('data', (text: string) => {
    stderr = (stderr + text).slice(-stderrKept);
  });
  const telling = child.stdio[3];
  const told = new Promise<boolean>((resolve) => {
    if (telling) telling.once('data', () => resolve(true)).once('close', () => resolve(false));
    else resolve(false);
  });
  const finished = new Promise<{ status: number | null; stderr: string }>((resolve, reject) => {
    child.on('error', (error) => {
      if (signal?.aborted) reject(new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: error }));
      else if (systemCode(error) === 'ENOENT')
        reject(
          new FlkError(
            program === 'git' ? 'FLK_GIT_MISSING' : 'FLK_INTERNAL',
            `cannot run ${program}: not found`,
            { cause: error },
          ),
        );
      else reject(new FlkError('FLK_INTERNAL', `cannot run ${program}: ${error.message}`, { cause: error }));
    });
    child.on('close', (status) => resolve({ status, stderr }));
  });
  // The caller may only look at the streams; an unobserved rejection must not end flk.
  finished.catch(() => {});
  return {
    pid: child.pid,
    told,
    stdin: child.stdin!,
    finished,
    kill: () => void child.kill('SIGKILL'),
  };
}

/** A word as a POSIX shell reads it, whatever it holds but NUL. */
export const quote = (word: string): string =>
  /^[\w./@%+=:,][\w./@%+=:,-]*$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
