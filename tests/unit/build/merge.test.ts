import { describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { silent } from '../../../src/base/events.ts';
import { runBuiltin } from '../../../src/build/builtin.ts';
import { mergeDerivation, mergedTree, mergeKey } from '../../../src/build/merge.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { openStore } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, entriesOf, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

const store = await openStore(temporaryFolder());

async function parts(nodes: readonly Node[]) {
  return Promise.all(
    nodes.map(async (node, index) => ({
      label: `#part${index}`,
      path: (await store.addTree(`part${index}`, treeFrom(node))).path as string,
    })),
  );
}

async function merged(
  nodes: readonly Node[],
  links: Readonly<Record<string, string>> = {},
): Promise<string[]> {
  return entriesOf(mergedTree(store, await parts(nodes), new Map(Object.entries(links))));
}

describe('a merge', () => {
  test('unites folders, and takes equal files once', async () => {
    const a = directory({
      bin: directory({ sh: file('sh', true) }),
      doc: file('same'),
      link: symlink('doc'),
    });
    const b = directory({
      bin: directory({ 'caf\xe9': file('x') }),
      doc: file('same'),
      link: symlink('doc'),
      empty: directory(),
    });
    expect(await merged([a, b])).toEqual(['bin/', 'bin/caf\xe9', 'bin/sh*', 'doc', 'empty/', 'link@ -> doc']);
  });

  test.each<[string, Node, Node, string]>([
    ['other bytes', file('aaa'), file('bbb'), 'x'],
    ['other sizes', file('a'), file('aa'), 'x'],
    ['another executable bit', file('a'), file('a', true), 'x'],
    ['another target', symlink('a'), symlink('b'), 'x'],
    ['a file and a folder', file('a'), directory(), 'x'],
    ['a file and a link', file('a'), symlink('a'), 'x'],
    ['a folder and a link to a file', directory({ y: file('') }), symlink('file'), 'x'],
    ['a folder and a link out of the tree', directory({ y: file('') }), symlink('../out'), 'x'],
    ['a folder and a link to itself', directory({ y: file('') }), symlink('x'), 'x'],
  ])('refuses %s, naming the place and both parts', async (_what, one, other, place) => {
    const wrap = (node: Node) => directory({ x: node, file: file('f') });
    for (const pair of [
      [one, other],
      [other, one],
    ] as const) {
      const error = await errorOf(merged(pair.map(wrap)));
      expect(error.code).toBe('FLK_PACKAGE_INVALID');
      expect(error.message).toContain(place);
      expect(error.message).toContain('#part0');
      expect(error.message).toContain('#part1');
    }
  });

  test('compares large files whole', async () => {
    const big = Buffer.alloc(300_000, 'a');
    const other = Buffer.from(big);
    other[250_000] = 0;
    expect(await merged([directory({ f: file(big) }), directory({ f: file(big) })])).toEqual(['f']);
    expect((await errorOf(merged([directory({ f: file(big) }), directory({ f: file(other) })]))).code).toBe(
      'FLK_PACKAGE_INVALID',
    );
  });

  test('puts a folder where another part has a link to one, in any order', async () => {
    const usrMerged = directory({
      bin: symlink('usr/bin'),
      usr: directory({ bin: directory({ env: file('', true) }) }),
    });
    const old = directory({ bin: directory({ cat: file('', true) }), lib: directory({ x: file('') }) });
    const wanted = ['bin@ -> usr/bin', 'lib/', 'lib/x', 'usr/', 'usr/bin/', 'usr/bin/cat*', 'usr/bin/env*'];
    expect(await merged([usrMerged, old])).toEqual(wanted);
    expect(await merged([old, usrMerged])).toEqual(wanted);
  });

  test('follows links of links, absolute ones from its own top, and makes what they lack', async () => {
    const linked = directory({
      a: symlink('b/c'),
      b: symlink('/deep/er'),
      sub: directory({ up: symlink('../new') }),
    });
    const full = directory({
      a: directory({ x: file('') }),
      sub: directory({ up: directory({ y: file('') }) }),
    });
    expect(await merged([linked, full])).toEqual([
      'a@ -> b/c',
      'b@ -> /deep/er',
      'deep/',
      'deep/er/',
      'deep/er/c/',
      'deep/er/c/x',
      'new/',
      'new/y',
      'sub/',
      'sub/up@ -> ../new',
    ]);
  });

  test('adds links, which may stand for folders', async () => {
    const part = directory({ bin: directory({ 'gcc-12': file('', true) }) });
    expect(await merged([part], { 'usr/bin/cc': 'gcc-12', bin: 'usr/bin' })).toEqual([
      'bin@ -> usr/bin',
      'usr/',
      'usr/bin/',
      'usr/bin/cc@ -> gcc-12',
      'usr/bin/gcc-12*',
    ]);
    expect((await errorOf(merged([part], { 'bin/gcc-12': 'x' }))).message).toContain('links');
    for (const path of ['../x', 'a//b', '', '.'])
      expect((await errorOf(merged([part], { [path]: 'x' }))).code).toBe('FLK_PACKAGE_INVALID');
    expect((await errorOf(merged([part], { a: 'x', 'a/b': 'y' }))).code).toBe('FLK_PACKAGE_INVALID');
  });

  test('refuses single files and folders that are not in a part', async () => {
    expect((await errorOf(merged([file('x')]))).code).toBe('FLK_PACKAGE_INVALID');
    const [part] = await parts([directory({ in: directory({ f: file('') }), link: symlink('in') })]);
    const below = (path: string) =>
      mergedTree(store, [{ label: 'p', path: `${part!.path}/${path}` }], new Map());
    expect((await hashTree(below('in'))).narHash).toBe(
      (await hashTree(treeFrom(directory({ f: file('') })))).narHash,
    );
    for (const path of ['nowhere', 'link', 'in/f']) expect(() => below(path)).toThrow(FlkError);
  });

  test('is known by its parts, their order and its links', async () => {
    const [a, b] = await parts([directory({ a: file('') }), directory({ b: file('') })]);
    const none = new Map<string, string>();
    expect(mergeKey([a!, b!], none)).toBe(mergeKey([{ ...a!, label: 'other' }, b!], none));
    const keys = [
      mergeKey([a!, b!], none),
      mergeKey([b!, a!], none),
      mergeKey([a!], none),
      mergeKey([a!, b!], new Map([['l', 't']])),
    ];
    expect(new Set(keys).size).toBe(4);
  });

  test('as a derivation gives the same tree', async () => {
    const list = await parts([directory({ a: file('1') }), directory({ b: file('2', true) })]);
    const links = new Map([['c', 'a']]);
    const { narHash } = await hashTree(mergedTree(store, list, links));
    const { drvPath, derivation } = mergeDerivation('both', narHash, list, links, {
      inputDrvs: new Map(),
      inputSrcs: [],
    });
    const context = {
      store,
      reporter: silent,
      download: () => expect.unreachable('nothing to download'),
    };
    await runBuiltin(drvPath, derivation, context);
    const { path } = derivation.outputs.get('out')!;
    expect(store.query(path)?.narHash).toBe(narHash);
    await store.verifyPath(path);
    const wrong = mergeDerivation('wrong', narHash, list.slice(1), links, {
      inputDrvs: new Map(),
      inputSrcs: [],
    });
    await expect(runBuiltin(wrong.drvPath, wrong.derivation, context)).rejects.toMatchObject({
      code: 'FLK_STORE_CORRUPT',
    });
  });
});
