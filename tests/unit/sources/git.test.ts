import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import type { GitRef, Rev } from '../../../src/flake/flake-ref.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { GitSource, type GitSourceOptions } from '../../../src/sources/git.ts';
import { withCode } from '../../support/errors.ts';
import { type GitServer, gitServer } from '../../support/git-server.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, narOf, nodeOf, symlink, writeNode } from '../../support/trees.ts';

/** Git that is the same on every machine. */
function git(folder: string, ...args: string[]): string {
  return execFileSync('git', ['-C', folder, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env.PATH,
      HOME: folder,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
      GIT_AUTHOR_NAME: 'A',
      GIT_AUTHOR_EMAIL: 'a@example.org',
      GIT_AUTHOR_DATE: '2024-01-01T00:00:00Z',
      GIT_COMMITTER_NAME: 'C',
      GIT_COMMITTER_EMAIL: 'c@example.org',
      GIT_COMMITTER_DATE: '2024-01-02T00:00:00Z',
    },
  }).trim();
}

const first = directory({
  'flake.yaml': file('description: first\n'),
  bin: directory({ run: file('#!/bin/sh\n', true), link: symlink('../flake.yaml') }),
  sub: directory({ 'flake.yaml': file('description: sub\n'), 'caf\xe9': file('latin1') }),
});
const second = directory({
  'flake.yaml': file('description: second\n'),
  'a-b': file('1'),
  a: directory({ b: file('2') }),
});

/** A repository of two commits: `main` at the second; `dev`, the tags `v1` (annotated) and `light` at the first. */
function makeRepository(folder: string, name = 'repo'): { path: string; revs: [Rev, Rev] } {
  const path = join(folder, name);
  mkdirSync(path);
  git(path, 'init', '-q', '-b', 'main');
  const commit = (node: Node): Rev => {
    for (const entry of readdirSync(path))
      if (entry !== '.git') execFileSync('rm', ['-rf', join(path, entry)]);
    if (node.type === 'directory')
      for (const [child, content] of node.entries)
        writeNode(content, Buffer.concat([Buffer.from(`${path}/`), Buffer.from(child, 'latin1')]));
    git(path, 'add', '-A');
    git(path, 'commit', '-q', '-m', 'change');
    return git(path, 'rev-parse', 'HEAD') as Rev;
  };
  const one = commit(first);
  git(path, 'tag', '-a', 'v1', '-m', 'v1');
  git(path, 'tag', 'light');
  git(path, 'branch', 'dev');
  return { path, revs: [one, commit(second)] };
}

const world = await (async () => {
  const folder = temporaryFolder();
  const { path, revs } = makeRepository(folder);
  return { folder, path, revs };
})();

interface Rig {
  readonly server: GitServer;
  readonly cacheFolder: string;
  readonly events: Event[];
  readonly ref: GitRef;
  source(options?: Partial<GitSourceOptions>): GitSource;
}

async function rig(folder = world.folder): Promise<Rig> {
  const server = await gitServer(folder);
  const cacheFolder = join(temporaryFolder(), 'cache');
  const events: Event[] = [];
  return {
    server,
    cacheFolder,
    events,
    ref: { type: 'git', url: `${server.base}/repo/.git` },
    source: (options) =>
      new GitSource({
        cacheFolder,
        reporter: { emit: (event) => events.push(event) },
        retryDelay: 1,
        idleTimeout: 30_000,
        ...options,
      }),
  };
}

const [one, two] = world.revs;

describe('what is locked', () => {
  it.each<[string, Partial<GitRef>, string | undefined, Rev]>([
    ['nothing: HEAD’s branch', {}, 'refs/heads/main', two],
    ['HEAD', { ref: 'HEAD' }, 'HEAD', two],
    ['a branch, as written', { ref: 'dev' }, 'dev', one],
    ['a whole ref', { ref: 'refs/heads/dev' }, 'refs/heads/dev', one],
    ['an annotated tag: the commit', { ref: 'refs/tags/v1' }, 'refs/tags/v1', one],
    ['a light tag', { ref: 'refs/tags/light' }, 'refs/tags/light', one],
    ['a revision: HEAD’s branch beside it', { rev: one }, 'refs/heads/main', one],
    ['a revision and a branch', { rev: one, ref: 'main' }, 'main', one],
  ])('for %s', async (_, given, ref, rev) => {
    const { source, ref: base } = await rig();
    const { locked, tree } = await source().fetch({ ...base, ...given });
    expect(locked).toEqual({
      ...base,
      ...given,
      ref,
      rev,
      narHash: tree.narHash,
      lastModified: 1704153600,
      revCount: rev === two ? 2 : 1,
    });
  });

  it('keeps dir and flags, and nothing that a server may change', async () => {
    const { source, ref } = await rig();
    const { locked } = await source().fetch({ ...ref, dir: 'sub', shallow: true, allRefs: false });
    expect(locked).toMatchObject({ dir: 'sub', shallow: true, allRefs: false });
    const again = await source().fetch(locked as GitRef);
    expect(again.locked).toEqual(locked);
  });

  it.skipIf(!nixAvailable())(`is what Nix locks ${nixReason}`, { timeout: 120_000 }, async () => {
    const { source, ref } = await rig();
    const here = { url: `file://${world.path}` };
    const unreferenced = git(world.path, 'commit-tree', '-m', 'x', '-p', 'dev', 'dev^{tree}') as Rev;
    const tag = git(world.path, 'rev-parse', 'v1') as Rev;
    const queries: Partial<GitRef>[] = [
      {},
      { ref: 'dev' },
      { ref: 'refs/tags/v1' },
      { ref: 'HEAD' },
      { rev: one },
      { rev: one, ref: 'main' },
      { rev: two, ref: 'dev' },
      { rev: two, ref: 'nowhere' },
      { rev: unreferenced },
      { rev: tag, ref: 'refs/tags/v1' },
      { ref: 'dev', allRefs: true },
      { ref: 'dev', shallow: true },
      ...['v1', 'tags/v1', 'heads/dev', 'light'].map((name) => ({ ...here, ref: name })),
      { ...here, rev: two, ref: 'nowhere' },
      { ...here, rev: unreferenced },
    ];
    for (const query of queries) {
      const { url = ref.url, ...rest } = query;
      const text = Object.entries(rest).map(([name, value]) => `${name}=${value === true ? 1 : value}`);
      const { stdout, stderr } = await nix(['flake', 'prefetch', '--json', `git+${url}?${text.join('&')}`], {
        env: { XDG_CACHE_HOME: temporaryFolder() },
      });
      expect(stdout, stderr).not.toBe('');
      const answer: { hash: string; locked: Record<string, unknown> } = JSON.parse(stdout);
      const { locked } = await source().fetch({ ...ref, ...query });
      expect(locked).toEqual({ ...answer.locked, narHash: answer.hash });
    }
  });
});

describe('the tree', () => {
  it.each([
    ['over http', (rig: Rig) => rig.ref.url],
    ['from this machine', () => `file://${world.path}`],
  ])('has the bytes of the commit, %s', async (_, url) => {
    const testRig = await rig();
    for (const [rev, node] of [
      [one, first],
      [two, second],
    ] as const) {
      const { tree } = await testRig.source().fetch({ type: 'git', url: url(testRig), rev });
      expect(narOf(await nodeOf(tree)).equals(narOf(node))).toBe(true);
      expect(await hashTree(tree)).toEqual({ narHash: tree.narHash, narSize: tree.narSize });
    }
  });

  it('gives manifests, other files, and undefined for what is no regular file', async () => {
    const { source, ref } = await rig();
    const { tree } = await source().fetch({ ...ref, rev: one });
    const text = async (path: string): Promise<string | undefined> => (await tree.readFile(path))?.toString();
    expect(await text('flake.yaml')).toBe('description: first\n');
    expect(await text('sub/flake.yaml')).toBe('description: sub\n');
    expect(await text('bin/run')).toBe('#!/bin/sh\n');
    for (const path of ['flake.lock', 'bin/link', 'bin', 'nowhere/flake.yaml', 'nowhere', 'flake.yaml/x'])
      expect(await text(path)).toBeUndefined();
  });

  it('whose hash is not the one that was locked is refused', async () => {
    const { source, ref } = await rig();
    const { tree } = await source().fetch({ ...ref, rev: one });
    await expect(source().fetch({ ...ref, narHash: tree.narHash })).rejects.toMatchObject({
      code: 'FLK_NAR_HASH_MISMATCH',
      facts: { wanted: tree.narHash, found: expect.stringMatching(/^sha256-/) },
    });
  });
});

describe('requests', () => {
  it('are three for a ref, one for a locked revision, none for what is known', async () => {
    const { source, ref, server, cacheFolder } = await rig();
    const { locked } = await source().fetch(ref);
    expect(server.log.map(({ command }) => command)).toEqual(['ls-refs', 'fetch', 'fetch']);
    server.log.length = 0;
    await source().fetch(locked as GitRef);
    expect(server.log).toEqual([]);
    rmSync(cacheFolder, { recursive: true });
    await source().fetch(locked as GitRef);
    expect(server.log.map(({ command }) => command)).toEqual(['fetch']);
  });

  it('are made once for all who ask at the same time', async () => {
    const { source, ref, server } = await rig();
    const shared = source();
    const all = await Promise.all(Array.from({ length: 5 }, () => shared.fetch(ref)));
    expect(new Set(all.map(({ locked }) => JSON.stringify(locked))).size).toBe(1);
    expect(server.log).toHaveLength(3);
  });

  it('do not fetch one revision twice when two processes want it', async () => {
    const { source, ref, server } = await rig();
    const other = (): GitSource => source({ revCount: false });
    await Promise.all([other().fetch({ ...ref, ref: 'dev' }), other().fetch({ ...ref, ref: 'dev' })]);
    expect(server.log.filter(({ command }) => command === 'fetch')).toHaveLength(1);
  });

  it('ask for a ref each time, unless the answer may be some time old', async () => {
    const { source, ref, server } = await rig();
    await source().fetch(ref);
    server.log.length = 0;
    await source().fetch(ref);
    expect(server.log).toHaveLength(1);
    await source({ refTtl: 3600 }).fetch(ref);
    expect(server.log).toHaveLength(1);
    await source({ refTtl: 3600, refresh: true }).fetch(ref);
    expect(server.log).toHaveLength(2);
  });

  it('to a repository on this machine are made each time, offline too', async () => {
    const folder = temporaryFolder();
    const { path, revs } = makeRepository(folder);
    const { source } = await rig(folder);
    const ref: GitRef = { type: 'git', url: `file://${path}`, ref: 'main' };
    const impatient = { refTtl: 3600, offline: true };
    expect((await source(impatient).fetch(ref)).locked).toMatchObject({ rev: revs[1] });
    git(path, 'reset', '-q', '--hard', revs[0]);
    git(path, 'tag', 'newer');
    expect((await source(impatient).fetch(ref)).locked).toMatchObject({ rev: revs[0] });
    expect((await source(impatient).tags(ref)).map(({ name }) => name)).toContain('newer');
  });

  it('are limited in number at any time', async () => {
    const folder = temporaryFolder();
    for (let i = 0; i < 6; i++) makeRepository(folder, `r${i}`);
    const { source, server } = await rig(folder);
    server.delayMs = 20;
    const limited = source({ maxConnections: 2 });
    await Promise.all(
      Array.from({ length: 6 }, (_, i) => limited.fetch({ type: 'git', url: `${server.base}/r${i}/.git` })),
    );
    expect(server.maxInFlight).toBe(2);
  });

  it('never happen offline: what is known is given, what is not is named', async () => {
    const { source, ref, server } = await rig();
    const { locked } = await source().fetch(ref);
    await source().tags(ref);
    server.log.length = 0;
    const offline = source({ offline: true });
    expect((await offline.fetch(ref)).locked).toEqual(locked);
    expect(await offline.tags(ref)).toHaveLength(2);
    for (const unknown of [{ ref: 'dev' }, { rev: one, ref: 'dev' }])
      await expect(offline.fetch({ ...ref, ...unknown })).rejects.toMatchObject({
        code: 'FLK_OFFLINE',
        message: expect.stringContaining(ref.url),
      });
    await expect(offline.tags({ type: 'git', url: `${server.base}/other` })).rejects.toEqual(
      withCode('FLK_OFFLINE'),
    );
    expect(server.log).toEqual([]);
  });

  it('are told as events, with bytes and objects', async () => {
    const { source, ref, events } = await rig();
    await source({ revCount: false }).fetch(ref);
    const subject = `git+${ref.url}`;
    expect(events.filter((event) => event.kind === 'start').map((event) => event.activity)).toEqual([
      { type: 'resolve', subject },
      { type: 'fetch', subject },
    ]);
    expect(events.filter((event) => event.kind === 'end').map((event) => event.outcome)).toEqual([
      'ok',
      'ok',
    ]);
    expect(events).toContainEqual(
      expect.objectContaining({ kind: 'progress', unit: 'objects', done: 6, total: 6 }),
    );
  });
});

it('lists tags, annotated ones by the commit they stand for', async () => {
  const { source, ref, server } = await rig();
  expect([...(await source().tags(ref))].sort((a, b) => (a.name < b.name ? -1 : 1))).toEqual([
    { name: 'light', rev: one },
    { name: 'v1', rev: one },
  ]);
  expect(server.log).toHaveLength(1);
});

describe('the cache', () => {
  const packs = (cacheFolder: string): string[] =>
    readdirSync(join(cacheFolder, 'git'))
      .filter((name) => name.endsWith('.pack'))
      .map((name) => join(cacheFolder, 'git', name));

  it.each<[string, (pack: string) => void]>([
    ['cut short', (pack) => truncateSync(pack, 100)],
    ['longer', (pack) => appendFileSync(pack, 'x')],
    ['gone', (pack) => rmSync(pack)],
    ['empty', (pack) => writeFileSync(pack, '')],
    [
      'with another end',
      (pack) => writeFileSync(pack, Buffer.concat([readFileSync(pack).subarray(0, -1), Buffer.from('!')])),
    ],
  ])('fetches again when a pack is %s', async (_, damage) => {
    const { source, ref, server, cacheFolder } = await rig();
    const { locked } = await source().fetch(ref);
    for (const pack of packs(cacheFolder)) damage(pack);
    server.log.length = 0;
    const again = await source().fetch(locked as GitRef);
    expect(again.locked).toEqual(locked);
    expect(server.log).toHaveLength(1);
    expect((await hashTree(again.tree)).narHash).toBe(again.tree.narHash);
  });

  it.each<[string, (note: string) => string]>([
    ['cut short', (note) => note.slice(0, -10)],
    ['changed', (note) => note.replace('sha256-', 'sha256_')],
    ['garbage', () => '\0\0\0'],
  ])('fetches again when what is known of a commit is %s', async (_, damage) => {
    const { source, ref, server, cacheFolder } = await rig();
    const { locked } = await source().fetch(ref);
    const note = packs(cacheFolder)[0]!.replace(/pack$/, 'json');
    writeFileSync(note, damage(readFileSync(note, 'utf8')));
    server.log.length = 0;
    expect((await source().fetch(locked as GitRef)).locked).toEqual(locked);
    expect(server.log).toHaveLength(1);
  });

  it('never gives damaged bytes for the tree: the walk fails, and the next run fetches again', async () => {
    const { source, ref, cacheFolder } = await rig();
    const { locked } = await source().fetch(ref);
    const [pack] = packs(cacheFolder);
    const bytes = readFileSync(pack!);
    bytes[Math.floor(bytes.length / 2)]! ^= 0x10;
    writeFileSync(pack!, bytes);
    const { tree } = await source().fetch(locked as GitRef);
    await expect(hashTree(tree)).rejects.toEqual(withCode('FLK_GIT_PACK'));
    const mended = await source().fetch(locked as GitRef);
    expect((await hashTree(mended.tree)).narHash).toBe(mended.tree.narHash);
  });

  it('puts a folder that stands in the place of a note out of the way', async () => {
    const { source, ref, cacheFolder } = await rig();
    const { locked } = await source().fetch(ref);
    const path = join(cacheFolder, 'git', `${two}.json`);
    rmSync(path);
    mkdirSync(path);
    expect((await source().fetch(ref)).locked).toEqual(locked);
  });

  it('keeps nothing of a fetch that failed', async () => {
    const { source, ref, server, cacheFolder } = await rig();
    server.interfere = ({ command }) => (command === 'fetch' ? { truncateAfter: 300 } : undefined);
    const failing = source({ revCount: false }).fetch({ ...ref, rev: one, ref: 'dev' });
    await expect(failing).rejects.toEqual(withCode('FLK_NETWORK'));
    expect(readdirSync(join(cacheFolder, 'git'))).toEqual([]);
    expect(readdirSync(join(cacheFolder, 'stage'))).toEqual([]);
  });

  it('loses the pack that a killed process was fetching', async () => {
    const { source, ref, cacheFolder } = await rig();
    mkdirSync(join(cacheFolder, 'stage'), { recursive: true });
    writeFileSync(join(cacheFolder, 'stage', '4194304-12345-ab'), 'PACK');
    await source().fetch(ref);
    expect(readdirSync(join(cacheFolder, 'stage'))).toEqual([]);
  });

  it('serves a commit to other repositories that hold it', async () => {
    const { source, ref, server } = await rig();
    const { locked } = await source().fetch(ref);
    server.log.length = 0;
    await source().fetch({ ...(locked as GitRef), url: `${server.base}/elsewhere` });
    expect(server.log).toEqual([]);
  });
});

describe('what cannot be had', () => {
  const gone = '1234567890123456789012345678901234567890' as Rev;

  it.each(['http', 'file'])(
    'a branch, a tag without refs/tags/, a revision, a repository over %s',
    async (way) => {
      const testRig = await rig();
      const url = way === 'http' ? testRig.ref.url : `file://${world.path}`;
      const source = testRig.source();
      await expect(source.fetch({ type: 'git', url, ref: 'mian' })).rejects.toMatchObject({
        code: 'FLK_GIT_REF_MISSING',
        hint: 'did you mean ref=main?',
        facts: { found: 'dev, main' },
      });
      // Where somebody works, a name is what git rev-parse takes it for.
      const tag = source.fetch({ type: 'git', url, ref: 'v1' });
      if (way === 'file') expect((await tag).locked).toMatchObject({ ref: 'v1', rev: one });
      else
        await expect(tag).rejects.toMatchObject({
          code: 'FLK_GIT_REF_MISSING',
          hint: 'write ref=refs/tags/v1',
        });
      await expect(source.fetch({ type: 'git', url, ref: 'dev', rev: gone })).rejects.toEqual(
        withCode('FLK_GIT_REV_GONE'),
      );
      await expect(source.fetch({ type: 'git', url: url.replace('repo', 'nowhere') })).rejects.toEqual(
        withCode('FLK_GIT_REPO_MISSING'),
      );
    },
  );

  it('anything of an empty repository', async () => {
    const folder = temporaryFolder();
    git(folder, 'init', '-q', '--bare', 'empty.git');
    const { source, server } = await rig(folder);
    await expect(source().fetch({ type: 'git', url: `${server.base}/empty.git` })).rejects.toMatchObject({
      code: 'FLK_GIT_REF_MISSING',
      message: expect.stringContaining('empty'),
    });
  });

  it.each([
    '-x',
    'a..b',
    'a b',
    'a\nref-prefix refs/',
    'x.lock',
    'a/',
    '/a',
    'a~1',
    'a^{}',
    '',
    '@',
    'a//b',
    'x*',
  ])('a ref named %j', async (name) => {
    const { source, ref, server } = await rig();
    await expect(source().fetch({ ...ref, ref: name })).rejects.toEqual(withCode('FLK_REF_INVALID'));
    expect(server.log).toEqual([]);
  });

  it.each(['http', 'file'])('repositories that name objects by SHA-256, over %s', async (way) => {
    const folder = temporaryFolder();
    git(folder, 'init', '-q', '--object-format=sha256', '-b', 'main', 'new');
    git(join(folder, 'new'), 'commit', '-q', '--allow-empty', '-m', 'x');
    const { source, server } = await rig(folder);
    const url = way === 'http' ? `${server.base}/new/.git` : `file://${folder}/new`;
    await expect(source().fetch({ type: 'git', url })).rejects.toEqual(withCode('FLK_REF_UNSUPPORTED'));
  });
});
