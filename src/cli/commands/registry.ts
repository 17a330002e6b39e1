/** `flk registry list|add|remove|pin|resolve`, as `nix registry` has them, on the same files. */
import { resolve } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import {
  type FlakeRef,
  isLocked,
  printFlakeRef,
  type RefAttributes,
  refToAttributes,
} from '../../flake/flake-ref.ts';
import {
  printEntryRef,
  type RegistryEntry,
  registryNames,
  withEntry,
  withoutEntry,
} from '../../sources/registry.ts';
import { editRegistry } from '../../sources/registry-files.ts';
import type { Context } from '../context.ts';
import { refOfEntry, userRegistryFile } from '../registries.ts';

export async function runRegistry(context: Context): Promise<number> {
  const [what = '', ...args] = context.args;
  const [first, second] = args;
  const takes = (min: number, max: number, words: string): void => {
    if (args.length < min || args.length > max)
      throw new FlkError('FLK_USAGE', `flk registry ${what} takes ${words}`, {
        hint: 'flk help registry shows how',
      });
  };
  switch (what) {
    case 'list':
      takes(0, 0, 'nothing more');
      return await list(context);
    case 'add': {
      takes(2, 2, 'FROM and TO');
      const to = refToAttributes(refOfEntry(context, second!));
      return await edit(context, (entries) => withEntry(entries, refOfEntry(context, first!), to));
    }
    case 'remove': {
      takes(1, 1, 'FROM');
      const from = refOfEntry(context, first!);
      return await edit(context, (entries) => withoutEntry(entries, from));
    }
    case 'pin': {
      takes(1, 2, 'FROM, and TO if it is another');
      const from = refOfEntry(context, first!);
      const to = await pinned(context, refOfEntry(context, second ?? first!), from.dir);
      return await edit(context, (entries) => withEntry(entries, from, to));
    }
    case 'resolve':
      takes(1, Number.POSITIVE_INFINITY, 'references');
      return await resolveAll(context, args);
    default:
      throw new FlkError('FLK_USAGE', `there is no flk registry ${what}`, {
        hint: 'flk registry list, add, remove, pin or resolve',
      });
  }
}

async function list(context: Context): Promise<number> {
  const registries = await context.registries();
  const rows = await Promise.all(
    registryNames.map(async (registry) =>
      (await registries.entries(registry)).map((entry) => ({ registry, ...entry })),
    ),
  );
  context.answer(rows.flat(), () =>
    rows
      .flat()
      .map(({ registry, from, to }) => `${registry.padEnd(6)} ${printEntryRef(from)} ${printEntryRef(to)}`)
      .join('\n'),
  );
  return 0;
}

async function edit(
  context: Context,
  change: (entries: readonly RegistryEntry[]) => readonly RegistryEntry[],
): Promise<number> {
  const named = context.flags.registry;
  const path = named === undefined ? userRegistryFile(context.env) : resolve(context.cwd, named);
  await editRegistry(path, change, context.signal);
  context.answer({ registry: path }, () => '');
  return 0;
}

/** What a reference is at this moment, as Nix writes it into a registry. */
async function pinned(context: Context, ref: FlakeRef, dir: string | undefined): Promise<RefAttributes> {
  const resolved = await (await context.registries()).lookup(ref, 'all');
  const { locked } = await (await context.sources()).fetch(resolved, 'all');
  const { dir: _, narHash, ...rest } = refToAttributes(locked);
  // Nix keeps the hash where nothing else says which bytes are meant, except for paths.
  const keepsHash = locked.type === 'tarball' || locked.type === 'file' || resolved.narHash !== undefined;
  const to = {
    ...rest,
    ...(narHash !== undefined && keepsHash && { narHash }),
    ...(dir !== undefined && { dir }),
    __final: true,
  };
  if (locked.type === 'path' || !isLocked(locked))
    context.reporter.emit({
      kind: 'notice',
      notice: { type: 'not-locked', flake: printEntryRef(to) },
    });
  return to;
}

async function resolveAll(context: Context, texts: readonly string[]): Promise<number> {
  const registries = await context.registries();
  const resolved: { readonly from: string; readonly to: string }[] = [];
  for (const text of texts) {
    const ref = refOfEntry(context, text);
    resolved.push({ from: printFlakeRef(ref), to: printFlakeRef(await registries.lookup(ref, 'all')) });
  }
  context.answer(resolved, () => resolved.map(({ to }) => to).join('\n'));
  return 0;
}
