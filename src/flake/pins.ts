/**
 * The pins that a flake's inputs may keep. There can be two: those of the lock at hand (ours), and those of the flake's own
 * `flake.lock` (theirs). Where they differ, it is a three-way merge against the own lock that the flake had when ours were made.
 */
import { type FlakeRef, isRelativePath, sameRef } from './flake-ref.ts';
import { startsWith } from './graph.ts';
import type { LockFile, LockNode } from './lock-file.ts';
import type { InputPath } from './package-ref.ts';

/** An input as someone asks for it: a manifest, an override, or a lock out of which it is copied. */
export interface Wanted {
  readonly ref?: FlakeRef;
  readonly version?: string;
  readonly tag?: string;
  /** From the root. */
  readonly follows?: InputPath;
  readonly flake: boolean;
  /** The path of the flake whose folder a relative `ref` starts from. */
  readonly parent: InputPath;
  /** Out of a lock: what the manifest says of versions is not known, so what is locked counts as right. */
  readonly copied: boolean;
}

/** A node of some lock, seen from the root of the graph that is being made. */
export class Pin {
  readonly #lock: LockFile;
  readonly node: LockNode;
  /** Where that lock's own root stands in the new graph. */
  readonly #prefix: InputPath;

  constructor(lock: LockFile, key: string, prefix: InputPath) {
    this.#lock = lock;
    // A lock's edges lead to its nodes: `parseLockFile` and the locker see to that.
    this.node = lock.nodes.get(key)!;
    this.#prefix = prefix;
  }

  static root(lock: LockFile, prefix: InputPath): Pin {
    return new Pin(lock, lock.root, prefix);
  }

  child(name: string): Pin | undefined {
    const edge = this.node.inputs.get(name);
    return edge?.kind === 'node' ? new Pin(this.#lock, edge.key, this.#prefix) : undefined;
  }

  get parent(): InputPath | undefined {
    return this.node.parent && [...this.#prefix, ...this.node.parent];
  }

  /** The node's inputs, as the lock has them; `path` is where the node stands. */
  *inputs(path: InputPath): Iterable<[name: string, wanted: Wanted]> {
    for (const [name, edge] of this.node.inputs) {
      if (edge.kind === 'follows') {
        const follows = [...this.#prefix, ...edge.path];
        yield [name, { follows, flake: true, parent: path, copied: true }];
        continue;
      }
      const child = new Pin(this.#lock, edge.key, this.#prefix);
      const { original, flake, flk } = child.node;
      yield [
        name,
        {
          ...(original === undefined ? {} : { ref: original }),
          ...(flk?.version === undefined ? {} : { version: flk.version }),
          flake,
          // Locks older than `parent` leave it out.
          parent: child.parent ?? path,
          copied: true,
        },
      ];
    }
  }

  /** Whether it may stand for what is wanted. */
  async fits(wanted: Wanted): Promise<boolean> {
    const { original } = this.node;
    if (!original || !wanted.ref || !sameRef(original, wanted.ref)) return false;
    if (isRelativePath(wanted.ref)) {
      const { parent } = this;
      if (parent === undefined || !samePath(parent, wanted.parent)) return false;
    }
    return this.fitsVersion(wanted);
  }

  /** Whether it stands at a tag in the range that is wanted, or at none where none is wanted. */
  async fitsVersion({ version, tag, copied }: Wanted): Promise<boolean> {
    const { flk } = this.node;
    if (version === undefined) return flk?.version === undefined;
    if (copied && flk?.version === version) return true;
    const locked = this.tagName;
    if (locked === undefined) return false;
    if (flk?.version === version && hasShape(locked, tag)) return true;
    const { tagSatisfies } = await import('./semver-selection.ts');
    return tagSatisfies(locked, version, tag);
  }

  /** The tag that it stands at. When another tool has rewritten the lock, `locked.ref` still tells. */
  get tagName(): string | undefined {
    const { flk, locked } = this.node;
    if (flk?.tag !== undefined) return flk.tag;
    const ref = locked?.type === 'git' ? locked.ref : undefined;
    return ref?.startsWith('refs/tags/') ? ref.slice('refs/tags/'.length) : undefined;
  }
}

/** Without reading the version: enough where the range has not changed. */
function hasShape(name: string, shape: string | undefined): boolean {
  if (shape === undefined) return /^[vV]?[0-9]/.test(name);
  const [before = '', after = ''] = shape.split('{version}');
  return name.startsWith(before) && name.endsWith(after);
}

export class Pins {
  readonly ours: Pin | undefined;
  readonly theirs: Pin | undefined;
  /** What `theirs` was when `ours` was made; asked for only where the two differ. */
  readonly #base: () => Promise<Pin | undefined>;

  constructor(
    ours: Pin | undefined,
    theirs: Pin | undefined,
    base: () => Promise<Pin | undefined> = async () => undefined,
  ) {
    this.ours = ours;
    this.theirs = theirs;
    this.#base = base;
  }

  /** The pin that an input keeps, with the pins below it. */
  async keep(name: string, wanted: Wanted): Promise<{ pin: Pin; below: Pins } | undefined> {
    const ours = await fitting(this.ours?.child(name), wanted);
    const theirs = await fitting(this.theirs?.child(name), wanted);
    if (!theirs) return ours && { pin: ours, below: new Pins(ours, undefined) };
    if (!ours) return { pin: theirs, below: new Pins(undefined, theirs) };
    const baseChild = async () => (await this.#base())?.child(name);
    if (sameLocked(ours, theirs)) return { pin: theirs, below: new Pins(ours, theirs, baseChild) };
    // The flake's own lock has moved this pin, or has not: then ours was moved on purpose.
    const base = await baseChild();
    return base && sameLocked(base, theirs)
      ? { pin: ours, below: new Pins(ours, undefined) }
      : { pin: theirs, below: new Pins(undefined, theirs) };
  }
}

export function samePath(a: InputPath, b: InputPath): boolean {
  return a.length === b.length && startsWith(a, b);
}

async function fitting(pin: Pin | undefined, wanted: Wanted): Promise<Pin | undefined> {
  return pin && (await pin.fits(wanted)) ? pin : undefined;
}

function sameLocked(a: Pin, b: Pin): boolean {
  return a.node.locked !== undefined && b.node.locked !== undefined && sameRef(a.node.locked, b.node.locked);
}
