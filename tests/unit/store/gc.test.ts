import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Event, silent } from '../../../src/base/events.ts';
import { printDerivation } from '../../../src/formats/derivation.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { baseNameOf, makeTextPath, type StorePath } from '../../../src/formats/store-path.ts';
import { chainsTo, collectGarbage, type GarbageOptions } from '../../../src/store/gc.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';
import { findRoots } from '../../../src/store/roots.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

const keeping = { keepDerivations: true, keepOutputs: false };
const none = temporaryFolder();
const options: GarbageOptions = { ...keeping, readLock: async () => [], reporter: silent, proc: none };

const add = async (
  store: Store,
  name: string,
  references: readonly StorePath[] = [],
  text = name,
): Promise<StorePath> =>
  (await store.addTree(name, treeFrom(directory({ a: file(text) })), { references })).path;

/** The path's record, as if this derivation had made it. */
async function deriveFrom(store: Store, path: StorePath, deriver: StorePath): Promise<void> {
  const stage = await store.stage();
  const staged = join(stage.path, 'x');
  mkdirSync(staged);
  writeFileSync(join(staged, 'a'), 'out');
  await store.register([{ info: { ...store.query(path)!, deriver }, staged }], { replace: true });
  await stage.dispose();
}

function root(store: Store, name: string, path: StorePath): string {
  const place = join(store.root, 'nix/var/nix/gcroots', name);
  mkdirSync(dirname(place), { recursive: true });
  symlinkSync(store.physical(path), place);
  return place;
}

/** What a store holds is let go of when it is closed. */
async function reopened(store: Store): Promise<Store> {
  store.close();
  return await openStore(store.root);
}

/** Texts, each of which refers to the one before, staged in a folder. */
async function chainOf(
  length: number,
  folder: string,
): Promise<{ readonly info: PathInfo; readonly staged: string }[]> {
  const { narHash, narSize } = await hashTree(treeFrom(file('x')));
  const chain: { readonly info: PathInfo; readonly staged: string }[] = [];
  for (let i = 0; i < length; i++) {
    const references = chain.slice(-1).map(({ info }) => info.path);
    const staged = join(folder, String(i));
    writeFileSync(staged, 'x');
    const path = makeTextPath(`text-${i}`, 'x', references);
    chain.push({
      info: { path, narHash, narSize, references, registrationTime: 1, ultimate: true, signatures: [] },
      staged,
    });
  }
  return chain;
}

const newStore = (): Promise<Store> => openStore(join(temporaryFolder(), 'root'));

describe('collectGarbage', () => {
  it('removes what no root leads to, and nothing else', async () => {
    let store = await newStore();
    const base = await add(store, 'base');
    const used = await add(store, 'used', [base]);
    const unused = await add(store, 'unused', [base]);
    const above = await add(store, 'above', [unused]);
    root(store, 'mine', used);
    store = await reopened(store);
    const garbage = await collectGarbage(store, options);
    expect(garbage.removed.map(({ path }) => path).sort()).toEqual([above, unused].sort());
    expect(garbage.removed.every(({ bytes }) => bytes > 0)).toBe(true);
    expect(garbage).toMatchObject({ alive: 2, left: 0, orphans: [], staleRoots: [], logs: 0 });
    expect(garbage.bytes).toBe(garbage.removed.reduce((sum, { bytes }) => sum + bytes, 0));
    expect(store.paths()).toEqual([base, used].sort());
    expect(readdirSync(join(store.root, 'nix/store')).sort()).toEqual([base, used].map(baseNameOf).sort());
    for (const path of store.paths()) await store.verifyPath(path);
  });

  it('leaves what is held here, by this very process', async () => {
    const store = await newStore();
    const path = await add(store, 'fresh');
    expect(await collectGarbage(store, options)).toMatchObject({ removed: [], left: 1 });
    expect(store.query(path)).toBeDefined();
  });

  it('keeps derivations of what lives, and outputs of derivations that do, as settings say', async () => {
    for (const [keepDerivations, keepOutputs] of [
      [true, false],
      [false, false],
      [true, true],
      [false, true],
    ] as const) {
      let store = await newStore();
      const source = await add(store, 'source');
      const out = await add(store, 'out', [], 'out');
      const doc = await add(store, 'doc');
      const text = printDerivation({
        outputs: new Map([
          ['out', { path: out, hashAlgo: '', hash: '' }],
          ['doc', { path: doc, hashAlgo: '', hash: '' }],
        ]),
        inputDrvs: new Map(),
        inputSrcs: [source],
        system: 'x86_64-linux',
        builder: '/bin/sh',
        args: [],
        env: new Map(),
      });
      const { path: drv } = await store.addText('out.drv', text, [source]);
      const { path: damaged } = await store.addText('damaged.drv', 'Derive(', [drv]);
      await deriveFrom(store, out, drv);
      root(store, 'out', out);
      if (!keepDerivations) root(store, 'damaged', damaged);
      store = await reopened(store);
      await collectGarbage(store, { ...options, keepDerivations, keepOutputs });
      expect(store.paths(), `${keepDerivations} ${keepOutputs}`).toEqual(
        [out, drv, source, ...(keepOutputs ? [doc] : []), ...(keepDerivations ? [] : [damaged])].sort(),
      );
    }
  });

  it('lets derivations go where they are not to be kept', async () => {
    let store = await newStore();
    const out = await add(store, 'out', [], 'out');
    const { path: drv } = await store.addText('out.drv', 'anything', []);
    await deriveFrom(store, out, drv);
    root(store, 'out', out);
    store = await reopened(store);
    await collectGarbage(store, { ...options, keepDerivations: false });
    expect(store.paths()).toEqual([out]);
  });

  it('stops when enough is free, and what is left is whole', async () => {
    let store = await newStore();
    const base = await add(store, 'base');
    for (let i = 0; i < 20; i++) await add(store, `leaf-${i}`, [base], 'x'.repeat(20_000));
    store = await reopened(store);
    const garbage = await collectGarbage(store, { ...options, maxFreed: 60_000 });
    expect(garbage.bytes).toBeGreaterThanOrEqual(60_000);
    expect(garbage.removed.length).toBeLessThan(6);
    expect(garbage.left).toBe(21 - garbage.removed.length);
    expect(store.closure(store.paths())).toHaveLength(garbage.left);
    expect((await collectGarbage(store, { ...options, maxFreed: 0 })).removed).toEqual([]);
    expect((await collectGarbage(store, options)).left).toBe(0);
    expect(store.paths()).toEqual([]);
  });

  it('only says what it would do', async () => {
    let store = await newStore();
    const base = await add(store, 'base');
    const above = await add(store, 'above', [base]);
    const kept = root(store, 'mine', above);
    const stale = join(temporaryFolder(), 'gone');
    await store.addIndirectRoot(stale);
    store = await reopened(store);
    expect(await collectGarbage(store, { ...options, dryRun: true })).toMatchObject({
      removed: [],
      alive: 2,
    });
    const foreseen = await collectGarbage(store, { ...options, dryRun: true, without: new Set([kept]) });
    expect(foreseen.removed.map(({ path }) => path)).toEqual([above, base]);
    expect(foreseen.staleRoots).toHaveLength(1);
    expect(store.paths()).toHaveLength(2);
    expect(readdirSync(join(store.root, 'nix/var/nix/gcroots/auto'))).toHaveLength(1);
  });

  it('removes leftovers, links to nowhere and logs of derivations that are gone', async () => {
    let store = await newStore();
    const { path: drv } = await store.addText('kept.drv', 'x', []);
    root(store, 'kept', drv);
    const orphan = '0123456789abcdfghijklmnpqrsvwxyz-left';
    writeFileSync(join(store.root, 'nix/store', orphan), 'x');
    await store.addIndirectRoot(join(temporaryFolder(), 'gone'));
    const log = (base: string): string => {
      const place = join(store.root, 'nix/var/log/flk/drvs', base.slice(0, 2), base.slice(2));
      mkdirSync(dirname(place), { recursive: true });
      writeFileSync(place, 'log');
      return place;
    };
    const logs = [
      log(baseNameOf(drv)),
      log('0123456789abcdfghijklmnpqrsvwxyz-gone.drv'),
      log('0123456789abcdfghijklmnpqrsvwxy0-gone.drv.zst'),
      log('something else'),
    ];
    store = await reopened(store);
    const garbage = await collectGarbage(store, options);
    expect(garbage).toMatchObject({ removed: [], logs: 2 });
    expect(garbage.orphans.map(({ name }) => name)).toEqual([orphan]);
    expect(garbage.staleRoots).toHaveLength(1);
    expect(logs.map((place) => existsSync(place))).toEqual([true, false, false, true]);
    expect(readdirSync(join(store.root, 'nix/var/nix/gcroots/auto'))).toEqual([]);
  });

  it('removes nothing while a root cannot be read, and lets others sweep afterwards', async () => {
    let store = await newStore();
    const path = await add(store, 'unused');
    const outside = temporaryFolder();
    symlinkSync('loop', join(outside, 'loop'));
    await store.addIndirectRoot(join(outside, 'loop'));
    store = await reopened(store);
    expect((await errorOf(collectGarbage(store, options))).code).toBe('FLK_ROOT_UNREADABLE');
    expect(store.query(path)).toBeDefined();
    await (await store.collect()).end();
  });

  it('stops between two batches, and the store is whole', async () => {
    let store = await newStore();
    for (let i = 0; i < 5; i++) await add(store, `path-${i}`);
    store = await reopened(store);
    const stopped = new AbortController();
    const reporter = {
      emit: (event: Event) => {
        if (event.kind === 'start' && event.activity.type === 'sweep') stopped.abort();
      },
    };
    const error = await errorOf(collectGarbage(store, { ...options, reporter, signal: stopped.signal }));
    expect(error.code).toBe('FLK_INTERRUPTED');
    expect(store.paths()).toHaveLength(5);
    expect((await collectGarbage(store, options)).removed).toHaveLength(5);
  });

  it('tells which lock it could not read', async () => {
    let store = await newStore();
    const source = await add(store, 'source');
    const lock = join(temporaryFolder(), 'flake.lock');
    writeFileSync(lock, '<<<<<<<');
    await store.addIndirectRoot(lock);
    store = await reopened(store);
    const events: Event[] = [];
    const { FlkError } = await import('../../../src/base/errors.ts');
    await collectGarbage(store, {
      ...options,
      readLock: async () => {
        throw new FlkError('FLK_LOCK_CONFLICT', 'markers');
      },
      reporter: { emit: (event) => void events.push(event) },
    });
    expect(store.query(source)).toBeDefined();
    expect(events).toContainEqual({ kind: 'notice', notice: { type: 'unread-lock', path: lock } });
  });

  it('leaves the closure of the roots of any graph, each path of it with a chain, and no other', async () => {
    const graph = fc.array(fc.tuple(fc.array(fc.nat(40), { maxLength: 4 }), fc.integer({ min: 0, max: 3 })), {
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(graph, async (nodes) => {
        let store = await newStore();
        const paths: StorePath[] = [];
        const kept: StorePath[] = [];
        for (const [i, [targets, isRoot]] of nodes.entries()) {
          const references = i === 0 ? [] : targets.map((target) => paths[target % i]!);
          paths.push(await add(store, `node-${i}`, references));
          if (isRoot !== 0) continue;
          root(store, `root-${i}`, paths[i]!);
          kept.push(paths[i]!);
        }
        store = await reopened(store);
        const alive = store.closure(kept);
        const { roots } = await findRoots(store, options);
        for (const path of paths) {
          const chains = chainsTo(store, path, roots, keeping);
          expect(chains.length > 0).toBe(alive.includes(path));
          for (const chain of chains) {
            expect([chain.paths[0], chain.paths.at(-1)]).toEqual([chain.root.path, path]);
            for (const [i, step] of chain.paths.slice(1).entries())
              expect(store.query(chain.paths[i]!)!.references).toContain(step);
          }
        }
        await collectGarbage(store, options);
        expect(store.paths()).toEqual(alive);
        store.close();
      }),
      { numRuns: 15 },
    );
  });

  it('copes with chains that are as long as a graph is deep', async () => {
    let store = await newStore();
    const stage = await store.stage();
    const infos = await chainOf(2000, stage.path);
    await store.register(infos);
    const [first, path] = [infos[0]!.info.path, infos.at(-1)!.info.path];
    const roots = [{ kind: 'link' as const, place: '/r', path }];
    store = await reopened(store);
    expect(chainsTo(store, first, roots, keeping)[0]?.paths).toHaveLength(2000);
    expect((await collectGarbage(store, options)).removed).toHaveLength(2000);
  });
});

describe('chainsTo', () => {
  it('takes the shortest way from each root, nearest root first, over derivers too', async () => {
    const store = await newStore();
    const source = await add(store, 'source');
    const { path: drv } = await store.addText('out.drv', 'x', [source]);
    const out = await add(store, 'out', [], 'out');
    await deriveFrom(store, out, drv);
    const near = await add(store, 'near', [source]);
    const far = await add(store, 'far', [near, out]);
    const roots = [far, near, out].map((path, i) => ({ kind: 'link' as const, place: `/root-${i}`, path }));
    expect(chainsTo(store, source, roots, keeping)).toEqual([
      { root: roots[1], paths: [near, source] },
      { root: roots[0], paths: [far, near, source] },
      { root: roots[2], paths: [out, drv, source] },
    ]);
    expect(chainsTo(store, drv, roots, { ...keeping, keepDerivations: false })).toEqual([]);
    expect(chainsTo(store, source.replace('source', 'gone') as StorePath, roots, keeping)).toEqual([]);
  });
});
