import { chmodSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { exportEnd, exportEntry, exportRecord } from '../../../src/formats/export.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { hashPart, makeSourcePath, makeTextPath, type StorePath } from '../../../src/formats/store-path.ts';
import { exportPaths, importPaths, referencesFirst } from '../../../src/store/exchange.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, narOf, treeFrom } from '../../support/trees.ts';

async function open(root = temporaryFolder()): Promise<Store> {
  const store = await openStore(root);
  onTestFinished(() => store.close());
  return store;
}

const built = (letter: string, name: string): StorePath =>
  `/nix/store/${letter.repeat(32)}-${name}` as StorePath;

const entry = (node: Node, path: StorePath, references: readonly StorePath[] = []): Buffer =>
  Buffer.concat([exportEntry, narOf(node), exportRecord({ path, references })]);

async function* once(...parts: readonly Buffer[]): AsyncGenerator<Buffer> {
  yield* parts;
}

const take = (store: Store, trusted: boolean, ...parts: readonly Buffer[]): Promise<StorePath[]> =>
  importPaths(store, once(...parts), { trusted });

async function streamOf(store: Store, paths: readonly StorePath[]): Promise<Buffer> {
  const chunks: Buffer[] = [];
  await exportPaths(
    store,
    paths.map((path) => store.query(path)!),
    async (bytes) => void chunks.push(Buffer.from(bytes)),
  );
  return Buffer.concat(chunks);
}

const leftovers = (store: Store): string[] => readdirSync(join(store.root, 'nix/var/flk/stage'));
const sample = directory({ a: file('a') });

describe('paths from one store to another', () => {
  it('arrive with all that is known of them but who made them', async () => {
    const [from, to] = [await open(), await open()];
    const source = await from.addTree('source', treeFrom(sample));
    const text = await from.addText('x.drv', `text of ${source.path}`, [source.path]);
    expect(await take(to, false, await streamOf(from, [text.path, source.path]))).toEqual([
      source.path,
      text.path,
    ]);
    for (const { path, narHash, narSize, references, ca } of [source, text])
      expect(to.query(path)).toMatchObject({
        path,
        narHash,
        narSize,
        references,
        ca,
        ultimate: false,
        signatures: [],
      });
    await to.verifyPath(text.path);
    expect(leftovers(to)).toEqual([]);
  });

  it('need no signature where the content proves the name, whatever the stream leaves unsaid', async () => {
    const store = await open();
    const { narHash } = await hashTree(treeFrom(file('x', true)));
    const [tree, text] = [makeSourcePath('tree', narHash), makeTextPath('text', 'words', [])];
    expect(
      await take(store, false, entry(file('x', true), tree), entry(file('words'), text), exportEnd),
    ).toEqual([tree, text]);
    expect(store.query(tree)?.ca).toMatch(/^fixed:r:sha256:/);
    expect(store.query(text)?.ca).toMatch(/^text:sha256:/);
  });

  it('are refused where the content does not', async () => {
    const store = await open();
    const path = makeSourcePath('tree', (await hashTree(treeFrom(sample))).narHash);
    for (const part of [
      entry(directory({ a: file('b') }), path),
      entry(sample, path, [path]),
      entry(sample, built('a', 'built')),
      entry(file('words', true), makeTextPath('text', 'words', [])),
    ]) {
      const error = await errorOf(take(store, false, part, exportEnd));
      expect(error.code).toBe('FLK_EXPORT_UNTRUSTED');
      expect(error.hint).toContain('--no-check-sigs');
    }
    expect(store.paths()).toEqual([]);
    expect(leftovers(store)).toEqual([]);
  });

  it('are taken on the word of the stream where that is asked for, and not as made here', async () => {
    const store = await open();
    const [a, b] = [built('a', 'one'), built('b', 'two')];
    const self = file(`I am ${hashPart(a)}`);
    expect(await take(store, true, entry(self, a, [a]), entry(sample, b, [a]), exportEnd)).toEqual([a, b]);
    expect(store.query(a)).toMatchObject({ references: [a], ultimate: false });
    expect(store.query(b)?.ca).toBeUndefined();
  });

  it('are refused that refer to what is neither here nor before them', async () => {
    const store = await open();
    const [a, b] = [built('a', 'one'), built('b', 'two')];
    const error = await errorOf(take(store, true, entry(sample, b, [a]), entry(sample, a), exportEnd));
    expect(error.code).toBe('FLK_EXPORT_INVALID');
    expect(error.message).toContain(a);
    expect(error.hint).toContain('export -r');
    expect(store.query(b)).toBeUndefined();
    await take(store, true, entry(sample, a), exportEnd);
    expect(await take(store, true, entry(sample, b, [a]), exportEnd)).toEqual([b]);
  });

  it('leave what is here as it is', async () => {
    const store = await open();
    const a = built('a', 'one');
    await take(store, true, entry(sample, a), exportEnd);
    const before = store.query(a);
    expect(await take(store, true, entry(file('other'), a), entry(file('other'), a), exportEnd)).toEqual([
      a,
      a,
    ]);
    expect(store.query(a)).toEqual(before);
    await store.verifyPath(a);
  });

  it('come in more than one batch, and leave nothing half done where the stream breaks off', async () => {
    const store = await open();
    const names = Array.from({ length: 150 }, (_, i) => `p${i}`);
    const parts = names.map((name) => entry(file(name), makeTextPath(name, name, [])));
    expect(await take(store, false, ...parts, exportEnd)).toHaveLength(150);
    expect(store.paths()).toHaveLength(150);
    const other = await open();
    await errorOf(take(other, false, ...parts, parts[0]!.subarray(0, 100)));
    for (const path of other.paths()) await other.verifyPath(path);
    expect(leftovers(other)).toEqual([]);
  });

  it('do not leave when they are not what was put there', async () => {
    const store = await open();
    const { path, narHash } = await store.addTree('source', treeFrom(sample));
    chmodSync(join(store.physical(path), 'a'), 0o644);
    writeFileSync(join(store.physical(path), 'a'), 'b');
    const error = await errorOf(streamOf(store, [path]));
    expect(error.code).toBe('FLK_STORE_CORRUPT');
    expect(error.facts.wanted).toBe(narHash);
  });
});

describe('referencesFirst', () => {
  const order = (graph: Readonly<Record<string, readonly string[]>>): string[] =>
    referencesFirst(
      Object.keys(graph).map((name) => built(name, 'x')),
      (path) => (graph[hashPart(path)[0]!] ?? []).map((name) => built(name, 'x')),
    ).map((path) => hashPart(path)[0]!);

  it('puts each path after what it refers to, and orders the rest by bytes', () => {
    expect(order({ b: [], a: ['d', 'c'], d: ['b'], c: ['b', 'c'] })).toEqual(['b', 'c', 'd', 'a']);
  });

  it('looks at nothing beyond the paths', () => {
    expect(order({ a: ['z'], b: [] })).toEqual(['a', 'b']);
  });

  it('follows chains of any length', () => {
    const path = (i: number): StorePath => `/nix/store/${String(i).padStart(32, '0')}-x` as StorePath;
    const all = Array.from({ length: 50_000 }, (_, i) => path(i));
    const sorted = referencesFirst(all, (one) => {
      const i = Number(hashPart(one));
      return i + 1 < all.length ? [path(i + 1)] : [];
    });
    expect(sorted).toEqual([...all].reverse());
  });
});
