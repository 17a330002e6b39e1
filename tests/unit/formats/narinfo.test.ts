import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compareBytes } from '../../../src/base/canonical.ts';
import { FlkError } from '../../../src/base/errors.ts';
import { fileHasher, provenAddress } from '../../../src/formats/content-address.ts';
import { narHashOf, sha256 } from '../../../src/formats/hash.ts';
import {
  fingerprint,
  maxNarInfoSize,
  type NarInfo,
  parseNarInfo,
  printNarInfo,
  toNarInfoHash,
} from '../../../src/formats/narinfo.ts';
import {
  makeFixedOutputPath,
  makeSourcePath,
  makeTextPath,
  type StorePath,
} from '../../../src/formats/store-path.ts';
import { thrownBy } from '../../support/errors.ts';
import { directory, file, symlink, treeFrom } from '../../support/trees.ts';

const path = '/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1' as StorePath;
const lib = '/nix/store/drw5m7pf65gh6fxazdl43ryma44ni6q9-lib-1' as StorePath;

/** As Nix 2.34.8 wrote it, `nix copy --to file://…?compression=zstd`. */
const written = `StorePath: /nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1
URL: nar/03k52cxrgslgicjsswvndbx43r1dpmcy0a8nqn6lw0r4i2dngw18.nar.zst
Compression: zstd
FileHash: sha256:03k52cxrgslgicjsswvndbx43r1dpmcy0a8nqn6lw0r4i2dngw18
FileSize: 235
NarHash: sha256:05x5wf1sacm8qjkidg23ad7zabfw0pxlwyrq2ciwjxzy3cplzrxh
NarSize: 584
References: 6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1 drw5m7pf65gh6fxazdl43ryma44ni6q9-lib-1
Deriver: 6izcfkp6ilcaiqnyrb5yy46qdnn6g6ki-app-1.drv
`;

/** With one field set, added, or (undefined) taken away. */
function changed(name: string, value: string | undefined): string {
  const others = written.split('\n').filter((line) => line !== '' && !line.startsWith(`${name}:`));
  return [...others, ...(value === undefined ? [] : [`${name}: ${value}`]), ''].join('\n');
}

describe('a narinfo', () => {
  it('of Nix is read, and printed as Nix does', () => {
    const info = parseNarInfo(written, path);
    expect(info).toMatchObject({ path, compression: 'zstd', fileSize: 235, narSize: 584 });
    expect(info.references).toEqual([path, lib]);
    expect(info.deriver).toBe('/nix/store/6izcfkp6ilcaiqnyrb5yy46qdnn6g6ki-app-1.drv');
    expect(printNarInfo(info)).toBe(written);
  });

  it('is what was printed, whatever that was', () => {
    const digest = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => narHashOf(bytes));
    const infos = fc.record(
      {
        path: fc.constant(path),
        url: fc.constantFrom('nar/a.nar', 'nar/a.nar.xz?hash=b', 'a'),
        compression: fc.constantFrom('none', 'xz', 'zstd', 'gzip', 'bzip2'),
        fileHash: digest,
        fileSize: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
        narHash: digest,
        narSize: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
        references: fc.subarray([path, lib]).map((list) => [...list].sort(compareBytes)),
        deriver: fc.constant(`${lib}.drv` as StorePath),
        signatures: fc.constantFrom([], [`k:${'A'.repeat(86)}==`]),
        ca: fc.constant('text:sha256:x'),
      },
      { requiredKeys: ['path', 'url', 'compression', 'narHash', 'narSize', 'references', 'signatures'] },
    ) as fc.Arbitrary<NarInfo>;
    fc.assert(
      fc.property(infos, (info) => {
        expect(parseNarInfo(printNarInfo(info), path)).toEqual(info);
      }),
    );
  });

  it.each([
    ['FileHash', undefined, {}],
    ['FileSize', undefined, {}],
    ['FileSize', '0', {}],
    ['Deriver', undefined, { deriver: undefined }],
    ['Deriver', 'unknown-deriver', { deriver: undefined }],
    ['References', '', { references: [] }],
    ['References', undefined, { references: [] }],
    ['NarHash', toNarInfoHash(narHashOf(sha256('x'))), { narHash: narHashOf(sha256('x')) }],
    ['NarHash', `sha256:${sha256('x').toString('hex')}`, { narHash: narHashOf(sha256('x')) }],
    ['NarHash', narHashOf(sha256('x')), { narHash: narHashOf(sha256('x')) }],
    ['CA', 'text:sha256:x', { ca: 'text:sha256:x' }],
    ['CA', '', { ca: undefined }],
    ['X-Later', 'anything', {}],
    ['URL', 'nar/x.nar?hash=y', { url: 'nar/x.nar?hash=y' }],
  ])('may say %s: %s', (name, value, facts) => {
    expect({ deriver: undefined, ca: undefined, ...parseNarInfo(changed(name, value), path) }).toMatchObject(
      facts,
    );
  });

  it.each([
    ['StorePath', undefined],
    ['StorePath', lib],
    ['StorePath', '/gnu/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1'],
    ['URL', undefined],
    ['URL', ''],
    ['URL', '/etc/passwd'],
    ['URL', '../other/nar/x'],
    ['URL', 'nar/../../x'],
    ['URL', 'nar/%2e%2e/%2E%2E/x'],
    ['URL', 'nar/..%2f..%2fx'],
    ['URL', 'nar\\..\\x'],
    ['URL', 'nar//x'],
    ['URL', './x'],
    ['URL', 'http://evil.example/x'],
    ['URL', '//evil.example/x'],
    ['URL', 'file:x'],
    ['URL', 'a b'],
    ['URL', 'x#y'],
    ['URL', `nar/${'x'.repeat(2000)}`],
    ['Compression', undefined],
    ['Compression', ''],
    ['Compression', 'XZ'],
    ['Compression', 'lzip'],
    ['FileHash', 'sha1:abc'],
    ['FileHash', 'md5-x'],
    ['FileSize', '-1'],
    ['FileSize', '1e3'],
    ['FileSize', '99999999999999999999'],
    ['NarHash', undefined],
    ['NarHash', 'sha256:short'],
    ['NarSize', undefined],
    ['NarSize', '0'],
    ['NarSize', '9007199254740993'],
    ['References', `${lib}`],
    ['References', '../../x'],
    ['References', 'x'],
    ['Deriver', 'x/y'],
    ['Sig', 'nonsense'],
    ['Sig', ''],
  ])('may not say %s: %s', (name, value) => {
    const error = thrownBy(() => parseNarInfo(changed(name, value), path));
    expect(error.code).toBe('FLK_CACHE_INVALID');
    expect(error.message).toContain(value === lib && name === 'StorePath' ? lib : name);
  });

  it('says everything once, in whole lines', () => {
    for (const text of [
      `${written}NarSize: 584\n`,
      `${written}References: \n`,
      `${written}CA: a\nCA: a\n`,
      written.slice(0, -1),
      written.slice(0, -20),
      `${written}\n`,
      `${written}no colon\n`,
      '',
      '<html>',
      `X: ${'x'.repeat(maxNarInfoSize)}\n`,
      written + `Sig: k:${'A'.repeat(86)}==\n`.repeat(101),
    ])
      expect(thrownBy(() => parseNarInfo(text, path)).code).toBe('FLK_CACHE_INVALID');
  });

  it('is refused in no other way, whatever its bytes', () => {
    const lines = written.split('\n');
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.constantFrom(...lines), fc.string(), fc.string({ unit: 'binary' })), {
          maxLength: 12,
        }),
        (parts) => {
          try {
            parseNarInfo(parts.join('\n'), path);
          } catch (error) {
            expect(error).toBeInstanceOf(FlkError);
            expect((error as FlkError).code).toBe('FLK_CACHE_INVALID');
          }
        },
      ),
    );
  });

  it('has a fingerprint that does not depend on the order of its references', () => {
    const info = parseNarInfo(written, path);
    expect(fingerprint(info)).toBe(
      `1;${path};sha256:05x5wf1sacm8qjkidg23ad7zabfw0pxlwyrq2ciwjxzy3cplzrxh;584;${path},${lib}`,
    );
    expect(fingerprint({ ...info, references: [lib, path, lib] })).toBe(fingerprint(info));
  });
});

describe('a content address', () => {
  const nar = narHashOf(sha256('nar'));
  const text = narHashOf(sha256('text'));

  it('proves the path that follows from it', () => {
    const source = makeSourcePath('x', nar, [lib]);
    const ca = `fixed:r:${toNarInfoHash(nar)}`;
    expect(provenAddress({ path: source, references: [lib], ca })).toEqual({ of: 'nar', hash: nar });
    const note = makeTextPath('x', 'text', [lib]);
    expect(provenAddress({ path: note, references: [lib], ca: `text:${toNarInfoHash(text)}` })).toEqual({
      of: 'file',
      hash: text,
    });
    const flat = makeFixedOutputPath('x', 'sha256', sha256('text'));
    expect(provenAddress({ path: flat, references: [], ca: `fixed:${toNarInfoHash(text)}` })).toEqual({
      of: 'file',
      hash: text,
    });
  });

  it('proves no other path, and nothing where it cannot be checked', () => {
    const source = makeSourcePath('x', nar);
    const ca = `fixed:r:${toNarInfoHash(nar)}`;
    expect(provenAddress({ path: source, references: [] })).toBeUndefined();
    expect(provenAddress({ path: source, references: [lib], ca })).toBeUndefined();
    expect(provenAddress({ path: lib, references: [], ca })).toBeUndefined();
    expect(
      provenAddress({ path: source, references: [], ca: `fixed:${toNarInfoHash(nar)}` }),
    ).toBeUndefined();
    expect(provenAddress({ path: source, references: [], ca: `text:${toNarInfoHash(nar)}` })).toBeUndefined();
    expect(provenAddress({ path: source, references: [], ca: 'fixed:r:sha256:x' })).toBeUndefined();
    expect(provenAddress({ path: source, references: [], ca: 'fixed:r:sha1:x' })).toBeUndefined();
    const own = makeSourcePath('x', nar, [], true);
    expect(provenAddress({ path: own, references: [own], ca })).toBeUndefined();
  });

  it.each([
    ['a file', file('text'), text],
    ['a program', file('text', true), undefined],
    ['a folder with one', directory({ x: file('text') }), undefined],
    ['a link', symlink('text'), undefined],
  ])('of one file’s bytes, in %s', async (_, node, hash) => {
    const hasher = fileHasher();
    await treeFrom(node).walk(hasher);
    expect(hasher.digest()).toBe(hash);
  });
});
