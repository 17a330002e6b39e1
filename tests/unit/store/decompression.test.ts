import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as zlib from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { xz } from '../../support/compressed.ts';
import { temporaryFolder } from '../../support/temp.ts';

/** As zstd frames hold what does not get smaller (RFC 8878, section 3.1.1): raw blocks. */
async function zstd(data: Buffer): Promise<Buffer> {
  const parts: Buffer[] = [Buffer.from('28b52ffd0058', 'hex')];
  const most = 128 * 1024;
  for (let at = 0; at < data.length; at += most) {
    const block = data.subarray(at, at + most);
    const header = Buffer.alloc(3);
    header.writeUIntLE(block.length * 8 + (at + most >= data.length ? 1 : 0), 0, 3);
    parts.push(header, block);
  }
  return Buffer.concat(parts);
}

async function* pieces(data: Buffer, size = 50_000): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

async function collect(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** Modules are loaded anew in each test, and their errors with them. */
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'nothing was thrown',
    (error: object) => Reflect.get(error, 'code'),
  );

const children = (): number =>
  readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').filter(Boolean).length;

const path = process.env.PATH;
const hasPrograms = ['xz', 'zstd'].every((program) => spawnSync(program, ['--version']).status === 0);
const why = hasPrograms ? '' : ' (skipped: xz or zstd is not on this machine)';

const large = randomBytes(600_000);

describe.each([
  ['xz', xz],
  ['zstd', zstd],
] as const)('%s', (compression, pack) => {
  beforeEach(() => vi.resetModules());
  afterEach(() => {
    process.env.PATH = path;
  });

  const unpack = async (source: AsyncIterable<Buffer>, size?: number): Promise<Buffer> => {
    const { decompressFast } = await import('../../../src/store/decompression.ts');
    return await collect(decompressFast(source, compression, size));
  };

  const isOwn = compression === 'zstd' && 'createZstdDecompress' in zlib;
  it.skipIf(isOwn)('is not unpacked by another program of that name', async () => {
    const folder = temporaryFolder();
    const program = join(folder, compression);
    const asked = join(folder, 'asked');
    writeFileSync(program, `#!/bin/sh\necho "$@" >> ${asked}\necho another ${compression}\n`, {
      mode: 0o755,
    });
    process.env.PATH = `${folder}:${path}`;
    for (let times = 0; times < 2; times++)
      expect((await unpack(pieces(await pack(large)))).equals(large)).toBe(true);
    expect(readFileSync(asked, 'utf8')).toBe('--version\n');
  });

  describe.each([
    [`by a program${why}`, path],
    ['without any', '/nonexistent'],
  ])('%s', (_, programs) => {
    beforeEach(() => {
      process.env.PATH = programs;
    });
    const test = it.skipIf(programs === path && !hasPrograms);

    test('is unpacked, short and long', async () => {
      for (const data of [Buffer.from('short'), large])
        for (const known of [false, true]) {
          const packed = await pack(data);
          const unpacked = await unpack(pieces(packed), known ? packed.length : undefined);
          expect(unpacked.equals(data)).toBe(true);
        }
    });

    test('is refused where it is damaged, cut or lengthened', async () => {
      const packed = await pack(large);
      const damaged = Buffer.from(packed);
      // A block's header in either format, or what is checked.
      damaged.fill(0xff, 6, 20);
      for (const bytes of [
        damaged,
        packed.subarray(0, -300_000),
        Buffer.concat([packed, Buffer.from('more')]),
      ])
        expect(await codeOf(unpack(pieces(bytes)))).toBe('FLK_ARCHIVE_INVALID');
    });

    test('fails as its source does', async () => {
      const packed = await pack(large);
      async function* broken(): AsyncGenerator<Buffer> {
        yield* pieces(packed.subarray(0, 300_000));
        throw new Error('the cable is cut');
      }
      await expect(unpack(broken())).rejects.toThrow('the cable is cut');
      expect(children()).toBe(0);
    });

    test('ends with whoever reads it, and so does its source', async () => {
      const packed = await pack(large);
      let ended = false;
      async function* endless(): AsyncGenerator<Buffer> {
        try {
          for (;;) yield* pieces(packed);
        } finally {
          ended = true;
        }
      }
      const { decompressFast } = await import('../../../src/store/decompression.ts');
      for await (const chunk of decompressFast(endless(), compression)) if (chunk.length > 0) break;
      await expect.poll(() => [ended, children()]).toEqual([true, 0]);
    });
  });
});

it.skipIf(!hasPrograms)(`unpacks what zstd packs, knowing what will come out${why}`, async () => {
  const { decompressFast } = await import('../../../src/store/decompression.ts');
  for (const size of [0, 1, 1000, 1024, 5000, 131_072, 131_073, 400_000]) {
    // Repeats what lies far behind as well as what lies near.
    const data = Buffer.concat([randomBytes(size / 3), Buffer.alloc(size / 3, 'near '), Buffer.alloc(size)]);
    data.copy(data, data.length - Math.floor(size / 3), 0);
    const { stdout } = spawnSync('zstd', ['-q', '-c', '-5'], { input: data });
    // As short streams are: by what comes with flk.
    const unpacked = await collect(decompressFast(pieces(stdout), 'zstd', 1, data.length));
    expect(unpacked.equals(data), `${size}`).toBe(true);
  }
});

it.skipIf(!hasPrograms)(`wants no more memory of a program than of what comes with flk${why}`, async () => {
  const { decompressFast } = await import('../../../src/store/decompression.ts');
  const header = Buffer.from('28b52ffd00a8', 'hex');
  const window = Buffer.concat([header, (await zstd(large)).subarray(6)]);
  expect(await codeOf(collect(decompressFast(pieces(window), 'zstd')))).toBe('FLK_LIMIT');
});
