/** Taking paths from binary caches, and putting paths into them: into a folder, into a server, and into one of the worker's own. */
import { join } from 'node:path';
import { FlkError } from '../../src/base/errors.ts';
import { silent } from '../../src/base/events.ts';
import { parseSecretKey, publicKeyOf } from '../../src/formats/signature.ts';
import type { StorePath } from '../../src/formats/store-path.ts';
import { HttpCacheTransport } from '../../src/sources/cache-transport.ts';
import { HttpClient } from '../../src/sources/http.ts';
import { storeOffers } from '../../src/store/cache-offers.ts';
import { CacheServer } from '../../src/store/cache-server.ts';
import { CacheUploads } from '../../src/store/cache-uploads.ts';
import { forgetful, openAnswers } from '../../src/store/caches/answers.ts';
import type { BinaryCache } from '../../src/store/caches/cache.ts';
import { FolderCache } from '../../src/store/caches/folder-cache.ts';
import { HttpCache } from '../../src/store/caches/http-cache.ts';
import { pushPaths } from '../../src/store/caches/push.ts';
import { Leases } from '../../src/store/leases.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { openSubstituter } from '../../src/store/substituter.ts';
import { type Action, below, keep, pick, placesIn, shuffled, type Worker } from './action.ts';
import { outputOf, outputs } from './actions.ts';

/** As whoever was given the token. */
function cacheAt(url: string, token: string): BinaryCache {
  const credentials = { headers: async () => ({ authorization: `Bearer ${token}` }) };
  return new HttpCache(
    new URL(`${url}/`),
    new HttpCacheTransport(new HttpClient({ credentials }), { reporter: silent }),
  );
}

const serverOf = ({ surroundings: { server, token } }: Worker): BinaryCache => cacheAt(server, token);

const folderOf = ({ surroundings }: Worker): FolderCache =>
  new FolderCache(placesIn(surroundings.folder).cache);

async function substitute(worker: Worker): Promise<void> {
  const { store, surroundings } = worker;
  const answers =
    worker.random() < 0.5
      ? forgetful
      : await openAnswers(join(surroundings.folder, 'answers.sqlite'), { positive: 3600, negative: 3600 });
  const caches = shuffled(worker, [folderOf(worker), serverOf(worker)]).slice(0, 1 + below(worker, 2));
  const substituter = openSubstituter({
    store,
    caches: caches.map((cache) => ({ cache })),
    publicKeys: [publicKeyOf(parseSecretKey(surroundings.secretKey))],
    answers,
    reporter: silent,
  });
  try {
    const wanted = Array.from({ length: 1 + below(worker, 3) }, () => outputOf(below(worker, outputs)));
    await Promise.all(wanted.map((path) => substituter.require(path)));
    keep(worker, ...wanted);
  } finally {
    answers.close();
  }
}

/** `flk cache push` of something that is there. */
async function pushInto(worker: Worker, cache: BinaryCache, paths: readonly StorePath[]): Promise<void> {
  const { store, surroundings } = worker;
  const pushed = paths.map((path) => ({ info: store.query(path)!, tree: store.tree(path) }));
  await pushPaths(cache, pushed, {
    packing: worker.random() < 0.8 ? 'none' : 'xz',
    key: parseSecretKey(surroundings.secretKey),
    stage: () => store.stage(),
    reporter: silent,
  });
}

async function pushToFolder(worker: Worker): Promise<void> {
  const top = pick(worker, [...worker.kept]);
  if (top === undefined) return;
  const { pushed } = placesIn(worker.surroundings.folder);
  await pushInto(worker, new FolderCache(pushed), worker.store.closure([top]));
}

/** Only what has the same bytes wherever it was made: the server has many paths that the workers build, too. */
async function pushToServer(worker: Worker): Promise<void> {
  const { store } = worker;
  const isAddressed = (path: StorePath): boolean => store.query(path)?.ca !== undefined;
  const closure = shuffled(worker, [...worker.kept])
    .slice(0, 20)
    .map((path) => store.closure([path]))
    .find((paths) => paths.every(isAddressed));
  if (closure) await pushInto(worker, serverOf(worker), closure);
}

/** `flk cache serve` on the store that everybody uses, and a client that puts into it what a cache has. */
async function serve(worker: Worker): Promise<void> {
  const { surroundings, root } = worker;
  const { secretKey, token } = surroundings;
  const leases = new Leases(() => openStore(root));
  const taker = new CacheUploads(leases, { trustedKeys: [publicKeyOf(parseSecretKey(secretKey))] });
  const server = await CacheServer.listen(storeOffers(leases), {
    host: '127.0.0.1',
    port: 0,
    reporter: silent,
    uploads: { taker, token },
  });
  try {
    const client = cacheAt(server.url, token);
    await client.prepare();
    await upload(worker, client, outputOf(below(worker, outputs)));
    const path = pick(worker, [...worker.kept]);
    if (path !== undefined) await download(worker.store, client, path);
  } finally {
    await server.stop(0);
    await taker.close();
    leases.close();
  }
}

/** References first, as every client does it. */
async function upload(worker: Worker, client: BinaryCache, path: StorePath): Promise<void> {
  const from = folderOf(worker);
  const { cache } = placesIn(worker.surroundings.folder);
  const done = new Set<StorePath>();
  const put = async (one: StorePath): Promise<void> => {
    if (done.has(one)) return;
    done.add(one);
    const info = await from.narInfo(one);
    if (!info) throw new FlkError('FLK_CACHE_MISSING', `the cache of the test has no ${one}`);
    for (const reference of info.references) await put(reference);
    if (await client.narInfo(one)) return;
    await client.putNar(info.url, join(cache, info.url));
    // Somebody may have built it meanwhile, with other bytes.
    await client.putNarInfo(info).catch((error: unknown) => {
      if (!(error instanceof FlkError && error.facts.status === '409')) throw error;
    });
  };
  await put(path);
}

async function download(store: Store, client: BinaryCache, path: StorePath): Promise<void> {
  const info = await client.narInfo(path);
  const archive = info && (await client.nar(info));
  if (!archive) throw new FlkError('FLK_CACHE_MISSING', `the server gives no ${path}, which is held`);
  let size = 0;
  for await (const chunk of archive) size += chunk.length;
  if (info.compression === 'none' && size !== store.query(path)?.narSize)
    throw new FlkError('FLK_CACHE_INVALID', `the server gives ${size} bytes of ${path}`);
}

export const cacheActions: readonly Action[] = [
  { name: 'substitute', weight: 5, run: substitute },
  { name: 'push to a folder', weight: 3, run: pushToFolder },
  { name: 'push to a server', weight: 2, run: pushToServer },
  { name: 'serve', weight: 2, run: serve },
];
