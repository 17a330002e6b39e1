/** `flk develop --print-env`: the environment as text, for a shell outside of any namespace, as direnv asks for it. */
import { existsSync } from 'node:fs';
import { chmod, readdir, readlink, rm, symlink } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { compareBytes } from '../../base/canonical.ts';
import { makeFolder, writeFileAtomic } from '../../base/files.ts';
import { quote } from '../../base/process.ts';
import {
  type DevelopEnvironment,
  exportScript,
  phaseFunctions,
  physicalText,
  variablesIn,
} from '../../build/develop.ts';
import { isAtHome, launcherScript, needsStore, onDisk } from '../../build/enter.ts';
import { sha256, toNixBase32 } from '../../formats/hash.ts';
import { hashPart, parseStorePath, type StorePath } from '../../formats/store-path.ts';
import { resultLink } from '../../store/roots.ts';
import type { Store } from '../../store/store.ts';
import type { OpenedFlake } from '../building.ts';
import type { Context } from '../context.ts';
import { stateFolder } from '../profiles.ts';

/**
 * Prints text for a POSIX shell, or, with --json, what nix print-dev-env --json prints. Where the store lies elsewhere than at
 * /nix/store, everything is named as it lies there. What is printed stays alive for as long as the flake's folder does.
 */
export async function printEnvironment(
  context: Context,
  { folder }: OpenedFlake,
  environment: DevelopEnvironment,
  references: readonly StorePath[],
): Promise<void> {
  const store = await context.store();
  const variables = variablesIn(environment, context.cwd);
  const home = await isAtHome(store);
  const own = join(stateFolder(context), 'flk/environments');
  const key = toNixBase32(sha256(JSON.stringify([folder ?? context.cwd, context.args]))).slice(0, 32);
  await forgetOthers(own);
  const kept = await keep(store, join(own, key), folder ?? context.cwd, environment, references);
  const path = home ? environment.path : await launched(store, environment.path, join(kept, 'launchers'));
  const shown = (text: string): string => (home ? text : physicalText(store, text));
  const set = new Map([...variables].map(([name, value]) => [name, shown(value)]));
  const hook = environment.shellHook === undefined ? undefined : shown(environment.shellHook);
  if (context.flags.json) {
    const exported = (value: string) => ({ type: 'exported', value });
    const all = [...set, ['PATH', path.join(delimiter)] as const].sort(([a], [b]) => compareBytes(a, b));
    context.answer(
      {
        bashFunctions: environment.kind === 'package' ? phaseFunctions : {},
        variables: {
          ...Object.fromEntries(all.map(([name, value]) => [name, exported(value)])),
          ...(hook === undefined ? {} : { shellHook: { type: 'var', value: hook } }),
        },
      },
      () => '',
    );
    return;
  }
  const text = exportScript(path, set) + (hook === undefined ? '' : `eval ${quote(hook)}\n`);
  context.answer({}, () => text.trimEnd());
}

/** Roots what an environment is made of, in a folder of its own that goes when the flake's has gone. Gives that folder. */
async function keep(
  store: Store,
  place: string,
  flake: string,
  { name }: DevelopEnvironment,
  references: readonly StorePath[],
): Promise<string> {
  await makeFolder(place);
  await symlink(flake, join(place, 'for')).catch(() => {});
  const list = [...new Set(references)].sort(compareBytes);
  const { path } = await store.addText(`${name}-env`, `${list.join('\n')}\n`, list);
  await resultLink(store, join(place, 'env'), store.physical(path));
  return place;
}

async function forgetOthers(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    const flake = await readlink(join(folder, name, 'for')).catch(() => undefined);
    if (flake !== undefined && !existsSync(flake))
      await rm(join(folder, name), { recursive: true, force: true });
  }
}

/** The folders of programs where they physically lie; those that need /nix/store, as launchers that give it to them. */
async function launched(store: Store, path: readonly string[], folder: string): Promise<string[]> {
  const found: string[] = [];
  const used = new Set<string>();
  for (const bin of path) {
    const owner = parseStorePath(bin.split('/').slice(0, 4).join('/'));
    if (!(await needsStore(store, owner))) {
      found.push(onDisk(store, bin));
      continue;
    }
    const name = `${hashPart(owner)}${bin.slice(owner.length).replaceAll('/', '-')}`;
    used.add(name);
    const place = join(folder, name);
    await makeFolder(place);
    for (const program of (await readdir(onDisk(store, bin))).sort()) {
      const file = join(place, program);
      await writeFileAtomic(file, await launcherScript(store, `${bin}/${program}`));
      await chmod(file, 0o755);
    }
    found.push(place);
  }
  for (const name of await readdir(folder).catch(() => []))
    if (!used.has(name)) await rm(join(folder, name), { recursive: true, force: true });
  return found;
}
