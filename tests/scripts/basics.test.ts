import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { errorCodes } from '../../src/base/errors.ts';
import { type Finished, run } from '../../src/base/process.ts';
import { cliWorld } from '../support/cli.ts';
import { git } from '../support/repositories.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

describe('flk', () => {
  it('without arguments helps, on stdout', async () => {
    const { status, stdout, stderr } = await cliWorld().flk([]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/^ {2}lock +Pin/m);
  });

  it('says what was meant, on stderr, with status 2', async () => {
    const { status, stdout, stderr } = await cliWorld().flk(['lokc']);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toBe("error[FLK_USAGE] there is no command 'lokc'\nhint: flk lock\n");
  });

  it('puts the error into the JSON answer, and for people on stderr', async () => {
    const { status, stdout, stderr } = await cliWorld().flk(['lock', '--json', '--chekc']);
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: {
        code: 'FLK_USAGE',
        message: 'there is no option --chekc',
        facts: {},
        trail: [],
        diagnostics: [],
        hint: 'did you mean --check?',
      },
    });
    expect(stderr).toContain('error[FLK_USAGE]');
  });

  it('does not take a --json after -- for its own', async () => {
    const { stdout } = await cliWorld().flk(['lock', '--', '--json']);
    expect(stdout).toBe('');
  });

  it('annotates errors under GitHub Actions', async () => {
    const world = cliWorld({ GITHUB_ACTIONS: 'true' });
    writeFileSync(join(world.folder, 'flake.yaml'), 'description: x\nimputs: {}\n');
    const { stderr } = await world.flk(['lock']);
    expect(stderr).toMatch(/^::error title=FLK_MANIFEST_INVALID,file=flake.yaml,line=2,col=1::/m);
  });

  it('refuses an unknown log format and a FLK_OFFLINE that is neither', async () => {
    const world = cliWorld();
    expect((await world.flk(['lock', '--log-format', 'xml'])).stderr).toContain("no log format 'xml'");
    expect((await world.flk(['lock'], { env: { FLK_OFFLINE: 'maybe' } })).status).toBe(2);
  });

  it('says so when the folder it runs in is gone', () => {
    const world = cliWorld();
    const gone = join(world.home, 'gone');
    mkdirSync(gone);
    const program = join(import.meta.dirname, '../../bin/flk.js');
    const script = 'rmdir ../gone; "$0" "$1" lock 2>&1; echo "status $?"';
    const out = execFileSync('/bin/sh', ['-c', script, process.execPath, program], {
      cwd: gone,
      env: world.env,
      encoding: 'utf8',
    });
    expect(out).toContain('FLK_FILE_UNREADABLE');
    expect(out).toContain('status 2');
  });

  it('ends quietly when nobody reads its answer', () => {
    const world = cliWorld();
    const program = join(import.meta.dirname, '../../bin/flk.js');
    const script = '"$0" "$1" --help | true; echo "status $?"';
    const out = execFileSync('/bin/sh', ['-c', `${script} 2>&1`, process.execPath, program], {
      env: world.env,
      encoding: 'utf8',
    });
    expect(out).toBe('status 0\n');
  });
});

describe('an answer', () => {
  /** The answer's way is the shell's: $1 node, $2 flk. */
  const through = async (redirect: string): Promise<Finished> =>
    run('sh', ['-c', `"$1" "$2" explain FLK_USAGE ${redirect}`, 'sh', process.execPath, program], {
      env: { ...cliWorld().env },
    });

  it('that cannot be written is a failure', async () => {
    const { status, stderr } = await through('> /dev/full');
    expect(status).toBe(2);
    expect(stderr).toMatch(/^error\[FLK_FILE_UNWRITABLE\] cannot write the answer: ENOSPC/);
  });

  it('whose reader has seen enough is none', async () => {
    expect(await through('| true')).toMatchObject({ status: 0, stderr: '' });
  });
});

describe('flk explain', () => {
  it('explains a code however it is written', async () => {
    const world = cliWorld();
    const whole = await world.flk(['explain', 'FLK_NAR_HASH_MISMATCH']);
    expect(whole.stdout).toContain(errorCodes.FLK_NAR_HASH_MISMATCH.explain);
    expect((await world.flk(['explain', 'nar-hash-mismatch'])).stdout).toBe(whole.stdout);
    const json: unknown = JSON.parse((await world.flk(['explain', 'FLK_NETWORK', '--json'])).stdout);
    expect(json).toMatchObject({ code: 'FLK_NETWORK', exitStatus: 3 });
  });

  it('names the nearest code', async () => {
    const { status, stderr } = await cliWorld().flk(['explain', 'FLK_NETWROK']);
    expect(status).toBe(2);
    expect(stderr).toContain('hint: flk explain FLK_NETWORK');
  });
});

describe('flk init', () => {
  it('writes a manifest that Git knows and flk can lock, and never overwrites one', async () => {
    const world = cliWorld();
    git(world.folder, 'init', '-q');
    const first = await world.flk(['init']);
    expect(first).toMatchObject({ status: 0, stdout: 'wrote flake.yaml; flk run builds and runs it\n' });
    expect(git(world.folder, 'ls-files')).toBe('flake.yaml');
    expect(git(world.folder, 'diff', '--cached', '--name-only')).toBe('');
    expect((await world.flk(['lock'])).status).toBe(0);
    const before = readFileSync(join(world.folder, 'flake.yaml'), 'utf8');
    const second = await world.flk(['init']);
    expect(second.status).toBe(2);
    expect(readFileSync(join(world.folder, 'flake.yaml'), 'utf8')).toBe(before);
  });

  it('makes the folder, also outside of any repository', async () => {
    const world = cliWorld();
    const { status, stdout } = await world.flk(['init', 'new/my flake', '--json']);
    expect(status).toBe(0);
    const path = join(world.folder, 'new/my flake/flake.yaml');
    expect(JSON.parse(stdout)).toEqual({ path, tracked: false });
    expect(existsSync(path)).toBe(true);
  });
});
