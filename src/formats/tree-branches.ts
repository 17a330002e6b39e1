/** One walk of a tree for many of its parts, which may lie within one another. */
import type { TreeSink } from './nar.ts';

/** Who wants the node at `path` (`a/b`, UTF-8; empty for the root) as the root of a tree. */
export interface Branch {
  readonly path: string;
  readonly sink: TreeSink;
}

/** The way to the branches, name by name (latin1). */
interface Fork {
  readonly children: Map<string, Fork>;
  readonly branches: Branch[];
}

/** A sink for a walk of the whole tree. A branch whose sink throws is left out from there on; the others go on. */
export class Branches implements TreeSink {
  readonly #root: Fork = { children: new Map(), branches: [] };
  readonly #found = new Set<Branch>();
  readonly #failures = new Map<Branch, unknown>();
  /** Those whose node is open, outermost first. */
  readonly #active: Branch[] = [];
  /** Open folders: where they lead, and how many branches begin there. */
  readonly #folders: { readonly fork: Fork | undefined; readonly begun: number }[] = [];
  /** For the node that comes next. */
  #fork: Fork | undefined = this.#root;
  /** How many branches are the file that is open. */
  #begun = 0;

  constructor(branches: readonly Branch[]) {
    for (const branch of branches) {
      let fork = this.#root;
      for (const part of branch.path.split('/')) {
        if (part === '' || part === '.') continue;
        const name = Buffer.from(part).toString('latin1');
        const next = fork.children.get(name) ?? { children: new Map(), branches: [] };
        fork.children.set(name, next);
        fork = next;
      }
      fork.branches.push(branch);
    }
  }

  /** Once the walk is over: whether it came by the node. Throws what the branch's sink threw. */
  found(branch: Branch): boolean {
    if (this.#failures.has(branch)) throw this.#failures.get(branch);
    return this.#found.has(branch);
  }

  directory(): void {
    const fork = this.#fork;
    const begun = this.#begin();
    this.#folders.push({ fork, begun });
    this.#pass((sink) => sink.directory());
  }

  entry(name: Buffer): void {
    this.#pass((sink) => sink.entry(name));
    this.#fork = this.#folders.at(-1)?.fork?.children.get(name.toString('latin1'));
  }

  endDirectory(): void {
    this.#pass((sink) => sink.endDirectory());
    this.#end(this.#folders.pop()?.begun ?? 0);
  }

  file(size: number, executable: boolean): void {
    this.#begun = this.#begin();
    this.#pass((sink) => sink.file(size, executable));
  }

  data(chunk: Buffer): void {
    if (this.#active.length > 0) this.#pass((sink) => sink.data(chunk));
  }

  endFile(): void {
    this.#pass((sink) => sink.endFile());
    this.#end(this.#begun);
  }

  symlink(target: Buffer): void {
    const begun = this.#begin();
    this.#pass((sink) => sink.symlink(target));
    this.#end(begun);
  }

  #begin(): number {
    const branches = this.#fork?.branches ?? [];
    for (const branch of branches) this.#found.add(branch);
    this.#active.push(...branches);
    return branches.length;
  }

  #end(begun: number): void {
    this.#active.length -= begun;
  }

  #pass(event: (sink: TreeSink) => void): void {
    for (const branch of this.#active) {
      if (this.#failures.has(branch)) continue;
      try {
        event(branch.sink);
      } catch (error) {
        this.#failures.set(branch, error);
      }
    }
  }
}
