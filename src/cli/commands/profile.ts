/** `flk profile …`: packages that stay installed, in generations that one can go back to. As `nix profile` has it. */
import { FlkError, redactUrls } from '../../base/errors.ts';
import { parseStorePath, storeDir } from '../../formats/store-path.ts';
import { cleanLine, formatBytes } from '../../report/text.ts';
import { type ClosureDiff, diffClosures } from '../../store/closure-diff.ts';
import {
  changingProfile,
  type Generation,
  type Generations,
  generationLink,
  oldGenerations,
  readGenerations,
  removeGenerations,
  switchTo,
} from '../../store/generations.ts';
import type { PathInfo } from '../../store/path-info.ts';
import {
  changeProfile,
  defaultPriority,
  type ElementChange,
  elementChanges,
  freeName,
  manifestJson,
  nameOfElement,
  type ProfileChange,
  type ProfileElement,
  type ProfileManifest,
  readManifest,
  versionOf,
} from '../../store/profile.ts';
import type { Store } from '../../store/store.ts';
import { buildTargets, type NamedTarget, planTargets } from '../building.ts';
import { building, common, locking, network } from '../command-table.ts';
import type { Context } from '../context.ts';
import type { OptionName } from '../options.ts';
import { launchersFor, linkProfile, profilePlace } from '../profiles.ts';
import { runSubCommand, type SubCommand } from '../subcommands.ts';
import { wishOf } from './gc.ts';

const makes = [...building, ...locking, ...network] as const satisfies readonly OptionName[];
const install: SubCommand = {
  args: 'FLAKE#PACKAGE…',
  min: 1,
  options: ['priority', 'dry-run', ...makes],
  run: runInstall,
};
const table: Readonly<Record<string, SubCommand>> = {
  install,
  add: install,
  remove: { args: 'NAME…', min: 0, options: ['all', 'dry-run'], run: runRemove },
  upgrade: { args: '[NAME…]', min: 0, options: ['all', 'dry-run', ...makes], run: runUpgrade },
  list: { args: '', min: 0, max: 0, options: [], run: runList },
  history: { args: '', min: 0, max: 0, options: [], run: runHistory },
  diff: { args: '[GENERATION [GENERATION]]', min: 0, max: 2, options: [], run: runDiff },
  rollback: { args: '', min: 0, max: 0, options: ['to', 'dry-run'], run: runRollback },
  switch: { args: 'GENERATION', min: 1, max: 1, options: ['dry-run'], run: runSwitch },
  'wipe-history': {
    args: '',
    min: 0,
    max: 0,
    options: ['older-than', 'keep', 'dry-run'],
    run: runWipeHistory,
  },
};

export async function runProfile(context: Context): Promise<number> {
  return await runSubCommand(context, table, [...common, 'profile', 'store']);
}

async function runInstall(context: Context, args: readonly string[]): Promise<number> {
  const priority = priorityOf(context);
  const store = await context.store();
  assertChangeable(context, store, profilePlace(context, store));
  const paths = args.filter((arg) => arg.startsWith(`${storeDir}/`)).map(parseStorePath);
  store.hold(paths);
  for (const path of paths)
    if (!store.query(path))
      throw new FlkError('FLK_STORE_PATH_UNKNOWN', `${path} is not in the store ${store.root}`);
  const flakes = args.filter((arg) => !arg.startsWith(`${storeDir}/`));
  const built = await made(context, flakes);
  const added: ProfileElement[] = [...paths.map((path) => ({ active: true, priority, storePaths: [path] }))];
  for (const { outputs, source } of built)
    added.push({
      active: true,
      priority,
      storePaths: [...outputs.values()].sort(),
      source: await source(),
    });
  return await change(context, (manifest) => {
    const after = new Map(manifest);
    for (const element of added) {
      const [name] = [...after].find(([, known]) => isSamePackage(known, element)) ?? [];
      after.set(name ?? freeName(after, nameOfElement(element)), element);
    }
    return after;
  });
}

/** Builds packages; under `--dry-run` only finds out what they will be. */
async function made(context: Context, targets: readonly string[]): Promise<readonly NamedTarget[]> {
  if (targets.length === 0) return [];
  return await (context.flags['dry-run'] ? planTargets : buildTargets)(context, targets);
}

/** Before anything is built: a profile in a store that is only read stays as it is. Throws FLK_FILE_UNWRITABLE. */
function assertChangeable(context: Context, store: Store, profile: string): void {
  if (!store.readOnly || context.flags['dry-run'] || !profile.startsWith(`${store.root}/`)) return;
  throw new FlkError(
    'FLK_FILE_UNWRITABLE',
    `the profile ${profile} cannot be changed: its store ${store.root} can only be read`,
    { hint: 'choose a store that is yours to write with --store; flk shell runs programs out of this one' },
  );
}

/** Throws FLK_USAGE. */
function priorityOf({ flags }: Context): number {
  const text = flags.priority;
  if (text === undefined) return defaultPriority;
  if (!/^-?\d{1,9}$/.test(text))
    throw new FlkError('FLK_USAGE', `--priority needs a whole number, not '${text}'`, {
      hint: `the lower number wins; ${defaultPriority} where nothing is said`,
    });
  return Number(text);
}

/** Whether installing one anew replaces the other. */
function isSamePackage(a: ProfileElement, b: ProfileElement): boolean {
  if (a.source === undefined || b.source === undefined)
    return a.source === b.source && a.storePaths.join() === b.storePaths.join();
  const key = ({ originalUrl, attrPath, outputs }: typeof a.source): string =>
    JSON.stringify([originalUrl, attrPath, outputs ?? null]);
  return key(a.source) === key(b.source);
}

async function runRemove(context: Context, args: readonly string[]): Promise<number> {
  const wanted = namesWanted(context, args);
  if (wanted === 'all' && !context.flags.all)
    throw new FlkError('FLK_USAGE', 'flk profile remove needs NAME…', {
      hint: 'flk profile list shows the names; --all removes everything',
    });
  return await change(context, (manifest) => {
    const gone = chosen(manifest, wanted);
    return new Map([...manifest].filter(([name]) => !gone.includes(name)));
  });
}

async function runUpgrade(context: Context, args: readonly string[]): Promise<number> {
  const wanted = namesWanted(context, args);
  const store = await context.store();
  const profile = profilePlace(context, store);
  assertChangeable(context, store, profile);
  const { current } = readGenerations(profile);
  const manifest: ProfileManifest = current ? await readManifest(store, current.path) : new Map();
  const elements = chosen(manifest, wanted).flatMap((name) => {
    const element = manifest.get(name);
    if (element?.source) return [{ name, source: element.source }];
    if (!context.flags.quiet)
      context.report.say(`${name} was installed as a store path: nothing to upgrade it from`);
    return [];
  });
  const targets = elements.map(
    ({ source }) => `${source.originalUrl}#${[source.attrPath, ...(source.outputs ?? [])].join('.')}`,
  );
  const built = await made(context, targets);
  const fresh = await Promise.all(
    built.map(async ({ outputs, source }) => ({ outputs, url: (await source()).url })),
  );
  return await change(context, (now) => {
    const after = new Map(now);
    for (const [index, { name, source }] of elements.entries()) {
      const [known, found] = [now.get(name), fresh[index]];
      // Somebody else may have removed it meanwhile.
      if (known?.source?.originalUrl !== source.originalUrl || found === undefined) continue;
      after.set(name, {
        ...known,
        storePaths: [...found.outputs.values()].sort(),
        source: { ...source, url: found.url },
      });
    }
    return after;
  });
}

function namesWanted({ flags }: Context, args: readonly string[]): 'all' | readonly string[] {
  if (flags.all && args.length > 0)
    throw new FlkError('FLK_USAGE', '--all and names exclude each other', { hint: 'leave one of them out' });
  return args.length === 0 ? 'all' : args;
}

/** The names, all of which must be there. Throws FLK_PROFILE_PACKAGE_UNKNOWN. */
function chosen(manifest: ProfileManifest, wanted: 'all' | readonly string[]): readonly string[] {
  if (wanted === 'all') return [...manifest.keys()];
  for (const name of wanted)
    if (!manifest.has(name))
      throw new FlkError('FLK_PROFILE_PACKAGE_UNKNOWN', `the profile has no package ${name}`, {
        facts: { packages: [...manifest.keys()].join(' ') || 'none' },
      });
  return wanted;
}

/** Changes what is installed, and says what that changed. */
async function change(
  context: Context,
  make: (manifest: ProfileManifest) => ProfileManifest,
): Promise<number> {
  const store = await context.store();
  const profile = profilePlace(context, store);
  assertChangeable(context, store, profile);
  const done = await changeProfile(store, profile, make, {
    script: await launchersFor(store),
    dryRun: context.flags['dry-run'],
    signal: context.signal,
  });
  await sayChange(context, store, profile, done);
  return 0;
}

async function sayChange(
  context: Context,
  store: Store,
  profile: string,
  { before, after, generation }: ProfileChange,
): Promise<void> {
  const changes = elementChanges(before, after);
  if (generation) await linkProfile(context, store, profile);
  context.answer({ profile, generation: generation?.number ?? null, changes }, () => '');
  if (context.flags.quiet) return;
  const what = generation ? `generation ${generation.number}` : 'nothing changed';
  const would = context.flags['dry-run'] && changes.length > 0 ? 'would become' : what;
  context.report.say([`${would}${changes.length > 0 ? ':' : ''}`, ...changes.map(changeLine)].join('\n'));
}

function changeLine({ name, kind, from, to }: ElementChange): string {
  const shown = cleanLine(name);
  switch (kind) {
    case 'added':
      return `  ${shown}: ∅ → ${to || 'installed'}`;
    case 'removed':
      return `  ${shown}: ${from || 'installed'} → ∅`;
    case 'changed':
      return from === to ? `  ${shown}: ${from || 'installed'}, built anew` : `  ${shown}: ${from} → ${to}`;
  }
}

async function runList(context: Context): Promise<number> {
  const store = await context.store();
  const profile = profilePlace(context, store);
  const { current } = readGenerations(profile);
  const manifest: ProfileManifest = current ? await readManifest(store, current.path) : new Map();
  if (manifest.size === 0) context.sayNothing(`nothing is installed in ${profile}`);
  // What Nix has installed may hold passwords in its URLs.
  const shown = new Map([...manifest].map(([name, element]) => [name, withoutSecrets(element)]));
  context.answer(manifestJson(shown), () => [...shown].map(listing).join('\n\n'));
  return 0;
}

function withoutSecrets(element: ProfileElement): ProfileElement {
  const { source } = element;
  if (source === undefined) return element;
  const { originalUrl, url } = source;
  return { ...element, source: { ...source, originalUrl: redactUrls(originalUrl), url: redactUrls(url) } };
}

/** As nix profile list prints it. */
function listing([name, element]: readonly [string, ProfileElement]): string {
  const { source, storePaths, active } = element;
  const version = versionOf(element);
  const lines = [
    ['Name', `${name}${active ? '' : ' (inactive)'}`],
    ...(version === '' ? [] : [['Version', version]]),
    ...(source === undefined
      ? []
      : [
          ['Flake attribute', [source.attrPath, ...(source.outputs ?? [])].join('.')],
          ['Original flake URL', source.originalUrl],
          ['Locked flake URL', source.url],
        ]),
    ['Store paths', storePaths.join(' ')],
  ];
  return lines.map(([what, value]) => `${`${what}:`.padEnd(20)}${cleanLine(value!)}`).join('\n');
}

async function runHistory(context: Context): Promise<number> {
  const store = await context.store();
  const profile = profilePlace(context, store);
  const { all, current } = readGenerations(profile);
  if (all.length === 0) context.sayNothing(`${profile} has no generation yet`);
  const rows: HistoryRow[] = [];
  let before: ProfileManifest = new Map();
  for (const generation of all) {
    const after = await manifestOf(store, generation);
    rows.push({
      generation: generation.number,
      created: new Date(generation.created).toISOString(),
      current: generation.number === current?.number,
      path: generation.path,
      closureSize: closureOf(store, generation).reduce((sum, { narSize }) => sum + narSize, 0),
      changes: elementChanges(before, after),
    });
    before = after;
  }
  context.answer(rows, () => rows.map(historyText).join('\n\n'));
  return 0;
}

interface HistoryRow {
  readonly generation: number;
  readonly created: string;
  readonly current: boolean;
  readonly path: string;
  /** Bytes of NAR of all that it needs. */
  readonly closureSize: number;
  readonly changes: readonly ElementChange[];
}

function historyText({ generation, created, current, closureSize, changes }: HistoryRow): string {
  const date = created.slice(0, 16).replace('T', ' ');
  const title = `generation ${generation}, ${date}, ${formatBytes(closureSize)}${current ? ' (current)' : ''}`;
  return [title, ...(changes.length === 0 ? ['  no changes'] : changes.map(changeLine))].join('\n');
}

/** A generation that something else made shows as empty: its history is not lost for that. */
async function manifestOf(store: Store, { path }: Generation): Promise<ProfileManifest> {
  return await readManifest(store, path).catch((error: unknown) => {
    if (error instanceof FlkError && error.code === 'FLK_PROFILE_INVALID') return new Map();
    throw error;
  });
}

function closureOf(store: Store, { path }: Generation): readonly PathInfo[] {
  return store.closure([path]).flatMap((member) => store.query(member) ?? []);
}

async function runDiff(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  const generations = readGenerations(profilePlace(context, store));
  const to = args[1] === undefined ? currentOf(generations) : generationNamed(generations, args[1]);
  const from = args[0] === undefined ? beforeOf(generations, to) : generationNamed(generations, args[0]);
  const diff = diffClosures(closureOf(store, from), closureOf(store, to));
  const changes = elementChanges(await manifestOf(store, from), await manifestOf(store, to));
  context.answer({ from: from.number, to: to.number, changes, ...diff }, () =>
    [
      `generation ${from.number} → ${to.number}, ${sizeChange(diff.sizeBefore, diff.sizeAfter)}`,
      ...changes.map(changeLine),
      ...(diff.packages.length > 0 ? ['with all that they need:', ...diff.packages.map(packageLine)] : []),
    ].join('\n'),
  );
  return 0;
}

const sizeChange = (before: number, after: number): string =>
  `${after < before ? '-' : '+'}${formatBytes(Math.abs(after - before))}`;

function packageLine({
  name,
  removed,
  added,
  sizeBefore,
  sizeAfter,
}: ClosureDiff['packages'][number]): string {
  const shown = (versions: readonly string[]): string =>
    versions.map((version) => version || 'ε').join(', ') || '∅';
  const versions = removed.length + added.length === 0 ? [] : [`${shown(removed)} → ${shown(added)}`];
  return `  ${cleanLine(name)}: ${[...versions, sizeChange(sizeBefore, sizeAfter)].join(', ')}`;
}

async function runRollback(context: Context): Promise<number> {
  const { to } = context.flags;
  return await switchProfile(context, (generations) =>
    to === undefined ? beforeOf(generations, currentOf(generations)) : generationNamed(generations, to),
  );
}

async function runSwitch(context: Context, [wanted = '']: readonly string[]): Promise<number> {
  return await switchProfile(context, (generations) => generationNamed(generations, wanted));
}

async function switchProfile(
  context: Context,
  choose: (generations: Generations) => Generation,
): Promise<number> {
  const store = await context.store();
  const profile = profilePlace(context, store);
  assertChangeable(context, store, profile);
  const isDry = context.flags['dry-run'];
  const { from, to } = await changingProfile(
    profile,
    async (generations) => {
      const to = choose(generations);
      if (!isDry) await switchTo(store, profile, to, await launchersFor(store));
      return { from: generations.current, to };
    },
    context.signal,
  );
  const [before, after] = [from ? await manifestOf(store, from) : new Map(), await manifestOf(store, to)];
  const changes = elementChanges(before, after);
  context.answer({ profile, from: from?.number ?? null, to: to.number, changes }, () => '');
  if (!context.flags.quiet)
    context.report.say(
      [`${isDry ? 'would switch' : 'switched'} to generation ${to.number}`, ...changes.map(changeLine)].join(
        '\n',
      ),
    );
  return 0;
}

async function runWipeHistory(context: Context): Promise<number> {
  const store = await context.store();
  const profile = profilePlace(context, store);
  assertChangeable(context, store, profile);
  const wish = wishOf(context) ?? {};
  const isDry = context.flags['dry-run'];
  const gone = await changingProfile(
    profile,
    async (generations) => {
      const old = oldGenerations(generations, wish);
      const numbers = old.map(({ number }) => number);
      if (!isDry) await removeGenerations(profile, numbers);
      return numbers;
    },
    context.signal,
  );
  context.answer({ profile, removed: gone.map((number) => generationLink(profile, number)) }, () => '');
  if (!context.flags.quiet)
    context.report.say(
      gone.length === 0
        ? 'no old generations'
        : `${isDry ? 'would remove' : 'removed'} generation${gone.length === 1 ? '' : 's'} ${gone.join(', ')}${isDry ? '' : '; flk gc frees what only they had'}`,
    );
  return 0;
}

function currentOf({ current, profile }: Generations): Generation {
  if (current) return current;
  throw new FlkError('FLK_PROFILE_GENERATION_UNKNOWN', `${profile} has no generation yet`, {
    hint: 'flk profile install FLAKE#PACKAGE makes the first',
  });
}

function beforeOf({ all, profile }: Generations, { number }: Generation): Generation {
  const before = all.findLast((generation) => generation.number < number);
  if (before) return before;
  throw new FlkError('FLK_PROFILE_GENERATION_UNKNOWN', `${profile} has no generation before ${number}`);
}

function generationNamed({ all, profile }: Generations, text: string): Generation {
  const found = /^\d{1,9}$/.test(text) ? all.find(({ number }) => number === Number(text)) : undefined;
  if (found) return found;
  throw new FlkError('FLK_PROFILE_GENERATION_UNKNOWN', `${profile} has no generation ${text}`, {
    facts: { generations: all.map(({ number }) => number).join(' ') || 'none' },
  });
}
