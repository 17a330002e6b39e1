/** The real command line, as a person runs it: the built program, in a folder of its own, with nothing of this machine's settings. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { git } from './repositories.ts';
import { temporaryFolder } from './temp.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

export interface CliResult {
  /** Null when a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface CliOptions {
  /** Default: the world's `folder`. */
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  /** Ends the process with SIGINT when it fires. */
  readonly signal?: AbortSignal;
}

/** A person's machine: a home, caches and a store of its own, and a folder to work in. */
export interface CliWorld {
  readonly home: string;
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  flk(args: readonly string[], options?: CliOptions): Promise<CliResult>;
}

/** A fresh machine. `npm run build` must have run. */
export function cliWorld(env: Readonly<Record<string, string>> = {}): CliWorld {
  const home = temporaryFolder();
  const folder = join(home, 'work');
  mkdirSync(folder);
  const whole = {
    PATH: process.env.PATH ?? '/usr/bin:/bin',
    HOME: home,
    XDG_CACHE_HOME: join(home, 'cache'),
    XDG_CONFIG_HOME: join(home, 'config'),
    XDG_DATA_HOME: join(home, 'data'),
    XDG_STATE_HOME: join(home, 'state'),
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: '/dev/null',
    LC_ALL: 'C.UTF-8',
    NO_COLOR: '1',
    ...env,
  };
  const flk = (args: readonly string[], options: CliOptions = {}): Promise<CliResult> =>
    runCli(args, { cwd: folder, ...options, env: { ...whole, ...options.env } });
  return { home, folder, env: whole, flk };
}

/** A fresh machine whose folder is a repository; Git knows flake.yaml and the other files, but has committed nothing. */
export function flakeWorld(
  manifest: string,
  files: Readonly<Record<string, string>> = {},
  env?: Readonly<Record<string, string>>,
): CliWorld {
  const world = cliWorld(env);
  git(world.folder, 'init', '-q');
  for (const [name, text] of Object.entries({ 'flake.yaml': manifest, ...files }))
    writeFileSync(join(world.folder, name), text);
  git(world.folder, 'add', '-N', '.');
  return world;
}

function runCli(args: readonly string[], options: CliOptions): Promise<CliResult> {
  if (!existsSync(program)) throw new Error(`${program} is missing: npm run build makes it`);
  const child = spawn(process.execPath, [program, ...args], {
    cwd: options.cwd,
    env: options.env,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  options.signal?.addEventListener('abort', () => child.kill('SIGINT'));
  child.stdin.on('error', () => {});
  child.stdin.end(options.input);
  const texts = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8');
    child[name].on('data', (text: string) => {
      texts[name] += text;
    });
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, ...texts }));
  });
}
