/** What keeps paths alive: `result` links and other symlinks outside the store. */
import { lstat, readlink, rename, rm, symlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { FlkError, systemCode } from '../base/errors.ts';
import { unwritable } from '../base/files.ts';
import type { Store } from './store.ts';

/**
 * Makes `link` a symlink to `target` (a physical path) in one step and keeps what it leads to alive. Anything but a symlink that is
 * there is not touched: FLK_FILE_UNWRITABLE.
 */
export async function resultLink(store: Store, link: string, target: string): Promise<void> {
  const place = resolve(link);
  const info = await lstat(place).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw unwritable(place, error);
  });
  if (info && !info.isSymbolicLink())
    throw new FlkError('FLK_FILE_UNWRITABLE', `${place} is not a symlink, so it is left as it is`, {
      hint: 'move it away, or choose another place with --out-link',
    });
  if (!info || (await readlink(place).catch(() => undefined)) !== target) {
    const staged = join(
      dirname(place),
      `.${basename(place)}.${process.pid}.${Math.random().toString(36).slice(2)}`,
    );
    try {
      await symlink(target, staged);
      await rename(staged, place);
    } catch (error) {
      await rm(staged, { force: true }).catch(() => {});
      throw unwritable(place, error);
    }
  }
  await store.addIndirectRoot(place);
}
