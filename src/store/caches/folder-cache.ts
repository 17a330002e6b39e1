/**
 * A binary cache in a folder, as Nix reads and writes it: `nix-cache-info`, a `.narinfo` for each path, archives below `nar/`. An
 * archive is there before what tells of it, so whoever reads meanwhile, or after a kill, sees whole paths only.
 */
import { closeSync, constants, fstatSync, openSync, read, readSync } from 'node:fs';
import { copyFile, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { FlkError, systemCode } from '../../base/errors.ts';
import {
  isOwnerAlive,
  makeFolder,
  ownerName,
  readFileIfExists,
  syncFolder,
  unwritable,
  writeFileAtomic,
} from '../../base/files.ts';
import { maxNarInfoSize, type NarInfo, parseNarInfo, printNarInfo } from '../../formats/narinfo.ts';
import { hashPart, type StorePath } from '../../formats/store-path.ts';
import { type BinaryCache, type CacheInfo, maxCacheInfoSize, newCacheInfo, parseCacheInfo } from './cache.ts';

const readSome = promisify(read);

/** Bytes of an archive that are read at once. */
const pieceSize = 256 * 1024;
/** Files up to here are read in one call: handing them to the thread pool takes longer. */
const readAtOnce = 64 * 1024;

export class FolderCache implements BinaryCache {
  readonly url: string;
  readonly local = true;
  readonly #folder: string;

  /** The folder is absolute; it need not exist before something is put there. */
  constructor(folder: string) {
    this.#folder = folder;
    this.url = pathToFileURL(folder).href;
  }

  async info(): Promise<CacheInfo> {
    const text = await readFileIfExists(join(this.#folder, 'nix-cache-info'), maxCacheInfoSize);
    if (text === undefined)
      throw new FlkError('FLK_CACHE_INVALID', `there is no binary cache in ${this.#folder}`, {
        facts: { wanted: 'a folder with a file nix-cache-info' },
        hint: 'check the address; flk cache push makes a cache where there is none',
      });
    return parseCacheInfo(text.toString(), this.url);
  }

  async narInfo(path: StorePath): Promise<NarInfo | undefined> {
    const file = openIfThere(this.#note(path));
    if (!file) return undefined;
    const { place, fd, size } = file;
    try {
      if (size > maxNarInfoSize)
        throw new FlkError('FLK_LIMIT', `${place} has ${size} bytes; at most ${maxNarInfoSize} are read`);
      return parseNarInfo(readWhole(file).toString(), path);
    } finally {
      closeSync(fd);
    }
  }

  async nar({ url }: Pick<NarInfo, 'url'>): Promise<AsyncIterable<Buffer> | undefined> {
    const file = openIfThere(join(this.#folder, url));
    return file && pieces(file);
  }

  async prepare(): Promise<void> {
    const archives = join(this.#folder, 'nar');
    await makeFolder(archives);
    for (const folder of [this.#folder, archives]) await removeAbandoned(folder);
    const info = join(this.#folder, 'nix-cache-info');
    if ((await readFileIfExists(info, maxCacheInfoSize)) === undefined)
      await writeFileAtomic(info, newCacheInfo, await stagedIn(this.#folder));
    else await this.info();
  }

  async putNar(url: string, file: string): Promise<void> {
    const place = join(this.#folder, url);
    const staged = await stagedIn(dirname(place));
    try {
      if (await isThere(place)) return;
      // A copy first where it comes from another disk, so that nobody sees half of it.
      await rename(file, staged).catch(() => copyFile(file, staged));
      const handle = await open(staged, 'r');
      await handle.sync().finally(() => handle.close());
      await rename(staged, place);
      await syncFolder(dirname(place));
    } catch (error) {
      throw unwritable(place, error);
    } finally {
      await rm(staged, { force: true });
    }
  }

  async putNarInfo(info: NarInfo): Promise<void> {
    await writeFileAtomic(this.#note(info.path), printNarInfo(info), await stagedIn(this.#folder));
  }

  #note(path: StorePath): string {
    return join(this.#folder, `${hashPart(path)}.narinfo`);
  }
}

/** Told apart by machine: others may fill the cache, too, and of their processes nobody here knows whether they run. */
const ownStages = `.${encodeURIComponent(hostname())},`;

/** A name for what is half written: beside its place, as either folder may be a disk of its own. */
const stagedIn = async (folder: string): Promise<string> => join(folder, ownStages + (await ownerName()));

/** What pushes from this machine had half written when they were killed. */
async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => []))
    if (name.startsWith(ownStages) && !(await isOwnerAlive(name.slice(ownStages.length))))
      await rm(join(folder, name), { force: true });
}

interface OpenFile {
  readonly place: string;
  readonly fd: number;
  readonly size: number;
}

function openIfThere(place: string): OpenFile | undefined {
  let fd: number;
  try {
    // A pipe would be waited for.
    fd = openSync(place, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw unreadable(place, error);
  }
  try {
    const info = fstatSync(fd);
    if (info.isFile()) return { place, fd, size: info.size };
    throw new FlkError('FLK_FILE_UNREADABLE', `${place} is not a file`);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function readWhole({ place, fd, size }: OpenFile): Buffer {
  const bytes = Buffer.allocUnsafe(size);
  try {
    return bytes.subarray(0, readSync(fd, bytes, 0, size, 0));
  } catch (error) {
    throw unreadable(place, error);
  }
}

/**
 * The next piece is read while the last one is used, into the memory of the one before: to have the system find a gigabyte of fresh
 * memory takes longer than to read it.
 */
async function* pieces(file: OpenFile): AsyncGenerator<Buffer> {
  const { place, fd, size } = file;
  let pending: Promise<{ bytesRead: number }> | undefined;
  try {
    if (size <= readAtOnce) {
      yield readWhole(file);
      return;
    }
    let filling = Buffer.allocUnsafeSlow(pieceSize);
    let full = Buffer.allocUnsafeSlow(pieceSize);
    for (;;) {
      pending ??= readSome(fd, filling, 0, pieceSize, null);
      const { bytesRead } = await pending.catch((error: unknown) => {
        throw unreadable(place, error);
      });
      if (bytesRead === 0) return;
      [filling, full] = [full, filling];
      pending = readSome(fd, filling, 0, pieceSize, null);
      yield full.subarray(0, bytesRead);
    }
  } finally {
    // The descriptor may only be closed when nobody reads from it.
    await pending?.catch(() => {});
    closeSync(fd);
  }
}

const unreadable = (place: string, cause: unknown): FlkError =>
  new FlkError('FLK_FILE_UNREADABLE', `cannot read ${place}: ${systemCode(cause)}`, { cause });

const isThere = (place: string): Promise<boolean> =>
  stat(place).then(
    () => true,
    () => false,
  );
