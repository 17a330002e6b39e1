/**
 * One repository of 40,000 files and 313 MB over smart HTTP on loopback, from a ref to its narHash: flk beside `nix flake prefetch`
 * (shallow). Whole processes with empty caches, in turn, medians of 5.
 * Usage: node bench/big-repository.mjs [ROUNDS] [FOLDER FOR THE REPOSITORY]
 */
import { rmSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { serve } from '../test-repos/serve.mjs';
import { bundle, measure, median, nixRunner, repository, scratchFolder, table } from './support.mjs';
import { synthesise } from './synth.mjs';

const rounds = Number(process.argv[2] ?? 5);
const {
  repository: git,
  rev,
  files,
  bytes,
} = await synthesise(process.argv[3] ?? join(repository, 'bench/out'));
const packs = (await readdir(join(git, 'objects/pack'))).filter((name) => name.endsWith('.pack'));
const packed = packs.reduce((sum, name) => sum + statSync(join(git, 'objects/pack', name)).size, 0);
const mega = (size) => (size / 1e6).toFixed(0);
console.log(`${files} files, ${mega(bytes)} MB, packs of ${mega(packed)} MB, revision ${rev}`);

const scratch = scratchFolder();
const server = await serve(join(git, '..'));
const url = `${server.base}/big.git`;
const flk = await bundle(
  `import { GitSource } from './src/sources/git.ts';
   const [cacheFolder, url] = process.argv.slice(2);
   const source = new GitSource({ cacheFolder, reporter: { emit() {} } });
   console.log((await source.fetch({ type: 'git', url })).locked.narHash);`,
  join(scratch, 'flk.mjs'),
);
const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');

const runFlk = () => measure(process.execPath, [flk, join(scratch, 'flk-cache'), url]);
const runNix = async () => {
  const env = { ...process.env, XDG_CACHE_HOME: join(scratch, 'nix-cache') };
  const result = await measure(nix, ['flake', 'prefetch', '--json', `git+${url}?shallow=1`], {
    env,
    // git's own progress.
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const { hash, storePath } = JSON.parse(result.output);
  // Writing the tree into its store is part of what Nix does each time.
  await measure(nix, ['--delete', storePath], { env: { ...env, NIX_COMMAND: 'nix-store' } });
  return { ...result, output: hash };
};

const runs = { flk: [], ...(nix ? { nix: [] } : {}) };
for (let round = -1; round < rounds; round++)
  for (const [name, list] of Object.entries(runs)) {
    for (const cache of ['flk-cache', 'nix-cache'])
      rmSync(join(scratch, cache), { recursive: true, force: true });
    const result = await (name === 'flk' ? runFlk() : runNix());
    if (round >= 0) list.push(result);
  }
await server.close();

const results = Object.fromEntries(
  Object.entries(runs).map(([name, list]) => [
    name,
    {
      ms: median(list.map(({ ms }) => ms)),
      peak: Math.max(...list.map(({ peak }) => peak)),
      output: list[0].output,
    },
  ]),
);
if (nix && results.flk.output !== results.nix.output)
  throw new Error(`the hashes differ: ${results.flk.output}, ${results.nix.output}`);
table('from a ref to its narHash', results, 'nix');
