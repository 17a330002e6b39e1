/**
 * A binary cache in a folder, as Nix reads and writes it: `nix-cache-info`, a `.narinfo` for each path, archives below `nar/`. An
 * archive is there before what tells of it, so whoever reads meanwhile, or after a kill, sees whole paths only.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, createReadStream, createWriteStream, existsSync, openSync, writeSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { FlkError } from '../base/errors.ts';
import { makeFolder, readFileIfExists, syncFolder, writeFileAtomic } from '../base/files.ts';
import { type NarHash, narHashOf, toNixBase32 } from '../formats/hash.ts';
import { NarWriter, type Tree } from '../formats/nar.ts';
import { printNarInfo } from '../formats/narinfo.ts';
import { hashPart, storeDir } from '../formats/store-path.ts';
import type { PathInfo } from './path-info.ts';

/** Level 2 packs sources nearly as small as 6 does, three times as fast. */
const xzPreset = 2;

export class FolderCache {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Opens the cache in a folder, making both where there is none. Throws FLK_FILE_UNWRITABLE; FLK_STORE_INVALID for a cache of
   * another store.
   */
  static async open(folder: string): Promise<FolderCache> {
    await makeFolder(join(folder, 'nar'));
    const info = join(folder, 'nix-cache-info');
    const text = (await readFileIfExists(info))?.toString();
    if (text === undefined) await writeFileAtomic(info, `StoreDir: ${storeDir}\n`);
    const other = text && /^StoreDir:\s*(.*?)\s*$/m.exec(text)?.[1];
    if (other && other !== storeDir)
      throw new FlkError('FLK_STORE_INVALID', `${folder} is a cache of another store`, {
        facts: { found: other, wanted: storeDir },
      });
    return new FolderCache(folder);
  }

  /** Adds a path unless it is there; whether it was added. A tree that is not what `info` says is FLK_NAR_HASH_MISMATCH. */
  async add(info: PathInfo, tree: Tree, signal?: AbortSignal): Promise<boolean> {
    const note = join(this.#folder, `${hashPart(info.path)}.narinfo`);
    if (existsSync(note)) return false;
    const stamp = `.${process.pid}.${randomBytes(4).toString('hex')}`;
    const nar = join(this.#folder, 'nar', `${stamp}.nar`);
    const packed = `${nar}.xz`;
    try {
      const narHash = await writeNar(nar, tree, signal);
      if (narHash !== info.narHash)
        throw new FlkError('FLK_NAR_HASH_MISMATCH', `${info.path} is not what was to be copied`, {
          facts: { wanted: info.narHash, found: narHash },
        });
      const { hash, size } = await pack(nar, packed, signal);
      const url = `nar/${toNixBase32(hash)}.nar.xz`;
      await rename(packed, join(this.#folder, url));
      await syncFolder(join(this.#folder, 'nar'));
      const { path, narSize, references, deriver, signatures, ca } = info;
      await writeFileAtomic(
        note,
        printNarInfo({
          path,
          url,
          compression: 'xz',
          fileHash: narHashOf(hash),
          fileSize: size,
          narHash,
          narSize,
          references,
          signatures,
          ...(deriver === undefined ? {} : { deriver }),
          ...(ca === undefined ? {} : { ca }),
        }),
      );
      return true;
    } catch (error) {
      throw error instanceof FlkError ? error : unwritable(this.#folder, error);
    } finally {
      await rm(nar, { force: true });
      await rm(packed, { force: true });
    }
  }
}

/** A walk does not wait, and packing is slow: the archive lies on disk between the two, never in memory. */
async function writeNar(file: string, tree: Tree, signal: AbortSignal | undefined): Promise<NarHash> {
  const hash = createHash('sha256');
  const fd = openSync(file, 'wx');
  try {
    const writer = new NarWriter((chunk) => {
      hash.update(chunk);
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
    });
    await tree.walk(writer, signal);
    writer.end();
  } finally {
    closeSync(fd);
  }
  return narHashOf(hash.digest());
}

async function pack(
  from: string,
  to: string,
  signal: AbortSignal | undefined,
): Promise<{ hash: Buffer; size: number }> {
  const { createStream } = await import('lzma-native');
  const hash = createHash('sha256');
  let size = 0;
  await pipeline(
    createReadStream(from, { highWaterMark: 256 * 1024 }),
    createStream('easyEncoder', { preset: xzPreset }),
    async function* count(chunks: AsyncIterable<Buffer>) {
      for await (const chunk of chunks) {
        hash.update(chunk);
        size += chunk.length;
        yield chunk;
      }
    },
    createWriteStream(to, { flags: 'wx' }),
    { signal },
  );
  const handle = await open(to, 'r');
  await handle.sync().finally(() => handle.close());
  return { hash: hash.digest(), size };
}

function unwritable(folder: string, cause: unknown): FlkError {
  return new FlkError(
    'FLK_FILE_UNWRITABLE',
    `cannot write to the cache ${folder}: ${(cause as Error).message}`,
    {
      cause,
    },
  );
}
