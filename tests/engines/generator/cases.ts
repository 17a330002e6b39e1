/** One case: a root flake, and what happens to it and to its world, step by step. */
import { posix } from 'node:path';
import { generateInputs, referenceTo } from './inputs.ts';
import type { FlakeSpec, InputSpec, Inputs } from './manifest.ts';
import { Random } from './random.ts';
import type { World } from './world.ts';

/** For `--output-lock-file`: both tools start in a folder of their own. */
export const outputLock = 'output.lock';

/** For `--reference-lock-file`, in the same folder: the lock before the command, damaged. */
export const referenceLock = 'reference.lock';

/** Where a root flake is: at the top of a repository, in a folder of one, or in a plain folder. */
const rootKinds = ['repository', 'subfolder', 'folder'] as const;
export type RootKind = (typeof rootKinds)[number];

/** The folders of a root's tree that hold flakes, its own aside. */
export const rootDirs = ['lib', 'sub', 'sub/sub'];

export interface Step {
  /** Place → moment. */
  readonly moments: ReadonlyMap<string, number>;
  /** Folder in the root's tree → flake. */
  readonly specs: ReadonlyMap<string, FlakeSpec>;
  /** What becomes of the lock before the command: a number is a seed for damage. */
  readonly lock: 'keep' | 'remove' | { readonly damage: string };
  readonly command: 'lock' | 'update';
  /** Inputs to update; none means all. */
  readonly updates: readonly string[];
  readonly flags: readonly string[];
  /** Repositories with a change that is not committed. */
  readonly changed: readonly string[];
}

export interface Case {
  readonly seed: string;
  readonly root: RootKind;
  readonly steps: readonly Step[];
}

export function rootDir(kind: RootKind): string {
  return kind === 'subfolder' ? 'app' : '';
}

export function generateCase(world: World, seed: string): Case {
  const random = new Random(`case ${seed}`);
  const root = random.pick(rootKinds);
  const moments = new Map(
    world.places.map(({ name }): [string, number] => [
      name,
      random.chance(0.7) ? 0 : random.below(world.moments),
    ]),
  );
  const roots = new RootFlakes(world, random, root, moments);
  const steps: Step[] = [roots.step({ lock: 'remove' })];
  const count = 2 + random.below(2);
  for (let i = 0; i < count; i++) {
    if (random.chance(0.6)) roots.moveOn();
    switch (random.weighted({ ...likely(i), again: 8, override: 12, recreate: 4, kept: 4, reference: 3 })) {
      case 'edit':
        roots.edit();
        steps.push(roots.step(random.chance(0.2) ? { lock: { damage: `${seed} ${i}` } } : {}));
        break;
      case 'update':
        steps.push(roots.step({ command: 'update', updates: roots.updates() }));
        break;
      case 'again':
        steps.push(roots.step({}));
        break;
      case 'override':
        steps.push(
          roots.step({
            flags: roots.overrideFlags(),
            ...(random.chance(0.3) && { command: 'update', updates: roots.updates() }),
          }),
        );
        break;
      case 'recreate':
        steps.push(roots.step({ flags: ['--recreate-lock-file'] }));
        break;
      case 'reference':
        steps.push(roots.step({ flags: ['--reference-lock-file', referenceLock] }));
        break;
      case 'kept':
        roots.edit();
        steps.push(
          roots.step({
            flags: random.chance(0.5) ? ['--no-update-lock-file'] : ['--output-lock-file', outputLock],
          }),
        );
    }
  }
  return { seed, root, steps };
}

/** After the first lock mostly an edit, and then an update. */
function likely(index: number): { edit: number; update: number } {
  if (index === 0) return { edit: 70, update: 10 };
  return index === 1 ? { edit: 20, update: 60 } : { edit: 40, update: 30 };
}

/** The root's manifests as they are edited. */
class RootFlakes {
  readonly #world: World;
  readonly #random: Random;
  readonly #kind: RootKind;
  readonly #specs = new Map<string, FlakeSpec>();
  #moments: Map<string, number>;

  constructor(world: World, random: Random, kind: RootKind, moments: Map<string, number>) {
    this.#world = world;
    this.#random = random;
    this.#kind = kind;
    this.#moments = moments;
    // From the innermost outwards, each may ask for those that were there before.
    const dirs = [...rootDirs].reverse();
    for (const [index, dir] of dirs.entries())
      this.#specs.set(dir, this.#flake(dir, random.below(3), random.chance(0.5) ? dirs.slice(0, index) : []));
    this.#specs.set(this.#dir, this.#flake(this.#dir, 1 + random.below(6), rootDirs));
  }

  get #dir(): string {
    return rootDir(this.#kind);
  }

  step(step: Partial<Step>): Step {
    return {
      moments: new Map(this.#moments),
      specs: new Map(this.#specs),
      lock: 'keep',
      command: 'lock',
      updates: [],
      flags: [],
      changed: this.#random.chance(0.03) ? [this.#random.pick(this.#world.places).name] : [],
      ...step,
    };
  }

  /** Some repositories get new commits, and refs move. */
  moveOn(): void {
    const last = this.#world.moments - 1;
    this.#moments = new Map(
      [...this.#moments].map(([name, moment]) => [
        name,
        this.#random.chance(0.5) ? Math.min(last, moment + 1) : moment,
      ]),
    );
  }

  edit(): void {
    const random = this.#random;
    const dir = random.chance(0.85) ? this.#dir : random.pick(rootDirs);
    const old = this.#specs.get(dir)!;
    const fresh = this.#flake(dir, 1 + random.below(5), dir === this.#dir ? rootDirs : []);
    const merged: Record<string, InputSpec> = {};
    for (const [name, input] of Object.entries(old.inputs)) {
      const change = random.weighted({ keep: 60, drop: 12, flake: 5, rename: 6, plain: 7, url: 10 });
      if (change === 'drop') continue;
      if (change === 'flake' && input.follows === undefined) {
        const { flake, ...rest } = input;
        merged[name] = flake === false ? rest : { ...rest, flake: false };
      } else if (change === 'rename') merged[`${name}-new`] = input;
      else if (change === 'plain') {
        const { inputs, ...rest } = input;
        merged[name] = rest;
      } else merged[name] = change === 'url' ? (fresh.inputs[name] ?? input) : input;
    }
    for (const [name, input] of Object.entries(fresh.inputs))
      if (random.chance(0.3) && !Object.hasOwn(merged, name)) merged[name] = input;
    this.#specs.set(dir, { ...fresh, inputs: withoutDangling(merged, random) });
  }

  /** Paths of inputs; empty for all. */
  updates(): string[] {
    const random = this.#random;
    const names = Object.keys(this.#specs.get(this.#dir)!.inputs);
    if (names.length === 0 || random.chance(0.35)) return [];
    return random.some(names, random.chance(0.75) ? 1 : 2).map((name) => this.#deepen(name, 0.45));
  }

  overrideFlags(): string[] {
    const random = this.#random;
    const names = Object.keys(this.#specs.get(this.#dir)!.inputs);
    if (names.length === 0) return [];
    const flags: string[] = [];
    for (let i = random.chance(0.8) ? 1 : 2; i > 0; i--) {
      const { url } = referenceTo(random.pick(this.#world.flakes), random);
      const path = random.chance(0.04) ? 'nobody' : this.#deepen(random.pick(names), 0.4);
      if (url !== undefined) flags.push('--override-input', path, url);
    }
    return flags;
  }

  /** `a` or `a/b` or `a/b/c`, by what the flakes say at the moment. */
  #deepen(name: string, probability: number): string {
    const path = [name];
    let input: InputSpec | undefined = this.#specs.get(this.#dir)!.inputs[name];
    while (input?.to !== undefined && input.flake !== false && this.#random.chance(probability)) {
      const flake = this.#world.flakes[input.to]!;
      const below: Inputs = this.#world.spec(flake, this.#moments.get(flake.place.name) ?? 0).inputs;
      const names = Object.keys(below);
      if (names.length === 0) break;
      const next = this.#random.pick(names);
      path.push(next);
      input = below[next];
    }
    return path.join('/');
  }

  #flake(dir: string, count: number, dirs: readonly string[]): FlakeSpec {
    const random = this.#random;
    return {
      inputs: generateInputs({
        random,
        world: this.#world,
        from: { dir },
        dirs,
        targets: this.#world.flakes,
        count,
        moment: 0,
      }),
      ...(random.chance(0.008) && { formals: ['implied'] }),
      style: `root ${random.below(1000)}`,
      description: `the root in ${posix.join('/', dir)}`,
    };
  }
}

/** Nearly always: what follows an input that is not there any more goes too. */
function withoutDangling(inputs: Inputs, random: Random): Inputs {
  if (random.chance(0.06)) return inputs;
  const leads = (follows: string) => follows === '' || Object.hasOwn(inputs, follows.split('/')[0]!);
  const clean = (input: InputSpec): InputSpec => {
    const { inputs: inner, ...rest } = input;
    const kept = Object.entries(inner ?? {}).filter(
      ([, one]) => one.follows === undefined || leads(one.follows),
    );
    return {
      ...rest,
      ...(kept.length > 0 && { inputs: Object.fromEntries(kept.map(([name, one]) => [name, clean(one)])) }),
    };
  };
  return Object.fromEntries(
    Object.entries(inputs)
      .filter(([, input]) => input.follows === undefined || leads(input.follows))
      .map(([name, input]) => [name, clean(input)]),
  );
}
