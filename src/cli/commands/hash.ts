/** `flk hash path|file|convert`, as `nix hash` has them. */
import { createHash } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import {
  type Algorithm,
  type Digest,
  type Notation,
  parseAlgorithm,
  parseDigest,
  parseNotation,
  printDigest,
} from '../../formats/digest.ts';
import { NarWriter } from '../../formats/nar.ts';
import { walkPath } from '../../store/tree-files.ts';
import type { Context } from '../context.ts';

export async function runHash(context: Context): Promise<number> {
  const [what = '', ...subjects] = context.args;
  const { flags } = context;
  const algorithm = flags['hash-algo'] === undefined ? undefined : parseAlgorithm(flags['hash-algo']);
  const notation = parseNotation((what === 'convert' ? flags.to : flags.format) ?? 'sri');
  if (subjects.length === 0 && ['convert', 'path', 'file'].includes(what))
    throw usage(`flk hash ${what} needs ${what === 'convert' ? 'a hash' : 'a path'}`);
  switch (what) {
    case 'convert':
      return convert(context, subjects, algorithm, notation);
    case 'path':
    case 'file': {
      const mode = what === 'file' ? 'flat' : (flags.mode ?? 'nar');
      if (mode !== 'nar' && mode !== 'flat') throw usage(`there is no mode '${mode}': nar or flat`);
      const hashed: { path: string; hash: string }[] = [];
      for (const path of subjects) {
        const bytes = await hashOf(context, resolve(context.cwd, path), algorithm ?? 'sha256', mode);
        hashed.push({ path, hash: printDigest({ algorithm: algorithm ?? 'sha256', bytes }, notation) });
      }
      context.answer(hashed, () => hashed.map(({ hash }) => hash).join('\n'));
      return 0;
    }
    default:
      throw usage(`there is no flk hash ${what}`);
  }
}

function convert(
  context: Context,
  hashes: readonly string[],
  algorithm: Algorithm | undefined,
  notation: Notation,
): number {
  const from = context.flags.from === undefined ? undefined : parseNotation(context.flags.from);
  const converted = hashes.map((text) => {
    const digest: Digest & { notation: Notation } = parseDigest(text, algorithm);
    if (from !== undefined && digest.notation !== from)
      throw new FlkError('FLK_HASH_INVALID', `the hash is not in ${from}: ${text.slice(0, 200)}`, {
        facts: { found: digest.notation, wanted: from },
      });
    return { from: text, hash: printDigest(digest, notation) };
  });
  context.answer(converted, () => converted.map(({ hash }) => hash).join('\n'));
  return 0;
}

/** Of the NAR of what lies there, a symlink being itself; or, flat, of a file's bytes. */
async function hashOf(
  { signal }: Context,
  path: string,
  algorithm: Algorithm,
  mode: 'nar' | 'flat',
): Promise<Buffer> {
  const hash = createHash(algorithm);
  if (mode === 'nar') {
    const writer = new NarWriter((chunk) => void hash.update(chunk));
    await walkPath(path).walk(writer, signal);
    writer.end();
    return hash.digest();
  }
  try {
    if (!statSync(path).isFile())
      throw new FlkError('FLK_FILE_UNREADABLE', `${path} is not a file`, {
        hint: `flk hash path ${path} hashes folders`,
      });
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal }))
      hash.update(chunk as Buffer);
  } catch (cause) {
    if (cause instanceof FlkError) throw cause;
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
  return hash.digest();
}

const usage = (message: string): FlkError =>
  new FlkError('FLK_USAGE', message, {
    hint: 'flk hash path PATH, flk hash file PATH, flk hash convert HASH',
  });
