/** The flake a command works on: the one in a folder of this machine, or one that is fetched. */
import { existsSync, realpathSync } from 'node:fs';
import { join, posix, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { version } from '../base/version.ts';
import { type FlakeRef, type GitRef, parseFlakeRef, printFlakeRef, type Rev } from '../flake/flake-ref.ts';
import type { Manifest } from '../flake/manifest.ts';
import type { SourceTree } from '../flake/source.ts';
import { type LocalFlake, openLocalFlake } from '../sources/local-flake.ts';
import { findRepository } from '../sources/worktree.ts';
import type { Context } from './context.ts';

/** A flake's whole tree at one moment, and what is known of it. */
export interface FlakeTree {
  readonly tree: SourceTree;
  /** Pinned by `rev`, or by `narHash` alone where something is changed. */
  readonly locked: FlakeRef;
  readonly dirty: boolean;
  /** HEAD, also of a dirty tree. */
  readonly rev?: Rev;
  readonly lastModified: number;
}

export interface Flake {
  /** As it was asked for, whole: `git+file:///repo?dir=sub`. */
  readonly ref: FlakeRef;
  /** Where the manifest lies below the tree's root; '' for the root. */
  readonly dir: string;
  readonly manifestFile: SourceFile;
  readonly lockText?: string;
  /** Where the manifest may be written, and flake.lock below; undefined as there. */
  readonly manifestPath?: string;
  /** Where flake.lock may be written; undefined for a flake that is not in a folder of this machine. */
  readonly lockPath?: string;
  /** Throws FLK_MANIFEST_UNTRACKED where Git does not know the manifest. */
  assertTracked(): Promise<void>;
  /** Makes Git know a new flake.lock. */
  trackLock(): Promise<void>;
  /** The same answer each time. */
  tree(): Promise<FlakeTree>;
}

/**
 * Opens what `text` names: `.`, `./dir`, `/dir` and `git+file:` working trees where they lie, everything else through the sources.
 * Throws as `parseFlakeRef`, `openLocalFlake` and `Source.fetch` do, and FLK_MANIFEST_MISSING.
 */
export async function openFlake(context: Context, text: string): Promise<Flake> {
  if (/^[./]/.test(text) && !/[?#]/.test(text)) return fromLocal(await openLocal(context, text));
  const ref = parseFlakeRef(text, { relativeTo: context.cwd });
  const folder = workingTree(ref);
  if (folder !== undefined) {
    const local = await openLocal(context, folder);
    // A path is looked for upwards; a URL says where the flake is.
    if (local.folder !== realpathSync(folder))
      throw new FlkError('FLK_MANIFEST_MISSING', `${printFlakeRef(ref)} has no flake.yaml`);
    return fromLocal(local);
  }
  return await openFetched(context, ref);
}

async function openLocal(context: Context, folder: string): Promise<LocalFlake> {
  return await openLocalFlake(resolve(context.cwd, folder), {
    reporter: context.reporter,
    signal: context.signal,
    source: { fetch: async (ref) => await (await context.sources()).fetch(ref) },
  });
}

/** Without a ref or rev, a repository on this machine means its working tree, changes and all, as it does for Nix. */
function workingTree(ref: FlakeRef): string | undefined {
  if (ref.type !== 'git' || !isFileUrl(ref) || ref.ref !== undefined || ref.rev !== undefined)
    return undefined;
  const folder = fileURLToPath(ref.url);
  return existsSync(join(folder, '.git')) ? join(folder, ref.dir ?? '') : undefined;
}

const isFileUrl = (ref: GitRef): boolean => /^file:\/\//.test(ref.url);

function fromLocal(local: LocalFlake): Flake {
  return {
    ref: local.ref,
    dir: local.dir,
    manifestFile: local.manifest,
    ...(local.lockText === undefined ? {} : { lockText: local.lockText }),
    manifestPath: join(local.folder, 'flake.yaml'),
    lockPath: local.lockPath,
    assertTracked: () => local.assertTracked(),
    trackLock: () => local.trackLock(),
    tree: () => local.tree(),
  };
}

async function openFetched(context: Context, ref: FlakeRef): Promise<Flake> {
  const { decodeManifest } = await import('../flake/manifest.ts');
  const { locked, tree } = await (await context.sources()).fetch(ref);
  const dir = ref.dir ?? '';
  const read = async (name: string): Promise<Buffer | undefined> =>
    await tree.readFile(posix.join(dir, name));
  const [manifest, lock] = await Promise.all([read('flake.yaml'), read('flake.lock')]);
  const shown = printFlakeRef(ref);
  if (!manifest) {
    const nix = (await read('flake.nix')) !== undefined;
    throw new FlkError('FLK_MANIFEST_MISSING', `${shown} has no flake.yaml`, {
      hint: nix ? 'it has a flake.nix: as an input it gives its source' : 'as an input it takes flake: false',
    });
  }
  const whole: FlakeTree = {
    tree,
    locked,
    dirty: false,
    ...(locked.rev === undefined ? {} : { rev: locked.rev }),
    lastModified: locked.lastModified ?? 0,
  };
  return {
    ref,
    dir,
    manifestFile: decodeManifest(`${shown}/flake.yaml`, manifest),
    ...(lock === undefined ? {} : { lockText: lock.toString() }),
    // A path: reference is a folder whatever Git says of it; its lock is written there.
    ...(ref.type === 'path'
      ? { manifestPath: join(ref.path, dir, 'flake.yaml'), lockPath: join(ref.path, dir, 'flake.lock') }
      : {}),
    assertTracked: async () => {},
    trackLock: async () => {},
    tree: async () => whole,
  };
}

/** Throws FLK_MANIFEST_INVALID and FLK_MANIFEST_VERSION. */
export async function readManifest(flake: Pick<Flake, 'manifestFile'>): Promise<Manifest> {
  return await manifestReader(flake.manifestFile);
}

/** Reads any manifest as this version of flk does. */
export async function manifestReader(file: SourceFile): Promise<Manifest> {
  const { parseManifest } = await import('../flake/manifest.ts');
  return parseManifest(file, { flkVersion: version });
}

/** A reference on the command line: a path in a Git repository means that repository, as it does for Nix. */
export function refFromArgument(context: Context, text: string): FlakeRef {
  const ref = parseFlakeRef(text, { relativeTo: context.cwd });
  if (ref.type !== 'path' || !/^[./]/.test(text)) return ref;
  const repository = findRepository(ref.path);
  if (repository === undefined) return ref;
  const dir = posix.join(relative(repository, ref.path), ref.dir ?? '').replace(/^\.$|\/$/g, '');
  return { type: 'git', url: pathToFileURL(repository).href, ...(dir === '' ? {} : { dir }) };
}
