/** The root file system of an action: the view of a build (docs/sandbox.md), as far as a server can be told it. */
import { OnceMap } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import { type StorePath, storeDir } from '../../../formats/store-path.ts';
import type { Digest } from '../../../generated/remote-execution.ts';
import { surroundingsOf } from '../surroundings.ts';
import { etcFiles, ownEntries } from '../view.ts';
import type { Blob } from './blobs.ts';
import { blobDigest } from './digest.ts';
import { directoryOf, type InputTree, type MerkleTrees, type Node, nodesOf } from './merkle.ts';

export interface InputRoot {
  readonly digest: Digest;
  readonly blobs: readonly Blob[];
}

/** What builds with one toolchain share. */
interface Base {
  /** Of `/`, but for `nix`. */
  readonly nodes: readonly Node[];
  readonly blobs: readonly Blob[];
}

/** As many as Linux follows. */
const maxLinks = 40;

/** Makes input roots. */
export class InputRoots {
  readonly #trees: MerkleTrees;
  readonly #bases = new OnceMap<StorePath, Base>();

  constructor(trees: MerkleTrees) {
    this.#trees = trees;
  }

  /** Throws FLK_PACKAGE_INVALID for a toolchain that is no folder, FLK_BUILDER_UNAVAILABLE for one without /bin/sh. */
  async make(toolchain: StorePath, closure: readonly StorePath[], signal?: AbortSignal): Promise<InputRoot> {
    await this.#assertShell(toolchain, closure, signal);
    const base = await this.#bases.get(toolchain, () => this.#base(toolchain, signal));
    const blobs = [...base.blobs];
    const inputs: InputTree[] = [];
    // One after the other: what is not known yet is read at the disk's speed as it is.
    for (const path of closure) inputs.push(await this.#trees.get(path, signal));
    for (const input of inputs) blobs.push(...input.blobs);
    let node: Node | undefined;
    let nodes = inputs.map((input) => input.node);
    for (const name of storeDir.slice(1).split('/').reverse()) {
      node = folder(name, nodes, blobs, name === 'store' ? false : undefined);
      nodes = [node];
    }
    const root = directoryOf([...base.nodes, ...nodes], true);
    const digest = blobDigest(root);
    blobs.push({ digest, content: root });
    return { digest, blobs };
  }

  /** Every builder is started by /bin/sh. */
  async #assertShell(
    toolchain: StorePath,
    closure: readonly StorePath[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const root = await this.#trees.get(toolchain, signal);
    const paths = new Set<string>(closure);
    const found = await follow(['bin', 'sh'], async (names) => {
      if (names[0] !== 'nix') return below(root, names);
      if (names.length < 3) return root.node;
      const path = `/${names.slice(0, 3).join('/')}` as StorePath;
      return paths.has(path) ? below(await this.#trees.get(path, signal), names.slice(3)) : undefined;
    });
    if (found?.kind !== 'file' || !found.node.isExecutable)
      throw new FlkError(
        'FLK_BUILDER_UNAVAILABLE',
        'a remote builder starts each build by /bin/sh, and there is none',
        {
          facts: { toolchain },
          hint: 'put a shell into the toolchain',
        },
      );
  }

  async #base(toolchain: StorePath, signal: AbortSignal | undefined): Promise<Base> {
    const tree = await this.#trees.get(toolchain, signal);
    if (tree.node.kind !== 'directory')
      throw new FlkError('FLK_PACKAGE_INVALID', `a toolchain must be a folder: ${toolchain} is a file`);
    const blobs = [...tree.blobs];
    const top = nodesOf(tree.folder(tree.node.node));
    const nodes = top.filter(({ node }) => !ownEntries.has(node.name.toString()));
    const files = Object.entries(etcFiles(surroundingsOf(undefined).user));
    const etc = files.map(([name, text]): Node => {
      const content = Buffer.from(text);
      const digest = blobDigest(content);
      blobs.push({ digest, content });
      return { kind: 'file', node: { name: Buffer.from(name), digest, isExecutable: false } };
    });
    const theirs = top.find(({ kind, node }) => kind === 'directory' && node.name.toString() === 'etc');
    if (theirs?.kind === 'directory') {
      const own = new Set(files.map(([name]) => name));
      etc.push(...nodesOf(tree.folder(theirs.node)).filter(({ node }) => !own.has(node.name.toString())));
    }
    nodes.push(folder('etc', etc, blobs));
    for (const name of ['dev', 'proc']) nodes.push(folder(name, [], blobs));
    for (const name of ['build', 'tmp']) nodes.push(folder(name, [], blobs, false));
    return { nodes, blobs };
  }
}

/** Where a path leads to by the links on its way; `look` finds what is at a place, links not followed. */
async function follow(
  path: readonly string[],
  look: (place: readonly string[]) => Promise<Node | undefined>,
): Promise<Node | undefined> {
  let place: string[] = [];
  const todo = [...path];
  let found: Node | undefined;
  for (let links = 0; todo.length > 0; ) {
    const name = todo.shift()!;
    if (name === '' || name === '.') continue;
    if (name === '..') {
      place.pop();
      continue;
    }
    found = await look([...place, name]);
    if (!found) return undefined;
    if (found.kind !== 'symlink') place.push(name);
    else {
      if (++links > maxLinks) return undefined;
      const target = found.node.target.toString();
      if (target.startsWith('/')) place = [];
      todo.unshift(...target.split('/'));
    }
  }
  return found;
}

/** What lies at a path within a tree, if there is such a thing. */
function below(tree: InputTree, names: readonly string[]): Node | undefined {
  let at: Node | undefined = tree.node;
  for (const name of names) {
    if (at?.kind !== 'directory') return undefined;
    at = nodesOf(tree.folder(at.node)).find(({ node }) => node.name.toString() === name);
  }
  return at;
}

function folder(name: string, nodes: readonly Node[], blobs: Blob[], readOnly?: boolean): Node {
  const content = directoryOf(nodes, readOnly);
  const digest = blobDigest(content);
  blobs.push({ digest, content });
  return { kind: 'directory', node: { name: Buffer.from(name), digest } };
}
