/** `flk build`: packages of flakes, locked, instantiated, realised and linked. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import type { StorePath } from '../../formats/store-path.ts';
import { formatBytes } from '../../report/text.ts';
import { resultLink } from '../../store/roots.ts';
import { builderSpecs } from '../builders.ts';
import {
  type BuiltTarget,
  buildTargets,
  type Foreseen,
  type ForeseenBuild,
  forecastTargets,
} from '../building.ts';
import type { Context } from '../context.ts';

export async function runBuild(context: Context): Promise<number> {
  await checkOptions(context);
  const targets = context.args.length === 0 ? ['.'] : context.args;
  if (context.flags['dry-run']) {
    const foreseen = await forecastTargets(context, targets);
    context.answer(forecastJson(foreseen), () => forecastLines(foreseen).join('\n'));
    return foreseen.build.some(({ builder }) => builder === undefined) ? 1 : 0;
  }
  const built = await buildTargets(context, targets);
  const { rebuild, times = 1, quiet } = context.flags;
  if (rebuild && !quiet)
    context.report.say(
      times === 1 ? 'built again: the same bytes' : `built again ${times} times: the same bytes`,
    );
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

/** Says before anything is locked that something is asked for that there is not. */
async function checkOptions(context: Context): Promise<void> {
  const { builders, times, rebuild } = context.flags;
  if (builders !== undefined) await builderSpecs(context);
  if (times !== undefined && !rebuild)
    throw new FlkError('FLK_USAGE', '--times says how often to build again', {
      hint: `--rebuild --times ${times}`,
    });
  if (times === 0) throw new FlkError('FLK_USAGE', '--times needs a number from 1 on');
}

function forecastJson({ build, fetch, sources, present }: Foreseen): unknown {
  const told = build.map(({ drvPath, name, outputs, builder = null, why, passedOver }) => ({
    drvPath,
    name,
    outputs: Object.fromEntries(outputs),
    builder,
    why,
    passedOver: passedOver.map(({ builder, reason }) => ({ builder, reason })),
  }));
  return { build: told, fetch, sources, present };
}

/** A derivation, by whom it would be built and why, and below it who would have been asked before. */
function buildLines({ drvPath, builder, why, passedOver }: ForeseenBuild): string[] {
  const who = builder === undefined ? 'by nobody' : builder === 'flk' ? 'by flk itself' : `on ${builder}`;
  const reasons = {
    again: 'it is to be built again',
    'no-caches': 'no cache is asked',
    'not-cached': 'no cache has it',
  };
  return [
    `${drvPath}  ${who}: ${reasons[why]}`,
    ...passedOver.map(({ builder: other, reason }) => `  not on ${other}: ${reason}`),
  ];
}

function forecastLines({ build, fetch, sources, present }: Foreseen): string[] {
  const lines: string[] = [];
  const list = (title: string, entries: readonly string[]): void => {
    if (entries.length > 0) lines.push(`${title}:`, ...entries.map((entry) => `  ${entry}`));
  };
  const count = (number: number, what: string): string => `${number} ${what}${number === 1 ? '' : 's'}`;
  list(`would build ${count(build.length, 'package')}`, build.flatMap(buildLines));
  const caches = new Map<string, Foreseen['fetch'][number][]>();
  for (const one of fetch) caches.set(one.url, [...(caches.get(one.url) ?? []), one]);
  for (const [url, paths] of caches) {
    const sum = (size: 'fileSize' | 'narSize'): string =>
      formatBytes(paths.reduce((total, path) => total + path[size], 0));
    // A cache that packs while it sends does not know how much that will be.
    const toLoad = paths.every(({ fileSize }) => fileSize > 0) ? `${sum('fileSize')} to download, ` : '';
    list(
      `would take ${count(paths.length, 'path')} from ${url} (${toLoad}${sum('narSize')} unpacked)`,
      paths.map(({ path, narSize }) => `${path}  ${formatBytes(narSize)}`),
    );
  }
  list(`would add ${count(sources.length, 'source')}`, sources);
  list('there already', present);
  return lines;
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
