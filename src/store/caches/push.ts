/** Putting paths into a binary cache: packed once, signed, archives before what tells of them, references before what refers to them. */
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, createWriteStream, openSync, writeSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as zlib from 'node:zlib';
import { limiter, OnceMap, throwIfAborted } from '../../base/concurrency.ts';
import { FlkError } from '../../base/errors.ts';
import { type Reporter, span } from '../../base/events.ts';
import { unwritable } from '../../base/files.ts';
import { type NarHash, narHashOf, toNixBase32 } from '../../formats/hash.ts';
import { NarWriter, type Tree } from '../../formats/nar.ts';
import { fingerprint, type NarInfo } from '../../formats/narinfo.ts';
import { type SecretKey, signText } from '../../formats/signature.ts';
import { nameOf, type StorePath } from '../../formats/store-path.ts';
import type { PathInfo } from '../path-info.ts';
import type { Stage } from '../places.ts';
import type { BinaryCache, Packing } from './cache.ts';

/** Level 2 packs sources nearly as small as 6 does, three times as fast. */
const xzPreset = 2;
/** Questions in flight. */
const maxQuestions = 32;
/** Archives packed and sent at once: packing takes a core each. */
const maxArchives = 4;

/** Node has it since 22.15; the types are those of the oldest Node that flk runs on. */
const zstdEncoder = Reflect.get(zlib, 'createZstdCompress') as (() => Transform) | undefined;

export const defaultPacking: Packing = zstdEncoder ? 'zstd' : 'xz';

/** Where archives lie until they are sent. */
type Scratch = Pick<Stage, 'path' | 'dispose'>;

export interface PushOptions {
  /** Default: `defaultPacking`. */
  readonly packing?: Packing | undefined;
  /** Signs what is put there; the signatures that a path has go along. */
  readonly key?: SecretKey | undefined;
  /** Makes a folder for archives on their way. Default: one for temporary files, which nobody removes after a kill. */
  readonly stage?: (() => Promise<Scratch>) | undefined;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal | undefined;
}

/** A path, and how to walk over what is in it. */
export interface Pushed {
  readonly info: PathInfo;
  readonly tree: Tree;
}

/** Puts paths into one cache, some now and some later: what is asked and done once is not asked or done again. */
export interface Pusher {
  /**
   * Skips what the cache has; what the paths refer to must be among them, pushed before, or there already (FLK_CACHE_INVALID). Gives the
   * paths that were added. A tree that is not what its info says is FLK_NAR_HASH_MISMATCH.
   */
  push(paths: readonly Pushed[]): Promise<StorePath[]>;
  /** Once all pushes have ended. */
  close(): Promise<void>;
}

export function openPusher(cache: BinaryCache, options: PushOptions): Pusher {
  return new CachePusher(cache, options);
}

/** As `Pusher.push`, for all at once. */
export async function pushPaths(
  cache: BinaryCache,
  paths: readonly Pushed[],
  options: PushOptions,
): Promise<StorePath[]> {
  const pusher = openPusher(cache, options);
  try {
    return await pusher.push(paths);
  } finally {
    await pusher.close();
  }
}

class CachePusher implements Pusher {
  readonly #cache: BinaryCache;
  readonly #options: PushOptions;
  readonly #question = limiter(maxQuestions);
  readonly #archive = limiter(maxArchives);
  readonly #known = new Map<StorePath, Pushed>();
  readonly #there = new OnceMap<StorePath, boolean>();
  readonly #done = new OnceMap<StorePath, boolean>();
  #scratch: Promise<Scratch> | undefined;

  constructor(cache: BinaryCache, options: PushOptions) {
    this.#cache = cache;
    this.#options = options;
  }

  async push(paths: readonly Pushed[]): Promise<StorePath[]> {
    for (const pushed of paths) this.#known.set(pushed.info.path, pushed);
    await this.#begin();
    const wanted = [...new Set(paths.map(({ info }) => info.path))];
    const results = await Promise.allSettled(wanted.map((path) => this.#push(path)));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return wanted.filter((_, i) => {
      const result = results[i];
      return result?.status === 'fulfilled' && result.value;
    });
  }

  async close(): Promise<void> {
    const scratch = await this.#scratch?.catch(() => undefined);
    await scratch?.dispose();
  }

  /** Where archives wait for their way; only a cache that can be written to gets so far. */
  #begin(): Promise<Scratch> {
    this.#scratch ??= this.#cache.prepare().then(this.#options.stage ?? temporaryStage);
    return this.#scratch;
  }

  /** Whether it was added. */
  #push(path: StorePath): Promise<boolean> {
    return this.#done.get(path, async () => {
      if (await this.#isThere(path)) return false;
      const pushed = this.#known.get(path);
      if (!pushed)
        throw new FlkError('FLK_CACHE_INVALID', `${this.#cache.url} has no ${path}, which others refer to`, {
          hint: 'push it, too',
        });
      throwIfAborted(this.#options.signal);
      const scratch = await this.#begin();
      const packed = await this.#archive(() => packPath(this.#cache, pushed, scratch.path, this.#options));
      for (const reference of pushed.info.references) if (reference !== path) await this.#push(reference);
      await this.#cache.putNarInfo(narInfoOf(pushed.info, packed, this.#options.key));
      return true;
    });
  }

  #isThere(path: StorePath): Promise<boolean> {
    return this.#there.get(path, () =>
      this.#question(async () => (await this.#cache.narInfo(path)) !== undefined),
    );
  }
}

async function temporaryStage(): Promise<Scratch> {
  const path = await mkdtemp(join(tmpdir(), 'flk-push-'));
  return { path, dispose: () => rm(path, { recursive: true, force: true }) };
}

function narInfoOf(info: PathInfo, packed: Packed, key: SecretKey | undefined): NarInfo {
  const { path, narHash, narSize, references, deriver, ca } = info;
  const own = key === undefined ? [] : [signText(fingerprint(info), key)];
  return {
    path,
    ...packed,
    narHash,
    narSize,
    references,
    signatures: [...new Set([...info.signatures, ...own])],
    ...(deriver === undefined ? {} : { deriver }),
    ...(ca === undefined ? {} : { ca }),
  };
}

type Packed = Required<Pick<NarInfo, 'url' | 'compression' | 'fileHash' | 'fileSize'>>;

const endings: Readonly<Record<Packing, string>> = { none: '', xz: '.xz', zstd: '.zst' };

/** Packs a path into an archive that the cache then has. */
function packPath(
  cache: BinaryCache,
  { info, tree }: Pushed,
  scratch: string,
  { packing = defaultPacking, reporter, signal }: PushOptions,
): Promise<Packed> {
  return span(reporter, { type: 'push', subject: nameOf(info.path) }, async () => {
    const nar = join(scratch, nameOfFile(info.path));
    const file = `${nar}.packed`;
    try {
      const narHash = await writeNar(nar, tree, signal);
      if (narHash !== info.narHash)
        throw new FlkError('FLK_NAR_HASH_MISMATCH', `${info.path} is not what was to be copied`, {
          facts: { wanted: info.narHash, found: narHash },
          hint: 'flk store verify --repair mends it',
        });
      const { hash, size } = await pack(nar, file, packing, signal);
      const url = `nar/${toNixBase32(hash)}.nar${endings[packing]}`;
      await cache.putNar(url, file);
      return { url, compression: packing, fileHash: narHashOf(hash), fileSize: size };
    } catch (error) {
      throw error instanceof FlkError ? error : unwritable(scratch, error);
    } finally {
      await rm(nar, { force: true });
      await rm(file, { force: true });
    }
  });
}

const nameOfFile = (path: StorePath): string =>
  path.slice(path.lastIndexOf('/') + 1, path.lastIndexOf('/') + 33);

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
  packing: Packing,
  signal: AbortSignal | undefined,
): Promise<{ hash: Buffer; size: number }> {
  const hash = createHash('sha256');
  let size = 0;
  const count = new Transform({
    transform: (chunk: Buffer, _encoding, done) => {
      hash.update(chunk);
      size += chunk.length;
      done(null, chunk);
    },
  });
  const source = createReadStream(from, { highWaterMark: 256 * 1024 });
  const sink = createWriteStream(to, { flags: 'wx' });
  const encoder = await encoderFor(packing);
  const abort = signal ? { signal } : {};
  if (encoder) await pipeline(source, encoder, count, sink, abort);
  else await pipeline(source, count, sink, abort);
  return { hash: hash.digest(), size };
}

async function encoderFor(packing: Packing): Promise<NodeJS.ReadWriteStream | undefined> {
  switch (packing) {
    case 'none':
      return undefined;
    case 'xz': {
      const { createStream } = await import('lzma-native');
      return createStream('easyEncoder', { preset: xzPreset });
    }
    case 'zstd':
      if (!zstdEncoder)
        throw new FlkError('FLK_USAGE', 'this Node cannot pack with zstd', {
          facts: { found: process.version, wanted: 'v22.15 or later' },
          hint: '--compression xz, or none',
        });
      return zstdEncoder();
  }
}
