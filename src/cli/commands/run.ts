/** `flk run` and `flk fmt`: build a program and become, as far as Node can, that program. */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { enterCommand } from '../../build/enter.ts';
import { onSystem, type ProgramRef } from '../../flake/manifest.ts';
import type { StorePath } from '../../formats/store-path.ts';
import type { Store } from '../../store/store.ts';
import { type BuiltTarget, buildPackage, type OpenedFlake, openOne } from '../building.ts';
import type { Context } from '../context.ts';
import { isProgram, runForeground } from '../foreground.ts';
import { hostSystem, offered, packageNamed, packageOf, parseTarget, type Target } from '../targets.ts';

export async function runRun(context: Context): Promise<number> {
  const target = parseTarget(context.args[0] ?? '.', hostSystem());
  const opened = await openOne(context, target.flake);
  const app = appOf(target, opened);
  const program =
    app === undefined
      ? await mainProgram(
          await context.store(),
          await buildPackage(context, opened, packageOf(target, opened)),
        )
      : await programOf(context, opened, app);
  return await runForeground(
    context,
    await enterCommand(await context.store(), program, context.rest, context.cwd),
  );
}

export async function runFmt(context: Context): Promise<number> {
  const opened = await openOne(context, context.flags.flake ?? '.');
  const { formatter } = opened.root.manifest.offers;
  if (formatter === undefined)
    throw new FlkError('FLK_RUN_NO_PROGRAM', 'the flake names no formatter', {
      hint: 'formatter: PACKAGE/bin/PROGRAM at the top of flake.yaml',
    });
  const program = await programOf(context, opened, formatter);
  const args = [...context.args, ...context.rest];
  const command = await enterCommand(await context.store(), program, args, context.cwd);
  const place = opened.folder === undefined ? {} : { PRJ_ROOT: opened.folder };
  return await runForeground(context, command, { ...context.env, ...place });
}

/** The app that a target names, if it names one: an app goes before a package of its name. */
function appOf({ kind, name = 'default', output }: Target, opened: OpenedFlake): ProgramRef | undefined {
  const apps = onSystem(opened.root.manifest.offers.apps, opened.system);
  if (kind === 'apps') return offered(apps, 'app', name).program;
  return kind === undefined && output === undefined ? apps.get(name)?.program : undefined;
}

/** Builds the package that holds a program; gives the program, as a logical path. */
async function programOf(context: Context, opened: OpenedFlake, { ref, path }: ProgramRef): Promise<string> {
  const built = await buildPackage(context, opened, packageNamed(ref));
  const store = await context.store();
  return path === undefined
    ? await mainProgram(store, built)
    : await executable(store, built, outputOf(built), path);
}

const outputOf = ({ outputs }: BuiltTarget): StorePath => outputs.get('out') ?? [...outputs.values()][0]!;

/** `meta.mainProgram`, the package's name, or the only program there is; as a logical path. */
async function mainProgram(store: Store, built: BuiltTarget): Promise<string> {
  const { name } = built;
  const path = outputOf(built);
  const programs = (await readdir(join(store.physical(path), 'bin')).catch(() => [])).sort();
  const [only, ...others] = programs;
  const wanted = built.mainProgram ?? (programs.includes(name) || others.length > 0 ? name : only);
  if (wanted === undefined || !programs.includes(wanted))
    throw new FlkError('FLK_RUN_NO_PROGRAM', `${name} has no program bin/${wanted ?? name}`, {
      facts: { programs: programs.join(' ') || 'none' },
      ...(programs.length === 0 ? { hint: 'its installPhase puts programs into $out/bin' } : {}),
    });
  return await executable(store, built, path, `bin/${wanted}`);
}

async function executable(
  store: Store,
  { name }: BuiltTarget,
  path: StorePath,
  inside: string,
): Promise<string> {
  const place = join(store.physical(path), inside);
  if (await isProgram(place)) return `${path}/${inside}`;
  const there = existsSync(place);
  throw new FlkError(
    'FLK_RUN_NO_PROGRAM',
    there ? `${name}: ${inside} cannot be executed` : `${name} has no file ${inside}`,
    {
      hint: there ? 'chmod +x it in installPhase' : 'the path counts from the package’s output: bin/PROGRAM',
    },
  );
}
