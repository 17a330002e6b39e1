import { mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { describe, expect, it, onTestFinished } from 'vitest';
import { digestOf, narHashOf, sha256, toNixBase32 } from '../../../src/formats/hash.ts';
import { NarWriter } from '../../../src/formats/nar.ts';
import { fingerprint, type NarInfo, parseNarInfo, printNarInfo } from '../../../src/formats/narinfo.ts';
import {
  generateSecretKey,
  isSignedBy,
  publicKeyOf,
  type SecretKey,
  signText,
} from '../../../src/formats/signature.ts';
import {
  baseNameOf,
  hashPart,
  makeOutputPath,
  makeSourcePath,
  makeTextPath,
  type StorePath,
} from '../../../src/formats/store-path.ts';
import { folderOffers } from '../../../src/store/cache-offers.ts';
import { CacheServer } from '../../../src/store/cache-server.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';
import type { Store } from '../../../src/store/store.ts';
import { removeTree } from '../../../src/store/tree-files.ts';
import { ask, put, serveStore, token } from '../../support/cache-server.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

const sample = directory({
  bin: directory({ run: file('#!/bin/sh\n', true) }),
  empty: directory(),
  large: file(Buffer.alloc(1_500_000, 'abcdefg').toString()),
  link: symlink('bin/run'),
  small: file('one\n'),
});

async function narOf(node: Node): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const writer = new NarWriter((chunk) => chunks.push(Buffer.from(chunk)));
  await treeFrom(node).walk(writer);
  writer.end();
  return Buffer.concat(chunks);
}

const add = (store: Store, name = 'sample', node: Node = sample): Promise<PathInfo> =>
  store.addTree(name, treeFrom(node));

/** The narinfo of a path, and where its archive is. */
async function lookUp(url: string, path: StorePath) {
  const { status, body } = await ask(`${url}/${hashPart(path)}.narinfo`);
  expect(status).toBe(200);
  const info = parseNarInfo(body.toString(), path);
  return { info, nar: `${url}/${info.url}` };
}

describe('a store as a cache', () => {
  it('tells what it is and whether it is well', async () => {
    const { url } = await serveStore({ offers: { priority: 12 } });
    const info = await ask(`${url}/nix-cache-info`);
    expect(info.headers['content-type']).toBe('text/x-nix-cache-info');
    expect(info.body.toString()).toBe('StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 12\n');
    const health = await ask(`${url}/health`);
    expect([health.status, health.body.toString()]).toEqual([200, 'ok\n']);
    expect((await ask(`${url}/`)).status).toBe(200);
  });

  it('is not well where its store is gone', async () => {
    const { url, store } = await serveStore();
    expect((await ask(`${url}/health`)).status).toBe(200);
    rmSync(join(store.root, 'nix/store'), { recursive: true });
    expect((await ask(`${url}/health`)).status).toBe(503);
  });

  it('gives narinfos and archives of what is valid', async () => {
    const { url, store } = await serveStore();
    const { path, narHash, narSize } = await add(store);
    const { info, nar } = await lookUp(url, path);
    expect(info).toEqual({
      path,
      url: `nar/${hashPart(path)}-${toNixBase32(digestOf(narHash))}.nar`,
      compression: 'none',
      fileHash: narHash,
      fileSize: narSize,
      narHash,
      narSize,
      references: [],
      signatures: [],
      ca: `fixed:r:sha256:${toNixBase32(digestOf(narHash))}`,
    });
    const { status, headers, body } = await ask(nar);
    expect([status, headers['content-length'], headers['content-type']]).toEqual([
      200,
      String(narSize),
      'application/x-nix-nar',
    ]);
    expect(body.equals(await narOf(sample))).toBe(true);
  });

  it('lists what an archive holds, and where', async () => {
    const { url, store } = await serveStore();
    const { path } = await add(store);
    const { headers, body } = await ask(`${url}/${hashPart(path)}.ls`);
    expect(headers['content-type']).toBe('application/json');
    const { version, root } = JSON.parse(body.toString());
    expect(version).toBe(1);
    expect(root.entries.bin.entries.run).toMatchObject({ type: 'regular', executable: true, size: 10 });
    expect(root.entries.link).toEqual({ type: 'symlink', target: 'bin/run' });
    const nar = await narOf(sample);
    const { narOffset, size } = root.entries.small;
    expect(nar.subarray(narOffset, narOffset + size).toString()).toBe('one\n');
  });

  it('answers 404 for what is not there, and for what is there but is nobody’s business', async () => {
    const { url, store } = await serveStore();
    const { path, narHash } = await add(store);
    const other = makeTextPath('other', 'x');
    const part = hashPart(path);
    const digest = toNixBase32(digestOf(narHash));
    for (const address of [
      `${hashPart(other)}.narinfo`,
      `${hashPart(other)}.ls`,
      `nar/${hashPart(other)}-${digest}.nar`,
      `nar/${part}-${toNixBase32(sha256('x'))}.nar`,
      `nar/${part}-${digest}.nar.bz2`,
      `nar/${part}.nar`,
      `${part}`,
      `${part}.narinfo/`,
      `${baseNameOf(path)}.narinfo`,
      'nix/var/flk/store.sqlite',
      '../nix/var/flk/store.sqlite',
      '%2e%2e/nix/var/flk/store.sqlite',
      'nar/..%2f..%2fnix%2fvar%2fflk%2fstore.sqlite',
      'log/..%2f..%2fstore.sqlite',
      'realisations/sha256:0!out.doi',
    ])
      expect([address, (await ask(`${url}/${address}`)).status]).toEqual([address, 404]);
    await removeTree(store.physical(path));
    expect((await ask(`${url}/${part}.narinfo`)).status).toBe(404);
  });

  it('takes what is no address for none', async () => {
    const { url } = await serveStore();
    expect((await ask(`${url}/%ff`)).status).toBe(400);
    expect((await ask(`${url}/%zz`)).status).toBe(400);
    expect((await ask(`${url}//nix-cache-info`)).status).toBe(200);
    expect((await ask(`${url}/nix-cache-info?x=1`)).status).toBe(200);
  });

  it('answers HEAD as GET, without the body', async () => {
    const { url, store } = await serveStore();
    const { path, narSize } = await add(store);
    const { nar } = await lookUp(url, path);
    for (const address of [nar, `${url}/${hashPart(path)}.narinfo`, `${url}/nix-cache-info`]) {
      const [head, got] = [await ask(address, { method: 'HEAD' }), await ask(address)];
      expect([head.status, head.body.length]).toEqual([200, 0]);
      expect(head.headers['content-length']).toBe(String(got.body.length));
      expect(head.headers.etag).toBe(got.headers.etag);
    }
    expect(
      (await ask(nar, { method: 'HEAD', headers: { range: 'bytes=5-9' } })).headers['content-length'],
    ).toBe(String(narSize));
    expect((await ask(`${url}/nope`, { method: 'HEAD' })).status).toBe(404);
  });

  it('does nothing else', async () => {
    const { url } = await serveStore();
    for (const method of ['POST', 'DELETE', 'OPTIONS', 'PUT']) {
      const { status, headers } = await ask(`${url}/nix-cache-info`, { method });
      expect([method, status, headers.allow]).toEqual([method, 405, 'GET, HEAD']);
    }
  });

  it('gives any part of an archive, as RFC 9110 has it', async () => {
    const { url, store } = await serveStore();
    const { path, narSize } = await add(store);
    const { nar } = await lookUp(url, path);
    const whole = await narOf(sample);
    const parts: readonly (readonly [string, number, number])[] = [
      ['0-0', 0, 1],
      ['0-99', 0, 100],
      ['100-', 100, narSize],
      ['-7', narSize - 7, narSize],
      [`-${narSize * 2}`, 0, narSize],
      [`700000-${narSize * 2}`, 700_000, narSize],
      ['262143-262145', 262_143, 262_146],
      ['1000000-1000009', 1_000_000, 1_000_010],
      [`${narSize - 1}-`, narSize - 1, narSize],
    ];
    for (const [range, from, to] of parts) {
      const { status, headers, body } = await ask(nar, { headers: { range: `bytes=${range}` } });
      expect([range, status, headers['content-range'], headers['content-length']]).toEqual([
        range,
        206,
        `bytes ${from}-${to - 1}/${narSize}`,
        String(to - from),
      ]);
      expect(body.equals(whole.subarray(from, to))).toBe(true);
    }
    for (const range of [`bytes=${narSize}-`, 'bytes=-0', `bytes=${narSize}-${narSize + 5}`]) {
      const { status, headers } = await ask(nar, { headers: { range } });
      expect([range, status, headers['content-range']]).toEqual([range, 416, `bytes */${narSize}`]);
    }
    for (const range of ['bytes=0-1,5-6', 'lines=1-2', 'bytes=', 'bytes=-', 'bytes=9-3', 'bytes=a-b'])
      expect([range, (await ask(nar, { headers: { range } })).status]).toEqual([range, 200]);
  });

  it('gives a part only of what is still the same', async () => {
    const { url, store } = await serveStore();
    const { nar } = await lookUp(url, (await add(store)).path);
    const { etag = '' } = (await ask(nar, { method: 'HEAD' })).headers;
    const range = 'bytes=5-9';
    expect((await ask(nar, { headers: { range, 'if-range': etag } })).status).toBe(206);
    expect((await ask(nar, { headers: { range, 'if-range': '"other"' } })).status).toBe(200);
    expect((await ask(nar, { headers: { 'if-none-match': `"x", ${etag}` } })).status).toBe(304);
    expect((await ask(nar, { headers: { 'if-none-match': '"x"' } })).status).toBe(200);
  });

  it('packs on the way, where nobody can know how long it will be', async () => {
    const { url, store } = await serveStore({ offers: { compression: 'xz' } });
    const { path } = await add(store);
    const { info, nar } = await lookUp(url, path);
    expect([info.compression, info.fileHash, info.fileSize]).toEqual(['xz', undefined, undefined]);
    const { headers, body } = await ask(nar, { headers: { range: 'bytes=0-9' } });
    expect([headers['content-length'], headers['accept-ranges']]).toEqual([undefined, 'none']);
    const { decompress } = await import('lzma-native');
    const unpacked = await new Promise<Buffer>((done) =>
      decompress(body, undefined, (result) => done(result)),
    );
    expect(unpacked.equals(await narOf(sample))).toBe(true);
  });

  it('signs what it says', async () => {
    const key = generateSecretKey('test-1');
    const { url, store } = await serveStore({ offers: { sign: (info) => signText(fingerprint(info), key) } });
    const base = await store.addText('base', 'x', []);
    const { path } = await store.addText('top', 'y', [base.path]);
    const { info } = await lookUp(url, path);
    expect(info.references).toEqual([base.path]);
    expect(
      info.signatures.map((signature) => isSignedBy(fingerprint(info), signature, [publicKeyOf(key)])),
    ).toEqual([true]);
  });

  it('gives logs', async () => {
    const drv = baseNameOf(makeTextPath('a.drv', 'x'));
    const { url } = await serveStore({
      offers: {
        readLog: async (name) => (name === drv ? Readable.from([Buffer.from('built\n')]) : undefined),
      },
    });
    expect((await ask(`${url}/log/${drv}`)).body.toString()).toBe('built\n');
    expect((await ask(`${url}/log/${drv}x`)).status).toBe(404);
    expect((await ask(`${url}/log/${drv}`, { method: 'HEAD' })).status).toBe(200);
  });

  it('cuts off an archive that is not what its record says, rather than end it', async () => {
    const { url, store, requests } = await serveStore();
    const { path } = await store.addText('text', 'as it was', []);
    const { nar } = await lookUp(url, path);
    for (const contents of ['', 'longer than it was by far']) {
      rmSync(store.physical(path));
      writeFileSync(store.physical(path), contents);
      expect((await ask(nar)).status).toBe(500);
    }
    expect(requests.at(-1)).toMatchObject({ status: 500, fault: expect.stringContaining('size') });
  });

  it('tells of each request', async () => {
    const { url, requests } = await serveStore();
    await ask(`${url}/nix-cache-info`);
    await ask(`${url}/no%0Awhere`, { method: 'HEAD' });
    expect(requests).toMatchObject([
      { method: 'GET', address: '/nix-cache-info', status: 200, bytes: 51 },
      { method: 'HEAD', address: '/no\nwhere', status: 404, bytes: 0 },
    ]);
  });
});

describe('clients of all sorts', () => {
  it('serves many at once', async () => {
    const { url, store } = await serveStore();
    const { nar } = await lookUp(url, (await add(store)).path);
    const whole = await narOf(sample);
    const answers = await Promise.all(Array.from({ length: 40 }, () => ask(nar)));
    expect(answers.every(({ body }) => body.equals(whole))).toBe(true);
  });

  it('reads no further than a client that does not read can hold', async () => {
    const { url, store, requests } = await serveStore({ limits: { idleMs: 1500 } });
    // Larger than what all the sockets' buffers hold.
    const big = directory({ big: file('x'.repeat(64 * 1024 * 1024)) });
    const { nar } = await lookUp(url, (await add(store, 'big', big)).path);
    const before = process.memoryUsage().arrayBuffers;
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    onTestFinished(() => void socket.destroy());
    socket.write(`GET ${new URL(nar).pathname} HTTP/1.1\r\nhost: x\r\n\r\n`);
    await sleep(700);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 1024 * 1024);
    // In the end it is let go.
    await expect.poll(() => requests.at(-1), { timeout: 10_000 }).toMatchObject({ broken: true });
  });

  it('waits for nobody who never finishes asking', async () => {
    const { url } = await serveStore({ limits: { headMs: 300 } });
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.write('GET /nix-cache-info HTTP/1.1\r\nhost: x\r\n');
    const answer = await new Promise<string>((done) => {
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk;
      });
      socket.on('close', () => done(text));
    });
    expect(answer).toContain('408');
  });

  it('lets in only so many', async () => {
    const { url } = await serveStore({ limits: { connections: 2 } });
    const port = Number(new URL(url).port);
    const held = await Promise.all(
      [1, 2].map(
        () =>
          new Promise<ReturnType<typeof connect>>((done) => {
            const socket = connect(port, '127.0.0.1', () => done(socket));
          }),
      ),
    );
    onTestFinished(() => held.forEach((socket) => void socket.destroy()));
    await expect(ask(`${url}/nix-cache-info`)).rejects.toThrow();
    held[0]!.destroy();
    await expect
      .poll(() =>
        ask(`${url}/nix-cache-info`).then(
          ({ status }) => status,
          () => 0,
        ),
      )
      .toBe(200);
  });

  it('refuses a head without end', async () => {
    const { url } = await serveStore();
    const { status } = await ask(`${url}/nix-cache-info`, { headers: { 'x-long': 'x'.repeat(20_000) } });
    expect(status).toBe(431);
  });

  it('finishes what runs when it is stopped, and cuts off what does not end', async () => {
    const { url, store, server } = await serveStore();
    const big = directory({ big: file('x'.repeat(32 * 1024 * 1024)) });
    const { nar } = await lookUp(url, (await add(store, 'big', big)).path);
    const begun = (): Promise<IncomingMessage> =>
      new Promise((done, fail) => {
        httpRequest(nar, { agent: false }, done).on('error', fail).end();
      });
    const [slow, stalled] = await Promise.all([begun(), begun()]);
    const cut = new Promise((done) => stalled.on('error', done));
    const stopped = server.stop(4000);
    let size = 0;
    for await (const chunk of slow) size += (chunk as Buffer).length;
    await stopped;
    stalled.resume();
    expect(size).toBeGreaterThan(32 * 1024 * 1024);
    expect(await cut).toMatchObject({ code: 'ECONNRESET' });
    await expect(ask(`${url}/nix-cache-info`)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  it('says who else is at its address', async () => {
    const { url } = await serveStore();
    const port = Number(new URL(url).port);
    const options = { host: '127.0.0.1', port, reporter: { emit: () => {} } };
    await expect(CacheServer.listen(folderOffers(temporaryFolder()), options)).rejects.toEqual(
      withCode('FLK_CACHE_LISTEN'),
    );
    await expect(
      CacheServer.listen(folderOffers(temporaryFolder()), { ...options, host: '203.0.113.7' }),
    ).rejects.toEqual(withCode('FLK_CACHE_LISTEN'));
  });
});

describe('a folder as a cache', () => {
  async function serveFolder(priority?: number, sign?: (info: Parameters<typeof fingerprint>[0]) => string) {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'nar'));
    const server = await CacheServer.listen(
      folderOffers(folder, { ...(priority !== undefined && { priority }), ...(sign && { sign }) }),
      { host: '127.0.0.1', port: 0, reporter: { emit: () => {} } },
    );
    onTestFinished(() => server.stop(0));
    return { folder, url: server.url };
  }

  it('gives what belongs to a cache, and nothing else', async () => {
    const { folder, url } = await serveFolder();
    const part = '0'.repeat(32);
    const given = ['nix-cache-info', `${part}.narinfo`, `${part}.ls`, 'nar/x.nar.xz', `log/${part}-a.drv`];
    mkdirSync(join(folder, 'log'));
    for (const name of given) writeFileSync(join(folder, name), `StoreDir: /nix/store\n${name}\n`);
    for (const name of given)
      expect((await ask(`${url}/${name}`)).body.toString()).toBe(`StoreDir: /nix/store\n${name}\n`);
    writeFileSync(join(folder, 'secret'), 'x');
    writeFileSync(join(folder, 'nar/.x.nar'), 'x');
    mkdirSync(join(folder, 'nar/sub.nar'));
    symlinkSync('/etc/passwd', join(folder, 'nar/passwd.nar'));
    symlinkSync('../secret', join(folder, 'nar/inside.nar'));
    for (const name of [
      'secret',
      'nar/.x.nar',
      'nar/sub.nar',
      'nar/passwd.nar',
      'nar/',
      'nar/../secret',
      'nar/%2e%2e/secret',
      'nar/x%00',
    ])
      expect([name, (await ask(`${url}/${name}`)).status]).toEqual([name, 404]);
    expect((await ask(`${url}/nar/inside.nar`)).status).toBe(200);
    expect((await ask(`${url}/nar/x.nar.xz`, { headers: { range: 'bytes=0-7' } })).body.toString()).toBe(
      'StoreDir',
    );
  });

  it('is the cache that the folder is not yet, with the priority that was asked for', async () => {
    const { folder, url } = await serveFolder(7);
    expect((await ask(`${url}/nix-cache-info`)).body.toString()).toContain('\nPriority: 7\n');
    writeFileSync(join(folder, 'nix-cache-info'), 'StoreDir: /nix/store\nPriority: 50\n');
    expect((await ask(`${url}/nix-cache-info`)).body.toString()).toBe('StoreDir: /nix/store\nPriority: 7\n');
  });

  it('adds a signature to narinfos, and leaves alone what is none', async () => {
    const key = generateSecretKey('folder-1');
    const { folder, url } = await serveFolder(undefined, (info) => signText(fingerprint(info), key));
    const path = makeTextPath('x', 'x');
    const narHash = narHashOf(sha256('x'));
    const info = {
      path,
      url: 'nar/x.nar',
      compression: 'none' as const,
      narHash,
      narSize: 120,
      references: [],
      signatures: [],
    };
    writeFileSync(join(folder, `${hashPart(path)}.narinfo`), printNarInfo(info));
    const found = parseNarInfo((await ask(`${url}/${hashPart(path)}.narinfo`)).body.toString(), path);
    expect(
      found.signatures.map((signature) => isSignedBy(fingerprint(info), signature, [publicKeyOf(key)])),
    ).toEqual([true]);
    writeFileSync(join(folder, `${hashPart(path)}.narinfo`), 'nonsense');
    expect((await ask(`${url}/${hashPart(path)}.narinfo`)).body.toString()).toBe('nonsense');
  });
});

describe('putting paths', () => {
  /** What a client would send for a tree: its archive, packed, and its narinfo. */
  async function upload(
    name: string,
    node: Node,
    change: Partial<Omit<NarInfo, 'path'>> & { readonly path?: StorePath } = {},
    pack = (nar: Buffer): Buffer => nar,
  ) {
    const nar = await narOf(node);
    const packed = pack(nar);
    const narHash = narHashOf(sha256(nar));
    const references = change.references ?? [];
    const path = makeSourcePath(name, narHash, references);
    const info: NarInfo = {
      path,
      url: `nar/${toNixBase32(sha256(packed))}.nar`,
      compression: 'none',
      fileHash: narHashOf(sha256(packed)),
      fileSize: packed.length,
      narHash,
      narSize: nar.length,
      references,
      signatures: [],
      ...change,
    };
    return { info, packed, narInfo: printNarInfo(info), address: `${hashPart(info.path)}.narinfo` };
  }
  const tree = directory({ a: file('one'), b: symlink('a') });

  it('asks for the token', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const { info, packed } = await upload('x', tree);
    const send = (authorization?: string) =>
      ask(`${url}/${info.url}`, {
        method: 'PUT',
        body: packed,
        headers: authorization === undefined ? {} : { authorization },
      });
    const { status, headers } = await send();
    expect([status, headers['www-authenticate']]).toEqual([401, 'Basic realm="flk cache"']);
    const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;
    for (const wrong of [
      'Bearer x',
      `Bearer ${token}x`,
      `Bearer ${token.slice(1)}`,
      `Bearer ${token.toUpperCase()}`,
      basic('me:x'),
      basic(`${token}:`),
    ])
      expect([wrong, (await send(wrong)).status]).toEqual([wrong, 403]);
    for (const strange of ['Digest x', 'x', 'Bearer'])
      expect([strange, (await send(strange)).status]).toEqual([strange, 401]);
    for (const right of [`Bearer ${token}`, `bearer ${token}`, basic(`me:${token}`)])
      expect([right, (await send(right)).status]).toEqual([right, 201]);
    expect(store.paths()).toEqual([]);
  });

  it('answers before a body that it does not want, and stays well', async () => {
    const { url } = await serveStore({ uploads: {} });
    const { status } = await ask(`${url}/nar/x.nar`, { method: 'PUT', body: Buffer.alloc(500_000) });
    expect(status).toBe(401);
    const waiting = await new Promise<number | undefined>((done, fail) => {
      const sent = httpRequest(
        `${url}/nar/x.nar`,
        { method: 'PUT', agent: false, headers: { expect: '100-continue', 'content-length': 10 } },
        (response) => done(response.statusCode),
      );
      sent.on('continue', () => fail(new Error('it wanted the body')));
      sent.on('error', fail);
      sent.flushHeaders();
    });
    expect(waiting).toBe(401);
    expect((await ask(`${url}/health`)).status).toBe(200);
  });

  it('makes a path valid with its narinfo, not before', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const { info, packed, narInfo, address } = await upload('x', tree);
    expect((await put(`${url}/${address}`, narInfo)).status).toBe(422);
    expect((await put(`${url}/${info.url}`, packed)).status).toBe(201);
    expect((await ask(`${url}/${info.url}`, { method: 'HEAD' })).headers['content-length']).toBe(
      String(packed.length),
    );
    expect(store.query(info.path)).toBeUndefined();
    expect((await put(`${url}/${address}`, narInfo)).status).toBe(201);
    expect(store.query(info.path)).toMatchObject({ narHash: info.narHash, ultimate: false, references: [] });
    await store.verifyPath(info.path);
    // Its old address still leads to it, for clients that remember that.
    expect((await ask(`${url}/${info.url}`)).body.equals(await narOf(tree))).toBe(true);
    const { nar } = await lookUp(url, info.path);
    expect((await ask(nar)).body.equals(await narOf(tree))).toBe(true);
    // And it may be put again.
    expect((await put(`${url}/${address}`, narInfo)).status).toBe(201);
  });

  it('unpacks what is packed', async () => {
    const { compress } = await import('lzma-native');
    const xz = await new Promise<Buffer>((done) => void narOf(tree).then((nar) => compress(nar, 0, done)));
    const { url, store } = await serveStore({ uploads: {} });
    for (const [name, packed, compression] of [
      ['gzip', gzipSync(await narOf(tree)), 'gzip'],
      ['xz', xz, 'xz'],
    ] as const) {
      const { info, narInfo, address } = await upload(name, tree, { compression }, () => packed);
      expect((await put(`${url}/${info.url}`, packed)).status).toBe(201);
      expect((await put(`${url}/${address}`, narInfo)).body.toString()).toBe('taken\n');
      await store.verifyPath(info.path);
    }
  });

  it('takes the same path from many at once', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const { info, packed, narInfo, address } = await upload('x', sample);
    const statuses = await Promise.all(
      Array.from({ length: 8 }, async () => [
        (await put(`${url}/${info.url}`, packed)).status,
        (await put(`${url}/${address}`, narInfo)).status,
      ]),
    );
    expect(statuses.flat()).toEqual(Array(16).fill(201));
    await store.verifyPath(info.path);
    const stages = join(store.root, 'nix/var/flk/stage');
    expect(readdirSync(stages).flatMap((stage) => readdirSync(join(stages, stage)))).toEqual([]);
  });

  it('takes two paths with one archive', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const [one, two] = [await upload('one', tree), await upload('two', tree)];
    expect(one.info.url).toBe(two.info.url);
    await put(`${url}/${one.info.url}`, one.packed);
    for (const { address, narInfo } of [one, two])
      expect((await put(`${url}/${address}`, narInfo)).status).toBe(201);
    for (const { info } of [one, two]) await store.verifyPath(info.path);
  });

  it('wants what a path refers to first', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const base = await upload('base', file('base'));
    const top = await upload('top', file(`see ${base.info.path}`), { references: [base.info.path] });
    for (const { info, packed } of [base, top]) await put(`${url}/${info.url}`, packed);
    const early = await put(`${url}/${top.address}`, top.narInfo);
    expect([early.status, early.body.toString()]).toEqual([
      422,
      `${top.info.path} refers to ${base.info.path}, which is not here\n`,
    ]);
    for (const { address, narInfo } of [base, top])
      expect((await put(`${url}/${address}`, narInfo)).status).toBe(201);
    expect(store.closure([top.info.path])).toEqual([base.info.path, top.info.path].sort());
  });

  it('refuses archives that are not what they are said to be', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const other = narHashOf(sha256('other'));
    const bomb = gzipSync(await narOf(file('x'.repeat(50_000_000))));
    const good = await narOf(tree);
    const cases: readonly (readonly [string, Partial<NarInfo>, ((nar: Buffer) => Buffer)?])[] = [
      ['narHash', { narHash: other }],
      ['narSize', { narSize: good.length - 8 }],
      ['larger narSize', { narSize: good.length + 8 }],
      ['fileHash', { fileHash: other }],
      ['fileSize', { fileSize: 5 }],
      ['compression', { compression: 'xz' }],
      ['no NAR', {}, () => Buffer.from('what is this?')],
      ['cut NAR', {}, (nar) => nar.subarray(0, -8)],
      ['trailing bytes', {}, (nar) => Buffer.concat([nar, Buffer.alloc(8)])],
      ['bomb', { compression: 'gzip' }, () => bomb],
      ['cut gzip', { compression: 'gzip' }, (nar) => gzipSync(nar).subarray(0, -9)],
    ];
    for (const [what, change, pack] of cases) {
      const { info, packed, narInfo, address } = await upload('x', tree, change, pack);
      expect([what, (await put(`${url}/${info.url}`, packed)).status]).toEqual([what, 201]);
      expect([what, (await put(`${url}/${address}`, narInfo)).status]).toEqual([what, 422]);
    }
    expect(store.paths()).toEqual([]);
    expect(readdirSync(join(store.root, 'nix/store'))).toEqual([]);
  });

  it('refuses a content address that the content does not have', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const wanted = await upload('x', file('what people want'));
    const ca = `fixed:r:sha256:${toNixBase32(digestOf(wanted.info.narHash))}`;
    const forged = await upload('x', file('what they get'), { path: wanted.info.path, ca });
    await put(`${url}/${forged.info.url}`, forged.packed);
    expect((await put(`${url}/${forged.address}`, forged.narInfo)).status).toBe(422);
    expect(store.paths()).toEqual([]);
    // One that does not fit its path at all proves nothing, and is not kept.
    const other = await upload('y', tree, { ca });
    await put(`${url}/${other.info.url}`, other.packed);
    expect((await put(`${url}/${other.address}`, other.narInfo)).status).toBe(201);
    expect(store.query(other.info.path)?.ca).toBeUndefined();
  });

  it('refuses narinfos that are none, or stand at another’s place', async () => {
    const { url } = await serveStore({ uploads: {} });
    const { narInfo, address, info } = await upload('x', tree);
    const other = makeTextPath('y', 'y');
    for (const text of [
      '',
      'StorePath: /etc/passwd\n',
      narInfo.replace(/^NarHash.*\n/m, ''),
      narInfo.replace(info.path, other),
    ])
      expect([text, (await put(`${url}/${address}`, text)).status]).toEqual([text, 400]);
    expect((await put(`${url}/${address}`, `${narInfo}X: ${'x'.repeat(2 ** 21)}\n`)).status).toBe(413);
    expect(
      (await put(`${url}/${address}`, narInfo.replace(/^URL: .*$/m, 'URL: ../../etc/passwd'))).status,
    ).toBe(400);
  });

  it('does not let one path’s bytes be replaced', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    const there = await store.addText('x', 'as it is', []);
    const { info, packed, narInfo, address } = await upload('x', file('as it should not be'), {
      path: there.path,
    });
    await put(`${url}/${info.url}`, packed);
    expect((await put(`${url}/${address}`, narInfo)).status).toBe(409);
    expect(store.query(there.path)?.narHash).toBe(there.narHash);
  });

  it('believes only the keys that it is told to trust', async () => {
    const [key, other] = [generateSecretKey('a-1'), generateSecretKey('a-1')];
    const { url, store } = await serveStore({ uploads: { trustedKeys: [publicKeyOf(key)] } });
    const plain = await upload('x', tree);
    // Not the path of its content, as that of a build.
    const path = makeOutputPath('out', sha256('x'), 'x');
    const putAll = async (change: Partial<NarInfo>): Promise<number> => {
      const { info, packed, narInfo, address } = await upload('x', tree, change);
      await put(`${url}/${info.url}`, packed);
      return (await put(`${url}/${address}`, narInfo)).status;
    };
    const sign = (by: SecretKey): string => signText(fingerprint({ ...plain.info, path }), by);
    expect(await putAll({ path })).toBe(403);
    expect(await putAll({ path, signatures: [sign(other)] })).toBe(403);
    expect(store.paths()).toEqual([]);
    expect(await putAll({ path, signatures: [sign(other), sign(key)] })).toBe(201);
    // What its content proves needs no signature.
    const ca = `fixed:r:sha256:${toNixBase32(digestOf(plain.info.narHash))}`;
    expect(await putAll({ ca })).toBe(201);
    expect(store.paths()).toHaveLength(2);
  });

  it('takes only what it can hold, and no file under another’s hash', async () => {
    const { url } = await serveStore({ uploads: { maxArchive: 1000, maxWaiting: 1500 } });
    const content = Buffer.alloc(900);
    const wrong = await put(`${url}/nar/${toNixBase32(sha256('x'))}.nar.xz`, content);
    expect(wrong.status).toBe(400);
    expect((await put(`${url}/nar/a.nar`, Buffer.alloc(1001))).status).toBe(413);
    expect((await put(`${url}/nar/a.nar`, content)).status).toBe(201);
    expect((await put(`${url}/nar/b.nar`, content)).status).toBe(413);
    expect((await put(`${url}/nar/b.nar`, Buffer.alloc(500))).status).toBe(201);
    expect((await put(`${url}/nar/c.nar`, Buffer.alloc(200))).status).toBe(413);
  });

  it('forgets archives that no narinfo speaks of', async () => {
    const { url, store } = await serveStore({ uploads: { patience: 50 } });
    await put(`${url}/nar/a.nar`, 'x');
    await sleep(100);
    await put(`${url}/nar/b.nar`, 'x');
    expect((await ask(`${url}/nar/a.nar`)).status).toBe(404);
    const stages = join(store.root, 'nix/var/flk/stage');
    await expect
      .poll(() => readdirSync(stages).flatMap((stage) => readdirSync(join(stages, stage))))
      .toHaveLength(1);
  });

  it('keeps nothing of an upload that breaks off', async () => {
    const { url, store } = await serveStore({ uploads: {} });
    await new Promise<void>((done) => {
      const sent = httpRequest(`${url}/nar/a.nar`, {
        method: 'PUT',
        agent: false,
        headers: { authorization: `Bearer ${token}`, 'content-length': 1000 },
      });
      sent.on('error', () => done());
      sent.write('half');
      setTimeout(() => sent.destroy(), 100);
    });
    const stages = join(store.root, 'nix/var/flk/stage');
    await expect
      .poll(() => readdirSync(stages).flatMap((stage) => readdirSync(join(stages, stage))))
      .toEqual([]);
    expect((await ask(`${url}/nar/a.nar`)).status).toBe(404);
  });

  it('takes what else clients send', async () => {
    const { url } = await serveStore({ uploads: {} });
    const { address } = await upload('x', tree);
    expect((await put(`${url}/nix-cache-info`, 'StoreDir: /nix/store\n')).status).toBe(201);
    expect((await put(`${url}/nix-cache-info`, 'StoreDir: /gnu/store\n')).status).toBe(400);
    expect((await put(`${url}/${address.replace('narinfo', 'ls')}`, '{}')).status).toBe(201);
    const realisation = `realisations/sha256:${'0'.repeat(64)}!out.doi`;
    expect((await put(`${url}/${realisation}`, '{"x":1}')).status).toBe(201);
    expect((await ask(`${url}/${realisation}`)).body.toString()).toBe('{"x":1}');
    expect((await put(`${url}/log/x`, 'x')).status).toBe(405);
    expect((await put(`${url}/../../etc/passwd`, 'x')).status).toBe(405);
    expect((await put(`${url}/nar/x.nar`, 'x', { 'content-encoding': 'xz' })).status).toBe(415);
  });
});
