/** `flk store add`, `export`, `import`, `dump-path` and `restore`: paths into the store and out of it. */
import { lstatSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { throwIfAborted } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import { span } from '../../../base/events.ts';
import { hashTree } from '../../../formats/nar.ts';
import { NarParser } from '../../../formats/nar-parser.ts';
import { makeSourcePath, type StorePath } from '../../../formats/store-path.ts';
import { exportPaths, importPaths, writeNar } from '../../../store/exchange.ts';
import { removeTree, restoreTree, walkPath } from '../../../store/tree-files.ts';
import type { Context } from '../../context.ts';
import { readValidPath, validPath } from '../../store-paths.ts';
import { closureOf } from './query.ts';

export async function runAdd(context: Context, args: readonly string[]): Promise<number> {
  const { name, mode = 'nar' } = context.flags;
  if (name !== undefined && args.length > 1)
    throw new FlkError('FLK_USAGE', '--name names one path, and there are several');
  if (mode !== 'nar') throw new FlkError('FLK_USAGE', `there is no --mode ${mode}`, { hint: '--mode nar' });
  const store = await context.store();
  const added: StorePath[] = [];
  for (const text of args) {
    const place = resolve(context.cwd, text);
    const called = name ?? basename(place);
    added.push(
      await span(context.reporter, { type: 'add', subject: called }, async ({ progress }) => {
        const tree = walkPath(place, { progress: (bytes) => progress(bytes, undefined, 'bytes') });
        if (context.flags['dry-run'])
          return makeSourcePath(called, (await hashTree(tree, context.signal)).narHash);
        return (await store.addTree(called, tree)).path;
      }),
    );
  }
  context.answer(added, () => added.join('\n'));
  return 0;
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
