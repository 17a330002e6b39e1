/** A machine with Node alone, as slim images are: what needs no git program works all the same, and the rest says what is missing. */
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

/** A repository in a fresh machine's folder, with a flake whose only input is a folder. */
function project(): CliWorld {
  const world = cliWorld();
  const data = temporaryFolder();
  writeFileSync(join(data, 'file'), 'content\n');
  git(world.folder, 'init', '--quiet');
  writeFileSync(
    join(world.folder, 'flake.yaml'),
    `description: no git here\ninputs: { data: { url: "path:${data}", flake: false } }\n`,
  );
  return world;
}

const withoutGit = { env: { PATH: temporaryFolder() } };

const metadata = async (world: CliWorld, options = {}): Promise<Record<string, unknown>> => {
  const { status, stdout, stderr } = await world.flk(['metadata', '--json'], options);
  expect(status, stderr).toBe(0);
  const { locked, path, revision, dirtyRevision, lastModified } = JSON.parse(stdout);
  return { narHash: locked.narHash, rev: locked.rev, path, revision, dirtyRevision, lastModified };
};

test('a repository is locked, and its committed tree is the same as with git', async () => {
  const world = project();
  git(world.folder, 'add', '.');
  const { status, stderr } = await world.flk(['lock'], withoutGit);
  expect(status, stderr).toBe(0);
  git(world.folder, 'add', '.');
  git(world.folder, 'commit', '--quiet', '-m', 'first');
  const found = await metadata(world, withoutGit);
  expect(found.rev).toBe(git(world.folder, 'rev-parse', 'HEAD'));
  expect(found).toEqual(await metadata(world));
});

test('a changed tree is the same as with git', async () => {
  const world = project();
  git(world.folder, 'add', '.');
  await world.flk(['lock']);
  git(world.folder, 'commit', '--quiet', '-am', 'first');
  appendFileSync(join(world.folder, 'flake.yaml'), 'x-more: 1\n');
  const found = await metadata(world, withoutGit);
  expect(found.rev).toBeUndefined();
  expect(found).toEqual(await metadata(world));
});

test('an untracked manifest is noticed', async () => {
  const world = project();
  const { status, stderr } = await world.flk(['lock'], withoutGit);
  expect(status).toBe(2);
  expect(stderr).toContain('FLK_MANIFEST_UNTRACKED');
  expect(stderr).toContain('git add -N flake.yaml');
});

test('a repository that only git can read is refused', async () => {
  const world = project();
  git(world.folder, 'add', '.');
  git(world.folder, 'update-index', '--index-version', '4');
  const { status, stderr } = await world.flk(['lock'], withoutGit);
  expect(status).toBe(2);
  expect(stderr).toContain('FLK_GIT_WORKTREE');
  expect(stderr).toContain('index of version 4');
});
