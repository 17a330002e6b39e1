/** Building again what is there, to see whether it comes out the same. */
import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { FlkError } from '../base/errors.ts';
import type { TreeSink } from '../formats/nar.ts';
import type { Store } from '../store/store.ts';
import { walkPath } from '../store/tree-files.ts';
import { type DifferenceKind, differenceHints, differenceOf, type KnownWords } from './difference.ts';
import type { TakenOutput } from './outputs.ts';

/**
 * Compares what a second build left with what is valid. A path whose bytes on disk are not those of its record is put right; whether
 * one was. `known`: what was different around the two builds. Throws FLK_BUILD_NOT_REPRODUCIBLE, naming each file that differs, how,
 * and what usually helps.
 */
export async function compareWithValid(
  store: Store,
  name: string,
  taken: readonly TakenOutput[],
  known: KnownWords = [],
): Promise<boolean> {
  const differing: [string, string][] = [];
  const kinds = new Set<DifferenceKind>();
  const corrupt: TakenOutput[] = [];
  for (const output of taken) {
    const { path, narHash } = output.info;
    const intact = await store.verifyPath(path).then(
      () => true,
      (error: unknown) => {
        if (error instanceof FlkError && error.code === 'FLK_STORE_CORRUPT') return false;
        throw error;
      },
    );
    if (store.query(path)?.narHash === narHash) {
      if (!intact) corrupt.push(output);
      continue;
    }
    for (const { file, how, kind } of await differences(store.physical(path), output.staged, known)) {
      differing.push([file === '' ? path : `${path}/${file}`, how]);
      if (kind) kinds.add(kind);
    }
  }
  if (differing.length > 0) {
    const hints = [...kinds].sort().map((kind) => differenceHints[kind]);
    throw new FlkError('FLK_BUILD_NOT_REPRODUCIBLE', `building ${name} again gave other bytes`, {
      facts: Object.fromEntries(shortened(differing)),
      hint: hints.filter((hint) => hint !== '').join('\n'),
    });
  }
  if (corrupt.length > 0) await store.register(corrupt, { replace: true });
  return corrupt.length > 0;
}

/** Nobody reads more; the count tells the rest. */
const maxDifferences = 1000;

const shortened = (files: readonly [string, string][]): readonly [string, string][] =>
  files.length <= maxDifferences
    ? files
    : [...files.slice(0, maxDifferences), ['…', `and ${files.length - maxDifferences} more`]];

/** Files larger than this are compared by their hashes alone, and so are those that come after as many as nobody reads. */
const maxCompared = 32 * 2 ** 20;

interface DifferingNode {
  /** Where it lies in the tree; empty for the tree itself. */
  readonly file: string;
  /** In words. */
  readonly how: string;
  /** Of a file with other bytes. */
  readonly kind?: DifferenceKind;
}

/** Every node in which two canonical trees differ, in the order of paths. Empty: they are equal. */
export async function differences(
  before: string,
  after: string,
  known: KnownWords = [],
): Promise<DifferingNode[]> {
  const [left, right] = [new Inventory(), new Inventory()];
  await walkPath(before).walk(left);
  await walkPath(after).walk(right);
  const found: DifferingNode[] = [];
  for (const path of [...new Set([...left.nodes.keys(), ...right.nodes.keys()])].sort()) {
    const [one, other] = [left.nodes.get(path), right.nodes.get(path)];
    const file = Buffer.from(path, 'latin1').toString();
    if (one === undefined) found.push({ file, how: 'only in the new one' });
    else if (other === undefined) found.push({ file, how: 'missing in the new one' });
    else if (one.kind !== other.kind) found.push({ file, how: `was ${one.kind}, is ${other.kind}` });
    else if (one.content === other.content) continue;
    else if (one.kind === 'a symlink')
      found.push({ file, how: `a link to ${one.content}, now to ${other.content}` });
    else {
      const [old, now] =
        found.length > maxDifferences
          ? []
          : await Promise.all([before, after].map((root) => contentOf(root, path)));
      if (old && now) {
        const { kind, offset, ...shown } = differenceOf(old, now, known, Math.floor(Date.now() / 1000));
        found.push({ file, how: `${kind} at byte ${offset}: ${shown.before} became ${shown.after}`, kind });
      } else found.push({ file, how: 'other bytes' });
    }
  }
  return found;
}

/** The bytes of a file in a canonical tree, if they are not too many. */
async function contentOf(root: string, path: string): Promise<Buffer | undefined> {
  const place =
    path === '' ? Buffer.from(root) : Buffer.concat([Buffer.from(`${root}/`), Buffer.from(path, 'latin1')]);
  const handle = await open(place, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { size } = await handle.stat();
    return size <= maxCompared ? await handle.readFile() : undefined;
  } finally {
    await handle.close();
  }
}

/** A tree as a flat list: path (names joined by `/`, latin1) → what is there. */
class Inventory implements TreeSink {
  readonly nodes = new Map<string, { readonly kind: string; readonly content: string }>();
  readonly #path: string[] = [];
  #name: string | undefined;
  #kind = '';
  #hash: Hash = createHash('sha256');

  directory(): void {
    this.#put('a folder', '');
    if (this.#name !== undefined) this.#path.push(this.#name);
  }

  entry(name: Buffer): void {
    this.#name = name.toString('latin1');
  }

  endDirectory(): void {
    this.#path.pop();
  }

  file(_size: number, executable: boolean): void {
    this.#kind = executable ? 'an executable file' : 'a file';
    this.#hash = createHash('sha256');
  }

  data(chunk: Buffer): void {
    this.#hash.update(chunk);
  }

  endFile(): void {
    this.#put(this.#kind, this.#hash.digest('base64'));
  }

  symlink(target: Buffer): void {
    this.#put('a symlink', target.toString('latin1'));
  }

  #put(kind: string, content: string): void {
    this.nodes.set([...this.#path, ...(this.#name === undefined ? [] : [this.#name])].join('/'), {
      kind,
      content,
    });
  }
}
