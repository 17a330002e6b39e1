import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { ArchiveSource } from '../../../src/sources/archive-source.ts';
import { HttpClient } from '../../../src/sources/http.ts';
import { paxEntry, tarEntry, tarOf, zipOf } from '../../support/archives.ts';
import { bundleChild, startChild } from '../../support/child.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

interface Ended {
  readonly code: string;
  /** Bytes of memory, at most. */
  readonly peak: number;
}

const child = await bundleChild(new URL('./unpacking.ts', import.meta.url));

async function unpacked(archive: Buffer): Promise<Ended> {
  const folder = temporaryFolder();
  const path = join(folder, 'archive');
  writeFileSync(path, archive);
  const started = startChild(child, [pathToFileURL(path).href, join(folder, 'cache')]);
  const [ended] = (await once(started.process, 'message')) as [Ended];
  await started.over;
  return ended;
}

// A tar with one file of 3 GB of zeros, by bzip2 -9, which makes it 2284 bytes; those by gzip once more.
const bzip2Bomb =
  'H4sICOoPA2sCA2JvbWIudGFyLmJ6MgBzisqwNHSMVAuOvCjN68VaZ3u74USDA0NtAwPDAwY5BgYOBYZSjkU+Dbca1FYtSEk5uOy+DmuA0FevEJatj/+V35d8qtCwapGD2ydjppBH0rlnV32tfizKVvtY4lioV8P0NA1tlVPZigdtoh9ofzzBIMHAwMjCwCbAueIEULtigNCzUflR+VH5UflR+VH5UflRebLklf58esMg3pkJlOeAqJBsNPU18QoRu6KqxX30zkQ/ERWRbra/BwCGNbnN7AgAAA==';

// A tar with one file of 600 MB of zeros, by xz -0, which makes it 92 kB; those by gzip twice more.
const xzBomb =
  'H4sIAAAAAAACA5Pv5mAAASbmtxeiM66yMrB9+H/lbNu5zVwu4mFBucXCNy8W8SedVmQ7qWKrMHv71wmPnhqYbxGSLDLp5UpZZ1XCkRl0bqPh7PBJTrazlpjIdIlfCTrtI1gyy+hWovTyDyuPy31Zef/7l4PfPxzMX1CS+3SPAscl/9g5ZhoSsw3/zL83YcY207nnznXo83glTb4ns/XLYt7yqKTTQTsXrz96vMTF/J6NQG/b4rdTf649Ksq6UNKV/Raf2LMYfe24PW9ffHrT6nz8/yXzD49PzRL8OEf2pPX95a/eX1W5v3u30rYXU/9d8rj27Pzh8v3/Xp7Y9e/ZwdK7us9nqy0T2mmf8rcy8f6ZP3vT499x9sva/73ebZ//vjLtSe99/vDyqTkeNUXFtzvXLXTeNXudyfTyuohtChkWpquV93/YvOv5MrM9P6LfTtfVD7mv9+ZOidW8HxWxgY//NpX/k5p7xitEhU2vZM5tIatvQUu2Ly8ssthcGf79lPJW0fX89nd/pNw+t/1YzfWtuxOuNK3iz9OdGVz54trut6HX/8+Y/9Pl1Y+lc//WFneFz68p+/f56crTE1fufXzv3Dyh1zpdcXftn97b2Cy86rbT+nMxQfuevhR8ece/+vW1kK981jP7xM9xbP12Pf7l70Uph+6kHF7G/n69v16dzvX1vn7rMryep4mwbw93jWLjqw2WP5f9q6x4x7P/bB/j16e3n/rGwMzGI2GQcKCBcZQx0Axbqw1fKysdX8Qn5OfM/xf6wUBy5bkzN45F/F6gsKJXZduzOTOjrX48DDB9n2+x2yBHJY2RAQCLVnqUvQMAAA==';

const megabytes = (count: number): number => count * 2 ** 20;

/** A tar with one file of zeros. */
const zeros = (size: number): Buffer => {
  const archive = Buffer.alloc(512 + size + 1024);
  tarEntry({ path: 'zeros', size }).copy(archive);
  return archive;
};

describe('a bomb is refused before it fills the memory:', () => {
  test.each([
    ['of bzip2', async () => gunzipSync(Buffer.from(bzip2Bomb, 'base64'))],
    ['of xz', async () => gunzipSync(gunzipSync(Buffer.from(xzBomb, 'base64')))],
    ['of gzip', async () => gzipSync(zeros(megabytes(400)), { level: 9 })],
  ])('%s', { timeout: 120_000 }, async (_, bomb) => {
    const { code, peak } = await unpacked(await bomb());
    expect(code).toBe('FLK_LIMIT');
    expect(peak).toBeLessThan(megabytes(300));
  });
});

const folder = temporaryFolder();
const cacheFolder = join(folder, 'cache');
const source = new ArchiveSource({ cacheFolder, client: new HttpClient(), reporter: { emit: () => {} } });

let count = 0;
async function refused(archive: Buffer, name = 'a.tar'): Promise<string> {
  const path = join(folder, `${++count}-${name}`);
  writeFileSync(path, archive);
  const error = await errorOf(
    source.fetch({ url: pathToFileURL(path), shown: 'the archive', kind: 'tarball' }),
  );
  return error.code;
}

/** A number in binary, as GNU writes sizes that octal digits do not hold. */
function withSize(entry: Buffer, size: Buffer): Buffer {
  const header = Buffer.from(entry);
  size.copy(header, 124);
  header.write('        ', 148);
  const sum = header.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return header;
}

const file = tarEntry({ path: 'top/a', contents: 'a' });
const end = Buffer.alloc(1024);
const pax = (records: Record<string, string>): Buffer =>
  Buffer.concat([paxEntry({ path: 'top/a', contents: 'a' }, records), end]);

describe('a tar archive is refused', () => {
  test.each<[string, Buffer]>([
    ['with a size below zero', Buffer.concat([withSize(file, Buffer.alloc(12, 0xff)), end])],
    [
      'with a size of 2^53',
      Buffer.concat([withSize(file, Buffer.from('800000000020000000000000', 'hex')), end]),
    ],
    ['with a pax size below zero', pax({ size: '-1' })],
    ['with a pax size of 2^53', pax({ size: '9007199254740992' })],
    ['with a pax size that is no number', pax({ size: 'NaN' })],
    ['with a pax size of ten gigabytes that are not there', pax({ size: '10000000000' })],
    ['with a zero byte in a pax name', pax({ path: 'top/a\0/../../b' })],
    ['with a zero byte in a link', tarOf({ path: 'top/l', type: '2', target: '' })],
    ['with an absolute hard link', tarOf({ path: 'top/l', type: '1', target: '/etc/passwd' })],
    ['with a hard link outside', tarOf({ path: 'top/l', type: '1', target: 'top/../../x' })],
    ['with a hard link to itself', tarOf({ path: 'top/l', type: '1', target: 'top/l' })],
    [
      'with a file below a link',
      tarOf({ path: 'top/l', type: '2', target: '/tmp' }, { path: 'top/l/x', contents: 'x' }),
    ],
    [
      'with a hard link by way of a link',
      tarOf(
        { path: 'top/l', type: '2', target: '/etc' },
        { path: 'top/h', type: '1', target: 'top/l/passwd' },
      ),
    ],
    ['that leads upwards', tarOf({ path: 'top/../../x', contents: 'x' })],
    ['with an absolute name', tarOf({ path: '/tmp/x', contents: 'x' })],
    ['with a device', tarOf({ path: 'top/sda', type: '4' })],
    ['with a pipe', tarOf({ path: 'top/pipe', type: '6' })],
    ['with a sparse file of GNU’s', tarOf({ path: 'top/s', type: 'S', size: 0 })],
    ['with a sparse file of pax', pax({ 'GNU.sparse.realsize': '10000000000' })],
    ['with .git on a disk that does not tell case', tarOf({ path: 'top/.GiT/config', contents: 'x' })],
    ['with a name of 256 bytes', pax({ path: `top/${'n'.repeat(256)}` })],
  ])('%s', async (_, archive) => {
    expect(await refused(archive)).toBe('FLK_ARCHIVE_INVALID');
  });
});

/** The two-byte or four-byte field at an offset from a signature, written anew. */
function patched(zip: Buffer, signature: string, offset: number, value: number, bytes = 4): Buffer {
  const copy = Buffer.from(zip);
  copy.writeUIntLE(value, copy.lastIndexOf(Buffer.from(signature, 'latin1')) + offset, bytes);
  return copy;
}

const central = 'PK\x01\x02';
const last = 'PK\x05\x06';
const zip = zipOf(
  { path: 'a', contents: 'some text' },
  { path: 'b', contents: 'x'.repeat(5000), deflate: true },
);

describe('a zip archive is refused', () => {
  test.each<[string, Buffer]>([
    ['whose directory promises fewer bytes than there are', patched(zip, central, 24, 100)],
    ['whose directory promises more bytes than there are', patched(zip, central, 24, 2 ** 31)],
    ['whose entry begins outside', patched(zip, central, 42, 2 ** 31)],
    ['whose directory begins outside', patched(zip, last, 16, 2 ** 31)],
    ['that promises the sizes of a zip64 and has none', patched(zip, last, 16, 2 ** 32 - 1)],
    ['that promises more entries than there are', patched(zip, last, 10, 2000, 2)],
    ['that is encrypted', patched(zip, central, 8, 1, 2)],
    ['that leads upwards', zipOf({ path: '../x', contents: 'x' })],
    ['that leads upwards as on Windows', zipOf({ path: '..\\x', contents: 'x' })],
    ['with a drive’s name of git', zipOf({ path: 'a/GIT~1/x', contents: 'x' })],
    ['with an absolute name', zipOf({ path: '/tmp/x', contents: 'x' })],
    ['with a zero byte in a name', zipOf({ path: 'a\0b', contents: 'x' })],
    ['with a device', zipOf({ path: 'sda', mode: 0o060644 })],
  ])('%s', async (_, archive) => {
    expect(await refused(archive, 'a.zip')).toBe('FLK_ARCHIVE_INVALID');
  });
});

test('of all these nothing stays behind', () => {
  expect(readdirSync(join(cacheFolder, 'archives'), { recursive: true })).toEqual(['trees']);
  expect(readdirSync(folder).filter((name) => !/^\d+-a\.(tar|zip)$/.test(name))).toEqual(['cache']);
});
