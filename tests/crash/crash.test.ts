import { expect, it } from 'vitest';
import { sandboxVariants } from '../support/builds.ts';
import { temporaryFolder } from '../support/temp.ts';
import { crash } from './driver.ts';

const kills = Number(process.env.FLK_CRASH_KILLS ?? 20);
const processes = Number(process.env.FLK_CRASH_PROCESSES ?? 4);
const seed = Number(process.env.FLK_CRASH_SEED ?? Date.now() % 2 ** 31);
const engine = sandboxVariants.some(({ usable }) => usable) ? '' : ', building only in play: no sandbox here';

it(`a store is whole after ${kills} kills of ${processes} processes that use it (seed ${seed}${engine})`, {
  timeout: 120_000 + kills * 10_000,
}, async () => {
  const { counts, faults } = await crash({ folder: temporaryFolder(), kills, processes, seed });
  if (process.env.FLK_CRASH_KILLS !== undefined)
    process.stdout.write(
      `${Object.entries(counts)
        .map(([what, times]) => `${String(times).padStart(7)} ${what}\n`)
        .join('')}`,
    );
  expect(faults).toEqual([]);
  expect(counts.kills).toBeGreaterThanOrEqual(kills);
  expect(counts['paths verified']).toBeGreaterThan(0);
  expect(counts['flk store verify']).toBe(counts.rounds);
});
