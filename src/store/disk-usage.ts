/** How large paths are, with all that they refer to. Sizes are those of NARs, as Nix counts. */
import type { StorePath } from '../formats/store-path.ts';
import type { Store } from './store.ts';

interface Usage {
  readonly path: StorePath;
  readonly size: number;
  /** With all that it refers to. */
  readonly closureSize: number;
  /** What would go if it went, of all that was asked for: in its closure and in no other's. */
  readonly ownSize: number;
}

export interface DiskUsage {
  /** Largest closure first. */
  readonly paths: readonly Usage[];
  /** All closures, what they share counted once. */
  readonly totalSize: number;
  /** What more than one of the closures has. */
  readonly sharedSize: number;
}

/** The paths must be valid. */
export function diskUsage(store: Store, paths: readonly StorePath[]): DiskUsage {
  const graph = new SizeGraph(store);
  const holders = new Map<StorePath, number>();
  const closures = [...new Set(paths)].map((path) => ({ path, closure: graph.closure(path) }));
  for (const { closure } of closures)
    for (const path of closure) holders.set(path, (holders.get(path) ?? 0) + 1);
  const usages = closures.map(({ path, closure }) => ({
    path,
    size: graph.size([path]),
    closureSize: graph.size(closure),
    ownSize: graph.size([...closure].filter((one) => holders.get(one) === 1)),
  }));
  const shared = [...holders].filter(([, count]) => count > 1).map(([path]) => path);
  return {
    paths: usages.sort(
      (a, b) => b.closureSize - a.closureSize || b.size - a.size || (a.path < b.path ? -1 : 1),
    ),
    totalSize: graph.size(holders.keys()),
    sharedSize: graph.size(shared),
  };
}

/** Bytes of NAR of each valid one of the paths with all that it refers to. */
export function closureSizes(store: Store, paths: readonly StorePath[]): ReadonlyMap<StorePath, number> {
  const graph = new SizeGraph(store);
  return new Map(
    paths.filter((path) => store.query(path)).map((path) => [path, graph.size(graph.closure(path))]),
  );
}

/** Asks the database for each path once, however many closures hold it. */
class SizeGraph {
  readonly #store: Store;
  readonly #known = new Map<
    StorePath,
    { readonly references: readonly StorePath[]; readonly narSize: number }
  >();

  constructor(store: Store) {
    this.#store = store;
  }

  closure(path: StorePath): Set<StorePath> {
    const found = new Set([path]);
    // Grows while it is walked.
    for (const one of found) for (const reference of this.#info(one).references) found.add(reference);
    return found;
  }

  size(paths: Iterable<StorePath>): number {
    let sum = 0;
    for (const path of paths) sum += this.#info(path).narSize;
    return sum;
  }

  #info(path: StorePath): { readonly references: readonly StorePath[]; readonly narSize: number } {
    const known = this.#known.get(path) ?? this.#store.query(path) ?? { references: [], narSize: 0 };
    this.#known.set(path, known);
    return known;
  }
}
