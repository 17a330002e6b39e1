/** What builds leave behind: when it is removed. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Starter } from '../../../src/build/engines/starter.ts';
import { Workshop } from '../../../src/build/engines/workshop.ts';
import { running } from '../../support/builds.ts';

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

describe('the starters of builds', () => {
  const limits = { maxOutputBytes: 1e6, maxLogBytes: 1e6 };
  let shop: Workshop;
  beforeEach(() => {
    const path = join(folder, 'stage');
    mkdirSync(path);
    const dispose = (): Promise<void> => rm(path, { recursive: true });
    shop = new Workshop({
      physical: (store) => store,
      stage: async () => ({ path, dispose, expects: () => {}, wrote: () => {} }),
    });
  });
  afterEach(() => shop.close());

  /** Runs a build that does nothing there, but for what `during` does; gives who started it. */
  async function used(during = (_: Starter): void => {}, within = limits): Promise<Starter> {
    const { starter, output, shut, leave } = await shop.workplace(within);
    output.resume();
    const ended = new Promise((done) => output.once('end', done));
    await starter.run({ argv: ['/bin/true'], cwd: '/', reports: false, inputs: [] });
    shut();
    await ended;
    during(starter);
    await leave(true);
    return starter;
  }

  it('are used again, by builds with the same limits', async () => {
    const first = await used();
    expect(await used()).toBe(first);
    const other = await used(undefined, { ...limits, maxOutputBytes: 2e6 });
    expect(other).not.toBe(first);
    expect(await used()).toBe(first);
  });

  it('are not used again once they were killed, or their output is still open', async () => {
    const killed = await used((starter) => starter.kill());
    const next = await used();
    expect(next).not.toBe(killed);
    const { starter, leave } = await shop.workplace(limits);
    expect(starter).toBe(next);
    await leave(false);
    expect(starter.isAlive).toBe(false);
    expect(await used()).not.toBe(next);
  });

  it('are not used again where somebody has killed them meanwhile', async () => {
    const idle = await used();
    for (const pid of running(idle.output)) process.kill(Number(pid), 'SIGKILL');
    await expect.poll(() => idle.isAlive).toBe(false);
    expect(await used()).not.toBe(idle);
  });

  it('are not used again, nor left behind, where their output is gone', async () => {
    const robbed = await used();
    rmSync(robbed.output);
    await expect(shop.workplace(limits)).rejects.toThrow('ENOENT');
    expect(robbed.isAlive).toBe(false);
    expect(await used()).not.toBe(robbed);
  });

  it('end with the workshop', async () => {
    const { output } = await used();
    expect(running(output)).not.toEqual([]);
    await shop.close();
    await expect.poll(() => running(output)).toEqual([]);
  });
});

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
