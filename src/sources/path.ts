/** `path:` sources: a folder (or file) of this machine, taken as it is, whether or not Git knows it. */
import { readdirSync, type Stats } from 'node:fs';
import { isAbsolute, normalize } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import type { PathRef } from '../flake/flake-ref.ts';
import type { Fetched, SourceTree } from '../flake/source.ts';
import { isNodeName, maxDepth, NarHasher, type Tree, type TreeSink } from '../formats/nar.ts';
import { childPath, lookAt, NodeReader, notStorable, readRegularFile, unreadable } from './disk.ts';

export interface PathOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
}

/**
 * Hashes what lies at `ref.path`, which is absolute. `lastModified` is the newest mtime of any node, folders and links included,
 * in whole seconds (as `nix flake metadata path:…`, 2.34), unless the reference has one. Throws FLK_FILE_UNREADABLE,
 * FLK_NAR_HASH_MISMATCH.
 */
export async function fetchPath(ref: PathRef, options: PathOptions): Promise<Fetched & { locked: PathRef }> {
  if (!isAbsolute(ref.path))
    throw new FlkError('FLK_INTERNAL', `path:${ref.path} was not made absolute before it was fetched`);
  const path = normalize(ref.path).replace(/(?<=.)\/+$/, '');
  const info = lookAt(path);
  if (!info) throw new FlkError('FLK_FILE_UNREADABLE', `${path} does not exist`);
  if (info.isSymbolicLink())
    throw new FlkError('FLK_FILE_UNREADABLE', `${path} is a symlink, and a source tree is not`, {
      hint: 'name the folder that it points to',
    });
  const tree = new DiskTree(path);
  return await span(options.reporter, { type: 'hash', subject: `path:${path}` }, async (work) => {
    const hasher = new NarHasher();
    const newest = await tree.walkAndDate(hasher, options.signal, () =>
      work.progress(hasher.size, undefined, 'bytes'),
    );
    const { narHash, narSize } = hasher.digest();
    if (ref.narHash !== undefined && ref.narHash !== narHash)
      throw new FlkError('FLK_NAR_HASH_MISMATCH', `path:${path} is not what was locked`, {
        facts: { wanted: ref.narHash, found: narHash },
      });
    const source: SourceTree = {
      narHash,
      narSize,
      walk: (sink, signal) => tree.walk(sink, signal),
      readFile: async (name) => tree.readFile(name),
    };
    const lastModified = ref.lastModified ?? newest;
    return { locked: { ...ref, path, narHash, lastModified }, tree: source };
  });
}

/** A folder, or a file, as it lies on disk. */
export class DiskTree implements Tree {
  readonly #root: Buffer;

  /** `path`: absolute. */
  constructor(path: string) {
    this.#root = Buffer.from(path);
  }

  async walk(sink: TreeSink, signal?: AbortSignal): Promise<void> {
    await this.walkAndDate(sink, signal);
  }

  /** Walks, and gives the newest mtime in whole seconds, at least 0. `onFolder` is called now and then. */
  async walkAndDate(sink: TreeSink, signal?: AbortSignal, onFolder?: () => void): Promise<number> {
    const reader = new NodeReader(sink, signal);
    let newest = 0;
    const visit = async (path: Buffer, info: Stats | undefined, depth: number): Promise<void> => {
      if (!info) throw new FlkError('FLK_FILE_UNREADABLE', `${path} vanished while its folder was read`);
      newest = Math.max(newest, Math.floor(info.mtimeMs / 1000));
      if (info.isFile()) await reader.file(path);
      else if (info.isSymbolicLink()) reader.symlink(path);
      else if (info.isDirectory()) {
        if (depth > maxDepth) throw new FlkError('FLK_LIMIT', `${path} lies deeper than ${maxDepth} folders`);
        sink.directory();
        for (const name of namesIn(path)) {
          sink.entry(name);
          const child = childPath(path, name);
          await visit(child, lookAt(child), depth + 1);
        }
        sink.endDirectory();
        onFolder?.();
      } else throw notStorable(path);
    };
    await visit(this.#root, lookAt(this.#root), 0);
    return newest;
  }

  /** A regular file by its path from the root, undefined for anything else; no symlink on the way is followed. */
  readFile(path: string): Buffer | undefined {
    return readBelow(this.#root, path);
  }
}

/** As `SourceTree.readFile`, on the disk below `root`. */
export function readBelow(root: Buffer, path: string): Buffer | undefined {
  const names = path.split('/').map((name) => Buffer.from(name));
  if (!names.every(isNodeName)) return undefined;
  let at = root;
  for (const name of names) {
    if (!lookAt(at)?.isDirectory()) return undefined;
    at = childPath(at, name);
  }
  return readRegularFile(at);
}

/** A folder's names in NAR's order: by their bytes. */
function namesIn(folder: Buffer): Buffer[] {
  try {
    return readdirSync(folder, { encoding: 'buffer' }).sort(Buffer.compare);
  } catch (error) {
    throw unreadable(folder, error);
  }
}
