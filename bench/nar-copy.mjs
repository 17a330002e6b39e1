/**
 * Taking paths from a binary cache: `flk cache pull` beside `nix copy --from`, whole processes, each into a store that is new.
 *
 * 1. One path of 10,000 files of 10 kB, 100 MB: sources.
 * 2. Where Nix is, one path with its own libraries and those of what is beside it, about 7,000 files and 250 MB: as packages are.
 * 3. A path that refers to 500 small ones.
 *
 * All stores stay until the end (5 GB a round): ext4 without a journal passes over each inode that went in the last minutes, so that
 * whoever comes after a removal pays for it, four times what the work takes.
 *
 * From the same folder, as file:// and over HTTP on loopback (by nginx where there is one), packed with xz, with zstd where Node or Nix
 * can, and not at all; the small paths also from a server that answers after 30 ms, as one does that is not on this machine. Both unpack xz with the same liblzma: of two versions, one may take two thirds longer. flk finds its compiled
 * code, as on any run but the first. Time, and processor time of all threads: a machine with other work stretches the first more than
 * the second. What Nix leaves in memory, flk has brought to the disk by the end of its time.
 *
 *     node bench/nar-copy.mjs [ROUNDS] [FILES] [PATHS]      default 3 10000 500
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import * as zlib from 'node:zlib';
import { bundle, enginesRoot, measure, median, nixRunner, repository, scratchFolder } from './support.mjs';

const [rounds = 3, fileCount = 10_000, pathCount = 500] = process.argv.slice(2).map(Number);
const scratch = scratchFolder();
const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');
const flk = join(repository, 'bin/flk.js');

/** The xz that was built with Nix's liblzma. */
const programs = join(scratch, 'programs');
mkdirSync(programs);
if (nix && existsSync(join(enginesRoot, 'usr/bin/xz')))
  writeFileSync(
    join(programs, 'xz'),
    `#!/bin/sh
exec ${enginesRoot}/lib64/ld-linux-*.so.* --library-path "$(echo ${enginesRoot}/usr/lib/*-linux-gnu)" ${enginesRoot}/usr/bin/xz "$@"
`,
    { mode: 0o755 },
  );

const environment = (home) => ({
  PATH: `${programs}:${process.env.PATH}`,
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
   const [root, ...trees] = process.argv.slice(2);
   const store = await openStore(root);
   for (const tree of trees) console.log((await store.addTree('tree', walkPath(tree))).path);
   const small = await Promise.all(Array.from({ length: ${pathCount} }, (_, i) =>
     store.addText('small-' + i, ('line ' + i + '\\n').repeat(200), [])));
   const paths = small.map(({ path }) => path);
   const top = await store.addText('top', paths.join('\\n'), paths);
   console.log(top.path);
   store.close();`,
  join(scratch, 'fill.mjs'),
);
const source = join(scratch, 'store');
const libraries = join(enginesRoot, 'usr/lib');
const filled = spawnSync(process.execPath, [fill, source, large, ...(nix ? [libraries] : [])], {
  encoding: 'utf8',
});
if (filled.status !== 0) throw new Error(filled.stderr);
const paths = filled.stdout.trim().split('\n');
const titles = [
  `${fileCount} files, ${(fileCount / 100).toFixed(0)} MB`,
  ...(nix ? ['libraries'] : []),
  `${pathCount} small paths`,
];

/** Milliseconds, for each answer. */
const distance = 30;
const hasNginx = nix && existsSync(join(enginesRoot, 'usr/sbin/nginx'));
const serve = hasNginx ? serveByNginx : serveByNode;

async function serveByNode(folder, delay = 0) {
  const server = createServer(async (request, response) => {
    if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
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

async function serveByNginx(folder) {
  const place = mkdtempSync(join(scratch, 'nginx-'));
  const port = await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
  writeFileSync(
    join(place, 'nginx.conf'),
    `daemon off; user root root; pid ${place}/pid; error_log ${place}/error.log;
events { worker_connections 256; }
http {
  access_log off; sendfile on; keepalive_requests 10000; client_body_temp_path ${place}/body;
  server { listen 127.0.0.1:${port}; location / { root ${folder}; } }
}
`,
  );
  const child = spawn(nix, ['-c', join(place, 'nginx.conf'), '-p', place], {
    env: { ...process.env, NIX_COMMAND: '/usr/sbin/nginx' },
    stdio: 'ignore',
  });
  const url = `http://127.0.0.1:${port}`;
  for (let tries = 0; tries < 100; tries++) {
    if (await fetch(`${url}/nix-cache-info`).catch(() => undefined)) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return { url, close: () => child.kill() };
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

/** Where the first pull leaves it, in a home of its own; a newer Node keeps it elsewhere by itself. */
const compiled = join(scratch, 'first/.cache/flk/code');
mkdirSync(compiled, { recursive: true });

const nodeHasZstd = 'createZstdCompress' in zlib;
const packings = ['none', 'xz', ...(nodeHasZstd || nix ? ['zstd'] : [])];
for (const compression of packings) {
  const cache = join(scratch, `cache-${compression}`);
  const to = ['--store', source, '--compression', compression, cache, ...paths];
  const from = `file://${join(scratch, 'cache-none')}`;
  const packed = `file://${cache}?compression=${compression}`;
  const [program, words] =
    compression === 'zstd' && !nodeHasZstd
      ? [nix, ['copy', '--no-check-sigs', '--from', from, '--to', packed, ...paths]]
      : [process.execPath, [flk, 'cache', 'push', ...to]];
  const pushed = spawnSync(program, words, { encoding: 'utf8', env: environment(scratch) });
  if (pushed.status !== 0) throw new Error(pushed.stderr);
  if (compression === packings[0]) {
    const home = join(scratch, 'first');
    await measure(process.execPath, [flk, 'cache', 'pull', '--quiet', '--store', home, cache, paths.at(-1)], {
      env: environment(home),
    });
  }
  const server = await serve(cache);
  const distant = await serveByNode(cache, distance);
  for (const [i, path] of paths.entries()) {
    const isSmall = i === paths.length - 1;
    const places = [
      `file://${cache}`,
      server.url,
      ...(isSmall && compression === 'none' ? [distant.url] : []),
    ];
    for (const url of places) {
      const where = url === distant.url ? `http, ${distance} ms away` : url.split(':')[0];
      console.log(`\n${titles[i]}, ${compression}, ${where}`);
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
          cpSync(compiled, join(home, '.cache/flk/code'), { recursive: true });
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
  }
  distant.close();
  server.close();
}
