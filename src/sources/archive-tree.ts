/**
 * The tree that an archive's entries add up to, by the rules of Nix 2.34's tarball fetcher: missing folders are made, a hard link is
 * a copy of what its target is at the end, a single top folder is left away. Only what is where is kept here; the bytes of files lie
 * elsewhere, at an offset.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import { archiveError } from '../formats/archives/entry.ts';
import { isNodeName, maxDepth, maxTargetLength, type TreeSink } from '../formats/nar.ts';

export interface FileNode {
  readonly kind: 'file';
  readonly offset: number;
  readonly size: number;
  readonly executable: boolean;
}

export interface LinkNode {
  readonly kind: 'symlink';
  /** Each byte one character (latin1), as all names here. */
  readonly target: string;
}

export interface FolderNode {
  readonly kind: 'directory';
  readonly children: Map<string, TreeNode>;
}

export type TreeNode = FileNode | LinkNode | FolderNode;

export interface TreeLimits {
  /** Of all files: hard links, a few bytes each, count with what they lead to. */
  readonly bytes: number;
  readonly entries: number;
}

const folder = (): FolderNode => ({ kind: 'directory', children: new Map() });

/** What a path may have below the tree's root: Nix 2.34 reads no deeper. */
const maxNames = 63;

/** Puts entries together, in whatever order they come. What could mean two things, or leads out of the tree, is FLK_ARCHIVE_INVALID. */
export class TreeBuilder {
  readonly #root = folder();
  readonly #limits: TreeLimits;
  readonly #hardlinks = new Map<string, { readonly path: Buffer; readonly target: readonly string[] }>();
  #entries = 0;
  #bytes = 0;
  #deepest = 0;

  constructor(limits: TreeLimits) {
    this.#limits = limits;
  }

  /** Gives the path's names, as do the next two. */
  directory(path: Buffer): readonly string[] {
    const names = namesOf(path);
    this.#folder(names, names.length, path);
    return names;
  }

  file(path: Buffer, node: FileNode): readonly string[] {
    return this.#put(path, node);
  }

  symlink(path: Buffer, node: LinkNode): readonly string[] {
    const { length } = node.target;
    if (length === 0 || length > maxTargetLength || node.target.includes('\0'))
      throw archiveError(`${path} is a link that leads nowhere`);
    return this.#put(path, node);
  }

  /** Another name for what some other entry holds, an earlier one as a rule. */
  hardlink(path: Buffer, target: Buffer): void {
    this.#count();
    this.#hardlinks.set(namesOf(path).join('/'), { path, target: namesOf(target) });
  }

  /** Once, at the end: everything, without the top folder where there is nothing beside it. */
  root(): FolderNode {
    for (const { path, target } of this.#hardlinks.values()) {
      const node = this.#find(target);
      if (node === undefined || node.kind === 'directory')
        throw archiveError(`${path} is a hard link to ${latin1(target.join('/'))}, which is no file`);
      const before = this.#find(namesOf(path));
      // For Nix, what has bytes of its own goes before a link, wherever it stands.
      if (before === undefined || before.kind === 'directory') this.#put(path, node);
    }
    const [only, ...others] = this.#root.children.values();
    const root = only?.kind === 'directory' && others.length === 0 ? only : this.#root;
    if (this.#deepest > (root === this.#root ? maxNames : maxNames + 1))
      throw new FlkError('FLK_LIMIT', `the archive has paths of more than ${maxNames} names`);
    return root;
  }

  #find(names: readonly string[]): TreeNode | undefined {
    let node: TreeNode | undefined = this.#root;
    for (const name of names) node = node?.kind === 'directory' ? node.children.get(name) : undefined;
    return node;
  }

  #put(path: Buffer, node: FileNode | LinkNode): readonly string[] {
    const names = namesOf(path);
    const name = names.at(-1);
    if (name === undefined) throw archiveError('the archive’s top is not a folder');
    const { children } = this.#folder(names, names.length - 1, path);
    const before = children.get(name);
    // A file that is there twice (tar --append) is the later one, for Nix too. Any other pair is somebody’s trick.
    if (before !== undefined && before.kind !== node.kind)
      throw archiveError(`${path} is there twice, as a ${before.kind} and as a ${node.kind}`);
    if (before === undefined) this.#count();
    if (node.kind === 'file') this.#bytes += node.size;
    if (this.#bytes > this.#limits.bytes)
      throw new FlkError('FLK_LIMIT', `the archive unpacks to more than ${this.#limits.bytes} bytes`);
    children.set(name, node);
    return names;
  }

  #folder(names: readonly string[], depth: number, path: Buffer): FolderNode {
    this.#deepest = Math.max(this.#deepest, names.length);
    let at = this.#root;
    for (let i = 0; i < depth; i++) {
      let next = at.children.get(names[i]!);
      if (next === undefined) {
        this.#count();
        next = folder();
        at.children.set(names[i]!, next);
      }
      if (next.kind !== 'directory')
        throw archiveError(
          `${path} lies below ${latin1(names.slice(0, i + 1).join('/'))}, which is a ${next.kind}`,
        );
      at = next;
    }
    return at;
  }

  #count(): void {
    if (++this.#entries > this.#limits.entries)
      throw new FlkError('FLK_LIMIT', `the archive has more than ${this.#limits.entries} entries`);
  }
}

/** `./a//b/` → `a`, `b`. */
function namesOf(path: Buffer): string[] {
  const text = path.toString('latin1');
  if (text.startsWith('/')) throw archiveError(`${path} is an absolute path`);
  const names = text.split('/').filter((name) => name !== '' && name !== '.');
  if (names.length > maxDepth) throw archiveError(`${path.toString('utf8', 0, 100)}… is too deep`);
  for (const name of names) {
    if (name === '..') throw archiveError(`${path} leads out of the archive`);
    if (!isNodeName(Buffer.from(name, 'latin1'))) throw archiveError(`${path} has an impossible name`);
    if (gitFolder.test(name)) throw archiveError(`${path} would be part of a Git repository`);
  }
  return names;
}

/** What is, or is on a Windows disk, `.git`: Nix keeps archives in a Git repository, which takes no such name. */
const gitFolder = /^(?:\.git|git~1)(?:[\\:].*|[. ]*)$/is;

/** For messages. */
const latin1 = (name: string): string => Buffer.from(name, 'latin1').toString();

/** Gives the bytes of a file in pieces, each good until the next is asked for. */
export type ReadPieces = (offset: number, size: number) => Iterable<Buffer>;

/** Tells a walk when to look whether somebody waits for a turn, or has pressed Ctrl-C. */
export class Turn {
  #bytes = 0;

  /** After `bytes` of work more. True starts the next turn. */
  isOver(bytes: number): boolean {
    this.#bytes += bytes;
    if (this.#bytes <= 4 * 2 ** 20) return false;
    this.#bytes = 0;
    return true;
  }
}

/** Walks a tree whose files `read` gives. */
export async function walkTree(
  root: TreeNode,
  read: ReadPieces,
  sink: TreeSink,
  signal?: AbortSignal,
): Promise<void> {
  await inTurns(steps(root, read, sink), signal);
}

/** Runs work that yields from time to time, and lets others run meanwhile. */
export async function inTurns(work: Iterable<void>, signal: AbortSignal | undefined): Promise<void> {
  for (const _ of work) {
    await nextTurn();
    throwIfAborted(signal);
  }
}

function* steps(root: TreeNode, read: ReadPieces, sink: TreeSink): Generator<void> {
  const turn = new Turn();
  function* walk(node: TreeNode): Generator<void> {
    switch (node.kind) {
      case 'file':
        sink.file(node.size, node.executable);
        for (const piece of read(node.offset, node.size)) {
          sink.data(piece);
          if (turn.isOver(piece.length)) yield;
        }
        sink.endFile();
        break;
      case 'symlink':
        sink.symlink(Buffer.from(node.target, 'latin1'));
        break;
      case 'directory':
        sink.directory();
        for (const name of [...node.children.keys()].sort(byBytes)) {
          sink.entry(Buffer.from(name, 'latin1'));
          yield* walk(node.children.get(name)!);
        }
        sink.endDirectory();
    }
    if (turn.isOver(512)) yield;
  }
  yield* walk(root);
}

/** Of latin1 strings the order of their characters is that of their bytes. */
const byBytes = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** As a cache keeps a tree: files `[offset, size]` or `[offset, size, 1]`, links their target, folders `{ "+": [name, node, …] }`. */
type Packed = string | readonly number[] | { readonly '+': readonly Packed[] };

export function packTree(root: TreeNode): string {
  const pack = (node: TreeNode): Packed => {
    switch (node.kind) {
      case 'file':
        return node.executable ? [node.offset, node.size, 1] : [node.offset, node.size];
      case 'symlink':
        return node.target;
      case 'directory':
        return { '+': [...node.children].flatMap(([name, child]) => [name, pack(child)]) };
    }
  };
  return JSON.stringify(pack(root));
}

/** The opposite of `packTree`; for nothing but its output. */
export function unpackTree(text: string): TreeNode {
  const unpack = (packed: Packed): TreeNode => {
    if (typeof packed === 'string') return { kind: 'symlink', target: packed };
    if (isFile(packed))
      return { kind: 'file', offset: packed[0]!, size: packed[1]!, executable: packed[2] === 1 };
    const children = new Map<string, TreeNode>();
    const flat = packed['+'];
    for (let i = 0; i < flat.length; i += 2) children.set(flat[i] as string, unpack(flat[i + 1]!));
    return { kind: 'directory', children };
  };
  return unpack(JSON.parse(text) as Packed);
}

const isFile = (packed: Packed): packed is readonly number[] => Array.isArray(packed);
