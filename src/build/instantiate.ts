/**
 * A locked graph and the name of a package in, derivations out. Nothing is fetched from a moving reference and nothing is built; only a
 * `merge` that was never computed here needs its parts, since its hash is part of what is built with it. docs/derivations.md lists
 * the attributes.
 */
import { limiter } from '../base/concurrency.ts';
import { nearest } from '../base/diagnostics.ts';
import { asFlkError, FlkError } from '../base/errors.ts';
import {
  type BuiltPackage,
  type FetchedPackage,
  type MergedPackage,
  type PackageDeclaration,
  type PackageRef,
  packagesFor,
  partsOf,
  type SelfSelection,
  type SourceSelection,
  type StorePathPackage,
  type Template,
  type ToolchainDeclaration,
} from '../flake/manifest.ts';
import { printPackageRef } from '../flake/package-ref.ts';
import type { DerivationDraft } from '../formats/derivation.ts';
import { type NarHash, parseNarHash } from '../formats/hash.ts';
import type { Tree } from '../formats/nar.ts';
import { isStoreName, makeSourcePath, type StorePath } from '../formats/store-path.ts';
import { copyByContent, knownCopy } from './content-addressed.ts';
import type { Toolchain } from './engines/engine.ts';
import { type FetchContext, fetchDerivation, runFetch, tellHash } from './fetch.ts';
import { fixedAttributes } from './fixed-output.ts';
import type { Instantiation } from './instantiation.ts';
import { type LockedFlake, LockedFlakes, type LockedFlakesContext } from './locked-flakes.ts';
import { type MergePart, mergeDerivation, mergeDraft, mergedTree, mergeKey } from './merge.ts';
import { hostToolchainOf, Plan } from './plan.ts';
import { Selector } from './selection.ts';
import { setupRunner } from './setup.ts';
import {
  assertNoCircle,
  Inputs,
  isPackage,
  type Made,
  mayRefer,
  type NamedPackage,
  type PackageTarget,
  type ResolvedPackage,
  type Step,
  type Target,
  targetOf,
} from './target.ts';

export type { NamedPackage } from './target.ts';

/** A path in binary caches, as a `storePath` package names it. */
export interface ClosureRequest {
  readonly path: StorePath;
  /** Of the path's own NAR: verified, whoever signed it. */
  readonly narHash: NarHash;
  /** URLs, asked in order. */
  readonly caches: readonly string[];
  /** One of these must have signed each path of the closure that is not proven by its content. */
  readonly publicKeys: readonly string[];
}

export interface InstantiationContext extends LockedFlakesContext, FetchContext {
  /** `x86_64-linux`. */
  readonly system: string;
  /** Makes a path valid, and all that it refers to. Without it no `storePath` package can be had. */
  readonly importClosure?: (request: ClosureRequest) => Promise<void>;
  /**
   * Makes the outputs of a derivation valid now: name → path. Without it nothing can be built with a package that is
   * `contentAddressed`.
   */
  readonly realise?: (instantiation: Instantiation) => Promise<ReadonlyMap<string, StorePath>>;
}

export interface InstantiatedPackage extends Instantiation {
  /** What the request names, aliases resolved. */
  readonly declaration: Made;
  /** Names of the outputs that were asked for. */
  readonly outputs: readonly string[];
  /** Names of the derivations, as a person knows them, that see the host's tools while they are built. Sorted. */
  readonly hostToolchain: readonly string[];
}

/**
 * Instantiates a package of the root flake, or of one of its inputs. Throws FLK_PACKAGE_UNKNOWN, FLK_PACKAGE_CYCLE,
 * FLK_PACKAGE_INVALID, FLK_SYSTEM_UNSUPPORTED, FLK_FETCH_HASH_MISSING, and what locks, manifests and sources throw; the trail leads
 * from the package that was asked for to the one at fault.
 */
export async function instantiate(
  context: InstantiationContext,
  request: NamedPackage,
): Promise<InstantiatedPackage> {
  return new Instantiator(context).instantiate(request);
}

/** Set by the phases runner or the engine; what a package put there would be lost. */
const computedVariables = new Set([
  'PATH',
  'HOME',
  'TMPDIR',
  'TEMPDIR',
  'TMP',
  'TEMP',
  'TERM',
  'PWD',
  'NIX_BUILD_TOP',
  'NIX_BUILD_CORES',
  'NIX_STORE',
  'NIX_LOG_FD',
]);

/** Fetches for a merge at once. */
const maxFetches = 8;

/** Of an error's trail: who asked for a package that lies deeper learns of its end, and of the beginning. */
const mostSteps = 30;

/** Instantiates packages of one locked graph; what they share is done once. */
export class Instantiator {
  readonly #context: InstantiationContext;
  readonly #flakes: LockedFlakes;
  readonly #plan = new Plan();
  readonly #packages = new Map<string, ReadonlyMap<string, PackageDeclaration>>();
  readonly #resolved = new Map<string, ResolvedPackage>();
  /** Steps that are being resolved. */
  readonly #open = new Set<string>();
  readonly #selectors = new Map<string, Promise<Selector>>();
  readonly #copies = new Map<StorePath, StorePath>();
  readonly #fetching = limiter(maxFetches);

  constructor(context: InstantiationContext) {
    this.#context = context;
    this.#flakes = new LockedFlakes(context);
  }

  /** See the function of the same name. */
  async instantiate(request: NamedPackage): Promise<InstantiatedPackage> {
    await this.#selectAhead(request);
    const { resolved, output } = await this.#package(this.#flakes.root, request, undefined);
    for (const selector of this.#selectors.values()) (await selector).remember();
    const top =
      resolved.kind === 'derivation' ? resolved.drvPath : (resolved.asDerivation?.() ?? resolved.path);
    const instantiation = this.#plan.of(top);
    return {
      ...instantiation,
      declaration: resolved.declaration,
      outputs: [output],
      hostToolchain: hostToolchainOf(instantiation),
    };
  }

  /** Follows a reference that stands in a flake. `step`: the package it stands in. */
  async #target(from: LockedFlake, ref: PackageRef, step: Step): Promise<Target> {
    if (isPackage(ref)) {
      const target = await this.#package(from, ref, step);
      const { resolved } = target;
      const isByContent =
        resolved.kind === 'derivation' &&
        resolved.declaration.kind === 'build' &&
        resolved.declaration.contentAddressed;
      return isByContent ? await this.#byContent(resolved.drvPath, resolved.declaration) : target;
    }
    const flake = this.#flakes.input(from, ref.inputs);
    const { path: sourcePath, narHash } = await flake.source();
    this.#addSource(sourcePath, 'source', narHash, () => flake.tree());
    const path = [sourcePath, flake.dir, ref.subpath ?? ''].filter((part) => part !== '').join('/');
    return { resolved: { kind: 'source', path: sourcePath, refers: false }, output: 'out', path };
  }

  async #package(from: LockedFlake, ref: NamedPackage, parent: Step | undefined): Promise<PackageTarget> {
    const flake = this.#flakes.input(from, ref.inputs);
    const name = `${flake.label}#${ref.name}`;
    const id = `${flake.key}#${ref.name}`;
    const known = this.#resolved.get(id);
    if (known !== undefined) return targetOf(known, ref.output ?? 'out', name);
    const step: Step = { name, parent };
    if (this.#open.has(name)) assertNoCircle(step);
    this.#open.add(name);
    try {
      const declaration = await this.#declaration(flake, ref.name);
      if (declaration.kind === 'alias') {
        const { target } = declaration;
        if (!isPackage(target))
          throw new FlkError('FLK_PACKAGE_INVALID', `${name} is an alias of no package`);
        const output = ref.output ?? target.output;
        return await this.#package(flake, output === undefined ? target : { ...target, output }, step);
      }
      const resolved = await this.#resolve(flake, declaration, step);
      this.#resolved.set(id, resolved);
      return targetOf(resolved, ref.output ?? 'out', name);
    } catch (error) {
      const failure = asFlkError(error);
      const isTold = failure.trail.length < mostSteps || parent === undefined;
      throw failure.code === 'FLK_INTERNAL' || !isTold ? failure : failure.within(name);
    } finally {
      this.#open.delete(name);
    }
  }

  async #declaration(flake: LockedFlake, name: string): Promise<PackageDeclaration> {
    const { system } = this.#context;
    const manifest = await flake.manifest();
    const shown = flake.label === '' ? 'the flake' : flake.label;
    if (manifest.systems.length > 0 && !manifest.systems.includes(system)) {
      throw new FlkError('FLK_SYSTEM_UNSUPPORTED', `${shown} has no packages for ${system}`, {
        facts: { found: manifest.systems.join(' '), wanted: system },
      });
    }
    const packages = this.#packages.get(flake.key) ?? packagesFor(manifest, system);
    this.#packages.set(flake.key, packages);
    const declaration = packages.get(name);
    if (declaration !== undefined) return declaration;
    const elsewhere = [...manifest.perSystem].filter(([, own]) => own.has(name)).map(([other]) => other);
    if (elsewhere.length > 0) {
      throw new FlkError('FLK_SYSTEM_UNSUPPORTED', `${flake.label}#${name} is not for ${system}`, {
        facts: { found: elsewhere.join(' '), wanted: system },
      });
    }
    const meant = nearest(name, packages.keys());
    throw new FlkError('FLK_PACKAGE_UNKNOWN', `${shown} has no package ${name}`, {
      facts: { packages: [...packages.keys()].join(' ') },
      hint: meant === undefined ? '' : `did you mean ${flake.label}#${meant}?`,
    });
  }

  async #resolve(flake: LockedFlake, declaration: Made, step: Step): Promise<ResolvedPackage> {
    switch (declaration.kind) {
      case 'build':
        return this.#built(flake, declaration, step);
      case 'fetch':
        return this.#fetched(flake, declaration);
      case 'merge':
        return this.#merged(flake, declaration, step);
      case 'storePath':
        return this.#imported(declaration);
    }
  }

  async #built(flake: LockedFlake, declaration: BuiltPackage, step: Step): Promise<ResolvedPackage> {
    const manifest = await flake.manifest();
    const name = storeName(declaration);
    const inputs = new Inputs();
    const refer = async (ref: PackageRef): Promise<string> => {
      const target = await this.#target(flake, ref, step);
      inputs.add(target);
      return target.path;
    };
    const render = async (template: Template): Promise<string> => {
      let text = '';
      for (const part of template) text += typeof part === 'string' ? part : await refer(part);
      return text;
    };
    const select = async (selection: SourceSelection): Promise<string> => {
      if (selection.kind === 'ref') return refer(selection.ref);
      const path = await this.#selection(flake, selection);
      inputs.srcs.add(path);
      return path;
    };

    const env = new Map<string, string>();
    const outputs = declaration.outputs;
    for (const [variable, template] of declaration.env) {
      if (computedVariables.has(variable) || outputs.includes(variable)) {
        throw new FlkError(
          'FLK_PACKAGE_INVALID',
          `env of ${declaration.name} sets ${variable}, which the build sets itself`,
        );
      }
      env.set(variable, plainText(template) ?? (await render(template)));
    }
    if (declaration.src !== undefined) env.set('src', await select(declaration.src));
    const patches: string[] = [];
    for (const patch of declaration.patches) patches.push(await select(patch));
    if (patches.length > 0) env.set('patches', words('patches', patches));
    const buildInputs: string[] = [];
    for (const ref of declaration.buildInputs) buildInputs.push(await refer(ref));
    if (buildInputs.length > 0) env.set('buildInputs', words('buildInputs', buildInputs));
    for (const [phase, template] of declaration.phases)
      env.set(phase, plainText(template) ?? (await render(template)));

    const toolchain = await this.#toolchain(declaration.toolchain ?? manifest.toolchain, flake, step, inputs);
    const setup = setupRunner(manifest.setup);
    inputs.srcs.add(setup.path);
    this.#addSource(setup.path, setup.name, setup.narHash, async () => setup.tree);

    const { system } = this.#context;
    const builder = '/bin/sh';
    const { fixed } = declaration;
    env.set('name', name);
    env.set('system', system);
    env.set('builder', builder);
    env.set('toolchain', toolchain.kind === 'host' ? 'host' : toolchain.path);
    if (outputs.length > 1) env.set('outputs', outputs.join(' '));
    const { requiredFeatures } = declaration;
    if (requiredFeatures.length > 0) env.set('requiredSystemFeatures', requiredFeatures.join(' '));
    const { output, variables } = fixed
      ? fixedAttributes(fixed)
      : { output: { hashAlgo: '', hash: '' }, variables: [] };
    for (const [variable, value] of variables) env.set(variable, value);
    const draft: DerivationDraft = {
      outputs: new Map(outputs.map((outputName) => [outputName, output])),
      inputDrvs: inputs.drvs,
      inputSrcs: [...inputs.srcs].sort(),
      system,
      builder,
      args: [setup.path],
      env,
    };
    return { kind: 'derivation', ...this.#plan.add(name, draft, toolchain), declaration };
  }

  async #toolchain(
    declaration: ToolchainDeclaration | undefined,
    flake: LockedFlake,
    step: Step,
    inputs: Inputs,
  ): Promise<Toolchain> {
    if (declaration === undefined || declaration.kind === 'host') return { kind: 'host' };
    const target = await this.#target(flake, declaration.ref, step);
    inputs.add(target);
    const { resolved, output, path } = target;
    if (resolved.kind === 'derivation') {
      return { kind: 'path', path: resolved.derivation.outputs.get(output)!.path };
    }
    if (path !== resolved.path) {
      throw new FlkError('FLK_PACKAGE_INVALID', `a toolchain is a whole package or source, not ${path}`);
    }
    return { kind: 'path', path: resolved.path };
  }

  async #fetched(flake: LockedFlake, declaration: FetchedPackage): Promise<ResolvedPackage> {
    const { urls, unpack, stripRoot, executable, hash } = declaration;
    const spec = { name: storeName(declaration), urls, unpack, stripRoot, executable };
    if (hash === undefined) {
      const { file } = await flake.manifest();
      return await tellHash(spec, this.#context, { file, range: declaration.range });
    }
    const { drvPath, derivation } = fetchDerivation(spec, hash);
    this.#plan.addFixed(spec.name, drvPath, derivation);
    return { kind: 'derivation', drvPath, derivation, declaration };
  }

  #imported(declaration: StorePathPackage): ResolvedPackage {
    const { path, narHash, caches, publicKeys, name } = declaration;
    const { importClosure, store } = this.#context;
    const known = store.query(path);
    if (known !== undefined && known.narHash !== narHash)
      throw new FlkError(
        'FLK_NAR_HASH_MISMATCH',
        `the store has another ${path} than the one that is pinned`,
        {
          facts: { found: known.narHash, wanted: narHash },
          hint: 'correct narHash in the manifest, if you trust what the store has',
        },
      );
    this.#plan.addSource(path, async () => {
      if (importClosure === undefined)
        throw new FlkError(
          'FLK_PACKAGE_INVALID',
          `${name} lies in a binary cache, and nothing here asks caches`,
        );
      await importClosure({ path, narHash, caches, publicKeys });
    });
    return { kind: 'source', path, refers: true, declaration };
  }

  /** The result of a build as a source: what is built with it depends on its content alone. */
  async #byContent(drvPath: StorePath, declaration: BuiltPackage): Promise<PackageTarget> {
    const { store, realise, signal } = this.#context;
    const build = async (): Promise<StorePath> => {
      if (realise === undefined)
        throw new FlkError(
          'FLK_PACKAGE_INVALID',
          `${declaration.name} is contentAddressed: it must be built before what is built with it is known`,
          { hint: `flk build it first` },
        );
      const outputs = await realise(this.#plan.of(drvPath));
      return await copyByContent(store, drvPath, outputs.get('out')!, signal);
    };
    const path = this.#copies.get(drvPath) ?? knownCopy(store, drvPath) ?? (await build());
    this.#copies.set(drvPath, path);
    this.#plan.addSource(path, async () => {
      const again = await build();
      if (again !== path)
        throw new FlkError('FLK_BUILD_NOT_REPRODUCIBLE', `${declaration.name} was built again and differs`, {
          facts: { found: again, wanted: path },
        });
    });
    return { resolved: { kind: 'source', path, refers: true, declaration }, output: 'out', path };
  }

  async #merged(flake: LockedFlake, declaration: MergedPackage, step: Step): Promise<ResolvedPackage> {
    const { store } = this.#context;
    const name = storeName(declaration);
    const { links } = declaration;
    const inputs = new Inputs();
    const parts: MergePart[] = [];
    const targets: Target[] = [];
    for (const { ref, priority } of declaration.parts) {
      const target = await this.#target(flake, ref, step);
      inputs.add(target);
      targets.push(target);
      parts.push({ label: printPackageRef(ref), path: target.path, priority });
    }
    const standsOn = () => ({ inputDrvs: inputs.drvs, inputSrcs: [...inputs.srcs].sort() });
    if (targets.some(mayRefer)) {
      // Its references are found once it is there, so its path cannot follow from its content.
      const draft = mergeDraft(name, parts, links, standsOn());
      return { kind: 'derivation', ...this.#plan.add(name, draft, { kind: 'host' }), declaration };
    }
    const ready = async () => {
      await Promise.all(targets.map((target) => this.#ready(target)));
      return mergedTree(store, parts, links);
    };
    const key = mergeKey(parts, links);
    const known = store.memo(key);
    // One walk gives the hash and the copy in the store, which whoever asks for the hash is about to need.
    const narHash =
      known === undefined ? (await store.addTree(name, await ready())).narHash : parseNarHash(known);
    if (known === undefined) store.setMemo(key, narHash);
    const path = makeSourcePath(name, narHash);
    this.#addSource(path, name, narHash, ready);
    return {
      kind: 'source',
      path,
      refers: false,
      declaration,
      // Asked for by itself it is a derivation, so that it is built, listed and kept like any other.
      asDerivation: () => {
        const { drvPath, derivation } = mergeDerivation(name, narHash, parts, links, standsOn());
        this.#plan.addFixed(name, drvPath, derivation);
        return drvPath;
      },
    };
  }

  /** Makes a part of a merge valid. */
  async #ready({ resolved }: Target): Promise<void> {
    const { store } = this.#context;
    if (resolved.kind === 'source') {
      if (store.query(resolved.path) === undefined) await this.#plan.makeSource(resolved.path);
      return;
    }
    const { drvPath, derivation } = resolved;
    const { path } = derivation.outputs.get('out')!;
    if (store.query(path) !== undefined) return;
    await this.#fetching(() =>
      store.withPathLocks([path], async () => {
        // Another flk may have fetched it while this one waited.
        if (store.query(path) === undefined) await runFetch(drvPath, derivation, this.#context);
      }),
    );
  }

  async #selection(flake: LockedFlake, selection: SelfSelection): Promise<StorePath> {
    const selector = await this.#selector(flake);
    const { path, name, narHash, tree } = await selector.select(selection);
    this.#plan.addSource(path, async () => {
      try {
        await this.#context.store.addTree(name, tree, { expected: narHash });
      } catch (error) {
        // It was changed just now; or the file system does not tell when files change.
        if (error instanceof FlkError && error.code === 'FLK_NAR_HASH_MISMATCH') selector.forget(selection);
        throw error;
      }
    });
    return path;
  }

  #selector(flake: LockedFlake): Promise<Selector> {
    const selector =
      this.#selectors.get(flake.key) ??
      flake.tree().then((tree) => new Selector({ tree, dir: flake.dir }, this.#context));
    this.#selectors.set(flake.key, selector);
    return selector;
  }

  /** Begins to select all that a package stands on, so that one walk of each tree serves it. What is wrong is told when it is used. */
  async #selectAhead(request: NamedPackage): Promise<void> {
    const seen = new Set<string>();
    const wanted: (readonly [LockedFlake, SelfSelection])[] = [];
    const waiting: (readonly [from: LockedFlake, ref: PackageRef])[] = [[this.#flakes.root, request]];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const [from, ref] = next;
      if (ref.name === undefined) continue;
      try {
        const flake = this.#flakes.input(from, ref.inputs);
        const id = `${flake.key}#${ref.name}`;
        if (seen.has(id) || this.#resolved.has(id)) continue;
        seen.add(id);
        const { refs, selections } = partsOf(await this.#declaration(flake, ref.name));
        waiting.push(...refs.map((inner) => [flake, inner] as const));
        wanted.push(...selections.map((selection) => [flake, selection] as const));
      } catch {
        // Whoever needs it meets the same fault, on a way that can be told.
      }
    }
    for (const [flake, selection] of wanted) this.#selection(flake, selection).catch(() => {});
  }

  #addSource(path: StorePath, name: string, expected: NarHash, open: () => Promise<Tree>): void {
    this.#plan.addSource(path, async () => {
      await this.#context.store.addTree(name, await open(), { expected });
    });
  }
}

/** What refers to nothing, as most values do. */
const plainText = ([first, ...others]: Template): string | undefined =>
  others.length > 0 ? undefined : typeof first === 'string' ? first : first === undefined ? '' : undefined;

/** NAME[-VERSION]. */
function storeName({ name, version }: PackageDeclaration & { version?: string }): string {
  const whole = version === undefined ? name : `${name}-${version}`;
  if (isStoreName(whole) && isStoreName(`${whole}.drv`)) return whole;
  throw new FlkError('FLK_PACKAGE_INVALID', `${JSON.stringify(whole)} cannot be the name of a store path`, {
    hint: 'letters, digits and + - . _ ? =',
  });
}

/** A list for the phases runner, which splits it at spaces. */
function words(attribute: string, paths: readonly string[]): string {
  const odd = paths.find((path) => /\s/.test(path));
  if (odd === undefined) return paths.join(' ');
  throw new FlkError('FLK_PACKAGE_INVALID', `${attribute} cannot hold a path with a blank in it: ${odd}`);
}
