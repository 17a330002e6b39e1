/** Debian packages (deb(5), format 2.0): an `ar` archive whose member `data.tar*` holds the files. */
import { Readable } from 'node:stream';
import { ByteReader } from './bytes.ts';
import { compressionOf, decompress, magicLength } from './decompress.ts';
import { type ArchiveEntry, archiveError } from './entry.ts';
import { readTar } from './tar.ts';

export const arMagic = Buffer.from('!<arch>\n');

/** Throws FLK_ARCHIVE_INVALID. */
export async function* readDeb(source: AsyncIterable<Buffer>): AsyncGenerator<ArchiveEntry> {
  const reader = new ByteReader(source);
  try {
    const magic = await reader.exact(arMagic.length, 'the Debian package');
    if (magic === undefined || !magic.equals(arMagic)) throw archiveError('not an ar archive');
    for (let count = 0; ; count++) {
      const header = await reader.exact(60, 'the Debian package');
      if (header === undefined) throw archiveError('the Debian package has no data.tar');
      if (header.toString('latin1', 58, 60) !== '`\n') throw archiveError('an ar header is damaged');
      const name = header.toString('latin1', 0, 16).trimEnd().replace(/\/$/, '');
      const digits = header.toString('latin1', 48, 58).trimEnd();
      if (!/^[0-9]{1,10}$/.test(digits)) throw archiveError('an ar header is damaged');
      const size = Number(digits);
      if (count === 0 && name !== 'debian-binary') throw archiveError('an ar archive, but no Debian package');
      if (!/^data\.tar(\.[a-z0-9]+)?$/.test(name)) {
        await reader.skip(size + (size % 2), 'the Debian package');
        continue;
      }
      const start = await reader.exact(Math.min(size, magicLength), 'the Debian package');
      if (start === undefined) throw archiveError('the Debian package has an empty data.tar');
      const body = Readable.from(joined(start, reader.chunks(size - start.length, 'the Debian package')));
      yield* readTar(decompress(body, compressionOf(start)), { endOptional: true });
      return;
    }
  } finally {
    await reader.close();
  }
}

async function* joined(start: Buffer, rest: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield start;
  yield* rest;
}
