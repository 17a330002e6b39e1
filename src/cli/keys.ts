/** Files of secret keys. */
import { readFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { parseSecretKey, type SecretKey } from '../formats/signature.ts';

const maxSize = 64 * 1024;

/** Warns of a file that others may read, as ssh does of its own. Throws FLK_FILE_UNREADABLE and FLK_KEY_INVALID, naming the file. */
export async function readSecretKey(
  context: { readonly cwd: string; readonly reporter: Reporter },
  name: string,
): Promise<SecretKey> {
  const path = resolve(context.cwd, name);
  let text: string;
  try {
    const { mode, size } = await stat(path);
    if (size > maxSize) throw new RangeError(`${size} bytes are more than any key has`);
    if ((mode & 0o004) !== 0)
      context.reporter.emit({ kind: 'notice', notice: { type: 'key-readable', path } });
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : '';
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read the key in ${path}: ${reason}`, { cause });
  }
  try {
    return parseSecretKey(text);
  } catch (cause) {
    if (!(cause instanceof FlkError)) throw cause;
    const { code, message, facts } = cause;
    throw new FlkError(code, `${path}: ${message}`, { facts, cause });
  }
}
