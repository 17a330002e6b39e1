/** A working tree with its submodules: what Git tracks in it and, below their paths, in theirs, as it is on disk. */
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { quote } from '../base/process.ts';
import { parseGitmodules } from '../formats/git-modules.ts';
import { lookAt, readRegularFile } from './disk.ts';
import { maxSubmoduleDepth, submodulePath } from './git-submodules.ts';
import type { TrackedEntry, TrackedState } from './tracked-files.ts';
import { readTracked } from './worktree.ts';

/**
 * As `readTracked`, recursively, and as Nix 2.34 has it: whatever commit a submodule has checked out is taken, and a change in one is
 * a change of the whole. Throws FLK_GIT_SUBMODULE for one that is not checked out.
 */
export async function readTrackedWithSubmodules(
  root: string,
  signal?: AbortSignal,
  depth = 0,
): Promise<TrackedState> {
  const state = await readTracked(root, signal);
  if (depth > maxSubmoduleDepth)
    throw new FlkError(
      'FLK_LIMIT',
      `${root} is a submodule of a submodule, more than ${maxSubmoduleDepth} deep`,
    );
  const known = new Set(state.entries.filter((entry) => entry.submodule).map(({ path }) => path));
  const text = readRegularFile(join(root, '.gitmodules'))?.toString() ?? '';
  const entries: TrackedEntry[] = [...state.entries];
  let { dirty } = state;
  for (const { name, path } of parseGitmodules(text)) {
    const at = submodulePath(name, path);
    if (!known.delete(at)) continue;
    const prefix = Buffer.from(`${at}/`, 'latin1');
    const folder = join(root, prefix.toString());
    if (!isCheckedOut(root, prefix.toString()))
      throw new FlkError('FLK_GIT_SUBMODULE', `the submodule ${path} of ${root} is not checked out`, {
        hint: `git -C ${quote(root)} submodule update --init --recursive`,
      });
    const inner = await readTrackedWithSubmodules(folder, signal, depth + 1);
    dirty ||= inner.dirty;
    for (const entry of inner.entries) entries.push({ ...entry, path: `${at}/${entry.path}` });
  }
  return { ...state, entries, dirty };
}

/** Whether there is a repository, and no link on the way to it. */
function isCheckedOut(root: string, path: string): boolean {
  let at = root;
  for (const name of path.split('/').filter(Boolean)) {
    at = join(at, name);
    if (!lookAt(at)?.isDirectory()) return false;
  }
  return lookAt(join(at, '.git')) !== undefined;
}
