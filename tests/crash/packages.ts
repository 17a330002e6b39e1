/** Packages that are built as `flk build` builds them: recipes, sources, a sandbox where there is one. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { silent } from '../../src/base/events.ts';
import type { Engine } from '../../src/build/engines/engine.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import type { Instantiation, PlannedDerivation } from '../../src/build/instantiation.ts';
import { realise } from '../../src/build/realise.ts';
import { derivationPath, hashDerivationModulo, withOutputPaths } from '../../src/formats/derivation.ts';
import { baseNameOf, makeTextPath, type StorePath } from '../../src/formats/store-path.ts';
import type { Store } from '../../src/store/store.ts';
import { playedEngine, soleBuilder } from '../support/builds.ts';
import { type Action, below, keep, type Worker } from './action.ts';

const packages = 24;

const notes = (number: number): string => `what package ${number % 5} is built from\n`;
const notesPath = (number: number): StorePath => makeTextPath(`notes-${number % 5}`, notes(number));

/** Never the same twice, and refers to what it is built from. */
const script = `
mkdir $out $out/bin
echo "$needs $src" > $out/needs
cat /proc/sys/kernel/random/uuid > $out/chance
for i in 1 2 3 4 5 6 7 8; do cat $src; done > $out/bin/run
chmod +x $out/bin/run
`;

interface Planned extends PlannedDerivation {
  readonly drvPath: StorePath;
  readonly modulo: string;
  readonly needs: readonly number[];
}

const planned: Planned[] = [];
for (let number = 0; number < packages; number++) {
  const needs = number === 0 ? [] : [...new Set([number >> 1, (number * 5) % number])];
  const inputs = needs.map((need) => planned[need]!);
  const modulo = (path: StorePath): string => planned.find(({ drvPath }) => drvPath === path)!.modulo;
  const name = `package-${number}`;
  const derivation = withOutputPaths(
    name,
    {
      outputs: new Map([['out', { hashAlgo: '', hash: '' }]]),
      inputDrvs: new Map(inputs.map(({ drvPath }) => [drvPath, ['out']])),
      inputSrcs: [notesPath(number)],
      system: 'x86_64-linux',
      builder: '/bin/sh',
      args: ['-c', script],
      env: new Map([
        ['needs', inputs.map(outPath).join(' ')],
        ['src', notesPath(number)],
        ['PATH', '/usr/bin:/bin'],
      ]),
    },
    modulo,
  );
  const drvPath = derivationPath(name, derivation);
  const own = hashDerivationModulo(derivation, modulo);
  planned.push({ derivation, name, toolchain: { kind: 'host' }, drvPath, modulo: own, needs });
}

function outPath({ derivation }: PlannedDerivation): StorePath {
  return derivation.outputs.get('out')!.path;
}

function instantiate(store: Store, number: number): Instantiation {
  const numbers = new Set([number]);
  for (const one of numbers) for (const need of planned[one]!.needs) numbers.add(need);
  const some = [...numbers].map((one) => planned[one]!);
  const add = (one: number) => async (): Promise<void> =>
    void (await store.addText(`notes-${one % 5}`, notes(one), []));
  return {
    top: planned[number]!.drvPath,
    derivations: new Map(some.map((one) => [one.drvPath, one])),
    sources: new Map([...numbers].map((one) => [notesPath(one), add(one)])),
  };
}

/** Plays to build, where no sandbox can be had. */
const playing = (store: Store): Engine =>
  playedEngine(async ({ derivation }) => {
    const stage = await store.stage();
    const { path } = derivation.outputs.get('out')!;
    const place = join(stage.path, baseNameOf(path));
    await mkdir(join(place, 'bin'), { recursive: true });
    await writeFile(join(place, 'needs'), `${derivation.env.get('needs')} ${derivation.env.get('src')}\n`);
    await writeFile(join(place, 'chance'), `${process.pid} ${performance.now()}\n`);
    return { outputs: new Map([['out', place]]), dispose: () => stage.dispose() };
  });

async function buildPackage(worker: Worker): Promise<void> {
  const { store, surroundings } = worker;
  const number = below(worker, packages);
  const local = surroundings.sandbox
    ? localEngine({ store, sandbox: 'auto', reporter: silent })
    : playing(store);
  const download = (): never => {
    throw new Error('nothing is downloaded here');
  };
  try {
    const context = { store, builders: soleBuilder(local, 2), reporter: silent, download };
    await realise(context, instantiate(store, number), { jobs: 2, cores: 1 });
  } finally {
    await local.close();
  }
  keep(worker, outPath(planned[number]!));
}

export const packageActions: readonly Action[] = [{ name: 'build a package', weight: 4, run: buildPackage }];
