/** Taking paths from binary caches instead of making them. */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { limiter, OnceMap, throwIfAborted } from '../base/concurrency.ts';
import { asFlkError, type ErrorCode, FlkError } from '../base/errors.ts';
import { type Reporter, type Span, span } from '../base/events.ts';
import { decompress } from '../formats/archives/decompress.ts';
import { fileHasher, provenAddress } from '../formats/content-address.ts';
import { type NarHash, narHashOf } from '../formats/hash.ts';
import { NarParser } from '../formats/nar-parser.ts';
import { fingerprint, type NarInfo } from '../formats/narinfo.ts';
import { isSignedBy, type PublicKey } from '../formats/signature.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import { tee } from '../formats/tree-sinks.ts';
import type { CacheAnswers } from './caches/answers.ts';
import type { BinaryCache } from './caches/cache.ts';
import { type PathInfo, takenOver } from './path-info.ts';
import { SharedStage, type StagedPlace } from './shared-stage.ts';
import type { Store } from './store.ts';
import { restoreTree } from './tree-files.ts';

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

/** A cache, and how far it is believed. */
export interface SubstituterCache {
  readonly cache: BinaryCache;
  /** Instead of what the cache says of itself; the lower number is asked first. */
  readonly priority?: number;
  /** Its paths are taken unsigned. */
  readonly trusted?: boolean;
}

/** As much of a store as substituting needs. */
export type SubstitutedStore = Pick<Store, 'query' | 'hold' | 'stage' | 'register' | 'withPathLocks'>;

export interface SubstituterOptions {
  readonly store: SubstitutedStore;
  /** Of equal priority: the first is asked first. */
  readonly caches: readonly SubstituterCache[];
  readonly publicKeys: readonly PublicKey[];
  /** Paths whose content is known beforehand: a cache that offers another one lies (FLK_NAR_HASH_MISMATCH). */
  readonly expected?: ReadonlyMap<StorePath, NarHash>;
  /** What caches on servers answered earlier. */
  readonly answers: CacheAnswers;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal | undefined;
  /** Archives that are fetched at once. Default 16, as Nix's `max-substitution-jobs`. */
  readonly downloads?: number;
}

/** Questions in flight. */
const maxQuestions = 64;
/** Paths in one closure; no honest one has as many. */
const maxClosure = 200_000;
const defaultDownloads = 16;

/** Ways in which a cache is out of reach, which is nobody's lie. */
const unreachable: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'FLK_NETWORK',
  'FLK_HTTP_STATUS',
  'FLK_HTTP_AUTH',
  'FLK_HTTP_RATE_LIMIT',
  'FLK_OFFLINE',
  'FLK_FILE_UNREADABLE',
]);
/** Ways in which a cache gives something else than it should. */
const lies: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'FLK_CACHE_INVALID',
  'FLK_NAR_HASH_MISMATCH',
  'FLK_NAR_INVALID',
  'FLK_ARCHIVE_INVALID',
  'FLK_LIMIT',
]);

/** A cache that offers a path, and is believed. */
interface Offer {
  readonly from: Asked;
  readonly info: NarInfo;
}

/** One of the caches in this run. */
interface Asked extends SubstituterCache {
  /** Why it is left alone from now on. */
  gone: FlkError | undefined;
  toldUntrusted: boolean;
}

export function openSubstituter(options: SubstituterOptions): CacheSubstituter {
  return new ParallelSubstituter(options);
}

class ParallelSubstituter implements CacheSubstituter {
  readonly #options: SubstituterOptions;
  readonly #caches: readonly Asked[];
  readonly #question = limiter(maxQuestions);
  readonly #download;
  readonly #offers = new OnceMap<StorePath, Offer | undefined>();
  readonly #fetched = new OnceMap<StorePath, boolean>();
  /** Paths that were offered, but by nobody who is trusted; and by whom. */
  readonly #untrusted = new Map<StorePath, string>();
  /** The first path of a closure that no cache has. */
  readonly #missing = new Map<StorePath, StorePath>();
  readonly #stage: SharedStage;
  #ordered: Promise<readonly Asked[]> | undefined;

  constructor(options: SubstituterOptions) {
    this.#stage = new SharedStage(options.store);
    this.#options = options;
    this.#caches = options.caches.map((cache) => ({ ...cache, gone: undefined, toldUntrusted: false }));
    this.#download = limiter(Math.max(1, options.downloads ?? defaultDownloads));
  }

  async offers(paths: readonly StorePath[]): Promise<ReadonlyMap<StorePath, OfferedPath>> {
    const found = await Promise.all(
      [...new Set(paths)].map(async (path) => {
        const offer = await this.#offer(path).catch(ignoreLies);
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
    if (store.query(path)) return true;
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
    const untrusted = this.#untrusted.get(missing);
    if (untrusted !== undefined)
      throw new FlkError('FLK_CACHE_UNTRUSTED', `no key that you trust has signed ${missing}`, {
        facts: { cache: untrusted },
        trail,
      });
    const [gone] = this.#caches.flatMap((asked) => asked.gone ?? []);
    if (gone) throw gone;
    throw new FlkError('FLK_CACHE_MISSING', `no cache has ${missing}`, {
      facts: { caches: this.#caches.map(({ cache }) => cache.url).join(' ') || 'none' },
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
      const missing = level.filter((path) => store.query(path) === undefined);
      const offers = await Promise.all(missing.map((path) => this.#offer(path)));
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

  /** The caches by priority; those that cannot say theirs are left out. */
  #inOrder(): Promise<readonly Asked[]> {
    this.#ordered ??= Promise.all(
      this.#caches.map(async (asked) => ({ asked, priority: await this.#priority(asked) })),
    ).then((caches) => caches.sort((a, b) => a.priority - b.priority).map(({ asked }) => asked));
    return this.#ordered;
  }

  async #priority(asked: Asked): Promise<number> {
    const { answers } = this.#options;
    const { cache, priority } = asked;
    const known = cache.local ? undefined : answers.info(cache.url);
    if (known) return priority ?? known.priority;
    try {
      const info = await cache.info();
      if (!cache.local) answers.setInfo(cache.url, info);
      return priority ?? info.priority;
    } catch (error) {
      this.#leave(asked, error);
      return Number.POSITIVE_INFINITY;
    }
  }

  /** The first cache that has the path and may be believed. Throws where one lies and no other has it. */
  #offer(path: StorePath): Promise<Offer | undefined> {
    return this.#offers.get(path, () => this.#ask(path, new Set()));
  }

  async #ask(path: StorePath, without: ReadonlySet<Asked>, fresh = false): Promise<Offer | undefined> {
    let lie: unknown;
    for (const asked of await this.#inOrder()) {
      if (asked.gone || without.has(asked)) continue;
      try {
        const info = await this.#question(() => this.#narInfo(asked, path, fresh));
        if (!info || !this.#isTrusted(asked, info)) continue;
        const expected = this.#options.expected?.get(path);
        if (expected === undefined || info.narHash === expected) return { from: asked, info };
        throw wrongHash(`${path} is not the one that is wanted`, info.narHash, expected);
      } catch (error) {
        if (isLie(error)) lie ??= fromCache(error, asked.cache, this.#options.expected?.has(path));
        else this.#leave(asked, error);
      }
    }
    if (lie) throw lie;
    return undefined;
  }

  async #narInfo({ cache, gone }: Asked, path: StorePath, fresh: boolean): Promise<NarInfo | undefined> {
    if (gone) return undefined;
    throwIfAborted(this.#options.signal);
    if (cache.local) return await cache.narInfo(path);
    const { answers } = this.#options;
    const known = fresh ? undefined : answers.narInfo(cache.url, path);
    if (known !== undefined) return known ?? undefined;
    const info = await cache.narInfo(path);
    answers.setNarInfo(cache.url, path, info ?? null);
    return info;
  }

  #isTrusted(asked: Asked, info: NarInfo): boolean {
    if (asked.trusted || provenAddress(info)) return true;
    const text = fingerprint(info);
    if (info.signatures.some((signature) => isSignedBy(text, signature, this.#options.publicKeys)))
      return true;
    this.#untrusted.set(info.path, asked.cache.url);
    if (!asked.toldUntrusted) {
      asked.toldUntrusted = true;
      const { path, signatures } = info;
      this.#options.reporter.emit({
        kind: 'notice',
        notice: { type: 'cache-untrusted', cache: asked.cache.url, path, signed: signatures.length > 0 },
      });
    }
    return false;
  }

  /** Leaves a cache alone that cannot be reached or is none; anything else that went wrong is thrown again. */
  #leave(asked: Asked, thrown: unknown): void {
    const error = asFlkError(thrown);
    if (!unreachable.has(error.code) && !lies.has(error.code)) throw thrown;
    if (asked.gone) return;
    asked.gone = error;
    this.#options.reporter.emit({
      kind: 'notice',
      notice: { type: 'cache-unreachable', cache: asked.cache.url, reason: error.message },
    });
  }

  /** Makes one path valid, once its references are. False: no cache that could be reached has it. */
  #fetch(path: StorePath): Promise<boolean> {
    return this.#fetched.get(path, async () => {
      const { store } = this.#options;
      const taken = await this.#takeLocked(path);
      if (!taken) return store.query(path) !== undefined;
      try {
        // No lock is held while waiting, and no place in the queue: who builds one of these may hold its locks.
        const valid = await Promise.all(referencesOf(taken).map((reference) => this.#fetch(reference)));
        if (!valid.every(Boolean)) return false;
        await locked(store, [path], this.#options.signal, () => this.#register(taken));
        return true;
      } finally {
        await taken.place.free();
      }
    });
  }

  /**
   * One download at a time of a path, in all processes. Where all that it refers to is valid, it is made so under the same lock.
   * Undefined where it is valid by then, or no cache has it.
   */
  async #takeLocked(path: StorePath): Promise<Taken | undefined> {
    const { store, signal } = this.#options;
    let begun: Promise<Taken | undefined> | undefined;
    await this.#download(
      () =>
        new Promise<void>((downloaded) => {
          begun = locked(store, [path], signal, async () => {
            throwIfAborted(signal);
            if (store.query(path)) return undefined;
            const taken = await this.#take(path);
            // The next one need not wait for this one's way to the disk.
            downloaded();
            if (!taken || referencesOf(taken).some((reference) => !store.query(reference))) return taken;
            try {
              await this.#register(taken);
            } finally {
              await taken.place.free();
            }
            return undefined;
          }).finally(downloaded);
          begun.catch(() => {});
        }),
    );
    return await begun;
  }

  #register({ info, place }: Taken): Promise<void> {
    return this.#options.store.register([{ info: recordOf(info), staged: place.path }]);
  }

  /** From the first cache that gives what it promised. */
  async #take(path: StorePath): Promise<Taken | undefined> {
    const first = await this.#offer(path);
    const tried = new Set<Asked>();
    let lie: unknown;
    for (let offer = first; offer; offer = await this.#ask(path, tried)) {
      tried.add(offer.from);
      // What else it refers to was not looked for.
      if (offer.info.references.join() !== first?.info.references.join()) continue;
      const place = await this.#stage.place();
      try {
        return { info: await this.#unpack(offer, place.path), place };
      } catch (error) {
        await place.free();
        if (isLie(error)) lie ??= fromCache(error, offer.from.cache);
        else this.#leave(offer.from, error);
      }
    }
    if (lie) throw lie;
    return undefined;
  }

  /** Fetches, unpacks and checks one archive, all in one go; gives what the cache says of it now. */
  #unpack({ from, info }: Offer, place: string): Promise<NarInfo> {
    const { reporter, signal } = this.#options;
    return span(reporter, { type: 'fetch', subject: nameOf(info.path) }, async (watched) => {
      let current = info;
      let packed = await from.cache.nar(info);
      if (!packed && !from.cache.local) {
        // What we know of the cache may be old.
        const fresh = await this.#narInfo(from, info.path, true);
        if (fresh && fresh.narHash === info.narHash && this.#isTrusted(from, fresh)) {
          current = fresh;
          packed = await from.cache.nar(fresh);
        }
      }
      if (!packed)
        throw new FlkError(
          'FLK_CACHE_INVALID',
          `${info.url} is not there, but the narinfo of ${info.path} is`,
        );
      await unpack(current, packed, place, watched, signal);
      return current;
    });
  }
}

/** A tree that is staged, and what its record will say. */
interface Taken {
  readonly info: NarInfo;
  readonly place: StagedPlace;
}

/** Without itself. */
const referencesOf = ({ info }: Taken): StorePath[] =>
  info.references.filter((reference) => reference !== info.path);

/**
 * Writes what is in an archive to a place, in one pass and without holding it. Throws FLK_CACHE_INVALID, FLK_NAR_HASH_MISMATCH and
 * what decompressing and parsing throw, as soon as it is clear that the archive is not what was promised.
 */
async function unpack(
  info: NarInfo,
  packed: AsyncIterable<Buffer>,
  place: string,
  watched: Span,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { path, url, fileSize, fileHash, narSize, narHash } = info;
  // An archive that is not packed is hashed once.
  const hashesFile = fileHash !== undefined && !(info.compression === 'none' && fileHash === narHash);
  const outer = { hash: createHash('sha256'), size: 0 };
  const inner = { hash: createHash('sha256'), size: 0 };
  async function* count(): AsyncGenerator<Buffer> {
    for await (const chunk of packed) {
      outer.size += chunk.length;
      if (fileSize !== undefined && outer.size > fileSize)
        throw wrongSize(url, `more than ${fileSize}`, fileSize);
      if (hashesFile) outer.hash.update(chunk);
      watched.progress(outer.size, fileSize, 'bytes');
      yield chunk;
    }
  }
  const writer = restoreTree(place);
  const address = provenAddress(info);
  const file = address?.of === 'file' ? fileHasher() : undefined;
  const parser = new NarParser(file ? tee(writer, file) : writer);
  const packedBytes = count();
  const source = info.compression === 'none' ? undefined : Readable.from(packedBytes);
  try {
    for await (const chunk of source ? decompress(source, info.compression) : packedBytes) {
      throwIfAborted(signal);
      inner.size += chunk.length;
      if (inner.size > narSize) throw wrongSize(`the NAR in ${url}`, `more than ${narSize}`, narSize);
      inner.hash.update(chunk);
      parser.push(chunk);
    }
  } finally {
    writer.close();
    source?.destroy();
  }
  if (inner.size !== narSize) throw wrongSize(`the NAR in ${url}`, String(inner.size), narSize);
  parser.end();
  const found = narHashOf(inner.hash.digest());
  if (found !== narHash) throw wrongHash(`${path} is not what its narinfo promises`, found, narHash);
  if (fileSize !== undefined && outer.size !== fileSize) throw wrongSize(url, String(outer.size), fileSize);
  if (hashesFile && narHashOf(outer.hash.digest()) !== fileHash)
    throw new FlkError('FLK_CACHE_INVALID', `${url} does not have the FileHash that its narinfo promises`);
  // The path follows from this hash, not from the NAR's, which anybody may claim.
  const content = address?.of === 'nar' ? found : file?.digest();
  if (address && content !== address.hash)
    throw wrongHash(`${path} is not what its name promises`, content ?? 'not one plain file', address.hash);
}

function recordOf(info: NarInfo): PathInfo {
  return takenOver(info, provenAddress(info) ? info.ca : undefined);
}

/** Holds the paths' locks, however long another process has them. */
async function locked<T>(
  store: SubstitutedStore,
  paths: readonly StorePath[],
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  for (;;) {
    let begun = false;
    const once = (): Promise<T> => {
      begun = true;
      return work();
    };
    try {
      return await store.withPathLocks(paths, once, signal);
    } catch (error) {
      if (begun || !(error instanceof FlkError) || error.code !== 'FLK_LOCK_BUSY') throw error;
      throwIfAborted(signal);
    }
  }
}

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

const isLie = (error: unknown): boolean => error instanceof FlkError && lies.has(error.code);

function ignoreLies(error: unknown): undefined {
  if (!isLie(error)) throw error;
}

/** The same error, told of the cache that it is about. `pinned`: somebody wrote down what it should give. */
function fromCache(thrown: unknown, cache: BinaryCache, pinned = false): FlkError {
  const { code, message, facts, trail } = asFlkError(thrown);
  return new FlkError(code, message, {
    facts: { ...facts, cache: cache.url },
    trail,
    hint: pinned
      ? 'compare narHash in the manifest with what its author told, or take another cache'
      : 'do without this cache until it is mended: --no-substitute builds instead',
    cause: thrown,
  });
}

const wrongSize = (what: string, found: string, wanted: number): FlkError =>
  new FlkError('FLK_CACHE_INVALID', `${what} has another size than its narinfo promises`, {
    facts: { found: `${found} bytes`, wanted: `${wanted} bytes` },
  });

const wrongHash = (what: string, found: string, wanted: string): FlkError =>
  new FlkError('FLK_NAR_HASH_MISMATCH', what, { facts: { found, wanted } });
