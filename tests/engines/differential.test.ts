/**
 * Random worlds of flakes, locked step by step by Nix and by flk: the same bytes, or both refuse for the same reason.
 * `npm run differential -- --cases N --seed S` runs more of them; docs/testing.md tells how to read what differs.
 */
import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';
import { Machine, Root, runCase } from './generator/both.ts';
import { generateCase } from './generator/cases.ts';
import { explainDifference, hasTwoFaults, judge, shrink } from './generator/verdict.ts';
import { World } from './generator/world.ts';

const seed = process.env.FLK_DIFFERENTIAL_SEED ?? '1';
const cases = Number(process.env.FLK_DIFFERENTIAL_CASES ?? 200);
/** Where to write down what was found, beside the report. */
const log = process.env.FLK_DIFFERENTIAL_LOG;
const casesPerWorld = 30;
/** Of how many differences of one kind the smallest case is looked for. */
const shrunk = 2;

describe.skipIf(!nixAvailable())(`random worlds beside Nix, seed ${seed} ${nixReason}`, () => {
  const counts = new Map<string, number>();
  const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);
  let machine: Machine | undefined;

  it.each(Array.from({ length: Math.ceil(cases / casesPerWorld) }, (_, index) => index))(
    'world %i',
    { timeout: 600_000 },
    async (index) => {
      machine ??= new Machine(temporaryFolder());
      const folder = join(machine.folder, `world-${index}`);
      mkdirSync(folder);
      const world = await World.build({
        seed: `${seed} ${index}`,
        folder,
        registry: machine.registry,
        lockFiles: (files, dir) => machine!.lockFiles(files, dir),
      });
      const differences: string[] = [];
      for (let number = 0; number < Math.min(casesPerWorld, cases - index * casesPerWorld); number++) {
        const name = `${seed} ${index} ${number}`;
        const given = generateCase(world, name);
        count('cases');
        for await (const compared of runCase(machine, world, given)) {
          const { same, words } = judge(compared);
          count('steps');
          const root = new Root(machine, world, given.root);
          if (!same && (await hasTwoFaults(root, world, compared))) {
            count('explained: two faults');
            continue;
          }
          count(words);
          if (same) continue;
          const smallest =
            (counts.get(words) ?? 0) <= shrunk ? await shrink(root, world, compared) : undefined;
          const text = smallest ? explainDifference(name, root, world, smallest) : `case ${name}: ${words}`;
          differences.push(text);
          if (log !== undefined) appendFileSync(log, `${text}\n\n`);
          break;
        }
      }
      expect(differences.join('\n\n')).toBe('');
    },
  );

  it('most of them lock', () => {
    const table = [...counts].sort(([, a], [, b]) => b - a).map(([what, number]) => `${number} ${what}`);
    const { nix = 0, flk = 0 } = machine?.times ?? {};
    const text = `seed ${seed}: ${table.join(', ')}; Nix ${Math.round(nix)} ms, flk ${Math.round(flk)} ms`;
    if (log !== undefined) appendFileSync(log, `${text}\n`);
    console.log(text);
    expect(counts.get('locked') ?? 0).toBeGreaterThan(0.6 * (counts.get('steps') ?? 0));
  });
});
