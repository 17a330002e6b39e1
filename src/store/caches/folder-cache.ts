/**
 * A binary cache in a folder, as Nix reads and writes it: `nix-cache-info`, a `.narinfo` for each path, archives below `nar/`. An
 * archive is there before what tells of it, so whoever reads meanwhile, or after a kill, sees whole paths only.
 */
import { createReadStream } from 'node:fs';
import { copyFile, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
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
    const text = await readFileIfExists(this.#note(path), maxNarInfoSize);
    return text === undefined ? undefined : parseNarInfo(text.toString(), path);
  }

  async nar({ url }: Pick<NarInfo, 'url'>): Promise<AsyncIterable<Buffer> | undefined> {
    const place = join(this.#folder, url);
    try {
      const handle = await open(place, 'r');
      return createReadStream(place, { fd: handle, highWaterMark: 256 * 1024 });
    } catch (cause) {
      const code = systemCode(cause);
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
      throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${place}: ${code}`, { cause });
    }
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

const isThere = (place: string): Promise<boolean> =>
  stat(place).then(
    () => true,
    () => false,
  );
