/** Making paths valid: synced, moved to their places, recorded; for all that come at one time together. */
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { baseNameOf, type StorePath } from '../formats/store-path.ts';
import type { StoreDatabase } from './database.ts';
import type { PathInfo } from './path-info.ts';
import type { Places, Stage } from './places.ts';
import { moveTree } from './tree-files.ts';

/** What is to become valid: a canonical tree on the store's own file system, and its record. */
export interface Entry {
  readonly info: PathInfo;
  readonly staged: string;
}

/** Entries that become valid all or none. */
interface Request {
  readonly entries: readonly Entry[];
  readonly replace: boolean;
  readonly settle: (error?: unknown) => void;
}

/**
 * Each sync of a disk takes as long for one file as for many, and a build's outputs are small: what comes while earlier paths are
 * on their way waits, and then goes together. What fails in a request fails for no other one.
 */
export class Registrar {
  readonly #places: Places;
  readonly #database: StoreDatabase;
  readonly #valid: (paths: readonly StorePath[]) => ReadonlySet<StorePath>;
  #waiting: Request[] = [];
  #running = false;

  constructor(
    places: Places,
    database: StoreDatabase,
    valid: (paths: readonly StorePath[]) => ReadonlySet<StorePath>,
  ) {
    this.#places = places;
    this.#database = database;
    this.#valid = valid;
  }

  put(entries: readonly Entry[], replace: boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        entries,
        replace,
        settle: (error) => (error === undefined ? resolve() : reject(error)),
      });
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    while (this.#waiting.length > 0) {
      // Whoever calls in the same turn comes along.
      await Promise.resolve();
      const requests = this.#waiting;
      this.#waiting = [];
      await this.#together(requests).catch((error: unknown) => {
        for (const { settle } of requests) settle(error);
      });
    }
    this.#running = false;
  }

  async #together(requests: readonly Request[]): Promise<void> {
    const wanted = this.#missing(requests);
    if (wanted.length === 0) return;
    const all = wanted.flatMap(({ entries }) => entries);
    try {
      await this.#places.syncStaged(all.map(({ staged }) => staged));
    } catch (error) {
      if (wanted.length === 1) throw error;
      for (const { request } of wanted) await this.#together([request]).catch(request.settle);
      return;
    }
    const recorded = new Set(this.#database.recorded(all.map(({ info }) => info.path)));
    // Whoever writes the same without a lock may have been faster: what is valid by now must not cease to be, not even for a moment.
    const left = this.#missing(wanted.map(({ request }) => request));
    if (left.length === 0) return;
    const rest = left.flatMap(({ entries }) => entries);
    // A kill between a move and the record must not leave a valid record of other bytes.
    const suspended = rest.map(({ info }) => info.path).filter((path) => recorded.has(path));
    if (suspended.length > 0) this.#database.suspend(suspended);
    const trash = rest.some((entry) => this.#isInTheWay(entry)) ? await this.#places.stage() : undefined;
    try {
      const moved = left.filter(
        ({ request, entries }) =>
          this.#attempt(request, () => {
            for (const entry of entries) this.#move(entry, trash);
            return true;
          }) ?? false,
      );
      if (moved.length === 0) return;
      await this.#places.sync();
      this.#record(moved);
    } finally {
      await trash?.dispose();
    }
  }

  /** What is still to be made valid; requests of which nothing is are settled. */
  #missing(
    requests: readonly Request[],
  ): readonly { readonly request: Request; readonly entries: readonly Entry[] }[] {
    const valid = this.#valid(
      requests.flatMap(({ entries }) => entries.flatMap(({ info }) => [info.path, ...info.references])),
    );
    return requests.flatMap((request) => {
      const left = this.#attempt(request, () => missing(request, valid));
      if (left?.length === 0) request.settle();
      return left && left.length > 0 ? [{ request, entries: left }] : [];
    });
  }

  /** What lies at a place without a record was left by a kill; with one it is corrupt. A file simply goes over a file. */
  #isInTheWay({ info, staged }: Entry): boolean {
    const there = lstatSync(this.#places.physical(info.path), { throwIfNoEntry: false });
    if (!there) return false;
    return !(there.isFile() && lstatSync(staged, { throwIfNoEntry: false })?.isFile());
  }

  #move(entry: Entry, trash: Stage | undefined): void {
    const place = this.#places.physical(entry.info.path);
    if (trash && this.#isInTheWay(entry)) moveTree(place, join(trash.path, baseNameOf(entry.info.path)));
    moveTree(entry.staged, place);
  }

  #record(moved: readonly { readonly request: Request; readonly entries: readonly Entry[] }[]): void {
    const infosOf = (entries: readonly Entry[]): PathInfo[] => entries.map(({ info }) => info);
    try {
      this.#database.record(moved.flatMap(({ entries }) => infosOf(entries)));
      for (const { request } of moved) request.settle();
    } catch {
      for (const { request, entries } of moved)
        this.#attempt(request, () => {
          this.#database.record(infosOf(entries));
          request.settle();
        });
    }
  }

  #attempt<T>(request: Request, work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      request.settle(error);
      return undefined;
    }
  }
}

/** What of a request is not valid yet. Throws FLK_STORE_CORRUPT where it refers to what is not valid either. */
function missing({ entries, replace }: Request, valid: ReadonlySet<StorePath>): readonly Entry[] {
  const among = new Set(entries.map(({ info }) => info.path));
  for (const { info } of entries)
    for (const reference of info.references)
      if (!among.has(reference) && !valid.has(reference)) throw notValid(reference).within(info.path);
  return replace ? entries : entries.filter(({ info }) => !valid.has(info.path));
}

export function notValid(path: StorePath): FlkError {
  return new FlkError('FLK_STORE_CORRUPT', `${path} is needed but not valid in this store`);
}
