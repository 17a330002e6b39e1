import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NarHasher } from '../../../src/formats/nar.ts';
import { filterTree, type NodeKind, subtree, tee } from '../../../src/formats/tree-sinks.ts';
import {
  anyNode,
  directory,
  file,
  listing,
  type Node,
  symlink,
  TreeCollector,
  treeFrom,
} from '../../support/trees.ts';

const sample = directory({
  Makefile: file('all:'),
  docs: directory({ deep: directory({ 'a.md': file('a') }), 'b.md': file('b') }),
  empty: directory({ inner: directory() }),
  link: symlink('docs/b.md'),
  src: directory({ 'main.c': file('int main;'), 'run.sh': file('#!', true) }),
  'src.c': file('not in src'),
});

async function filtered(
  node: Node,
  keep: (path: string, kind: NodeKind) => boolean,
  options?: { keepEmpty?: boolean },
): Promise<string[]> {
  const collector = new TreeCollector();
  const hasher = new NarHasher();
  await treeFrom(node).walk(filterTree(tee(collector, hasher), keep, options));
  // The hasher throws when the walk that it is given is out of order.
  hasher.digest();
  return listing(collector.root);
}

describe('a filter', () => {
  it('passes on what is wanted, without the folders that hold nothing then', async () => {
    expect(await filtered(sample, (path, kind) => kind === 'directory' || path.endsWith('.md'))).toEqual([
      'docs/',
      'docs/b.md',
      'docs/deep/',
      'docs/deep/a.md',
    ]);
    expect(await filtered(sample, () => true)).toEqual(
      listing(sample).filter((path) => !path.startsWith('empty')),
    );
    expect(await filtered(sample, () => true, { keepEmpty: true })).toEqual(listing(sample));
  });

  it('leaves out a folder with all that is in it, and asks about nothing below', async () => {
    const asked: [string, NodeKind][] = [];
    const left = await filtered(sample, (path, kind) => {
      asked.push([path, kind]);
      return path !== 'docs' && path !== 'empty';
    });
    expect(left).toEqual(['Makefile', 'link@ -> docs/b.md', 'src/', 'src/main.c', 'src/run.sh*', 'src.c']);
    expect(asked).toEqual([
      ['Makefile', 'file'],
      ['docs', 'directory'],
      ['empty', 'directory'],
      ['link', 'symlink'],
      ['src', 'directory'],
      ['src/main.c', 'file'],
      ['src/run.sh', 'file'],
      ['src.c', 'file'],
    ]);
  });

  it('keeps the root, whatever it is', async () => {
    expect(await filtered(sample, () => false)).toEqual([]);
    expect(await filtered(file('x'), () => false)).toEqual(['']);
    expect(await filtered(symlink('x'), () => false)).toEqual(['@ -> x']);
  });

  it('gives names of any bytes as latin1', async () => {
    const asked: string[] = [];
    await filtered(directory({ '\xff\xe9': file('') }), (path) => asked.push(path) > 0);
    expect(asked).toEqual(['\xff\xe9']);
  });

  it('agrees with a filter over the finished tree', async () => {
    /** Wants or not, by the path alone. */
    const wants = (salt: number) => (path: string) =>
      [...path].reduce((sum, c) => sum * 31 + c.charCodeAt(0), salt) % 4 !== 0;
    const plain = (
      node: Node,
      keep: (path: string) => boolean,
      keepEmpty: boolean,
      path = '',
    ): Node | undefined => {
      if (node.type !== 'directory') return node;
      const entries = new Map<string, Node>();
      for (const [name, child] of node.entries) {
        const inner = path === '' ? name : `${path}/${name}`;
        const left = keep(inner) ? plain(child, keep, keepEmpty, inner) : undefined;
        if (left) entries.set(name, left);
      }
      return entries.size > 0 || keepEmpty || path === '' ? { type: 'directory', entries } : undefined;
    };
    await fc.assert(
      fc.asyncProperty(anyNode, fc.nat(1000), fc.boolean(), async (node, salt, keepEmpty) => {
        const keep = wants(salt);
        expect(await filtered(node, keep, { keepEmpty })).toEqual(listing(plain(node, keep, keepEmpty)!));
      }),
    );
  });
});

describe('a part of a tree', () => {
  async function part(node: Node, path: string): Promise<Node | undefined> {
    const collector = new TreeCollector();
    const sink = subtree(collector, path);
    await treeFrom(node).walk(sink);
    return sink.found ? collector.root : undefined;
  }

  it('is the node at a path, with all below it', async () => {
    expect(await part(sample, '')).toEqual(sample);
    expect(await part(sample, '.')).toEqual(sample);
    expect(await part(sample, 'src')).toEqual(sample.type === 'directory' && sample.entries.get('src'));
    expect(await part(sample, './docs/deep/')).toEqual(directory({ 'a.md': file('a') }));
    expect(await part(sample, 'docs/deep/a.md')).toEqual(file('a'));
    expect(await part(sample, 'link')).toEqual(symlink('docs/b.md'));
    expect(await part(sample, 'empty/inner')).toEqual(directory());
    expect(await part(directory({ é: file('latin1'), 'Ã©': file('utf-8') }), 'é')).toEqual(file('utf-8'));
  });

  it('is not found where nothing is, behind a file or behind a link', async () => {
    for (const path of [
      'no',
      'docs/no',
      'docs/deep/a.md/x',
      'link/x',
      'deep',
      'docs/a.md',
      'src/docs',
      'docs/main.c',
      '..',
      'docs/..',
    ])
      expect(await part(sample, path), path).toBeUndefined();
    expect(await part(file('x'), 'x')).toBeUndefined();
  });

  it('is what stands there, in any tree', async () => {
    const paths = (node: Node, path: string[] = []): [string[], Node][] => [
      [path, node],
      ...(node.type === 'directory'
        ? [...node.entries].flatMap(([name, child]) => paths(child, [...path, name]))
        : []),
    ];
    await fc.assert(
      fc.asyncProperty(anyNode, async (node) => {
        // subtree takes UTF-8; names that are not are out of its reach.
        for (const [path, wanted] of paths(node))
          if (path.every((name) => /^[\0-\x7f]+$/.test(name)))
            expect(await part(node, path.join('/'))).toEqual(wanted);
      }),
    );
  });
});
