/**
 * What archives held, kept between runs: under `FOLDER/archives/trees`, for each tree the bytes of its files and, after them, what is
 * where (`DIGEST.tree`), and what is known of it (`DIGEST.json`), DIGEST being that of its NAR hash; under `answers`, which tree a
 * URL or a name has. Nothing in it is needed for ever and nothing is believed unchecked, so nothing is synced: an entry that a
 * power cut damaged is found out and fetched again.
 */
import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { makeFolder, withFileLock } from '../base/files.ts';
import type { StageFolder } from '../base/stages.ts';
import type { SourceTree } from '../flake/source.ts';
import { digestOf, type NarHash, sha256Hex, toBase16 } from '../formats/hash.ts';
import { NarHasher, type TreeSink } from '../formats/nar.ts';
import { tee } from '../formats/tree-sinks.ts';
import { packTree, type ReadPieces, type TreeNode, unpackTree, walkTree } from './archive-tree.ts';
import { Answers, CacheDamaged, readNote, stagesOf, unwritable, writeNote } from './notes.ts';
import { ManifestCapture, type Manifests, readThrough } from './tree-capture.ts';

interface TreeFacts {
  readonly narHash: NarHash;
  readonly narSize: number;
  /** Of the newest entry of the archive that the tree came from first, in seconds since 1970. */
  readonly lastModified: number;
  /** Bytes of files, before what tells where each lies. */
  readonly spoolSize: number;
  readonly indexSize: number;
  readonly indexDigest: string;
  readonly manifests: Manifests;
}

/** What one walk of a tree tells. */
export type TreeIdentity = Pick<TreeFacts, 'narHash' | 'narSize' | 'manifests'>;

/** Takes the walk that tells it. */
export class TreeReader {
  readonly #hasher = new NarHasher();
  readonly #capture = new ManifestCapture();
  readonly sink: TreeSink = tee(this.#hasher, this.#capture);

  /** Once, after the walk. */
  identity(): TreeIdentity {
    return { ...this.#hasher.digest(), manifests: this.#capture.manifests };
  }
}

/** What was once found under a URL or a name. */
export interface KeptAnswer {
  readonly narHash: NarHash;
  /** Seconds since 1970. */
  readonly lastModified: number;
  /** After redirects. */
  readonly url: string;
  readonly immutableUrl?: string;
  /** For asking again whether it is still so. */
  readonly etag?: string;
  readonly modifiedSince?: string;
}

export class ArchiveCache {
  readonly #folder: string;
  readonly #stages: StageFolder;
  readonly #answers: Answers;

  /** `folder` need not exist. */
  constructor(folder: string) {
    this.#folder = join(folder, 'archives');
    this.#stages = stagesOf(folder);
    this.#answers = new Answers(join(this.#folder, 'answers'));
  }

  /** The tree with this hash, if it is here; an entry that looks damaged is as good as none. */
  async tree(narHash: NarHash): Promise<CachedTree | undefined> {
    const facts = await readNote<TreeFacts>(`${this.#treeStem(narHash)}.json`);
    if (facts?.narHash !== narHash) return undefined;
    const path = `${this.#treeStem(narHash)}.tree`;
    const size = (await stat(path).catch(() => undefined))?.size;
    if (size !== facts.spoolSize + facts.indexSize) return undefined;
    return new CachedTree(path, facts, () => this.forget(narHash));
  }

  /** Removes a tree: the next one who wants it fetches it. */
  async forget(narHash: NarHash): Promise<void> {
    await rm(`${this.#treeStem(narHash)}.json`, { force: true, recursive: true });
    await rm(`${this.#treeStem(narHash)}.tree`, { force: true, recursive: true });
  }

  /** The answer to a question (a URL with what is wanted of it, a name), and when it was given, in ms since 1970. */
  answer(question: string): Promise<{ readonly answer: KeptAnswer; readonly time: number } | undefined> {
    return this.#answers.get<KeptAnswer>(question);
  }

  keepAnswer(question: string, answer: KeptAnswer): Promise<void> {
    return this.#answers.keep(question, answer);
  }

  /** Runs `work` while no other process asks this question; `work` may write files whose paths begin with the one that it is given. */
  async whileAsking<T>(question: string, work: (scratch: string) => Promise<T>): Promise<T> {
    const trees = join(this.#folder, 'trees');
    await makeFolder(trees);
    const lock = join(trees, `asked-${sha256Hex(question).slice(0, 40)}.lock`);
    return withFileLock(lock, async () => work(await this.#stages.next()));
  }

  /** Keeps a spool and the tree in it under the tree's hash. */
  async keep(
    spool: Spool,
    root: TreeNode,
    { narHash, narSize, manifests, lastModified }: TreeIdentity & { readonly lastModified: number },
  ): Promise<CachedTree> {
    const stem = this.#treeStem(narHash);
    const path = `${stem}.tree`;
    // Two archives may hold one tree, with its files in another order.
    return withFileLock(`${stem}.lock`, async () => {
      const known = await this.tree(narHash);
      if (known) return known;
      const index = Buffer.from(packTree(root));
      const facts: TreeFacts = {
        narHash,
        narSize,
        lastModified,
        spoolSize: spool.size,
        indexSize: index.length,
        indexDigest: sha256Hex(index),
        manifests,
      };
      spool.write(index);
      spool.close();
      // The note goes first and comes last: it never tells of another file than the one that lies beside it.
      await this.forget(narHash);
      await rename(spool.path, path).catch((error: unknown) => {
        throw unwritable(path, error);
      });
      await writeNote(`${stem}.json`, facts);
      return new CachedTree(path, facts, () => this.forget(narHash));
    });
  }

  #treeStem(narHash: NarHash): string {
    return join(this.#folder, 'trees', toBase16(digestOf(narHash)));
  }
}

/** Bytes gathered before they are written, and read at once where they lie in a row. */
const step = 256 * 1024;

/** A file that the contents of an archive's files are appended to as they arrive. What came last can be had without the disk. */
export class Spool {
  readonly path: string;
  #fd: number | undefined;
  #size = 0;
  /** What is not written yet; and before it, what was written last. */
  #block = Buffer.allocUnsafeSlow(step);
  #used = 0;
  #earlier = Buffer.allocUnsafeSlow(step);
  #earlierUsed = 0;
  #fromDisk: ReadPieces | undefined;

  /** What is at `path` goes. Throws FLK_FILE_UNWRITABLE. */
  constructor(path: string) {
    this.path = path;
    try {
      this.#fd = openSync(path, 'w+', 0o644);
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  get size(): number {
    return this.#size;
  }

  write(piece: Buffer): void {
    for (let at = 0; at < piece.length; ) {
      if (this.#used === step) this.#flush();
      const copied = piece.copy(this.#block, this.#used, at);
      this.#used += copied;
      at += copied;
    }
    this.#size += piece.length;
  }

  /** Reads what was written so far. A piece is good until the next one, or the next write. */
  *read(offset: number, size: number): Generator<Buffer> {
    const stop = offset + size;
    const start = this.#size - this.#used;
    const startOfEarlier = start - this.#earlierUsed;
    if (offset < startOfEarlier) {
      this.#fromDisk ??= pieceReader(this.#open, this.path);
      yield* this.#fromDisk(offset, Math.min(stop, startOfEarlier) - offset);
    }
    if (offset < start && stop > startOfEarlier)
      yield this.#earlier.subarray(
        Math.max(0, offset - startOfEarlier),
        Math.min(stop, start) - startOfEarlier,
      );
    if (stop > start) yield this.#block.subarray(Math.max(0, offset - start), stop - start);
  }

  close(): void {
    if (this.#fd === undefined) return;
    this.#flush();
    closeSync(this.#fd);
    this.#fd = undefined;
  }

  /** Closes and removes it; a second time, or after it was moved away, it does nothing. */
  async discard(): Promise<void> {
    if (this.#fd === undefined) return;
    closeSync(this.#fd);
    this.#fd = undefined;
    await rm(this.path, { force: true });
  }

  #flush(): void {
    try {
      for (let at = 0; at < this.#used; ) at += writeSync(this.#open, this.#block, at, this.#used - at);
    } catch (error) {
      throw unwritable(this.path, error);
    }
    [this.#block, this.#earlier] = [this.#earlier, this.#block];
    this.#earlierUsed = this.#used;
    this.#used = 0;
  }

  get #open(): number {
    if (this.#fd === undefined) throw new FlkError('FLK_INTERNAL', 'a spool was used after its end');
    return this.#fd;
  }
}

/** Reads well what lies in about the order in which it is asked for, and not too much of what does not. */
function pieceReader(fd: number, path: string): ReadPieces {
  const buffer = Buffer.allocUnsafeSlow(step);
  let start = 0;
  let end = 0;
  const fill = (offset: number, wanted: number): void => {
    start = offset;
    end = offset + readSync(fd, buffer, 0, wanted, offset);
    if (end === start) throw damaged(path);
  };
  return function* read(offset, size) {
    const stop = offset + size;
    for (let at = offset; at < stop; ) {
      if (at < start || at >= end) {
        const near = at >= start && at < end + step;
        fill(at, near ? step : Math.min(step, Math.max(stop - at, 16 * 1024)));
      }
      const until = Math.min(stop, end);
      yield buffer.subarray(at - start, until - start);
      at = until;
    }
  };
}

function damaged(path: string): CacheDamaged {
  return new CacheDamaged('FLK_ARCHIVE_INVALID', `the cached tree ${path} is damaged, and was removed`);
}

/** A tree in the cache. Each walk checks every byte again. */
export class CachedTree implements SourceTree {
  readonly #path: string;
  readonly #facts: TreeFacts;
  readonly #forget: () => Promise<void>;

  constructor(path: string, facts: TreeFacts, forget: () => Promise<void>) {
    this.#path = path;
    this.#facts = facts;
    this.#forget = forget;
  }

  get narHash(): NarHash {
    return this.#facts.narHash;
  }

  get narSize(): number {
    return this.#facts.narSize;
  }

  /** Seconds since 1970, of the archive that the tree came from first. */
  get lastModified(): number {
    return this.#facts.lastModified;
  }

  readFile(path: string): Promise<Buffer | undefined> {
    return readThrough(this.#facts.manifests, path, (sink) => this.walk(sink));
  }

  /** An entry that turns out damaged is FLK_ARCHIVE_INVALID, and removed, so that the next run fetches it again. */
  async walk(sink: TreeSink, signal?: AbortSignal): Promise<void> {
    let fd: number;
    try {
      fd = openSync(this.#path, 'r');
    } catch (cause) {
      throw new CacheDamaged('FLK_ARCHIVE_INVALID', `the cached tree ${this.#path} is gone`, cause);
    }
    try {
      const hasher = new NarHasher();
      await walkTree(this.#root(fd), pieceReader(fd, this.#path), tee(hasher, sink), signal);
      if (hasher.digest().narHash !== this.#facts.narHash) throw damaged(this.#path);
    } catch (error) {
      if (error instanceof CacheDamaged) await this.#forget();
      throw error;
    } finally {
      closeSync(fd);
    }
  }

  #root(fd: number): TreeNode {
    const { spoolSize, indexSize, indexDigest } = this.#facts;
    if (fstatSync(fd).size !== spoolSize + indexSize) throw damaged(this.#path);
    const index = Buffer.alloc(indexSize);
    readSync(fd, index, 0, indexSize, spoolSize);
    if (sha256Hex(index) !== indexDigest) throw damaged(this.#path);
    return unpackTree(index.toString());
  }
}
