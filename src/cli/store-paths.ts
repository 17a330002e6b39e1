/** What an argument that stands for a store path means: the path itself, or something on this machine that leads to one. */
import { lstatSync, readlinkSync, realpathSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { hashPartLength, parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import type { PathInfo } from '../store/path-info.ts';
import type { Store } from '../store/store.ts';

/** A store path, valid or not, and the way to something below it: names joined by `/`, empty for the path itself. */
export interface PathArgument {
  readonly path: StorePath;
  readonly below: string;
}

/** Linux follows as many. */
const maxHops = 40;

/**
 * Reads a store path, something below one, a place in the store's folder on disk, or a file or symlink that leads there, as `result`
 * does. Links are followed up to the store, never within it. Throws FLK_STORE_PATH_INVALID.
 */
export function readPathArgument(store: Store, cwd: string, text: string): PathArgument {
  const logical = inStore(storeDir, text);
  if (logical) return logical;
  const onDisk = join(store.root, storeDir);
  const homes = [onDisk, realPath(onDisk), storeDir];
  let ahead = resolve(cwd, text).split('/').filter(Boolean).reverse();
  let here = '/';
  for (let hops = 0; ; ) {
    const rest = ahead.length === 0 ? here : `${here === '/' ? '' : here}/${[...ahead].reverse().join('/')}`;
    for (const home of homes) {
      const found = here === home || here.startsWith(`${home}/`) ? inStore(home, rest) : undefined;
      if (found) return found;
    }
    const name = ahead.pop();
    if (name === undefined) throw notThere(text);
    const next = join(here, name);
    const target = linkAt(next);
    if (target === undefined) here = next;
    else if (++hops > maxHops) throw notThere(text);
    else {
      ahead = [...ahead, ...resolve(here, target).split('/').filter(Boolean).reverse()];
      here = '/';
    }
  }
}

/** The same, where only whole paths matter: what lies below one stands for it. The path must be valid: FLK_STORE_PATH_UNKNOWN. */
export function readValidPath(store: Store, cwd: string, text: string): PathInfo {
  return validPath(store, readPathArgument(store, cwd, text).path);
}

/** What the store knows of a path; it is held. Throws FLK_STORE_PATH_UNKNOWN. */
export function validPath(store: Store, path: StorePath): PathInfo {
  store.hold([path]);
  const info = store.query(path);
  if (!info) throw new FlkError('FLK_STORE_PATH_UNKNOWN', `${path} is not in the store ${store.root}`);
  return info;
}

function inStore(home: string, text: string): PathArgument | undefined {
  if (!text.startsWith(`${home}/`)) return undefined;
  const [base = '', ...below] = text
    .slice(home.length + 1)
    .split('/')
    .filter((name) => name !== '' && name !== '.');
  if (base === '') return undefined;
  return { path: parseStorePath(`${storeDir}/${base}`), below: below.join('/') };
}

function linkAt(place: string): string | undefined {
  try {
    return lstatSync(place).isSymbolicLink() ? readlinkSync(place) : undefined;
  } catch {
    // What is not there, or cannot be seen, leads nowhere: the text as it is decides.
    return undefined;
  }
}

function realPath(place: string): string {
  try {
    return realpathSync(place);
  } catch {
    return place;
  }
}

function notThere(text: string): FlkError {
  const shown = text.slice(0, 300);
  const bare = new RegExp(`^[0-9a-z]{${hashPartLength}}(-[0-9a-zA-Z+._?=-]+)?$`).exec(text);
  const hint =
    bare?.[1] !== undefined
      ? `${storeDir}/${shown}`
      : bare
        ? `flk store path-from-hash-part ${shown}`
        : `a path such as ${storeDir}/HASH-NAME, or a link such as result that leads to one`;
  return new FlkError('FLK_STORE_PATH_INVALID', `${shown} is not in the store`, { hint });
}

/** Where something below a valid path lies on disk. Throws FLK_STORE_PATH_UNKNOWN where it does not, and where a link is on the way. */
export function placeBelow(store: Store, { path, below }: PathArgument): string {
  let place = store.physical(path);
  let shown: string = path;
  const ahead = below.split('/').filter(Boolean);
  for (const [i, name] of ahead.entries()) {
    if (name === '..')
      throw new FlkError('FLK_STORE_PATH_INVALID', `${path}/${below} leads out of ${i === 0 ? 'it' : shown}`);
    place = join(place, name);
    shown = `${shown}/${name}`;
    const info = lstatSync(place, { throwIfNoEntry: false });
    const isLast = i === ahead.length - 1;
    if (!info || (!isLast && !info.isDirectory() && !info.isSymbolicLink()))
      throw new FlkError('FLK_STORE_PATH_UNKNOWN', `there is no ${path}/${below}`, {
        hint: `flk store ls ${dirname(shown)}`,
      });
    if (!isLast && info.isSymbolicLink())
      throw new FlkError('FLK_STORE_PATH_INVALID', `${shown} is a symlink, which is not followed`, {
        facts: { 'leads to': readlinkSync(place) },
        hint: 'name the place that it leads to',
      });
  }
  return place;
}
