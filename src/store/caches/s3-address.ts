/** Addresses of caches in buckets: `s3://BUCKET/PREFIX?region=…`, with the names that Nix 2.34's S3 stores have for their options. */
import { FlkError } from '../../base/errors.ts';

/** A folder of a bucket, and how objects get there. */
export interface S3Place {
  readonly kind: 's3';
  readonly bucket: string;
  /** Without slashes at its ends; empty: the whole bucket. */
  readonly prefix: string;
  /** A server that is not Amazon's. */
  readonly endpoint?: URL;
  readonly scheme: 'https' | 'http';
  /** Whether the bucket is a part of the host's name or of the path. */
  readonly addressing: 'virtual' | 'path';
  /** Undefined: what the environment or the profile says. */
  readonly region?: string;
  /** A profile of Amazon's tools. */
  readonly profile?: string;
  readonly storageClass?: string;
  /** Files of so many bytes or more go up in parts; undefined: none do. */
  readonly multipartThreshold: number | undefined;
  /** Bytes of a part. */
  readonly partSize: number;
}

/** Where nobody says another one. */
export const defaultRegion = 'us-east-1';

/** S3's own: less in a part, but for the last one, is refused; and so is more in one request. */
const minPart = 5 * 2 ** 20;
const maxPut = 5 * 2 ** 30;
const defaultThreshold = 100 * 2 ** 20;

/** Throws FLK_USAGE. */
export function parseS3Address(url: URL): S3Place {
  // A key in an address would be printed, and kept, wherever the address is.
  if (url.username !== '' || url.password !== '')
    throw unusable('the address of a bucket holds no login', 'keys come from the environment or a profile');
  const { hostname: bucket, searchParams: options } = url;
  const isName = /^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/.test(bucket) && !bucket.includes('..');
  if (!isName || url.port !== '' || url.hash !== '')
    throw unusable(`${bucket.slice(0, 80)} is no name of a bucket`, 's3://BUCKET?region=REGION');
  const scheme = oneOf(options, 'scheme', ['https', 'http']) ?? 'https';
  const endpoint = endpointOf(options.get('endpoint') ?? '', scheme);
  const style = oneOf(options, 'addressing-style', ['auto', 'path', 'virtual']) ?? 'auto';
  if (style === 'virtual' && bucket.includes('.'))
    throw unusable(
      'a bucket with dots in its name has no host of its own',
      'leave addressing-style=virtual out',
    );
  const region = matching(options, 'region', /^[a-zA-Z0-9-]{1,64}$/);
  const profile = matching(options, 'profile', /^[^\p{Cc}[\]]{1,128}$/u);
  const storageClass = matching(options, 'storage-class', /^[A-Z_]{1,64}$/);
  const chunk = sizeOf(options, 'multipart-chunk-size') ?? sizeOf(options, 'buffer-size') ?? minPart;
  const threshold = Math.min(sizeOf(options, 'multipart-threshold') ?? defaultThreshold, maxPut);
  return {
    kind: 's3',
    bucket,
    prefix: prefixOf(url.pathname),
    ...(endpoint && { endpoint }),
    scheme,
    addressing: style === 'auto' ? (endpoint || bucket.includes('.') ? 'path' : 'virtual') : style,
    ...(region && { region }),
    ...(profile && { profile }),
    ...(storageClass && { storageClass }),
    multipartThreshold: /^(false|no|0)$/.test(options.get('multipart-upload') ?? '') ? undefined : threshold,
    partSize: Math.max(minPart, chunk),
  };
}

/** For messages, and to tell caches apart: of the options only which server it is. */
export function s3Name({ bucket, prefix, endpoint }: S3Place): string {
  return `s3://${bucket}${prefix && `/${prefix}`}${endpoint ? `?endpoint=${endpoint.origin}` : ''}`;
}

/** What the addresses of a place's objects begin with: it ends in a slash. */
export function s3Base({ bucket, prefix, endpoint, scheme, addressing }: S3Place, region: string): URL {
  const domain = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
  const base = new URL(endpoint ?? `${scheme}://s3.${region}.${domain}/`);
  if (addressing === 'virtual') base.hostname = `${bucket}.${base.hostname}`;
  const words = [...(addressing === 'path' ? [bucket] : []), ...prefix.split('/')];
  base.pathname = `/${words.filter((word) => word !== '').join('/')}`.replace(/([^/])$/, '$1/');
  return base;
}

/** As Nix, with or without `http://`. */
function endpointOf(text: string, scheme: string): URL | undefined {
  if (text === '') return undefined;
  const full = /^https?:\/\//i.test(text) ? text : `${scheme}://${text}`;
  const url = URL.canParse(full) ? new URL(full) : undefined;
  if (url?.pathname !== '/' || url.search !== '' || url.hash !== '' || url.username + url.password !== '')
    throw unusable('endpoint is not a host', '?endpoint=s3.example.org, or https://HOST:PORT');
  return url;
}

/** As it would stand in a URL, so that it is sent as it is signed. */
function prefixOf(pathname: string): string {
  const words = pathname.split('/').filter((word) => word !== '');
  if (words.length > 32 || words.some((word) => !/^[\w.~+=@,:!-]{1,200}$/.test(word) || /^\.+$/.test(word)))
    throw unusable(
      'a folder of a bucket is letters, digits and -_.~+=@,:! between slashes',
      's3://BUCKET/PATH',
    );
  return words.join('/');
}

function oneOf<T extends string>(options: URLSearchParams, name: string, words: readonly T[]): T | undefined {
  const value = options.get(name);
  const known = words.find((word) => word === value);
  if (value === null || value === '' || known !== undefined) return known;
  throw unusable(`${name} is not one of ${words.join(', ')}`, `?${name}=${words[0]}`);
}

function matching(options: URLSearchParams, name: string, pattern: RegExp): string | undefined {
  const value = options.get(name) ?? '';
  if (value === '') return undefined;
  if (!pattern.test(value))
    throw unusable(`${name} is not spelled as one`, `leave ${name}= out, or correct it`);
  return value;
}

/** Bytes. */
function sizeOf(options: URLSearchParams, name: string): number | undefined {
  const value = options.get(name);
  if (value === null || value === '') return undefined;
  if (!/^\d{1,13}$/.test(value)) throw unusable(`${name} is not a number of bytes`, `?${name}=16777216`);
  return Number(value);
}

const unusable = (what: string, hint: string): FlkError =>
  new FlkError('FLK_USAGE', `this is not the address of a binary cache: ${what}`, { hint });
