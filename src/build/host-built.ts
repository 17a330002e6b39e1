/** What was built with this machine's own programs, and so is worth nothing to others. */
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';
import { parseDerivation } from '../formats/derivation.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import type { Store } from '../store/store.ts';

/** Bytes; a derivation with a hundred thousand inputs needs no more. */
const maxDerivation = 64 * 2 ** 20;
/** As many as a message may name. */
const maxNamed = 5;

/**
 * Throws FLK_CACHE_HOST_TOOLCHAIN where one of these paths, or anything that it was built from, came out of a build with
 * `toolchain: host`. What has a fixed output is what it is, however it was made; of what was taken from a cache, or added, nothing
 * is known here, and nothing is said.
 */
export async function assertNotHostBuilt(store: Store, paths: Iterable<StorePath>): Promise<void> {
  const drvPaths = new Set<StorePath>();
  for (const path of paths) {
    const info = store.query(path);
    if (info?.deriver !== undefined && info.ca === undefined) drvPaths.add(info.deriver);
  }
  const built: string[] = [];
  // Grows while it is walked.
  for (const drvPath of drvPaths) {
    if (!store.query(drvPath)) continue;
    const text = await readFileIfExists(store.physical(drvPath), maxDerivation);
    if (text === undefined) continue;
    const { env, outputs, inputDrvs } = parseDerivation(text.toString());
    if ([...outputs.values()].some(({ hash }) => hash !== '')) continue;
    if (env.get('toolchain') === 'host') built.push(nameOf(drvPath).replace(/\.drv$/, ''));
    for (const input of inputDrvs.keys()) drvPaths.add(input);
  }
  if (built.length === 0) return;
  const shown = built.slice(0, maxNamed).join(', ');
  const more = built.length > maxNamed ? ` and ${built.length - maxNamed} more` : '';
  throw new FlkError('FLK_CACHE_HOST_TOOLCHAIN', `built with this machine’s own programs: ${shown}${more}`);
}
