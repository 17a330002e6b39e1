/**
 * The folders that become `/` for programs of a store that lies elsewhere than at /nix/store: `nix/var/flk/views/KEY`. They outlive the
 * flk that made them, for programs run in them and launchers name them; one that neither is true of goes a month after it was last used.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemCode } from '../base/errors.ts';
import { withFileLock } from '../base/files.ts';
import type { Root } from './roots.ts';
import type { Store } from './store.ts';
import { removeTree } from './tree-files.ts';

const day = 86_400_000;
/** Milliseconds that a view stays unused. */
const keptUnused = 30 * day;

const viewsFolder = (store: Pick<Store, 'root'>): string => join(store.root, 'nix/var/flk/views');
const lockOf = (store: Pick<Store, 'root'>): string => join(store.root, 'nix/var/flk/locks/views');

/** Moves a view that was made to where it belongs, unless an equal one lies there already; gives that place. */
export async function settleView(store: Store, made: string, key: string): Promise<string> {
  const folder = join(viewsFolder(store), key);
  const known = await stat(folder).catch(() => undefined);
  if (known && Date.now() - known.mtimeMs < day) return folder;
  await mkdir(dirname(folder), { recursive: true });
  // A sweep looks for old ones under the same lock.
  await withFileLock(lockOf(store), async () => {
    await rename(made, folder).catch((error: unknown) => {
      if (!['EEXIST', 'ENOTEMPTY'].includes(systemCode(error) ?? '')) throw error;
    });
    const now = new Date();
    await utimes(folder, now, now);
  });
  return folder;
}

/** Removes the views that nothing uses any more; gives how many. `roots`: all there are. */
export async function sweepViews(
  store: Store,
  roots: readonly Root[],
  proc: string,
  now = Date.now(),
): Promise<number> {
  const folder = viewsFolder(store);
  const old = async (): Promise<string[]> => {
    const names = await readdir(folder).catch(() => []);
    const times = await Promise.all(names.map((name) => stat(join(folder, name)).catch(() => undefined)));
    return names.filter((_, i) => now - (times[i]?.mtimeMs ?? now) > keptUnused);
  };
  if ((await old()).length === 0) return 0;
  const used = new Set([...enteredViews(proc), ...(await launchedViews(roots))]);
  const stage = await store.stage();
  try {
    const gone = await withFileLock(lockOf(store), async () => {
      const names = (await old()).filter((name) => !used.has(name));
      for (const name of names) await rename(join(folder, name), join(stage.path, name));
      return names;
    });
    for (const name of gone) await removeTree(join(stage.path, name));
    return gone.length;
  } finally {
    await stage.dispose();
  }
}

const mention = /\/nix\/var\/flk\/views\/([0-9a-z]{32})\//g;
const mentioned = (text: string): string[] => [...text.matchAll(mention)].map(([, key]) => key!);

/** Of processes whose `/` is in one. */
function enteredViews(proc: string): string[] {
  return readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return mentioned(readFileSync(join(proc, pid, 'mountinfo'), 'latin1'));
      } catch {
        // It is gone, or somebody else's.
        return [];
      }
    });
}

/** Launchers are kept beside a root: `NAME-1-run` beside a generation's `NAME-1-link`, `launchers` beside an environment's `env`. */
async function launchedViews(roots: readonly Root[]): Promise<string[]> {
  const folders = roots.flatMap(({ place }) => [
    ...(place.endsWith('-link') ? [place.replace(/-link$/, '-run')] : []),
    ...(place.endsWith('/env') ? [join(dirname(place), 'launchers')] : []),
  ]);
  const found: string[] = [];
  for (const folder of folders)
    for (const entry of await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []))
      if (entry.isFile())
        found.push(
          ...mentioned(await readFile(join(entry.parentPath, entry.name), 'latin1').catch(() => '')),
        );
  return found;
}
