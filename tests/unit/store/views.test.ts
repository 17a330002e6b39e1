import { existsSync, mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { makeTextPath } from '../../../src/formats/store-path.ts';
import type { Root } from '../../../src/store/roots.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { settleView, sweepViews } from '../../../src/store/views.ts';
import { temporaryFolder } from '../../support/temp.ts';

const day = 86_400_000;
const key = (letter: string): string => letter.repeat(32);

async function newStore(): Promise<Store> {
  const store = await openStore(temporaryFolder());
  onTestFinished(() => store.close());
  return store;
}

/** A view with this key, last used so many days ago; gives its place. */
async function view(store: Store, letter: string, age: number): Promise<string> {
  const made = join(temporaryFolder(), 'view');
  mkdirSync(join(made, 'root/usr'), { recursive: true });
  const place = await settleView(store, made, key(letter));
  const then = new Date(Date.now() - age * day);
  utimesSync(place, then, then);
  return place;
}

const views = (store: Store): string[] => readdirSync(join(store.root, 'nix/var/flk/views')).sort();
const none = temporaryFolder();

describe('views', () => {
  it('are made once, and are young where they are used again', async () => {
    const store = await newStore();
    const place = await view(store, 'a', 40);
    const again = join(temporaryFolder(), 'view');
    mkdirSync(again);
    expect(await settleView(store, again, key('a'))).toBe(place);
    expect(existsSync(again)).toBe(true);
    expect(Date.now() - statSync(place).mtimeMs).toBeLessThan(day);
    expect(await sweepViews(store, [], none)).toBe(0);
    expect(views(store)).toEqual([key('a')]);
  });

  it('go a month after they were used, and not before', async () => {
    const store = await newStore();
    await view(store, 'a', 31);
    await view(store, 'b', 29);
    expect(await sweepViews(store, [], none)).toBe(1);
    expect(views(store)).toEqual([key('b')]);
    expect(readdirSync(join(store.root, 'nix/var/flk/stage'))).toEqual([]);
    expect(readdirSync(join(store.root, 'nix/var/flk/locks'))).toEqual([]);
  });

  it('stay while a program runs in them', async () => {
    const store = await newStore();
    const place = await view(store, 'a', 40);
    await view(store, 'b', 40);
    const proc = temporaryFolder();
    for (const [pid, root] of [
      ['12', `${place}/root`],
      ['34', '/'],
    ] as const) {
      mkdirSync(join(proc, pid));
      writeFileSync(join(proc, pid, 'mountinfo'), `99 98 8:1 ${root} / ro,relatime - ext4 /dev/sda1 rw\n`);
    }
    mkdirSync(join(proc, 'self'));
    expect(await sweepViews(store, [], proc)).toBe(1);
    expect(views(store)).toEqual([key('a')]);
  });

  it('stay while a launcher of a profile or an environment names them', async () => {
    const store = await newStore();
    const [generation, environment] = [await view(store, 'a', 40), await view(store, 'b', 40)];
    await view(store, 'c', 40);
    const folder = temporaryFolder();
    const script = (place: string): string => `#!/bin/sh\nexec unshare ${place}/root "$@"\n`;
    mkdirSync(join(folder, 'profile-3-run/bin'), { recursive: true });
    writeFileSync(join(folder, 'profile-3-run/bin/hello'), script(generation));
    mkdirSync(join(folder, 'launchers/x-bin'), { recursive: true });
    writeFileSync(join(folder, 'launchers/x-bin/tool'), script(environment));
    const path = makeTextPath('x', 'x');
    const roots: Root[] = [
      { kind: 'profile', place: join(folder, 'profile-3-link'), path },
      { kind: 'link', place: join(folder, 'env'), path },
    ];
    expect(await sweepViews(store, roots, none)).toBe(1);
    expect(views(store)).toEqual([key('a'), key('b')]);
    expect(await sweepViews(store, [], none)).toBe(2);
  });
});
