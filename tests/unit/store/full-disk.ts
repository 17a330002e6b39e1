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
  rmSync(ballast);
  tell('with room again', await outcome(texts()));
}

async function look(): Promise<void> {
  const store = await openStore(root);
  const { path } = await store.addTree('small', small);
  tell('small tree', await outcome(store.verifyPath(path)));
}

if (task === 'fill') await fill();
else tell('open', await outcome(look()));
