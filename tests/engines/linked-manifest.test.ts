/** Symlinks to a flake.nix: what Nix reads through them flk reads, what Nix refuses flk refuses. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cliWorld } from '../support/cli.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

const links: Readonly<Record<string, string>> = {
  'flake.nix': 'real/flake.nix',
  'up/x/flake.nix': '../../other/the.nix',
  'chain/flake.nix': '../up/x/flake.nix',
  'through/flake.nix': '../folder/flake.nix',
  'rooted/flake.nix': '/real/flake.nix',
  'above/flake.nix': '../../../../real/flake.nix',
  'dangling/flake.nix': 'nothing',
  'round/flake.nix': 'flake.nix',
  'to-folder/flake.nix': '../real',
  folder: 'real',
};

describe.skipIf(!nixAvailable())(`symlinks to a flake.nix, beside Nix ${nixReason}`, () => {
  const root = temporaryFolder();
  for (const folder of ['real', 'other']) mkdirSync(join(root, folder));
  writeFileSync(join(root, 'real/flake.nix'), '{ outputs = _: { }; }');
  writeFileSync(join(root, 'other/the.nix'), '{ outputs = _: { }; }');
  for (const [path, target] of Object.entries(links)) {
    mkdirSync(join(root, path, '..'), { recursive: true });
    symlinkSync(target, join(root, path));
  }
  git(root, 'init', '--quiet');
  git(root, 'add', '.');
  git(root, 'commit', '--quiet', '-m', 'links');
  const { flk } = cliWorld({ NIX_CONFIG: 'flake-registry =' });

  it.each(Object.keys(links).map((path) => join(path, '..')))('in %s', async (dir) => {
    for (const flake of [join(root, dir), `git+file://${root}?ref=HEAD&dir=${dir === '.' ? '' : dir}`]) {
      const theirs = await nix(['flake', 'metadata', flake]);
      const ours = await flk(['metadata', flake]);
      expect(ours.status === 0, `${flake}\n${ours.stderr}\n${theirs.stderr}`).toBe(theirs.status === 0);
    }
    const user = temporaryFolder();
    const manifest = `{ inputs.it.url = "git+file://${root}${dir === '.' ? '' : `?dir=${dir}`}"; outputs = _: { }; }`;
    writeFileSync(join(user, 'flake.nix'), manifest);
    const theirs = await nix(['flake', 'lock', `path:${user}`, '--output-lock-file', join(user, 'nix.lock')]);
    const ours = await flk(['lock', `path:${user}`, '--output-lock-file', join(user, 'flk.lock')]);
    expect(ours.status === 0, `${dir}\n${ours.stderr}\n${theirs.stderr}`).toBe(theirs.status === 0);
  });
});
