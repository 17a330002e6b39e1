/** `flk add URL [NAME]`: one more input, in the manifest as its author wrote it and in the lock. */
import { FlkError } from '../../base/errors.ts';
import { writeFileAtomic } from '../../base/files.ts';
import { addInput, inputNameFor } from '../../flake/manifest-edit.ts';
import type { Context } from '../context.ts';
import { readManifest } from '../flake.ts';
import { exclusively, lockFlake, sayChanges, writeLock } from '../locking.ts';

export async function runAdd(context: Context): Promise<number> {
  const [url = '', wanted] = context.args;
  const target = context.flags.flake ?? '.';
  return await exclusively(context, target, async (flake) => {
    const { manifestPath } = flake;
    if (manifestPath === undefined)
      throw new FlkError(
        'FLK_USAGE',
        `${target} is not a folder of this machine, so its manifest cannot be changed`,
      );
    const before = await readManifest(flake);
    const name = wanted ?? inputNameFor(url, new Set(before.inputs.keys()));
    const { version } = context.flags;
    const text = addInput(flake.manifestFile.text, name, {
      url,
      ...(version === undefined ? {} : { version }),
      ...(context.flags['no-flake'] ? { flake: false } : {}),
    });
    const changed = { ...flake, manifestFile: { ...flake.manifestFile, text } };
    // Locked first: an address that cannot be reached leaves both files as they were.
    const locked = await lockFlake(context, changed, await readManifest(changed));
    await writeFileAtomic(manifestPath, text);
    await writeLock(context, flake, locked);
    await sayChanges(context, flake, locked);
    context.answer({ name, url, ...(version === undefined ? {} : { version }) }, () => '');
    return 0;
  });
}
