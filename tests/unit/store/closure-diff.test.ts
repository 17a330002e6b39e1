import { describe, expect, it } from 'vitest';
import type { NarHash } from '../../../src/formats/hash.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { diffClosures, packageOf, parsePackageName } from '../../../src/store/closure-diff.ts';
import type { PathInfo } from '../../../src/store/path-info.ts';

const path = (name: string, letter = 'a'): StorePath =>
  `/nix/store/${letter.repeat(32)}-${name}` as StorePath;

const info = (name: string, narSize = 100, letter = 'a'): PathInfo => ({
  path: path(name, letter),
  narHash: 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' as NarHash,
  narSize,
  references: [],
  registrationTime: 1,
  ultimate: true,
  signatures: [],
});

describe('the parts of a store name', () => {
  it.each([
    ['apache-httpd-2.0.48', 'apache-httpd', '2.0.48'],
    ['hello', 'hello', ''],
    ['hello-', 'hello-', ''],
    ['gcc-wrapper-13.2', 'gcc-wrapper', '13.2'],
    ['a--b', 'a', '-b'],
    ['font-7x13-1', 'font', '7x13-1'],
    ['x-_y', 'x', '_y'],
    ['-1', '', '1'],
  ])('%s', (text, name, version) => {
    expect(parsePackageName(text)).toEqual({ name, version });
  });

  it.each([
    ['openssl-3.0-dev', 'openssl', '3.0'],
    ['glibc-2.38-lib32', 'glibc', '2.38'],
    ['glibc-2.38-lib16', 'glibc', '2.38-lib16'],
    ['xz-5.4-Bin', 'xz', '5.4-Bin'],
    ['foo-bar', 'foo', ''],
  ])('of an output: %s', (text, name, version) => {
    expect(packageOf(path(text))).toEqual({ name, version });
  });
});

describe('diffClosures', () => {
  it('tells versions that came, went and stayed, by name', () => {
    const diff = diffClosures(
      [info('zlib-1.2', 100), info('gcc-12'), info('gcc-13'), info('gone-1', 7)],
      [info('new', 9), info('gcc-13'), info('gcc-14'), info('zlib-1.3', 120), info('zlib-1.3-dev', 30)],
    );
    expect(diff.packages).toEqual([
      { name: 'gcc', removed: ['12'], added: ['14'], kept: ['13'], sizeBefore: 200, sizeAfter: 200 },
      { name: 'gone', removed: ['1'], added: [], kept: [], sizeBefore: 7, sizeAfter: 0 },
      { name: 'new', removed: [], added: [''], kept: [], sizeBefore: 0, sizeAfter: 9 },
      { name: 'zlib', removed: ['1.2'], added: ['1.3'], kept: [], sizeBefore: 100, sizeAfter: 150 },
    ]);
    expect([diff.sizeBefore, diff.sizeAfter]).toEqual([307, 359]);
  });

  it('tells a change of size alone from 8 KiB on, and other paths in any case', () => {
    const before = [info('a-1', 10_000, 'a'), info('b-1', 10_000, 'b')];
    const after = [info('a-1', 10_000 + 8192, 'c'), info('b-1', 10_000 - 8191, 'd')];
    const diff = diffClosures(before, after);
    expect(diff.packages.map(({ name }) => name)).toEqual(['a']);
    expect(diff.pathsRemoved).toEqual([path('a-1', 'a'), path('b-1', 'b')]);
    expect(diff.pathsAdded).toEqual([path('a-1', 'c'), path('b-1', 'd')]);
  });

  it('finds nothing between equal closures', () => {
    const closure = [info('a-1'), info('b')];
    expect(diffClosures(closure, [...closure].reverse())).toEqual({
      packages: [],
      pathsRemoved: [],
      pathsAdded: [],
      sizeBefore: 200,
      sizeAfter: 200,
    });
  });
});
