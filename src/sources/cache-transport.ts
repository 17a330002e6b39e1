/** Binary caches by HTTP: what the store's caches want of a server, over the client that all sources use. */
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import type { CacheTransport, Upload } from '../store/caches/transport.ts';
import { contentLength, openUrl } from './download.ts';
import {
  discard,
  type HttpClient,
  type HttpResponse,
  statusError,
  TransientError,
  withRetries,
} from './http.ts';

export interface CacheTransportOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal | undefined;
  /** Nothing is asked: FLK_OFFLINE. */
  readonly offline?: boolean;
  /** Milliseconds before the second attempt. Default: that of `withRetries`. */
  readonly firstDelay?: number;
}

/** Nothing there; or, as object stores say it to who may not list them, nothing that we may see. */
const missing = [404, 410, 403];
/** In a row, each with less than `progress` bytes since the one before. */
const maxBreaks = 4;
const progress = 2 ** 20;
/** Redirects of a PUT: as many as a load balancer and a move of the server may need. */
const maxRedirects = 5;

export class HttpCacheTransport implements CacheTransport {
  readonly #client: Pick<HttpClient, 'send'>;
  readonly #options: CacheTransportOptions;

  constructor(client: Pick<HttpClient, 'send'>, options: CacheTransportOptions) {
    this.#client = client;
    this.#options = options;
  }

  async get(url: URL): Promise<AsyncIterable<Buffer> | undefined> {
    const response = await this.#retrying(url, () => this.#open(url, 0));
    return response && this.#resuming(url, response);
  }

  async has(url: URL): Promise<boolean> {
    return await this.#retrying(url, async () => {
      const { response } = await openUrl(this.#client, { method: 'HEAD', url, common, answers: missing });
      await discard(response);
      return !missing.includes(response.status);
    });
  }

  async put(url: URL, content: Upload, type: string): Promise<void> {
    const body = { length: content.size, open: () => content.open() };
    await this.#retrying(url, async () => {
      let place = url;
      for (let redirects = 0; redirects <= maxRedirects; redirects++) {
        const headers = { ...common, 'content-type': type };
        const response = await this.#client.send({
          method: 'PUT',
          url: place,
          headers,
          body,
          redirectedFrom: url,
        });
        await discard(response);
        if (response.status >= 200 && response.status < 300) return;
        const { location } = response.headers;
        const next = location !== undefined && URL.canParse(location, place.href) && new URL(location, place);
        // Not elsewhere: what is pushed, and how to be let in, is meant for this server.
        if (![307, 308].includes(response.status) || !next || next.origin !== url.origin)
          throw refusal(place, response);
        place = next;
      }
      throw new FlkError('FLK_HTTP_STATUS', `${url.host} redirects more than ${maxRedirects} times`);
    });
  }

  #retrying<T>(url: URL, work: () => Promise<T>): Promise<T> {
    const { reporter, signal, firstDelay, offline } = this.#options;
    if (offline) throw new FlkError('FLK_OFFLINE', `${url.origin} would have to be asked`);
    return withRetries(url.host, { reporter, signal, firstDelay }, work);
  }

  /** The answer from `from` on; undefined where there is nothing. */
  async #open(url: URL, from: number): Promise<HttpResponse | undefined> {
    const range: Record<string, string> = from === 0 ? {} : { range: `bytes=${from}-` };
    const { response } = await openUrl(this.#client, {
      url,
      common: { ...common, ...range },
      lent: true,
      answers: missing,
    });
    if (missing.includes(response.status)) {
      await discard(response);
      return undefined;
    }
    const encoding = response.headers['content-encoding'] ?? 'identity';
    if (encoding === 'identity' || encoding === '') return response;
    for await (const _ of response.body) break;
    throw new FlkError(
      'FLK_CACHE_INVALID',
      `${url.host} sends ${encoding.slice(0, 40)}, which was not asked for`,
      {
        facts: { found: `Content-Encoding: ${encoding.slice(0, 40)}`, wanted: 'the bytes as they are' },
      },
    );
  }

  /** The bytes of a first answer, and where its connection breaks, those of further ones. */
  async *#resuming(url: URL, first: HttpResponse): AsyncGenerator<Buffer> {
    let at = 0;
    let response = first;
    const length = contentLength(first);
    for (let breaks = 0, mark = 0; ; ) {
      const skipped = skip(url, response, at);
      try {
        for await (const chunk of skipped) {
          at += chunk.length;
          yield chunk;
        }
        return;
      } catch (error) {
        // Without its length, nobody knows whether what comes next is the same file.
        if (!(error instanceof TransientError) || length === undefined) throw error;
        if (at - mark >= progress) breaks = 0;
        if (++breaks > maxBreaks) throw error;
        mark = at;
      }
      const reached = at;
      const next = await this.#retrying(url, () => this.#open(url, reached));
      if (!next) throw new FlkError('FLK_CACHE_INVALID', `${url.href} is gone in the middle`);
      response = next;
    }
  }
}

/** The same user agent as other downloads; no encoding, for archives are packed already. */
const common = { 'user-agent': 'flk', 'accept-encoding': 'identity' };

/** The body from `from` on, also of a server that knows no ranges and begins anew. */
function skip(url: URL, response: HttpResponse, from: number): AsyncIterable<Buffer> {
  if (response.status === 206) {
    const start = /^bytes (\d{1,16})-/.exec(response.headers['content-range'] ?? '')?.[1];
    if (Number(start) !== from)
      throw new FlkError('FLK_CACHE_INVALID', `${url.host} sends another part than was asked for`, {
        facts: { found: response.headers['content-range'] ?? '', wanted: `bytes ${from}-` },
      });
    return response.body;
  }
  return from === 0 ? response.body : without(response.body, from);
}

async function* without(body: AsyncIterable<Buffer>, bytes: number): AsyncGenerator<Buffer> {
  let extra = bytes;
  for await (const chunk of body) {
    const dropped = Math.min(extra, chunk.length);
    extra -= dropped;
    if (dropped < chunk.length) yield chunk.subarray(dropped);
  }
}

function refusal(url: URL, response: HttpResponse): FlkError {
  if (![404, 405, 501].includes(response.status)) return statusError(url, response);
  return new FlkError('FLK_HTTP_STATUS', `${url.host} takes no uploads: it answers ${response.status}`, {
    hint: 'push to an address that takes PUT, or to a folder that a server gives out',
  });
}
