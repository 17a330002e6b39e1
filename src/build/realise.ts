/** Makes the outputs of a package valid: builds what is missing, inputs first, many at a time, each once across processes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { compareBytes } from '../base/canonical.ts';
import { type Limiter, limiter, OnceMap, throwIfAborted } from '../base/concurrency.ts';
import { asFlkError, FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import { type Derivation, derivationReferences, printDerivation } from '../formats/derivation.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { PathInfo } from '../store/path-info.ts';
import type { Store } from '../store/store.ts';
import type { Substituter } from '../store/substituter.ts';
import { BuildLog } from './build-log.ts';
import { type Builders, isUnavailable } from './builders.ts';
import { type BuiltinContext, isBuiltin, runBuiltin } from './builtin.ts';
import type { BuildLimits, Engine } from './engines/engine.ts';
import { changedWords, coresFor } from './engines/surroundings.ts';
import type { Instantiation, PlannedDerivation } from './instantiation.ts';
import { type TakenOutput, takeOutputs } from './outputs.ts';
import { compareWithValid } from './reproduce.ts';

export interface RealiseContext extends BuiltinContext {
  readonly store: Store;
  /** Asked for when something is to be built. */
  builders(): Promise<Builders>;
  readonly reporter: Reporter;
  /** Asked before anything is built. */
  readonly substituter?: Substituter | undefined;
  readonly signal?: AbortSignal;
  /**
   * Told of the outputs of each derivation that was built or fetched, once they are valid. Nothing waits for it but the end; then a
   * rejection is one of `realiseAll`, and what was built stays.
   */
  onBuilt?(built: readonly PathInfo[]): Promise<void>;
}

export interface RealiseOptions {
  /** How many fetches and merges flk does itself at a time. How many builds, each builder says. */
  readonly jobs: number;
  /** What a builder is told of the machine: NIX_BUILD_CORES. */
  readonly cores: number;
  /** After a failure, still build what does not depend on it. Else what runs comes to its end, and nothing more is started. */
  readonly keepGoing?: boolean;
  /** Builds the package itself again, although it is there, and compares. */
  readonly rebuild?: boolean;
  /** How often, with `rebuild`: default 1. What a build should not depend on is different each time. */
  readonly times?: number;
  /** Seconds; undefined: none. */
  readonly timeout?: number;
  readonly maxSilent?: number;
  /** Bytes. */
  readonly maxOutputBytes?: number;
  readonly maxLogBytes?: number;
  /** What builds may use of this machine. */
  readonly caps?: Pick<BuildLimits, 'maxDiskBytes' | 'minFreeBytes' | 'maxMemory' | 'maxProcesses'>;
}

export interface Realised {
  /** Output name → store path, all valid now. */
  readonly outputs: ReadonlyMap<string, StorePath>;
  /** `.drv` paths of what was built or fetched, for all packages together, in the order in which it was done. */
  readonly built: readonly StorePath[];
  /** Those whose outputs were taken from a cache. */
  readonly substituted: readonly StorePath[];
  /** With `rebuild`: whether a path that had other bytes on disk than in its record was put right. */
  readonly repaired: boolean;
}

const defaultMaxOutput = 32 * 2 ** 30;
const defaultMaxLog = 256 * 2 ** 20;

/**
 * Realises the top of an instantiation. Touches nothing when its outputs are valid (unless `rebuild`). Throws FLK_BUILD_FAILED,
 * FLK_BUILD_TIMEOUT, FLK_BUILD_OUTPUT_…, FLK_BUILD_NOT_REPRODUCIBLE, FLK_SANDBOX_UNAVAILABLE, FLK_INTERRUPTED and what fetches throw;
 * where more than one thing failed, FLK_DEPENDENCY_FAILED with all of them. The trail leads from the package to the one at fault.
 */
export async function realise(
  context: RealiseContext,
  instantiation: Instantiation,
  options: RealiseOptions,
): Promise<Realised> {
  const [result] = await realiseAll(context, [instantiation], options);
  if (result?.status === 'fulfilled') return result.value;
  throw result?.reason;
}

/** Several packages as one piece of work: what they share is built, and fails, once. One result for each, in their order. */
export async function realiseAll(
  context: RealiseContext,
  instantiations: readonly Instantiation[],
  options: RealiseOptions,
): Promise<PromiseSettledResult<Realised>[]> {
  const realisation = new Realisation(context, united(instantiations), options);
  realisation.hold(instantiations.map(({ top }) => top));
  const results = await Promise.allSettled(
    instantiations.map(async ({ top, derivations }) => {
      const { built, substituted } = realisation;
      const derivation = derivations.get(top)?.derivation;
      if (derivation === undefined) {
        await realisation.source(top);
        return { outputs: new Map([['out', top]]), built, substituted, repaired: false };
      }
      await realisation.need(top);
      const repaired = options.rebuild ? await realisation.rebuild(top) : false;
      const outputs = new Map([...derivation.outputs].map(([name, { path }]) => [name, path]));
      return { outputs, built, substituted, repaired };
    }),
  );
  await realisation.told();
  return results;
}

const failuresOf = (results: readonly PromiseSettledResult<void>[]): unknown[] =>
  results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));

/** What a realisation builds from, whichever of its packages asks for it. */
type Plan = Pick<Instantiation, 'derivations' | 'sources'>;

const united = (instantiations: readonly Instantiation[]): Plan => ({
  derivations: new Map(instantiations.flatMap(({ derivations }) => [...derivations])),
  sources: new Map(instantiations.flatMap(({ sources }) => [...sources])),
});

/** One run of `realiseAll`. */
class Realisation {
  readonly built: StorePath[] = [];
  readonly substituted: StorePath[] = [];
  readonly #context: RealiseContext;
  readonly #instantiation: Plan;
  readonly #options: RealiseOptions;
  /** For what flk makes itself. */
  readonly #job: Limiter;
  /** What `onBuilt` is at. */
  readonly #telling: Promise<void>[] = [];
  readonly #needed = new OnceMap<StorePath, void>();
  readonly #sources = new OnceMap<StorePath, void>();
  readonly #recorded = new OnceMap<StorePath, void>();
  /** Output path → the derivation that makes it. */
  readonly #makers: ReadonlyMap<StorePath, StorePath>;
  #failed = false;
  /** Builds that are at an end but for the disk. */
  #registering = 0;

  constructor(context: RealiseContext, instantiation: Plan, options: RealiseOptions) {
    this.#context = context;
    this.#instantiation = instantiation;
    this.#options = options;
    this.#job = limiter(Math.max(1, options.jobs));
    this.#makers = new Map(
      [...instantiation.derivations].flatMap(([drvPath, { derivation }]) =>
        outputPaths(derivation).map((path): [StorePath, StorePath] => [path, drvPath]),
      ),
    );
  }

  /** Keeps what this run will use from being swept: the packages themselves, and where they are not there, all they may need. */
  hold(tops: readonly StorePath[]): void {
    const { store } = this.#context;
    const { derivations, sources } = this.#instantiation;
    const plans = tops.flatMap((top) => derivations.get(top)?.derivation ?? []);
    store.hold([...tops.filter((top) => sources.has(top)), ...plans.flatMap(outputPaths)]);
    if (!this.#options.rebuild && plans.every((derivation) => this.#isValid(derivation))) return;
    store.hold([
      ...[...derivations].flatMap(([drvPath, { derivation }]) => [drvPath, ...outputPaths(derivation)]),
      ...sources.keys(),
    ]);
  }

  /** Makes all outputs of a derivation valid, once. */
  need(drvPath: StorePath): Promise<void> {
    const plan = planned(this.#instantiation, drvPath);
    return this.#needed.get(drvPath, async () => {
      if (this.#isValid(plan.derivation)) return;
      if (await this.#substitute(drvPath, plan)) return;
      await this.#needInputs(plan);
      await this.#record(drvPath);
      try {
        if (isBuiltin(plan.derivation))
          await this.#job(() => this.#begun(drvPath, plan, () => this.#makeHere(drvPath, plan)));
        else
          await (await this.#context.builders()).run(plan, (engine, free) =>
            this.#begun(drvPath, plan, () => this.#buildNew(engine, drvPath, plan, free)),
          );
      } catch (error) {
        this.#failed = true;
        throw error;
      }
    });
  }

  /** What has got a place begins, unless that has become useless meanwhile. */
  async #begun(
    drvPath: StorePath,
    { name, derivation }: PlannedDerivation,
    make: () => Promise<void>,
  ): Promise<void> {
    throwIfAborted(this.#context.signal);
    if (this.#failed && !this.#options.keepGoing)
      throw new FlkError('FLK_DEPENDENCY_FAILED', `${name} was not started after a failure`);
    try {
      await this.#exclusively(derivation, async () => {
        // While we waited for the lock, another process may have done it.
        if (this.#isValid(derivation)) return;
        await make();
        this.built.push(drvPath);
      });
    } catch (error) {
      // Before the place goes to the next one, unless another builder has its turn.
      if (!isUnavailable(asFlkError(error))) this.#failed = true;
      throw error;
    }
  }

  /** What flk does itself: fetches and merges. */
  async #makeHere(drvPath: StorePath, { name, derivation }: PlannedDerivation): Promise<void> {
    await runBuiltin(drvPath, derivation, this.#context).catch((error: unknown) => {
      throw asFlkError(error).within(name);
    });
    this.#tell(outputPaths(derivation).flatMap((path) => this.#context.store.query(path) ?? []));
  }

  async #buildNew(
    engine: Engine,
    drvPath: StorePath,
    plan: PlannedDerivation,
    free: () => void,
  ): Promise<void> {
    await this.#build(engine, drvPath, plan, async (taken) => {
      // The next build may begin, so that what a disk takes for each sync is shared by all that wait for it.
      if (this.#registering < this.#options.jobs) free();
      this.#registering++;
      await this.#context.store.register(taken).finally(() => this.#registering--);
      this.#tell(taken.map(({ info }) => info));
    });
  }

  #tell(infos: readonly PathInfo[]): void {
    const told = this.#context.onBuilt?.(infos);
    if (!told) return;
    this.#telling.push(told);
    // It is looked at when all is done.
    told.catch(() => {});
  }

  /** Until all that `onBuilt` was told of is dealt with. */
  async told(): Promise<void> {
    await Promise.allSettled(this.#telling);
    await Promise.all(this.#telling);
  }

  /** Takes the outputs that are missing from a cache; whether all are there now. */
  async #substitute(drvPath: StorePath, { name, derivation }: PlannedDerivation): Promise<boolean> {
    const { store, substituter, signal } = this.#context;
    if (!substituter) return false;
    throwIfAborted(signal);
    const missing = outputPaths(derivation).filter((path) => store.query(path) === undefined);
    try {
      // One after the other: without the first, the others are of no use.
      for (const path of missing) if (!(await substituter.substitute(path))) return false;
    } catch (error) {
      throw asFlkError(error).within(name);
    }
    this.substituted.push(drvPath);
    return true;
  }

  /** Builds again beside what is there; tells whether what was there had to be put right. */
  async rebuild(drvPath: StorePath): Promise<boolean> {
    const plan = planned(this.#instantiation, drvPath);
    // Built just now, or a fixed output, which cannot be anything else than what it was.
    if (isBuiltin(plan.derivation)) {
      for (const path of outputPaths(plan.derivation)) await this.#context.store.verifyPath(path);
      return false;
    }
    await this.#needInputs(plan);
    const { times = 1 } = this.#options;
    await this.#untilClockMoved(plan.derivation);
    let repaired = false;
    for (let round = 1; round <= times; round++) {
      repaired =
        (await (
          await this.#context.builders()
        ).run(plan, (engine) =>
          this.#exclusively(plan.derivation, () =>
            this.#build(
              engine,
              drvPath,
              plan,
              (taken) => compareWithValid(this.#context.store, plan.name, taken, changedWords(round)),
              round,
            ),
          ),
        )) || repaired;
    }
    return repaired;
  }

  /** A build in the same second would hide what writes down the time. */
  async #untilClockMoved(derivation: Derivation): Promise<void> {
    const infos = outputPaths(derivation).map((path) => this.#context.store.query(path));
    const last = Math.max(...infos.map((info) => info?.registrationTime ?? 0));
    const left = (last + 1) * 1000 - Date.now();
    // A clock that was put back is not waited for.
    if (left > 0 && left <= 1000) await sleep(left);
  }

  #isValid(derivation: Derivation): boolean {
    return outputPaths(derivation).every((path) => this.#context.store.query(path) !== undefined);
  }

  async #needInputs({ name, derivation, toolchain }: PlannedDerivation): Promise<void> {
    const drvs = new Set(derivation.inputDrvs.keys());
    const sources = new Set(derivation.inputSrcs);
    if (toolchain.kind === 'path') {
      const maker = this.#makers.get(toolchain.path);
      if (maker) drvs.add(maker);
      else sources.add(toolchain.path);
    }
    // The sources of all that will be built are asked for together, for a tree is walked as a whole: not each when its turn has come.
    const [results, copies] = await Promise.all([
      Promise.allSettled([...drvs].map((drvPath) => this.need(drvPath))),
      Promise.allSettled([...sources].map((path) => this.source(path))),
    ]);
    const failures = failuresOf(results);
    if (failures.length > 0) throw combined(name, failures);
    const [failure] = failuresOf(copies);
    if (failure !== undefined) throw asFlkError(failure).within(name);
  }

  /** Keeps the recipe of what is built: the `.drv` file, and with it those of its inputs and their sources, to which it refers. */
  #record(drvPath: StorePath): Promise<void> {
    return this.#recorded.get(drvPath, async () => {
      const { store } = this.#context;
      if (store.query(drvPath)) return;
      const { name, derivation } = planned(this.#instantiation, drvPath);
      await Promise.all([
        ...[...derivation.inputDrvs.keys()].map((input) => this.#record(input)),
        ...derivation.inputSrcs.map((path) => this.source(path)),
      ]);
      await store.addText(`${name}.drv`, printDerivation(derivation), derivationReferences(derivation));
    });
  }

  /** Puts something that is known by its content into the store, once. */
  source(path: StorePath): Promise<void> {
    return this.#sources.get(path, async () => {
      if (this.#context.store.query(path)) return;
      const make = this.#instantiation.sources.get(path);
      if (!make) throw new FlkError('FLK_INTERNAL', `nothing says how to make the source ${path}`);
      throwIfAborted(this.#context.signal);
      await make();
    });
  }

  /** Holds the outputs' locks. Another flk that builds the same is waited for, as long as it takes. */
  async #exclusively<T>(derivation: Derivation, work: () => Promise<T>): Promise<T> {
    const { store, signal } = this.#context;
    for (;;) {
      let begun = false;
      try {
        const locked = async (): Promise<T> => {
          begun = true;
          throwIfAborted(signal);
          return await work();
        };
        return await store.withPathLocks(outputPaths(derivation), locked, signal);
      } catch (error) {
        if (begun || !(error instanceof FlkError) || error.code !== 'FLK_LOCK_BUSY') throw error;
        throwIfAborted(signal);
      }
    }
  }

  /** Runs the builder, hands what it left to `take`, and removes what is then still there. */
  #build<T>(
    engine: Engine,
    drvPath: StorePath,
    plan: PlannedDerivation,
    take: (taken: readonly TakenOutput[]) => Promise<T>,
    variation?: number,
  ): Promise<T> {
    const { store, reporter, signal } = this.#context;
    const { name, derivation, toolchain } = plan;
    const limits = limitsOf(this.#options);
    return span(reporter, { type: 'build', name, drvPath, builder: engine.name }, async ({ log }) => {
      const closure = this.#closure(plan);
      const kept = BuildLog.create(store.root, drvPath);
      try {
        const built = await engine
          .build({
            drvPath,
            derivation,
            closure,
            toolchain,
            limits,
            cores: coresFor(this.#options.cores, variation),
            ...(variation === undefined ? {} : { variation }),
            log: (line) => {
              kept.add(line);
              log(line);
            },
            ...(signal ? { signal } : {}),
          })
          .catch((error: unknown) => {
            throw kept.explain(name, error);
          });
        try {
          const taken = await takeOutputs(built.outputs, {
            drvPath,
            derivation,
            closure,
            maxBytes: limits.maxOutputBytes,
            ultimate: engine.ultimate,
            ...(signal ? { signal } : {}),
          });
          throwIfAborted(signal);
          return await take(taken);
        } catch (error) {
          throw asFlkError(await (built.failed?.(error) ?? error)).within(name);
        } finally {
          await built.dispose();
        }
      } finally {
        await kept.close();
      }
    });
  }

  /** All that the builder may see. */
  #closure({ derivation, toolchain }: PlannedDerivation): StorePath[] {
    const direct = new Set(derivation.inputSrcs);
    if (toolchain.kind === 'path') direct.add(toolchain.path);
    for (const [drvPath, names] of derivation.inputDrvs) {
      const input = planned(this.#instantiation, drvPath);
      for (const name of names) {
        const output = input.derivation.outputs.get(name);
        if (!output) throw new FlkError('FLK_DERIVATION_INVALID', `${input.name} has no output ${name}`);
        direct.add(output.path);
      }
    }
    return this.#context.store.closure(direct);
  }
}

function planned(instantiation: Plan, drvPath: StorePath): PlannedDerivation {
  const found = instantiation.derivations.get(drvPath);
  if (!found) throw new FlkError('FLK_INTERNAL', `${drvPath} is not among the derivations of this build`);
  return found;
}

const outputPaths = (derivation: Derivation): StorePath[] =>
  [...derivation.outputs.values()].map(({ path }) => path).sort(compareBytes);

function limitsOf(options: RealiseOptions): BuildLimits {
  const { timeout, maxSilent } = options;
  return {
    ...(timeout === undefined ? {} : { timeout }),
    ...(maxSilent === undefined ? {} : { maxSilent }),
    maxOutputBytes: options.maxOutputBytes ?? defaultMaxOutput,
    maxLogBytes: options.maxLogBytes ?? defaultMaxLog,
    ...options.caps,
  };
}

/** The failures of what `name` needs as one: the only one that counts, or all of them. */
function combined(name: string, failures: readonly unknown[]): FlkError {
  const errors = [...new Set(failures)].map(asFlkError);
  const interrupted = errors.find((error) => error.code === 'FLK_INTERRUPTED');
  if (interrupted) return interrupted;
  // What was never started says nothing about why.
  const causes = errors.filter(({ code, cause }) => code !== 'FLK_DEPENDENCY_FAILED' || cause !== undefined);
  const [first, ...others] = causes;
  // Nor does one that waited for several of them.
  if (first === undefined) return errors[0]!.within(name);
  if (others.length === 0) return first.within(name);
  return new FlkError('FLK_DEPENDENCY_FAILED', `${causes.length} of the things that ${name} needs failed`, {
    facts: Object.fromEntries(causes.map((error) => [error.trail.at(-1) ?? error.code, error.message])),
    trail: [name],
    cause: first,
  });
}
