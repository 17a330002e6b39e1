import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  assertOutputPaths,
  type Derivation,
  type DerivationDraft,
  derivationPath,
  derivationReferences,
  hashDerivationModulo,
  parseDerivation,
  printDerivation,
  withOutputPaths,
} from '../../../src/formats/derivation.ts';
import { sha256Hex } from '../../../src/formats/hash.ts';
import { hashPart, makeTextPath, parseStorePath, type StorePath } from '../../../src/formats/store-path.ts';

const folder = new URL('../../vectors/derivations/', import.meta.url);
const texts = new Map(
  readdirSync(folder).map((base): [StorePath, string] => [
    parseStorePath(`/nix/store/${base}`),
    readFileSync(new URL(base, folder), 'utf8'),
  ]),
);
const nameOfDrv = (path: StorePath): string => path.slice(44, -'.drv'.length);
const invalid = expect.objectContaining({ code: 'FLK_DERIVATION_INVALID' });

/** The hash of a vector's derivation, through all its inputs. */
function modulo(path: StorePath): string {
  return hashDerivationModulo(parseDerivation(texts.get(path)!), modulo);
}

const none = (): never => {
  throw new Error('there are no input derivations');
};

describe('derivations that Nix wrote', () => {
  it('are all there', () => {
    expect(texts.size).toBe(8);
  });

  it.each([...texts])('print as they were read, and lie where their text says: %s', (path, text) => {
    const derivation = parseDerivation(text);
    expect(printDerivation(derivation)).toBe(text);
    expect(derivationPath(nameOfDrv(path), derivation)).toBe(path);
  });

  it.each([...texts])('have the output paths that flk computes: %s', (path, text) => {
    const derivation = parseDerivation(text);
    const blank: DerivationDraft = {
      ...derivation,
      outputs: new Map(
        [...derivation.outputs].map(([name, { hashAlgo, hash }]) => [name, { hashAlgo, hash }]),
      ),
      env: new Map([...derivation.env].filter(([key]) => !derivation.outputs.has(key))),
    };
    const computed = withOutputPaths(nameOfDrv(path), blank, modulo);
    expect(printDerivation(computed)).toBe(text);
    assertOutputPaths(nameOfDrv(path), derivation, modulo);
  });

  it('are refused with other output paths than their content implies', () => {
    const [path, text] = [...texts].find(([path]) => path.endsWith('-multi-2.1.drv'))!;
    const wrong = parseDerivation(
      text.replaceAll(hashPart(parseDerivation(text).outputs.get('dev')!.path), '0'.repeat(32)),
    );
    expect(() => assertOutputPaths(nameOfDrv(path), wrong, modulo)).toThrowError(invalid);
  });

  it('stand for their content where they fetch: how does not matter', () => {
    const fetched = [...texts.keys()].filter((path) => path.endsWith('-fetched-1.0.drv'));
    expect(fetched).toHaveLength(2);
    expect(modulo(fetched[0]!)).toBe(modulo(fetched[1]!));
  });
});

const draft = (change: Partial<DerivationDraft> = {}): DerivationDraft => ({
  outputs: new Map([['out', { hashAlgo: '', hash: '' }]]),
  inputDrvs: new Map(),
  inputSrcs: [],
  system: 'x86_64-linux',
  builder: '/bin/sh',
  args: [],
  env: new Map([['name', 'x']]),
  ...change,
});

describe('derivations', () => {
  const anyText = fc.string({ unit: 'binary', maxLength: 20 });
  const anyPath = fc
    .tuple(fc.constantFrom('a', 'b-1.0', 'c.drv', 'd'), fc.string())
    .map(([name, text]) => makeTextPath(name, text));
  const anyDerivation: fc.Arbitrary<Derivation> = fc.record({
    outputs: fc
      .uniqueArray(fc.tuple(fc.constantFrom('out', 'dev', 'lib'), anyPath), {
        minLength: 1,
        selector: ([name]) => name,
      })
      .map((list) => new Map(list.map(([name, path]) => [name, { path, hashAlgo: '', hash: '' }]))),
    inputDrvs: fc
      .array(fc.tuple(anyPath, fc.uniqueArray(fc.constantFrom('out', 'dev', 'lib'), { minLength: 1 })))
      .map((list) => new Map(list)),
    inputSrcs: fc.uniqueArray(anyPath),
    system: anyText,
    builder: anyText,
    args: fc.array(anyText),
    env: fc.array(fc.tuple(anyText, anyText)).map((list) => new Map(list)),
  });

  it('read back what they print', () => {
    fc.assert(
      fc.property(anyDerivation, (derivation) => {
        const text = printDerivation(derivation);
        const read = parseDerivation(text);
        expect(printDerivation(read)).toBe(text);
        expect(new Map(read.env)).toEqual(new Map(derivation.env));
        expect(read.args).toEqual(derivation.args);
        expect(read.system).toBe(derivation.system);
        expect(derivationReferences(read)).toEqual(derivationReferences(derivation));
      }),
    );
  });

  it('print the same whatever the order they were put together in', () => {
    const a = makeTextPath('a.drv', 'a');
    const b = makeTextPath('b.drv', 'b');
    const there = withOutputPaths(
      'x',
      draft({
        inputDrvs: new Map([
          [a, ['out', 'dev']],
          [b, ['out']],
        ]),
        inputSrcs: [a, b],
        env: new Map([
          ['p', '1'],
          ['q', '2'],
        ]),
      }),
      (path) => sha256Hex(path),
    );
    const back = withOutputPaths(
      'x',
      draft({
        inputDrvs: new Map([
          [b, ['out']],
          [a, ['dev', 'out']],
        ]),
        inputSrcs: [b, a, b],
        env: new Map([
          ['q', '2'],
          ['out', 'nonsense'],
          ['p', '1'],
        ]),
      }),
      (path) => sha256Hex(path),
    );
    expect(printDerivation(there)).toBe(printDerivation(back));
  });

  it('refuse text that is changed anywhere, or take it as another canonical text', () => {
    const list = [...texts.values()];
    fc.assert(
      fc.property(
        fc.nat(list.length - 1),
        fc.nat(),
        fc.string({ maxLength: 3 }),
        fc.nat(3),
        (which, at, insert, remove) => {
          const text = list[which]!;
          const place = at % text.length;
          const changed = text.slice(0, place) + insert + text.slice(place + remove);
          let read: Derivation;
          try {
            read = parseDerivation(changed);
          } catch (error) {
            expect(error).toEqual(invalid);
            return;
          }
          expect(printDerivation(read)).toBe(changed);
        },
      ),
      { numRuns: 2000 },
    );
  });

  const [, plain] = [...texts].find(([path]) => path.endsWith('-plain.drv'))!;
  it.each([
    ['nothing', ''],
    ['no end', plain.slice(0, -1)],
    ['more after the end', `${plain}\n`],
    ['a version Nix has for dynamic derivations', plain.replace('Derive(', 'DrvWithVersion("xp-dyn-drv",')],
    ['a raw newline in a string', plain.replace('echo hi', 'echo\nhi')],
    ['an unknown escape', plain.replace('echo hi', 'echo \\x hi')],
    ['an output that is no store path', plain.replace('("out","/nix/store/', '("out","/nix/stare/')],
    ['a key twice', plain.replace('[("builder"', '[("builder","/bin/sh"),("builder"')],
    ['unsorted keys', plain.replace('[("builder"', '[("z",""),("builder"')],
  ])('refuse %s', (_what, text) => {
    expect(text).not.toBe(plain);
    expect(() => parseDerivation(text)).toThrowError(invalid);
  });

  it.each<[string, DerivationDraft]>([
    ['no outputs', draft({ outputs: new Map() })],
    [
      'a fixed output besides others',
      draft({
        outputs: new Map([
          ['out', { hashAlgo: 'sha256', hash: '0'.repeat(64) }],
          ['dev', { hashAlgo: '', hash: '' }],
        ]),
      }),
    ],
    [
      'a fixed output that is not called out',
      draft({ outputs: new Map([['dev', { hashAlgo: 'sha256', hash: '0'.repeat(64) }]]) }),
    ],
    ['another algorithm', draft({ outputs: new Map([['out', { hashAlgo: 'md5', hash: '0'.repeat(32) }]]) })],
    [
      'a hash that is not base16',
      draft({ outputs: new Map([['out', { hashAlgo: 'sha256', hash: 'Z'.repeat(64) }]]) }),
    ],
    ['an output called drv', draft({ outputs: new Map([['drv', { hashAlgo: '', hash: '' }]]) })],
    ['an output with a slash', draft({ outputs: new Map([['a/b', { hashAlgo: '', hash: '' }]]) })],
  ])('cannot have %s', (_what, wrong) => {
    expect(() => withOutputPaths('x', wrong, none)).toThrowError(invalid);
  });
});
