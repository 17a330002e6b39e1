/** Zip archives, read by their central directory. Names stay bytes; Unix modes count where the writer recorded them. */
import { crc32 } from 'node:zlib';
import type { Entry, ZipFile } from 'yauzl';
import { FlkError } from '../../base/errors.ts';
import { type ArchiveEntry, archiveError } from './entry.ts';

/** `PK`, then a local header, or the end of an empty archive. */
export function isZip(start: Buffer): boolean {
  const text = start.toString('latin1', 0, 4);
  return text === 'PK\x03\x04' || text === 'PK\x05\x06';
}

/** Symlink targets are paths. */
const maxTarget = 4096;

export interface ZipOptions {
  /** Takes every file for a plain one: no links, nothing executable. */
  readonly plain?: boolean;
}

/** Throws FLK_ARCHIVE_INVALID. */
export async function* readZip(file: string, options: ZipOptions = {}): AsyncGenerator<ArchiveEntry> {
  const { openPromise } = await import('yauzl');
  let zip: ZipFile | undefined;
  try {
    zip = await openPromise(file, { lazyEntries: true, autoClose: false, decodeStrings: false });
    for await (const entry of zip.eachEntry()) yield* zipEntry(zip, entry, options);
  } catch (error) {
    if (error instanceof FlkError) throw error;
    throw archiveError(`the zip archive is damaged: ${(error as Error).message}`, error);
  } finally {
    zip?.close();
  }
}

async function* zipEntry(zip: ZipFile, entry: Entry, options: ZipOptions): AsyncGenerator<ArchiveEntry> {
  const path = withSlashes(entry.fileNameRaw);
  if (!entry.canDecodeFileData()) {
    throw archiveError(`${path} is encrypted, or packed in a way that flk does not read`);
  }
  const mode = entry.versionMadeBy >>> 8 === 3 && !options.plain ? entry.externalFileAttributes >>> 16 : 0;
  const kind = mode & 0o170000;
  // A Unix time where the writer recorded one; else its wall clock, which is read as this machine’s, for want of a zone.
  const modified = Math.floor(entry.getLastModDate().getTime() / 1000);
  if (path.at(-1) === 0x2f || kind === 0o040000) {
    yield { kind: 'directory', path, modified };
  } else if (kind === 0o120000) {
    if (entry.uncompressedSize > maxTarget) throw archiveError(`${path} is an absurdly long link`);
    const target: Buffer[] = [];
    for await (const chunk of content(zip, entry)) target.push(chunk);
    yield { kind: 'symlink', path, modified, target: Buffer.concat(target) };
  } else if (kind === 0 || kind === 0o100000) {
    yield { kind: 'file', path, modified, executable: (mode & 0o100) !== 0, content: content(zip, entry) };
  } else {
    throw archiveError(`${path} is a device or a pipe`);
  }
}

/** Some programs for Windows write `a\\b`: a name without any slash is taken for one of theirs, as libarchive does. */
function withSlashes(name: Buffer): Buffer {
  return name.includes(0x2f) ? name : Buffer.from(name.map((byte) => (byte === 0x5c ? 0x2f : byte)));
}

async function* content(zip: ZipFile, entry: Entry): AsyncGenerator<Buffer> {
  let sum = 0;
  // Whoever reads this is not within `readZip`: what goes wrong here has to be told here.
  try {
    for await (const chunk of await zip.openReadStreamPromise(entry)) {
      sum = crc32(chunk as Buffer, sum);
      yield chunk as Buffer;
    }
  } catch (error) {
    throw archiveError(`${entry.fileNameRaw} is damaged: ${(error as Error).message}`, error);
  }
  if (sum !== entry.crc32) throw archiveError(`${entry.fileNameRaw} is damaged: its checksum is wrong`);
}
