/** Builders that flk runs in its own process: `builtin:flk-fetch` and `builtin:flk-merge`. They need no shell and no toolchain. */
import { FlkError } from '../base/errors.ts';
import type { Derivation } from '../formats/derivation.ts';
import type { StorePath } from '../formats/store-path.ts';
import { type FetchContext, fetchBuilder, runFetch } from './fetch.ts';
import { mergeBuilder, runMerge } from './merge.ts';

/** What they need. */
export type BuiltinContext = FetchContext;

export function isBuiltin(derivation: Derivation): boolean {
  return derivation.builder.startsWith('builtin:');
}

/**
 * Makes the only output of such a derivation valid. The inputs must be, the output must not be, and the caller holds its lock
 * (`Store.withPathLocks`). Throws FLK_FETCH_HASH_MISMATCH and what
 * the download and the archive throw; then nothing has become valid.
 */
export async function runBuiltin(
  drvPath: StorePath,
  derivation: Derivation,
  context: BuiltinContext,
): Promise<void> {
  switch (derivation.builder) {
    case fetchBuilder:
      return runFetch(drvPath, derivation, context);
    case mergeBuilder:
      return runMerge(drvPath, derivation, context.store, context.signal);
    default:
      throw new FlkError(
        'FLK_DERIVATION_INVALID',
        `${drvPath} has an unknown builder, ${derivation.builder}`,
      );
  }
}
