/** Packages that a command line names, locked, instantiated and made valid: what build, run, shell, profile and others begin with. */
import { dirname } from 'node:path';
import { compareBytes } from '../base/canonical.ts';
import { asFlkError, FlkError } from '../base/errors.ts';
import { version } from '../base/version.ts';
import type { Builders, PassedOver } from '../build/builders.ts';
import { isBuiltin } from '../build/builtin.ts';
import type { BuildRequest } from '../build/engines/engine.ts';
import { type Forecast, forecast } from '../build/forecast.ts';
import {
  type InstantiatedPackage,
  type InstantiationContext,
  Instantiator,
  instantiate,
  type NamedPackage,
} from '../build/instantiate.ts';
import type { Instantiation } from '../build/instantiation.ts';
import { type Realised, realiseAll } from '../build/realise.ts';
import { printFlakeRef } from '../flake/flake-ref.ts';
import { parseManifest } from '../flake/manifest.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import { downloader } from '../sources/download.ts';
import type { PathInfo } from '../store/path-info.ts';
import type { ElementSource } from '../store/profile.ts';
import { buildOptions } from './build-options.ts';
import { openBuilders } from './builders.ts';
import type { Context } from './context.ts';
import { readPackages } from './flake.ts';
import { keepInputs } from './live-roots.ts';
import { openLockedAs } from './locking.ts';
import { packageOf, parseTarget, systemOf, type Target, withChecks } from './targets.ts';

/** A package that lies in the store now. */
export interface BuiltTarget {
  /** Undefined for what came out of a binary cache as a path. */
  readonly drvPath: StorePath | undefined;
  /** Those that were asked for: name → path. */
  readonly outputs: ReadonlyMap<string, StorePath>;
  /** The package's own name, aliases resolved. */
  readonly name: string;
  /** What `flk run` starts in the output's `bin`, where the manifest says it. */
  readonly mainProgram: string | undefined;
}

/** One that the command line named. */
export interface NamedTarget extends BuiltTarget {
  /** What names it again, and where it was found this time. */
  readonly source: () => Promise<ElementSource>;
}

/**
 * Locks each flake once and builds what is named, all together; results in the order given. With `--keep-going`, failures wait
 * for the rest.
 */
export async function buildTargets(
  context: Context,
  targets: readonly string[],
): Promise<readonly NamedTarget[]> {
  const { packages, sources, flakes, failures } = await instantiateTargets(context, targets);
  const results = await realisePackages(context, packages);
  for (const result of results) if (result.status === 'rejected') failures.push(result.reason);
  if (failures.length > 0) throw allOf(failures.map(asFlkError));
  for (const opened of flakes) await keepInputs(context, opened);
  return results.flatMap((result, i) =>
    result.status === 'fulfilled'
      ? [{ ...targetOf(packages[i]!, result.value.outputs), source: sources[i]! }]
      : [],
  );
}

/** What `buildTargets` would give, with nothing built that its paths do not depend on; what does not fail here may fail there. */
export async function planTargets(
  context: Context,
  targets: readonly string[],
): Promise<readonly NamedTarget[]> {
  const { packages, sources, failures } = await instantiateTargets(context, targets);
  if (failures.length > 0) throw allOf(failures.map(asFlkError));
  return packages.map((planned, i) => {
    const made = planned.derivations.get(planned.top)?.derivation.outputs;
    const outputs = new Map([...(made ?? [])].map(([name, { path }]) => [name, path]));
    return { ...targetOf(planned, made ? outputs : new Map([['out', planned.top]])), source: sources[i]! };
  });
}

/** What would be built, and by whom. */
export interface ForeseenBuild
  extends Pick<Forecast['build'][number], 'drvPath' | 'name' | 'outputs' | 'why'> {
  /** `flk`: itself, without a builder. Undefined: nobody can. */
  readonly builder: string | undefined;
  /** Builders that come before it, and why it is not they. */
  readonly passedOver: readonly PassedOver[];
}

export interface Foreseen extends Omit<Forecast, 'build'> {
  readonly build: readonly ForeseenBuild[];
}

/** What building these would do. Packages that others need by their content (contentAddressed) are built to know it. */
export async function forecastTargets(context: Context, targets: readonly string[]): Promise<Foreseen> {
  const { packages, failures } = await instantiateTargets(context, targets);
  if (failures.length > 0) throw allOf(failures.map(asFlkError));
  const [store, substituter] = await Promise.all([context.store(), context.substituter()]);
  const isValid = (path: StorePath): boolean => store.query(path) !== undefined;
  const { build, ...others } = await forecast(
    packages,
    substituter ? { isValid, offers: (paths) => substituter.offers(paths) } : { isValid },
    { rebuild: context.flags.rebuild },
  );
  return { ...others, build: await withBuilders(context, build) };
}

async function withBuilders(context: Context, builds: Forecast['build']): Promise<ForeseenBuild[]> {
  const { keepFailed, jobs } = await buildOptions(context);
  const builders = await openBuilders(context, { jobs, keepFailed, begun: () => {} });
  try {
    const left = builds.filter(({ plan }) => !isBuiltin(plan.derivation));
    await builders.probe(
      left.map(({ plan }) => plan),
      context.signal,
    );
    return builds.map(({ plan, ...told }) => {
      if (isBuiltin(plan.derivation)) return { ...told, builder: 'flk', passedOver: [] };
      const { builder, passedOver } = builders.choose(plan);
      return { ...told, builder: builder?.engine.name, passedOver };
    });
  } finally {
    await builders.close();
  }
}

interface InstantiatedTargets {
  readonly packages: readonly InstantiatedPackage[];
  /** One for each package. */
  readonly sources: readonly NamedTarget['source'][];
  readonly flakes: readonly OpenedFlake[];
  /** With `--keep-going`. */
  readonly failures: unknown[];
}

/** Locks each flake once. */
async function instantiateTargets(
  context: Context,
  targets: readonly string[],
): Promise<InstantiatedTargets> {
  sayLocked(context);
  const flakes = new Map<string, Promise<OpenedFlake>>();
  /** What two packages of a flake share is looked at once. */
  const instantiators = new Map<OpenedFlake, Instantiator>();
  const packages: InstantiatedPackage[] = [];
  const sources: NamedTarget['source'][] = [];
  const failures: unknown[] = [];
  for (const target of targets) {
    const parsed = parseTarget(target, systemOf(context));
    const opening = flakes.get(parsed.flake) ?? openPackages(context, parsed.flake);
    flakes.set(parsed.flake, opening);
    try {
      const opened = await opening;
      const instantiator = instantiators.get(opened) ?? new Instantiator(opened);
      instantiators.set(opened, instantiator);
      packages.push(await instantiator.instantiate(packageOf(parsed, opened)));
      sources.push(() => sourceOf(parsed, opened));
    } catch (error) {
      if (!context.flags['keep-going'] || context.signal.aborted) throw error;
      failures.push(error);
    }
  }
  return { packages, sources, flakes: [...instantiators.keys()], failures };
}

async function sourceOf(
  { kind = 'packages', name = 'default', output }: Target,
  opened: OpenedFlake,
): Promise<ElementSource> {
  return {
    originalUrl: opened.originalUrl,
    url: await opened.url(),
    attrPath: `${kind}.${opened.system}.${name}`,
    ...(output === undefined ? {} : { outputs: [output] }),
  };
}

/** The first failure, with what the others say: two packages that need the same one fail of the same. */
function allOf(failures: readonly FlkError[]): FlkError {
  // What was not even begun, because something else had failed, says nothing of its own.
  const told = failures.filter(({ code, cause }) => code !== 'FLK_DEPENDENCY_FAILED' || cause !== undefined);
  const first = told[0] ?? failures[0]!;
  const others = new Set(told.map(({ message }) => message));
  others.delete(first.message);
  if (others.size === 0) return first;
  return new FlkError(first.code, first.message, {
    facts: { ...first.facts, 'failed too': [...others].join('\n') },
    hint: first.hint,
    trail: first.trail,
    diagnostics: first.diagnostics,
    cause: first.cause,
  });
}

/** Builds one package of a flake that is open. */
export async function buildPackage(
  context: Context,
  opened: OpenedFlake,
  request: NamedPackage,
): Promise<BuiltTarget> {
  const planned = await instantiate(opened, request);
  const [result] = await realisePackages(context, [planned]);
  if (result?.status !== 'fulfilled') throw result?.reason;
  await keepInputs(context, opened);
  return targetOf(planned, result.value.outputs);
}

/** What instantiating packages of a flake takes. Its checks are among its packages, as `withChecks` names them. */
export interface OpenedFlake extends InstantiationContext {
  /** Where its manifest lies on this machine; undefined where it was fetched. */
  readonly folder: string | undefined;
  /** Likewise its flake.lock. */
  readonly lockPath: string | undefined;
  /** The flake as it was asked for, whole. */
  readonly originalUrl: string;
  /** Where that led, pinned. */
  readonly url: () => Promise<string>;
}

/** Opens a flake for a command that works on it alone. */
export async function openOne(context: Context, target: string): Promise<OpenedFlake> {
  sayLocked(context);
  return await openPackages(context, target);
}

function sayLocked(context: Context): void {
  if (context.lockedByCi) context.reporter.emit({ kind: 'notice', notice: { type: 'ci-locked' } });
}

async function openPackages(context: Context, target: string): Promise<OpenedFlake> {
  const system = systemOf(context);
  const { flake, manifest, lock } = await openLockedAs(context, target, (flake) => {
    flake.lookAhead();
    return readPackages(flake);
  });
  const [tree, source, store] = await Promise.all([flake.files(), context.sources(), context.store()]);
  return {
    lock,
    root: { manifest: withChecks(manifest, system), tree, dir: flake.dir },
    source,
    parseManifest: (file) => parseManifest(file, { flkVersion: version }),
    system,
    store,
    reporter: context.reporter,
    download: downloader(context),
    signal: context.signal,
    importClosure: async (wanted) => (await import('./caches.ts')).closureImporter(context)(wanted),
    realise: (instantiation) => realiseForOthers(context, instantiation),
    folder: flake.manifestPath === undefined ? undefined : dirname(flake.manifestPath),
    lockPath: flake.lockPath,
    originalUrl: printFlakeRef(flake.ref),
    url: async () => printFlakeRef((await flake.tree()).locked),
  };
}

/** A package that others are built with, where its content decides what they are. */
async function realiseForOthers(
  context: Context,
  instantiation: Instantiation,
): Promise<ReadonlyMap<string, StorePath>> {
  const [result] = await realisePackages(context, [instantiation], { rebuild: false, settle: false });
  if (result?.status !== 'fulfilled') throw result?.reason;
  return result.value.outputs;
}

/** Makes packages valid, all together, and says which builds saw this machine's tools. Results in the order given. */
export async function realisePackages(
  context: Context,
  packages: readonly Instantiation[],
  {
    rebuild = context.flags.rebuild,
    keepGoing = context.flags['keep-going'],
    settle = true,
  }: {
    readonly rebuild?: boolean;
    readonly keepGoing?: boolean;
    /** Waits for what is to be done with what was built. */
    readonly settle?: boolean;
  } = {},
): Promise<PromiseSettledResult<Realised>[]> {
  const { flags, reporter, signal } = context;
  const store = await context.store();
  const { keepFailed, ...options } = await buildOptions(context);
  // Told of what is built, and not of what turns out to be in a cache.
  const impure = new Set<string>();
  const begun = ({ toolchain, drvPath }: BuildRequest): void => {
    if (toolchain.kind === 'host') impure.add(nameOf(drvPath).slice(0, -'.drv'.length));
  };
  let opened: Promise<Builders> | undefined;
  const builders = (): Promise<Builders> => {
    opened ??= openBuilders(context, { jobs: options.jobs, keepFailed, begun });
    return opened;
  };
  // Whoever compares wants to build, and so must have what it is built from; that may well come from a cache.
  const substituter = await context.substituter();
  const after = await context.afterBuild();
  try {
    const realising = {
      store,
      builders,
      reporter,
      download: downloader(context),
      substituter,
      signal,
      ...(after && { onBuilt: (built: readonly PathInfo[]) => after.onBuilt(built) }),
    };
    const results = await realiseAll(realising, packages, {
      ...options,
      keepGoing,
      rebuild,
      times: flags.times ?? 1,
    });
    if (settle) await after?.settled();
    return results;
  } finally {
    await (await opened?.catch(() => undefined))?.close();
    if (impure.size > 0)
      reporter.emit({
        kind: 'notice',
        notice: { type: 'host-toolchain', packages: [...impure].sort(compareBytes) },
      });
  }
}

function targetOf(planned: InstantiatedPackage, outputs: ReadonlyMap<string, StorePath>): BuiltTarget {
  return {
    drvPath: planned.derivations.has(planned.top) ? planned.top : undefined,
    outputs: new Map(planned.outputs.map((output) => [output, pathOf(outputs, output)])),
    name: planned.declaration.name,
    mainProgram: planned.declaration.meta.mainProgram,
  };
}

function pathOf(outputs: ReadonlyMap<string, StorePath>, name: string): StorePath {
  const path = outputs.get(name);
  if (path === undefined) throw new FlkError('FLK_INTERNAL', `the build gave no output ${name}`);
  return path;
}
