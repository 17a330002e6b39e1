/** What a hostile cache can do to whoever takes paths from it: nothing but refuse. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { digestOf, narHashOf, sha256, toNixBase32 } from '../../../src/formats/hash.ts';
import { type NarInfo, printNarInfo } from '../../../src/formats/narinfo.ts';
import { generateSecretKey, publicKeyOf } from '../../../src/formats/signature.ts';
import { baseNameOf, hashPart, makeOutputPath, makeSourcePath } from '../../../src/formats/store-path.ts';
import { HttpCacheTransport } from '../../../src/sources/cache-transport.ts';
import { HttpClient } from '../../../src/sources/http.ts';
import { type CacheAnswers, forgetful, openAnswers } from '../../../src/store/caches/answers.ts';
import { HttpCache } from '../../../src/store/caches/http-cache.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { type CacheSubstituter, openSubstituter } from '../../../src/store/substituter.ts';
import { errorOf } from '../../support/errors.ts';
import {
  type HostileCache,
  hostileCache,
  narOf,
  type OfferTricks,
  rawNar,
  tricks,
} from '../../support/hostile-cache.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, symlink } from '../../support/trees.ts';

const key = generateSecretKey('honest-1');
/** 200 MB in 200 kB. */
const bomb = gzipSync(
  Buffer.concat([
    rawNar('nix-archive-1', '(', 'type', 'regular', 'contents'),
    Buffer.from('00c2eb0b00000000', 'hex'),
    Buffer.alloc(200_000_000),
  ]),
);

const sample = directory({ a: file('one\n'), b: symlink('a'), large: file('0123456789'.repeat(60_000)) });

interface Client {
  readonly store: Store;
  readonly substituter: CacheSubstituter;
  readonly events: Event[];
}

async function client(
  urls: readonly string[],
  options: { answers?: CacheAnswers; store?: Store } = {},
): Promise<Client> {
  const store = options.store ?? (await openStore(temporaryFolder()));
  if (!options.store) onTestFinished(() => store.close());
  const events: Event[] = [];
  const reporter = { emit: (event: Event) => void events.push(event) };
  const transport = new HttpCacheTransport(new HttpClient({ idleTimeout: 400 }), { reporter, firstDelay: 1 });
  const substituter = openSubstituter({
    store,
    caches: urls.map((url) => ({ cache: new HttpCache(new URL(`${url}/`), transport) })),
    publicKeys: [publicKeyOf(key)],
    answers: options.answers ?? forgetful,
    reporter,
  });
  return { store, substituter, events };
}

/** Nothing of what was tried is in the store, and nothing waits in a stage. */
function expectNothing(store: Store): void {
  expect(store.paths()).toEqual([]);
  expect(readdirSync(join(store.root, 'nix/store'))).toEqual([]);
  const stages = join(store.root, 'nix/var/flk/stage');
  if (existsSync(stages)) expect(readdirSync(stages)).toEqual([]);
}

/** The code of what `require` throws; `valid` where it does not. */
async function outcome(cache: HostileCache, given: OfferTricks, name = 'x'): Promise<string> {
  const { path } = await cache.offer(name, sample, given);
  const { store, substituter } = await client([cache.url]);
  const code = await substituter.require(path).then(
    () => 'valid',
    (error: unknown) => (error as { code: string }).code,
  );
  if (code !== 'valid') expectNothing(store);
  else await store.verifyPath(path);
  return code;
}

describe('a hostile cache', () => {
  it('is taken from where it is honest', async () => {
    expect(await outcome(await hostileCache(), { key })).toBe('valid');
  });

  describe('forges narinfos', () => {
    const other = makeOutputPath('out', sha256('other'), 'other');
    const replaced = (field: keyof NarInfo | string, value: string) => (text: string) =>
      text.replace(new RegExp(`^${field}: .*$`, 'm'), `${field}: ${value}`);
    const without = (field: string) => (text: string) => text.replace(new RegExp(`^${field}: .*\n`, 'm'), '');
    const wrongHash = `sha256:${toNixBase32(sha256('wrong'))}`;
    it.each<readonly [what: string, code: string, given: OfferTricks]>([
      ['of another path', 'FLK_CACHE_INVALID', { key, text: replaced('StorePath', other) }],
      ['of a path outside', 'FLK_CACHE_INVALID', { key, text: replaced('StorePath', '/etc/passwd') }],
      ['without a signature', 'FLK_CACHE_UNTRUSTED', {}],
      [
        'signed by a stranger of the same name',
        'FLK_CACHE_UNTRUSTED',
        { key: generateSecretKey('honest-1') },
      ],
      [
        'with another hash under an honest signature',
        'FLK_CACHE_UNTRUSTED',
        { key, text: replaced('NarHash', wrongHash) },
      ],
      [
        'with another size under an honest signature',
        'FLK_CACHE_UNTRUSTED',
        { key, text: replaced('NarSize', '5') },
      ],
      [
        'with a reference under an honest signature',
        'FLK_CACHE_UNTRUSTED',
        { key, text: replaced('References', baseNameOf(other)) },
      ],
      [
        'with a content address that its path does not have',
        'FLK_CACHE_UNTRUSTED',
        { info: { ca: `fixed:r:${wrongHash}` } },
      ],
      ['without Compression', 'FLK_CACHE_INVALID', { key, text: without('Compression') }],
      ['with an unknown Compression', 'FLK_CACHE_INVALID', { key, text: replaced('Compression', 'lzip9') }],
      ['without NarHash', 'FLK_CACHE_INVALID', { key, text: without('NarHash') }],
      ['without NarSize', 'FLK_CACHE_INVALID', { key, text: without('NarSize') }],
      ['with two StorePaths', 'FLK_CACHE_INVALID', { key, text: (text) => `${text}StorePath: ${other}\n` }],
      [
        'with an archive elsewhere',
        'FLK_CACHE_INVALID',
        { key, text: replaced('URL', 'http://203.0.113.9/x.nar') },
      ],
      [
        'with an archive on this machine',
        'FLK_CACHE_INVALID',
        { key, text: replaced('URL', 'file:///etc/passwd') },
      ],
      ['with an archive above', 'FLK_CACHE_INVALID', { key, text: replaced('URL', '../../x.nar') }],
      ['with an archive above, encoded', 'FLK_CACHE_INVALID', { key, text: replaced('URL', '%2e%2e/x.nar') }],
      ['that break off', 'FLK_CACHE_INVALID', { key, text: (text) => text.slice(0, -20) }],
      [
        'of many megabytes',
        'FLK_CACHE_INVALID',
        { key, text: (text) => `${text}${'X: y\n'.repeat(20_000_000)}` },
      ],
      [
        'without end',
        'FLK_CACHE_INVALID',
        { key, serveNarInfo: tricks.endless(Buffer.alloc(65_536, 'X: y\n')) },
      ],
      ['that refer to what no cache has', 'FLK_CACHE_MISSING', { key, info: { references: [other] } }],
    ])('%s', async (_what, code, given) => {
      const cache = await hostileCache();
      expect(await outcome(cache, given)).toBe(code);
      // No byte of an archive was asked for.
      expect(cache.requests.filter((request) => request.includes('/nar/'))).toEqual([]);
    });

    it('with a content address for other content', async () => {
      const cache = await hostileCache();
      const wanted = narHashOf(sha256(await narOf(file('what people want'))));
      const path = makeSourcePath('x', wanted);
      const ca = `fixed:r:sha256:${toNixBase32(digestOf(wanted))}`;
      const { info } = await cache.offer('x', sample, { info: { path, ca } });
      cache.tricks.set(
        `/${hashPart(path)}.narinfo`,
        (_request, response) => void response.end(Buffer.from(`${printNarInfo(info)}`)),
      );
      const { store, substituter } = await client([cache.url]);
      expect((await errorOf(substituter.require(path))).code).toMatch(/^FLK_(NAR_HASH_MISMATCH|CACHE_)/);
      expectNothing(store);
    });
  });

  describe('gives other archives than it promised', () => {
    const entry = (name: string | Buffer): (string | Buffer)[] => [
      'entry',
      '(',
      'name',
      name,
      'node',
      '(',
      'type',
      'regular',
      'contents',
      'x',
      ')',
      ')',
    ];
    const folder = (...names: (string | Buffer)[]): Buffer =>
      rawNar('nix-archive-1', '(', 'type', 'directory', ...names.flatMap(entry), ')');
    it.each<readonly [what: string, code: string, given: OfferTricks]>([
      ['unsorted', 'FLK_NAR_INVALID', { nar: folder('b', 'a') }],
      ['with a name twice', 'FLK_NAR_INVALID', { nar: folder('a', 'a') }],
      ['with ..', 'FLK_NAR_INVALID', { nar: folder('..') }],
      ['with .', 'FLK_NAR_INVALID', { nar: folder('.') }],
      ['with a slash in a name', 'FLK_NAR_INVALID', { nar: folder('../../../../tmp/x') }],
      ['with a NUL in a name', 'FLK_NAR_INVALID', { nar: folder('a\0b') }],
      ['with an empty name', 'FLK_NAR_INVALID', { nar: folder('') }],
      [
        'that write through a symlink',
        'FLK_NAR_INVALID',
        {
          nar: rawNar(
            'nix-archive-1',
            '(',
            'type',
            'directory',
            'entry',
            '(',
            'name',
            'a',
            'node',
            '(',
            'type',
            'symlink',
            'target',
            '/tmp',
            ')',
            ')',
            ...['entry', '(', 'name', 'a', 'node', '(', 'type', 'directory', ...entry('x'), ')', ')'],
            ')',
          ),
        },
      ],
      ['of no known type', 'FLK_NAR_INVALID', { nar: rawNar('nix-archive-1', '(', 'type', 'device', ')') }],
      [
        'with bytes after their end',
        'FLK_NAR_INVALID',
        { nar: Buffer.concat([folder('a'), Buffer.alloc(64)]) },
      ],
      ['that end too early', 'FLK_NAR_INVALID', { nar: folder('a').subarray(0, -16) }],
      [
        'of something else',
        'FLK_NAR_INVALID',
        { nar: Buffer.from('<!doctype html><title>Welcome</title>'.padEnd(64)) },
      ],
      ['empty', 'FLK_CACHE_INVALID', { pack: () => Buffer.alloc(0), info: { fileSize: undefined as never } }],
      ['gzip where it says xz', 'FLK_ARCHIVE_INVALID', { pack: gzipSync, info: { compression: 'xz' } }],
      [
        'damaged',
        'FLK_ARCHIVE_INVALID',
        { pack: (nar) => gzipSync(nar).fill(0, 200, 260), info: { compression: 'gzip' } },
      ],
      [
        'cut',
        'FLK_ARCHIVE_INVALID',
        { pack: (nar) => gzipSync(nar).subarray(0, -20), info: { compression: 'gzip' } },
      ],
    ])('%s', async (_what, code, given) => {
      expect(await outcome(await hostileCache(), { key, ...given })).toBe(code);
    });

    it.each<readonly [what: string, code: RegExp, given: OfferTricks]>([
      [
        'of other bytes',
        /HASH_MISMATCH|CACHE_INVALID/,
        {
          serveNar: (_q, response) =>
            void narOf(directory({ z: file('evil') })).then((nar) => response.end(nar)),
        },
      ],
      ['larger than NarSize', /CACHE_INVALID|LIMIT/, { info: { narSize: 400 } }],
      ['smaller than NarSize', /CACHE_INVALID|MISMATCH/, { info: { narSize: 4_000_000 } }],
      ['larger than FileSize', /CACHE_INVALID|LIMIT/, { info: { fileSize: 400 } }],
      ['smaller than FileSize', /CACHE_INVALID|MISMATCH/, { info: { fileSize: 4_000_000 } }],
      ['with another FileHash', /CACHE_INVALID|MISMATCH/, { info: { fileHash: narHashOf(sha256('wrong')) } }],
      [
        'that unpack to a thousand times as much',
        /CACHE_INVALID|LIMIT/,
        { pack: () => bomb, info: { compression: 'gzip' } },
      ],
      [
        'without end',
        /CACHE_INVALID|LIMIT|NAR_INVALID/,
        { serveNar: tricks.endless(Buffer.alloc(65_536, 'x')) },
      ],
      [
        'without end, after an honest beginning',
        /CACHE_INVALID|LIMIT|NAR_INVALID/,
        {
          serveNar: (_request, response, bytes) => {
            const send = response.write.bind(response);
            send(bytes);
            const more = (): void => {
              while (!response.destroyed && send(Buffer.alloc(65_536)));
            };
            response.on('drain', more);
            more();
          },
        },
      ],
      [
        'of gzip without end',
        /CACHE_INVALID|LIMIT|NAR_INVALID/,
        {
          info: { compression: 'gzip', fileSize: undefined as never, fileHash: undefined as never },
          serveNar: tricks.endless(gzipSync(Buffer.alloc(10_000_000))),
        },
      ],
    ])('%s', async (_what, code, given) => {
      const before = process.memoryUsage().rss;
      expect(await outcome(await hostileCache(), { key, ...given })).toMatch(code);
      expect(process.memoryUsage().rss - before).toBeLessThan(400 * 2 ** 20);
    });

    it('of xz without end', async () => {
      const { compress } = await import('lzma-native');
      const bomb = await new Promise<Buffer>(
        (done) => void compress(Buffer.alloc(50_000_000), 0, (packed) => done(packed)),
      );
      const code = await outcome(await hostileCache(), {
        key,
        info: { compression: 'xz', fileSize: undefined as never, fileHash: undefined as never },
        serveNar: tricks.endless(bomb),
      });
      expect(code).toMatch(/CACHE_INVALID|LIMIT|NAR_INVALID/);
    });
  });

  describe('misbehaves on the line', () => {
    it.each<readonly [what: string, code: string, given: OfferTricks]>([
      ['says nothing to a question', 'FLK_NETWORK', { serveNarInfo: tricks.silent }],
      ['stalls after the head', 'FLK_NETWORK', { serveNar: tricks.stallsAfterHead }],
      ['stalls inside the archive', 'FLK_NETWORK', { serveNar: tricks.stallsInside }],
      ['sends less than it says', 'FLK_NETWORK', { serveNar: tricks.lengthLie(1000) }],
      ['sends more than it says', 'FLK_CACHE_INVALID', { serveNar: tricks.lengthLie(-1000) }],
      [
        'drops the archive again and again at its beginning',
        'FLK_NETWORK',
        { serveNar: tricks.drops(0, 1000) },
      ],
      [
        'drops, then sends another part',
        'FLK_CACHE_INVALID',
        { serveNar: tricks.drops(100_000, 1, tricks.otherRange) },
      ],
      ['has lost the archive', 'FLK_CACHE_INVALID', { serveNar: tricks.status(404) }],
      ['answers 500', 'FLK_HTTP_STATUS', { serveNarInfo: tricks.status(500) }],
      ['wants a login', 'FLK_HTTP_AUTH', { serveNarInfo: tricks.status(401) }],
      ['redirects to a file', 'FLK_HTTP_STATUS', { serveNar: tricks.redirect('file:///etc/passwd') }],
      [
        'redirects in a circle',
        'FLK_HTTP_STATUS',
        {
          serveNarInfo: (request, response) =>
            void response.writeHead(302, { location: request.url ?? '' }).end(),
        },
      ],
      [
        'packs answers that nobody asked it to pack',
        'FLK_CACHE_INVALID',
        {
          serveNarInfo: (_q, response, bytes) =>
            void response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(bytes)),
        },
      ],
    ])('%s', { timeout: 30_000 }, async (_what, code, given) => {
      expect(await outcome(await hostileCache(), { key, ...given })).toBe(code);
    });

    it('gives other bytes than it says, after a break', async () => {
      const given = { key, serveNar: tricks.drops(100_000, 1, tricks.lyingRange) };
      expect(await outcome(await hostileCache(), given)).toMatch(/^FLK_(NAR|CACHE)_/);
    });

    it('drops in the middle, and all is well with ranges', async () => {
      const cache = await hostileCache();
      expect(await outcome(cache, { key, serveNar: tricks.drops(150_000, 3) })).toBe('valid');
      const parts = cache.requests.filter((request) => request.includes('/nar/'));
      expect(parts).toHaveLength(4);
      expect(parts.slice(1).every((request) => /bytes=[1-9]\d*-$/.test(request))).toBe(true);
    });

    it('drops in the middle, and all is well without ranges', async () => {
      const given = { key, serveNar: tricks.drops(150_000, 2, tricks.ignoresRange) };
      expect(await outcome(await hostileCache(), given)).toBe('valid');
    });

    it('recovers', async () => {
      let failures = 2;
      const given: OfferTricks = {
        key,
        serveNarInfo: (_request, response, bytes) => {
          if (failures-- > 0) response.writeHead(503).end();
          else response.end(bytes);
        },
      };
      expect(await outcome(await hostileCache(), given)).toBe('valid');
    });

    it('is no cache at all', async () => {
      const cache = await hostileCache();
      for (const [trick, code] of [
        [tricks.status(404), 'FLK_CACHE_INVALID'],
        [
          ((_q, response) => void response.end('StoreDir: /gnu/store\n')) as typeof tricks.silent,
          'FLK_CACHE_INVALID',
        ],
        [tricks.endless(Buffer.alloc(65_536, 'x')), 'FLK_CACHE_INVALID'],
        [tricks.status(500), 'FLK_HTTP_STATUS'],
      ] as const) {
        cache.tricks.set('/nix-cache-info', trick);
        expect(await outcome(cache, { key })).toBe(code);
      }
    });
  });

  it('spoils nothing where another cache is honest', { timeout: 30_000 }, async () => {
    for (const given of [
      { key, serveNar: tricks.stallsInside },
      { key, serveNar: tricks.status(404) },
      { key, serveNar: tricks.endless(Buffer.alloc(65_536, 'x')) },
      { key, serveNarInfo: tricks.status(500) },
      { key, text: () => 'nonsense' },
      { text: (text: string) => text },
    ] satisfies OfferTricks[]) {
      const [bad, good] = [await hostileCache(), await hostileCache()];
      await bad.offer('x', sample, given);
      const { path } = await good.offer('x', sample, { key });
      const { store, substituter } = await client([bad.url, good.url]);
      await substituter.require(path);
      await store.verifyPath(path);
    }
  });

  it('offers paths that refer to each other', async () => {
    const cache = await hostileCache();
    const [one, two] = ['one', 'two'].map((name) => makeOutputPath('out', sha256(name), name));
    const offered = await cache.offer('one', sample, { key, info: { references: [two!] } });
    await cache.offer('two', sample, { key, info: { references: [one!] } });
    const { store, substituter } = await client([cache.url]);
    const error = await errorOf(substituter.require(offered.path));
    expect(error.code).toBe('FLK_CACHE_INVALID');
    expectNothing(store);
  });

  it('offers a path that refers to itself', async () => {
    const cache = await hostileCache();
    const self = makeOutputPath('out', sha256('self'), 'self');
    const { path } = await cache.offer('self', sample, { key, info: { references: [self] } });
    const { store, substituter } = await client([cache.url]);
    await substituter.require(path);
    expect(store.query(path)?.references).toEqual([path]);
  });

  it('is asked once for what it does not have', async () => {
    const cache = await hostileCache();
    const file = join(temporaryFolder(), 'caches.sqlite');
    const path = makeOutputPath('out', sha256('nothing'), 'nothing');
    for (let run = 0; run < 2; run++) {
      const answers = await openAnswers(file, { positive: 1000, negative: 1000 });
      const { substituter } = await client([cache.url], { answers });
      expect(await substituter.substitute(path)).toBe(false);
      answers.close();
    }
    expect(cache.requests).toEqual(['GET /nix-cache-info', `GET /${hashPart(path)}.narinfo`]);
  });
});
