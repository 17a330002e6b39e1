/**
 * Nix's rules, for a root that is a `flake.nix`: what `nix flake lock` of Nix 2.34 makes of it, oddities and all, since another tool
 * reads and rewrites the same file. Where they differ from ours (`yaml-resolution.ts`):
 *
 * - A pin is kept while the reference and the `parent` that was written down are the same; nothing else is compared, not `flake`.
 * - A flake that is read brings its own lock only when it is new. What it wrote down as `parent` was meant from its own root, so
 *   its relative inputs never fit and are read.
 * - A kept flake is read again where one of its inputs follows something and no override known by now says so, or where something
 *   below it is updated.
 * - What a kept flake's inputs are relative to is not known; the folder of the nearest flake that was read stands in.
 * - An input that says nothing is an indirect reference of its own name.
 */
import { FlkError } from '../base/errors.ts';
import { type FlakeFolder, relativeFolder } from './flake-folder.ts';
import { checkReach, type FetchedFlake, FlakeReader } from './flake-reader.ts';
import { type FlakeRef, isRelativePath, type PathRef, printFlakeRef, sameRef } from './flake-ref.ts';
import { comparePaths, printInputPath } from './graph.ts';
import { emptyLock, type FlkFacts, isInputName } from './lock-file.ts';
import type { FlakeManifest, InputDeclaration } from './manifest-model.ts';
import type { InputPath } from './package-ref.ts';
import { Pin, samePath, type Wanted } from './pins.ts';
import {
  type Draft,
  type DraftEdge,
  lockSideBySide,
  type Resolution,
  type ResolutionOptions,
  Visits,
} from './resolution.ts';

/** A flake that was read, and declares inputs: what their relative paths start from. */
interface Home {
  readonly path: InputPath;
  readonly folder: () => Promise<FlakeFolder>;
  /** In the tree at hand. */
  readonly atHand: boolean;
}

interface Override {
  readonly ref?: FlakeRef;
  readonly version?: string;
  readonly tag?: string;
  /** From the root. */
  readonly follows?: InputPath;
  readonly home: Home;
  /** From the command line: its relative paths have no parent, and no pin stands against it. */
  readonly forced: boolean;
}

/** A flake whose inputs are being computed. */
interface Frame {
  readonly path: InputPath;
  /** The flake itself if it was read, else the nearest above that was. */
  readonly home: Home;
  /** Its inputs are copied from a lock, whose `follows` need no second look. */
  readonly trusted: boolean;
  /** The references that the new flakes above were asked for by. */
  readonly above: readonly FlakeRef[];
}

/** An input with nothing left open. */
interface Asked {
  readonly path: InputPath;
  readonly ref: FlakeRef;
  readonly version?: string;
  readonly tag?: string;
  readonly flake: boolean;
  readonly home: Home;
  readonly parent: InputPath | undefined;
  readonly forced: boolean;
  /** What the lock calls `original`. */
  readonly original: FlakeRef;
}

export class NixResolution implements Resolution {
  readonly #options: ResolutionOptions;
  readonly #reader: FlakeReader;
  readonly #visits = new Visits();
  readonly #overrides = new Map<string, Override>();
  /** Path of a flake → names of its inputs that are overridden. */
  readonly #overridden = new Map<string, Set<string>>();
  readonly #unusedOverrides = new Map<string, InputPath>();
  readonly #updates: ReadonlySet<string>;
  readonly #aboveUpdates = new Set<string>();
  /** Relative flakes of the root's tree that were kept without a look. */
  readonly #unread: {
    readonly path: InputPath;
    readonly pin: Pin;
    readonly folder: () => Promise<FlakeFolder>;
  }[] = [];

  constructor(options: ResolutionOptions) {
    this.#options = options;
    const { source, cached, readManifest, updates } = options;
    this.#reader = new FlakeReader({ source, cached, readManifest, preferred: 'nix' });
    this.#updates = new Set(updates.map(printInputPath));
    for (const path of updates)
      for (let length = 1; length < path.length; length++)
        this.#aboveUpdates.add(printInputPath(path.slice(0, length)));
  }

  async run(): Promise<Draft> {
    const { manifest, previous = emptyLock, readRelative, walkRelative, rootDir, overrides } = this.#options;
    const folder: FlakeFolder = {
      readFile: readRelative,
      walk: walkRelative,
      dir: rootDir,
      name: '',
      treeKey: 'root',
      remote: false,
    };
    const home: Home = { path: [], folder: async () => folder, atHand: true };
    for (const [path, ref] of overrides) this.#addOverride(path.split('/'), { ref, home, forced: true });
    const root: Draft = { flake: true, inputs: new Map() };
    await this.#lockFlake(
      manifest,
      root,
      { path: [], home, trusted: false, above: [] },
      Pin.root(previous, []),
    );
    for (const [key, { forced }] of this.#overrides)
      if (forced && !this.#visits.all.has(key)) this.#unusedOverrides.set(key, key.split('/'));
    return root;
  }

  get visited(): ReadonlyMap<string, DraftEdge['kind']> {
    return this.#visits.all;
  }

  unusedOverrides(): readonly InputPath[] {
    return [...this.#unusedOverrides.values()].sort(comparePaths);
  }

  async outdated(): Promise<readonly InputPath[]> {
    const found: InputPath[] = [];
    for (const { path, pin, folder } of this.#unread) {
      const manifest = await folder()
        .then((found) => this.#reader.read(found))
        .then(
          (read) => read.manifest,
          () => undefined,
        );
      if (manifest === undefined || !this.#says(manifest, path, pin)) found.push(path);
    }
    return found.sort(comparePaths);
  }

  /** Whether the manifest declares the inputs that the pin has, as far as no override comes between. */
  #says(manifest: FlakeManifest, path: InputPath, pin: Pin): boolean {
    const pinned = new Map(pin.inputs(path));
    if (pinned.size !== manifest.inputs.size) return false;
    return [...manifest.inputs].every(([name, { ref, follows }]) => {
      const was = pinned.get(name);
      if (was === undefined) return false;
      if (this.#overrides.has(printInputPath([...path, name]))) return true;
      if (follows) return was.follows !== undefined && samePath(was.follows, [...path, ...follows]);
      return was.ref !== undefined && sameRef(was.ref, ref ?? indirect(name));
    });
  }

  /** The inputs of a flake whose manifest was read. */
  async #lockFlake(manifest: FlakeManifest, draft: Draft, frame: Frame, pin: Pin | undefined): Promise<void> {
    const inputs = new Map<string, Wanted>();
    for (const [name, declaration] of manifest.inputs) {
      const { ref, version, tag, flake } = declaration;
      if (!isInputName(name))
        throw new FlkError(
          'FLK_MANIFEST_INVALID',
          `an input in ${manifest.file.path} has a name that no path of inputs can hold`,
          {
            facts: { found: JSON.stringify(name) },
            hint: 'give it a name without slashes and control characters',
          },
        );
      this.#noteOverrides(declaration, [...frame.path, name], frame.home);
      inputs.set(name, {
        ...(ref && { ref }),
        ...(version !== undefined && { version }),
        ...(tag !== undefined && { tag }),
        ...(declaration.follows && { follows: [...frame.path, ...declaration.follows] }),
        flake,
        parent: frame.path,
        copied: false,
      });
    }
    await this.#lockInputs(inputs, draft, frame, pin);
  }

  #noteOverrides(declaration: InputDeclaration, path: InputPath, home: Home): void {
    for (const [name, inner] of declaration.inputs) {
      const innerPath = [...path, name];
      const { ref, version, tag, follows } = inner;
      if (ref ?? follows)
        this.#addOverride(innerPath, {
          ...(ref && { ref }),
          ...(version !== undefined && { version }),
          ...(tag !== undefined && { tag }),
          ...(follows && { follows: [...home.path, ...follows] }),
          home,
          forced: false,
        });
      this.#noteOverrides(inner, innerPath, home);
    }
  }

  /** Flakes are read from the root downwards: whoever came first stands further out, and wins. */
  #addOverride(path: InputPath, override: Override): void {
    const key = printInputPath(path);
    if (this.#overrides.has(key)) return;
    this.#overrides.set(key, override);
    const flake = printInputPath(path.slice(0, -1));
    this.#overridden.set(flake, (this.#overridden.get(flake) ?? new Set()).add(path.at(-1) ?? ''));
  }

  async #lockInputs(
    inputs: ReadonlyMap<string, Wanted>,
    draft: Draft,
    frame: Frame,
    pin: Pin | undefined,
  ): Promise<void> {
    const { path } = frame;
    for (const name of this.#overridden.get(printInputPath(path)) ?? [])
      if (!inputs.has(name)) this.#unusedOverrides.set(printInputPath([...path, name]), [...path, name]);
    await lockSideBySide(inputs.keys(), (name) => this.#lockInput(name, inputs.get(name)!, frame, pin), {
      draft,
      path,
      root: this.#options.manifest,
    });
  }

  async #lockInput(name: string, declared: Wanted, frame: Frame, pin: Pin | undefined): Promise<DraftEdge> {
    const path = [...frame.path, name];
    const key = printInputPath(path);
    const override = this.#overrides.get(key);
    const { follows, ref = indirect(name), version, tag } = override ?? declared;
    this.#visits.add(path, follows ? 'follows' : 'node');
    if (follows) return { kind: 'follows', path: follows };
    const forced = override?.forced ?? false;
    const home = override?.home ?? frame.home;
    const asked: Asked = {
      path,
      ref,
      ...(version !== undefined && { version }),
      ...(tag !== undefined && { tag }),
      // Whether an input is a flake is for the one who declares it to say.
      flake: declared.flake,
      home,
      parent: isRelativePath(ref) && !forced ? (override ? home.path : frame.path) : undefined,
      forced,
      // So that the next lock keeps what is overridden by hand.
      original: forced ? (declared.ref ?? ref) : ref,
    };
    const old = forced || this.#updates.has(key) ? undefined : pin?.child(name);
    const kept = old && (await fits(old, asked, declared.copied)) ? old : undefined;
    return { kind: 'node', node: await (kept ? this.#keep(kept, asked, frame) : this.#renew(asked, frame)) };
  }

  async #keep(pin: Pin, { path, ref, home }: Asked, frame: Frame): Promise<Draft> {
    const draft = keptDraft(pin, path);
    const { locked = ref, flake } = draft;
    const relative = isRelativePath(ref) ? inLockedFolder(ref, locked) : undefined;
    if (this.#mustRead(pin, path, frame)) {
      const read = await this.#readAgain(
        path,
        ref,
        async () => {
          if (!relative) return await this.#reader.flake(locked);
          const folder = relativeFolder(await home.folder(), relative);
          return { folder, ...(await this.#reader.read(folder)) };
        },
        relative !== undefined && home.atHand,
      );
      // What its inputs are relative to, and which there are, only it could say.
      if (!read) return copied(pin, path);
      const { folder, manifest } = read;
      const own: Home = {
        path,
        folder: async () => folder,
        atHand: relative !== undefined && home.atHand,
      };
      await this.#lockFlake(manifest, draft, { ...frame, path, home: own, trusted: false }, pin);
      return draft;
    }
    if (relative && home.atHand && flake && !frame.trusted)
      this.#unread.push({
        path,
        pin,
        folder: async () => relativeFolder(await home.folder(), relative),
      });
    await this.#lockInputs(new Map(pin.inputs(path)), draft, { ...frame, path, trusted: true }, pin);
    return draft;
  }

  #mustRead(pin: Pin, path: InputPath, { trusted }: Frame): boolean {
    if (this.#aboveUpdates.has(printInputPath(path))) return true;
    if (trusted) return false;
    return [...pin.inputs(path)].some(
      ([name, { follows }]) => follows && !this.#overrides.has(printInputPath([...path, name])),
    );
  }

  /** A pinned flake; undefined where nothing may be fetched and its bytes are not here. */
  async #readAgain<T>(
    path: InputPath,
    ref: FlakeRef,
    read: () => Promise<T>,
    isHere: boolean,
  ): Promise<T | undefined> {
    if (this.#options.source || isHere) return await read();
    try {
      if (this.#reader.canRead) return await read();
    } catch {
      // What cannot be read here counts as not known; locking tells what is wrong with it.
    }
    this.#options.onUnknown?.({ path, kind: 'flake', ref });
    return undefined;
  }

  async #renew(asked: Asked, frame: Frame): Promise<Draft> {
    const { path, ref, flake, home, parent, original, version } = asked;
    const relative = isRelativePath(ref) ? ref : undefined;
    const atHand = relative !== undefined && home.atHand;
    if (!this.#options.source) {
      const { forced } = asked;
      this.#options.onUnknown?.({
        path,
        kind: 'input',
        ref,
        ...(version !== undefined && { version }),
        ...(forced && { forced }),
      });
      if (!atHand) return { original, locked: ref, flake, inputs: new Map() };
    }
    if (!flake) {
      const { locked, facts } = relative ? { locked: ref, facts: undefined } : await this.#fetchFiles(asked);
      return draftOf(original, locked, false, parent, facts);
    }
    const { locked, folder, manifest, lock, facts } = await this.#fetchFlake(asked);
    if (frame.above.some((above) => sameRef(above, ref)))
      throw new FlkError(
        'FLK_INPUT_CYCLE',
        `input ‘${printInputPath(path)}’ is ${printFlakeRef(ref)}, which it is itself an input of`,
        { hint: 'break the circle: let one of them follow, or be flake: false' },
      );
    const draft = draftOf(original, locked, true, parent, facts);
    await this.#lockFlake(
      manifest,
      draft,
      {
        path,
        home: { path, folder: async () => folder, atHand },
        trusted: false,
        above: [...frame.above, ref],
      },
      lock && Pin.root(lock, path),
    );
    return draft;
  }

  async #fetchFiles(asked: Asked): Promise<{ locked: FlakeRef; facts: FlkFacts | undefined }> {
    const { ref, facts } = await this.#target(asked);
    const { locked } = await this.#reader.fetch(ref, 'limited');
    // A registry's folder holds for flakes only.
    const { dir, ...whole } = locked;
    return { locked: { ...whole, ...(ref.dir !== undefined && { dir: ref.dir }) } as FlakeRef, facts };
  }

  async #fetchFlake(asked: Asked): Promise<FetchedFlake & { facts: FlkFacts | undefined }> {
    if (isRelativePath(asked.ref)) {
      const folder = relativeFolder(await asked.home.folder(), asked.ref);
      return { locked: asked.ref, folder, ...(await this.#reader.read(folder)), facts: undefined };
    }
    const { ref, facts } = await this.#target(asked);
    return { ...(await this.#reader.flake(ref, asked.forced ? 'all' : 'limited')), facts };
  }

  /** What is to be fetched: a tag's commit where a range is asked for. */
  async #target({ ref, version, tag, home }: Asked): Promise<{ ref: FlakeRef; facts: FlkFacts | undefined }> {
    if (home.path.length > 0) checkReach(ref, await home.folder());
    if (version === undefined) return { ref, facts: undefined };
    return await this.#reader.choose(ref, version, tag);
  }
}

async function fits(
  pin: Pin,
  { ref, version, tag, flake, parent }: Asked,
  copied: boolean,
): Promise<boolean> {
  const { original, parent: was } = pin.node;
  if (original === undefined || !sameRef(original, ref)) return false;
  if (was === undefined || parent === undefined ? was !== parent : !samePath(was, parent)) return false;
  // Nix reads past what a lock says of versions; only who asks for one is interested.
  if (version === undefined) return true;
  return await pin.fitsVersion({
    version,
    ...(tag !== undefined && { tag }),
    flake,
    parent: [],
    copied,
  });
}

/** A pin's node, whose inputs are still to come. */
function keptDraft({ node }: Pin, path: InputPath): Draft {
  const { original, locked, flake, parent, flk } = node;
  if (!original || !locked)
    throw new FlkError('FLK_INTERNAL', `the node of ‘${printInputPath(path)}’ has no reference`);
  return {
    original,
    locked,
    flake,
    ...(parent && { parent }),
    ...(flk && { flk }),
    inputs: new Map(),
  };
}

/** The pin and all below it as the lock has them. */
function copied(pin: Pin, path: InputPath): Draft {
  const draft = keptDraft(pin, path);
  for (const [name, { follows }] of pin.inputs(path)) {
    const child = pin.child(name);
    const below = [...path, name];
    if (follows) draft.inputs.set(name, { kind: 'follows', path: follows });
    else if (child) draft.inputs.set(name, { kind: 'node', node: copied(child, below) });
  }
  return draft;
}

function indirect(id: string): FlakeRef {
  return { type: 'indirect', id };
}

function draftOf(
  original: FlakeRef,
  locked: FlakeRef,
  flake: boolean,
  parent: InputPath | undefined,
  flk: FlkFacts | undefined,
): Draft {
  return {
    original,
    locked,
    flake,
    ...(parent && { parent }),
    ...(flk && { flk }),
    ...(isRelativePath(locked) && { fresh: true }),
    inputs: new Map(),
  };
}

/** Nix looks for a kept relative flake where its path leads to, but in the folder there that the lock has. */
function inLockedFolder(ref: PathRef, locked: FlakeRef): PathRef {
  const { dir, ...whole } = ref;
  return locked.dir === undefined ? whole : { ...whole, dir: locked.dir };
}
