/** `flk shell`: an environment with packages' programs, at once. */
import { readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { enterStore, needsStore } from '../../build/enter.ts';
import { parseStorePath, type StorePath } from '../../formats/store-path.ts';
import type { Store } from '../../store/store.ts';
import { buildTargets } from '../building.ts';
import type { Context } from '../context.ts';
import { assertProgram, chosenEnvironment, commandOf, personalShell, runForeground } from '../foreground.ts';

export async function runShell(context: Context): Promise<number> {
  const env = chosenEnvironment(context);
  const asked = commandOf(context);
  const built = await buildTargets(context, context.args.length === 0 ? ['.'] : context.args);
  const store = await context.store();
  const paths = await withPropagated(
    store,
    built.flatMap(({ outputs }) => [...outputs.values()]),
  );
  const inStore = (await Promise.all(paths.map((path) => needsStore(store, path)))).includes(true);
  const folders = paths.map((path) => join(inStore ? path : store.physical(path), 'bin'));
  const path = [...folders, ...(env.PATH === undefined ? [] : [env.PATH])].join(delimiter);
  const names = built.map(({ name }) => name).join(' ');
  if (asked === undefined) {
    env.FLK_SHELL = env.FLK_SHELL === undefined ? names : `${names} ${env.FLK_SHELL}`;
    if (context.interactive && !context.flags.quiet)
      context.report.say(`a shell that has ${names}; exit leaves it`);
  }
  const argv = asked ?? [personalShell(context.env)];
  await assertProgram(store, argv[0]!, path, context.cwd);
  const [command, ...args] = argv;
  return await runForeground(
    context,
    inStore ? await enterStore(store, argv, context.cwd) : { command: command!, args },
    { ...env, PATH: path },
  );
}

/** With what packages of nixpkgs say belongs to them in a person's environment, after all of them, in the order found. */
async function withPropagated(store: Store, outputs: readonly StorePath[]): Promise<StorePath[]> {
  const found = new Set(outputs);
  // Grows while it is walked.
  for (const path of found) {
    const list = join(store.physical(path), 'nix-support/propagated-user-env-packages');
    const text = await readFile(list, 'utf8').catch(() => '');
    for (const word of text.split(/\s+/).filter((part) => part !== '')) {
      const propagated = parseStorePath(word);
      if (store.query(propagated) !== undefined) found.add(propagated);
    }
  }
  return [...found];
}
