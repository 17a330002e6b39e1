/** Manifests that are symlinks: followed within their tree, for the flake at hand and for what it fetches. */
import { lstatSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cliWorld } from '../support/cli.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

/** A repository whose flake.nix in `dir` leads to `target`; `real/flake.nix` and `other/main.nix` are plain files. */
function linked(target: string, dir = '.'): string {
  const root = temporaryFolder();
  git(root, 'init', '--quiet');
  for (const folder of ['real', 'other', dir]) mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, 'real/flake.nix'), '{ description = "real"; outputs = _: { }; }\n');
  writeFileSync(join(root, 'other/main.nix'), '{ description = "main"; outputs = _: { }; }\n');
  symlinkSync(target, join(root, dir, 'flake.nix'));
  git(root, 'add', '.');
  git(root, 'commit', '--quiet', '-m', 'linked');
  return root;
}

const within: readonly (readonly [string, string, string])[] = [
  ['real/flake.nix', '.', 'real'],
  ['../other/main.nix', 'sub', 'main'],
  ['../../real/../other/main.nix', 'a/b', 'main'],
];
const without: readonly (readonly [string, string])[] = [
  ['nothing', '.'],
  ['../../../../etc/hostname', '.'],
  ['flake.nix', '.'],
  ['real', '.'],
];

describe('a flake.nix that is a symlink', () => {
  it.each(within)('to %s in %s is read, in a folder and in a fetched tree', async (target, dir, says) => {
    const root = linked(target, dir);
    const { flk } = cliWorld();
    const described = async (flake: string): Promise<unknown> =>
      (JSON.parse((await flk(['metadata', flake, '--json'])).stdout) as { description?: unknown })
        .description;
    expect(await described(join(root, dir))).toBe(says);
    const head = git(root, 'rev-parse', 'HEAD').trim();
    expect(await described(`git+file://${root}?dir=${dir === '.' ? '' : dir}&rev=${head}`)).toBe(says);
  });

  it.each(without)('to %s in %s is none', async (target, dir) => {
    const root = linked(target, dir);
    const { flk } = cliWorld();
    const here = await flk(['metadata', root]);
    expect(here.status).toBe(2);
    expect(here.stderr).toContain('FLK_FILE_UNREADABLE');
    expect(here.stderr).toContain('a symlink to no file in');
    const fetched = await flk(['metadata', `git+file://${root}?ref=HEAD`]);
    expect(fetched.stderr).toContain('FLK_MANIFEST_MISSING');
  });

  it('is read as an input, from a repository and from the tree at hand', async () => {
    const root = linked('../other/main.nix', 'sub');
    const world = cliWorld();
    git(world.folder, 'init', '--quiet');
    mkdirSync(join(world.folder, 'own'));
    writeFileSync(
      join(world.folder, 'real.nix'),
      `{ inputs.sub.url = "git+file://${root}?dir=sub"; outputs = _: { }; }`,
    );
    symlinkSync('../real.nix', join(world.folder, 'own/flake.nix'));
    writeFileSync(join(world.folder, 'flake.nix'), '{ inputs.own.url = "./own"; outputs = _: { }; }');
    git(world.folder, 'add', '.');
    const { status, stderr } = await world.flk(['lock']);
    expect(stderr).toContain("• Added input 'own/sub':");
    expect(status).toBe(0);
    expect(await world.flk(['lock', '--check'])).toMatchObject({ status: 0 });
  });

  it('must lead to what Git tracks', async () => {
    const root = linked('real/flake.nix');
    git(root, 'rm', '--quiet', '--cached', 'real/flake.nix');
    const { stderr } = await cliWorld().flk(['lock', '--recreate-lock-file', root]);
    expect(stderr).toContain('FLK_MANIFEST_UNTRACKED');
    expect(stderr).toContain('real/flake.nix');
  });
});

describe('a flake.yaml that is a symlink', () => {
  it('stays one when it is edited', async () => {
    const world = cliWorld();
    mkdirSync(join(world.folder, 'real'));
    mkdirSync(join(world.folder, 'lib'));
    writeFileSync(join(world.folder, 'lib/flake.yaml'), 'description: a library\n');
    writeFileSync(join(world.folder, 'real/it.yaml'), '# ours\n');
    symlinkSync('real/it.yaml', join(world.folder, 'flake.yaml'));
    expect(await world.flk(['add', './lib', 'lib'])).toMatchObject({ status: 0 });
    expect(lstatSync(join(world.folder, 'flake.yaml')).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(world.folder, 'real/it.yaml'), 'utf8')).toContain('# ours');
    expect(readFileSync(join(world.folder, 'real/it.yaml'), 'utf8')).toContain('lib');
  });

  it('that is absolute counts nowhere, for it would not in a clone', async () => {
    const world = cliWorld();
    writeFileSync(join(world.folder, 'it.yaml'), 'description: here\n');
    symlinkSync(join(world.folder, 'it.yaml'), join(world.folder, 'flake.yaml'));
    expect((await world.flk(['metadata'])).stderr).toContain('FLK_FILE_UNREADABLE');
  });
});
