/** What a file is by its first bytes: never by its name. */

import { arMagic } from './deb.ts';
import { compressionOf } from './decompress.ts';
import { isZip } from './zip.ts';

export type ArchiveKind = 'zip' | 'deb' | 'tar';

/** Enough leading bytes for `archiveKind`. */
export const headLength = 512;

/** `tar` stands also for what is compressed: only its decoder can tell more. undefined where it is certainly none of them. */
export function archiveKind(head: Buffer): ArchiveKind | undefined {
  if (isZip(head)) return 'zip';
  if (head.subarray(0, arMagic.length).equals(arMagic)) return 'deb';
  return compressionOf(head) !== 'none' || head.length >= headLength ? 'tar' : undefined;
}
