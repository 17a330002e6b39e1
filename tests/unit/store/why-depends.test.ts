import { describe, expect, it, onTestFinished } from 'vitest';
import { hashPart, type StorePath } from '../../../src/formats/store-path.ts';
import { diskUsage } from '../../../src/store/disk-usage.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { type Edge, referringFiles, whyDepends } from '../../../src/store/why-depends.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

async function open(): Promise<Store> {
  const store = await openStore(temporaryFolder());
  onTestFinished(() => store.close());
  return store;
}

/** a → b → d, a → c → d, a → d, and e beside them. */
async function diamond(store: Store): Promise<Record<'a' | 'b' | 'c' | 'd' | 'e', StorePath>> {
  const add = async (name: string, references: readonly StorePath[]): Promise<StorePath> =>
    (await store.addText(name, `${name} ${references.join(' ')}`, references)).path;
  const d = await add('d', []);
  const [b, c] = [await add('b', [d]), await add('c', [d])];
  return { a: await add('a', [b, c]), b, c, d, e: await add('e', []) };
}

describe('whyDepends', () => {
  it('gives a shortest way and every step of all', async () => {
    const store = await open();
    const { a, b, c, d, e } = await diamond(store);
    const { shortest, edges } = whyDepends(store, a, d);
    const [first, second] = [b, c].sort();
    expect(shortest).toEqual([
      { from: a, to: first },
      { from: first, to: d },
    ]);
    const byText = (list: readonly Edge[]): string[] => list.map(({ from, to }) => `${from} ${to}`).sort();
    expect(byText(edges)).toEqual(
      byText([
        { from: a, to: first! },
        { from: a, to: second! },
        { from: b, to: d },
        { from: c, to: d },
      ]),
    );
    // The direct step is the shortest, though others come first by name.
    const { path: all } = await store.addText('all', 'all', [a, b, c, d]);
    expect([a, b, c, d].sort()[0]).not.toBe(d);
    expect(whyDepends(store, all, d).shortest).toEqual([{ from: all, to: d }]);
    for (const [from, to] of [
      [d, a],
      [a, e],
      [b, c],
      [d, d],
    ] as const)
      expect(whyDepends(store, from, to)).toEqual({ shortest: [], edges: [] });
  });
});

describe('referringFiles', () => {
  it('finds hash parts in files of any size, and in links', async () => {
    const store = await open();
    const { path: target } = await store.addText('target', 'x', []);
    const { path: other } = await store.addText('other', 'y', []);
    const part = hashPart(target);
    // The walk reads a mebibyte at a time.
    const border = Buffer.alloc(2 ** 20 + 100, 1);
    border.write(part, 2 ** 20 - 10);
    const node: Node = directory({
      bin: directory({ run: file(`#!${target}/bin/sh\u0000\nrest`, true), none: file('nothing') }),
      border: file(border),
      link: symlink(`${target}/x`),
    });
    const { path } = await store.addTree('tree', treeFrom(node), { references: [target, other] });
    const found = await referringFiles(store, path, [target, other]);
    expect(found.get(other)).toEqual([]);
    const hits = found.get(target)!;
    expect(hits.map(({ file: name, isLink }) => [name, isLink])).toEqual([
      ['bin/run', false],
      ['border', false],
      ['link', true],
    ]);
    for (const { around, at } of hits) expect(around.slice(at, at + 32)).toBe(part);
    expect(hits[0]?.around).toBe(`#!${target}/bin/sh..rest`);
    expect(hits[1]?.around).toBe(`${'.'.repeat(32)}${part}${'.'.repeat(32)}`);
  });

  it('calls a path that is a file /', async () => {
    const store = await open();
    const { path: target } = await store.addText('target', 'x', []);
    const { path } = await store.addText('file', target, [target]);
    expect((await referringFiles(store, path, [target])).get(target)).toMatchObject([{ file: '/' }]);
  });
});

describe('diskUsage', () => {
  it('counts what is shared once, and tells whose alone the rest is', async () => {
    const store = await open();
    const { a, b, c, d, e } = await diamond(store);
    const size = (path: StorePath): number => store.query(path)!.narSize;
    const usage = diskUsage(store, [c, b, b, e]);
    expect(usage.totalSize).toBe(size(b) + size(c) + size(d) + size(e));
    expect(usage.sharedSize).toBe(size(d));
    expect(usage.paths.map(({ path }) => path).slice(-1)).toEqual([e]);
    expect(usage.paths.find(({ path }) => path === b)).toEqual({
      path: b,
      size: size(b),
      closureSize: size(b) + size(d),
      ownSize: size(b),
    });
    expect(diskUsage(store, [a]).paths[0]?.closureSize).toBe(size(a) + size(b) + size(c) + size(d));
  });
});
