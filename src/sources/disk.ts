/** Nodes of a file system on their way into a `TreeSink`: what a NAR can hold, nothing followed, nothing waited for. */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readlinkSync,
  readSync,
  type Stats,
} from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError, systemCode } from '../base/errors.ts';
import type { TreeSink } from '../formats/nar.ts';

/** Reads above this many bytes cost less per byte than they gain; measured on Node 20. */
const chunkSize = 1024 * 1024;
/** What may be read and hashed before the rest of the program gets its turn: a few milliseconds. */
const bytesPerTurn = 8 * 1024 * 1024;
const filesPerTurn = 128;

/** A file's bytes end here: sources of flakes' manifests and locks are never near it. */
const maxFileInMemory = 16 * 1024 * 1024;

/** A path of any bytes: `folder/name`. */
export function childPath(folder: Buffer, name: Buffer): Buffer {
  const path = Buffer.allocUnsafe(folder.length + 1 + name.length);
  folder.copy(path);
  path[folder.length] = 0x2f;
  name.copy(path, folder.length + 1);
  return path;
}

/** What stands at a path, links not followed; undefined where there is nothing. Throws FLK_FILE_UNREADABLE. */
export function lookAt(path: Buffer | string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (systemCode(error) === 'ENOTDIR') return undefined;
    throw unreadable(path, error);
  }
}

/** Sends files and links to a sink. One per walk: it holds the buffer and knows when to let others work. */
export class NodeReader {
  readonly #sink: TreeSink;
  readonly #signal: AbortSignal | undefined;
  readonly #buffer = Buffer.allocUnsafeSlow(chunkSize);
  #bytes = 0;
  #files = 0;

  constructor(sink: TreeSink, signal?: AbortSignal) {
    this.#sink = sink;
    this.#signal = signal;
  }

  /**
   * Sends a regular file; executable when its owner may execute it, as Nix has it. Anything else at that path, and a file that
   * changes its size meanwhile, is FLK_FILE_UNREADABLE.
   */
  async file(path: Buffer): Promise<void> {
    const { fd, info } = openFile(path);
    try {
      this.#sink.file(info.size, (info.mode & 0o100) !== 0);
      let left = info.size;
      for (;;) {
        const count = readSync(fd, this.#buffer, 0, chunkSize, null);
        if (count === 0) break;
        left -= count;
        if (left < 0) break;
        this.#sink.data(this.#buffer.subarray(0, count));
        this.#bytes += count;
        if (this.#bytes >= bytesPerTurn) await this.breathe();
        // One read shows a small file whole; asking again for its end costs as much as reading it.
        if (left === 0 && count < chunkSize) break;
      }
      if (left !== 0) throw new FlkError('FLK_FILE_UNREADABLE', `${path} changed while it was read`);
      this.#sink.endFile();
    } catch (error) {
      throw error instanceof FlkError ? error : unreadable(path, error);
    } finally {
      closeSync(fd);
    }
    if (++this.#files >= filesPerTurn) await this.breathe();
  }

  symlink(path: Buffer): void {
    let target: Buffer;
    try {
      target = readlinkSync(path, { encoding: 'buffer' });
    } catch (error) {
      throw unreadable(path, error);
    }
    this.#sink.symlink(target);
  }

  /** Lets timers, signals and other walks have their turn; throws FLK_INTERRUPTED. */
  async breathe(): Promise<void> {
    this.#bytes = 0;
    this.#files = 0;
    await nextTurn();
    throwIfAborted(this.#signal);
  }
}

/** A regular file's bytes, undefined for anything else there. Links are not followed. Larger than 16 MiB is FLK_LIMIT. */
export function readRegularFile(path: Buffer): Buffer | undefined {
  if (!lookAt(path)?.isFile()) return undefined;
  const { fd, info } = openFile(path);
  try {
    if (info.size > maxFileInMemory)
      throw new FlkError('FLK_LIMIT', `${path} has ${info.size} bytes; at most ${maxFileInMemory} are read`);
    const content = Buffer.alloc(info.size);
    let used = 0;
    while (used < content.length) {
      const count = readSync(fd, content, used, content.length - used, null);
      if (count === 0) throw new FlkError('FLK_FILE_UNREADABLE', `${path} changed while it was read`);
      used += count;
    }
    return content;
  } catch (error) {
    throw error instanceof FlkError ? error : unreadable(path, error);
  } finally {
    closeSync(fd);
  }
}

/** Neither follows a link that was put there since somebody looked, nor waits for a pipe's other end. */
function openFile(path: Buffer): { fd: number; info: Stats } {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    throw unreadable(path, error);
  }
  const info = fstatSync(fd);
  if (info.isFile()) return { fd, info };
  closeSync(fd);
  throw notStorable(path);
}

export function notStorable(path: Buffer | string): FlkError {
  return new FlkError(
    'FLK_FILE_UNREADABLE',
    `${path} is neither a file, a folder nor a symlink, so no source tree can hold it`,
    { hint: 'remove it, or move it elsewhere' },
  );
}

export function unreadable(path: Buffer | string, error: unknown): FlkError {
  return new FlkError('FLK_FILE_UNREADABLE', `cannot read ${path}: ${(error as Error).message}`, {
    cause: error,
  });
}
