import { describe, expect, it } from 'vitest';
import { narHashOf, parseNarHash, sha256 } from '../../../src/formats/hash.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import {
  baseNameOf,
  hashPart,
  isStoreName,
  makeFixedOutputPath,
  makeSourcePath,
  makeTextPath,
  nameOf,
  parseStorePath,
} from '../../../src/formats/store-path.ts';
import { file, treeFrom } from '../../support/trees.ts';

const invalid = expect.objectContaining({ code: 'FLK_STORE_PATH_INVALID' });

describe('store paths', () => {
  it('are those that Nix computes for sources', async () => {
    // nix-store --add sample, the folder of sample.nar
    const narHash = parseNarHash('sha256-sK4U1cfV8PrChmItWfUup55qC2uOHPtNCDUQ71W0mUE=');
    expect(makeSourcePath('sample', narHash)).toBe('/nix/store/1ln29dpmvlgppkyigjkhncymx9gj3xl6-sample');
    // nix-store --add hello.txt, which holds `hello` and a newline
    const hello = await hashTree(treeFrom(file('hello\n')));
    expect(makeSourcePath('hello.txt', hello.narHash)).toBe(
      '/nix/store/i9pmrzmpshapij2kin22pff6fc2adavx-hello.txt',
    );
  });

  it('are those that Nix computes for fixed outputs', async () => {
    // nix-store --add-fixed sha256 hello.txt
    expect(makeFixedOutputPath('hello.txt', 'sha256', sha256('hello\n'))).toBe(
      '/nix/store/gy454w1cxaq731grqwylhzf4pp9r5izh-hello.txt',
    );
    // nix-store --add-fixed --recursive sha256 hello.txt
    const { narHash } = await hashTree(treeFrom(file('hello\n')));
    expect(makeFixedOutputPath('hello.txt', 'r:sha256', Buffer.from(narHash.slice(7), 'base64'))).toBe(
      '/nix/store/i9pmrzmpshapij2kin22pff6fc2adavx-hello.txt',
    );
  });

  it('are those that Nix computes for texts, with references in any order', () => {
    // nix eval --raw --expr 'builtins.toFile "greeting" "hello"', and so on
    const greeting = makeTextPath('greeting', 'hello');
    const other = makeTextPath('other', 'x');
    expect(greeting).toBe('/nix/store/5akl8zsmda0yrr63v4khwgskih2g2hsh-greeting');
    expect(other).toBe('/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other');
    // … 'builtins.toFile "refers" "see ${greeting} and ${other}"'
    const wanted = '/nix/store/ayyii97p6nck9pcnlk460hm6vrklmszg-refers';
    const text = `see ${greeting} and ${other}`;
    expect(makeTextPath('refers', text, [greeting, other])).toBe(wanted);
    expect(makeTextPath('refers', text, [other, greeting, other])).toBe(wanted);
  });

  it('come apart into hash part and name', () => {
    const path = parseStorePath('/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other-1.2');
    expect(hashPart(path)).toBe('08g3c9zd7qsw0216x1bdlk7qrykjny7s');
    expect(nameOf(path)).toBe('other-1.2');
    expect(baseNameOf(path)).toBe('08g3c9zd7qsw0216x1bdlk7qrykjny7s-other-1.2');
  });

  it.each([
    '',
    '/nix/store',
    '/nix/store/',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s_other',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7e-other',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7-other',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other/bin',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other/',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-..',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-ot her',
    '/nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other\n',
    '/gnu/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other',
    ' /nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other',
  ])('refuse %j', (text) => {
    expect(() => parseStorePath(text)).toThrowError(invalid);
  });

  it('have names of limited length and letters', () => {
    const narHash = narHashOf(sha256('x'));
    for (const name of ['a', '.a', '..a', '-', '.-a'.slice(2), 'A+-._?=9', 'x'.repeat(211), '...']) {
      expect(isStoreName(name), name).toBe(true);
      expect(parseStorePath(makeSourcePath(name, narHash))).toBe(makeSourcePath(name, narHash));
    }
    for (const name of ['', '.', '..', '.-a', '..-a', 'a b', 'ä', 'a/b', 'x'.repeat(212), 'a\n', 'a\0'])
      expect(() => makeSourcePath(name, narHash), name).toThrowError(invalid);
  });
});
