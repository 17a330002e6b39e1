/**
 * The flake that a person works on: its manifest and lock as they are on disk at once, its source tree only when asked for. As
 * long as only the texts are needed, nothing but a few file look-ups is done.
 */
import { readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { OnceMap } from '../base/concurrency.ts';
import type { SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { type FlakeRef, type GitRef, type PathRef, type Rev, refKey } from '../flake/flake-ref.ts';
import type { Source, SourceTree, WorkingFiles } from '../flake/source.ts';
import { followLinks } from '../formats/tree-links.ts';
import { digestOfChanges } from './changes-digest.ts';
import { lookAt, readRegularFile, unreadable } from './disk.ts';
import { fetchPath } from './path.ts';
import type { TrackedState } from './tracked-files.ts';
import { openWorkingTree, type WorkingTreeOptions } from './working-tree.ts';
import {
  assertTracked,
  commitFile,
  findRepository,
  isOutside,
  readTracked,
  trackFile,
  upwards,
} from './worktree.ts';

export interface LocalFlakeOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  /** Fetches the committed tree of a repository without changes. */
  readonly source: Pick<Source, 'fetch'>;
  /** The one manifest to look for. Default: either, but not both in one folder. */
  readonly manifest?: ManifestName;
  /** As `WorkingTreeOptions` has it. */
  readonly warnDirty?: () => Promise<boolean>;
  /** How a repository's tree is to be taken. */
  readonly flags?: GitFlags;
}

export type GitFlags = Pick<GitRef, 'submodules' | 'lfs' | 'shallow' | 'exportIgnore' | 'allRefs'>;

/** What a flake may say itself in. */
export const manifestNames = ['flake.yaml', 'flake.nix'] as const;
export type ManifestName = (typeof manifestNames)[number];

/** A local flake's bytes at one moment. */
interface LocalTree {
  /** The whole repository or folder. */
  readonly tree: SourceTree;
  /** Pinned by `rev` when nothing is changed, else by `narHash` alone. Has `lastModified`. */
  readonly locked: FlakeRef;
  /** Whether a repository has changes that are not committed. */
  readonly dirty: boolean;
  /** HEAD, also of a dirty tree. */
  readonly rev?: Rev;
  /** Seconds since 1970: HEAD's committer time; for a plain folder the newest mtime. */
  readonly lastModified: number;
  /** Of a repository with changes: HEAD and the digest of what is changed, as Nix has it; undefined where that is not known. */
  changes?(): Promise<string | undefined>;
}

/** The same, and what of it is known without reading all files. */
interface LocalFiles {
  readonly files: SourceTree | WorkingFiles;
  readonly dirty: boolean;
  /** The same answer each time. */
  whole(): Promise<LocalTree>;
}

export interface LocalFlake {
  /** A Git repository's working tree, or a plain folder. */
  readonly kind: 'git' | 'path';
  /** The repository's root, or the flake's folder; absolute, without symlinks. */
  readonly root: string;
  /** The flake's folder below the root, '' for the root itself. */
  readonly dir: string;
  /** Absolute: where the manifest lies, and flake.lock will. */
  readonly folder: string;
  readonly manifestName: ManifestName;
  readonly manifest: SourceFile;
  /** Absolute: the regular file that it is read from, behind symlinks within the tree. */
  readonly manifestPath: string;
  readonly lockPath: string;
  /** Undefined when there is no flake.lock. */
  readonly lockText?: string;
  /** As `nix flake metadata` resolves it: `git+file:///repo?dir=sub`, `path:/folder`. */
  readonly ref: FlakeRef;
  /** Begins to ask Git what `tree` will want to know: it answers while the manifest is read. */
  lookAhead(): void;
  /** Throws FLK_MANIFEST_UNTRACKED when Git does not know the manifest. One git process. */
  assertTracked(): Promise<void>;
  /** Makes Git know a flake.lock that was just written, unstaged. Does nothing in a plain folder or without git. */
  trackLock(): Promise<void>;
  /** Commits flake.lock alone; undefined where there is nothing to commit, or no repository. Throws FLK_GIT_MISSING, FLK_GIT_WORKTREE. */
  commitLock(message: string): Promise<Rev | undefined>;
  /**
   * Reads Git's state; `own` is what the flake says of how its source is to be taken. Throws FLK_MANIFEST_UNTRACKED,
   * FLK_GIT_WORKTREE. The same answer each time.
   */
  files(own?: GitFlags): Promise<LocalFiles>;
  /** The whole of the files: reads them all. */
  tree(own?: GitFlags): Promise<LocalTree>;
}

const lockName = 'flake.lock';

/**
 * Finds the flake at `folder`, or above it up to the repository's root (as Nix does), and reads its texts.
 * Throws FLK_MANIFEST_MISSING, FLK_MANIFEST_AMBIGUOUS, FLK_FILE_UNREADABLE, FLK_LIMIT.
 */
export async function openLocalFlake(folder: string, options: LocalFlakeOptions): Promise<LocalFlake> {
  const { folder: flakeFolder, manifestName } = findFlake(realFolder(folder), options.manifest);
  const repository = findRepository(flakeFolder);
  const root = repository ?? flakeFolder;
  const dir = relative(root, flakeFolder);
  const manifestPath = behindLinks(root, join(dir, manifestName));
  const lockPath = join(flakeFolder, lockName);
  const lockText = readText(lockPath);
  const ref: GitRef | PathRef =
    repository === undefined
      ? { type: 'path', path: root }
      : {
          type: 'git',
          url: pathToFileURL(root).href,
          ...(dir === '' ? {} : { dir }),
          // Nix says so too: commits cannot be counted there.
          ...(lookAt(join(root, '.git/shallow')) ? { shallow: true } : {}),
          ...options.flags,
        };
  const opened = new OnceMap<string, LocalFiles>();
  const files = (own?: GitFlags): Promise<LocalFiles> => {
    const wanted = ref.type === 'git' ? { ...ref, ...own } : ref;
    return opened.get(refKey(wanted), () =>
      openFiles(wanted, root, { ...options, manifestPath: join(dir, manifestName), tracked }),
    );
  };
  let tracked: Promise<TrackedState> | undefined;
  return {
    kind: ref.type,
    root,
    dir,
    folder: flakeFolder,
    manifestName,
    manifestPath,
    manifest: { path: shownPath(join(flakeFolder, manifestName)), text: readText(manifestPath) ?? '' },
    lockPath,
    ...(lockText === undefined ? {} : { lockText }),
    ref,
    lookAhead: () => {
      if (repository === undefined) return;
      tracked ??= readTracked(repository, options.signal);
      // Told to whoever asks for the tree.
      tracked.catch(() => {});
    },
    assertTracked: async () => {
      if (repository === undefined) return;
      for (const path of new Set([join(dir, manifestName), relative(root, manifestPath)]))
        await assertTracked(root, path);
    },
    trackLock: async () => {
      if (repository !== undefined) await trackFile(root, join(dir, lockName));
    },
    commitLock: async (message) =>
      repository === undefined ? undefined : await commitFile(root, join(dir, lockName), message),
    files,
    tree: async (own) => await (await files(own)).whole(),
  };
}

async function openFiles(
  ref: GitRef | PathRef,
  root: string,
  options: WorkingTreeOptions,
): Promise<LocalFiles> {
  if (ref.type === 'path') {
    const { locked, tree } = await fetchPath(ref, options);
    const whole = { tree, locked, dirty: false, lastModified: locked.lastModified ?? 0 };
    return { files: tree, dirty: false, whole: async () => whole };
  }
  const opened = await openWorkingTree(ref, root, options);
  if (!opened.dirty) return opened;
  const read = async (): Promise<LocalTree> => {
    const whole = await opened.whole();
    return { ...whole, changes: async () => await digestOfChanges(root, whole.rev, options.signal) };
  };
  let whole: Promise<LocalTree> | undefined;
  return {
    ...opened,
    whole: () => {
      whole ??= read();
      return whole;
    },
  };
}

/** Without symlinks, so that what is above it is what a person would see from within. */
function realFolder(folder: string): string {
  try {
    return realpathSync(resolve(folder));
  } catch (error) {
    throw unreadable(folder, error);
  }
}

/** The nearest folder upwards with a manifest, not further than the repository's root. */
function findFlake(
  start: string,
  only: ManifestName | undefined,
): { readonly folder: string; readonly manifestName: ManifestName } {
  const wanted = only === undefined ? manifestNames : [only];
  // Who names the manifest means its folder; Nix takes it so, too.
  const name = wanted.find((name) => name === basename(start));
  if (name && lookAt(start)?.isFile()) return { folder: dirname(start), manifestName: name };
  if (!lookAt(start)?.isDirectory())
    throw new FlkError('FLK_FILE_UNREADABLE', `${start} is not a folder`, {
      hint: `name the folder that holds it: ${dirname(start)}`,
    });
  for (const folder of upwards(start)) {
    const manifestName = chooseManifest(
      wanted.filter((name) => lookAt(join(folder, name))),
      folder,
    );
    if (manifestName) return { folder, manifestName };
    if (lookAt(join(folder, '.git'))) break;
  }
  throw new FlkError(
    'FLK_MANIFEST_MISSING',
    `no ${wanted.join(' or ')} in ${start}, nor in a folder above it`,
  );
}

/** The manifest of a flake out of those that are there. Throws FLK_MANIFEST_AMBIGUOUS where both are. */
export function chooseManifest(found: readonly ManifestName[], where: string): ManifestName | undefined {
  if (found.length < 2) return found[0];
  throw new FlkError('FLK_MANIFEST_AMBIGUOUS', `${where} has both ${found.join(' and ')}`, {
    hint: '--manifest flake.yaml, or --manifest flake.nix, says which one counts',
  });
}

/**
 * Where the manifest at `path` below `root` really is. A link counts as long as it stays in the tree, as for Nix: what is outside no
 * clone has.
 */
function behindLinks(root: string, path: string): string {
  if (!lookAt(join(root, path))?.isSymbolicLink()) return join(root, path);
  const target = followLinks(path, (at) => {
    const place = join(root, at);
    return lookAt(place)?.isSymbolicLink() ? readlinkSync(place) : undefined;
  });
  if (target !== undefined && lookAt(join(root, target))?.isFile()) return join(root, target);
  throw new FlkError(
    'FLK_FILE_UNREADABLE',
    `${shownPath(join(root, path))} is a symlink to no file in ${root}`,
    {
      facts: { found: readlinkSync(join(root, path)) },
      hint: 'put the file itself there, or a relative link to one in the same tree',
    },
  );
}

/** Text of a regular file, undefined where there is nothing. */
function readText(path: string): string | undefined {
  const info = lookAt(path);
  if (!info) return undefined;
  const content = readRegularFile(path);
  if (content === undefined)
    throw new FlkError('FLK_FILE_UNREADABLE', `${shownPath(path)} is not a regular file`, {
      facts: {
        found: info.isSymbolicLink() ? 'a symlink' : info.isDirectory() ? 'a folder' : 'a special file',
      },
      hint: 'put the file itself there',
    });
  try {
    // A byte order mark stays, so that writing the text back changes nothing.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content);
  } catch {
    throw new FlkError('FLK_FILE_UNREADABLE', `${shownPath(path)} is not UTF-8 text`, {
      hint: 'save the file as UTF-8',
    });
  }
}

/** From here when it lies below here, else absolute. */
function shownPath(path: string): string {
  const short = relative(process.cwd(), path);
  return isOutside(short) ? path : short;
}
