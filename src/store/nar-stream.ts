/**
 * The NAR of a path on disk as somebody takes it: a walk that waits, where DiskWalk runs ahead of its sink. A reader that is slow, or
 * gone, costs a buffer and not the archive; of a part that nobody asked for no file is read.
 */
import { closeSync, constants, type Dirent, fstatSync, lstatSync, openSync, read, readSync } from 'node:fs';
import { readdir, readlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import { FlkError } from '../base/errors.ts';
import { maxDepth, NarWriter, type TreeSink } from '../formats/nar.ts';
import { ListingSink, type NarListing } from '../formats/nar-listing.ts';
import { tee } from '../formats/tree-sinks.ts';
import { type BytePath, bytePath, onDisk } from './tree-files.ts';

const readSome = promisify(read);

const pieceSize = 256 * 1024;
/** Files up to here are read in one call: handing them to the thread pool takes longer. */
const readAtOnce = 32 * 1024;
const zeros = Buffer.alloc(1024 * 1024);

/**
 * The bytes from `from` up to `to` of the NAR of what lies at a place. Throws FLK_FILE_UNREADABLE where a file is gone, is no file, or
 * changes meanwhile; stops early where the reader does.
 */
export async function* readNar(
  place: string,
  from = 0,
  to = Number.POSITIVE_INFINITY,
): AsyncGenerator<Buffer> {
  const ready: Buffer[] = [];
  let waiting = 0;
  let position = 0;
  const writer = new NarWriter((chunk) => {
    const wanted = chunk.subarray(Math.max(0, from - position), Math.max(0, to - position));
    position += chunk.length;
    if (wanted.length === 0) return;
    // The writer uses its buffer again.
    ready.push(Buffer.from(wanted));
    waiting += wanted.length;
  });
  // What lies before the range is as long without its bytes.
  const isWanted = (size: number): boolean => writer.size + size > from;
  for await (const _ of walk(place, writer, isWanted)) {
    if (waiting >= pieceSize) {
      waiting = 0;
      yield* ready.splice(0);
    }
    if (position >= to) break;
  }
  if (position < to) writer.end();
  yield* ready;
}

/** What lies at a place, as a binary cache's `.ls` lists it. No file is read. Throws FLK_FILE_UNREADABLE. */
export async function listNar(place: string): Promise<NarListing> {
  const writer = new NarWriter(() => {});
  const listing = new ListingSink(() => writer.size);
  for await (const _ of walk(place, tee(writer, listing), () => false));
  return listing.root!;
}

interface OpenFolder {
  readonly path: BytePath;
  readonly entries: readonly Dirent<string>[];
  next: number;
}

/** Walks a sink over a place, and waits after every piece of data and every node. Files that `isWanted` does not want pass as zeros. */
async function* walk(
  place: string,
  sink: TreeSink,
  isWanted: (size: number) => boolean,
): AsyncGenerator<void> {
  const folders: OpenFolder[] = [];
  const root = bytePath(place);
  let here: { readonly path: BytePath; readonly kind: Pick<Dirent, 'isDirectory' | 'isFile'> } | undefined = {
    path: root,
    kind: reading(root, () => lstatSync(onDisk(root))),
  };
  while (here) {
    const { path, kind } = here;
    if (kind.isDirectory()) {
      if (folders.length >= maxDepth)
        throw new FlkError('FLK_LIMIT', `a folder in ${place} is more than ${maxDepth} folders deep`);
      const entries = await readdir(onDisk(path), { withFileTypes: true, encoding: 'latin1' }).catch(
        (error: unknown) => {
          throw unreadable(path, error);
        },
      );
      entries.sort((a, b) => (a.name < b.name ? -1 : 1));
      sink.directory();
      folders.push({ path, entries, next: 0 });
    } else if (kind.isFile()) yield* sendFile(path, sink, isWanted);
    else
      sink.symlink(
        await readlink(onDisk(path), 'buffer').catch((error: unknown) => {
          throw unreadable(path, error);
        }),
      );
    yield;
    let folder = folders.at(-1);
    while (folder && folder.next === folder.entries.length) {
      sink.endDirectory();
      folders.pop();
      folder = folders.at(-1);
    }
    const entry: Dirent<string> | undefined = folder?.entries[folder.next++];
    if (entry) sink.entry(Buffer.from(entry.name, 'latin1'));
    here = folder && entry && { path: `${folder.path}/${entry.name}`, kind: entry };
  }
}

async function* sendFile(
  path: BytePath,
  sink: TreeSink,
  isWanted: (size: number) => boolean,
): AsyncGenerator<void> {
  // Somebody may have put a link or a pipe in its place.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const fd = reading(path, () => openSync(onDisk(path), flags));
  try {
    const info = fstatSync(fd);
    if (!info.isFile()) throw unreadable(path, new Error('it is no file any more'));
    sink.file(info.size, (info.mode & 0o100) !== 0);
    let buffer: Buffer | undefined;
    for (let at = 0; at < info.size; yield) {
      const left = info.size - at;
      const skipped = Math.min(left, zeros.length);
      if (!isWanted(skipped)) {
        sink.data(zeros.subarray(0, skipped));
        at += skipped;
        continue;
      }
      const size = Math.min(left, pieceSize);
      buffer ??= Buffer.allocUnsafe(size);
      const count =
        size <= readAtOnce
          ? reading(path, () => readSync(fd, buffer!, 0, size, at))
          : (await readSome(fd, buffer, 0, size, at)).bytesRead;
      if (count === 0) throw unreadable(path, new Error('it became shorter'));
      sink.data(buffer.subarray(0, count));
      at += count;
    }
    sink.endFile();
  } finally {
    closeSync(fd);
  }
}

function reading<T>(path: BytePath, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: BytePath, cause: unknown): FlkError {
  const shown = Buffer.from(path, 'latin1').toString();
  return new FlkError('FLK_FILE_UNREADABLE', `cannot read ${shown}: ${(cause as Error).message}`, { cause });
}
