/** The store: immutable trees under `ROOT/nix/store`, each valid once its record is in the database. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { constants, readdirSync } from 'node:fs';
import { access, rename, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { compareBytes } from '../base/canonical.ts';
import { throwIfAborted } from '../base/concurrency.ts';
import { asFlkError, FlkError, systemCode } from '../base/errors.ts';
import {
  isFileLocked,
  isOwnerAlive,
  makeFolder,
  ownerName,
  takeFileLock,
  unwritable,
} from '../base/files.ts';
import { digestOf, type NarHash, sha256, toNixBase32 } from '../formats/hash.ts';
import { hashTree, NarHasher, type Tree, type TreeSink, walkMended } from '../formats/nar.ts';
import { baseNameOf, hashPart, makeSourcePath, makeTextPath, type StorePath } from '../formats/store-path.ts';
import { tee } from '../formats/tree-sinks.ts';
import { beginCollection, type Collection, goneOwners } from './collection.ts';
import { openDatabase, openDatabaseToRead, type StoreDatabase } from './database.ts';
import { LinkFolder, Optimiser, type Saved } from './optimise.ts';
import type { PathInfo } from './path-info.ts';
import { exists, Places, type Stage } from './places.ts';
import { type Entry, notValid, Registrar } from './registrar.ts';
import { restoreTree, walkPath } from './tree-files.ts';

export interface Store {
  /** The physical folder that stands for `/`: paths lie in `ROOT/nix/store`, the database in `ROOT/nix/var/flk`. */
  readonly root: string;
  /** What writes throws FLK_FILE_UNWRITABLE; what is there already need not be written. */
  readonly readOnly: boolean;
  /** Where a logical path lies on disk, valid or not. */
  physical(path: StorePath): string;
  query(path: StorePath): PathInfo | undefined;
  /** Those that are valid. */
  valid(paths: Iterable<StorePath>): ReadonlySet<StorePath>;
  /** The valid path with this hash part (32 characters): caches name paths by no more. */
  find(hashPart: string): PathInfo | undefined;
  /** The paths and everything they refer to, sorted; throws FLK_STORE_CORRUPT when one is not valid. */
  closure(paths: Iterable<StorePath>): StorePath[];
  /** Writes a tree as a content-addressed source (`source` fingerprint). Does nothing when it is there. `expected` is verified. */
  addTree(
    name: string,
    tree: Tree,
    options?: { expected?: NarHash; references?: readonly StorePath[] },
  ): Promise<PathInfo>;
  /** Writes a text object (`.drv` files). Many at once cost little more than one. */
  addText(name: string, contents: string, references: readonly StorePath[]): Promise<PathInfo>;
  /** A fresh folder on the store's file system, for staging; removed by `dispose`, or by the next flk when this one dies. */
  stage(): Promise<Stage>;
  /**
   * Moves staged, canonical trees to their places and records them, all or none visible as valid. Calls at one time cost little more
   * than one. `replace`: over what is there
   * (a corrupt path made anew).
   */
  register(entries: readonly Entry[], options?: { replace?: boolean }): Promise<void>;
  /** Runs `work` while nobody else, here or in another process, builds or writes these paths. Within, they may be locked again. */
  withPathLocks<T>(paths: readonly StorePath[], work: () => Promise<T>, signal?: AbortSignal): Promise<T>;
  /** The same for thousands of short works that lock nothing themselves: gives what lets the locks go. */
  lockPaths(paths: readonly StorePath[], signal?: AbortSignal): Promise<() => void>;
  /** Whether somebody, on this machine, holds the path's lock: who makes or replaces it. */
  isLocked(path: StorePath): Promise<boolean>;
  /** The bytes on disk against the record; throws FLK_STORE_CORRUPT. */
  verifyPath(path: StorePath, signal?: AbortSignal): Promise<void>;
  /** The same for many, by default all; some at a time, told in the order of the paths. */
  verify(
    paths?: Iterable<StorePath>,
    signal?: AbortSignal,
  ): AsyncIterable<{ readonly path: StorePath; readonly fault?: FlkError }>;
  /**
   * Makes equal files of these paths, by default of all, one file with several names. Paths that are not valid are passed over.
   * `progress` is told how many paths are done.
   */
  optimise(
    paths?: readonly StorePath[],
    options?: { readonly progress?: (done: number, total: number) => void; readonly signal?: AbortSignal },
  ): Promise<Saved>;
  /** What is wrong with the store as a whole; reads the database, and no path. */
  check(): StoreFaults;
  /** A tree over what lies on disk. */
  tree(path: StorePath): Tree;
  /** Every valid path, sorted. */
  paths(): StorePath[];
  /** Valid paths that refer to this one, itself left out; sorted. */
  referrers(path: StorePath): StorePath[];
  /**
   * Keeps paths, valid or not yet, and all that they refer to from being swept, until the store is closed or this process is gone.
   * Whoever looks whether a path is valid because it will be used holds it first; what this store registers is held by itself.
   */
  hold(paths: Iterable<StorePath>): void;
  /** What other flks that run now hold of what is recorded, and their process ids. */
  heldByOthers(): Promise<readonly { readonly pid: number; readonly path: StorePath }[]>;
  /** Adds signatures to a valid path's record; those that it has stay. */
  addSignatures(path: StorePath, signatures: readonly string[]): void;
  /** Begins to sweep. Throws FLK_LOCK_BUSY while another process does. */
  collect(signal?: AbortSignal): Promise<Collection>;
  /** Facts that are costly to compute and never change: key → value, kept with the store. */
  memo(key: string): string | undefined;
  /** `about`: the path that it says something of, with which it goes. Others may go when they are old; then it is found out again. */
  setMemo(key: string, value: string, about?: StorePath): void;
  /** Keeps a path alive through a symlink outside the store (`result`), by a name under `nix/var/nix/gcroots/auto`. */
  addIndirectRoot(link: string): Promise<void>;
  close(): void;
}

/** What a kill, a full disk or somebody's hand may leave. */
interface StoreFaults {
  /** Of the database's file, as SQLite words them. */
  readonly database: readonly string[];
  /** Paths with a record and nothing on disk, or that were being replaced when flk was killed; sorted. They are not valid. */
  readonly missing: readonly StorePath[];
  /** Names in the store's folder without a record; sorted. The next sweep removes them, unless they are being made valid now. */
  readonly orphans: readonly string[];
}

/**
 * Opens the store below a folder that stands for `/`, creating it where there is none, and removes what dead processes left half
 * done. One that is there but cannot be written (a read-only disk, somebody else's) is opened to be read, as with `readOnly`: what
 * its owner removes or adds meanwhile may not be seen. Throws FLK_FILE_UNWRITABLE or FLK_STORE_INVALID.
 */
export async function openStore(root: string, options: { readonly readOnly?: boolean } = {}): Promise<Store> {
  const absolute = resolve(root);
  const writable = new Places(absolute, false);
  if (options.readOnly || (await isForbidden(writable))) {
    const places = new Places(absolute, true);
    return new DiskStore(places, await openDatabaseToRead(places.database));
  }
  for (const folder of [writable.store, writable.locks]) await makeFolder(folder);
  const owner = await ownerName();
  const database = await openDatabase(writable.database, owner).catch(async (error: unknown) => {
    if (asFlkError(error).code !== 'FLK_FILE_UNWRITABLE') throw error;
    // The disk is full; a sweep must get on all the same.
    await writable.release();
    return await openDatabase(writable.database, owner);
  });
  try {
    await forgetGone(database);
    await writable.stages.open();
    // A store with nothing in it has nothing to sweep.
    if (!database.isEmpty()) await writable.reserve();
    return new DiskStore(writable, database);
  } catch (error) {
    database.close();
    throw error;
  }
}

async function forgetGone(database: StoreDatabase): Promise<void> {
  const gone = await goneOwners(database);
  try {
    if (gone.length > 0) database.purge(gone);
  } catch (error) {
    // A full disk keeps nobody from reading, and a sweep comes by here too.
    if (asFlkError(error).code !== 'FLK_FILE_UNWRITABLE') throw error;
  }
}

/** Whether a store is there that this process may not write. */
async function isForbidden(places: Places): Promise<boolean> {
  for (const place of [places.store, places.state, places.database]) {
    const code = await access(place, constants.W_OK).then(() => undefined, systemCode);
    if (code === 'EROFS' || code === 'EACCES' || code === 'EPERM') return exists(places.database);
  }
  return false;
}

interface TextBatch {
  readonly texts: Map<StorePath, { readonly contents: string; readonly references: readonly StorePath[] }>;
  readonly written: Promise<ReadonlyMap<StorePath, PathInfo>>;
}

/** Trees that are hashed while others are read. */
const verifiedAtOnce = 4;

class DiskStore implements Store {
  readonly #places: Places;
  readonly #database: StoreDatabase;
  readonly #registrar: Registrar;
  /** Texts that wait for their turn to be written. */
  #batch: TextBatch | undefined;
  #lastBatch: Promise<void> = Promise.resolve();
  /** What the work at hand has locked: it may come by the same paths again, as when it adds a tree whose path it knew. */
  readonly #held = new AsyncLocalStorage<readonly StorePath[]>();

  constructor(places: Places, database: StoreDatabase) {
    this.#places = places;
    this.#database = database;
    this.#registrar = new Registrar(places, database, (paths) => this.valid(paths));
  }

  get root(): string {
    return this.#places.root;
  }

  get readOnly(): boolean {
    return this.#places.readOnly;
  }

  physical(path: StorePath): string {
    return this.#places.physical(path);
  }

  query(path: StorePath): PathInfo | undefined {
    // The store belongs to its user, who may have removed a path by hand: a record alone makes nothing valid. Looking is cheaper.
    return exists(this.physical(path)) ? this.#database.query(path) : undefined;
  }

  valid(paths: Iterable<StorePath>): ReadonlySet<StorePath> {
    const there = [...new Set(paths)].filter((path) => exists(this.physical(path)));
    return new Set(there.length === 0 ? [] : this.#database.recorded(there));
  }

  find(hashPart: string): PathInfo | undefined {
    const path = this.#database.pathWith(hashPart);
    return path && this.query(path);
  }

  closure(paths: Iterable<StorePath>): StorePath[] {
    const wanted = [...paths];
    const closure = this.#database.closure(wanted);
    const found = new Set(closure);
    for (const path of wanted) if (!found.has(path)) throw notValid(path);
    for (const path of closure) if (!exists(this.physical(path))) throw notValid(path);
    return closure;
  }

  async addTree(
    name: string,
    tree: Tree,
    options: { expected?: NarHash; references?: readonly StorePath[] } = {},
  ): Promise<PathInfo> {
    const references = sortedReferences(options.references ?? []);
    this.hold(references);
    if (options.expected) {
      const path = makeSourcePath(name, options.expected, references);
      this.hold([path]);
      const known = this.query(path);
      if (known) return known;
    }
    return walkMended(() => this.#addTree(name, tree, references, options.expected));
  }

  async #addTree(
    name: string,
    tree: Tree,
    references: readonly StorePath[],
    expected: NarHash | undefined,
  ): Promise<PathInfo> {
    // Where nothing can be written, the tree may still be there.
    const stage = this.readOnly ? undefined : await this.stage();
    try {
      const staged = join(stage?.path ?? '', 'tree');
      const hasher = new NarHasher();
      const writer = stage && restoreTree(staged);
      await tree.walk(writer ? tee(writer, hasher) : hasher).finally(() => writer?.close());
      const { narHash, narSize } = hasher.digest();
      if (expected !== undefined && narHash !== expected)
        throw new FlkError(
          'FLK_NAR_HASH_MISMATCH',
          `the tree for ${name} is not the one that was asked for`,
          {
            facts: { found: narHash, wanted: expected },
          },
        );
      const path = makeSourcePath(name, narHash, references);
      const ca = `fixed:r:sha256:${toNixBase32(digestOf(narHash))}`;
      return await this.#add({ info: computedHere({ path, narHash, narSize, references, ca }), staged });
    } finally {
      await stage?.dispose();
    }
  }

  async addText(name: string, contents: string, references: readonly StorePath[]): Promise<PathInfo> {
    const path = makeTextPath(name, contents, references);
    this.#batch ??= this.#openBatch();
    this.#batch.texts.set(path, { contents, references });
    return (await this.#batch.written).get(path)!;
  }

  /** Texts that are added while earlier ones are written go to the disk together: a graph has thousands, each sync takes its time. */
  #openBatch(): TextBatch {
    const texts: TextBatch['texts'] = new Map();
    const written = this.#lastBatch.then(() => {
      this.#batch = undefined;
      return this.#writeTexts(texts);
    });
    this.#lastBatch = written.then(
      () => {},
      () => {},
    );
    return { texts, written };
  }

  async #writeTexts(texts: TextBatch['texts']): Promise<ReadonlyMap<StorePath, PathInfo>> {
    this.hold([...texts].flatMap(([path, { references }]) => [path, ...references]));
    const infos = new Map<StorePath, PathInfo>();
    const entries: Entry[] = [];
    let stage: Stage | undefined;
    try {
      for (const [path, { contents, references }] of texts) {
        let info = this.query(path);
        if (!info) {
          const bytes = Buffer.from(contents);
          stage ??= await this.stage();
          const staged = join(stage.path, baseNameOf(path));
          sendFile(restoreTree(staged), bytes);
          const { narHash, narSize } = await hashTree({ walk: async (sink) => sendFile(sink, bytes) });
          const ca = `text:sha256:${toNixBase32(sha256(bytes))}`;
          info = computedHere({ path, narHash, narSize, references: sortedReferences(references), ca });
          entries.push({ info, staged });
        }
        infos.set(path, info);
      }
      // Without locks: a file takes another's place in one step, and whoever else writes this path writes the same bytes.
      if (entries.length > 0) await this.register(entries);
      return infos;
    } finally {
      await stage?.dispose();
    }
  }

  stage(): Promise<Stage> {
    return this.#places.stage();
  }

  async register(entries: readonly Entry[], options: { replace?: boolean } = {}): Promise<void> {
    this.#places.assertWritable();
    this.hold(entries.flatMap(({ info }) => [info.path, ...info.references]));
    if (entries.length > 0) await this.#registrar.put(entries, options.replace ?? false);
  }

  async withPathLocks<T>(
    paths: readonly StorePath[],
    work: () => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const held = this.#held.getStore() ?? [];
    const release = await this.lockPaths(paths, signal);
    try {
      return await this.#held.run([...held, ...paths], work);
    } finally {
      release();
    }
  }

  async lockPaths(paths: readonly StorePath[], signal?: AbortSignal): Promise<() => void> {
    // Nobody who may not write comes into another's way.
    if (this.readOnly) return () => {};
    const held = this.#held.getStore() ?? [];
    const needed = [...new Set(paths)].filter((path) => !held.includes(path));
    if (needed.length === 0) return () => {};
    const mark = await this.#places.mark();
    const locks: (() => void)[] = [];
    const release = (): void => {
      for (const unlock of locks.splice(0)) unlock();
    };
    try {
      // One order for everybody, so that no two processes wait for each other.
      for (const path of needed.sort(compareBytes)) {
        const place = join(this.#places.locks, hashPart(path));
        locks.push(await takeFileLock(place, { signal, mark }));
      }
      return release;
    } catch (error) {
      release();
      throw error;
    }
  }

  isLocked(path: StorePath): Promise<boolean> {
    return isFileLocked(join(this.#places.locks, hashPart(path)));
  }

  async verifyPath(path: StorePath, signal?: AbortSignal): Promise<void> {
    const info = this.query(path);
    if (!info) throw notValid(path);
    const { narHash } = await hashTree(this.tree(path), signal);
    if (narHash !== info.narHash)
      throw new FlkError('FLK_STORE_CORRUPT', `${path} is not what was put there`, {
        facts: { found: narHash, wanted: info.narHash },
      });
  }

  check(): StoreFaults {
    const records = this.#database.records();
    const valid = new Set(this.paths());
    const recorded = new Set(records.map(baseNameOf));
    return {
      database: this.#database.faults(),
      missing: records.filter((path) => !valid.has(path)).sort(compareBytes),
      orphans: readdirSync(this.#places.store)
        .filter((name) => !recorded.has(name))
        .sort(compareBytes),
    };
  }

  async *verify(
    paths: Iterable<StorePath> = this.paths(),
    signal?: AbortSignal,
  ): AsyncGenerator<{ readonly path: StorePath; readonly fault?: FlkError }> {
    const stopped = new AbortController();
    const both = AbortSignal.any([stopped.signal, ...(signal ? [signal] : [])]);
    const begun: Promise<{ readonly path: StorePath; readonly fault?: FlkError }>[] = [];
    const begin = (path: StorePath): void => {
      const verified = this.verifyPath(path, both).then(
        () => ({ path }),
        (error: unknown) => ({ path, fault: asFlkError(error) }),
      );
      begun.push(verified);
    };
    const waiting = paths[Symbol.iterator]();
    try {
      for (;;) {
        while (begun.length < verifiedAtOnce) {
          const next = waiting.next();
          if (next.done) break;
          begin(next.value);
        }
        const first = await begun.shift();
        if (!first) return;
        throwIfAborted(signal);
        yield first;
      }
    } finally {
      stopped.abort();
    }
  }

  async optimise(
    paths: readonly StorePath[] = this.paths(),
    { progress, signal }: { progress?: (done: number, total: number) => void; signal?: AbortSignal } = {},
  ): Promise<Saved> {
    this.#places.assertWritable();
    this.hold(paths);
    await makeFolder(this.#places.links);
    const stage = await this.stage();
    try {
      const optimiser = new Optimiser(new LinkFolder(this.#places.links), stage.path, signal);
      for (const [index, path] of paths.entries()) {
        // Somebody who repairs it would put another tree there.
        await this.withPathLocks(
          [path],
          async () => {
            if (this.query(path)) await optimiser.tree(this.physical(path));
          },
          signal,
        );
        progress?.(index + 1, paths.length);
      }
      return optimiser.saved;
    } finally {
      await stage.dispose();
    }
  }

  tree(path: StorePath): Tree {
    return walkPath(this.physical(path));
  }

  paths(): StorePath[] {
    return this.#database.paths().filter((path) => exists(this.physical(path)));
  }

  referrers(path: StorePath): StorePath[] {
    return this.#database.referrers(path);
  }

  hold(paths: Iterable<StorePath>): void {
    this.#database.hold([...paths]);
  }

  async heldByOthers(): Promise<readonly { readonly pid: number; readonly path: StorePath }[]> {
    const held = this.#database.heldByOthers();
    const owners = [...new Set(held.map(({ owner }) => owner))];
    const running = await Promise.all(owners.map((owner) => isOwnerAlive(owner)));
    const alive = new Set(owners.filter((_, i) => running[i]));
    return held
      .filter(({ owner }) => alive.has(owner))
      .map(({ owner, path }) => ({ pid: Number.parseInt(owner, 10), path }));
  }

  addSignatures(path: StorePath, signatures: readonly string[]): void {
    this.#places.assertWritable();
    const info = this.query(path);
    if (!info) throw notValid(path);
    this.#database.record([
      { ...info, signatures: [...new Set([...info.signatures, ...signatures])].sort(compareBytes) },
    ]);
  }

  collect(signal?: AbortSignal): Promise<Collection> {
    return beginCollection(this.#places, this.#database, signal);
  }

  memo(key: string): string | undefined {
    return this.#database.memo(key);
  }

  setMemo(key: string, value: string, about?: StorePath): void {
    this.#database.setMemo(key, value, about);
  }

  async addIndirectRoot(link: string): Promise<void> {
    this.#places.assertWritable();
    const target = resolve(link);
    const folder = this.#places.indirectRoots;
    const place = join(folder, toNixBase32(sha256(target).subarray(0, 20)));
    await makeFolder(folder);
    const staged = `${place}.${process.pid}.${randomBytes(4).toString('hex')}`;
    try {
      await symlink(target, staged);
      await rename(staged, place);
    } catch (error) {
      throw unwritable(place, error);
    }
  }

  close(): void {
    this.#database.close();
    this.#places.close();
  }

  /** Registers one path, unless another process did so meanwhile. */
  #add(entry: Entry): Promise<PathInfo> {
    this.hold([entry.info.path]);
    return this.withPathLocks([entry.info.path], async () => {
      const known = this.query(entry.info.path);
      if (known) return known;
      await this.register([entry]);
      return entry.info;
    });
  }
}

const computedHere = (
  info: Pick<PathInfo, 'path' | 'narHash' | 'narSize' | 'references' | 'ca'>,
): PathInfo => ({ ...info, registrationTime: Math.floor(Date.now() / 1000), ultimate: true, signatures: [] });

const sortedReferences = (references: readonly StorePath[]): StorePath[] =>
  [...new Set(references)].sort(compareBytes);

function sendFile(sink: TreeSink, contents: Buffer): void {
  sink.file(contents.length, false);
  sink.data(contents);
  sink.endFile();
}
