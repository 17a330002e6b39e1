/** `flk build`: packages of flakes, locked, instantiated, realised and linked. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { StorePath } from '../../formats/store-path.ts';
import { resultLink } from '../../store/roots.ts';
import { type BuiltTarget, buildTargets } from '../building.ts';
import type { Context } from '../context.ts';

export async function runBuild(context: Context): Promise<number> {
  const built = await buildTargets(context, context.args.length === 0 ? ['.'] : context.args);
  if (!context.flags['no-link']) await linkResults(context, built);
  const paths = built.flatMap(({ outputs }) => [...outputs.values()]);
  context.answer(
    built.map(({ drvPath, outputs }) => ({
      ...(drvPath === undefined ? {} : { drvPath }),
      outputs: Object.fromEntries(outputs),
    })),
    () => (context.flags['print-out-paths'] ? paths.join('\n') : ''),
  );
  return 0;
}

/** `result`, `result-1` for the second package, with `-NAME` for outputs that are not `out`: as `nix build` names them. */
async function linkResults(context: Context, built: readonly BuiltTarget[]): Promise<void> {
  const store = await context.store();
  const base = resolve(context.cwd, context.flags['out-link'] ?? 'result');
  let elsewhere: StorePath | undefined;
  for (const [index, { outputs }] of built.entries()) {
    for (const [output, path] of outputs) {
      const link = `${base}${index === 0 ? '' : `-${index}`}${output === 'out' ? '' : `-${output}`}`;
      await resultLink(store, link, store.physical(path));
      elsewhere ??= store.query(path)?.references.find((reference) => !existsSync(reference));
    }
  }
  if (elsewhere !== undefined && !context.flags.quiet)
    context.report.say(
      `note: the result refers to ${elsewhere}, which is not at that place on this machine: start it with flk run`,
    );
}
