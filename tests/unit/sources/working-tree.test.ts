import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Event, silent } from '../../../src/base/events.ts';
import { parseFlakeRef, refToAttributes } from '../../../src/flake/flake-ref.ts';
import { Sources } from '../../../src/sources/source.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { git } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

const identity = ['-c', 'user.name=A', '-c', 'user.email=a@example.org'];

/** A repository with one commit, and a source that fetches from it. */
function repositoryWorld() {
  const home = temporaryFolder();
  const root = join(home, 'dep');
  mkdirSync(root);
  writeFileSync(join(root, 'file'), 'committed');
  git(root, 'init', '-q');
  git(root, 'add', '-A');
  git(root, ...identity, 'commit', '-q', '-m', 'one');
  const fetch = (text: string) =>
    new Sources({ cacheFolder: join(home, 'cache'), reporter: silent }).fetch(parseFlakeRef(text));
  return { root, url: `git+file://${root}`, rev: git(root, 'rev-parse', 'HEAD'), fetch };
}

describe('a repository of this machine as an input', () => {
  it('is its working tree, changes and all, where no ref and no rev is asked for', async () => {
    const { root, url, rev, fetch } = repositoryWorld();
    writeFileSync(join(root, 'file'), 'changed');
    const { locked, tree } = await fetch(url);
    expect(String(await tree.readFile('file'))).toBe('changed');
    expect(locked).toMatchObject({ dirtyRev: `${rev}-dirty`, dirtyShortRev: `${rev.slice(0, 7)}-dirty` });
    expect(locked.rev).toBeUndefined();
  });

  it('is what was committed where a ref or a rev is asked for, or nothing is changed', async () => {
    const { root, url, rev, fetch } = repositoryWorld();
    expect((await fetch(url)).locked.rev).toBe(rev);
    writeFileSync(join(root, 'file'), 'changed');
    for (const asked of [`${url}?ref=HEAD`, `${url}?rev=${rev}`]) {
      const { locked, tree } = await fetch(asked);
      expect(locked.rev).toBe(rev);
      expect(String(await tree.readFile('file'))).toBe('committed');
    }
  });

  it.skipIf(!nixAvailable())(`is told as Nix tells it ${nixReason}`, async () => {
    const { root, url, fetch } = repositoryWorld();
    for (const change of [() => {}, () => writeFileSync(join(root, 'file'), 'changed')]) {
      change();
      const { stdout } = await nix(['flake', 'prefetch', '--json', url]);
      const expected = JSON.parse(stdout) as { hash: string; locked: object };
      expect(refToAttributes((await fetch(url)).locked)).toEqual({
        ...expected.locked,
        narHash: expected.hash,
      });
    }
  });
});

describe('a notice about changes', () => {
  it.each([
    [true, 1],
    [false, 0],
  ])('with warnDirty %s is given %i times', async (warnDirty, count) => {
    const { root, url } = repositoryWorld();
    writeFileSync(join(root, 'file'), 'changed');
    const notices: unknown[] = [];
    const reporter = { emit: (event: Event) => void (event.kind === 'notice' && notices.push(event.notice)) };
    const cacheFolder = join(root, '../cache');
    await new Sources({ cacheFolder, reporter, warnDirty: async () => warnDirty }).fetch(parseFlakeRef(url));
    expect(notices).toHaveLength(count);
  });
});
