/** Locks that are names of a mark, and symlinks where a mark can have no other name: here, because it lies on another file system. */
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import {
  isFileLocked,
  type LockMark,
  makeLockMark,
  ownerName,
  takeFileLock,
  withFileLock,
} from '../../../src/base/files.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

const shared = '/dev/shm';
const elsewhere =
  existsSync(shared) && statSync(shared).dev !== statSync(temporaryFolder()).dev
    ? mkdtempSync(join(shared, 'flk-test-'))
    : undefined;
afterAll(() => {
  if (elsewhere) rmSync(elsewhere, { recursive: true });
});

let folder: string;
let path: string;
beforeEach(() => {
  folder = temporaryFolder();
  path = join(folder, 'lock');
});

const markIn = async (place: string): Promise<LockMark> => {
  const mark = await makeLockMark(join(place, await ownerName()));
  if (!mark) throw new Error('no mark could be made');
  return mark;
};

describe.each([
  { where: 'with other names', place: () => temporaryFolder() },
  { where: 'on another file system', place: () => elsewhere },
])('a mark $where', ({ where, place }) => {
  // A system without /dev/shm has no second file system to try.
  const whole = test.skipIf(where === 'on another file system' && elsewhere === undefined);
  const mark = () => markIn(place() as string);

  whole('is what the lock is a name of, or tells its owner', async () => {
    const own = await mark();
    await withFileLock(
      path,
      async () => {
        if (where === 'with other names') expect(lstatSync(path).ino).toBe(own.inode);
        else expect(readlinkSync(path)).toBe(own.owner);
        expect(await isFileLocked(path)).toBe(true);
      },
      { mark: own },
    );
    expect(readdirSync(folder)).toEqual([]);
    expect(await isFileLocked(path)).toBe(false);
  });

  whole('keeps others out, with a mark of theirs, with this one and without', async () => {
    const own = await mark();
    const release = await takeFileLock(path, { mark: own });
    for (const other of [own, await mark(), undefined]) {
      expect((await errorOf(takeFileLock(path, { mark: other, patience: 20 }))).code).toBe('FLK_LOCK_BUSY');
    }
    release();
    (await takeFileLock(path, { mark: own, patience: 20 }))();
    expect(readdirSync(folder)).toEqual([]);
  });

  whole('leaves the lock that another has put there since', async () => {
    const own = await mark();
    const file = join(folder, 'file');
    writeFileSync(file, '1 2 abc');
    const puts = [() => symlinkSync('1 2 abc', path), () => linkSync(file, path)];
    for (const put of puts) {
      const release = await takeFileLock(path, { mark: own });
      rmSync(path);
      put();
      release();
      expect(readdirSync(folder)).toContain('lock');
      rmSync(path);
    }
  });

  // Numbers are a file system's own: on another one, or once the mark is gone, anybody's file may have the mark's.
  whole('knows a symlink of its own from a file with the mark’s number', async () => {
    const own = await mark();
    const file = join(folder, 'file');
    writeFileSync(file, '1 2 abc');
    rmSync(own.file);
    const release = await takeFileLock(path, { mark: { ...own, inode: statSync(file).ino } });
    expect(readlinkSync(path)).toBe(own.owner);
    rmSync(path);
    linkSync(file, path);
    release();
    expect(readdirSync(folder)).toContain('lock');
  });
});
