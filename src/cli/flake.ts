/** The flake a command works on: the one in a folder of this machine, or one that is fetched. */
import { existsSync, realpathSync } from 'node:fs';
import { join, posix, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { version } from '../base/version.ts';
import { linkedFile } from '../flake/flake-folder.ts';
import { type FlakeRef, type GitRef, parseFlakeRef, printFlakeRef, type Rev } from '../flake/flake-ref.ts';
import type { FlakeManifest, Manifest } from '../flake/manifest-model.ts';
import type { Fetched, SourceTree, WorkingFiles } from '../flake/source.ts';
import {
  chooseManifest,
  type GitFlags,
  type ManifestName,
  manifestNames,
  openLocalFlake,
} from '../sources/local-flake.ts';
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
  /** As `LocalTree` has it. */
  changes?(): Promise<string | undefined>;
}

export interface Flake {
  /** As it was asked for, whole: `git+file:///repo?dir=sub`. */
  readonly ref: FlakeRef;
  /** What the registries made of it, where it is a name. */
  readonly resolved?: FlakeRef;
  /** Where the manifest lies below the tree's root; '' for the root. */
  readonly dir: string;
  readonly manifestName: ManifestName;
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
  /** Commits flake.lock alone, and gives the new revision; undefined where there is none. */
  commitLock(message: string): Promise<Rev | undefined>;
  /** Says that `files` will be asked for. */
  lookAhead(): void;
  /** The same answer each time. */
  files(): Promise<SourceTree | WorkingFiles>;
  /** The whole of them, for which all are read. */
  tree(): Promise<FlakeTree>;
}

/**
 * Opens what `text` names: `.`, `./dir`, `/dir` and `git+file:` working trees where they lie, everything else through the sources.
 * Throws as `parseFlakeRef`, `openLocalFlake` and `Source.fetch` do, and FLK_MANIFEST_MISSING.
 */
export async function openFlake(context: Context, text: string): Promise<Flake> {
  const bare = barePath(context, text);
  // A path alone is looked for upwards; whatever says more says where the flake is.
  if (bare?.query === '') return await openLocal(context, bare.folder);
  const ref = bare ? refOfPath(bare) : parseFlakeRef(text, { relativeTo: context.cwd });
  const folder = workingTree(ref);
  if (folder === undefined) return await openFetched(context, ref);
  const flake = await openLocal(context, folder, gitFlagsOf(ref));
  if (flake.folder !== realpathSync(folder))
    throw new FlkError('FLK_MANIFEST_MISSING', `${printFlakeRef(ref)} has no ${wantedNames(context)}`);
  return flake;
}

interface BarePath {
  /** Absolute. */
  readonly folder: string;
  /** What stands after `?`. */
  readonly query: string;
}

/** A path as people write it, without `path:`; also a folder whose name could be nothing else (`my.flake`), as in Nix. */
function barePath(context: Context, text: string): BarePath | undefined {
  const [, path = '', query = ''] = /^([^?]*)\??(.*)$/s.exec(text)!;
  const folder = resolve(context.cwd, path);
  if (/^[./]/.test(text)) return { folder, query };
  const hasMeaning = /^[A-Za-z][A-Za-z0-9+.-]*:|^[A-Za-z][A-Za-z0-9_-]*(\/|$)|#/.test(text);
  return text !== '' && !hasMeaning && existsSync(folder) ? { folder, query } : undefined;
}

/** A path in a Git repository means that repository, as it does for Nix. */
function refOfPath({ folder, query }: BarePath): FlakeRef {
  // The way up goes over what is really there.
  const real = existsSync(folder) ? realpathSync(folder) : folder;
  const repository = findRepository(real);
  const url = `${repository === undefined ? 'path:' : 'git+'}${pathToFileURL(repository ?? real).href}`;
  const ref = parseFlakeRef(`${url.replace(/^path:file:\/\//, 'path:')}${query === '' ? '' : `?${query}`}`);
  const dir = repository === undefined ? '' : relative(repository, real);
  return dir === '' ? ref : { ...ref, dir: posix.join(dir, ref.dir ?? '') };
}

async function openLocal(
  context: Context,
  folder: string,
  flags: GitFlags = {},
): Promise<Flake & { readonly folder: string }> {
  const local = await openLocalFlake(folder, {
    reporter: context.reporter,
    signal: context.signal,
    ...(context.flags.manifest === undefined ? {} : { manifest: chosenManifest(context.flags.manifest) }),
    warnDirty: async () => (await context.settings()).warnDirty,
    source: { fetch: async (ref) => await (await context.sources()).fetch(ref) },
    flags,
  });
  const { ref, dir, manifestName, lockText, lockPath } = local;
  const open = async (): ReturnType<typeof local.files> => {
    const { self } = await readManifest({ manifestFile: local.manifest });
    const files = await local.files(self);
    if (files.dirty && !(await context.allowDirty()))
      throw new FlkError('FLK_GIT_DIRTY', `${local.root} has changes that are not committed`);
    return files;
  };
  let opened: ReturnType<typeof open> | undefined;
  const opening = (): ReturnType<typeof open> => {
    opened ??= open();
    return opened;
  };
  const flake: Flake & { readonly folder: string } = {
    ref,
    dir,
    folder: local.folder,
    manifestName,
    manifestFile: local.manifest,
    ...(lockText === undefined ? {} : { lockText }),
    manifestPath: local.manifestPath,
    lockPath,
    lookAhead: () => local.lookAhead(),
    assertTracked: () => local.assertTracked(),
    trackLock: () => local.trackLock(),
    commitLock: (message) => local.commitLock(message),
    files: async () => (await opening()).files,
    tree: async () => await (await opening()).whole(),
  };
  // Asked for in so many words, it holds also where nobody needs the tree.
  if (context.flags['allow-dirty'] === false) await flake.files();
  return flake;
}

/** Throws FLK_USAGE for a `--manifest` that is none. */
function chosenManifest(flag: string): ManifestName {
  const name = manifestNames.find((name) => name === flag || `./${name}` === flag);
  if (name === undefined)
    throw new FlkError('FLK_USAGE', `--manifest is ${manifestNames.join(' or ')}, not '${flag}'`, {
      hint: 'name the folder as the flake, and only the file with --manifest',
    });
  return name;
}

const wantedNames = (context: Context): string => context.flags.manifest ?? manifestNames.join(' or ');

/** Without a ref or rev, a repository on this machine means its working tree, changes and all, as it does for Nix. */
function workingTree(ref: FlakeRef): string | undefined {
  if (ref.type !== 'git' || !isFileUrl(ref) || ref.ref !== undefined || ref.rev !== undefined)
    return undefined;
  const folder = fileURLToPath(ref.url);
  return existsSync(join(folder, '.git')) ? join(folder, ref.dir ?? '') : undefined;
}

const isFileUrl = (ref: GitRef): boolean => /^file:\/\//.test(ref.url);

function gitFlagsOf(ref: FlakeRef): GitFlags {
  if (ref.type !== 'git') return {};
  const { submodules, lfs, shallow, exportIgnore, allRefs } = ref;
  return Object.fromEntries(
    Object.entries({ submodules, lfs, shallow, exportIgnore, allRefs }).filter(([, value]) => value === true),
  );
}

async function openFetched(context: Context, ref: FlakeRef): Promise<Flake> {
  const { decodeManifest } = await import('../flake/manifest.ts');
  const { locked, resolved, tree } = await fetchNamed(context, ref);
  // A registry may add a folder.
  const dir = locked.dir ?? '';
  const read = async (name: string): Promise<Buffer | undefined> =>
    await tree.readFile(posix.join(dir, name));
  const shown = printFlakeRef(ref);
  const wanted =
    context.flags.manifest === undefined ? manifestNames : [chosenManifest(context.flags.manifest)];
  const [lock, ...manifests] = await Promise.all([read('flake.lock'), ...wanted.map(read)]);
  let manifestName = chooseManifest(
    wanted.filter((_, index) => manifests[index] !== undefined),
    shown,
  );
  let manifest = manifests.find((bytes) => bytes !== undefined);
  if (manifest === undefined) {
    const linked = await linkedFile(
      tree,
      wanted.map((name) => posix.join(dir, name)),
    );
    manifestName = wanted.find((name) => linked && posix.basename(linked.path) === name);
    manifest = linked?.bytes;
  }
  if (manifestName === undefined || manifest === undefined)
    throw new FlkError('FLK_MANIFEST_MISSING', `${shown} has no ${wantedNames(context)}`, {
      hint: 'name the folder that holds it, with ?dir=',
    });
  const whole: FlakeTree = {
    tree,
    locked,
    dirty: false,
    ...(locked.rev === undefined ? {} : { rev: locked.rev }),
    lastModified: locked.lastModified ?? 0,
  };
  return {
    ref,
    ...(resolved === undefined ? {} : { resolved }),
    dir,
    manifestName,
    manifestFile: decodeManifest(`${shown}/${manifestName}`, manifest),
    ...(lock === undefined ? {} : { lockText: lock.toString() }),
    // A path: reference is a folder whatever Git says of it; its lock is written there.
    ...(ref.type === 'path'
      ? { manifestPath: join(ref.path, dir, manifestName), lockPath: join(ref.path, dir, 'flake.lock') }
      : {}),
    lookAhead: () => {},
    assertTracked: async () => {},
    trackLock: async () => {},
    commitLock: async () => undefined,
    files: async () => tree,
    tree: async () => whole,
  };
}

/** As `Source.fetch`; a name that leads nowhere may have been meant as a folder. */
async function fetchNamed(context: Context, ref: FlakeRef): Promise<Fetched> {
  const source = await context.sources();
  try {
    return await source.fetch(ref, 'all');
  } catch (error) {
    if (!(error instanceof FlkError) || ref.type !== 'indirect' || !existsSync(resolve(context.cwd, ref.id)))
      throw error;
    const { message, facts, trail, diagnostics } = error;
    const hint = `${ref.id} is a registry’s name here; the folder is ./${ref.id}`;
    throw new FlkError(error.code, message, { hint, facts, trail, diagnostics, cause: error });
  }
}

/** Throws FLK_MANIFEST_INVALID and FLK_MANIFEST_VERSION. */
export async function readManifest(flake: Pick<Flake, 'manifestFile'>): Promise<FlakeManifest> {
  return await manifestReader(flake.manifestFile);
}

/** Reads any manifest as this version of flk does; its file's name says in which language it is. */
export async function manifestReader(file: SourceFile): Promise<FlakeManifest> {
  if (file.path === 'flake.nix' || file.path.endsWith('/flake.nix')) {
    const { parseFlakeNix } = await import('../flake/nix-inputs.ts');
    return parseFlakeNix(file);
  }
  return await yamlReader(file);
}

/** What has been read is not read again: who opens a flake wants its manifest, and so does who takes its tree. */
const manifests = new WeakMap<SourceFile, Promise<Manifest>>();

function yamlReader(file: SourceFile): Promise<Manifest> {
  const known = manifests.get(file);
  if (known) return known;
  const manifest = import('../flake/manifest.ts').then(({ parseManifest }) =>
    parseManifest(file, { flkVersion: version }),
  );
  manifests.set(file, manifest);
  return manifest;
}

/** The manifest where packages are wanted of it. Throws FLK_PACKAGE_INVALID for a flake.nix. */
export async function readPackages(
  flake: Pick<Flake, 'manifestFile' | 'manifestName' | 'ref'>,
): Promise<Manifest> {
  if (flake.manifestName === 'flake.yaml') return await yamlReader(flake.manifestFile);
  throw new FlkError(
    'FLK_PACKAGE_INVALID',
    `the packages of ${flake.manifestFile.path} are written in the Nix language, which flk does not run`,
    { hint: 'nix build builds them; flk lock, update and metadata work on this flake' },
  );
}

/** A reference on the command line, which need not be a flake: a path in a Git repository means that repository, as it does for Nix. */
export function refFromArgument(context: Context, text: string): FlakeRef {
  const bare = barePath(context, text);
  return bare ? refOfPath(bare) : parseFlakeRef(text, { relativeTo: context.cwd });
}
