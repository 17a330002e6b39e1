import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { hashTree, type Tree } from '../../../src/formats/nar.ts';
import { hashPart, makeSourcePath, makeTextPath, type StorePath } from '../../../src/formats/store-path.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { restoreTree } from '../../../src/store/tree-files.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, nodeOf, symlink, treeFrom } from '../../support/trees.ts';

async function open(root = temporaryFolder()): Promise<Store> {
  const store = await openStore(root);
  onTestFinished(() => store.close());
  return store;
}

const sample = directory({
  bin: directory({ run: file('#!/bin/sh\n', true) }),
  empty: directory(),
  link: symlink('bin/run'),
});
const stages = (store: Store): string[] => readdirSync(join(store.root, 'nix/var/flk/stage'));

/** A staged tree with a record that fits it. */
async function staged(
  store: Store,
  name: string,
  node: Node,
  references: readonly StorePath[] = [],
): Promise<{ info: PathInfo; staged: string }> {
  const { path } = await store.stage();
  const place = join(path, 'out');
  await treeFrom(node).walk(restoreTree(place));
  const { narHash, narSize } = await hashTree(treeFrom(node));
  const info: PathInfo = {
    path: makeSourcePath(name, narHash, references),
    narHash,
    narSize,
    references,
    registrationTime: 1000,
    ultimate: true,
    signatures: ['key:c2ln'],
    deriver: makeTextPath('x.drv', name),
  };
  return { info, staged: place };
}

it('does not take a text back, not even for a moment, that another writes at the same time', async () => {
  const root = temporaryFolder();
  const both = [await openStore(root), await openStore(root)];
  onTestFinished(() => {
    for (const store of both) store.close();
  });
  let gone = 0;
  for (let round = 0; round < 100; round++) {
    const [name, text] = [`text-${round}`, `what is written twice, ${round}`];
    let writing = both.length;
    await Promise.all(
      both.map(async (store) => {
        const { path } = await store.addText(name, text, []);
        writing--;
        while (writing > 0) {
          if (store.query(path) === undefined) gone++;
          await new Promise((resolve) => setImmediate(resolve));
        }
        expect(store.query(path)).toBeDefined();
      }),
    );
  }
  expect(gone).toBe(0);
});

describe('a store', () => {
  it('holds trees under the paths that their bytes give them', async () => {
    const store = await open();
    const info = await store.addTree('sample', treeFrom(sample));
    const { narHash, narSize } = await hashTree(treeFrom(sample));
    expect(info).toMatchObject({
      path: makeSourcePath('sample', narHash),
      narHash,
      narSize,
      references: [],
      ultimate: true,
    });
    expect(await nodeOf(store.tree(info.path))).toEqual(sample);
    expect(store.query(info.path)).toEqual(info);
    await store.verifyPath(info.path);
    const program = lstatSync(join(store.physical(info.path), 'bin/run'));
    expect(program.mode & 0o7777).toBe(0o555);
    expect(program.mtimeMs).toBe(1000);
    expect(lstatSync(store.physical(info.path)).mode & 0o7777).toBe(0o555);
    expect(lstatSync(store.physical(info.path)).mtimeMs).toBe(1000);
    expect(stages(store)).toEqual([]);
  });

  it('holds single files and texts, with references', async () => {
    const store = await open();
    const single = await store.addTree('single', treeFrom(file('x')));
    expect(await nodeOf(store.tree(single.path))).toEqual(file('x'));
    const text = await store.addText('text', `see ${single.path}`, [single.path]);
    expect(text.path).toBe(makeTextPath('text', `see ${single.path}`, [single.path]));
    expect(store.query(text.path)).toEqual(text);
    expect(text.references).toEqual([single.path]);
    expect(store.closure([text.path])).toEqual([single.path, text.path].sort());
  });

  it('keeps its records for whoever opens it next', async () => {
    const root = temporaryFolder();
    const store = await open(root);
    const info = await store.addTree('sample', treeFrom(sample), { references: [] });
    store.setMemo('key', 'value');
    store.setMemo('key', 'other value');
    store.close();
    const again = await open(root);
    expect(again.query(info.path)).toEqual(info);
    expect(again.memo('key')).toBe('other value');
    expect(again.memo('unknown')).toBeUndefined();
  });

  it('finds a path by its hash part, while it is valid', async () => {
    const store = await open();
    const { path } = await store.addText('a', 'one', []);
    await store.addText('b', 'two', []);
    expect(store.find(hashPart(path))).toEqual(store.query(path));
    expect(store.find(hashPart(path).slice(1))).toBeUndefined();
    expect(store.find('0'.repeat(32))).toBeUndefined();
    rmSync(store.physical(path));
    expect(store.find(hashPart(path))).toBeUndefined();
  });

  it('does not walk a tree that it holds', async () => {
    const store = await open();
    const { narHash } = await store.addTree('sample', treeFrom(sample));
    let walks = 0;
    const counted: Tree = {
      walk: async (sink) => {
        walks++;
        await treeFrom(sample).walk(sink);
      },
    };
    await store.addTree('sample', counted, { expected: narHash });
    expect(walks).toBe(0);
    await store.addTree('other', counted, { expected: narHash });
    expect(walks).toBe(1);
  });

  it('takes nothing but the tree that is expected', async () => {
    const store = await open();
    const expected = narHashOf(sha256('something else'));
    await expect(store.addTree('sample', treeFrom(sample), { expected })).rejects.toEqual(
      withCode('FLK_NAR_HASH_MISMATCH'),
    );
    expect(readdirSync(join(store.root, 'nix/store'))).toEqual([]);
    expect(stages(store)).toEqual([]);
  });

  it('holds nothing of a walk that fails', async () => {
    const store = await open();
    const broken: Tree = {
      walk: async (sink) => {
        sink.directory();
        sink.entry(Buffer.from('a'));
        sink.file(10, false);
        sink.data(Buffer.from('abc'));
        throw new Error('the line went dead');
      },
    };
    await expect(store.addTree('broken', broken)).rejects.toThrowError('the line went dead');
    expect(readdirSync(join(store.root, 'nix/store'))).toEqual([]);
    expect(stages(store)).toEqual([]);
  });

  it('lets no name out of its folder', async () => {
    const store = await open();
    for (const name of ['../x', '.', '..', '', 'a/b', 'a\0b']) {
      const hostile: Tree = {
        walk: async (sink) => {
          sink.directory();
          sink.entry(Buffer.from(name));
          sink.file(0, false);
          sink.endFile();
          sink.endDirectory();
        },
      };
      await expect(store.addTree('hostile', hostile)).rejects.toEqual(withCode('FLK_INTERNAL'));
    }
    await expect(store.addTree('../name', treeFrom(sample))).rejects.toEqual(
      withCode('FLK_STORE_PATH_INVALID'),
    );
    expect(readdirSync(join(store.root, 'nix/store'))).toEqual([]);
  });

  it('registers several paths at once, in any order, that refer to each other and to themselves', async () => {
    const store = await open();
    const lib = await staged(store, 'lib', file('lib'));
    const app = await staged(store, 'app', sample, [lib.info.path]);
    const own = { ...lib.info, references: [lib.info.path] };
    await store.register([app, { ...lib, info: own }]);
    expect(store.query(app.info.path)).toEqual(app.info);
    expect(store.query(lib.info.path)).toEqual(own);
    expect(store.closure([app.info.path])).toEqual([app.info.path, lib.info.path].sort());
  });

  it('refuses references that are not valid, and makes nothing valid then', async () => {
    const store = await open();
    const missing = makeTextPath('missing', '');
    const good = await staged(store, 'good', file('good'));
    const bad = await staged(store, 'bad', file('bad'), [missing]);
    await expect(store.register([good, bad])).rejects.toEqual(withCode('FLK_STORE_CORRUPT'));
    expect(store.query(good.info.path)).toBeUndefined();
    expect(store.query(bad.info.path)).toBeUndefined();
    expect(() => store.closure([missing])).toThrowError(withCode('FLK_STORE_CORRUPT'));
  });

  it('replaces what lies at a path without a record', async () => {
    const store = await open();
    const { path } = await store.addTree('sample', treeFrom(sample));
    const other = await open();
    mkdirSync(other.physical(path));
    writeFileSync(join(other.physical(path), 'half'), 'written');
    chmodSync(other.physical(path), 0o555);
    expect(other.query(path)).toBeUndefined();
    await other.addTree('sample', treeFrom(sample));
    expect(await nodeOf(other.tree(path))).toEqual(sample);
    expect(stages(other)).toEqual([]);
  });

  it('does not call valid what somebody removed', async () => {
    const store = await open();
    const { path } = await store.addText('text', 'x', []);
    rmSync(store.physical(path));
    expect(store.query(path)).toBeUndefined();
    await store.addText('text', 'x', []);
    await store.verifyPath(path);
  });

  it('finds bytes that changed, and replaces them when told to', async () => {
    const store = await open();
    const entry = await staged(store, 'sample', sample);
    await store.register([entry]);
    const program = join(store.physical(entry.info.path), 'bin/run');
    chmodSync(program, 0o755);
    writeFileSync(program, 'changed');
    await expect(store.verifyPath(entry.info.path)).rejects.toEqual(withCode('FLK_STORE_CORRUPT'));
    await store.register([await staged(store, 'sample', sample)]);
    await expect(store.verifyPath(entry.info.path)).rejects.toEqual(withCode('FLK_STORE_CORRUPT'));
    await store.register([await staged(store, 'sample', sample)], { replace: true });
    await store.verifyPath(entry.info.path);
  });

  it('adds one path once, however many ask at the same time', async () => {
    const store = await open();
    const infos = await Promise.all(
      Array.from({ length: 8 }, () => store.addTree('sample', treeFrom(sample))),
    );
    expect(new Set(infos.map(({ path }) => path)).size).toBe(1);
    await store.verifyPath(infos[0]!.path);
    expect(stages(store)).toEqual([]);
    expect(readdirSync(join(store.root, 'nix/var/flk/locks'))).toEqual([]);
  });

  it('removes the stages of processes that are gone, not those of the living', async () => {
    const root = temporaryFolder();
    const store = await open(root);
    const own = await store.stage();
    const dead = join(root, 'nix/var/flk/stage', '4194304-12345-abc');
    mkdirSync(join(dead, 'folder'), { recursive: true });
    const reborn = join(root, 'nix/var/flk/stage', `${process.pid}-1-abc`);
    mkdirSync(reborn);
    chmodSync(join(dead, 'folder'), 0o000);
    await open(root);
    expect(stages(store)).toEqual([own.path.split('/').at(-1)]);
    await own.dispose();
    expect(stages(store)).toEqual([]);
  });

  it('keeps two writers of one path apart', async () => {
    const store = await open();
    const other = await open(store.root);
    const a = makeTextPath('a', '');
    const b = makeTextPath('b', '');
    const steps: string[] = [];
    const work = (who: string) => async (): Promise<void> => {
      steps.push(`${who} begins`);
      await new Promise((done) => setTimeout(done, 30));
      steps.push(`${who} ends`);
    };
    await Promise.all([
      store.withPathLocks([a, b, a], work('one')),
      other.withPathLocks([b, a], work('two')),
    ]);
    expect(steps).toHaveLength(4);
    expect(steps[0]!.replace('begins', 'ends')).toBe(steps[1]);
    expect(await store.withPathLocks([], async () => 'free')).toBe('free');
  });

  it('lets work that holds a path lock it again', async () => {
    const store = await open();
    const { narHash } = await hashTree(treeFrom(sample));
    const path = makeSourcePath('sample', narHash);
    const other = makeTextPath('other', '');
    const add = (): Promise<PathInfo> =>
      store.withPathLocks([other, path], () => store.addTree('sample', treeFrom(sample)));
    expect((await store.withPathLocks([path], add)).path).toBe(path);
    expect(readdirSync(join(store.root, 'nix/var/flk/locks'))).toEqual([]);
  });

  it('roots a link outside, once', async () => {
    const store = await open();
    const link = join(temporaryFolder(), 'result');
    symlinkSync('/nix/store/x', link);
    await store.addIndirectRoot(link);
    await store.addIndirectRoot(link);
    const folder = join(store.root, 'nix/var/nix/gcroots/auto');
    expect(readdirSync(folder).map((name) => readlinkSync(join(folder, name)))).toEqual([link]);
  });
});

describe('opening a store', () => {
  it('refuses a database of another flk', async () => {
    const store = await open();
    store.close();
    const { default: Database } = await import('libsql');
    const database = new Database(join(store.root, 'nix/var/flk/store.sqlite'));
    database.exec('PRAGMA user_version = 99');
    database.close();
    await expect(openStore(store.root)).rejects.toEqual(withCode('FLK_STORE_INVALID'));
  });

  it('takes over a database of the first version, which held nothing', async () => {
    const store = await open();
    const { path } = await store.addText('text', 'x', []);
    store.close();
    const { default: Database } = await import('libsql');
    const database = new Database(join(store.root, 'nix/var/flk/store.sqlite'));
    database.exec('DROP TABLE holds; DROP TABLE collector; PRAGMA user_version = 1');
    database.close();
    const reader = await openStore(store.root, { readOnly: true });
    reader.hold([path]);
    expect(reader.closure([path])).toEqual([path]);
    reader.close();
    const again = await open(store.root);
    again.hold([path]);
    const sweep = await again.collect();
    expect(await sweep.remove([path])).toEqual([]);
    await sweep.end();
  });

  it('refuses a file that is no database', async () => {
    const root = temporaryFolder();
    mkdirSync(join(root, 'nix/var/flk'), { recursive: true });
    writeFileSync(
      join(root, 'nix/var/flk/store.sqlite'),
      'not a database, but long enough to be looked at'.repeat(100),
    );
    await expect(openStore(root)).rejects.toEqual(withCode('FLK_STORE_INVALID'));
  });

  it('refuses a root that is a file', async () => {
    const root = join(temporaryFolder(), 'file');
    writeFileSync(root, '');
    await expect(openStore(root)).rejects.toEqual(withCode('FLK_FILE_UNWRITABLE'));
    expect(statSync(root).size).toBe(0);
  });
});
