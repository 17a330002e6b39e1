/**
 * Our rules, for a root that is a `flake.yaml`. They begin with those of Nix's locker:
 *
 * - A pin is kept while its input is declared as it was; what stands below a kept pin is copied without looking at the flake.
 * - A flake that has to be read brings its own `flake.lock`, whose pins its inputs keep.
 * - Overrides reach down from the flake that declares them; the outermost wins. `follows` are paths from the root.
 * - A kept flake is read again only where the lock cannot tell: an override is gone or new, or something below is updated.
 *
 * Beyond Nix: an update moves the inputs named and nothing below them that still fits (`Pins`), relative inputs in the tree at hand
 * are read every time, inputs in groups stay with the flake that declares them, and a tag is kept while it fits its range.
 * Flakes are fetched in parallel; what comes out depends on names alone, never on who answers first.
 */
import { FlkError } from '../base/errors.ts';
import { type FlakeFolder, fetchedFolder, lockIn, relativeFolder } from './flake-folder.ts';
import { checkReach, FlakeReader, locationOf } from './flake-reader.ts';
import { type FlakeRef, isRelativePath, sameRef } from './flake-ref.ts';
import { comparePaths, printInputPath, startsWith } from './graph.ts';
import { emptyLock, type FlkFacts, type LockFile, lockLimits } from './lock-file.ts';
import type { FlakeManifest, InputDeclaration } from './manifest-model.ts';
import type { InputPath } from './package-ref.ts';
import { Pin, Pins, type Wanted } from './pins.ts';
import {
  type Draft,
  type DraftEdge,
  lockSideBySide,
  type Resolution,
  type ResolutionOptions,
  Visits,
} from './resolution.ts';

interface Override {
  readonly declaration: Pick<InputDeclaration, 'ref' | 'version' | 'tag' | 'follows'>;
  /** The flake that declares it; undefined for the command line. */
  readonly declarer: Frame | undefined;
}

interface Asked {
  readonly ref: FlakeRef;
  readonly version?: string;
}

/** A flake whose inputs are being computed. */
interface Frame {
  readonly path: InputPath;
  readonly above: Frame | undefined;
  /** As it is asked for, and where it was found as far as that is known: what tells a flake that comes again below itself. */
  readonly asked?: Asked;
  location?: string;
  /** In the tree at hand, which may change without a revision changing. */
  readonly atHand: boolean;
  readonly folder: () => Promise<FlakeFolder>;
}

export class YamlResolution implements Resolution {
  readonly #options: ResolutionOptions;
  readonly #overrides = new Map<string, Override>();
  /** Path of a flake → names of its inputs that are overridden from above. */
  readonly #overridden = new Map<string, Set<string>>();
  readonly #usedOverrides = new Set<string>();
  readonly #updates: ReadonlySet<string>;
  readonly #aboveUpdates = new Set<string>();
  readonly #visits = new Visits();
  readonly #reader: FlakeReader;

  constructor(options: ResolutionOptions) {
    this.#options = options;
    const { source, readManifest } = options;
    this.#reader = new FlakeReader({ source, readManifest, preferred: 'yaml' });
    this.#updates = new Set(options.updates.map(printInputPath));
    for (const path of options.updates)
      for (let length = 1; length < path.length; length++)
        this.#aboveUpdates.add(printInputPath(path.slice(0, length)));
    for (const [path, ref] of options.overrides)
      this.#addOverride(path.split('/'), { declaration: { ref }, declarer: undefined });
  }

  async run(): Promise<Draft> {
    const { manifest, previous = emptyLock, readRelative, walkRelative, rootDir } = this.#options;
    const folder: FlakeFolder = {
      readFile: readRelative,
      walk: walkRelative,
      dir: rootDir,
      name: '',
      treeKey: 'root',
      remote: false,
    };
    const frame: Frame = {
      path: [],
      above: undefined,
      location: locationOf(folder),
      atHand: true,
      folder: async () => folder,
    };
    const root: Draft = { flake: true, inputs: new Map() };
    const pins = new Pins(Pin.root(previous, []), undefined);
    await this.#lockInputs(this.#declared(manifest, frame), root, frame, pins, false);
    return root;
  }

  get visited(): ReadonlyMap<string, DraftEdge['kind']> {
    return this.#visits.all;
  }

  /** None: they are read every time. */
  async outdated(): Promise<readonly InputPath[]> {
    return [];
  }

  /** Those of the root and of the command line: what a dependency says is its author's care. */
  unusedOverrides(): readonly InputPath[] {
    return [...this.#overrides]
      .filter(
        ([key, { declarer }]) => !this.#usedOverrides.has(key) && (!declarer || declarer.path.length === 0),
      )
      .map(([key]) => key.split('/'))
      .sort(comparePaths);
  }

  /** The inputs that a manifest declares; its overrides are noted on the way. */
  #declared(manifest: FlakeManifest, frame: Frame): Map<string, Wanted> {
    const wanted = new Map<string, Wanted>();
    for (const [name, declaration] of manifest.inputs) {
      if (frame.path.length > 0 && declaration.groups.length > 0) continue;
      const { ref, version, tag, flake } = declaration;
      this.#noteOverrides(declaration, [...frame.path, name], frame);
      wanted.set(name, {
        ...given({ ref, version, tag }),
        ...(declaration.follows && { follows: [...frame.path, ...declaration.follows] }),
        flake,
        parent: frame.path,
        copied: false,
      });
    }
    return wanted;
  }

  #noteOverrides(declaration: InputDeclaration, path: InputPath, declarer: Frame): void {
    for (const [name, inner] of declaration.inputs) {
      const innerPath = [...path, name];
      if (inner.ref ?? inner.follows ?? inner.version)
        this.#addOverride(innerPath, { declaration: inner, declarer });
      this.#noteOverrides(inner, innerPath, declarer);
    }
  }

  #addOverride(path: InputPath, override: Override): void {
    const key = printInputPath(path);
    // Flakes are read from the root downwards: whoever came first stands further out.
    if (this.#overrides.has(key)) return;
    this.#overrides.set(key, override);
    const flake = printInputPath(path.slice(0, -1));
    const names = this.#overridden.get(flake) ?? new Set();
    this.#overridden.set(flake, names.add(path.at(-1) ?? ''));
  }

  async #lockInputs(
    inputs: ReadonlyMap<string, Wanted>,
    draft: Draft,
    frame: Frame,
    pins: Pins,
    copying: boolean,
  ): Promise<void> {
    await lockSideBySide(
      inputs.keys(),
      (name) => this.#lockInput(name, inputs.get(name)!, frame, pins, copying),
      { draft, path: frame.path, root: this.#options.manifest },
    );
  }

  async #lockInput(
    name: string,
    declared: Wanted,
    frame: Frame,
    pins: Pins,
    copying: boolean,
  ): Promise<DraftEdge> {
    const path = [...frame.path, name];
    const key = printInputPath(path);
    const override = this.#overrides.get(key);
    if (override) this.#usedOverrides.add(key);
    const wanted = override ? overridden(declared, override) : declared;
    this.#visits.add(path, wanted.follows ? 'follows' : 'node');
    if (wanted.follows) return { kind: 'follows', path: wanted.follows };
    if (!wanted.ref)
      throw new FlkError('FLK_MANIFEST_INVALID', `input ‘${key}’ says neither url nor follows`, {
        hint: 'give it a url',
      });
    const forced = override !== undefined && override.declarer === undefined;
    const kept = forced || this.#updates.has(key) ? undefined : await pins.keep(name, wanted);
    if (kept) return { kind: 'node', node: await this.#keep(path, wanted, kept, frame, copying) };
    const original = forced ? (declared.ref ?? wanted.ref) : wanted.ref;
    const facts = forced && declared.version !== undefined ? { version: declared.version } : undefined;
    const node = await this.#renew(path, { ...wanted, ref: wanted.ref }, original, facts, frame, pins);
    return { kind: 'node', node };
  }

  /** An input whose pin stays. */
  async #keep(
    path: InputPath,
    wanted: Wanted,
    { pin, below }: { pin: Pin; below: Pins },
    above: Frame,
    copying: boolean,
  ): Promise<Draft> {
    const { original, locked, flk } = pin.node;
    if (!original || !locked)
      throw new FlkError('FLK_INTERNAL', `the node of ‘${printInputPath(path)}’ has no reference`);
    const tag = pin.tagName;
    const facts: FlkFacts | undefined =
      wanted.version === undefined || wanted.copied
        ? flk
        : flk?.tag === undefined && flk?.version === wanted.version
          ? flk
          : { version: wanted.version, ...given({ tag }) };
    const relative = isRelativePath(original) ? original : undefined;
    const draft = draftOf(wanted, { original, locked }, relative !== undefined, facts);
    if (!wanted.flake) return draft;
    const from = relative && frameAt(above, wanted.parent);
    const frame: Frame = {
      path,
      above,
      asked: { ref: original, ...given({ version: wanted.version }) },
      atHand: from?.atHand ?? false,
      folder: once(async () =>
        relative && from
          ? relativeFolder(await from.folder(), relative)
          : fetchedFolder(await this.#reader.fetch(locked)),
      ),
    };
    const mustRead =
      frame.atHand ||
      !pin.node.flake ||
      this.#aboveUpdates.has(printInputPath(path)) ||
      (!copying && this.#cannotTell(pin, path));
    if (mustRead && (frame.atHand || this.#options.source)) {
      const folder = await frame.folder();
      frame.location = locationOf(folder);
      const { manifest, lock } = await this.#reader.read(folder);
      // An input that the lock does not know yet takes the pin of the flake's own lock.
      const own = lock && Pin.root(lock, path);
      const pins = new Pins(below.ours ?? pin, own, async () => own);
      await this.#lockInputs(this.#declared(manifest, frame), draft, frame, pins, false);
      return draft;
    }
    if (mustRead) this.#options.onUnknown?.({ path, kind: 'flake', ref: original });
    await this.#lockInputs(new Map(pin.inputs(path)), draft, frame, below, true);
    return draft;
  }

  /**
   * Whether a kept flake's manifest has to be read, because the lock holds what no override accounts for any more, or because
   * an override meets a `follows`, so that the lock does not say whether the input is a flake. A `follows` that stays within
   * the kept flake may be its own, and counts as such.
   */
  #cannotTell(top: Pin, topPath: InputPath): boolean {
    let seen = 0;
    const search = (pin: Pin, path: InputPath): boolean => {
      for (const [name, wanted] of pin.inputs(path)) {
        if (++seen > lockLimits.nodes || path.length > lockLimits.depth) return true;
        const override = this.#overrides.get(printInputPath([...path, name]))?.declaration;
        if (override?.follows) continue;
        if (wanted.follows) {
          if (override || !startsWith(wanted.follows, topPath)) return true;
          continue;
        }
        if (override) continue;
        if (wanted.ref && isRelativePath(wanted.ref) && !startsWith(wanted.parent, topPath)) return true;
        const child = pin.child(name);
        if (child && search(child, [...path, name])) return true;
      }
      return false;
    };
    return search(top, topPath);
  }

  /** An input that is new, declared anew, overridden by hand or updated. */
  async #renew(
    path: InputPath,
    wanted: Wanted & { readonly ref: FlakeRef },
    original: FlakeRef,
    forcedFacts: FlkFacts | undefined,
    above: Frame,
    pins: Pins,
  ): Promise<Draft> {
    const { ref, version } = wanted;
    const relative = isRelativePath(ref) ? ref : undefined;
    const from = frameAt(above, wanted.parent);
    const asked: Asked = { ref, ...given({ version }) };
    // A relative path says something else in every flake: its folder tells.
    if (!relative)
      this.#checkCycle(path, above, (frame) => frame.asked !== undefined && sameAsked(frame.asked, asked));
    const { source } = this.#options;
    const atHand = relative !== undefined && from.atHand;
    if (!source) this.#options.onUnknown?.({ path, kind: 'input', ref, ...given({ version }) });
    if (!source && !atHand) return { original, locked: ref, flake: wanted.flake, inputs: new Map() };

    let locked: FlakeRef = ref;
    let facts = forcedFacts;
    let folder: FlakeFolder;
    if (relative) folder = relativeFolder(await from.folder(), relative);
    else {
      if (from.path.length > 0) checkReach(ref, await from.folder());
      const chosen = version === undefined ? undefined : await this.#reader.choose(ref, version, wanted.tag);
      facts ??= chosen?.facts;
      const target = chosen?.ref ?? ref;
      if (wanted.flake) ({ locked, folder } = await this.#reader.flake(target));
      else {
        const fetched = await this.#reader.fetch(target);
        locked = fetched.locked;
        folder = fetchedFolder(fetched);
      }
    }
    const draft = draftOf(wanted, { original, locked }, relative !== undefined, facts);
    if (!wanted.flake) return draft;
    const location = locationOf(folder);
    this.#checkCycle(path, above, (frame) => frame.location === location);
    const frame: Frame = {
      path,
      above,
      asked,
      location,
      atHand,
      folder: async () => folder,
    };
    const { manifest, lock } = await this.#reader.read(folder);
    const below = this.#pinsBelow(path, lock, pins);
    await this.#lockInputs(this.#declared(manifest, frame), draft, frame, below, false);
    return draft;
  }

  /** For the inputs of a moved flake: its own lock's, and what the lock at hand has there. */
  #pinsBelow(path: InputPath, lock: LockFile | undefined, pins: Pins): Pins {
    const theirs = lock && Pin.root(lock, path);
    const ours = this.#options.deep ? undefined : pins.ours?.child(path.at(-1) ?? '');
    if (!ours) return new Pins(undefined, theirs);
    const base = once(async () => {
      const { locked } = ours.node;
      if (!locked || isRelativePath(locked)) return theirs;
      // A revision that is gone has no say.
      const old = await this.#reader
        .fetch(locked)
        .then(fetchedFolder)
        .then(lockIn)
        .catch(() => undefined);
      return old && Pin.root(old, path);
    });
    return new Pins(ours, theirs, base);
  }

  #checkCycle(path: InputPath, above: Frame, isSame: (frame: Frame) => boolean): void {
    for (let frame: Frame | undefined = above; frame; frame = frame.above) {
      if (!isSame(frame)) continue;
      const start = frame.path.length;
      const steps = path.slice(start).map((_, index) => printInputPath(path.slice(0, start + index + 1)));
      throw new FlkError(
        'FLK_INPUT_CYCLE',
        `${start === 0 ? 'this flake' : `input ‘${printInputPath(frame.path)}’`} is an input of itself: ${[
          start === 0 ? 'this flake' : printInputPath(frame.path),
          ...steps,
        ].join(' → ')}`,
        { hint: 'break the circle: let one of them follow, or be flake: false' },
      );
    }
  }
}

function overridden(declared: Wanted, { declaration, declarer }: Override): Wanted {
  const { ref, version, tag, follows } = declaration;
  const { flake, copied } = declared;
  if (follows)
    return {
      follows: [...(declarer?.path ?? []), ...follows],
      flake,
      parent: declared.parent,
      copied: false,
    };
  if (ref) return { ref, ...given({ version, tag }), flake, parent: declarer?.path ?? [], copied: false };
  // Only a range: over the tags of what is declared.
  return { ...declared, ...given({ version, tag }), copied: copied && version === undefined };
}

/** An input's node, whose own inputs are still to come. What its path is relative to is told of a relative one alone. */
function draftOf(
  { flake, parent }: Wanted,
  refs: { readonly original: FlakeRef; readonly locked: FlakeRef },
  relative: boolean,
  flk: FlkFacts | undefined,
): Draft {
  return { ...refs, flake, ...(relative && { parent }), ...(flk && { flk }), inputs: new Map() };
}

function frameAt(from: Frame, path: InputPath): Frame {
  let frame: Frame = from;
  while (frame.path.length > path.length && frame.above) frame = frame.above;
  return frame;
}

function sameAsked(a: Asked, b: Asked): boolean {
  return a.version === b.version && sameRef(a.ref, b.ref);
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

/** Without the entries that are undefined. */
function given<T extends object>(entries: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
