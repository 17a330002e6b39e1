/** The flakes that a resolution comes across: fetched, read once each, their versions chosen. */
import { FlkError } from '../base/errors.ts';
import {
  type FlakeFolder,
  fetchedFolder,
  lockIn,
  type ManifestKind,
  manifestIn,
  type ReadManifest,
} from './flake-folder.ts';
import { type FlakeRef, type ForgeRef, type GitRef, printFlakeRef, refKey } from './flake-ref.ts';
import type { FlkFacts, LockFile } from './lock-file.ts';
import type { FlakeManifest } from './manifest-model.ts';
import type { Fetched, Registries, Source } from './source.ts';

export interface ReadFlake {
  readonly manifest: FlakeManifest;
  /** Its own. */
  readonly lock: LockFile | undefined;
}

export interface FetchedFlake extends ReadFlake {
  readonly locked: FlakeRef;
  readonly folder: FlakeFolder;
}

export interface FlakeReaderOptions {
  /** Undefined: asking for something is a bug. */
  readonly source: Source | undefined;
  readonly cached?: Pick<Source, 'fetch'> | undefined;
  readonly readManifest: ReadManifest;
  /** Which manifest is taken where a folder has both. */
  readonly preferred: ManifestKind;
}

export class FlakeReader {
  readonly #options: FlakeReaderOptions;
  readonly #flakes = new Map<string, Promise<ReadFlake>>();

  constructor(options: FlakeReaderOptions) {
    this.#options = options;
  }

  /** Whether pinned trees can be read. */
  get canRead(): boolean {
    return (this.#options.source ?? this.#options.cached) !== undefined;
  }

  fetch(ref: FlakeRef, registries?: Registries): Promise<Fetched> {
    const from = this.#options.source ?? this.#options.cached;
    if (!from) throw new FlkError('FLK_INTERNAL', 'something was to be fetched without a source');
    return from.fetch(ref, registries);
  }

  /** A flake's tree and what it says. One that asks for its own submodules or LFS files is fetched anew with them. */
  async flake(ref: FlakeRef, registries?: Registries): Promise<FetchedFlake> {
    const fetched = await this.fetch(ref, registries);
    const folder = fetchedFolder(fetched);
    const read = await this.read(folder);
    const own = withOwnAttributes(fetched.locked, read.manifest);
    if (refKey(own) === refKey(fetched.locked)) return { locked: fetched.locked, folder, ...read };
    // Other files, so another hash.
    const { narHash, ...asked } = own;
    const whole = await this.fetch(asked, registries);
    const wholeFolder = fetchedFolder(whole);
    return { locked: whole.locked, folder: wholeFolder, ...(await this.read(wholeFolder)) };
  }

  /** One promise per folder: many inputs may lead to one flake. */
  read(folder: FlakeFolder): Promise<ReadFlake> {
    const key = locationOf(folder);
    const known = this.#flakes.get(key);
    if (known) return known;
    const { readManifest, preferred } = this.#options;
    const read = Promise.all([manifestIn(folder, readManifest, preferred), lockIn(folder)]).then(
      ([manifest, lock]): ReadFlake => ({ manifest, lock }),
    );
    this.#flakes.set(key, read);
    return read;
  }

  /** The newest tag of the repository that is in the range, as a reference to its commit. */
  async choose(
    ref: FlakeRef,
    version: string,
    shape: string | undefined,
  ): Promise<{ ref: FlakeRef; facts: FlkFacts }> {
    const { source } = this.#options;
    if (!source) throw new FlkError('FLK_INTERNAL', 'tags were asked for without a source');
    if (ref.type !== 'git' && !('owner' in ref))
      throw new FlkError(
        'FLK_VERSION_UNSATISFIED',
        `${printFlakeRef(ref)} is no repository, so it has no tags`,
      );
    const { selectTag } = await import('./semver-selection.ts');
    const tag = selectTag(await source.tags(repositoryOf(ref)), version, shape);
    const facts: FlkFacts = { version, tag: tag.name };
    if (ref.type === 'git') return { ref: { ...ref, ref: `refs/tags/${tag.name}`, rev: tag.rev }, facts };
    // At a forge a revision stands alone.
    const { ref: _, ...rest } = ref;
    return { ref: { ...rest, rev: tag.rev }, facts };
  }
}

/** Equal for two folders that are the same flake. */
export function locationOf({ treeKey, dir }: FlakeFolder): string {
  return `${treeKey} ${dir}`;
}

/** A flake from elsewhere may not make this machine read its own folders: they are not there for anybody else. */
export function checkReach(ref: FlakeRef, from: FlakeFolder): void {
  if (ref.type !== 'path' || !from.remote) return;
  throw new FlkError(
    'FLK_REF_INVALID',
    `${from.name} asks for ${printFlakeRef(ref)}, a folder of this machine`,
    { hint: 'override that input, or ask its author to name a repository' },
  );
}

/** Only a repository can be fetched with them. To others Nix adds them too, and then refuses the lock that it wrote. */
function withOwnAttributes(locked: FlakeRef, { self }: FlakeManifest): FlakeRef {
  return locked.type === 'git' ? { ...locked, ...self } : locked;
}

function repositoryOf(ref: GitRef | ForgeRef): GitRef | ForgeRef {
  if (ref.type === 'git') return { type: ref.type, url: ref.url };
  const { type, owner, repo, host } = ref;
  return { type, owner, repo, ...(host === undefined ? {} : { host }) };
}
