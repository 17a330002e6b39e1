/**
 * Archives into folders: tar, zip and Debian packages, compressed in any of the usual ways, told apart by content. The archive is
 * hostile until its hash says otherwise, and the hash is only known afterwards: what could reach outside the folder, or grow without
 * end, is refused on the way.
 */
import { closeSync, copyFileSync, mkdirSync, openSync, symlinkSync, writeSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import { readDeb } from '../formats/archives/deb.ts';
import { compressionOf, decompress } from '../formats/archives/decompress.ts';
import { type ArchiveEntry, archiveError } from '../formats/archives/entry.ts';
import { archiveKind, headLength } from '../formats/archives/kind.ts';
import { readTar } from '../formats/archives/tar.ts';
import { readZip } from '../formats/archives/zip.ts';

export interface UnpackOptions {
  /** Drop a single top folder, as most archives have one. A Debian package's tree is the file system's: it keeps its top. */
  readonly stripRoot: boolean;
  readonly limits?: UnpackLimits;
  readonly signal?: AbortSignal;
  /** Bytes unpacked so far. */
  progress?(bytes: number): void;
}

export interface UnpackLimits {
  readonly bytes: number;
  readonly entries: number;
}

const defaultLimits: UnpackLimits = { bytes: 16 * 2 ** 30, entries: 1_000_000 };
const maxDepth = 256;

/**
 * Unpacks the archive `file` into the folder `into`, which must exist and be empty, and returns the folder that is the tree's top:
 * `into`, or the one below it. Modes are 0644 and 0755, the executable bit kept; owners, times and special bits are dropped.
 * Throws FLK_ARCHIVE_INVALID, FLK_LIMIT; then `into` holds rubbish.
 */
export async function unpack(file: string, into: string, options: UnpackOptions): Promise<string> {
  const limits = options.limits ?? defaultLimits;
  const { entries, stripRoot } = await openArchive(file, options.stripRoot);
  const writer = new FolderWriter(into, limits, options.progress);
  for await (const entry of entries) {
    throwIfAborted(options.signal);
    await writer.write(entry, options.signal);
  }
  if (!stripRoot) return into;
  const [only, ...others] = await readdir(into, { withFileTypes: true });
  return only?.isDirectory() && others.length === 0 ? join(into, only.name) : into;
}

async function openArchive(
  file: string,
  stripRoot: boolean,
): Promise<{ entries: AsyncIterable<ArchiveEntry>; stripRoot: boolean }> {
  const handle = await open(file);
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(headLength), 0, headLength, 0);
  const head = buffer.subarray(0, bytesRead);
  const kind = archiveKind(head);
  if (kind === undefined || kind === 'zip') await handle.close();
  if (kind === undefined) throw archiveError('not a tar, zip or Debian archive');
  if (kind === 'zip') return { entries: readZip(file), stripRoot };
  const stream = handle.createReadStream({ start: 0, highWaterMark: 256 * 1024 });
  if (kind === 'deb') return { entries: readDeb(stream), stripRoot: false };
  return { entries: readTar(decompress(stream, compressionOf(head)), { endOptional: true }), stripRoot };
}

/**
 * Puts entries below a folder. What is there is known from its own notes, not from the file system, so no entry can lead another one
 * through a symlink. Paths in the notes are latin1 strings: one character per byte.
 */
class FolderWriter {
  readonly #root: Buffer;
  readonly #limits: UnpackLimits;
  readonly #progress: ((bytes: number) => void) | undefined;
  readonly #known = new Map<string, 'directory' | { size: number } | { target: Buffer }>([['', 'directory']]);
  #entries = 0;
  #bytes = 0;

  constructor(root: string, limits: UnpackLimits, progress: ((bytes: number) => void) | undefined) {
    this.#root = Buffer.from(`${root}/`);
    this.#limits = limits;
    this.#progress = progress;
  }

  async write(entry: ArchiveEntry, signal: AbortSignal | undefined): Promise<void> {
    const path = plainPath(entry.path);
    if (entry.kind === 'directory') {
      this.#folder(path);
      return;
    }
    if (path === '') throw archiveError('the archive’s top is not a folder');
    const slash = path.lastIndexOf('/');
    this.#folder(slash === -1 ? '' : path.slice(0, slash));
    if (this.#known.has(path)) throw archiveError(`${shown(path)} is there twice`);
    this.#count();
    switch (entry.kind) {
      case 'file':
        this.#known.set(path, { size: await this.#file(path, entry, signal) });
        return;
      case 'symlink':
        this.#link(path, entry.target);
        return;
      case 'hardlink':
        this.#again(path, plainPath(entry.target));
    }
  }

  async #file(
    path: string,
    entry: ArchiveEntry & { kind: 'file' },
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const before = this.#bytes;
    // Synchronous: an archive has thousands of small files, and a round trip through the thread pool costs more than the write.
    const handle = openSync(this.#place(path), 'wx', entry.executable ? 0o755 : 0o644);
    try {
      for await (const chunk of entry.content) {
        throwIfAborted(signal);
        this.#grow(chunk.length);
        for (let at = 0; at < chunk.length; ) at += writeSync(handle, chunk, at);
      }
    } finally {
      closeSync(handle);
    }
    return this.#bytes - before;
  }

  #link(path: string, target: Buffer): void {
    if (target.length === 0 || target.includes(0) || target.length > 4095) {
      throw archiveError(`${shown(path)} is a link that leads nowhere`);
    }
    symlinkSync(target, this.#place(path));
    this.#known.set(path, { target });
  }

  /** A hard link becomes a copy: a store has no two names for one file. */
  #again(path: string, target: string): void {
    const first = this.#known.get(target);
    if (first === undefined || first === 'directory') {
      throw archiveError(`${shown(path)} is a hard link to ${shown(target)}, which is no file before it`);
    }
    if ('target' in first) {
      this.#link(path, first.target);
      return;
    }
    this.#grow(first.size);
    copyFileSync(this.#place(target), this.#place(path));
    this.#known.set(path, first);
  }

  /** Makes a folder and those above it. */
  #folder(path: string): void {
    const known = this.#known.get(path);
    if (known === 'directory') return;
    if (known !== undefined)
      throw archiveError(`${shown(path)} is there twice, as a folder and as something else`);
    const slash = path.lastIndexOf('/');
    this.#folder(slash === -1 ? '' : path.slice(0, slash));
    this.#count();
    mkdirSync(this.#place(path), 0o755);
    this.#known.set(path, 'directory');
  }

  #place(path: string): Buffer {
    return Buffer.concat([this.#root, Buffer.from(path, 'latin1')]);
  }

  #count(): void {
    if (++this.#entries > this.#limits.entries) {
      throw new FlkError('FLK_LIMIT', `the archive has more than ${this.#limits.entries} entries`);
    }
  }

  #grow(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > this.#limits.bytes) {
      throw new FlkError('FLK_LIMIT', `the archive unpacks to more than ${this.#limits.bytes} bytes`);
    }
    this.#progress?.(this.#bytes);
  }
}

/** `./a//b/` → `a/b`, as latin1; refuses what leads out of the folder. */
function plainPath(path: Buffer): string {
  const text = path.toString('latin1');
  if (text.startsWith('/')) throw archiveError(`${shown(text)} is an absolute path`);
  const parts = text.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.length > maxDepth) throw archiveError(`${shown(text.slice(0, 100))}… is too deep`);
  for (const part of parts) {
    if (part === '..') throw archiveError(`${shown(text)} leads out of the archive`);
    if (part.includes('\0') || part.length > 255) throw archiveError(`${shown(text)} has an impossible name`);
  }
  return parts.join('/');
}

const shown = (path: string): string => Buffer.from(path, 'latin1').toString('utf8');
