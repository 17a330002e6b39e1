/** Pieces of flk in processes of their own, to be killed. */
import { type ChildProcess, fork } from 'node:child_process';
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { temporaryFolder } from './temp.ts';

const repository = fileURLToPath(new URL('../..', import.meta.url));

/**
 * Bundles a TypeScript file, or a text whose imports are relative to the repository's root, so that plain Node runs it; native packages
 * are taken from where they are installed.
 */
export async function bundleChild(program: URL | string): Promise<string> {
  const folder = temporaryFolder();
  symlinkSync(join(repository, 'node_modules'), join(folder, 'node_modules'));
  const outfile = join(folder, 'child.mjs');
  await build({
    ...(typeof program === 'string'
      ? { stdin: { contents: program, resolveDir: repository, loader: 'ts' } }
      : { entryPoints: [program.pathname] }),
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'error',
    external: ['libsql', 'lzma-native'],
  });
  return outfile;
}

export interface Child {
  readonly process: ChildProcess;
  /** Settles when it is over: its status, or the signal that ended it. */
  readonly over: Promise<number | string | null>;
}

/** Starts a bundled file; killed with the test's own process at the latest. */
export function startChild(
  file: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Child {
  const child = fork(file, args, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, ...env },
  });
  const over = new Promise<number | string | null>((done) => {
    child.on('exit', (status, signal) => done(signal ?? status));
  });
  return { process: child, over };
}
