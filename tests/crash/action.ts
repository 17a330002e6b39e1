/** What an action of the crash test is given, and what all of them use. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { StorePath } from '../../src/formats/store-path.ts';
import type { Store } from '../../src/store/store.ts';

/** Who serves the store that workers take paths from and put paths into, and what they need for it. */
export interface Surroundings {
  /** The folder of the whole test; `placesIn` names what lies in it. */
  readonly folder: string;
  /** Where a cache server of the driver's answers. */
  readonly server: string;
  readonly token: string;
  /** Printed; signs what is pushed, and what lies in the caches from the start. */
  readonly secretKey: string;
  /** Whether packages are built in a sandbox, or by an engine that only plays to. */
  readonly sandbox: boolean;
}

export interface Worker {
  /** Changes when an action opens it anew. */
  store: Store;
  readonly root: string;
  /** Another one in each process. */
  readonly id: string;
  /** From 0 up to 1. */
  readonly random: () => number;
  /** Valid paths that this worker holds; whoever sweeps, they stay with all that they refer to. */
  readonly kept: Set<StorePath>;
  readonly surroundings: Surroundings;
}

export interface Action {
  readonly name: string;
  /** How often it is chosen, beside the others. */
  readonly weight: number;
  readonly run: (worker: Worker) => Promise<void>;
}

export interface TestPlaces {
  /** The store that all workers use. */
  readonly root: string;
  /** A signed binary cache that nobody changes. */
  readonly cache: string;
  /** One that all workers push into. */
  readonly pushed: string;
  /** The store behind the driver's cache server. */
  readonly served: string;
  /** The workers' TMPDIR. */
  readonly scratch: string;
}

export function placesIn(folder: string): TestPlaces {
  const [root, cache, pushed, served, scratch] = ['root', 'cache', 'pushed', 'served', 'tmp'].map((name) =>
    join(folder, name),
  ) as [string, string, string, string, string];
  return { root, cache, pushed, served, scratch };
}

export const below = (worker: Pick<Worker, 'random'>, end: number): number =>
  Math.floor(worker.random() * end);

export const pick = <T>(worker: Worker, list: readonly T[]): T | undefined =>
  list[below(worker, list.length)];

export const keep = (worker: Pick<Worker, 'kept'>, ...paths: readonly StorePath[]): void => {
  for (const path of paths) worker.kept.add(path);
};

export function shuffled<T>(worker: Worker, list: readonly T[]): T[] {
  return list
    .map((value) => ({ value, at: worker.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

/** What is in a folder; nothing where there is none. */
export function names(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
