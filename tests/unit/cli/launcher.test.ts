import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { version } from '../../../src/base/version.ts';
import { temporaryFolder } from '../../support/temp.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
const launch = (
  program: string,
  args: readonly string[],
  preload: readonly string[] = [],
  options: object = {},
) =>
  spawnSync(process.execPath, [...preload, program, ...args], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, HOME: home },
    ...options,
  });

const home = temporaryFolder();

/** The launcher in a package of its own, without a built program. */
function alone(): string {
  const folder = temporaryFolder();
  cpSync(join(root, 'bin'), join(folder, 'bin'), { recursive: true });
  return join(folder, 'bin/flk.js');
}

/** A program in the shape that scripts/build.mjs gives it. */
const built = (body: string): string =>
  `(f=>typeof module==='object'?f(exports,require):f)(function(exports,require){${body}\n});`;

describe('bin/flk.js', () => {
  it('and src/base/version.ts say the version of package.json', () => {
    const { status, stdout } = launch(join(root, 'bin/flk.js'), ['--version']);
    expect({ status, stdout }).toEqual({ status: 0, stdout: `flk ${manifest.version}\n` });
    expect(version).toBe(manifest.version);
  });

  it('answers --version without the program, also through a link as npm makes one', () => {
    const folder = temporaryFolder();
    symlinkSync(alone(), join(folder, 'flk'));
    expect(launch(join(folder, 'flk'), ['--version']).stdout).toBe(`flk ${manifest.version}\n`);
  });

  it('says how to build what is not built', () => {
    const { status, stderr } = launch(alone(), ['lock']);
    expect(status).toBe(70);
    expect(stderr).toMatch(/npm run build/);
  });

  it('loads the program with the arguments as they are', () => {
    const program = alone();
    mkdirSync(join(program, '../../dist'));
    writeFileSync(
      join(program, '../../dist/flk.cjs'),
      built('exports.main = () => console.log(JSON.stringify(process.argv.slice(2)));'),
    );
    expect(launch(program, ['--version', 'x']).stdout).toBe('["--version","x"]\n');
  });

  it('asks the program whether flake.lock is current, once, until one of the two files or flk changes', () => {
    const program = alone();
    const dist = join(program, '../../dist');
    mkdirSync(dist);
    const write = (): void =>
      writeFileSync(
        join(dist, 'flk.cjs'),
        built(`const fs = require('node:fs'); const { dirname } = require('node:path');
        exports.main = (stamp) => {
          console.log('asked');
          if (!stamp) return;
          fs.mkdirSync(dirname(stamp.path), { recursive: true });
          fs.writeFileSync(stamp.path, stamp.header + 'flake.yaml ' + fs.statSync('flake.yaml').size + '\\n' + fs.readFileSync('flake.yaml') + fs.readFileSync('flake.lock'));
        };`),
      );
    write();
    const cwd = temporaryFolder();
    writeFileSync(join(cwd, 'flake.yaml'), 'a');
    writeFileSync(join(cwd, 'flake.lock'), 'b');
    const asked = (args = ['lock'], env: Record<string, string> = {}): boolean => {
      const { status, stdout } = launch(program, args, [], { cwd, env: { HOME: home, ...env } });
      expect(status).toBe(0);
      return stdout === 'asked\n';
    };
    expect([asked(), asked(), asked()]).toEqual([true, false, false]);
    expect([asked(['lock', '--check']), asked(['lock'], { FLK_OFFLINE: 'x' }), asked()]).toEqual([
      true,
      true,
      false,
    ]);
    writeFileSync(join(cwd, 'flake.yaml'), 'ab');
    writeFileSync(join(cwd, 'flake.lock'), '');
    expect([asked(), asked()]).toEqual([true, false]);
    writeFileSync(join(dist, 'flk.cjs'), `${readFileSync(join(dist, 'flk.cjs'), 'utf8')}//`);
    expect([asked(), asked()]).toEqual([true, false]);
  });

  it('refuses a Node that is too old, before any other file is read', () => {
    const old = join(temporaryFolder(), 'old.cjs');
    writeFileSync(old, "Object.defineProperty(process.versions, 'node', { value: '20.18.1' });");
    const { status, stderr } = launch(alone(), ['lock'], ['--require', old]);
    expect(status).toBe(2);
    expect(stderr).toBe('flk needs Node 20.19 or newer; this is 20.18.1\n');
  });
});
