/** `flk init [DIR]`: a manifest that locks and builds at once. */
import { existsSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { makeFolder, readFileIfExists, writeFileAtomic } from '../../base/files.ts';
import { quote } from '../../base/process.ts';
import { initialManifest } from '../../flake/manifest-edit.ts';
import { findRepository, trackFile } from '../../sources/worktree.ts';
import type { Context } from '../context.ts';

/** Where npm puts it; editors that speak YAML's language server then check the manifest while it is written. */
const schema = 'node_modules/flk/schemas/flake.schema.json';

export async function runInit(context: Context): Promise<number> {
  const folder = resolve(context.cwd, context.args[0] ?? '.');
  const path = join(folder, 'flake.yaml');
  const shown = relative(context.cwd, path);
  if ((await readFileIfExists(path)) !== undefined)
    throw new FlkError('FLK_USAGE', `${shown} exists already`, { hint: 'flk add URL adds an input to it' });
  await makeFolder(folder);
  const name = basename(folder)
    .replace(/[^A-Za-z0-9_+-]+/g, '-')
    .replace(/^[^A-Za-z0-9_]+|-+$/g, '');
  await writeFileAtomic(
    path,
    initialManifest(name === '' ? 'hello' : name, existsSync(join(folder, schema)) ? schema : undefined),
  );
  const repository = findRepository(folder);
  const tracked = repository !== undefined && (await trackFile(repository, relative(repository, path)));
  const target = context.args[0] === undefined ? '' : ` ${quote(context.args[0])}`;
  context.answer({ path, tracked }, () =>
    context.flags.quiet ? '' : `wrote ${shown}; flk run${target} builds and runs it`,
  );
  return 0;
}
