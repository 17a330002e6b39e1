/** `flk store add`, `export`, `import`, `dump-path` and `restore`: paths into the store and out of it. */
import { lstatSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { throwIfAborted } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import { span } from '../../../base/events.ts';
import { hashTree } from '../../../formats/nar.ts';
import { NarParser } from '../../../formats/nar-parser.ts';
import { makeSourcePath, type StorePath } from '../../../formats/store-path.ts';
import { addFile, type FileMode } from '../../../store/add-file.ts';
import { exportPaths, importPaths, writeNar } from '../../../store/exchange.ts';
import type { Store } from '../../../store/store.ts';
import { removeTree, restoreTree, walkPath } from '../../../store/tree-files.ts';
import type { Context } from '../../context.ts';
import { readValidPath, validPath } from '../../store-paths.ts';
import { closureOf } from './query.ts';

export async function runAdd(context: Context, args: readonly string[]): Promise<number> {
  const { name, mode = 'nar' } = context.flags;
  if (name !== undefined && args.length > 1)
    throw new FlkError('FLK_USAGE', '--name names one path, and there are several');
  if (mode !== 'nar' && mode !== 'flat' && mode !== 'text')
    throw new FlkError('FLK_USAGE', `there is no --mode ${mode}`, { hint: '--mode nar, flat or text' });
  const store = await context.store();
  const added: StorePath[] = [];
  for (const text of args) {
    const place = resolve(context.cwd, text);
    added.push(await addOne(context, store, name ?? basename(place), place, mode));
  }
  context.answer(added, () => added.join('\n'));
  return 0;
}

async function addOne(
  context: Context,
  store: Store,
  name: string,
  place: string,
  mode: 'nar' | FileMode,
): Promise<StorePath> {
  const dryRun = context.flags['dry-run'];
  const { signal } = context;
  return await span(context.reporter, { type: 'add', subject: name }, async (adding) => {
    const progress = (bytes: number): void => adding.progress(bytes, undefined, 'bytes');
    if (mode !== 'nar') return await addFile(store, name, place, mode, { dryRun, signal, progress });
    const tree = walkPath(place, { progress });
    return dryRun
      ? makeSourcePath(name, (await hashTree(tree, signal)).narHash)
      : (await store.addTree(name, { walk: (sink) => tree.walk(sink, signal) })).path;
  });
}

export async function runExport(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  const named = args.map((text) => readValidPath(store, context.cwd, text).path);
  const paths = context.flags.recursive ? closureOf(store, named) : [...new Set(named)];
  const infos = paths.map((path) => validPath(store, path));
  await context.pour('the stream of paths', (write) =>
    exportPaths(store, infos, async (bytes) => {
      throwIfAborted(context.signal);
      await write(bytes);
    }),
  );
  return 0;
}

export async function runImport(context: Context): Promise<number> {
  const store = await context.store();
  const paths = await span(context.reporter, { type: 'add', subject: 'stdin' }, async ({ progress }) => {
    let count = 0;
    return await importPaths(store, context.input, {
      trusted: context.flags['no-check-sigs'],
      signal: context.signal,
      progress: () => progress(++count, undefined, 'objects'),
    });
  });
  context.answer(paths, () => paths.join('\n'));
  return 0;
}

export async function runDumpPath(context: Context, args: readonly string[]): Promise<number> {
  const store = await context.store();
  const info = readValidPath(store, context.cwd, args[0]!);
  await context.pour('the NAR', (write) =>
    writeNar(store, info, async (bytes) => {
      throwIfAborted(context.signal);
      await write(bytes);
    }),
  );
  return 0;
}

/** In canonical form but for the owner's right to write, which whoever unpacks something wants. */
export async function runRestore(context: Context, args: readonly string[]): Promise<number> {
  const place = resolve(context.cwd, args[0]!);
  if (lstatSync(place, { throwIfNoEntry: false }))
    throw new FlkError('FLK_FILE_UNWRITABLE', `${place} exists`, {
      hint: 'name a place where nothing is yet',
    });
  const writer = restoreTree(place);
  const parser = new NarParser(writer);
  try {
    for await (const chunk of context.input) {
      throwIfAborted(context.signal);
      parser.push(chunk);
    }
    parser.end();
  } catch (error) {
    writer.close();
    await removeTree(place);
    throw error;
  }
  return 0;
}
