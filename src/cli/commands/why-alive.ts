/** `flk why-alive`: what keeps paths in the store, and over which others. */

import type { StorePath } from '../../formats/store-path.ts';
import { cleanLine } from '../../report/text.ts';
import { type Chain, chainsTo } from '../../store/gc.ts';
import { findRoots } from '../../store/roots.ts';
import type { Context } from '../context.ts';
import { readLock } from '../live-roots.ts';
import { readPathArgument } from '../store-paths.ts';

export async function runWhyAlive(context: Context): Promise<number> {
  const store = await context.store();
  const keeping = await context.settings();
  const paths = context.args.map((text) => readPathArgument(store, context.cwd, text).path);
  const { roots } = await findRoots(store, { readLock });
  const answers = paths.map((path) => ({
    path,
    valid: store.query(path) !== undefined,
    chains: chainsTo(store, path, roots, keeping),
  }));
  context.answer(
    answers.map(({ path, valid, chains }) => ({
      path,
      valid,
      roots: chains.map(({ root, paths }) => ({ kind: root.kind, place: root.place, paths })),
    })),
    () => answers.map(explain).join('\n'),
  );
  return answers.every(({ chains }) => chains.length > 0) ? 0 : 1;
}

function explain(answer: {
  readonly path: StorePath;
  readonly valid: boolean;
  readonly chains: readonly Chain[];
}): string {
  const { path, valid, chains } = answer;
  if (!valid) return `${path}: not in the store`;
  if (chains.length === 0) return `${path}: nothing: the next flk gc removes it`;
  return [
    `${path}:`,
    ...chains.map(({ root, paths }) => `  ${[cleanLine(root.place), ...paths].join('\n    → ')}`),
  ].join('\n');
}
