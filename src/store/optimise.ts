/** Equal files of a store as one file with several names, by way of a folder of links that are named by content. */
import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  futimesSync,
  linkSync,
  lstatSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  type Stats,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError, systemCode } from '../base/errors.ts';
import { toNixBase32 } from '../formats/hash.ts';
import { canonicalTime } from './tree-files.ts';

/** What became one with other files. */
export interface Saved {
  readonly files: number;
  /** Of disk, set free. */
  readonly bytes: number;
}

/** `nix/var/flk/links`: every file in it is one of the store under another name, which says what its bytes are. */
export class LinkFolder {
  readonly #path: string;
  #names: Map<number, string> | undefined;

  /** The folder need not exist. */
  constructor(path: string) {
    this.#path = path;
  }

  place(key: string): string {
    return join(this.#path, key);
  }

  /** Inode → name of the links that were there when first asked. */
  get names(): Map<number, string> {
    this.#names ??= new Map(this.#list().map(({ name, info }) => [info.ino, name]));
    return this.#names;
  }

  /** Removes the link to a file whose last other name is about to go; whether there is one. */
  drop(info: Stats): boolean {
    const name = this.names.get(info.ino);
    return name !== undefined && this.#remove(name);
  }

  /** Removes the links whose file is in no tree any more; gives the bytes of disk that this sets free. */
  removeUnused(): number {
    let bytes = 0;
    for (const { name, info } of this.#list())
      if (info.nlink === 1 && this.#remove(name)) bytes += info.blocks * 512;
    return bytes;
  }

  #list(): { readonly name: string; readonly info: Stats }[] {
    let names: string[] = [];
    try {
      names = readdirSync(this.#path);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw failed(this.#path, error);
    }
    return names.flatMap((name) => {
      const info = lstatSync(this.place(name), { throwIfNoEntry: false });
      return info ? [{ name, info }] : [];
    });
  }

  #remove(name: string): boolean {
    try {
      unlinkSync(this.place(name));
      return true;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false;
      throw failed(this.place(name), error);
    }
  }
}

const slash = Buffer.from('/');
const readSize = 1024 * 1024;
/** Milliseconds of work before the rest of the program gets a turn. */
const turn = 20;

/**
 * Goes through trees of a store. Each step leaves every file with the bytes that it had: a link beside the file, which then takes
 * its place in one rename. What cannot be linked (too many names, no space, someone else's file) stays as it is, and so does what
 * is not in canonical form.
 */
export class Optimiser {
  readonly #links: LinkFolder;
  readonly #stage: string;
  readonly #signal: AbortSignal | undefined;
  /** Inodes of links whose bytes were seen to be what the name says. */
  readonly #checked = new Set<number>();
  readonly #buffer = Buffer.allocUnsafeSlow(readSize);
  #turnEnds = performance.now() + turn;
  #files = 0;
  #bytes = 0;
  #temporary = 0;

  /** `stage` is a folder of this process on the store's file system. */
  constructor(links: LinkFolder, stage: string, signal?: AbortSignal) {
    this.#links = links;
    this.#stage = stage;
    this.#signal = signal;
  }

  get saved(): Saved {
    return { files: this.#files, bytes: this.#bytes };
  }

  /** The caller sees to it that nobody replaces or removes the tree meanwhile. Throws FLK_FILE_UNREADABLE, FLK_FILE_UNWRITABLE. */
  async tree(path: string): Promise<void> {
    const root = Buffer.from(path);
    const info = lstatSync(root);
    if (info.isDirectory()) await this.#folder(root, info);
    else if (info.isFile()) await this.#file(root, info, () => {});
  }

  async #folder(path: Buffer, info: Stats): Promise<void> {
    let fd: number | undefined;
    const open = (): number => {
      fd ??= openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      return fd;
    };
    // A kill may have left it writable.
    let changed = (info.mode & 0o7777) !== 0o555 || info.mtimeMs !== canonicalTime * 1000;
    const makeWritable = (): void => {
      changed = true;
      fchmodSync(open(), 0o755);
    };
    try {
      for (const name of readdirSync(path, 'buffer')) {
        const child = Buffer.concat([path, slash, name]);
        const node = lstatSync(child);
        if (node.isDirectory()) await this.#folder(child, node);
        else if (node.isFile()) await this.#file(child, node, makeWritable);
      }
    } catch (error) {
      throw error instanceof FlkError ? error : failed(path.toString(), error);
    } finally {
      if (changed) {
        futimesSync(open(), canonicalTime, canonicalTime);
        fchmodSync(open(), 0o555);
      }
      if (fd !== undefined) closeSync(fd);
    }
  }

  async #file(path: Buffer, info: Stats, makeWritable: () => void): Promise<void> {
    if (performance.now() > this.#turnEnds) {
      await nextTurn();
      this.#turnEnds = performance.now() + turn;
    }
    throwIfAborted(this.#signal);
    const mode = info.mode & 0o7777;
    if (info.size === 0 || info.mtimeMs !== canonicalTime * 1000) return;
    if (mode !== 0o444 && mode !== 0o555) return;
    if (info.nlink > 1 && this.#links.names.has(info.ino)) return;
    const key = `${toNixBase32(this.#hash(path))}-${mode === 0o555 ? 'x' : 'r'}`;
    const link = this.#links.place(key);
    try {
      // Another process may make or remove the same link at any time; each time round somebody got on.
      while (!this.#unite(path, info, link, key, makeWritable));
    } catch (error) {
      if (['EMLINK', 'ENOSPC', 'EPERM', 'EDQUOT'].includes(systemCode(error) ?? '')) return;
      throw failed(path.toString(), error);
    }
  }

  /** Whether that is settled. */
  #unite(path: Buffer, info: Stats, link: string, key: string, makeWritable: () => void): boolean {
    const there = lstatSync(link, { throwIfNoEntry: false });
    if (!there) return this.#tryLink(path, link, 'EEXIST') && this.#know(info, key);
    if (there.ino === info.ino) return this.#know(info, key);
    if (!this.#isSound(link, there, info, key)) return this.#replaceLink(path, info, link, key);
    const staged = join(this.#stage, String(this.#temporary++));
    try {
      if (!this.#tryLink(link, staged, 'ENOENT')) return false;
    } catch (error) {
      // As many names as a file may have: the next ones are for this one.
      if (systemCode(error) === 'EMLINK') return this.#replaceLink(path, info, link, key);
      throw error;
    }
    makeWritable();
    renameSync(staged, path);
    this.#files++;
    if (info.nlink === 1) this.#bytes += info.blocks * 512;
    return true;
  }

  #know(info: Stats, key: string): true {
    this.#links.names.set(info.ino, key);
    this.#checked.add(info.ino);
    return true;
  }

  #replaceLink(path: Buffer, info: Stats, link: string, key: string): true {
    const staged = join(this.#stage, String(this.#temporary++));
    linkSync(path, staged);
    renameSync(staged, link);
    return this.#know(info, key);
  }

  /** False when `unless` is why it cannot be. */
  #tryLink(from: Buffer | string, to: string, unless: string): boolean {
    try {
      linkSync(from, to);
      return true;
    } catch (error) {
      if (systemCode(error) === unless) return false;
      throw error;
    }
  }

  /** Bytes that went bad under a link must not spread. */
  #isSound(link: string, there: Stats, info: Stats, key: string): boolean {
    if (!there.isFile() || there.size !== info.size) return false;
    if ((there.mode & 0o7777) !== (info.mode & 0o7777) || there.mtimeMs !== info.mtimeMs) return false;
    if (this.#checked.has(there.ino)) return true;
    if (!key.startsWith(toNixBase32(this.#hash(Buffer.from(link))))) return false;
    this.#checked.add(there.ino);
    return true;
  }

  #hash(path: Buffer): Buffer {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      if (!fstatSync(fd).isFile()) throw failed(path.toString(), new Error('it changed while it was read'));
      const hash = createHash('sha256');
      for (let count = -1; count !== 0; ) {
        count = readSync(fd, this.#buffer, 0, readSize, null);
        hash.update(this.#buffer.subarray(0, count));
      }
      return hash.digest();
    } finally {
      closeSync(fd);
    }
  }
}

function failed(path: string, cause: unknown): FlkError {
  return new FlkError('FLK_FILE_UNWRITABLE', `cannot optimise ${path}: ${(cause as Error).message}`, {
    cause,
  });
}
