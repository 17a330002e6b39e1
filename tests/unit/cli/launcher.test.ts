import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { version } from '../../../src/base/version.ts';
import { temporaryFolder } from '../../support/temp.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
const launch = (program: string, args: readonly string[], preload: readonly string[] = []) =>
  spawnSync(process.execPath, [...preload, program, ...args], { encoding: 'utf8' });

/** The launcher in a package of its own, without a built program. */
function alone(): string {
  const folder = temporaryFolder();
  cpSync(join(root, 'bin'), join(folder, 'bin'), { recursive: true });
  return join(folder, 'bin/flk.js');
}

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
      'exports.main = () => console.log(JSON.stringify(process.argv.slice(2)));',
    );
    expect(launch(program, ['--version', 'x']).stdout).toBe('["--version","x"]\n');
  });

  it('refuses a Node that is too old, before any other file is read', () => {
    const old = join(temporaryFolder(), 'old.cjs');
    writeFileSync(old, "Object.defineProperty(process.versions, 'node', { value: '20.18.1' });");
    const { status, stderr } = launch(alone(), ['lock'], ['--require', old]);
    expect(status).toBe(2);
    expect(stderr).toBe('flk needs Node 20.19 or newer; this is 20.18.1\n');
  });
});
