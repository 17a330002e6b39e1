/**
 * What keeps paths alive, found in the places where Nix looks for it: symlinks below `nix/var/nix/gcroots` (in `auto`, links to links
 * outside of the store: `result`) and below `nix/var/nix/profiles`, and running programs. A link in `auto` that leads to a
 * `flake.lock` keeps the sources of the inputs that the lock pins; Nix reads past such links.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { lstat, readdir, readlink, realpath, rename, rm, symlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { asFlkError, FlkError, systemCode } from '../base/errors.ts';
import { unwritable } from '../base/files.ts';
import { hashPartLength, nameOf, parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import type { Store } from './store.ts';
import { type BytePath, bytePath, onDisk, shown } from './tree-files.ts';

/** One reason why a path, and all that it refers to, stays. */
export interface Root {
  readonly kind: 'link' | 'profile' | 'lock' | 'process' | 'flk';
  /** Where it is written: a symlink, a flake.lock, `/proc/123/exe`; for what a running flk holds: `a running flk (pid 123)`. */
  readonly place: string;
  /** Need not be valid. */
  readonly path: StorePath;
}

export interface FoundRoots {
  /** Sorted by kind and place. */
  readonly roots: readonly Root[];
  /** Links in `auto` that lead nowhere any more. */
  readonly stale: readonly string[];
  /** Locks that say nothing as they are: all sources stay for their sake. */
  readonly unreadLocks: readonly string[];
}

/**
 * The sources that a flake.lock pins, whether or not they are in the store. Throws where the file cannot be read or is no lock. The
 * store knows nothing of locks.
 */
export type ReadLock = (file: string) => Promise<readonly StorePath[]>;

/** Links to links to …; the system itself follows no more. */
const maxLinks = 40;
/** PATH_MAX. */
const maxPath = 4096;
/** Folders in folders below `gcroots` and `profiles`. */
const maxDepth = 32;

/**
 * All roots at this moment, those of other running flks among them. Throws FLK_ROOT_UNREADABLE for a link that leads where this user
 * may not look: it could keep anything, and then nothing may be removed.
 */
export async function findRoots(
  store: Store,
  { readLock, proc = '/proc' }: { readonly readLock: ReadLock; readonly proc?: string },
): Promise<FoundRoots> {
  const search = new RootSearch(store, await physicalStores(store), readLock);
  const state = bytePath(join(store.root, 'nix/var/nix'));
  await search.folder(join(state, 'gcroots'), 'link');
  await search.folder(join(state, 'profiles'), 'profile');
  search.processes(proc);
  await search.running();
  return search.found();
}

/** The store's folder by all names that links to it may use. */
async function physicalStores(store: Store): Promise<readonly BytePath[]> {
  const physical = join(store.root, storeDir);
  const real = await realpath(physical).catch(() => physical);
  return [...new Set([physical, real, storeDir])].map(bytePath);
}

/** Places are byte paths: a root in a folder whose name is not UTF-8 keeps what it keeps. */
class RootSearch {
  readonly #store: Store;
  readonly #stores: readonly BytePath[];
  readonly #readLock: ReadLock;
  readonly #roots = new Map<string, Root>();
  readonly #stale: string[] = [];
  readonly #unreadLocks: string[] = [];

  constructor(store: Store, stores: readonly BytePath[], readLock: ReadLock) {
    this.#store = store;
    this.#stores = stores;
    this.#readLock = readLock;
  }

  found(): FoundRoots {
    const order = ({ kind, place, path }: Root): string => `${kind} ${place} ${path}`;
    return {
      roots: [...this.#roots.values()].sort((a, b) => (order(a) < order(b) ? -1 : 1)),
      stale: this.#stale.sort(),
      unreadLocks: this.#unreadLocks.sort(),
    };
  }

  async folder(folder: BytePath, kind: 'link' | 'profile', depth = 0): Promise<void> {
    if (depth > maxDepth)
      throw new FlkError('FLK_LIMIT', `${shown(folder)} lies more than ${maxDepth} folders deep`);
    const entries = await readdir(onDisk(folder), { withFileTypes: true, encoding: 'latin1' }).catch(
      (error: unknown) => {
        if (systemCode(error) === 'ENOENT') return [];
        throw unreadable(folder, error);
      },
    );
    for (const entry of entries) {
      const place = join(folder, entry.name);
      if (entry.isDirectory()) {
        // The programs of a generation, whose own link stands beside them.
        if (kind === 'link' || !/-\d+-run$/.test(entry.name)) await this.folder(place, kind, depth + 1);
      } else if (entry.isSymbolicLink()) await this.#link(place, kind);
      else if (entry.isFile()) this.#add(kind, place, storePathIn(join(storeDir, entry.name), [storeDir]));
    }
  }

  /** Follows a link, and the links that it leads to, until one leads into the store. */
  async #link(first: BytePath, kind: 'link' | 'profile'): Promise<void> {
    let place = first;
    for (let count = 0; count < maxLinks; count++) {
      const text = await readlink(onDisk(place), 'latin1').catch((error: unknown) => {
        // Removed since it was seen: whoever did so wants it to keep nothing.
        if (systemCode(error) === 'ENOENT') return undefined;
        throw unreadable(place, error, first);
      });
      if (text === undefined) return;
      const target = resolve(dirname(place), text);
      const path = storePathIn(target, this.#stores);
      if (path !== undefined) return this.#add(kind, place, path);
      const info = await lstat(onDisk(target)).catch((error: unknown) => {
        if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return undefined;
        throw unreadable(target, error, first);
      });
      if (info === undefined) {
        if (basename(dirname(first)) === 'auto') this.#stale.push(shown(first));
        return;
      }
      place = target;
      if (info.isSymbolicLink()) continue;
      if (info.isFile() && basename(target) === 'flake.lock') return await this.#lock(target);
      // By a name that goes over other links it may still be in the store.
      const real = storePathIn(await realpath(onDisk(target), 'latin1').catch(() => target), this.#stores);
      return this.#add(kind, target, real);
    }
    throw unreadable(first, new Error(`more than ${maxLinks} links lead to one another`));
  }

  async #lock(place: BytePath): Promise<void> {
    const file = shown(place);
    try {
      // Whoever reads locks knows names of text alone.
      if (bytePath(file) !== place) throw unreadable(place, new Error('its name is not UTF-8'));
      for (const path of await this.#readLock(file))
        if (this.#store.query(path)) this.#add('lock', place, path);
    } catch (error) {
      if (asFlkError(error).code === 'FLK_INTERNAL') throw error;
      // Conflict markers, perhaps. A lock pins sources and nothing else, so what it may have meant can be told.
      this.#unreadLocks.push(file);
      for (const path of this.#store.paths())
        if (nameOf(path) === 'source' && this.#store.query(path)?.ca !== undefined)
          this.#add('lock', place, path);
    }
  }

  /** Programs that run out of the store, or use it; of other users' processes the system tells nothing. */
  processes(proc: string): void {
    for (const pid of attempt(() => readdirSync(proc)) ?? []) {
      if (!/^\d+$/.test(pid)) continue;
      const of = join(proc, pid);
      for (const name of ['exe', 'cwd']) this.#mentions(of, name, (place) => readlinkSync(place));
      for (const fd of attempt(() => readdirSync(join(of, 'fd'))) ?? [])
        this.#mentions(of, join('fd', fd), (place) => readlinkSync(place));
      for (const name of ['maps', 'environ'])
        this.#mentions(of, name, (place) => readFileSync(place, 'latin1'));
    }
  }

  async running(): Promise<void> {
    for (const { pid, path } of await this.#store.heldByOthers())
      this.#add('flk', `a running flk (pid ${pid})`, path);
  }

  /** In a view the store has its logical name, outside its physical one, which ends with the logical. */
  #mentions(of: string, name: string, read: (place: string) => string): void {
    const place = join(of, name);
    const text = attempt(() => read(place)) ?? '';
    for (const { 0: whole, index } of text.matchAll(mention)) {
      const path = storePathIn(whole, [storeDir]);
      if (path === undefined || !this.#store.query(path)) continue;
      const before = /[^\s\0:="']*$/.exec(text.slice(Math.max(0, index - maxPath), index))?.[0] ?? '';
      if (!this.#isElsewhere(join(of, 'root', before, path), path)) this.#add('process', place, path);
    }
  }

  /** Whether what the process sees at a place is surely not this store's path: a builder may use the same one of another store. */
  #isElsewhere(place: string, path: StorePath): boolean {
    const [seen, own] = [place, this.#store.physical(path)].map((one) =>
      attempt(() => lstatSync(onDisk(one))),
    );
    return seen !== undefined && own !== undefined && (seen.dev !== own.dev || seen.ino !== own.ino);
  }

  #add(kind: Root['kind'], place: BytePath, path: StorePath | undefined): void {
    if (path !== undefined)
      this.#roots.set(`${kind}\0${place}\0${path}`, { kind, place: shown(place), path });
  }
}

const mention = new RegExp(`${storeDir}/[0-9a-z]{${hashPartLength}}-[0-9a-zA-Z+\\-._?=]+`, 'g');

/** The store path that a path on disk is, or lies in. */
function storePathIn(place: BytePath, stores: readonly BytePath[]): StorePath | undefined {
  const folder = stores.find((folder) => place.startsWith(`${folder}/`));
  if (folder === undefined) return undefined;
  const [base = ''] = place.slice(folder.length + 1).split('/');
  try {
    return parseStorePath(`${storeDir}/${base}`);
  } catch {
    return undefined;
  }
}

/** Processes come and go, and belong to others. */
function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

function unreadable(place: BytePath, cause: unknown, root = place): FlkError {
  const reason = systemCode(cause) ?? (cause as Error).message;
  return new FlkError('FLK_ROOT_UNREADABLE', `what ${shown(place)} keeps cannot be told: ${reason}`, {
    hint: `make it readable, or remove ${shown(root)}, if what it keeps may go`,
    cause,
  });
}

/**
 * Makes `link` a symlink to `target` (a physical path) in one step and keeps what it leads to alive. Anything but a symlink that is
 * there is not touched: FLK_FILE_UNWRITABLE.
 */
export async function resultLink(store: Store, link: string, target: string): Promise<void> {
  const place = resolve(link);
  const info = await lstat(place).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw unwritable(place, error);
  });
  if (info && !info.isSymbolicLink())
    throw new FlkError('FLK_FILE_UNWRITABLE', `${place} is not a symlink, so it is left as it is`, {
      hint: 'move it away, or choose another place with --out-link',
    });
  if (!info || (await readlink(place).catch(() => undefined)) !== target) {
    const staged = join(
      dirname(place),
      `.${basename(place)}.${process.pid}.${Math.random().toString(36).slice(2)}`,
    );
    try {
      await symlink(target, staged);
      await rename(staged, place);
    } catch (error) {
      await rm(staged, { force: true }).catch(() => {});
      throw unwritable(place, error);
    }
  }
  await store.addIndirectRoot(place);
}
