/** `flk store why-depends`, `diff` and `du`. */
import { differences } from '../../../build/reproduce.ts';
import { hashPartLength, type StorePath } from '../../../formats/store-path.ts';
import { cleanLine, formatBytes, type Palette } from '../../../report/text.ts';
import { diffClosures } from '../../../store/closure-diff.ts';
import { type DiskUsage, diskUsage } from '../../../store/disk-usage.ts';
import type { PathInfo } from '../../../store/path-info.ts';
import type { Store } from '../../../store/store.ts';
import { type Edge, type ReferringFile, referringFiles, whyDepends } from '../../../store/why-depends.ts';
import { closureLines } from '../../closure-lines.ts';
import type { Context } from '../../context.ts';
import { readPathArgument, readValidPath, validPath } from '../../store-paths.ts';
import { closureOf } from './query.ts';

export async function runWhyDepends(context: Context, args: readonly string[]): Promise<number> {
  const { all, precise } = context.flags;
  const store = await context.store();
  const from = readValidPath(store, context.cwd, args[0]!).path;
  const to = readPathArgument(store, context.cwd, args[1]!).path;
  const { shortest, edges } = whyDepends(store, from, to);
  const shown = all ? edges : shortest;
  const files = precise ? await filesOf(context, store, shown) : undefined;
  context.answer(
    {
      path: from,
      dependency: to,
      edges: shown.map((edge) => ({
        ...edge,
        ...(files && { files: files(edge).map(({ file, around }) => ({ file, around })) }),
      })),
    },
    () =>
      shown.length === 0 && from !== to
        ? `${from} does not depend on ${to}`
        : [from, ...treeLines(context.paint, shown, all ? files : files && firstOf(files), from)].join('\n'),
  );
  return shown.length === 0 && from !== to ? 1 : 0;
}

type FilesOf = (edge: Edge) => readonly ReferringFile[];

async function filesOf(context: Context, store: Store, edges: readonly Edge[]): Promise<FilesOf> {
  const found = new Map<StorePath, ReadonlyMap<StorePath, readonly ReferringFile[]>>();
  for (const path of new Set(edges.map(({ from }) => from))) {
    const references = edges.filter(({ from }) => from === path).map(({ to }) => to);
    found.set(path, await referringFiles(store, path, references, context.signal));
  }
  return ({ from, to }) => found.get(from)?.get(to) ?? [];
}

/** Who asks for one way needs one reason for each of its steps. */
const firstOf =
  (files: FilesOf): FilesOf =>
  (edge) =>
    files(edge).slice(0, 1);

/** Each path once with what it leads to; where it comes again, only its name. */
function treeLines(
  paint: Palette,
  edges: readonly Edge[],
  files: FilesOf | undefined,
  root: StorePath,
): string[] {
  const children = new Map<StorePath, Edge[]>();
  for (const edge of edges) children.set(edge.from, [...(children.get(edge.from) ?? []), edge]);
  const met = new Set<StorePath>();
  const lines: string[] = [];
  const add = (path: StorePath, indent: string): void => {
    met.add(path);
    const own = children.get(path) ?? [];
    for (const [i, edge] of own.entries()) {
      const isLast = i === own.length - 1;
      const [branch, below] = isLast ? ['└───', '    '] : ['├───', '│   '];
      const hits = files?.(edge) ?? [];
      const isKnown = met.has(edge.to);
      const name = isKnown ? paint.faint(edge.to) : edge.to;
      for (const [j, hit] of hits.entries())
        lines.push(`${indent}${j === 0 ? branch : below}${hitText(paint, hit)}`);
      lines.push(hits.length === 0 ? `${indent}${branch}${name}` : `${indent}${below}→ ${name}`);
      if (!isKnown) add(edge.to, indent + below);
    }
  };
  add(root, '');
  return lines;
}

function hitText(paint: Palette, { file, around, at, isLink }: ReferringFile): string {
  const end = at + hashPartLength;
  const marked = `${around.slice(0, at)}${paint.place(around.slice(at, end))}${around.slice(end)}`;
  return isLink ? `${cleanLine(file)} -> ${marked}` : `${cleanLine(file)}: …${marked}…`;
}

export async function runDiff(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  const [before, after] = args.map((text) => readValidPath(store, context.cwd, text).path);
  if (context.flags.files) {
    const lines = (await differences(store.physical(before!), store.physical(after!))).map(
      ({ file, how }) => `${file === '' ? 'the path itself' : file} (${how})`,
    );
    context.answer(lines, () => lines.map(cleanLine).join('\n'));
    return 0;
  }
  const infos = (path: StorePath): PathInfo[] => store.closure([path]).map((one) => validPath(store, one));
  const diff = diffClosures(infos(before!), infos(after!));
  context.answer(diff, () => closureLines(diff, context.paint).join('\n'));
  return 0;
}

export async function runDu(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  const named = args.map((text) => readValidPath(store, context.cwd, text).path);
  const paths = args.length === 0 ? store.paths() : context.flags.recursive ? closureOf(store, named) : named;
  const usage = diskUsage(store, paths);
  context.answer(usage, () => usageLines(usage).join('\n'));
  return 0;
}

function usageLines({ paths, totalSize, sharedSize }: DiskUsage): string[] {
  const row = (size: string, closure: string, own: string, path: string): string =>
    `${size.padStart(8)}  ${closure.padStart(8)}  ${own.padStart(8)}  ${path}`;
  return [
    row('itself', 'closure', 'alone', ''),
    ...paths.map((one) =>
      row(formatBytes(one.size), formatBytes(one.closureSize), formatBytes(one.ownSize), one.path),
    ),
    `${formatBytes(totalSize)} in all, ${formatBytes(sharedSize)} of it shared`,
  ];
}
