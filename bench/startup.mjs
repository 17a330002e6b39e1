/**
 * How long a person waits for flk to do nothing: whole processes, one after the other in turn, medians.
 * `node bench/startup.mjs [ROUNDS]`; prints a table and, as the last line, JSON.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const rounds = Number(process.argv[2] ?? 25);
const program = join(dirname(fileURLToPath(import.meta.url)), '../bin/flk.js');
const home = mkdtempSync(join(tmpdir(), 'flk-bench-'));
const env = {
  PATH: process.env.PATH,
  HOME: home,
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_AUTHOR_NAME: 'a',
  GIT_AUTHOR_EMAIL: 'a@example.org',
  GIT_COMMITTER_NAME: 'a',
  GIT_COMMITTER_EMAIL: 'a@example.org',
};
const run = (command, args, cwd) => {
  const done = spawnSync(command, args, { cwd, env, encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${done.stderr}`);
};

/** A flake with `count` inputs, each a repository of its own, locked. */
function lockedFlake(count) {
  const root = join(home, `flake-${count}`);
  const flake = join(root, 'main');
  mkdirSync(flake, { recursive: true });
  let manifest = 'inputs:\n';
  for (let i = 0; i < count; i++) {
    const input = join(root, `input${i}`);
    mkdirSync(input);
    run('git', ['init', '-q', '-b', 'main'], input);
    writeFileSync(join(input, 'flake.yaml'), `description: input ${i}\n`);
    run('git', ['add', '.'], input);
    run('git', ['commit', '-qm', 'x'], input);
    manifest += `  input${i}: git+file://${input}\n`;
  }
  writeFileSync(join(flake, 'flake.yaml'), manifest);
  run('git', ['init', '-q', '-b', 'main'], flake);
  run('git', ['add', '.'], flake);
  run(process.execPath, [program, 'lock'], flake);
  run('git', ['add', '.'], flake);
  run('git', ['commit', '-qm', 'x'], flake);
  return flake;
}

try {
  const subjects = [
    { name: 'node -e 0', args: ['-e', '0'], cwd: home },
    { name: 'flk --version', args: [program, '--version'], cwd: home },
    { name: 'flk --help', args: [program, '--help'], cwd: home },
    { name: 'flk lock, nothing to do, 3 inputs', args: [program, 'lock'], cwd: lockedFlake(3) },
    { name: 'flk lock, nothing to do, 30 inputs', args: [program, 'lock'], cwd: lockedFlake(30) },
    // The same question answered by reading and comparing, not by remembering the answer.
    {
      name: 'flk lock --check, 30 inputs',
      args: [program, 'lock', '--check'],
      cwd: join(home, 'flake-30/main'),
    },
  ];
  const times = subjects.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, { args, cwd }] of subjects.entries()) {
      const started = performance.now();
      run(process.execPath, args, cwd);
      times[i].push(performance.now() - started);
    }
  }
  const medians = times.map((each) => each.sort((a, b) => a - b)[Math.floor(each.length / 2)]);
  const results = subjects.map(({ name }, i) => ({
    name,
    ms: Math.round(medians[i] * 10) / 10,
    ratio: Math.round((medians[i] / medians[0]) * 100) / 100,
  }));
  for (const { name, ms, ratio } of results) {
    console.log(`${name.padEnd(36)} ${ms.toFixed(1).padStart(7)} ms  ${ratio.toFixed(2)} × node -e 0`);
  }
  console.log(JSON.stringify({ bench: 'startup', rounds, results }));
} finally {
  rmSync(home, { recursive: true, force: true });
}
