/** `flk set INPUT --version RANGE …`: keys of an input changed, or, where the value is empty, taken away. */
import { FlkError } from '../../base/errors.ts';
import { changeInput } from '../../flake/manifest-edit.ts';
import type { Context } from '../context.ts';
import { editFlake, inputKeys, jsonOf } from '../editing.ts';

export async function runSet(context: Context): Promise<number> {
  const [name = ''] = context.args;
  const { url } = context.flags;
  const changes = { ...(url === undefined ? {} : { url }), ...inputKeys(context) };
  if (Object.keys(changes).length === 0)
    throw new FlkError('FLK_USAGE', `there is nothing to set of ${name}`, {
      hint: `flk set ${name} --version RANGE, or --url, --ref, --rev, --tag, --follows INPUT=TARGET`,
    });
  if (url === '')
    throw new FlkError('FLK_USAGE', 'an input cannot be without a url', { hint: `flk remove ${name}` });
  return await editFlake(context, `change inputs.${name} in it`, (_, { manifestFile }) => ({
    text: changeInput(manifestFile.text, name, changes),
    answer: { name, ...jsonOf(changes) },
  }));
}
