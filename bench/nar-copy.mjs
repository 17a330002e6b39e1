/**
 * Taking paths from a binary cache: `flk cache pull` beside `nix copy --from`, whole processes, each into a store that is new.
 *
 * 1. One path of 10,000 files and 100 MB.
 * 2. A path that refers to 500 small ones.
 *
 * All stores stay until the end (3 GB a round): ext4 without a journal passes over each inode that went in the last minutes, so that
 * whoever comes after a removal pays for it, four times what the work takes.
 *
 * From the same folder, as file:// and over HTTP on loopback, packed with xz, with zstd where Node or Nix can, and not at all. Time, and
 * processor time of all threads: a machine with other work stretches the first more than the second.
 *
 *     node bench/nar-copy.mjs [ROUNDS] [FILES] [PATHS]      default 3 10000 500; files have 10 kB
 */
import { spawnSync } from 'node:child_process';
import { createReadStream, mkdirSync, mkdtempSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import * as zlib from 'node:zlib';
import { bundle, measure, median, nixRunner, repository, scratchFolder } from './support.mjs';

const [rounds = 3, fileCount = 10_000, pathCount = 500] = process.argv.slice(2).map(Number);
const scratch = scratchFolder();
const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');
const flk = join(repository, 'bin/flk.js');

const environment = (home) => ({
  PATH: process.env.PATH,
  HOME: home,
  XDG_CACHE_HOME: join(home, '.cache'),
  XDG_DATA_HOME: join(home, '.local'),
  ...(process.env.FLK_ENGINES ? { FLK_ENGINES: process.env.FLK_ENGINES } : {}),
});

/** Words and numbers, which pack as sources do: to about a fifth. */
function textOf(size, seed) {
  let text = '';
  for (let state = seed + 1; text.length < size; ) {
    state = (state * 1103515245 + 12345) % 2147483648;
    text += `const value${state % 977} = compute(${state % 65536}, 'name-${state % 131}');\n`;
  }
  return text.slice(0, size);
}

const large = join(scratch, 'large');
for (let i = 0; i < fileCount; i++) {
  const folder = join(large, `part-${i % 100}`, `sub-${i % 7}`);
  if (i < 700) mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `file-${i}.ts`), textOf(10_000, i));
}
symlinkSync(join(repository, 'node_modules'), join(scratch, 'node_modules'));
const fill = await bundle(
  `import { openStore } from './src/store/store.ts';
   import { walkPath } from './src/store/tree-files.ts';
   const [root, large] = process.argv.slice(2);
   const store = await openStore(root);
   const { path } = await store.addTree('large', walkPath(large));
   const small = await Promise.all(Array.from({ length: ${pathCount} }, (_, i) =>
     store.addText('small-' + i, ('line ' + i + '\\n').repeat(200), [])));
   const paths = small.map(({ path }) => path);
   const top = await store.addText('top', paths.join('\\n'), paths);
   console.log(path);
   console.log(top.path);
   store.close();`,
  join(scratch, 'fill.mjs'),
);
const source = join(scratch, 'store');
const filled = spawnSync(process.execPath, [fill, source, large], { encoding: 'utf8' });
if (filled.status !== 0) throw new Error(filled.stderr);
const [largePath, topPath] = filled.stdout.trim().split('\n');

async function serve(folder) {
  const server = createServer((request, response) => {
    const file = join(folder, request.url);
    const size = statSync(file, { throwIfNoEntry: false })?.size;
    if (size === undefined) response.writeHead(404).end();
    else {
      response.writeHead(200, { 'content-length': size });
      createReadStream(file, { highWaterMark: 1 << 20 }).pipe(response);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** Bash knows what a process and all its children took; what they print goes nowhere. */
const timed = 'TIMEFORMAT="%U %S"; { time "$@" >/dev/null 2>/dev/null; } 2>&1';

async function pulled(program, words, home) {
  const { ms, peak, output } = await measure('bash', ['-c', timed, 'bash', program, ...words], {
    env: environment(home),
  });
  const [user, system] = output.split(' ').map(Number);
  return { ms, peak, cpu: (user + system) * 1000 };
}

const nodeHasZstd = 'createZstdCompress' in zlib;
const packings = ['none', 'xz', ...(nodeHasZstd || nix ? ['zstd'] : [])];
for (const compression of packings) {
  const cache = join(scratch, `cache-${compression}`);
  const to = ['--store', source, '--compression', compression, cache, largePath, topPath];
  const from = `file://${join(scratch, 'cache-none')}`;
  const packed = `file://${cache}?compression=${compression}`;
  const [program, words] =
    compression === 'zstd' && !nodeHasZstd
      ? [nix, ['copy', '--no-check-sigs', '--from', from, '--to', packed, largePath, topPath]]
      : [process.execPath, [flk, 'cache', 'push', ...to]];
  const pushed = spawnSync(program, words, { encoding: 'utf8', env: environment(scratch) });
  if (pushed.status !== 0) throw new Error(pushed.stderr);
  const server = await serve(cache);
  for (const [what, path] of [
    [`${fileCount} files, ${(fileCount / 100).toFixed(0)} MB`, largePath],
    [`${pathCount} small paths`, topPath],
  ])
    for (const url of [`file://${cache}`, server.url]) {
      console.log(`\n${what}, ${compression}, ${url.split(':')[0]}`);
      const contenders = {
        ...(nix && {
          'nix 2.34': (home) => [
            nix,
            ['copy', '--no-check-sigs', '--from', url, '--to', join(home, 'store'), path],
          ],
        }),
        flk: (home) => [process.execPath, [flk, 'cache', 'pull', '--store', join(home, 'store'), url, path]],
      };
      const runs = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
      for (let round = 0; round < rounds; round++)
        for (const [name, contender] of Object.entries(contenders)) {
          const home = mkdtempSync(join(scratch, 'home-'));
          runs[name].push(await pulled(...contender(home), home));
        }
      let base;
      for (const [name, list] of Object.entries(runs)) {
        const ms = median(list.map((run) => run.ms));
        const cpu = median(list.map((run) => run.cpu));
        const peak = Math.max(...list.map((run) => run.peak));
        const ratio = base
          ? `   ${(ms / base.ms).toFixed(2)} x time, ${(cpu / base.cpu).toFixed(2)} x cpu`
          : '';
        base ??= { ms, cpu };
        console.log(
          `  ${name.padEnd(10)} ${ms.toFixed(0).padStart(6)} ms ${cpu.toFixed(0).padStart(6)} ms cpu ${peak.toFixed(0).padStart(5)} MB${ratio}`,
        );
      }
    }
  server.close();
}
