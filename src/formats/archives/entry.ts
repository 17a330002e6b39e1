/** What an archive of any kind holds, one thing after the other, as its author claims it: nothing here is trusted yet. */
import { FlkError } from '../../base/errors.ts';

interface CommonEntry {
  readonly path: Buffer;
  /** When it was last changed, in whole seconds since 1970; negative before. */
  readonly modified: number;
}

export type ArchiveEntry = CommonEntry &
  (
    | { readonly kind: 'directory' }
    | {
        readonly kind: 'file';
        /** Whether its owner may run it. */
        readonly executable: boolean;
        /** To be read to its end, or left alone, before the next entry is asked for. */
        readonly content: AsyncIterable<Buffer>;
      }
    | { readonly kind: 'symlink'; readonly target: Buffer }
    /** Another name for a file that came earlier; `target` is a path from the archive's top. */
    | { readonly kind: 'hardlink'; readonly target: Buffer }
  );

export function archiveError(message: string, cause?: unknown): FlkError {
  return new FlkError('FLK_ARCHIVE_INVALID', message, cause === undefined ? {} : { cause });
}

/** An archive that ends too early: what carried it may do better the next time. */
export class ArchiveTruncated extends FlkError {
  constructor(message: string, cause?: unknown) {
    super('FLK_ARCHIVE_INVALID', message, cause === undefined ? {} : { cause });
  }
}
