import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { hashTree } from '../../../src/formats/nar.ts';
import { makeTextPath, type StorePath } from '../../../src/formats/store-path.ts';
import { openDatabase, type StoreDatabase } from '../../../src/store/database.ts';
import { Places } from '../../../src/store/places.ts';
import { type Entry, Registrar } from '../../../src/store/registrar.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { restoreTree } from '../../../src/store/tree-files.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, nodeOf, treeFrom } from '../../support/trees.ts';

async function open(): Promise<Store> {
  const store = await openStore(temporaryFolder());
  onTestFinished(() => store.close());
  return store;
}

async function entry(
  store: Store,
  name: string,
  node: Node,
  references: readonly StorePath[] = [],
): Promise<Entry> {
  const stage = await store.stage();
  const staged = join(stage.path, 'out');
  await treeFrom(node).walk(restoreTree(staged));
  const { narHash, narSize } = await hashTree(treeFrom(node));
  const path = makeTextPath(name, '');
  return {
    info: { path, narHash, narSize, references, registrationTime: 1, ultimate: true, signatures: [] },
    staged,
  };
}

const folder = (content: string): Node => directory({ a: file(content) });

describe('registering at one time', () => {
  it('makes all valid that can be, and fails those that cannot', async () => {
    const store = await open();
    const missing = makeTextPath('missing', '');
    const good = await Promise.all(
      Array.from({ length: 20 }, (_, i) => entry(store, `good-${i}`, i % 2 ? folder(`${i}`) : file(`${i}`))),
    );
    const bad = await entry(store, 'bad', folder('x'), [missing]);
    // Their place cannot be taken over: what is staged is gone.
    const gone = { ...(await entry(store, 'gone', folder('y'))), staged: join(store.root, 'nowhere') };
    const wanted = [...good.slice(0, 10), bad, ...good.slice(10)];
    const results = await Promise.allSettled(wanted.map((one) => store.register([one])));
    expect(results.map(({ status }) => status)).toEqual(
      wanted.map((one) => (one === bad ? 'rejected' : 'fulfilled')),
    );
    for (const { info } of good) await store.verifyPath(info.path);
    expect(store.query(bad.info.path)).toBeUndefined();
    await expect(store.register([gone])).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
  });

  it('goes on when one of many was taken away', async () => {
    const store = await open();
    const good = await entry(store, 'good', folder('x'));
    const gone = { ...(await entry(store, 'gone', folder('y'))), staged: join(store.root, 'nowhere') };
    const results = await Promise.allSettled([store.register([good]), store.register([gone])]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
    await store.verifyPath(good.info.path);
  });

  it('leaves no valid record of other bytes, whenever it ends', async () => {
    const root = temporaryFolder();
    const store = await openStore(root);
    onTestFinished(() => store.close());
    await store.register([await entry(store, 'a', folder('old'))]);
    const path = makeTextPath('a', '');
    const places = new Places(root, false);
    const database = await openDatabase(places.database, 'test');
    onTestFinished(() => database.close());
    const broken: StoreDatabase = Object.assign(Object.create(database) as StoreDatabase, {
      recorded: (asked: readonly StorePath[]) => database.recorded(asked),
      suspend: (paths: readonly StorePath[]) => database.suspend(paths),
      record: () => {
        throw new Error('killed');
      },
    });
    const registrar = new Registrar(places, broken, (paths) => new Set(paths));
    await expect(registrar.put([await entry(store, 'a', folder('new'))], true)).rejects.toThrow('killed');
    expect(await nodeOf(store.tree(path))).toEqual(folder('new'));
    expect(store.query(path)).toBeUndefined();
    expect(store.paths()).toEqual([]);
    await store.register([await entry(store, 'a', folder('newer'))]);
    await store.verifyPath(path);
  });
});

describe('symlinks where trees should be', () => {
  /** A folder outside the store that nothing may touch. */
  function precious(): { place: string; look: () => unknown } {
    const place = join(temporaryFolder(), 'precious');
    mkdirSync(place);
    writeFileSync(join(place, 'file'), 'x');
    chmodSync(place, 0o750);
    return {
      place,
      look: () => [lstatSync(place).mode, lstatSync(place).mtimeMs, readdirSync(place)],
    };
  }

  it('are replaced, never followed', async () => {
    const store = await open();
    const { place, look } = precious();
    const before = look();
    const wanted = await entry(store, 'a', folder('x'));
    const text = makeTextPath('text', 'x');
    symlinkSync(place, store.physical(wanted.info.path));
    symlinkSync(join(place, 'file'), store.physical(text));
    expect(store.query(text)).toBeUndefined();
    await store.register([wanted]);
    await store.addText('text', 'x', []);
    expect(lstatSync(store.physical(wanted.info.path)).isDirectory()).toBe(true);
    expect(lstatSync(store.physical(text)).isFile()).toBe(true);
    expect(look()).toEqual(before);
  });

  it('are what a path is, where somebody put one in its place', async () => {
    const store = await open();
    const { place, look } = precious();
    const before = look();
    const wanted = await entry(store, 'a', folder('x'));
    await store.register([wanted]);
    const stage = await store.stage();
    chmodSync(store.physical(wanted.info.path), 0o755);
    renameSync(store.physical(wanted.info.path), join(stage.path, 'away'));
    symlinkSync(place, store.physical(wanted.info.path));
    await expect(store.verifyPath(wanted.info.path)).rejects.toEqual(withCode('FLK_STORE_CORRUPT'));
    expect(await store.optimise()).toEqual({ files: 0, bytes: 0 });
    await store.register([await entry(store, 'a', folder('x'))], { replace: true });
    await store.verifyPath(wanted.info.path);
    await stage.dispose();
    expect(look()).toEqual(before);
    expect(existsSync(join(place, 'file'))).toBe(true);
  });

  it('may be an output themselves, and go without what they lead to', async () => {
    const root = temporaryFolder();
    const first = await openStore(root);
    const { place, look } = precious();
    const before = look();
    const stage = await first.stage();
    const staged = join(stage.path, 'out');
    symlinkSync(place, staged);
    const link: Node = { type: 'symlink', target: Buffer.from(place) };
    const { narHash, narSize } = await hashTree(treeFrom(link));
    const path = makeTextPath('link', '');
    const info = { path, narHash, narSize, references: [], registrationTime: 1, ultimate: true };
    await first.register([{ info: { ...info, signatures: [] }, staged }]);
    await first.verifyPath(path);
    await first.optimise();
    first.close();
    const store = await openStore(root);
    onTestFinished(() => store.close());
    const sweep = await store.collect();
    onTestFinished(() => sweep.end());
    expect((await sweep.remove([path])).map((removed) => removed.path)).toEqual([path]);
    expect(look()).toEqual(before);
  });
});
