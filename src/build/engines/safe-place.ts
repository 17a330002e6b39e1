/** Whether builds can be done where the store lies: nobody else may exchange its folders, and programs must run there. */
import { lstat, readFile, readlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { FlkError, systemCode } from '../../base/errors.ts';

/** As many links as Linux follows. */
const maxLinks = 40;

/** What of the world decides; replaced in tests. */
export interface Facts {
  readonly user: number;
  readonly mountinfo: string;
}

/**
 * Throws FLK_STORE_UNSAFE where a folder on the way may be written by everybody and keeps nobody from renaming what is not theirs,
 * where a link on the way is another user's, and where what is mounted there runs no programs.
 */
export async function assertSafePlace(folder: string, facts?: Facts): Promise<void> {
  const { user, mountinfo } = facts ?? {
    user: process.getuid?.() ?? 0,
    mountinfo: await readFile('/proc/self/mountinfo', 'utf8'),
  };
  const ahead = folder.split('/').filter(Boolean).reverse();
  let here = '/';
  for (let links = 0, name = ahead.pop(); name !== undefined; name = ahead.pop()) {
    const next = join(here, name);
    const info = await lstat(next).catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (!info) break;
    if (info.isSymbolicLink()) {
      if (info.uid !== 0 && info.uid !== user) throw unsafe(folder, `${next} is a link of another user’s`);
      if (++links > maxLinks) throw unsafe(folder, 'it is behind too many links');
      ahead.push(
        ...resolve(here, await readlink(next))
          .split('/')
          .filter(Boolean)
          .reverse(),
      );
      here = '/';
      continue;
    }
    // Without the sticky bit everybody may rename what is in it, whoever owns that.
    if ((info.mode & 0o1002) === 0o002)
      throw unsafe(
        folder,
        `everybody may change what is in ${next}`,
        `chmod o-w ${next}, or use another --store`,
      );
    here = next;
  }
  const mount = mountOf(here, mountinfo);
  if (mount?.options.includes('noexec'))
    throw unsafe(
      folder,
      `${mount.target} is mounted noexec: what a build makes could not run`,
      `sudo mount -o remount,exec ${mount.target}, or use another --store`,
    );
}

/** The mount that a path, without links, lies on. Format: proc(5), mountinfo; the last line that fits is on top. */
function mountOf(
  path: string,
  mountinfo: string,
): { readonly target: string; readonly options: readonly string[] } | undefined {
  const above = new Set<string>(['/']);
  for (let folder = path; folder !== '/'; folder = dirname(folder)) above.add(folder);
  let found: { target: string; options: string[] } | undefined;
  for (const line of mountinfo.split('\n')) {
    const [, , , , written = '', options = ''] = line.split(' ');
    const target = written.replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    if (above.has(target) && target.length >= (found?.target.length ?? 0))
      found = { target, options: options.split(',') };
  }
  return found;
}

function unsafe(folder: string, why: string, hint?: string): FlkError {
  return new FlkError(
    'FLK_STORE_UNSAFE',
    `builds cannot be done in ${folder}: ${why}`,
    hint === undefined ? {} : { hint },
  );
}
