/** Binary caches: the port, and what a cache's address may say. Format: Nix 2.34's binary cache stores. */
import { isAbsolute, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FlkError } from '../../base/errors.ts';
import type { NarInfo } from '../../formats/narinfo.ts';
import { type StorePath, storeDir } from '../../formats/store-path.ts';
import { parseS3Address, type S3Place } from './s3-address.ts';

/** `nix-cache-info`. */
export interface CacheInfo {
  /** Caches with a lower number are asked first. */
  readonly priority: number;
  /** Whether the cache likes to be asked for many paths that it may not have. */
  readonly wantMassQuery: boolean;
}

export interface BinaryCache {
  /** For messages, and to tell caches apart: without options and secrets. */
  readonly url: string;
  /** It is on this machine: asking costs nothing, and --offline does not keep from it. */
  readonly local: boolean;
  /** Throws FLK_CACHE_INVALID where there is no cache, or one of another store; what its transport throws. */
  info(): Promise<CacheInfo>;
  /** Undefined: the cache has no such path. Throws FLK_CACHE_INVALID. */
  narInfo(path: StorePath): Promise<NarInfo | undefined>;
  /**
   * The archive as it lies in the cache, packed; undefined where the cache has lost it. A chunk is only good until the next one is
   * asked for.
   */
  nar(info: Pick<NarInfo, 'url'>): Promise<AsyncIterable<Buffer> | undefined>;
  /** Makes the cache where there is none. Called before anything is put. */
  prepare(): Promise<void>;
  /** Takes the file at `file` as the archive at `url`, unless there is one. The file may be moved or left. */
  putNar(url: string, file: string): Promise<void>;
  /** Last of all: from now on the cache has the path. */
  putNarInfo(info: NarInfo): Promise<void>;
}

/** Bytes of `nix-cache-info` that are read. */
export const maxCacheInfoSize = 64 * 1024;

/** Throws FLK_CACHE_INVALID for a cache of another store. Lines that say nothing known are read past. */
export function parseCacheInfo(text: string, url: string): CacheInfo {
  const value = (name: string): string | undefined =>
    new RegExp(`^${name}:[ \\t]*(.*?)[ \\t\\r]*$`, 'm').exec(text)?.[1];
  const store = value('StoreDir') ?? storeDir;
  if (store !== storeDir)
    throw new FlkError('FLK_CACHE_INVALID', `${url} is a cache of another store`, {
      facts: { found: store.slice(0, 200), wanted: storeDir },
      hint: 'name another cache: its paths would lie elsewhere',
    });
  const priority = value('Priority') ?? '';
  return {
    priority: /^-?\d{1,9}$/.test(priority) ? Number(priority) : 50,
    wantMassQuery: value('WantMassQuery') === '1',
  };
}

/** What Nix writes into a new cache. */
export const newCacheInfo = `StoreDir: ${storeDir}\n`;

export const packings = ['none', 'xz', 'zstd'] as const;
export type Packing = (typeof packings)[number];

/** A cache's address, taken apart. Options follow it as in Nix's store URLs: `https://h/x?priority=10&trusted=true`. */
export interface CacheAddress {
  readonly place:
    | { readonly kind: 'folder'; readonly path: string }
    | { readonly kind: 'server'; readonly url: URL }
    | S3Place;
  /** Instead of what the cache itself says. */
  readonly priority?: number;
  /** Its paths are taken unsigned. */
  readonly trusted: boolean;
  /** How archives that are put there are packed. */
  readonly packing?: Packing;
}

/** Reads `https://…`, `http://…`, `s3://BUCKET`, `file:///…` or a folder, which counts from `cwd`. Throws FLK_USAGE. */
export function parseCacheAddress(text: string, cwd: string): CacheAddress {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    const [, path = '', query = ''] = /^([^?]*)\??(.*)$/s.exec(text) ?? [];
    return addressOf({ kind: 'folder', path: resolve(cwd, path) }, new URLSearchParams(query), text);
  }
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && scheme === 's3') return addressOf(parseS3Address(url), url.searchParams, text);
  if (url && (scheme === 'https' || scheme === 'http') && url.host !== '') {
    const options = new URLSearchParams(url.search);
    url.search = '';
    url.hash = '';
    if (!url.pathname.endsWith('/')) url.pathname += '/';
    return addressOf({ kind: 'server', url }, options, text);
  }
  if (url && scheme === 'file' && url.host === '') {
    const path = fileURLToPath(url.origin === 'null' ? `file://${url.pathname}` : url);
    if (isAbsolute(path)) return addressOf({ kind: 'folder', path: resolve(path) }, url.searchParams, text);
  }
  throw unusable(
    text,
    'this is not the address of a binary cache',
    'https://HOST/PATH, s3://BUCKET, file:///FOLDER or a folder',
  );
}

/** Options that Nix has and flk has no use for are read past. */
function addressOf(place: CacheAddress['place'], options: URLSearchParams, text: string): CacheAddress {
  const priority = options.get('priority');
  if (priority !== null && !/^-?\d{1,9}$/.test(priority))
    throw unusable(text, 'priority is not a whole number', '?priority=10');
  const compression = options.get('compression');
  const packing = packings.find((name) => name === compression);
  if (compression !== null && packing === undefined)
    throw unusable(text, 'flk does not pack that way', `?compression= ${packings.join(', ')}`);
  return {
    place,
    ...(priority === null ? {} : { priority: Number(priority) }),
    trusted: /^(1|true|yes)$/.test(options.get('trusted') ?? ''),
    ...(packing === undefined ? {} : { packing }),
  };
}

function unusable(text: string, what: string, wanted: string): FlkError {
  return new FlkError('FLK_USAGE', `${what}: ${text.slice(0, 300).replace(/\?.*$/s, '')}`, {
    hint: wanted,
  });
}
