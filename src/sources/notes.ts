/**
 * Small JSON files in a cache, each with a digest of its own, so that what a power cut or a stranger left is not believed; and
 * folders of them, for what was asked before.
 */
import { randomBytes } from 'node:crypto';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';
import { StageFolder } from '../base/stages.ts';
import { sha256Hex } from '../formats/hash.ts';

/** Above this a note is not one of ours. */
const maxNote = 32 * 2 ** 20;

/** A note whose first line is the SHA-256 of the rest; undefined where there is none that holds. */
export async function readNote<T>(path: string): Promise<T | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined || text.length > maxNote) return undefined;
  const body = text.slice(65);
  return text.slice(0, 64) === sha256Hex(body) ? (JSON.parse(body) as T) : undefined;
}

/** Replaces the note in one step; makes its folder. Throws FLK_FILE_UNWRITABLE. */
export async function writeNote(path: string, note: unknown): Promise<void> {
  const body = JSON.stringify(note);
  await makeFolder(dirname(path));
  const staged = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
  try {
    await writeFile(staged, `${sha256Hex(body)}\n${body}`, { flag: 'wx' });
    await rename(staged, path);
  } catch (error) {
    await rm(staged, { force: true });
    throw unwritable(path, error);
  }
}

/** What was found to be damaged, and was removed from the cache. */
export class CacheDamaged extends FlkError {
  constructor(code: 'FLK_GIT_PACK' | 'FLK_ARCHIVE_INVALID', message: string, cause?: unknown) {
    super(code, message, {
      ...(cause === undefined ? {} : { cause }),
      ...(cause instanceof FlkError ? { facts: cause.facts } : {}),
      hint: 'run the command again: it is fetched anew',
    });
  }
}

export function unwritable(path: string, cause: unknown): FlkError {
  return new FlkError(
    'FLK_FILE_UNWRITABLE',
    `cannot write ${path}: ${cause instanceof Error ? cause.message : cause}`,
    { cause },
  );
}

/** What was answered to which question, and when. Questions are known by their digest alone, for a URL may hold a password. */
export class Answers {
  readonly #folder: string;

  /** `folder` need not exist. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** `time` in ms since 1970. */
  async get<T>(question: string): Promise<{ readonly answer: T; readonly time: number } | undefined> {
    const note = await readNote<{ about: string; answer: T; time: number }>(this.#path(question));
    return note?.about === sha256Hex(question) ? { answer: note.answer, time: note.time } : undefined;
  }

  async keep<T>(question: string, answer: T): Promise<void> {
    await writeNote(this.#path(question), { about: sha256Hex(question), answer, time: Date.now() });
  }

  #path(question: string): string {
    return join(this.#folder, `${sha256Hex(question).slice(0, 40)}.json`);
  }
}

/** Where in a cache's folder things are while they arrive. */
export const stagesOf = (cacheFolder: string): StageFolder => new StageFolder(join(cacheFolder, 'stage'));
