/** Nix's lock flags on a machine without Nix: what is written where, what is refused, and what the refusal says. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type CliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';
import { git } from '../support/repositories.ts';

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { phase: 1 });
});
const url = (name: string): string => `git+${served.server.base}/${name}`;

const nixFlake = (inputs: string): string => `{ ${inputs} outputs = _: { }; }\n`;

/** A repository whose one manifest is a flake.nix. */
function nixWorld(inputs: string): CliWorld {
  const world = flakeWorld('', { 'flake.nix': nixFlake(inputs) });
  git(world.folder, 'rm', '--quiet', '-f', 'flake.yaml');
  return world;
}

const identity = {
  GIT_AUTHOR_NAME: 'me',
  GIT_AUTHOR_EMAIL: 'me@example.org',
  GIT_COMMITTER_NAME: 'me',
  GIT_COMMITTER_EMAIL: 'me@example.org',
};

describe('a flake.nix', () => {
  it('is locked, updated and described; a second time there is nothing to do', async () => {
    const world = nixWorld(`description = "d"; inputs.base.url = "${url('base')}";`);
    expect((await world.flk(['lock'])).stderr).toContain("wrote flake.lock:\n• Added input 'base'");
    for (let i = 0; i < 3; i++)
      expect(await world.flk(['lock'])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect((await world.flk(['lock', '--check'])).status).toBe(0);
    expect(JSON.parse((await world.flk(['metadata', '--json'])).stdout)).toMatchObject({ description: 'd' });
    expect((await world.flk(['update', 'base'])).status).toBe(0);
    const flake = join(world.folder, 'flake.nix');
    writeFileSync(flake, nixFlake(`inputs.base.url = "${url('hello')}";`));
    expect((await world.flk(['lock', '--locked'])).stderr).toContain('flake.nix:1:10');
    // Another manifest beside it is noticed, though nothing else has changed since the lock was current.
    writeFileSync(flake, nixFlake(`description = "d"; inputs.base.url = "${url('base')}";`));
    expect((await world.flk(['lock'])).status).toBe(0);
    writeFileSync(join(world.folder, 'flake.yaml'), '');
    const { status, stderr } = await world.flk(['lock']);
    expect([status, stderr]).toEqual([2, expect.stringContaining('error[FLK_MANIFEST_AMBIGUOUS]')]);
    expect((await world.flk(['lock', '--manifest', 'flake.nix'])).status).toBe(0);
    expect((await world.flk(['lock', '--manifest', 'flake.toml'])).stderr).toContain(
      'flake.yaml or flake.nix',
    );
  });

  it('has packages that only Nix can build', async () => {
    const { stderr, status } = await nixWorld('').flk(['build']);
    expect(status).toBe(2);
    expect(stderr).toContain('the packages of flake.nix are written in the Nix language');
    expect(stderr).toContain('nix build builds them');
  });
});

describe('--commit-lock-file', () => {
  it('commits the lock alone, with a list of what moved or the summary that is set', async () => {
    const world = flakeWorld(`inputs:\n  base: ${url('base')}\n`, { other: 'x' });
    git(world.folder, 'add', 'other');
    const env = { ...identity, NIX_CONFIG: 'commit-lock-file-summary = chore: lock' };
    const first = await world.flk(['lock', '--commit-lock-file'], { env: identity });
    const rev = git(world.folder, 'rev-parse', 'HEAD');
    expect(first.stderr).toMatch(new RegExp(`Added input 'base'[^]*\\ncommitted flake.lock as ${rev}\\n$`));
    expect(git(world.folder, 'show', '--format=%B', '--name-only')).toMatch(
      /^flake\.lock: Add\n\nFlake lock file updates:\n\n• Added input 'base':\n {4}'git\+http:[^']*' \(2024-01-01\)\n\n\nflake\.lock$/,
    );
    expect(git(world.folder, 'diff', '--cached', '--name-only')).toBe('other');
    await world.flk(['lock', '--override-input', 'base', url('hello'), '--commit-lock-file'], { env });
    expect(git(world.folder, 'log', '-1', '--format=%s')).toBe('chore: lock');
    // Nothing to commit where nothing changed.
    await world.flk(['lock', '--commit-lock-file'], { env });
    expect(git(world.folder, 'rev-list', '--count', 'HEAD')).toBe('2');
  });

  it('says how to tell git who commits; the lock is written all the same', async () => {
    const world = flakeWorld(`inputs:\n  base: ${url('base')}\n`);
    git(world.folder, 'config', 'user.useConfigOnly', 'true');
    const { status, stderr } = await world.flk(['lock', '--commit-lock-file']);
    expect(status).toBe(2);
    expect(stderr).toContain('error[FLK_GIT_WORKTREE] git does not commit flake.lock');
    expect(stderr).toContain('git config user.name NAME');
    expect(existsSync(join(world.folder, 'flake.lock'))).toBe(true);
  });

  it('is refused where there is no git program, before anything is written', async () => {
    const world = flakeWorld(`inputs:\n  base: ${url('base')}\n`);
    git(world.folder, 'add', '.');
    git(world.folder, 'commit', '--quiet', '-m', 'all');
    const { stderr } = await world.flk(['lock', '--commit-lock-file'], { env: { PATH: world.home } });
    expect(stderr).toContain('error[FLK_GIT_MISSING] --commit-lock-file needs the git program');
    const both = await world.flk(['lock', '--output-lock-file', 'x', '--commit-lock-file']);
    expect(both.stderr).toContain('exclude each other');
    expect(git(world.folder, 'status', '--porcelain')).toBe('');
  });
});

describe('what may not change', () => {
  it('is listed by --no-update-lock-file', async () => {
    const world = flakeWorld(`inputs:\n  base: ${url('base')}\n`);
    await world.flk(['lock']);
    const before = readFileSync(join(world.folder, 'flake.lock'), 'utf8');
    const { status, stderr } = await world.flk([
      'lock',
      '--no-update-lock-file',
      '--override-input',
      'base',
      url('hello'),
    ]);
    expect(status).toBe(1);
    expect(stderr).toContain(`hint: flk lock --override-input base ${url('hello')}`);
    const { stderr: moved } = await world.flk(['lock', '--recreate-lock-file', '--no-update-lock-file']);
    expect(moved).toBe('');
    writeFileSync(
      join(world.folder, 'old.lock'),
      before.replace(/"rev": "[0-9a-f]{40}"/, `"rev": "${'1'.repeat(40)}"`),
    );
    const { stderr: listed } = await world.flk([
      'lock',
      '--reference-lock-file',
      'old.lock',
      '--recreate-lock-file',
      '--no-update-lock-file',
    ]);
    expect(listed).toContain("would change  • Updated input 'base'");
    expect(readFileSync(join(world.folder, 'flake.lock'), 'utf8')).toBe(before);
  });

  it('is a tree with uncommitted changes under --no-allow-dirty', async () => {
    const world = flakeWorld('inputs: {}\n');
    const { status, stderr } = await world.flk(['lock', '--no-allow-dirty']);
    expect([status, stderr]).toEqual([1, expect.stringContaining('error[FLK_GIT_DIRTY]')]);
    const { stderr: byHand } = await world.flk(['metadata'], { env: { NIX_CONFIG: 'allow-dirty = false' } });
    expect(byHand).toContain('error[FLK_GIT_DIRTY]');
    git(world.folder, 'add', '.');
    git(world.folder, 'commit', '--quiet', '-m', 'all');
    expect((await world.flk(['lock', '--no-allow-dirty'])).status).toBe(0);
  });

  it('is a path of inputs that is none', async () => {
    const world = flakeWorld('inputs: {}\n');
    for (const args of [
      ['update', '/'],
      ['lock', '--override-input', '', '.'],
      ['lock', '--update-input', 'a b'],
    ])
      expect((await world.flk(args)).stderr).toContain('is not the path of an input');
  });
});

describe('a fault', () => {
  it('is mended where it was made: in the manifest, or by somebody else', async () => {
    const gone = flakeWorld(`inputs:\n  base: ${url('base')}?rev=${'1'.repeat(40)}\n`);
    expect((await gone.flk(['lock'])).stderr).toContain(
      'hint: the manifest asks for this revision: name another one in input base',
    );
    const theirs = join(gone.home, 'theirs');
    mkdirSync(theirs);
    git(theirs, 'init', '--quiet');
    for (const [name, text] of [
      ['flake.yaml', ''],
      ['flake.lock', '{'],
    ] as const)
      writeFileSync(join(theirs, name), text);
    git(theirs, 'add', '.');
    git(theirs, 'commit', '--quiet', '-m', 'broken');
    const { stderr } = await flakeWorld(`inputs:\n  lib: git+file://${theirs}\n`).flk(['lock']);
    expect(stderr).toContain('error[FLK_LOCK_INVALID]');
    expect(stderr).toContain('another revision of lib');
  });
});

describe('--no-rev-count', () => {
  it('leaves revCount out, and the request for it', async () => {
    const world = flakeWorld(`inputs:\n  base: ${url('base')}\n`);
    await world.flk(['lock', '--no-rev-count']);
    const lock = readFileSync(join(world.folder, 'flake.lock'), 'utf8');
    expect(lock).toContain('"rev"');
    expect(lock).not.toContain('revCount');
  });
});
