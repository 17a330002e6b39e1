/**
 * flk's main job on real repositories: `npm run demo`. Builds Git repositories, serves them over smart HTTP on loopback,
 * writes a project that uses them, and types flk's commands; what is printed is what they print. Needs Node and git, nothing else,
 * and leaves nothing behind.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildRepository, loadRecipes, writeFiles } from '../test-repos/build.mjs';
import { serve } from '../test-repos/serve.mjs';

const flk = fileURLToPath(new URL('../bin/flk.js', import.meta.url));
if (!existsSync(fileURLToPath(new URL('../dist/flk.cjs', import.meta.url)))) {
  console.error('flk is not built yet: run npm ci, or npm run build');
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), 'flk-demo-'));
const repositories = join(folder, 'repositories');
const project = join(folder, 'hello');
mkdirSync(repositories);
const server = await serve(repositories);
const recipes = await loadRecipes();

/** The demo has a home, caches and a store of its own, and nobody's Git settings. */
const env = {
  PATH: process.env.PATH,
  TERM: process.env.TERM,
  LANG: process.env.LANG,
  HOME: folder,
  XDG_CACHE_HOME: join(folder, 'cache'),
  XDG_DATA_HOME: join(folder, 'data'),
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_AUTHOR_NAME: 'Ada Example',
  GIT_AUTHOR_EMAIL: 'ada@flk.example',
  GIT_COMMITTER_NAME: 'Ada Example',
  GIT_COMMITTER_EMAIL: 'ada@flk.example',
};
for (const name of Object.keys(env)) if (env[name] === undefined) delete env[name];

try {
  publish(1);
  say(`Git repositories, served over HTTP at ${server.base}; and a project that builds a program from them:`);
  writeFiles(recipes.get('hello')({ base: server.base }), 'first', project);
  await type('git', 'init', '--quiet', '--initial-branch=main');
  await type('git', 'add', '.');
  await type('cat', 'flake.yaml');

  say('Pin every input, and theirs:');
  await type('flk', 'lock');
  await type('git', 'commit', '--quiet', '--all', '--message=Lock');
  await type('flk', 'metadata');

  say('Build it and run it. Nothing outside the lock is used, and nothing is fetched twice:');
  const sandbox = await build();
  await type('flk', 'run', ...sandbox);

  say('greet publishes 1.3.0. The lock stays as it is, until you say so:');
  publish(2);
  await type('flk', 'lock');
  await type('flk', 'update', 'greet');
  await type('git', 'commit', '--quiet', '--all', '--message=Update');
  await type('flk', 'run', ...sandbox, '.#default', '--', 'Ada');

  say('The lock is what locking would give now:');
  await type('flk', 'lock', '--check');
  say(`That took ${server.log.length} requests to the server.`);
} finally {
  await server.close();
  // What lies in a store has no write permission.
  execFileSync('chmod', ['-R', 'u+rwX', folder]);
  execFileSync('rm', ['-rf', folder]);
}

/** Publishes the repositories' history up to this phase. */
function publish(phase) {
  for (const name of ['style', 'greet', 'assets'])
    buildRepository(recipes.get(name), repositories, { base: server.base, phase });
}

/** The first build; gives the options that all later ones need. */
async function build() {
  const { status, stderr } = await run('flk', ['build']);
  if (status === 0) return [];
  if (!stderr.includes('FLK_SANDBOX_UNAVAILABLE')) throw new Error(`flk build ended with ${status}`);
  say('This machine lets nobody make namespaces, so there is no sandbox: the builds run without one.');
  await type('flk', 'build', '--no-sandbox');
  return ['--no-sandbox'];
}

function say(text) {
  console.log(`\n# ${text}`);
}

async function type(...words) {
  const [command, ...args] = words;
  const { status } = await run(command, args);
  if (status !== 0) throw new Error(`${words.join(' ')} ended with ${status}`);
}

/** Prints the command as one would type it, and then whatever it prints. */
function run(command, args) {
  console.log(`\n$ ${[command, ...args].join(' ')}`);
  const [program, ...before] = command === 'flk' ? [process.execPath, flk] : [command];
  const child = spawn(program, [...before, ...args], {
    cwd: project,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stdout.on('data', (chunk) => process.stdout.write(chunk));
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
    process.stdout.write(chunk);
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stderr }));
  });
}
