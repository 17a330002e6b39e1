import { fork } from 'node:child_process';
import { chmodSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { hashTree } from '../../../src/formats/nar.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { bundleChild } from '../../support/child.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, nodeOf, treeFrom } from '../../support/trees.ts';

const sample: Node = directory({ a: file('a') });

async function filled(): Promise<{ root: string; tree: StorePath; text: StorePath }> {
  const root = temporaryFolder();
  const store = await openStore(root);
  const { path: tree } = await store.addTree('tree', treeFrom(sample));
  const { path: text } = await store.addText('text', `see ${tree}`, [tree]);
  store.setMemo('key', 'value');
  store.close();
  return { root, tree, text };
}

async function toRead(root: string): Promise<Store> {
  const store = await openStore(root, { readOnly: true });
  onTestFinished(() => store.close());
  return store;
}

/** All that lies in a store's folder of state, and when it was written. */
const state = (root: string): unknown =>
  readdirSync(join(root, 'nix/var/flk'), { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => [name, lstatSync(join(root, 'nix/var/flk', name)).mtimeMs]);

describe('a store that is only read', () => {
  it('answers, and nothing on its disk changes', async () => {
    const { root, tree, text } = await filled();
    const before = state(root);
    const store = await toRead(root);
    expect(store.readOnly).toBe(true);
    expect(store.query(text)?.references).toEqual([tree]);
    expect(store.closure([text])).toEqual([tree, text].sort());
    expect(store.paths()).toEqual([tree, text].sort());
    expect(store.referrers(tree)).toEqual([text]);
    expect(await nodeOf(store.tree(tree))).toEqual(sample);
    await store.verifyPath(tree);
    expect(store.memo('key')).toBe('value');
    store.setMemo('key', 'other');
    store.hold([tree]);
    expect(store.memo('key')).toBe('other');
    expect(await store.withPathLocks([tree], async () => 'free')).toBe('free');
    store.close();
    expect(state(root)).toEqual(before);
    const again = await toRead(root);
    expect(again.memo('key')).toBe('value');
  });

  it('adds what is there already, and refuses whatever would have to be written', async () => {
    const { root, tree, text } = await filled();
    const store = await toRead(root);
    const { narHash, narSize } = await hashTree(treeFrom(sample));
    expect((await store.addTree('tree', treeFrom(sample))).path).toBe(tree);
    expect((await store.addText('text', `see ${tree}`, [tree])).path).toBe(text);
    const info = { path: tree, narHash, narSize, references: [], registrationTime: 1, ultimate: true };
    const refused: (() => Promise<unknown>)[] = [
      () => store.addTree('new', treeFrom(sample)),
      () => store.addText('new', 'x', []),
      () => store.register([{ info: { ...info, signatures: [] }, staged: join(root, 'x') }]),
      () => store.stage(),
      () => store.collect(),
      () => store.optimise(),
      () => store.addIndirectRoot(join(root, 'link')),
      async () => store.addSignatures(tree, ['a:b']),
    ];
    for (const work of refused) await expect(work()).rejects.toEqual(withCode('FLK_FILE_UNWRITABLE'));
    expect(store.paths()).toEqual([tree, text].sort());
  });

  it('is read while others write it', async () => {
    const { root, tree } = await filled();
    const writer = await openStore(root);
    onTestFinished(() => writer.close());
    const { path: before } = await writer.addText('before', 'x', []);
    const store = await toRead(root);
    const { path: after } = await writer.addText('after', 'x', []);
    expect([tree, before, after].filter((path) => store.query(path))).toEqual([tree, before, after]);
  });

  it('must be there', async () => {
    await expect(openStore(temporaryFolder(), { readOnly: true })).rejects.toEqual(
      withCode('FLK_STORE_INVALID'),
    );
  });

  const isRoot = process.getuid?.() === 0;
  it.skipIf(!isRoot)(
    `is opened by somebody else too${isRoot ? '' : ' (skipped: only root can be somebody else)'}`,
    async () => {
      const { root, text } = await filled();
      chmodSync(root, 0o755);
      const child = await bundleChild(new URL('read-only.ts', import.meta.url));
      chmodSync(dirname(child), 0o755);
      const before = readFileSync(join(root, 'nix/var/flk/store.sqlite'));
      const other = fork(child, [root, text], { uid: 65534, gid: 65534, stdio: ['ignore', 2, 2, 'ipc'] });
      const told = await new Promise((done) => {
        other.on('message', done);
        other.on('exit', done);
      });
      expect(told).toEqual({ answer: 'FLK_FILE_UNWRITABLE', closure: 2, readOnly: true });
      expect(readFileSync(join(root, 'nix/var/flk/store.sqlite'))).toEqual(before);
    },
  );
});
