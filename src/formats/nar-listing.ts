/** What a tree holds, without the bytes of its files: the JSON of `nix store ls --json` and of a binary cache's `.ls` files. */
import { NarWriter, type TreeSink } from './nar.ts';

export type NarListingNode =
  | { readonly type: 'directory'; readonly entries: Readonly<Record<string, NarListingNode>> }
  | {
      readonly type: 'regular';
      /** Only where true. */
      readonly executable?: true;
      readonly size: number;
      /** Where the file's bytes begin in the NAR; only in a listing of a NAR. */
      readonly narOffset?: number;
    }
  | { readonly type: 'symlink'; readonly target: string };

/** Takes a walk and keeps what it met, each file with its place in the NAR of that walk. */
export class NarListing implements TreeSink {
  /** Counts: a file's bytes begin where the archive ends once the file is announced. */
  readonly #nar = new NarWriter(() => {});
  readonly #folders: Record<string, NarListingNode>[] = [];
  #name = '';
  #root: NarListingNode = { type: 'directory', entries: {} };

  /** The whole tree, once the walk is over. */
  get root(): NarListingNode {
    return this.#root;
  }

  directory(): void {
    this.#nar.directory();
    const entries = listingEntries();
    this.#add({ type: 'directory', entries });
    this.#folders.push(entries);
  }

  entry(name: Buffer): void {
    this.#nar.entry(name);
    this.#name = name.toString();
  }

  endDirectory(): void {
    this.#nar.endDirectory();
    this.#folders.pop();
  }

  file(size: number, executable: boolean): void {
    this.#nar.file(size, executable);
    this.#add({
      type: 'regular',
      ...(executable ? { executable: true } : {}),
      size,
      narOffset: this.#nar.size,
    });
  }

  data(chunk: Buffer): void {
    this.#nar.data(chunk);
  }

  endFile(): void {
    this.#nar.endFile();
  }

  symlink(target: Buffer): void {
    this.#nar.symlink(target);
    this.#add({ type: 'symlink', target: target.toString() });
  }

  #add(node: NarListingNode): void {
    const folder = this.#folders.at(-1);
    if (folder) folder[this.#name] = node;
    else this.#root = node;
  }
}

/** A folder's entries before they come. Without a prototype, so that a file may be called `__proto__`. */
export function listingEntries(): Record<string, NarListingNode> {
  return Object.create(null) as Record<string, NarListingNode>;
}
