import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import { type FlakeRef, parseFlakeRef } from '../../../src/flake/flake-ref.ts';
import { hashTree, TreeMended } from '../../../src/formats/nar.ts';
import { Sources } from '../../../src/sources/source.ts';
import { openStore } from '../../../src/store/store.ts';
import { tarOf } from '../../support/archives.ts';
import { errorOf } from '../../support/errors.ts';
import { fileServer } from '../../support/file-server.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, nodeOf, writeNode } from '../../support/trees.ts';

const server = await fileServer();
const node = directory({ 'a.txt': file('a'.repeat(5000)), 'b.txt': file('b') });

function archive(): FlakeRef {
  server.files.set('/x.tar', {
    body: tarOf({ path: 'top/a.txt', contents: 'a'.repeat(5000) }, { path: 'top/b.txt', contents: 'b' }),
  });
  return parseFlakeRef(`${server.base}/x.tar`);
}

function repository(): FlakeRef {
  const folder = join(temporaryFolder(), 'repository');
  writeNode(node, folder);
  const git = (...args: string[]) =>
    execFileSync('git', ['-c', 'user.name=n', '-c', 'user.email=e', ...args], { cwd: folder });
  git('init', '-q', '-b', 'main');
  git('add', '-A');
  git('commit', '-q', '-m', 'm');
  // By its revision, so that it is not the working tree that is taken.
  return parseFlakeRef(`git+file://${folder}?ref=main&rev=${git('rev-parse', 'HEAD').toString().trim()}`);
}

/** Flips a bit in the middle of everything that the cache holds of trees. */
function damage(cacheFolder: string): void {
  for (const entry of readdirSync(cacheFolder, { recursive: true, encoding: 'utf8' })) {
    if (!/\.(pack|tree)$/.test(entry)) continue;
    const path = join(cacheFolder, entry);
    const bytes = readFileSync(path);
    bytes[Math.floor(bytes.length / 2)]! ^= 0x10;
    writeFileSync(path, bytes);
  }
}

describe.each([
  ['an archive', archive],
  ['a commit', repository],
])('%s that is damaged in the cache', (_, make) => {
  async function fetched() {
    const ref = make();
    const cacheFolder = temporaryFolder();
    const options = { cacheFolder, reporter: silent };
    const { tree, locked } = await new Sources(options).fetch(ref);
    return { tree, locked, cacheFolder, options };
  }

  test('is fetched again for a file', async () => {
    const { tree, cacheFolder } = await fetched();
    damage(cacheFolder);
    expect((await tree.readFile('b.txt'))?.toString()).toBe('b');
  });

  test('is fetched again for the store, and for its hash', async () => {
    const { tree, cacheFolder } = await fetched();
    const store = await openStore(temporaryFolder());
    damage(cacheFolder);
    const { narHash } = await store.addTree('source', tree, { expected: tree.narHash });
    expect(narHash).toBe(tree.narHash);
    const other = await fetched();
    damage(other.cacheFolder);
    expect((await hashTree(other.tree)).narHash).toBe(tree.narHash);
  });

  test('never reaches a sink for the tree: its walk fails, and the next one is right', async () => {
    const { tree, cacheFolder } = await fetched();
    damage(cacheFolder);
    expect(await errorOf(nodeOf(tree))).toBeInstanceOf(TreeMended);
    expect(await nodeOf(tree)).toEqual(node);
  });
});

test('a damaged archive that cannot be had again is told of as that', async () => {
  const cacheFolder = temporaryFolder();
  const ref = archive();
  await new Sources({ cacheFolder, reporter: silent }).fetch(ref);
  const { tree } = await new Sources({ cacheFolder, reporter: silent, offline: true }).fetch(ref);
  damage(cacheFolder);
  const error = await errorOf(hashTree(tree));
  expect(error).toMatchObject({ code: 'FLK_ARCHIVE_INVALID', message: expect.stringContaining('damaged') });
  expect(error).not.toBeInstanceOf(TreeMended);
});

test('an archive that is gone is fetched again, once for all who want it', async () => {
  const cacheFolder = temporaryFolder();
  const { tree } = await new Sources({ cacheFolder, reporter: silent }).fetch(archive());
  rmSync(join(cacheFolder, 'archives/trees'), { recursive: true });
  server.log.length = 0;
  const files = await Promise.all(['a.txt', 'b.txt', 'c.txt'].map((path) => tree.readFile(path)));
  expect(files.map((bytes) => bytes?.length)).toEqual([5000, 1, undefined]);
  expect(server.log).toHaveLength(1);
});
