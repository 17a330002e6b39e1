import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, symlink, treeFrom } from '../../support/trees.ts';

async function open(root = temporaryFolder()): Promise<Store> {
  const store = await openStore(root);
  onTestFinished(() => store.close());
  return store;
}

const text = 'the same in all of them '.repeat(1000);
const links = (store: Store): string => join(store.root, 'nix/var/flk/links');
const inode = (place: string): number => lstatSync(place).ino;
/** All that is kept of a node beside its bytes. */
const look = (place: string): unknown => {
  const { mode, mtimeMs, size } = lstatSync(place);
  return { mode, mtimeMs, size };
};

async function addTwo(store: Store): Promise<{ one: StorePath; two: StorePath }> {
  const one = await store.addTree(
    'one',
    treeFrom(
      directory({
        deep: directory({ a: file(text), b: file(text), program: file(text, true) }),
        link: symlink('deep/a'),
        empty: file(''),
      }),
    ),
  );
  const two = await store.addTree('two', treeFrom(directory({ c: file(text), other: file('other') })));
  return { one: one.path, two: two.path };
}

describe('optimising a store', () => {
  it('makes equal files one, and changes nothing else', async () => {
    const store = await open();
    const { one, two } = await addTwo(store);
    const { path: single } = await store.addTree('single', treeFrom(file(text)));
    const nodes = [
      ...['deep/a', 'deep/b', 'deep/program', 'deep', '', 'link', 'empty'].map((name) =>
        join(store.physical(one), name),
      ),
      ...['c', 'other', ''].map((name) => join(store.physical(two), name)),
      store.physical(single),
    ];
    const before = nodes.map(look);
    const blocks = lstatSync(nodes[0]!).blocks * 512;
    const told: [number, number][] = [];
    const saved = await store.optimise(undefined, { progress: (done, total) => told.push([done, total]) });
    expect(saved).toEqual({ files: 3, bytes: 3 * blocks });
    expect(told).toEqual([
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
    const same = ['deep/a', 'deep/b'].map((name) => join(store.physical(one), name));
    expect(new Set([...same, join(store.physical(two), 'c'), store.physical(single)].map(inode)).size).toBe(
      1,
    );
    expect(inode(join(store.physical(one), 'deep/program'))).not.toBe(inode(same[0]!));
    expect(nodes.map(look)).toEqual(before);
    for (const path of store.paths()) await store.verifyPath(path);
    expect(await store.optimise()).toEqual({ files: 0, bytes: 0 });
    expect(readdirSync(join(store.root, 'nix/var/flk/stage'))).toEqual([]);
  });

  it('looks at no other paths than it is told, and passes over those that are gone', async () => {
    const store = await open();
    const { one, two } = await addTwo(store);
    const { path: gone } = await store.addText('gone', text, []);
    const inodeBefore = inode(join(store.physical(two), 'c'));
    const { default: Database } = await import('libsql');
    const database = new Database(join(store.root, 'nix/var/flk/store.sqlite'));
    database.prepare<[string]>('DELETE FROM paths WHERE path = ?').run(gone);
    database.close();
    expect((await store.optimise([one, gone])).files).toBe(1);
    expect(inode(join(store.physical(two), 'c'))).toBe(inodeBefore);
    expect(statSync(store.physical(gone)).nlink).toBe(1);
  });

  it('spreads no bytes that went bad, nor modes that somebody changed', async () => {
    const store = await open();
    const { one } = await addTwo(store);
    await store.optimise([one]);
    const a = join(store.physical(one), 'deep/a');
    chmodSync(a, 0o644);
    writeFileSync(a, text.replace('same', 'evil'));
    chmodSync(a, 0o444);
    utimesSync(a, 1, 1);
    const { path: two } = await store.addTree('two', treeFrom(directory({ c: file(text), d: file(text) })));
    expect((await store.optimise([two])).files).toBe(1);
    await store.verifyPath(two);
    await expect(store.verifyPath(one)).rejects.toEqual(withCode('FLK_STORE_CORRUPT'));
    const { path: loose } = await store.addTree('loose', treeFrom(directory({ e: file(text) })));
    chmodSync(join(store.physical(loose), 'e'), 0o644);
    expect((await store.optimise([loose])).files).toBe(0);
  });

  it('puts folders right that a kill left writable', async () => {
    const store = await open();
    const { one } = await addTwo(store);
    const deep = join(store.physical(one), 'deep');
    chmodSync(deep, 0o755);
    utimesSync(deep, 100, 100);
    await store.optimise();
    expect(lstatSync(deep)).toMatchObject({ mtimeMs: 1000 });
    expect(lstatSync(deep).mode & 0o7777).toBe(0o555);
  });

  it('begins another file where one has all the names that it may have', async () => {
    const store = await open();
    const { path: first } = await store.addTree('first', treeFrom(directory({ a: file(text) })));
    await store.optimise();
    const more = join(store.root, 'more');
    mkdirSync(more);
    let names = 2;
    try {
      for (; names < 70_000; names++) linkSync(join(store.physical(first), 'a'), join(more, String(names)));
    } catch {
      // That was the limit of this file system.
    }
    const { path: second } = await store.addTree(
      'second',
      treeFrom(directory({ a: file(text), b: file(text) })),
    );
    const saved = await store.optimise([second]);
    expect(saved.files).toBe(names < 70_000 ? 1 : 2);
    await store.verifyPath(second);
  });

  it('counts what a sweep sets free once, when the last of the equal files goes', async () => {
    const root = temporaryFolder();
    const first = await openStore(root);
    const { one, two } = await addTwo(first);
    await first.optimise();
    first.close();
    const store = await open(root);
    const blocks = lstatSync(join(store.physical(two), 'c')).blocks * 512;
    const sweep = await store.collect();
    onTestFinished(() => sweep.end());
    const [removed] = await sweep.remove([two]);
    // The folder and the file that was its own.
    expect(removed!.bytes).toBeLessThan(blocks);
    const [last] = await sweep.remove([one]);
    expect(last!.bytes).toBeGreaterThanOrEqual(2 * blocks);
    expect(readdirSync(links(store))).toEqual([]);
    writeFileSync(join(links(store), 'left'), text);
    expect(await sweep.removeOrphans()).toEqual([{ name: '.links', bytes: blocks }]);
    expect(readdirSync(links(store))).toEqual([]);
  });
});

describe('verifying many', () => {
  it('tells of each path in order what is wrong with it', async () => {
    const store = await open();
    const paths: StorePath[] = [];
    for (let i = 0; i < 12; i++) paths.push((await store.addText(`text-${i}`, `${i}`, [])).path);
    const bad = store.physical(paths[7]!);
    chmodSync(bad, 0o644);
    writeFileSync(bad, 'x');
    const told: [StorePath, string | undefined][] = [];
    for await (const { path, fault } of store.verify(paths)) told.push([path, fault?.code]);
    expect(told).toEqual(paths.map((path, i) => [path, i === 7 ? 'FLK_STORE_CORRUPT' : undefined]));
    let all = 0;
    for await (const { fault } of store.verify()) all += fault ? 0 : 1;
    expect(all).toBe(11);
  });

  it('stops when it is told to', async () => {
    const store = await open();
    for (let i = 0; i < 6; i++) await store.addText(`text-${i}`, `${i}`, []);
    const stop = new AbortController();
    const look = async (): Promise<void> => {
      for await (const _ of store.verify(undefined, stop.signal)) stop.abort();
    };
    await expect(look()).rejects.toEqual(withCode('FLK_INTERRUPTED'));
  });
});
