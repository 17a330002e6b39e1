import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { flakeWorld } from '../support/cli.ts';

const canMount = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true']).status === 0;

/** `data` refers to nothing; the programs of `one` and `two` name it, so that they need /nix/store. */
const manifest = `packages:
  default: one
  data: { toolchain: host, installPhase: "echo found > $out" }
  plain:
    toolchain: host
    installPhase: |
      mkdir -p $out/bin
      printf '#!/bin/sh\\necho plain "$@"\\n' > $out/bin/plain
      chmod +x $out/bin/plain
  one:
    toolchain: host
    buildInputs: [data]
    installPhase: |
      mkdir -p $out/bin
      for name in one both; do
        printf '#!/bin/sh\\necho one; cat %s\\n' $buildInputs > $out/bin/$name
        chmod +x $out/bin/$name
      done
  two:
    toolchain: host
    buildInputs: [data]
    installPhase: |
      mkdir -p $out/bin
      printf '#!/bin/sh\\necho two; cat %s\\n' $buildInputs > $out/bin/both
      chmod +x $out/bin/both
apps:
  say: { program: plain/bin/plain }
  one: { program: plain/bin/plain }
  lost: { program: plain/bin/nothing }
checks:
  good: { toolchain: host, buildInputs: [plain], buildPhase: "plain > $out" }
formatter: plain/bin/plain
`;

describe('flk shell', () => {
  it('puts programs on PATH and changes nothing else for a command', async () => {
    const world = flakeWorld(manifest);
    const { status, stdout, stderr } = await world.flk(['shell', '#plain', '-c', 'env']);
    expect(status, stderr).toBe(0);
    const env = new Map(stdout.split('\n').map((line) => [line.split('=')[0]!, line.replace(/^[^=]*=/, '')]));
    const [bin, ...others] = env.get('PATH')!.split(':');
    expect(bin).toMatch(/\/nix\/store\/[0-9a-z]{32}-plain\/bin$/);
    expect(others.join(':')).toBe(world.env.PATH);
    env.delete('PATH');
    env.delete('');
    env.delete('_');
    const { PATH, ...given } = world.env;
    expect(PATH).toBeDefined();
    expect(Object.fromEntries(env)).toEqual(given);
  });

  it('gives the status, the arguments and the input of the command', async () => {
    const world = flakeWorld(manifest);
    const script = 'read line; plain "$line" "$1" "$PWD"; exit 9';
    const { status, stdout } = await world.flk(
      ['shell', '#plain', '--', 'sh', '-c', script, 'sh', '--json'],
      {
        input: 'a b\n',
      },
    );
    expect({ status, stdout }).toEqual({ status: 9, stdout: `plain a b --json ${world.folder}\n` });
    const killed = await world.flk(['shell', '#plain', '-c', 'sh', '-c', 'kill -TERM $$']);
    expect(killed.status).toBe(128 + 15);
  });

  it('starts the shell of the person, and says by FLK_SHELL what it has', async () => {
    const world = flakeWorld(manifest);
    const input = 'plain "$FLK_SHELL"; exit 3\n';
    const inner = await world.flk(['shell', '#plain', '#data'], { input, env: { SHELL: '/bin/sh' } });
    expect(inner).toMatchObject({ status: 3, stdout: 'plain plain data\n' });
    const nested = await world.flk(['shell', '#plain'], {
      input,
      env: { SHELL: '/bin/sh', FLK_SHELL: 'outer' },
    });
    expect(nested.stdout).toBe('plain plain outer\n');
  });

  it.skipIf(!canMount)('enters a view that has /nix/store; the first package comes first', async () => {
    const world = flakeWorld(manifest);
    const run = async (...packages: string[]) =>
      (await world.flk(['shell', ...packages, '-c', 'sh', '-c', 'both; command -v both'])).stdout.split('\n');
    const [first, found, path] = await run('#one', '#two');
    expect([first, found]).toEqual(['one', 'found']);
    expect(path).toMatch(/^\/nix\/store\/[0-9a-z]{32}-one\/bin\/both$/);
    expect((await run('#two', '#one'))[0]).toBe('two');
  });

  it.skipIf(!canMount)('works inside of itself, where the store is in its place already', async () => {
    const world = flakeWorld(manifest);
    const flk = `${process.execPath} ${fileURLToPath(new URL('../../bin/flk.js', import.meta.url))}`;
    const { stdout, stderr } = await world.flk([
      'shell',
      '#one',
      '-c',
      'sh',
      '-c',
      `before=$(grep -c . /proc/self/mountinfo); ${flk} shell '#two' -c sh -c 'one; both; grep -c . /proc/self/mountinfo'; echo $before`,
    ]);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.slice(0, 4), stderr).toEqual(['one', 'found', 'two', 'found']);
    expect(lines[4]).toBe(lines[5]);
  });

  it('takes the environment away, keeps, unsets and sets variables as Nix does', async () => {
    const world = flakeWorld(manifest, {}, { KEPT: 'k', GONE: 'g' });
    const env = async (...options: string[]): Promise<string[]> => {
      const { stdout } = await world.flk(['shell', '#plain', ...options, '-c', '/usr/bin/env']);
      return stdout.split('\n').filter((line) => /^(KEPT|GONE|SET|HOME|PATH)=/.test(line));
    };
    const path = expect.stringMatching(/^PATH=[^:]*-plain\/bin$/);
    expect((await env('-i', '-k', 'KEPT', '-s', 'SET', 'a=b')).sort()).toEqual(['KEPT=k', path, 'SET=a=b']);
    const left = await env('-u', 'GONE', '--set-env-var', 'KEPT', '');
    expect(left).toContain('KEPT=');
    expect(left.join('\n')).not.toContain('GONE=');
  });

  it.each([
    [['-i', '-u', 'X'], '--unset-env-var makes no sense with --ignore-env'],
    [['-k', 'X'], '--keep-env-var makes no sense without --ignore-env'],
    [['-u', 'X', '-s', 'X', '1'], 'X is both set and unset'],
    [['-s', 'X', '1', '-s', 'X', '2'], '--set-env-var sets one variable twice'],
    [['-u', 'A=B'], "'A=B' cannot be the name of a variable"],
  ])('refuses %j', async (options, message) => {
    const world = flakeWorld(manifest);
    const { status, stderr } = await world.flk(['shell', '#plain', ...options, '-c', 'true']);
    expect(status).toBe(2);
    expect(stderr).toContain(`error[FLK_USAGE] ${message}`);
  });

  it('refuses two commands, and says which program there is not', async () => {
    const world = flakeWorld(manifest);
    const missing = await world.flk(['shell', '#plain', '-c', 'no-such-program']);
    expect(missing.status).toBe(2);
    expect(missing.stderr).toContain('error[FLK_RUN_NO_PROGRAM] there is no program no-such-program');
    writeFileSync(join(world.folder, 'data'), '');
    const forbidden = await world.flk(['shell', '#plain', '-c', './data']);
    expect(forbidden.stderr).toContain('error[FLK_RUN_NO_PROGRAM] there is no program ./data');
    const unknown = await world.flk(['shell', '#plian', '-c', 'true']);
    expect(unknown.stderr).toContain('did you mean #plain?');
  });
});

describe('flk run', () => {
  it('takes an app before a package of its name', async () => {
    const world = flakeWorld(manifest);
    expect((await world.flk(['run', '#say', '--', 'a'])).stdout).toBe('plain a\n');
    expect((await world.flk(['run', '#one', '--', 'b'])).stdout).toBe('plain b\n');
    expect((await world.flk(['run', '#apps.one', '--', 'c'])).stdout).toBe('plain c\n');
    expect((await world.flk(['run', '#packages.plain', '--', 'd'])).stdout).toBe('plain d\n');
  });

  it.skipIf(!canMount)('takes the package where it is named so', async () => {
    const world = flakeWorld(manifest);
    expect((await world.flk(['run', '#packages.one'])).stdout).toBe('one\nfound\n');
  });

  it('names what an app leads to and is not there, and apps that there are', async () => {
    const world = flakeWorld(manifest);
    const lost = await world.flk(['run', '#lost']);
    expect(lost.stderr).toContain('error[FLK_RUN_NO_PROGRAM] plain has no file bin/nothing');
    const unknown = await world.flk(['run', '#apps.sya']);
    expect(unknown.stderr).toContain('error[FLK_PACKAGE_UNKNOWN] the flake has no app sya');
    expect(unknown.stderr).toContain('did you mean say?');
  });
});

describe('flk fmt', () => {
  it('hands the arguments to the formatter, in this folder, and says where the flake is', async () => {
    const world = flakeWorld(manifest.replace('echo plain', 'echo $PWD $PRJ_ROOT'));
    const cwd = join(world.folder, 'sub');
    mkdirSync(cwd);
    const { stdout, stderr } = await world.flk(['fmt', 'a', 'b c', '--', '--check'], { cwd });
    expect(stdout, stderr).toBe(`${cwd} ${world.folder} a b c --check\n`);
    const none = await world.flk(['fmt']);
    expect(none.stdout).toBe(`${world.folder} ${world.folder}\n`);
  });

  it('says where there is none', async () => {
    const world = flakeWorld(manifest.replace(/^formatter.*$/m, ''));
    const { status, stderr } = await world.flk(['fmt']);
    expect(status).toBe(2);
    expect(stderr).toContain('error[FLK_RUN_NO_PROGRAM] the flake names no formatter');
  });
});

describe('names on the command line', () => {
  it.each([
    ['#checks.good', /-good$/],
    ['#packages.plain', /-plain$/],
    ['#apps.say', /-plain$/],
  ])('%s is built', async (target, wanted) => {
    const world = flakeWorld(manifest);
    const { stdout, stderr } = await world.flk(['build', target, '--no-link', '--print-out-paths']);
    expect(stdout.trimEnd(), stderr).toMatch(wanted);
  });

  it('of Nix, with a system in them', async () => {
    const world = flakeWorld(manifest);
    const cpu = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
    const own = await world.flk(['run', `#packages.${cpu}-linux.plain`, '--', 'x']);
    expect(own.stdout).toBe('plain x\n');
    const other = await world.flk(['run', '#packages.riscv64-linux.plain']);
    expect(other.stderr).toContain('error[FLK_SYSTEM_UNSUPPORTED]');
  });
});
