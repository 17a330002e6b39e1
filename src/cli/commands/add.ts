/** `flk add URL [NAME]`: one more input, in the manifest as its author wrote it and in the lock. */
import { addInput, type InputChanges, inputNameFor, type NewInput } from '../../flake/manifest-edit.ts';
import type { Context } from '../context.ts';
import { editFlake, inputKeys, jsonOf } from '../editing.ts';

export async function runAdd(context: Context): Promise<number> {
  const [url = '', wanted] = context.args;
  const input: NewInput = { ...given(inputKeys(context)), url };
  const hint = `write inputs.${wanted ?? inputNameFor(url, new Set())}.url = ${JSON.stringify(url)}; into it`;
  return await editFlake(context, hint, ({ inputs }, { manifestFile }) => {
    const name = wanted ?? inputNameFor(url, new Set(inputs.keys()));
    return { text: addInput(manifestFile.text, name, input), answer: { name, ...jsonOf(input) } };
  });
}

/** Without what is empty: nothing is there to be taken away yet. */
function given(keys: InputChanges): Partial<NewInput> {
  return Object.fromEntries(Object.entries(keys).filter(([, value]) => value !== ''));
}
