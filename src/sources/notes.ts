/** Small JSON files in a cache, each with a digest of its own, so that what a power cut or a stranger left is not believed. */
import { createHash, randomBytes } from 'node:crypto';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';

/** Above this a note is not one of ours. */
const maxNote = 32 * 2 ** 20;

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** A note whose first line is the SHA-256 of the rest; undefined where there is none that holds. */
export async function readNote<T>(path: string): Promise<T | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined || text.length > maxNote) return undefined;
  const body = text.slice(65);
  return text.slice(0, 64) === digestOf(body) ? (JSON.parse(body) as T) : undefined;
}

/** Replaces the note in one step; makes its folder. Throws FLK_FILE_UNWRITABLE. */
export async function writeNote(path: string, note: unknown): Promise<void> {
  const body = JSON.stringify(note);
  await makeFolder(dirname(path));
  const staged = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
  try {
    await writeFile(staged, `${digestOf(body)}\n${body}`, { flag: 'wx' });
    await rename(staged, path);
  } catch (error) {
    await rm(staged, { force: true });
    throw unwritable(path, error);
  }
}

export function unwritable(path: string, cause: unknown): FlkError {
  return new FlkError(
    'FLK_FILE_UNWRITABLE',
    `cannot write ${path}: ${cause instanceof Error ? cause.message : cause}`,
    { cause },
  );
}
