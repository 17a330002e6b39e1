/** Sweeping a store: what nobody needs goes, record first, while others go on building. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import { isOwnerAlive, takeFileLock } from '../base/files.ts';
import { baseNameOf, type StorePath, storeDir } from '../formats/store-path.ts';
import type { StoreDatabase } from './database.ts';
import { LinkFolder } from './optimise.ts';
import { exists, type Places } from './places.ts';
import { bytePath, moveTree, onDisk, removeTree, shown } from './tree-files.ts';

/**
 * A sweep at work. Whatever is held at its beginning or later, by whichever process, stays, with all it refers to, even if the
 * process ends meanwhile: it may have left a root behind.
 */
export interface Collection {
  /**
   * Removes those of these paths that nobody holds and no path that stays refers to; their records go together, then their files.
   * Gives those that went and the bytes of disk that each set free.
   */
  remove(
    paths: readonly StorePath[],
  ): Promise<readonly { readonly path: StorePath; readonly bytes: number }[]>;
  /**
   * Removes what lies in the store's folder without a record and is held by nobody: kills leave such things. The files that
   * `optimise` linked and no path has any more go as one, `.links`.
   */
  removeOrphans(): Promise<readonly { readonly name: string; readonly bytes: number }[]>;
  /** Removes memos about paths that are gone, and what was noted long ago or is too much; gives how many went. */
  removeMemos(): number;
  /** Lets others sweep. */
  end(): Promise<void>;
}

/** Milliseconds that another sweep is waited for: long enough to take over the lock of one that was killed. */
const patience = 500;
/** Paths that are moved away in one transaction, while which nobody can begin to use a path: a few milliseconds. */
const batch = 100;
/** Memos that are about no path: what they say is found out again in a moment. */
const memos = { days: 30, most: 10_000 };

/** Throws FLK_LOCK_BUSY while somebody else sweeps, FLK_STORE_INVALID where the store is a real Nix's too. */
export async function beginCollection(
  places: Places,
  database: StoreDatabase,
  signal?: AbortSignal,
): Promise<Collection> {
  places.assertWritable();
  const foreign = join(places.root, 'nix/var/nix/db/db.sqlite');
  if (exists(foreign))
    throw new FlkError(
      'FLK_STORE_INVALID',
      `${places.root} is also the store of a Nix, which flk must not sweep`,
      {
        facts: { found: foreign },
        hint: 'choose another store with --store',
      },
    );
  // Whoever sweeps may do so because the disk is full.
  await places.release();
  const release = await takeFileLock(join(places.state, 'gc.lock'), { patience, signal });
  try {
    // Who is alive now may end before the next line, having left a root: it counts as alive.
    database.beginCollection(await goneOwners(database));
    const sweep = new Sweep(places, database, release, signal);
    sweep.forgetMissing();
    return sweep;
  } catch (error) {
    release();
    throw error;
  }
}

/** Those that hold paths or sweep but do not run any more. */
export async function goneOwners(database: StoreDatabase): Promise<string[]> {
  const gone: string[] = [];
  for (const owner of database.owners()) if (!(await isOwnerAlive(owner))) gone.push(owner);
  return gone;
}

class Sweep implements Collection {
  readonly #places: Places;
  readonly #database: StoreDatabase;
  readonly #release: () => void;
  readonly #signal: AbortSignal | undefined;
  readonly #links: LinkFolder;
  #ended = false;

  constructor(places: Places, database: StoreDatabase, release: () => void, signal: AbortSignal | undefined) {
    this.#places = places;
    this.#database = database;
    this.#release = release;
    this.#signal = signal;
    this.#links = new LinkFolder(places.links);
  }

  /** Records of what somebody removed by hand would keep alive what they refer to. */
  forgetMissing(): void {
    const valid = new Set(this.#database.paths());
    const lost = this.#database
      .records()
      .filter((path) => !valid.has(path) || !exists(this.#places.physical(path)));
    if (lost.length > 0) this.#database.removeUnneeded(lost);
  }

  async remove(
    paths: readonly StorePath[],
  ): Promise<readonly { readonly path: StorePath; readonly bytes: number }[]> {
    // From here on these are orphans: a kill leaves them to the next sweep.
    const removed = this.#database.removeUnneeded(paths);
    const bytes = await this.#clear(removed);
    return removed.flatMap((path) => {
      const freed = bytes.get(path);
      return freed === undefined ? [] : [{ path, bytes: freed }];
    });
  }

  async removeOrphans(): Promise<readonly { readonly name: string; readonly bytes: number }[]> {
    const recorded = new Set(this.#database.records().map(baseNameOf));
    // Byte paths: what is none of ours may have any name.
    const orphans = readdirSync(this.#places.store, 'latin1').filter((name) => !recorded.has(name));
    const bytes = await this.#clear(orphans.map((name) => `${storeDir}/${name}` as StorePath));
    const unused = this.#links.removeUnused();
    await this.#removeDeadLocks();
    return [
      ...[...bytes].map(([path, freed]) => ({ name: shown(baseNameOf(path)), bytes: freed })),
      ...(unused > 0 ? [{ name: '.links', bytes: unused }] : []),
    ];
  }

  /** To look at a lock of the dead is to remove it. */
  async #removeDeadLocks(): Promise<void> {
    for (const name of readdirSync(this.#places.locks))
      await takeFileLock(join(this.#places.locks, name), { patience: -1 }).then(
        (release) => release(),
        () => {},
      );
  }

  removeMemos(): number {
    return this.#database.removeMemos(Date.now() - memos.days * 86_400_000, memos.most);
  }

  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    try {
      this.#database.endCollection();
    } finally {
      this.#release();
      await this.#places.reserve();
    }
  }

  /** Removes what lies at the places of those that nobody has claimed meanwhile; gives what each set free. */
  async #clear(paths: readonly StorePath[]): Promise<Map<StorePath, number>> {
    const freed = new Map<StorePath, number>();
    const folder = bytePath(this.#places.store);
    for (let from = 0; from < paths.length; from += batch) {
      throwIfAborted(this.#signal);
      const stage = await this.#places.stage();
      try {
        const moved: StorePath[] = [];
        this.#database.withUnclaimed(paths.slice(from, from + batch), (unclaimed) => {
          for (const path of unclaimed) {
            const place = onDisk(`${folder}/${baseNameOf(path)}`);
            if (exists(place)) moveTree(place, join(stage.path, String(moved.length)));
            moved.push(path);
          }
        });
        for (const [index, path] of moved.entries()) {
          let bytes = 0;
          await removeTree(join(stage.path, String(index)), (info) => {
            // Another name of the same bytes keeps them.
            const isLast = info.nlink === 1 || (info.nlink === 2 && this.#links.drop(info));
            if (info.isDirectory() || isLast) bytes += info.blocks * 512;
          });
          freed.set(path, bytes);
        }
      } finally {
        await stage.dispose();
      }
    }
    return freed;
  }
}
