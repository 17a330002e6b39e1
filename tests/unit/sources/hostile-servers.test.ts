/** Servers that lie, stall or point elsewhere. */
import { createServer, type Server, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { redactUrls } from '../../../src/base/errors.ts';
import { silent } from '../../../src/base/events.ts';
import { parseFlakeRef } from '../../../src/flake/flake-ref.ts';
import { flushPacket, textPacket } from '../../../src/formats/pkt-line.ts';
import { ArchiveSource } from '../../../src/sources/archive-source.ts';
import { openUrl } from '../../../src/sources/download.ts';
import { GitSource } from '../../../src/sources/git.ts';
import { HttpClient, readBody } from '../../../src/sources/http.ts';
import { Sources } from '../../../src/sources/source.ts';
import { tarOf } from '../../support/archives.ts';
import { errorOf } from '../../support/errors.ts';
import { fileServer } from '../../support/file-server.ts';
import { temporaryFolder } from '../../support/temp.ts';

const server = await fileServer();
const body = gzipSync(tarOf({ path: 'top/flake.nix', contents: '{ }', modified: 1_700_000_000 }));
const otherBody = gzipSync(tarOf({ path: 'top/flake.nix', contents: '{ a = 1; }', modified: 1_700_000_000 }));

const sources = (cacheFolder = temporaryFolder()): Sources => new Sources({ cacheFolder, reporter: silent });

describe('a redirect is refused', () => {
  test.each([
    'file:///etc/passwd',
    'ftp://127.0.0.1/x',
    'data:text/plain,x',
    'javascript:1',
    'http://',
    'git+ssh://-oProxyCommand=x/y',
  ])('to %s', async (location) => {
    server.files.set('/away', { status: 302, headers: { location } });
    const error = await errorOf(sources().fetch(parseFlakeRef(`${server.base}/away`)));
    expect(error.code).toBe('FLK_HTTP_STATUS');
  });
});

describe('an immutable URL is refused that', () => {
  test.each([
    ['is a file of this machine', 'file:///etc/passwd.tar.gz', 'FLK_REF_UNSUPPORTED'],
    ['is a folder', 'path:/etc', 'FLK_REF_UNSUPPORTED'],
    ['is a repository', 'git+https://flk.example/x', 'FLK_REF_UNSUPPORTED'],
    ['holds a password', 'https://user:secret@flk.example/x.tar.gz', 'FLK_REF_CREDENTIALS'],
    ['is none', 'https://flk.example/x y', 'FLK_REF_INVALID'],
  ])('%s', async (_, url, code) => {
    server.files.set('/pinned.tar.gz', { body, headers: { link: `<${url}>; rel="immutable"` } });
    const error = await errorOf(sources().fetch(parseFlakeRef(`${server.base}/pinned.tar.gz`)));
    expect(error.code).toBe(code);
    expect(JSON.stringify(error)).not.toContain('secret');
  });
});

test('what a server once gave under a name does not stand against a lock: the lock’s hash decides', async () => {
  const cacheFolder = temporaryFolder();
  const archives = (): ArchiveSource =>
    new ArchiveSource({ cacheFolder, client: new HttpClient(), reporter: silent });
  const request = {
    url: new URL(`${server.base}/named.tar.gz`),
    shown: 'the archive',
    identity: 'github:flk.example/a/b/REV',
    kind: 'tarball',
  } as const;
  server.files.set('/named.tar.gz', { body, headers: { etag: '"same"' } });
  const honest = (await archives().fetch(request)).tree.narHash;
  server.files.set('/named.tar.gz', { body: otherBody, headers: { etag: '"same"' } });
  const elsewhere = temporaryFolder();
  const poisoned = new ArchiveSource({ cacheFolder: elsewhere, client: new HttpClient(), reporter: silent });
  expect((await poisoned.fetch(request)).tree.narHash).not.toBe(honest);
  server.files.set('/named.tar.gz', { body, headers: { etag: '"same"' } });
  const mended = new ArchiveSource({ cacheFolder: elsewhere, client: new HttpClient(), reporter: silent });
  expect((await mended.fetch({ ...request, narHash: honest })).tree.narHash).toBe(honest);
});

test.each([
  'refs/heads/\u001b[2Jx',
  'refs/heads/../../x',
  '--upload-pack=x',
  `refs/heads/${'x'.repeat(2000)}`,
])('a branch called %j does not get into a lock', async (target) => {
  const answer = Buffer.concat([textPacket(`${'a'.repeat(40)} HEAD symref-target:${target}`), flushPacket]);
  server.files.set('/head/git-upload-pack', {
    body: answer,
    headers: { 'content-type': 'application/x-git-upload-pack-result' },
  });
  const before = server.log.length;
  const git = new GitSource({ cacheFolder: temporaryFolder(), reporter: silent, revCount: false });
  const error = await errorOf(git.fetch({ type: 'git', url: `${server.base}/head` }));
  expect(error.code).toBe('FLK_GIT_PROTOCOL');
  expect(error.message + JSON.stringify(error.facts)).not.toContain('\u001b');
  // Its commit is not even asked for.
  expect(server.log.length - before).toBe(1);
});

/** Closed at the end. `talk` may go on until it returns false. */
async function rawServer(first: string, more: string): Promise<string> {
  const sockets = new Set<Socket>();
  const raw: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.write(first);
    const timer = setInterval(() => socket.write(more), 5);
    socket.on('close', () => clearInterval(timer));
  });
  await new Promise<void>((resolve) => raw.listen(0, '127.0.0.1', resolve));
  afterAll(() => {
    for (const socket of sockets) socket.destroy();
    raw.close();
  });
  const address = raw.address();
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/`;
}

describe('a server is left that', () => {
  test.each([
    ['sends its head byte by byte', 'HTTP/1.1 200 OK\r\nx: ', 'a', 'FLK_NETWORK'],
    ['says for ever that it goes on', '', 'HTTP/1.1 103 Early Hints\r\n\r\n', 'FLK_NETWORK'],
    ['sends header after header', 'HTTP/1.1 200 OK\r\n', `x-more: ${'a'.repeat(4000)}\r\n`, 'FLK_NETWORK'],
    ['sends its body byte by byte', 'HTTP/1.1 200 OK\r\n\r\n', 'a', 'FLK_NETWORK'],
    ['does not stop', 'HTTP/1.1 200 OK\r\n\r\n', 'a'.repeat(8192), 'FLK_LIMIT'],
    ['is no web server', 'SSH-2.0-x\r\n', 'a', 'FLK_NETWORK'],
    ['lies about its length', 'HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n', 'a', 'FLK_NETWORK'],
  ])('%s', async (_, first, more, code) => {
    const url = new URL(await rawServer(first, more));
    const client = new HttpClient({ connectTimeout: 100, idleTimeout: 100 });
    const asked = openUrl(client, { url }).then(({ response }) => readBody(response, url, 100_000));
    expect((await errorOf(asked)).code).toBe(code);
  });
});

test('secrets are looked for in long texts without a scheme as fast as they were written', () => {
  expect(redactUrls('https://user:p@ss@host/ git+https://a@b/c@d')).toBe(
    'https://***@host/ git+https://***@b/c@d',
  );
  expect(redactUrls(`${'a.'.repeat(1_000_000)} https://user:secret@host/`)).toMatch(
    /a\. https:\/\/\*\*\*@host\/$/,
  );
});
