import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { FlkError } from '../../../src/base/errors.ts';
import { type UnpackLimits, unpack } from '../../../src/build/unpack.ts';
import { walkPath } from '../../../src/store/tree-files.ts';
import { arOf, debOf, paxBody, type TarEntry, tarEntry, tarOf, zipOf } from '../../support/archives.ts';
import { compressed, pkg, xz } from '../../support/compressed.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { entriesOf } from '../../support/trees.ts';

const root = temporaryFolder();

async function unpacked(archive: Buffer, stripRoot = false, limits?: UnpackLimits): Promise<string> {
  const folder = mkdtempSync(join(root, 'case-'));
  writeFileSync(join(folder, 'archive'), archive);
  mkdirSync(join(folder, 'tree'));
  return unpack(join(folder, 'archive'), join(folder, 'tree'), {
    stripRoot,
    ...(limits === undefined ? {} : { limits }),
  });
}

const contentsOf = (folder: string): Promise<string[]> => entriesOf(walkPath(folder));

function failure(archive: Buffer, limits?: UnpackLimits): Promise<FlkError> {
  return errorOf(unpacked(archive, false, limits));
}

describe('compressions', () => {
  test.each(Object.entries(compressed))('%s', async (_name, make) => {
    const archive = await make();
    expect(await contentsOf(await unpacked(archive))).toEqual(['pkg/', 'pkg/hello', 'pkg/run*']);
    const folder = await unpacked(archive, true);
    expect(readFileSync(join(folder, 'hello'), 'utf8')).toBe('Hello.\n');
    if (archive[0] !== 0x70) {
      const cut = await failure(archive.subarray(0, archive.length - 12));
      expect(cut.code).toBe('FLK_ARCHIVE_INVALID');
      const spoilt = Buffer.from(archive);
      spoilt.fill(0xaa, spoilt.length >> 1);
      expect((await failure(spoilt)).code).toBe('FLK_ARCHIVE_INVALID');
    }
  });

  test('two gzip members in one file', async () => {
    const tar = tarOf(...pkg);
    const archive = Buffer.concat([gzipSync(tar.subarray(0, 700)), gzipSync(tar.subarray(700))]);
    expect(await contentsOf(await unpacked(archive))).toEqual(['pkg/', 'pkg/hello', 'pkg/run*']);
  });
});

describe('tar', () => {
  test('long names: pax, GNU, ustar prefix; the records hold for one entry only', async () => {
    const long = `${'d'.repeat(120)}/${'f'.repeat(130)}`;
    const prefixed = tarEntry({ path: 'end', contents: '3' });
    prefixed.write('some/prefix', 345);
    prefixed.fill(' ', 148, 156);
    const sum = prefixed.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    prefixed.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    const archive = Buffer.concat([
      tarEntry({ path: 'pax', type: 'x', contents: paxBody({ path: long, mtime: '1.5' }) }),
      tarEntry({ path: 'short', contents: '1' }),
      tarEntry({ path: '././@LongLink', type: 'L', contents: `${long}2\0` }),
      tarEntry({ path: 'short', contents: '2' }),
      tarEntry({ path: '././@LongLink', type: 'K', contents: `${'t'.repeat(300)}\0` }),
      tarEntry({ path: 'link', type: '2', target: 'short' }),
      prefixed,
      tarEntry({ path: 'pax_global_header', type: 'g', contents: paxBody({ comment: 'a commit' }) }),
      tarEntry({ path: 'plain', contents: '4' }),
      Buffer.alloc(1024),
    ]);
    const [d] = long.split('/');
    expect(await contentsOf(await unpacked(archive))).toEqual([
      `${d}/`,
      long,
      `${long}2`,
      `link@ -> ${'t'.repeat(300)}`,
      'plain',
      'some/',
      'some/prefix/',
      'some/prefix/end',
    ]);
  });

  test('pax size, names that are not UTF-8, v7 folders, no end marker', async () => {
    const archive = Buffer.concat([
      tarEntry({ path: 'pax', type: 'x', contents: paxBody({ size: '3' }) }),
      tarEntry({ path: Buffer.from('caf\xe9', 'latin1'), contents: 'abc', size: 0 }),
      tarEntry({ path: 'old/', type: '\0' }),
    ]);
    expect(await contentsOf(await unpacked(archive))).toEqual(['caf\xe9', 'old/']);
  });

  test('hard links become copies, of files and of links', async () => {
    const folder = await unpacked(
      tarOf(
        { path: 'a/file', contents: 'x', mode: 0o755 },
        { path: 'link', type: '2', target: 'a' },
        { path: 'b', type: '1', target: './a/file' },
        { path: 'c', type: '1', target: 'link' },
      ),
    );
    expect(await contentsOf(folder)).toEqual(['a/', 'a/file*', 'b*', 'c@ -> a', 'link@ -> a']);
  });

  test('strips a single top folder only', async () => {
    expect(await contentsOf(await unpacked(tarOf(...pkg), true))).toEqual(['hello', 'run*']);
    const two = tarOf(...pkg, { path: 'README', contents: '' });
    expect(await contentsOf(await unpacked(two, true))).toEqual(['README', 'pkg/', 'pkg/hello', 'pkg/run*']);
    expect(await contentsOf(await unpacked(tarOf({ path: 'only', contents: '' }), true))).toEqual(['only']);
    const linked = tarOf({ path: 'only', type: '2', target: '/' });
    expect(await contentsOf(await unpacked(linked, true))).toEqual(['only@ -> /']);
  });

  const tar = spawnSync('tar', ['--version'], { encoding: 'utf8' });
  const gnuTar = /GNU tar/.test(tar.stdout ?? '');
  test.skipIf(!gnuTar).each(['gnu', 'pax', 'ustar', 'v7'])(
    'GNU tar’s own %s archives (skipped without GNU tar)',
    async (format) => {
      const folder = mkdtempSync(join(root, 'gnu-'));
      const name = format === 'v7' || format === 'ustar' ? 'n'.repeat(80) : 'n'.repeat(200);
      mkdirSync(join(folder, 'in/sub/empty'), { recursive: true });
      writeFileSync(join(folder, 'in/sub', name), 'x'.repeat(70_000));
      writeFileSync(join(folder, 'in/run'), '', { mode: 0o755 });
      symlinkSync('../..', join(folder, 'in/sub/up'));
      execFileSync('tar', [`--format=${format}`, '-cf', 'a.tar', '-C', 'in', '.'], { cwd: folder });
      const got = await unpacked(readFileSync(join(folder, 'a.tar')));
      expect(await contentsOf(got)).toEqual(await contentsOf(join(folder, 'in')));
      expect(readFileSync(join(got, 'sub', name), 'utf8')).toBe('x'.repeat(70_000));
    },
  );
});

describe('zip', () => {
  test('stored and deflated files, modes, links, implicit folders', async () => {
    const folder = await unpacked(
      zipOf(
        { path: 'top/run', contents: '#!/bin/sh\n', mode: 0o100755, deflate: true },
        { path: 'top/plain', contents: 'plain' },
        { path: 'top/link', contents: '../elsewhere', mode: 0o120777 },
        { path: 'top/empty/', mode: 0o040755 },
      ),
      true,
    );
    expect(await contentsOf(folder)).toEqual(['empty/', 'link@ -> ../elsewhere', 'plain', 'run*']);
    expect(readFileSync(join(folder, 'plain'), 'utf8')).toBe('plain');
  });

  test.each<[string, Buffer]>([
    ['a wrong checksum', zipOf({ path: 'a', contents: 'x', crc: 1 })],
    ['a device', zipOf({ path: 'a', mode: 0o020666 })],
    ['traversal', zipOf({ path: '../a', contents: 'x' })],
    ['an absolute path', zipOf({ path: '/a', contents: 'x' })],
    ['a long link', zipOf({ path: 'a', contents: 'x'.repeat(5000), mode: 0o120777 })],
    ['a cut directory', zipOf({ path: 'a', contents: 'x' }).subarray(0, -10)],
  ])('refuses %s', async (_what, archive) => {
    expect((await failure(archive)).code).toBe('FLK_ARCHIVE_INVALID');
  });
});

describe('Debian packages', () => {
  test('keep their top, whatever is asked', async () => {
    const data = tarOf(
      { path: './', type: '5' },
      { path: './usr/', type: '5' },
      { path: './usr/f', contents: '1' },
    );
    expect(await contentsOf(await unpacked(debOf(data), true))).toEqual(['usr/', 'usr/f']);
    expect(await contentsOf(await unpacked(debOf(gzipSync(data), '.gz'), true))).toEqual(['usr/', 'usr/f']);
    expect(await contentsOf(await unpacked(debOf(await xz(data), '.xz'), true))).toEqual(['usr/', 'usr/f']);
    const odd = arOf({ 'debian-binary': Buffer.from('2.0\n'), _odd: Buffer.from('odd'), 'data.tar': data });
    expect(await contentsOf(await unpacked(odd, true))).toEqual(['usr/', 'usr/f']);
    const packed = debOf(await compressed.zstd(), '.zst');
    expect(await contentsOf(await unpacked(packed, true))).toEqual(['pkg/', 'pkg/hello', 'pkg/run*']);
  });

  test.each<[string, Buffer]>([
    ['another ar archive', arOf({ 'x.o': Buffer.from('x') })],
    ['one without files', arOf({ 'debian-binary': Buffer.from('2.0\n') })],
    ['one that breaks off', debOf(tarOf(...pkg)).subarray(0, -1500)],
    ['a damaged header', Buffer.from('!<arch>\nnonsense')],
  ])('refuses %s', async (_what, archive) => {
    expect((await failure(archive)).code).toBe('FLK_ARCHIVE_INVALID');
  });
});

describe('hostile archives', () => {
  test.each<[string, TarEntry[]]>([
    ['traversal', [{ path: 'a/../../b', contents: 'x' }]],
    ['an absolute path', [{ path: '/etc/passwd', contents: 'x' }]],
    ['a name twice', [{ path: 'a' }, { path: './a' }]],
    ['a file where a folder is', [{ path: 'a/b' }, { path: 'a' }]],
    ['a folder where a file is', [{ path: 'a' }, { path: 'a/b' }]],
    ['a path through a link', [{ path: 'a', type: '2', target: '/tmp' }, { path: 'a/b' }]],
    [
      'a folder over a link',
      [
        { path: 'a', type: '2', target: '.' },
        { path: 'a/', type: '5' },
      ],
    ],
    ['a hard link out of it', [{ path: 'a', type: '1', target: '../../etc/passwd' }]],
    ['a hard link to an absolute path', [{ path: 'a', type: '1', target: '/etc/passwd' }]],
    ['a hard link to what is not there', [{ path: 'a', type: '1', target: 'b' }]],
    [
      'a hard link to a folder',
      [
        { path: 'd/', type: '5' },
        { path: 'a', type: '1', target: 'd' },
      ],
    ],
    [
      'a hard link through a link',
      [
        { path: 'l', type: '2', target: '/etc' },
        { path: 'a', type: '1', target: 'l/passwd' },
      ],
    ],
    ['a character device', [{ path: 'a', type: '3' }]],
    ['a block device', [{ path: 'a', type: '4' }]],
    ['a pipe', [{ path: 'a', type: '6' }]],
    ['a GNU sparse file', [{ path: 'a', type: 'S' }]],
    [
      'a pax sparse file',
      [{ path: 'p', type: 'x', contents: paxBody({ 'GNU.sparse.realsize': '1' }) }, { path: 'a' }],
    ],
    ['an unknown kind', [{ path: 'a', type: 'V' }]],
    ['a damaged pax header', [{ path: 'p', type: 'x', contents: '99 path=x\n' }, { path: 'a' }]],
    [
      'a pax header of megabytes',
      [{ path: 'p', type: 'x', contents: paxBody({ comment: 'x'.repeat(2 ** 21) }) }, { path: 'a' }],
    ],
    ['a pax header of gigabytes', [{ path: 'p', type: 'x', size: 2 ** 32 - 1 }]],
    ['an empty link', [{ path: 'a', type: '2', target: '' }]],
    ['a file as the top', [{ path: './', type: '7' }]],
    ['a wrong checksum', [{ path: 'a', checksum: '000000\0 ' }]],
    ['a file that breaks off', [{ path: 'a', size: 5000 }]],
    [
      'a name with 300 characters',
      [{ path: 'p', type: 'x', contents: paxBody({ path: 'n'.repeat(300) }) }, { path: 'a' }],
    ],
    [
      'folders without end',
      [{ path: 'p', type: 'x', contents: paxBody({ path: 'd/'.repeat(2000) }) }, { path: 'a' }],
    ],
  ])('refuses %s', async (_what, entries) => {
    expect((await failure(tarOf(...entries))).code).toBe('FLK_ARCHIVE_INVALID');
  });

  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['text', Buffer.from('<html>not found</html>')],
    ['much text', Buffer.from('<html>not found</html>'.repeat(100))],
    ['a gzip of text', gzipSync('not a tar'.repeat(200))],
  ])('refuses %s', async (_what, archive) => {
    expect((await failure(archive)).code).toBe('FLK_ARCHIVE_INVALID');
  });

  test('keeps to its limits', async () => {
    const limits = { bytes: 1000, entries: 3 };
    const many = tarOf({ path: 'a/b/c/d' });
    expect((await failure(many, limits)).code).toBe('FLK_LIMIT');
    const bomb = gzipSync(tarOf({ path: 'zeros', contents: Buffer.alloc(10_000_000) }));
    expect((await failure(bomb, limits)).code).toBe('FLK_LIMIT');
    const copies = tarOf({ path: 'a', contents: 'x'.repeat(600) }, { path: 'b', type: '1', target: 'a' });
    expect((await failure(copies, limits)).code).toBe('FLK_LIMIT');
    expect(await contentsOf(await unpacked(tarOf({ path: 'a/b/c', contents: 'x' }), false, limits))).toEqual([
      'a/',
      'a/b/',
      'a/b/c',
    ]);
  });

  test('never writes outside, whatever the names', async () => {
    const part = fc.constantFrom('..', '.', '', 'a', 'b', 'link', '/', '\\');
    const path = fc.array(part, { minLength: 1, maxLength: 5 }).map((parts) => parts.join('/'));
    const entry = fc.record({
      path,
      type: fc.constantFrom('0', '1', '2', '5'),
      target: fc.oneof(path, fc.constant('../..')),
      contents: fc.constant('x'),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(entry, { maxLength: 6 }), async (entries) => {
        const folder = mkdtempSync(join(root, 'cage-'));
        mkdirSync(join(folder, 'tree'));
        writeFileSync(
          join(folder, 'archive'),
          tarOf(...entries.map((e) => (e.type === '0' ? e : { ...e, contents: '' }))),
        );
        await unpack(join(folder, 'archive'), join(folder, 'tree'), { stripRoot: false }).catch(
          (error: unknown) => {
            expect((error as FlkError).code).toBe('FLK_ARCHIVE_INVALID');
          },
        );
        expect(readdirSync(folder).sort()).toEqual(['archive', 'tree']);
      }),
      { numRuns: 150 },
    );
  });
});
