/**
 * URLs as Nix 2.34 reads and prints them, which is not what WHATWG says: hosts keep their case, `..` stays, paths and queries are
 * decoded and encoded again with the few characters that Nix leaves bare, and a query is a sorted map.
 */
import { compareBytes } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';

export interface RefUrl {
  readonly scheme: string;
  /** `user@host:80`; empty in `file:///x`, undefined in `file:/x` and `path:./x`. */
  readonly authority?: string;
  /** Decoded, segment by segment: a segment may hold a slash that was written `%2F`. */
  readonly path: readonly string[];
  /** Decoded; of a name that comes twice, the first. */
  readonly query: ReadonlyMap<string, string>;
}

const example = 'for example git+https://host/owner/repo?ref=main, or path:./lib';

/** A FLK_REF_INVALID. */
export function invalidRef(text: string, why: string, hint: string = example): FlkError {
  return new FlkError('FLK_REF_INVALID', `flake reference ‘${shown(text)}’: ${why}`, { hint });
}

/** A reference in an error: hostile ones are long. */
export function shown(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

// RFC 3986, plus nothing: whatever else is meant has to be written %XX.
const urlPattern =
  /^([a-z][a-z0-9+.-]*):(?:\/\/([^/?#]*))?((?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)(?:\?((?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*))?$/;
const queryPattern = /^(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*$/;
const authorityPattern =
  /^(?:([A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([^@]*))?@)?([A-Za-z0-9_](?:[A-Za-z0-9._~-]*)|\[[0-9A-Fa-f:.]+\])?(?::([0-9]{0,5}))?$/;

/** Throws FLK_REF_INVALID, or FLK_REF_CREDENTIALS for user info: only ssh may name a user, and nobody a password. */
export function parseRefUrl(text: string): RefUrl {
  const match = urlPattern.exec(text);
  if (!match) throw invalidRef(text, 'not a URL; write blanks and other special characters as %XX');
  const [, scheme = '', authority, path = '', query = ''] = match;
  return {
    scheme,
    ...(authority === undefined ? {} : { authority: parseAuthority(text, scheme, authority) }),
    path: path.split('/').map((segment) => decode(text, segment)),
    query: parseQuery(text, query),
  };
}

/** The query of a path without a scheme. */
export function decodeQuery(text: string, query: string): ReadonlyMap<string, string> {
  if (!queryPattern.test(lenient(`?${query}`).slice(1)))
    throw invalidRef(text, 'not a query; write special characters as %XX');
  return parseQuery(text, query);
}

/** As `parseRefUrl`; blanks and quotes may stand in the query as they are, for people type them. */
export function parseTypedUrl(text: string): RefUrl {
  return parseRefUrl(lenient(text));
}

function lenient(text: string): string {
  const mark = text.indexOf('?');
  if (mark < 0) return text;
  return text.slice(0, mark) + text.slice(mark).replaceAll(' ', '%20').replaceAll('"', '%22');
}

function parseAuthority(text: string, scheme: string, authority: string): string {
  const match = authorityPattern.exec(authority);
  // Whatever stands before an @ is kept out of the message.
  if (!match) throw invalidRef(text.replace(/\/\/[^/]*@/, '//***@'), 'its host is not one');
  const [, user, password, host, port] = match;
  if (user !== undefined && (password !== undefined || !/(^|\+)ssh$/.test(scheme)))
    throw new FlkError(
      'FLK_REF_CREDENTIALS',
      `flake reference to ${host ?? 'a host'} holds ${password === undefined ? 'a user name' : 'a password'}`,
    );
  if (user?.startsWith('-')) throw invalidRef(text, 'its user name begins with a dash');
  if (host === undefined && (user !== undefined || port !== undefined))
    throw invalidRef(text, 'its host is missing');
  if (port !== undefined && Number(port) > 65535) throw invalidRef(text, 'its port is above 65535');
  return `${user === undefined ? '' : `${user}@`}${host ?? ''}${port ? `:${Number(port)}` : ''}`;
}

function parseQuery(text: string, query: string): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  for (const part of query.split('&')) {
    const equals = part.indexOf('=');
    // Nix drops a name without a value.
    if (equals < 0) continue;
    const name = decode(text, part.slice(0, equals));
    if (!parameters.has(name)) parameters.set(name, decode(text, part.slice(equals + 1)));
  }
  return parameters;
}

function decode(text: string, part: string): string {
  if (!part.includes('%')) return part;
  let decoded: string;
  try {
    decoded = decodeURIComponent(part);
  } catch (cause) {
    throw new FlkError('FLK_REF_INVALID', `flake reference ‘${shown(text)}’: ‘${shown(part)}’ is not UTF-8`, {
      cause,
    });
  }
  if (/[\u0000-\u001f\u007f]/.test(decoded)) throw invalidRef(text, 'it holds a control character');
  return decoded;
}

export function printRefUrl(url: RefUrl): string {
  const authority = url.authority === undefined ? '' : `//${url.authority}`;
  const path = url.path.map((segment) => encode(segment, /[:@]/)).join('/');
  return `${url.scheme}:${authority}${path}${printQuery(url.query)}`;
}

/** `?a=1&b=2`, names in byte order; empty for none. */
function printQuery(query: ReadonlyMap<string, string>): string {
  if (query.size === 0) return '';
  const parts = [...query]
    .sort(([a], [b]) => compareBytes(a, b))
    .map(([name, value]) => `${encode(name, /[:@/?]/)}=${encode(value, /[:@/?]/)}`);
  return `?${parts.join('&')}`;
}

/** Percent-encodes all but unreserved characters and those that `bare` matches. */
function encode(text: string, bare: RegExp): string {
  return text.replace(/[^A-Za-z0-9._~-]/gu, (character) =>
    bare.test(character)
      ? character
      : [...Buffer.from(character)]
          .map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`)
          .join(''),
  );
}
