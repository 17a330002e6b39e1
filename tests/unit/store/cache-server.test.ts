import { rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { digestOf, sha256, toNixBase32 } from '../../../src/formats/hash.ts';
import { NarWriter } from '../../../src/formats/nar.ts';
import { fingerprint, parseNarInfo } from '../../../src/formats/narinfo.ts';
import { generateSecretKey, isSignedBy, publicKeyOf, signText } from '../../../src/formats/signature.ts';
import { baseNameOf, hashPart, makeTextPath, type StorePath } from '../../../src/formats/store-path.ts';
import { folderOffers } from '../../../src/store/cache-offers.ts';
import { CacheServer } from '../../../src/store/cache-server.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';
import type { Store } from '../../../src/store/store.ts';
import { ask, serveStore } from '../../support/cache-server.ts';
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
    rmSync(store.physical(path), { recursive: true });
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
      offers: { readLog: async (name) => (name === drv ? Buffer.from('built\n') : undefined) },
    });
    expect((await ask(`${url}/log/${drv}`)).body.toString()).toBe('built\n');
    expect((await ask(`${url}/log/${drv}x`)).status).toBe(404);
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
    const slow = new Promise<number>((done, fail) => {
      httpRequest(nar, { agent: false }, async (response) => {
        let size = 0;
        response.on('error', fail);
        response.on('end', () => done(size));
        await sleep(200);
        response.on('data', (chunk: Buffer) => {
          size += chunk.length;
        });
      }).end();
    });
    const stalled = new Promise<unknown>((done) => {
      httpRequest(nar, { agent: false }, (response) => {
        response.on('error', done);
        setTimeout(() => response.resume(), 2500);
      }).end();
    });
    await sleep(100);
    await server.stop(1500);
    expect(await slow).toBeGreaterThan(32 * 1024 * 1024);
    expect(await stalled).toMatchObject({ code: 'ECONNRESET' });
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
