/** What an archive of any kind holds, one thing after the other, as its author claims it: nothing here is trusted yet. */
import { FlkError } from '../../base/errors.ts';

export type ArchiveEntry =
  | { readonly kind: 'directory'; readonly path: Buffer }
  | {
      readonly kind: 'file';
      readonly path: Buffer;
      readonly executable: boolean;
      /** To be read to its end, or left alone, before the next entry is asked for. */
      readonly content: AsyncIterable<Buffer>;
    }
  | { readonly kind: 'symlink'; readonly path: Buffer; readonly target: Buffer }
  /** Another name for a file that came earlier; `target` is a path from the archive's top. */
  | { readonly kind: 'hardlink'; readonly path: Buffer; readonly target: Buffer };

export function archiveError(message: string, cause?: unknown): FlkError {
  return new FlkError('FLK_ARCHIVE_INVALID', message, cause === undefined ? {} : { cause });
}
