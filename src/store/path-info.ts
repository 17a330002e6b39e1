/** What a store knows about a path. */
import type { NarHash } from '../formats/hash.ts';
import type { StorePath } from '../formats/store-path.ts';

export interface PathInfo {
  readonly path: StorePath;
  readonly narHash: NarHash;
  readonly narSize: number;
  /** Store paths whose hash part occurs in the content; may hold the path itself. Sorted. */
  readonly references: readonly StorePath[];
  readonly deriver?: StorePath;
  /** Seconds since 1970. */
  readonly registrationTime: number;
  /** Built or computed here, not taken on someone's word. */
  readonly ultimate: boolean;
  /** `NAME:base64`. */
  readonly signatures: readonly string[];
  /** Content address, as narinfo prints it (`fixed:r:sha256:…`, `text:sha256:…`); a path with one needs no signature. */
  readonly ca?: string;
}

/** What is said of a path that came from elsewhere, as the record of one that becomes valid now. */
export function takenOver(
  said: Omit<PathInfo, 'registrationTime' | 'ultimate' | 'ca' | 'signatures'> &
    Partial<Pick<PathInfo, 'signatures'>>,
  /** Where the content proves it. */
  ca: string | undefined,
): PathInfo {
  const { path, narHash, narSize, references, deriver, signatures = [] } = said;
  return {
    path,
    narHash,
    narSize,
    references,
    ...(deriver === undefined ? {} : { deriver }),
    registrationTime: Math.floor(Date.now() / 1000),
    ultimate: false,
    signatures,
    ...(ca === undefined ? {} : { ca }),
  };
}
