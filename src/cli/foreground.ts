/** The programs that flk starts in its own place, and the environment that they are given. */
import { spawn } from 'node:child_process';
import { lstat, stat } from 'node:fs/promises';
import { constants, userInfo } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { type HostCommand, onDisk } from '../build/enter.ts';
import type { Store } from '../store/store.ts';
import type { Context } from './context.ts';

/**
 * Runs a command in the foreground, in this folder; gives its exit status, or 128 and the signal that ended it, as shells do. What this
 * run has held of the store stays for as long as it runs.
 */
export async function runForeground(
  context: Context,
  { command, args }: HostCommand,
  env: NodeJS.ProcessEnv = context.env,
): Promise<number> {
  // Nothing of flk should be noticed from here on: no lines are redrawn.
  context.report.close();
  const child = spawn(command, args, { cwd: context.cwd, env, stdio: 'inherit' });
  context.handOverSignals((signal) => child.kill(signal));
  return await new Promise((done, reject) => {
    child.on('error', (error) =>
      reject(
        new FlkError('FLK_RUN_NO_PROGRAM', `cannot start ${command}: ${error.message}`, { cause: error }),
      ),
    );
    child.on('exit', (status, signal) => done(status ?? 128 + constants.signals[signal!]));
  });
}

/**
 * The environment that --ignore-env, --keep-env-var, --unset-env-var and --set-env-var leave of this one, by Nix's rules. Throws
 * FLK_USAGE where they contradict each other.
 */
export function chosenEnvironment({ env, flags }: Pick<Context, 'env' | 'flags'>): NodeJS.ProcessEnv {
  const kept = flags['keep-env-var'];
  const unset = flags['unset-env-var'];
  const set = new Map(flags['set-env-var']);
  if (flags['ignore-env'] && unset.length > 0)
    throw contradiction('--unset-env-var makes no sense with --ignore-env', 'leave one of them out');
  if (!flags['ignore-env'] && kept.length > 0)
    throw contradiction('--keep-env-var makes no sense without --ignore-env', 'add --ignore-env');
  const both = unset.find((name) => set.has(name));
  if (both !== undefined)
    throw contradiction(`${both} is both set and unset`, 'leave one of the options out');
  if (set.size < flags['set-env-var'].length)
    throw contradiction('--set-env-var sets one variable twice', 'leave one of the options out');
  for (const name of [...unset, ...kept, ...set.keys()])
    if (name === '' || name.includes('='))
      throw contradiction(`'${name}' cannot be the name of a variable`, 'names are not empty and hold no =');
  const left = Object.entries(env).filter(([name]) =>
    flags['ignore-env'] ? kept.includes(name) : !unset.includes(name),
  );
  return { ...Object.fromEntries(left), ...Object.fromEntries(set) };
}

const contradiction = (message: string, hint: string): FlkError =>
  new FlkError('FLK_USAGE', message, { hint });

/** What to run instead of an interactive shell, after `-c` or `--`; undefined: nothing was asked for. Throws FLK_USAGE for both. */
export function commandOf({ flags, rest, command }: Context): readonly string[] | undefined {
  const given = [flags.command, rest].filter((words) => words.length > 0);
  if (given.length > 1)
    throw new FlkError('FLK_USAGE', 'there is a command after -c and another one after --', {
      hint: `flk ${command} --help`,
    });
  return given[0];
}

/** The shell of the person who runs flk: absolute, or a name to look for. */
export function personalShell(env: NodeJS.ProcessEnv): string {
  if (env.SHELL !== undefined && env.SHELL !== '') return env.SHELL;
  try {
    return userInfo().shell ?? 'sh';
  } catch {
    // A user whom no passwd knows.
    return 'sh';
  }
}

/**
 * Throws FLK_RUN_NO_PROGRAM where a command cannot be started: its program, as the command line names it, is not a file that may be
 * executed, and not on `path`. Both may speak of /nix/store, which is `store`.
 */
export async function assertProgram(
  store: Store,
  program: string,
  path: string | undefined,
  cwd: string,
): Promise<void> {
  const places = program.includes('/')
    ? [resolve(cwd, program)]
    : (path ?? '/bin:/usr/bin').split(delimiter).map((folder) => join(resolve(cwd, folder), program));
  for (const place of places) if (await isProgram(onDisk(store, place))) return;
  throw new FlkError('FLK_RUN_NO_PROGRAM', `there is no program ${program}`, {
    facts: program.includes('/') ? {} : { PATH: path ?? '(unset)' },
    hint: 'check the name; flk build --print-out-paths shows where packages lie, and ls BIN what they have',
  });
}

/** Whether a file may be executed, as far as can be told: a link into another store path leads nowhere outside of a view that has it. */
export async function isProgram(place: string): Promise<boolean> {
  const info = await stat(place).catch(() => undefined);
  if (info !== undefined) return info.isFile() && (info.mode & 0o111) !== 0;
  return (await lstat(place).catch(() => undefined))?.isSymbolicLink() === true;
}
