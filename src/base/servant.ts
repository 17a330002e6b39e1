/** One small shell for many small works: to start a program from Node itself costs too much to do it often. */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';

interface ServantOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Leads a session and a group of its own, so that `kill` reaches all that it started and has not been led away. */
  readonly leads?: boolean;
  /** Its descriptors 3 and up. */
  readonly further?: Extract<StdioOptions, unknown[]>;
}

/** Nobody who answers at greater length has understood the question. */
const maxLines = 1000;
const maxLine = 64 * 1024;

/**
 * A shell that is started once and answers each request with lines, and with an empty line after them. To start a program, Node makes a
 * copy of itself: its memory is listed anew, and each part of it costs a page fault when it is next written to. A shell is a hundredth
 * of its size. It does not keep the process alive while nothing is asked.
 */
export class Servant {
  readonly #shell: ChildProcess;
  readonly #leads: boolean;
  readonly #requests: Writable;
  readonly #answers: Readable;
  /** Who waits for an answer, in the order of their requests. */
  readonly #waiting: ((answer: string[] | undefined) => void)[] = [];
  readonly #lines: string[] = [];
  #rest = '';
  #isOver = false;

  /** `script`: what `sh` runs; its arguments are `args`, its requests come on stdin, it answers on stdout. */
  constructor(script: string, args: readonly string[], options: ServantOptions = {}) {
    this.#leads = options.leads ?? false;
    this.#shell = spawn('sh', ['-c', script, 'flk', ...args], {
      stdio: ['pipe', 'pipe', 'ignore', ...(options.further ?? [])],
      detached: this.#leads,
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    this.#requests = this.#shell.stdin!;
    this.#answers = this.#shell.stdout!;
    this.#shell.on('error', () => this.#end());
    // Not the shell's own end: what it wrote last may still be on its way.
    this.#answers.on('close', () => this.#end());
    // A shell that is gone answers nothing: that is what its callers are told.
    this.#requests.on('error', () => {});
    this.#answers.on('data', (bytes: Buffer) => this.#take(bytes.toString('latin1')));
    this.#shell.unref();
    for (const stream of this.#shell.stdio) if (stream) keepAlive(stream, false);
  }

  /** The lines of its answer, to an empty request of what it says by itself; undefined where it is no more, and from then on always. */
  async ask(request: string | Buffer): Promise<string[] | undefined> {
    if (this.#isOver) return undefined;
    const answer = new Promise<string[] | undefined>((resolve) => {
      this.#waiting.push(resolve);
    });
    keepAlive(this.#answers, true);
    this.#requests.write(request);
    return await answer;
  }

  /** Ends it when it has done what it was asked for. */
  close(): void {
    this.#requests.end();
  }

  /** Whether it will answer nothing more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  kill(): void {
    const { pid } = this.#shell;
    if (pid === undefined || this.#isOver) return;
    if (!this.#leads) this.#shell.kill('SIGKILL');
    else
      try {
        process.kill(-pid, 'SIGKILL');
      } catch {
        // Nobody is left in it.
      }
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line === '') this.#waiting.shift()?.(this.#lines.splice(0));
      else this.#lines.push(line);
    }
    if (this.#lines.length > maxLines || this.#rest.length > maxLine) this.#answers.destroy();
    keepAlive(this.#answers, this.#waiting.length > 0);
  }

  #end(): void {
    // Whoever is left of its group.
    this.kill();
    this.#isOver = true;
    for (const answer of this.#waiting.splice(0)) answer(undefined);
  }
}

/** Whether the process goes on for as long as this stream is open. */
function keepAlive(stream: Readable | Writable, wanted: boolean): void {
  if (!(stream instanceof Socket)) return;
  if (wanted) stream.ref();
  else stream.unref();
}
