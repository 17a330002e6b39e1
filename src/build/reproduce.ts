/** Building again what is there, to see whether it comes out the same. */
import { FlkError } from '../base/errors.ts';
import type { Store } from '../store/store.ts';
import { walkPath } from '../store/tree-files.ts';
import { differences, type TakenOutput } from './outputs.ts';

/**
 * Compares what a second build left with what is valid. A path whose bytes on disk are not those of its record is put right; whether
 * one was. Throws FLK_BUILD_NOT_REPRODUCIBLE, naming each file that differs.
 */
export async function compareWithValid(
  store: Store,
  name: string,
  taken: readonly TakenOutput[],
): Promise<boolean> {
  const differing: string[] = [];
  const corrupt: TakenOutput[] = [];
  for (const output of taken) {
    const { path, narHash } = output.info;
    const intact = await store.verifyPath(path).then(
      () => true,
      (error: unknown) => {
        if (error instanceof FlkError && error.code === 'FLK_STORE_CORRUPT') return false;
        throw error;
      },
    );
    if (store.query(path)?.narHash === narHash) {
      if (!intact) corrupt.push(output);
      continue;
    }
    const lines = await differences(store.tree(path), walkPath(output.staged));
    differing.push(...lines.map((line) => `${path}: ${line}`));
  }
  if (differing.length > 0)
    throw new FlkError('FLK_BUILD_NOT_REPRODUCIBLE', `building ${name} again gave other bytes`, {
      facts: { [differing.length === 1 ? 'differs' : 'differ']: shortened(differing).join('\n') },
    });
  if (corrupt.length > 0) await store.register(corrupt, { replace: true });
  return corrupt.length > 0;
}

/** Nobody reads more; the count tells the rest. */
const maxDifferences = 1000;

const shortened = (lines: readonly string[]): readonly string[] =>
  lines.length <= maxDifferences
    ? lines
    : [...lines.slice(0, maxDifferences), `and ${lines.length - maxDifferences} more`];
