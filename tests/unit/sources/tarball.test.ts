import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import { type FlakeRef, parseFlakeRef } from '../../../src/flake/flake-ref.ts';
import { Sources, type SourcesOptions } from '../../../src/sources/source.ts';
import { tarOf } from '../../support/archives.ts';
import { errorOf, withCode } from '../../support/errors.ts';
import { fileServer } from '../../support/file-server.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { entriesOf, file, nodeOf } from '../../support/trees.ts';

const server = await fileServer();
const archive = tarOf({ path: 'top/flake.nix', contents: '{ }', modified: 1_700_000_000 });
server.files.set('/x.tar', { body: archive });
server.files.set('/text', { body: 'text' });
const wrong = 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=';

const sourcesIn = (cacheFolder: string, options: Partial<SourcesOptions> = {}): Sources =>
  new Sources({ cacheFolder, reporter: silent, ...options });
const fetched = (ref: FlakeRef, cacheFolder = temporaryFolder()) => sourcesIn(cacheFolder).fetch(ref);

describe('a tarball', () => {
  test('is locked by hash and time', async () => {
    const { locked, tree } = await fetched(parseFlakeRef(`${server.base}/x.tar?dir=sub`));
    expect(locked).toEqual({
      type: 'tarball',
      url: `${server.base}/x.tar`,
      dir: 'sub',
      narHash: tree.narHash,
      lastModified: 1_700_000_000,
    });
    expect((await tree.readFile('flake.nix'))?.toString()).toBe('{ }');
  });

  test('has no time where its entries have none', async () => {
    server.files.set('/timeless.tar', { body: tarOf({ path: 'a/x' }) });
    const { locked } = await fetched(parseFlakeRef(`${server.base}/timeless.tar`));
    expect(locked).not.toHaveProperty('lastModified');
  });

  test('that is locked and here is not asked for, whoever served it', async () => {
    const cache = temporaryFolder();
    const { locked } = await fetched(parseFlakeRef(`${server.base}/x.tar`), cache);
    const before = server.log.length;
    const again = await sourcesIn(cache, { offline: true, refresh: true }).fetch({
      ...locked,
      type: 'tarball',
      url: 'https://elsewhere.flk.example/y.tar',
    });
    expect(await entriesOf(again.tree)).toEqual(['flake.nix']);
    expect(server.log.length).toBe(before);
  });

  test('with a hash but no time is asked for: it may have an immutable URL', async () => {
    const cache = temporaryFolder();
    const { tree } = await fetched(parseFlakeRef(`${server.base}/x.tar`), cache);
    const before = server.log.length;
    const ref = parseFlakeRef(`${server.base}/x.tar?narHash=${encodeURIComponent(tree.narHash)}`);
    expect((await fetched(ref, cache)).locked).toMatchObject({ lastModified: 1_700_000_000 });
    expect(server.log.length).toBe(before + 1);
  });

  test('of another hash is refused', async () => {
    const ref = parseFlakeRef(`${server.base}/x.tar?narHash=${wrong}&lastModified=1`);
    expect(await errorOf(fetched(ref))).toMatchObject({
      code: 'FLK_NAR_HASH_MISMATCH',
      facts: { wanted: wrong },
    });
  });

  test('is locked under its immutable URL, which says more', async () => {
    const rev = '0123456789abcdef0123456789abcdef01234567';
    const link = `<${server.base}/x.tar?rev=${rev}&revCount=3&lastModified=5>; rel="immutable"`;
    server.files.set('/moving.tar', { body: archive, headers: { link } });
    const { locked, tree } = await fetched(parseFlakeRef(`${server.base}/moving.tar`));
    expect(locked).toEqual({
      type: 'tarball',
      url: `${server.base}/x.tar`,
      rev,
      revCount: 3,
      lastModified: 5,
      narHash: tree.narHash,
    });
  });

  test('cannot be locked as something else', async () => {
    server.files.set('/else.tar', { body: archive, headers: { link: '<github:a/b>; rel="immutable"' } });
    expect(await errorOf(fetched(parseFlakeRef(`${server.base}/else.tar`)))).toEqual(
      withCode('FLK_REF_UNSUPPORTED'),
    );
  });

  test('of this machine is locked as its file is now', async () => {
    const path = join(temporaryFolder(), 'x.tar');
    const cache = temporaryFolder();
    writeFileSync(path, archive);
    const first = await fetched(parseFlakeRef(`file://${path}`), cache);
    expect(first.locked).toMatchObject({ type: 'tarball', url: `file://${path}` });
    writeFileSync(path, tarOf({ path: 'a/new' }));
    const second = await fetched(parseFlakeRef(`file://${path}`), cache);
    expect(await entriesOf(second.tree)).toEqual(['new']);
  });
});

describe('a file', () => {
  test('is locked by its hash alone, and then not asked for', async () => {
    const cache = temporaryFolder();
    const { locked, tree } = await fetched(parseFlakeRef(`file+${server.base}/text`), cache);
    expect(locked).toEqual({ type: 'file', url: `${server.base}/text`, narHash: tree.narHash });
    expect(await nodeOf(tree)).toEqual(file('text'));
    const before = server.log.length;
    expect((await fetched(locked, cache)).tree.narHash).toBe(tree.narHash);
    expect(server.log.length).toBe(before);
  });

  test('of another hash is refused', async () => {
    const ref = parseFlakeRef(`file+${server.base}/text?narHash=${wrong}`);
    expect(await errorOf(fetched(ref))).toEqual(withCode('FLK_NAR_HASH_MISMATCH'));
  });
});
