/** `flk derivation show`: the recipes of packages, as Nix prints them. */
import { readFileSync } from 'node:fs';
import { FlkError } from '../../base/errors.ts';
import { Instantiator } from '../../build/instantiate.ts';
import { type Derivation, parseDerivation } from '../../formats/derivation.ts';
import { printDerivations } from '../../formats/derivation-json.ts';
import type { StorePath } from '../../formats/store-path.ts';
import type { Store } from '../../store/store.ts';
import { type OpenedFlake, openOne } from '../building.ts';
import type { Context } from '../context.ts';
import { readPathArgument, validPath } from '../store-paths.ts';
import { packageOf, parseTarget, systemOf } from '../targets.ts';

export async function runDerivation(context: Context): Promise<number> {
  const [word = '', ...args] = context.args;
  if (word !== 'show')
    throw new FlkError('FLK_USAGE', `flk derivation has no command ${word}`, { hint: 'flk derivation show' });
  const found = new Map<StorePath, Derivation>();
  const flakes = new Map<string, { readonly opened: OpenedFlake; readonly instantiator: Instantiator }>();
  for (const argument of args.length === 0 ? ['.'] : args) {
    if (/^[./]/.test(argument) && !argument.includes('#') && (await isInStore(context, argument))) {
      addFromStore(await context.store(), argument, context, found);
      continue;
    }
    const target = parseTarget(argument, systemOf(context));
    const opened = flakes.get(target.flake)?.opened ?? (await openOne(context, target.flake));
    const instantiator = flakes.get(target.flake)?.instantiator ?? new Instantiator(opened);
    flakes.set(target.flake, { opened, instantiator });
    const { top, derivations } = await instantiator.instantiate(packageOf(target, opened));
    if (!derivations.has(top))
      throw new FlkError('FLK_USAGE', `${argument} is the store path ${top}, which no derivation makes`, {
        hint: `flk store path-info ${top}`,
      });
    const shown = context.flags.recursive ? derivations.keys() : [top];
    for (const drvPath of shown) found.set(drvPath, derivations.get(drvPath)!.derivation);
  }
  const indented = context.onTerminal || context.flags.json;
  context.print(printDerivations(found, indented));
  return 0;
}

async function isInStore(context: Context, argument: string): Promise<boolean> {
  try {
    readPathArgument(await context.store(), context.cwd, argument);
    return true;
  } catch (error) {
    if (error instanceof FlkError && error.code === 'FLK_STORE_PATH_INVALID') return false;
    throw error;
  }
}

/** A `.drv` that lies in the store, or the one that made a path; and what it stands on, under `--recursive`. */
function addFromStore(
  store: Store,
  argument: string,
  context: Context,
  found: Map<StorePath, Derivation>,
): void {
  const { path } = readPathArgument(store, context.cwd, argument);
  const isDerivation = path.endsWith('.drv');
  const drvPath = isDerivation ? path : validPath(store, path).deriver;
  if (drvPath === undefined)
    throw new FlkError('FLK_USAGE', `${path} does not say which derivation made it`, {
      hint: 'name a .drv, or FLAKE#PACKAGE',
    });
  const waiting = [drvPath];
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    if (found.has(at)) continue;
    validPath(store, at);
    const derivation = parseDerivation(readFileSync(store.physical(at), 'utf8'));
    found.set(at, derivation);
    if (context.flags.recursive) waiting.push(...derivation.inputDrvs.keys());
  }
}
