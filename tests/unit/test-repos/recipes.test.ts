/** The repositories that all other tests stand on are what they say, on every machine. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { canonical, idDifferences, loadRecipes } from '../../../test-repos/build.mjs';
import { gitServer } from '../../support/git-server.ts';
import { buildRepositories, git, gitClient } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

const recipes = await loadRecipes();

describe.each([...recipes])('the recipe %s', (name, maker) => {
  test('gives the commits that it promises', () => {
    expect(idDifferences(canonical(maker))).toEqual([]);
    expect(canonical(maker).name).toBe(name);
  });

  test('makes a repository in which git finds no fault', () => {
    const folder = temporaryFolder();
    const built = buildRepositories(folder, [name]).get(name)!;
    git(built.path, 'fsck', '--strict', '--no-dangling');
    const listed = git(built.path, 'for-each-ref', '--format=%(objectname) %(refname)').split('\n');
    expect(listed.sort()).toEqual([...built.refs].map(([ref, id]) => `${id} ${ref}`).sort());
  });
});

test('a different promise is noticed', () => {
  const made = canonical(recipes.get('base')!);
  const [first, ...rest] = made.commits;
  const changed = { ...made, commits: [{ ...first!, files: { ...first!.files, extra: '' } }, ...rest] };
  expect(idDifferences(changed)).toHaveLength(2);
});

test('another base URL changes only those repositories that name others', () => {
  const folder = temporaryFolder();
  const here = buildRepositories(join(folder, 'here'), undefined, { base: 'http://127.0.0.1:1' });
  const there = buildRepositories(join(folder, 'there'), undefined, { base: 'http://127.0.0.1:2' });
  const changed = [...here].filter(
    ([name, built]) => built.refs.get('refs/heads/main') !== there.get(name)?.refs.get('refs/heads/main'),
  );
  expect(changed.map(([name]) => name).sort()).toEqual(
    [
      'cycle-a',
      'cycle-b',
      'diamond',
      'greet',
      'greet-program',
      'hello',
      'left',
      'locked',
      'monorepo',
      'nested-overrides',
    ].concat(['right', 'split-diamond']),
  );
});

test('a rewritten branch leaves nothing of what it was', () => {
  const folder = temporaryFolder();
  const before = buildRepositories(folder, ['moved-branch'], { phase: 1 }).get('moved-branch')!;
  const after = buildRepositories(folder, ['moved-branch'], { phase: 2 }).get('moved-branch')!;
  expect(after.path).toBe(before.path);
  expect(() => git(after.path, 'cat-file', '-e', before.revs.get('before')!)).toThrow();
  git(after.path, 'merge-base', '--is-ancestor', before.revs.get('root')!, 'main');
  expect(readdirSync(folder)).toEqual(['moved-branch']);
});

describe('the server', () => {
  test('serves clones and remembers the requests', async () => {
    const folder = temporaryFolder();
    buildRepositories(folder, ['semver-tags']);
    const server = await gitServer(folder);
    await gitClient(folder, 'clone', '--quiet', `${server.base}/semver-tags`, 'clone');
    expect(server.log.map(({ method, command }) => `${method} ${command}`)).toEqual([
      'GET ',
      'POST ls-refs',
      'POST fetch',
    ]);
  });

  test('serves any commit by its id, and filters', async () => {
    const folder = temporaryFolder();
    const built = buildRepositories(folder, ['semver-tags']).get('semver-tags')!;
    const server = await gitServer(folder);
    git(folder, 'init', '--quiet', '--bare', 'copy');
    await gitClient(
      join(folder, 'copy'),
      'fetch',
      '--quiet',
      '--depth=1',
      '--filter=tree:0',
      `${server.base}/semver-tags`,
      built.revs.get('one')!,
    );
    expect(git(join(folder, 'copy'), 'rev-parse', 'FETCH_HEAD')).toBe(built.revs.get('one'));
  });

  test.each([
    [{ status: 503, headers: { 'retry-after': '1' } }, 503, ''],
    [{ redirect: 'http://127.0.0.1:9/elsewhere' }, 302, ''],
    [{ rewrite: (body: Buffer) => body.subarray(0, 4) }, 200, '001e'],
  ])('interferes: %j', async (interference, status, text) => {
    const folder = temporaryFolder();
    buildRepositories(folder, ['base']);
    const server = await gitServer(folder);
    server.interfere = () => interference;
    const answer = await fetch(`${server.base}/base/info/refs?service=git-upload-pack`, {
      redirect: 'manual',
    });
    expect(answer.status).toBe(status);
    expect(await answer.text()).toBe(text);
  });

  test.each([{ truncateAfter: 10 }, { truncateAfter: 0 }])('breaks off: %j', async (interference) => {
    const folder = temporaryFolder();
    buildRepositories(folder, ['base']);
    const server = await gitServer(folder);
    server.interfere = () => interference;
    await expect(
      fetch(`${server.base}/base/info/refs?service=git-upload-pack`).then((answer) => answer.text()),
    ).rejects.toThrow();
  });
});
