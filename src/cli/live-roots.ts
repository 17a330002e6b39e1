/** What locks keep alive in the store: a lock whose inputs lie there is one of its roots, for as long as the file is there. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';
import { isRelativePath } from '../flake/flake-ref.ts';
import { type LockFile, parseLockFile } from '../flake/lock-file.ts';
import { makeSourcePath, type StorePath } from '../formats/store-path.ts';
import type { ReadLock } from '../store/roots.ts';
import type { Context } from './context.ts';

/** Where a store keeps the sources of a lock's inputs, whether or not it does. */
function sourcesOf(lock: LockFile): StorePath[] {
  return [...lock.nodes.values()].flatMap(({ locked }) =>
    locked?.narHash === undefined || isRelativePath(locked) ? [] : makeSourcePath('source', locked.narHash),
  );
}

/** What a sweep asks about each lock that is a root. */
export const readLock: ReadLock = async (file) => {
  const bytes = await readFileIfExists(file);
  if (bytes === undefined) return [];
  return sourcesOf(parseLockFile({ path: file, text: bytes.toString() }));
};

/**
 * Lets a flake.lock on this machine keep its inputs, where any of them is in the store. A store that cannot be written, or that there
 * is not yet, changes nothing for who only wanted a lock.
 */
export async function keepInputs(
  context: Context,
  { lockPath, lock }: { readonly lockPath: string | undefined; readonly lock: LockFile },
): Promise<void> {
  if (lockPath === undefined || !existsSync(lockPath)) return;
  const sources = sourcesOf(lock);
  if (sources.length === 0 || !existsSync(join(context.folders.store, 'nix/var/flk/store.sqlite'))) return;
  try {
    const store = await context.store();
    if (sources.some((path) => store.query(path))) await store.addIndirectRoot(lockPath);
  } catch (error) {
    if (!(error instanceof FlkError) || !['FLK_FILE_UNWRITABLE', 'FLK_STORE_INVALID'].includes(error.code))
      throw error;
  }
}
