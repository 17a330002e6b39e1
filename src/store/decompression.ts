/**
 * Streams unpacked by the machine's own programs where they are faster than what comes with flk: liblzma of today unpacks twice as fast
 * as the one that lzma-native holds, zstd ten times as fast as JavaScript, and both beside flk's own work.
 */
import * as zlib from 'node:zlib';
import { FlkError } from '../base/errors.ts';
import { type Running, start, startInto } from '../base/process.ts';
import { openProgramOutput } from '../base/program-output.ts';
import { type Compression, decompress } from '../formats/archives/decompress.ts';
import { ArchiveTruncated, archiveError } from '../formats/archives/entry.ts';

/** Bytes. To start a program takes longer than to unpack less than this. */
const worthwhile = 128 * 1024;

interface Unpacker {
  readonly program: string;
  readonly args: readonly string[];
  /** What `--version` says of the program that is meant, as a shell's pattern: others know other options. */
  readonly version: string;
}

/** With the memory that flk's own decoders allow, and one thread: each further one would take as much again. */
const unpackers: Partial<Record<Compression, Unpacker>> = {
  xz: {
    program: 'xz',
    args: ['--decompress', '--stdout', '--format=xz', '--threads=1', '--memlimit-decompress=160MiB'],
    version: '*XZ Utils*',
  },
  ...('createZstdDecompress' in zlib
    ? {}
    : {
        zstd: {
          program: 'zstd',
          args: ['--decompress', '--stdout', '--quiet', '--memory=128MiB'],
          version: '*Zstandard*',
        },
      }),
};

/** What the person has set for these programs is not for us. */
const environment: NodeJS.ProcessEnv = { PATH: process.env.PATH, LC_ALL: 'C' };

/**
 * Where "$2" is a program whose version is like $1: says so by a line on descriptor 3, and becomes it. Node starts one program for this
 * instead of two, for each of which it makes a copy of itself.
 */
const becoming = `
case $("$2" --version </dev/null 2>/dev/null 3>&-) in
  $1) shift; echo >&3; exec "$@" 3>&- ;;
esac
`;

/** Whether the machine has them, as far as that is known. */
const found = new Map<Unpacker, boolean>();

/** A program that has been started to unpack one archive. */
interface Started extends Omit<Running, 'stdout'> {
  readonly stdout: AsyncIterable<Buffer>;
}

/** Undefined where the machine has no such program, or none can be started: there is no memory for one, or no descriptor. */
async function begin(unpacker: Unpacker): Promise<Started | undefined> {
  const known = found.get(unpacker);
  if (known === false) return undefined;
  const { program, args, version } = unpacker;
  const [command, words] = known
    ? [program, args]
    : ['sh', ['-c', becoming, 'sh', version, program, ...args]];
  const options = { env: environment, tells: !known };
  const output = await openProgramOutput();
  let child: Started;
  try {
    child = output
      ? { ...startInto(output.end, command, words, options), stdout: output.chunks }
      : start(command, words, options);
  } catch {
    return undefined;
  } finally {
    output?.end.destroy();
  }
  if (known) return child;
  const isThere = await child.told;
  found.set(unpacker, isThere);
  if (isThere) return child;
  child.kill();
  await child.finished.catch(() => {});
  return undefined;
}

/**
 * As `decompress`, which it does where the stream is short or the machine has no such program. A chunk, of the source's too, need only be
 * good until the next one is asked for. `size`: of the packed stream, in bytes, where it is known; `most`: of what comes out.
 */
export async function* decompressFast(
  source: AsyncIterable<Buffer>,
  compression: Compression,
  size?: number,
  most?: number,
): AsyncGenerator<Buffer> {
  const unpacker = unpackers[compression];
  const chunks = source[Symbol.asyncIterator]();
  try {
    const head: Buffer[] = [];
    let ready = size ?? 0;
    while (unpacker && size === undefined && ready < worthwhile) {
      const next = await chunks.next();
      if (next.done) break;
      head.push(Buffer.from(next.value));
      ready += next.value.length;
    }
    const rest = { [Symbol.asyncIterator]: () => chunks };
    const program = unpacker && ready >= worthwhile ? await begin(unpacker) : undefined;
    if (unpacker && program) yield* throughProgram(unpacker, program, following(head, rest));
    else yield* decompress(following(head, copiesOf(rest)), compression, most);
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
  { program }: Unpacker,
  child: Started,
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  const fed = feed(child, source);
  // Seen below, once the program's output has ended.
  fed.catch(child.kill);
  try {
    yield* child.stdout;
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
