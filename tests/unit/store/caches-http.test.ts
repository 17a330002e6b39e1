import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import type { HttpCredentials } from '../../../src/sources/http.ts';
import { forgetful, openAnswers } from '../../../src/store/caches/answers.ts';
import { pushPaths } from '../../../src/store/caches/push.ts';
import { type FilledCache, filledCache, httpCache, taking } from '../../support/caches.ts';
import { errorOf, withCode } from '../../support/errors.ts';
import { type CacheFolderServer, serveFolder } from '../../support/folder-server.ts';
import { temporaryFolder } from '../../support/temp.ts';

interface Served extends FilledCache {
  readonly server: CacheFolderServer;
}

async function served(): Promise<Served> {
  const filled = await filledCache();
  return { ...filled, server: await serveFolder(filled.folder) };
}

const isArchive = (url: string | undefined): boolean => url?.startsWith('/nar/') === true;
const asked = ({ log }: CacheFolderServer): string[] => log.map(({ method, url }) => `${method} ${url}`);

describe('taking from a server', () => {
  it('asks for the narinfos, then for each archive once', async () => {
    const { server, publicKey, paths } = await served();
    const { substituter, store } = await taking([httpCache(server.base)], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.app.path)).toBe(true);
    for (const { path } of Object.values(paths)) await store.verifyPath(path);
    const urls = asked(server);
    expect(new Set(urls).size).toBe(urls.length);
    expect(urls[0]).toBe('GET /nix-cache-info');
    expect(urls.filter((url) => url.endsWith('.narinfo'))).toHaveLength(3);
    expect(urls.filter((url) => url.startsWith('GET /nar/'))).toHaveLength(3);
  });

  it('goes on where a connection broke', async () => {
    const { server, publicKey, paths } = await served();
    let breaks = 0;
    server.fault = (request, response, body) => {
      if (!isArchive(request.url) || body.length < 100_000 || breaks >= 2) return false;
      breaks++;
      const start = Number(/\d+/.exec(request.headers.range ?? '0')?.[0]);
      response.writeHead(start === 0 ? 200 : 206, {
        'content-length': body.length - start,
        'content-range': `bytes ${start}-${body.length - 1}/${body.length}`,
      });
      response.write(body.subarray(start, start + 50_000), () => response.destroy());
      return true;
    };
    const { substituter, store } = await taking([httpCache(server.base)], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.lib.path)).toBe(true);
    await store.verifyPath(paths.lib.path);
    const ranges = server.log.filter(({ url }) => isArchive(url)).map(({ headers }) => headers.range);
    expect(ranges).toHaveLength(3);
    expect(ranges[0]).toBeUndefined();
    expect(ranges[2]).toMatch(/^bytes=[1-9]\d*-$/);
  });

  it('goes on in a large archive, however much of it is left', async () => {
    const folder = temporaryFolder();
    const large = randomBytes(45_000_000);
    mkdirSync(join(folder, 'nar'));
    writeFileSync(join(folder, 'nar/large.nar'), large);
    const server = await serveFolder(folder);
    server.fault = (request, response) => {
      const start = Number(/\d+/.exec(request.headers.range ?? '0')?.[0]);
      if (start > 30_000_000) return false;
      const range = `bytes ${start}-${large.length - 1}/${large.length}`;
      const length = large.length - start;
      response.writeHead(start === 0 ? 200 : 206, { 'content-length': length, 'content-range': range });
      response.write(large.subarray(start, start + 20_000_000), () => response.destroy());
      return true;
    };
    const hash = createHash('sha256');
    for await (const chunk of (await httpCache(server.base).nar({ url: 'nar/large.nar' })) ?? [])
      hash.update(chunk);
    expect(hash.digest('hex')).toBe(createHash('sha256').update(large).digest('hex'));
    // It is written when an answer is closed there.
    await expect.poll(() => server.log.length).toBeGreaterThanOrEqual(3);
  });

  it('begins anew with a server that knows no ranges, and gives the same bytes', async () => {
    const { server, publicKey, paths } = await served();
    server.ranges = false;
    let breaks = 0;
    server.fault = (request, response, body) => {
      if (!isArchive(request.url) || breaks++ > 0) return false;
      response.writeHead(200, { 'content-length': body.length });
      response.write(body.subarray(0, 70_000), () => response.destroy());
      return true;
    };
    const { substituter, store } = await taking([httpCache(server.base)], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.lib.path)).toBe(true);
    await store.verifyPath(paths.lib.path);
    expect(server.log.filter(({ url }) => isArchive(url)).map(({ status }) => status)).toEqual([200, 200]);
  });

  it('gives a server up that never gets any further', async () => {
    const { server, publicKey, paths } = await served();
    server.fault = (request, response, body) => {
      if (!isArchive(request.url)) return false;
      response.writeHead(200, { 'content-length': body.length });
      response.write(body.subarray(0, 10), () => response.destroy());
      return true;
    };
    const { substituter, store, notices } = await taking([httpCache(server.base)], {
      publicKeys: [publicKey],
    });
    expect(await substituter.substitute(paths.lib.path)).toBe(false);
    expect(notices().filter((type) => type === 'cache-unreachable')).toHaveLength(1);
    expect(server.log.length).toBeLessThan(30);
    expect(store.paths()).toEqual([]);
  });

  it('gives a silent server up', async () => {
    const { server, publicKey, paths } = await served();
    server.fault = (request, response, body) => {
      if (!isArchive(request.url)) return false;
      response.writeHead(200, { 'content-length': body.length });
      response.write(body.subarray(0, 10));
      return true;
    };
    const cache = httpCache(server.base, { idleTimeout: 50 });
    const { substituter, notices } = await taking([cache], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.lib.path)).toBe(false);
    expect(notices()).toContain('cache-unreachable');
  });

  it.each(['xz', 'none'] as const)('stops an archive that never ends (%s)', async (packing) => {
    const filled = await filledCache(packing);
    const server = await serveFolder(filled.folder);
    let sent = 0;
    server.fault = (request, response, body) => {
      if (!isArchive(request.url)) return false;
      response.writeHead(200);
      response.write(body);
      const more = (): void => {
        sent += 65536;
        if (!response.destroyed) response.write(Buffer.alloc(65536), more);
      };
      more();
      return true;
    };
    const { substituter } = await taking([httpCache(server.base)], { publicKeys: [filled.publicKey] });
    const error = await errorOf(substituter.substitute(filled.paths.lib.path));
    expect(error.code).toBe('FLK_CACHE_INVALID');
    // What lay in buffers between the two.
    expect(sent).toBeLessThan(20 * 2 ** 20);
  });

  it('refuses an answer that is another part, or packed in a way nobody asked for', async () => {
    const { server, publicKey, paths } = await served();
    let count = 0;
    server.fault = (request, response, body) => {
      if (!isArchive(request.url)) return false;
      if (count++ === 0) {
        response.writeHead(200, { 'content-length': body.length });
        response.write(body.subarray(0, 50_000), () => response.destroy());
      } else response.writeHead(206, { 'content-range': `bytes 5-9/${body.length}` }).end('abcde');
      return true;
    };
    const one = await taking([httpCache(server.base)], { publicKeys: [publicKey] });
    expect((await errorOf(one.substituter.substitute(paths.lib.path))).message).toContain('another part');
    server.fault = (_, response) => {
      response.writeHead(200, { 'content-encoding': 'br' }).end('x');
      return true;
    };
    const two = httpCache(server.base).info();
    expect((await errorOf(two)).facts.found).toBe('Content-Encoding: br');
  });

  it('takes no more of a narinfo than one may have', async () => {
    const { server, paths } = await served();
    server.fault = (request, response) => {
      if (!request.url?.endsWith('.narinfo')) return false;
      response.writeHead(200);
      const more = (): void => {
        if (!response.destroyed) response.write('X: y\n'.repeat(20_000), more);
      };
      more();
      return true;
    };
    const { substituter } = await taking([httpCache(server.base)]);
    await expect(substituter.substitute(paths.app.path)).rejects.toEqual(withCode('FLK_CACHE_INVALID'));
  });

  it.each([
    ['answers 500', 500],
    ['wants a login', 401],
  ])('leaves a server alone that %s, with one notice', async (_, status) => {
    const { server, publicKey, paths, cache } = await served();
    server.fault = (request, response) => {
      if (!request.url?.endsWith('.narinfo')) return false;
      response.writeHead(status).end();
      return true;
    };
    const { substituter, notices } = await taking([httpCache(server.base)], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.app.path)).toBe(false);
    expect(await substituter.substitute(paths.lib.path)).toBe(false);
    expect(notices()).toEqual(['cache-unreachable']);
    const both = await taking([httpCache(server.base), cache], { publicKeys: [publicKey] });
    expect(await both.substituter.substitute(paths.app.path)).toBe(true);
  });

  it('asks nobody when it is offline, or nobody is there', async () => {
    const { server, publicKey, paths } = await served();
    const offline = await taking([httpCache(server.base, { offline: true })], { publicKeys: [publicKey] });
    await expect(offline.substituter.require(paths.app.path)).rejects.toEqual(withCode('FLK_OFFLINE'));
    expect(server.log).toEqual([]);
    await server.close();
    const gone = await taking([httpCache(server.base)], { publicKeys: [publicKey] });
    await expect(gone.substituter.require(paths.app.path)).rejects.toEqual(withCode('FLK_NETWORK'));
    expect(gone.notices()).toEqual(['cache-unreachable']);
  });

  it('sends a login to the server that it is for, and nowhere else', async () => {
    const { server, folder, publicKey, paths } = await served();
    const elsewhere = await serveFolder(folder);
    const credentials: HttpCredentials = { headers: async () => ({ authorization: 'Basic c2VjcmV0' }) };
    server.fault = (request, response) => {
      if (request.headers.authorization !== 'Basic c2VjcmV0') response.writeHead(401).end();
      else if (isArchive(request.url))
        response.writeHead(302, { location: `${elsewhere.base}${request.url}` }).end();
      else return false;
      return true;
    };
    const cache = httpCache(server.base, { credentials });
    const { substituter } = await taking([cache], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.lib.path)).toBe(true);
    expect(elsewhere.log.map(({ headers }) => headers.authorization)).toEqual([undefined]);
  });

  it('ends when it is interrupted', async () => {
    const { server, publicKey, paths } = await served();
    const controller = new AbortController();
    server.fault = (request, response, body) => {
      if (!isArchive(request.url)) return false;
      response.writeHead(200, { 'content-length': body.length }).write(body.subarray(0, 10));
      setTimeout(() => controller.abort(), 10);
      return true;
    };
    const { signal } = controller;
    const cache = httpCache(server.base, { signal });
    const { substituter, store } = await taking([cache], { publicKeys: [publicKey], signal });
    await expect(substituter.substitute(paths.lib.path)).rejects.toEqual(withCode('FLK_INTERRUPTED'));
    expect(readdirSync(join(store.root, 'nix/var/flk/stage'))).toEqual([]);
  });
});

describe('answers of servers', () => {
  const day = 86_400;
  const lifetimes = { positive: 30 * day, negative: 3600 };

  it('are remembered, yes and no, until they are asked for anew', async () => {
    const { server, publicKey, paths } = await served();
    const file = join(temporaryFolder(), 'deep/answers');
    const ask = async (options = {}): Promise<number> => {
      server.log.length = 0;
      const answers = await openAnswers(file, { ...lifetimes, ...options });
      const { substituter } = await taking([httpCache(server.base)], { publicKeys: [publicKey], answers });
      const other = '/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1' as typeof paths.app.path;
      expect((await substituter.offers([paths.app.path, other])).size).toBe(1);
      answers.close();
      return server.log.length;
    };
    expect(await ask()).toBe(3);
    expect(await ask()).toBe(0);
    expect(await ask({ negative: -1 })).toBe(1);
    expect(await ask({ positive: -1 })).toBe(1);
  });

  it('from before do not count with --refresh', async () => {
    const { cache, paths } = await served();
    const file = join(temporaryFolder(), 'answers');
    const first = await openAnswers(file, lifetimes);
    first.setNarInfo('http://h', paths.app.path, null);
    first.setNarInfo('http://h', paths.lib.path, (await cache.narInfo(paths.lib.path))!);
    for (const path of [paths.app.path, paths.lib.path])
      expect(first.narInfo('http://h', path)).not.toBeUndefined();
    first.close();
    const { default: Database } = await import('libsql');
    const connection = new Database(file);
    connection.exec('UPDATE narinfos SET time = time - 10');
    connection.close();
    const again = await openAnswers(file, lifetimes);
    const refreshed = await openAnswers(file, { ...lifetimes, refresh: true });
    for (const path of [paths.app.path, paths.lib.path]) {
      expect(again.narInfo('http://h', path)).not.toBeUndefined();
      expect(refreshed.narInfo('http://h', path)).toBeUndefined();
    }
    expect(again.narInfo('http://other', paths.app.path)).toBeUndefined();
    again.close();
    refreshed.close();
  });

  it('of a path that has moved within its cache are asked for once more', async () => {
    const { server, folder, cache, store, key, publicKey, paths } = await served();
    const file = join(temporaryFolder(), 'answers');
    const answers = await openAnswers(file, lifetimes);
    const publicKeys = [publicKey];
    const before = await taking([httpCache(server.base)], { publicKeys, answers });
    await before.substituter.offers([paths.lib.path]);
    // The cache was swept, and filled again.
    const { rmSync } = await import('node:fs');
    for (const name of readdirSync(folder)) if (name.endsWith('.narinfo')) rmSync(join(folder, name));
    rmSync(join(folder, 'nar'), { recursive: true });
    const pushed = [{ info: paths.lib, tree: store.tree(paths.lib.path) }];
    await pushPaths(cache, pushed, { packing: 'xz', key, reporter: silent });
    const after = await taking([httpCache(server.base)], { publicKeys, answers });
    expect(await after.substituter.substitute(paths.lib.path)).toBe(true);
    answers.close();
  });

  it('are kept by nobody where the file is damaged or cannot be', async () => {
    const folder = temporaryFolder();
    const file = join(folder, 'answers');
    writeFileSync(file, 'nonsense '.repeat(1000));
    const answers = await openAnswers(file, lifetimes);
    answers.setInfo('http://h', { priority: 3, wantMassQuery: true });
    expect(answers.info('http://h')).toEqual({ priority: 3, wantMassQuery: true });
    answers.close();
    expect(await openAnswers(join(file, 'below'), lifetimes)).toBe(forgetful);
  });

  it('hold no login', async () => {
    const { server, publicKey, paths } = await served();
    const file = join(temporaryFolder(), 'answers');
    const answers = await openAnswers(file, lifetimes);
    const cache = httpCache(server.base.replace('://', '://me:hush@'));
    const { substituter } = await taking([cache], { publicKeys: [publicKey], answers });
    await substituter.substitute(paths.app.path);
    answers.close();
    expect(cache.url).toBe(server.base);
    expect(readFileSync(file).includes('hush')).toBe(false);
  });
});

describe('putting onto a server', () => {
  it('sends archives first, and what refers last', async () => {
    const { store, key, paths } = await filledCache();
    const folder = temporaryFolder();
    const server = await serveFolder(folder);
    const pushed = Object.values(paths).map((info) => ({ info, tree: store.tree(info.path) }));
    const cache = httpCache(server.base);
    const added = await pushPaths(cache, pushed, { packing: 'none', key, reporter: silent });
    expect(new Set(added)).toEqual(new Set(Object.values(paths).map(({ path }) => path)));
    const puts = asked(server).filter((line) => line.startsWith('PUT'));
    const at = (info: { path: string }): number =>
      puts.indexOf(`PUT /${info.path.slice('/nix/store/'.length, '/nix/store/'.length + 32)}.narinfo`);
    expect(puts[0]).toBe('PUT /nix-cache-info');
    expect(at(paths.lib)).toBeLessThan(at(paths.tool));
    expect(at(paths.tool)).toBeLessThan(at(paths.app));
    for (const info of Object.values(paths)) {
      const { url } = (await cache.narInfo(info.path))!;
      expect(puts.indexOf(`PUT /${url}`)).toBeLessThan(at(info));
    }
    expect(await pushPaths(cache, pushed, { packing: 'none', key, reporter: silent })).toEqual([]);
    expect(asked(server).filter((line) => line.startsWith('PUT'))).toHaveLength(puts.length);
  });

  it('sends a body again after a server has asked who it is, or broke off', async () => {
    const { store, paths } = await filledCache();
    const server = await serveFolder(temporaryFolder());
    let failures = 0;
    server.fault = (request, response) => {
      if (request.method !== 'PUT') return false;
      if (request.headers.authorization === undefined) response.writeHead(401).end();
      else if (failures++ < 2) response.writeHead(503).end();
      else return false;
      return true;
    };
    const credentials: HttpCredentials = {
      headers: async (_, challenged) => (challenged ? { authorization: 'Bearer token' } : undefined),
    };
    const cache = httpCache(server.base, { credentials });
    const pushed = [{ info: paths.lib, tree: store.tree(paths.lib.path) }];
    expect(await pushPaths(cache, pushed, { reporter: silent })).toEqual([paths.lib.path]);
    expect(await cache.narInfo(paths.lib.path)).toMatchObject({ narHash: paths.lib.narHash });
  });

  it('says so where a server takes nothing, and follows no redirect elsewhere', async () => {
    const { store, paths } = await filledCache();
    const server = await serveFolder(temporaryFolder());
    const elsewhere = await serveFolder(temporaryFolder());
    const pushed = [{ info: paths.lib, tree: store.tree(paths.lib.path) }];
    const answers = [
      { status: 405, code: 'FLK_HTTP_STATUS' },
      { status: 403, code: 'FLK_HTTP_AUTH' },
      { status: 307, code: 'FLK_HTTP_STATUS' },
    ];
    for (const { status, code } of answers) {
      server.fault = (request, response) => {
        if (request.method !== 'PUT') return false;
        response.writeHead(status, { location: `${elsewhere.base}${request.url}` }).end();
        return true;
      };
      await expect(pushPaths(httpCache(server.base), pushed, { reporter: silent })).rejects.toEqual(
        withCode(code),
      );
    }
    expect(elsewhere.log).toEqual([]);
  });
});
