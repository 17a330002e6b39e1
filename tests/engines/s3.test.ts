/** Caches in buckets of a real server, which checks every signature; filled and read by flk, and beside Nix. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { silent } from '../../src/base/events.ts';
import {
  generateSecretKey,
  parsePublicKey,
  printPublicKey,
  publicKeyOf,
} from '../../src/formats/signature.ts';
import type { StorePath } from '../../src/formats/store-path.ts';
import { pushPaths } from '../../src/store/caches/push.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { addOutput, taking } from '../support/caches.ts';
import { flakeWorld } from '../support/cli.ts';
import { errorOf } from '../support/errors.ts';
import { type NixResult, nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { bucketCache, s3Available, s3Reason, signingDoor, startS3 } from '../support/s3.ts';
import { temporaryFolder } from '../support/temp.ts';
import { file } from '../support/trees.ts';

const key = generateSecretKey('test-1');
const publicKeys = [publicKeyOf(key)];

/** A store with `app`, which refers to `lib`. */
async function filledStore(libSize = 100): Promise<{ store: Store; app: StorePath; lib: StorePath }> {
  const store = await openStore(temporaryFolder());
  const lib = await addOutput(store, 'lib', file('lib '.repeat(libSize / 4)));
  const app = await addOutput(store, 'app', file('app'), [lib.path]);
  return { store, app: app.path, lib: lib.path };
}

const push = (store: Store, address: string, packing: 'none' | 'xz' = 'none'): Promise<StorePath[]> =>
  pushPaths(
    bucketCache(address),
    store.paths().map((path) => ({ info: store.query(path)!, tree: store.tree(path) })),
    { packing, key, reporter: silent },
  );

describe.skipIf(!s3Available)(`buckets ${s3Reason}`, () => {
  it('take what is pushed, once, and give it back, signed', async () => {
    const server = await startS3();
    const { store, app, lib } = await filledStore();
    const address = server.address('team/x86');
    expect((await push(store, address)).sort()).toEqual([app, lib].sort());
    expect(await push(store, address)).toEqual([]);
    const { substituter, store: other } = await taking([bucketCache(address)], { publicKeys });
    await substituter.require(app);
    for (const path of [app, lib]) await other.verifyPath(path);
    const addresses = server.requests().map((line) => line.split(' ')[1]!);
    expect(
      addresses.filter((one) => one !== '/caches').every((one) => one.startsWith('/caches/team/x86/')),
    ).toBe(true);
    // The other half of a bucket is another cache.
    expect((await errorOf(bucketCache(server.address('other')).info())).code).toBe('FLK_CACHE_INVALID');
  });

  it('take a large archive in parts', async () => {
    const server = await startS3();
    const { store, lib } = await filledStore(12_000_000);
    const address = server.address('', '&multipart-threshold=6000000');
    await push(store, address);
    expect(server.requests().filter((line) => line.includes('partNumber='))).toHaveLength(3);
    const { substituter, store: other } = await taking([bucketCache(address)], { publicKeys });
    await substituter.require(lib);
    await other.verifyPath(lib);
  });

  it('keep what is there when two push the same at once', async () => {
    const server = await startS3();
    const { store, app } = await filledStore();
    await Promise.all([push(store, server.address('c'), 'xz'), push(store, server.address('c'))]);
    const { substituter, store: other } = await taking([bucketCache(server.address('c'))], { publicKeys });
    await substituter.require(app);
    await other.verifyPath(app);
  });

  it('have names with every character that a prefix may have', async () => {
    const server = await startS3();
    const { store, app } = await filledStore();
    const address = server.address('a+b=c@d,e:f!g~h/i.j');
    await push(store, address);
    const { substituter } = await taking([bucketCache(address)], { publicKeys });
    await substituter.require(app);
  });

  it('are caches to every command', async () => {
    const server = await startS3();
    const world = flakeWorld(
      'inputs: { tree: { url: path:./tree, flake: false } }\n',
      { a: 'text' },
      server.env,
    );
    mkdirSync(join(world.folder, 'tree'));
    writeFileSync(join(world.folder, 'tree/file'), 'text');
    git(world.folder, 'add', '-N', '.');
    const address = server.address('all');
    const ok = async (...args: string[]): Promise<string> => {
      const { status, stdout, stderr } = await world.flk(args);
      expect(status, stderr).toBe(0);
      return stdout.trim();
    };
    const path = await ok('store', 'add', 'a');
    expect(await ok('cache', 'push', address, path)).toBe(path);
    expect(await ok('cache', 'info', address)).toContain(`s3://caches/all?endpoint=${server.url}`);
    expect(await ok('cache', 'pull', address, path, '--store', 'other')).toBe(path);
    expect(readFileSync(join(world.folder, 'other', path), 'utf8')).toBe('text');
    const before = server.requests().length;
    await ok('archive', '--to', address);
    expect(
      server
        .requests()
        .slice(before)
        .filter((line) => /^"PUT .*narinfo/.test(line)).length,
    ).toBeGreaterThan(0);
    const drv = '/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-gtk+-1.drv';
    writeFileSync(join(world.folder, 'log'), 'a line\n');
    await bucketCache(address).putNar(`log/${drv.slice(11)}`, join(world.folder, 'log'));
    expect(await ok('log', drv, '--substituters', address)).toBe('a line');
    // Nobody else's keys are of any use, and no key is shown.
    const env = { AWS_SECRET_ACCESS_KEY: 'hush' };
    const refused = await world.flk(['cache', 'push', '--log-format', 'json', address, path], { env });
    expect(refused.status).toBe(3);
    expect(refused.stderr).toContain('FLK_HTTP_AUTH');
    expect(refused.stdout + refused.stderr).not.toMatch(/hush|Signature=/);
  });

  it('say what is wrong with a key, a clock, a region, a bucket', async () => {
    const server = await startS3();
    const address = server.address('');
    const wrong = bucketCache(address, { keys: { accessKeyId: 'test:tester', secretAccessKey: 'hush' } });
    expect(await errorOf(wrong.prepare())).toMatchObject({
      code: 'FLK_HTTP_AUTH',
      message: expect.stringContaining('secret key does not belong'),
    });
    expect(await errorOf(bucketCache(address, { region: 'eu-west-1' }).prepare())).toMatchObject({
      code: 'FLK_HTTP_STATUS',
      message: 'the bucket caches is in the region eu-test-1',
    });
    const none = bucketCache(address.replace('s3://caches', 's3://nowhere'));
    expect(await errorOf(none.prepare())).toMatchObject({
      code: 'FLK_HTTP_STATUS',
      message: expect.stringContaining('has no bucket nowhere'),
    });
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 3_600_000 });
    try {
      expect(await errorOf(bucketCache(address).prepare())).toMatchObject({
        code: 'FLK_HTTP_AUTH',
        message: expect.stringContaining('60 minutes apart'),
      });
    } finally {
      vi.useRealTimers();
    }
  });
});

describe.skipIf(!s3Available || !nixAvailable())(`buckets beside Nix ${s3Reason} ${nixReason}`, () => {
  /** Nix remembers what buckets have by their names alone, whichever server they are on. */
  const nixAnew = (args: readonly string[], input?: string): Promise<NixResult> =>
    nix(args, { env: { XDG_CACHE_HOME: temporaryFolder() }, ...(input === undefined ? {} : { input }) });

  async function nixOk(args: readonly string[], input?: string): Promise<string> {
    const { status, stdout, stderr } = await nixAnew(args, input);
    expect(status, stderr).toBe(0);
    return stdout.trim();
  }

  it('Nix takes what flk has pushed, and believes its signatures', async () => {
    const server = await startS3();
    const door = await signingDoor(server.url);
    const { store, app, lib } = await filledStore();
    await push(store, server.address(''), 'xz');
    const root = temporaryFolder();
    const copy = ['copy', '--from', `s3://caches?endpoint=${door}`, '--to', `local?root=${root}`, app];
    expect((await nixAnew(copy)).status).not.toBe(0);
    await nixOk([...copy, '--option', 'trusted-public-keys', printPublicKey(publicKeys[0]!)]);
    const there = await nixOk(['path-info', '--store', `local?root=${root}`, '--recursive', app]);
    expect(there.split('\n').sort()).toEqual([app, lib].sort());
    await nixOk(['store', 'verify', '--no-trust', '--store', `local?root=${root}`, '--recursive', app]);
  });

  it('flk takes what Nix has pushed, whole or in parts, and believes its signatures', async () => {
    const server = await startS3();
    const door = await signingDoor(server.url);
    const folder = temporaryFolder();
    const secret = await nixOk(['key', 'generate-secret', '--key-name', 'nix-1']);
    const publicKey = parsePublicKey(await nixOk(['key', 'convert-secret-to-public'], secret));
    writeFileSync(join(folder, 'key'), secret);
    // Too random to be packed into one part.
    const bytes = Buffer.alloc(7_000_000);
    for (let i = 0, state = 1; i < bytes.length; i++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      bytes[i] = state >>> 16;
    }
    writeFileSync(join(folder, 'large'), bytes);
    const path = (await nixOk(['store', 'add-file', join(folder, 'large')])) as StorePath;
    const options = '&multipart-upload=true&multipart-threshold=5242880&compression=none';
    await nixOk(['copy', '--to', `s3://caches?endpoint=${door}&secret-key=${folder}/key${options}`, path]);
    expect(server.requests().some((line) => line.includes('partNumber=2'))).toBe(true);
    const cache = bucketCache(server.address(''));
    const { signatures } = (await cache.narInfo(path))!;
    expect(signatures.map((signature) => signature.split(':')[0])).toEqual(['nix-1']);
    const { substituter, store } = await taking([cache], { publicKeys: [publicKey] });
    await substituter.require(path);
    await store.verifyPath(path);
  });
});
