/** Why one path has another in its closure: the ways between the two, and the files that make them. */
import { compareBytes } from '../base/canonical.ts';
import type { TreeSink } from '../formats/nar.ts';
import { hashPart, hashPartLength, type StorePath } from '../formats/store-path.ts';
import type { Store } from '../store/store.ts';

/** One path refers to another. */
export interface Edge {
  readonly from: StorePath;
  readonly to: StorePath;
}

/** How one path leads to another. */
export interface Dependence {
  /** Steps of a shortest way, the first in byte order of several; empty where there is none, or both are the same path. */
  readonly shortest: readonly Edge[];
  /** Every step of every way; those from one path nearest to the end first, else in byte order. */
  readonly edges: readonly Edge[];
}

/** Both must be valid. A path that refers to itself depends on itself. */
export function whyDepends(store: Store, from: StorePath, to: StorePath): Dependence {
  const references = new Map(
    store.closure([from]).map((path) => [path, store.query(path)?.references ?? []]),
  );
  const distances = distancesTo(to, references);
  const next = (path: StorePath): StorePath[] =>
    (references.get(path) ?? [])
      .filter((reference) => distances.has(reference) && (reference !== path || from === to))
      .sort((a, b) => distances.get(a)! - distances.get(b)! || compareBytes(a, b));
  const shortest: Edge[] = [];
  for (let here = from; here !== to || shortest.length === 0; ) {
    const [step] = next(here);
    if (step === undefined) break;
    shortest.push({ from: here, to: step });
    here = step;
  }
  const met = new Set<StorePath>([from]);
  const edges: Edge[] = [];
  // Grows while it is walked.
  for (const path of met)
    for (const reference of next(path)) {
      edges.push({ from: path, to: reference });
      met.add(reference);
    }
  return { shortest, edges };
}

/** How many steps it takes from each path to the end; those from which no way leads there are left out. */
function distancesTo(
  to: StorePath,
  references: ReadonlyMap<StorePath, readonly StorePath[]>,
): ReadonlyMap<StorePath, number> {
  const distances = new Map<StorePath, number>();
  if (!references.has(to)) return distances;
  const referrers = new Map<StorePath, StorePath[]>();
  for (const [path, others] of references)
    for (const other of others) {
      const known = referrers.get(other);
      if (known) known.push(path);
      else referrers.set(other, [path]);
    }
  distances.set(to, 0);
  // Grows while it is walked, nearest first.
  for (const [path, distance] of distances)
    for (const referrer of referrers.get(path) ?? [])
      if (!distances.has(referrer)) distances.set(referrer, distance + 1);
  return distances;
}

/** A file or symlink that names a store path. */
export interface ReferringFile {
  /** From the path's root; `/` for the root itself. */
  readonly file: string;
  /** What stands around the first place, in printable ASCII; for a symlink, its target. */
  readonly around: string;
  /** Where in `around` the hash part begins. */
  readonly at: number;
  readonly isLink: boolean;
}

/** The files and symlinks of a valid path that hold the hash parts of others, by these, in the order of names. */
export async function referringFiles(
  store: Store,
  path: StorePath,
  references: readonly StorePath[],
  signal?: AbortSignal,
): Promise<ReadonlyMap<StorePath, readonly ReferringFile[]>> {
  const finder = new HashFinder(references);
  await store.tree(path).walk(finder, signal);
  return finder.found;
}

/** Bytes that are shown on both sides of a hash part. */
const margin = 32;

class HashFinder implements TreeSink {
  readonly found: ReadonlyMap<StorePath, ReferringFile[]>;
  readonly #wanted: readonly { readonly path: StorePath; readonly part: Buffer }[];
  readonly #folders: string[] = [];
  #name = '';
  /** What this file was not found to hold yet. */
  #left: readonly { readonly path: StorePath; readonly part: Buffer }[] = [];
  /** The file's last bytes so far. */
  #tail: Buffer = Buffer.alloc(0);

  constructor(references: readonly StorePath[]) {
    this.found = new Map(references.map((path) => [path, []]));
    this.#wanted = references.map((path) => ({ path, part: Buffer.from(hashPart(path)) }));
  }

  directory(): void {
    this.#folders.push(this.#name);
  }

  entry(name: Buffer): void {
    this.#name = name.toString();
  }

  endDirectory(): void {
    this.#folders.pop();
  }

  file(): void {
    this.#left = this.#wanted;
    this.#tail = Buffer.alloc(0);
  }

  data(chunk: Buffer): void {
    if (this.#left.length === 0) return;
    // A hash part may begin in one chunk and end in the next; and what stands before it is shown.
    const bytes = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk]);
    this.#left = this.#left.filter(({ path, part }) => {
      const at = bytes.indexOf(part);
      if (at >= 0) this.#add(path, bytes, at, false);
      return at < 0;
    });
    this.#tail = Buffer.from(bytes.subarray(-(hashPartLength - 1 + margin)));
  }

  endFile(): void {}

  symlink(target: Buffer): void {
    for (const { path, part } of this.#wanted) {
      const at = target.indexOf(part);
      if (at >= 0) this.#add(path, target, at, true);
    }
  }

  #add(path: StorePath, bytes: Buffer, at: number, isLink: boolean): void {
    const start = isLink ? 0 : Math.max(0, at - margin);
    const end = isLink ? bytes.length : at + hashPartLength + margin;
    const file = [...this.#folders.slice(1), this.#name].join('/');
    this.found.get(path)?.push({
      file: this.#folders.length === 0 ? '/' : file,
      around: bytes.toString('latin1', start, end).replace(/[^\x20-\x7e]/g, '.'),
      at: at - start,
      isLink,
    });
  }
}
