/** What realising packages would do, found out without doing any of it. */
import { compareBytes } from '../base/canonical.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { OfferedPath } from '../store/substituter.ts';
import type { Instantiation, PlannedDerivation } from './instantiation.ts';

export interface Forecast {
  /** What would be built, or made by flk itself, inputs first. */
  readonly build: readonly ForecastBuild[];
  /** What would come from binary caches, sorted by path. */
  readonly fetch: readonly ForecastFetch[];
  /** Sources that would be put into the store, sorted. */
  readonly sources: readonly StorePath[];
  /** What was asked for and is there already, in the order in which it was asked for. */
  readonly present: readonly StorePath[];
}

interface ForecastBuild {
  readonly drvPath: StorePath;
  /** As a person knows it: `hello-2.12`. */
  readonly name: string;
  /** Output name → store path. */
  readonly outputs: ReadonlyMap<string, StorePath>;
  /** `again`: it is there, and is to be built again; `not-cached`: no cache has it, with all that it refers to. */
  readonly why: 'again' | 'no-caches' | 'not-cached';
  readonly plan: PlannedDerivation;
}

interface ForecastFetch extends Omit<OfferedPath, 'references'> {
  readonly path: StorePath;
}

/** What a forecast asks. */
export interface ForecastSources {
  isValid(path: StorePath): boolean;
  /** As `Substituter.offers`; absent where no cache is asked. */
  offers?(paths: readonly StorePath[]): Promise<ReadonlyMap<StorePath, OfferedPath>>;
}

/** The same decisions as `realiseAll` takes, as far as they can be known beforehand. `rebuild`: what was asked for is built again. */
export async function forecast(
  instantiations: readonly Instantiation[],
  sources: ForecastSources,
  { rebuild = false }: { readonly rebuild?: boolean } = {},
): Promise<Forecast> {
  const walk = new Walk(instantiations, sources);
  await walk.need(walk.tops);
  if (rebuild) await walk.buildAgain(walk.tops);
  return walk.result();
}

class Walk {
  readonly tops: readonly StorePath[];
  readonly #derivations: ReadonlyMap<StorePath, PlannedDerivation>;
  readonly #makers = new Map<StorePath, StorePath>();
  readonly #world: ForecastSources;
  /** Derivations that were looked at. */
  readonly #seen = new Set<StorePath>();
  readonly #build = new Set<StorePath>();
  readonly #fetch = new Map<StorePath, ForecastFetch>();
  readonly #sources = new Set<StorePath>();
  /** What caches were asked for, and said. */
  readonly #offers = new Map<StorePath, OfferedPath | undefined>();
  /** What no cache has with all that it refers to. */
  readonly #unavailable = new Set<StorePath>();
  /** Offered path → what was offered and refers to it. */
  readonly #referrers = new Map<StorePath, StorePath[]>();

  constructor(instantiations: readonly Instantiation[], world: ForecastSources) {
    this.#world = world;
    this.tops = [...new Set(instantiations.map(({ top }) => top))];
    this.#derivations = new Map(instantiations.flatMap(({ derivations }) => [...derivations]));
    for (const [drvPath, plan] of this.#derivations)
      for (const path of outputPaths(plan)) this.#makers.set(path, drvPath);
  }

  /** Level by level, so that caches are asked for many paths at a time. */
  async need(level: readonly StorePath[]): Promise<void> {
    for (let next = level; next.length > 0; ) {
      const missing = [...new Set(next)].filter((path) => !this.#seen.has(path) && !this.#isThere(path));
      for (const path of next) this.#seen.add(path);
      const wanted = missing.filter((path) => this.#derivations.has(path));
      // A source: what gets it is not told.
      for (const path of missing) if (!this.#derivations.has(path)) this.#sources.add(path);
      const outputs = wanted.map((drvPath) => this.#missingOutputs(drvPath));
      await this.#ask(outputs.flat());
      const inputs: StorePath[] = [];
      for (const [i, drvPath] of wanted.entries()) {
        if (outputs[i]!.some((path) => this.#unavailable.has(path))) inputs.push(...this.#plan(drvPath));
        else this.#take(outputs[i]!);
      }
      next = inputs;
    }
  }

  async buildAgain(drvPaths: readonly StorePath[]): Promise<void> {
    const planned = drvPaths.filter((path) => this.#derivations.has(path) && !this.#build.has(path));
    await this.need(planned.flatMap((drvPath) => this.#plan(drvPath)));
  }

  result(): Forecast {
    return {
      build: this.#inputsFirst().map((drvPath) => {
        const plan = this.#derivations.get(drvPath)!;
        const outputs = new Map([...plan.derivation.outputs].map(([output, { path }]) => [output, path]));
        const isAgain = this.#isThere(drvPath);
        const why = isAgain ? 'again' : this.#world.offers ? 'not-cached' : 'no-caches';
        return { drvPath, name: plan.name, outputs, why, plan };
      }),
      fetch: [...this.#fetch.values()].sort((a, b) => compareBytes(a.path, b.path)),
      sources: [...this.#sources].sort(compareBytes),
      present: this.tops.flatMap((top) => {
        if (!this.#isThere(top)) return [];
        const plan = this.#derivations.get(top);
        return plan ? outputPaths(plan) : [top];
      }),
    };
  }

  #isThere(path: StorePath): boolean {
    const plan = this.#derivations.get(path);
    return plan ? this.#missingOutputs(path).length === 0 : this.#world.isValid(path);
  }

  #missingOutputs(drvPath: StorePath): StorePath[] {
    return outputPaths(this.#derivations.get(drvPath)!).filter((path) => !this.#world.isValid(path));
  }

  /** Notes that it will be built; gives what has to be there for that. */
  #plan(drvPath: StorePath): StorePath[] {
    this.#build.add(drvPath);
    const { derivation, toolchain } = this.#derivations.get(drvPath)!;
    const needs = [...derivation.inputDrvs.keys(), ...derivation.inputSrcs];
    if (toolchain.kind === 'path') needs.push(this.#makers.get(toolchain.path) ?? toolchain.path);
    return needs;
  }

  /** Asks caches for these paths and all that they refer to. */
  async #ask(paths: readonly StorePath[]): Promise<void> {
    const useless: StorePath[] = [];
    for (let level = paths; level.length > 0; ) {
      const asked = [...new Set(level)].filter(
        (path) => !this.#offers.has(path) && !this.#world.isValid(path),
      );
      if (asked.length === 0) break;
      const offered = (await this.#world.offers?.(asked)) ?? new Map<StorePath, OfferedPath>();
      for (const path of asked) {
        const offer = offered.get(path);
        this.#offers.set(path, offer);
        if (!offer) useless.push(path);
        for (const reference of offer?.references ?? []) {
          const known = this.#referrers.get(reference);
          if (known) known.push(path);
          else this.#referrers.set(reference, [path]);
          if (this.#unavailable.has(reference)) useless.push(path);
        }
      }
      level = asked.flatMap((path) => offered.get(path)?.references ?? []);
    }
    for (let path = useless.pop(); path !== undefined; path = useless.pop()) {
      if (this.#unavailable.has(path)) continue;
      this.#unavailable.add(path);
      useless.push(...(this.#referrers.get(path) ?? []));
    }
  }

  /** Notes that these paths, which caches have with all that they refer to, will be fetched. */
  #take(paths: readonly StorePath[]): void {
    const waiting = [...paths];
    for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
      const offer = this.#offers.get(path);
      if (!offer || this.#fetch.has(path)) continue;
      const { references, ...told } = offer;
      this.#fetch.set(path, { path, ...told });
      waiting.push(...references);
    }
  }

  /** What will be built, each after all that it needs. A chain may be deeper than the stack: no recursion. */
  #inputsFirst(): StorePath[] {
    const ordered = new Set<StorePath>();
    const opened = new Set<StorePath>();
    const waiting = [...this.tops].reverse();
    while (waiting.length > 0) {
      const drvPath = waiting.at(-1)!;
      if (opened.has(drvPath) || !this.#derivations.has(drvPath)) {
        waiting.pop();
        if (this.#build.has(drvPath)) ordered.add(drvPath);
        continue;
      }
      opened.add(drvPath);
      if (this.#build.has(drvPath)) waiting.push(...this.#plan(drvPath).reverse());
    }
    return [...ordered];
  }
}

const outputPaths = ({ derivation }: PlannedDerivation): StorePath[] =>
  [...derivation.outputs.values()].map(({ path }) => path);
