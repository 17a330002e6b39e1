/** The files of a repository that Git tracks: what is known of them, and the tree that they are on disk. */
import type { Stats } from 'node:fs';
import { FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import type { Rev } from '../flake/flake-ref.ts';
import type { SourceTree, WorkingFiles } from '../flake/source.ts';
import { sha256 } from '../formats/hash.ts';
import { hashTree, maxDepth, maxNameLength, type TreeSink } from '../formats/nar.ts';
import type { NodeKind, NodePath } from '../formats/tree-sinks.ts';
import { type BytePath, bytePath, onDisk, shown, walkPath } from '../store/tree-files.ts';
import { lookAt, readBelow } from './disk.ts';

/** What Git says of a working tree; which program says it does not matter. */
export interface TrackedState {
  /** All tracked paths, once each: also those that are deleted on disk, and those known by `git add -N` only. */
  readonly entries: readonly TrackedEntry[];
  /** HEAD's commit; undefined before the first one. */
  readonly rev?: Rev;
  /** `refs/heads/main`; undefined for a detached HEAD. */
  readonly ref?: string;
  /** HEAD's committer time in seconds, 0 before the first commit: also for a dirty tree, as Nix 2.34 has it. */
  readonly lastModified: number;
  /** Whether any tracked file, its mode or the index differs from HEAD. What is inside submodules does not count. */
  readonly dirty: boolean;
}

export interface TrackedEntry {
  /** From the repository's root. */
  readonly path: BytePath;
  /** Submodules are empty folders in a source tree. */
  readonly submodule: boolean;
}

export interface WorkingTreeOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
}

/** What Git tracks, by name. */
type Folder = Map<BytePath, Tracked>;
type Tracked = Folder | 'file' | 'submodule';

/**
 * Milliseconds that a file must have been left alone for its times to tell whether it is changed: file systems tell times apart that
 * lie from a few milliseconds to two seconds from each other.
 */
const settledAfter = 3000;

/** The tracked files of `root` as they are on disk. Throws FLK_GIT_TREE. */
export class TrackedFiles implements WorkingFiles {
  readonly place: string;
  readonly #root: BytePath;
  readonly #options: WorkingTreeOptions;
  readonly #tracked: Folder;
  /** What `stamp` has seen of folders so far, and which of them it came by. */
  readonly #glances = new Map<BytePath, Glance | undefined>();
  readonly #reached = new Map<BytePath, boolean>([['', true]]);
  #hashed: Promise<SourceTree> | undefined;

  constructor(root: string, entries: readonly TrackedEntry[], options: WorkingTreeOptions) {
    this.place = root;
    this.#root = bytePath(root);
    this.#options = options;
    this.#tracked = foldersOf(root, entries);
  }

  hashed(): Promise<SourceTree> {
    this.#hashed ??= span(this.#options.reporter, { type: 'hash', subject: this.place }, async (work) => {
      const progress = (bytes: number): void => work.progress(bytes, undefined, 'bytes');
      return {
        ...(await hashTree(
          { walk: (sink, signal) => this.#walk('', this.#tracked, sink, signal, progress) },
          this.#options.signal,
        )),
        walk: (sink, signal) => this.walk(sink, signal),
        readFile: (path) => this.readFile(path),
      };
    });
    return this.#hashed;
  }

  walk(sink: TreeSink, signal?: AbortSignal): Promise<void> {
    return this.#walk('', this.#tracked, sink, signal);
  }

  async walkAt(path: string, sink: TreeSink, signal?: AbortSignal): Promise<boolean> {
    const at = bytePath(path);
    const entry = this.#find(at);
    if (entry === undefined || !this.#isReached(at) || !this.#isThere(at, entry)) return false;
    await this.#walk(at, entry, sink, signal);
    return true;
  }

  async readFile(path: string): Promise<Buffer | undefined> {
    return this.#find(bytePath(path)) === 'file' ? readBelow(this.place, path) : undefined;
  }

  stamp(path: string): string | undefined {
    const at = bytePath(path);
    const entry = this.#find(at);
    if (entry === undefined || !this.#isReached(at, this.#reached)) return undefined;
    const glance = this.#glance(at, entry);
    return glance?.settled ? glance.text : undefined;
  }

  #find(path: BytePath): Tracked | undefined {
    let at: Tracked | undefined = this.#tracked;
    if (path === '') return at;
    for (const name of path.split('/')) at = at instanceof Map ? at.get(name) : undefined;
    return at;
  }

  /** Whether no link is on the way there. `known`: the answers for folders that were looked at before. */
  #isReached(path: BytePath, known = new Map<BytePath, boolean>([['', true]])): boolean {
    const above = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    let answer = known.get(above);
    if (answer === undefined) {
      answer = this.#isReached(above, known) && this.#lookAt(above)?.isDirectory() === true;
      known.set(above, answer);
    }
    return answer;
  }

  #isThere(path: BytePath, entry: Tracked): boolean {
    const info = this.#lookAt(path);
    if (entry === 'file') return info !== undefined && isFileOrLink(info);
    return info?.isDirectory() === true && (entry === 'submodule' || this.#present(entry, path).size > 0);
  }

  #lookAt(path: BytePath): Stats | undefined {
    return lookAt(onDisk(path === '' ? this.#root : `${this.#root}/${path}`));
  }

  /** What the file system says of a node. Each is asked for once: what is changed later is taken for changed in the next run. */
  #glance(path: BytePath, entry: Tracked): Glance | undefined {
    if (this.#glances.has(path)) return this.#glances.get(path);
    const now = Date.now();
    const info = this.#lookAt(path);
    let glance: Glance | undefined;
    if (entry instanceof Map) {
      if (info?.isDirectory()) glance = this.#glanceInto(path, entry);
    } else if (entry === 'submodule') {
      if (info?.isDirectory()) glance = { text: 'submodule', settled: true };
    } else if (info !== undefined && isFileOrLink(info)) {
      const kind = info.isSymbolicLink() ? 'link' : (info.mode & 0o100) === 0 ? 'file' : 'program';
      const { size, mtimeMs, ctimeMs, ino } = info;
      glance = {
        text: `${kind} ${size} ${mtimeMs} ${ctimeMs} ${ino}`,
        settled: mtimeMs < now - settledAfter && ctimeMs < now - settledAfter,
      };
    }
    if (entry instanceof Map) this.#glances.set(path, glance);
    return glance;
  }

  /** As in `#present`, a folder with nothing in it is none. */
  #glanceInto(path: BytePath, folder: Folder): Glance | undefined {
    let text = '';
    let settled = true;
    for (const [name, entry] of folder) {
      const glance = this.#glance(path === '' ? name : `${path}/${name}`, entry);
      if (glance === undefined) continue;
      // Neither is part of a name.
      text += `${name}/${glance.text}\0`;
      settled &&= glance.settled;
    }
    return text === '' ? undefined : { text: sha256(text).toString('base64'), settled };
  }

  #walk(
    path: BytePath,
    entry: Tracked,
    sink: TreeSink,
    signal: AbortSignal | undefined,
    progress?: (bytes: number) => void,
  ): Promise<void> {
    const present = entry instanceof Map ? this.#present(entry, path) : undefined;
    const wants = (at: NodePath, kind: NodeKind): boolean => {
      const wanted = present?.get(at);
      return kind === 'directory' ? wanted === 'folder' : wanted === 'file';
    };
    const place = path === '' ? this.place : `${this.place}/${shown(path)}`;
    return walkPath(place, { wants, ...(progress === undefined ? {} : { progress }) }).walk(sink, signal);
  }

  /**
   * The nodes below a tracked folder that are on disk now. Git has no empty folders, so neither has the tree, but for submodules,
   * which are nothing else. Where a tracked folder is now a link or a file, what was in it is deleted: never look through it.
   */
  #present(top: Folder, path: BytePath): Map<NodePath, 'folder' | 'file'> {
    const present = new Map<NodePath, 'folder' | 'file'>();
    const above = path === '' ? '' : `${path}/`;
    const visit = (folder: Folder, prefix: NodePath): boolean => {
      let any = false;
      for (const [name, entry] of folder) {
        const at = prefix + name;
        const info = this.#lookAt(above + at);
        let kind: 'folder' | 'file' | undefined;
        if (entry === 'file') kind = info !== undefined && isFileOrLink(info) ? 'file' : undefined;
        else if (info?.isDirectory() && (entry === 'submodule' || visit(entry, `${at}/`))) kind = 'folder';
        if (kind === undefined) continue;
        present.set(at, kind);
        any = true;
      }
      return any;
    };
    visit(top, '');
    return present;
  }
}

/** What the file system says of a node, in one word; and whether it is certain that a change would make it another. */
interface Glance {
  readonly text: string;
  readonly settled: boolean;
}

const isFileOrLink = (info: Stats): boolean => info.isFile() || info.isSymbolicLink();

/** Throws FLK_GIT_TREE for paths that no repository of good will has. */
function foldersOf(root: string, entries: readonly TrackedEntry[]): Folder {
  const top: Folder = new Map();
  for (const { path, submodule } of entries) {
    const names = path.split('/');
    if (names.length > maxDepth || !names.every(isSafeName))
      throw new FlkError('FLK_GIT_TREE', `the index of ${root} holds a forbidden path: ${shown(path)}`);
    const last = names.pop()!;
    let folder = top;
    for (const name of names) {
      let next = folder.get(name);
      if (!(next instanceof Map)) {
        // During a conflict a path may be a file on one side and a folder on the other.
        next = new Map();
        folder.set(name, next);
      }
      folder = next;
    }
    if (!folder.has(last)) folder.set(last, submodule ? 'submodule' : 'file');
  }
  return top;
}

/** As `isNodeName` has it; and no repository within the repository. */
const isSafeName = (name: BytePath): boolean =>
  name !== '' &&
  name !== '.' &&
  name !== '..' &&
  name.length <= maxNameLength &&
  !name.includes('\0') &&
  !(name.length === 4 && name.toLowerCase() === '.git');
