/** `flk run`: builds a package and becomes, as far as Node can, its program. */
import { spawn } from 'node:child_process';
import { readdir, stat } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { enterCommand } from '../../build/enter.ts';
import type { Store } from '../../store/store.ts';
import type { Context } from '../context.ts';
import { type BuiltTarget, buildTargets } from './build.ts';

export async function runRun(context: Context): Promise<number> {
  const [target] = await buildTargets(context, [context.args[0] ?? '.']);
  if (target === undefined) throw new FlkError('FLK_INTERNAL', 'one target gave no package');
  const store = await context.store();
  const program = await programOf(store, target);
  const { command, args } = await enterCommand(store, program, context.rest, context.cwd);
  // Nothing of flk should be noticed from here on: no lines redrawn, no database held open.
  context.report.close();
  await context.dispose();
  return await become(context, command, args);
}

/** `meta.mainProgram`, the package's name, or the only program there is; as a logical path. */
async function programOf(store: Store, { outputs, name, mainProgram }: BuiltTarget): Promise<string> {
  const path = outputs.get('out') ?? [...outputs.values()][0]!;
  const bin = join(store.physical(path), 'bin');
  const programs = (await readdir(bin).catch(() => [])).sort();
  const [only, ...others] = programs;
  const wanted = mainProgram ?? (programs.includes(name) || others.length > 0 ? name : only);
  if (wanted === undefined || !programs.includes(wanted))
    throw new FlkError('FLK_RUN_NO_PROGRAM', `${name} has no program bin/${wanted ?? name}`, {
      facts: { programs: programs.join(' ') || 'none' },
      ...(programs.length === 0 ? { hint: 'its installPhase puts programs into $out/bin' } : {}),
    });
  const info = await stat(join(bin, wanted)).catch(() => undefined);
  // A link into another store path leads nowhere outside of the view that has /nix/store.
  if (info !== undefined && (!info.isFile() || (info.mode & 0o111) === 0))
    throw new FlkError('FLK_RUN_NO_PROGRAM', `${name}: bin/${wanted} cannot be executed`, {
      hint: 'chmod +x it in installPhase',
    });
  return `${path}/bin/${wanted}`;
}

/** Runs it in the foreground; gives its exit status, or 128 and the signal that ended it, as shells do. */
function become(context: Context, command: string, args: readonly string[]): Promise<number> {
  const child = spawn(command, args, { cwd: context.cwd, env: context.env, stdio: 'inherit' });
  context.handOverSignals((signal) => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on('error', (error) =>
      reject(
        new FlkError('FLK_RUN_NO_PROGRAM', `cannot start ${command}: ${error.message}`, { cause: error }),
      ),
    );
    child.on('exit', (status, signal) => resolve(status ?? 128 + constants.signals[signal!]));
  });
}
