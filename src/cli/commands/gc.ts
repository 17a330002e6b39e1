/** `flk gc`: makes room by removing what nothing keeps, old generations of profiles first where that is asked for. */
import { statfs } from 'node:fs/promises';
import { FlkError } from '../../base/errors.ts';
import { formatBytes } from '../../report/text.ts';
import { collectGarbage, type Garbage } from '../../store/gc.ts';
import {
  changingProfile,
  type Generations,
  generationLink,
  listProfiles,
  oldGenerations,
  readGenerations,
  removeGenerations,
  type Wish,
} from '../../store/generations.ts';
import { findRoots, type Root } from '../../store/roots.ts';
import type { Store } from '../../store/store.ts';
import { parseAge, parseSize } from '../amounts.ts';
import type { Context } from '../context.ts';
import { readLock } from '../live-roots.ts';

export async function runGc(context: Context): Promise<number> {
  const { flags, signal, reporter } = context;
  const limits = limitsOf(context);
  const wish = wishOf(context);
  const store = await context.store();
  if (flags['print-roots']) return await printRoots(context, store);
  const generations = wish === undefined ? [] : await dropGenerations(context, store, wish);
  const { keepDerivations, keepOutputs } = await context.settings();
  const garbage = await collectGarbage(store, {
    readLock,
    reporter,
    signal,
    keepDerivations,
    keepOutputs,
    dryRun: flags['dry-run'],
    maxFreed: await toBeFreed(store, limits),
    without: new Set(flags['dry-run'] ? generations : []),
  });
  const { roots, ...counted } = garbage;
  context.answer({ dryRun: flags['dry-run'], generations, ...counted, roots: placesOf(roots) }, () =>
    flags['dry-run'] ? forecast(generations, garbage) : summary(generations, garbage),
  );
  return 0;
}

/** How much is to be free on the disk, and to be freed, at most. */
interface Limits {
  readonly free: number;
  readonly freed: number;
}

/** Throws FLK_USAGE. */
function limitsOf({ flags }: Context): Limits {
  const size = (name: 'max-free' | 'max-freed'): number => {
    const text = flags[name];
    return text === undefined ? Number.POSITIVE_INFINITY : parseSize(name, text);
  };
  return { free: size('max-free'), freed: size('max-freed') };
}

/** Like Nix's setting `max-free`, the one counts what this user may take of the store's disk as it is at the beginning. */
async function toBeFreed({ root }: Store, { free, freed }: Limits): Promise<number> {
  if (free === Number.POSITIVE_INFINITY) return freed;
  const { bavail, bsize } = await statfs(root);
  return Math.min(freed, Math.max(0, free - bavail * bsize));
}

/** Which generations are to go; undefined where nothing was said of them. Throws FLK_USAGE. */
export function wishOf({ flags }: Context): Wish | undefined {
  const age = flags['older-than'];
  const { keep } = flags;
  if (keep === 0)
    throw new FlkError('FLK_USAGE', '--keep 0 would remove the current generation', { hint: '--keep 1' });
  if (age === undefined && keep === undefined) return undefined;
  return {
    ...(age === undefined ? {} : { before: Date.now() - parseAge('older-than', age) }),
    ...(keep === undefined ? {} : { keep }),
  };
}

/** Gives the links that went, or under `--dry-run` would go. */
async function dropGenerations(context: Context, store: Store, wish: Wish): Promise<string[]> {
  const links: string[] = [];
  for (const profile of listProfiles(store)) {
    const drop = async (generations: Generations): Promise<void> => {
      const old = oldGenerations(generations, wish).map(({ number }) => number);
      links.push(...old.map((number) => generationLink(profile, number)));
      if (!context.flags['dry-run']) await removeGenerations(profile, old);
    };
    if (context.flags['dry-run']) await drop(readGenerations(profile));
    else await changingProfile(profile, drop, context.signal);
  }
  return links;
}

async function printRoots(context: Context, store: Store): Promise<number> {
  const { roots } = await findRoots(store, { readLock });
  if (roots.length === 0) context.sayNothing(`nothing in ${store.root} is kept`);
  context.answer(roots, () => roots.map(({ place, path }) => `${place} -> ${path}`).join('\n'));
  return 0;
}

/** One place may keep many paths. */
const placesOf = (roots: readonly Root[]): number => new Set(roots.map(({ place }) => place)).size;

const count = (number: number, one: string, many = `${one}s`): string =>
  `${number} ${number === 1 ? one : many}`;

function summary(generations: readonly string[], garbage: Garbage): string {
  const { removed, orphans, staleRoots, logs, memos, views, bytes, alive, left, roots } = garbage;
  const also = [
    ...(generations.length > 0 ? [count(generations.length, 'generation')] : []),
    ...(orphans.length > 0 ? [`${count(orphans.length, 'leftover')} of killed processes`] : []),
    ...(staleRoots.length > 0 ? [`${count(staleRoots.length, 'link')} to nowhere`] : []),
    ...(logs > 0 ? [count(logs, 'log')] : []),
    ...(memos > 0 ? [count(memos, 'note')] : []),
    ...(views > 0 ? [count(views, 'view')] : []),
  ];
  return [
    `freed ${formatBytes(bytes)}: ${[count(removed.length, 'path'), ...also].join(', ')}`,
    ...(left > 0
      ? [`${count(left, 'unused path')} left: in use by a flk that began meanwhile, or enough is free`]
      : []),
    `${count(alive, 'path')} in use, by ${count(placesOf(roots), 'root')}; flk why-alive PATH tells why one is`,
  ].join('\n');
}

function forecast(generations: readonly string[], { removed, staleRoots, bytes, left }: Garbage): string {
  return [
    ...generations,
    ...staleRoots,
    ...removed.map(({ path }) => path),
    `would free about ${formatBytes(bytes)}: ${count(removed.length, 'path')}`,
    ...(left > 0 ? [`would leave ${count(left, 'unused path')}`] : []),
  ].join('\n');
}
