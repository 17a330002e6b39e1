/** flk's own cache server over a store of the test's, on loopback; and a client that sees each byte and header as it comes. */
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { onTestFinished } from 'vitest';
import type { Event } from '../../src/base/events.ts';
import { type StoreOfferOptions, storeOffers } from '../../src/store/cache-offers.ts';
import { CacheServer, type ServerLimits } from '../../src/store/cache-server.ts';
import { CacheUploads, type UploadOptions } from '../../src/store/cache-uploads.ts';
import { Leases } from '../../src/store/leases.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { temporaryFolder } from './temp.ts';

export const token = 'a-token-for-tests-only';

export interface ServedStore {
  readonly store: Store;
  readonly server: CacheServer;
  readonly url: string;
  /** What the server has told of its requests. */
  readonly requests: Extract<Event, { kind: 'request' }>[];
}

/** Ends with the test. `uploads`: it takes PUTs with the token. */
export async function serveStore(
  options: {
    readonly root?: string;
    readonly offers?: StoreOfferOptions;
    readonly uploads?: UploadOptions;
    readonly limits?: Partial<ServerLimits>;
  } = {},
): Promise<ServedStore> {
  const store = await openStore(options.root ?? temporaryFolder());
  const leases = new Leases(() => openStore(store.root));
  const requests: ServedStore['requests'] = [];
  const taker = options.uploads && new CacheUploads(leases, options.uploads);
  const server = await CacheServer.listen(storeOffers(leases, options.offers), {
    host: '127.0.0.1',
    port: 0,
    reporter: {
      emit: (event) => {
        if (event.kind === 'request') requests.push(event);
      },
    },
    ...(taker && { uploads: { taker, token } }),
    ...(options.limits && { limits: options.limits }),
  });
  onTestFinished(async () => {
    await server.stop(0);
    await taker?.close();
    leases.close();
    store.close();
  });
  return { store, server, url: server.url, requests };
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** One request, told to the end; rejected when the connection breaks. Unlike fetch it follows nothing and unpacks nothing. */
export function ask(
  url: string,
  options: {
    readonly method?: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: Buffer | string;
  } = {},
): Promise<Answer> {
  return new Promise((done, fail) => {
    const { method = 'GET', headers = {}, body } = options;
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const sent = httpRequest(
      url,
      { method, headers: { ...length, ...headers }, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', fail);
        response.on('end', () =>
          done({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
        );
      },
    );
    sent.on('error', fail);
    sent.end(body);
  });
}

/** As `ask`, with the token. */
export const put = (
  url: string,
  body: Buffer | string,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> =>
  ask(url, { method: 'PUT', body, headers: { authorization: `Bearer ${token}`, ...headers } });
