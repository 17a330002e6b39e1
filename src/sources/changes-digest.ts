/** What tells one changed working tree from another, as Nix 2.34 has it in a flake's fingerprint. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Rev } from '../flake/flake-ref.ts';
import { NarWriter, padded } from '../formats/nar.ts';
import { walkPath } from '../store/tree-files.ts';
import { lookAt } from './disk.ts';
import { changedFiles, hasGit } from './worktree.ts';

/**
 * `REV;d=SHA512`: HEAD (zeros where nothing is committed) and the hash over each `modified:` path with its NAR, then each
 * `deleted:` path. Undefined where Nix has none, with submodules, and where there is no git program. Throws FLK_GIT_WORKTREE.
 */
export async function digestOfChanges(
  root: string,
  rev: Rev | undefined,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  if (lookAt(join(root, '.gitmodules')) || !(await hasGit())) return undefined;
  const { changed, deleted } = await changedFiles(root, signal);
  const hash = createHash('sha512');
  const put = (word: string, path: Buffer): void => {
    for (const text of [Buffer.from(word), Buffer.concat([Buffer.from('/'), path])])
      hash.update(narString(text));
  };
  for (const path of changed) {
    put('modified:', path);
    const nar = new NarWriter((chunk) => void hash.update(chunk));
    await walkPath(join(root, path.toString())).walk(nar, signal);
    nar.end();
  }
  for (const path of deleted) put('deleted:', path);
  return `${rev ?? '0'.repeat(40)};d=${hash.digest('hex')}`;
}

/** Eight bytes of length, the bytes, zeros up to a multiple of eight. */
function narString(text: Buffer): Buffer {
  const string = Buffer.alloc(8 + padded(text.length));
  string.writeUInt32LE(text.length);
  text.copy(string, 8);
  return string;
}
