import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { environmentTree, followInStore } from '../../../src/store/environment.ts';
import {
  addGeneration,
  changingProfile,
  type Generation,
  listProfiles,
  oldGenerations,
  profilesFolder,
  readGenerations,
  removeGenerations,
  switchTo,
} from '../../../src/store/generations.ts';
import {
  buildEnvironment,
  changeProfile,
  elementChanges,
  type ProfileElement,
  type ProfileManifest,
  readManifest,
} from '../../../src/store/profile.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, entriesOf, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

let store: Store;
let profile: string;
beforeEach(async () => {
  store = await openStore(join(temporaryFolder(), 'root'));
  profile = join(profilesFolder(store), 'profile');
});

const add = async (
  name: string,
  entries: Readonly<Record<string, Node>>,
  references: readonly StorePath[] = [],
): Promise<StorePath> => (await store.addTree(name, treeFrom(directory(entries)), { references })).path;
const program = (name: string, text = name): Promise<StorePath> =>
  add(`${name}-1.0`, { bin: directory({ [name]: file(`#!/bin/sh\necho ${text}\n`, true) }) });

const element = (...storePaths: StorePath[]): ProfileElement => ({
  active: true,
  priority: 5,
  storePaths: storePaths.sort(),
});
const manifest = (elements: Readonly<Record<string, ProfileElement>>): ProfileManifest =>
  new Map(Object.entries(elements));

const tree = async (packages: readonly (readonly [StorePath, number?])[]): Promise<string[]> =>
  await entriesOf(
    environmentTree(
      store,
      packages.map(([path, priority = 5], i) => ({ path, priority, name: `p${i}`, isNew: i > 0 })),
      new Map(),
    ),
  );

describe('environmentTree', () => {
  it('links what one package has whole, and unites folders that several have', async () => {
    const a = await add('a', { bin: directory({ a: file('a') }), share: directory({ a: file('') }) });
    const b = await add('b', { bin: directory({ b: file('b') }), top: file('b') });
    expect(await tree([[a], [b]])).toEqual([
      'bin/',
      `bin/a@ -> ${a}/bin/a`,
      `bin/b@ -> ${b}/bin/b`,
      `share@ -> ${a}/share`,
      `top@ -> ${b}/top`,
    ]);
  });

  it('leaves out what Nix does: hidden files, links to nowhere, files that all packages have', async () => {
    const a = await add('a', {
      '.hidden': file(''),
      'nix-support': directory({ 'propagated-build-inputs': file('x') }),
      'manifest.json': file('{}'),
      log: file(''),
      share: directory({ info: directory({ dir: file(''), a: file('') }) }),
      gone: symlink('/nix/store/0123456789abcdfghijklmnpqrsvwxyz-gone/a'),
      loop: symlink('loop'),
      here: symlink('share/info/a'),
    });
    expect(await tree([[a]])).toEqual([`here@ -> ${a}/here`, `share@ -> ${a}/share`]);
    const b = await add('b', { share: directory({ info: directory({ b: file(''), dir: file('') }) }) });
    expect(await tree([[a], [b]])).toEqual([
      `here@ -> ${a}/here`,
      'share/',
      'share/info/',
      `share/info/a@ -> ${a}/share/info/a`,
      `share/info/b@ -> ${b}/share/info/b`,
    ]);
  });

  it('follows links into other paths of the store, as a machine with /nix/store would', async () => {
    const deep = await add('deep', { lib: directory({ x: file('x') }) });
    const a = await add('a', { lib: symlink(`${deep}/lib`) }, [deep]);
    const b = await add('b', { lib: directory({ y: file('y') }) });
    expect(await tree([[a, 4], [b]])).toEqual(['lib/', `lib/x@ -> ${deep}/lib/x`, `lib/y@ -> ${b}/lib/y`]);
    expect(followInStore(store, `${a}/lib/../lib/x`)).toEqual({
      path: `${deep}/lib/x`,
      place: `${store.physical(deep)}/lib/x`,
      isFolder: false,
    });
    expect(followInStore(store, `${a}/lib/x/y`)).toBeUndefined();
    expect(followInStore(store, `${a}/lib/x/../x`)).toBeUndefined();
  });

  it('lets the lower priority win, whatever the order, and refuses equals', async () => {
    const [a, b] = [await program('x', 'one'), await program('x', 'two')];
    expect(
      await tree([
        [a, 5],
        [b, 4],
      ]),
    ).toEqual(['bin/', `bin/x@ -> ${b}/bin/x`]);
    expect(
      await tree([
        [a, 4],
        [b, 5],
      ]),
    ).toEqual(['bin/', `bin/x@ -> ${a}/bin/x`]);
    const error = await errorOf(tree([[a], [b]]));
    expect(error.code).toBe('FLK_PROFILE_COLLISION');
    expect(error.message).toMatch(/p[01] and p[01] both have bin\/x/);
    expect(Object.values(error.facts).sort()).toEqual([`${a}/bin/x`, `${b}/bin/x`].sort());
    expect(error.hint).toBe('install the one that should win with --priority 4, or flk profile remove p0');
  });

  it('refuses a file where others have a folder', async () => {
    const a = await add('a', { share: directory({ x: file('') }) });
    const b = await add('b', { share: file('') });
    const c = await add('c', { share: directory({ y: file('') }) });
    expect((await errorOf(tree([[a], [b]]))).code).toBe('FLK_PROFILE_COLLISION');
    const error = await errorOf(
      tree([
        [a, 1],
        [c, 1],
        [b, 2],
      ]),
    );
    expect(error.message).toBe('share is a folder in other packages, and no folder in p2');
  });

  it('brings what packages want to have with them, last', async () => {
    const extra = await program('x', 'extra');
    const a = await add(
      'a',
      { 'nix-support': directory({ 'propagated-user-env-packages': file(`${extra}\n`) }) },
      [extra],
    );
    const b = await program('x', 'own');
    expect(await tree([[a]])).toEqual([`bin@ -> ${extra}/bin`]);
    expect(await tree([[a], [b, 900]])).toEqual(['bin/', `bin/x@ -> ${b}/bin/x`]);
  });
});

describe('generations', () => {
  const made = async (count: number): Promise<Generation[]> => {
    const all: Generation[] = [];
    for (let i = 0; i < count; i++) {
      const path = await program(`p${i}`);
      await changingProfile(profile, async (now) => {
        all.push(await addGeneration(store, now, path));
        await switchTo(store, profile, all.at(-1)!, undefined);
      });
    }
    return all;
  };

  it('count up, lead to paths, and one of them is current', async () => {
    expect(readGenerations(profile)).toEqual({ profile, all: [], current: undefined });
    const [one, two] = await made(2);
    expect(readGenerations(profile)).toEqual({ profile, all: [one, two], current: two });
    expect(readdirSync(profilesFolder(store)).sort()).toEqual([
      'profile',
      'profile-1-link',
      'profile-2-link',
    ]);
    expect(readlinkSync(profile)).toBe('profile-2-link');
    expect(readlinkSync(`${profile}-1-link`)).toBe(store.physical(one!.path));
    expect(listProfiles(store)).toEqual([profile]);
    await changingProfile(profile, () => switchTo(store, profile, one!, undefined));
    expect(readGenerations(profile).current).toEqual(one);
  });

  it('are not made twice for the same content, and numbers are not used again', async () => {
    const [, two] = await made(2);
    await changingProfile(profile, async (now) => {
      expect(await addGeneration(store, now, two!.path)).toEqual(two);
    });
    mkdirSync(`${profile}-7-run`);
    await changingProfile(profile, async (now) => {
      expect((await addGeneration(store, now, await program('new'))).number).toBe(8);
    });
    await changingProfile(profile, () => removeGenerations(profile, [1]));
    expect(readGenerations(profile).all.map(({ number }) => number)).toEqual([2, 8]);
    expect(existsSync(`${profile}-7-run`)).toBe(false);
  });

  it('read past what is none of theirs', async () => {
    await made(1);
    symlinkSync('/etc', `${profile}-2-link`);
    symlinkSync(store.root, `${profile}-03-link`);
    writeFileSync(`${profile}-4-link`, '');
    symlinkSync('x', `${profile}-two-link`);
    expect(readGenerations(profile).all.map(({ number }) => number)).toEqual([1]);
  });

  it('keep a path alive through a root of its own, where a profile lies elsewhere', async () => {
    const place = join(temporaryFolder(), 'mine');
    const path = await program('x');
    await changingProfile(place, async (now) => {
      await switchTo(store, place, await addGeneration(store, now, path), undefined);
    });
    const auto = join(store.root, 'nix/var/nix/gcroots/auto');
    expect(readdirSync(auto).map((name) => readlinkSync(join(auto, name)))).toEqual([`${place}-1-link`]);
  });

  it('do not take the place of something else', async () => {
    mkdirSync(profile, { recursive: true });
    const error = await errorOf(changingProfile(profile, async () => {}));
    expect(error.code).toBe('FLK_PROFILE_INVALID');
  });

  it('start programs through launchers where the store is elsewhere, switched in one step', async () => {
    const lib = await add('lib', { data: file('x') });
    const bound = await add('bound', { bin: directory({ bound: file('#!/bin/sh\n', true) }) }, [lib]);
    const free = await program('free');
    const environment = await buildEnvironment(
      store,
      manifest({ bound: element(bound), free: element(free) }),
    );
    const script = async (name: string): Promise<string> => `#!/bin/sh\necho start ${name}\n`;
    await changingProfile(profile, async (now) => {
      await switchTo(store, profile, await addGeneration(store, now, environment), script);
    });
    expect(readlinkSync(profile)).toBe('profile-1-run');
    expect(readGenerations(profile).current?.path).toBe(environment);
    const { run } = await import('../../../src/base/process.ts');
    expect(String((await run(join(profile, 'bin/bound'), [])).stdout)).toBe(`start ${bound}/bin/bound\n`);
    expect(String((await run(join(profile, 'bin/free'), [])).stdout)).toBe('free\n');
    expect(readlinkSync(join(profile, 'manifest.json'))).toBe(`${store.physical(environment)}/manifest.json`);
    // One package alone: its bin is one link in the environment, and here a folder.
    const alone = await buildEnvironment(store, manifest({ bound: element(bound) }));
    await changingProfile(profile, async (now) => {
      await switchTo(store, profile, await addGeneration(store, now, alone), script);
    });
    expect(lstatSync(join(profile, 'bin/bound')).mode & 0o777).toBe(0o755);
    expect(existsSync(`${profile}-1-run/bin/free`)).toBe(true);
    await changingProfile(profile, () => removeGenerations(profile, [1]));
    expect(readdirSync(profilesFolder(store)).filter((name) => name.startsWith('profile-1'))).toEqual([]);
  });

  it('may go as Nix lets them: what was current at that time stays', () => {
    const at = (number: number, created: number): Generation => ({ number, created, path: '' as StorePath });
    const all = [at(1, 10), at(2, 20), at(3, 30), at(4, 40), at(5, 50)];
    const old = (current: number, wish: Parameters<typeof oldGenerations>[1]): number[] =>
      oldGenerations({ profile, all, current: all[current - 1] }, wish).map(({ number }) => number);
    expect(old(5, {})).toEqual([1, 2, 3, 4]);
    expect(old(5, { before: 35 })).toEqual([1, 2]);
    expect(old(5, { before: 30 })).toEqual([1]);
    expect(old(1, { before: 45 })).toEqual([2, 3]);
    expect(old(5, { before: 5 })).toEqual([]);
    expect(old(5, { keep: 2 })).toEqual([1, 2, 3]);
    expect(old(3, { keep: 2 })).toEqual([1]);
    expect(old(5, { keep: 2, before: 35 })).toEqual([1, 2]);
    expect(old(5, { keep: 4, before: 35 })).toEqual([1]);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.option(fc.integer({ min: 0, max: 60 }), { nil: undefined }),
        fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }),
        (current, before, keep) => {
          const wish = {
            ...(before === undefined ? {} : { before }),
            ...(keep === undefined ? {} : { keep }),
          };
          expect(old(current, wish)).not.toContain(current);
        },
      ),
    );
  });
});

describe('changeProfile', () => {
  it('makes a generation of each change, and none of none', async () => {
    const [a, b] = [await program('a'), await program('b')];
    const first = await changeProfile(store, profile, () => manifest({ a: element(a) }));
    expect(first.generation?.number).toBe(1);
    const same = await changeProfile(store, profile, (now) => now);
    expect(same.generation).toBeUndefined();
    const dry = await changeProfile(store, profile, () => manifest({}), { dryRun: true });
    expect([dry.generation, readGenerations(profile).all.length]).toEqual([undefined, 1]);
    const second = await changeProfile(store, profile, (now) => new Map([...now, ['b', element(b)]]));
    expect(elementChanges(second.before, second.after)).toEqual([{ name: 'b', kind: 'added', to: '1.0' }]);
    expect(await readManifest(store, second.generation!.path)).toEqual(
      manifest({ a: element(a), b: element(b) }),
    );
    expect(store.query(second.generation!.path)?.references).toEqual([a, b].sort());
  });

  it('loses no change, however many come at once, and uses each number once', async () => {
    const paths = await Promise.all(Array.from({ length: 8 }, (_, i) => program(`p${i}`)));
    const changes = await Promise.all(
      paths.map((path, i) =>
        changeProfile(store, profile, (now) => new Map([...now, [`p${i}`, element(path)]])),
      ),
    );
    const numbers = changes.map(({ generation }) => generation!.number);
    expect(numbers.sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    const { current } = readGenerations(profile);
    expect([...(await readManifest(store, current!.path)).keys()]).toEqual(paths.map((_, i) => `p${i}`));
  });

  it('leaves the profile as it was where packages collide', async () => {
    const [a, b] = [await program('x', 'one'), await program('x', 'two')];
    await changeProfile(store, profile, () => manifest({ a: element(a) }));
    const failed = changeProfile(store, profile, (now) => new Map([...now, ['b', element(b)]]));
    const error = await errorOf(failed);
    expect(error.hint).toContain('flk profile remove a');
    expect(readGenerations(profile).all).toHaveLength(1);
  });

  it('goes on after a kill between making a generation and switching to it', async () => {
    const [a, b] = [await program('a'), await program('b')];
    await changeProfile(store, profile, () => manifest({ a: element(a) }));
    const environment = await buildEnvironment(store, manifest({ a: element(a), b: element(b) }));
    await changingProfile(profile, (now) => addGeneration(store, now, environment));
    symlinkSync('half', join(profilesFolder(store), `.${basename(profile)}.new`));
    expect(readGenerations(profile).current?.number).toBe(1);
    const again = await changeProfile(store, profile, (now) => new Map([...now, ['b', element(b)]]));
    expect(again.generation?.number).toBe(2);
    expect(readlinkSync(profile)).toBe('profile-2-link');
  });
});

describe('readManifest', () => {
  const read = async (text: string): Promise<ProfileManifest> =>
    await readManifest(store, await add('profile', { 'manifest.json': file(text) }));

  it('reads what nix profile writes, versions 2 and 3', async () => {
    const path = `/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12`;
    const entry = {
      active: true,
      attrPath: 'legacyPackages.x86_64-linux.hello',
      originalUrl: 'flake:nixpkgs',
      outputs: null,
      priority: 5,
      storePaths: [path],
      url: 'github:NixOS/nixpkgs/abc',
    };
    const { outputs: _, ...rest } = entry;
    const { active, priority, storePaths, ...source } = rest;
    const expected = [['hello', { active, priority, storePaths, source }]];
    expect([...(await read(JSON.stringify({ version: 3, elements: { hello: entry } })))]).toEqual(expected);
    expect([...(await read(JSON.stringify({ version: 2, elements: [entry] })))]).toEqual(expected);
    const bare = await read(
      JSON.stringify({ version: 3, elements: { x: { active: false, storePaths: [path] } } }),
    );
    expect(bare.get('x')).toEqual({ active: false, priority: 5, storePaths: [path] });
  });

  it.each([
    ['', 'not JSON'],
    ['[]', 'the file is no object'],
    ['{"version":9,"elements":{}}', 'version is 9'],
    ['{"version":3}', 'elements is no object'],
    ['{"version":3,"elements":{"a":1}}', 'elements.a is no object'],
    ['{"version":3,"elements":{"a":{"storePaths":["/etc"]}}}', 'storePaths has "/etc"'],
    ['{"version":3,"elements":{"a":{"storePaths":[],"priority":1.5}}}', 'priority'],
    ['{"version":3,"elements":{"a":{"storePaths":[],"active":"yes"}}}', 'active'],
    ['{"version":3,"elements":{"a":{"storePaths":[],"url":"x"}}}', 'no originalUrl'],
  ])('refuses %s', async (text, why) => {
    const error = await errorOf(read(text));
    expect(error.code).toBe('FLK_PROFILE_INVALID');
    expect(error.message).toContain(why);
  });

  it('refuses an environment that something else made', async () => {
    const path = await add('env', { bin: directory() });
    expect((await errorOf(readManifest(store, path))).code).toBe('FLK_PROFILE_INVALID');
  });

  it('says what changed, by name', async () => {
    const [one, two] = [await add('x-1.0', {}), await add('x-2.0', {})];
    const changes = elementChanges(
      manifest({ a: element(one), b: element(one), c: element(one), d: element(one) }),
      manifest({ a: element(two), b: { ...element(one), priority: 4 }, c: element(one), e: element(two) }),
    );
    expect(changes).toEqual([
      { name: 'a', kind: 'changed', from: '1.0', to: '2.0' },
      { name: 'b', kind: 'changed', from: '1.0', to: '1.0' },
      { name: 'd', kind: 'removed', from: '1.0' },
      { name: 'e', kind: 'added', to: '2.0' },
    ]);
  });
});
