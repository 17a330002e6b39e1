/** The bodies of HTTP answers, piece by piece, and the connections that they come by. */
import { type ClientRequestArgs, type IncomingMessage, Agent as NodeHttpAgent } from 'node:http';
import { Agent as NodeHttpsAgent } from 'node:https';
import type { OnReadOpts } from 'node:net';
import type { Duplex } from 'node:stream';
import { FlkError } from '../base/errors.ts';
import { LentChunks } from '../base/lent-chunks.ts';

export class TimeoutError extends Error {}

export const seconds = (ms: number): string => `${ms / 1000} s`;

interface BodyOptions {
  /** A chunk need only be good until the next one is asked for. */
  readonly lent: boolean;
  readonly host: string;
  /** Milliseconds in which more than 16 KiB must come. */
  readonly window: number;
  fail(error: unknown): FlkError;
}

/** Bytes from which a body is worth a connection: one that was read past its HTTP parser cannot be used again. */
const large = 16 * 1024 * 1024;

/** Ends the connection when left early; throws what `fail` makes of an error. */
export function bodyOf(response: IncomingMessage, options: BodyOptions): AsyncIterable<Buffer> {
  const { 'content-length': length = '', 'transfer-encoding': encoding } = response.headers;
  const size = encoding === undefined && /^\d{1,15}$/.test(length) ? Number(length) : 0;
  const reader = readers.get(response.socket);
  return options.lent && size >= large && reader
    ? new LentBody(response, reader, size, options)
    : new Body(response, options);
}

/** Bytes that have arrived and nobody has asked for, from where on the server has to wait. */
const heldAtOnce = 256 * 1024;

/** A body's chunks as they arrive. Node's own iterator takes longer for a small body than all else that is done for it. */
class Body implements AsyncIterableIterator<Buffer> {
  readonly #response: IncomingMessage;
  readonly #pace: Pace;
  readonly #chunks: Buffer[] = [];
  #held = 0;
  #flowing = false;
  #end: 'open' | 'whole' | FlkError = 'open';
  /** Whoever waits for a chunk, or for the end. */
  #wake: (() => void) | undefined;

  constructor(response: IncomingMessage, options: BodyOptions) {
    this.#response = response;
    this.#pace = new Pace(response, options);
    onEnd(response, options, (end) => this.#close(end));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    if (!this.#flowing && this.#end === 'open') this.#flow();
    while (this.#chunks.length === 0 && this.#end === 'open')
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    const chunk = this.#chunks.shift();
    if (!chunk) {
      if (this.#end instanceof FlkError) throw this.#end;
      return { done: true, value: undefined };
    }
    this.#held -= chunk.length;
    if (this.#held === 0 && this.#response.isPaused()) this.#response.resume();
    this.#pace.received(chunk.length);
    return { done: false, value: chunk };
  }

  async return(): Promise<IteratorResult<Buffer, undefined>> {
    // What is here already is passed over, so that the connection can be used again.
    if (this.#response.complete) this.#response.resume();
    else this.#response.destroy();
    return { done: true, value: undefined };
  }

  #flow(): void {
    this.#flowing = true;
    this.#response.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#held += chunk.length;
      if (this.#held >= heldAtOnce) this.#response.pause();
      this.#wake?.();
    });
  }

  #close(end: () => 'whole' | FlkError): void {
    if (this.#end === 'open') this.#end = end();
    this.#wake?.();
  }
}

/** Tells how the body ends; more than once, and what comes first counts. */
function onEnd(
  response: IncomingMessage,
  { fail }: BodyOptions,
  close: (end: () => 'whole' | FlkError) => void,
): void {
  response
    .on('error', (error) => close(() => fail(error)))
    .on('end', () => close(() => 'whole'))
    .on('close', () => close(() => fail(Object.assign(new Error('closed early'), { code: 'ECONNRESET' }))));
}

/** Bytes: a Git server that thinks sends one a second. */
const leastInWindow = 16 * 1024;

/** Gives a server up that sends less than `leastInWindow` bytes in `window` ms. */
class Pace {
  readonly #response: IncomingMessage;
  readonly #options: BodyOptions;
  #since = Date.now();
  #received = 0;

  constructor(response: IncomingMessage, options: BodyOptions) {
    this.#response = response;
    this.#options = options;
  }

  received(bytes: number): void {
    const { host, window, fail } = this.#options;
    this.#received += bytes;
    if (Date.now() - this.#since < window) return;
    if (this.#received < leastInWindow) {
      this.#response.destroy();
      throw fail(new TimeoutError(`${host} sent ${this.#received} bytes in ${seconds(window)}`));
    }
    this.#since = Date.now();
    this.#received = 0;
  }
}

/**
 * A large body of a length that is known, read from its connection past the HTTP parser, which copies what it is given into fresh memory:
 * with that, most of a download's time goes into page faults. The parser never learns that the body has ended, so the connection is
 * closed then.
 */
class LentBody implements AsyncIterableIterator<Buffer> {
  readonly #chunks: LentChunks;
  readonly #pace: Pace;

  constructor(response: IncomingMessage, reader: Reading, size: number, options: BodyOptions) {
    const { socket } = response;
    const chunks = new LentChunks({
      least: 1,
      resume: () => socket.resume(),
      leave: () => response.destroy(),
    });
    let left = size;
    const take = (bytes: Buffer): boolean => {
      const goesOn = chunks.take(bytes.subarray(0, left));
      left -= bytes.length;
      if (left > 0) return goesOn;
      chunks.close('whole');
      response.destroy();
      return false;
    };
    this.#chunks = chunks;
    this.#pace = new Pace(response, options);
    onEnd(response, options, (end) => chunks.close(end()));
    // The parser has met the first bytes already. With them begins the reading past it.
    response.on('data', (bytes: Buffer) => {
      if (take(bytes)) reader.current = { room: () => chunks.room(), take };
    });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    const result = await this.#chunks.next();
    if (!result.done) this.#pace.received(result.value.length);
    return result;
  }

  return(): Promise<IteratorResult<Buffer, undefined>> {
    return this.#chunks.return();
  }
}

/** Of a socket: who reads from it instead of its HTTP parser, if anybody does. */
interface Reading {
  current: Pick<LentChunks, 'room' | 'take'> | undefined;
}

/** Of sockets that can be read past their parser. */
const readers = new WeakMap<Duplex, Reading>();

/** Bytes, as Node reads at a time. */
const readAtOnce = 64 * 1024;

/** Makes a connection that reads into memory of its own: its parser copies what it keeps. */
function readablePast(connect: (reading: { onread: OnReadOpts }) => Duplex): Duplex {
  const own = Buffer.allocUnsafeSlow(readAtOnce);
  const reader: Reading = { current: undefined };
  const socket = connect({
    onread: {
      buffer: () => reader.current?.room() ?? own,
      callback: (count, buffer) => {
        const bytes = Buffer.from(buffer.buffer, buffer.byteOffset, count);
        if (reader.current) return reader.current.take(bytes);
        socket.emit('data', bytes);
        return true;
      },
    },
  });
  readers.set(socket, reader);
  return socket;
}

export class HttpAgent extends NodeHttpAgent {
  override createConnection(
    options: ClientRequestArgs,
    done?: (error: Error | null, socket: Duplex) => void,
  ): Duplex {
    return readablePast((reading) => super.createConnection({ ...options, ...reading }, done)!);
  }
}

export class HttpsAgent extends NodeHttpsAgent {
  override createConnection(
    options: ClientRequestArgs,
    done?: (error: Error | null, socket: Duplex) => void,
  ): Duplex {
    return readablePast((reading) => super.createConnection({ ...options, ...reading }, done)!);
  }
}
