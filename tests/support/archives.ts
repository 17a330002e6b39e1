/** Archives written byte by byte, so that a test can also write what no honest program would. */
import { crc32, deflateRawSync } from 'node:zlib';

export interface TarEntry {
  readonly path: string | Buffer;
  /** The tar type flag; default a file. */
  readonly type?: string;
  readonly contents?: string | Buffer;
  readonly mode?: number;
  readonly target?: string | Buffer;
  /** Seconds since 1970; default 0. */
  readonly modified?: number;
  /** What the header claims, if not the truth. */
  readonly size?: number;
  readonly checksum?: string;
}

/** One entry of a ustar archive, padded. */
export function tarEntry(entry: TarEntry): Buffer {
  const contents = Buffer.from(entry.contents ?? '');
  const header = Buffer.alloc(512);
  Buffer.from(entry.path).copy(header, 0, 0, 100);
  header.write(`${(entry.mode ?? 0o644).toString(8).padStart(7, '0')}\0`, 100);
  header.write('0000000\0', 108);
  header.write('0000000\0', 116);
  header.write(`${(entry.size ?? contents.length).toString(8).padStart(11, '0')}\0`, 124);
  header.write(`${(entry.modified ?? 0).toString(8).padStart(11, '0')}\0`, 136);
  header.write('        ', 148);
  header.write(entry.type ?? '0', 156);
  Buffer.from(entry.target ?? '').copy(header, 157, 0, 100);
  header.write('ustar\x0000', 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(entry.checksum ?? `${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, contents, Buffer.alloc((512 - (contents.length % 512)) % 512)]);
}

export function tarOf(...entries: readonly TarEntry[]): Buffer {
  return Buffer.concat([...entries.map(tarEntry), Buffer.alloc(1024)]);
}

/** As `tarEntry`, with names of any length and times with fractions, by a pax header before it. */
export function paxEntry(entry: TarEntry, records: Readonly<Record<string, string>> = {}): Buffer {
  const header = paxBody({
    path: entry.path.toString(),
    ...(entry.target === undefined ? {} : { linkpath: entry.target.toString() }),
    ...records,
  });
  return Buffer.concat([tarEntry({ path: 'pax', type: 'x', contents: header }), tarEntry(entry)]);
}

/** The body of a pax header. */
export function paxBody(records: Readonly<Record<string, string>>): string {
  return Object.entries(records)
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`;
      let length = Buffer.byteLength(rest) + 1;
      while (`${length}`.length + Buffer.byteLength(rest) !== length) length++;
      return `${length}${rest}`;
    })
    .join('');
}

export interface ZipEntry {
  readonly path: string | Buffer;
  readonly contents?: string | Buffer;
  /** With the kind of file: 0o100755. Undefined: the writer knew nothing of Unix. */
  readonly mode?: number;
  readonly deflate?: boolean;
  readonly crc?: number;
}

export function zipOf(...entries: readonly ZipEntry[]): Buffer {
  const locals: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const entry of entries) {
    const path = Buffer.from(entry.path);
    const contents = Buffer.from(entry.contents ?? '');
    const data = entry.deflate ? deflateRawSync(contents) : contents;
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(entry.deflate ? 8 : 0, 4);
    common.writeUInt32LE(entry.crc ?? crc32(contents), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(contents.length, 18);
    common.writeUInt16LE(path.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, path, data]);
    const head = Buffer.alloc(6);
    head.write('PK\x01\x02');
    head.writeUInt16LE(entry.mode === undefined ? 20 : 0x0314, 4);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(((entry.mode ?? 0) << 16) >>> 0, 6);
    tail.writeUInt32LE(offset, 10);
    central.push(Buffer.concat([head, common, tail, path]));
    locals.push(local);
    offset += local.length;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06');
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, directory, end]);
}

/** An `ar` archive, as Debian packages are. */
export function arOf(members: Readonly<Record<string, Buffer>>): Buffer {
  const parts: Buffer[] = [Buffer.from('!<arch>\n')];
  for (const [name, contents] of Object.entries(members)) {
    const header = `${name.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}`;
    parts.push(Buffer.from(`${header}${`${contents.length}`.padEnd(10)}\`\n`), contents);
    if (contents.length % 2) parts.push(Buffer.from('\n'));
  }
  return Buffer.concat(parts);
}

/** A Debian package around the tar of its files. */
export function debOf(data: Buffer, suffix = ''): Buffer {
  return arOf({
    'debian-binary': Buffer.from('2.0\n'),
    'control.tar': tarOf({ path: './control', contents: 'Package: x\n' }),
    [`data.tar${suffix}`]: data,
  });
}
