/** Folders on disk as trees of notes, to combine before anything is copied. */
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import type { Tree, TreeSink } from '../formats/nar.ts';

/** Names are latin1: one character per byte, so that comparing strings compares bytes. */
export type FolderNode =
  | { readonly kind: 'directory'; readonly entries: Map<string, FolderNode>; readonly origin: string }
  | {
      readonly kind: 'file';
      readonly place: Buffer;
      readonly size: number;
      readonly executable: boolean;
      readonly origin: string;
    }
  | { readonly kind: 'symlink'; readonly target: Buffer; readonly origin: string };

/** Notes on what lies at `path`; `origin` is put on every node. Special files are FLK_INTERNAL: stores and unpacked archives have none. */
export function scan(path: string, origin: string): FolderNode {
  return scanNode(Buffer.from(path), origin);
}

function scanNode(place: Buffer, origin: string): FolderNode {
  const info = lstatSync(place);
  if (info.isSymbolicLink()) return { kind: 'symlink', target: readlinkSync(place, 'buffer'), origin };
  if (info.isFile()) {
    return { kind: 'file', place, size: info.size, executable: (info.mode & 0o100) !== 0, origin };
  }
  if (!info.isDirectory()) throw new FlkError('FLK_INTERNAL', `${place} is no file, folder or link`);
  const entries = new Map<string, FolderNode>();
  for (const name of readdirSync(place, 'buffer')) {
    entries.set(name.toString('latin1'), scanNode(Buffer.concat([place, Buffer.from('/'), name]), origin));
  }
  return { kind: 'directory', entries, origin };
}

/** A tree to walk over the notes; files are read from where they lie. */
export function treeOf(node: FolderNode): Tree {
  return {
    walk: async (sink, signal) => {
      const buffer = Buffer.allocUnsafe(256 * 1024);
      const visit = async (at: FolderNode): Promise<void> => {
        throwIfAborted(signal);
        if (at.kind === 'symlink') sink.symlink(at.target);
        else if (at.kind === 'file') await sendFile(at, sink, buffer);
        else {
          sink.directory();
          for (const name of [...at.entries.keys()].sort()) {
            sink.entry(Buffer.from(name, 'latin1'));
            await visit(at.entries.get(name)!);
          }
          sink.endDirectory();
        }
      };
      await visit(node);
    },
  };
}

async function sendFile(file: FolderNode & { kind: 'file' }, sink: TreeSink, buffer: Buffer): Promise<void> {
  sink.file(file.size, file.executable);
  const handle = openSync(file.place, 'r');
  try {
    for (let left = file.size; left > 0; ) {
      const got = readSync(handle, buffer, 0, Math.min(left, buffer.length), null);
      if (got === 0) throw new FlkError('FLK_STORE_CORRUPT', `${file.place} is shorter than it was`);
      sink.data(buffer.subarray(0, got));
      left -= got;
      // Between two pieces of a large file, let timers and signals run.
      if (left > 0) await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    closeSync(handle);
  }
  sink.endFile();
}

/** Whether two files have the same bytes. */
export function sameContent(a: FolderNode & { kind: 'file' }, b: FolderNode & { kind: 'file' }): boolean {
  if (a.size !== b.size) return false;
  const [x, y] = [openSync(a.place, 'r'), openSync(b.place, 'r')];
  try {
    const [left, right] = [Buffer.alloc(64 * 1024), Buffer.alloc(64 * 1024)];
    for (let at = 0; at < a.size; at += left.length) {
      const [p, q] = [readSync(x, left, 0, left.length, at), readSync(y, right, 0, right.length, at)];
      if (left.compare(right, 0, q, 0, p) !== 0) return false;
    }
    return true;
  } finally {
    closeSync(x);
    closeSync(y);
  }
}
