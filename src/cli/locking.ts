/** Locking as commands do it: the lock that a flake has or should have, whether it may change, and how it is written. */
import { createHash } from 'node:crypto';
import { join, posix, relative, resolve } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { makeFolder, readFileIfExists, withFileLock, writeFileAtomic } from '../base/files.ts';
import { quote } from '../base/process.ts';
import { type FlakeRef, printFlakeRef } from '../flake/flake-ref.ts';
import { printInputPath } from '../flake/graph.ts';
import type { StaleReason } from '../flake/lock-check.ts';
import type { ChangeJson } from '../flake/lock-diff.ts';
import { emptyLock, type LockFile, parseLockFile, printLockFile, unlockedInput } from '../flake/lock-file.ts';
import type { LockOptions } from '../flake/locker.ts';
import type { FlakeManifest } from '../flake/manifest-model.ts';
import { type InputPath, inputNamePattern } from '../flake/package-ref.ts';
import { cleanText } from '../report/text.ts';
import { hasGit } from '../sources/worktree.ts';
import type { Context } from './context.ts';
import { type Flake, manifestReader, openFlake, readManifest, refFromArgument } from './flake.ts';

export interface Locked {
  readonly lock: LockFile;
  /** What flake.lock held. */
  readonly previous: LockFile | undefined;
  /** The file has, or should get, other bytes. */
  readonly changed: boolean;
  /** An input with changes that are not committed: such a lock is not written. */
  readonly unlocked?: FlakeRef;
}

export interface LockRequest {
  /** Inputs to move; default: those that `--update-input` names. */
  readonly update?: 'all' | readonly InputPath[];
}

/**
 * The lock that `flake` should have: the one in its flake.lock where that is current, which takes no network. Throws
 * FLK_LOCK_STALE or FLK_LOCK_MISSING where the lock may not change (`--locked`), and whatever locking throws. Writes nothing.
 */
export async function lockFlake(
  context: Context,
  flake: Flake,
  manifest: FlakeManifest,
  request: LockRequest = {},
): Promise<Locked> {
  const previous = await previousLock(context, flake);
  const update = request.update ?? namedUpdates(context);
  const anew = context.flags['recreate-lock-file'];
  const reasons =
    update === undefined && !anew
      ? (await checkStaleness(context, flake, manifest, previous)).reasons
      : undefined;
  if (reasons?.length === 0) return { lock: previous ?? emptyLock, previous, changed: false };
  // Whether an input's own manifest still says the same can only be told by looking.
  const mayBeCurrent = reasons?.every(({ kind }) => kind === 'unread') ?? true;
  const fixed = context.locked && writesLock(context);
  if (reasons && fixed && !mayBeCurrent) throw staleError(context, flake, previous, reasons);
  const locked = await computeLock(context, flake, manifest, {
    previous,
    recreate: anew,
    overrides: overridesOf(context),
    deep: context.flags.deep,
    ...(update === undefined ? {} : { update }),
  });
  const changed = await isChanged(context, flake, manifest, previous, locked);
  const unlocked = unlockedInput(locked, await context.allowDirtyLocks());
  if (changed && fixed && !unlocked)
    throw staleError(context, flake, previous, reasons ?? [], await changeList(previous, locked));
  return { lock: locked, previous, changed, ...(unlocked === undefined ? {} : { unlocked }) };
}

async function computeLock(
  context: Context,
  flake: Flake,
  manifest: FlakeManifest,
  wishes: Pick<LockOptions, 'previous' | 'recreate' | 'overrides' | 'deep' | 'update'>,
): Promise<LockFile> {
  await flake.assertTracked();
  const [{ lock }, source, allowDirtyLocks] = await Promise.all([
    import('../flake/locker.ts'),
    context.sources(),
    context.allowDirtyLocks(),
  ]);
  const locking = lock({
    manifest,
    source,
    readManifest: manifestReader,
    readRelative: async (path) => await (await flake.files()).readFile(path),
    walkRelative: async (sink, signal) => await (await flake.files()).walk(sink, signal),
    rootDir: flake.dir,
    reporter: context.reporter,
    // Who only uses the flake may have it with what lies here; the lock is not written then.
    allowDirtyLocks: allowDirtyLocks || mayUseUnlocked(context),
    ...wishes,
  });
  return await locking.catch((error: unknown) => {
    throw withOwnHint(error, manifest);
  });
}

/** What mends a fault depends on whose it is: the root's manifest's, or that of a flake which somebody else keeps. */
function withOwnHint(thrown: unknown, { inputs, kind }: FlakeManifest): unknown {
  if (!(thrown instanceof FlkError)) return thrown;
  const input = thrown.trail.at(-1) ?? '';
  const { code, message, facts, trail, diagnostics } = thrown;
  const saying = (hint: string): FlkError =>
    new FlkError(code, message, { hint, facts, trail, diagnostics, cause: thrown });
  switch (code) {
    case 'FLK_GIT_REV_GONE':
      return inputs.get(input)?.ref?.rev === undefined
        ? thrown
        : saying(`the manifest asks for this revision: name another one in input ${input}`);
    case 'FLK_NAR_HASH_MISMATCH':
      return inputs.get(input)?.ref?.narHash === undefined
        ? thrown
        : saying(
            `the manifest asks for this narHash: correct it in input ${input}, if you trust what was found`,
          );
    case 'FLK_MANIFEST_MISSING':
      return kind === 'nix' && inputs.has(input)
        ? saying(`if only its files are wanted: inputs.${input}.flake = false;`)
        : thrown;
    case 'FLK_LOCK_INVALID':
    case 'FLK_LOCK_CONFLICT':
      return saying(`this lock is that flake’s own: tell its author, or take another revision of ${input}`);
    default:
      return thrown;
  }
}

/** As Nix has it, locking is the one thing that cannot be done without revisions. */
const mayUseUnlocked = ({ command }: Context): boolean =>
  !['lock', 'add', 'remove', 'set', 'pin', 'unpin'].includes(command);

/** A flake's lock, made where it has none that is current, whatever options ask of the flake that the command is about. */
export async function lockAsItIs(context: Context, flake: Flake): Promise<LockFile> {
  const manifest = await readManifest(flake);
  const previous = ownLock(context, flake);
  const { reasons } = await checkStaleness(context, flake, manifest, previous, new Map());
  if (reasons.length === 0) return previous ?? emptyLock;
  return await computeLock(context, flake, manifest, { previous });
}

/** `--update-input`. */
function namedUpdates(context: Context): readonly InputPath[] | undefined {
  const named = context.flags['update-input'];
  return named.length === 0 ? undefined : named.map(inputPath);
}

/** flake.yaml's lock is written where a byte is different; that of flake.nix, as Nix does, only where it says something else. */
async function isChanged(
  context: Context,
  flake: Flake,
  { kind }: FlakeManifest,
  previous: LockFile | undefined,
  locked: LockFile,
): Promise<boolean> {
  if (kind === 'yaml' && context.flags['reference-lock-file'] === undefined)
    return printLockFile(locked) !== (flake.lockText ?? printLockFile(emptyLock));
  const { isSameLock } = await import('../flake/locker.ts');
  return !isSameLock(locked, previous ?? emptyLock);
}

/** `greet/base` from the command line. Throws FLK_USAGE. */
export function inputPath(text: string): InputPath {
  // As Nix does: a slash too many is none.
  const path = text.split('/').filter((name) => name !== '');
  const wrong = path.find((name) => !inputNamePattern.test(name));
  if (path.length > 0 && wrong === undefined) return path;
  throw new FlkError('FLK_USAGE', `'${text}' is not the path of an input`, {
    hint: 'names with slashes between them: greet, greet/base',
  });
}

/** `--reference-lock-file`, else the flake's own flake.lock. Throws FLK_LOCK_INVALID and FLK_LOCK_CONFLICT. */
export async function previousLock(context: Context, flake: Flake): Promise<LockFile | undefined> {
  const reference = context.flags['reference-lock-file'];
  if (reference !== undefined) {
    const bytes = await readFileIfExists(resolve(context.cwd, reference));
    return bytes === undefined ? undefined : parseLockFile({ path: reference, text: bytes.toString() });
  }
  return ownLock(context, flake);
}

function ownLock(context: Context, flake: Flake): LockFile | undefined {
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
  manifest: FlakeManifest,
  previous: LockFile | undefined,
  overrides = overridesOf(context),
): Promise<Staleness> {
  const { checkLock } = await import('../flake/lock-check.ts');
  let selfContained = overrides.size === 0;
  const reasons = await checkLock({
    manifest,
    previous,
    readManifest: manifestReader,
    readRelative: async (path) => {
      selfContained = false;
      return await (await flake.files()).readFile(path);
    },
    walkRelative: async (sink, signal) => await (await flake.files()).walk(sink, signal),
    rootDir: flake.dir,
    overrides,
    cached: {
      fetch: async (ref) => {
        selfContained = false;
        return await (await context.cachedSources()).fetch(ref);
      },
    },
    reporter: context.reporter,
  });
  return { reasons, selfContained };
}

/**
 * Every reason with its place in the manifest; what has none any more is told as a fact, and, where it is known, what locking
 * would change.
 */
export function staleError(
  context: Context,
  flake: Flake,
  previous: LockFile | undefined,
  reasons: readonly StaleReason[],
  changes = '',
): FlkError {
  const placed = reasons.flatMap(({ place }) => (place === undefined ? [] : [place]));
  const unplaced = reasons.filter(({ place }) => place === undefined);
  // The same command would fail again without what was said of the inputs.
  const overrides = context.flags['override-input'].map(
    ([path, ref]) => ` --override-input ${quote(path)} ${quote(ref)}`,
  );
  const commands = [...new Set(reasons.map(({ command }) => command))].map(
    (command) => command + overrides.join(''),
  );
  return new FlkError(
    previous === undefined && flake.lockText === undefined ? 'FLK_LOCK_MISSING' : 'FLK_LOCK_STALE',
    previous === undefined ? 'there is no flake.lock yet' : 'flake.lock is not what locking would give now',
    {
      diagnostics: placed,
      facts: {
        ...Object.fromEntries(unplaced.map(({ input, message }) => [input.join('/'), message])),
        ...(changes === '' ? {} : { 'would change': changes.trimEnd() }),
      },
      ...(commands.length === 0 ? {} : { hint: commands.join('; ') }),
    },
  );
}

/** `--override-input`, by path. */
function overridesOf(context: Context): ReadonlyMap<string, FlakeRef> {
  return new Map(
    context.flags['override-input'].map(([path, ref]) => [
      printInputPath(inputPath(path)),
      refFromArgument(context, ref),
    ]),
  );
}

/** The lock file as the person knows it. */
function lockName(context: Context, flake: Flake): string {
  if (flake.lockPath === undefined) return 'flake.lock';
  const short = relative(context.cwd, flake.lockPath);
  return short.startsWith('..') ? flake.lockPath : short;
}

/**
 * Whether the lock may be written. What is overridden by hand is meant for this once, unless locking is all that was asked for;
 * so it is in Nix.
 */
function writesLock({ command, flags }: Context): boolean {
  if (flags['no-write-lock-file'] || (command === 'build' && flags['dry-run'])) return false;
  return command === 'lock' || command === 'update' || flags['override-input'].length === 0;
}

/**
 * Writes the lock, says what changed in it, and commits it where that was asked for. Gives the file that was written, absolute.
 * Throws as `putLock`.
 */
export async function writeLock(context: Context, flake: Flake, locked: Locked): Promise<string | undefined> {
  const written = await putLock(context, flake, locked);
  await sayChanges(context, flake, locked);
  if (written !== undefined && written === flake.lockPath && context.flags['commit-lock-file'])
    await commitLock(context, flake, locked);
  if (written !== undefined && written === flake.lockPath) {
    const { keepInputs } = await import('./live-roots.ts');
    await keepInputs(context, { lockPath: written, lock: locked.lock });
  }
  return written;
}

/** What `flk lock --json` and `flk update --json` answer. */
export async function lockAnswer(
  flake: Flake,
  locked?: Locked,
  written?: string,
): Promise<{
  readonly lockFile: string | null;
  readonly changed: boolean;
  readonly written: string | null;
  readonly changes: readonly ChangeJson[];
}> {
  const { lockChanges, changesJson } = await import('../flake/lock-diff.ts');
  return {
    lockFile: flake.lockPath ?? null,
    changed: locked?.changed ?? false,
    written: written ?? null,
    changes: locked ? changesJson(lockChanges(locked.previous ?? emptyLock, locked.lock)) : [],
  };
}

/**
 * Writes the lock where it changed and may be written: to flake.lock, of which Git is told, or to `--output-lock-file`, in any
 * case. Gives that file. A flake that is no folder here keeps its lock in memory, unless writing it is what
 * was asked for: FLK_USAGE.
 */
async function putLock(context: Context, flake: Flake, locked: Locked): Promise<string | undefined> {
  const output = context.flags['output-lock-file'];
  const commits = context.flags['commit-lock-file'];
  if (!writesLock(context) || locked.unlocked) return undefined;
  if (commits && output !== undefined)
    throw new FlkError('FLK_USAGE', '--commit-lock-file and --output-lock-file exclude each other', {
      hint: 'only flake.lock itself can be committed: leave one of them out',
    });
  if (output !== undefined) {
    const file = resolve(context.cwd, output);
    await writeFileAtomic(file, printLockFile(locked.lock));
    return file;
  }
  if (!locked.changed) return undefined;
  if (flake.lockPath === undefined) {
    if (context.command !== 'lock' && context.command !== 'update') return undefined;
    throw new FlkError(
      'FLK_USAGE',
      'this flake is not in a folder of this machine, so its flake.lock cannot be written',
      { hint: 'clone it, or try --output-lock-file FILE or --no-write-lock-file' },
    );
  }
  if (commits && !(await hasGit()))
    throw new FlkError('FLK_GIT_MISSING', '--commit-lock-file needs the git program, and there is none here');
  await writeFileAtomic(flake.lockPath, printLockFile(locked.lock));
  if (flake.lockText === undefined || commits) await flake.trackLock();
  return flake.lockPath;
}

/** `--commit-lock-file`: the lock alone, with Nix's message. */
async function commitLock(context: Context, flake: Flake, { lock, previous }: Locked): Promise<void> {
  const settings = await context.settings();
  const path = posix.join(flake.dir, 'flake.lock');
  const summary =
    settings.commitLockFileSummary || `${path}: ${flake.lockText === undefined ? 'Add' : 'Update'}`;
  const list = await changeList(previous, lock, { details: false });
  const rev = await flake.commitLock(`${summary}\n\nFlake lock file updates:\n\n${list}\n`);
  if (rev !== undefined && !context.flags.quiet) context.report.say(`committed ${path} as ${rev}`);
}

/** A flake that is locked as it should be; its flake.lock is written where it had to change and may. */
export async function openLocked(
  context: Context,
  target: string,
): Promise<{ readonly flake: Flake; readonly manifest: FlakeManifest; readonly lock: LockFile }> {
  return await openLockedAs(context, target, readManifest);
}

/** As `openLocked`, the manifest read by `read`, which may refuse it before anything is locked. */
export async function openLockedAs<M extends FlakeManifest>(
  context: Context,
  target: string,
  read: (flake: Flake) => Promise<M>,
): Promise<{ readonly flake: Flake; readonly manifest: M; readonly lock: LockFile }> {
  const flake = await openFlake(context, target);
  const manifest = await read(flake);
  const previous = await previousLock(context, flake);
  if (mayBeKept(context)) {
    const { reasons } = await checkStaleness(context, flake, manifest, previous);
    if (reasons.length === 0) return { flake, manifest, lock: previous ?? emptyLock };
  }
  return await exclusively(context, target, async (fresh) => {
    const manifest = await read(fresh);
    const locked = await lockFlake(context, fresh, manifest);
    await writeLock(context, fresh, locked);
    // The lock is part of the flake's tree.
    const flake = locked.changed ? await openFlake(context, target) : fresh;
    return { flake, manifest, lock: locked.lock };
  });
}

/** Whether nothing is to be done about a lock that is current. */
export function mayBeKept({ flags }: Context): boolean {
  return (
    !flags['recreate-lock-file'] &&
    flags['update-input'].length === 0 &&
    flags['output-lock-file'] === undefined
  );
}

/** What is different between two locks, in Nix's words. */
async function changeList(
  was: LockFile | undefined,
  now: LockFile,
  options: { readonly details?: boolean } = {},
): Promise<string> {
  const { lockChanges, printChanges } = await import('../flake/lock-diff.ts');
  return cleanText(printChanges(lockChanges(was ?? emptyLock, now), options));
}

/** What changed, on stderr, as Nix lists it. */
async function sayChanges(context: Context, flake: Flake, locked: Locked): Promise<void> {
  if (!locked.changed || context.flags.quiet) return;
  const list = await changeList(locked.previous, locked.lock);
  // What an input is declared as may change, and its pin still fit.
  const said = list === '' ? ' no input moved' : `\n${list}`;
  const output = context.flags['output-lock-file'];
  const kept =
    !writesLock(context) ||
    locked.unlocked !== undefined ||
    (output === undefined && flake.lockPath === undefined);
  const what = kept
    ? 'changes to'
    : output === undefined && flake.lockText !== undefined
      ? 'updated'
      : 'wrote';
  const name = kept || output === undefined ? lockName(context, flake) : output;
  const why = locked.unlocked === undefined ? '' : ` (${printFlakeRef(locked.unlocked)} has changes)`;
  context.report.say(`${what} ${name}${kept ? `, not written${why}` : ''}:${said}`.trimEnd());
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
