/**
 * Streams unpacked by the machine's own programs where they are faster than what comes with flk: liblzma of today unpacks twice as fast
 * as the one that lzma-native holds, zstd ten times as fast as JavaScript, and both beside flk's own work.
 */
import * as zlib from 'node:zlib';
import { FlkError } from '../base/errors.ts';
import { type Running, run, start, startInto } from '../base/process.ts';
import { openProgramOutput } from '../base/program-output.ts';
import { type Compression, decompress } from '../formats/archives/decompress.ts';
import { ArchiveTruncated, archiveError } from '../formats/archives/entry.ts';

/** Bytes. To start a program takes longer than to unpack less than this. */
const worthwhile = 128 * 1024;

interface Unpacker {
  readonly program: string;
  readonly args: readonly string[];
  /** What `--version` says of the program that is meant: others know other options. */
  readonly version: RegExp;
}

/** With the memory that flk's own decoders allow, and one thread: each further one would take as much again. */
const unpackers: Partial<Record<Compression, Unpacker>> = {
  xz: {
    program: 'xz',
    args: ['--decompress', '--stdout', '--format=xz', '--threads=1', '--memlimit-decompress=160MiB'],
    version: /\(XZ Utils\)/,
  },
  ...('createZstdDecompress' in zlib
    ? {}
    : {
        zstd: {
          program: 'zstd',
          args: ['--decompress', '--stdout', '--quiet', '--memory=128MiB'],
          version: /zstandard/i,
        },
      }),
};

/** What the person has set for these programs is not for us. */
const environment: NodeJS.ProcessEnv = { PATH: process.env.PATH, LC_ALL: 'C' };

const found = new Map<Unpacker, Promise<boolean>>();

/** Once in a run. */
function isThere(unpacker: Unpacker): Promise<boolean> {
  const { program, version } = unpacker;
  const known = found.get(unpacker);
  if (known) return known;
  const looked = run(program, ['--version'], { env: environment }).then(
    ({ status, stdout }) => status === 0 && version.test(stdout.toString('latin1')),
    () => false,
  );
  found.set(unpacker, looked);
  return looked;
}

/**
 * As `decompress`, which it does where the stream is short or the machine has no such program. A chunk, of the source's too, need only be
 * good until the next one is asked for.
 */
export async function* decompressFast(
  source: AsyncIterable<Buffer>,
  compression: Compression,
): AsyncGenerator<Buffer> {
  const unpacker = unpackers[compression];
  const chunks = source[Symbol.asyncIterator]();
  try {
    const head: Buffer[] = [];
    let size = 0;
    while (unpacker && size < worthwhile) {
      const next = await chunks.next();
      if (next.done) break;
      head.push(Buffer.from(next.value));
      size += next.value.length;
    }
    const rest = { [Symbol.asyncIterator]: () => chunks };
    if (unpacker && size >= worthwhile && (await isThere(unpacker)))
      yield* throughProgram(unpacker, following(head, rest));
    else yield* decompress(following(head, copiesOf(rest)), compression);
  } finally {
    await chunks.return?.();
  }
}

async function* following(head: readonly Buffer[], rest: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield* head;
  yield* rest;
}

/** For who holds on to chunks that are only good until the next one is asked for. */
export async function* copiesOf(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of source) yield Buffer.from(chunk);
}

async function* throughProgram(
  { program, args }: Unpacker,
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  const output = await openProgramOutput();
  const child = output
    ? { ...startInto(output.end, program, args, { env: environment }), stdout: output.chunks }
    : start(program, args, { env: environment });
  output?.end.destroy();
  const fed = feed(child, source);
  // Seen below, once the program's output has ended.
  fed.catch(child.kill);
  try {
    for await (const chunk of child.stdout) yield chunk as Buffer;
    await fed;
    const { status, stderr } = await child.finished;
    if (status !== 0) throw failure(program, stderr);
  } finally {
    child.kill();
    await child.finished.catch(() => {});
  }
}

/**
 * Sends it all, each chunk once the program has taken the one before. Rejects with what is wrong with the source; a program that ends
 * says why itself.
 */
async function feed({ stdin }: Pick<Running, 'stdin'>, source: AsyncIterable<Buffer>): Promise<void> {
  stdin.on('error', () => {});
  for await (const chunk of source) {
    await new Promise((taken) => stdin.write(chunk, taken));
    if (stdin.destroyed) return;
  }
  stdin.end();
}

function failure(program: string, stderr: string): FlkError {
  const message = `the ${program} stream is damaged: ${stderr.trim().split('\n')[0]?.slice(0, 200)}`;
  if (/unexpected end|premature end/i.test(stderr)) return new ArchiveTruncated(message);
  if (/memory/i.test(stderr)) return new FlkError('FLK_LIMIT', message);
  return archiveError(message);
}
