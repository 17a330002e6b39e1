/** Workers that use one store, are killed at any time, and leave it whole. */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { baseNameOf } from '../../src/formats/store-path.ts';
import { readGenerations } from '../../src/store/generations.ts';
import { readManifest } from '../../src/store/profile.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { bundleChild, type Child, startChild } from '../support/child.ts';
import { profileOf, rootedPaths } from './actions.ts';
import { chance } from './chance.ts';

/** What a worker tells: that it did something, or what was wrong. */
export type Told = { readonly did: string } | { readonly fault: string };

export interface CrashOptions {
  readonly root: string;
  readonly kills: number;
  readonly processes: number;
  readonly seed: number;
}

/** Counts of what was done, by name; and all that was wrong. */
export interface CrashReport {
  readonly counts: Readonly<Record<string, number>>;
  readonly faults: readonly string[];
}

/** Kills between two looks at the store. */
const roundSize = 10;

export async function crash({ root, kills, processes, seed }: CrashOptions): Promise<CrashReport> {
  const random = chance(seed);
  const file = await bundleChild(new URL('worker.ts', import.meta.url));
  const counts: Record<string, number> = {};
  const count = (what: string, times = 1): void => {
    counts[what] = (counts[what] ?? 0) + times;
  };
  const faults: string[] = [];
  mkdirSync(join(root, 'links'), { recursive: true });
  let started = 0;

  const start = (): { readonly child: Child; readonly active: Promise<void> } => {
    const child = startChild(file, [root, `w${started}`, String(Math.floor(random() * 2 ** 31))]);
    started++;
    const active = new Promise<void>((done) => {
      child.process.on('message', (told: Told) => {
        if ('did' in told) count(told.did);
        else faults.push(told.fault);
        done();
      });
      child.process.on('exit', () => done());
    });
    void child.over.then((end) => {
      if (end !== 'SIGKILL' && end !== 0) faults.push(`a worker ended with ${end}`);
    });
    return { child, active };
  };
  const kill = async (child: Child): Promise<void> => {
    child.process.kill('SIGKILL');
    if ((await child.over) === 'SIGKILL') count('kills');
  };

  while ((counts.kills ?? 0) < kills && faults.length === 0) {
    const workers = Array.from({ length: processes }, start);
    for (let i = 0; i < roundSize && faults.length === 0; i++) {
      const at = Math.floor(random() * workers.length);
      const { child, active } = workers[at]!;
      // Some die while they open the store.
      if (random() < 0.85) await active;
      await sleep(random() * 250);
      await kill(child);
      workers[at] = start();
    }
    // Half of the rounds end with all of them dying at once.
    if (random() < 0.5) await Promise.all(workers.map(({ child }) => kill(child)));
    else {
      await Promise.all(workers.map(({ active }) => active));
      for (const { child } of workers) if (child.process.connected) child.process.send('stop');
      await Promise.all(workers.map(({ child }) => child.over));
    }
    const store = await openStore(root);
    try {
      await look(store, faults, count);
      if (random() < 0.5) await sweepAll(store, faults, count);
    } finally {
      store.close();
    }
    count('rounds');
  }
  return { counts, faults };
}

type Count = (what: string, times?: number) => void;

/** What a store must be like after any kill. */
async function look(store: Store, faults: string[], count: Count): Promise<void> {
  const { default: Database } = await import('libsql');
  const database = new Database(join(store.root, 'nix/var/flk/store.sqlite'));
  const integrity = JSON.stringify(database.prepare('PRAGMA integrity_check').all());
  if (!integrity.includes('"ok"')) faults.push(`integrity_check: ${integrity}`);
  const foreign = database.prepare('PRAGMA foreign_key_check').all();
  if (foreign.length > 0) faults.push(`foreign_key_check: ${JSON.stringify(foreign)}`);
  database.close();
  const paths = store.paths();
  for await (const { path, fault } of store.verify(paths)) {
    count('paths verified');
    if (fault) faults.push(`${path}: ${fault.code} ${fault.message}`);
  }
  check(faults, 'a path refers to what is not valid', () => store.closure(paths));
  const rooted = rootedPaths(store.root);
  count('roots followed', rooted.length);
  check(faults, 'a root leads to what is not valid', () => store.closure(rooted));
  await lookAtProfile(store, faults, count);
  const stages = readdirSync(join(store.root, 'nix/var/flk/stage'));
  if (stages.length > 0) faults.push(`stages of dead processes: ${stages.join(' ')}`);
}

/** What was switched to is one of the generations, with what it is said to have, and the programs that are started through it. */
async function lookAtProfile(store: Store, faults: string[], count: Count): Promise<void> {
  const profile = profileOf(store.root);
  const target = await readlink(profile).catch(() => undefined);
  if (target === undefined) return;
  const { all, current } = readGenerations(profile);
  count('generations', all.length);
  if (current === undefined) faults.push(`the profile leads to ${target}, which is no generation`);
  for (const { path } of all)
    for (const { storePaths } of (await readManifest(store, path)).values())
      if (!storePaths.every((one) => store.query(one))) faults.push(`${path} has what is not valid`);
  if (!existsSync(join(profile, 'manifest.json'))) faults.push(`${target} has no manifest.json`);
}

/** Sweeps what no root leads to; nothing may be left that no record speaks of. */
async function sweepAll(store: Store, faults: string[], count: Count): Promise<void> {
  const collection = await store.collect();
  try {
    const alive = new Set(store.closure(rootedPaths(store.root)));
    const removed = await collection.remove(store.paths().filter((path) => !alive.has(path)));
    const orphans = await collection.removeOrphans();
    count('paths swept', removed.length);
    count('orphans swept', orphans.length);
    const left = readdirSync(join(store.root, 'nix/store')).sort();
    const wanted = [...alive].map(baseNameOf).sort();
    if (JSON.stringify(left) !== JSON.stringify(wanted))
      faults.push(`after a sweep there is ${left.join(' ')} instead of ${wanted.join(' ')}`);
    if (JSON.stringify(store.paths()) !== JSON.stringify([...alive].sort()))
      faults.push('after a sweep there are records of what is gone');
    for (const folder of ['stage', 'locks']) {
      const names = readdirSync(join(store.root, 'nix/var/flk', folder));
      if (names.length > 0) faults.push(`after a sweep ${folder} holds ${names.join(' ')}`);
    }
  } finally {
    await collection.end();
  }
}

function check(faults: string[], what: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    faults.push(`${what}: ${(error as Error).message}`);
  }
}
