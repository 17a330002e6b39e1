/** Where a server is, what lets us in there, and whether that may be sent. */
import { readFile } from 'node:fs/promises';
import { isIPv4 } from 'node:net';
import { FlkError } from '../../../base/errors.ts';

/** What lets us in. Nothing of it is ever shown. */
export interface RemoteCredentials {
  /** Sent as `authorization: Bearer …`. */
  readonly token?: string | undefined;
  /** Sent with each call; names in lower case. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** PEM files: who signs the server's certificate, instead of those that Node trusts; our certificate, and its key. */
  readonly caFile?: string | undefined;
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  /** Lets secrets go over a network that may be listened to. */
  readonly allowPlaintext?: boolean | undefined;
}

export interface Address {
  /** As gRPC names it: `host:port`, `unix:/path`. */
  readonly target: string;
  readonly tls: boolean;
  /** Never leaves this machine. */
  readonly local: boolean;
}

/** `grpc://HOST:PORT`, `grpcs://HOST[:443]` or `unix:/PATH`. Throws FLK_REMOTE_ADDRESS. */
export function parseAddress(text: string): Address {
  if (/^unix:\/[^\0]+$/.test(text)) return { target: text, tls: false, local: true };
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw invalid(text, 'it is no URL');
  }
  const { protocol, hostname, pathname, search, hash } = url;
  if (protocol !== 'grpc:' && protocol !== 'grpcs:') throw invalid(text, `${protocol}// is not spoken`);
  if (url.username !== '' || url.password !== '') throw invalid(text, 'it holds a user name or a password');
  if ((pathname !== '' && pathname !== '/') || search !== '' || hash !== '')
    throw invalid(text, 'nothing may follow the port');
  const tls = protocol === 'grpcs:';
  const port = url.port === '' && tls ? '443' : url.port;
  if (hostname === '' || port === '') throw invalid(text, 'it lacks a host or a port');
  return { target: `${hostname}:${port}`, tls, local: isLoopback(hostname) };
}

/** One of a server's instances, as people read it and as `--builders` takes it: `grpc://HOST:PORT?instance=NAME`. */
export function serverName(address: string, instance = ''): string {
  if (instance === '') return address;
  // A comma or an ampersand would end the name; slashes, of which some servers' names are full, do not.
  return `${address}?${new URLSearchParams({ instance }).toString().replaceAll('%2F', '/')}`;
}

const invalid = (text: string, reason: string): FlkError =>
  new FlkError('FLK_REMOTE_ADDRESS', `${text} is not where a remote builder can be: ${reason}`);

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '[::1]' || (isIPv4(host) && host.startsWith('127.'));

/**
 * What is sent with each call to be let in. Throws FLK_REMOTE_ADDRESS where a secret would go over a network in the clear, and
 * where something is no header.
 */
export function secretHeaders(
  { tls, local }: Address,
  { token, headers = {}, allowPlaintext }: RemoteCredentials,
): [string, string][] {
  const sent = Object.entries(headers);
  if (token !== undefined) sent.push(['authorization', `Bearer ${token}`]);
  for (const [name, value] of sent) {
    if (!/^[a-z0-9_.-]+$/.test(name) || name.startsWith('grpc-') || name.endsWith('-bin'))
      throw new FlkError('FLK_REMOTE_ADDRESS', `${name} is not a header that can be sent`);
    if (!/^[\x20-\x7e]+$/.test(value))
      throw new FlkError(
        'FLK_REMOTE_ADDRESS',
        `the value of the header ${name} has characters that no header has`,
      );
  }
  if (sent.length > 0 && !tls && !local && !allowPlaintext)
    throw new FlkError('FLK_REMOTE_ADDRESS', 'a token or header would go over the network in the clear', {
      hint: 'use grpcs://, or allow plaintext where the network itself is safe',
    });
  return sent;
}

export interface Certificates {
  readonly ca: Buffer | null;
  readonly key: Buffer | null;
  readonly cert: Buffer | null;
}

/** Throws FLK_FILE_UNREADABLE, and FLK_REMOTE_ADDRESS for half a pair. */
export async function readCertificates({
  caFile,
  keyFile,
  certFile,
}: RemoteCredentials): Promise<Certificates> {
  if ((keyFile === undefined) !== (certFile === undefined))
    throw new FlkError('FLK_REMOTE_ADDRESS', 'a client certificate and its key go together');
  const [ca, key, cert] = await Promise.all([caFile, keyFile, certFile].map(readIfNamed));
  return { ca: ca ?? null, key: key ?? null, cert: cert ?? null };
}

async function readIfNamed(file: string | undefined): Promise<Buffer | undefined> {
  if (file === undefined) return undefined;
  return await readFile(file).catch((error: Error) => {
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${file}: ${error.message}`, { cause: error });
  });
}
