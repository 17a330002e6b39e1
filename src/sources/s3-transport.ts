/** A bucket as the store's caches see it: what is read comes as from any server; what is large goes up in parts, or not at all. */
import { createHash } from 'node:crypto';
import { limiter } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import type { CacheTransport, Upload } from '../store/caches/transport.ts';
import { type CacheTransportOptions, HttpCacheTransport } from './cache-transport.ts';
import {
  discard,
  type HttpClient,
  type HttpRequest,
  type HttpResponse,
  readBody,
  statusError,
  TransientError,
  withRetries,
} from './http.ts';
import { textIn } from './s3-client.ts';

export interface S3TransportOptions extends CacheTransportOptions {
  readonly storageClass?: string | undefined;
  /** Files of so many bytes or more go up in parts; undefined: none do. */
  readonly multipartThreshold: number | undefined;
  /** Bytes of a part; more where a file would have too many. */
  readonly partSize: number;
  /** Where uploads are given up: it must still work when everything else has been interrupted. */
  readonly cleaner: Pick<HttpClient, 'send'>;
}

/** S3's own. */
const maxParts = 10_000;
/** Parts of one file on their way at once. */
const partsAtOnce = 4;
const maxAnswer = 256 * 1024;

const common = { 'user-agent': 'flk' };

export class S3Transport implements CacheTransport {
  readonly #client: Pick<HttpClient, 'send'>;
  readonly #options: S3TransportOptions;
  readonly #reading: HttpCacheTransport;
  /** Whether the server knows conditions, as far as we know. */
  #conditional = true;

  constructor(client: Pick<HttpClient, 'send'>, options: S3TransportOptions) {
    this.#client = client;
    this.#options = options;
    this.#reading = new HttpCacheTransport(client, options);
  }

  get(url: URL): Promise<AsyncIterable<Buffer> | undefined> {
    return this.#reading.get(url);
  }

  has(url: URL): Promise<boolean> {
    return this.#reading.has(url);
  }

  /** What is there stays: who pushes the same at the same time was first. */
  async put(url: URL, content: Upload, type: string): Promise<void> {
    const { offline, multipartThreshold, storageClass } = this.#options;
    if (offline) throw new FlkError('FLK_OFFLINE', `${url.origin} would have to be asked`);
    const headers = {
      ...common,
      'content-type': type,
      ...(storageClass === undefined ? {} : { 'x-amz-storage-class': storageClass }),
    };
    if (multipartThreshold !== undefined && content.size >= multipartThreshold)
      await this.#putInParts(url, content, headers);
    else await this.#putWhole(url, content, headers);
  }

  async #putWhole(url: URL, content: Upload, headers: Record<string, string>): Promise<void> {
    const digest = await digestOf(url, () => content.open());
    const response = await this.#retrying(url, () =>
      this.#onlyIfNew((condition) => ({
        method: 'PUT',
        url,
        headers: { ...headers, ...digest, ...condition },
        body: { length: content.size, open: () => content.open() },
      })),
    );
    await discard(response);
    if (response.status !== 412) assertOk(url, response);
  }

  async #putInParts(url: URL, content: Upload, headers: Record<string, string>): Promise<void> {
    const uploadId = await this.#begin(url, headers);
    const upload = withQuery(url, { uploadId });
    let taken = false;
    try {
      taken = await this.#complete(url, upload, await this.#putParts(upload, content));
    } finally {
      // What was sent would lie there unseen, and cost.
      if (!taken) await this.#giveUp(upload);
    }
  }

  async #begin(url: URL, headers: Record<string, string>): Promise<string> {
    const place = withQuery(url, { uploads: '' });
    const text = await this.#retrying(url, async () => {
      const response = await this.#client.send({ method: 'POST', url: place, headers });
      assertOk(url, response);
      return (await readBody(response, url, maxAnswer)).toString();
    });
    const id = textIn(text, 'UploadId');
    if (id !== undefined && /^[\u0021-\u007e]{1,1024}$/.test(id)) return id;
    throw new FlkError('FLK_CACHE_INVALID', `${url.host} begins an upload and does not name it`);
  }

  /** The parts' tags, in their order. */
  async #putParts(upload: URL, content: Upload): Promise<string[]> {
    const partSize = Math.max(this.#options.partSize, Math.ceil(content.size / maxParts));
    const limit = limiter(partsAtOnce);
    let failed = false;
    const parts = Array.from({ length: Math.ceil(content.size / partSize) }, (_, i) =>
      limit(async () => {
        if (failed) return '';
        const from = i * partSize;
        const to = Math.min(content.size, from + partSize);
        try {
          return await this.#putPart(withQuery(upload, { partNumber: String(i + 1) }), {
            size: to - from,
            open: () => content.open(from, to),
          });
        } catch (error) {
          failed = true;
          throw error;
        }
      }),
    );
    const results = await Promise.allSettled(parts);
    return results.map((result) => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
  }

  async #putPart(url: URL, { size, open }: Upload): Promise<string> {
    const digest = await digestOf(url, open);
    return await this.#retrying(url, async () => {
      const headers = { ...common, ...digest };
      const response = await this.#client.send({ method: 'PUT', url, headers, body: { length: size, open } });
      await discard(response);
      assertOk(url, response);
      const { etag } = response.headers;
      if (etag !== undefined && /^"?[\w.+/=-]{1,256}"?$/.test(etag)) return etag;
      throw new FlkError(
        'FLK_CACHE_INVALID',
        `${url.host} takes a part of an upload and gives no tag for it`,
      );
    });
  }

  /** False: another one was there first. */
  async #complete(url: URL, upload: URL, tags: readonly string[]): Promise<boolean> {
    const parts = tags.map(
      (tag, i) =>
        `<Part><PartNumber>${i + 1}</PartNumber><ETag>${tag.replaceAll('"', '&quot;')}</ETag></Part>`,
    );
    const body = Buffer.from(`<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`);
    const digest = createHash('sha256').update(body).digest('hex');
    return await this.#retrying(url, async () => {
      const response = await this.#onlyIfNew((condition) => ({
        method: 'POST',
        url: upload,
        headers: { ...common, ...condition, 'x-amz-content-sha256': digest },
        body,
      }));
      const text = (await readBody(response, url, maxAnswer)).toString();
      if (response.status === 412) return false;
      // An attempt before may have got through though its answer did not.
      if (response.status === 404 && (await this.has(url))) return true;
      assertOk(url, response);
      // A server that takes long says 200 first, and how it went only then.
      const code = /<Error[\s>]/.test(text) ? (textIn(text, 'Code') ?? 'Error') : undefined;
      if (code === 'PreconditionFailed') return false;
      if (code === undefined) return true;
      throw new TransientError('FLK_HTTP_STATUS', `${url.host} cannot put an upload together`, {
        facts: { url: `${url.origin}${url.pathname}`, code: code.slice(0, 80) },
      });
    });
  }

  /** Never throws: something else has gone wrong already. */
  async #giveUp(upload: URL): Promise<void> {
    try {
      await discard(await this.#options.cleaner.send({ method: 'DELETE', url: upload, headers: common }));
    } catch {
      // A rule of the bucket removes what nobody ended: docs/caches.md has it.
    }
  }

  /** Sends a request under the condition that nothing is there; without it to a server that knows no conditions. */
  async #onlyIfNew(request: (condition: Record<string, string>) => HttpRequest): Promise<HttpResponse> {
    if (this.#conditional) {
      const response = await this.#client.send(request({ 'if-none-match': '*' }));
      if (response.status !== 501) return response;
      await discard(response);
      this.#conditional = false;
    }
    return await this.#client.send(request({}));
  }

  #retrying<T>(url: URL, work: () => Promise<T>): Promise<T> {
    const { reporter, signal, firstDelay } = this.#options;
    return withRetries(url.host, { reporter, signal, firstDelay }, work);
  }
}

function assertOk(url: URL, response: HttpResponse): void {
  if (response.status < 200 || response.status >= 300) throw statusError(url, response);
}

/** Without TLS, the signature is all that shows what was meant to arrive. */
async function digestOf(url: URL, open: () => AsyncIterable<Buffer>): Promise<Record<string, string>> {
  if (url.protocol === 'https:') return { 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' };
  const hash = createHash('sha256');
  for await (const chunk of open()) hash.update(chunk);
  return { 'x-amz-content-sha256': hash.digest('hex') };
}

function withQuery(url: URL, words: Readonly<Record<string, string>>): URL {
  const place = new URL(url);
  for (const [name, value] of Object.entries(words)) place.searchParams.set(name, value);
  return place;
}
