/** Files that survive: staged beside their place, synced, renamed; and locks between processes. */
import { randomBytes } from 'node:crypto';
import { linkSync, lstatSync, readFileSync, readlinkSync, rmSync, symlinkSync, unlinkSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from './concurrency.ts';
import { FlkError, systemCode } from './errors.ts';

/** Where this person's files lie; for a user whom neither HOME nor passwd gives a place, the one that Debian calls /nonexistent. */
export function homeFolder(env: NodeJS.ProcessEnv): string {
  if (env.HOME !== undefined && isAbsolute(env.HOME)) return env.HOME;
  try {
    return homedir();
  } catch {
    return '/nonexistent';
  }
}

/** The file's bytes, or undefined where there is none. Larger than `limit` bytes is FLK_LIMIT. */
export async function readFileIfExists(path: string, limit = 64 * 1024 * 1024): Promise<Buffer | undefined> {
  try {
    const info = await stat(path);
    if (info.size > limit)
      throw new FlkError('FLK_LIMIT', `${path} has ${info.size} bytes; at most ${limit} are read`);
    return await readFile(path);
  } catch (error) {
    if (error instanceof FlkError) throw error;
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/**
 * Replaces a file in one step: a reader sees the old bytes or the new ones, also after a power cut. Keeps the old file's mode.
 * The new bytes lie at `staged` first, a place on the same file system, by default beside the file; a kill may leave them there.
 * Throws FLK_FILE_UNWRITABLE and leaves the old file as it was.
 */
export async function writeFileAtomic(
  path: string,
  data: string | Buffer,
  staged = join(dirname(path), `.${basename(path)}.${process.pid}.${randomBytes(4).toString('hex')}`),
): Promise<void> {
  try {
    const mode = await stat(path).then(
      (info) => info.mode & 0o777,
      () => 0o644,
    );
    const handle = await open(staged, 'wx', mode);
    try {
      await handle.writeFile(data);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(staged, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(staged, { force: true }).catch(() => {});
    throw unwritable(path, error);
  }
}

/** What the system says when a place cannot be written, as FLK_FILE_UNWRITABLE. */
export function unwritable(path: string, cause: unknown): FlkError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new FlkError('FLK_FILE_UNWRITABLE', `cannot write ${path}: ${reason}`, { cause });
}

/** Makes a rename or a new name in this folder last through a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Creates a folder and its parents. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw new FlkError('FLK_FILE_UNWRITABLE', `cannot create ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

export interface LockOptions {
  /** Milliseconds. */
  readonly patience?: number;
  readonly signal?: AbortSignal | undefined;
  /** Of this process, on the lock's file system. */
  readonly mark?: LockMark | undefined;
}

/**
 * A file that says who its owner is. Each lock that is taken with it is one more name of that file: for who takes thousands of locks,
 * as a new symlink takes a file system ten times as long as a new name.
 */
export interface LockMark {
  readonly file: string;
  readonly owner: string;
  readonly inode: number;
}

/** Writes a mark where nothing is yet; undefined where that cannot be, and locks do without. Its name is an `ownerName`. */
export async function makeLockMark(file: string): Promise<LockMark | undefined> {
  const owner = basename(file).replaceAll('-', ' ');
  try {
    await writeFile(file, owner, { flag: 'wx' });
    return { file, owner, inode: lstatSync(file).ino };
  } catch {
    await rm(file, { force: true }).catch(() => {});
    return undefined;
  }
}

/**
 * Runs `work` while holding an exclusive lock at `path`, a symlink that names its owner's pid and start time. A lock whose owner is
 * dead is taken over. Waits up to `patience` ms (default: ten minutes), then throws FLK_LOCK_BUSY; FLK_INTERRUPTED when `signal` fires
 * meanwhile. All owners must be on one machine.
 */
export async function withFileLock<T>(
  path: string,
  work: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  const release = await takeFileLock(path, options);
  try {
    return await work();
  } finally {
    release();
  }
}

/** The same for work that is no one call: gives what lets the lock go. */
export async function takeFileLock(
  path: string,
  { patience = 600_000, signal, mark }: LockOptions = {},
): Promise<() => void> {
  const owner = mark?.owner ?? (await ownerName()).replaceAll('-', ' ');
  const deadline = Date.now() + patience;
  for (let wait = 5; ; wait = Math.min(wait * 2, 200)) {
    const placed = await take(path, owner, mark);
    if (placed)
      return () => {
        if (isOwn(path, placed)) removeLock(path);
      };
    if (Date.now() > deadline) {
      throw new FlkError('FLK_LOCK_BUSY', `${path} is held by another flk`, {
        facts: { holder: holder(path) },
      });
    }
    throwIfAborted(signal);
    await sleep(wait);
  }
}

/** Whether a living process holds the lock at `path`. */
export async function isFileLocked(path: string): Promise<boolean> {
  const owner = ownerOf(path);
  return owner !== undefined && !(await isAbandoned(path, owner));
}

/** What tells a lock from one that another has put in its place since: a mark's other name from a symlink, and each from its like. */
type Placed = { readonly inode: number } | { readonly owner: string };

async function take(path: string, owner: string, mark: LockMark | undefined): Promise<Placed | undefined> {
  const placed = place(path, owner, mark);
  if (placed) return placed;
  const holder = ownerOf(path);
  if (holder === undefined || !(await isAbandoned(path, holder))) return undefined;
  // Two waiters may both see the dead owner: only the one that holds the takeover may remove it, after a second look.
  const takeover = `${path}.takeover`;
  if (!place(takeover, owner)) {
    const other = ownerOf(takeover);
    if (other !== undefined && (await isAbandoned(takeover, other))) rmSync(takeover, { force: true });
    return undefined;
  }
  try {
    if (ownerOf(path) === holder) rmSync(path, { force: true });
  } finally {
    rmSync(takeover, { force: true });
  }
  return undefined;
}

/**
 * Puts the owner's name there unless there is one. A symlink, for that is made and named in one step: a file's owner may be killed
 * before it has written its name, and nobody could tell then whether it lives.
 */
function place(path: string, owner: string, mark?: LockMark): Placed | undefined {
  try {
    if (mark && link(mark, path)) return mark;
    symlinkSync(owner, path);
    return { owner };
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return undefined;
    throw unwritable(path, error);
  }
}

/** False where the file system knows no second names, or the file has as many as it can have. */
function link(mark: LockMark, path: string): boolean {
  try {
    linkSync(mark.file, path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') throw error;
    return false;
  }
}

/** `rmSync` looks twice at what it removes, and a pull of a thousand small paths lets a thousand locks go. */
function removeLock(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw unwritable(path, error);
  }
}

function isOwn(path: string, placed: Placed): boolean {
  const info = lstatSync(path, { throwIfNoEntry: false });
  if (info === undefined) return false;
  return 'inode' in placed
    ? info.isFile() && info.ino === placed.inode
    : info.isSymbolicLink() && ownerOf(path) === placed.owner;
}

/** Undefined where there is no lock. A file is a mark's other name, or what other programs, and flk once, put there. */
function ownerOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (systemCode(error) !== 'EINVAL') return undefined;
  }
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

async function isAbandoned(path: string, owner: string): Promise<boolean> {
  const [pid, started] = owner.split(' ');
  return pid === '' ? await olderThan(path, 10_000) : (await startTime(Number(pid))) !== started;
}

async function olderThan(path: string, age: number): Promise<boolean> {
  const info = await stat(path).catch(() => undefined);
  return info !== undefined && Date.now() - info.mtimeMs > age;
}

const holder = (path: string): string => `pid ${(ownerOf(path) ?? '?').split(' ')[0]}`;

/** Field 22 of /proc/PID/stat, which tells a process from a later one with the same number; `-` when it is gone. */
export async function startTime(pid: number): Promise<string> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '-';
  } catch {
    try {
      process.kill(pid, 0);
      return '?';
    } catch (error) {
      return systemCode(error) === 'EPERM' ? '?' : '-';
    }
  }
}

/** `PID-STARTTIME-RANDOM`: a name for what belongs to this process and is nobody's once the process is gone. */
export async function ownerName(): Promise<string> {
  ownStart ??= startTime(process.pid);
  return `${process.pid}-${await ownStart}-${randomBytes(6).toString('hex')}`;
}

let ownStart: Promise<string> | undefined;

/** Whether the process that an `ownerName` names still runs. */
export async function isOwnerAlive(name: string): Promise<boolean> {
  const [pid, started] = name.split('-');
  return (await startTime(Number(pid))) === started;
}
