/** `flk check`: whether all that a flake offers is in order, and its checks build. */
import { compareBytes } from '../../base/canonical.ts';
import { asFlkError, type FlkError } from '../../base/errors.ts';
import { shellPackage } from '../../build/develop.ts';
import { type InstantiatedPackage, Instantiator, type NamedPackage } from '../../build/instantiate.ts';
import { type Manifest, onSystem, packagesFor } from '../../flake/manifest.ts';
import type { StorePath } from '../../formats/store-path.ts';
import { type ErrorJson, errorJson, renderError } from '../../report/errors.ts';
import { cleanText } from '../../report/text.ts';
import { type OpenedFlake, openOne, realisePackages } from '../building.ts';
import { type Context, paletteFor } from '../context.ts';
import { checkName, packageNamed, withChecks, withShell } from '../targets.ts';

/** One thing that the flake offers. */
interface Item {
  /** `checks.runs`; `formatter`. */
  readonly name: string;
  readonly system: string;
  readonly isCheck: boolean;
  /** As far as it got. */
  planned?: InstantiatedPackage;
  error?: FlkError;
}

export async function runCheck(context: Context): Promise<number> {
  const opened = await openOne(context, context.args[0] ?? '.');
  const { manifest } = opened.root;
  const systems = context.flags['all-systems'] ? systemsOf(manifest, opened.system) : [opened.system];
  const items: Item[] = [];
  for (const system of systems) items.push(...(await instantiateAll(context, opened, system)));
  if (!context.flags['no-build']) await buildAll(context, opened.system, items);
  const failed = items.filter(({ error }) => error !== undefined);
  for (const { error } of distinct(failed))
    context.report.say(renderError(error!, paletteFor({ isTTY: context.interactive }, context.env)));
  context.answer(items.map(itemJson), () => lines(context, items).join('\n'));
  return failed.length === 0 ? 0 : 1;
}

/** This one, and all others that the flake names anywhere; sorted. */
function systemsOf({ systems, perSystem, offers }: Manifest, own: string): string[] {
  const named = [perSystem, offers.checks.perSystem, offers.devShells.perSystem, offers.apps.perSystem];
  return [...new Set([own, ...systems, ...named.flatMap((map) => [...map.keys()])])].sort(compareBytes);
}

async function instantiateAll(context: Context, opened: OpenedFlake, system: string): Promise<Item[]> {
  const items: Item[] = [];
  const { offers } = opened.root.manifest;
  let manifest = withChecks(opened.root.manifest, system);
  const wanted: { readonly item: Item; readonly request: NamedPackage }[] = [];
  const want = (name: string, request: NamedPackage, isCheck = false): void => {
    const item: Item = { name, system, isCheck };
    items.push(item);
    wanted.push({ item, request });
  };
  // Names with a dot are not the flake's own.
  for (const name of packagesFor(opened.root.manifest, system).keys())
    if (!name.includes('.')) want(`packages.${name}`, { inputs: [], name });
  for (const name of onSystem(offers.checks, system).keys())
    want(`checks.${name}`, { inputs: [], name: checkName(name) }, true);
  for (const shell of onSystem(offers.devShells, system).values()) {
    try {
      const extended = withShell(manifest, await shellPackage(opened, system, shell));
      manifest = extended.manifest;
      want(`devShells.${shell.name}`, { inputs: [], name: extended.name });
    } catch (error) {
      items.push({ name: `devShells.${shell.name}`, system, isCheck: false, error: asFlkError(error) });
    }
  }
  for (const app of onSystem(offers.apps, system).values())
    want(`apps.${app.name}`, packageNamed(app.program.ref));
  if (offers.formatter) want('formatter', packageNamed(offers.formatter.ref));
  const instantiator = new Instantiator({ ...opened, system, root: { ...opened.root, manifest } });
  for (const { item, request } of wanted) {
    try {
      item.planned = await instantiator.instantiate(request);
    } catch (error) {
      if (context.signal.aborted) throw error;
      item.error = asFlkError(error);
    }
  }
  return items;
}

/** Builds the checks of this machine's system, all together; with --reproducible the packages too, and both a second time. */
async function buildAll(context: Context, system: string, items: readonly Item[]): Promise<void> {
  const twice = context.flags.reproducible;
  const builds = items.filter(
    (item) => item.system === system && (item.isCheck || (twice && item.name.startsWith('packages.'))),
  );
  // An alias and what it stands for are one build.
  const byTop = new Map<StorePath, { readonly planned: InstantiatedPackage; readonly items: Item[] }>();
  for (const item of builds) {
    if (item.planned === undefined) continue;
    const build = byTop.get(item.planned.top) ?? { planned: item.planned, items: [] };
    build.items.push(item);
    byTop.set(item.planned.top, build);
  }
  const all = [...byTop.values()];
  const results = await realisePackages(
    context,
    all.map(({ planned }) => planned),
    { keepGoing: true, rebuild: twice },
  );
  for (const [at, result] of results.entries())
    if (result.status === 'rejected')
      for (const item of all[at]!.items) item.error ??= asFlkError(result.reason);
}

/** What several things fail of is told once. */
const distinct = (items: readonly Item[]): Item[] => [
  ...new Map(items.map((item) => [`${item.error?.code} ${item.error?.message}`, item])).values(),
];

interface ItemJson {
  readonly name: string;
  readonly system: string;
  readonly ok: boolean;
  readonly drvPath: string | null;
  readonly error?: ErrorJson['error'];
}

const itemJson = ({ name, system, planned, error }: Item): ItemJson => ({
  name,
  system,
  ok: error === undefined,
  drvPath: planned?.top ?? null,
  ...(error && errorJson(error)),
});

/** A line for each check and each failure; how much else there was, in one. */
function lines(context: Context, items: readonly Item[]): string[] {
  const { paint, flags } = context;
  const several = new Set(items.map(({ system }) => system)).size > 1;
  const shown = items.filter(({ isCheck, error }) => error !== undefined || (isCheck && !flags['no-build']));
  const told = shown.map(({ name, system, error }) => {
    const label = cleanText(several ? `${name} (${system})` : name);
    return error === undefined
      ? `${paint.good('ok')}      ${label}`
      : `${paint.bad('failed')}  ${label}: ${cleanText(error.message)}`;
  });
  const fine = items.length - shown.length;
  const also = `${fine} ${shown.length > 0 ? 'other ' : ''}${fine === 1 ? 'thing' : 'things'} can be instantiated`;
  return fine === 0 ? told : [...told, also];
}
