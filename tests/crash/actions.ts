/**
 * What a worker of the crash test does to its store, one thing after another, by chance. Whatever else writes a store belongs here
 * too: an action leaves the store as any flk would, uses it only through its public face, and puts into `kept` what must now stay.
 */
import { createHash } from 'node:crypto';
import { readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { FlkError } from '../../src/base/errors.ts';
import { silent } from '../../src/base/events.ts';
import { hashTree, type Tree } from '../../src/formats/nar.ts';
import { makeTextPath, parseStorePath, type StorePath } from '../../src/formats/store-path.ts';
import { collectGarbage } from '../../src/store/gc.ts';
import { changingProfile, oldGenerations, removeGenerations, switchTo } from '../../src/store/generations.ts';
import { changeProfile } from '../../src/store/profile.ts';
import { openStore } from '../../src/store/store.ts';
import { restoreTree } from '../../src/store/tree-files.ts';
import { directory, file, type Node, symlink, treeFrom } from '../support/trees.ts';
import { type Action, below, keep, names, pick, shuffled, type Worker } from './action.ts';

/** Outputs that all workers build, and that caches have; each needs some of a lower number. */
export const outputs = 48;
const sources = 12;

const noise = (seed: string, size: number): Buffer => {
  const block = createHash('sha256').update(seed).digest();
  return Buffer.alloc(size, block);
};

/** The same in every worker; many of their files are equal. */
const source = (number: number): Tree =>
  treeFrom(
    directory({
      readme: file(noise('common', 6000)),
      [`f${number % 3}`]: file(noise(`third ${number % 3}`, 20_000), number % 2 === 0),
      sub: directory({ own: file(noise(`source ${number}`, 3000)), up: symlink('../readme') }),
    }),
  );

/** As much of a worker as building needs. */
type Builder = Pick<Worker, 'store' | 'random' | 'kept'>;

async function addSource(worker: Builder, number: number): Promise<StorePath> {
  const { path } = await worker.store.addTree(`source-${number}`, source(number));
  keep(worker, path);
  return path;
}

export const outputOf = (number: number): StorePath => makeTextPath(`out-${number}`, `output ${number}`);
const inputsOf = (number: number): number[] =>
  number === 0 ? [] : [...new Set([number >> 1, (number * 7) % number])];

function allBelow(number: number): number[] {
  const found = new Set([number]);
  for (const one of found) for (const input of inputsOf(one)) found.add(input);
  return [...found];
}

/** A builder's output that is not the same twice. */
async function registerOutput(
  worker: Builder,
  path: StorePath,
  references: readonly StorePath[],
  replace: boolean,
): Promise<void> {
  const stage = await worker.store.stage();
  try {
    const content: Node =
      worker.random() < 0.3
        ? file(noise(String(worker.random()), 5000))
        : directory({
            bin: directory({ run: file(noise('common', 6000), true) }),
            chance: file(noise(String(worker.random()), 9000)),
          });
    const staged = join(stage.path, 'out');
    await treeFrom(content).walk(restoreTree(staged));
    const { narHash, narSize } = await hashTree(treeFrom(content));
    const info = {
      path,
      narHash,
      narSize,
      references: [...new Set([...references, path])].sort(),
      registrationTime: 1,
      ultimate: true,
      signatures: [],
    };
    await worker.store.register([{ info, staged }], { replace });
  } finally {
    await stage.dispose();
  }
}

export async function build(worker: Builder, number: number): Promise<StorePath> {
  const path = outputOf(number);
  if (!worker.store.query(path)) {
    const inputs = await Promise.all(inputsOf(number).map((input) => build(worker, input)));
    const from = await addSource(worker, number % sources);
    await worker.store.withPathLocks([path], async () => {
      if (!worker.store.query(path)) await registerOutput(worker, path, [...inputs, from], false);
    });
  }
  keep(worker, path);
  return path;
}

async function buildOne(worker: Worker): Promise<StorePath> {
  const number = below(worker, outputs);
  // As whoever builds does: first hold all that may be used, then look what is there.
  worker.store.hold(allBelow(number).map(outputOf));
  return await build(worker, number);
}

const linksOf = (root: string): string => join(root, 'links');

/** A profile that all workers change. */
export const profileOf = (root: string): string => join(root, 'nix/var/nix/profiles/per-user/crash/profile');

/** What the roots of a store lead to. */
export function rootedPaths(root: string): StorePath[] {
  const auto = join(root, 'nix/var/nix/gcroots/auto');
  const profiles = dirname(profileOf(root));
  const indirect = names(auto).map((name) => (): string => readlinkSync(join(auto, name)));
  const generations = names(profiles)
    .filter((name) => /^profile-\d+-link$/.test(name))
    .map((name) => (): string => join(profiles, name));
  return [...indirect, ...generations].flatMap((place) => {
    try {
      return [parseStorePath(readlinkSync(place()).slice(root.length))];
    } catch {
      // The link is gone that this leads to, or a kill left something half made.
      return [];
    }
  });
}

/** Installs something that is there, or takes something out; every generation is a root. */
async function changeInstalled(worker: Worker): Promise<void> {
  const path = await buildOne(worker);
  const name = `package-${below(worker, 6)}`;
  const element = { active: true, priority: below(worker, 1_000_000), storePaths: [path] };
  const script = async (program: string): Promise<string> => `#!/bin/sh\nexec ${program}\n`;
  await changeProfile(
    worker.store,
    profileOf(worker.root),
    (installed) => {
      const after = new Map(installed);
      if (worker.random() < 0.3) after.delete(name);
      else after.set(name, element);
      return after;
    },
    worker.random() < 0.5 ? { script } : {},
  );
}

async function switchInstalled(worker: Worker): Promise<void> {
  const profile = profileOf(worker.root);
  await changingProfile(profile, async ({ all }) => {
    const generation = pick(worker, all);
    if (generation) await switchTo(worker.store, profile, generation, undefined);
  });
}

/** As `flk gc --keep` does it. */
async function collect(worker: Worker): Promise<void> {
  const profile = profileOf(worker.root);
  await changingProfile(profile, async (generations) => {
    const old = oldGenerations(generations, { keep: 1 + below(worker, 10) });
    await removeGenerations(
      profile,
      old.map(({ number }) => number),
    );
  });
  const options = { keepDerivations: true, keepOutputs: false, reporter: silent, readLock: async () => [] };
  const maxFreed = worker.random() < 0.5 ? {} : { maxFreed: below(worker, 200_000) };
  await collectGarbage(worker.store, { ...options, ...maxFreed, proc: '/nowhere' }).catch(
    (error: unknown) => {
      if (!(error instanceof FlkError && error.code === 'FLK_LOCK_BUSY')) throw error;
    },
  );
}

async function sweep(worker: Worker): Promise<void> {
  const { store, root } = worker;
  const collection = await store.collect().catch((error: unknown) => {
    if (error instanceof FlkError && error.code === 'FLK_LOCK_BUSY') return undefined;
    throw error;
  });
  if (!collection) return;
  try {
    const alive = new Set(store.closure(rootedPaths(root)));
    const dead = shuffled(
      worker,
      store.paths().filter((path) => !alive.has(path)),
    );
    const some = dead.slice(0, below(worker, dead.length + 1));
    for (let at = 0; at < some.length; at += 16) await collection.remove(some.slice(at, at + 16));
    if (worker.random() < 0.7) await collection.removeOrphans();
  } finally {
    await collection.end();
  }
}

export const storeActions: readonly Action[] = [
  {
    name: 'add a tree',
    weight: 3,
    run: async (worker) => void (await addSource(worker, below(worker, sources))),
  },
  {
    name: 'add texts',
    weight: 3,
    run: async (worker) => {
      const references = shuffled(worker, [...worker.kept]).slice(0, 2);
      const infos = await Promise.all(
        Array.from({ length: 1 + below(worker, 8) }, () => {
          const number = below(worker, 100);
          return worker.store.addText(`text-${number}`, `text ${number}`, references);
        }),
      );
      keep(worker, ...infos.map(({ path }) => path));
    },
  },
  { name: 'build', weight: 6, run: async (worker) => void (await buildOne(worker)) },
  {
    name: 'build several',
    weight: 2,
    run: async (worker) => void (await Promise.all(Array.from({ length: 4 }, () => buildOne(worker)))),
  },
  {
    name: 'use what is there',
    weight: 3,
    run: async (worker) => {
      const { store } = worker;
      const there = store.paths().filter((path) => !path.includes('-wild-'));
      const some = shuffled(worker, there).slice(0, 10);
      store.hold(some);
      keep(worker, ...some.filter((path) => store.query(path)));
    },
  },
  {
    name: 'replace',
    weight: 2,
    run: async (worker) => {
      // Nobody else's, for it is not valid for a moment.
      const path = makeTextPath(`wild-${worker.id}-${below(worker, 3)}`, '');
      await worker.store.withPathLocks([path], () => registerOutput(worker, path, [], true));
    },
  },
  { name: 'sweep', weight: 3, run: sweep },
  { name: 'change a profile', weight: 3, run: changeInstalled },
  { name: 'switch a profile', weight: 2, run: switchInstalled },
  { name: 'collect garbage', weight: 2, run: collect },
  {
    name: 'optimise',
    weight: 2,
    run: async (worker) => {
      const paths = shuffled(worker, worker.store.paths());
      await worker.store.optimise(paths.slice(0, below(worker, 30)));
    },
  },
  {
    name: 'make a root',
    weight: 4,
    run: async (worker) => {
      const path = pick(worker, [...worker.kept]) ?? (await buildOne(worker));
      const link = join(linksOf(worker.root), `${worker.id}-${below(worker, 1_000_000)}`);
      symlinkSync(worker.store.physical(path), link);
      await worker.store.addIndirectRoot(link);
    },
  },
  {
    name: 'remove a root',
    weight: 1,
    run: async (worker) => {
      const name = pick(worker, names(linksOf(worker.root)));
      if (name !== undefined) rmSync(join(linksOf(worker.root), name), { force: true });
    },
  },
  {
    name: 'verify',
    weight: 1,
    run: async (worker) => {
      const path = pick(worker, [...worker.kept]);
      if (path !== undefined) await worker.store.verifyPath(path);
    },
  },
  {
    name: 'close and open',
    weight: 2,
    run: async (worker) => {
      worker.store.close();
      worker.kept.clear();
      worker.store = await openStore(worker.root);
    },
  },
];
