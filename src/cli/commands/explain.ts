/** `flk explain CODE`: what an error code means and how it is mended, from the one table of codes. */
import { nearest } from '../../base/diagnostics.ts';
import { type ErrorCode, errorCodes, FlkError } from '../../base/errors.ts';
import type { Context } from '../context.ts';

export interface Explanation {
  readonly code: ErrorCode;
  readonly exitStatus: number;
  readonly explanation: string;
  /** Empty where each error of this code brings its own. */
  readonly hint: string;
}

/** Takes `FLK_NETWORK`, `network` and the like; FLK_USAGE with the nearest code otherwise. */
export function explain(word: string): Explanation {
  const upper = word.toUpperCase().replaceAll('-', '_');
  const code = upper.startsWith('FLK_') ? upper : `FLK_${upper}`;
  if (!isCode(code)) {
    const meant = nearest(code, Object.keys(errorCodes));
    throw new FlkError('FLK_USAGE', `there is no error code ${code}`, {
      hint: meant === undefined ? 'error codes look like FLK_NETWORK' : `flk explain ${meant}`,
    });
  }
  const row = errorCodes[code];
  return { code, exitStatus: row.exit, explanation: row.explain, hint: row.hint };
}

const isCode = (word: string): word is ErrorCode => Object.hasOwn(errorCodes, word);

export async function runExplain(context: Context): Promise<number> {
  const answer = explain(context.args[0]!);
  context.answer(answer, () =>
    [
      `${context.paint.strong(answer.code)} (exit status ${answer.exitStatus})`,
      '',
      answer.explanation,
      ...(answer.hint === '' ? [] : ['', `hint: ${answer.hint}`]),
    ].join('\n'),
  );
  return 0;
}
