/** `.narinfo`: what a binary cache says of one store path. Format: Nix 2.34's `NarInfo`, read more strictly than Nix does. */
import { compareBytes } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import type { Compression } from './archives/decompress.ts';
import { digestOf, type NarHash, parseNarHash, toNixBase32 } from './hash.ts';
import { isSignature } from './signature.ts';
import { baseNameOf, parseStorePath, type StorePath, storeDir } from './store-path.ts';

export interface NarInfo {
  readonly path: StorePath;
  /** Of the archive, from the cache's root: `nar/HASH.nar.xz`. */
  readonly url: string;
  /** How the archive is packed. */
  readonly compression: Compression;
  /** Of the archive as it lies in the cache. Some caches do not say. */
  readonly fileHash?: NarHash;
  readonly fileSize?: number;
  readonly narHash: NarHash;
  readonly narSize: number;
  /** Sorted. */
  readonly references: readonly StorePath[];
  readonly deriver?: StorePath;
  /** `NAME:base64`. */
  readonly signatures: readonly string[];
  readonly ca?: string;
}

/** Bytes. A path with ten thousand references needs no more. */
export const maxNarInfoSize = 2 ** 20;
/** Each may have to be verified. */
const maxSignatures = 100;
const compressions: readonly Compression[] = ['none', 'xz', 'zstd', 'gzip', 'bzip2'];

/** `sha256:` and nixbase32, as narinfos and content addresses write hashes. */
export function toNarInfoHash(hash: NarHash): string {
  return `sha256:${toNixBase32(digestOf(hash))}`;
}

/** What a signature is made for: the path, what is in it, and what it refers to. */
export function fingerprint(info: Pick<NarInfo, 'path' | 'narHash' | 'narSize' | 'references'>): string {
  const references = [...new Set(info.references)].sort(compareBytes).join(',');
  return `1;${info.path};${toNarInfoHash(info.narHash)};${info.narSize};${references}`;
}

/** One `Name: value` a line, newline at the end. */
export function printNarInfo(info: NarInfo): string {
  const lines = [`StorePath: ${info.path}`, `URL: ${info.url}`, `Compression: ${info.compression}`];
  if (info.fileHash !== undefined) lines.push(`FileHash: ${toNarInfoHash(info.fileHash)}`);
  if (info.fileSize !== undefined) lines.push(`FileSize: ${info.fileSize}`);
  lines.push(
    `NarHash: ${toNarInfoHash(info.narHash)}`,
    `NarSize: ${info.narSize}`,
    `References: ${info.references.map(baseNameOf).join(' ')}`,
  );
  if (info.deriver !== undefined) lines.push(`Deriver: ${baseNameOf(info.deriver)}`);
  for (const signature of info.signatures) lines.push(`Sig: ${signature}`);
  if (info.ca !== undefined) lines.push(`CA: ${info.ca}`);
  return `${lines.join('\n')}\n`;
}

/**
 * What a cache says of `path`. Names of fields that are not known are read past, as Nix does. Throws FLK_CACHE_INVALID, also where
 * it speaks of another path and where the archive would lie outside the cache. Whether to believe it is not decided here.
 */
export function parseNarInfo(text: string, path: StorePath): NarInfo {
  const fields = new Fields(text, path);
  const found = fields.need('StorePath', (value) => parseStorePath(value));
  if (found !== path) throw fields.fault(`speaks of ${found}`);
  const fileHash = fields.get('FileHash', parseNarHash);
  const fileSize = fields.get('FileSize', sizeOf);
  const deriver = fields.get('Deriver', (value) =>
    value === 'unknown-deriver' ? undefined : parseStorePath(`${storeDir}/${value}`),
  );
  const ca = fields.get('CA', (value) => (value === '' ? undefined : value));
  const signatures = fields.all('Sig');
  if (signatures.length > maxSignatures) throw fields.fault(`has ${signatures.length} signatures`);
  if (!signatures.every(isSignature)) throw fields.fault('has a Sig that is none');
  const references = (fields.get('References', (value) => value) ?? '')
    .split(' ')
    .filter((word) => word !== '');
  return {
    path,
    url: fields.need('URL', urlInside),
    compression: fields.need('Compression', compressionNamed),
    ...(fileHash === undefined ? {} : { fileHash }),
    // Nix writes 0 where it does not know.
    ...(fileSize ? { fileSize } : {}),
    narHash: fields.need('NarHash', parseNarHash),
    narSize: fields.need('NarSize', narSizeOf),
    references: fields.checked('References', () =>
      [...new Set(references.map((name) => parseStorePath(`${storeDir}/${name}`)))].sort(compareBytes),
    ),
    ...(deriver === undefined ? {} : { deriver }),
    signatures,
    ...(ca === undefined ? {} : { ca }),
  };
}

/** The lines of one narinfo, by their names. */
class Fields {
  readonly #path: StorePath;
  readonly #values = new Map<string, string[]>();

  constructor(text: string, path: StorePath) {
    this.#path = path;
    if (text.length > maxNarInfoSize) throw this.fault(`has more than ${maxNarInfoSize} bytes`);
    if (!text.endsWith('\n')) throw this.fault('breaks off');
    for (const line of text.slice(0, -1).split('\n')) {
      const [, name, value] = /^([A-Za-z][A-Za-z0-9_-]{0,63}):(?: (.*))?$/.exec(line) ?? [];
      if (name === undefined) throw this.fault(`has a line that is no field: ${line.slice(0, 80)}`);
      const known = this.#values.get(name);
      if (known && name !== 'Sig') throw this.fault(`has ${name} twice`);
      this.#values.set(name, [...(known ?? []), value ?? '']);
    }
  }

  all(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }

  get<T>(name: string, read: (value: string) => T): T | undefined {
    const [value] = this.all(name);
    return value === undefined ? undefined : this.checked(name, () => read(value));
  }

  need<T>(name: string, read: (value: string) => T): T {
    const [value] = this.all(name);
    if (value === undefined || value === '') throw this.fault(`has no ${name}`);
    return this.checked(name, () => read(value));
  }

  /** Whatever is wrong with a value, it is the cache that is wrong. */
  checked<T>(name: string, read: () => T): T {
    try {
      return read();
    } catch (cause) {
      throw this.fault(`has a bad ${name}: ${cause instanceof Error ? cause.message : ''}`, cause);
    }
  }

  fault(what: string, cause?: unknown): FlkError {
    return new FlkError('FLK_CACHE_INVALID', `the narinfo of ${this.#path} ${what}`, { cause });
  }
}

function sizeOf(text: string): number {
  if (!/^\d{1,16}$/.test(text) || Number(text) > Number.MAX_SAFE_INTEGER)
    throw new RangeError(`${text.slice(0, 40)} is not a size`);
  return Number(text);
}

function narSizeOf(text: string): number {
  const size = sizeOf(text);
  if (size === 0) throw new RangeError('no archive is empty');
  return size;
}

function compressionNamed(text: string): Compression {
  const known = compressions.find((name) => name === text);
  if (known === undefined)
    throw new RangeError(`${text.slice(0, 40)} is not one of ${compressions.join(', ')}`);
  return known;
}

/** A place below the cache's own address, however a server or a browser might read it. A query may follow: some caches have one. */
function urlInside(text: string): string {
  const path = text.replace(/\?.*$/s, '').replace(/%2e/gi, '.').replace(/%2f/gi, '/');
  const leaves =
    !/^[!$&-;=?-Z_a-z~%@]{1,1024}$/.test(text) ||
    /^[a-z][a-z0-9+.-]*:/i.test(path) ||
    path.startsWith('/') ||
    path.split('/').some((part) => part === '' || part === '.' || part === '..');
  if (leaves) throw new RangeError(`${text.slice(0, 80)} does not lie in the cache`);
  return text;
}
