/** What a build on a server prints: while it runs, where the server lets us listen, and all of it at the end. */
import { setTimeout as sleep } from 'node:timers/promises';
import { FlkError } from '../../../base/errors.ts';
import type { ActionResult } from '../../../generated/remote-execution.ts';
import type { BuildRequest } from '../engine.ts';
import { Lines, late } from '../supervise.ts';
import type { Blobs } from './blobs.ts';
import { checkedDigest } from './digest.ts';

/** Milliseconds from a build's end to the end of what it printed. */
const grace = 1000;

export class RemoteLog {
  readonly #request: Pick<BuildRequest, 'limits' | 'log'>;
  readonly #blobs: Blobs;
  readonly #end: (verdict: FlkError) => void;
  readonly #lines: Lines;
  readonly #stopped = new AbortController();
  /** Bytes that were told already. */
  #told = 0;
  #following: Promise<void> | undefined;
  #silence: NodeJS.Timeout | undefined;

  /** `end` is called with what is wrong with a build that prints too much, or nothing for too long. */
  constructor(request: Pick<BuildRequest, 'limits' | 'log'>, blobs: Blobs, end: (verdict: FlkError) => void) {
    this.#request = request;
    this.#blobs = blobs;
    this.#end = end;
    this.#lines = new Lines(request.log);
  }

  /** Tells what comes out of a stream of the server's. What it does not give is told at the end. */
  follow(resourceName: string): void {
    if (resourceName === '' || this.#following) return;
    const { maxSilent } = this.#request.limits;
    if (maxSilent !== undefined)
      this.#silence = setTimeout(
        () => this.#end(late('was silent for', maxSilent, 'maxSilent')),
        maxSilent * 1000,
      );
    this.#following = this.#follow(resourceName).catch(() => {});
  }

  async #follow(resourceName: string): Promise<void> {
    for await (const chunk of this.#blobs.follow(resourceName, this.#stopped.signal)) {
      this.#silence?.refresh();
      this.#tell(chunk);
    }
  }

  #tell(chunk: Buffer): void {
    this.#told += chunk.length;
    const { maxLogBytes } = this.#request.limits;
    if (this.#told > maxLogBytes) this.#end(tooLong(maxLogBytes));
    else this.#lines.push(chunk);
  }

  /** Tells what is left of what a build printed that has ended. Throws FLK_BUILD_OUTPUT_LIMIT, and what reads do. */
  async finish(result: ActionResult, signal: AbortSignal | undefined): Promise<void> {
    clearTimeout(this.#silence);
    if (this.#following) await Promise.race([this.#following, sleep(grace, undefined, { ref: false })]);
    this.#stopped.abort();
    const { stdoutRaw, stdoutDigest, stderrRaw, stderrDigest } = result;
    await this.#rest(stdoutRaw, stdoutDigest, this.#told, signal);
    // What the builder prints is all on stdout: this is what had to start it.
    await this.#rest(stderrRaw, stderrDigest, 0, signal);
    this.#lines.end();
  }

  async #rest(
    raw: Buffer,
    digest: ActionResult['stdoutDigest'],
    skipped: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { maxLogBytes } = this.#request.limits;
    const size = digest && raw.length === 0 ? checkedDigest(digest, 'a log').sizeBytes : raw.length;
    if (size > maxLogBytes) throw tooLong(maxLogBytes);
    if (size <= skipped) return;
    const bytes = raw.length > 0 || !digest ? raw : await this.#blobs.read(digest, signal);
    this.#lines.push(bytes.subarray(skipped));
  }

  /** Of a build that came to no end. */
  stop(): void {
    clearTimeout(this.#silence);
    this.#stopped.abort();
    this.#lines.end();
  }
}

const tooLong = (maxLogBytes: number): FlkError =>
  new FlkError('FLK_BUILD_OUTPUT_LIMIT', `the builder printed more than ${maxLogBytes} bytes`);
