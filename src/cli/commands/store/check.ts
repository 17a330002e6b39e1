/** `flk store verify`, `repair` and `delete`. */
import { FlkError } from '../../../base/errors.ts';
import { span } from '../../../base/events.ts';
import { provenAddress } from '../../../formats/content-address.ts';
import { fingerprint } from '../../../formats/narinfo.ts';
import { isSignedBy, parsePublicKey } from '../../../formats/signature.ts';
import type { StorePath } from '../../../formats/store-path.ts';
import { formatBytes } from '../../../report/text.ts';
import { chainsTo } from '../../../store/gc.ts';
import type { PathInfo } from '../../../store/path-info.ts';
import { findRoots } from '../../../store/roots.ts';
import type { Store } from '../../../store/store.ts';
import { type PathFault, type Repair, repairPaths, verifyPaths } from '../../../store/verify.ts';
import { openConfiguredSubstituter, trustedKeys } from '../../caches.ts';
import type { Context } from '../../context.ts';
import { readLock } from '../../live-roots.ts';
import { readPathArgument, readValidPath } from '../../store-paths.ts';
import { closureOf } from './query.ts';

export async function runVerify(context: Context, args: readonly string[]): Promise<number> {
  const { flags } = context;
  const store = await context.store();
  const whole = wantsAll(context, args);
  const found = whole ? store.check() : { database: [], missing: [], orphans: [] };
  const paths = whole ? store.paths() : verified(context, store, args);
  const isTrusted = flags['no-trust'] ? undefined : await trust(context);
  const faults = [
    ...found.missing.map((path): PathFault => ({ kind: 'missing', path })),
    ...(await faultsOf(context, store, paths, {
      contents: !flags['no-contents'],
      ...(isTrusted && { isTrusted }),
    })),
  ];
  const answer = { checked: paths.length, database: found.database, faults, orphans: found.orphans };
  context.answer(answer, () => verdict(answer).join('\n'));
  return found.database.length + faults.length === 0 ? 0 : 1;
}

/** Paths that were named or, where none was, all. */
function wantsAll(context: Context, args: readonly string[]): boolean {
  if (context.flags.all && args.length > 0)
    throw new FlkError('FLK_USAGE', 'take either PATH… or --all: together they say two things');
  return args.length === 0;
}

/** What is not valid is a fault to be told, unless all that it refers to is asked for. */
function verified(context: Context, store: Store, args: readonly string[]): StorePath[] {
  const named = args.map((text) => readPathArgument(store, context.cwd, text).path);
  return context.flags.recursive ? closureOf(store, named) : [...new Set(named)];
}

async function faultsOf(
  context: Context,
  store: Store,
  paths: readonly StorePath[],
  options: { readonly contents: boolean; readonly isTrusted?: (info: PathInfo) => boolean },
): Promise<PathFault[]> {
  const total = paths.reduce((sum, path) => sum + (store.query(path)?.narSize ?? 0), 0);
  const subject = paths.length === 1 ? paths[0]! : `${paths.length} paths`;
  return await span(context.reporter, { type: 'hash', subject }, async ({ progress }) => {
    const faults: PathFault[] = [];
    for await (const fault of verifyPaths(store, paths, {
      ...options,
      signal: context.signal,
      progress: (bytes) => progress(bytes, total, 'bytes'),
    }))
      faults.push(fault);
    return faults;
  });
}

async function trust(context: Context): Promise<(info: PathInfo) => boolean> {
  const keys = (await trustedKeys(context)).map(parsePublicKey);
  return (info) =>
    info.ultimate ||
    provenAddress(info) !== undefined ||
    info.signatures.some((signature) => isSignedBy(fingerprint(info), signature, keys));
}

function verdict(answer: {
  readonly checked: number;
  readonly database: readonly string[];
  readonly faults: readonly PathFault[];
  readonly orphans: readonly string[];
}): string[] {
  const { checked, database, faults, orphans } = answer;
  const broken = new Set(faults.filter(({ kind }) => kind !== 'untrusted').map(({ path }) => path));
  const lines = [...database.map((text) => `database: ${text}`), ...faults.map(faultLine)];
  if (orphans.length > 0) lines.push(`${orphans.length} without a record, which flk gc removes:`);
  lines.push(...orphans.map((name) => `  ${name}`));
  const untrusted = faults.filter(({ kind }) => kind === 'untrusted').length;
  const counts = [
    ...(broken.size > 0 ? [`${broken.size} broken`] : []),
    ...(untrusted > 0 ? [`${untrusted} untrusted`] : []),
  ];
  lines.push(
    `${checked} ${checked === 1 ? 'path' : 'paths'} checked: ${counts.length === 0 ? 'no fault' : counts.join(', ')}`,
  );
  if (broken.size > 0) lines.push('flk store repair --all makes broken paths anew from the caches');
  return lines;
}

function faultLine(fault: PathFault): string {
  switch (fault.kind) {
    case 'missing':
      return `${fault.path}: missing: it is not valid, or not on disk`;
    case 'corrupt':
      return `${fault.path}: corrupt: found ${fault.found}, wanted ${fault.wanted}`;
    case 'unreadable':
      return `${fault.path}: unreadable: ${fault.reason}`;
    case 'incomplete':
      return `${fault.path}: incomplete: it refers to ${fault.reference}, which is not valid`;
    case 'untrusted':
      return `${fault.path}: untrusted: not made here, and no key that is trusted has signed it`;
  }
}

export async function runRepair(context: Context, args: readonly string[]): Promise<number> {
  if ((args.length === 0) !== context.flags.all)
    throw new FlkError('FLK_USAGE', 'flk store repair takes either PATH… or --all');
  const store = await context.store();
  const named = context.flags.all
    ? [...store.check().missing, ...store.paths()]
    : args.map((text) => readPathArgument(store, context.cwd, text).path);
  const faults = await faultsOf(context, store, named, { contents: true });
  const broken = [
    ...new Set(faults.map((fault) => (fault.kind === 'incomplete' ? fault.reference : fault.path))),
  ];
  const repairs: Repair[] = [];
  if (broken.length > 0)
    for await (const repair of repairPaths(
      store,
      broken,
      (view) => openConfiguredSubstituter(context, view),
      context.signal,
    ))
      repairs.push(repair);
  context.answer(
    repairs.map(({ path, failure }) => ({
      path,
      repaired: failure === undefined,
      ...(failure && { reason: failure.message, hint: failure.hint }),
    })),
    () =>
      [...repairs.flatMap(repairLines), ...(repairs.length === 0 ? ['nothing is broken'] : [])].join('\n'),
  );
  return repairs.every(({ failure }) => failure === undefined) ? 0 : 1;
}

function repairLines({ path, failure }: Repair): string[] {
  if (!failure) return [`${path}: made anew`];
  return [`${path}: broken still: ${failure.message}`, ...(failure.hint === '' ? [] : [`  ${failure.hint}`])];
}

export async function runOptimise(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  const paths =
    args.length === 0 ? store.paths() : args.map((text) => readValidPath(store, context.cwd, text).path);
  const { signal } = context;
  const saved = await span(
    context.reporter,
    { type: 'hash', subject: `${paths.length} paths` },
    ({ progress }) =>
      store.optimise(paths, { signal, progress: (done, total) => progress(done, total, 'objects') }),
  );
  context.answer(
    saved,
    () =>
      `${saved.files === 1 ? '1 file was' : `${saved.files} files were`} equal to others: ${formatBytes(saved.bytes)} free`,
  );
  return 0;
}

export async function runDelete(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  // Whoever asks for a path to be removed does not use it: it is not held.
  const paths = [...new Set(args.map((text) => readPathArgument(store, context.cwd, text).path))];
  for (const path of paths)
    if (!store.query(path))
      throw new FlkError('FLK_STORE_PATH_UNKNOWN', `${path} is not in the store ${store.root}`);
  const keeping = await context.settings();
  const collection = await store.collect(context.signal);
  try {
    const { roots } = await findRoots(store, { readLock });
    for (const path of paths) {
      const [chain] = chainsTo(store, path, roots, keeping);
      if (chain) {
        const facts = { root: chain.root.place, way: chain.paths.join(' → ') };
        throw alive(path, 'a root keeps it', facts, `flk why-alive ${path}`);
      }
    }
    const removed = await collection.remove(paths);
    const gone = new Set(removed.map(({ path }) => path));
    const left = paths.find((path) => !gone.has(path));
    if (left !== undefined) {
      const referrers = store.referrers(left).filter((path) => !gone.has(path));
      throw referrers.length > 0
        ? alive(
            left,
            'others refer to it',
            { referrers: referrers.join(' ') },
            'remove those first, or with it',
          )
        : alive(left, 'a running flk uses it', {}, 'try again when it has ended');
    }
    context.answer(removed, () =>
      removed.map(({ path, bytes }) => `${path}: removed, ${formatBytes(bytes)} free`).join('\n'),
    );
    return 0;
  } finally {
    await collection.end();
  }
}

function alive(
  path: StorePath,
  why: string,
  facts: Readonly<Record<string, string>>,
  hint: string,
): FlkError {
  return new FlkError('FLK_STORE_PATH_ALIVE', `${path} stays: ${why}`, { facts, hint });
}
