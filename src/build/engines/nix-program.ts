/** The programs of an installed Nix: asked, fed and listened to. What they print for people is read by nobody but people. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { throwIfAborted } from '../../base/concurrency.ts';
import { FlkError } from '../../base/errors.ts';
import { type Running, start } from '../../base/process.ts';
import type { BuildRequest } from './engine.ts';
import { findTool } from './host.ts';
import { Lines, late } from './supervise.ts';

/** What a run of nix-store came to. */
export interface NixEnd {
  /** Null where a signal ended it. */
  readonly status: number | null;
  /** A builder was started: what is there now was not there already. */
  readonly began: boolean;
  /** What it complained of, without colours; the last is what it failed of. */
  readonly errors: readonly string[];
}

/** The programs take no more of arguments than the kernel does, so many paths at a time. */
const pathsAtATime = 5000;
/** Milliseconds in which Nix ends a build by itself. */
const grace = 5000;

export class NixProgram {
  readonly #nix: string;
  readonly #nixStore: string;

  private constructor(nix: string, nixStore: string) {
    this.#nix = nix;
    this.#nixStore = nixStore;
  }

  /** `program`: the absolute path of `nix`, beside which `nix-store` lies; undefined: those on PATH. Throws FLK_BUILDER_UNAVAILABLE. */
  static async find(program: string | undefined): Promise<NixProgram> {
    const nix = program ?? (await findTool('nix'));
    const nixStore =
      program === undefined ? await findTool('nix-store') : join(dirname(program), 'nix-store');
    if (nix === undefined || nixStore === undefined)
      throw new FlkError('FLK_BUILDER_UNAVAILABLE', 'nix: it is not installed, or not on PATH', {
        hint: 'name it: --builders nix=/nix/var/nix/profiles/default/bin/nix',
      });
    return new NixProgram(nix, nixStore);
  }

  /** Whether Nix does as we say; what does not, builds with other files at `/` than it is told. Throws FLK_BUILDER_UNAVAILABLE. */
  async isTrusted(signal: AbortSignal | undefined): Promise<boolean> {
    const features = ['--extra-experimental-features', 'nix-command'];
    const text = await answer(
      start(this.#nix, [...features, 'store', 'info', '--json'], withSignal(signal)),
      signal,
    );
    try {
      const { trusted } = JSON.parse(text) as { readonly trusted?: unknown };
      return trusted === true || trusted === 1;
    } catch {
      throw unavailable('“nix store info --json” gave no JSON; Nix 2.19 or later is needed');
    }
  }

  /** Those that are not valid in Nix's store. */
  async invalid(paths: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
    const lines = await this.#askOf(['--check-validity', '--print-invalid'], paths, signal);
    return lines.filter((line) => line.startsWith('/'));
  }

  /** `sha256:NIXBASE32` of each, in their order. All must be valid. */
  async hashes(paths: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
    const lines = await this.#askOf(['--query', '--hash'], paths, signal);
    if (lines.length !== paths.length) throw unavailable('it told other hashes than it was asked for');
    return lines;
  }

  /** Hands a stream of paths over. */
  async import(
    feed: (write: (bytes: Buffer) => Promise<void>) => Promise<void>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const running = start(this.#nixStore, ['--import'], withSignal(signal));
    running.stdout.resume();
    const { stdin, finished } = running;
    let broken = false;
    stdin.on('error', () => {
      broken = true;
    });
    const gone = finished.then(
      () => {},
      () => {},
    );
    try {
      await feed(async (bytes) => {
        throwIfAborted(signal);
        if (!broken && !stdin.write(bytes)) await Promise.race([once(stdin, 'drain').catch(() => {}), gone]);
      });
    } catch (error) {
      running.kill();
      await gone;
      throw error;
    }
    stdin.end();
    await ended(running, signal);
  }

  /** The NAR of a path, piece by piece. */
  async dump(path: string, take: (chunk: Buffer) => void, signal: AbortSignal | undefined): Promise<void> {
    const running = start(this.#nixStore, ['--dump', path], withSignal(signal));
    running.stdin.end();
    try {
      for await (const chunk of running.stdout) take(chunk as Buffer);
    } catch (error) {
      running.kill();
      throwIfAborted(signal);
      throw error;
    }
    await ended(running, signal);
  }

  /**
   * Runs `nix-store ARGS`, which builds one derivation, with the builder's lines told as they come. Limits on time count from when the
   * builder starts. Throws FLK_BUILD_TIMEOUT, FLK_BUILD_OUTPUT_LIMIT and FLK_INTERRUPTED, each when Nix has ended.
   */
  realise(
    args: readonly string[],
    { limits, log, signal }: Pick<BuildRequest, 'limits' | 'log' | 'signal'>,
  ): Promise<NixEnd> {
    throwIfAborted(signal);
    return new Promise((resolve, reject) => {
      // Its own session: Ctrl-C reaches flk, which then ends the build as a whole.
      const child = spawn(this.#nixStore, ['--log-format', 'internal-json', ...args], {
        detached: true,
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let verdict: FlkError | undefined;
      const timers: NodeJS.Timeout[] = [];
      const end = (error: FlkError): void => {
        if (verdict) return;
        verdict = error;
        killGroup(child.pid, 'SIGTERM');
        timers.push(setTimeout(() => killGroup(child.pid, 'SIGKILL'), grace));
      };
      const interrupt = (): void =>
        end(new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: signal?.reason }));
      signal?.addEventListener('abort', interrupt, { once: true });
      let silence: NodeJS.Timeout | undefined;
      const { timeout, maxSilent } = limits;
      let began = false;
      const begin = (): void => {
        began = true;
        if (timeout !== undefined)
          timers.push(setTimeout(() => end(late('ran for', timeout, 'timeout')), timeout * 1000));
        if (maxSilent !== undefined) {
          silence = setTimeout(() => end(late('was silent for', maxSilent, 'maxSilent')), maxSilent * 1000);
          timers.push(silence);
        }
      };
      const lines = new Lines(log);
      let logged = 0;
      const errors: string[] = [];
      eachMessage(child.stderr, {
        begin,
        line: (text) => {
          if (verdict) return;
          silence?.refresh();
          const bytes = Buffer.from(`${text}\n`);
          logged += bytes.length;
          if (logged <= limits.maxLogBytes) lines.push(bytes);
          else
            end(
              new FlkError(
                'FLK_BUILD_OUTPUT_LIMIT',
                `the builder printed more than ${limits.maxLogBytes} bytes`,
              ),
            );
        },
        error: (text) => {
          if (errors.length < maxErrors) errors.push(text);
        },
      });
      const finish = (): void => {
        for (const timer of timers) clearTimeout(timer);
        signal?.removeEventListener('abort', interrupt);
      };
      child.on('error', (error) => {
        finish();
        reject(unavailable(`cannot run ${this.#nixStore}: ${error.message}`));
      });
      child.on('close', (status) => {
        finish();
        lines.end();
        if (verdict) reject(verdict);
        else resolve({ status, began, errors });
      });
    });
  }

  async #askOf(
    args: readonly string[],
    paths: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<string[]> {
    const lines: string[] = [];
    for (let at = 0; at < paths.length; at += pathsAtATime) {
      const some = paths.slice(at, at + pathsAtATime);
      const text = await answer(start(this.#nixStore, [...args, ...some], withSignal(signal)), signal);
      lines.push(...text.split('\n').filter((line) => line !== ''));
    }
    return lines;
  }
}

const maxErrors = 100;

export const unavailable = (reason: string, hint?: string): FlkError =>
  new FlkError('FLK_BUILDER_UNAVAILABLE', `nix: ${reason}`, hint === undefined ? {} : { hint });

const withSignal = (signal: AbortSignal | undefined): { readonly signal?: AbortSignal } =>
  signal ? { signal } : {};

async function answer(running: Running, signal: AbortSignal | undefined): Promise<string> {
  running.stdin.on('error', () => {});
  running.stdin.end();
  const chunks: Buffer[] = [];
  running.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  await ended(running, signal);
  return Buffer.concat(chunks).toString();
}

async function ended({ finished }: Running, signal: AbortSignal | undefined): Promise<void> {
  const { status, stderr } = await finished.catch((error: FlkError) => {
    throw error.code === 'FLK_INTERRUPTED' ? error : unavailable(error.message);
  });
  throwIfAborted(signal);
  if (status === 0) return;
  const said =
    withoutColours(stderr)
      .trim()
      .split(/\n(?=error:)/)
      .at(-1) ?? '';
  throw unavailable(said.replace(/^error:\s*/, '').replace(/\s+/g, ' ') || `it ended with status ${status}`);
}

/** nix-store takes the colours of a terminal for granted in its structured log. */
const withoutColours = (text: string): string => text.replace(/\u001b\[[0-9;]*m/g, '');

interface Listener {
  /** A builder starts. */
  begin(): void;
  line(text: string): void;
  error(text: string): void;
}

/** More than any line of a builder that Nix passes on. */
const maxMessage = 2 ** 20;
const buildActivity = 105;
const logLine = 101;

/** Reads Nix's `internal-json` log: a line for each message, `@nix {…}`. */
function eachMessage(stream: Readable, listener: Listener): void {
  let rest: Buffer[] = [];
  let size = 0;
  const take = (piece: Buffer): void => {
    size += piece.length;
    if (size <= maxMessage) rest.push(piece);
  };
  const end = (): void => {
    const text = Buffer.concat(rest).toString();
    if (size <= maxMessage) hear(text, listener);
    rest = [];
    size = 0;
  };
  stream.on('data', (chunk: Buffer) => {
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      take(chunk.subarray(from, at));
      end();
      from = at + 1;
    }
    take(chunk.subarray(from));
  });
  stream.on('end', end);
}

function hear(text: string, listener: Listener): void {
  if (!text.startsWith('@nix ')) {
    if (/^error:/.test(text)) listener.error(text);
    return;
  }
  let message: Readonly<Record<string, unknown>>;
  try {
    message = JSON.parse(text.slice(5)) as Readonly<Record<string, unknown>>;
  } catch {
    return;
  }
  const { action, type, level, fields } = message;
  if (action === 'start' && type === buildActivity) listener.begin();
  else if (action === 'result' && type === logLine && Array.isArray(fields))
    listener.line(String(fields[0] ?? ''));
  else if (action === 'msg' && typeof level === 'number' && level <= 1)
    listener.error(withoutColours(String(message.raw_msg ?? message.msg ?? '')));
}

function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // Nobody is left in it.
  }
}
