/** Binary caches between flk and Nix: each takes what the other has put there, and believes the other's signatures. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../../src/base/events.ts';
import { fingerprint } from '../../src/formats/narinfo.ts';
import {
  isSignedBy,
  parsePublicKey,
  parseSecretKey,
  printPublicKey,
  printSecretKey,
} from '../../src/formats/signature.ts';
import type { StorePath } from '../../src/formats/store-path.ts';
import type { Packing } from '../../src/store/caches/cache.ts';
import { FolderCache } from '../../src/store/caches/folder-cache.ts';
import { defaultPacking, pushPaths } from '../../src/store/caches/push.ts';
import { addOutput, filledCache, httpCache, taking } from '../support/caches.ts';
import { serveFolder } from '../support/folder-server.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';
import { directory, file, symlink } from '../support/trees.ts';

/** Two derivations: the second refers to the first and to itself. */
const expression = `
  let make = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        PATH = "/bin:/usr/bin";
        args = [ "-c" script ];
      };
      lib = make "flk-cache-lib" "mkdir -p $out; echo data > $out/f; ln -s f $out/l";
  in make "flk-cache-app" "mkdir -p $out/bin; echo \${lib} $out > $out/bin/app; chmod +x $out/bin/app"`;

async function nixOk(args: readonly string[], input?: string): Promise<string> {
  const { status, stdout, stderr } = await nix(args, input === undefined ? {} : { input });
  expect(status, stderr).toBe(0);
  return stdout.trim();
}

describe.skipIf(!nixAvailable())(`binary caches beside Nix ${nixReason}`, () => {
  let app: StorePath;
  let secret: string;
  let publicKey: string;

  beforeAll(async () => {
    app = (await nixOk([
      'build',
      '--impure',
      '--no-link',
      '--print-out-paths',
      '--expr',
      expression,
    ])) as StorePath;
    secret = await nixOk(['key', 'generate-secret', '--key-name', 'nix-1']);
    publicKey = await nixOk(['key', 'convert-secret-to-public'], secret);
  });

  it.each(['xz', 'zstd', 'none', 'gzip', 'bzip2'])(
    'flk takes what nix copy has put there: %s',
    async (packing) => {
      const folder = temporaryFolder();
      const key = join(folder, 'key');
      writeFileSync(key, secret);
      const place = join(folder, 'cache');
      await nixOk(['copy', '--to', `file://${place}?compression=${packing}&secret-key=${key}`, app]);
      const unsigned = await taking([new FolderCache(place)]);
      expect(await unsigned.substituter.substitute(app)).toBe(false);
      const { base } = await serveFolder(place);
      for (const cache of [new FolderCache(place), httpCache(base)]) {
        const { substituter, store } = await taking([cache], { publicKeys: [parsePublicKey(publicKey)] });
        expect(await substituter.substitute(app)).toBe(true);
        const theirs = JSON.parse(
          await nixOk(['path-info', '--json', '--json-format', '1', '--recursive', app]),
        ) as Record<string, { narHash: string; narSize: number; references: string[]; deriver: string }>;
        for (const [path, { narHash, narSize, references, deriver }] of Object.entries(theirs)) {
          expect(store.query(path as StorePath)).toMatchObject({
            narHash,
            narSize,
            references: [...references].sort(),
            deriver,
          });
          await store.verifyPath(path as StorePath);
        }
        expect(Object.keys(theirs).sort()).toEqual(store.paths());
      }
    },
  );

  it.each([...new Set<Packing>(['none', 'xz', defaultPacking])])(
    'nix copy takes what flk has put there: %s',
    async (packing) => {
      const { cache, folder, store, key, publicKey: ours, paths } = await filledCache();
      const tree = directory({ bin: directory({ x: file('#!/bin/sh\n', true) }), l: symlink('bin/x') });
      const top = await addOutput(store, 'top', tree, [paths.app.path], printSecretKey(key));
      await pushPaths(cache, [{ info: top, tree: store.tree(top.path) }], { packing, key, reporter: silent });
      const root = temporaryFolder();
      const copy = ['copy', '--from', `file://${folder}`, '--to', `local?root=${root}`, top.path];
      const refused = await nix(copy);
      expect(refused.status).not.toBe(0);
      await nixOk([...copy, '--option', 'trusted-public-keys', printPublicKey(ours)]);
      const there = await nixOk(['path-info', '--store', `local?root=${root}`, '--recursive', top.path]);
      expect(there.split('\n').sort()).toEqual([top, ...Object.values(paths)].map(({ path }) => path).sort());
      await nixOk([
        'store',
        'verify',
        '--no-trust',
        '--store',
        `local?root=${root}`,
        '--recursive',
        top.path,
      ]);
      expect(readFileSync(join(root, top.path, 'bin/x'), 'utf8')).toBe('#!/bin/sh\n');
    },
  );

  it('nix copy puts onto a server what flk takes from it', async () => {
    const server = await serveFolder(temporaryFolder());
    await nixOk(['copy', '--to', `${server.base}?compression=none`, app]);
    const { substituter } = await taking([{ cache: httpCache(server.base), trusted: true }]);
    expect(await substituter.substitute(app)).toBe(true);
  });

  it('believe each other’s signatures', async () => {
    const { store, key, publicKey: ours, paths, folder } = await filledCache();
    const root = temporaryFolder();
    const keys = printPublicKey(ours);
    await nixOk([
      'copy',
      '--no-check-sigs',
      '--from',
      `file://${folder}`,
      '--to',
      `local?root=${root}`,
      paths.app.path,
    ]);
    const verify = ['store', 'verify', '--no-contents', '--store', `local?root=${root}`, paths.app.path];
    await nixOk([...verify, '--option', 'trusted-public-keys', keys]);
    expect((await nix([...verify, '--option', 'trusted-public-keys', publicKey])).status).not.toBe(0);
    const place = join(root, 'key');
    writeFileSync(place, secret);
    await nixOk(['store', 'sign', '-k', place, '--store', `local?root=${root}`, paths.app.path]);
    const shown = JSON.parse(
      await nixOk([
        'path-info',
        '--json',
        '--json-format',
        '1',
        '--sigs',
        '--store',
        `local?root=${root}`,
        paths.app.path,
      ]),
    ) as Record<string, { signatures: string[] }>;
    const [theirs] = shown[paths.app.path]!.signatures.filter((signature) => signature.startsWith('nix-1:'));
    expect(isSignedBy(fingerprint(store.query(paths.app.path)!), theirs!, [parsePublicKey(publicKey)])).toBe(
      true,
    );
    expect(printSecretKey(parseSecretKey(secret))).toBe(secret);
    expect(await nixOk(['key', 'convert-secret-to-public'], printSecretKey(key))).toBe(keys);
  });
});
