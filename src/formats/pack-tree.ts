/** From a pack to the tree of a commit: a cursor walks the tree, in the NAR's order, as far as the objects have come. */
import { FlkError } from '../base/errors.ts';
import { maxDepth, maxTargetLength, type TreeSink } from './nar.ts';
import { type PackedObject, type PackLimits, PackReader } from './pack.ts';
import {
  hexOf,
  type ObjectId,
  objectIdOf,
  parseCommit,
  parseTag,
  parseTree,
  type TreeEntry,
} from './pack-objects.ts';

export interface PackTreeOptions {
  /** The commit, or an annotated tag of one: forty hex digits. */
  readonly rev: string;
  /** Gets the tree while the pack arrives. What it has seen is only true once `end` has returned. */
  readonly sink: TreeSink;
  /** Gives back bytes of the pack that were pushed before, fewer at its end. */
  readonly reread: (offset: number, length: number) => Buffer;
  /** Told of each submodule's revision (forty hex digits) while its folder, empty in the tree, is open in the sink. */
  readonly onGitlink?: (rev: string) => void;
  readonly limits?: PackLimits;
  /** Files and folders in all; bytes of all files. Trees that name one another often are small and unpack without end. */
  readonly maxNodes?: number;
  readonly maxBytes?: number;
}

export interface PackSummary {
  /** The commit's time (committer), seconds since 1970. */
  readonly lastModified: number;
  /** The pack's trailer, which names it: forty hex digits. */
  readonly checksum: string;
}

interface OpenFolder {
  readonly entries: readonly TreeEntry[];
  next: number;
}

const maxTagDepth = 8;

export class PackTreeReader {
  readonly #rev: ObjectId;
  readonly #sink: TreeSink;
  readonly #onGitlink: ((rev: string) => void) | undefined;
  readonly #pack: PackReader;
  readonly #maxNodes: number;
  readonly #maxBytes: number;
  /** The object that the walk cannot go on without; undefined when it has ended. */
  #waiting: ObjectId | undefined;
  /** Tags followed on the way to the commit. */
  #tags = 0;
  #lastModified: number | undefined;
  readonly #open: OpenFolder[] = [];
  #nodes = 0;
  #bytes = 0;

  constructor(options: PackTreeOptions) {
    this.#rev = objectIdOf(options.rev);
    this.#waiting = this.#rev;
    this.#sink = options.sink;
    this.#onGitlink = options.onGitlink;
    this.#maxNodes = options.maxNodes ?? 10_000_000;
    this.#maxBytes = options.maxBytes ?? 256 * 2 ** 30;
    this.#pack = new PackReader({
      reread: options.reread,
      onObject: (id, object) => {
        if (id !== this.#waiting) return true;
        this.#walk(object);
        return object.type !== 'blob';
      },
      ...(options.limits ? { limits: options.limits } : {}),
    });
  }

  /** Objects read so far, and how many there are once that is known. */
  get progress(): { readonly done: number; readonly total: number | undefined } {
    return { done: this.#pack.done, total: this.#pack.total };
  }

  /** Takes the next bytes, which `reread` must know already. They may be reused after the call. */
  push(chunk: Buffer): void {
    this.#pack.push(chunk);
  }

  /**
   * The stream has ended. Only now is what the sink has seen the tree of `rev`. Throws FLK_GIT_PACK where anything is missing
   * or wrong.
   */
  end(): PackSummary {
    const checksum = this.#pack.end();
    if (this.#waiting !== undefined || this.#lastModified === undefined)
      throw new FlkError('FLK_GIT_PACK', `the pack lacks object ${hexOf(this.#waiting ?? this.#rev)}`, {
        facts: { rev: hexOf(this.#rev) },
      });
    return { lastModified: this.#lastModified, checksum: checksum.toString('hex') };
  }

  /** Goes on from the object that was waited for until another one is missing. */
  #walk(arrived: PackedObject): void {
    let object: PackedObject | undefined = arrived;
    while (object) {
      this.#waiting = this.#step(object);
      object = this.#waiting === undefined ? undefined : this.#pack.get(this.#waiting);
    }
  }

  /** Takes the object in; gives the name of the one that is needed next. */
  #step(object: PackedObject): ObjectId | undefined {
    if (this.#lastModified === undefined) return this.#begin(object);
    const folder = this.#open.at(-1);
    const entry = folder?.entries[folder.next];
    if (folder && entry) {
      folder.next++;
      this.#sink.entry(entry.name);
    }
    this.#take(object, entry);
    return this.#advance();
  }

  /** From the revision to the commit's root tree. */
  #begin(object: PackedObject): ObjectId {
    const name = hexOf(this.#waiting ?? this.#rev);
    if (object.type === 'tag' && this.#tags++ < maxTagDepth)
      return parseTag(this.#pack.content(object), name);
    if (object.type !== 'commit')
      throw new FlkError('FLK_GIT_PACK', `${name} is not a commit`, {
        facts: { found: object.type ?? 'nothing', wanted: 'commit' },
      });
    const commit = parseCommit(this.#pack.content(object), name);
    this.#lastModified = commit.time;
    return commit.tree;
  }

  /** `entry` is undefined for the root. */
  #take(object: PackedObject, entry: TreeEntry | undefined): void {
    const kind = entry?.kind ?? 'directory';
    const id = this.#waiting ?? this.#rev;
    this.#count(kind === 'directory' ? 0 : object.size);
    if (object.type !== (kind === 'directory' ? 'tree' : 'blob'))
      throw new FlkError('FLK_GIT_TREE', `${hexOf(id)} is a ${object.type} where a ${kind} should be`);
    if (kind === 'directory') {
      if (this.#open.length >= maxDepth)
        throw new FlkError('FLK_LIMIT', `the repository has folders more than ${maxDepth} deep`);
      this.#sink.directory();
      // Names point into the tree's bytes, which the pack may reuse.
      const tree = Buffer.from(this.#pack.content(object));
      this.#open.push({ entries: parseTree(tree, id), next: 0 });
      return;
    }
    if (kind === 'symlink') this.#sink.symlink(this.#target(object, id));
    else {
      this.#sink.file(object.size, kind === 'executable');
      this.#pack.stream(object, (piece) => this.#sink.data(piece));
      this.#sink.endFile();
    }
    this.#pack.release(object);
  }

  #target(object: PackedObject, id: ObjectId): Buffer {
    const target = object.size <= maxTargetLength ? this.#pack.content(object) : undefined;
    if (target === undefined || target.length === 0 || target.includes(0))
      throw new FlkError('FLK_GIT_TREE', `${hexOf(id)} is not what a symlink can point to`);
    return target;
  }

  /** Ends folders, and passes by submodules, until an object is needed. */
  #advance(): ObjectId | undefined {
    for (let folder = this.#open.at(-1); folder; folder = this.#open.at(-1)) {
      const entry = folder.entries[folder.next];
      if (entry && entry.kind !== 'gitlink') return entry.id;
      if (entry) {
        // A submodule that is not fetched: an empty folder, as in a fresh clone.
        folder.next++;
        this.#count(0);
        this.#sink.entry(entry.name);
        this.#sink.directory();
        this.#onGitlink?.(hexOf(entry.id));
      } else this.#open.pop();
      this.#sink.endDirectory();
    }
    return undefined;
  }

  #count(bytes: number): void {
    this.#nodes++;
    this.#bytes += bytes;
    if (this.#nodes > this.#maxNodes)
      throw new FlkError('FLK_LIMIT', `the tree has more than ${this.#maxNodes} files and folders`);
    if (this.#bytes > this.#maxBytes)
      throw new FlkError('FLK_LIMIT', `the tree’s files have more than ${this.#maxBytes} bytes`);
  }
}
