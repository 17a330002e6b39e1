/** Trees out of the cache that are fetched again, once, when they turn out damaged. */
import type { SourceTree } from '../flake/source.ts';
import type { NarHash } from '../formats/hash.ts';
import { TreeMended, type TreeSink } from '../formats/nar.ts';
import { CacheDamaged } from './notes.ts';

export class MendingTree implements SourceTree {
  #tree: SourceTree;
  readonly #fetchAgain: () => Promise<SourceTree>;
  #mended: Promise<void> | undefined;

  /** `fetchAgain` gives the same tree, from where it came from. */
  constructor(tree: SourceTree, fetchAgain: () => Promise<SourceTree>) {
    this.#tree = tree;
    this.#fetchAgain = fetchAgain;
  }

  get narHash(): NarHash {
    return this.#tree.narHash;
  }

  get narSize(): number {
    return this.#tree.narSize;
  }

  async readFile(path: string): Promise<Buffer | undefined> {
    const tree = this.#tree;
    return tree.readFile(path).catch(async (error: unknown) => {
      await this.#mend(error);
      return this.#tree.readFile(path);
    });
  }

  /** A sink may have seen half of a damaged tree when that is found out: once it is mended, that is told by TreeMended. */
  async walk(sink: TreeSink, signal?: AbortSignal): Promise<void> {
    await this.#tree.walk(sink, signal).catch(async (error: unknown) => {
      const { code, message } = await this.#mend(error);
      throw new TreeMended(code, message, { cause: error, hint: 'run the command again' });
    });
  }

  /** Throws what it was given where that is no damage, or no help. */
  async #mend(error: unknown): Promise<CacheDamaged> {
    if (!(error instanceof CacheDamaged)) throw error;
    this.#mended ??= this.#fetchAgain().then((tree) => {
      this.#tree = tree;
    });
    await this.#mended.catch(() => {
      throw error;
    });
    return error;
  }
}
