/** What binary caches have, and which of them is believed: asked in the order of their priorities, and each path once. */
import { limiter, OnceMap, throwIfAborted } from '../../base/concurrency.ts';
import { asFlkError, type ErrorCode, FlkError } from '../../base/errors.ts';
import type { Reporter } from '../../base/events.ts';
import { type ContentAddress, provenAddress } from '../../formats/content-address.ts';
import type { NarHash } from '../../formats/hash.ts';
import { fingerprint, type NarInfo } from '../../formats/narinfo.ts';
import { isSignedBy, type PublicKey } from '../../formats/signature.ts';
import type { StorePath } from '../../formats/store-path.ts';
import { wrongHash } from '../packed-nar.ts';
import type { CacheAnswers } from './answers.ts';
import type { BinaryCache } from './cache.ts';

/** A cache, and how far it is believed. */
export interface SubstituterCache {
  readonly cache: BinaryCache;
  /** Instead of what the cache says of itself; the lower number is asked first. */
  readonly priority?: number;
  /** Its paths are taken unsigned. */
  readonly trusted?: boolean;
}

export interface OffersOptions {
  /** Of equal priority: the first is asked first. */
  readonly caches: readonly SubstituterCache[];
  readonly publicKeys: readonly PublicKey[];
  /** Paths whose content is known beforehand: a cache that offers another one lies (FLK_NAR_HASH_MISMATCH). */
  readonly expected?: ReadonlyMap<StorePath, NarHash>;
  /** What caches on servers answered earlier. */
  readonly answers: CacheAnswers;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal | undefined;
}

/** Questions in flight. */
const maxQuestions = 64;
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
export interface Offer {
  readonly from: Asked;
  readonly info: NarInfo;
  /** Where the path's name follows from its content. */
  readonly address: ContentAddress | undefined;
}

/** One of the caches in this run. */
export interface Asked extends SubstituterCache {
  /** Why it is left alone from now on. */
  gone: FlkError | undefined;
  toldUntrusted: boolean;
}

export class Offers {
  readonly #options: OffersOptions;
  readonly #caches: readonly Asked[];
  readonly #question = limiter(maxQuestions);
  readonly #known = new OnceMap<StorePath, Offer | undefined>();
  readonly #untrusted = new Map<StorePath, string>();
  #ordered: Promise<readonly Asked[]> | undefined;

  constructor(options: OffersOptions) {
    this.#options = options;
    this.#caches = options.caches.map((cache) => ({ ...cache, gone: undefined, toldUntrusted: false }));
  }

  /** The first cache that has the path and may be believed. Throws where one lies and no other has it. */
  of(path: StorePath): Promise<Offer | undefined> {
    return this.#known.get(path, () => this.without(path, new Set()));
  }

  /** The same for what has to come from another cache than these. */
  async without(path: StorePath, others: ReadonlySet<Asked>): Promise<Offer | undefined> {
    let lie: unknown;
    for (const asked of await this.#inOrder()) {
      if (asked.gone || others.has(asked)) continue;
      try {
        // Who answers at once is not worth a place in the queue.
        const info = asked.cache.local
          ? await this.#narInfo(asked, path)
          : await this.#question(() => this.#narInfo(asked, path));
        const offer = info && this.#believed(asked, info);
        if (!offer) continue;
        const expected = this.#options.expected?.get(path);
        if (expected === undefined || offer.info.narHash === expected) return offer;
        throw wrongHash(`${path} is not the one that is wanted`, offer.info.narHash, expected);
      } catch (error) {
        if (isLie(error)) lie ??= fromCache(error, asked.cache, this.#options.expected?.has(path));
        else this.leave(asked, error);
      }
    }
    if (lie) throw lie;
    return undefined;
  }

  /** What a server says of the same bytes now, where what we know of it may be old. */
  async renewed({ from, info: { path, narHash } }: Offer): Promise<Offer | undefined> {
    if (from.cache.local) return undefined;
    const fresh = await this.#narInfo(from, path, true);
    return fresh?.narHash === narHash ? this.#believed(from, fresh) : undefined;
  }

  /** Who offered a path, but is not trusted. */
  untrusted(path: StorePath): string | undefined {
    return this.#untrusted.get(path);
  }

  /** Why a cache was left alone, if one was. */
  get gone(): FlkError | undefined {
    return this.#caches.find((asked) => asked.gone)?.gone;
  }

  get urls(): readonly string[] {
    return this.#caches.map(({ cache }) => cache.url);
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
      this.leave(asked, error);
      return Number.POSITIVE_INFINITY;
    }
  }

  async #narInfo({ cache, gone }: Asked, path: StorePath, fresh = false): Promise<NarInfo | undefined> {
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

  #believed(from: Asked, info: NarInfo): Offer | undefined {
    const address = provenAddress(info);
    if (!from.trusted && !address && !this.#isSigned(info)) {
      this.#distrust(from, info);
      return undefined;
    }
    return { from, info, address };
  }

  #isSigned(info: NarInfo): boolean {
    const text = fingerprint(info);
    return info.signatures.some((signature) => isSignedBy(text, signature, this.#options.publicKeys));
  }

  #distrust(asked: Asked, { path, signatures }: NarInfo): void {
    this.#untrusted.set(path, asked.cache.url);
    if (asked.toldUntrusted) return;
    asked.toldUntrusted = true;
    this.#options.reporter.emit({
      kind: 'notice',
      notice: { type: 'cache-untrusted', cache: asked.cache.url, path, signed: signatures.length > 0 },
    });
  }

  /** Leaves a cache alone that cannot be reached or is none; anything else that went wrong is thrown again. */
  leave(asked: Asked, thrown: unknown): void {
    const error = asFlkError(thrown);
    if (!unreachable.has(error.code) && !lies.has(error.code)) throw thrown;
    if (asked.gone) return;
    asked.gone = error;
    this.#options.reporter.emit({
      kind: 'notice',
      notice: { type: 'cache-unreachable', cache: asked.cache.url, reason: error.message },
    });
  }
}

export const isLie = (error: unknown): boolean => error instanceof FlkError && lies.has(error.code);

/** The same error, told of the cache that it is about. `pinned`: somebody wrote down what it should give. */
export function fromCache(thrown: unknown, cache: BinaryCache, pinned = false): FlkError {
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
