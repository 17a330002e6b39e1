/**
 * What was fetched before: under `FOLDER/git`, for each commit its pack (`REV.pack`) and what is known of it (`REV.json`); and
 * what servers answered about refs and tags. Nothing in it is needed for ever and nothing in it is believed unchecked, so nothing
 * is synced: an entry that a power cut damaged is found out and fetched again.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import { makeFolder, withFileLock } from '../base/files.ts';
import type { StageFolder } from '../base/stages.ts';
import type { SourceTree } from '../flake/source.ts';
import type { NarHash } from '../formats/hash.ts';
import type { TreeSink } from '../formats/nar.ts';
import { PackTreeReader } from '../formats/pack-tree.ts';
import { CommitSurvey } from './git-survey.ts';
import { Answers, CacheDamaged, readNote, stagesOf, unwritable, writeNote } from './notes.ts';
import { type Manifests, readThrough } from './tree-capture.ts';

/** What is known of a commit once its pack has been read. */
export interface CommitFacts {
  readonly rev: string;
  readonly narHash: NarHash;
  readonly narSize: number;
  /** Seconds since 1970. */
  readonly lastModified: number;
  /** The pack's trailer and size in bytes: a look at the file's end tells whether it is that pack, and whole. */
  readonly checksum: string;
  readonly packSize: number;
  readonly manifests: Manifests;
}

/** What is known of a tree that is made out of commits. */
export type ViewFacts = Pick<CommitFacts, 'narHash' | 'narSize' | 'manifests'>;

/** Bytes read from a pack at a time. */
const step = 256 * 1024;

export class FetchCache {
  readonly #folder: string;
  readonly #stages: StageFolder;
  readonly #answers: Answers;

  /** `folder` need not exist. */
  constructor(folder: string) {
    this.#folder = join(folder, 'git');
    this.#stages = stagesOf(folder);
    this.#answers = new Answers(join(this.#folder, 'answers'));
  }

  /** The commit's tree, if it is here; an entry that looks damaged is as good as none. */
  async commit(rev: string): Promise<CachedCommit | undefined> {
    const facts = await readNote<CommitFacts>(this.#path(`${rev}.json`));
    if (!facts || facts.rev !== rev) return undefined;
    const pack = this.#path(`${rev}.pack`);
    return (await endsWith(pack, facts)) ? new CachedCommit(pack, facts, () => this.forget(rev)) : undefined;
  }

  /** Removes a commit: the next one who wants it fetches it. */
  async forget(rev: string): Promise<void> {
    await clear(this.#path(`${rev}.json`));
    await clear(this.#path(`${rev}.pack`));
  }

  /** Runs `work` while no other process fetches this commit. */
  async whileFetching<T>(rev: string, work: () => Promise<T>): Promise<T> {
    await makeFolder(this.#folder);
    return withFileLock(this.#path(`${rev}.lock`), work);
  }

  /** A place for a pack that is arriving. */
  async stage(): Promise<StagedPack> {
    const path = await this.#stages.next();
    try {
      return new StagedPack(path, openSync(path, 'wx+', 0o644));
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  /** Keeps a staged pack as the commit's. */
  async keep(staged: StagedPack, facts: Omit<CommitFacts, 'packSize'>): Promise<CachedCommit> {
    const whole: CommitFacts = { ...facts, packSize: staged.size };
    const pack = this.#path(`${facts.rev}.pack`);
    staged.close();
    // The note goes first and comes last: it never tells of another pack than the one that lies beside it.
    await clear(this.#path(`${facts.rev}.json`));
    await rename(staged.path, pack).catch((error: unknown) => {
      throw unwritable(pack, error);
    });
    await writeNote(this.#path(`${facts.rev}.json`), whole);
    return new CachedCommit(pack, whole, () => this.forget(facts.rev));
  }

  /** What is known of a commit's tree as flags show it; `flags` are part of a file's name. */
  async view(rev: string, flags: string): Promise<ViewFacts | undefined> {
    const note = await readNote<ViewFacts & { readonly view: string }>(this.#path(`${rev}.${flags}.json`));
    return note?.view === `${rev} ${flags}` ? note : undefined;
  }

  async keepView(rev: string, flags: string, { narHash, narSize, manifests }: ViewFacts): Promise<void> {
    const view = `${rev} ${flags}`;
    await writeNote(this.#path(`${rev}.${flags}.json`), { view, narHash, narSize, manifests });
  }

  /** Files that Git LFS keeps, by their SHA-256. */
  get objects(): string {
    return join(this.#folder, 'lfs');
  }

  /** What a server answered to a question before, and when (ms since 1970). */
  answer<T>(question: Question): Promise<{ readonly answer: T; readonly time: number } | undefined> {
    return this.#answers.get<T>(textOf(question));
  }

  keepAnswer<T>(question: Question, answer: T): Promise<void> {
    return this.#answers.keep(textOf(question), answer);
  }

  /** Bare repositories that the git program fetches into. */
  get repositories(): string {
    return join(this.#folder, 'repositories');
  }

  #path(name: string): string {
    return join(this.#folder, name);
  }
}

/** What one can ask about a repository: `about` is a ref's name, or `tags`. */
export interface Question {
  readonly url: string;
  readonly about: string;
}

const textOf = ({ url, about }: Question): string => `${url}\n${about}`;

async function endsWith(pack: string, { checksum, packSize }: CommitFacts): Promise<boolean> {
  const handle = await open(pack, 'r').catch(() => undefined);
  if (!handle) return false;
  try {
    if ((await handle.stat()).size !== packSize) return false;
    const { buffer } = await handle.read(Buffer.alloc(20), 0, 20, packSize - 20);
    return buffer.toString('hex') === checksum;
  } finally {
    await handle.close();
  }
}

/** A pack on its way into the cache, written as it arrives and read again where that is needed. */
export class StagedPack {
  readonly path: string;
  #fd: number | undefined;
  #size = 0;

  constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  get size(): number {
    return this.#size;
  }

  write(piece: Buffer): void {
    try {
      for (let at = 0; at < piece.length; ) at += writeSync(this.#open, piece, at);
    } catch (error) {
      throw unwritable(this.path, error);
    }
    this.#size += piece.length;
  }

  reread(offset: number, length: number): Buffer {
    return readAt(this.#open, offset, Math.min(length, this.#size - offset));
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  async discard(): Promise<void> {
    this.close();
    await rm(this.path, { force: true });
  }

  get #open(): number {
    if (this.#fd === undefined) throw new FlkError('FLK_INTERNAL', 'a staged pack was used after its end');
    return this.#fd;
  }
}

/** Whatever stands there: a folder would bar the way of the file that is to come. */
async function clear(path: string): Promise<void> {
  await rm(path, { force: true, recursive: true });
}

function readAt(fd: number, offset: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(Math.max(0, length));
  return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, offset));
}

/** A commit's tree, told by its pack in the cache. Each walk checks every byte again. */
export class CachedCommit implements SourceTree {
  readonly #pack: string;
  readonly #facts: CommitFacts;
  readonly #forget: () => Promise<void>;
  #surveyed: Promise<CommitSurvey> | undefined;

  constructor(pack: string, facts: CommitFacts, forget: () => Promise<void>) {
    this.#pack = pack;
    this.#facts = facts;
    this.#forget = forget;
  }

  get narHash(): NarHash {
    return this.#facts.narHash;
  }

  get narSize(): number {
    return this.#facts.narSize;
  }

  /** Seconds since 1970. */
  get lastModified(): number {
    return this.#facts.lastModified;
  }

  readFile(path: string): Promise<Buffer | undefined> {
    return readThrough(this.#facts.manifests, path, (sink) => this.walk(sink));
  }

  /** What decides how the tree looks with submodules, LFS or exportIgnore. One walk, the first time. */
  survey(): Promise<CommitSurvey> {
    this.#surveyed ??= this.#survey();
    return this.#surveyed;
  }

  async #survey(): Promise<CommitSurvey> {
    const survey = new CommitSurvey();
    await this.#mended(() => this.#walk(survey, undefined, (rev) => survey.gitlink(rev)));
    return survey;
  }

  /** As `walk`, without letting anyone else have a turn: for a tree in the middle of another one's walk. */
  walkNow(sink: TreeSink): void {
    for (const _ of this.#read(sink));
  }

  /** An entry that turns out damaged is removed, so that the next run fetches it again. */
  walk(sink: TreeSink, signal?: AbortSignal): Promise<void> {
    return this.#mended(() => this.#walk(sink, signal));
  }

  async #mended(walk: () => Promise<void>): Promise<void> {
    try {
      await walk();
    } catch (error) {
      if (!(error instanceof FlkError) || error.code !== 'FLK_GIT_PACK') throw error;
      await this.#forget();
      throw new CacheDamaged(
        'FLK_GIT_PACK',
        `the cached pack of ${this.#facts.rev} is damaged, and was removed`,
        error,
      );
    }
  }

  async #walk(
    sink: TreeSink,
    signal: AbortSignal | undefined,
    onGitlink?: (rev: string) => void,
  ): Promise<void> {
    let steps = 0;
    for (const _ of this.#read(sink, onGitlink)) {
      // Reading and hashing never wait; others, and Ctrl-C, must have their turn.
      if (++steps % 16 === 0) {
        await nextTurn();
        throwIfAborted(signal);
      }
    }
  }

  /** Reads the pack, one step after the other. */
  *#read(sink: TreeSink, onGitlink?: (rev: string) => void): Generator<void> {
    const { rev } = this.#facts;
    let fd: number;
    try {
      fd = openSync(this.#pack, 'r');
    } catch (cause) {
      throw new FlkError('FLK_GIT_PACK', `the pack of ${rev} is gone`, { cause });
    }
    try {
      const reader = new PackTreeReader({
        rev,
        sink,
        ...(onGitlink ? { onGitlink } : {}),
        reread: (offset, length) => readAt(fd, offset, length),
      });
      const bytes = Buffer.allocUnsafeSlow(step);
      for (let offset = 0; ; ) {
        const got = readSync(fd, bytes, 0, step, offset);
        if (got === 0) break;
        reader.push(bytes.subarray(0, got));
        offset += got;
        yield;
      }
      reader.end();
    } finally {
      closeSync(fd);
    }
  }
}
