/** `path:` sources: a folder (or file) of this machine, taken as it is, whether or not Git knows it. */
import { isAbsolute, normalize } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import type { PathRef } from '../flake/flake-ref.ts';
import type { SourceTree } from '../flake/source.ts';
import { hashTree } from '../formats/nar.ts';
import { walkPath } from '../store/tree-files.ts';
import { lookAt, readBelow } from './disk.ts';

export interface PathOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
}

/**
 * Hashes what lies at `ref.path`, which is absolute. `lastModified` is the newest mtime of any node, folders and links included,
 * in whole seconds and not before 1970 (as `nix flake metadata path:…`, 2.34), unless the reference has one.
 * Throws FLK_FILE_UNREADABLE, FLK_NAR_HASH_MISMATCH.
 */
export async function fetchPath(
  ref: PathRef,
  options: PathOptions,
): Promise<{ locked: PathRef; tree: SourceTree }> {
  if (!isAbsolute(ref.path))
    throw new FlkError('FLK_INTERNAL', `path:${ref.path} was not made absolute before it was fetched`);
  const path = normalize(ref.path).replace(/(?<=.)\/+$/, '');
  const info = lookAt(path);
  if (!info) throw new FlkError('FLK_FILE_UNREADABLE', `${path} does not exist`);
  if (info.isSymbolicLink())
    throw new FlkError('FLK_FILE_UNREADABLE', `${path} is a symlink, and a source tree is not`, {
      hint: 'name the folder that it points to',
    });
  return await span(options.reporter, { type: 'hash', subject: `path:${path}` }, async (work) => {
    let newest = 0;
    const dated = walkPath(path, {
      seen: ({ mtimeMs }) => {
        newest = Math.max(newest, Math.floor(mtimeMs / 1000));
      },
      progress: (bytes) => work.progress(bytes, undefined, 'bytes'),
    });
    const { narHash, narSize } = await hashTree(dated, options.signal);
    if (ref.narHash !== undefined && ref.narHash !== narHash)
      throw new FlkError('FLK_NAR_HASH_MISMATCH', `path:${path} is not what was locked`, {
        facts: { wanted: ref.narHash, found: narHash },
      });
    const { walk } = walkPath(path);
    return {
      // The path as it was written, slashes at the end and all, as Nix locks it.
      locked: { ...ref, narHash, lastModified: ref.lastModified ?? newest },
      tree: { narHash, narSize, walk, readFile: async (name) => readBelow(path, name) },
    };
  });
}
