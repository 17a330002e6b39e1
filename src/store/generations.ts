/**
 * Profiles as links, where and as Nix has them: `NAME-1-link`, `NAME-2-link`, … each lead to a store path and keep it alive, and `NAME`
 * leads to one of them. Switching is one rename. Where the store is not at /nix/store, a folder `NAME-1-run` of launchers stands beside
 * each generation that was switched to, and `NAME` leads to that.
 */
import { lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { lstat, readlink, rename, rm, symlink } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { FlkError, systemCode } from '../base/errors.ts';
import { makeFolder, syncFolder, unwritable, withFileLock } from '../base/files.ts';
import { parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import { type LauncherScript, writeLaunchers } from './launchers.ts';
import type { Store } from './store.ts';
import { syncTrees } from './tree-sync.ts';

export interface Generation {
  readonly number: number;
  readonly path: StorePath;
  /** Milliseconds since 1970. */
  readonly created: number;
}

export interface Generations {
  /** Where `NAME` lies. */
  readonly profile: string;
  /** By number. */
  readonly all: readonly Generation[];
  /** The one that `NAME` leads to; undefined before the first switch. */
  readonly current: Generation | undefined;
}

/** Where the profiles of the user who runs flk lie. */
export function profilesFolder(store: Pick<Store, 'root'>): string {
  return join(store.root, 'nix/var/nix/profiles/per-user', userName());
}

function userName(): string {
  try {
    return userInfo().username.replace(/[^\w.-]/g, '_') || 'nobody';
  } catch {
    // A user id without a name, as containers have them.
    return `uid-${process.getuid?.() ?? 0}`;
  }
}

/** The profiles in `profilesFolder`, each as the place of its `NAME`; sorted. */
export function listProfiles(store: Pick<Store, 'root'>): string[] {
  const folder = profilesFolder(store);
  const names = namesIn(folder).flatMap((name) => /^(.+)-\d{1,9}-link$/.exec(name)?.[1] ?? []);
  return [...new Set(names)].sort().map((name) => join(folder, name));
}

/** The link that is a generation. */
export const generationLink = (profile: string, number: number): string => `${profile}-${number}-link`;

/** What there is of a profile; nothing where it was never made. Links that lead to no store path are not its own. */
export function readGenerations(profile: string): Generations {
  const all: Generation[] = [];
  for (const name of namesIn(dirname(profile))) {
    const number = numberIn(profile, name, 'link');
    if (number === undefined) continue;
    const link = join(dirname(profile), name);
    const path = storePathOf(link);
    // Who only looks holds no lock: what was there may be gone.
    const info = lstatSync(link, { throwIfNoEntry: false });
    if (path !== undefined && info) all.push({ number, path, created: info.mtimeMs });
  }
  all.sort((a, b) => a.number - b.number);
  const target = basename(linkTarget(profile) ?? '');
  const number = numberIn(profile, target, 'link') ?? numberIn(profile, target, 'run');
  return { profile, all, current: all.find((generation) => generation.number === number) };
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${folder}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function numberIn(profile: string, name: string, end: 'link' | 'run'): number | undefined {
  const start = `${basename(profile)}-`;
  const digits =
    name.startsWith(start) && name.endsWith(`-${end}`) ? name.slice(start.length, -end.length - 1) : '';
  return /^[1-9]\d{0,8}$/.test(digits) ? Number(digits) : undefined;
}

function linkTarget(place: string): string | undefined {
  try {
    return readlinkSync(place);
  } catch (error) {
    if (['ENOENT', 'EINVAL'].includes(systemCode(error) ?? '')) return undefined;
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${place}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** A generation leads to the physical path of something in a store. */
function storePathOf(link: string): StorePath | undefined {
  const target = linkTarget(link);
  if (target === undefined || !target.includes(storeDir)) return undefined;
  try {
    return parseStorePath(join(storeDir, basename(target)));
  } catch {
    return undefined;
  }
}

/** Runs `work` while no other flk changes this profile. Throws FLK_FILE_UNWRITABLE where this user may not. */
export async function changingProfile<T>(
  profile: string,
  work: (generations: Generations) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  await makeFolder(dirname(profile));
  const info = await lstat(profile).catch(() => undefined);
  if (info && !info.isSymbolicLink())
    throw new FlkError('FLK_PROFILE_INVALID', `${profile} is not a symlink, so it is no profile`, {
      hint: 'name another one with --profile',
    });
  const lock = join(dirname(profile), `.${basename(profile)}.lock`);
  return await withFileLock(lock, async () => await work(readGenerations(profile)), { signal });
}

/**
 * Within `changingProfile`: makes this path the profile’s newest generation, unless it is that already, and keeps it alive. The path
 * must be held. Nothing is switched.
 */
export async function addGeneration(
  store: Store,
  { profile, all }: Generations,
  path: StorePath,
): Promise<Generation> {
  const last = all.at(-1);
  if (last?.path === path) return last;
  const number = Math.max(0, ...numbersTaken(profile)) + 1;
  const link = generationLink(profile, number);
  await putLink(link, store.physical(path));
  // Elsewhere nobody looks for roots.
  const known = join(store.root, 'nix/var/nix/profiles') + sep;
  if (!resolve(link).startsWith(known)) await store.addIndirectRoot(link);
  return { number, path, created: lstatSync(link).mtimeMs };
}

/** A number is never used twice, as long as anything bears it. */
const numbersTaken = (profile: string): number[] =>
  namesIn(dirname(profile)).flatMap(
    (name) => numberIn(profile, name, 'link') ?? numberIn(profile, name, 'run') ?? [],
  );

/** Within `changingProfile`: lets the profile be this generation. With `script`: through launchers. */
export async function switchTo(
  store: Store,
  profile: string,
  { number, path }: Generation,
  script: LauncherScript | undefined,
): Promise<void> {
  if (!store.query(path))
    throw new FlkError(
      'FLK_STORE_CORRUPT',
      `${path}, generation ${number} of ${profile}, is not valid in this store`,
    );
  if (script === undefined) return await putLink(profile, `${basename(profile)}-${number}-link`);
  const folder = `${profile}-${number}-run`;
  if (!lstatSync(folder, { throwIfNoEntry: false })) {
    const staged = join(dirname(profile), `.${basename(folder)}.new`);
    try {
      await rm(staged, { recursive: true, force: true });
      await writeLaunchers(store, path, staged, script);
      await syncTrees([staged]);
      await rename(staged, folder);
    } catch (error) {
      throw error instanceof FlkError ? error : unwritable(folder, error);
    }
  }
  await putLink(profile, basename(folder));
}

/** Within `changingProfile`: removes these generations; the current one is not to be among them. */
export async function removeGenerations(profile: string, numbers: Iterable<number>): Promise<void> {
  const folder = dirname(profile);
  const gone = new Set(numbers);
  try {
    for (const number of gone) await rm(generationLink(profile, number), { force: true });
    // A kill may have come between the two.
    const kept = new Set(readGenerations(profile).all.map(({ number }) => number));
    for (const name of namesIn(folder)) {
      const number = numberIn(profile, name, 'run');
      if (number !== undefined && !kept.has(number))
        await rm(join(folder, name), { recursive: true, force: true });
    }
    await syncFolder(folder);
  } catch (error) {
    throw error instanceof FlkError ? error : unwritable(folder, error);
  }
}

/** Makes or replaces a link in one step that lasts through a power cut. */
async function putLink(link: string, target: string): Promise<void> {
  // Whoever does this holds the profile’s lock, so that one name is enough, and a kill leaves at most one.
  const staged = join(dirname(link), `.${basename(link)}.new`);
  try {
    if ((await readlink(link).catch(() => undefined)) === target) return;
    await rm(staged, { force: true });
    await symlink(target, staged);
    await rename(staged, link);
    await syncFolder(dirname(link));
  } catch (error) {
    throw unwritable(link, error);
  }
}

/** Which generations an age and a count leave over. */
export interface Wish {
  /** Milliseconds since 1970: what was current at that moment, or later, stays. */
  readonly before?: number;
  /** So many of the newest stay, up to the current one; those after it are not counted. */
  readonly keep?: number;
}

/** The generations that may go: never the current one, and only those that each wish lets go. As Nix counts. */
export function oldGenerations({ all, current }: Generations, { before, keep }: Wish): readonly Generation[] {
  const others = all.filter(({ number }) => number !== current?.number);
  const newestOld = before === undefined ? undefined : all.findLast(({ created }) => created < before);
  const counted = all.filter(({ number }) => current === undefined || number <= current.number);
  const kept = keep === undefined ? [] : counted.slice(Math.max(0, counted.length - Math.max(1, keep)));
  return others.filter(
    (generation) =>
      (before === undefined || (newestOld !== undefined && generation.number < newestOld.number)) &&
      (keep === undefined || (counted.includes(generation) && !kept.includes(generation))),
  );
}
