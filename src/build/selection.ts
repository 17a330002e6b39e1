/** What of a flake's own tree a package is made from: `src: .`, `src: ./dir`, `{ path, include, exclude }`, patches. */
import { canonicalJson } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import type { SelfSelection } from '../flake/manifest.ts';
import type { SourceTree } from '../flake/source.ts';
import { type NarHash, parseNarHash, sha256, toBase16 } from '../formats/hash.ts';
import { NarHasher, type Tree, type TreeSink, walkMended } from '../formats/nar.ts';
import { makeSourcePath, type StorePath } from '../formats/store-path.ts';
import { filterTree } from '../formats/tree-sinks.ts';
import type { Store } from '../store/store.ts';
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
  readonly tree: SourceTree;
  readonly dir: string;
}

/**
 * Selects by one walk of the tree, shared with whatever else is selected from it in the same turn, or by none where the store
 * remembers the answer. A file is taken when it, or a folder above it,
 * matches `include` (an empty list: everything) and not `exclude`; folders left empty are not taken; nor are, at the flake's root,
 * flake.yaml and flake.lock, unless `include` matches them. Patterns are relative to the selection's `path`.
 * Throws FLK_PACKAGE_INVALID when there is nothing at the path, or nothing in it is selected.
 */
export async function selectSource(
  flake: FlakeFolder,
  selection: SelfSelection,
  context: {
    readonly store: Pick<Store, 'memo' | 'setMemo'>;
    readonly reporter: Reporter;
    readonly signal?: AbortSignal;
  },
): Promise<SelectedSource> {
  const folder = [flake.dir, selection.path].filter((part) => part !== '').join('/');
  const shown = `./${selection.path}`;
  const tree: Tree = {
    walk: async (sink) => {
      const walks = sharedWalks(flake.tree, context.signal);
      if (!(await walks.walk(folder, filterTree(sink, keeper(selection))))) {
        throw new FlkError('FLK_PACKAGE_INVALID', `${shown} is not in the flake’s tree`, {
          hint: `only what Git tracks is: git add ${shown}`,
        });
      }
    },
  };
  const key = memoKey(flake.tree.narHash, folder, selection);
  const known = context.store.memo(key)?.split(' ');
  if (known?.[0] !== undefined && known[1] !== undefined)
    return selected(known[0], parseNarHash(known[1]), tree);

  const { name, narHash } = await span(context.reporter, { type: 'hash', subject: shown }, () =>
    walkMended(async () => {
      const hasher = new NarHasher();
      const seen = observe(hasher);
      await tree.walk(seen);
      if (seen.leaves === 0 && selection.include.length > 0) {
        throw new FlkError('FLK_PACKAGE_INVALID', `include and exclude leave nothing of ${shown}`, {
          facts: { include: selection.include.join(' '), exclude: selection.exclude.join(' ') },
        });
      }
      return {
        name: seen.isFolder ? 'source' : folder.slice(folder.lastIndexOf('/') + 1),
        narHash: hasher.digest().narHash,
      };
    }),
  );
  context.store.setMemo(key, `${name} ${narHash}`);
  return selected(name, narHash, tree);
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

/** `select-1`: to be raised when the same selection is to mean something else. */
function memoKey(narHash: NarHash, folder: string, { include, exclude, path }: SelfSelection): string {
  const what = canonicalJson({ narHash, folder, root: path === '', include, exclude });
  return `select-1-${toBase16(sha256(what))}`;
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
