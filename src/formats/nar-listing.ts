/** What a tree holds, without the bytes of its files: the JSON of `nix store ls --json` and of a binary cache's `.ls` files. */
import type { TreeSink } from './nar.ts';

export type NarListing =
  | { readonly type: 'directory'; readonly entries: Readonly<Record<string, NarListing>> }
  | {
      readonly type: 'regular';
      /** Only where true. */
      readonly executable?: true;
      readonly size: number;
      /** Where the file's bytes begin in the NAR; only in a listing of a NAR. */
      readonly narOffset?: number;
    }
  | { readonly type: 'symlink'; readonly target: string };

/**
 * Takes a walk and keeps what it met. `position`: how long the NAR of the same walk is once a file was announced to it
 * (`NarWriter.size`), where the listing is of a NAR.
 */
export class ListingSink implements TreeSink {
  readonly #position: (() => number) | undefined;
  readonly #folders: Record<string, NarListing>[] = [];
  #name = '';
  #root: NarListing | undefined;

  constructor(position?: () => number) {
    this.#position = position;
  }

  /** The whole tree, once the walk is over. */
  get root(): NarListing | undefined {
    return this.#root;
  }

  directory(): void {
    const entries = listingEntries();
    this.#add({ type: 'directory', entries });
    this.#folders.push(entries);
  }

  entry(name: Buffer): void {
    this.#name = name.toString();
  }

  endDirectory(): void {
    this.#folders.pop();
  }

  file(size: number, executable: boolean): void {
    this.#add({
      type: 'regular',
      ...(executable ? { executable: true } : {}),
      size,
      ...(this.#position ? { narOffset: this.#position() } : {}),
    });
  }

  data(): void {}

  endFile(): void {}

  symlink(target: Buffer): void {
    this.#add({ type: 'symlink', target: target.toString() });
  }

  #add(node: NarListing): void {
    const folder = this.#folders.at(-1);
    if (folder) folder[this.#name] = node;
    else this.#root = node;
  }
}

/** A folder's entries before they come. Without a prototype, so that a file may be called `__proto__`. */
export function listingEntries(): Record<string, NarListing> {
  return Object.create(null) as Record<string, NarListing>;
}
