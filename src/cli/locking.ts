/** Locking as commands do it: the lock that a flake has or should have, whether it may change, and how it is written. */
import { createHash } from 'node:crypto';
import { join, relative } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { makeFolder, withFileLock, writeFileAtomic } from '../base/files.ts';
import type { FlakeRef } from '../flake/flake-ref.ts';
import type { StaleReason } from '../flake/lock-check.ts';
import { emptyLock, type LockFile, parseLockFile, printLockFile } from '../flake/lock-file.ts';
import type { InputPath, Manifest } from '../flake/manifest.ts';
import { cleanText } from '../report/text.ts';
import type { Context } from './context.ts';
import { type Flake, manifestReader, openFlake, readManifest, refFromArgument } from './flake.ts';

export interface Locked {
  readonly lock: LockFile;
  /** What flake.lock held. */
  readonly previous: LockFile | undefined;
  /** The file has, or should get, other bytes. */
  readonly changed: boolean;
}

export interface LockRequest {
  /** Inputs to move; default none. */
  readonly update?: 'all' | readonly InputPath[];
}

/**
 * The lock that `flake` should have: the one in its flake.lock where that is current, which takes no network. Throws
 * FLK_LOCK_STALE or FLK_LOCK_MISSING where the lock may not change (`--locked`), and whatever locking throws. Writes nothing.
 */
export async function lockFlake(
  context: Context,
  flake: Flake,
  manifest: Manifest,
  request: LockRequest = {},
): Promise<Locked> {
  const previous = previousLock(context, flake);
  const reasons =
    request.update === undefined
      ? (await checkStaleness(context, flake, manifest, previous)).reasons
      : undefined;
  if (reasons?.length === 0) return { lock: previous ?? emptyLock, previous, changed: false };
  // Whether an input's own manifest still says the same can only be told by looking.
  const mayBeCurrent = reasons?.every(({ kind }) => kind === 'unread') ?? true;
  if (reasons && context.locked && !mayBeCurrent) throw staleError(flake, previous, reasons);
  await flake.assertTracked();
  const [{ lock }, source, overrides] = await Promise.all([
    import('../flake/locker.ts'),
    context.sources(),
    overridesOf(context),
  ]);
  const locked = await lock({
    manifest,
    previous,
    source,
    readManifest: manifestReader,
    readRelative: async (path) => await (await flake.tree()).tree.readFile(path),
    rootDir: flake.dir,
    overrides,
    reporter: context.reporter,
    ...(request.update === undefined ? {} : { update: request.update }),
  });
  const changed = printLockFile(locked) !== (flake.lockText ?? printLockFile(emptyLock));
  if (changed && context.locked) throw staleError(flake, previous, reasons ?? []);
  return { lock: locked, previous, changed };
}

/** Throws FLK_LOCK_INVALID and FLK_LOCK_CONFLICT. */
export function previousLock(context: Context, flake: Flake): LockFile | undefined {
  if (flake.lockText === undefined) return undefined;
  return parseLockFile({ path: lockName(context, flake), text: flake.lockText });
}

/** What can be said of a lock without any network. */
export interface Staleness {
  /** Why locking now would give another lock; empty when it would not. */
  readonly reasons: readonly StaleReason[];
  /** The answer stands in flake.yaml and flake.lock alone: no other file was looked at. */
  readonly selfContained: boolean;
}

export async function checkStaleness(
  context: Context,
  flake: Flake,
  manifest: Manifest,
  previous: LockFile | undefined,
): Promise<Staleness> {
  const { checkLock } = await import('../flake/lock-check.ts');
  const overrides = await overridesOf(context);
  let selfContained = overrides.size === 0;
  const reasons = await checkLock({
    manifest,
    previous,
    readManifest: manifestReader,
    readRelative: async (path) => {
      selfContained = false;
      return await (await flake.tree()).tree.readFile(path);
    },
    rootDir: flake.dir,
    overrides,
    reporter: context.reporter,
  });
  return { reasons, selfContained };
}

/** Every reason with its place in the manifest; what has none any more is told as a fact. */
export function staleError(
  flake: Flake,
  previous: LockFile | undefined,
  reasons: readonly StaleReason[],
): FlkError {
  const placed = reasons.flatMap(({ place }) => (place === undefined ? [] : [place]));
  const unplaced = reasons.filter(({ place }) => place === undefined);
  const commands = [...new Set(reasons.map(({ command }) => command))];
  return new FlkError(
    previous === undefined && flake.lockText === undefined ? 'FLK_LOCK_MISSING' : 'FLK_LOCK_STALE',
    previous === undefined ? 'there is no flake.lock yet' : 'flake.lock is not what locking would give now',
    {
      diagnostics: placed,
      facts: Object.fromEntries(unplaced.map(({ input, message }) => [input.join('/'), message])),
      ...(commands.length === 0 ? {} : { hint: commands.join('; ') }),
    },
  );
}

/** `--override-input`, by path. */
async function overridesOf(context: Context): Promise<ReadonlyMap<string, FlakeRef>> {
  return new Map(context.flags['override-input'].map(([path, ref]) => [path, refFromArgument(context, ref)]));
}

/** The lock file as the person knows it. */
function lockName(context: Context, flake: Flake): string {
  if (flake.lockPath === undefined) return 'flake.lock';
  const short = relative(context.cwd, flake.lockPath);
  return short.startsWith('..') ? flake.lockPath : short;
}

/**
 * Writes flake.lock where it changed and may be written, and makes Git know a new one. A flake that is no folder here keeps its
 * lock in memory, unless writing it is what was asked for: FLK_USAGE.
 */
export async function writeLock(context: Context, flake: Flake, { lock, changed }: Locked): Promise<void> {
  if (!changed || context.flags['no-write-lock-file']) return;
  if (flake.lockPath === undefined) {
    if (context.command !== 'lock' && context.command !== 'update') return;
    throw new FlkError(
      'FLK_USAGE',
      'this flake is not in a folder of this machine, so its flake.lock cannot be written',
      {
        hint: 'clone it, or try --no-write-lock-file',
      },
    );
  }
  await writeFileAtomic(flake.lockPath, printLockFile(lock));
  if (flake.lockText === undefined) await flake.trackLock();
}

/** A flake that is locked as it should be; its flake.lock is written where it had to change and may. */
export async function openLocked(
  context: Context,
  target: string,
): Promise<{ readonly flake: Flake; readonly manifest: Manifest; readonly lock: LockFile }> {
  const flake = await openFlake(context, target);
  const manifest = await readManifest(flake);
  const previous = previousLock(context, flake);
  const { reasons } = await checkStaleness(context, flake, manifest, previous);
  if (reasons.length === 0) return { flake, manifest, lock: previous ?? emptyLock };
  return await exclusively(context, target, async (fresh) => {
    const manifest = await readManifest(fresh);
    const locked = await lockFlake(context, fresh, manifest);
    await writeLock(context, fresh, locked);
    await sayChanges(context, fresh, locked);
    // The lock is part of the flake's tree.
    const flake = locked.changed ? await openFlake(context, target) : fresh;
    return { flake, manifest, lock: locked.lock };
  });
}

/** What changed, on stderr, as Nix lists it. */
export async function sayChanges(context: Context, flake: Flake, locked: Locked): Promise<void> {
  if (!locked.changed || context.flags.quiet) return;
  const { lockChanges, printChanges } = await import('../flake/lock-diff.ts');
  const list = printChanges(lockChanges(locked.previous ?? emptyLock, locked.lock));
  // What an input is declared as may change, and its pin still fit.
  const said = list === '' ? ' no input moved' : `\n${cleanText(list)}`;
  const kept = flake.lockPath === undefined || context.flags['no-write-lock-file'];
  const what = kept ? 'changes to' : flake.lockText === undefined ? 'wrote' : 'updated';
  context.report.say(`${what} ${lockName(context, flake)}${kept ? ', not written' : ''}:${said}`.trimEnd());
}

/**
 * Runs `work` on the flake while no other flk changes its files. Flakes that are no folders here need no such care.
 */
export async function exclusively<T>(
  context: Context,
  target: string,
  work: (flake: Flake) => Promise<T>,
): Promise<T> {
  const flake = await openFlake(context, target);
  if (flake.lockPath === undefined) return await work(flake);
  // Beside the flake the lock would show in `git status`, and a kill would leave it there.
  const folder = join(context.folders.cache, 'flakes');
  await makeFolder(folder);
  const name = createHash('sha256').update(flake.lockPath).digest('hex').slice(0, 32);
  return await withFileLock(join(folder, name), async () => await work(await openFlake(context, target)));
}
