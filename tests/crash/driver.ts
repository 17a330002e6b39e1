/** Workers that use one store and caches beside it, are killed at any time, and leave all of it whole. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FolderCache } from '../../src/store/caches/folder-cache.ts';
import { openStore } from '../../src/store/store.ts';
import { bundleChild, type Child, startChild } from '../support/child.ts';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { names, placesIn } from './action.ts';
import { rootedPaths } from './actions.ts';
import { chance } from './chance.ts';
import { type Fixture, makeFixture } from './fixture.ts';
import { type Findings, lookAtCache, lookAtRoots, lookAtStore, lookAtSwept } from './look.ts';

/** What a worker tells: that it did something, or what was wrong. */
export type Told = { readonly did: string } | { readonly fault: string };

export interface CrashOptions {
  readonly folder: string;
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

export async function crash({ folder, kills, processes, seed }: CrashOptions): Promise<CrashReport> {
  const random = chance(seed);
  const file = await bundleChild(new URL('worker.ts', import.meta.url));
  const counts: Record<string, number> = {};
  const count = (what: string, times = 1): void => {
    counts[what] = (counts[what] ?? 0) + times;
  };
  const faults: string[] = [];
  const { root, scratch } = placesIn(folder);
  mkdirSync(join(root, 'links'), { recursive: true });
  const fixture = await makeFixture(folder, random);
  const world = cliWorld();
  let started = 0;

  const start = (): { readonly child: Child; readonly active: Promise<void> } => {
    const seeds = [`w${started++}`, String(Math.floor(random() * 2 ** 31))];
    const child = startChild(file, [JSON.stringify(fixture.surroundings), ...seeds], { TMPDIR: scratch });
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

  try {
    while ((counts.kills ?? 0) < kills && faults.length === 0) {
      const workers = Array.from({ length: processes }, start);
      for (let i = 0; i < roundSize && faults.length === 0; i++) {
        const at = Math.floor(random() * workers.length);
        const { child, active } = workers[at]!;
        // Some die while they open the store.
        if (random() < 0.85) await active;
        await sleep(5 + random() * 395);
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
      await look({ folder, fixture, world, random }, { faults, count });
      count('rounds');
    }
  } finally {
    await fixture.end();
  }
  return { counts, faults };
}

interface Scene {
  readonly folder: string;
  readonly fixture: Fixture;
  readonly world: CliWorld;
  readonly random: () => number;
}

/** After a round, when no worker runs. */
async function look({ folder, fixture, world, random }: Scene, findings: Findings): Promise<void> {
  const { root, served, pushed, scratch } = placesIn(folder);
  const { publicKey } = fixture;
  const store = await openStore(root);
  try {
    await lookAtStore(store, findings);
    await lookAtRoots(store, findings);
    if (random() < 0.3) await sweepAll(store, findings);
  } finally {
    store.close();
  }
  const flk = async (...args: string[]): Promise<void> => {
    const { status, stdout, stderr } = await world.flk([...args, '--store', root]);
    // Of a path that was being replaced a kill leaves a record, which is not valid; verify has to say so.
    const told = stdout.split('\n').filter((line) => /^(\/nix\/store\/|database)/.test(line));
    const isExpected =
      status === 1 && told.length > 0 && told.every((line) => /-wild-\S+: missing: /.test(line));
    if (status !== 0 && !isExpected)
      findings.faults.push(`flk ${args.join(' ')} ends with ${status}\n${stdout}${stderr}`);
    findings.count(`flk ${args.slice(0, 2).join(' ')}`);
  };
  await flk('store', 'verify', '--all', '--trusted-public-keys', publicKey);
  if (random() < 0.5) {
    await flk('gc');
    const swept = await openStore(root);
    lookAtSwept(swept, findings);
    await lookAtRoots(swept, findings);
    swept.close();
  }
  const uploaded = await openStore(served);
  await lookAtStore(uploaded, findings);
  uploaded.close();
  await lookAtCache(pushed, publicKey, findings);
  // As the next push does.
  await new FolderCache(pushed).prepare();
  const halfWritten = [pushed, join(pushed, 'nar')].flatMap((inner) =>
    names(inner).filter((name) => name.startsWith('.')),
  );
  const litter = [...names(scratch), ...halfWritten];
  if (litter.length > 0) findings.faults.push(`the dead left ${litter.join(' ')}`);
}

/** Sweeps what no root leads to; nothing else may be left. */
async function sweepAll(store: Awaited<ReturnType<typeof openStore>>, findings: Findings): Promise<void> {
  const { faults, count } = findings;
  const collection = await store.collect();
  try {
    const alive = new Set(store.closure(rootedPaths(store.root)));
    const removed = await collection.remove(store.paths().filter((path) => !alive.has(path)));
    const orphans = await collection.removeOrphans();
    count('paths swept', removed.length);
    count('orphans swept', orphans.length);
    lookAtSwept(store, findings);
    if (JSON.stringify(store.paths()) !== JSON.stringify([...alive].sort()))
      faults.push('after a sweep there are records of what is gone');
  } finally {
    await collection.end();
  }
}
