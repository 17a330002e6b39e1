/** What builds leave behind: when it is removed. */
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Workshop } from '../../../src/build/engines/workshop.ts';

let folder: string;
let workshop: Workshop;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'flk-workshop-'));
  workshop = new Workshop({
    physical: (path) => path,
    stage: () => Promise.reject(new Error('not asked for')),
  });
});

afterEach(() => rm(folder, { recursive: true, force: true }));

/** A build's folder with these files, handed over; and whether its own way of removing it was taken at once. */
function discarded(name: string, files: Readonly<Record<string, string>>): string {
  const path = join(folder, name);
  mkdirSync(join(path, 'build'), { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(path, 'build', file), text);
  workshop.discard(path, () => rm(path, { recursive: true }));
  return path;
}

/** Until it is gone; a test that waits in vain runs out of time. */
async function gone(path: string): Promise<void> {
  while (existsSync(path)) await new Promise((done) => setTimeout(done, 5));
}

describe('what a build leaves behind', () => {
  it('stays to the end where it is small', async () => {
    const small = discarded('small', { log: 'few words' });
    const large = discarded('large', { blob: 'x'.repeat(100_000) });
    await gone(large);
    expect(existsSync(small)).toBe(true);
    await workshop.close();
    expect(existsSync(small)).toBe(false);
  });

  it('goes at once where it is large or many files', async () => {
    const many = discarded('many', Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`${i}`, ''])));
    const large = discarded('large', { blob: 'x'.repeat(100_000) });
    await Promise.all([gone(many), gone(large)]);
    expect([many, large].map((path) => existsSync(path))).toEqual([false, false]);
  });

  it('does not wait for more builds than a few thousand', async () => {
    const paths = Array.from({ length: 4100 }, (_, i) => discarded(`${i}`, {}));
    await gone(paths.at(-1)!);
    expect(existsSync(paths[0]!)).toBe(true);
    await workshop.close();
    expect(paths.filter((path) => existsSync(path))).toEqual([]);
  }, 60_000);

  it('hinders nobody where it cannot be removed', async () => {
    const path = join(folder, 'stubborn');
    mkdirSync(path);
    workshop.discard(path, () => Promise.reject(new Error('busy')));
    await expect(workshop.close()).resolves.toBeUndefined();
  });
});
