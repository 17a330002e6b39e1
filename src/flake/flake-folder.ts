/** A flake where its files are: a folder in a fetched tree or in the tree at hand, and what lies there. */
import { posix } from 'node:path';
import type { SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { followLinks, linksOf } from '../formats/tree-links.ts';
import { type FlakeRef, type PathRef, printFlakeRef, refKey } from './flake-ref.ts';
import { type LockFile, parseLockFile } from './lock-file.ts';
import type { FlakeManifest } from './manifest-model.ts';
import type { Fetched, SourceTree } from './source.ts';

/** The file's name says in which language it is. */
export type ReadManifest = (file: SourceFile) => FlakeManifest | Promise<FlakeManifest>;

export type ManifestKind = FlakeManifest['kind'];

export interface FlakeFolder {
  /** By its path from the tree's root; undefined when there is no such regular file. */
  readonly readFile: (path: string) => Promise<Buffer | undefined>;
  /** The tree whole, to look for links in. Without it there are none. */
  readonly walk?: SourceTree['walk'] | undefined;
  /** The flake's folder from the tree's root; empty for the root itself. */
  readonly dir: string;
  /** The tree as a person knows it, in front of a file's path; empty for the tree at hand. */
  readonly name: string;
  /** Equal for equal trees. */
  readonly treeKey: string;
  /** From another machine: it has no say about folders of this one. */
  readonly remote: boolean;
}

export function fetchedFolder({ locked, tree }: Fetched): FlakeFolder {
  const { dir = '', ...whole } = locked;
  return {
    readFile: (path) => tree.readFile(path),
    walk: (sink, signal) => tree.walk(sink, signal),
    dir,
    name: printFlakeRef(withoutPins(locked)),
    treeKey: refKey(whole as FlakeRef),
    remote: isRemote(locked),
  };
}

/** The source as a person calls it. */
function withoutPins(ref: FlakeRef): FlakeRef {
  switch (ref.type) {
    case 'git':
      return { type: ref.type, url: ref.url };
    case 'path':
      return { type: ref.type, path: ref.path };
    default: {
      const { dir, rev, narHash, lastModified, revCount, ...rest } = ref;
      return rest;
    }
  }
}

function isRemote(ref: FlakeRef): boolean {
  if (ref.type === 'path') return false;
  return ref.type === 'indirect' || !('url' in ref) || !ref.url.startsWith('file:');
}

/** The folder that a relative reference in `from`'s manifest means. Throws FLK_REF_INVALID when it leaves the tree. */
export function relativeFolder(from: FlakeFolder, ref: PathRef): FlakeFolder {
  const dir = posix.join(from.dir, ref.path, ref.dir ?? '').replace(/^\.$|\/$/g, '');
  if (dir === '..' || dir.startsWith('../'))
    throw new FlkError(
      'FLK_REF_INVALID',
      `${printFlakeRef(ref)} leads out of ${from.name || 'the tree that holds this flake'}`,
      { hint: 'a relative path stays within the repository; use git+https: or git+file: for another one' },
    );
  return { ...from, dir };
}

/** `NAME/dir/flake.yaml`, as errors call it. */
function pathIn(folder: FlakeFolder, file = ''): string {
  return [folder.name, folder.dir, file].filter((part) => part !== '').join('/');
}

/**
 * The flake's manifest; where a folder has both kinds, the `preferred` one. Throws FLK_MANIFEST_MISSING, and what `readManifest`
 * throws.
 */
export async function manifestIn(
  folder: FlakeFolder,
  readManifest: ReadManifest,
  preferred: ManifestKind,
): Promise<FlakeManifest> {
  const read = async (name: string, bytes: Buffer): Promise<FlakeManifest> => {
    const path = pathIn(folder, name);
    return await readManifest({ path, text: utf8(bytes, path, 'FLK_MANIFEST_INVALID') });
  };
  const kinds: readonly ManifestKind[] = preferred === 'nix' ? ['nix', 'yaml'] : ['yaml', 'nix'];
  for (const kind of kinds) {
    const name = `flake.${kind}`;
    const bytes = await folder.readFile(posix.join(folder.dir, name));
    if (bytes !== undefined) return await read(name, bytes);
  }
  const linked = await linkedFile(
    folder,
    kinds.map((kind) => posix.join(folder.dir, `flake.${kind}`)),
  );
  if (linked) return await read(posix.basename(linked.path), linked.bytes);
  throw new FlkError(
    'FLK_MANIFEST_MISSING',
    `there is no ${kinds.map((kind) => `flake.${kind}`).join(' and no ')} in ${pathIn(folder) || 'this folder'}`,
    { hint: 'if only its files are wanted, add flake: false to the input' },
  );
}

/**
 * The first of the files that is a symlink to a regular file of the same tree. Looked for only where there is no plain one: it
 * takes a walk.
 */
export async function linkedFile(
  tree: Pick<FlakeFolder, 'readFile' | 'walk'>,
  paths: readonly string[],
): Promise<{ readonly path: string; readonly bytes: Buffer } | undefined> {
  if (!tree.walk) return undefined;
  const links = await linksOf((sink, signal) => tree.walk!(sink, signal));
  for (const path of paths) {
    const target = links.has(path) ? followLinks(path, (at) => links.get(at)) : undefined;
    const bytes = target ? await tree.readFile(target) : undefined;
    if (bytes !== undefined) return { path, bytes };
  }
  return undefined;
}

/** The flake's own lock; undefined when it has none. */
export async function lockIn(folder: FlakeFolder): Promise<LockFile | undefined> {
  const bytes = await folder.readFile(posix.join(folder.dir, 'flake.lock'));
  if (bytes === undefined) return undefined;
  const path = pathIn(folder, 'flake.lock');
  return parseLockFile({ path, text: utf8(bytes, path, 'FLK_LOCK_INVALID') });
}

function utf8(bytes: Buffer, path: string, code: 'FLK_MANIFEST_INVALID' | 'FLK_LOCK_INVALID'): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new FlkError(code, `${path} is not UTF-8`, { cause });
  }
}
