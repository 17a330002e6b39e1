/** `flk lock`, `flk lock --check`, `flk update`. */
import { dirname, join } from 'node:path';
import { asFlkError } from '../../base/errors.ts';
import { makeFolder, writeFileAtomic } from '../../base/files.ts';
import type { Context } from '../context.ts';
import { type Flake, openFlake, readManifest } from '../flake.ts';
import {
  checkStaleness,
  exclusively,
  inputPath,
  type Locked,
  type LockRequest,
  lockAnswer,
  lockFlake,
  mayBeKept,
  previousLock,
  staleError,
  writeLock,
} from '../locking.ts';

export async function runLock(context: Context): Promise<number> {
  const target = context.args[0] ?? '.';
  // Nearly always there is nothing to do, and then nothing is waited for, written or asked.
  const flake = await openFlake(context, target);
  const manifest = await readManifest(flake);
  const previous = await previousLock(context, flake);
  if (context.flags.check || mayBeKept(context)) {
    const { reasons, selfContained } = await checkStaleness(context, flake, manifest, previous);
    if (reasons.length === 0) {
      if (selfContained) await rememberCurrent(context, flake);
      return await answer(context, flake);
    }
    if (context.flags.check) throw staleError(context, flake, previous, reasons);
  }
  return await exclusively(context, target, async (fresh) => await relock(context, fresh, {}));
}

export async function runUpdate(context: Context): Promise<number> {
  const update = context.args.length === 0 ? 'all' : context.args.map(inputPath);
  return await exclusively(
    context,
    context.flags.flake ?? '.',
    async (flake) => await relock(context, flake, { update }),
  );
}

async function relock(context: Context, flake: Flake, request: LockRequest): Promise<number> {
  const locked = await lockFlake(context, flake, await readManifest(flake), request);
  const written = await writeLock(context, flake, locked);
  return await answer(context, flake, locked, written);
}

async function answer(context: Context, flake: Flake, locked?: Locked, written?: string): Promise<number> {
  if (!locked?.changed && context.interactive && !context.flags.quiet)
    context.report.say('flake.lock is up to date');
  if (context.flags.json) context.answer(await lockAnswer(flake, locked, written), () => '');
  return 0;
}

/** Lets the launcher answer the next time, as long as neither file changes; a cache that cannot be written is none. */
async function rememberCurrent(context: Context, flake: Flake): Promise<void> {
  const { stamp } = context;
  if (!stamp || flake.lockText === undefined || flake.lockPath !== join(context.cwd, 'flake.lock')) return;
  const { text } = flake.manifestFile;
  try {
    await makeFolder(dirname(stamp.path));
    await writeFileAtomic(
      stamp.path,
      `${stamp.header}${flake.manifestName} ${Buffer.byteLength(text)}\n${text}${flake.lockText}`,
    );
  } catch (error) {
    if (asFlkError(error).code !== 'FLK_FILE_UNWRITABLE') throw error;
  }
}
