/** flk cache serve beside a real Nix: what Nix takes from it, and what it puts there. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fingerprint } from '../../src/formats/narinfo.ts';
import {
  generateSecretKey,
  printPublicKey,
  publicKeyOf,
  type SecretKey,
  signText,
} from '../../src/formats/signature.ts';
import { makeTextPath, type StorePath } from '../../src/formats/store-path.ts';
import type { StoreOfferOptions } from '../../src/store/cache-offers.ts';
import { serveStore, token } from '../support/cache-server.ts';
import { cliWorld } from '../support/cli.ts';
import { nginxAvailable, nginxReason, startNginx } from '../support/nginx.ts';
import { nix, nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';
import { directory, file, symlink, treeFrom } from '../support/trees.ts';

/** Nix with nothing remembered of caches, and with some lines of configuration. */
function nixAt(home: string, ...config: string[]) {
  const env = { HOME: home, XDG_CACHE_HOME: join(home, 'cache'), NIX_CONFIG_EXTRA: config.join('\n') };
  return async (...args: string[]): Promise<string> => {
    const { status, stdout, stderr } = await nix(args, { env });
    if (status !== 0) throw new Error(stderr);
    return stdout.trim();
  };
}

/** Forgets paths of Nix's store; those that are used elsewhere stay. */
async function forget(...paths: string[]): Promise<void> {
  for (const path of paths) await nixCommand('nix-store', ['--delete', path]);
}

let count = 0;

/** Two paths in Nix's store, built by it, the second with a reference to the first: neither is proven by its content. */
async function buildInNix(): Promise<[StorePath, StorePath]> {
  // Nobody else has it, so that it can be deleted.
  const salt = `${process.pid}-${Date.now()}-${count++}`;
  const built = await nixAt(temporaryFolder())(
    'build',
    '--impure',
    '--no-link',
    '--print-out-paths',
    '--expr',
    `let make = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = ["-c" script]; };
         base = make "base" "echo ${salt} > $out";
     in make "top" "/bin/mkdir $out; echo \${base} > $out/base; /bin/ln -s base $out/link; /bin/touch $out/run; /bin/chmod +x $out/run"`,
  );
  const references = await nixCommand('nix-store', ['--query', '--references', built]);
  return [references.stdout.trim() as StorePath, built as StorePath];
}

const signing = (key: SecretKey): StoreOfferOptions => ({ sign: (info) => signText(fingerprint(info), key) });
const netrc = (): string => {
  const path = join(temporaryFolder(), 'netrc');
  writeFileSync(path, `machine 127.0.0.1 login flk password ${token}\n`);
  return path;
};

describe.skipIf(!nixAvailable())(`flk cache serve and Nix ${nixReason}`, () => {
  it('takes what nix copy puts there, and gives it back under our signature', async () => {
    const key = generateSecretKey('flk-test-1');
    const { url, store } = await serveStore({ uploads: {}, offers: signing(key) });
    const [base, top] = await buildInNix();
    const withToken = nixAt(temporaryFolder(), `netrc-file = ${netrc()}`);
    await expect(nixAt(temporaryFolder())('copy', '--to', url, top)).rejects.toThrow('HTTP error 401');
    await withToken('copy', '--to', url, top);
    expect(store.closure([top])).toEqual([base, top].sort());
    for (const path of [base, top]) await store.verifyPath(path);
    expect(store.query(top)?.deriver).toMatch(/-top\.drv$/);

    await forget(top, base);
    const trusting = `require-sigs = true\ntrusted-public-keys = ${printPublicKey(publicKeyOf(key))}`;
    const stranger = printPublicKey(publicKeyOf(generateSecretKey('flk-test-1')));
    await expect(nixAt(temporaryFolder())('copy', '--from', url, top)).rejects.toThrow('lacks a signature');
    await expect(
      nixAt(temporaryFolder(), `require-sigs = true\ntrusted-public-keys = ${stranger}`)(
        'copy',
        '--from',
        url,
        top,
      ),
    ).rejects.toThrow('lacks a signature');
    await nixAt(temporaryFolder(), trusting)('copy', '--from', url, top);
    const checked = await nixCommand('nix-store', ['--verify-path', base, top]);
    expect([checked.status, checked.stderr]).toEqual([0, '']);
    // Who put it there remembers another address of its archive.
    await forget(top, base);
    await withToken('copy', '--no-check-sigs', '--from', url, top);
    expect((await nixCommand('nix-store', ['--verify-path', base, top])).status).toBe(0);
    await forget(top, base);
  });

  it.each(['none', 'xz'] as const)(
    'answers all that Nix asks of a cache, packed with %s',
    async (compression) => {
      const { url, store } = await serveStore({ offers: { compression } });
      const tree = directory({
        bin: directory({ run: file('#!/bin/sh\n', true) }),
        empty: directory(),
        link: symlink('bin/run'),
      });
      const { path } = await store.addTree(`seen-${process.pid}-${compression}`, treeFrom(tree));
      const ask = nixAt(temporaryFolder());
      const info = JSON.parse(await ask('path-info', '--json', '--json-format', '1', '--store', url, path))[
        path
      ];
      expect(info).toMatchObject({
        narHash: store.query(path)!.narHash,
        narSize: store.query(path)!.narSize,
        compression,
      });
      expect((await ask('store', 'ls', '-R', '--store', url, path)).split('\n')).toEqual([
        './bin',
        './bin/run',
        './empty',
        './link',
      ]);
      expect(await ask('store', 'cat', '--store', url, `${path}/bin/run`)).toBe('#!/bin/sh');
      expect(await ask('store', 'ping', '--store', url)).toBe('');
      // Proven by its content, it needs no signature.
      await ask('copy', '--from', url, path);
      expect((await nixCommand('nix-store', ['--verify-path', path])).status).toBe(0);
      await forget(path);
      await expect(ask('path-info', '--store', url, makeTextPath('x', 'x'))).rejects.toThrow('is not valid');
    },
  );

  it('is a substituter', async () => {
    const key = generateSecretKey('flk-test-1');
    const { url, requests } = await serveStore({ uploads: {}, offers: signing(key) });
    const [base, top] = await buildInNix();
    await nixAt(temporaryFolder(), `netrc-file = ${netrc()}`)('copy', '--to', url, top);
    await forget(top, base);
    const trusted = printPublicKey(publicKeyOf(key));
    const { status } = await nixCommand('nix-store', ['--realise', top], {
      env: {
        HOME: temporaryFolder(),
        NIX_CONFIG_EXTRA: `substituters = ${url}\ntrusted-public-keys = ${trusted}`,
      },
    });
    expect(status).toBe(0);
    expect(
      requests.filter(({ method, status }) => method === 'GET' && status >= 400 && status !== 404),
    ).toEqual([]);
    await forget(top, base);
  });

  it.each(['xz', 'zstd', 'none', 'bzip2', 'gzip'])('unpacks what Nix packs with %s', async (compression) => {
    const { url, store } = await serveStore({ uploads: {} });
    const folder = join(temporaryFolder(), 'packed');
    mkdirSync(folder);
    writeFileSync(join(folder, 'text'), `${compression} `.repeat(50_000));
    const put = nixAt(temporaryFolder(), `netrc-file = ${netrc()}`);
    const path = (await put(
      'store',
      'add',
      '-n',
      `packed-${process.pid}-${compression}`,
      folder,
    )) as StorePath;
    await put('copy', '--to', `${url}?compression=${compression}`, path);
    await store.verifyPath(path);
    expect(store.query(path)?.ca).toMatch(/^fixed:r:sha256:/);
    await forget(path);
  });
});

describe.skipIf(!nginxAvailable())(`a cache folder behind nginx ${nginxReason}`, () => {
  it('is filled by flk, by file and by HTTP, and read by Nix and by flk', async () => {
    const world = cliWorld();
    const other = cliWorld();
    const key = join(world.home, 'key');
    const publicKey = printPublicKey(publicKeyOf(await keygen(world, key)));
    const source = join(world.folder, 'source');
    mkdirSync(source);
    writeFileSync(join(source, 'large'), 'some text\n'.repeat(300_000));
    const added = await world.flk(['store', 'add', '--name', `behind-${process.pid}`, source]);
    const path = added.stdout.trim();
    expect([added.stderr, added.status]).toEqual([expect.any(String), 0]);
    for (const by of ['file', 'http']) {
      const folder = temporaryFolder();
      const server = await startNginx(folder);
      const pushed = await world.flk([
        'cache',
        'push',
        '--key',
        key,
        by === 'file' ? folder : server.url,
        path,
      ]);
      expect([pushed.status, pushed.stderr]).toEqual([0, expect.any(String)]);
      const trusting = `require-sigs = true\ntrusted-public-keys = ${publicKey}`;
      await nixAt(temporaryFolder(), trusting)('copy', '--from', server.url, path);
      expect((await nixCommand('nix-store', ['--verify-path', path])).status).toBe(0);
      expect(await nixAt(temporaryFolder())('path-info', '--sigs', path)).toContain(publicKey.split(':')[0]);
      await forget(path);
      const store = join(other.home, by);
      const pulled = await other.flk([
        'cache',
        'pull',
        '--store',
        store,
        '--trusted-public-key',
        publicKey,
        server.url,
        path,
      ]);
      expect([pulled.status, pulled.stdout]).toEqual([0, `${path}\n`]);
      const verified = await other.flk(['store', 'verify', '--store', store, '--all']);
      expect([verified.status, verified.stderr]).toEqual([0, expect.any(String)]);
    }
  });

  async function keygen(world: ReturnType<typeof cliWorld>, file: string): Promise<SecretKey> {
    const { stdout } = await world.flk(['cache', 'keygen', 'nginx-1']);
    writeFileSync(file, stdout, { mode: 0o600 });
    const { parseSecretKey } = await import('../../src/formats/signature.ts');
    return parseSecretKey(stdout);
  }
});
