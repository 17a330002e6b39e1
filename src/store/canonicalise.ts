/** What a builder left, brought into the form that a store holds: modes 0444 and 0555, modification time 1, nothing special. */
import {
  chmodSync,
  constants,
  copyFileSync,
  lstatSync,
  lutimesSync,
  readdirSync,
  renameSync,
  type Stats,
} from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { FlkError } from '../base/errors.ts';
import { maxDepth } from '../formats/nar.ts';
import { canonicalTime } from './tree-files.ts';

const slash = Buffer.from('/');

interface LinkedFile {
  readonly path: Buffer;
  readonly links: number;
  readonly inode: string;
}

/**
 * Makes the tree at `path` canonical, in place. Devices, sockets, pipes and setuid or setgid files are FLK_BUILD_OUTPUT_INVALID. A
 * file that has a name outside the tree too (a hard link) is replaced by a copy: nobody may change a store's file from outside.
 * Whether anything may still write there is the caller's to know: a builder's processes must be gone.
 */
export async function canonicalise(path: string): Promise<void> {
  const root = Buffer.from(path);
  const linked: LinkedFile[] = [];
  let visited = 0;

  const visit = async (here: Buffer, depth: number): Promise<void> => {
    const info = lstatSync(here);
    if (info.isDirectory()) {
      if (depth >= maxDepth) throw invalid(root, here, `is more than ${maxDepth} folders deep`);
      // Also where the builder took its own right to list it.
      chmodSync(here, 0o755);
      for (const name of readdirSync(here, 'buffer'))
        await visit(Buffer.concat([here, slash, name]), depth + 1);
      chmodSync(here, 0o555);
    } else if (info.isFile()) {
      if (info.mode & 0o6000) throw invalid(root, here, 'is setuid or setgid');
      if (info.nlink > 1) {
        // Not touched before it is known whose else it is.
        linked.push({ path: here, links: info.nlink, inode: inodeOf(info) });
        return;
      }
      chmodSync(here, modeOf(info));
    } else if (!info.isSymbolicLink()) throw invalid(root, here, `is ${kindOf(info)}`);
    lutimesSync(here, canonicalTime, canonicalTime);
    if (++visited % 1000 === 0) await nextTurn();
  };

  try {
    await visit(root, 0);
    separate(linked);
  } catch (error) {
    if (error instanceof FlkError) throw error;
    throw new FlkError('FLK_BUILD_OUTPUT_INVALID', `cannot take over ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

const modeOf = (info: Stats): number => (info.mode & 0o100 ? 0o555 : 0o444);
const inodeOf = (info: Stats): string => `${info.dev}:${info.ino}`;

/** Makes files of several names canonical; those that have more names than were met in the tree by copying them. */
function separate(linked: readonly LinkedFile[]): void {
  const inside = new Map<string, number>();
  for (const { inode } of linked) inside.set(inode, (inside.get(inode) ?? 0) + 1);
  for (const { path, links, inode } of linked) {
    const mode = modeOf(lstatSync(path));
    if (inside.get(inode) === links) {
      chmodSync(path, mode);
      lutimesSync(path, canonicalTime, canonicalTime);
      continue;
    }
    const folder = path.subarray(0, path.lastIndexOf(slash));
    const { mode: before } = lstatSync(folder);
    const copy = Buffer.concat([path, Buffer.from('.flk-copy')]);
    chmodSync(folder, 0o755);
    copyFileSync(path, copy, constants.COPYFILE_EXCL);
    chmodSync(copy, mode);
    lutimesSync(copy, canonicalTime, canonicalTime);
    renameSync(copy, path);
    chmodSync(folder, before & 0o777);
    lutimesSync(folder, canonicalTime, canonicalTime);
  }
}

function kindOf(info: Stats): string {
  if (info.isSocket()) return 'a socket';
  return info.isFIFO() ? 'a pipe' : 'a device';
}

function invalid(root: Buffer, here: Buffer, what: string): FlkError {
  const inside = here.subarray(root.length + 1).toString() || 'the output itself';
  return new FlkError('FLK_BUILD_OUTPUT_INVALID', `${inside} ${what}; a store cannot hold it`, {
    facts: { found: here.toString() },
  });
}
