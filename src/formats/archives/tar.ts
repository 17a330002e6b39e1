/**
 * Tar archives: v7, ustar, pax (POSIX.1-2001) and GNU long names. Names stay bytes. Sparse files are refused, since a few bytes of
 * header can claim any size; so are devices.
 */
import { ByteReader } from './bytes.ts';
import { type ArchiveEntry, ArchiveTruncated, archiveError } from './entry.ts';

const block = 512;
/** Of a pax header or a GNU long name; real ones are below 10 kB. */
const maxHeader = 1024 * 1024;

export interface TarOptions {
  /** Takes an archive that ends after an entry without the blocks of zeros, as some old writers leave it: a hash must vouch for it. */
  readonly endOptional?: boolean;
}

/** Throws FLK_ARCHIVE_INVALID; as ArchiveTruncated where the end is missing. */
export async function* readTar(
  source: AsyncIterable<Buffer>,
  options: TarOptions = {},
): AsyncGenerator<ArchiveEntry> {
  const reader = new ByteReader(source);
  try {
    let pax: Map<string, Buffer> = new Map();
    let longName: Buffer | undefined;
    let longLink: Buffer | undefined;
    let empty = true;
    for (;;) {
      const header = await reader.exact(block, 'the tar archive');
      if (header === undefined) {
        if (empty) throw archiveError('the tar archive is empty');
        if (options.endOptional) return;
        throw new ArchiveTruncated('the tar archive has no end');
      }
      empty = false;
      // Two blocks of zeros end an archive; what follows is padding of any length, and is still to be read from the decompressor.
      if (header.every((byte) => byte === 0)) {
        for await (const _ of reader.rest());
        return;
      }
      checkSum(header);
      const type = String.fromCharCode(header[156]!);
      const size = pax.has('size') ? decimal(pax.get('size')!) : number(header.subarray(124, 136), 'size');
      const padding = (block - (size % block)) % block;

      if (type === 'x' || type === 'g' || type === 'L' || type === 'K') {
        if (size > maxHeader) throw archiveError(`the tar archive has a header of ${size} bytes`);
        const body = (await reader.exact(size, 'the tar archive')) ?? Buffer.alloc(0);
        await reader.skip(padding, 'the tar archive');
        if (type === 'x') pax = paxRecords(body);
        else if (type === 'L') longName = untilNul(body);
        else if (type === 'K') longLink = untilNul(body);
        // A global header (git's: a comment with the commit) changes nothing that matters here.
        continue;
      }

      const path = pax.get('path') ?? longName ?? headerPath(header);
      const target = pax.get('linkpath') ?? longLink ?? untilNul(header.subarray(157, 257));
      const modified = pax.has('mtime') ? paxSeconds(pax.get('mtime')!) : seconds(header.subarray(136, 148));
      const sparse = [...pax.keys()].some((key) => key.startsWith('GNU.sparse'));
      pax = new Map();
      longName = undefined;
      longLink = undefined;
      if (sparse || type === 'S') throw archiveError(`${path} is a sparse file`);

      switch (type) {
        case '0':
        case '\0':
        case '7': {
          // Before POSIX a folder was a file whose name ends in a slash.
          if (type !== '7' && path.at(-1) === 0x2f) {
            if (size > 0) throw archiveError(`${path} is a folder with ${size} bytes`);
            yield { kind: 'directory', path, modified };
            break;
          }
          const content = reader.chunks(size, `${path}`);
          yield {
            kind: 'file',
            path,
            modified,
            executable: (number(header.subarray(100, 108), 'mode') & 0o100) !== 0,
            content,
          };
          for await (const _ of content);
          await reader.skip(padding, 'the tar archive');
          break;
        }
        case '1':
          yield { kind: 'hardlink', path, modified, target };
          break;
        case '2':
          yield { kind: 'symlink', path, modified, target };
          break;
        case '5':
          yield { kind: 'directory', path, modified };
          break;
        case '3':
        case '4':
        case '6':
          throw archiveError(`${path} is a device or a pipe`);
        default:
          throw archiveError(`${path} is of an unknown kind (tar type ${JSON.stringify(type)})`);
      }
    }
  } finally {
    await reader.close();
  }
}

function checkSum(header: Buffer): void {
  let sum = 0;
  for (let i = 0; i < block; i++) sum += i >= 148 && i < 156 ? 0x20 : header[i]!;
  if (number(header.subarray(148, 156), 'checksum') !== sum) {
    throw archiveError('not a tar archive, or a damaged one: a header’s checksum is wrong');
  }
}

/** Octal text, or big-endian binary where the top bit of the first byte is set (GNU, for 8 GiB and more). */
function number(field: Buffer, what: string): number {
  if (field[0]! & 0x80) {
    let value = BigInt(field[0]! & 0x7f);
    for (const byte of field.subarray(1)) value = (value << 8n) | BigInt(byte);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw archiveError(`a tar header has an absurd ${what}`);
    return Number(value);
  }
  const text = field.toString('latin1').replace(/\0.*$/s, '').trim();
  if (!/^[0-7]*$/.test(text)) throw archiveError(`a tar header has a ${what} that is not a number`);
  return text === '' ? 0 : Number.parseInt(text, 8);
}

/** A header's time; before 1970 it can only be written in binary. */
function seconds(field: Buffer): number {
  if (!(field[0]! & 0x80)) return number(field, 'time');
  const value = BigInt.asIntN(64, field.subarray(-8).readBigInt64BE());
  if (field[0] !== 0xff && field[0] !== 0x80) throw archiveError('a tar header has an absurd time');
  return Number(value);
}

/** `1700000000.123456789`; fractions do not count. */
function paxSeconds(field: Buffer): number {
  const value = Math.floor(Number(field.toString('latin1')));
  if (!Number.isSafeInteger(value)) throw archiveError('a pax header has an absurd time');
  return value;
}

function decimal(field: Buffer): number {
  const value = Number(field.toString('latin1'));
  if (!Number.isSafeInteger(value) || value < 0) throw archiveError('a pax header has an absurd size');
  return value;
}

function headerPath(header: Buffer): Buffer {
  const name = untilNul(header.subarray(0, 100));
  // Only POSIX's own ustar has a prefix; old GNU archives keep times there.
  if (header.subarray(257, 263).toString('latin1') !== 'ustar\0') return name;
  const prefix = untilNul(header.subarray(345, 500));
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from('/'), name]);
}

function untilNul(field: Buffer): Buffer {
  const end = field.indexOf(0);
  return Buffer.from(end === -1 ? field : field.subarray(0, end));
}

/** `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record. */
function paxRecords(body: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  for (let at = 0; at < body.length; ) {
    const space = body.indexOf(0x20, at);
    const digits = space === -1 ? '' : body.toString('latin1', at, space);
    const length = /^[0-9]{1,7}$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    const equals = body.indexOf(0x3d, space);
    if (length === 0 || end > body.length || equals === -1 || equals >= end || body[end - 1] !== 0x0a) {
      throw archiveError('a pax header is damaged');
    }
    records.set(body.toString('latin1', space + 1, equals), body.subarray(equals + 1, end - 1));
    at = end;
  }
  return records;
}
