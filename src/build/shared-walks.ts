/** Many parts of one tree, each read once at most: a flake of a thousand packages has a thousand sources in one tree. */
import { type Reporter, span } from '../base/events.ts';
import type { WorkingFiles } from '../flake/source.ts';
import type { Tree, TreeSink } from '../formats/nar.ts';
import { type Branch, Branches } from '../formats/tree-branches.ts';

interface Wish extends Branch {
  readonly hashing: Reporter | undefined;
  readonly done: (found: boolean) => void;
  readonly failed: (error: unknown) => void;
}

export class SharedWalks {
  readonly #tree: Tree & Partial<Pick<WorkingFiles, 'walkAt'>>;
  readonly #signal: AbortSignal | undefined;
  #wishes: Wish[] = [];
  #last: Promise<void> = Promise.resolve();

  constructor(tree: Tree & Partial<Pick<WorkingFiles, 'walkAt'>>, signal?: AbortSignal) {
    this.#tree = tree;
    this.#signal = signal;
  }

  /**
   * Walks the node at `path` (`a/b`, UTF-8; empty for the whole tree), together with all that are asked for in the same turn or
   * during the walk before. False: there is no such node, and the sink has seen nothing. Throws what the sink or the tree does.
   * `hashing`: is told of the walk as a `hash` span, one for all that hash.
   */
  walk(path: string, sink: TreeSink, hashing?: Reporter): Promise<boolean> {
    return new Promise((done, failed) => {
      if (this.#wishes.length === 0) this.#last = this.#last.then(nextTurn).then(() => this.#walk());
      this.#wishes.push({ path, sink, hashing, done, failed });
    });
  }

  async #walk(): Promise<void> {
    const wishes = this.#wishes;
    this.#wishes = [];
    // A tree that can be entered anywhere is read where something is wished for, and there once.
    const tops = this.#tree.walkAt ? outermost(wishes) : new Map([['', wishes]]);
    const walkAll = async (): Promise<void> => {
      const failures: unknown[] = [];
      for (const [top, below] of tops)
        await this.#walkBelow(top, below).catch((error: unknown) => {
          failures.push(error);
          for (const { failed } of below) failed(error);
        });
      if (failures.length > 0) throw failures[0];
    };
    const hashed = wishes.filter(({ hashing }) => hashing !== undefined);
    const reporter = hashed[0]?.hashing;
    const subject = `./${folderOf(hashed.map(({ path }) => path))}`;
    const walked = reporter ? span(reporter, { type: 'hash', subject }, walkAll) : walkAll();
    // Most have been told already, and a second answer nobody hears.
    await walked.catch((error: unknown) => {
      for (const { failed } of wishes) failed(error);
    });
  }

  async #walkBelow(top: string, wishes: readonly Wish[]): Promise<void> {
    const branches = wishes.map(({ path, sink }) => ({
      path: top === '' ? path : path.slice(top.length + 1),
      sink,
    }));
    const all = new Branches(branches);
    if (this.#tree.walkAt) await this.#tree.walkAt(top, all, this.#signal);
    else await this.#tree.walk(all, this.#signal);
    for (const [index, wish] of wishes.entries()) {
      try {
        wish.done(all.found(branches[index]!));
      } catch (error) {
        wish.failed(error);
      }
    }
  }
}

/** The paths that lie within no other, and what is wished for there and below. */
function outermost(wishes: readonly Wish[]): Map<string, Wish[]> {
  const paths = new Set(wishes.map(({ path }) => path));
  const tops = new Map<string, Wish[]>();
  for (const wish of wishes) {
    const { path } = wish;
    let top = paths.has('') ? '' : path;
    for (let end = path.lastIndexOf('/'); top !== '' && end !== -1; end = path.lastIndexOf('/', end - 1))
      if (paths.has(path.slice(0, end))) top = path.slice(0, end);
    const below = tops.get(top);
    if (below) below.push(wish);
    else tops.set(top, [wish]);
  }
  return tops;
}

/** The innermost node that all of these are or lie in. */
function folderOf([first = '', ...others]: readonly string[]): string {
  let folder = first;
  for (const path of others)
    while (folder !== '' && !`${path}/`.startsWith(`${folder}/`))
      folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/')));
  return folder;
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
