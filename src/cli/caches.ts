/** Binary caches as the command line means them: by address, with what a person has set. */
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import type { NarHash } from '../formats/hash.ts';
import type { PublicKey } from '../formats/signature.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { CacheAnswers } from '../store/caches/answers.ts';
import { type BinaryCache, type CacheAddress, parseCacheAddress } from '../store/caches/cache.ts';
import type { SubstituterCache } from '../store/caches/offers.ts';
import type { S3Place } from '../store/caches/s3-address.ts';
import type { Store } from '../store/store.ts';
import type { CacheSubstituter, SubstitutedStore, Substituter } from '../store/substituter.ts';
import type { Flags } from './options.ts';
import type { Settings } from './settings.ts';

/** What of a command's context caches need. */
export interface CacheContext {
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  readonly folders: { readonly cache: string };
  readonly flags: Pick<Flags, 'substitute' | 'substituters' | 'trusted-public-keys' | 'refresh'>;
  readonly offline: boolean;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  settings(): Promise<Settings>;
  store(): Promise<Store>;
  cacheAnswers(): Promise<CacheAnswers>;
}

/** A cache by its address; it need not be there yet. Throws FLK_USAGE. */
export async function openCache(
  context: CacheContext,
  text: string,
): Promise<SubstituterCache & CacheAddress> {
  const address = parseCacheAddress(text, context.cwd);
  return { ...address, cache: await cacheAt(context, address) };
}

async function cacheAt(context: CacheContext, { place }: CacheAddress): Promise<BinaryCache> {
  if (place.kind === 'folder') {
    const { FolderCache } = await import('../store/caches/folder-cache.ts');
    return new FolderCache(place.path);
  }
  if (place.kind === 's3') return await bucketAt(context, place);
  const [{ HttpCache }, { HttpCacheTransport }, { HttpClient }, { Credentials }, settings] =
    await Promise.all([
      import('../store/caches/http-cache.ts'),
      import('../sources/cache-transport.ts'),
      import('../sources/http.ts'),
      import('../sources/credentials.ts'),
      context.settings(),
    ]);
  const { accessTokens, netrcFile, sslCertFile } = settings;
  const { env, reporter, signal, offline } = context;
  const client = new HttpClient({
    signal,
    caFiles: sslCertFile === undefined ? [] : [sslCertFile],
    credentials: new Credentials({ accessTokens, netrcFile, env, reporter }),
  });
  return new HttpCache(place.url, new HttpCacheTransport(client, { reporter, signal, offline }));
}

async function bucketAt(context: CacheContext, place: S3Place): Promise<BinaryCache> {
  const [
    { HttpCache },
    { S3Transport },
    { S3Client },
    { HttpClient },
    { findAwsIdentity },
    { defaultRegion, s3Base, s3Name },
    { sslCertFile },
  ] = await Promise.all([
    import('../store/caches/http-cache.ts'),
    import('../sources/s3-transport.ts'),
    import('../sources/s3-client.ts'),
    import('../sources/http.ts'),
    import('../sources/aws-credentials.ts'),
    import('../store/caches/s3-address.ts'),
    context.settings(),
  ]);
  const { env, reporter, signal, offline } = context;
  const { bucket, storageClass, multipartThreshold, partSize } = place;
  const identity = await findAwsIdentity(env, place.profile);
  const region = place.region ?? identity.region ?? defaultRegion;
  const base = s3Base(place, region);
  const caFiles = sslCertFile === undefined ? [] : [sslCertFile];
  const signing = { origin: base.origin, bucket, region, identity };
  // Ctrl-C does not end what cleans up after it.
  const cleaning = new HttpClient({ caFiles, connectTimeout: 3_000, idleTimeout: 3_000 });
  const transport = new S3Transport(new S3Client(new HttpClient({ signal, caFiles }), signing), {
    reporter,
    signal,
    offline,
    storageClass,
    multipartThreshold,
    partSize,
    cleaner: new S3Client(cleaning, signing),
  });
  const access = identity.keys
    ? `the keys of ${identity.origin} must be allowed to read the bucket`
    : `where not everybody may read the bucket, it takes keys: ${identity.origin}`;
  return new HttpCache(base, transport, { url: s3Name(place), access });
}

/** What is substituted from where nobody names a cache, into this store or the context's; undefined where nothing is. */
export async function openConfiguredSubstituter(
  context: CacheContext,
  store?: SubstitutedStore,
): Promise<Substituter | undefined> {
  if (context.flags.substitute === false) return undefined;
  const settings = await context.settings();
  const { substituters } = context.flags;
  const named = substituters.length > 0 ? words(substituters) : settings.substituters;
  // --offline means that nobody on the network is asked, not that it is told for each.
  const addresses = named.filter((text) => !context.offline || !isServer(text, context.cwd));
  if (addresses.length === 0) return undefined;
  return await openSubstituterOf(context, {
    caches: addresses,
    publicKeys: await trustedKeys(context),
    ...(settings.requireSigs ? {} : { trusted: true }),
    ...(store === undefined ? {} : { store }),
  });
}

const isServer = (text: string, cwd: string): boolean => parseCacheAddress(text, cwd).place.kind !== 'folder';

/** Whose signatures count: those that the command line names, else those that are set. */
export async function trustedKeys(context: CacheContext): Promise<readonly string[]> {
  const named = words(context.flags['trusted-public-keys']);
  return named.length > 0 ? named : (await context.settings()).trustedPublicKeys;
}

/** Nix takes several in one word, too. */
const words = (list: readonly string[]): string[] =>
  list.flatMap((text) => text.split(/\s+/)).filter((word) => word !== '');

export interface SubstituterRequest {
  readonly caches: readonly string[];
  /** `NAME:base64`. */
  readonly publicKeys: readonly string[];
  /** Takes all paths unsigned. */
  readonly trusted?: boolean;
  readonly expected?: ReadonlyMap<StorePath, NarHash>;
  /** Instead of the context's. */
  readonly store?: SubstitutedStore;
  readonly reporter?: Reporter;
}

/** A substituter for these caches alone. Throws FLK_USAGE and FLK_KEY_INVALID. */
export async function openSubstituterOf(
  context: CacheContext,
  request: SubstituterRequest,
): Promise<CacheSubstituter> {
  const { trusted = false, expected } = request;
  const [{ openSubstituter }, { parsePublicKey }, store, answers] = await Promise.all([
    import('../store/substituter.ts'),
    import('../formats/signature.ts'),
    request.store ?? context.store(),
    context.cacheAnswers(),
  ]);
  const publicKeys: PublicKey[] = request.publicKeys.map(parsePublicKey);
  const opened = await Promise.all(request.caches.map((text) => openCache(context, text)));
  return openSubstituter({
    store,
    caches: opened.map((cache) => ({ ...cache, trusted: trusted || cache.trusted })),
    publicKeys,
    answers,
    reporter: request.reporter ?? context.reporter,
    signal: context.signal,
    ...(expected === undefined ? {} : { expected }),
  });
}

/** What caches on servers answered in earlier runs; `--refresh` asks anew. */
export async function openCacheAnswers(context: CacheContext): Promise<CacheAnswers> {
  const [{ openAnswers }, settings] = await Promise.all([
    import('../store/caches/answers.ts'),
    context.settings(),
  ]);
  const { narinfoCachePositiveTtl, narinfoCacheNegativeTtl } = settings;
  return await openAnswers(join(context.folders.cache, 'caches.sqlite'), {
    positive: narinfoCachePositiveTtl,
    negative: narinfoCacheNegativeTtl,
    refresh: context.flags.refresh,
  });
}

/** Gets a path that is pinned by its NAR hash, and all that it refers to. */
export type ImportClosure = (wanted: {
  readonly path: StorePath;
  readonly narHash: NarHash;
  readonly caches: readonly string[];
  readonly publicKeys: readonly string[];
}) => Promise<void>;

/**
 * For store paths that a manifest pins. Throws FLK_NAR_HASH_MISMATCH where the store or a cache has another path under that name,
 * and what `CacheSubstituter.require` throws.
 */
export function closureImporter(context: CacheContext): ImportClosure {
  return async ({ path, narHash, caches, publicKeys }) => {
    const store = await context.store();
    store.hold([path]);
    const known = store.query(path);
    if (known && known.narHash !== narHash)
      throw new FlkError(
        'FLK_NAR_HASH_MISMATCH',
        `the store has another ${path} than the one that is pinned`,
        {
          facts: { found: known.narHash, wanted: narHash },
          hint: 'correct narHash in the manifest, if you trust what the store has',
        },
      );
    if (known) return;
    const expected = new Map([[path, narHash]]);
    const substituter = await openSubstituterOf(context, { caches, publicKeys, expected });
    await substituter.require(path);
  };
}
