import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hashTree, NarHasher, type TreeSink } from '../../../src/formats/nar.ts';
import { type Branch, Branches } from '../../../src/formats/tree-branches.ts';
import { subtree } from '../../../src/formats/tree-sinks.ts';
import { directory, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

const names = fc.constantFrom('a', 'b', 'c', 'ä');
const node: fc.Arbitrary<Node> = fc.letrec<{ node: Node }>((tie) => ({
  node: fc.oneof(
    { maxDepth: 4 },
    fc.string().map((text) => file(text)),
    fc.string({ minLength: 1 }).map((target) => symlink(target)),
    fc
      .dictionary(names, tie('node'), { maxKeys: 4, noNullPrototype: true })
      .map((entries) => directory(entries)),
  ),
})).node;
const path = fc.array(names, { maxLength: 4 }).map((parts) => parts.join('/'));

/** What `subtree`, with a walk of its own, finds there. */
async function alone(tree: Node, at: string): Promise<string | undefined> {
  const hasher = new NarHasher();
  const part = subtree(hasher, at);
  await treeFrom(tree).walk(part);
  return part.found ? hasher.digest().narHash : undefined;
}

it('gives each branch what a walk of its own would', async () => {
  await fc.assert(
    fc.asyncProperty(node, fc.array(path, { maxLength: 6 }), async (tree, paths) => {
      const wanted = paths.map((at) => ({ path: at, sink: new NarHasher() }));
      const branches = new Branches(wanted);
      await treeFrom(tree).walk(branches);
      for (const branch of wanted) {
        const found = branches.found(branch) ? branch.sink.digest().narHash : undefined;
        expect(found).toBe(await alone(tree, branch.path));
      }
    }),
  );
});

describe('a sink that throws', () => {
  it('is heard of, and disturbs no other, also one around it', async () => {
    const tree = directory({ a: directory({ b: file('b'), c: file('c') }), d: file('d') });
    const nothing = () => {};
    const broken: TreeSink = {
      directory: nothing,
      entry: nothing,
      endDirectory: nothing,
      data: nothing,
      endFile: nothing,
      symlink: nothing,
      file: () => {
        throw new Error('full');
      },
    };
    const whole: Branch & { sink: NarHasher } = { path: '', sink: new NarHasher() };
    const inner: Branch = { path: 'a', sink: broken };
    const branches = new Branches([whole, inner]);
    await treeFrom(tree).walk(branches);
    expect(() => branches.found(inner)).toThrow('full');
    expect(branches.found(whole)).toBe(true);
    expect(whole.sink.digest().narHash).toBe((await hashTree(treeFrom(tree))).narHash);
  });
});
