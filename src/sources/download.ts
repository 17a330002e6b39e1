/** GET with redirects; and downloads of single files, which `fetch` packages name by URL and pin by hash. */
import { FlkError, redactUrls } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { HttpClient, type HttpResponse, statusError, withRetries } from './http.ts';

export interface DownloaderOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  readonly offline?: boolean;
}

export type Downloader = (
  url: string,
  options: { readonly signal?: AbortSignal; total?(bytes: number): void },
) => AsyncIterable<Buffer>;

/** As browsers and curl: more is a circle. */
const maxRedirects = 10;

/**
 * Opens http and https URLs; follows redirects, tries again where that may help until the answer begins, sends no credentials.
 * Throws FLK_OFFLINE, FLK_NETWORK, FLK_HTTP_STATUS, FLK_HTTP_AUTH, FLK_USAGE for other kinds of URL, FLK_INTERRUPTED.
 */
export function downloader(options: DownloaderOptions): Downloader {
  return async function* download(text, { signal = options.signal, total }) {
    const url = webUrl(text);
    if (options.offline) throw new FlkError('FLK_OFFLINE', `${text} would have to be downloaded`);
    const client = new HttpClient({ signal });
    const { response } = await withRetries(text, { reporter: options.reporter, signal }, () =>
      openUrl(client, { url, common: { 'user-agent': 'flk' } }),
    );
    const length = contentLength(response);
    if (length !== undefined) total?.(length);
    yield* response.body;
  };
}

export interface OpenRequest {
  /** Default GET. */
  readonly method?: 'GET' | 'HEAD';
  readonly url: URL;
  /** For every host that redirects lead to. */
  readonly common?: Readonly<Record<string, string>>;
  /** For the URL's own origin alone: a redirect to another one goes without them. */
  readonly own?: Readonly<Record<string, string>>;
  /** As of an `HttpRequest`. */
  readonly lent?: boolean;
  /** Statuses beside 2xx that are answers, too. */
  readonly answers?: readonly number[];
}

export interface OpenedUrl {
  readonly response: HttpResponse;
  /** After redirects. */
  readonly url: URL;
}

/**
 * GETs a URL and follows redirects, never from https to http. The answer's status is 2xx, one of `answers`, or 304 if `common` asks
 * under a condition.
 * Throws FLK_NETWORK, FLK_HTTP_STATUS, also for a redirect to another kind of URL, FLK_HTTP_AUTH, FLK_INTERRUPTED.
 */
export async function openUrl(client: Pick<HttpClient, 'send'>, request: OpenRequest): Promise<OpenedUrl> {
  let url = request.url;
  for (let redirects = 0; redirects <= maxRedirects; redirects++) {
    const own = url.origin === request.url.origin ? request.own : undefined;
    const response = await client.send({
      method: request.method ?? 'GET',
      url,
      headers: { ...request.common, ...own },
      ...(request.lent ? { lent: true } : {}),
      redirectedFrom: request.url,
    });
    const { status, headers } = response;
    if ((status >= 200 && status < 300) || status === 304 || request.answers?.includes(status))
      return { response, url };
    // Leaving the body's iterator early ends the connection.
    for await (const _ of response.body) break;
    if (![301, 302, 303, 307, 308].includes(status) || headers.location === undefined)
      throw statusError(url, response);
    const next = URL.canParse(headers.location, url.href) ? new URL(headers.location, url) : undefined;
    if (next?.protocol !== 'https:' && next?.protocol !== 'http:')
      throw new FlkError('FLK_HTTP_STATUS', `${url.host} redirects to what is no web address`, {
        facts: { found: redactUrls(headers.location).slice(0, 200), wanted: 'http or https' },
        hint: 'something is wrong with that server, or with what stands between you and it',
      });
    if (url.protocol === 'https:' && next.protocol === 'http:')
      throw new FlkError('FLK_HTTP_STATUS', `${url.host} redirects from https to http`, {
        facts: { url: `${url.origin}${url.pathname}` },
        hint: 'the way there would no longer be protected: name a URL that stays on https',
      });
    url = next;
  }
  throw new FlkError('FLK_HTTP_STATUS', `${request.url.host} redirects more than ${maxRedirects} times`, {
    facts: { url: `${request.url.origin}${request.url.pathname}` },
  });
}

/** Bytes that the server says will come. */
export function contentLength({ headers }: Pick<HttpResponse, 'headers'>): number | undefined {
  const text = headers['content-length'];
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

function webUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  throw new FlkError('FLK_USAGE', `cannot download ${text}: only http and https URLs are downloaded`);
}
