/**
 * The stream that `nix-store --export` writes and `--import` reads: for each path a one, its NAR and what the store says of it; a zero
 * at the end. Numbers have 8 bytes, little-endian; strings are those of NAR. Format: checked against Nix 2.34.
 */
import { FlkError } from '../base/errors.ts';
import { padded, type TreeSink } from './nar.ts';
import { NarParser } from './nar-parser.ts';
import { parseStorePath, type StorePath } from './store-path.ts';

/** What the stream says of a path. Nothing in it proves any of this. */
export interface ExportedPath {
  readonly path: StorePath;
  readonly references: readonly StorePath[];
  readonly deriver?: StorePath;
}

/** `NIXE`. */
const magic = 0x4558494e;
/** No store path is longer, and no old signature of any use. */
const maxString = 1024;
/** The largest closures have tens of thousands of paths, and no path refers to them all. */
const maxReferences = 100_000;

/** Stands before each path's NAR. */
export const exportEntry: Buffer = number(1);
/** Stands at the end of the stream. */
export const exportEnd: Buffer = number(0);

/** Follows a path's NAR. References must be sorted. */
export function exportRecord({ path, references, deriver }: ExportedPath): Buffer {
  return Buffer.concat([
    number(magic),
    string(path),
    number(references.length),
    ...references.map(string),
    string(deriver ?? ''),
    number(0),
  ]);
}

/** Takes the paths of a stream, one after the other. */
export interface ExportTaker {
  /** A path begins: where its tree is to go. */
  begin(): Promise<TreeSink>;
  /** Its tree was whole, and this is what the stream says of it. */
  end(exported: ExportedPath): Promise<void>;
}

/**
 * Reads a stream to its end, chunks of any size, never more than one in memory. Throws FLK_EXPORT_INVALID where it is no such stream,
 * breaks off or goes on after its end, FLK_NAR_INVALID for a NAR that Nix would not write.
 */
export async function readExport(chunks: AsyncIterable<Buffer>, taker: ExportTaker): Promise<void> {
  const stream = new ExportStream(chunks);
  for (;;) {
    const mark = await stream.number('the mark before a path');
    if (mark === 0) break;
    if (mark !== 1) throw invalid('it has no mark of a path where one belongs');
    await stream.nar(await taker.begin());
    await taker.end(await readRecord(stream));
  }
  if (!(await stream.isOver())) throw invalid('it goes on after its end');
}

async function readRecord(stream: ExportStream): Promise<ExportedPath> {
  if ((await stream.number('a record')) !== magic) throw invalid('no record follows a path’s archive');
  const path = parseStorePath(await stream.string('a path'));
  const count = await stream.number('a count of references');
  if (count > maxReferences)
    throw new FlkError(
      'FLK_LIMIT',
      `${path} is said to refer to ${count} paths; at most ${maxReferences} are read`,
    );
  const references: StorePath[] = [];
  for (let i = 0; i < count; i++) references.push(parseStorePath(await stream.string('a reference')));
  const text = await stream.string('a deriver');
  const deriver = text === '' ? {} : { deriver: parseStorePath(text) };
  const signed = await stream.number('a mark of a signature');
  if (signed > 1) throw invalid('its mark of a signature is neither 0 nor 1');
  // Of a kind that Nix itself has long ceased to look at.
  if (signed === 1) await stream.string('a signature');
  return { path, references, ...deriver };
}

class ExportStream {
  readonly #chunks: AsyncIterator<Buffer>;
  #chunk: Buffer = Buffer.alloc(0);

  constructor(chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async isOver(): Promise<boolean> {
    while (this.#chunk.length === 0) if (!(await this.#next())) return true;
    return false;
  }

  async number(what: string): Promise<number> {
    const bytes = await this.#bytes(8, what);
    const high = bytes.readUInt32LE(4);
    if (high >= 2 ** 21) throw invalid(`${what} is larger than any number that belongs there`);
    return high * 2 ** 32 + bytes.readUInt32LE();
  }

  async string(what: string): Promise<string> {
    const length = await this.number(what);
    if (length > maxString) throw invalid(`${what} has ${length} bytes`);
    const bytes = await this.#bytes(padded(length), what);
    if (bytes.subarray(length).some((byte) => byte !== 0))
      throw invalid(`${what} has padding that is not zero`);
    return bytes.toString('latin1', 0, length);
  }

  async nar(sink: TreeSink): Promise<void> {
    const parser = new NarParser(sink);
    while (!parser.whole) {
      if (await this.isOver()) parser.end();
      this.#chunk = this.#chunk.subarray(parser.take(this.#chunk));
    }
  }

  async #bytes(size: number, what: string): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let missing = size; missing > 0; ) {
      if (await this.isOver()) throw invalid(`it breaks off in ${what}`);
      const part = this.#chunk.subarray(0, missing);
      this.#chunk = this.#chunk.subarray(part.length);
      missing -= part.length;
      // The next chunk may come in the same buffer.
      parts.push(Buffer.from(part));
    }
    return Buffer.concat(parts);
  }

  async #next(): Promise<boolean> {
    const { done, value } = await this.#chunks.next();
    if (done) return false;
    this.#chunk = value;
    return true;
  }
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function string(text: string): Buffer {
  const bytes = Buffer.alloc(8 + padded(text.length));
  bytes.writeUInt32LE(text.length);
  bytes.write(text, 8, 'latin1');
  return bytes;
}

function invalid(what: string): FlkError {
  return new FlkError('FLK_EXPORT_INVALID', `not a stream of store paths: ${what}`);
}
