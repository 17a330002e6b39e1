/** `flk remove NAME…`: inputs taken out of the manifest and the lock, where nothing uses them. */
import { FlkError } from '../../base/errors.ts';
import { inputUsers, removeInput } from '../../flake/manifest-edit.ts';
import type { Context } from '../context.ts';
import { editFlake } from '../editing.ts';

export async function runRemove(context: Context): Promise<number> {
  const names = [...new Set(context.args)];
  return await editFlake(context, `take ${names.join(', ')} out of its inputs`, (manifest, flake) => {
    const text = names.reduce(removeInput, flake.manifestFile.text);
    const users = inputUsers(manifest, names);
    if (users.length > 0)
      throw new FlkError('FLK_USAGE', `${names.join(', ')} cannot be removed: something uses it`, {
        diagnostics: users,
        hint: 'take it out of these places first',
      });
    return { text, answer: { removed: names } };
  });
}
