/** `flk log`: what the last build of something printed. */
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { FlkError, systemCode } from '../../base/errors.ts';
import { followLog, readLog } from '../../build/build-log.ts';
import { instantiate } from '../../build/instantiate.ts';
import { parseDerivation } from '../../formats/derivation.ts';
import { baseNameOf, type StorePath } from '../../formats/store-path.ts';
import { cleanLine } from '../../report/text.ts';
import { copiesOf } from '../../store/decompression.ts';
import type { Store } from '../../store/store.ts';
import { openOne } from '../building.ts';
import { openCache } from '../caches.ts';
import type { Context } from '../context.ts';
import { readPathArgument } from '../store-paths.ts';
import { hostSystem, packageOf, parseTarget } from '../targets.ts';

export async function runLog(context: Context): Promise<number> {
  const subject = context.args[0] ?? '.';
  try {
    await printLog(context, subject);
    return 0;
  } catch (error) {
    if (systemCode(error)?.startsWith('Z_') !== true) throw error;
    throw new FlkError('FLK_FILE_UNREADABLE', `the log of ${subject} is damaged`, {
      hint: 'flk build --rebuild builds it again',
      cause: error,
    });
  }
}

async function printLog(context: Context, subject: string): Promise<void> {
  const drvPath = await derivationOf(context, subject);
  const store = await context.store();
  const log = await (context.flags.follow && !context.flags.json
    ? followLog(store.root, drvPath, () => isBuilding(store, drvPath), context.signal)
    : readLog(store.root, drvPath));
  const text = log ?? (await fromCaches(context, drvPath));
  if (text === undefined) throw noLog(subject, drvPath);
  if (context.flags.json) {
    const lines: string[] = [];
    for await (const line of linesOf(text)) lines.push(line);
    context.answer({ drvPath, lines }, () => '');
    return;
  }
  const show = context.onTerminal ? cleaned(text) : text;
  await context.pour(
    'a log',
    async (write) => {
      for await (const chunk of show) await write(Buffer.from(chunk));
    },
    { terminal: true },
  );
}

/** Who builds a derivation holds the locks of its outputs, and it is in the store. */
async function isBuilding(store: Store, drvPath: StorePath): Promise<boolean> {
  if (!store.query(drvPath)) return false;
  const { outputs } = parseDerivation(await readFile(store.physical(drvPath), 'utf8'));
  for (const { path } of outputs.values()) if (!(await store.isLocked(path))) return false;
  return true;
}

/** What was built to make something: a package of a flake, an output, or the derivation itself. */
async function derivationOf(context: Context, subject: string): Promise<StorePath> {
  const path = subject.includes('#') ? undefined : await pathOf(context, subject);
  if (path === undefined) {
    const target = parseTarget(subject, hostSystem());
    const opened = await openOne(context, target.flake);
    return (await instantiate(opened, packageOf(target, opened))).top;
  }
  if (path.endsWith('.drv')) return path;
  const deriver = (await context.store()).query(path)?.deriver;
  if (deriver === undefined) throw noLog(subject, path);
  return deriver;
}

/** What leads to the store is a path; all else is a flake. */
async function pathOf(context: Context, subject: string): Promise<StorePath | undefined> {
  try {
    return readPathArgument(await context.store(), context.cwd, subject).path;
  } catch (error) {
    const isElsewhere = error instanceof FlkError && error.code === 'FLK_STORE_PATH_INVALID';
    if (!isElsewhere || subject.startsWith('/nix/store/')) throw error;
    return undefined;
  }
}

/** As Nix lays them there: `log/NAME.drv`. A cache that cannot be asked is as one that has none. */
async function fromCaches(context: Context, drvPath: StorePath): Promise<Readable | undefined> {
  const { substituters, substitute } = context.flags;
  if (substitute === false) return undefined;
  const caches = substituters.length > 0 ? substituters : (await context.settings()).substituters;
  for (const address of caches) {
    const { cache } = await openCache(context, address);
    if (context.offline && !cache.local) continue;
    const log = await cache.nar({ url: `log/${baseNameOf(drvPath)}` }).catch(() => undefined);
    if (log) return Readable.from(copiesOf(log));
  }
  return undefined;
}

const linesOf = (text: Readable): AsyncIterable<string> =>
  createInterface({ input: Readable.from(text), crlfDelay: Number.POSITIVE_INFINITY });

/** A builder may print what would do something to a terminal. */
async function* cleaned(text: Readable): AsyncGenerator<string> {
  for await (const line of linesOf(text)) yield `${cleanLine(line)}\n`;
}

const noLog = (subject: string, path: StorePath): FlkError =>
  new FlkError('FLK_LOG_MISSING', `there is no log for ${subject}`, { facts: { wanted: path } });
