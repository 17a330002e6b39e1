/**
 * Uses a store on a small disk and tells what happens; run as a process of its own by crash.test.ts.
 * Arguments: the disk, and `fill` it or only `look`.
 */
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { asFlkError } from '../../../src/base/errors.ts';
import { openStore } from '../../../src/store/store.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

const [disk = '', task] = process.argv.slice(2);
const root = join(disk, 'root');
const small = treeFrom(directory({ a: file('small') }));
const tell = (what: string, answer: string): void => void process.stdout.write(`${what}: ${answer}\n`);
const outcome = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'fine',
    (error: unknown) => asFlkError(error).code,
  );

async function fill(): Promise<void> {
  // Only a store with something in it keeps space for a sweep.
  const first = await openStore(root);
  const { path: unneeded } = await first.addText('first', 'x', []);
  first.close();
  const store = await openStore(root);
  const large = directory({ a: file(Buffer.alloc(1024 * 1024)), b: file(Buffer.alloc(20 * 1024 * 1024)) });
  tell('large tree', await outcome(store.addTree('large', treeFrom(large))));
  tell('stages left', String(readdirSync(join(root, 'nix/var/flk/stage')).length));
  tell('small tree', await outcome(store.addTree('small', small)));
  const ballast = join(disk, 'ballast');
  try {
    writeFileSync(ballast, Buffer.alloc(20 * 1024 * 1024));
  } catch {
    // As much as there was room for.
  }
  const texts = (): Promise<unknown> =>
    Promise.all(Array.from({ length: 50 }, (_, i) => store.addText(`text-${i}`, `${i}`.repeat(20_000), [])));
  tell('many texts', await outcome(texts()));
  tell('optimise', await outcome(store.optimise()));
  const again = await openStore(root);
  const sweep = again.collect().then(async (collection) => {
    const removed = await collection.remove([unneeded]).finally(() => collection.end());
    if (removed.length !== 1) throw new Error('it is still there');
  });
  tell('sweep', await outcome(sweep));
  again.close();
  tell('stages left', String(readdirSync(join(root, 'nix/var/flk/stage')).length));
  rmSync(ballast);
  tell('with room again', await outcome(texts()));
}

async function look(): Promise<void> {
  const store = await openStore(root);
  const { path } = await store.addTree('small', small);
  tell('small tree', await outcome(store.verifyPath(path)));
  tell('known text', await outcome(store.addText('text-1', '1'.repeat(20_000), [])));
  tell('new text', await outcome(store.addText(`at ${Date.now()}`.replace(' ', '-'), 'x', [])));
  tell('sweep', await outcome(store.collect().then((sweep) => sweep.end())));
  tell('optimise', await outcome(store.optimise()));
}

if (task === 'fill') await fill();
else tell('open', await outcome(look()));
