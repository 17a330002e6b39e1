/** The graph that a lock describes: where a path of inputs leads, `follows` and all, and the tree a person wants to see. */
import { compareBytes } from '../base/canonical.ts';
import { nearest } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import type { LockEdge, LockFile, LockNode } from './lock-file.ts';
import type { InputPath } from './package-ref.ts';

/** An input where it stands in the tree: first in byte order of names, depth first. */
export interface TreeEntry {
  readonly path: InputPath;
  readonly edge: LockEdge;
  /** Undefined for one that follows. */
  readonly node?: LockNode;
  readonly children: readonly TreeEntry[];
}

/** `a/b`, as commands and messages write it. */
export function printInputPath(path: InputPath): string {
  return path.join('/');
}

/** In the order of Nix's lists: name by name, by bytes. */
export function comparePaths(a: InputPath, b: InputPath): number {
  for (let i = 0; i < a.length && i < b.length; i++) {
    const order = compareBytes(a[i]!, b[i]!);
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

export function startsWith(path: InputPath, prefix: InputPath): boolean {
  return prefix.length <= path.length && prefix.every((name, index) => name === path[index]);
}

/** How many `follows` may hang on one another; each costs a stack frame. */
const longestChain = 1000;

export class LockGraph {
  readonly lock: LockFile;
  /** Path → the key of its node; undefined while it is being looked for. */
  readonly #found = new Map<string, string | undefined>();

  constructor(lock: LockFile) {
    this.lock = lock;
  }

  node(key: string): LockNode {
    const node = this.lock.nodes.get(key);
    if (!node) throw new FlkError('FLK_INTERNAL', `the lock has no node ‘${key}’`);
    return node;
  }

  /**
   * The key of the node that a path from the root leads to, through `follows` too; the root's for the empty path.
   * Throws FLK_INPUT_UNKNOWN, FLK_FOLLOWS_MISSING and FLK_FOLLOWS_CYCLE.
   */
  find(path: InputPath): string {
    return this.#find(path, []);
  }

  /** Throws where a `follows` leads nowhere or in a circle. */
  check(): void {
    for (const { path, edge } of this.inputs()) if (edge.kind === 'follows') this.find(path);
  }

  /** As `check`, and throws also where Nix does: when on the way of a `follows` the same path comes up twice, circle or not. */
  checkAsNix(): void {
    for (const { path, edge } of this.inputs()) {
      if (edge.kind !== 'follows') continue;
      this.find(path);
      this.#walkAsNix(edge.path, path, new Set(), 0);
    }
  }

  /** `seen`: the paths that were walked for this input so far, those that are done too. */
  #walkAsNix(path: InputPath, input: InputPath, seen: Set<string>, depth: number): string {
    const text = printInputPath(path);
    if (seen.has(text))
      throw new FlkError(
        'FLK_FOLLOWS_CYCLE',
        `to find what input ‘${printInputPath(input)}’ follows, ‘${text}’ has to be walked twice, which Nix takes for a circle`,
        {
          hint: 'let it follow the input that is meant in the end',
          trail: [printInputPath(input), ...seen, text],
        },
      );
    if (depth > longestChain) throw this.#tooLong([input]);
    seen.add(text);
    let key = this.lock.root;
    for (const name of path) {
      const edge = this.node(key).inputs.get(name);
      if (!edge) throw this.#missing(path, [input]);
      key = edge.kind === 'node' ? edge.key : this.#walkAsNix(edge.path, input, seen, depth + 1);
    }
    return key;
  }

  /** Every input of every node, each node's once, sorted as Nix's lists are. */
  inputs(): { readonly path: InputPath; readonly edge: LockEdge }[] {
    const all: { path: InputPath; edge: LockEdge }[] = [];
    const visit = (entries: readonly TreeEntry[]) => {
      for (const entry of entries) {
        all.push({ path: entry.path, edge: entry.edge });
        visit(entry.children);
      }
    };
    visit(this.tree());
    return all.sort((a, b) => comparePaths(a.path, b.path));
  }

  /** The inputs below the root. A node that several inputs share shows its own inputs the first time only. */
  tree(): readonly TreeEntry[] {
    const shown = new Set<string>();
    const below = (key: string, prefix: InputPath): TreeEntry[] => {
      if (shown.has(key)) return [];
      shown.add(key);
      return [...this.node(key).inputs]
        .sort(([a], [b]) => compareBytes(a, b))
        .map(([name, edge]) => {
          const path = [...prefix, name];
          if (edge.kind === 'follows') return { path, edge, children: [] };
          return { path, edge, node: this.node(edge.key), children: below(edge.key, path) };
        });
    };
    return below(this.lock.root, []);
  }

  /** `chain`: the inputs that follow one another on the way here. */
  #find(path: InputPath, chain: readonly InputPath[]): string {
    const name = path.at(-1);
    if (name === undefined) return this.lock.root;
    const text = printInputPath(path);
    const known = this.#found.get(text);
    if (known !== undefined) return known;
    if (this.#found.has(text)) throw this.#cycle(path, chain);
    if (chain.length > longestChain) throw this.#tooLong(chain);
    this.#found.set(text, undefined);
    try {
      const edge = this.node(this.#find(path.slice(0, -1), chain)).inputs.get(name);
      if (!edge) throw this.#missing(path, chain);
      const key = edge.kind === 'node' ? edge.key : this.#find(edge.path, [...chain, path]);
      this.#found.set(text, key);
      return key;
    } finally {
      if (this.#found.get(text) === undefined) this.#found.delete(text);
    }
  }

  #missing(path: InputPath, chain: readonly InputPath[]): FlkError {
    const wanted = printInputPath(path);
    const others = this.inputs().map((input) => printInputPath(input.path));
    const follower = chain.at(-1);
    const meant = nearest(
      wanted,
      others.filter((other) => other !== (follower && printInputPath(follower))),
    );
    const details = {
      facts: { found: others.slice(0, 20).join(', ') || 'no inputs', wanted },
      ...(meant === undefined ? {} : { hint: `did you mean ${meant}?` }),
    };
    if (!follower) return new FlkError('FLK_INPUT_UNKNOWN', `there is no input ‘${wanted}’`, details);
    return new FlkError(
      'FLK_FOLLOWS_MISSING',
      `input ‘${printInputPath(follower)}’ follows ‘${wanted}’, which does not exist`,
      { ...details, trail: chain.map(printInputPath) },
    );
  }

  #tooLong(chain: readonly InputPath[]): FlkError {
    return new FlkError('FLK_GRAPH_LIMIT', `more than ${longestChain} inputs follow one another`, {
      trail: chain.slice(0, 3).map(printInputPath),
    });
  }

  #cycle(path: InputPath, chain: readonly InputPath[]): FlkError {
    const steps = [...chain, path].map(printInputPath);
    const start = steps.indexOf(printInputPath(path));
    const circle = start < 0 || start === steps.length - 1 ? steps : steps.slice(start);
    return new FlkError('FLK_FOLLOWS_CYCLE', `inputs follow one another in a circle: ${circle.join(' → ')}`, {
      trail: steps,
    });
  }
}
