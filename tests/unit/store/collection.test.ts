import { existsSync, lstatSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { makeTextPath, type StorePath } from '../../../src/formats/store-path.ts';
import type { Collection } from '../../../src/store/collection.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { removeTree } from '../../../src/store/tree-files.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

async function open(root = temporaryFolder()): Promise<Store> {
  const store = await openStore(root);
  onTestFinished(() => store.close());
  return store;
}

async function collect(store: Store): Promise<Collection> {
  const collection = await store.collect();
  onTestFinished(() => collection.end());
  return collection;
}

/** a refers to b and b to c; d stands alone. Held by nobody. */
async function chain(): Promise<{ root: string; a: StorePath; b: StorePath; c: StorePath; d: StorePath }> {
  const root = temporaryFolder();
  const store = await openStore(root);
  const { path: c } = await store.addText('c', 'c', []);
  const { path: b } = await store.addText('b', 'b', [c]);
  const { path: a } = await store.addTree('a', treeFrom(directory({ a: file('a'.repeat(5000)) })), {
    references: [b],
  });
  const { path: d } = await store.addText('d', 'd', []);
  store.close();
  return { root, a, b, c, d };
}

const names = (store: Store): string[] => readdirSync(join(store.root, 'nix/store')).sort();
const base = (path: StorePath): string => path.slice('/nix/store/'.length);
const pathsOf = (removed: readonly { readonly path: StorePath }[]): StorePath[] =>
  removed.map(({ path }) => path).sort();

describe('a sweep', () => {
  it('removes what it is told, records and files, and tells what that freed', async () => {
    const { root, a, b, c, d } = await chain();
    const store = await open(root);
    const sweep = await collect(store);
    const used = [join(store.physical(a), 'a'), store.physical(a)]
      .map((place) => lstatSync(place).blocks * 512)
      .reduce((sum, bytes) => sum + bytes);
    const removed = await sweep.remove([a, b]);
    expect(pathsOf(removed)).toEqual([a, b].sort());
    expect(removed.find(({ path }) => path === a)?.bytes).toBe(used);
    expect(store.paths()).toEqual([c, d].sort());
    expect(names(store)).toEqual([base(c), base(d)].sort());
    expect(readdirSync(join(root, 'nix/var/flk/stage'))).toEqual([]);
    expect(await sweep.remove([a, b])).toEqual([]);
  });

  it('keeps what a path that stays refers to, at any distance', async () => {
    const { root, a, b, c, d } = await chain();
    const store = await open(root);
    const sweep = await collect(store);
    expect(pathsOf(await sweep.remove([b, c, d]))).toEqual([d]);
    expect(store.closure([a])).toEqual([a, b, c].sort());
  });

  it('keeps what any process holds, and all that this refers to', async () => {
    const { root, a, b, c, d } = await chain();
    const other = await open(root);
    const store = await open(root);
    const sweep = await collect(store);
    other.hold([b]);
    expect(pathsOf(await sweep.remove([a, b, c, d]))).toEqual([a, d].sort());
    expect(store.paths()).toEqual([b, c].sort());
  });

  it('keeps what was held when it began or later, though the holder is gone', async () => {
    const { root, a, b, c, d } = await chain();
    const before = await open(root);
    before.hold([c]);
    const store = await open(root);
    const sweep = await collect(store);
    const later = await open(root);
    later.hold([d]);
    before.close();
    later.close();
    // Nor does whoever comes next clear away after them.
    await open(root);
    expect(pathsOf(await sweep.remove([a, b, c, d]))).toEqual([a, b].sort());
    await sweep.end();
  });

  it('removes what was held by those that are gone when it begins', async () => {
    const { root, a, b, c, d } = await chain();
    const holder = await open(root);
    holder.hold([a, b, c, d]);
    holder.close();
    const store = await open(root);
    const { default: Database } = await import('libsql');
    const database = new Database(join(root, 'nix/var/flk/store.sqlite'));
    const note = database.prepare<[string, string]>('INSERT INTO holds (owner, path) VALUES (?, ?)');
    note.run('4194304-12345-dead', a);
    note.run(`${process.pid}-1-reborn`, a);
    database.close();
    const sweep = await collect(store);
    expect(pathsOf(await sweep.remove([a, b, c, d]))).toEqual([a, b, c, d].sort());
  });

  it('is not needed to forget what the dead held: whoever opens the store does', async () => {
    const { root, a } = await chain();
    const { default: Database } = await import('libsql');
    const database = new Database(join(root, 'nix/var/flk/store.sqlite'));
    onTestFinished(() => void database.close());
    database.prepare<[string, string]>('INSERT INTO holds (owner, path) VALUES (?, ?)').run('4194304-1-x', a);
    database.prepare<[string]>('INSERT INTO collector (id, owner) VALUES (1, ?)').run('4194304-1-y');
    const store = await open(root);
    store.hold([a]);
    const owners = (): unknown => database.prepare('SELECT count(*) AS n FROM holds').get();
    expect(owners()).toMatchObject({ n: 1 });
    store.close();
    expect(owners()).toMatchObject({ n: 0 });
  });

  it('keeps what this store put down, until it is closed', async () => {
    const store = await open();
    const { path } = await store.addText('text', 'x', []);
    const { path: tree } = await store.addTree('tree', treeFrom(file('x')));
    const sweep = await collect(store);
    expect(await sweep.remove([path, tree])).toEqual([]);
    await sweep.end();
    store.close();
    const again = await collect(await open(store.root));
    expect(pathsOf(await again.remove([path, tree]))).toEqual([path, tree].sort());
  });

  it('removes what lies in the store without a record, links not followed', async () => {
    const { root, a, b, c, d } = await chain();
    const outside = join(temporaryFolder(), 'precious');
    mkdirSync(outside);
    writeFileSync(join(outside, 'file'), 'x');
    const store = await open(root);
    const orphan = makeTextPath('orphan', '');
    const held = makeTextPath('held', '');
    for (const path of [orphan, held]) mkdirSync(join(store.physical(path), 'deep/er'), { recursive: true });
    symlinkSync(outside, join(store.physical(orphan), 'link'));
    symlinkSync(outside, join(root, 'nix/store/link'));
    writeFileSync(join(root, 'nix/store/garbage'), 'x'.repeat(10_000));
    const odd = Buffer.concat([Buffer.from(join(root, 'nix/store/odd-')), Buffer.from([0xff, 0xc3, 0x28])]);
    mkdirSync(odd);
    writeFileSync(Buffer.concat([odd, Buffer.from('/file')]), 'x');
    store.hold([held]);
    const sweep = await collect(store);
    const removed = await sweep.removeOrphans();
    expect(removed.map(({ name }) => name).sort()).toEqual(
      [base(orphan), 'garbage', 'link', 'odd-\ufffd\ufffd('].sort(),
    );
    expect(removed.find(({ name }) => name === 'garbage')?.bytes).toBeGreaterThanOrEqual(10_000);
    expect(names(store)).toEqual([a, b, c, d, held].map(base).sort());
    expect(existsSync(join(outside, 'file'))).toBe(true);
  });

  it('forgets the records of what somebody removed by hand', async () => {
    const { root, a, b, c } = await chain();
    const store = await open(root);
    await removeTree(store.physical(a));
    const sweep = await collect(store);
    expect(pathsOf(await sweep.remove([b, c]))).toEqual([b, c].sort());
  });

  it('forgets memos about what is gone, old ones, and more than ten thousand', async () => {
    const { root, a, d } = await chain();
    const store = await open(root);
    store.setMemo('of a', 'x', a);
    store.setMemo('of d', 'x', d);
    store.setMemo('of another', 'x', makeTextPath('another', ''));
    store.setMemo('new', 'x');
    const { default: Database } = await import('libsql');
    const database = new Database(join(root, 'nix/var/flk/store.sqlite'));
    onTestFinished(() => void database.close());
    const note = database.prepare<[string, number]>(
      "INSERT OR REPLACE INTO memo (key, value, written) VALUES (?, 'x', ?)",
    );
    const month = 30 * 86_400_000;
    note.run('old', Date.now() - month - 60_000);
    note.run('middle-aged', Date.now() - month + 60_000);
    const sweep = await collect(store);
    await sweep.remove([a]);
    expect(sweep.removeMemos()).toBe(3);
    const known = ['of a', 'of d', 'of another', 'new', 'old', 'middle-aged'].filter((key) =>
      store.memo(key),
    );
    expect(known).toEqual(['of d', 'new', 'middle-aged']);
    database.exec('BEGIN');
    for (let i = 0; i < 10_001; i++) note.run(`many-${i}`, Date.now() - 1000);
    database.exec('COMMIT');
    // The newest stay, and what is about a path does not count.
    expect(sweep.removeMemos()).toBe(3);
    expect(['of d', 'new', 'middle-aged'].filter((key) => store.memo(key))).toEqual(['of d', 'new']);
  });

  it('finds the memos of an older flk as if they were of today', async () => {
    const { root } = await chain();
    const { default: Database } = await import('libsql');
    const database = new Database(join(root, 'nix/var/flk/store.sqlite'));
    database.exec(`DROP TABLE memo;
      CREATE TABLE memo (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
      INSERT INTO memo VALUES ('before', 'x')`);
    database.close();
    const store = await open(root);
    expect((await collect(store)).removeMemos()).toBe(0);
    expect(store.memo('before')).toBe('x');
  });

  it('lets nobody else sweep meanwhile, and anybody afterwards', async () => {
    const store = await open();
    const other = await open(store.root);
    const sweep = await store.collect();
    await expect(other.collect()).rejects.toEqual(withCode('FLK_LOCK_BUSY'));
    await sweep.end();
    await sweep.end();
    await (await other.collect()).end();
  });

  it('takes over from a sweep that was killed', async () => {
    const root = temporaryFolder();
    const store = await open(root);
    writeFileSync(join(root, 'nix/var/flk/gc.lock'), '4194304 12345 dead\n');
    await (await store.collect()).end();
    expect(readdirSync(join(root, 'nix/var/flk'))).not.toContain('gc.lock');
  });

  it('leaves the store of a real Nix alone', async () => {
    const store = await open();
    mkdirSync(join(store.root, 'nix/var/nix/db'), { recursive: true });
    writeFileSync(join(store.root, 'nix/var/nix/db/db.sqlite'), '');
    await expect(store.collect()).rejects.toEqual(withCode('FLK_STORE_INVALID'));
  });
});
