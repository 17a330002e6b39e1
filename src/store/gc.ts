/** Sweeping: what no root leads to is removed, and what kills left behind. */
import { readFileSync } from 'node:fs';
import { readdir, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted } from '../base/concurrency.ts';
import { systemCode } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import { unwritable } from '../base/files.ts';
import { parseDerivation } from '../formats/derivation.ts';
import { parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import type { Collection } from './collection.ts';
import { findRoots, type ReadLock, type Root } from './roots.ts';
import type { Store } from './store.ts';
import { sweepViews } from './views.ts';

/** What stays beside what is referred to; by Nix's names. */
export interface Keeping {
  /** The derivations of what is alive. */
  readonly keepDerivations: boolean;
  /** The outputs of derivations that are alive. */
  readonly keepOutputs: boolean;
}

export interface GarbageOptions extends Keeping {
  readonly readLock: ReadLock;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  /** Stop once so many bytes have been freed. */
  readonly maxFreed?: number;
  /** Remove nothing and tell what would be; the bytes are then those of NARs. */
  readonly dryRun?: boolean;
  /** Places of roots that count as gone, in a dry run before they are. */
  readonly without?: ReadonlySet<string>;
  /** Where the kernel tells of processes. */
  readonly proc?: string;
}

interface Removed {
  readonly path: StorePath;
  readonly bytes: number;
}

export interface Garbage {
  readonly removed: readonly Removed[];
  /** What lay in the store's folder without a record. */
  readonly orphans: readonly { readonly name: string; readonly bytes: number }[];
  /** Links in `auto` that led nowhere. */
  readonly staleRoots: readonly string[];
  /** How many logs went whose derivation is gone. */
  readonly logs: number;
  /** How many notes went: about paths that are gone, or old. */
  readonly memos: number;
  /** How many roots of namespaces went that nobody has used for a month. */
  readonly views: number;
  /** All that was set free. */
  readonly bytes: number;
  /** How many paths stay because of roots. */
  readonly alive: number;
  /** How many stay although no root leads to them: a running flk holds them, or enough was free. */
  readonly left: number;
  readonly roots: readonly Root[];
}

/** Paths that go in one transaction. */
const batchSize = 256;

/**
 * Removes every path that no root leads to, oldest first, and what else nobody needs. An error or the signal ends it between two
 * batches, and the store is whole. Throws FLK_ROOT_UNREADABLE, FLK_LOCK_BUSY while another process sweeps, FLK_INTERRUPTED.
 */
export async function collectGarbage(store: Store, options: GarbageOptions): Promise<Garbage> {
  if (options.dryRun) return await foresee(store, options);
  // First: what is held from here on stays, and what was let go of before has a root by now.
  const collection = await store.collect(options.signal);
  try {
    return await sweep(store, collection, options);
  } finally {
    await collection.end();
  }
}

async function foresee(store: Store, options: GarbageOptions): Promise<Garbage> {
  const { maxFreed = Number.POSITIVE_INFINITY } = options;
  const { dead, alive, roots, stale } = await findDead(store, options);
  const removed: Removed[] = [];
  let bytes = 0;
  for (const { path, narSize } of referrersFirst(dead)) {
    if (bytes >= maxFreed) break;
    removed.push({ path, bytes: narSize });
    bytes += narSize;
  }
  const left = dead.length - removed.length;
  return { removed, orphans: [], staleRoots: stale, logs: 0, memos: 0, views: 0, bytes, alive, left, roots };
}

async function sweep(store: Store, collection: Collection, options: GarbageOptions): Promise<Garbage> {
  const { reporter, signal, maxFreed = Number.POSITIVE_INFINITY } = options;
  const { dead, alive, roots, stale } = await findDead(store, options);
  for (const link of stale)
    await unlink(link).catch((error: unknown) => {
      if (systemCode(error) !== 'ENOENT') throw unwritable(link, error);
    });
  throwIfAborted(signal);
  const orphans = await collection.removeOrphans();
  let bytes = orphans.reduce((sum, orphan) => sum + orphan.bytes, 0);
  const removed: Removed[] = [];
  const total = dead.reduce((sum, { narSize }) => sum + narSize, 0);
  await span(reporter, { type: 'sweep', paths: dead.length }, async (sweeping) => {
    let passed = 0;
    for (const batch of batches(referrersFirst(dead), () => maxFreed - bytes)) {
      throwIfAborted(signal);
      const gone = await collection.remove(batch.map(({ path }) => path));
      for (const one of gone) {
        removed.push(one);
        bytes += one.bytes;
      }
      passed += batch.reduce((sum, { narSize }) => sum + narSize, 0);
      sweeping.progress(passed, total, 'bytes');
    }
    if (dead.length === 0) sweeping.cached();
  });
  const logs = await removeLogs(store);
  const memos = collection.removeMemos();
  const views = await sweepViews(store, roots, options.proc ?? '/proc');
  const left = dead.length - removed.length;
  return { removed, orphans, staleRoots: stale, logs, memos, views, bytes, alive, left, roots };
}

/** What is known of a path that may go. */
interface DeadPath {
  readonly path: StorePath;
  readonly narSize: number;
  readonly registrationTime: number;
  readonly references: readonly StorePath[];
}

async function findDead(
  store: Store,
  options: GarbageOptions,
): Promise<{
  readonly dead: readonly DeadPath[];
  readonly alive: number;
  readonly roots: readonly Root[];
  readonly stale: readonly string[];
}> {
  const { reporter, signal } = options;
  return await span(reporter, { type: 'find-roots', store: store.root }, async ({ progress }) => {
    const { roots: all, stale, unreadLocks } = await findRoots(store, options);
    const roots = all.filter(({ place }) => !options.without?.has(place));
    for (const path of unreadLocks) reporter.emit({ kind: 'notice', notice: { type: 'unread-lock', path } });
    throwIfAborted(signal);
    const live = livePaths(
      store,
      roots.map(({ path }) => path),
      options,
    );
    const dead: DeadPath[] = [];
    for (const path of store.paths()) {
      if (live.has(path)) continue;
      const info = store.query(path);
      if (info) dead.push(info);
    }
    progress(roots.length, roots.length, 'objects');
    return { dead, alive: live.size, roots, stale };
  });
}

/** The valid ones of these paths and what they keep, directly or not. */
function livePaths(store: Store, roots: Iterable<StorePath>, keeping: Keeping): Set<StorePath> {
  const reached = new Set(roots);
  // Grows while it is walked.
  for (const path of reached) {
    const kept = keptBy(store, path, keeping);
    if (kept) for (const next of kept) reached.add(next);
    else reached.delete(path);
  }
  return reached;
}

/** What stays as long as a path does; undefined where it is not valid. */
function keptBy(store: Store, path: StorePath, keeping: Keeping): readonly StorePath[] | undefined {
  const info = store.query(path);
  if (!info) return undefined;
  return [
    ...info.references,
    ...(keeping.keepDerivations && info.deriver !== undefined ? [info.deriver] : []),
    ...(keeping.keepOutputs ? outputsOf(store, path) : []),
  ];
}

/** What a derivation in the store makes; nothing for what is none. */
function outputsOf(store: Store, path: StorePath): readonly StorePath[] {
  if (!path.endsWith('.drv')) return [];
  try {
    const { outputs } = parseDerivation(readFileSync(store.physical(path), 'utf8'));
    return [...outputs.values()].map(({ path }) => path);
  } catch {
    // Damaged: nothing can be built with it either.
    return [];
  }
}

/** Why a path stays: a root, and the way from there. */
export interface Chain {
  readonly root: Root;
  /** From the path that the root names to the one that was asked for. */
  readonly paths: readonly StorePath[];
}

/** For every root that keeps `path` a shortest chain, the shortest first. */
export function chainsTo(
  store: Store,
  path: StorePath,
  roots: readonly Root[],
  keeping: Keeping,
): readonly Chain[] {
  if (!store.query(path)) return [];
  // Backwards from the path: who keeps it, who keeps those, … `next` leads the same way forwards.
  const next = new Map<StorePath, StorePath | undefined>([[path, undefined]]);
  const keepers = new Keepers(store, keeping);
  for (const [here] of next)
    for (const keeper of keepers.of(here)) if (!next.has(keeper)) next.set(keeper, here);
  const wayFrom = (start: StorePath): StorePath[] => {
    const way = [start];
    for (let at = next.get(start); at !== undefined; at = next.get(at)) way.push(at);
    return way;
  };
  return roots
    .filter((root) => next.has(root.path))
    .map((root) => ({ root, paths: wayFrom(root.path) }))
    .sort((a, b) => a.paths.length - b.paths.length);
}

/** `keptBy`, the other way round. */
class Keepers {
  readonly #store: Store;
  readonly #keeping: Keeping;
  /** Derivation → the valid paths that name it as their deriver. */
  #derived: Map<StorePath, StorePath[]> | undefined;
  /** Output → valid derivations that make it. */
  #makers: Map<StorePath, StorePath[]> | undefined;

  constructor(store: Store, keeping: Keeping) {
    this.#store = store;
    this.#keeping = keeping;
  }

  of(path: StorePath): readonly StorePath[] {
    const { keepDerivations, keepOutputs } = this.#keeping;
    const keepers = this.#store.referrers(path);
    if (keepDerivations && path.endsWith('.drv')) {
      this.#derived ??= this.#index((valid) => [this.#store.query(valid)?.deriver]);
      keepers.push(...(this.#derived.get(path) ?? []));
    }
    if (keepOutputs) {
      this.#makers ??= this.#index((valid) => outputsOf(this.#store, valid));
      keepers.push(...(this.#makers.get(path) ?? []));
    }
    return keepers;
  }

  #index(keysOf: (path: StorePath) => readonly (StorePath | undefined)[]): Map<StorePath, StorePath[]> {
    const index = new Map<StorePath, StorePath[]>();
    for (const path of this.#store.paths())
      for (const key of keysOf(path))
        if (key !== undefined) index.set(key, [...(index.get(key) ?? []), path]);
    return index;
  }
}

/** In an order in which each path comes after all that refer to it; otherwise by age. */
function referrersFirst(dead: readonly DeadPath[]): readonly DeadPath[] {
  const byPath = new Map(dead.map((info) => [info.path, info]));
  const referrers = new Map<StorePath, DeadPath[]>();
  for (const info of dead)
    for (const reference of info.references) {
      if (reference === info.path || !byPath.has(reference)) continue;
      const known = referrers.get(reference);
      if (known) known.push(info);
      else referrers.set(reference, [info]);
    }
  const ordered = new Set<DeadPath>();
  const oldestFirst = [...dead].sort((a, b) => a.registrationTime - b.registrationTime);
  for (const start of oldestFirst) {
    // Without recursion: chains are as long as a graph is deep.
    const open = [{ info: start, rest: (referrers.get(start.path) ?? []).values() }];
    const entered = new Set([start]);
    for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
      const { value } = top.rest.next();
      if (value === undefined) {
        ordered.add(top.info);
        open.pop();
      } else if (!ordered.has(value) && !entered.has(value)) {
        entered.add(value);
        open.push({ info: value, rest: (referrers.get(value.path) ?? []).values() });
      }
    }
  }
  return [...ordered];
}

/** Cuts the list so that no piece is far larger than what is still wanted. */
function* batches(paths: readonly DeadPath[], wanted: () => number): Generator<readonly DeadPath[]> {
  let batch: DeadPath[] = [];
  let size = 0;
  for (const info of paths) {
    if (wanted() <= 0) return;
    batch.push(info);
    size += info.narSize;
    if (batch.length < batchSize && size < wanted()) continue;
    yield batch;
    batch = [];
    size = 0;
  }
  if (batch.length > 0 && wanted() > 0) yield batch;
}

/** Removes the logs of derivations that are gone: `nix/var/log/flk/drvs/xx/REST.drv`, compressed or not. */
async function removeLogs(store: Store): Promise<number> {
  const top = join(store.root, 'nix/var/log/flk/drvs');
  let count = 0;
  for (const start of await readdir(top).catch(() => []))
    for (const name of await readdir(join(top, start)).catch(() => [])) {
      const drvPath = derivationOfLog(`${start}${name}`);
      if (drvPath === undefined || store.query(drvPath)) continue;
      const log = join(top, start, name);
      await rm(log, { force: true }).catch((error: unknown) => {
        throw unwritable(log, error);
      });
      count++;
    }
  return count;
}

function derivationOfLog(name: string): StorePath | undefined {
  try {
    return parseStorePath(`${storeDir}/${name.replace(/(\.drv)\.\w+$/, '$1')}`);
  } catch {
    return undefined;
  }
}
