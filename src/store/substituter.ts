/** Taking paths from binary caches instead of making them. */
import { limiter, OnceMap, throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import { span } from '../base/events.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import { type Asked, fromCache, isLie, type Offer, Offers, type OffersOptions } from './caches/offers.ts';
import { unpackNar } from './packed-nar.ts';
import { takenOver } from './path-info.ts';
import { SharedStage, type StagedPlace } from './shared-stage.ts';
import type { Store } from './store.ts';

/** What a cache tells of a path that it has. */
export interface OfferedPath {
  /** The cache's. */
  readonly url: string;
  /** Bytes of the archive as it is sent; 0 where that is not told. */
  readonly fileSize: number;
  readonly narSize: number;
  /** Without itself. */
  readonly references: readonly StorePath[];
}

export interface Substituter {
  /**
   * Which of these paths some cache offers under a signature that is trusted, without fetching any. Caches that cannot be reached are
   * told once as a notice and then left alone.
   */
  offers(paths: readonly StorePath[]): Promise<ReadonlyMap<StorePath, OfferedPath>>;
  /**
   * Makes a path and all that it refers to valid. False: no cache has all of it, and what can be built should be. Paths are held and
   * locked by itself. Throws where a cache lies (FLK_NAR_HASH_MISMATCH, FLK_CACHE_…) and no other cache has the path.
   */
  substitute(path: StorePath): Promise<boolean>;
}

/** A substituter for those who cannot build instead. */
export interface CacheSubstituter extends Substituter {
  /** As `substitute`; where that gives false, throws why: FLK_CACHE_MISSING, FLK_CACHE_UNTRUSTED, or what keeps from a cache. */
  require(path: StorePath): Promise<void>;
}

/** As much of a store as substituting needs. */
export type SubstitutedStore = Pick<Store, 'valid' | 'hold' | 'stage' | 'register' | 'lockPaths'>;

export interface SubstituterOptions extends OffersOptions {
  readonly store: SubstitutedStore;
  /** Archives that are fetched at once. Default 16, as Nix's `max-substitution-jobs`. */
  readonly downloads?: number;
}

/** Paths in one closure; no honest one has as many. */
const maxClosure = 200_000;
const defaultDownloads = 16;

export function openSubstituter(options: SubstituterOptions): CacheSubstituter {
  return new ParallelSubstituter(options);
}

class ParallelSubstituter implements CacheSubstituter {
  readonly #options: SubstituterOptions;
  readonly #offers: Offers;
  readonly #download;
  readonly #fetched = new OnceMap<StorePath, boolean>();
  /** The first path of a closure that no cache has. */
  readonly #missing = new Map<StorePath, StorePath>();
  readonly #stage: SharedStage;

  constructor(options: SubstituterOptions) {
    this.#stage = new SharedStage(options.store);
    this.#options = options;
    this.#offers = new Offers(options);
    this.#download = limiter(Math.max(1, options.downloads ?? defaultDownloads));
  }

  async offers(paths: readonly StorePath[]): Promise<ReadonlyMap<StorePath, OfferedPath>> {
    const found = await Promise.all(
      [...new Set(paths)].map(async (path) => {
        const offer = await this.#offers.of(path).catch(ignoreLies);
        if (!offer) return [];
        const { fileSize = 0, narSize } = offer.info;
        const references = offer.info.references.filter((reference) => reference !== path);
        return [[path, { url: offer.from.cache.url, fileSize, narSize, references }] as const];
      }),
    );
    return new Map(found.flat());
  }

  async substitute(path: StorePath): Promise<boolean> {
    const { store } = this.#options;
    store.hold([path]);
    if (isValid(store, path)) return true;
    const closure = await this.#closure(path);
    if (!closure) return false;
    // Leaves first, so that what is done can become valid at once.
    const results = await Promise.allSettled(closure.map((one) => this.#fetch(one)));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return results.every((result) => result.status === 'fulfilled' && result.value);
  }

  async require(path: StorePath): Promise<void> {
    if (await this.substitute(path)) return;
    const missing = this.#missing.get(path) ?? path;
    const trail = missing === path ? [] : [path];
    const untrusted = this.#offers.untrusted(missing);
    if (untrusted !== undefined)
      throw new FlkError('FLK_CACHE_UNTRUSTED', `no key that you trust has signed ${missing}`, {
        facts: { cache: untrusted },
        trail,
      });
    const { gone, urls } = this.#offers;
    if (gone) throw gone;
    throw new FlkError('FLK_CACHE_MISSING', `no cache has ${missing}`, {
      facts: { caches: urls.join(' ') || 'none' },
      trail,
    });
  }

  /** What is missing of a path's closure, each after all that it refers to; undefined where no cache has a part of it. */
  async #closure(top: StorePath): Promise<StorePath[] | undefined> {
    const { store, signal } = this.#options;
    const references = new Map<StorePath, readonly StorePath[]>();
    let complete = true;
    for (let level = [top]; level.length > 0 && complete; ) {
      throwIfAborted(signal);
      store.hold(level);
      const valid = store.valid(level);
      const missing = level.filter((path) => !valid.has(path));
      const offers = await Promise.all(missing.map((path) => this.#offers.of(path)));
      const next = new Set<StorePath>();
      for (const [i, path] of missing.entries()) {
        const offer = offers[i];
        if (!offer) this.#missing.set(top, path);
        complete &&= offer !== undefined;
        const others = (offer?.info.references ?? []).filter((reference) => reference !== path);
        references.set(path, others);
        for (const reference of others) if (!references.has(reference)) next.add(reference);
      }
      if (references.size > maxClosure)
        throw new FlkError('FLK_LIMIT', `the closure of ${top} has more than ${maxClosure} paths`);
      level = [...next].filter((path) => !references.has(path));
    }
    return complete ? leavesFirst(top, references) : undefined;
  }

  /** Makes one path valid, once its references are. False: no cache that could be reached has it. */
  #fetch(path: StorePath): Promise<boolean> {
    return this.#fetched.get(path, async () => {
      const taken = await this.#takeLocked(path);
      if (typeof taken === 'boolean') return taken;
      try {
        // No lock is held while waiting, and no place in the queue: who builds one of these may hold its locks.
        const valid = await Promise.all(referencesOf(taken).map((reference) => this.#fetch(reference)));
        if (!valid.every(Boolean)) return false;
        const unlock = await this.#lock(path);
        await this.#register(taken).finally(unlock);
        return true;
      } finally {
        await taken.place.free();
      }
    });
  }

  /**
   * One download at a time of a path, in all processes. Where all that it refers to is valid, it is made so under the same lock.
   * True: it is valid by then; false: no cache has it.
   */
  async #takeLocked(path: StorePath): Promise<Taken | boolean> {
    const { store, signal } = this.#options;
    let unlock: (() => void) | undefined;
    try {
      const taken = await this.#download(async () => {
        unlock = await this.#lock(path);
        throwIfAborted(signal);
        return isValid(store, path) || ((await this.#take(path)) ?? false);
      });
      if (typeof taken === 'boolean') return taken;
      // The next one need not wait for this one's way to the disk.
      const references = referencesOf(taken);
      if (store.valid(references).size < references.length) return taken;
      await this.#register(taken).finally(() => taken.place.free());
      return true;
    } finally {
      unlock?.();
    }
  }

  /** However long another process has the path's lock. */
  async #lock(path: StorePath): Promise<() => void> {
    const { store, signal } = this.#options;
    for (;;) {
      try {
        return await store.lockPaths([path], signal);
      } catch (error) {
        if (!(error instanceof FlkError) || error.code !== 'FLK_LOCK_BUSY') throw error;
        throwIfAborted(signal);
      }
    }
  }

  #register({ offer: { info, address }, place }: Taken): Promise<void> {
    const record = takenOver(info, address && info.ca);
    return this.#options.store.register([{ info: record, staged: place.path }]);
  }

  /** From the first cache that gives what it promised. */
  async #take(path: StorePath): Promise<Taken | undefined> {
    const first = await this.#offers.of(path);
    const tried = new Set<Asked>();
    let lie: unknown;
    for (let offer = first; offer; offer = await this.#offers.without(path, tried)) {
      tried.add(offer.from);
      // What else it refers to was not looked for.
      if (offer.info.references.join() !== first?.info.references.join()) continue;
      const place = await this.#stage.place(offer.info.narSize);
      try {
        return { offer: await this.#unpack(offer, place), place };
      } catch (error) {
        await place.free();
        if (isLie(error)) lie ??= fromCache(error, offer.from.cache);
        else this.#offers.leave(offer.from, error);
      }
    }
    if (lie) throw lie;
    return undefined;
  }

  /** Fetches, unpacks and checks one archive, all in one go; gives what the cache says of it now. */
  #unpack(offer: Offer, place: StagedPlace): Promise<Offer> {
    const { reporter, signal } = this.#options;
    const { from, info } = offer;
    return span(reporter, { type: 'fetch', subject: nameOf(info.path) }, async (watched) => {
      let current: Offer | undefined = offer;
      let packed = await from.cache.nar(info);
      if (!packed) {
        current = await this.#offers.renewed(offer);
        packed = current && (await from.cache.nar(current.info));
      }
      if (!current || !packed)
        throw new FlkError(
          'FLK_CACHE_INVALID',
          `${info.url} is not there, but the narinfo of ${info.path} is`,
        );
      const { address } = current;
      await unpackNar(current.info, packed, place.path, { address, wrote: place.wrote, watched, signal });
      return current;
    });
  }
}

/** A tree that is staged, and what was said of it. */
interface Taken {
  readonly offer: Offer;
  readonly place: StagedPlace;
}

const isValid = (store: SubstitutedStore, path: StorePath): boolean => store.valid([path]).has(path);

/** Without itself. */
const referencesOf = ({ offer: { info } }: Taken): StorePath[] =>
  info.references.filter((reference) => reference !== info.path);

/** Every path after all that it refers to. A circle is FLK_CACHE_INVALID: no store holds one, and nothing could ever become valid. */
function leavesFirst(top: StorePath, references: ReadonlyMap<StorePath, readonly StorePath[]>): StorePath[] {
  const done = new Set<StorePath>();
  const open = new Set<StorePath>();
  const stack: { readonly path: StorePath; next: number }[] = [];
  const enter = (path: StorePath): void => {
    if (done.has(path) || !references.has(path)) return;
    if (open.has(path)) throw new FlkError('FLK_CACHE_INVALID', `${path} refers to itself by way of others`);
    open.add(path);
    stack.push({ path, next: 0 });
  };
  enter(top);
  for (let here = stack.at(-1); here; here = stack.at(-1)) {
    const reference = references.get(here.path)?.[here.next++];
    if (reference !== undefined) enter(reference);
    else {
      stack.pop();
      open.delete(here.path);
      done.add(here.path);
    }
  }
  return [...done];
}

function ignoreLies(error: unknown): undefined {
  if (!isLie(error)) throw error;
}
