/** Trees on disk: walked, written out in canonical form (modes 0444 and 0555, modification time 1), removed. */
import {
  chmodSync,
  closeSync,
  constants,
  type Dirent,
  fchmodSync,
  fstatSync,
  futimesSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  read,
  readdirSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  type Stats,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError, systemCode } from '../base/errors.ts';
import { isNodeName, maxDepth, type Tree, type TreeSink } from '../formats/nar.ts';
import type { NodeKind, NodePath } from '../formats/tree-sinks.ts';

/** Seconds since 1970 that every node in a store carries. */
export const canonicalTime = 1;
const fileMode = 0o444;
const programMode = 0o555;
const folderMode = 0o555;

/** Larger reads gain nothing; smaller ones halve the speed. */
const readSize = 1024 * 1024;
/** For trees of small files: a large buffer for each of many small trees keeps the garbage collector at work. */
const smallReadSize = 16 * 1024;
/** Files from here on are read ahead while their last part is hashed; below, a turn of the event loop costs more. */
const readAheadFrom = 4 * 1024 * 1024;
/** Milliseconds of work before the rest of the program (progress, signals, sockets) gets a turn. */
const turn = 20;

/** A path as latin1, one character a byte, so that names of any bytes stay strings, which sort and join quickly. */
export type BytePath = string;

export const bytePath = (path: string): BytePath => Buffer.from(path).toString('latin1');
const isAscii = (path: BytePath): boolean => !/[^\0-\x7f]/.test(path);
/** The same path for node:fs. */
export const onDisk = (path: BytePath): string | Buffer =>
  isAscii(path) ? path : Buffer.from(path, 'latin1');
/** The same path for a person. */
export const shown = (path: BytePath): string => Buffer.from(path, 'latin1').toString();

export interface WalkOptions {
  /** Told now and then how many bytes of file content have passed in this walk. */
  readonly progress?: (bytes: number) => void;
  /**
   * Which nodes below the root belong to the tree; asked parents first, nothing in an unwanted folder is looked at. Pipes, sockets
   * and devices are then left out too. By default all nodes belong, and those three are an error.
   */
  readonly wants?: (path: NodePath, kind: NodeKind) => boolean;
  /** Told what the file system says of each node of the tree, the root first. Costs a look-up for each folder and link. */
  readonly seen?: (info: Stats) => void;
}

/**
 * The tree at a path: a folder, a file or a symlink (which is not followed, as nothing below it is). Executable is what its owner
 * may execute. Anything else there, and a file that changes its size while it is read, is FLK_FILE_UNREADABLE.
 */
export function walkPath(path: string, options: WalkOptions = {}): Tree {
  return {
    walk: (sink, signal) => new DiskWalk(sink, options, signal).run(bytePath(path)),
  };
}

class DiskWalk {
  readonly #sink: TreeSink;
  readonly #options: WalkOptions;
  readonly #signal: AbortSignal | undefined;
  /** As large as the largest file so far needs. */
  #buffer = Buffer.alloc(0);
  #bytes = 0;
  #turnEnds = performance.now() + turn;
  /** Length of what all paths of the walk begin with. */
  #prefix = 0;

  constructor(sink: TreeSink, options: WalkOptions, signal: AbortSignal | undefined) {
    this.#sink = sink;
    this.#options = options;
    this.#signal = signal;
  }

  async run(path: BytePath): Promise<void> {
    throwIfAborted(this.#signal);
    this.#prefix = path.length + 1;
    await this.#node(
      path,
      reading(path, () => lstatSync(onDisk(path))),
      0,
    );
    this.#options.progress?.(this.#bytes);
  }

  async #node(path: BytePath, kind: Stats | Dirent<string>, depth: number): Promise<void> {
    if (this.#options.seen && !kind.isFile())
      this.#options.seen(reading(path, () => lstatSync(onDisk(path))));
    if (kind.isDirectory()) await this.#folder(path, depth);
    else if (kind.isFile()) await this.#file(path);
    else if (kind.isSymbolicLink())
      this.#sink.symlink(reading(path, () => readlinkSync(onDisk(path), 'buffer')));
    else throw notATreeNode(path);
    if (performance.now() > this.#turnEnds) await this.#yield();
  }

  async #folder(path: BytePath, depth: number): Promise<void> {
    if (depth >= maxDepth)
      throw new FlkError('FLK_LIMIT', `${shown(path).slice(0, 200)}… is more than ${maxDepth} folders deep`);
    const entries = reading(path, () =>
      readdirSync(onDisk(path), { withFileTypes: true, encoding: 'latin1' }),
    );
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    this.#sink.directory();
    for (const entry of entries) {
      const child = `${path}/${entry.name}`;
      if (!this.#isWanted(child, entry)) continue;
      this.#sink.entry(Buffer.from(entry.name, 'latin1'));
      await this.#node(child, entry, depth + 1);
    }
    this.#sink.endDirectory();
  }

  #isWanted(path: BytePath, entry: Dirent<string>): boolean {
    const { wants } = this.#options;
    if (!wants) return true;
    const kind = entry.isFile()
      ? 'file'
      : entry.isDirectory()
        ? 'directory'
        : entry.isSymbolicLink()
          ? 'symlink'
          : undefined;
    return kind !== undefined && wants(path.slice(this.#prefix), kind);
  }

  async #file(path: BytePath): Promise<void> {
    // Between the listing and here somebody may have put a link or a pipe in its place.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const fd = reading(path, () => openSync(onDisk(path), flags));
    try {
      const info = fstatSync(fd);
      if (!info.isFile()) throw notATreeNode(path);
      this.#options.seen?.(info);
      this.#sink.file(info.size, (info.mode & 0o100) !== 0);
      const size =
        info.size < readAheadFrom
          ? this.#read(path, fd, info.size)
          : await this.#readAhead(path, fd, info.size);
      if (size !== info.size)
        throw new FlkError('FLK_FILE_UNREADABLE', `${shown(path)} changed while it was read`, {
          facts: { found: `${size} bytes`, wanted: `${info.size} bytes` },
        });
      this.#sink.endFile();
    } finally {
      closeSync(fd);
    }
  }

  /** Sends at most `size` bytes; returns how many there were, one more when there were more. */
  #read(path: BytePath, fd: number, size: number): number {
    const wantedSize = size < smallReadSize ? smallReadSize : readSize;
    if (this.#buffer.length < wantedSize) this.#buffer = Buffer.allocUnsafeSlow(wantedSize);
    const buffer = this.#buffer;
    let done = 0;
    for (;;) {
      // One byte more than expected is asked for, so that a file that grew shows without another call.
      const wanted = Math.min(buffer.length, size + 1 - done);
      const count = reading(path, () => readSync(fd, buffer, 0, wanted, null));
      if (done + count > size) return done + count;
      if (count > 0) this.#sink.data(buffer.subarray(0, count));
      done += count;
      this.#bytes += count;
      if (count < wanted) return done;
    }
  }

  /** The same with two buffers: one is filled by the thread pool while the other is consumed. */
  async #readAhead(path: BytePath, fd: number, size: number): Promise<number> {
    let [filling, full] = [Buffer.allocUnsafeSlow(readSize), Buffer.allocUnsafeSlow(readSize)];
    let done = 0;
    let pending = readSome(fd, filling, 0, readSize, null);
    for (;;) {
      const { bytesRead: count } = await pending.catch((error: unknown) => {
        throw unreadable(path, error);
      });
      if (count === 0 || done + count > size) return done + count;
      [filling, full] = [full, filling];
      pending = readSome(fd, filling, 0, readSize, null);
      try {
        this.#sink.data(full.subarray(0, count));
        throwIfAborted(this.#signal);
      } catch (error) {
        // The descriptor may only be closed when nobody reads from it.
        await pending.catch(() => {});
        throw error;
      }
      done += count;
      this.#bytes += count;
      this.#options.progress?.(this.#bytes);
    }
  }

  async #yield(): Promise<void> {
    throwIfAborted(this.#signal);
    this.#options.progress?.(this.#bytes);
    await nextTurn();
    this.#turnEnds = performance.now() + turn;
  }
}

const readSome = promisify(read);

/** Writes a walk to a path where nothing is yet. */
export interface TreeWriter extends TreeSink {
  /** How many bytes of file content have been written. */
  readonly bytes: number;
  /** After a walk that broke off: closes the file that was being written. Else does nothing. */
  close(): void;
}

/**
 * Writes the nodes of a walk at `path`, in canonical form. Throws FLK_FILE_UNWRITABLE, and FLK_LIMIT for trees deeper than 1024
 * folders; what is there by then is the caller's to remove. Nothing is synced: `register` does that for all it registers.
 */
export function restoreTree(path: string): TreeWriter {
  const folders: BytePath[] = [];
  let here = bytePath(path);
  let fd = -1;
  let bytes = 0;
  /** Modes that a new file gets as it was asked for. */
  const honoured = new Set<number>();
  const close = (): void => {
    if (fd >= 0) closeSync(fd);
    fd = -1;
  };

  return {
    get bytes() {
      return bytes;
    },
    directory: () => {
      if (folders.length >= maxDepth)
        throw new FlkError('FLK_LIMIT', `a tree is more than ${maxDepth} folders deep`);
      writing(here, () => mkdirSync(onDisk(here), 0o700));
      folders.push(here);
    },
    entry: (name) => {
      // The only way out of the folder would be a name with a slash or dots.
      if (!isNodeName(name))
        throw new FlkError('FLK_INTERNAL', `the forbidden name ${JSON.stringify(name.toString())} in a tree`);
      here = `${folders.at(-1)}/${name.toString('latin1')}`;
    },
    endDirectory: () => {
      const folder = folders.pop()!;
      writing(folder, () => {
        chmodSync(onDisk(folder), folderMode);
        utimesSync(onDisk(folder), canonicalTime, canonicalTime);
      });
    },
    file: (_size, executable) => {
      const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
      const mode = executable ? programMode : fileMode;
      fd = writing(here, () => openSync(onDisk(here), flags, mode));
      if (honoured.has(mode)) return;
      // The process's umask, or what the stage's folder hands down, takes bits away from all files of a tree or from none.
      if ((fstatSync(fd).mode & 0o7777) === mode) honoured.add(mode);
      else writing(here, () => fchmodSync(fd, mode));
    },
    data: (chunk) => {
      for (let at = 0; at < chunk.length; )
        at += writing(here, () => writeSync(fd, chunk, at, chunk.length - at));
      bytes += chunk.length;
    },
    endFile: () => {
      try {
        writing(here, () => futimesSync(fd, canonicalTime, canonicalTime));
      } finally {
        close();
      }
    },
    close,
    symlink: (target) => {
      writing(here, () => {
        symlinkSync(target, onDisk(here));
        lutimesSync(onDisk(here), canonicalTime, canonicalTime);
      });
    },
  };
}

/**
 * Moves a canonical tree within its file system, over a file that is there. A folder that gets another parent must be writable for
 * its owner, so it is for that moment. Throws FLK_FILE_UNWRITABLE.
 */
export function moveTree(from: string | Buffer, to: string): void {
  writing(bytePath(to), () => {
    if (!lstatSync(from).isDirectory()) return renameSync(from, to);
    // By its descriptor, which is the same folder under both names, and never what a symlink leads to.
    const fd = openSync(from, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    try {
      fchmodSync(fd, 0o755);
      renameSync(from, to);
      fchmodSync(fd, folderMode);
    } finally {
      closeSync(fd);
    }
  });
}

/**
 * Removes whatever lies at the path, read-only folders included; nothing there is fine. `removing` is told of each node before it
 * goes. Throws FLK_FILE_UNWRITABLE.
 */
export async function removeTree(path: string, removing?: (info: Stats) => void): Promise<void> {
  const root = bytePath(path);
  let turnEnds = performance.now() + turn;
  let lifted = 0;
  let left = 0;

  const removeFolder = async (here: BytePath): Promise<void> => {
    const entries = writing(here, () =>
      readdirSync(onDisk(here), { withFileTypes: true, encoding: 'latin1' }),
    );
    for (const entry of entries) {
      const child = `${here}/${entry.name}`;
      if (entry.isDirectory()) await remove(child);
      else
        writing(child, () => {
          removing?.(lstatSync(onDisk(child)));
          unlinkSync(onDisk(child));
        });
    }
  };
  const remove = async (here: BytePath): Promise<void> => {
    const info = writing(here, () => lstatSync(onDisk(here), { throwIfNoEntry: false }));
    if (!info) return;
    if (!info.isDirectory()) {
      removing?.(info);
      writing(here, () => unlinkSync(onDisk(here)));
    } else {
      if ((info.mode & 0o700) !== 0o700) writing(here, () => chmodSync(onDisk(here), 0o700));
      if (here.length - root.length > 1000) {
        // A builder may nest folders deeper than a path can name, or a stack can hold: such a folder is dealt with from the top.
        writing(here, () =>
          renameSync(onDisk(here), onDisk(`${root}/.flk-lifted-${process.pid}-${lifted++}`)),
        );
        left++;
        return;
      }
      await removeFolder(here);
      for (; here === root && left > 0; left--) await removeFolder(root);
      removing?.(info);
      writing(here, () => rmdirSync(onDisk(here)));
    }
    if (performance.now() > turnEnds) {
      await nextTurn();
      turnEnds = performance.now() + turn;
    }
  };
  await remove(root);
}

function notATreeNode(path: BytePath): FlkError {
  return new FlkError(
    'FLK_FILE_UNREADABLE',
    `${shown(path)} is a socket, pipe or device; a tree holds folders, files and symlinks`,
  );
}

export function reading<T>(path: BytePath, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: BytePath, error: unknown): FlkError {
  return new FlkError('FLK_FILE_UNREADABLE', `cannot read ${shown(path)}: ${reason(error)}`, {
    cause: error,
  });
}

export function writing<T>(path: BytePath, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw unwritable(path, error);
  }
}

export function unwritable(path: BytePath, error: unknown): FlkError {
  return new FlkError('FLK_FILE_UNWRITABLE', `cannot write ${shown(path)}: ${reason(error)}`, {
    cause: error,
  });
}

const reason = (error: unknown): string =>
  systemCode(error) ?? (error instanceof Error ? error.message : String(error));
