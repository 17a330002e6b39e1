/** A real Nix to compare with, where `tests/engines/install` has put one; tests that need it skip themselves where it is not. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { quote, run } from '../../src/base/process.ts';
import { temporaryFolder } from './temp.ts';

export const enginesRoot = process.env.FLK_ENGINES ?? '/opt/flk-engines';
const runner = fileURLToPath(new URL('../engines/nix', import.meta.url));

export interface NixOptions {
  /** Added to this process's environment. */
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly input?: string | Buffer;
}

export interface NixResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Whether `tests/engines/install` has finished on this machine. */
export function nixAvailable(): boolean {
  return existsSync(`${enginesRoot}/.complete`);
}

/** For the title of a group of tests that needs Nix, so that a skip tells why. */
export const nixReason = nixAvailable() ? '(with Nix)' : '(skipped: no Nix, tests/engines/install gives one)';

/** Runs `nix ARGS…`: flakes on, no substituters, sandbox off, its own store inside the engines root. Sees /tmp and homes as they are. */
export function nix(args: readonly string[], options: NixOptions = {}): Promise<NixResult> {
  return nixCommand('nix', args, options);
}

/** Runs one of the older programs: `nix-store`, `nix-hash`, `nix-instantiate`. */
export async function nixCommand(
  command: string,
  args: readonly string[],
  options: NixOptions = {},
): Promise<NixResult> {
  const { status, stdout, stderr } = await run(runner, args, {
    env: { ...process.env, FLK_ENGINES: enginesRoot, ...options.env, NIX_COMMAND: command },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.input === undefined ? {} : { input: options.input }),
  });
  return { status, stdout: stdout.toString(), stderr };
}

/** A folder with the programs `nix` and `nix-store`, as an installed Nix has it. `env` is added to theirs. */
export function nixPrograms(env: Readonly<Record<string, string>> = {}): string {
  const folder = temporaryFolder();
  for (const command of ['nix', 'nix-store']) {
    const words = Object.entries({ FLK_ENGINES: enginesRoot, ...env, NIX_COMMAND: command });
    const assigned = words.map(([name, value]) => quote(`${name}=${value}`)).join(' ');
    writeFileSync(join(folder, command), `#!/bin/sh\nexec env ${assigned} ${quote(runner)} "$@"\n`, {
      mode: 0o755,
    });
  }
  return folder;
}
