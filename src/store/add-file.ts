/** Single files put into a store under an address made of their bytes alone, not of a NAR. */
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { fileHasher } from '../formats/content-address.ts';
import { digestOf } from '../formats/hash.ts';
import { NarHasher, type TreeSink } from '../formats/nar.ts';
import { toNarInfoHash } from '../formats/narinfo.ts';
import { makeFixedOutputPath, makeTextDigestPath, type StorePath } from '../formats/store-path.ts';
import { tee } from '../formats/tree-sinks.ts';
import type { Store } from './store.ts';
import { restoreTree, walkPath } from './tree-files.ts';

/** `flat`: as the output of a fetch without unpacking. `text`: as `.drv` files and `builtins.toFile`. */
export type FileMode = 'flat' | 'text';

export interface AddFileOptions {
  /** Only tell where it would be. */
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal;
  /** Told how many bytes have been read. */
  readonly progress?: (bytes: number) => void;
}

/** Adds a file's bytes; whether it is executable is lost. Throws FLK_FILE_UNREADABLE for anything but a file. */
export async function addFile(
  store: Store,
  name: string,
  file: string,
  mode: FileMode,
  options: AddFileOptions = {},
): Promise<StorePath> {
  const stage = await store.stage();
  try {
    const staged = join(stage.path, 'file');
    const writer = restoreTree(staged);
    const [nar, bytes] = [new NarHasher(), fileHasher()];
    const tree = walkPath(file, options.progress ? { progress: options.progress } : {});
    const sinks = options.dryRun ? [nar, bytes] : [writer, nar, bytes];
    await tree.walk(plainFile(file, tee(...sinks)), options.signal).finally(() => writer.close());
    const { narHash, narSize } = nar.digest();
    const hash = bytes.digest()!;
    const path =
      mode === 'flat'
        ? makeFixedOutputPath(name, 'sha256', digestOf(hash))
        : makeTextDigestPath(name, digestOf(hash));
    if (options.dryRun) return path;
    store.hold([path]);
    const info = {
      path,
      narHash,
      narSize,
      references: [],
      registrationTime: Math.floor(Date.now() / 1000),
      ultimate: true,
      signatures: [],
      ca: `${mode === 'flat' ? 'fixed' : 'text'}:${toNarInfoHash(hash)}`,
    };
    await store.withPathLocks([path], () => store.register([{ info, staged }]), options.signal);
    return path;
  } finally {
    await stage.dispose();
  }
}

/** Passes a single file on as one that is not executable. */
function plainFile(place: string, sink: TreeSink): TreeSink {
  const other = (): never => {
    throw new FlkError('FLK_FILE_UNREADABLE', `${place} is not a file, so it has no bytes of its own`, {
      hint: '--mode nar takes folders and symlinks',
    });
  };
  return {
    directory: other,
    entry: other,
    endDirectory: other,
    symlink: other,
    file: (size) => sink.file(size, false),
    data: (chunk) => sink.data(chunk),
    endFile: () => sink.endFile(),
  };
}
