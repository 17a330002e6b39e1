import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { findTool } from '../../src/build/engines/host.ts';
import { canNamespace } from '../support/builds.ts';
import { type CliWorld, flakeWorld } from '../support/cli.ts';

const hello = (version: string, text = version): string => `packages:
  default: hello
  hello:
    version: "${version}"
    toolchain: host
    installPhase: |
      mkdir -p $out/bin $out/share/hello
      printf '#!/bin/sh\\necho hello ${text} "$@"\\n' > $out/bin/hello
      chmod +x $out/bin/hello
      echo doc > $out/share/hello/doc
  other:
    toolchain: host
    installPhase: |
      mkdir -p $out/bin
      printf '#!/bin/sh\\necho other\\n' > $out/bin/hello
      chmod +x $out/bin/hello
  data:
    toolchain: host
    installPhase: |
      mkdir -p $out
      echo bound > $out/word
  bound:
    toolchain: host
    env: { DATA: "{{#data}}" }
    installPhase: |
      mkdir -p $out/bin
      printf '#!/bin/sh\\ncat %s/word; pwd; echo "$@"\\n' $DATA > $out/bin/bound
      chmod +x $out/bin/bound
`;

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

const link = (world: CliWorld): string => join(world.home, 'state/flk/profile');
const start = (world: CliWorld, name: string, ...args: string[]): string =>
  execFileSync(join(link(world), 'bin', name), args, { cwd: world.home, encoding: 'utf8' });
const json = async (world: CliWorld, ...args: string[]): Promise<unknown> => {
  const { status, stdout, stderr } = await world.flk([...args, '--json']);
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
};
const canEnter = (await findTool('unshare')) !== undefined || (await findTool('bwrap')) !== undefined;

describe('flk profile', () => {
  it('installs, upgrades, rolls back, removes; says what changed and, once, what the shell must know', async () => {
    const world = flakeWorld(hello('1.0'));
    const first = await world.flk(['profile', 'install', '.']);
    expect({ status: first.status, stdout: first.stdout }, first.stderr).toEqual({ status: 0, stdout: '' });
    expect(first.stderr).toMatch(/generation 1:\n {2}hello: ∅ → 1\.0\n$/);
    expect(first.stderr).toContain(`export PATH=${link(world)}/bin:"$PATH"`);
    expect(start(world, 'hello', 'a b')).toBe('hello 1.0 a b\n');
    expect(readFileSync(join(link(world), 'share/hello/doc'), 'utf8')).toBe('doc\n');

    writeFileSync(join(world.folder, 'flake.yaml'), hello('2.0'));
    const upgraded = await world.flk(['profile', 'upgrade', 'hello']);
    expect(upgraded.stderr).toMatch(/generation 2:\n {2}hello: 1\.0 → 2\.0\n$/);
    expect(upgraded.stderr).not.toContain('PATH');
    expect(start(world, 'hello')).toBe('hello 2.0\n');
    expect((await world.flk(['profile', 'upgrade'])).stderr).toMatch(/nothing changed\n$/);

    const back = await world.flk(['profile', 'rollback']);
    expect(back.stderr).toBe('switched to generation 1\n  hello: 2.0 → 1.0\n');
    expect(start(world, 'hello')).toBe('hello 1.0\n');
    expect((await world.flk(['profile', 'switch', '2', '--dry-run'])).stderr).toContain('would switch to');
    expect(start(world, 'hello')).toBe('hello 1.0\n');
    await world.flk(['profile', 'rollback', '--to', '2']);
    expect(start(world, 'hello')).toBe('hello 2.0\n');

    const removed = await world.flk(['profile', 'remove', 'hello']);
    expect(removed.stderr).toBe('generation 3:\n  hello: 2.0 → ∅\n');
    expect(existsSync(join(link(world), 'bin'))).toBe(false);
    expect(await json(world, 'profile', 'history')).toMatchObject([
      { generation: 1, current: false, changes: [{ name: 'hello', kind: 'added', to: '1.0' }] },
      { generation: 2, current: false, changes: [{ name: 'hello', from: '1.0', to: '2.0' }] },
      { generation: 3, current: true, changes: [{ name: 'hello', kind: 'removed', from: '2.0' }] },
    ]);
    expect(await json(world, 'profile', 'diff', '1', '2')).toMatchObject({
      from: 1,
      to: 2,
      packages: [{ name: 'hello', removed: ['1.0'], added: ['2.0'] }],
    });
    expect((await world.flk(['profile', 'wipe-history'])).stderr).toContain('removed generations 1, 2');
    expect((await world.flk(['profile', 'history'])).stdout).toMatch(/^generation 3, .* \(current\)\n/);
  });

  it('says with --dry-run what would change, and builds nothing', async () => {
    const world = flakeWorld(hello('1.0'));
    const built = (): string[] =>
      readdirSync(join(world.home, 'data/flk/nix/store')).filter((name) => /-hello-[\d.]+$/.test(name));
    const install = await world.flk(['profile', 'install', '.', '--dry-run']);
    expect(install.stderr).toMatch(/would become:\n {2}hello: ∅ → 1\.0\n$/);
    expect(built()).toEqual([]);
    await world.flk(['profile', 'install', '.']);
    writeFileSync(join(world.folder, 'flake.yaml'), hello('2.0'));
    const upgrade = await world.flk(['profile', 'upgrade', '--dry-run']);
    expect(upgrade.stderr).toMatch(/would become:\n {2}hello: 1\.0 → 2\.0\n$/);
    expect(built()).toHaveLength(1);
    writeFileSync(join(world.folder, 'flake.yaml'), hello('1.0'));
    expect((await world.flk(['profile', 'upgrade', '--dry-run'])).stderr).toMatch(/nothing changed\n$/);
  });

  it.skipIf(!canNamespace)(
    `stays as it is in a store that is only read${canNamespace ? '' : ' (no user namespaces)'}`,
    async () => {
      const world = flakeWorld(hello('1.0'));
      await world.flk(['profile', 'install', '.']);
      const store = join(world.home, 'data/flk');
      const script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"';
      const flk = (...args: string[]) =>
        spawnSync(
          'unshare',
          ['-rm', 'sh', '-c', script, 'sh', store, process.execPath, program, 'profile', ...args],
          {
            cwd: world.folder,
            env: world.env,
            encoding: 'utf8',
          },
        );
      for (const args of [
        ['install', '.#other'],
        ['remove', 'hello'],
        ['upgrade'],
        ['rollback'],
        ['wipe-history'],
      ]) {
        const { status, stderr } = flk(...args);
        expect(stderr).toContain('error[FLK_FILE_UNWRITABLE] the profile ');
        expect(stderr).toContain(`cannot be changed: its store ${store} can only be read`);
        expect(status).toBe(2);
      }
      expect(flk('list')).toMatchObject({ status: 0, stdout: expect.stringContaining('hello') });
      expect(flk('history')).toMatchObject({ status: 0, stdout: expect.stringContaining('generation 1') });
    },
  );

  it('lists as nix profile does', async () => {
    const world = flakeWorld(hello('1.0'));
    const place = join(world.home, 'data/flk/nix/var/nix/profiles/per-user', userInfo().username, 'profile');
    for (const [word, said] of [
      ['list', `nothing is installed in ${place}\n`],
      ['history', `${place} has no generation yet\n`],
    ] as const) {
      const { status, stdout, stderr } = await world.flk(['profile', word]);
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: said });
    }
    expect(await json(world, 'profile', 'history')).toEqual([]);
    await world.flk(['profile', 'add', '.#hello', '--priority', '3']);
    const { elements, version } = (await json(world, 'profile', 'list')) as {
      elements: { hello: { storePaths: string[] } };
      version: number;
    };
    expect(version).toBe(3);
    const url = `git+file://${world.folder}`;
    const attrPath = `packages.${process.arch === 'x64' ? 'x86_64' : 'aarch64'}-linux.hello`;
    expect(elements.hello).toEqual({
      active: true,
      attrPath,
      originalUrl: url,
      outputs: null,
      priority: 3,
      storePaths: [expect.stringMatching(/^\/nix\/store\/[0-9a-z]{32}-hello-1\.0$/)],
      url,
    });
    expect((await world.flk(['profile', 'list'])).stdout).toBe(
      [
        'Name:               hello',
        'Version:            1.0',
        `Flake attribute:    ${attrPath}`,
        `Original flake URL: ${url}`,
        `Locked flake URL:   ${url}`,
        `Store paths:        ${elements.hello.storePaths[0]}`,
        '',
      ].join('\n'),
    );
    // A store path stays what it is.
    await world.flk(['profile', 'install', elements.hello.storePaths[0]!, '--profile', 'two']);
    const upgraded = await world.flk(['profile', 'upgrade', '--profile', 'two']);
    expect(upgraded.stderr).toContain('hello was installed as a store path');
  });

  it('names both files where packages collide, and how that is mended', async () => {
    const world = flakeWorld(hello('1.0'));
    await world.flk(['profile', 'install', '.#hello']);
    const { status, stderr } = await world.flk(['profile', 'install', '.#other']);
    expect(status).toBe(2);
    expect(stderr).toContain('FLK_PROFILE_COLLISION');
    expect(stderr.match(/\/nix\/store\/\S+\/bin\/hello/g)).toHaveLength(2);
    expect(stderr).toContain('--priority 4, or flk profile remove hello');
    expect((await world.flk(['profile', 'install', '.#other', '--priority', '4'])).status).toBe(0);
    expect(start(world, 'hello')).toBe('other\n');
    await world.flk(['profile', 'install', '.#other', '--priority', '6']);
    expect(start(world, 'hello')).toBe('hello 1.0\n');
  });

  it.skipIf(!canEnter)(
    `starts programs that need /nix/store ${canEnter ? '' : '(skipped: no unshare or bwrap)'}`,
    async () => {
      const world = flakeWorld(hello('1.0'));
      await world.flk(['profile', 'install', '.#bound', '.#hello']);
      expect(start(world, 'bound', 'x y', 'z')).toBe(`bound\n${world.home}\nx y z\n`);
      expect(lstatSync(join(link(world), 'bin/hello')).isSymbolicLink()).toBe(true);
    },
  );

  it.skipIf(!canEnter)(
    `changes nothing from within a shell that shows another /nix/store ${canEnter ? '' : '(skipped: no unshare or bwrap)'}`,
    async () => {
      const world = flakeWorld(hello('1.0'));
      const inside = [process.execPath, program, 'profile', 'install', '.#bound'];
      const { status, stderr } = await world.flk(['shell', '.#bound', '--command', ...inside]);
      expect(status).toBe(2);
      expect(stderr).toContain('leave the shell first');
      expect(await json(world, 'profile', 'history')).toEqual([]);
    },
  );

  it('keeps profiles by name and by place, and a link of the person’s own', async () => {
    const world = flakeWorld(hello('1.0'));
    const place = join(world.home, 'profiles/mine');
    await world.flk(['profile', 'install', '.', '--profile', place]);
    expect(readlinkSync(place)).toBe('mine-1-run');
    expect(existsSync(link(world))).toBe(false);
    symlinkSync('profiles/mine', join(world.home, 'by-link'));
    await world.flk(['profile', 'remove', 'hello', '--profile', join(world.home, 'by-link')]);
    expect(readlinkSync(place)).toBe('mine-2-run');
    // What only this profile has stays when garbage goes.
    await world.flk(['gc']);
    expect((await world.flk(['profile', 'switch', '1', '--profile', place])).status).toBe(0);
    expect(existsSync(join(place, 'bin/hello'))).toBe(true);
  });

  it.each([
    [['remove'], 'FLK_USAGE', '--all'],
    [['remove', 'x'], 'FLK_PROFILE_PACKAGE_UNKNOWN', 'flk profile list'],
    [['upgrade', 'x'], 'FLK_PROFILE_PACKAGE_UNKNOWN', 'no package x'],
    [['upgrade', 'x', '--all'], 'FLK_USAGE', 'exclude each other'],
    [['rollback'], 'FLK_PROFILE_GENERATION_UNKNOWN', 'flk profile install'],
    [['switch', '7'], 'FLK_PROFILE_GENERATION_UNKNOWN', 'no generation 7'],
    [['install'], 'FLK_USAGE', 'takes FLAKE#PACKAGE…'],
    [['install', '.', '--priority', 'high'], 'FLK_USAGE', 'whole number'],
    [['list', '--profile', '.x'], 'FLK_USAGE', 'cannot name a profile'],
    [['lst'], 'FLK_USAGE', 'flk profile list'],
    [['list', '--all'], 'FLK_USAGE', 'has no option'],
    [['wipe-history', '--older-than', 'soon'], 'FLK_USAGE', '30d, 12h or 2w'],
  ] as const)('refuses flk profile %j', async (args, code, said) => {
    const world = flakeWorld(hello('1.0'));
    const { status, stderr } = await world.flk(['profile', ...args]);
    expect([status, stderr], stderr).toEqual([2, expect.stringContaining(code)]);
    expect(stderr).toContain(said);
  });

  it('loses nothing where several change one profile at once', async () => {
    const world = flakeWorld(hello('1.0'));
    await world.flk(['build', '.#hello', '.#data', '.#bound', '--no-link']);
    const installs = ['hello', 'data', 'bound'].map((name) => world.flk(['profile', 'install', `.#${name}`]));
    expect((await Promise.all(installs)).map(({ status }) => status)).toEqual([0, 0, 0]);
    const { elements } = (await json(world, 'profile', 'list')) as { elements: object };
    expect(Object.keys(elements)).toEqual(['bound', 'data', 'hello']);
    expect(await json(world, 'profile', 'history')).toHaveLength(3);
    rmSync(link(world));
    await world.flk(['profile', 'remove', 'data']);
    expect(existsSync(join(link(world), 'bin/bound'))).toBe(true);
  });
});
