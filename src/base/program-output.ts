/**
 * What a program prints, read into the same memory over and over. Node's pipes take fresh memory for each read, and a gigabyte of it
 * costs more in page faults than all else that is done with the bytes. By a socket, for a named pipe takes a program to make it.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Bytes. */
const bufferSize = 256 * 1024;
/** Bytes that are gathered before they are handed on: xz prints 8 KiB at a time, and each hand-over takes longer than the next print. */
const handedOnFrom = 128 * 1024;

/** Bytes of a socket's path: 108 with the NUL at its end on Linux, 104 elsewhere. Node cuts longer ones off, and they lie in another folder. */
const longestPath = 103;

export interface ProgramOutput {
  /** To be given to the program as its stdout, and destroyed here once it has started. */
  readonly end: Socket;
  /** All that the program prints. A chunk is only good until the next one is asked for. */
  readonly chunks: AsyncIterable<Buffer>;
}

/** Undefined where there is no place for a socket: in a folder for temporary files with a very long name, say. */
export async function openProgramOutput(): Promise<ProgramOutput | undefined> {
  const server = createServer({ pauseOnConnect: true });
  let folder: string | undefined;
  try {
    // Nobody else may look into it, let alone connect.
    folder = await mkdtemp(join(tmpdir(), 'flk-output-'));
    const path = join(folder, 'socket');
    return Buffer.byteLength(path) > longestPath ? undefined : await connected(server, path);
  } catch {
    return undefined;
  } finally {
    server.close();
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  }
}

async function connected(server: Server, path: string): Promise<ProgramOutput> {
  await once(server.listen(path), 'listening');
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const chunks = new Chunks(path);
  await chunks.connected;
  const [end] = await accepted;
  return { end, chunks };
}

class Chunks implements AsyncIterableIterator<Buffer> {
  readonly connected: Promise<unknown>;
  readonly #socket: Socket;
  #filling = Buffer.allocUnsafeSlow(bufferSize);
  #filled = 0;
  /** What was filled before, while it waits in `#ready` or is lent to whoever reads. */
  #other = Buffer.allocUnsafeSlow(bufferSize);
  #ready: Buffer | undefined;
  #lent = false;
  /** Both are full: nothing is read. */
  #paused = false;
  #end: 'open' | 'whole' | Error = 'open';
  #wake: (() => void) | undefined;

  constructor(path: string) {
    this.#socket = connect({
      path,
      onread: {
        // Asked after each read for the next one, also where that has to wait: by then the other buffer will be free.
        buffer: () => (this.#paused ? this.#other : this.#filling.subarray(this.#filled)),
        callback: (count) => this.#take(count),
      },
    });
    this.connected = once(this.#socket, 'connect');
    this.#socket
      .on('error', (error) => this.#close(error))
      .on('end', () => this.#close('whole'))
      .on('close', () => this.#close('whole'));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    this.#lent = false;
    if (this.#paused && !this.#ready) {
      this.#paused = false;
      this.#swap();
      this.#socket.resume();
    }
    while (!this.#ready && this.#end === 'open')
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    if (!this.#ready && this.#filled > 0) this.#swap();
    const chunk = this.#ready;
    if (chunk) {
      this.#ready = undefined;
      this.#lent = true;
      return { done: false, value: chunk };
    }
    if (this.#end instanceof Error) throw this.#end;
    return { done: true, value: undefined };
  }

  async return(): Promise<IteratorResult<Buffer, undefined>> {
    this.#socket.destroy();
    return { done: true, value: undefined };
  }

  /** Whether more may be read. */
  #take(count: number): boolean {
    this.#filled += count;
    if (this.#filled < handedOnFrom) return true;
    this.#paused = this.#lent || this.#ready !== undefined;
    if (!this.#paused) {
      this.#swap();
      this.#wake?.();
    }
    return !this.#paused;
  }

  #swap(): void {
    this.#ready = this.#filling.subarray(0, this.#filled);
    [this.#filling, this.#other] = [this.#other, this.#filling];
    this.#filled = 0;
  }

  #close(end: 'whole' | Error): void {
    if (this.#end === 'open') this.#end = end;
    this.#wake?.();
  }
}
