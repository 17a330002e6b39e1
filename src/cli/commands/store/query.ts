/** `flk store path-info`, `references`, `referrers`, `requisites` and `path-from-hash-part`. */
import { compareBytes } from '../../../base/canonical.ts';
import { FlkError } from '../../../base/errors.ts';
import { type NarHash, parseNarHash } from '../../../formats/hash.ts';
import { baseNameOf, hashPartLength, type StorePath, storeDir } from '../../../formats/store-path.ts';
import { closureSizes } from '../../../store/disk-usage.ts';
import { referencesFirst } from '../../../store/exchange.ts';
import type { PathInfo } from '../../../store/path-info.ts';
import type { Store } from '../../../store/store.ts';
import type { Context } from '../../context.ts';
import { readPathArgument, readValidPath, validPath } from '../../store-paths.ts';

export async function runPathInfo(context: Context, args: readonly string[]): Promise<number> {
  const { all, recursive, json } = context.flags;
  if ((args.length === 0) !== all)
    throw new FlkError('FLK_USAGE', 'flk store path-info takes either PATH… or --all');
  const store = await context.store();
  const named = all ? store.paths() : args.map((text) => readPathArgument(store, context.cwd, text).path);
  // Those that are not valid are answered as such; asking for what they refer to is an error.
  const wanted = recursive && !all ? closureOf(store, named) : [...new Set(named)];
  if (!json) for (const path of wanted) validPath(store, path);
  const infos = wanted.map((path) => ({ path, info: store.query(path) }));
  const sizes = context.flags['closure-size'] ? closureSizes(store, wanted) : undefined;
  const format = jsonFormat(context);
  context.answer(json && pathInfoJson(infos, sizes, format), () =>
    infoLines(context, infos, sizes).join('\n'),
  );
  return 0;
}

interface Answer {
  readonly path: StorePath;
  readonly info: PathInfo | undefined;
}

function jsonFormat(context: Context): 1 | 2 {
  const format = context.flags['json-format'] ?? 1;
  if (format !== 1 && format !== 2)
    throw new FlkError('FLK_USAGE', `there is no --json-format ${format}`, { hint: '--json-format 1 or 2' });
  return format;
}

/** The two shapes in which Nix 2.34 prints this. */
function pathInfoJson(
  answers: readonly Answer[],
  sizes: ReadonlyMap<StorePath, number> | undefined,
  format: 1 | 2,
): unknown {
  const key = (path: StorePath): string => (format === 1 ? path : baseNameOf(path));
  const one = (info: PathInfo): unknown => ({
    ca: info.ca === undefined ? null : format === 1 ? info.ca : structuredAddress(info.ca),
    ...(sizes && { closureSize: sizes.get(info.path) }),
    deriver: info.deriver === undefined ? null : key(info.deriver),
    narHash: info.narHash,
    narSize: info.narSize,
    references: info.references.map(key),
    registrationTime: info.registrationTime,
    signatures: info.signatures,
    storeDir,
    ultimate: info.ultimate,
    version: format,
  });
  const infos = Object.fromEntries(
    [...answers]
      .sort((a, b) => compareBytes(a.path, b.path))
      .map(({ path, info }) => [key(path), info ? one(info) : null]),
  );
  return format === 1 ? infos : { info: infos, storeDir, version: 2 };
}

/** `text:sha256:…`, `fixed:sha256:…` and `fixed:r:sha256:…` as a hash and what it is of. */
function structuredAddress(ca: string): { readonly hash: NarHash; readonly method: string } {
  const method = ca.startsWith('text:') ? 'text' : ca.startsWith('fixed:r:') ? 'nar' : 'flat';
  return { hash: parseNarHash(ca.slice(ca.lastIndexOf('sha256:'))), method };
}

function infoLines(
  context: Context,
  answers: readonly Answer[],
  sizes: ReadonlyMap<StorePath, number> | undefined,
): string[] {
  const { size, sigs } = context.flags;
  const width = Math.max(0, ...answers.map(({ path }) => path.length));
  return answers.map(({ path, info }) => {
    if (!info || (!size && !sizes && !sigs)) return path;
    const fields = [path.padEnd(width)];
    if (size) fields.push(column(info.narSize));
    if (sizes) fields.push(column(sizes.get(path) ?? 0));
    if (sigs)
      fields.push(
        [
          ...(info.ultimate ? ['ultimate'] : []),
          ...(info.ca ? [`ca:${info.ca}`] : []),
          ...info.signatures,
        ].join(' '),
      );
    return fields.join('\t');
  });
}

const column = (bytes: number): string => String(bytes).padStart(11);

export async function runReferences(context: Context, args: readonly string[]): Promise<number> {
  return await answerPaths(context, args, (store, paths) =>
    [...new Set(paths.flatMap((path) => store.query(path)?.references ?? []))].sort(compareBytes),
  );
}

export async function runRequisites(context: Context, args: readonly string[]): Promise<number> {
  return await answerPaths(context, args, closureOf);
}

export async function runReferrers(context: Context, args: readonly string[]): Promise<number> {
  return await answerPaths(context, args, (store, paths) => {
    const direct = paths.flatMap((path) => referrersWithSelf(store, path));
    if (!context.flags.recursive) return [...new Set(direct)].sort(compareBytes);
    const found = new Set(paths);
    // Grows while it is walked.
    for (const path of found) for (const referrer of store.referrers(path)) found.add(referrer);
    return [...found].sort(compareBytes);
  });
}

/** A path that refers to itself is among its own referrers, for Nix too. */
function referrersWithSelf(store: Store, path: StorePath): StorePath[] {
  const own = store.query(path)?.references.includes(path) ? [path] : [];
  return [...own, ...store.referrers(path)];
}

export async function runPathFromHashPart(context: Context, args: readonly string[]): Promise<number> {
  const [part = ''] = args;
  if (!new RegExp(`^[0-9a-z]{${hashPartLength}}$`).test(part))
    throw new FlkError(
      'FLK_USAGE',
      `a hash part has ${hashPartLength} characters, not '${part.slice(0, 100)}'`,
      {
        hint: `it is what follows ${storeDir}/, up to the dash`,
      },
    );
  const info = (await context.store()).find(part);
  if (!info) throw new FlkError('FLK_STORE_PATH_UNKNOWN', `no path in the store has the hash part ${part}`);
  context.answer(info.path, () => info.path);
  return 0;
}

async function answerPaths(
  context: Context,
  args: readonly string[],
  ask: (store: Store, paths: readonly StorePath[]) => readonly StorePath[],
): Promise<number> {
  const store = await context.store();
  const found = ask(
    store,
    args.map((text) => readValidPath(store, context.cwd, text).path),
  );
  context.answer(found, () => found.join('\n'));
  return 0;
}

/** Valid paths with all that they refer to, references first. */
export function closureOf(store: Store, paths: readonly StorePath[]): StorePath[] {
  for (const path of paths) validPath(store, path);
  return referencesFirst(store.closure(paths), (path) => store.query(path)?.references ?? []);
}
