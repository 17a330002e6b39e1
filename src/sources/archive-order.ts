/**
 * A walk of an archive's tree while the archive is still arriving. A walk goes by the names in each folder; `git archive`, and so
 * every forge, goes by Git's order, in which a folder `a` counts as `a/`: `a-b` and `a.b` come before it, though `a` is the lesser
 * name. So an entry waits until no folder can come any more with whose name its own begins.
 */
import type { TreeSink } from '../formats/nar.ts';
import { type FileNode, type LinkNode, type ReadPieces, Turn } from './archive-tree.ts';

type Leaf = FileNode | LinkNode;

/** A folder of which not everything has been sent. */
interface Folder {
  readonly kind: 'directory';
  /** Whether the sink has seen it begin. */
  begun: boolean;
  /** What has arrived and was not sent, in byte order of names. */
  readonly waiting: Waiting[];
  /** The greatest name that was sent; names are latin1, never empty. */
  last: string;
  /** The greatest name that has arrived; and the greatest with Git's slash behind folders. */
  greatest: string;
  reached: string;
}

interface Waiting {
  readonly name: string;
  readonly node: Leaf | Folder;
  /** In Git's order, nothing goes before this node any more once its folder has reached this. */
  readonly until: string;
}

/**
 * Takes a tree's nodes as they arrive and sends them to a sink in byte order of names, without the top folder that all have in
 * common. It follows archives in Git's order, and those in byte order. In any other, or where something is there twice or beside
 * the top folder, `ordered` becomes false, and what the sink has seen is good for nothing.
 */
export class ArrivalWalk {
  readonly #sink: TreeSink;
  readonly #read: ReadPieces;
  /** The folders that the newest entry lies in, from the top folder on, and their names. */
  readonly #path: Folder[] = [];
  readonly #names: string[] = [];
  #top: string | undefined;
  readonly #turn = new Turn();
  #ordered = true;

  /** Files are read by `read` when their turn has come, the most of them as soon as the next entry is here. */
  constructor(sink: TreeSink, read: ReadPieces) {
    this.#sink = sink;
    this.#read = read;
  }

  /** Whether the sink has seen the beginning of a walk of the tree; all of it, after `end`. */
  get ordered(): boolean {
    return this.#ordered;
  }

  giveUp(): void {
    this.#ordered = false;
  }

  /** Names that may be there once, without `.` and `..`. Folders on the way need no entry. Yields where others may have a turn. */
  *add(names: readonly string[], node: Leaf | 'directory'): Generator<void> {
    const [top] = names;
    // The archive's own top, as `./`.
    if (!this.#ordered || (top === undefined && node === 'directory')) return;
    const folders = node === 'directory' ? names.length : names.length - 1;
    if (top === undefined || folders === 0 || top !== (this.#top ?? top)) return this.giveUp();
    if (this.#top === undefined) {
      this.#top = top;
      this.#enter(top, newFolder());
      this.#begin(this.#path[0]!);
    }
    let depth = 0;
    while (depth < folders && names[depth] === this.#names[depth]) depth++;
    // A folder that is open, once more.
    if (depth === names.length) return;
    yield* this.#leave(depth);
    for (let at = depth; at < names.length; at++) {
      const name = names[at]!;
      const child = at < folders ? newFolder() : (node as Leaf);
      if (!put(this.#path[at - 1]!, name, child)) return this.giveUp();
      if (child.kind === 'directory') this.#enter(name, child);
    }
    if (this.#path[depth - 1]!.begun) yield* this.#release(depth - 1);
  }

  /** Sends all that waits. */
  *end(): Generator<void> {
    if (this.#top === undefined) this.giveUp();
    if (this.#ordered) yield* this.#leave(0);
  }

  #enter(name: string, folder: Folder): void {
    this.#names.push(name);
    this.#path.push(folder);
  }

  #begin(folder: Folder): void {
    this.#sink.directory();
    folder.begun = true;
  }

  /** The folders of the path from `depth` on are over: an entry has come that lies in none of them. */
  *#leave(depth: number): Generator<void> {
    this.#names.length = depth;
    for (const folder of this.#path.splice(depth).reverse()) if (folder.begun) yield* this.#finish(folder);
  }

  /** Sends what can be preceded by nothing any more, from a folder of the path and the ones in it. */
  *#release(depth: number): Generator<void> {
    const folder = this.#path[depth]!;
    const { waiting, reached } = folder;
    let count = 0;
    let inner: Folder | undefined;
    for (const { name, node, until } of waiting) {
      if (inner !== undefined || until > reached) break;
      count++;
      folder.last = name;
      this.#sink.entry(Buffer.from(name, 'latin1'));
      if (node === this.#path[depth + 1]) inner = this.#path[depth + 1]!;
      else yield* this.#send(node);
    }
    waiting.splice(0, count);
    if (inner === undefined) return;
    this.#begin(inner);
    yield* this.#release(depth + 1);
  }

  *#send(node: Leaf | Folder): Generator<void> {
    switch (node.kind) {
      case 'file':
        this.#sink.file(node.size, node.executable);
        for (const piece of this.#read(node.offset, node.size)) {
          this.#sink.data(piece);
          if (this.#turn.isOver(piece.length)) yield;
        }
        this.#sink.endFile();
        break;
      case 'symlink':
        this.#sink.symlink(Buffer.from(node.target, 'latin1'));
        break;
      case 'directory':
        this.#begin(node);
        yield* this.#finish(node);
    }
    if (this.#turn.isOver(512)) yield;
  }

  *#finish(folder: Folder): Generator<void> {
    for (const { name, node } of folder.waiting) {
      this.#sink.entry(Buffer.from(name, 'latin1'));
      yield* this.#send(node);
    }
    this.#sink.endDirectory();
  }
}

function newFolder(): Folder {
  return { kind: 'directory', begun: false, waiting: [], last: '', greatest: '', reached: '' };
}

/** False where the order is neither of the two, or the name is there already. */
function put(folder: Folder, name: string, node: Leaf | Folder): boolean {
  const { waiting, last, greatest, reached } = folder;
  const key = node.kind === 'directory' ? `${name}/` : name;
  if (name <= last || (key <= reached && name <= greatest)) return false;
  // Only a folder can go before others, and only before those whose names begin with its own.
  let at = waiting.length;
  while (at > 0 && waiting[at - 1]!.name > name) at--;
  if (waiting[at - 1]?.name === name) return false;
  waiting.splice(at, 0, { name, node, until: precededUntil(name) });
  if (name > greatest) folder.greatest = name;
  if (key > reached) folder.reached = key;
  return true;
}

/** `a.b-c` may be preceded by folders `a` and `a.b`, of which `a/` comes last in Git's order. */
function precededUntil(name: string): string {
  for (let i = 1; i < name.length; i++) if (name[i]! < '/') return `${name.slice(0, i)}/`;
  return '';
}
