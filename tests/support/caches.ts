/** Stores and binary caches with something in them. */
import { join } from 'node:path';
import { type Event, type Reporter, silent } from '../../src/base/events.ts';
import { sha256 } from '../../src/formats/hash.ts';
import { hashTree } from '../../src/formats/nar.ts';
import {
  generateSecretKey,
  type PublicKey,
  publicKeyOf,
  type SecretKey,
} from '../../src/formats/signature.ts';
import { makeOutputPath, type StorePath } from '../../src/formats/store-path.ts';
import { HttpCacheTransport } from '../../src/sources/cache-transport.ts';
import { HttpClient, type HttpOptions } from '../../src/sources/http.ts';
import { type CacheAnswers, forgetful } from '../../src/store/caches/answers.ts';
import type { BinaryCache, Packing } from '../../src/store/caches/cache.ts';
import { FolderCache } from '../../src/store/caches/folder-cache.ts';
import { HttpCache } from '../../src/store/caches/http-cache.ts';
import type { SubstituterCache } from '../../src/store/caches/offers.ts';
import { pushPaths } from '../../src/store/caches/push.ts';
import type { PathInfo } from '../../src/store/path-info.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { type CacheSubstituter, openSubstituter } from '../../src/store/substituter.ts';
import { restoreTree } from '../../src/store/tree-files.ts';
import { temporaryFolder } from './temp.ts';
import { file, type Node, treeFrom } from './trees.ts';

/** Registers a path that is not named after its content, as outputs of builds are. */
export async function addOutput(
  store: Store,
  name: string,
  node: Node = file(name),
  references: readonly StorePath[] = [],
  salt = '',
): Promise<PathInfo> {
  const path = makeOutputPath('out', sha256(name + salt), name);
  const stage = await store.stage();
  const staged = join(stage.path, 'tree');
  await treeFrom(node).walk(restoreTree(staged));
  const info: PathInfo = {
    path,
    ...(await hashTree(treeFrom(node))),
    references,
    registrationTime: 1,
    ultimate: true,
    signatures: [],
  };
  await store.register([{ info, staged }]);
  await stage.dispose();
  return info;
}

export interface FilledCache {
  readonly folder: string;
  readonly cache: FolderCache;
  /** Where its paths come from. */
  readonly store: Store;
  readonly key: SecretKey;
  readonly publicKey: PublicKey;
  /** By name. */
  readonly paths: Readonly<Record<'lib' | 'tool' | 'app', PathInfo>>;
}

/** A signed cache with `app`, which refers to `lib` and `tool`; `tool` refers to `lib`. */
export async function filledCache(packing: Packing = 'none'): Promise<FilledCache> {
  const folder = temporaryFolder();
  const store = await openStore(temporaryFolder());
  const key = generateSecretKey('test-1');
  const lib = await addOutput(store, 'lib', file('lib'.repeat(40_000)));
  const tool = await addOutput(store, 'tool', file('tool', true), [lib.path]);
  const app = await addOutput(store, 'app', file('app'), [lib.path, tool.path].sort());
  const cache = new FolderCache(folder);
  const pushed = [lib, tool, app].map((info) => ({ info, tree: store.tree(info.path) }));
  await pushPaths(cache, pushed, { packing, key, reporter: silent });
  return { folder, cache, store, key, publicKey: publicKeyOf(key), paths: { lib, tool, app } };
}

/** A cache on a server; what is slow or broken is given up soon. */
export function httpCache(
  base: string,
  options: HttpOptions & { readonly reporter?: Reporter; readonly offline?: boolean } = {},
): BinaryCache {
  const { reporter = silent, offline = false, ...http } = options;
  const transport = new HttpCacheTransport(new HttpClient(http), { reporter, offline, firstDelay: 1 });
  return new HttpCache(new URL(`${base}/`), transport);
}

export interface Taking {
  readonly store: Store;
  readonly substituter: CacheSubstituter;
  readonly events: Event[];
  /** The types of what was told. */
  notices(): string[];
}

/** A substituter into a new store. */
export async function taking(
  caches: readonly (BinaryCache | SubstituterCache)[],
  options: {
    readonly publicKeys?: readonly PublicKey[];
    readonly answers?: CacheAnswers;
    readonly signal?: AbortSignal;
  } = {},
): Promise<Taking> {
  const store = await openStore(temporaryFolder());
  const events: Event[] = [];
  const substituter = openSubstituter({
    store,
    caches: caches.map((cache) => ('cache' in cache ? cache : { cache })),
    publicKeys: options.publicKeys ?? [],
    answers: options.answers ?? forgetful,
    reporter: { emit: (event) => events.push(event) },
    signal: options.signal,
  });
  const notices = (): string[] =>
    events.flatMap((event) => (event.kind === 'notice' ? [event.notice.type] : []));
  return { store, substituter, events, notices };
}
