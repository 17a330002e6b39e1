/** Store paths as the trees of digests by which a server knows them; each is read once and remembered with the store. */
import { isUtf8 } from 'node:buffer';
import { createHash, type Hash } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { OnceMap } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import type { TreeSink } from '../../../formats/nar.ts';
import { baseNameOf, type StorePath } from '../../../formats/store-path.ts';
import {
  Directory,
  type DirectoryNode,
  decode,
  encode,
  type FileNode,
  type SymlinkNode,
  Tree,
} from '../../../generated/remote-execution.ts';
import type { Store } from '../../../store/store.ts';
import { walkPath } from '../../../store/tree-files.ts';
import type { Blob } from './blobs.ts';
import { blobDigest } from './digest.ts';

/** Something in a folder. */
export type Node =
  | { readonly kind: 'file'; readonly node: FileNode }
  | { readonly kind: 'directory'; readonly node: DirectoryNode }
  | { readonly kind: 'symlink'; readonly node: SymlinkNode };

/** A tree, to be put into a folder of the input root. */
export interface InputTree {
  readonly node: Node;
  /** All that the server needs to have of it. */
  readonly blobs: readonly Blob[];
  /** The folder that a node of this tree stands for. */
  folder(node: DirectoryNode): Directory;
}

/**
 * Encodes a folder. Its entries are sorted by the bytes of their names, as a digest needs them. `readOnly` or not is all below it
 * until another says otherwise, for a server that knows BuildBox's property of folders; others take no notice of it.
 */
export function directoryOf(nodes: readonly Node[], readOnly?: boolean): Buffer {
  const sorted = [...nodes].sort((a, b) => Buffer.compare(a.node.name, b.node.name));
  return encode(Directory, {
    files: sorted.flatMap((each) => (each.kind === 'file' ? [each.node] : [])),
    directories: sorted.flatMap((each) => (each.kind === 'directory' ? [each.node] : [])),
    symlinks: sorted.flatMap((each) => (each.kind === 'symlink' ? [each.node] : [])),
    ...(readOnly === undefined
      ? {}
      : { nodeProperties: { properties: [{ name: 'SubtreeReadOnly', value: String(readOnly) }] } }),
  });
}

export const nodesOf = (directory: Directory): Node[] => [
  ...directory.files.map((node): Node => ({ kind: 'file', node })),
  ...directory.directories.map((node): Node => ({ kind: 'directory', node })),
  ...directory.symlinks.map((node): Node => ({ kind: 'symlink', node })),
];

/** Knows the trees of store paths. */
export class MerkleTrees {
  readonly #store: Pick<Store, 'physical' | 'query' | 'memo' | 'setMemo'>;
  readonly #trees = new OnceMap<StorePath, InputTree>();

  constructor(store: Pick<Store, 'physical' | 'query' | 'memo' | 'setMemo'>) {
    this.#store = store;
  }

  /** Throws FLK_BUILDER_UNAVAILABLE where a name in it is no UTF-8: the API has no way to say it. */
  get(path: StorePath, signal?: AbortSignal): Promise<InputTree> {
    return this.#trees.get(path, async () => {
      const narHash = this.#store.query(path)?.narHash;
      const key = narHash && `remote-tree:1:${narHash}:${baseNameOf(path)}`;
      const known = key && remembered(this.#store.memo(key));
      const tree = known || (await this.#read(path, signal));
      if (key && !known) this.#store.setMemo(key, deflateRawSync(encode(Tree, tree)).toString('base64'));
      return inputTree(tree, this.#store.physical(path));
    });
  }

  async #read(path: StorePath, signal: AbortSignal | undefined): Promise<Tree> {
    const sink = new MerkleSink(baseNameOf(path));
    await walkPath(this.#store.physical(path)).walk(sink, signal);
    return sink.tree();
  }
}

/** A memo that cannot be read is none. */
function remembered(text: string | undefined): Tree | undefined {
  if (text === undefined) return undefined;
  try {
    return decode(Tree, inflateRawSync(Buffer.from(text, 'base64')));
  } catch {
    return undefined;
  }
}

/**
 * Makes of a walk a `Tree` with a root of its own, in which what was walked has the name given: so files and symlinks are trees too.
 * Folders of equal content are in it once.
 */
class MerkleSink implements TreeSink {
  readonly #open: { readonly name: Buffer; readonly nodes: Node[] }[];
  readonly #children = new Map<string, Buffer>();
  #name: Buffer;
  #hash: Hash | undefined;
  #size = 0;
  #executable = false;

  constructor(name: string) {
    this.#name = Buffer.from(name);
    this.#open = [{ name: Buffer.alloc(0), nodes: [] }];
  }

  tree(): Tree {
    return { root: directoryOf(this.#open[0]!.nodes), children: [...this.#children.values()] };
  }

  directory(): void {
    this.#open.push({ name: this.#name, nodes: [] });
  }

  entry(name: Buffer): void {
    this.#name = speakable(name);
  }

  endDirectory(): void {
    const { name, nodes } = this.#open.pop()!;
    const bytes = directoryOf(nodes);
    const digest = blobDigest(bytes);
    this.#children.set(digest.hash, bytes);
    this.#add({ kind: 'directory', node: { name, digest } });
  }

  file(size: number, executable: boolean): void {
    this.#hash = createHash('sha256');
    this.#size = size;
    this.#executable = executable;
  }

  data(chunk: Buffer): void {
    this.#hash!.update(chunk);
  }

  endFile(): void {
    const digest = { hash: this.#hash!.digest('hex'), sizeBytes: this.#size };
    this.#add({ kind: 'file', node: { name: this.#name, digest, isExecutable: this.#executable } });
  }

  symlink(target: Buffer): void {
    this.#add({ kind: 'symlink', node: { name: this.#name, target: speakable(target) } });
  }

  #add(node: Node): void {
    this.#open.at(-1)!.nodes.push(node);
  }
}

/** A copy: what a walk hands out it uses again. */
function speakable(bytes: Buffer): Buffer {
  if (!isUtf8(bytes))
    throw new FlkError('FLK_BUILDER_UNAVAILABLE', 'a name in an input cannot be told to a remote builder', {
      facts: { found: bytes.toString(), wanted: 'UTF-8' },
    });
  return Buffer.from(bytes);
}

type Folders = Map<string, { readonly bytes: Buffer; readonly directory: Directory }>;

/** What is mounted read-only on this machine should not be written there. */
function sealed(node: DirectoryNode, folders: Folders): Node {
  const { directory } = folders.get(node.digest!.hash)!;
  const bytes = directoryOf(nodesOf(directory), true);
  const digest = blobDigest(bytes);
  folders.set(digest.hash, { bytes, directory });
  return { kind: 'directory', node: { name: node.name, digest } };
}

function inputTree({ root, children }: Tree, place: string): InputTree {
  const folders: Folders = new Map();
  for (const bytes of children)
    folders.set(blobDigest(bytes).hash, { bytes, directory: decode(Directory, bytes) });
  const folder = ({ digest }: DirectoryNode) => folders.get(digest!.hash)!;
  const blobs: Blob[] = [];
  const seen = new Set<string>();
  const isNew = (hash: string): boolean => !seen.has(hash) && seen.add(hash).size > 0;
  const visit = (directory: Directory, here: string): void => {
    for (const { name, digest } of directory.files)
      if (isNew(digest!.hash)) blobs.push({ digest: digest!, content: here + name.toString() });
    for (const node of directory.directories) {
      if (!isNew(`folder ${node.digest!.hash}`)) continue;
      const { bytes, directory: child } = folder(node);
      blobs.push({ digest: node.digest!, content: bytes });
      visit(child, `${here}${node.name}/`);
    }
  };
  const [found] = nodesOf(decode(Directory, root));
  const node = found?.kind === 'directory' ? sealed(found.node, folders) : found!;
  visit(decode(Directory, directoryOf([node])), place.slice(0, place.lastIndexOf('/') + 1));
  return { node, blobs, folder: (each) => folder(each).directory };
}
