/**
 * `npm run differential [-- --cases N --seed S --log FILE]`: random worlds of flakes, locked by Nix and by flk, until they differ.
 * Needs the Nix of tests/engines/install. What differs is printed as the smallest case that still does, and appended to FILE.
 */
import { spawnSync } from 'node:child_process';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: '1000' },
    seed: { type: 'string', default: String(Date.now()) },
    log: { type: 'string' },
  },
});
const { status } = spawnSync(
  process.execPath,
  [join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run', 'tests/engines/differential.test.ts'],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      FLK_DIFFERENTIAL_CASES: values.cases,
      FLK_DIFFERENTIAL_SEED: values.seed,
      ...(values.log === undefined ? {} : { FLK_DIFFERENTIAL_LOG: resolve(values.log) }),
    },
  },
);
process.exitCode = status ?? 1;
