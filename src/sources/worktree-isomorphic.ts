/**
 * The working tree without a git program (slim images): the index is read here, HEAD and objects by isomorphic-git. What either
 * would misread is refused with FLK_GIT_WORKTREE first. And it is the tests' second opinion on git's view.
 */
import { createHash } from 'node:crypto';
import fs, { existsSync, lstatSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { ReadTreeResult } from 'isomorphic-git';
import { throwIfAborted } from '../base/concurrency.ts';
import { FlkError, systemCode } from '../base/errors.ts';
import type { Rev } from '../flake/flake-ref.ts';
import type { SourceTree } from '../flake/source.ts';
import { hashTree, isNodeName, maxDepth, type TreeSink } from '../formats/nar.ts';
import { lookAt } from './disk.ts';
import type { TrackedEntry, TrackedState } from './tracked-files.ts';

type IsomorphicGit = typeof import('isomorphic-git');

/** Loading it costs 90 ms: only who needs it pays. */
const load = async (): Promise<IsomorphicGit> => (await import('isomorphic-git')).default;

/** As `readTracked` in worktree.ts. A file that only a filter (CRLF, LFS) makes differ from its blob counts as changed. */
export async function readTrackedByIsomorphicGit(root: string): Promise<TrackedState> {
  const git = await load();
  const gitdir = await plainRepository(git, root);
  const index = readIndex(root, join(gitdir, 'index'));
  return await translated(root, async () => {
    const rev = await headCommit(git, root);
    const branch = await git.currentBranch({ fs, dir: root, fullname: true });
    const entries: TrackedEntry[] = [];
    for (const { path, mode } of index.entries) {
      const name = path.toString('latin1');
      if (entries.at(-1)?.path !== name) entries.push({ path: name, submodule: mode === 0o160000 });
    }
    const commit = rev === undefined ? undefined : (await git.readCommit({ fs, dir: root, oid: rev })).commit;
    const committed = new Map<string, { mode: number; oid: string }>();
    if (commit) await listTree(new ObjectReader(git, root), commit.tree, '', committed);
    return {
      entries,
      ...(rev === undefined ? {} : { rev }),
      ...(branch ? { ref: branch } : {}),
      lastModified: commit?.committer.timestamp ?? 0,
      dirty: isStaged(index, committed) || index.entries.some((entry) => isTouched(root, entry, index)),
    };
  });
}

/** A commit's tree, from the repository's own objects. */
export async function openCommitByIsomorphicGit(
  root: string,
  rev: Rev,
  signal?: AbortSignal,
): Promise<SourceTree> {
  const git = await load();
  await plainRepository(git, root);
  const objects = new ObjectReader(git, root);
  return await translated(root, async () => {
    const { commit } = await git.readCommit({ fs, dir: root, oid: rev });
    const walk = (sink: TreeSink, walkSignal?: AbortSignal): Promise<void> =>
      translated(root, () => walkTree(objects, commit.tree, sink, walkSignal, 0));
    return {
      ...(await hashTree({ walk }, signal)),
      walk,
      readFile: (path) => translated(root, () => readCommitted(objects, commit.tree, path)),
    };
  });
}

/** Trees and blobs by id. isomorphic-git checks an object's SHA-1 on reading; its cache keeps packs' indexes between calls. */
class ObjectReader {
  readonly #git: IsomorphicGit;
  readonly #root: string;
  readonly #cache = {};

  constructor(git: IsomorphicGit, root: string) {
    this.#git = git;
    this.#root = root;
  }

  async tree(oid: string): Promise<ReadTreeResult['tree']> {
    const { tree } = await this.#git.readTree({ fs, dir: this.#root, oid, cache: this.#cache });
    for (const { path } of tree) {
      // Bytes that are not UTF-8 come out as this character.
      if (path.includes('\ufffd')) throw refusal(this.#root, 'holds a name that is not UTF-8');
      if (!isNodeName(Buffer.from(path)) || path.toLowerCase() === '.git')
        throw new FlkError('FLK_GIT_TREE', `a tree in ${this.#root} holds the forbidden name ${path}`);
    }
    return tree;
  }

  async blob(oid: string): Promise<Buffer> {
    const { blob } = await this.#git.readBlob({ fs, dir: this.#root, oid, cache: this.#cache });
    return Buffer.from(blob.buffer, blob.byteOffset, blob.byteLength);
  }
}

async function walkTree(
  objects: ObjectReader,
  oid: string,
  sink: TreeSink,
  signal: AbortSignal | undefined,
  depth: number,
): Promise<void> {
  if (depth > maxDepth)
    throw new FlkError('FLK_LIMIT', `a committed tree is deeper than ${maxDepth} folders`);
  throwIfAborted(signal);
  sink.directory();
  // Git sorts a folder as `name/`, a NAR as `name`.
  const entries = (await objects.tree(oid))
    .map((entry) => ({ ...entry, name: Buffer.from(entry.path) }))
    .sort((a, b) => Buffer.compare(a.name, b.name));
  for (const { name, mode, oid: id } of entries) {
    sink.entry(name);
    const kind = Number.parseInt(mode, 8);
    if (kind === 0o40000) await walkTree(objects, id, sink, signal, depth + 1);
    else if (kind === 0o160000) {
      sink.directory();
      sink.endDirectory();
    } else {
      const blob = await objects.blob(id);
      if (kind === 0o120000) sink.symlink(blob);
      else {
        sink.file(blob.length, (kind & 0o100) !== 0);
        sink.data(blob);
        sink.endFile();
      }
    }
  }
  sink.endDirectory();
}

async function readCommitted(objects: ObjectReader, tree: string, path: string): Promise<Buffer | undefined> {
  const names = path.split('/');
  let at = tree;
  for (const [i, name] of names.entries()) {
    const entry = (await objects.tree(at)).find((candidate) => candidate.path === name);
    if (!entry) return undefined;
    if (i === names.length - 1)
      return entry.mode.startsWith('100') ? await objects.blob(entry.oid) : undefined;
    if (entry.type !== 'tree') return undefined;
    at = entry.oid;
  }
  return undefined;
}

async function listTree(
  objects: ObjectReader,
  oid: string,
  prefix: string,
  into: Map<string, { mode: number; oid: string }>,
): Promise<void> {
  for (const entry of await objects.tree(oid)) {
    const path = `${prefix}${entry.path}`;
    const mode = Number.parseInt(entry.mode, 8);
    if (mode === 0o40000) await listTree(objects, entry.oid, `${path}/`, into);
    else into.set(path, { mode, oid: entry.oid });
  }
}

/** HEAD's commit, undefined before the first one. */
async function headCommit(git: IsomorphicGit, root: string): Promise<Rev | undefined> {
  try {
    return (await git.resolveRef({ fs, dir: root, ref: 'HEAD' })) as Rev;
  } catch (error) {
    // The branch that HEAD names has no commit yet.
    if (error instanceof git.Errors.NotFoundError) return undefined;
    throw error;
  }
}

/** The folder of a repository that is read faithfully. Throws FLK_GIT_WORKTREE for every other kind. */
async function plainRepository(git: IsomorphicGit, root: string): Promise<string> {
  const gitdir = join(root, '.git');
  if (!statSync(gitdir, { throwIfNoEntry: false })?.isDirectory())
    throw refusal(root, 'is a linked worktree or a submodule');
  if (existsSync(join(gitdir, 'objects/info/alternates')))
    throw refusal(root, 'borrows objects from another repository');
  const setting = async (path: string): Promise<string | undefined> => {
    const value: unknown = await git.getConfig({ fs, dir: root, path });
    return value === undefined ? undefined : String(value);
  };
  const format = (await setting('extensions.objectformat')) ?? 'sha1';
  if (format.toLowerCase() !== 'sha1') throw refusal(root, `names objects by ${format}`);
  const refs = (await setting('extensions.refstorage')) ?? 'files';
  if (refs.toLowerCase() !== 'files') throw refusal(root, `keeps its refs as ${refs}`);
  if ((await setting('core.worktree')) !== undefined) throw refusal(root, 'has its files elsewhere');
  if ((await setting('extensions.partialclone')) !== undefined) throw refusal(root, 'is a partial clone');
  return gitdir;
}

function refusal(root: string, why: string): FlkError {
  return new FlkError('FLK_GIT_WORKTREE', `the repository ${root} ${why}, and there is no git program`);
}

/** What isomorphic-git throws, as ours: on a repository that passed the checks it is damage. */
async function translated<T>(root: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof FlkError) throw error;
    throw new FlkError(
      'FLK_GIT_WORKTREE',
      `the repository ${root} cannot be read: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

interface IndexEntry {
  readonly path: Buffer;
  readonly mode: number;
  readonly oid: string;
  /** Not 0: one side of a conflict. */
  readonly stage: number;
  readonly intentToAdd: boolean;
  readonly assumeValid: boolean;
  /** Nanoseconds since 1970, and bytes (mod 2^32), of the file when Git last saw it equal to `oid`. */
  readonly mtime: bigint;
  readonly size: number;
}

interface Index {
  readonly entries: readonly IndexEntry[];
  /** When it was written, in nanoseconds since 1970. */
  readonly writtenAt: bigint;
}

/** `.git/index`, versions 2 and 3 (gitformat-index(5)); no file is an empty index. */
function readIndex(root: string, path: string): Index {
  let data: Buffer;
  try {
    data = readFileSync(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return { entries: [], writtenAt: 0n };
    throw refusal(root, `has an index that cannot be read (${systemCode(error)})`);
  }
  const damaged = (): FlkError => refusal(root, 'has a damaged index');
  if (data.length < 32 || data.toString('latin1', 0, 4) !== 'DIRC') throw damaged();
  const version = data.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw refusal(root, `has an index of version ${version}`);
  const end = data.length - 20;
  const checksum = createHash('sha1').update(data.subarray(0, end)).digest();
  // index.skipHash writes zeros.
  if (!data.subarray(end).equals(checksum) && !data.subarray(end).equals(Buffer.alloc(20))) throw damaged();

  const entries: IndexEntry[] = [];
  let at = 12;
  for (let left = data.readUInt32BE(8); left > 0; left--) {
    if (at + 62 > end) throw damaged();
    const flags = data.readUInt16BE(at + 60);
    const extended = (flags & 0x4000) !== 0 ? data.readUInt16BE(at + 62) : 0;
    const start = at + ((flags & 0x4000) !== 0 ? 64 : 62);
    const nul = data.indexOf(0, start);
    if (nul < 0 || nul >= end) throw damaged();
    const name = data.subarray(start, nul);
    if (!Buffer.from(name.toString()).equals(name)) throw refusal(root, 'holds a name that is not UTF-8');
    if ((extended & 0x4000) !== 0) throw refusal(root, 'is a sparse checkout');
    entries.push({
      path: name,
      mode: data.readUInt32BE(at + 24),
      oid: data.toString('hex', at + 40, at + 60),
      stage: (flags >> 12) & 3,
      intentToAdd: (extended & 0x2000) !== 0,
      assumeValid: (flags & 0x8000) !== 0,
      mtime: BigInt(data.readUInt32BE(at + 8)) * 1_000_000_000n + BigInt(data.readUInt32BE(at + 12)),
      size: data.readUInt32BE(at + 36),
    });
    // One to eight zeros pad an entry to a multiple of 8.
    at += (nul - at + 8) & ~7;
  }
  while (at + 8 <= end) {
    const name = data.toString('latin1', at, at + 4);
    if (name === 'link') throw refusal(root, 'has a split index');
    // Extensions in lower case change what the entries mean; `sdir` is a sparse index.
    if (!/^[A-Z]/.test(name)) throw refusal(root, `has an index with the extension ${name}`);
    at += 8 + data.readUInt32BE(at + 4);
  }
  if (at !== end) throw damaged();
  return { entries, writtenAt: statSync(path, { bigint: true }).mtimeNs };
}

/** Whether the index is not HEAD's tree. */
function isStaged(index: Index, committed: ReadonlyMap<string, { mode: number; oid: string }>): boolean {
  if (index.entries.length !== committed.size) return true;
  return index.entries.some(({ path, mode, oid, stage, intentToAdd }) => {
    const before = committed.get(path.toString());
    return stage !== 0 || intentToAdd || before?.oid !== oid || before.mode !== mode;
  });
}

/** Whether the file on disk is not what the index says. */
function isTouched(root: string, entry: IndexEntry, index: Index): boolean {
  if (entry.assumeValid || entry.mode === 0o160000) return false;
  const path = Buffer.concat([Buffer.from(`${root}/`), entry.path]);
  const info = lookAt(path);
  if (!info) return true;
  const isLink = entry.mode === 0o120000;
  if (isLink ? !info.isSymbolicLink() : !info.isFile()) return true;
  if (!isLink && ((info.mode & 0o100) !== 0) !== (entry.mode === 0o100755)) return true;
  const { mtimeNs, size } = lstatSync(path, { bigint: true });
  const isAsSeen = size % 2n ** 32n === BigInt(entry.size) && mtimeNs === entry.mtime;
  // A file that is not older than the index may have changed unseen after it was written.
  if (isAsSeen && mtimeNs < index.writtenAt) return false;
  const content = isLink ? readlinkSync(path, { encoding: 'buffer' }) : readFileSync(path);
  return createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex') !== entry.oid;
}
