/** The flakes of a locked graph: which one an input is, where its tree lies, what its manifest says. Nothing here is resolved anew. */
import type { SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { LockGraph, printInputPath } from '../flake/graph.ts';
import type { LockFile, LockNode } from '../flake/lock-file.ts';
import { decodeManifest, type InputPath, type Manifest } from '../flake/manifest.ts';
import type { Source, SourceTree, WorkingFiles } from '../flake/source.ts';
import type { NarHash } from '../formats/hash.ts';
import { makeSourcePath, type StorePath } from '../formats/store-path.ts';

/** The flake whose lock it is, as it lies here: its tree may differ from any commit. */
interface RootFlake {
  readonly manifest: Manifest;
  readonly tree: SourceTree | WorkingFiles;
  /** The folder of flake.yaml in the tree; no slash at its ends, empty for the top. */
  readonly dir: string;
}

export interface LockedFlakesContext {
  readonly lock: LockFile;
  readonly root: RootFlake;
  readonly source: Source;
  readonly parseManifest: (file: SourceFile) => Manifest;
}

export interface LockedFlake {
  /** Its node in the lock: equal for two inputs that are the same flake. */
  readonly key: string;
  /** The way to it from the root. Of several ways, the one first gone. */
  readonly path: InputPath;
  /** The same as text, `greet/base`; empty for the root. */
  readonly label: string;
  /** The flake's (or, for `flake: false`, the source's) folder in the tree; no slash at its ends. */
  readonly dir: string;
  /** The whole tree, of which the flake may be a part, as a store path; known without having it, but for a working tree's. */
  source(): Promise<LockedSource>;
  tree(): Promise<SourceTree | WorkingFiles>;
  /** Throws FLK_PACKAGE_INVALID for inputs that have none, and FLK_MANIFEST_…. */
  manifest(): Promise<Manifest>;
}

interface LockedSource {
  readonly path: StorePath;
  readonly narHash: NarHash;
}

export class LockedFlakes {
  readonly root: LockedFlake;
  readonly #context: LockedFlakesContext;
  readonly #graph: LockGraph;
  readonly #flakes = new Map<string, LockedFlake>();

  constructor(context: LockedFlakesContext) {
    this.#context = context;
    this.#graph = new LockGraph(context.lock);
    const { manifest, tree, dir } = context.root;
    this.root = {
      key: context.lock.root,
      path: [],
      label: '',
      dir,
      source: async () => sourceOf(isHashed(tree) ? tree.narHash : (await tree.hashed()).narHash),
      tree: async () => tree,
      manifest: async () => manifest,
    };
    this.#flakes.set(context.lock.root, this.root);
  }

  /** The flake that is reached from another one over its inputs. Throws FLK_INPUT_UNKNOWN, FLK_LOCK_STALE, FLK_LOCK_INVALID. */
  input(from: LockedFlake, inputs: InputPath): LockedFlake {
    const { lock, root } = this.#context;
    const [first] = inputs;
    if (first === undefined) return from;
    const path = [...from.path, ...inputs];
    if (
      path.length === inputs.length &&
      !this.#graph.node(lock.root).inputs.has(first) &&
      root.manifest.inputs.has(first)
    ) {
      throw new FlkError('FLK_LOCK_STALE', `flake.lock does not have the input ${first}`);
    }
    return this.#flake(this.#graph.find(path), path);
  }

  #flake(key: string, path: InputPath): LockedFlake {
    const known = this.#flakes.get(key);
    if (known !== undefined) return known;
    const label = printInputPath(path);
    const place = this.#place(key, label);
    let manifest: Promise<Manifest> | undefined;
    const flake: LockedFlake = {
      key,
      path,
      label,
      ...place,
      manifest: () => {
        manifest ??= this.#manifest(this.#graph.node(key), flake);
        return manifest;
      },
    };
    this.#flakes.set(key, flake);
    return flake;
  }

  #place(key: string, label: string): Pick<LockedFlake, 'source' | 'dir' | 'tree'> {
    const { locked, parent } = this.#graph.node(key);
    if (locked === undefined) throw new FlkError('FLK_LOCK_INVALID', `flake.lock does not pin ${label}`);
    if (parent !== undefined && locked.type === 'path') {
      // A part of another input's tree, named from that flake's folder.
      const owner = this.input(this.root, parent);
      const dir = insideOf(owner.dir, [locked.path, locked.dir ?? ''], label);
      return { source: owner.source, dir, tree: owner.tree };
    }
    const { narHash } = locked;
    if (narHash === undefined) {
      throw new FlkError('FLK_LOCK_INVALID', `flake.lock has no narHash for ${label}`);
    }
    let tree: Promise<SourceTree> | undefined;
    return {
      source: async () => sourceOf(narHash),
      dir: insideOf('', [locked.dir ?? ''], label),
      tree: () => {
        tree ??= this.#context.source.fetch(locked).then((fetched) => fetched.tree);
        return tree;
      },
    };
  }

  async #manifest(node: LockNode, { label, dir, tree }: LockedFlake): Promise<Manifest> {
    if (!node.flake) {
      throw new FlkError(
        'FLK_PACKAGE_INVALID',
        `${label} is an input with flake: false: it has no packages`,
        {
          hint: `its source is {{${label}}}, or src: ${label}`,
        },
      );
    }
    const files = await tree();
    const prefix = dir === '' ? '' : `${dir}/`;
    const text = await files.readFile(`${prefix}flake.yaml`);
    if (text !== undefined) {
      return this.#context.parseManifest(decodeManifest(`${label}/flake.yaml`, text));
    }
    if ((await files.readFile(`${prefix}flake.nix`)) !== undefined) {
      throw new FlkError(
        'FLK_PACKAGE_INVALID',
        `${label} is a flake with a flake.nix: flk gives its source, not yet its packages`,
        { hint: `its source is {{${label}}}, or src: ${label}` },
      );
    }
    throw new FlkError('FLK_MANIFEST_MISSING', `the input ${label} has no flake.yaml`, {
      hint: 'an input that is only files takes flake: false',
    });
  }
}

/** Whether the tree is known as a whole. */
export const isHashed = (tree: SourceTree | WorkingFiles): tree is SourceTree => 'narHash' in tree;

const sourceOf = (narHash: NarHash): LockedSource => ({ path: makeSourcePath('source', narHash), narHash });

/** Joins folders and resolves `.` and `..`; what leads out of the tree is FLK_LOCK_INVALID. */
function insideOf(start: string, steps: readonly string[], label: string): string {
  const parts: string[] = [];
  for (const part of [start, ...steps].join('/').split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.pop() === undefined) {
      throw new FlkError('FLK_LOCK_INVALID', `flake.lock leads ${label} out of the tree it lies in`);
    }
  }
  return parts.join('/');
}
