import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { GitRef, Rev } from '../../../src/flake/flake-ref.ts';
import { GitSource, type GitSourceOptions } from '../../../src/sources/git.ts';
import { withCode } from '../../support/errors.ts';
import { type GitServer, gitServer } from '../../support/git-server.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { git } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

/**
 * 61 commits: 50 in a line whose long messages make deltas of one another, a branch of 10 from the 20th, and their merge. Beside
 * it `old`, the line's 20th commit.
 */
const world = (() => {
  const folder = temporaryFolder();
  const path = join(folder, 'repo.git');
  const stream: string[] = [];
  const commit = (ref: string, i: number, ...parents: string[]): void => {
    const message = `change ${i}\n\n${'The same words again and again. '.repeat(40)}`;
    stream.push(`commit ${ref}`, `mark :${i}`, `committer A <a@flk.example> ${1704000000 + i} +0000`);
    stream.push(`data ${message.length}`, message, ...parents);
    stream.push('M 100644 inline file', `data ${String(i).length}`, String(i), '');
  };
  for (let i = 1; i <= 50; i++) commit('refs/heads/main', i);
  stream.push('reset refs/heads/old', 'from :20', '');
  for (let i = 51; i <= 60; i++) commit('refs/heads/side', i, ...(i === 51 ? ['from :20'] : []));
  commit('refs/heads/main', 61, 'from :50', 'merge :60');
  git(folder, 'init', '-q', '--bare', 'repo.git');
  execFileSync('git', ['-C', path, 'fast-import', '--quiet'], { input: stream.join('\n') });
  git(path, 'repack', '-adfq');
  git(folder, 'clone', '-q', '--bare', '--depth=3', `file://${path}`, 'shallow.git');
  return { folder, path, rev: git(path, 'rev-parse', 'main') as Rev };
})();

interface Rig {
  readonly server: GitServer;
  readonly ref: GitRef;
  readonly cacheFolder: string;
  source(options?: Partial<GitSourceOptions>): GitSource;
}

async function rig(name = 'repo.git'): Promise<Rig> {
  const server = await gitServer(world.folder);
  const cacheFolder = join(temporaryFolder(), 'cache');
  return {
    server,
    cacheFolder,
    ref: { type: 'git', url: `${server.base}/${name}` },
    source: (options) =>
      new GitSource({ cacheFolder, reporter: { emit: () => {} }, retryDelay: 1, ...options }),
  };
}

const countOf = async (source: GitSource, ref: GitRef): Promise<number | undefined> =>
  (await source.fetch(ref)).locked.revCount;

afterEach(() => vi.unstubAllEnvs());

describe('the number of revisions', () => {
  it.each<[string, (url: string) => string, boolean]>([
    ['over http, where the server filters', (url) => url, true],
    ['over http, where it does not', (url) => url, false],
    ['of a repository on this machine', () => `file://${world.path}`, true],
  ])('is the length of the whole history, %s', async (_, way, filters) => {
    const { source, ref, server } = await rig();
    server.filters = filters;
    const url = way(ref.url);
    expect(await countOf(source(), { ...ref, url })).toBe(61);
    expect(await countOf(source(), { ...ref, url, ref: 'old' })).toBe(20);
    expect(await countOf(source(), { ...ref, url, ref: 'side' })).toBe(30);
    expect(await countOf(source(), { ...ref, url, rev: world.rev })).toBe(61);
  });

  it.each([true, false])('comes by the git program too; filters: %s', async (filters) => {
    const { source, ref, server } = await rig();
    server.filters = filters;
    // Whoever has configured a proxy, or anything else on the way to the server, has git go there.
    vi.stubEnv('GIT_CONFIG_COUNT', '1');
    vi.stubEnv('GIT_CONFIG_KEY_0', 'http.extraHeader');
    vi.stubEnv('GIT_CONFIG_VALUE_0', 'x-test: 1');
    expect(await countOf(source(), ref)).toBe(61);
    expect(await countOf(source(), { ...ref, ref: 'old' })).toBe(20);
    expect(server.log[0]?.headers['user-agent']).toMatch(/^git\/\d/);
  });

  it('moves no files where the server filters', async () => {
    const { source, ref, server } = await rig();
    await source().fetch(ref);
    const asked = server.log.map(({ body }) => body.toString('latin1'));
    expect(asked.filter((body) => body.includes('filter tree:0'))).toHaveLength(1);
    expect(asked.filter((body) => body.includes('deepen 1'))).toHaveLength(1);
  });

  it('is counted once for good', async () => {
    const { source, ref, server } = await rig();
    await source().fetch(ref);
    server.log.length = 0;
    expect(await countOf(source({ refresh: true }), ref)).toBe(61);
    expect(server.log.map(({ command }) => command)).toEqual(['ls-refs']);
    server.log.length = 0;
    expect(await countOf(source({ refTtl: 3600, offline: true }), ref)).toBe(61);
    expect(server.log).toEqual([]);
  });

  it('is not asked for where the lock has it, or has it not, or nobody wants it', async () => {
    const { source, ref, server, cacheFolder } = await rig();
    const { locked } = await source().fetch(ref);
    const { revCount, ...without } = locked as GitRef;
    expect(revCount).toBe(61);
    for (const [given, wanted, options] of [
      [locked as GitRef, 61, {}],
      [without, undefined, {}],
      [{ ...ref, rev: world.rev, revCount: 7 }, 7, {}],
      [{ ...ref, shallow: true }, undefined, {}],
      [ref, undefined, { revCount: false }],
    ] as const) {
      rmSync(cacheFolder, { recursive: true });
      server.log.length = 0;
      expect(await countOf(source(options), given)).toBe(wanted);
      expect(server.log.filter(({ body }) => body.includes('filter'))).toEqual([]);
    }
  });

  it.each(['http', 'file'])(
    'cannot be had of a shallow clone over %s, and shallow=1 does without',
    async (way) => {
      const { source, ref } = await rig('shallow.git');
      const url = way === 'http' ? ref.url : `file://${world.folder}/shallow.git`;
      await expect(source().fetch({ ...ref, url })).rejects.toEqual(withCode('FLK_GIT_SHALLOW'));
      expect(await countOf(source(), { ...ref, url, shallow: true })).toBeUndefined();
    },
  );

  it('that is not here is named when flk is offline', async () => {
    const { source, ref } = await rig();
    await source({ revCount: false }).fetch(ref);
    await expect(source({ offline: true }).fetch(ref)).rejects.toMatchObject({
      code: 'FLK_OFFLINE',
      message: expect.stringContaining('number of revisions'),
    });
  });

  it('does not hide that the repository lacks the revision', async () => {
    const { source, ref } = await rig();
    const rev = '1234567890123456789012345678901234567890' as Rev;
    for (const url of [ref.url, `file://${world.path}`])
      await expect(source().fetch({ ...ref, url, rev, ref: 'main' })).rejects.toEqual(
        withCode('FLK_GIT_REV_GONE'),
      );
  });

  it.skipIf(!nixAvailable())(`is Nix’s ${nixReason}`, async () => {
    const { source, ref } = await rig();
    for (const url of [ref.url, `file://${world.path}`])
      for (const query of [{}, { ref: 'side' }, { rev: world.rev }, { ref: 'old', shallow: true }]) {
        const text = new URLSearchParams(
          Object.entries(query).map(([name, value]): [string, string] => [
            name,
            value === true ? '1' : String(value),
          ]),
        );
        const { stdout, stderr } = await nix(['flake', 'prefetch', '--json', `git+${url}?${text}`], {
          env: { XDG_CACHE_HOME: temporaryFolder() },
        });
        expect(stdout, stderr).not.toBe('');
        const { hash, locked }: { hash: string; locked: object } = JSON.parse(stdout);
        expect((await source().fetch({ ...ref, url, ...query })).locked).toEqual({
          ...locked,
          narHash: hash,
        });
      }
  });
});
