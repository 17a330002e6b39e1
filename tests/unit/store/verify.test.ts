import { execFileSync } from 'node:child_process';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import type { SubstitutedStore, Substituter } from '../../../src/store/substituter.ts';
import { restoreTree } from '../../../src/store/tree-files.ts';
import { type PathFault, repairPaths, verifyPaths } from '../../../src/store/verify.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, treeFrom } from '../../support/trees.ts';

async function open(): Promise<Store> {
  const store = await openStore(temporaryFolder());
  onTestFinished(() => store.close());
  return store;
}

const sample = (text: string): Node => directory({ a: file(text) });

function damage(store: Store, path: StorePath, text: string): void {
  chmodSync(join(store.physical(path), 'a'), 0o644);
  writeFileSync(join(store.physical(path), 'a'), text);
}

function remove(store: Store, path: StorePath): void {
  chmodSync(store.physical(path), 0o755);
  rmSync(store.physical(path), { recursive: true });
}

async function faults(
  store: Store,
  paths: readonly StorePath[],
  options: { contents?: boolean; isTrusted?: (info: PathInfo) => boolean } = {},
): Promise<PathFault[]> {
  const found: PathFault[] = [];
  for await (const fault of verifyPaths(store, paths, { contents: true, ...options })) found.push(fault);
  return found;
}

/** A cache in memory: paths and the trees that it says they are. */
function cacheOf(
  store: SubstitutedStore,
  offers: ReadonlyMap<StorePath, { readonly node: Node; readonly info: Partial<PathInfo> }>,
): Substituter {
  return {
    offers: async () => new Map(),
    substitute: async (path) => {
      if (store.valid([path]).has(path)) return true;
      const offer = offers.get(path);
      if (!offer) return false;
      const stage = await store.stage();
      const staged = join(stage.path, 'tree');
      await treeFrom(offer.node).walk(restoreTree(staged));
      const hash = await hashTree(treeFrom(offer.node));
      const info = {
        path,
        ...hash,
        references: [],
        registrationTime: 2,
        ultimate: false,
        signatures: ['cache:x'],
      };
      const unlock = await store.lockPaths([path]);
      await store.register([{ info: { ...info, ...offer.info }, staged }]).finally(unlock);
      await stage.dispose();
      return true;
    },
  };
}

describe('verifyPaths', () => {
  it('finds nothing in a whole store', async () => {
    const store = await open();
    const { path } = await store.addTree('one', treeFrom(sample('x')));
    await store.addText('two', path, [path]);
    expect(await faults(store, store.paths())).toEqual([]);
    expect(store.check()).toEqual({ database: [], missing: [], orphans: [] });
  });

  it('tells what is corrupt, unreadable, missing, incomplete', async () => {
    const store = await open();
    const [corrupt, odd, gone] = await Promise.all(
      ['corrupt', 'odd', 'gone'].map(
        async (name) => (await store.addTree(name, treeFrom(sample(name)))).path,
      ),
    );
    const { path: referrer } = await store.addText('referrer', gone!, [gone!]);
    damage(store, corrupt!, 'other');
    chmodSync(store.physical(odd!), 0o755);
    rmSync(join(store.physical(odd!), 'a'));
    execFileSync('mkfifo', [join(store.physical(odd!), 'a')]);
    remove(store, gone!);
    writeFileSync(join(store.root, 'nix/store/orphan'), '');
    expect(await faults(store, [corrupt!, odd!, gone!, referrer])).toEqual([
      {
        kind: 'corrupt',
        path: corrupt,
        found: expect.stringMatching(/^sha256-/),
        wanted: store.query(corrupt!)?.narHash,
      },
      { kind: 'unreadable', path: odd, reason: expect.stringContaining('pipe') },
      { kind: 'missing', path: gone },
      { kind: 'incomplete', path: referrer, reference: gone },
    ]);
    expect(await faults(store, [corrupt!], { contents: false })).toEqual([]);
    expect(store.check()).toEqual({ database: [], missing: [gone], orphans: ['orphan'] });
  });

  it('asks whom to believe', async () => {
    const store = await open();
    const { path } = await store.addTree('one', treeFrom(sample('x')));
    expect(await faults(store, [path], { isTrusted: (info) => info.path !== path })).toEqual([
      { kind: 'untrusted', path },
    ]);
    expect(await faults(store, [path], { isTrusted: ({ ultimate }) => ultimate })).toEqual([]);
  });
});

describe('repairPaths', () => {
  async function repaired(
    store: Store,
    broken: readonly StorePath[],
    offers: Parameters<typeof cacheOf>[1],
  ): Promise<(readonly [StorePath, string | undefined])[]> {
    const results: (readonly [StorePath, string | undefined])[] = [];
    for await (const { path, failure } of repairPaths(store, broken, async (view) => cacheOf(view, offers)))
      results.push([path, failure?.code]);
    return results;
  }

  it('puts the same bytes back and keeps what was known', async () => {
    const store = await open();
    const before = await store.addTree('one', treeFrom(sample('x')));
    const { path: user } = await store.addText('user', before.path, [before.path]);
    damage(store, before.path, 'y');
    expect(
      await repaired(store, [before.path], new Map([[before.path, { node: sample('x'), info: {} }]])),
    ).toEqual([[before.path, undefined]]);
    await store.verifyPath(before.path);
    expect(store.query(before.path)).toEqual({ ...before, signatures: ['cache:x'] });
    expect(store.referrers(before.path)).toEqual([user]);
  });

  it('takes what a cache has where a build came out otherwise, and what is not there at all', async () => {
    const store = await open();
    const [other, gone] = [
      await store.addTree('o', treeFrom(sample('o'))),
      await store.addTree('g', treeFrom(sample('g'))),
    ];
    damage(store, other.path, 'y');
    remove(store, gone.path);
    const offers = new Map([
      [other.path, { node: sample('new'), info: {} }],
      [gone.path, { node: sample('g'), info: {} }],
    ]);
    await repaired(store, [other.path, gone.path], offers);
    expect(store.query(other.path)).toMatchObject({ ultimate: false, registrationTime: 2 });
    expect(await faults(store, [other.path, gone.path])).toEqual([]);
  });

  it('leaves a path as it is where no cache has it, and says how to go on', async () => {
    const store = await open();
    const { path } = await store.addTree('one', treeFrom(sample('x')));
    damage(store, path, 'y');
    const failures: (FlkError | undefined)[] = [];
    for await (const { failure } of repairPaths(store, [path], async () => undefined)) failures.push(failure);
    expect(failures).toEqual([expect.objectContaining({ code: 'FLK_STORE_CORRUPT' })]);
    expect(failures[0]?.hint).toContain('flk store delete');
    expect(await faults(store, [path])).toHaveLength(1);
  });

  it('goes on where a cache lies about one of them', async () => {
    const store = await open();
    const [a, b] = [
      await store.addTree('a', treeFrom(sample('a'))),
      await store.addTree('b', treeFrom(sample('b'))),
    ];
    for (const { path } of [a, b]) damage(store, path, 'y');
    const results: (string | undefined)[] = [];
    const half = async (view: SubstitutedStore): Promise<Substituter> => {
      const honest = cacheOf(view, new Map([[b.path, { node: sample('b'), info: {} }]]));
      return {
        ...honest,
        substitute: async (path) => {
          if (path === a.path) throw new FlkError('FLK_NAR_HASH_MISMATCH', 'another');
          return await honest.substitute(path);
        },
      };
    };
    for await (const { failure } of repairPaths(store, [a.path, b.path], half)) results.push(failure?.code);
    expect(results).toEqual(['FLK_NAR_HASH_MISMATCH', undefined]);
    expect((await faults(store, [a.path, b.path])).map(({ path }) => path)).toEqual([a.path]);
  });
});
