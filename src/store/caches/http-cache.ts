/** A binary cache on a server. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { FlkError } from '../../base/errors.ts';
import { maxNarInfoSize, type NarInfo, parseNarInfo, printNarInfo } from '../../formats/narinfo.ts';
import { hashPart, type StorePath } from '../../formats/store-path.ts';
import { type BinaryCache, type CacheInfo, maxCacheInfoSize, newCacheInfo, parseCacheInfo } from './cache.ts';
import type { CacheTransport, Upload } from './transport.ts';

/** Where a cache is known by another name than its web address. */
interface NamedCache {
  readonly url?: string;
  /** What lets one in, for a hint. */
  readonly access?: string;
}

export class HttpCache implements BinaryCache {
  readonly url: string;
  readonly local = false;
  readonly #base: URL;
  readonly #transport: CacheTransport;
  readonly #access: string;

  /** The address ends in a slash and has no query. */
  constructor(base: URL, transport: CacheTransport, named: NamedCache = {}) {
    this.#base = base;
    this.#transport = transport;
    this.url = named.url ?? `${base.origin}${base.pathname}`.replace(/\/$/, '');
    this.#access = named.access ?? 'a cache that wants a login takes it from netrc';
  }

  async info(): Promise<CacheInfo> {
    const text = await this.#text('nix-cache-info', maxCacheInfoSize);
    if (text === undefined)
      throw new FlkError('FLK_CACHE_INVALID', `there is no binary cache at ${this.url}`, {
        facts: { wanted: `${this.url}/nix-cache-info` },
        hint: `check the address; ${this.#access}`,
      });
    return parseCacheInfo(text, this.url);
  }

  async narInfo(path: StorePath): Promise<NarInfo | undefined> {
    const text = await this.#text(`${hashPart(path)}.narinfo`, maxNarInfoSize);
    return text === undefined ? undefined : parseNarInfo(text, path);
  }

  nar({ url }: Pick<NarInfo, 'url'>): Promise<AsyncIterable<Buffer> | undefined> {
    return this.#transport.get(this.#at(url));
  }

  async prepare(): Promise<void> {
    const text = await this.#text('nix-cache-info', maxCacheInfoSize);
    if (text === undefined)
      await this.#transport.put(this.#at('nix-cache-info'), uploadOf(newCacheInfo), 'text/x-nix-cache-info');
    else parseCacheInfo(text, this.url);
  }

  async putNar(url: string, file: string): Promise<void> {
    const place = this.#at(url);
    if (await this.#transport.has(place)) return;
    const { size } = await stat(file);
    const open = (from = 0, to = size): AsyncIterable<Buffer> =>
      to > from
        ? createReadStream(file, { start: from, end: to - 1, highWaterMark: 256 * 1024 })
        : Readable.from([]);
    await this.#transport.put(place, { size, open }, 'application/x-nix-nar');
  }

  async putNarInfo(info: NarInfo): Promise<void> {
    const place = this.#at(`${hashPart(info.path)}.narinfo`);
    await this.#transport.put(place, uploadOf(printNarInfo(info)), 'text/x-nix-narinfo');
  }

  #at(path: string): URL {
    const url = new URL(path, this.#base);
    // Narinfos are checked when they are read; what is sent to a server is checked where it is sent.
    if (url.origin !== this.#base.origin || !url.pathname.startsWith(this.#base.pathname))
      throw new FlkError('FLK_CACHE_INVALID', `${path.slice(0, 80)} does not lie in ${this.url}`);
    return url;
  }

  async #text(path: string, limit: number): Promise<string | undefined> {
    const body = await this.#transport.get(this.#at(path));
    if (!body) return undefined;
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body) {
      size += chunk.length;
      if (size > limit)
        throw new FlkError('FLK_CACHE_INVALID', `${this.url}/${path} has more than ${limit} bytes`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks).toString();
  }
}

function uploadOf(text: string): Upload {
  const bytes = Buffer.from(text);
  return {
    size: bytes.length,
    open: async function* (from, to) {
      yield bytes.subarray(from, to);
    },
  };
}
