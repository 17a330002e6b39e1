import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { type Event, silent } from '../../../src/base/events.ts';
import { runBuiltin } from '../../../src/build/builtin.ts';
import { type Download, type FetchSpec, fetchDerivation, tellHash } from '../../../src/build/fetch.ts';
import { type NarHash, narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { tarOf } from '../../support/archives.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, entriesOf, file, treeFrom } from '../../support/trees.ts';

const archive = gzipSync(
  tarOf({ path: 'pkg/run', contents: '#!/bin/sh\n', mode: 0o755 }, { path: 'pkg/text', contents: 'text\n' }),
);
const served = new Map<string, Buffer>([
  ['/file', Buffer.from('content\n')],
  ['/pkg.tar.gz', archive],
  ['/wrong', Buffer.from('other\n')],
]);
const asked: string[] = [];
let server: Server;
let base = '';
let store: Store;

beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(request.url ?? '');
    const body = served.get(request.url ?? '');
    response.writeHead(body === undefined ? 404 : 200).end(body);
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  store = await openStore(temporaryFolder());
});
afterAll(() => {
  server.close();
  store.close();
});

const download: Download = async function* (url, { total }) {
  const response = await fetch(url);
  if (!response.ok) throw new FlkError('FLK_HTTP_STATUS', `${url}: ${response.status}`);
  const body = Buffer.from(await response.arrayBuffer());
  total?.(body.length);
  yield body;
};
const context = () => ({ store, reporter: silent, download });

const spec = (more: Partial<FetchSpec> & Pick<FetchSpec, 'name' | 'urls'>): FetchSpec => ({
  unpack: false,
  stripRoot: true,
  executable: false,
  ...more,
});

async function fetched(one: FetchSpec, hash: NarHash) {
  const { drvPath, derivation } = fetchDerivation(one, hash);
  await runBuiltin(drvPath, derivation, context());
  return derivation.outputs.get('out')!.path;
}

const flat = narHashOf(sha256('content\n'));

describe('a fetch', () => {
  test('of a file is known by the hash of its bytes', async () => {
    const path = await fetched(spec({ name: 'flat', urls: [`${base}/file`] }), flat);
    // nix-store --print-fixed-path sha256 HASH flat
    expect(path).toBe('/nix/store/jcgixl12nd909h9wqaxnf3afynh8az0s-flat');
    expect(readFileSync(store.physical(path), 'utf8')).toBe('content\n');
    expect(store.query(path)).toMatchObject({
      references: [],
      ca: expect.stringMatching(/^fixed:sha256:[0-9a-z]{52}$/),
    });
    await store.verifyPath(path);
  });

  test('of a program is known by its NAR hash', async () => {
    const { narHash } = await hashTree(treeFrom(file('content\n', true)));
    const path = await fetched(spec({ name: 'tool', urls: [`${base}/file`], executable: true }), narHash);
    expect(store.query(path)).toMatchObject({ narHash, ca: expect.stringMatching(/^fixed:r:sha256:/) });
    await store.verifyPath(path);
  });

  test('of an archive is known by the tree in it', async () => {
    const tree = directory({ run: file('#!/bin/sh\n', true), text: file('text\n') });
    const { narHash } = await hashTree(treeFrom(tree));
    const path = await fetched(spec({ name: 'pkg', urls: [`${base}/pkg.tar.gz`], unpack: true }), narHash);
    expect(await entriesOf(store.tree(path))).toEqual(['run*', 'text']);
    await store.verifyPath(path);
    const whole = await hashTree(treeFrom(directory({ pkg: tree })));
    await fetched(
      spec({ name: 'pkg', urls: [`${base}/pkg.tar.gz`], unpack: true, stripRoot: false }),
      whole.narHash,
    );
  });

  test('reads file: URLs by itself', async () => {
    const place = join(temporaryFolder(), 'a file');
    writeFileSync(place, 'local\n');
    const path = await fetched(
      spec({ name: 'local', urls: [pathToFileURL(place).href] }),
      narHashOf(sha256('local\n')),
    );
    expect(readFileSync(store.physical(path), 'utf8')).toBe('local\n');
    const error = await errorOf(fetched(spec({ name: 'gone', urls: ['file:///nonexistent/x'] }), flat));
    expect(error.code).toBe('FLK_FILE_UNREADABLE');
  });

  test('takes the next URL where one fails or has other bytes', async () => {
    asked.length = 0;
    const urls = [`${base}/missing`, `${base}/wrong`, `${base}/file`, `${base}/never`];
    await fetched(spec({ name: 'mirrored', urls }), flat);
    expect(asked).toEqual(['/missing', '/wrong', '/file']);
  });

  test('with other bytes tells the hash found, and leaves nothing', async () => {
    const one = spec({ name: 'changed', urls: [`${base}/wrong`, `${base}/missing`] });
    const found = narHashOf(sha256('other\n'));
    const error = await errorOf(fetched(one, flat));
    expect(error).toMatchObject({ code: 'FLK_FETCH_HASH_MISMATCH', facts: { found, wanted: flat } });
    expect(error.hint).toContain(found);
    expect(store.query(fetchDerivation(one, flat).derivation.outputs.get('out')!.path)).toBeUndefined();
  });

  test('without a hash tells it', async () => {
    const { narHash } = await hashTree(
      treeFrom(directory({ run: file('#!/bin/sh\n', true), text: file('text\n') })),
    );
    asked.length = 0;
    const urls = [`${base}/pkg.tar.gz`, `${base}/file`];
    const error = await errorOf(tellHash(spec({ name: 'new', urls, unpack: true }), context()));
    expect(error).toMatchObject({ code: 'FLK_FETCH_HASH_MISSING', hint: `hash: ${narHash}` });
    expect(asked).toEqual(['/pkg.tar.gz']);
    expect((await errorOf(tellHash(spec({ name: 'new', urls: [`${base}/missing`] }), context()))).code).toBe(
      'FLK_HTTP_STATUS',
    );
  });

  test('counts as what it gives, wherever that is from', () => {
    const one = fetchDerivation(spec({ name: 'x', urls: ['http://a.example/x'] }), flat);
    const two = fetchDerivation(
      spec({ name: 'x', urls: ['http://b.example/y', 'http://a.example/x'] }),
      flat,
    );
    expect(one.drvPath).not.toBe(two.drvPath);
    expect(one.derivation.outputs).toEqual(two.derivation.outputs);
  });

  test('reports bytes and their total', async () => {
    const events: Event[] = [];
    const { drvPath, derivation } = fetchDerivation(spec({ name: 'reported', urls: [`${base}/file`] }), flat);
    await runBuiltin(drvPath, derivation, {
      ...context(),
      reporter: { emit: (event) => events.push(event) },
    });
    expect(events.map((event) => event.kind)).toEqual(['start', 'progress', 'progress', 'end']);
    expect(events.at(-2)).toMatchObject({ done: 8, total: 8, unit: 'bytes' });
  });

  test('stops when it is told to', async () => {
    const controller = new AbortController();
    const { drvPath, derivation } = fetchDerivation(spec({ name: 'stopped', urls: ['x:', 'y:'] }), flat);
    const endless: Download = async function* () {
      for (let i = 0; i < 1000; i++) {
        if (i === 3) controller.abort();
        yield Buffer.alloc(1000);
      }
      throw new Error('it went on');
    };
    const work = runBuiltin(drvPath, derivation, {
      store,
      reporter: silent,
      download: endless,
      signal: controller.signal,
    });
    expect((await errorOf(work)).code).toBe('FLK_INTERRUPTED');
  });
});
