/**
 * `merge`: one tree out of several. Folders are united; two files, or two links, at one place must be equal, unless one part has a
 * priority before the other. Where one part has a link to a folder and another a folder (`bin -> usr/bin` and `bin/`), what is in the
 * folder goes where the link leads, as it would if the parts were unpacked over one another on a system that has the link.
 *
 * As a derivation it has in the environment: `name`, `system` (`builtin`), `builder`, `out`, `parts` (paths, separated by spaces),
 * `links` (JSON, link → target) and, where one is not the usual, `priorities` (numbers, in the order of `parts`). A merge of nothing
 * but sources is a fixed output (`outputHash` in SRI, `outputHashAlgo`, `outputHashMode`), and a derivation only when it is the
 * package that was asked for: elsewhere its tree is a source. A merge with a part that may name store paths has the output path of
 * any build; its references are found in its bytes.
 */
import { createHash } from 'node:crypto';
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { canonicalJson } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { usualPriority } from '../flake/manifest-model.ts';
import type { Derivation, DerivationDraft } from '../formats/derivation.ts';
import type { NarHash } from '../formats/hash.ts';
import { NarHasher, type Tree } from '../formats/nar.ts';
import { hashPartLength, parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import { tee } from '../formats/tree-sinks.ts';
import type { Store } from '../store/store.ts';
import { restoreTree } from '../store/tree-files.ts';
import { fixedOutputDerivation, fixedOutputOf, registerFixedOutput } from './fixed-output.ts';
import { type FolderNode, sameContent, scan, treeOf } from './folder.ts';
import { takeOutputs } from './outputs.ts';

export const mergeBuilder = 'builtin:flk-merge';

export interface MergePart {
  /** As the author wrote it; for errors. */
  readonly label: string;
  /** In the store, maybe below a store path. */
  readonly path: string;
  /** Of two parts that differ at one place, the lower wins. Undefined: the usual. */
  readonly priority?: number;
}

type Links = ReadonlyMap<string, string>;
type Folder = FolderNode & { kind: 'directory' };

/** Of all that a merge of built packages holds. */
const maxBytes = 32 * 2 ** 30;

/** What a merge is known by: equal keys give equal trees. */
export function mergeKey(parts: readonly MergePart[], links: Links): string {
  const priorities = prioritiesOf(parts);
  const text = canonicalJson({
    parts: parts.map((part) => part.path),
    links: [...links].sort(),
    ...(priorities === undefined ? {} : { priorities }),
  });
  return `merge-1-${createHash('sha256').update(text).digest('hex')}`;
}

/** Undefined where all are the usual. */
function prioritiesOf(parts: readonly MergePart[]): string | undefined {
  const priorities = parts.map(priorityOf);
  return priorities.every((priority) => priority === usualPriority) ? undefined : priorities.join(' ');
}

const priorityOf = ({ priority = usualPriority }: MergePart): number => priority;

/** The merged tree. The parts must be valid in the store. Throws FLK_PACKAGE_INVALID naming the place and both parts. */
export function mergedTree(store: Store, parts: readonly MergePart[], links: Links): Tree {
  const merge = new Merge(parts);
  // Who wins comes first; the others fill in what is not there.
  for (const part of [...parts].sort((a, b) => priorityOf(a) - priorityOf(b))) {
    const node = scan(physicalPart(store, part), part.label);
    if (node.kind !== 'directory') {
      throw new FlkError(
        'FLK_PACKAGE_INVALID',
        `${part.label} is a single file: only folders can be merged`,
        {
          hint: 'unpack: true, if it is an archive',
        },
      );
    }
    merge.add(node);
  }
  merge.add(linkFolder(links));
  return treeOf(merge.root);
}

type MergeInputs = Pick<Derivation, 'inputDrvs' | 'inputSrcs'>;

/** The derivation of a merge that gives the tree with this NAR hash. `inputs` are what makes or holds the parts. */
export function mergeDerivation(
  name: string,
  hash: NarHash,
  parts: readonly MergePart[],
  links: Links,
  inputs: MergeInputs,
): ReturnType<typeof fixedOutputDerivation> {
  return fixedOutputDerivation({
    name,
    builder: mergeBuilder,
    hash,
    recursive: true,
    env: new Map(variablesOf(parts, links)),
    inputDrvs: inputs.inputDrvs,
    inputSrcs: inputs.inputSrcs,
  });
}

/** The derivation of a merge whose tree is not known before its parts are there. */
export function mergeDraft(
  name: string,
  parts: readonly MergePart[],
  links: Links,
  inputs: MergeInputs,
): DerivationDraft {
  return {
    outputs: new Map([['out', { hashAlgo: '', hash: '' }]]),
    inputDrvs: inputs.inputDrvs,
    inputSrcs: inputs.inputSrcs,
    system: 'builtin',
    builder: mergeBuilder,
    args: [],
    env: new Map([
      ...variablesOf(parts, links),
      ['name', name],
      ['system', 'builtin'],
      ['builder', mergeBuilder],
    ]),
  };
}

function variablesOf(parts: readonly MergePart[], links: Links): [string, string][] {
  const priorities = prioritiesOf(parts);
  return [
    ['parts', parts.map((part) => part.path).join(' ')],
    ['links', JSON.stringify(Object.fromEntries(links))],
    ...(priorities === undefined ? [] : [['priorities', priorities] satisfies [string, string]]),
  ];
}

/** Makes the output valid; see `runBuiltin`. */
export async function runMerge(
  drvPath: StorePath,
  derivation: Derivation,
  store: Store,
  signal?: AbortSignal,
): Promise<void> {
  const { parts, links } = readVariables(drvPath, derivation);
  const stage = await store.stage();
  try {
    const staged = join(stage.path, 'tree');
    const hasher = new NarHasher();
    const writer = restoreTree(staged);
    await mergedTree(store, parts, links)
      .walk(tee(writer, hasher), signal)
      .finally(() => writer.close());
    if (derivation.outputs.get('out')?.hash === '') {
      const closure = store.closure(parts.map(storePathOf));
      await store.register(
        await takeOutputs(new Map([['out', staged]]), {
          drvPath,
          derivation,
          closure,
          maxBytes,
          ultimate: true,
          ...(signal ? { signal } : {}),
        }),
      );
      return;
    }
    const { output, hash } = fixedOutputOf(drvPath, derivation);
    const found = hasher.digest().narHash;
    if (found !== hash) {
      throw new FlkError('FLK_STORE_CORRUPT', `merging for ${output.path} gave another tree`, {
        facts: { found, wanted: hash },
      });
    }
    await registerFixedOutput(store, output, staged, signal);
  } finally {
    await stage.dispose();
  }
}

function readVariables(drvPath: StorePath, { env }: Derivation): { parts: MergePart[]; links: Links } {
  const words = (name: string): string[] => (env.get(name) ?? '').split(' ').filter((word) => word !== '');
  const priorities = words('priorities').map(Number);
  const parts = words('parts').map((path, i) => ({
    label: path,
    path,
    priority: priorities[i] ?? usualPriority,
  }));
  const links: unknown = JSON.parse(env.get('links') ?? '{}');
  const isFine =
    priorities.every(Number.isInteger) &&
    Object.values(Object(links)).every((target) => typeof target === 'string');
  if (!isFine) throw new FlkError('FLK_DERIVATION_INVALID', `${drvPath} is no merge that flk can make`);
  return { parts, links: new Map(Object.entries(Object(links) as Record<string, string>)) };
}

const storePathOf = ({ path }: MergePart): StorePath =>
  parseStorePath(
    path
      .split('/')
      .slice(0, storeDir.split('/').length + 1)
      .join('/'),
  );

/** Where a part lies on disk. No symlink on the way is followed: it could lead out of the store. */
function physicalPart(store: Store, part: MergePart): string {
  const path = storePathOf(part);
  const below = part.path
    .slice(path.length)
    .split('/')
    .filter((name) => name !== '');
  let place = store.physical(path);
  for (const name of below) {
    const info = lstatSync(join(place, name), { throwIfNoEntry: false });
    if (!info?.isDirectory()) {
      throw new FlkError('FLK_PACKAGE_INVALID', `${part.label} is not a folder of its source`);
    }
    place = join(place, name);
  }
  return place;
}

class Merge {
  readonly root: Folder = { kind: 'directory', entries: new Map(), origin: '' };
  readonly #priorities: ReadonlyMap<string, number>;

  constructor(parts: readonly MergePart[]) {
    this.#priorities = new Map(parts.map((part) => [part.label, priorityOf(part)]));
  }

  add(part: Folder): void {
    this.#unite(this.root, part, []);
  }

  /** Puts what is in `part` into `into`, which lies at `path`. */
  #unite(into: Folder, part: Folder, path: readonly string[]): void {
    for (const [name, node] of part.entries) this.#put(into, name, node, path);
  }

  #put(into: Folder, name: string, node: FolderNode, path: readonly string[]): void {
    const there = into.entries.get(name);
    const place = [...path, name];
    if (there === undefined) {
      into.entries.set(name, node.kind === 'directory' ? { ...node, entries: new Map() } : node);
      if (node.kind === 'directory') this.#unite(into.entries.get(name) as Folder, node, place);
    } else if (there.kind === 'directory' && node.kind === 'directory') {
      this.#unite(there, node, place);
    } else if (there.kind === 'file' && node.kind === 'file') {
      if (there.executable !== node.executable || !sameContent(there, node))
        this.#assertBefore(place, there, node);
    } else if (there.kind === 'symlink' && node.kind === 'symlink') {
      if (!there.target.equals(node.target)) this.#assertBefore(place, there, node);
    } else if (there.kind === 'symlink' && node.kind === 'directory') {
      const target = this.#follow(there, place, node);
      this.#unite(target.folder, node, target.path);
    } else if (there.kind === 'directory' && node.kind === 'symlink') {
      into.entries.set(name, node);
      const target = this.#follow(node, place, there);
      this.#unite(target.folder, there, target.path);
    } else {
      this.#assertBefore(place, there, node);
    }
  }

  /** What is there came from a part that wins; throws when it did not. The author's own links win over nothing: they are an error. */
  #assertBefore(place: readonly string[], there: FolderNode, node: FolderNode): void {
    const [first, second] = [there, node].map(({ origin }) => this.#priorities.get(origin));
    if (first === undefined || second === undefined || first >= second) throw collision(place, there, node);
  }

  /**
   * The folder to which the link at `place` leads, made where it is missing. An absolute link counts from the tree's top: that is
   * what it means once the tree is a root file system.
   */
  #follow(
    link: FolderNode & { kind: 'symlink' },
    place: readonly string[],
    folder: Folder,
  ): { folder: Folder; path: string[] } {
    let steps = 0;
    const walk = (from: readonly string[], target: Buffer): string[] => {
      if (++steps > 40) throw collision(place, link, folder);
      const text = target.toString('latin1');
      let path = text.startsWith('/') ? [] : [...from];
      for (const part of text.split('/')) {
        if (part === '' || part === '.') continue;
        if (part === '..') {
          if (path.length === 0) throw collision(place, link, folder);
          path.pop();
          continue;
        }
        const node = this.#at(path).entries.get(part);
        if (node?.kind === 'file') throw collision(place, link, folder);
        if (node?.kind === 'symlink') path = walk(path, node.target);
        else {
          if (node === undefined) {
            this.#at(path).entries.set(part, {
              kind: 'directory',
              entries: new Map(),
              origin: folder.origin,
            });
          }
          path = [...path, part];
        }
      }
      return path;
    };
    const path = walk(place.slice(0, -1), link.target);
    return { folder: this.#at(path), path };
  }

  /** A path that `#follow` has walked: folders all the way. */
  #at(path: readonly string[]): Folder {
    return path.reduce<Folder>((folder, name) => folder.entries.get(name) as Folder, this.root);
  }
}

/** The links as one more part. */
function linkFolder(links: Links): Folder {
  const top: Folder = { kind: 'directory', entries: new Map(), origin: 'links' };
  for (const [path, target] of links) {
    const names = path.split('/').map((name) => Buffer.from(name).toString('latin1'));
    if (names.some((name) => name === '' || name === '.' || name === '..')) {
      throw new FlkError('FLK_PACKAGE_INVALID', `links: ${path} is no path inside the tree`);
    }
    let folder = top;
    for (const name of names.slice(0, -1)) {
      const next = folder.entries.get(name) ?? { kind: 'directory', entries: new Map(), origin: 'links' };
      if (next.kind !== 'directory')
        throw new FlkError('FLK_PACKAGE_INVALID', `links: ${path} lies below a link`);
      folder.entries.set(name, next);
      folder = next;
    }
    if (folder.entries.has(names.at(-1)!)) {
      throw new FlkError('FLK_PACKAGE_INVALID', `links: ${path} is a link and a folder`);
    }
    folder.entries.set(names.at(-1)!, { kind: 'symlink', target: Buffer.from(target), origin: 'links' });
  }
  return top;
}

function collision(path: readonly string[], a: FolderNode, b: FolderNode): FlkError {
  const place = Buffer.from(path.join('/'), 'latin1').toString();
  const [one, other] = [shownOrigin(a), shownOrigin(b)];
  const isClear = one !== other;
  const [first, second] = isClear ? [one, other] : [a.origin, b.origin];
  return new FlkError('FLK_PACKAGE_INVALID', `${first} and ${second} both have ${place}, and it differs`, {
    facts: { [first]: describe(a), [second]: describe(b) },
    hint: `in merge, { ref: …, priority: ${usualPriority - 1} } in place of a reference lets that part win`,
  });
}

/** Of a part that a derivation knows by its path alone, what a person knows it by. */
function shownOrigin({ origin }: FolderNode): string {
  const isPath = origin.startsWith(`${storeDir}/`);
  return isPath ? origin.slice(storeDir.length + hashPartLength + 2) : origin;
}

function describe(node: FolderNode): string {
  if (node.kind === 'file') return `${node.executable ? 'executable' : 'file'}, ${node.size} bytes`;
  return node.kind === 'symlink' ? `link to ${node.target}` : 'folder';
}
