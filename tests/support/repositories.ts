/** The repositories of `test-repos/`, built into a folder for a test. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { promisify } from 'node:util';
import { type Built, buildRepository, loadRecipes, type RecipeMaker } from '../../test-repos/build.mjs';

export interface BuildOptions {
  /** What URLs in manifests begin with, after `git+`: `http://127.0.0.1:PORT` or `file:///FOLDER`. */
  readonly base?: string;
  /** How much of each history is published; default all. Most recipes have one phase, some a second. */
  readonly phase?: number;
  readonly manifest?: 'flake.yaml' | 'flake.nix';
}

const recipes = await loadRecipes();

/** The recipe in `test-repos/recipes/NAME.mjs`. */
export function recipe(name: string): RecipeMaker {
  const maker = recipes.get(name);
  if (!maker) throw new Error(`no recipe ${name}`);
  return maker;
}

/** Builds (or rebuilds, in another phase) the named repositories, bare, into `folder`; by default all. */
export function buildRepositories(
  folder: string,
  names: readonly string[] = [...recipes.keys()],
  options: BuildOptions = {},
): Map<string, Built> {
  mkdirSync(folder, { recursive: true });
  return new Map(names.map((name) => [name, buildRepository(recipe(name), folder, options)]));
}

/** The environment in which Git looks at nothing but its arguments and the repository. */
export const gitEnvironment: NodeJS.ProcessEnv = {
  PATH: process.env.PATH,
  HOME: '/nonexistent',
  TZ: 'UTC',
  LC_ALL: 'C',
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_AUTHOR_NAME: 'Ada Example',
  GIT_AUTHOR_EMAIL: 'ada@flk.example',
  GIT_AUTHOR_DATE: '2024-01-01T00:00:00Z',
  GIT_COMMITTER_NAME: 'Ada Example',
  GIT_COMMITTER_EMAIL: 'ada@flk.example',
  GIT_COMMITTER_DATE: '2024-01-01T00:00:00Z',
};

/** As `git`, without holding up this process: where the server that git talks to lives in it. */
export async function gitClient(folder: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)('git', ['-c', 'init.defaultBranch=main', ...args], {
    cwd: folder,
    env: gitEnvironment,
    timeout: 30_000,
  });
  return stdout.trim();
}

/** Runs git in `folder` and gives what it printed, trimmed. Never against a server of this process: that one waits meanwhile. */
export function git(folder: string, ...args: string[]): string {
  return execFileSync('git', ['-c', 'init.defaultBranch=main', ...args], {
    cwd: folder,
    env: gitEnvironment,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 30_000,
  }).trim();
}
