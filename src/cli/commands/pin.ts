/**
 * `flk pin INPUT [REV]`, `flk unpin INPUT`: an input stays where it is, whatever `flk update` moves, until it is unpinned. What is
 * pinned where it stands is `frozen`, since the lock has the revision; another revision has to be said in the manifest.
 */
import { FlkError } from '../../base/errors.ts';
import { changeInput } from '../../flake/manifest-edit.ts';
import type { InputDeclaration, Manifest } from '../../flake/manifest-model.ts';
import type { Context } from '../context.ts';
import { editFlake } from '../editing.ts';

export async function runPin(context: Context): Promise<number> {
  const [name = '', rev] = context.args;
  const hint = `write the revision into inputs.${name}.url`;
  return await editFlake(context, hint, (manifest, { manifestFile }) => {
    const input = declared(manifest, name);
    if (rev === undefined)
      return {
        text: changeInput(manifestFile.text, name, { frozen: true }),
        answer: { name, frozen: true },
      };
    if (!/^[0-9a-f]{40}$/i.test(rev))
      throw new FlkError('FLK_USAGE', `'${rev}' is not a whole revision`, {
        hint: 'a revision is 40 hex digits; git rev-parse REF prints it',
      });
    if (input.version !== undefined)
      throw new FlkError('FLK_USAGE', `${name} takes the newest tag in ${input.version}, not a revision`, {
        hint: `flk pin ${name} keeps the tag that it has; flk set ${name} --version '' drops the range`,
      });
    return { text: changeInput(manifestFile.text, name, { rev }), answer: { name, rev } };
  });
}

export async function runUnpin(context: Context): Promise<number> {
  const [name = ''] = context.args;
  const hint = `take the revision out of inputs.${name}.url`;
  return await editFlake(context, hint, (manifest, { manifestFile }) => {
    const input = declared(manifest, name);
    const text = changeInput(manifestFile.text, name, { frozen: undefined, rev: '' });
    if (text === manifestFile.text && input.ref?.rev !== undefined)
      throw new FlkError('FLK_USAGE', `the url of ${name} names its revision`, {
        hint: `flk set ${name} --url URL gives it another one`,
      });
    return { text, answer: { name } };
  });
}

function declared(manifest: Manifest, name: string): InputDeclaration {
  const input = manifest.inputs.get(name);
  if (!input) throw new FlkError('FLK_INPUT_UNKNOWN', `there is no input "${name}"`);
  if (!input.follows) return input;
  const followed = input.follows.join('/');
  throw new FlkError('FLK_USAGE', `${name} follows ${followed}, and has no revision of its own`, {
    hint: `flk pin ${input.follows[0] ?? ''}`,
  });
}
