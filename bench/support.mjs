/** What every benchmark needs: whole processes timed side by side, their peak memory, and a bundle of the sources to run. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

export const repository = fileURLToPath(new URL('..', import.meta.url));

/** A folder that goes away when the benchmark ends. */
export function scratchFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'flk-bench-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Bundles a few lines of TypeScript, whose imports are relative to the repository's root, to a file that Node runs as it is. */
export async function bundle(code, file) {
  await build({
    stdin: { contents: code, resolveDir: repository, loader: 'ts', sourcefile: 'bench.ts' },
    outfile: file,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    // What is not a module asks for Node's own parts in the old way.
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
    },
    // Native code cannot be bundled.
    external: ['libsql', 'lzma-native', '@grpc/grpc-js', 'protobufjs/*'],
    logLevel: 'warning',
  });
  return file;
}

/** Where tests/engines/install puts Nix and its neighbours. */
export const enginesRoot = process.env.FLK_ENGINES ?? '/opt/flk-engines';

/** The runner for Nix, or undefined where tests/engines/install has not put one. */
export function nixRunner() {
  return existsSync(join(enginesRoot, '.complete')) ? join(repository, 'tests/engines/nix') : undefined;
}

/**
 * Runs a whole process once the disk is at rest, for the first that syncs would else write what those before it did not: milliseconds from
 * start to end, peak memory in MB (VmHWM, looked at every few milliseconds), its output.
 */
export function measure(command, args, options = {}) {
  spawnSync('sync');
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
    let output = '';
    let peak = 0;
    const look = () => {
      peak = Math.max(peak, highWater(child.pid));
    };
    const timer = setInterval(look, 50);
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.on('error', reject);
    child.on('exit', () => clearInterval(timer));
    child.on('close', (status) => {
      if (status === 0) resolve({ ms: performance.now() - started, peak, output: output.trim() });
      else reject(new Error(`${command} ${args.join(' ').slice(0, 300)} ended with ${status}`));
    });
  });
}

/** The largest VmHWM in MB of a process and those below it (Nix runs behind a sandbox program). */
function highWater(pid) {
  try {
    const [, kilobytes] = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    const below = children === '' ? [] : children.split(' ').map(highWater);
    return Math.max(Number(kilobytes ?? 0) / 1024, ...below);
  } catch {
    // It is over.
    return 0;
  }
}

/** Runs every contender in turn, `rounds` times after a warm-up, so that a busy machine is busy for all of them. */
export async function sideBySide(contenders, rounds = 7) {
  const results = new Map(Object.keys(contenders).map((name) => [name, []]));
  for (let round = -1; round < rounds; round++)
    for (const [name, [command, ...args]] of Object.entries(contenders)) {
      const result = await measure(command, args);
      if (round >= 0) results.get(name).push(result);
    }
  return Object.fromEntries(
    [...results].map(([name, runs]) => [
      name,
      {
        ms: median(runs.map(({ ms }) => ms)),
        peak: Math.max(...runs.map(({ peak }) => peak)),
        output: runs[0].output,
      },
    ]),
  );
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** One line per contender; the ratio is to the one named `base`. */
export function table(title, results, base) {
  console.log(`\n${title}`);
  for (const [name, { ms, peak }] of Object.entries(results)) {
    const ratio = results[base] && name !== base ? `   ${(ms / results[base].ms).toFixed(2)} x ${base}` : '';
    console.log(
      `  ${name.padEnd(16)} ${ms.toFixed(0).padStart(6)} ms ${peak.toFixed(0).padStart(6)} MB${ratio}`,
    );
  }
}
