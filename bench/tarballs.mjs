/**
 * Archives as sources, over HTTP on loopback: flk beside Nix, whole processes, everything cold.
 *
 * 1. One archive (.tar.gz) of 40,000 files and 313 MB, from its URL to its narHash, beside `nix flake prefetch`.
 * 2. Locking a flake with 50 small archives as inputs, 30 ms added to each request, beside `nix flake lock`.
 *
 *     node bench/tarballs.mjs [ROUNDS] [FOLDER FOR THE REPOSITORY]      default 3
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  createReadStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { manifestWriters } from '../test-repos/build.mjs';
import { bundle, measure, median, nixRunner, repository, scratchFolder, table } from './support.mjs';
import { synthesise } from './synth.mjs';

const inputs = 50;
const delayMs = 30;
const rounds = Number(process.argv[2] ?? 3);
const scratch = scratchFolder();
const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');

/** Gives out the files of a folder, some milliseconds after they were asked for. */
async function serve(folder, delay) {
  const server = createServer(async (request, response) => {
    await sleep(delay);
    const file = join(folder, request.url.replace(/[?].*/, ''));
    const size = statSync(file, { throwIfNoEntry: false })?.size;
    if (size === undefined) response.writeHead(404).end();
    else {
      response.writeHead(200, { 'content-length': size });
      createReadStream(file, { highWaterMark: 1 << 20 }).pipe(response);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { base: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** Runs the contenders in turn; each gets a home that has never seen anything. */
async function compare(title, contenders, base) {
  const runs = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++)
    for (const [name, run] of Object.entries(contenders)) {
      const home = mkdtempSync(join(scratch, 'home-'));
      const result = await run(home);
      rmSync(home, { recursive: true, force: true });
      console.error(`round ${round + 1}  ${name}  ${result.ms.toFixed(0)} ms`);
      runs[name].push(result);
    }
  const outputs = new Set(Object.values(runs).flatMap((list) => list.map(({ output }) => output)));
  if (outputs.size !== 1) throw new Error(`the answers differ: ${[...outputs].join('\n')}`);
  const summary = Object.entries(runs).map(([name, list]) => [
    name,
    { ms: median(list.map(({ ms }) => ms)), peak: Math.max(...list.map(({ peak }) => peak)) },
  ]);
  table(title, Object.fromEntries(summary), base);
}

const environment = (home) => ({
  PATH: process.env.PATH,
  HOME: home,
  XDG_CACHE_HOME: join(home, '.cache'),
  ...(process.env.FLK_ENGINES ? { FLK_ENGINES: process.env.FLK_ENGINES } : {}),
});
const quiet = ['ignore', 'pipe', 'ignore'];

await oneLarge();
await manySmall();

async function oneLarge() {
  const {
    repository: git,
    files,
    bytes,
  } = await synthesise(process.argv[3] ?? join(repository, 'bench/out'));
  const folder = join(scratch, 'large');
  mkdirSync(folder);
  const archive = join(folder, 'big.tar.gz');
  spawnSync('git', ['-C', git, 'archive', '--format=tar.gz', '--prefix=big/', '-o', archive, 'main']);
  const mega = (size) => (size / 1e6).toFixed(0);
  console.log(`${files} files, ${mega(bytes)} MB, an archive of ${mega(statSync(archive).size)} MB`);
  const server = await serve(folder, 0);
  const url = `${server.base}/big.tar.gz`;
  const flk = await bundle(
    `import { Sources } from './src/sources/source.ts';
     const [cacheFolder, url] = process.argv.slice(2);
     const sources = new Sources({ cacheFolder, reporter: { emit() {} } });
     console.log((await sources.fetch({ type: 'tarball', url })).locked.narHash);`,
    join(scratch, 'flk.mjs'),
  );
  await compare(
    'one large archive, from its URL to its narHash',
    {
      flk: (home) => measure(process.execPath, [flk, join(home, 'cache'), url]),
      ...(nix && {
        'nix 2.34': async (home) => {
          const env = environment(home);
          const result = await measure(nix, ['flake', 'prefetch', '--json', url], { env, stdio: quiet });
          const { hash, storePath } = JSON.parse(result.output);
          // Writing the tree into its store is part of what Nix does each time.
          await measure(nix, ['--delete', storePath], {
            env: { ...env, NIX_COMMAND: 'nix-store' },
            stdio: quiet,
          });
          return { ...result, output: hash };
        },
      }),
    },
    'flk',
  );
  server.close();
}

async function manySmall() {
  const folder = join(scratch, 'small');
  mkdirSync(folder);
  const names = Array.from({ length: inputs }, (_, i) => `input-${String(i + 1).padStart(2, '0')}`);
  const server = await serve(folder, delayMs);
  const urls = Object.fromEntries(names.map((name) => [name, { url: `${server.base}/${name}.tar.gz` }]));
  for (const name of names) {
    const top = join(folder, name);
    mkdirSync(join(top, 'src'), { recursive: true });
    for (const manifest of Object.keys(manifestWriters))
      for (const [path, text] of Object.entries(manifestWriters[manifest]({ description: name })))
        writeFileSync(join(top, path), text);
    for (let i = 0; i < 18; i++) writeFileSync(join(top, `src/file-${i}.txt`), `${name} ${i}\n`.repeat(40));
    execFileSync('tar', ['-C', folder, '-czf', `${top}.tar.gz`, '--mtime=@1700000000', name]);
  }
  const contender = (manifest, command) => async (home) => {
    const project = join(home, 'project');
    mkdirSync(project);
    const text = manifestWriters[manifest]({ description: 'many archives', inputs: urls })[manifest];
    writeFileSync(join(project, manifest), text);
    const [program, args] = command(project);
    const result = await measure(program, args, { env: environment(home), stdio: quiet });
    // Each time the same lock, by both.
    return { ...result, output: readFileSync(join(project, 'flake.lock'), 'utf8') };
  };
  await compare(
    `${inputs} archives as inputs, ${delayMs} ms per request, cold`,
    {
      flk: contender('flake.yaml', (project) => [
        process.execPath,
        [join(repository, 'bin/flk.js'), 'lock', project],
      ]),
      ...(nix && {
        'nix 2.34': contender('flake.nix', (project) => [nix, ['flake', 'lock', `path:${project}`]]),
      }),
    },
    'flk',
  );
  server.close();
}
