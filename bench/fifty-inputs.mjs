/**
 * Locking a flake with 50 Git inputs over smart HTTP on loopback, 30 ms added to each request, everything cold: flk beside Nix.
 *
 *     node bench/fifty-inputs.mjs [ROUNDS]      default 5; Nix takes about 20 seconds a round
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildRepository, manifestWriters } from '../test-repos/build.mjs';
import { serve } from '../test-repos/serve.mjs';
import { measure, median, nixRunner, repository, scratchFolder, table } from './support.mjs';

const inputs = 50;
const delayMs = 30;
const rounds = Number(process.argv[2] ?? 5);
const scratch = scratchFolder();
const nix = nixRunner();

const contenders = {
  flk: await contender('flake.yaml', (project) => [
    process.execPath,
    [join(repository, 'bin/flk.js'), 'lock', project],
  ]),
  ...(nix && {
    'nix 2.34': await contender('flake.nix', (project) => [nix, ['flake', 'lock', `path:${project}`]]),
  }),
};
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');

for (let round = -1; round < rounds; round++)
  for (const [name, { run, results }] of Object.entries(contenders)) {
    const result = await run();
    console.error(`${round < 0 ? 'warm-up' : `round ${round + 1}`}  ${name}  ${result.ms.toFixed(0)} ms`);
    if (round >= 0) results.push(result);
  }

const summary = Object.fromEntries(
  Object.entries(contenders).map(([name, { results }]) => [
    name,
    { ms: median(results.map(({ ms }) => ms)), peak: Math.max(...results.map(({ peak }) => peak)) },
  ]),
);
table(`${inputs} Git inputs, ${delayMs} ms per request, cold; medians of ${rounds}`, summary, 'flk');
for (const [name, { results }] of Object.entries(contenders)) {
  const requests = median(results.map((result) => result.requests));
  const most = Math.max(...results.map((result) => result.inFlight));
  console.log(
    `  ${name.padEnd(16)} ${(requests / inputs).toFixed(2)} requests per input, at most ${most} at once`,
  );
}
for (const { server } of Object.values(contenders)) await server.close();

/** Repositories of one kind of flake, their server, and how to lock a project that has them all as inputs. */
async function contender(manifest, command) {
  const folder = join(scratch, manifest);
  mkdirSync(folder);
  const server = await serve(folder, { delayMs });
  const names = Array.from({ length: inputs }, (_, i) => `input-${String(i + 1).padStart(2, '0')}`);
  for (const name of names)
    buildRepository(({ flake }) => small(name, flake), folder, {
      manifest,
      base: server.base,
      assertIds: false,
    });
  const text = manifestWriters[manifest]({
    description: 'many inputs',
    inputs: Object.fromEntries(names.map((name) => [name, { url: `git+${server.base}/${name}` }])),
  })[manifest];

  /** Once, on a machine that has never seen any of it. */
  const run = async () => {
    const home = mkdtempSync(join(scratch, 'home-'));
    const project = join(home, 'project');
    mkdirSync(project);
    writeFileSync(join(project, manifest), text);
    server.log.length = 0;
    server.maxInFlight = 0;
    const environment = { PATH: process.env.PATH, HOME: home, XDG_CACHE_HOME: join(home, '.cache') };
    if (process.env.FLK_ENGINES) environment.FLK_ENGINES = process.env.FLK_ENGINES;
    const result = await measure(...command(project), {
      env: environment,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const { nodes } = JSON.parse(readFileSync(join(project, 'flake.lock'), 'utf8'));
    if (Object.keys(nodes).length !== inputs + 1) throw new Error(`${manifest}: not all inputs are locked`);
    rmSync(home, { recursive: true });
    return { ...result, requests: server.log.length, inFlight: server.maxInFlight };
  };
  return { server, run, results: [] };
}

/** A repository of a few files. */
function small(name, flake) {
  const sources = Object.fromEntries(
    Array.from({ length: 18 }, (_, i) => [`src/file-${i}.txt`, `${name} ${i}\n`.repeat(40)]),
  );
  return {
    name,
    commits: [
      {
        id: 'first',
        date: '2024-01-01T12:00:00Z',
        files: { ...flake({ description: name }), ...sources },
        expect: '',
      },
    ],
  };
}
