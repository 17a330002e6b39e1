import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicalJson, compareBytes, type Json } from '../../../src/base/canonical.ts';

const text = fc.string({ unit: 'binary' });

describe('compareBytes', () => {
  test('orders as the UTF-8 bytes do', () => {
    fc.assert(
      fc.property(text, text, (a, b) => {
        expect(Math.sign(compareBytes(a, b))).toBe(Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b))));
      }),
    );
  });

  test('puts an astral character behind U+FFFD, unlike UTF-16', () => {
    expect(compareBytes('\ufffd', '\u{10000}')).toBeLessThan(0);
    expect('\ufffd' < '\u{10000}').toBe(false);
  });
});

describe('canonicalJson', () => {
  test('does not depend on the order of insertion', () => {
    expect(canonicalJson({ b: [1, { d: null, c: 'x' }], a: true })).toBe(
      canonicalJson({ a: true, b: [1, { c: 'x', d: null }] }),
    );
  });

  test('sorts keys by bytes and indents by two', () => {
    expect(canonicalJson({ b_2: 1, b: 2, B: 3 })).toBe('{\n  "B": 3,\n  "b": 2,\n  "b_2": 1\n}');
  });

  test('keeps a key named __proto__', () => {
    expect(canonicalJson(JSON.parse('{"__proto__": 1}') as Json)).toBe('{\n  "__proto__": 1\n}');
  });

  test('says what it was given', () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
        expect(JSON.parse(canonicalJson(value as Json))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
    );
  });
});
