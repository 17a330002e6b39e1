/**
 * A commit's tree as a reference asks for it: with its submodules' trees in their places, with what Git LFS keeps instead of
 * pointers, without what `.gitattributes` does not export. Which bytes that makes, the commit alone decides, so the hash is kept.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { FlkError, redactUrls } from '../base/errors.ts';
import type { GitRef, Rev } from '../flake/flake-ref.ts';
import type { SourceTree } from '../flake/source.ts';
import { GitAttributes } from '../formats/git-attributes.ts';
import type { NarHash } from '../formats/hash.ts';
import { NarHasher, type TreeSink } from '../formats/nar.ts';
import { filterTree, type NodePath, tee } from '../formats/tree-sinks.ts';
import type { CachedCommit, FetchCache, ViewFacts } from './fetch-cache.ts';
import type { LfsClient, LfsPointer } from './git-lfs.ts';
import { maxPointerSize, parsePointer } from './git-lfs.ts';
import { maxSubmoduleDepth, submodulesOf } from './git-submodules.ts';
import type { CommitSurvey } from './git-survey.ts';
import { ManifestCapture, readThrough } from './tree-capture.ts';

export type ViewFlags = Pick<GitRef, 'submodules' | 'lfs' | 'exportIgnore'>;

export interface ViewWorld {
  readonly cache: FetchCache;
  readonly lfs: LfsClient;
  /** A commit of the repository at a URL, fetched unless it is here. */
  readonly commit: (url: string, rev: Rev) => Promise<CachedCommit>;
  /** What a repository's relative submodule URLs start from, and where its LFS objects are. */
  readonly base: (url: string) => Promise<string>;
}

/** A commit of a repository, and how deep in submodules it stands. */
interface Place {
  readonly url: string;
  readonly rev: Rev;
  readonly depth: number;
}

/** Puts between a commit's own walk and whoever wants the view. */
type Lens = (sink: TreeSink) => TreeSink;

/** Throws as fetching does, FLK_GIT_SUBMODULE, FLK_GIT_LFS. */
export async function openView(
  commit: CachedCommit,
  url: string,
  rev: Rev,
  flags: ViewFlags,
  world: ViewWorld,
): Promise<SourceTree> {
  const suffix = `${flags.submodules ? 's' : ''}${flags.exportIgnore ? 'e' : ''}${flags.lfs ? 'l' : ''}`;
  const maker = new LensMaker(flags, world);
  let lens: Promise<Lens> | undefined;
  const walk = async (sink: TreeSink, signal?: AbortSignal): Promise<void> => {
    lens ??= maker.lens(commit, { url, rev, depth: 0 });
    lens.catch(() => {
      lens = undefined;
    });
    await commit.walk((await lens)(sink), signal);
  };
  const known = await world.cache.view(rev, suffix);
  const facts = known ?? (await measure(walk));
  if (!known) await world.cache.keepView(rev, suffix, facts);
  return {
    narHash: facts.narHash,
    narSize: facts.narSize,
    walk,
    readFile: (path) => readThrough(facts.manifests, path, walk),
  };
}

async function measure(walk: SourceTree['walk']): Promise<ViewFacts> {
  const hasher = new NarHasher();
  const capture = new ManifestCapture();
  await walk(tee(hasher, capture));
  const { narHash, narSize }: { narHash: NarHash; narSize: number } = hasher.digest();
  return { narHash, narSize, manifests: capture.manifests };
}

/** Brings what a view needs beside the commit's own objects, and then shows it without waiting for anything. */
class LensMaker {
  readonly #flags: ViewFlags;
  readonly #world: ViewWorld;
  #submodules = 0;

  constructor(flags: ViewFlags, world: ViewWorld) {
    this.#flags = flags;
    this.#world = world;
  }

  async lens(commit: CachedCommit, { url, depth }: Place): Promise<Lens> {
    const { submodules, lfs, exportIgnore } = this.#flags;
    const survey = await commit.survey();
    const attributes = new GitAttributes(survey.attributes);
    const base = submodules || lfs ? await this.#world.base(url) : url;
    const isKept = (path: NodePath): boolean => attributes.value(path, 'filter') === 'lfs';
    const isLeftOut = (path: NodePath): boolean => attributes.value(path, 'export-ignore') === true;
    const isWanted = (path: NodePath): boolean =>
      isKept(path) && !(exportIgnore && withFolders(path).some(isLeftOut));
    const [children] = await Promise.all([
      submodules ? this.#children(base, survey, depth) : new Map<NodePath, Lens>(),
      lfs ? this.#bring(url, base, survey, isWanted) : undefined,
    ]);
    return (sink) => {
      let seen = sink;
      if (children.size > 0) seen = new SubmoduleSink(seen, children);
      if (lfs) seen = new LfsSink(seen, isKept, (oid) => this.#world.lfs.path(oid));
      if (exportIgnore) seen = filterTree(seen, (path) => !isLeftOut(path), { keepEmpty: true });
      return seen;
    };
  }

  /** Each child's lens walks the child, whole, into the sink that it is given. */
  async #children(base: string, survey: CommitSurvey, depth: number): Promise<Map<NodePath, Lens>> {
    const places = submodulesOf(base, survey.modules, survey.gitlinks);
    this.#submodules += places.length;
    if ((places.length > 0 && depth >= maxSubmoduleDepth) || this.#submodules > maxSubmodulesInAll)
      throw new FlkError('FLK_LIMIT', `${redactUrls(base)} has submodules within submodules without end`);
    const children = await Promise.all(
      places.map(async ({ path, url, rev }): Promise<[NodePath, Lens]> => {
        const commit = await this.#world.commit(url, rev);
        const lens = await this.lens(commit, { url, rev, depth: depth + 1 });
        return [
          path,
          (sink) => {
            commit.walkNow(lens(sink));
            return sink;
          },
        ];
      }),
    );
    return new Map(children);
  }

  async #bring(
    url: string,
    base: string,
    survey: CommitSurvey,
    isWanted: (path: NodePath) => boolean,
  ): Promise<void> {
    const pointers = [...survey.pointers].filter(([path]) => isWanted(path)).map(([, pointer]) => pointer);
    // What is on this machine need not come from its origin.
    if (url !== base && url.startsWith('file:')) {
      const elsewhere: LfsPointer[] = [];
      for (const pointer of pointers)
        await this.#world.lfs.bring(url, [pointer]).catch((error: unknown) => {
          if (!(error instanceof FlkError) || error.code !== 'FLK_GIT_LFS') throw error;
          elsewhere.push(pointer);
        });
      await this.#world.lfs.bring(base, elsewhere);
    } else await this.#world.lfs.bring(url, pointers);
  }
}

const maxSubmodulesInAll = 10_000;

/** A path and the folders that it lies in, the root apart. */
const withFolders = (path: NodePath): readonly NodePath[] => {
  const names = path.split('/');
  return names.map((_, i) => names.slice(0, i + 1).join('/'));
};

/** Follows the way of a walk through names; for sinks that look at paths. */
class PathTracker {
  readonly #names: string[] = [];

  get path(): NodePath {
    return this.#names.join('/');
  }

  enter(name: Buffer): void {
    this.#names.push(name.toString('latin1'));
  }

  leave(): void {
    this.#names.pop();
  }
}

/** Puts other trees in the places of empty folders. */
class SubmoduleSink implements TreeSink {
  readonly #sink: TreeSink;
  readonly #children: ReadonlyMap<NodePath, Lens>;
  readonly #at = new PathTracker();
  #inside = false;

  constructor(sink: TreeSink, children: ReadonlyMap<NodePath, Lens>) {
    this.#sink = sink;
    this.#children = children;
  }

  directory(): void {
    const child = this.#children.get(this.#at.path);
    this.#inside = child !== undefined;
    if (child) child(this.#sink);
    else this.#sink.directory();
  }

  entry(name: Buffer): void {
    this.#at.enter(name);
    this.#sink.entry(name);
  }

  endDirectory(): void {
    // A submodule's own folder is empty: its end comes at once, and the child has had its own.
    if (!this.#inside) this.#sink.endDirectory();
    this.#inside = false;
    this.#at.leave();
  }

  file(size: number, executable: boolean): void {
    this.#sink.file(size, executable);
  }

  data(chunk: Buffer): void {
    this.#sink.data(chunk);
  }

  endFile(): void {
    this.#sink.endFile();
    this.#at.leave();
  }

  symlink(target: Buffer): void {
    this.#sink.symlink(target);
    this.#at.leave();
  }
}

/** Gives the files that pointers stand for. They have been brought before, and are checked again by whoever knows the NAR's hash. */
class LfsSink implements TreeSink {
  readonly #sink: TreeSink;
  readonly #isKept: (path: NodePath) => boolean;
  readonly #pathOf: (oid: string) => string;
  readonly #at = new PathTracker();
  #held: { readonly size: number; readonly executable: boolean; readonly pieces: Buffer[] } | undefined;

  constructor(sink: TreeSink, isKept: (path: NodePath) => boolean, pathOf: (oid: string) => string) {
    this.#sink = sink;
    this.#isKept = isKept;
    this.#pathOf = pathOf;
  }

  directory(): void {
    this.#sink.directory();
  }

  entry(name: Buffer): void {
    this.#at.enter(name);
    this.#sink.entry(name);
  }

  endDirectory(): void {
    this.#sink.endDirectory();
    this.#at.leave();
  }

  file(size: number, executable: boolean): void {
    if (size < maxPointerSize && this.#isKept(this.#at.path)) this.#held = { size, executable, pieces: [] };
    else this.#sink.file(size, executable);
  }

  data(chunk: Buffer): void {
    if (this.#held) this.#held.pieces.push(Buffer.from(chunk));
    else this.#sink.data(chunk);
  }

  endFile(): void {
    if (this.#held) this.#give(Buffer.concat(this.#held.pieces), this.#held.executable);
    this.#held = undefined;
    this.#sink.endFile();
    this.#at.leave();
  }

  symlink(target: Buffer): void {
    this.#sink.symlink(target);
    this.#at.leave();
  }

  #give(content: Buffer, executable: boolean): void {
    const pointer = parsePointer(content);
    this.#sink.file(pointer?.size ?? content.length, executable);
    if (!pointer) this.#sink.data(content);
    else this.#stream(pointer);
  }

  #stream({ oid, size }: LfsPointer): void {
    const fd = openSync(this.#pathOf(oid), 'r');
    try {
      const window = Buffer.allocUnsafeSlow(256 * 1024);
      for (let left = size; left > 0; ) {
        const got = readSync(fd, window, 0, Math.min(left, window.length), null);
        if (got === 0) throw new FlkError('FLK_GIT_LFS', `the cached LFS object ${oid} is cut short`);
        this.#sink.data(window.subarray(0, got));
        left -= got;
      }
    } finally {
      closeSync(fd);
    }
  }
}
