/** What the workers of the crash test find beside their store: a signed cache, and a server that gives and takes paths. */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { silent } from '../../src/base/events.ts';
import {
  generateSecretKey,
  printPublicKey,
  printSecretKey,
  publicKeyOf,
} from '../../src/formats/signature.ts';
import { storeOffers } from '../../src/store/cache-offers.ts';
import { CacheServer } from '../../src/store/cache-server.ts';
import { CacheUploads } from '../../src/store/cache-uploads.ts';
import { FolderCache } from '../../src/store/caches/folder-cache.ts';
import { pushPaths } from '../../src/store/caches/push.ts';
import { Leases } from '../../src/store/leases.ts';
import { openStore } from '../../src/store/store.ts';
import { sandboxVariants } from '../support/builds.ts';
import { placesIn, type Surroundings } from './action.ts';
import { build, outputs } from './actions.ts';

export interface Fixture {
  readonly surroundings: Surroundings;
  /** As `--trusted-public-keys` takes it. */
  readonly publicKey: string;
  /** The server removes what it has staged for uploads only then. */
  end(): Promise<void>;
}

/** The caches have all that the action `build` builds, with other bytes than it will have in the workers' store. */
export async function makeFixture(folder: string, random: () => number): Promise<Fixture> {
  const { root, cache, pushed, served, scratch } = placesIn(folder);
  for (const one of [root, cache, pushed, served, scratch]) mkdirSync(one, { recursive: true });
  const key = generateSecretKey('crash-1');
  const store = await openStore(served);
  const worker = { store, random, kept: new Set<never>() };
  for (let number = 0; number < outputs; number++) await build(worker, number);
  const paths = store.paths().map((path) => ({ info: store.query(path)!, tree: store.tree(path) }));
  await pushPaths(new FolderCache(cache), paths, { packing: 'none', key, reporter: silent });
  // The server signs nothing.
  for (const { info } of paths) {
    const signed = await new FolderCache(cache).narInfo(info.path);
    store.addSignatures(info.path, signed?.signatures ?? []);
  }
  store.close();
  const leases = new Leases(() => openStore(served));
  const taker = new CacheUploads(leases, { trustedKeys: [publicKeyOf(key)] });
  const token = randomBytes(16).toString('hex');
  const server = await CacheServer.listen(storeOffers(leases), {
    host: '127.0.0.1',
    port: 0,
    reporter: silent,
    uploads: { taker, token },
  });
  return {
    surroundings: {
      folder,
      server: server.url,
      token,
      secretKey: printSecretKey(key),
      sandbox: sandboxVariants.some(({ usable }) => usable),
    },
    publicKey: printPublicKey(publicKeyOf(key)),
    end: async () => {
      await server.stop(0);
      await taker.close();
      leases.close();
    },
  };
}
