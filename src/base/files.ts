/** Files that survive: staged beside their place, synced, renamed; and locks between processes. */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from './concurrency.ts';
import { FlkError, systemCode } from './errors.ts';

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
 * Throws FLK_FILE_UNWRITABLE and leaves the old file as it was.
 */
export async function writeFileAtomic(path: string, data: string | Buffer): Promise<void> {
  const staged = join(dirname(path), `.${basename(path)}.${process.pid}.${randomBytes(4).toString('hex')}`);
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

/**
 * Runs `work` while holding an exclusive lock file at `path`, which names its owner's pid and start time. A lock whose owner is
 * dead is taken over. Waits up to `patience` ms (default: ten minutes), then throws FLK_LOCK_BUSY; FLK_INTERRUPTED when `signal` fires
 * meanwhile. All owners must be on one machine.
 */
export async function withFileLock<T>(
  path: string,
  work: () => Promise<T>,
  options: { patience?: number; signal?: AbortSignal | undefined } = {},
): Promise<T> {
  const release = await takeFileLock(path, options);
  try {
    return await work();
  } finally {
    await release();
  }
}

/** The same for work that is no one call: gives what lets the lock go. */
export async function takeFileLock(
  path: string,
  { patience = 600_000, signal }: { patience?: number; signal?: AbortSignal | undefined } = {},
): Promise<() => Promise<void>> {
  const owner = `${(await ownerName()).replaceAll('-', ' ')}\n`;
  const deadline = Date.now() + patience;
  for (let wait = 5; ; wait = Math.min(wait * 2, 200)) {
    if (await take(path, owner)) break;
    if (Date.now() > deadline) {
      throw new FlkError('FLK_LOCK_BUSY', `${path} is held by another flk`, {
        facts: { holder: holder(path) },
      });
    }
    throwIfAborted(signal);
    await sleep(wait);
  }
  return async () => {
    if (readIfThere(path) === owner) rmSync(path, { force: true });
  };
}

async function take(path: string, owner: string): Promise<boolean> {
  // Sync: for a few bytes, a turn in the thread pool takes longer than the calls.
  let fd: number | undefined;
  try {
    fd = openSync(path, 'wx', 0o644);
    writeFileSync(fd, owner);
    return true;
  } catch (error) {
    if (fd !== undefined) rmSync(path, { force: true });
    if (fd !== undefined || systemCode(error) !== 'EEXIST') throw unwritable(path, error);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
  const text = readIfThere(path);
  if (text === undefined) return false;
  const [pid, started] = text.split(' ');
  // An empty file is an owner between its open and its write, or one that died there: judge it by its age.
  const abandoned = pid === '' ? await olderThan(path, 10_000) : (await startTime(Number(pid))) !== started;
  if (!abandoned) return false;
  // Two waiters may both see the dead owner: only the one that holds the takeover file may remove it, after a second look.
  const takeover = `${path}.takeover`;
  try {
    await (await open(takeover, 'wx')).close();
  } catch {
    if (await olderThan(takeover, 10_000)) await rm(takeover, { force: true });
    return false;
  }
  try {
    if (readIfThere(path) === text) rmSync(path, { force: true });
  } finally {
    await rm(takeover, { force: true });
  }
  return false;
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

async function olderThan(path: string, age: number): Promise<boolean> {
  const info = await stat(path).catch(() => undefined);
  return info !== undefined && Date.now() - info.mtimeMs > age;
}

const holder = (path: string): string => `pid ${(readIfThere(path) ?? '?').split(' ')[0]}`;

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
