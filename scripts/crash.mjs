/**
 * `npm run crash [-- --kills N --processes N --seed S]`: processes that use one store and caches beside it, killed at random
 * times; after each round everything is looked at. Prints what was done.
 */
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '500' },
    processes: { type: 'string', default: '8' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
  },
});
const { status } = spawnSync(
  process.execPath,
  [join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run', 'tests/crash/crash.test.ts'],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      FLK_CRASH_KILLS: values.kills,
      FLK_CRASH_PROCESSES: values.processes,
      FLK_CRASH_SEED: values.seed,
    },
  },
);
process.exitCode = status ?? 1;
