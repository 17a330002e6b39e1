/** `.narinfo`: what a binary cache says of one store path. Format: Nix 2.34's `NarInfo`. */

import { digestOf, type NarHash, toNixBase32 } from './hash.ts';
import { baseNameOf, type StorePath } from './store-path.ts';

/** How the archive in a cache is packed. */
type CacheCompression = 'none' | 'xz';

export interface NarInfo {
  readonly path: StorePath;
  /** Of the archive, from the cache's root: `nar/HASH.nar.xz`. */
  readonly url: string;
  readonly compression: CacheCompression;
  /** Of the archive as it lies in the cache. */
  readonly fileHash: NarHash;
  readonly fileSize: number;
  readonly narHash: NarHash;
  readonly narSize: number;
  readonly references: readonly StorePath[];
  readonly deriver?: StorePath;
  /** `NAME:base64`. */
  readonly signatures: readonly string[];
  readonly ca?: string;
}

/** `sha256:` and nixbase32, as narinfos and content addresses write hashes. */
export function toNarInfoHash(hash: NarHash): string {
  return `sha256:${toNixBase32(digestOf(hash))}`;
}

/** One `Name: value` a line, newline at the end. */
export function printNarInfo(info: NarInfo): string {
  const lines = [
    `StorePath: ${info.path}`,
    `URL: ${info.url}`,
    `Compression: ${info.compression}`,
    `FileHash: ${toNarInfoHash(info.fileHash)}`,
    `FileSize: ${info.fileSize}`,
    `NarHash: ${toNarInfoHash(info.narHash)}`,
    `NarSize: ${info.narSize}`,
    `References: ${info.references.map(baseNameOf).join(' ')}`,
  ];
  if (info.deriver !== undefined) lines.push(`Deriver: ${baseNameOf(info.deriver)}`);
  for (const signature of info.signatures) lines.push(`Sig: ${signature}`);
  if (info.ca !== undefined) lines.push(`CA: ${info.ca}`);
  return `${lines.join('\n')}\n`;
}
