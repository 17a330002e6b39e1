/** Downloads of single files: what `fetch` packages name by URL and pin by hash. */
import { FlkError } from '../base/errors.ts';
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
    const response = await withRetries(text, { reporter: options.reporter, signal }, () => open(client, url));
    const length = response.headers['content-length'];
    if (length !== undefined && /^\d{1,15}$/.test(length)) total?.(Number(length));
    yield* response.body;
  };
}

async function open(client: HttpClient, start: URL): Promise<HttpResponse> {
  let url = start;
  for (let redirects = 0; redirects <= maxRedirects; redirects++) {
    const response = await client.send({ method: 'GET', url, headers: { 'user-agent': 'flk' } });
    const { status, headers } = response;
    if (status >= 200 && status < 300) return response;
    // Leaving the body's iterator early ends the connection.
    for await (const _ of response.body) break;
    if (![301, 302, 303, 307, 308].includes(status) || headers.location === undefined)
      throw statusError(url, response);
    url = webUrl(headers.location, url);
  }
  throw new FlkError('FLK_HTTP_STATUS', `${start.host} redirects more than ${maxRedirects} times`, {
    facts: { url: `${start.origin}${start.pathname}` },
  });
}

function webUrl(text: string, base?: URL): URL {
  const url = URL.canParse(text, base?.href) ? new URL(text, base) : undefined;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  throw new FlkError('FLK_USAGE', `cannot download ${text}: only http and https URLs are downloaded`);
}
