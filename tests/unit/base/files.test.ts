import { spawn } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import os, { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { homeFolder, readFileIfExists, withFileLock, writeFileAtomic } from '../../../src/base/files.ts';
import { errorOf } from '../../support/errors.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'flk-files-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('writeFileAtomic', () => {
  test('replaces the file, keeps its mode and leaves nothing beside it', async () => {
    const path = join(folder, 'flake.lock');
    writeFileSync(path, 'old', { mode: 0o600 });
    await writeFileAtomic(path, 'new');
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(folder)).toEqual(['flake.lock']);
  });

  test('a folder that cannot take the file is FLK_FILE_UNWRITABLE and the old file stays', async () => {
    const path = join(folder, 'taken');
    mkdirSync(path);
    writeFileSync(join(path, 'inside'), 'kept');
    expect((await errorOf(writeFileAtomic(path, 'new'))).code).toBe('FLK_FILE_UNWRITABLE');
    expect(readFileSync(join(path, 'inside'), 'utf8')).toBe('kept');
    expect(readdirSync(folder)).toEqual(['taken']);
  });

  test('a folder that is not there is FLK_FILE_UNWRITABLE', async () => {
    expect((await errorOf(writeFileAtomic(join(folder, 'missing', 'flake.lock'), 'x'))).code).toBe(
      'FLK_FILE_UNWRITABLE',
    );
  });
});

describe('readFileIfExists', () => {
  test('tells a missing file from an unreadable one and from one that is too large', async () => {
    expect(await readFileIfExists(join(folder, 'none'))).toBeUndefined();
    expect((await errorOf(readFileIfExists(folder))).code).toBe('FLK_FILE_UNREADABLE');
    writeFileSync(join(folder, 'large'), 'x'.repeat(11));
    expect((await errorOf(readFileIfExists(join(folder, 'large'), 10))).code).toBe('FLK_LIMIT');
  });
});

describe('withFileLock', () => {
  test('lets one in at a time', async () => {
    const path = join(folder, 'lock');
    let inside = 0;
    let most = 0;
    await Promise.all(
      Array.from({ length: 8 }, () =>
        withFileLock(path, async () => {
          most = Math.max(most, ++inside);
          await new Promise((resolve) => setTimeout(resolve, 5));
          inside--;
        }),
      ),
    );
    expect(most).toBe(1);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('stops waiting when it is told to', async () => {
    const path = join(folder, 'lock');
    const abort = new AbortController();
    await withFileLock(path, async () => {
      const waiting = errorOf(withFileLock(path, async () => {}, { signal: abort.signal }));
      abort.abort();
      expect((await waiting).code).toBe('FLK_INTERRUPTED');
    });
    expect(await withFileLock(path, async () => 'in')).toBe('in');
  });

  test('frees the lock when the work fails', async () => {
    const path = join(folder, 'lock');
    await expect(withFileLock(path, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await withFileLock(path, async () => 'in')).toBe('in');
  });

  test('takes over from a process that was killed', async () => {
    const path = join(folder, 'lock');
    const child = spawn('sleep', ['100']);
    const started = readFileSync(`/proc/${child.pid}/stat`, 'utf8');
    const time = started.slice(started.lastIndexOf(')') + 2).split(' ')[19];
    writeFileSync(path, `${child.pid} ${time} abc\n`);
    expect((await errorOf(withFileLock(path, async () => {}, { patience: 50 }))).code).toBe('FLK_LOCK_BUSY');
    child.kill('SIGKILL');
    await new Promise((resolve) => child.on('close', resolve));
    expect(await withFileLock(path, async () => 'in', { patience: 5000 })).toBe('in');
  });

  test('takes over from one that was killed while it took over', async () => {
    const path = join(folder, 'lock');
    symlinkSync('4194304 1 abc', path);
    symlinkSync('4194304 1 def', `${path}.takeover`);
    expect(await withFileLock(path, async () => 'in', { patience: 1000 })).toBe('in');
    expect(readdirSync(folder)).toEqual([]);
  });

  test('names its owner from the moment that it is there', async () => {
    const path = join(folder, 'lock');
    await withFileLock(path, async () => {
      expect(readlinkSync(path)).toMatch(new RegExp(`^${process.pid} \\d+ [0-9a-f]{12}$`));
    });
  });

  test('does not mistake a reused process number for the owner', async () => {
    const path = join(folder, 'lock');
    writeFileSync(path, `${process.pid} 1 abc\n`);
    expect(await withFileLock(path, async () => 'in', { patience: 5000 })).toBe('in');
  });
});

describe('homeFolder', () => {
  test('is HOME, where that is absolute, else what the system says of the user', () => {
    expect(homeFolder({ HOME: '/home/ada' })).toBe('/home/ada');
    expect(homeFolder({ HOME: 'ada' })).toBe(homedir());
    expect(homeFolder({})).toBe(homedir());
  });

  test('is one that there is not, for a user whom nobody knows', () => {
    const spy = vi.spyOn(os, 'homedir').mockImplementation(() => {
      throw new Error('uv_os_homedir returned ENOENT');
    });
    syncBuiltinESMExports();
    try {
      expect(homeFolder({})).toBe('/nonexistent');
    } finally {
      spy.mockRestore();
      syncBuiltinESMExports();
    }
  });
});
