/** `nix flake metadata --json` and `flk metadata --json` of the same flakes: equal to the last attribute, fingerprint too. */
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cliWorld } from '../support/cli.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

/** A folder with `base`, a repository, and `top`, one that has it as input, locked and clean, with a flake in `sub` too. */
async function arranged(): Promise<string> {
  const folder = temporaryFolder();
  commit(join(folder, 'base'), { 'flake.nix': '{ outputs = _: { }; }\n', 'lib/x': 'x\n' });
  const text = `{ description = "top"; inputs.base.url = "git+file://${folder}/base"; outputs = _: { }; }\n`;
  const top = join(folder, 'top');
  commit(top, { 'flake.nix': text, 'sub/flake.nix': text, 'sub.x': '', 'sub/deep/y': 'y\n' });
  for (const flake of [top, join(top, 'sub')])
    expect((await nix(['flake', 'lock', flake])).stderr).toContain('creating lock file');
  git(top, 'add', '.');
  git(top, 'commit', '--quiet', '-m', 'lock');
  return folder;
}

function commit(folder: string, files: Readonly<Record<string, string>>): void {
  mkdirSync(folder);
  git(folder, 'init', '--quiet');
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  git(folder, 'add', '.');
  git(folder, 'commit', '--quiet', '-m', 'first');
}

async function bothSay(folder: string, ...args: string[]): Promise<Record<string, unknown>> {
  const theirs = await nix(['flake', 'metadata', '--json', ...args], { cwd: folder });
  const ours = await cliWorld().flk(['metadata', '--json', ...args], { cwd: folder });
  expect(theirs.status, theirs.stderr).toBe(0);
  expect(ours.status, ours.stderr).toBe(0);
  const said = JSON.parse(ours.stdout) as Record<string, unknown>;
  expect(said).toEqual(JSON.parse(theirs.stdout));
  expect(said.fingerprint).toMatch(/^[0-9a-f]{64}$/);
  return said;
}

describe.skipIf(!nixAvailable())(`flk metadata says what Nix says ${nixReason}`, () => {
  it('of a clean repository, a folder below, a branch, a link, plain paths', async () => {
    const folder = await arranged();
    symlinkSync('top/sub', join(folder, 'link'));
    mkdirSync(join(folder, 'my.folder/below'), { recursive: true });
    writeFileSync(join(folder, 'my.folder/flake.nix'), '{ outputs = _: { }; }');
    git(join(folder, 'top'), 'worktree', 'add', '--quiet', '--detach', '../tree');
    git(folder, 'clone', '--quiet', '--depth', '1', `file://${folder}/top`, 'shallow');
    for (const ref of [
      './top',
      './top/sub',
      './top/sub/deep',
      './top?ref=main',
      './top?dir=sub',
      './top/flake.nix',
      `git+file://${folder}/top?dir=sub`,
      'path:./top',
      'path:top?dir=sub',
      './link',
      './my.folder/below',
      'my.folder',
      './tree',
      './shallow',
    ])
      await bothSay(folder, ref);
    expect(await bothSay(folder, './top', '--override-input', 'base', './base')).toMatchObject({
      description: 'top',
    });
  });

  it('of a lock whose nodes somebody named in their own way', async () => {
    const folder = await arranged();
    const file = join(folder, 'top/flake.lock');
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, text.replace('"base": {', '"mine": {').replace('"base": "base"', '"base": "mine"'));
    git(join(folder, 'top'), 'commit', '--quiet', '-a', '-m', 'rename');
    expect(await bothSay(folder, './top')).toMatchObject({ locks: { nodes: { base: {} } } });
  });

  it('of a repository with changes of every kind, and of one without commits', async () => {
    const folder = await arranged();
    const top = join(folder, 'top');
    appendFileSync(join(top, 'flake.nix'), '# more\n');
    writeFileSync(join(top, 'new'), 'new\n', { mode: 0o755 });
    symlinkSync('nowhere', join(top, 'sub/link'));
    renameSync(join(top, 'sub.x'), join(top, 'sub-x'));
    rmSync(join(top, 'sub/deep'), { recursive: true });
    git(top, 'add', '-N', 'new', 'sub/link', 'sub-x');
    git(top, 'rm', '--quiet', '--cached', 'sub.x');
    const { dirtyRevision } = await bothSay(folder, './top');
    expect(dirtyRevision).toBe(`${git(top, 'rev-parse', 'HEAD')}-dirty`);
    await bothSay(folder, './top/sub');
    const empty = join(folder, 'empty');
    mkdirSync(empty);
    git(empty, 'init', '--quiet');
    writeFileSync(join(empty, 'flake.nix'), '{ outputs = _: { }; }');
    git(empty, 'add', '.');
    await bothSay(empty);
  });

  it('of a flake in a submodule, which is a repository of its own', async () => {
    const folder = await arranged();
    const outer = join(folder, 'outer');
    commit(outer, { 'flake.nix': '{ description = "outer"; outputs = _: { }; }' });
    git(outer, '-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'add', `${folder}/top`, 'inner');
    git(outer, 'commit', '--quiet', '-m', 'submodule');
    expect(await bothSay(folder, './outer/inner/sub/deep')).toMatchObject({
      resolvedUrl: `git+file://${outer}/inner?dir=sub`,
    });
    await bothSay(folder, './outer?submodules=1');
  });
});
