/** Trees in memory: to write down in a test, to make up by fast-check, to collect from a walk and to compare. */
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { NarWriter, type Tree, type TreeSink } from '../../src/formats/nar.ts';

/** A node by its plainest notation. Names are latin1: one character, one byte. */
export type Node =
  | { readonly type: 'directory'; readonly entries: ReadonlyMap<string, Node> }
  | { readonly type: 'file'; readonly contents: Buffer; readonly executable: boolean }
  | { readonly type: 'symlink'; readonly target: Buffer };

export const directory = (entries: Readonly<Record<string, Node>> = {}): Node => ({
  type: 'directory',
  entries: new Map(Object.entries(entries)),
});
export const file = (contents: string | Buffer, executable = false): Node => ({
  type: 'file',
  contents: Buffer.from(contents),
  executable,
});
export const symlink = (target: string): Node => ({ type: 'symlink', target: Buffer.from(target) });

/** A tree to walk; `chunk` is the number of bytes per data call. */
export function treeFrom(node: Node, chunk = 65536): Tree {
  return {
    walk: async (sink) => walkNode(node, sink, chunk),
  };
}

function walkNode(node: Node, sink: TreeSink, chunk: number): void {
  if (node.type === 'symlink') sink.symlink(node.target);
  else if (node.type === 'file') {
    sink.file(node.contents.length, node.executable);
    for (let at = 0; at < node.contents.length; at += chunk)
      sink.data(node.contents.subarray(at, Math.min(at + chunk, node.contents.length)));
    sink.endFile();
  } else {
    sink.directory();
    const names = [...node.entries.keys()].sort((a, b) => (a < b ? -1 : 1));
    for (const name of names) {
      sink.entry(Buffer.from(name, 'latin1'));
      walkNode(node.entries.get(name)!, sink, chunk);
    }
    sink.endDirectory();
  }
}

/** Collects a walk as a node. */
export class TreeCollector implements TreeSink {
  #root: Node | undefined;
  readonly #open: { name: string; entries: Map<string, Node> }[] = [];
  #chunks: Buffer[] = [];
  #executable = false;

  get root(): Node {
    if (!this.#root || this.#open.length > 0) throw new Error('the walk is not over');
    return this.#root;
  }

  directory(): void {
    this.#open.push({ name: '', entries: new Map() });
  }

  entry(name: Buffer): void {
    this.#open.at(-1)!.name = name.toString('latin1');
  }

  endDirectory(): void {
    this.#put({ type: 'directory', entries: this.#open.pop()!.entries });
  }

  file(_size: number, executable: boolean): void {
    this.#executable = executable;
    this.#chunks = [];
  }

  data(chunk: Buffer): void {
    this.#chunks.push(Buffer.from(chunk));
  }

  endFile(): void {
    this.#put({ type: 'file', contents: Buffer.concat(this.#chunks), executable: this.#executable });
  }

  symlink(target: Buffer): void {
    this.#put({ type: 'symlink', target: Buffer.from(target) });
  }

  #put(node: Node): void {
    const parent = this.#open.at(-1);
    if (parent) parent.entries.set(parent.name, node);
    else this.#root = node;
  }
}

/** What a walk of the tree gives. */
export async function nodeOf(tree: Tree): Promise<Node> {
  const collector = new TreeCollector();
  await tree.walk(collector);
  return collector.root;
}

/** The NAR of a node, as one buffer. */
export function narOf(node: Node): Buffer {
  const chunks: Buffer[] = [];
  const writer = new NarWriter((chunk) => chunks.push(Buffer.from(chunk)));
  walkNode(node, writer, 1000);
  writer.end();
  return Buffer.concat(chunks);
}

/** Writes a node to disk with ordinary modes. */
export function writeNode(node: Node, path: string | Buffer): void {
  if (node.type === 'symlink') symlinkSync(node.target, path);
  else if (node.type === 'file') {
    writeFileSync(path, node.contents);
    chmodSync(path, node.executable ? 0o755 : 0o644);
  } else {
    mkdirSync(path);
    for (const [name, child] of node.entries)
      writeNode(child, Buffer.concat([Buffer.from(path), Buffer.from('/'), Buffer.from(name, 'latin1')]));
  }
}

/** A node's paths, sorted, each with its kind: `a/`, `a/b`, `a/c@ -> target`, `a/run*`. */
export function listing(node: Node, path = ''): string[] {
  if (node.type === 'symlink') return [`${path}@ -> ${node.target}`];
  if (node.type === 'file') return [node.executable ? `${path}*` : path];
  const own = path === '' ? [] : [`${path}/`];
  const names = [...node.entries.keys()].sort((a, b) => (a < b ? -1 : 1));
  return [
    ...own,
    ...names.flatMap((name) => listing(node.entries.get(name)!, path === '' ? name : `${path}/${name}`)),
  ];
}

/** The `listing` of what a walk gives. */
export async function entriesOf(tree: Tree): Promise<string[]> {
  return listing(await nodeOf(tree));
}

/** Names of any bytes that a file system takes; few letters, so that they share beginnings. */
const nodeName = fc
  .oneof(
    fc.string({
      minLength: 1,
      maxLength: 12,
      unit: fc.constantFrom('a', 'b', '.', '-', 'A', ' ', '\xe9', '\xff', '\n'),
    }),
    fc.string({
      minLength: 1,
      maxLength: 12,
      unit: fc.integer({ min: 1, max: 255 }).map((c) => String.fromCharCode(c)),
    }),
  )
  .filter((name) => name !== '.' && name !== '..' && !name.includes('/'));

const bytes = (max: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength: max }).map((array) => Buffer.from(array));

/** Any tree. */
export const anyNode: fc.Arbitrary<Node> = fc.letrec<{ node: Node }>((tie) => ({
  node: fc.oneof(
    { maxDepth: 5, depthIdentifier: 'node' },
    fc.record({ type: fc.constant('file' as const), contents: bytes(300), executable: fc.boolean() }),
    fc.record({
      type: fc.constant('symlink' as const),
      target: bytes(40)
        .map((target) => Buffer.from(target.map((byte) => byte || 1)))
        .filter((t) => t.length > 0),
    }),
    fc.record({
      type: fc.constant('directory' as const),
      entries: fc
        .uniqueArray(fc.tuple(nodeName, tie('node')), { maxLength: 6, selector: ([name]) => name })
        .map((e) => new Map(e)),
    }),
  ),
})).node;
