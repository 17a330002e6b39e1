/**
 * Format, lint, types, walls, dead code, generated docs: everything a reviewer should not have to say.
 * `node scripts/check.mjs [walls]` runs all of it, or only the named part.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const tool = (name, ...args) =>
  spawnSync(process.execPath, [join(root, 'node_modules', ...name.split('/')), ...args], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 * 2 ** 20,
  });

const parts = {
  format: () => tool('@biomejs/biome/bin/biome', 'ci', '--colors=off', '--error-on-warnings', '.'),
  types: () => tool('typescript/bin/tsc', '--noEmit'),
  walls,
  'dead code': () => tool('knip/bin/knip.js', '--no-progress'),
  'package lock': everyPlatform,
  docs: () =>
    spawnSync(process.execPath, ['scripts/docs.mjs', '--check'], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, NO_COLOR: '1' },
    }),
};

/**
 * npm leaves a platform's package out of the lock where the registry does not offer it, and then refuses `npm ci` everywhere.
 */
function everyPlatform() {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const missing = Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter(
      (name) => !packages[`node_modules/${name}`] && !packages[`${path}/node_modules/${name}`],
    ),
  );
  return {
    status: missing.length === 0 ? 0 : 1,
    stdout: `not in package-lock.json: ${missing.join(' ')}`,
    stderr: '',
  };
}

/** The wall check has to see every file, and to fail on a planted violation: a checker that sees nothing finds nothing. */
function walls() {
  const cruise = () => {
    const done = tool('dependency-cruiser/bin/dependency-cruise.mjs', '--output-type', 'json', 'src');
    try {
      return { modules: JSON.parse(done.stdout).modules, summary: JSON.parse(done.stdout).summary };
    } catch {
      return {
        modules: [],
        summary: {
          violations: [{ rule: { name: done.stderr || 'dependency-cruiser failed' }, from: '?', to: '?' }],
        },
      };
    }
  };
  const { modules, summary } = cruise();
  const seen = new Set(modules.map((module) => module.source));
  const unseen = readdirSync(join(root, 'src'), { recursive: true })
    .map((file) => `src/${file}`)
    .filter((file) => file.endsWith('.ts') && !seen.has(file) && !file.endsWith('.d.ts'));
  const faults = summary.violations.map(({ rule, from, to }) => `${rule.name}: ${from} → ${to}`);
  if (unseen.length > 0) faults.push(`the wall check did not see ${unseen.join(', ')}`);
  const planted = join(root, 'src/base/planted-violation.ts');
  writeFileSync(planted, "import type { Store } from '../store/store.ts';\nexport type Planted = Store;\n");
  try {
    if (!cruise().summary.violations.some((violation) => violation.from.includes('planted-violation'))) {
      faults.push('the wall check missed a planted violation');
    }
  } finally {
    rmSync(planted);
  }
  return { status: faults.length === 0 ? 0 : 1, stdout: faults.join('\n'), stderr: '' };
}

const wanted = process.argv.slice(2);
let failed = 0;
for (const [name, check] of Object.entries(parts)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const { status, stdout, stderr } = check();
  console.log(`${status === 0 ? 'ok    ' : 'FAILED'} ${name}`);
  if (status !== 0) {
    failed++;
    console.log(`${stdout}${stderr}`.trimEnd());
  }
}
process.exit(failed === 0 ? 0 : 1);
