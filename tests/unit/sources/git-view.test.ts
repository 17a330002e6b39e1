import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { GitRef } from '../../../src/flake/flake-ref.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { GitSource, type GitSourceOptions } from '../../../src/sources/git.ts';
import { LfsClient } from '../../../src/sources/git-lfs.ts';
import { HttpClient } from '../../../src/sources/http.ts';
import { withCode } from '../../support/errors.ts';
import { type LfsServer, lfsServer, oidOf, pointerTo } from '../../support/lfs-server.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { git } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

type Files = Readonly<Record<string, string>>;

interface Rig {
  readonly folder: string;
  readonly server: LfsServer;
  /** Makes a repository of one commit; gives a reference to it. */
  repository(files: Files, name?: string): GitRef;
  source(options?: Partial<GitSourceOptions>): GitSource;
}

async function rig(): Promise<Rig> {
  const folder = temporaryFolder();
  const server = await lfsServer(folder);
  const cacheFolder = join(temporaryFolder(), 'cache');
  return {
    folder,
    server,
    repository: (files, name = 'repo') => {
      const path = join(folder, name);
      mkdirSync(path);
      git(path, 'init', '-q');
      for (const [file, content] of Object.entries(files)) {
        mkdirSync(dirname(join(path, file)), { recursive: true });
        writeFileSync(join(path, file), content, { mode: file.endsWith('.sh') ? 0o755 : 0o644 });
      }
      git(path, 'add', '-A');
      git(path, 'commit', '-q', '-m', 'change');
      return { type: 'git', url: `${server.base}/${name}/.git` };
    },
    source: (options) =>
      new GitSource({ cacheFolder, reporter: { emit: () => {} }, retryDelay: 1, ...options }),
  };
}

async function nixLocks(ref: GitRef): Promise<object> {
  const query = Object.entries(ref)
    .filter(([, value]) => value === true)
    .map(([name]) => `${name}=1`)
    .concat(ref.ref === undefined ? [] : `ref=${ref.ref}`)
    .join('&');
  const { stdout, stderr } = await nix(['flake', 'prefetch', '--json', `git+${ref.url}?${query}`], {
    env: { XDG_CACHE_HOME: temporaryFolder() },
  });
  expect(stdout, stderr).not.toBe('');
  const { hash, locked }: { hash: string; locked: object } = JSON.parse(stdout);
  return { ...locked, narHash: hash };
}

const large = 'large '.repeat(100_000);

/** Files kept by LFS in several ways, and some that only look like it. */
function lfsFiles(server: LfsServer): Files {
  return {
    '.gitattributes': '*.bin filter=lfs diff=lfs merge=lfs -text\nkeep.bin -filter\n',
    '-early.bin': server.add('early'),
    'a.bin': server.add(large),
    'same.bin': server.add(large),
    'empty.bin': server.add(''),
    'run.sh': server.add('#!/bin/sh\n'),
    'keep.bin': pointerTo('not wanted'),
    'not-a-pointer.bin': 'version https://git-lfs.github.com/spec/v1\noid sha256:beef\nsize 3\n',
    'too-large.bin': `${pointerTo('x')}${'#'.repeat(1024)}`,
    'sub/.gitattributes': '*.dat filter=lfs\n*.sh filter=lfs\n*.bin !filter\n',
    'sub/b.dat': server.add('b'),
    'sub/run.sh': server.add('#!/bin/bash\n'),
    'sub/c.bin': pointerTo('also not wanted'),
    'plain.txt': 'plain',
  };
}

describe('lfs=1', () => {
  it('gives the files that pointers stand for, where .gitattributes says so', async () => {
    const { source, server, repository } = await rig();
    const files = lfsFiles(server);
    const ref = repository(files);
    const { tree } = await source().fetch({ ...ref, lfs: true });
    expect((await hashTree(tree)).narHash).toBe(tree.narHash);
    const wanted: Files = {
      '-early.bin': 'early',
      'a.bin': large,
      'empty.bin': '',
      'sub/b.dat': 'b',
      'sub/run.sh': '#!/bin/bash\n',
    };
    for (const [path, content] of Object.entries({ ...files, ...wanted, 'same.bin': large }))
      expect((await tree.readFile(path))?.toString(), path).toBe(content);
    expect(server.log.map(({ request }) => request.replace(/[0-9a-f]{64}/, 'OID'))).toEqual([
      'POST /repo/.git/info/lfs/objects/batch',
      ...Array.from({ length: 5 }, () => 'GET /objects/OID'),
    ]);
  });

  it.skipIf(!nixAvailable())(`has Nix’s bytes ${nixReason}`, async () => {
    const { source, server, repository } = await rig();
    const ref: GitRef = { ...repository(lfsFiles(server)), lfs: true };
    expect((await source().fetch(ref)).locked).toEqual(await nixLocks(ref));
  });

  it('asks for nothing that is here', async () => {
    const { source, server, repository } = await rig();
    const ref = repository(lfsFiles(server));
    const { locked } = await source().fetch({ ...ref, lfs: true });
    server.log.length = 0;
    server.git.log.length = 0;
    const { tree } = await source({ offline: true }).fetch(locked as GitRef);
    expect((await hashTree(tree)).narHash).toBe(tree.narHash);
    expect([...server.log, ...server.git.log]).toEqual([]);
  });

  it('takes what a repository on this machine holds', async () => {
    const { source, server, repository, folder } = await rig();
    repository({ '.gitattributes': '*.bin filter=lfs\n', 'a.bin': pointerTo('content') });
    const url = `file://${folder}/repo`;
    const ref: GitRef = { type: 'git', url, ref: 'main', lfs: true };
    await expect(source().fetch(ref)).rejects.toEqual(withCode('FLK_GIT_LFS'));
    const oid = oidOf('content');
    const place = join(folder, 'repo/.git/lfs/objects', oid.slice(0, 2), oid.slice(2, 4));
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, oid), 'content');
    const { tree } = await source().fetch(ref);
    expect((await tree.readFile('a.bin'))?.toString()).toBe('content');
    expect(server.log).toEqual([]);
  });

  it('is named when flk is offline', async () => {
    const { source, repository } = await rig();
    const ref = repository({ '.gitattributes': '*.bin filter=lfs\n', 'a.bin': pointerTo('content') });
    const { locked } = await source().fetch(ref);
    const { narHash, ...unchecked } = locked;
    expect(narHash).toBeDefined();
    await expect(source({ offline: true }).fetch({ ...(unchecked as GitRef), lfs: true })).rejects.toEqual(
      withCode('FLK_OFFLINE'),
    );
  });
});

describe('an LFS server that', () => {
  const oid = oidOf('content');
  const download = (href: string, header?: object): object => ({
    oid,
    size: 7,
    actions: { download: { href, ...(header && { header }) } },
  });

  it.each<[string, (server: LfsServer) => void]>([
    ['does not have the object', () => {}],
    ['answers without it', (server) => (server.answer = () => ({ oid: oidOf('other'), size: 1 }))],
    ['gives other bytes', (server) => server.objects.set(oid, Buffer.from('CONTENT'))],
    ['gives fewer bytes', (server) => server.objects.set(oid, Buffer.from('conten'))],
    ['gives more bytes', (server) => server.objects.set(oid, Buffer.from('content!'))],
    ['leads to a file', (server) => (server.answer = () => download('file:///etc/passwd'))],
    ['leads nowhere', (server) => (server.answer = () => download('nowhere'))],
    ['promises what it lacks', (server) => (server.answer = () => download(`${server.base}/objects/${oid}`))],
    ['says what is no object', (server) => (server.answer = () => ({}))],
  ])('%s is refused, and nothing kept', async (_, spoil) => {
    const { source, server, repository } = await rig();
    const ref = repository({ '.gitattributes': '*.bin filter=lfs\n', 'a.bin': pointerTo('content') });
    spoil(server);
    await expect(source().fetch({ ...ref, lfs: true })).rejects.toEqual(withCode('FLK_GIT_LFS'));
    delete server.answer;
    server.objects.set(oid, Buffer.from('content'));
    const { tree } = await source().fetch({ ...ref, lfs: true });
    expect((await tree.readFile('a.bin'))?.toString()).toBe('content');
  });

  it('is busy for a moment is asked again, and for the rest only', async () => {
    const { source, server, repository, folder } = await rig();
    const ref = repository({
      '.gitattributes': '*.bin filter=lfs\n',
      'a.bin': server.add('first'),
      'b.bin': server.add('second'),
    });
    const busy = await lfsServer(folder);
    let asked = 0;
    busy.git.interfere = () =>
      asked++ === 0 ? { status: 503 } : { redirect: `${server.base}/objects/${oidOf('second')}` };
    server.answer = (id, size) =>
      id === oidOf('second')
        ? { oid: id, size, actions: { download: { href: `${busy.git.base}/x` } } }
        : undefined;
    const { tree } = await source().fetch({ ...ref, lfs: true });
    expect((await tree.readFile('b.bin'))?.toString()).toBe('second');
    const requests = server.log.map(({ request }) => request);
    expect(requests.filter((request) => request.startsWith('POST'))).toHaveLength(2);
    expect(requests.filter((request) => request.endsWith(oidOf('first')))).toHaveLength(1);
  });

  it('gives what the pointer names, but not as long as it says, is refused', async () => {
    const { source, server, repository } = await rig();
    server.add('content');
    const pointer = pointerTo('content').replace('size 7', 'size 9');
    const ref = repository({ '.gitattributes': '*.bin filter=lfs\n', 'a.bin': pointer });
    server.answer = () => download(`${server.base}/objects/${oid}`);
    await expect(source().fetch({ ...ref, lfs: true })).rejects.toMatchObject({
      code: 'FLK_GIT_LFS',
      facts: { found: '7 bytes', wanted: '9 bytes' },
    });
  });

  it('would be reached by ssh is refused', async () => {
    const client = new LfsClient({ http: new HttpClient(), folder: temporaryFolder() });
    await expect(client.bring('ssh://git@host.example/repo', [{ oid, size: 7 }])).rejects.toEqual(
      withCode('FLK_REF_UNSUPPORTED'),
    );
  });

  it('wants credentials says so', async () => {
    const { source, server, repository, folder } = await rig();
    const ref = repository({ '.gitattributes': '*.bin filter=lfs\n', 'a.bin': pointerTo('content') });
    const locked = await lfsServer(folder);
    server.answer = () => download(`${locked.git.base}/objects/${oid}`);
    locked.git.interfere = () => ({ status: 401 });
    await expect(source().fetch({ ...ref, lfs: true })).rejects.toEqual(withCode('FLK_HTTP_AUTH'));
  });

  it('hands out a token for an object sees it there only', async () => {
    const { source, server, repository, folder } = await rig();
    const ref = repository({ '.gitattributes': '*.bin filter=lfs\n', 'a.bin': pointerTo('content') });
    const elsewhere = await lfsServer(folder);
    elsewhere.add('content');
    const between = await lfsServer(folder);
    between.git.interfere = () => ({ redirect: `${elsewhere.base}/objects/${oid}` });
    server.answer = () => download(`${between.git.base}/x`, { Authorization: 'Basic c2VjcmV0' });
    const { tree } = await source().fetch({ ...ref, lfs: true });
    expect((await tree.readFile('a.bin'))?.toString()).toBe('content');
    expect(between.git.log.map(({ headers }) => headers.authorization)).toEqual(['Basic c2VjcmV0']);
    expect(elsewhere.log.map(({ authorization }) => authorization)).toEqual([undefined]);
  });
});

describe('exportIgnore=1', () => {
  const files: Files = {
    '.gitattributes':
      'tests export-ignore\n*.log export-ignore\nkeep.log -export-ignore\ndocs/ export-ignore\nx export-ignore=yes\n',
    '.gitignore': 'x',
    'a.log': 'gone',
    'keep.log': 'kept',
    'docs/read.md': 'kept, for the pattern is of folders only',
    'tests/a': 'gone',
    'src/tests/b': 'gone',
    'src/.gitattributes': 'c export-ignore\nkeep.log export-ignore\n',
    'src/c': 'gone',
    'src/keep.log': 'gone',
    'only/tests/x': 'gone, and an empty folder stays',
    y: 'kept',
  };

  it('leaves out what is not exported', async () => {
    const { source, repository } = await rig();
    const { tree } = await source().fetch({ ...repository(files), exportIgnore: true });
    expect((await hashTree(tree)).narHash).toBe(tree.narHash);
    for (const [path, content] of Object.entries(files))
      expect((await tree.readFile(path))?.toString(), path).toBe(
        content.startsWith('gone') ? undefined : content,
      );
  });

  it.skipIf(!nixAvailable())(`has Nix’s bytes ${nixReason}`, async () => {
    const { source, repository, server } = await rig();
    const ref: GitRef = { ...repository(files), exportIgnore: true };
    expect((await source().fetch(ref)).locked).toEqual(await nixLocks(ref));
    const both: GitRef = {
      ...repository(
        {
          ...lfsFiles(server),
          '.gitattributes': '*.bin filter=lfs\nkeep.bin -filter\na.bin export-ignore\ngone export-ignore\n',
          'gone/lost.bin': pointerTo('not on the server'),
        },
        'both',
      ),
      exportIgnore: true,
      lfs: true,
    };
    expect((await source().fetch(both)).locked).toEqual(await nixLocks(both));
  });
});
