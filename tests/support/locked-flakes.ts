/** A root flake and its inputs, locked, out of trees in memory: what instantiating begins with, without Git and without a locker. */
import type { FlakeRef } from '../../src/flake/flake-ref.ts';
import type { LockEdge, LockFile, LockNode } from '../../src/flake/lock-file.ts';
import { parseManifest } from '../../src/flake/manifest.ts';
import type { Source, SourceTree } from '../../src/flake/source.ts';
import { hashTree } from '../../src/formats/nar.ts';
import { type Node, treeFrom } from './trees.ts';

export interface InputFixture {
  readonly tree: Node;
  readonly flake?: boolean;
  /** `?dir=` of the reference. */
  readonly dir?: string;
  /** A path relative to the flake that `parent` leads to; `tree` is not used then. */
  readonly relative?: { readonly path: string; readonly parent: readonly string[] };
  /** Its own inputs: the key of another fixture, or a path from the root that is followed. */
  readonly inputs?: Readonly<Record<string, string | readonly string[]>>;
}

export interface LockedWorld {
  readonly lock: LockFile;
  readonly root: {
    readonly manifest: ReturnType<typeof parseManifest>;
    readonly tree: SourceTree;
    readonly dir: string;
  };
  readonly source: Source;
  readonly parseManifest: typeof parseManifest;
  /** The keys of the inputs that were fetched, in order. */
  readonly fetched: string[];
}

async function sourceTree(node: Node): Promise<SourceTree> {
  const tree = treeFrom(node);
  return {
    ...tree,
    ...(await hashTree(tree)),
    readFile: async (path) => {
      let at: Node | undefined = node;
      for (const name of path.split('/')) at = at?.type === 'directory' ? at.entries.get(name) : undefined;
      return at?.type === 'file' ? at.contents : undefined;
    },
  };
}

const edges = (inputs: InputFixture['inputs'] = {}): Map<string, LockEdge> =>
  new Map(
    Object.entries(inputs).map(([name, to]) => [
      name,
      typeof to === 'string' ? { kind: 'node', key: to } : { kind: 'follows', path: to },
    ]),
  );

export async function lockedWorld(
  root: Node,
  inputs: Readonly<Record<string, InputFixture>> = {},
  rootInputs: InputFixture['inputs'] = Object.fromEntries(Object.keys(inputs).map((key) => [key, key])),
): Promise<LockedWorld> {
  const nodes = new Map<string, LockNode>([['root', { inputs: edges(rootInputs), flake: true }]]);
  const trees = new Map<string, SourceTree>();
  for (const [key, { tree, flake, dir, relative, inputs: own }] of Object.entries(inputs)) {
    const opened = await sourceTree(tree);
    trees.set(`https://test.example/${key}`, opened);
    const locked: FlakeRef = relative
      ? { type: 'path', path: relative.path, ...(dir === undefined ? {} : { dir }) }
      : {
          type: 'git',
          url: `https://test.example/${key}`,
          narHash: opened.narHash,
          ...(dir === undefined ? {} : { dir }),
        };
    nodes.set(key, {
      inputs: edges(own),
      original: locked,
      locked,
      flake: flake ?? true,
      ...(relative ? { parent: relative.parent } : {}),
    });
  }
  const tree = await sourceTree(root);
  const text = (await tree.readFile('flake.yaml'))!.toString();
  const fetched: string[] = [];
  return {
    lock: { root: 'root', nodes },
    root: { manifest: parseManifest({ path: 'flake.yaml', text }), tree, dir: '' },
    source: {
      fetch: async (ref) => {
        const url = ref.type === 'git' ? ref.url : ref.type === 'path' ? ref.path : '';
        fetched.push(url.slice(url.lastIndexOf('/') + 1));
        return { locked: ref, tree: trees.get(url)! };
      },
      tags: async () => [],
    },
    parseManifest,
    fetched,
  };
}
