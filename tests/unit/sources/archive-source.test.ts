import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { startTime } from '../../../src/base/files.ts';
import { type NarHash, narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import {
  type ArchiveRequest,
  ArchiveSource,
  type ArchiveSourceOptions,
} from '../../../src/sources/archive-source.ts';
import { HttpClient } from '../../../src/sources/http.ts';
import { paxEntry, type TarEntry, tarEntry, tarOf, zipOf } from '../../support/archives.ts';
import { errorOf } from '../../support/errors.ts';
import { fileServer } from '../../support/file-server.ts';
import { temporaryFolder } from '../../support/temp.ts';
import {
  anyNode,
  directory,
  entriesOf,
  file,
  type Node,
  narOf,
  nodeOf,
  symlink,
  treeFrom,
} from '../../support/trees.ts';

const server = await fileServer();
const events: Event[] = [];

interface Setting extends Partial<Omit<ArchiveSourceOptions, 'client' | 'reporter'>> {}

function sourceOf(setting: Setting = {}): ArchiveSource {
  const { cacheFolder = temporaryFolder(), ...rest } = setting;
  return new ArchiveSource({
    cacheFolder,
    client: new HttpClient(setting.signal ? { signal: setting.signal } : {}),
    reporter: { emit: (event) => void events.push(event) },
    ...rest,
  });
}

function requestOf(path: string, more: Partial<ArchiveRequest> = {}): ArchiveRequest {
  return { url: new URL(`${server.base}${path}`), shown: `the archive ${path}`, kind: 'tarball', ...more };
}

let count = 0;
/** Puts a body where nothing was before. */
function serve(body: Buffer | string, headers: Record<string, string> = {}, name = 'x.tar'): string {
  const path = `/${++count}/${name}`;
  server.files.set(path, { body, headers });
  return path;
}

const fetched = (body: Buffer, name?: string) => sourceOf().fetch(requestOf(serve(body, {}, name)));
const listed = async (body: Buffer, name?: string) => entriesOf((await fetched(body, name)).tree);
const asked = (path: string) => server.log.filter(({ url }) => url === path).map(({ status }) => status);

const small = tarOf(
  { path: 'top/', type: '5' },
  { path: 'top/flake.nix', contents: '{ }', modified: 1_700_000_001 },
  { path: 'top/run', contents: '#!', mode: 0o755, modified: 1_700_000_000 },
);
const smallTree = directory({ 'flake.nix': file('{ }'), run: file('#!', true) });

describe('an archive', () => {
  test('is a tree without its top folder, with the newest time in it', async () => {
    const { tree, lastModified, url } = await fetched(small);
    expect(await nodeOf(tree)).toEqual(smallTree);
    expect(tree.narHash).toBe((await hashTree(treeFrom(smallTree))).narHash);
    expect(tree.narSize).toBe(narOf(smallTree).length);
    expect(lastModified).toBe(1_700_000_001);
    expect(url.pathname).toMatch(/x\.tar$/);
  });

  test('may be compressed, and its name does not matter', async () => {
    expect(await listed(gzipSync(small), 'x.zip')).toEqual(['flake.nix', 'run*']);
  });

  test('keeps what lies beside its top folder', async () => {
    expect(await listed(tarOf({ path: 'a/x' }, { path: 'b', contents: 'b' }))).toEqual(['a/', 'a/x', 'b']);
    expect(await listed(tarOf({ path: 'b', contents: 'b' }))).toEqual(['b']);
    expect(await listed(tarOf({ path: 'a', type: '2', target: 'b' }))).toEqual(['a@ -> b']);
  });

  test('may begin with a dot, name no folders, have an empty one, and say things twice', async () => {
    const entries = [
      { path: './', type: '5' },
      { path: './a/b//c', contents: 'old', mode: 0o755 },
      { path: './a/empty', type: '5' },
      { path: './a/empty/', type: '5' },
      { path: './a/b/c', contents: 'new' },
    ];
    const { tree } = await fetched(tarOf(...entries));
    expect(await nodeOf(tree)).toEqual(directory({ b: directory({ c: file('new') }), empty: directory() }));
  });

  test('has hard links as copies of what their target is at the end, with its mode', async () => {
    const archive = tarOf(
      { path: 't/early', type: '1', target: 't/x' },
      { path: 't/x', contents: 'old' },
      { path: 't/link', type: '2', target: 'gone' },
      { path: 't/again', type: '1', target: 't/link' },
      { path: 't/own', type: '1', target: 't/x' },
      { path: 't/own', contents: 'own' },
      { path: 't/x', contents: 'new', mode: 0o755 },
    );
    expect(await nodeOf((await fetched(archive)).tree)).toEqual(
      directory({
        early: file('new', true),
        x: file('new', true),
        link: symlink('gone'),
        again: symlink('gone'),
        own: file('own'),
      }),
    );
  });

  test('takes times from pax headers, without their fraction, and from before 1970', async () => {
    const { lastModified } = await fetched(
      Buffer.concat([
        paxEntry({ path: 'a/x', modified: 7 }, { mtime: '1700000000.987' }),
        paxEntry({ path: 'a/y', modified: 8 }, { mtime: '-5.5' }),
        tarOf(),
      ]),
    );
    expect(lastModified).toBe(1_700_000_000);
    expect((await fetched(tarOf({ path: 'a/x' }))).lastModified).toBe(0);
  });

  test('is executable by its owner’s bit alone', async () => {
    expect(await listed(tarOf({ path: 'a/x', mode: 0o655 }, { path: 'a/y', mode: 0o744 }))).toEqual([
      'x',
      'y*',
    ]);
  });

  test('can be a zip, whose links and modes count where it is called one', async () => {
    const zip = zipOf(
      { path: 'top/run', contents: '#!', mode: 0o100755, deflate: true },
      { path: 'top/link', contents: 'run', mode: 0o120777 },
      { path: 'top/empty/', mode: 0o040755 },
      { path: 'top/dos' },
    );
    expect(await listed(zip, 'x.ZIP')).toEqual(['dos', 'empty/', 'link@ -> run', 'run*']);
    expect(await listed(zip, 'x')).toEqual(['dos', 'empty/', 'link', 'run']);
    expect(await listed(zipOf({ path: 'top\\a' }, { path: 'top\\b\\c' }), 'x.zip')).toEqual([
      'a',
      'b/',
      'b/c',
    ]);
  });

  test('in any order has the hash of the tree that it was made of', async () => {
    const cases = anyNode.filter((node) => node.type === 'directory');
    await fc.assert(
      fc.asyncProperty(cases, fc.infiniteStream(fc.nat()), async (node, random) => {
        const entries = [{ path: 'top/', type: '5' }, ...entriesIn(node, 'top')];
        const shuffled = entries
          .map((entry) => ({ entry, at: random.next().value ?? 0 }))
          .sort((a, b) => a.at - b.at)
          .map(({ entry }) => entry);
        const { tree } = await fetched(tarOf(...shuffled));
        expect(tree.narHash).toBe(narHashOf(sha256(narOf(node))));
        expect(await nodeOf(tree)).toEqual(node);
      }),
      { numRuns: 60 },
    );
  });
});

/** What tar would write of a tree. */
function entriesIn(node: Node, path: string): TarEntry[] {
  if (node.type !== 'directory') return [];
  return [...node.entries].flatMap(([name, child]): TarEntry[] => {
    const at = `${path}/${name}`;
    const bytes = Buffer.from(at, 'latin1');
    if (child.type === 'symlink') return [{ path: bytes, type: '2', target: child.target }];
    if (child.type === 'directory') return [{ path: bytes, type: '5' }, ...entriesIn(child, at)];
    return [{ path: bytes, contents: child.contents, mode: child.executable ? 0o755 : 0o644 }];
  });
}

describe('a single file', () => {
  test('is a tree of one file, whatever it is, and keeps no time', async () => {
    const body = gzipSync('what a file');
    const { tree, lastModified } = await sourceOf().fetch(requestOf(serve(body), { kind: 'file' }));
    expect(await nodeOf(tree)).toEqual(file(body));
    expect(lastModified).toBe(0);
  });

  test('comes out of what the server packed it in', async () => {
    const packed = serve(gzipSync('flow'), { 'content-encoding': 'gzip' });
    expect(await nodeOf((await sourceOf().fetch(requestOf(packed, { kind: 'file' }))).tree)).toEqual(
      file('flow'),
    );
    const strange = serve(brotliCompressSync('flow'), { 'content-encoding': 'br' });
    expect(await errorOf(sourceOf().fetch(requestOf(strange, { kind: 'file' })))).toMatchObject({
      code: 'FLK_HTTP_STATUS',
    });
  });

  test('may be empty', async () => {
    const { tree } = await sourceOf().fetch(requestOf(serve(''), { kind: 'file' }));
    expect(await nodeOf(tree)).toEqual(file(''));
  });
});

/** What a fetch has left behind in the cache. */
const leftIn = (cacheFolder: string): string[] =>
  ['stage', 'archives/trees'].flatMap((folder) => readdirSync(join(cacheFolder, folder)));

/** With one byte changed; `at` may count from the end. */
function damaged(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  const place = at < 0 ? copy.length + at : at;
  copy[place] = copy[place]! ^ 0x55;
  return copy;
}

describe('what no honest archive holds', () => {
  const deep = (names: number) => `top/${'d/'.repeat(names - 1)}f`;
  test.each<[string, string, Buffer]>([
    ['traversal', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a/../../x' })],
    ['an absolute path', 'FLK_ARCHIVE_INVALID', tarOf({ path: '/etc/x' })],
    [
      'an entry below a link',
      'FLK_ARCHIVE_INVALID',
      tarOf({ path: 'a', type: '2', target: '/tmp' }, { path: 'a/x' }),
    ],
    ['an entry below a file', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a' }, { path: 'a/x' })],
    [
      'a link where a file is',
      'FLK_ARCHIVE_INVALID',
      tarOf({ path: 'a' }, { path: 'a', type: '2', target: 'b' }),
    ],
    ['a folder where a file is', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a' }, { path: 'a', type: '5' })],
    ['a file where a folder is', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a', type: '5' }, { path: 'a' })],
    [
      'a hard link where a folder is',
      'FLK_ARCHIVE_INVALID',
      tarOf({ path: 'b' }, { path: 'a', type: '5' }, { path: 'a', type: '1', target: 'b' }),
    ],
    [
      'a hard link out of it',
      'FLK_ARCHIVE_INVALID',
      tarOf({ path: 'a', type: '1', target: '../etc/passwd' }),
    ],
    ['a hard link to nothing', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a', type: '1', target: 'b' })],
    [
      'a hard link to a folder',
      'FLK_ARCHIVE_INVALID',
      tarOf({ path: 'b/', type: '5' }, { path: 'a', type: '1', target: 'b' }),
    ],
    [
      'hard links in a circle',
      'FLK_ARCHIVE_INVALID',
      tarOf({ path: 'a', type: '1', target: 'b' }, { path: 'b', type: '1', target: 'a' }),
    ],
    ['a device', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a', type: '3' })],
    ['a pipe', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a', type: '6' })],
    ['a sparse file', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a', type: 'S' })],
    ['a long name', 'FLK_ARCHIVE_INVALID', Buffer.concat([paxEntry({ path: 'n'.repeat(256) }), tarOf()])],
    [
      'a long link',
      'FLK_ARCHIVE_INVALID',
      Buffer.concat([paxEntry({ path: 'a', type: '2', target: 'n'.repeat(4096) }), tarOf()]),
    ],
    ['an empty link', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a', type: '2' })],
    ['a file as its top', 'FLK_ARCHIVE_INVALID', tarOf({ path: './', contents: 'x' })],
    ['a folder with content', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a/', contents: 'x' })],
    ['a repository', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a/.git/config' })],
    ['a repository for Windows', 'FLK_ARCHIVE_INVALID', tarOf({ path: 'a/GIT~1 ./config' })],
    ['64 names', 'FLK_LIMIT', Buffer.concat([paxEntry({ path: deep(64) }), tarOf()])],
    ['text', 'FLK_ARCHIVE_INVALID', Buffer.from('<html>'.repeat(200))],
    ['a Debian package', 'FLK_ARCHIVE_INVALID', Buffer.from(`!<arch>\n${'x'.repeat(600)}`)],
    ['damage', 'FLK_ARCHIVE_INVALID', damaged(gzipSync(small), 40)],
    ['a wrong checksum of gzip', 'FLK_ARCHIVE_INVALID', damaged(gzipSync(small), -6)],
  ])('%s is %s', async (_, code, body) => {
    const cacheFolder = temporaryFolder();
    const before = server.log.length;
    const request = requestOf(serve(body));
    const error = await errorOf(sourceOf({ cacheFolder }).fetch(request));
    expect(error).toMatchObject({ code, trail: [request.shown] });
    expect(server.log.length - before).toBe(1);
    expect(leftIn(cacheFolder)).toEqual([]);
  });

  test('63 names are enough', async () => {
    const paths = await listed(Buffer.concat([paxEntry({ path: deep(63) }), tarOf()]));
    expect(paths.at(-1)?.split('/')).toHaveLength(63);
  });

  test('names that differ in case are different names', async () => {
    expect(await listed(tarOf({ path: 't/x' }, { path: 't/X' }))).toEqual(['X', 'x']);
  });

  test('a bomb goes off outside', async () => {
    const limits = { bytes: 64 * 2 ** 20, entries: 1000, ratio: 100, freeBytes: 2 ** 20 };
    const bomb = gzipSync(tarOf({ path: 'zeros', contents: Buffer.alloc(4 * 2 ** 20) }));
    const cacheFolder = temporaryFolder();
    const error = await errorOf(sourceOf({ cacheFolder, limits }).fetch(requestOf(serve(bomb))));
    expect(error).toMatchObject({ code: 'FLK_LIMIT', facts: { packed: String(bomb.length) } });
    expect(leftIn(cacheFolder)).toEqual([]);
    // The same bytes in a zip, where entries are unpacked one by one.
    const zip = zipOf({ path: 'zeros', contents: Buffer.alloc(4 * 2 ** 20), deflate: true });
    expect(await errorOf(sourceOf({ limits }).fetch(requestOf(serve(zip))))).toMatchObject({
      code: 'FLK_LIMIT',
    });
  });

  test('hard links count with what they lead to', async () => {
    const limits = { bytes: 2 ** 20, entries: 1000, ratio: 1000, freeBytes: 2 ** 20 };
    const links = Array.from({ length: 20 }, (_, i) => ({ path: `l${i}`, type: '1', target: 'x' }));
    const archive = tarOf({ path: 'x', contents: Buffer.alloc(60_000) }, ...links);
    expect(await errorOf(sourceOf({ limits }).fetch(requestOf(serve(archive))))).toMatchObject({
      code: 'FLK_LIMIT',
    });
  });

  test('entries, bytes and the download itself have their limits', async () => {
    const limits = { bytes: 2 ** 16, entries: 10, ratio: 1000, freeBytes: 2 ** 20 };
    const many = tarOf(...Array.from({ length: 11 }, (_, i) => ({ path: `x${i}` })));
    const big = tarOf({ path: 'x', contents: Buffer.alloc(2 ** 16) });
    for (const body of [many, gzipSync(many), big, gzipSync(big)])
      expect(await errorOf(sourceOf({ limits }).fetch(requestOf(serve(body))))).toMatchObject({
        code: 'FLK_LIMIT',
      });
    expect(
      await errorOf(sourceOf({ limits }).fetch(requestOf(serve(Buffer.alloc(2 ** 17)), { kind: 'file' }))),
    ).toMatchObject({ code: 'FLK_LIMIT' });
  });
});

describe('a body that is cut off', () => {
  const cutAt: [string, Buffer][] = [
    ['in its gzip', gzipSync(small).subarray(0, -9)],
    ['in a file', small.subarray(0, 1030)],
    ['before its end', small.subarray(0, -1024)],
  ];
  test.each(cutAt)('%s is tried again, and is never a tree', async (_, body) => {
    // No length: only the archive itself can tell.
    const path = `/${++count}/x.tar`;
    let times = 0;
    server.files.set(path, {
      answer: (_request, response) => {
        times++;
        response.writeHead(200, { connection: 'close' });
        response.end(times === 1 ? body : small);
      },
    });
    expect(await nodeOf((await sourceOf().fetch(requestOf(path))).tree)).toEqual(smallTree);
    expect(times).toBe(2);
  });

  test('by a broken connection is tried again', async () => {
    const path = `/${++count}/x.tar`;
    let times = 0;
    server.files.set(path, {
      answer: (_request, response) => {
        response.writeHead(200, { 'content-length': small.length });
        if (++times > 1) response.end(small);
        else response.write(small.subarray(0, 700), () => response.destroy());
      },
    });
    expect(await nodeOf((await sourceOf().fetch(requestOf(path))).tree)).toEqual(smallTree);
    expect(times).toBe(2);
  });
});

describe('the cache', () => {
  test('answers one question once, also when it is asked by many at the same time', async () => {
    const path = serve(small);
    const source = sourceOf();
    const answers = await Promise.all([1, 2, 3].map(() => source.fetch(requestOf(path))));
    expect(new Set(answers.map(({ tree }) => tree.narHash)).size).toBe(1);
    expect(asked(path)).toEqual([200]);
  });

  test('asks again under a condition, and moves no bytes where nothing changed', async () => {
    const cacheFolder = temporaryFolder();
    const path = serve(small, { etag: '"one"' });
    const first = await sourceOf({ cacheFolder }).fetch(requestOf(path));
    const second = await sourceOf({ cacheFolder }).fetch(requestOf(path));
    expect(second).toMatchObject({ lastModified: first.lastModified, tree: { narHash: first.tree.narHash } });
    expect(asked(path)).toEqual([200, 304]);
    server.files.set(path, { body: tarOf({ path: 'a/new' }), headers: { etag: '"two"' } });
    expect(await entriesOf((await sourceOf({ cacheFolder }).fetch(requestOf(path))).tree)).toEqual(['new']);
    expect(asked(path)).toEqual([200, 304, 200]);
  });

  test('asks by time where the server names no tag', async () => {
    const cacheFolder = temporaryFolder();
    const date = 'Tue, 14 Nov 2023 22:13:20 GMT';
    const path = serve(small, { 'last-modified': date });
    await sourceOf({ cacheFolder }).fetch(requestOf(path));
    await sourceOf({ cacheFolder }).fetch(requestOf(path));
    expect(
      server.log.filter(({ url }) => url === path).map(({ headers }) => headers['if-modified-since']),
    ).toEqual([undefined, date]);
  });

  test('asks nobody while an answer is young, unless told to', async () => {
    const cacheFolder = temporaryFolder();
    const path = serve(small);
    await sourceOf({ cacheFolder, refTtl: 60 }).fetch(requestOf(path));
    await sourceOf({ cacheFolder, refTtl: 60 }).fetch(requestOf(path));
    expect(asked(path)).toEqual([200]);
    await sourceOf({ cacheFolder, refTtl: 60, refresh: true }).fetch(requestOf(path));
    expect(asked(path)).toEqual([200, 200]);
  });

  test('never asks again for what has a name for ever', async () => {
    const cacheFolder = temporaryFolder();
    const path = serve(small);
    const request = requestOf(path, { identity: 'forge:owner/repo/rev' });
    await sourceOf({ cacheFolder }).fetch(request);
    const elsewhere = requestOf('/another', { identity: 'forge:owner/repo/rev' });
    const { tree } = await sourceOf({ cacheFolder, refresh: true }).fetch(elsewhere);
    expect(await nodeOf(tree)).toEqual(smallTree);
    expect(asked(path)).toEqual([200]);
    expect(asked('/another')).toEqual([]);
  });

  test('gives what it has when offline, and refuses the rest', async () => {
    const cacheFolder = temporaryFolder();
    const path = serve(small);
    await sourceOf({ cacheFolder }).fetch(requestOf(path));
    const { tree } = await sourceOf({ cacheFolder, offline: true }).fetch(requestOf(path));
    expect(await nodeOf(tree)).toEqual(smallTree);
    expect(asked(path)).toEqual([200]);
    expect(
      await errorOf(sourceOf({ cacheFolder, offline: true }).fetch(requestOf(`${path}?other`))),
    ).toMatchObject({ code: 'FLK_OFFLINE' });
  });

  test('knows trees by their hash, and one tree once', async () => {
    const cacheFolder = temporaryFolder();
    const source = sourceOf({ cacheFolder });
    const { tree } = await source.fetch(requestOf(serve(small)));
    await source.fetch(
      requestOf(
        serve(
          gzipSync(
            tarOf(
              { path: 'other/run', contents: '#!', mode: 0o755 },
              { path: 'other/flake.nix', contents: '{ }' },
            ),
          ),
        ),
      ),
    );
    expect(readdirSync(join(cacheFolder, 'archives/trees')).sort()).toHaveLength(2);
    const known = await sourceOf({ cacheFolder }).byHash(tree.narHash);
    expect(await nodeOf(known!)).toEqual(smallTree);
    expect(await source.byHash(narHashOf(sha256('else')) as NarHash)).toBeUndefined();
  });

  test('loses what a killed process was writing, not what a living one is', async () => {
    const cacheFolder = temporaryFolder();
    mkdirSync(join(cacheFolder, 'stage'));
    const own = `${process.pid}-${await startTime(process.pid)}-ab.tree`;
    for (const name of ['4194304-12345-ab.tree', '4194304-12345-ab.zip', own])
      writeFileSync(join(cacheFolder, 'stage', name), 'half');
    await sourceOf({ cacheFolder }).fetch(requestOf(serve(small)));
    expect(readdirSync(join(cacheFolder, 'stage'))).toEqual([own]);
  });

  test('reads files of a tree, the flake’s own without reading anything else', async () => {
    const cacheFolder = temporaryFolder();
    const { tree } = await sourceOf({ cacheFolder }).fetch(requestOf(serve(small)));
    expect((await tree.readFile('run'))?.toString()).toBe('#!');
    expect(await tree.readFile('gone')).toBeUndefined();
    writeFileSync(treeFile(cacheFolder), Buffer.alloc(statSync(treeFile(cacheFolder)).size));
    expect((await tree.readFile('flake.nix'))?.toString()).toBe('{ }');
    expect(await tree.readFile('flake.lock')).toBeUndefined();
  });

  test.each([
    ['bytes', (bytes: Buffer) => damaged(bytes, 0)],
    ['places', (bytes: Buffer) => damaged(bytes, -3)],
  ])('finds out damage to its %s, and fetches again', async (_, damage) => {
    const cacheFolder = temporaryFolder();
    const path = serve(small, { etag: '"one"' });
    const { tree } = await sourceOf({ cacheFolder }).fetch(requestOf(path));
    writeFileSync(treeFile(cacheFolder), damage(readFileSync(treeFile(cacheFolder))));
    expect(await errorOf(nodeOf(tree))).toMatchObject({ code: 'FLK_ARCHIVE_INVALID' });
    expect(await nodeOf((await sourceOf({ cacheFolder }).fetch(requestOf(path))).tree)).toEqual(smallTree);
    expect(asked(path)).toEqual([200, 200]);
  });

  test('takes an entry that is cut off, or gone, for none', async () => {
    const cacheFolder = temporaryFolder();
    const path = serve(small);
    const { tree } = await sourceOf({ cacheFolder }).fetch(requestOf(path, { identity: 'x' }));
    writeFileSync(treeFile(cacheFolder), '');
    expect(await sourceOf({ cacheFolder }).byHash(tree.narHash)).toBeUndefined();
    expect(await errorOf(nodeOf(tree))).toMatchObject({ code: 'FLK_ARCHIVE_INVALID' });
    await sourceOf({ cacheFolder }).fetch(requestOf(path, { identity: 'x' }));
    expect(asked(path)).toEqual([200, 200]);
  });
});

/** The one tree's file in a cache. */
function treeFile(cacheFolder: string): string {
  const folder = join(cacheFolder, 'archives/trees');
  return join(folder, readdirSync(folder).find((name) => name.endsWith('.tree'))!);
}

describe('servers', () => {
  test('may redirect, and name an immutable URL; own headers stay with their host', async () => {
    const other = await fileServer();
    other.files.set('/there.tar', {
      body: small,
      headers: {
        link: `<https://flk.example/next>; rel="next", <https://flk.example/x.tar.gz?rev=1>; rel="immutable"`,
      },
    });
    const path = `/${++count}/x.tar`;
    server.files.set(path, { status: 302, headers: { location: `${other.base}/there.tar` } });
    const request = requestOf(path, { headers: { authorization: 'Bearer secret' } });
    const answer = await sourceOf().fetch(request);
    expect(answer.url.href).toBe(`${other.base}/there.tar`);
    expect(answer.immutableUrl).toBe('https://flk.example/x.tar.gz?rev=1');
    expect(server.log.at(-1)?.headers.authorization).toBe('Bearer secret');
    expect(other.log.map(({ headers }) => headers.authorization)).toEqual([undefined]);
  });

  test('of objects name it in a header of their own; other links are nobody’s', async () => {
    const url = 'https://flk.example/x.tar';
    const own = serve(small, { 'x-amz-meta-link': `<${url}>; rel="immutable"` });
    expect((await sourceOf().fetch(requestOf(own))).immutableUrl).toBe(url);
    const others = serve(small, { link: `<${url}>; rel="canonical", <${url}>; rel="not-immutable"` });
    expect((await sourceOf().fetch(requestOf(others))).immutableUrl).toBeUndefined();
  });

  test('errors name the status, not what was in the query', async () => {
    const error = await errorOf(sourceOf().fetch(requestOf('/nothing?token=secret')));
    expect(error).toMatchObject({ code: 'FLK_HTTP_STATUS', facts: { status: '404' } });
    expect(JSON.stringify([error.message, error.facts, error.hint])).not.toContain('secret');
  });

  test('that were not asked under a condition cannot answer that nothing changed', async () => {
    const path = `/${++count}/x.tar`;
    server.files.set(path, { status: 304 });
    expect(await errorOf(sourceOf().fetch(requestOf(path)))).toMatchObject({ code: 'FLK_HTTP_STATUS' });
  });

  test('tell of progress in bytes as they came', async () => {
    events.length = 0;
    const packed = gzipSync(small);
    await fetched(packed);
    expect(events.map(({ kind }) => kind)).toEqual(['start', 'progress', 'end']);
    expect(events[1]).toMatchObject({ done: packed.length, total: packed.length, unit: 'bytes' });
  });

  test('that never end can be left', async () => {
    const control = new AbortController();
    const path = `/${++count}/x.tar`;
    server.files.set(path, {
      answer: (_request, response) => {
        response.writeHead(200);
        response.write(small.subarray(0, 512), () => control.abort());
      },
    });
    const error = await errorOf(sourceOf({ signal: control.signal }).fetch(requestOf(path)));
    expect(error).toMatchObject({ code: 'FLK_INTERRUPTED' });
  });
});

describe('a file of this machine', () => {
  const at = (path: string): ArchiveRequest => ({
    url: new URL(`file://${path}`),
    shown: path,
    kind: 'tarball',
  });

  test('is read once, and again when it changed, also offline', async () => {
    const cacheFolder = temporaryFolder();
    const path = join(temporaryFolder(), 'x.tar');
    writeFileSync(path, small);
    expect(await nodeOf((await sourceOf({ cacheFolder }).fetch(at(path))).tree)).toEqual(smallTree);
    events.length = 0;
    await sourceOf({ cacheFolder, offline: true }).fetch(at(path));
    expect(events.at(-1)).toMatchObject({ kind: 'end', outcome: 'cached' });
    writeFileSync(path, tarOf({ path: 'a/new' }));
    expect(await entriesOf((await sourceOf({ cacheFolder, offline: true }).fetch(at(path))).tree)).toEqual([
      'new',
    ]);
  });

  test('must be there, be a file, and be whole', async () => {
    const folder = temporaryFolder();
    expect(await errorOf(sourceOf().fetch(at(join(folder, 'gone'))))).toMatchObject({
      code: 'FLK_FILE_UNREADABLE',
    });
    expect(await errorOf(sourceOf().fetch(at(folder)))).toMatchObject({ code: 'FLK_FILE_UNREADABLE' });
    writeFileSync(join(folder, 'cut.tar'), Buffer.concat([tarEntry({ path: 'a' })]));
    events.length = 0;
    expect(await errorOf(sourceOf().fetch(at(join(folder, 'cut.tar'))))).toMatchObject({
      code: 'FLK_ARCHIVE_INVALID',
    });
    expect(events.filter(({ kind }) => kind === 'notice')).toEqual([]);
  });
});
