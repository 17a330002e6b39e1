/** Single looks at this machine's file system; nothing is followed, nothing is waited for. */
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync, type Stats } from 'node:fs';
import { FlkError, systemCode } from '../base/errors.ts';
import { isNodeName } from '../formats/nar.ts';

/** What `SourceTree.readFile` gives at most: manifests and locks are never near it. */
const maxFileInMemory = 16 * 1024 * 1024;

/** What stands at a path, links not followed; undefined where there is nothing. Throws FLK_FILE_UNREADABLE. */
export function lookAt(path: Buffer | string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (systemCode(error) === 'ENOTDIR') return undefined;
    throw unreadable(path, error);
  }
}

/** A regular file's bytes, undefined for anything else there. Larger than 16 MiB is FLK_LIMIT. */
export function readRegularFile(path: string): Buffer | undefined {
  if (!lookAt(path)?.isFile()) return undefined;
  let fd: number | undefined;
  try {
    // Since the look somebody may have put a link or a pipe there.
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { size } = fstatSync(fd);
    if (size > maxFileInMemory)
      throw new FlkError('FLK_LIMIT', `${path} has ${size} bytes; at most ${maxFileInMemory} are read`);
    const content = Buffer.alloc(size);
    for (let used = 0; used < size; ) {
      const count = readSync(fd, content, used, size - used, null);
      if (count === 0) throw new FlkError('FLK_FILE_UNREADABLE', `${path} changed while it was read`);
      used += count;
    }
    return content;
  } catch (error) {
    throw error instanceof FlkError ? error : unreadable(path, error);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** As `SourceTree.readFile`, on the disk below `root`: no link on the way is followed either. */
export function readBelow(root: string, path: string): Buffer | undefined {
  const names = path.split('/');
  if (!names.every((name) => isNodeName(Buffer.from(name)))) return undefined;
  let at = root;
  for (const name of names) {
    if (!lookAt(at)?.isDirectory()) return undefined;
    at += `/${name}`;
  }
  return readRegularFile(at);
}

export function unreadable(path: Buffer | string, error: unknown): FlkError {
  return new FlkError('FLK_FILE_UNREADABLE', `cannot read ${path}: ${(error as Error).message}`, {
    cause: error,
  });
}
