/** `flk store ls` and `flk store cat`: what lies in a store path. */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  read,
  readdirSync,
  readlinkSync,
} from 'node:fs';
import { posix } from 'node:path';
import { promisify } from 'node:util';
import { throwIfAborted } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import { maxDepth } from '../../../formats/nar.ts';
import { listingEntries, type NarListing } from '../../../formats/nar-listing.ts';
import { cleanLine } from '../../../report/text.ts';
import { type BytePath, bytePath, onDisk, shown } from '../../../store/tree-files.ts';
import type { Context } from '../../context.ts';
import { placeBelow, readPathArgument, validPath } from '../../store-paths.ts';

export async function runLs(context: Context, args: readonly string[]): Promise<number> {
  const { json, long, directory } = context.flags;
  const recursive = context.flags.recursive || context.flags['list-recursive'];
  if (json && directory) throw new FlkError('FLK_USAGE', '--directory says nothing to --json');
  const { place, shown: name } = await placeOf(context, args[0]!);
  const node = listingAt(bytePath(place), recursive ? maxDepth : directory ? 0 : 1);
  context.answer(json && (recursive ? node : shallow(node)), () =>
    listingLines(node, posix.basename(name), { long, directory }).join('\n'),
  );
  return 0;
}

async function placeOf(
  context: Context,
  text: string,
): Promise<{ readonly place: string; readonly shown: string }> {
  const store = await context.store();
  const argument = readPathArgument(store, context.cwd, text);
  validPath(store, argument.path);
  return { place: placeBelow(store, argument), shown: posix.join(argument.path, argument.below) };
}

/** What lies at a place, folders within folders up to `depth`; below that they are empty. */
function listingAt(place: BytePath, depth: number): NarListing {
  const info = lstatSync(onDisk(place));
  if (info.isSymbolicLink()) return { type: 'symlink', target: readlinkSync(onDisk(place)) };
  if (info.isFile())
    return { type: 'regular', ...((info.mode & 0o100) !== 0 && { executable: true }), size: info.size };
  const entries = listingEntries();
  if (depth > 0)
    for (const name of readdirSync(onDisk(place), 'latin1').sort())
      entries[shown(name)] = listingAt(`${place}/${name}`, depth - 1);
  return { type: 'directory', entries };
}

/** Without `-R` Nix tells no more of entries than that they are there. */
function shallow(node: NarListing): unknown {
  if (node.type !== 'directory') return node;
  return { ...node, entries: Object.fromEntries(Object.keys(node.entries).map((name) => [name, {}])) };
}

/** As `nix store ls` prints them: names after `.`, where a folder was asked for. */
function listingLines(
  node: NarListing,
  name: string,
  options: { readonly long: boolean; readonly directory: boolean },
): string[] {
  const lines: string[] = [];
  const add = (one: NarListing, path: string): void => {
    // A line break in a name is no new line, nor does what follows it take the place of what comes before.
    lines.push(cleanLine((options.long ? longLine(one, path) : path).replace(/[\n\r]/g, '?')));
    if (one.type === 'directory' && !options.directory) addAll(one.entries, path);
  };
  const addAll = (entries: Readonly<Record<string, NarListing>>, path: string): void => {
    for (const [child, one] of Object.entries(entries)) add(one, `${path}/${child}`);
  };
  if (node.type !== 'directory') add(node, name);
  else if (options.directory) add(node, '.');
  else addAll(node.entries, '.');
  return lines;
}

function longLine(node: NarListing, path: string): string {
  switch (node.type) {
    case 'directory':
      return `dr-xr-xr-x ${'0'.padStart(20)} ${path}`;
    case 'regular':
      return `${node.executable ? '-r-xr-xr-x' : '-r--r--r--'} ${String(node.size).padStart(20)} ${path}`;
    case 'symlink':
      return `lrwxrwxrwx ${'0'.padStart(20)} ${path} -> ${node.target}`;
  }
}

const readSome = promisify(read);

export async function runCat(context: Context, args: readonly string[]): Promise<number> {
  const { place, shown } = await placeOf(context, args[0]!);
  if (!lstatSync(place).isFile())
    throw new FlkError('FLK_STORE_PATH_INVALID', `${shown} is not a file`, {
      hint: `flk store ls -l ${shown}`,
    });
  // Should a link take its place now, it is not followed.
  const fd = openSync(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const buffer = Buffer.allocUnsafe(Math.min(Math.max(fstatSync(fd).size, 1), 1024 * 1024));
    await context.pour(
      'the file',
      async (write) => {
        for (;;) {
          throwIfAborted(context.signal);
          const { bytesRead } = await readSome(fd, buffer, 0, buffer.length, null);
          if (bytesRead === 0) return;
          await write(buffer.subarray(0, bytesRead));
        }
      },
      { terminal: true },
    );
  } finally {
    closeSync(fd);
  }
  return 0;
}
