/** Taking paths from binary caches instead of making them. */
import type { StorePath } from '../formats/store-path.ts';

export interface Substituter {
  /**
   * Which of these paths some cache offers under a signature that is trusted, without fetching any: path → the cache's URL and the
   * sizes. Caches that cannot be reached are told once as a notice and then left alone.
   */
  offers(
    paths: readonly StorePath[],
  ): Promise<
    ReadonlyMap<StorePath, { readonly url: string; readonly fileSize: number; readonly narSize: number }>
  >;
  /**
   * Makes a path and all that it refers to valid. False: no cache has all of it, and what can be built should be. Paths are held and
   * locked by itself. Throws where a cache lies (FLK_NAR_HASH_MISMATCH, FLK_CACHE_…) and no other cache has the path.
   */
  substitute(path: StorePath): Promise<boolean>;
}
