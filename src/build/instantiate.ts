/**
 * A locked graph and the name of a package in, derivations out. Nothing is fetched from a moving reference and nothing is built; only a
 * `merge` that was never computed here needs its parts, since its hash is part of what is built with it. docs/derivations.md lists
 * the attributes.
 */
import { limiter } from '../base/concurrency.ts';
import { nearest } from '../base/diagnostics.ts';
import { asFlkError, FlkError } from '../base/errors.ts';
import {
  type AliasPackage,
  type BuiltPackage,
  type FetchedPackage,
  type MergedPackage,
  type PackageDeclaration,
  type PackageRef,
  packagesFor,
  type SourceSelection,
  type Template,
  type ToolchainDeclaration,
} from '../flake/manifest.ts';
import { printPackageRef } from '../flake/package-ref.ts';
import {
  type Derivation,
  derivationPath,
  hashDerivationModulo,
  withOutputPaths,
} from '../formats/derivation.ts';
import { type NarHash, parseNarHash } from '../formats/hash.ts';
import type { Tree } from '../formats/nar.ts';
import { isStoreName, makeSourcePath, type StorePath } from '../formats/store-path.ts';
import { isBuiltin } from './builtin.ts';
import type { Toolchain } from './engines/engine.ts';
import { type FetchContext, fetchDerivation, runFetch, tellHash } from './fetch.ts';
import type { Instantiation, PlannedDerivation } from './instantiation.ts';
import { type LockedFlake, LockedFlakes, type LockedFlakesContext } from './locked-flakes.ts';
import { type MergePart, mergeDerivation, mergedTree, mergeKey } from './merge.ts';
import { selectSource } from './selection.ts';
import { setupRunner } from './setup.ts';

export interface InstantiationContext extends LockedFlakesContext, FetchContext {
  /** `x86_64-linux`. */
  readonly system: string;
}

/** A reference to a package, not to an input's source. */
export type NamedPackage = PackageRef & { readonly name: string };

const isPackage = (ref: PackageRef): ref is NamedPackage => ref.name !== undefined;

export interface InstantiatedPackage extends Instantiation {
  /** What the request names, aliases resolved. */
  readonly declaration: Exclude<PackageDeclaration, AliasPackage>;
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
  return new Instantiator(context).top(request);
}

/** A package, ready to be referred to. */
type ResolvedPackage =
  | {
      readonly kind: 'derivation';
      readonly drvPath: StorePath;
      readonly derivation: Derivation;
      readonly declaration: BuiltPackage | FetchedPackage;
    }
  | { readonly kind: 'source'; readonly path: StorePath; readonly merge: ComputedMerge };

interface ComputedMerge {
  readonly name: string;
  readonly narHash: NarHash;
  readonly parts: readonly MergePart[];
  readonly targets: readonly Target[];
  readonly declaration: MergedPackage;
}

/** Where a reference leads: the thing, and the text that stands for it. */
interface Target {
  readonly resolved: ResolvedPackage | { readonly kind: 'source'; readonly path: StorePath };
  readonly output: string;
  /** The store path, or a path below it. */
  readonly path: string;
}

interface PackageTarget extends Target {
  readonly resolved: ResolvedPackage;
}

/** What a derivation turns out to refer to while its attributes are put together. */
class Inputs {
  readonly drvs = new Map<StorePath, string[]>();
  readonly srcs = new Set<StorePath>();

  add({ resolved, output }: Target): void {
    if (resolved.kind === 'source') {
      this.srcs.add(resolved.path);
      return;
    }
    const outputs = this.drvs.get(resolved.drvPath) ?? [];
    if (!outputs.includes(output)) outputs.push(output);
    this.drvs.set(resolved.drvPath, outputs);
  }
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

class Instantiator {
  readonly #context: InstantiationContext;
  readonly #flakes: LockedFlakes;
  readonly #resolved = new Map<string, ResolvedPackage>();
  readonly #planned = new Map<StorePath, PlannedDerivation>();
  readonly #sources = new Map<StorePath, () => Promise<void>>();
  readonly #modulo = new Map<StorePath, Buffer>();
  readonly #fetching = limiter(maxFetches);

  constructor(context: InstantiationContext) {
    this.#context = context;
    this.#flakes = new LockedFlakes(context);
  }

  async top(request: NamedPackage): Promise<InstantiatedPackage> {
    const { resolved, output } = await this.#package(this.#flakes.root, request, []);
    const { declaration } = resolved.kind === 'derivation' ? resolved : resolved.merge;
    const top = resolved.kind === 'derivation' ? resolved.drvPath : this.#planMerge(resolved.merge);
    const derivations = new Map<StorePath, PlannedDerivation>();
    const sources = new Map<StorePath, () => Promise<void>>();
    const collect = (drvPath: StorePath): void => {
      if (derivations.has(drvPath)) return;
      const planned = this.#planned.get(drvPath)!;
      derivations.set(drvPath, planned);
      for (const source of planned.derivation.inputSrcs) sources.set(source, this.#sources.get(source)!);
      for (const input of planned.derivation.inputDrvs.keys()) collect(input);
    };
    collect(top);
    const hostToolchain = [...derivations.values()]
      .filter(({ toolchain, derivation }) => toolchain.kind === 'host' && !isBuiltin(derivation))
      .map(({ name }) => name);
    return {
      top,
      derivations,
      sources,
      declaration,
      outputs: [output],
      hostToolchain: [...new Set(hostToolchain)].sort(),
    };
  }

  /** Follows a reference that stands in a flake. `trail`: the packages on the way, to find circles. */
  async #target(from: LockedFlake, ref: PackageRef, trail: readonly string[]): Promise<Target> {
    if (isPackage(ref)) return this.#package(from, ref, trail);
    const flake = this.#flakes.input(from, ref.inputs);
    const { sourcePath } = flake;
    this.#addSource(sourcePath, 'source', flake.narHash, () => flake.tree());
    const path = [sourcePath, flake.dir, ref.subpath ?? ''].filter((part) => part !== '').join('/');
    return { resolved: { kind: 'source', path: sourcePath }, output: 'out', path };
  }

  async #package(from: LockedFlake, ref: NamedPackage, trail: readonly string[]): Promise<PackageTarget> {
    const flake = this.#flakes.input(from, ref.inputs);
    const step = `${flake.label}#${ref.name}`;
    if (trail.includes(step)) {
      const circle = [...trail.slice(trail.indexOf(step)), step];
      throw new FlkError('FLK_PACKAGE_CYCLE', `${step} needs itself: ${circle.join(' → ')}`);
    }
    try {
      const declaration = await this.#declaration(flake, ref.name);
      if (declaration.kind === 'alias') {
        const { target } = declaration;
        if (!isPackage(target))
          throw new FlkError('FLK_PACKAGE_INVALID', `${step} is an alias of no package`);
        const output = ref.output ?? target.output;
        const named = output === undefined ? target : { ...target, output };
        return await this.#package(flake, named, [...trail, step]);
      }
      const id = `${flake.key}#${ref.name}`;
      const known = this.#resolved.get(id);
      const resolved = known ?? (await this.#resolve(flake, declaration, [...trail, step]));
      this.#resolved.set(id, resolved);
      return targetOf(resolved, ref.output ?? 'out', step);
    } catch (error) {
      const failure = asFlkError(error);
      throw failure.code === 'FLK_INTERNAL' ? failure : failure.within(step);
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
    const packages = packagesFor(manifest, system);
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

  #resolve(
    flake: LockedFlake,
    declaration: Exclude<PackageDeclaration, AliasPackage>,
    trail: readonly string[],
  ): Promise<ResolvedPackage> {
    switch (declaration.kind) {
      case 'build':
        return this.#built(flake, declaration, trail);
      case 'fetch':
        return this.#fetched(declaration);
      case 'merge':
        return this.#merged(flake, declaration, trail);
      case 'storePath':
        throw new FlkError('FLK_PACKAGE_INVALID', `${declaration.name} cannot be taken from a cache yet`);
    }
  }

  async #built(
    flake: LockedFlake,
    declaration: BuiltPackage,
    trail: readonly string[],
  ): Promise<ResolvedPackage> {
    const manifest = await flake.manifest();
    const name = storeName(declaration);
    const inputs = new Inputs();
    const refer = async (ref: PackageRef): Promise<string> => {
      const target = await this.#target(flake, ref, trail);
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
      env.set(variable, await render(template));
    }
    if (declaration.src !== undefined) env.set('src', await select(declaration.src));
    const patches: string[] = [];
    for (const patch of declaration.patches) patches.push(await select(patch));
    if (patches.length > 0) env.set('patches', words('patches', patches));
    const buildInputs: string[] = [];
    for (const ref of declaration.buildInputs) buildInputs.push(await refer(ref));
    if (buildInputs.length > 0) env.set('buildInputs', words('buildInputs', buildInputs));
    for (const [phase, template] of declaration.phases) env.set(phase, await render(template));

    const toolchain = await this.#toolchain(
      declaration.toolchain ?? manifest.toolchain,
      flake,
      trail,
      inputs,
    );
    const setup = setupRunner(manifest.setup);
    inputs.srcs.add(setup.path);
    this.#addSource(setup.path, setup.name, setup.narHash, async () => setup.tree);

    const { system } = this.#context;
    const builder = '/bin/sh';
    env.set('name', name);
    env.set('system', system);
    env.set('builder', builder);
    env.set('toolchain', toolchain.kind === 'host' ? 'host' : toolchain.path);
    if (outputs.length > 1) env.set('outputs', outputs.join(' '));
    const derivation = withOutputPaths(
      name,
      {
        outputs: new Map(outputs.map((output) => [output, { hashAlgo: '', hash: '' }])),
        inputDrvs: inputs.drvs,
        inputSrcs: [...inputs.srcs].sort(),
        system,
        builder,
        args: [setup.path],
        env,
      },
      this.#lookup,
    );
    const drvPath = this.#plan(name, derivation, toolchain);
    return { kind: 'derivation', drvPath, derivation, declaration };
  }

  async #toolchain(
    declaration: ToolchainDeclaration | undefined,
    flake: LockedFlake,
    trail: readonly string[],
    inputs: Inputs,
  ): Promise<Toolchain> {
    if (declaration === undefined || declaration.kind === 'host') return { kind: 'host' };
    const target = await this.#target(flake, declaration.ref, trail);
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

  async #fetched(declaration: FetchedPackage): Promise<ResolvedPackage> {
    const { urls, unpack, stripRoot, executable, hash } = declaration;
    const spec = { name: storeName(declaration), urls, unpack, stripRoot, executable };
    if (hash === undefined) return tellHash(spec, this.#context);
    const { derivation } = fetchDerivation(spec, hash);
    const drvPath = this.#plan(spec.name, derivation, { kind: 'host' });
    return { kind: 'derivation', drvPath, derivation, declaration };
  }

  async #merged(
    flake: LockedFlake,
    declaration: MergedPackage,
    trail: readonly string[],
  ): Promise<ResolvedPackage> {
    const { store } = this.#context;
    const name = storeName(declaration);
    const { parts, targets } = await this.#parts(flake, declaration, trail);
    const ready = async () => {
      await Promise.all(targets.map((target) => this.#ready(target)));
      return mergedTree(store, parts, declaration.links);
    };
    const key = mergeKey(parts, declaration.links);
    const known = store.memo(key);
    // One walk gives the hash and the copy in the store, which whoever asks for the hash is about to need.
    const narHash =
      known === undefined ? (await store.addTree(name, await ready())).narHash : parseNarHash(known);
    if (known === undefined) store.setMemo(key, narHash);
    const path = makeSourcePath(name, narHash);
    this.#addSource(path, name, narHash, ready);
    return { kind: 'source', path, merge: { name, narHash, parts, targets, declaration } };
  }

  async #parts(
    flake: LockedFlake,
    declaration: MergedPackage,
    trail: readonly string[],
  ): Promise<{ parts: MergePart[]; targets: Target[] }> {
    const targets: Target[] = [];
    const parts: MergePart[] = [];
    for (const { ref } of declaration.parts) {
      const target = await this.#target(flake, ref, trail);
      const label = printPackageRef(ref);
      if (target.resolved.kind === 'derivation' && target.resolved.declaration.kind === 'build') {
        throw new FlkError(
          'FLK_PACKAGE_INVALID',
          `${label} is built: flk merges fetches and sources, not yet built packages`,
        );
      }
      targets.push(target);
      parts.push({ label, path: target.path });
    }
    return { parts, targets };
  }

  /** Makes a part of a merge valid. */
  async #ready({ resolved }: Target): Promise<void> {
    const { store } = this.#context;
    if (resolved.kind === 'source') {
      if (store.query(resolved.path) === undefined) await this.#sources.get(resolved.path)!();
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

  /** The package that was asked for is a merge: as a derivation, so that it is built, listed and kept like any other. */
  #planMerge({ name, narHash, parts, targets, declaration }: ComputedMerge): StorePath {
    const inputs = new Inputs();
    for (const target of targets) inputs.add(target);
    const { derivation } = mergeDerivation(name, narHash, parts, declaration.links, {
      inputDrvs: inputs.drvs,
      inputSrcs: [...inputs.srcs].sort(),
    });
    return this.#plan(name, derivation, { kind: 'host' });
  }

  readonly #lookup = (drvPath: StorePath): Buffer => {
    const hash = this.#modulo.get(drvPath);
    if (hash === undefined) throw new FlkError('FLK_INTERNAL', `${drvPath} was not instantiated`);
    return hash;
  };

  #plan(name: string, derivation: Derivation, toolchain: Toolchain): StorePath {
    const drvPath = derivationPath(name, derivation);
    this.#planned.set(drvPath, { derivation, name, toolchain });
    this.#modulo.set(drvPath, hashDerivationModulo(derivation, this.#lookup));
    return drvPath;
  }

  async #selection(flake: LockedFlake, selection: SourceSelection & { kind: 'self' }): Promise<StorePath> {
    const tree = await flake.tree();
    const {
      path,
      name,
      narHash,
      tree: part,
    } = await selectSource({ tree, dir: flake.dir }, selection, this.#context);
    this.#addSource(path, name, narHash, async () => part);
    return path;
  }

  #addSource(path: StorePath, name: string, expected: NarHash, open: () => Promise<Tree>): void {
    if (this.#sources.has(path)) return;
    this.#sources.set(path, async () => {
      await this.#context.store.addTree(name, await open(), { expected });
    });
  }
}

function targetOf(resolved: ResolvedPackage, output: string, shown: string): PackageTarget {
  const path =
    resolved.kind === 'source'
      ? output === 'out'
        ? resolved.path
        : undefined
      : resolved.derivation.outputs.get(output)?.path;
  if (path !== undefined) return { resolved, output, path };
  const outputs = resolved.kind === 'source' ? ['out'] : [...resolved.derivation.outputs.keys()];
  throw new FlkError('FLK_PACKAGE_UNKNOWN', `${shown} has no output ${output}`, {
    facts: { outputs: outputs.join(' ') },
    hint: '',
  });
}

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
