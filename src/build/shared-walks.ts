/** Many parts of one tree, read by as few walks of it as can be: a flake of a thousand packages has a thousand sources in one tree. */
import type { Tree, TreeSink } from '../formats/nar.ts';
import { type Branch, Branches } from '../formats/tree-branches.ts';

interface Wish extends Branch {
  readonly done: (found: boolean) => void;
  readonly failed: (error: unknown) => void;
}

export class SharedWalks {
  readonly #tree: Tree;
  readonly #signal: AbortSignal | undefined;
  #wishes: Wish[] = [];
  #last: Promise<void> = Promise.resolve();

  constructor(tree: Tree, signal?: AbortSignal) {
    this.#tree = tree;
    this.#signal = signal;
  }

  /**
   * Walks the node at `path` (`a/b`, UTF-8; empty for the whole tree), together with all that are asked for in the same turn or
   * during the walk before. False: there is no such node, and the sink has seen nothing. Throws what the sink or the tree does.
   */
  walk(path: string, sink: TreeSink): Promise<boolean> {
    return new Promise((done, failed) => {
      if (this.#wishes.length === 0) this.#last = this.#last.then(nextTurn).then(() => this.#walk());
      this.#wishes.push({ path, sink, done, failed });
    });
  }

  async #walk(): Promise<void> {
    const wishes = this.#wishes;
    this.#wishes = [];
    const branches = new Branches(wishes);
    try {
      await this.#tree.walk(branches, this.#signal);
    } catch (error) {
      for (const { failed } of wishes) failed(error);
      return;
    }
    for (const wish of wishes) {
      try {
        wish.done(branches.found(wish));
      } catch (error) {
        wish.failed(error);
      }
    }
  }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
