/** Editing a manifest as commands do it: the text as its author wrote it but for one thing, and the lock that belongs to it. */
import { FlkError } from '../base/errors.ts';
import { writeFileAtomic } from '../base/files.ts';
import type { InputChanges } from '../flake/manifest-edit.ts';
import type { Manifest } from '../flake/manifest-model.ts';
import type { Context } from './context.ts';
import { type Flake, readManifest } from './flake.ts';
import { exclusively, lockFlake, writeLock } from './locking.ts';

export interface Edit {
  /** The whole manifest, edited. */
  readonly text: string;
  /** What the command answers under `--json`. */
  readonly answer: unknown;
}

/**
 * Edits the manifest of `--flake` and locks what it says then. Locked first: an address that cannot be reached leaves both files
 * as they were. `nixHint` is what to write into a flake.nix by hand.
 */
export async function editFlake(
  context: Context,
  nixHint: string,
  edit: (manifest: Manifest, flake: Flake) => Edit,
): Promise<number> {
  const target = context.flags.flake ?? '.';
  return await exclusively(context, target, async (flake) => {
    const { manifestPath, manifestFile } = flake;
    if (manifestPath === undefined)
      throw new FlkError(
        'FLK_USAGE',
        `${target} is not a folder of this machine, so its manifest cannot be changed`,
        { hint: 'clone it, and name the folder with --flake' },
      );
    const before = await readManifest(flake);
    if (!isYaml(before))
      throw new FlkError('FLK_USAGE', `flk does not edit ${manifestFile.path}, which is a program`, {
        hint: `${nixHint}, then flk lock`,
      });
    const { text, answer } = edit(before, flake);
    const edited = { ...flake, manifestFile: { ...manifestFile, text } };
    const locked = await lockFlake(context, edited, await readManifest(edited));
    if (text !== manifestFile.text) await writeFileAtomic(manifestPath, text);
    try {
      await writeLock(context, flake, locked);
    } catch (error) {
      if (text !== manifestFile.text) await writeFileAtomic(manifestPath, manifestFile.text);
      throw error;
    }
    if (!locked.changed && context.interactive && !context.flags.quiet)
      context.report.say(
        text === manifestFile.text ? `${manifestFile.path} says so already` : `edited ${manifestFile.path}`,
      );
    context.answer(answer, () => '');
    return 0;
  });
}

const isYaml = (manifest: { readonly kind: string }): manifest is Manifest => manifest.kind === 'yaml';

/** What `--version`, `--tag`, `--ref`, `--rev`, `--no-flake` and `--follows` say of an input. Throws FLK_USAGE. */
export function inputKeys(context: Context): InputChanges {
  const { version, tag, ref, rev, follows, 'no-flake': noFlake } = context.flags;
  return {
    ...(version === undefined ? {} : { version }),
    ...(tag === undefined ? {} : { tag }),
    ...(ref === undefined ? {} : { ref }),
    ...(rev === undefined ? {} : { rev }),
    ...(noFlake ? { flake: false } : {}),
    ...(follows.length === 0 ? {} : { follows: new Map(follows.map(followsPair)) }),
  };
}

function followsPair(text: string): [input: string, target: string] {
  const [, input, target] = /^([^=]+)=(.*)$/.exec(text) ?? [];
  if (input === undefined || target === undefined)
    throw new FlkError('FLK_USAGE', `--follows needs INPUT=TARGET, not '${text}'`, {
      hint: '--follows base=base lets its input base be this flake’s',
    });
  return [input, target];
}

/** Every manifest key in the order people write them. */
export function jsonOf({ follows, ...keys }: InputChanges): Readonly<Record<string, unknown>> {
  return { ...keys, ...(follows === undefined ? {} : { follows: Object.fromEntries(follows) }) };
}
