/** What of a flake's own tree a package is made from: `src: .`, `src: ./dir`, `{ path, include, exclude }`, patches. */
import { canonicalJson } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import type { SelfSelection } from '../flake/manifest.ts';
import type { SourceTree, WorkingFiles } from '../flake/source.ts';
import { type NarHash, sha256, toBase16 } from '../formats/hash.ts';
import { NarHasher, type Tree, type TreeSink, walkMended } from '../formats/nar.ts';
import { makeSourcePath, type StorePath } from '../formats/store-path.ts';
import { filterTree } from '../formats/tree-sinks.ts';
import type { Store } from '../store/store.ts';
import { isHashed } from './locked-flakes.ts';
import { matcher } from './patterns.ts';
import { SharedWalks } from './shared-walks.ts';

export interface SelectedSource {
  readonly path: StorePath;
  /** `source`; a single file keeps its own name. */
  readonly name: string;
  readonly narHash: NarHash;
  readonly tree: Tree;
}

/** Where a flake lies: its `flake.yaml` is `dir/flake.yaml` of the tree; `dir` is empty or has no slash at its ends. */
export interface FlakeFolder {
  readonly tree: SourceTree | WorkingFiles;
  readonly dir: string;
}

/** What a selection was found to be, and the stamp of what it was found in; of a tree that never changes that is empty. */
interface Remembered {
  readonly stamp: string;
  readonly name: string;
  readonly narHash: NarHash;
}

/** Of selections that this run did not ask for: whoever builds one package after the other asks for others each time. */
const mostRemembered = 20_000;

export interface SelectionContext {
  readonly store: Pick<Store, 'memo' | 'setMemo'>;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
}

/**
 * Selects parts of one flake's tree. A file is taken when it, or a folder above it, matches `include` (an empty list: everything) and
 * not `exclude`; folders left empty are not taken; nor are, at the flake's root, flake.yaml and flake.lock, unless `include` matches
 * them. Patterns are relative to the selection's `path`. What is asked for in the same turn is read by one walk of the tree.
 */
export class Selector {
  readonly #flake: FlakeFolder;
  readonly #context: SelectionContext;
  readonly #memoKey: string;
  /** What is known of this tree, by selection; those asked for in this run last. */
  readonly #known: Map<string, Remembered>;
  readonly #selected = new Map<string, Promise<SelectedSource>>();
  #isNew = false;

  constructor(flake: FlakeFolder, context: SelectionContext) {
    this.#flake = flake;
    this.#context = context;
    const { tree, dir } = flake;
    // `select-3`: to be raised when the same selection is to mean something else. One note for each flake that is worked on.
    const whole = canonicalJson(isHashed(tree) ? { narHash: tree.narHash, dir } : { place: tree.place, dir });
    this.#memoKey = `select-3-${toBase16(sha256(whole))}`;
    this.#known = parseNote(context.store.memo(this.#memoKey));
  }

  /**
   * No walk where the store remembers the answer. Throws FLK_PACKAGE_INVALID when there is nothing at the path, or nothing in it is
   * selected.
   */
  select(selection: SelfSelection): Promise<SelectedSource> {
    const key = keyOf(selection);
    const selected = this.#selected.get(key) ?? this.#select(selection, key);
    this.#selected.set(key, selected);
    return selected;
  }

  /** Writes down what was found out, so that the next run need not look at the same tree. */
  remember(): void {
    if (!this.#isNew) return;
    this.#context.store.setMemo(this.#memoKey, printNote([...this.#known].slice(-mostRemembered)));
    this.#isNew = false;
  }

  /** What is known of a selection is wrong: whoever asks next has it read. */
  forget(selection: SelfSelection): void {
    this.#isNew = this.#known.delete(keyOf(selection)) || this.#isNew;
    this.remember();
  }

  async #select(selection: SelfSelection, key: string): Promise<SelectedSource> {
    const { path } = selection;
    const whole = this.#flake.tree;
    const folder = [this.#flake.dir, path].filter((part) => part !== '').join('/');
    const walk = async (sink: TreeSink, hashing?: Reporter): Promise<void> => {
      const walks = sharedWalks(whole, this.#context.signal);
      if (await walks.walk(folder, filterTree(sink, keeper(selection)), hashing)) return;
      throw new FlkError('FLK_PACKAGE_INVALID', `./${path} is not in the flake’s tree`, {
        hint: `only what Git tracks is: git add ./${path}`,
      });
    };
    const tree: Tree = { walk: (sink) => walk(sink) };
    // Before anything is read: what is changed from here on has another stamp next time.
    const stamp = isHashed(whole) ? '' : whole.stamp(folder);
    const known = this.#known.get(key);
    if (known !== undefined && known.stamp === stamp) {
      this.#known.delete(key);
      this.#known.set(key, known);
      return selected(known.name, known.narHash, tree);
    }
    const { name, narHash } = await walkMended(() =>
      look(selection, folder, { walk: (sink) => walk(sink, this.#context.reporter) }),
    );
    if (stamp !== undefined) {
      this.#known.delete(key);
      this.#known.set(key, { stamp, name, narHash });
      this.#isNew = true;
    }
    return selected(name, narHash, tree);
  }
}

/** One selection alone. */
export async function selectSource(
  flake: FlakeFolder,
  selection: SelfSelection,
  context: SelectionContext,
): Promise<SelectedSource> {
  const selector = new Selector(flake, context);
  const found = await selector.select(selection);
  selector.remember();
  return found;
}

const keyOf = ({ path, include, exclude }: SelfSelection): string => JSON.stringify([path, include, exclude]);

/** `[[SELECTION, STAMP, NAME, HASH], …]` in JSON, behind the digest of that. */
function printNote(known: readonly (readonly [string, Remembered])[]): string {
  const body = JSON.stringify(known.map(([key, { stamp, name, narHash }]) => [key, stamp, name, narHash]));
  return `${toBase16(sha256(body))}\n${body}`;
}

/** What is not whole is not known. */
function parseNote(note: string | undefined): Map<string, Remembered> {
  const body = note?.slice(65) ?? '';
  if (note?.slice(0, 64) !== toBase16(sha256(body))) return new Map();
  const rows = JSON.parse(body) as readonly (readonly [string, string, string, NarHash])[];
  return new Map(rows.map(([key, stamp, name, narHash]) => [key, { stamp, name, narHash }]));
}

async function look(
  { path, include, exclude }: SelfSelection,
  folder: string,
  tree: Tree,
): Promise<{ name: string; narHash: NarHash }> {
  const hasher = new NarHasher();
  const seen = observe(hasher);
  await tree.walk(seen);
  if (seen.leaves === 0 && include.length > 0) {
    throw new FlkError('FLK_PACKAGE_INVALID', `include and exclude leave nothing of ./${path}`, {
      facts: { include: include.join(' '), exclude: exclude.join(' ') },
    });
  }
  return {
    name: seen.isFolder ? 'source' : folder.slice(folder.lastIndexOf('/') + 1),
    narHash: hasher.digest().narHash,
  };
}

/** By tree, for as long as there is a use for it. */
const walksOf = new WeakMap<Tree, SharedWalks>();

function sharedWalks(tree: Tree, signal: AbortSignal | undefined): SharedWalks {
  const walks = walksOf.get(tree) ?? new SharedWalks(tree, signal);
  walksOf.set(tree, walks);
  return walks;
}

function selected(name: string, narHash: NarHash, tree: Tree): SelectedSource {
  return { path: makeSourcePath(name, narHash), name, narHash, tree };
}

function keeper(selection: SelfSelection): Parameters<typeof filterTree>[1] {
  const include = matcher(selection.include);
  const exclude = matcher(selection.exclude);
  const isIncluded = (path: string, isFolder: boolean): boolean => {
    const own = include(path, isFolder);
    if (own !== undefined) return own;
    const slash = path.lastIndexOf('/');
    return slash !== -1 && isIncluded(path.slice(0, slash), true);
  };
  return (path, kind) => {
    const isFolder = kind === 'directory';
    if (exclude(path, isFolder)) return false;
    // What is in a folder decides whether it stays.
    if (isFolder) return true;
    if (selection.include.length > 0) return isIncluded(path, false);
    return selection.path !== '' || (path !== 'flake.yaml' && path !== 'flake.lock');
  };
}

interface Observer extends TreeSink {
  readonly isFolder: boolean;
  /** Files and links. */
  readonly leaves: number;
}

function observe(sink: TreeSink): Observer {
  let isFolder: boolean | undefined;
  let leaves = 0;
  return {
    get isFolder() {
      return isFolder ?? false;
    },
    get leaves() {
      return leaves;
    },
    directory: () => {
      isFolder ??= true;
      sink.directory();
    },
    entry: (name) => sink.entry(name),
    endDirectory: () => sink.endDirectory(),
    file: (size, executable) => {
      isFolder ??= false;
      leaves++;
      sink.file(size, executable);
    },
    data: (chunk) => sink.data(chunk),
    endFile: () => sink.endFile(),
    symlink: (target) => {
      isFolder ??= false;
      leaves++;
      sink.symlink(target);
    },
  };
}
