/**
 * What was built, once more under a path that follows from its content: so that what is built with it is not built again when a new
 * build gives the same bytes. The path is the one that `nix store make-content-addressed` (2.34) gives a path whose references are all
 * content-addressed; other references stay as they are.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { narHashOf, toNixBase32 } from '../formats/hash.ts';
import { NarWriter } from '../formats/nar.ts';
import { NarParser } from '../formats/nar-parser.ts';
import { HashPartRewriter, ModuloHasher } from '../formats/self-references.ts';
import { hashPart, makeSourcePath, nameOf, parseStorePath, type StorePath } from '../formats/store-path.ts';
import type { Store } from '../store/store.ts';
import { restoreTree } from '../store/tree-files.ts';

/** The content-addressed copy of what a derivation made, if it was made before and is still there. */
export function knownCopy(store: Store, drvPath: StorePath): StorePath | undefined {
  const known = store.memo(memoKey(drvPath));
  if (known === undefined) return undefined;
  const path = parseStorePath(known);
  store.hold([path]);
  return store.query(path) ? path : undefined;
}

/** Makes the copy of a valid path and remembers it as that of the derivation. `output` stays. */
export async function copyByContent(
  store: Store,
  drvPath: StorePath,
  output: StorePath,
  signal?: AbortSignal,
): Promise<StorePath> {
  const info = store.query(output);
  if (info === undefined) throw new FlkError('FLK_INTERNAL', `${output} is not valid`);
  const modulo = new ModuloHasher(hashPart(output));
  await throughNar(store, output, (chunk) => modulo.update(chunk), signal);
  const { digest, namesItself: self } = modulo.digest();
  const references = info.references.filter((reference) => reference !== output);
  const path = makeSourcePath(nameOf(output), narHashOf(digest), references, self);
  const ca = `fixed:r:sha256:${toNixBase32(digest)}`;
  store.hold([path]);
  await store.withPathLocks(
    [path],
    async () => {
      if (store.query(path)) return;
      const stage = await store.stage();
      try {
        const staged = join(stage.path, 'tree');
        const { narHash, narSize } = await restoreRenamed(store, output, path, staged, signal);
        await store.register([
          {
            staged,
            info: {
              path,
              narHash,
              narSize,
              references: self ? [...references, path].sort() : references,
              registrationTime: Math.floor(Date.now() / 1000),
              ultimate: true,
              signatures: [],
              ca,
            },
          },
        ]);
      } finally {
        await stage.dispose();
      }
    },
    signal,
  );
  store.setMemo(memoKey(drvPath), path, path);
  return path;
}

const memoKey = (drvPath: StorePath): string => `content-1-${hashPart(drvPath)}`;

/** Restores a tree in which its own path is another one. */
async function restoreRenamed(
  store: Store,
  from: StorePath,
  to: StorePath,
  staged: string,
  signal?: AbortSignal,
) {
  const hash = createHash('sha256');
  const writer = restoreTree(staged);
  // A name that holds its own path could now be out of order: such a tree the parser refuses.
  const parser = new NarParser(writer);
  const rewriter = new HashPartRewriter(Buffer.from(hashPart(from)), Buffer.from(hashPart(to)), (chunk) => {
    hash.update(chunk);
    parser.push(chunk);
  });
  try {
    const narSize = await throughNar(store, from, (chunk) => rewriter.update(chunk), signal);
    rewriter.end();
    parser.end();
    return { narHash: narHashOf(hash.digest()), narSize };
  } finally {
    writer.close();
  }
}

/** The NAR of a valid path, in chunks; gives its size. */
async function throughNar(
  store: Store,
  path: StorePath,
  take: (chunk: Buffer) => void,
  signal?: AbortSignal,
): Promise<number> {
  const writer = new NarWriter(take);
  await store.tree(path).walk(writer, signal);
  writer.end();
  return writer.size;
}
