import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import { ownerName } from '../../../src/base/files.ts';
import { narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { type NarInfo, parseNarInfo, printNarInfo } from '../../../src/formats/narinfo.ts';
import { generateSecretKey, publicKeyOf } from '../../../src/formats/signature.ts';
import { hashPart, type StorePath } from '../../../src/formats/store-path.ts';
import { type BinaryCache, parseCacheAddress } from '../../../src/store/caches/cache.ts';
import { FolderCache } from '../../../src/store/caches/folder-cache.ts';
import { defaultPacking, openPusher, pushPaths } from '../../../src/store/caches/push.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';
import { openStore } from '../../../src/store/store.ts';
import { addOutput, type FilledCache, filledCache, taking } from '../../support/caches.ts';
import { errorOf, thrownBy, withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, entriesOf, file, treeFrom } from '../../support/trees.ts';

/** Rewrites what a cache says of a path, as nobody with the key would. */
function forge({ folder }: FilledCache, path: StorePath, change: (info: NarInfo) => Partial<NarInfo>): void {
  const note = join(folder, `${hashPart(path)}.narinfo`);
  const info = parseNarInfo(readFileSync(note, 'utf8'), path);
  writeFileSync(note, printNarInfo({ ...info, ...change(info) }));
}

describe('the address of a cache', () => {
  it.each([
    ['https://h/x', { place: { kind: 'server', url: new URL('https://h/x/') }, trusted: false }],
    ['http://h?priority=10&trusted=true', { priority: 10, trusted: true }],
    ['file:///a/b?compression=xz', { place: { kind: 'folder', path: '/a/b' }, packing: 'xz' }],
    ['file:///a%20b', { place: { kind: 'folder', path: '/a b' } }],
    ['sub?trusted=1', { place: { kind: 'folder', path: '/cwd/sub' }, trusted: true }],
    ['/abs', { place: { kind: 'folder', path: '/abs' }, trusted: false }],
    ['https://h/x?want-mass-query=true', { trusted: false }],
  ])('may be %s', (text, address) => {
    expect(parseCacheAddress(text, '/cwd')).toMatchObject(address);
  });

  it.each(['ssh://h', 'ftp://h/x', 'file://host/x', 'https://h?priority=high', 'https://h?compression=lzma'])(
    'may not be %s',
    (text) => {
      expect(thrownBy(() => parseCacheAddress(text, '/cwd')).code).toBe('FLK_USAGE');
    },
  );

  it('is never repeated with what may be a secret', () => {
    const error = thrownBy(() => parseCacheAddress('s3://me:hush@bucket?token=hush', '/'));
    expect(error.message + JSON.stringify(error.facts)).not.toContain('hush');
  });
});

describe('taking from a folder', () => {
  it.each(['none', 'xz'] as const)(
    'gives a path and all that it refers to, packed as %s',
    async (packing) => {
      const { cache, publicKey, paths, store: from } = await filledCache(packing);
      const { store, substituter, notices } = await taking([cache], { publicKeys: [publicKey] });
      expect(await substituter.substitute(paths.app.path)).toBe(true);
      for (const { path, narHash, narSize, references } of Object.values(paths)) {
        const info = store.query(path);
        expect(info).toMatchObject({ narHash, narSize, references, ultimate: false });
        expect(info?.signatures).toHaveLength(1);
        await store.verifyPath(path);
        expect(await entriesOf(store.tree(path))).toEqual(await entriesOf(from.tree(path)));
      }
      expect(notices()).toEqual([]);
    },
  );

  it('takes only what is missing', async () => {
    const { cache, folder, publicKey, paths } = await filledCache();
    const { store, substituter } = await taking([cache], { publicKeys: [publicKey] });
    await substituter.substitute(paths.lib.path);
    rmSync(join(folder, `${hashPart(paths.lib.path)}.narinfo`));
    const again = await taking([cache], { publicKeys: [publicKey] });
    expect(await again.substituter.substitute(paths.app.path)).toBe(false);
    expect(await substituter.substitute(paths.app.path)).toBe(true);
    expect(store.paths()).toHaveLength(3);
  });

  it('takes nothing of a closure that is not all there', async () => {
    const { cache, folder, publicKey, paths } = await filledCache();
    rmSync(join(folder, `${hashPart(paths.lib.path)}.narinfo`));
    const { store, substituter } = await taking([cache], { publicKeys: [publicKey] });
    expect(await substituter.substitute(paths.app.path)).toBe(false);
    expect(store.paths()).toEqual([]);
    const error = await errorOf(substituter.require(paths.app.path));
    expect(error.code).toBe('FLK_CACHE_MISSING');
    expect(error.message).toContain(paths.lib.path);
    expect(error.trail).toEqual([paths.app.path]);
  });

  it('tells what there is without fetching it', async () => {
    const { cache, publicKey, paths } = await filledCache();
    const { store, substituter } = await taking([cache], { publicKeys: [publicKey] });
    const other = '/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1' as StorePath;
    const offers = await substituter.offers([paths.app.path, paths.lib.path, other]);
    expect([...offers.keys()].sort()).toEqual([paths.app.path, paths.lib.path].sort());
    expect(offers.get(paths.lib.path)).toMatchObject({ url: cache.url, narSize: paths.lib.narSize });
    expect(store.paths()).toEqual([]);
  });

  it('is done once by two at a time', async () => {
    const { cache, publicKey, paths } = await filledCache();
    const one = await taking([cache], { publicKeys: [publicKey] });
    const store = await openStore(one.store.root);
    const { openSubstituter } = await import('../../../src/store/substituter.ts');
    const { forgetful } = await import('../../../src/store/caches/answers.ts');
    const two = openSubstituter({
      store,
      caches: [{ cache }],
      publicKeys: [publicKey],
      answers: forgetful,
      reporter: silent,
    });
    const done = await Promise.all([
      one.substituter.substitute(paths.app.path),
      two.substitute(paths.app.path),
      one.substituter.substitute(paths.tool.path),
    ]);
    expect(done).toEqual([true, true, true]);
    for (const { path } of Object.values(paths)) await store.verifyPath(path);
    expect(readdirSync(join(store.root, 'nix/var/flk/stage'))).toEqual([]);
    store.close();
  });

  it('asks the cache with the lower number first, and among equals the first', async () => {
    const [a, b] = [await filledCache(), await filledCache()];
    writeFileSync(join(b.folder, 'nix-cache-info'), 'StoreDir: /nix/store\nPriority: 10\n');
    const keys = { publicKeys: [a.publicKey, b.publicKey] };
    const from = async (caches: Parameters<typeof taking>[0]): Promise<string | undefined> => {
      const { substituter } = await taking(caches, keys);
      return (await substituter.offers([a.paths.lib.path])).get(a.paths.lib.path)?.url;
    };
    expect(await from([a.cache, b.cache])).toBe(b.cache.url);
    expect(await from([{ cache: a.cache, priority: 5 }, b.cache])).toBe(a.cache.url);
    expect(await from([{ cache: a.cache, priority: 10 }, b.cache])).toBe(a.cache.url);
  });
});

describe('trust', () => {
  it('is in a key that made the signature, of whatever name', async () => {
    const { cache, publicKey, paths } = await filledCache();
    const same = publicKeyOf(generateSecretKey(publicKey.name));
    const attempts = [
      { publicKeys: [], taken: false },
      { publicKeys: [same], taken: false },
      { publicKeys: [same, publicKey], taken: true },
    ];
    for (const { publicKeys, taken } of attempts) {
      const { substituter, store, notices, events } = await taking([cache], { publicKeys });
      expect(await substituter.substitute(paths.app.path)).toBe(taken);
      expect(store.paths()).toHaveLength(taken ? 3 : 0);
      // One notice is enough, however many paths.
      expect(notices()).toEqual(taken ? [] : ['cache-untrusted']);
      if (taken) continue;
      expect(events[0]).toMatchObject({ notice: { cache: cache.url, path: paths.app.path, signed: true } });
      await expect(substituter.require(paths.app.path)).rejects.toEqual(withCode('FLK_CACHE_UNTRUSTED'));
    }
  });

  it('is in a cache, where somebody says so', async () => {
    const { cache, paths } = await filledCache();
    const { substituter } = await taking([{ cache, trusted: true }]);
    expect(await substituter.substitute(paths.app.path)).toBe(true);
  });

  it.each([
    ['references', (): Partial<NarInfo> => ({ references: [] })],
    ['narHash', (): Partial<NarInfo> => ({ narHash: narHashOf(sha256('x')) })],
    ['narSize', ({ narSize }: NarInfo): Partial<NarInfo> => ({ narSize: narSize + 1 })],
    ['signatures', (): Partial<NarInfo> => ({ signatures: [] })],
    [
      'path',
      ({ signatures }: NarInfo): Partial<NarInfo> => ({
        signatures: signatures.map((s) => s.replace('test-1', 'test-2')),
      }),
    ],
  ])('is lost by a change of %s', async (_, change) => {
    const filled = await filledCache();
    forge(filled, filled.paths.tool.path, change);
    const { substituter, store } = await taking([filled.cache], { publicKeys: [filled.publicKey] });
    expect(await substituter.substitute(filled.paths.tool.path)).toBe(false);
    expect(store.paths()).toEqual([]);
  });

  it('is not needed for what is named after its content', async () => {
    const filled = await filledCache();
    const source = await filled.store.addTree('source', treeFrom(directory({ a: file('b') })));
    const text = await filled.store.addText('note', 'words', [source.path]);
    const pushed = [source, text].map((info) => ({ info, tree: filled.store.tree(info.path) }));
    await pushPaths(filled.cache, pushed, { packing: 'none', reporter: silent });
    const { substituter, store, notices } = await taking([filled.cache]);
    expect(await substituter.substitute(text.path)).toBe(true);
    expect(store.query(text.path)).toMatchObject({ ca: text.ca, references: [source.path], signatures: [] });
    expect(notices()).toEqual([]);
  });

  it.each(['source', 'text'] as const)(
    'is not given to a %s with other bytes than its name says',
    async (kind) => {
      const filled = await filledCache();
      const { store: from, cache } = filled;
      const [one, other] =
        kind === 'source'
          ? [
              await from.addTree('source', treeFrom(file('one'))),
              await from.addTree('source', treeFrom(file('two'))),
            ]
          : [await from.addText('x', 'one', []), await from.addText('x', 'two', [])];
      const pushed = [one, other].map((info) => ({ info, tree: from.tree(info.path) }));
      await pushPaths(cache, pushed, { packing: 'none', reporter: silent });
      // The narinfo of one is true in all but that it gives the other's archive, with the other's hash.
      const theirs = (await cache.narInfo(other.path))!;
      forge(filled, one.path, () => ({
        url: theirs.url,
        narHash: theirs.narHash,
        narSize: theirs.narSize,
        fileHash: theirs.fileHash!,
        fileSize: theirs.fileSize!,
      }));
      const { substituter, store } = await taking([cache]);
      const error = await errorOf(substituter.substitute(one.path));
      expect(error.code).toBe('FLK_NAR_HASH_MISMATCH');
      expect(error.message).toContain('what its name promises');
      expect(store.paths()).toEqual([]);
    },
  );
});

describe('a cache that lies', () => {
  /** Takes `lib` from a cache whose archive or narinfo was changed by someone who has the key. */
  async function takeForged(
    change: (info: NarInfo) => Partial<NarInfo>,
    archive: (bytes: Buffer) => Buffer | undefined = (bytes) => bytes,
  ) {
    const filled = await filledCache();
    const { folder, cache, paths, publicKey } = filled;
    const { path } = paths.lib;
    const info = (await cache.narInfo(path))!;
    const bytes = archive(readFileSync(join(folder, info.url)));
    if (bytes) writeFileSync(join(folder, info.url), bytes);
    else rmSync(join(folder, info.url));
    forge(filled, path, change);
    const caches = [{ cache, trusted: true }];
    const taken = await taking(caches, { publicKeys: [publicKey] });
    const error = await errorOf(taken.substituter.substitute(path));
    expect(error.facts.cache).toBe(cache.url);
    expect(error.hint).toContain('--no-substitute');
    expect(taken.store.paths()).toEqual([]);
    expect(readdirSync(join(taken.store.root, 'nix/store'))).toEqual([]);
    expect(readdirSync(join(taken.store.root, 'nix/var/flk/stage'))).toEqual([]);
    // Another cache has it.
    const good = await filledCache();
    const { substituter, store } = await taking([...caches, good.cache], { publicKeys: [good.publicKey] });
    expect(await substituter.substitute(path)).toBe(true);
    await store.verifyPath(path);
    return error;
  }
  const nothing = (): Partial<NarInfo> => ({});

  it('about what is in the archive', async () => {
    const error = await takeForged(() => ({ narHash: narHashOf(sha256('x')) }));
    expect(error.code).toBe('FLK_NAR_HASH_MISMATCH');
  });

  it.each([
    ['larger', 1],
    ['smaller', -1],
  ])('about its size: it says %s', async (_, by) => {
    const error = await takeForged(({ narSize }) => ({ narSize: narSize + by }));
    expect(error.code).toBe('FLK_CACHE_INVALID');
    expect(error.message).toContain('another size');
  });

  it.each([
    ['larger', 1],
    ['smaller', -1],
  ])('about the size of the file: it says %s', async (_, by) => {
    const error = await takeForged(({ fileSize = 0 }) => ({ fileSize: fileSize + by }));
    expect(error.code).toBe('FLK_CACHE_INVALID');
  });

  it('about the hash of the file', async () => {
    const error = await takeForged(() => ({ fileHash: narHashOf(sha256('x')) }));
    expect(error.message).toContain('FileHash');
  });

  it('with an archive that was cut off, lengthened, changed or lost', async () => {
    expect((await takeForged(nothing, (bytes) => bytes.subarray(0, -8))).code).toBe('FLK_CACHE_INVALID');
    expect((await takeForged(nothing, (bytes) => Buffer.concat([bytes, bytes]))).code).toBe(
      'FLK_CACHE_INVALID',
    );
    const flipped = (bytes: Buffer): Buffer => {
      bytes[1000]! ^= 1;
      return bytes;
    };
    expect((await takeForged(nothing, flipped)).code).toBe('FLK_NAR_HASH_MISMATCH');
    expect((await takeForged(nothing, () => undefined)).message).toContain('is not there');
    expect((await takeForged(nothing, (bytes) => Buffer.alloc(bytes.length, 60))).code).toBe(
      'FLK_NAR_INVALID',
    );
  });

  it('with a narinfo of another path, or none', async () => {
    const filled = await filledCache();
    const { folder, cache, paths, publicKey } = filled;
    const note = (path: StorePath): string => join(folder, `${hashPart(path)}.narinfo`);
    const theirs = readFileSync(note(paths.tool.path));
    for (const text of [theirs, 'StorePath: x\n', '']) {
      writeFileSync(note(paths.lib.path), text);
      const { substituter } = await taking([cache], { publicKeys: [publicKey] });
      await expect(substituter.substitute(paths.lib.path)).rejects.toEqual(withCode('FLK_CACHE_INVALID'));
      // Who only wants to know what there is, is not stopped by it.
      expect((await substituter.offers([paths.lib.path, paths.tool.path])).size).toBe(1);
    }
  });

  it('with paths that refer to one another in a circle', async () => {
    const filled = await filledCache();
    forge(filled, filled.paths.lib.path, () => ({ references: [filled.paths.app.path] }));
    const { substituter } = await taking([{ cache: filled.cache, trusted: true }]);
    await expect(substituter.substitute(filled.paths.app.path)).rejects.toEqual(
      withCode('FLK_CACHE_INVALID'),
    );
  });

  it('with a bomb: some bytes that unpack to more than was said', async () => {
    const filled = await filledCache();
    const big = await addOutput(filled.store, 'big', file(Buffer.alloc(8 * 2 ** 20)));
    const pushed = [{ info: big, tree: filled.store.tree(big.path) }];
    await pushPaths(filled.cache, pushed, { packing: 'xz', key: filled.key, reporter: silent });
    forge(filled, big.path, () => ({ narSize: 1000 }));
    const { substituter, store } = await taking([{ cache: filled.cache, trusted: true }]);
    const error = await errorOf(substituter.substitute(big.path));
    expect(error.facts).toMatchObject({ found: 'more than 1000 bytes', wanted: '1000 bytes' });
    expect(store.paths()).toEqual([]);
  });

  it('about a path whose content is known beforehand', async () => {
    const { cache, publicKey, paths } = await filledCache();
    const { openSubstituter } = await import('../../../src/store/substituter.ts');
    const { forgetful } = await import('../../../src/store/caches/answers.ts');
    const store = await openStore(temporaryFolder());
    const expecting = (narHash: string) =>
      openSubstituter({
        store,
        caches: [{ cache }],
        publicKeys: [publicKey],
        answers: forgetful,
        expected: new Map([[paths.app.path, narHash as typeof paths.app.narHash]]),
        reporter: silent,
      });
    const wrong = await errorOf(expecting(narHashOf(sha256('x'))).require(paths.app.path));
    expect([wrong.code, wrong.hint]).toEqual(['FLK_NAR_HASH_MISMATCH', expect.stringContaining('narHash')]);
    expect(store.paths()).toEqual([]);
    await expecting(paths.app.narHash).require(paths.app.path);
    expect(store.query(paths.app.path)?.narHash).toBe(paths.app.narHash);
  });
});

describe('no cache', () => {
  it('is a folder without nix-cache-info, or one of another store', async () => {
    const folder = temporaryFolder();
    const cache = new FolderCache(folder);
    await expect(cache.info()).rejects.toEqual(withCode('FLK_CACHE_INVALID'));
    writeFileSync(join(folder, 'nix-cache-info'), 'StoreDir: /gnu/store\n');
    await expect(cache.info()).rejects.toEqual(withCode('FLK_CACHE_INVALID'));
    await expect(cache.prepare()).rejects.toEqual(withCode('FLK_CACHE_INVALID'));
    const good = await filledCache();
    const { substituter, notices } = await taking([cache, good.cache], { publicKeys: [good.publicKey] });
    expect(await substituter.substitute(good.paths.app.path)).toBe(true);
    expect(notices()).toEqual(['cache-unreachable']);
  });

  it('says what nobody wrote there', async () => {
    const folder = temporaryFolder();
    const cache = new FolderCache(folder);
    const lines = ['StoreDir: /nix/store', 'WantMassQuery: 1', 'Priority: 7', 'Later: x'];
    writeFileSync(join(folder, 'nix-cache-info'), `${lines.join('\n')}\n`);
    expect(await cache.info()).toEqual({ priority: 7, wantMassQuery: true });
    writeFileSync(join(folder, 'nix-cache-info'), 'StoreDir: /nix/store\nPriority: high\n');
    expect(await cache.info()).toEqual({ priority: 50, wantMassQuery: false });
  });
});

describe('putting into a folder', () => {
  it('removes what killed processes of this machine had half written, and nothing else', async () => {
    const { cache, folder } = await filledCache();
    const mine = `.${hostname()},`;
    const kept = [`${mine}${await ownerName()}`, '.elsewhere,1-1-a', `.${hostname()}-2,1-1-a`, '.htaccess'];
    for (const inner of ['', 'nar'])
      for (const name of [`${mine}1-1-a`, ...kept]) writeFileSync(join(folder, inner, name), 'half');
    await cache.prepare();
    for (const inner of ['', 'nar'])
      expect(readdirSync(join(folder, inner)).filter((name) => name.startsWith('.'))).toEqual(kept.sort());
  });

  it('adds what is missing, once, and signs it', async () => {
    const { cache, folder, store, paths, key } = await filledCache();
    const more = await addOutput(store, 'more', file('more'), [paths.app.path]);
    const pushed = [...Object.values(paths), more].map((info) => ({ info, tree: store.tree(info.path) }));
    const before = readdirSync(join(folder, 'nar')).length;
    expect(await pushPaths(cache, pushed, { key, reporter: silent })).toEqual([more.path]);
    expect(await pushPaths(cache, pushed, { key, reporter: silent })).toEqual([]);
    expect(readdirSync(join(folder, 'nar'))).toHaveLength(before + 1);
    expect(await cache.narInfo(more.path)).toMatchObject({
      compression: defaultPacking,
      narHash: more.narHash,
    });
    expect((await cache.narInfo(more.path))?.signatures[0]).toMatch(/^test-1:/);
  });

  it('adds nothing whose references are not there', async () => {
    const { cache, store, paths, folder } = await filledCache();
    const lost = await addOutput(store, 'lost');
    const top = await addOutput(store, 'top', file('top'), [lost.path, paths.app.path].sort());
    const pushing = pushPaths(cache, [{ info: top, tree: store.tree(top.path) }], { reporter: silent });
    expect((await errorOf(pushing)).message).toContain(lost.path);
    expect(existsSync(join(folder, `${hashPart(top.path)}.narinfo`))).toBe(false);
  });

  it('adds nothing that is not what its record says', async () => {
    const { cache, store, folder } = await filledCache();
    const info = await addOutput(store, 'bad', file('good'));
    const pushing = pushPaths(cache, [{ info, tree: treeFrom(file('evil')) }], { reporter: silent });
    await expect(pushing).rejects.toEqual(withCode('FLK_NAR_HASH_MISMATCH'));
    expect(existsSync(join(folder, `${hashPart(info.path)}.narinfo`))).toBe(false);
  });
});

describe('a pusher', () => {
  it('asks and packs once, however often it is given a path', async () => {
    const { store, paths } = await filledCache();
    const folder = new FolderCache(temporaryFolder());
    const asked: StorePath[] = [];
    const put: string[] = [];
    const cache: BinaryCache = {
      url: folder.url,
      local: true,
      info: () => folder.info(),
      narInfo: (path) => {
        asked.push(path);
        return folder.narInfo(path);
      },
      nar: (info) => folder.nar(info),
      prepare: () => folder.prepare(),
      putNar: (url, file) => {
        put.push(url);
        return folder.putNar(url, file);
      },
      putNarInfo: (info) => folder.putNarInfo(info),
    };
    const pusher = openPusher(cache, { packing: 'none', reporter: silent });
    const pushed = (...infos: PathInfo[]) => infos.map((info) => ({ info, tree: store.tree(info.path) }));
    const first = pusher.push(pushed(paths.lib));
    // Its references are on their way, by the push before.
    await Promise.all([first, pusher.push(pushed(paths.tool)), pusher.push(pushed(paths.lib, paths.app))]);
    await pusher.push(pushed(paths.app));
    await pusher.close();
    expect(put).toHaveLength(3);
    expect(asked).toHaveLength(3);
    const { substituter } = await taking([{ cache: folder, trusted: true }]);
    expect(await substituter.substitute(paths.app.path)).toBe(true);
  });
});
