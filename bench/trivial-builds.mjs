/**
 * Many packages, each of one `echo`, built from nothing, two at a time: what a build costs beside its builder. flk's sandbox is on,
 * Nix's is off. Both read their manifest, write all derivations, build, and register. Needs `npm run build`.
 *
 *     node bench/trivial-builds.mjs [BUILDS] [ROUNDS]      default 1000, and 1
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { measure, median, nixRunner, repository, scratchFolder } from './support.mjs';

const count = Number(process.argv[2] ?? 1000);
const rounds = Number(process.argv[3] ?? 1);
const scratch = scratchFolder();
const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');
const program = join(repository, 'bin/flk.js');
const environment = {
  PATH: process.env.PATH,
  HOME: join(scratch, 'home'),
  ...(process.env.FLK_ENGINES ? { FLK_ENGINES: process.env.FLK_ENGINES } : {}),
};
const jobs = '2';
const numbers = Array.from({ length: count }, (_, i) => i);

/** What was built in an earlier round is of no use in a later one. */
function flkProject(folder, round) {
  mkdirSync(folder, { recursive: true });
  const packages = numbers.map((i) => `  p${i}: { installPhase: "echo ${round} ${i} > $out" }`);
  writeFileSync(
    join(folder, 'flake.yaml'),
    ['description: trivial', 'systems: [x86_64-linux]', 'toolchain: host', 'packages:', ...packages, ''].join(
      '\n',
    ),
  );
  return numbers.map((i) => `path:${folder}#p${i}`);
}

function nixProject(folder, round) {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, 'default.nix');
  // The time makes each run's derivations new to a store that is kept.
  writeFileSync(
    file,
    `map (i: derivation { name = "p\${toString i}"; system = "x86_64-linux"; builder = "/bin/sh";
       args = [ "-c" "echo ${Date.now()} ${round} \${toString i} > $out" ]; }) (builtins.genList (i: i) ${count})\n`,
  );
  return file;
}

const results = { flk: [], nix: [] };
for (let round = 0; round < rounds; round++) {
  const flkFolder = join(scratch, `flk-${round}`);
  const targets = flkProject(flkFolder, round);
  const store = join(scratch, `store-${round}`);
  const { ms, peak } = await measure(
    process.execPath,
    [
      program,
      'build',
      '--quiet',
      '--no-link',
      '--no-write-lock-file',
      '-j',
      jobs,
      '--store',
      store,
      ...targets,
    ],
    { cwd: flkFolder, env: environment },
  );
  results.flk.push({ ms, peak });
  if (nix) {
    const file = nixProject(join(scratch, `nix-${round}`), round);
    results.nix.push(
      await measure('bash', [nix, '--no-out-link', '-j', jobs, '--quiet', file], {
        env: { ...environment, NIX_COMMAND: 'nix-build' },
        stdio: ['ignore', 'pipe', 'ignore'],
      }),
    );
  }
}
for (const [name, runs] of Object.entries(results)) {
  if (runs.length === 0) continue;
  const ms = median(runs.map((run) => run.ms));
  console.log(
    `${name.padEnd(4)} ${(ms / 1000).toFixed(1).padStart(7)} s   ${(ms / count).toFixed(1).padStart(6)} ms a build` +
      `   ${Math.max(...runs.map((run) => run.peak)).toFixed(0)} MB`,
  );
}
if (nix) {
  const [ours, theirs] = [results.flk, results.nix].map((runs) => median(runs.map(({ ms }) => ms)));
  console.log(`flk takes ${(ours / theirs).toFixed(2)} of Nix's time`);
}
