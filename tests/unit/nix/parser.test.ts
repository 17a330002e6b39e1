/* biome-ignore-all lint/suspicious/noTemplateCurlyInString: Nix has such holes in its strings too */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { parseNix } from '../../../src/nix/parser.ts';
import type { Expr } from '../../../src/nix/syntax.ts';
import { maxNesting } from '../../../src/nix/tokens.ts';
import { thrownBy } from '../../support/errors.ts';
import { printNix } from '../../support/nix-print.ts';
import { nixSource } from '../../support/nix-source.ts';

const parse = (text: string): Expr => parseNix({ path: 'x.nix', text });
const print = (text: string): string => printNix(parse(text), { folder: '/f', home: '/home/me' });

/** `«what is underlined» message → suggestion` */
function faultOf(text: string): string {
  const error = thrownBy(() => parse(text));
  expect(error.code).toBe('FLK_NIX_SYNTAX');
  expect(error.diagnostics).toHaveLength(1);
  const { range, message, suggestion } = error.diagnostics[0]!;
  return `«${text.slice(range.start, range.end)}» ${message}${suggestion === undefined ? '' : ` → ${suggestion}`}`;
}

// Right sides are what Nix 2.34 prints (nix-instantiate --parse).
const printed: readonly (readonly [source: string, nix: string])[] = [
  // numbers
  ['007', '7'],
  ['9223372036854775807', '9223372036854775807'],
  ['[ 1. .5 1.5e3 2.5E-7 0.1 ]', '[ (1) (0.5) (1500) (2.5e-07) (0.1) ]'],
  ['[ 00.5 ]', '[ (0) (0.5) ]'],
  ['1/2', '/f/1/2'],
  // strings
  [String.raw`"a\n\t\q\"\\ $ $$ \${b} $\{"`, String.raw`"a\n\tq\"\\ $ $$ \${b} \${"`],
  ['"$${a}"', '"$\\${a}"'],
  ['"a\r\nb\rc"', '"a\\nb\\nc"'],
  ['"${"a"}"', '("a")'],
  ['x: "a${x}$"', '(x: ("a" + x + "$"))'],
  // indented strings
  ["''\n  a\n    b\n  ''", '"a\\n  b\\n"'],
  ["''  a''", '"a"'],
  ["''\n    a\n   ''", '"a\\n"'],
  ["''a\n  b''", '"a\\n  b"'],
  ["''\n\n  a\n\n  b''", '"\\na\\n\\nb"'],
  ["''\n\ta\n  b''", '"\\ta\\n  b"'],
  [
    "''a '''b''' ''$ ''\\n ''\\x $ $$''",
    '("a " + "\'\'" + "b" + "\'\'" + " " + "$" + " " + "\\n" + " " + "x" + " $ $$")',
  ],
  ["x: ''\n  a ${x}\n    ${x}\n''", '(x: ("a " + x + "\\n  " + x + "\\n"))'],
  ["x: ''  ${x}  ''", '(x: (x + "  "))'],
  ["''${\"a\"}''", '"a"'],
  ["''   ''", '""'],
  ["''\n  ''\\ta\n  b''", '("\\t" + "a\\nb")'],
  // paths and URIs
  ['[ ./a ../b a/b /x/../y ~/h ./. ]', '[ (/f/a) (/b) (/f/a/b) (/y) (/home/me/h) (/f) ]'],
  ['x: ./a/${x}/b', '(x: (/f/a/ + x + "/b"))'],
  ['<nixpkgs/lib>', '(__findFile __nixPath "nixpkgs/lib")'],
  ['[ http://a.b/c?d=e x:y ]', '[ ("http://a.b/c?d=e") ("x:y") ]'],
  ['x: x', '(x: x)'],
  // functions
  ['{ }: 1', '({  }: 1)'],
  ['{ b, a ? 1, ... }@c: a', '({ a ? 1, b, ... } @ c: a)'],
  ['c@{ a, }: a', '({ a } @ c: a)'],
  ['f: x: f x (f x) x', '(f: (x: (f x (f x) x)))'],
  ['f: (f 1) 2', '(f: (f 1 2))'],
  // operators
  ['a: b: c: -a.b * c + -b', '(a: (b: (c: ((__mul (__sub 0 (a).b) c) + (__sub 0 b)))))'],
  ['a: b: !a == b && !a + b', '(a: (b: (((! a) == b) && (! (a + b)))))'],
  ['a: a // a // a', '(a: (a // (a // a)))'],
  ['a: a ++ a ++ a', '(a: (a ++ (a ++ a)))'],
  ['a: a - a - a', '(a: (__sub (__sub a a) a))'],
  ['a: a -> a -> a || a', '(a: (a -> (a -> (a || a))))'],
  ['a: a ? b.c ? d && a', '(a: (((((a) ? b.c)) ? d) && a))'],
  ['a: a <= a', '(a: (! (__lessThan a a)))'],
  ['a: a * !a + a', '(a: (__mul a (! (a + a))))'],
  ['a: a.b or a.c or a', '(a: (a).b or ((a).c or (a)))'],
  ['a: [ a or a ]', '(a: [ ((a or)) (a) ])'],
  // sets
  ['{ a.b = 1; a.c = 2; }', '{ a = { b = 1; c = 2; }; }'],
  ['{ a = { b = 1; }; a.c = 2; a = rec { d = 3; }; }', '{ a = { b = 1; c = 2; d = 3; }; }'],
  ['{ "a b" = 1; "if" = 2; or = 3; ${"d"} = 4; "" = 5; }', '{ "" = 5; "a b" = 1; d = 4; "if" = 2; or = 3; }'],
  [
    'x: { ${x} = 1; a.${x}.b = 2; "c${x}" = 3; }',
    '(x: { a = { "${x}" = { b = 2; }; }; "${x}" = 1; "${("c" + x)}" = 3; })',
  ],
  ['x: { inherit x; inherit (x) b a; }', '(x: { inherit x; inherit (x) a b; })'],
  ['let { body = 1; }', '(rec { body = 1; }).body'],
  ['let a.b = 1; a.c = 2; in a', '(let a = { b = 1; c = 2; }; in a)'],
  // the rest
  ['x: with x; assert y; if y then z else __curPos', '(x: (with x; assert y; (if y then z else __curPos)))'],
  ['/* a */ # b\n1 /***/', '1'],
];

describe('Nix expressions', () => {
  it.each(printed)('reads %s', (source, nix) => {
    expect(print(source)).toBe(nix);
  });

  it('knows where everything stands', () => {
    const text = '{ a.b = f 1; }';
    const set = parse(text);
    if (set.kind !== 'attrs') throw new Error(set.kind);
    const a = set.bindings.get('a');
    if (a?.kind !== 'plain' || a.value.kind !== 'attrs') throw new Error(a?.kind);
    const b = a.value.bindings.get('b');
    if (b?.kind !== 'plain') throw new Error(b?.kind);
    const at = ({ start, end }: { start: number; end: number }) => text.slice(start, end);
    expect([set, a.key, a.path, a.value, b.key, b.path, b.value].map(at)).toEqual([
      text,
      'a',
      'a.b',
      'b = f 1',
      'b',
      'a.b',
      'f 1',
    ]);
  });

  it('shares one source among what one inherit binds', () => {
    const set = parse('x: { inherit (x) a b; inherit (x) c; }');
    if (set.kind !== 'lambda' || set.body.kind !== 'attrs') throw new Error(set.kind);
    const sources = [...set.body.bindings.values()].map((binding) =>
      binding.kind === 'inherited-from' ? binding.source : undefined,
    );
    expect(sources[0]).toBe(sources[1]);
    expect(sources[0]).not.toBe(sources[2]);
  });
});

const faults: readonly (readonly [source: string, fault: string])[] = [
  ['', '«» found the end of the file where an expression should be'],
  ['{ a = 1 }', '«}» found ‘}’ where ; after the value should be'],
  [
    '{ a = 1;',
    '«» found the end of the file where an attribute’s name or } should be → what is open since line 1, column 1 is not complete',
  ],
  [
    '(1\n',
    '«» found the end of the file where ) should be → what is open since line 1, column 1 is not complete',
  ],
  [
    '[ 1 , 2 ]',
    '«,» found ‘,’ where a list item or ] should be → what is open since line 1, column 1 is not complete',
  ],
  ['1 1 ; 2', '«;» found ‘;’ where an operator, an argument or the end of the file should be'],
  ['a: { b c = 1; }', '«c» found ‘c’ where . or = should be'],
  ['{ a } : if a b else c', '«else» found ‘else’ where then should be'],
  ['{ a, b }', '«» found the end of the file where : after the function’s argument should be'],
  ['{ a, a }: a', '«a» the function takes a twice → remove one of them'],
  ['a@{ a }: a', '«a» the function takes a twice → remove one of them'],
  ['{ a = 1; a = 2; }', '«a» the attribute a is set already, on line 1, column 3 → keep one of them'],
  [
    '{ a.b = 1;\n  a = { b.c = 2; }; }',
    '«b» the attribute a.b is set already, on line 1, column 5 → keep one of them',
  ],
  ['x: { a = x; a.b = 1; }', '«a» the attribute a is set already, on line 1, column 6 → keep one of them'],
  [
    'x: { inherit x; x.y = 1; }',
    '«x» the attribute x is set already, on line 1, column 14 → keep one of them',
  ],
  [
    'x: { inherit (x) a; inherit a; }',
    '«a» the attribute a is set already, on line 1, column 18 → keep one of them',
  ],
  [
    'x: let ${x} = 1; in x',
    '«${x}» a name in let cannot be computed → write a plain name, or make an attribute set and use with',
  ],
  ['x: { inherit "a${x}"; }', '«"a${x}"» a name in inherit cannot be computed → write the attribute with ='],
  ['1 == 1 == 1', '«==» == cannot follow another comparison → put one of them in parentheses'],
  ['1 < 2 > 3', '«>» > cannot follow another comparison → put one of them in parentheses'],
  ['x: x |> x', '«|>» the pipe operator |> is an experiment that Nix leaves off'],
  [
    '9223372036854775808',
    '«9223372036854775808» the number is too large → write at most 9223372036854775807',
  ],
  ['1.0e400', '«1.0e400» the number is out of the range of floats'],
  ['1.0e-400', '«1.0e-400» the number is out of the range of floats'],
  ['{ a = "b; }\n', '«"» this string is never closed'],
  ["{ a = ''b; }\n", "«''» this string is never closed"],
  ['1 /* 2', '«/*» this comment is never closed'],
  ['"a\0b"', '«\0» a string holds no NUL'],
  ["''a\0b''", '«\0» a string holds no NUL'],
  ['./a/', '«/» a path does not end with a slash'],
  ['./a//b', '«/b» a path has no two slashes in a row → remove one of them'],
  ['é', '«é» the character ‘é’ has no meaning in Nix'],
  ['\ufeff1', '«\ufeff» an invisible character, U+FEFF, has no meaning in Nix'],
  ['"${1"', '«"» this string is never closed'],
  ['rec 1', '«1» found ‘1’ where { after rec should be'],
];

describe('texts that are no Nix expressions', () => {
  it.each(faults)('refuses %j', (source, fault) => {
    expect(faultOf(source)).toBe(fault);
  });

  it('refuses a home folder only where evaluation is pure', () => {
    expect(print('~/a')).toBe('/home/me/a');
    const error = thrownBy(() => parseNix({ path: 'x.nix', text: '[ ~/a ]' }, { pure: true }));
    expect(error.diagnostics[0]?.range).toEqual({ start: 2, end: 5 });
  });
});

const wrappers: readonly (readonly [open: string, close: string])[] = [
  ['(', ')'],
  ['[', ']'],
  ['{ a = ', '; }'],
  ['rec { a = ', '; }'],
  ['let { body = ', '; }'],
  ['"${', '}"'],
  ["''${", "}''"],
  ['./a${', '}'],
  ['a.${', '}'],
  ['{ a ? ', ' }: 1'],
  ['if ', ' then 1 else 1'],
  ['let a = ', '; in a'],
  ['with ', '; 1'],
  ['a.a or ', ''],
  ['1 + (', ')'],
];

describe('hostile texts', () => {
  it.each(wrappers)('nests %s … %s so far and no further', (open, close) => {
    const nest = (depth: number): string => open.repeat(depth) + 1 + close.repeat(depth);
    expect(parse(nest(maxNesting / 2 - 1)).kind).toBeTypeOf('string');
    expect(faultOf(nest(100_000))).toContain(`nested more than ${maxNesting} deep`);
  });

  it('counts attribute paths as nesting', () => {
    expect(faultOf(`{ a${'.a'.repeat(100_000)} = 1; }`)).toContain('nested more than');
    const half = `a${'.a'.repeat(maxNesting / 2)}`;
    expect(faultOf(`{ ${half} = { ${half} = 1; }; }`)).toContain('nested more than');
  });

  it('takes chains of any length', () => {
    const long = 50_000;
    for (const text of [
      `${'x: '.repeat(long)}x`,
      `${'1 + '.repeat(long)}1`,
      `${'1 ++ '.repeat(long)}1`,
      `${'!'.repeat(long)}1`,
      `${'- '.repeat(long)}1`,
      `${'if 1 then 2 else '.repeat(long)}3`,
      `${'let a = 1; in '.repeat(long)}a`,
      `${'with a; '.repeat(long)}a`,
      `f${' a'.repeat(long)}`,
      `a${'.a'.repeat(long)}`,
      `a${' ? a'.repeat(long)}`,
    ])
      expect(parse(text).end).toBe(text.length);
  });

  it('throws nothing but FLK_NIX_SYNTAX, whatever is done to a text', () => {
    const piece = fc.oneof(
      fc.constantFrom(
        '{',
        '}',
        '${',
        '"',
        "''",
        '(',
        ')',
        '[',
        ']',
        ';',
        '=',
        ':',
        '@',
        '?',
        '.',
        '/',
        'or',
        'let',
        'in',
        'inherit',
      ),
      fc.constantFrom(
        '$',
        '\\',
        "'",
        '~/',
        '<',
        '>',
        '/*',
        '#',
        '\n',
        '\0',
        '\ud800',
        'é',
        '...',
        '-',
        '1e9',
        'rec',
        'if',
      ),
    );
    const mutant = fc
      .tuple(nixSource, fc.array(fc.tuple(fc.nat(), fc.nat(8), piece), { maxLength: 4 }))
      .map(([text, edits]) =>
        edits.reduce((now, [at, cut, put]) => {
          const place = at % (now.length + 1);
          return now.slice(0, place) + put + now.slice(place + cut);
        }, text),
      );
    let taken = 0;
    let refused = 0;
    fc.assert(
      fc.property(mutant, (text) => {
        try {
          const { start, end } = parse(text);
          expect(start).toBeLessThan(end);
          expect(end).toBeLessThanOrEqual(text.length);
          taken++;
        } catch (error) {
          if (!(error instanceof FlkError)) throw error;
          expect(error.code).toBe('FLK_NIX_SYNTAX');
          const { range } = error.diagnostics[0]!;
          expect(range.start).toBeLessThanOrEqual(range.end);
          expect(range.end).toBeLessThanOrEqual(text.length);
          refused++;
        }
      }),
      { seed: 20, numRuns: 3000 },
    );
    expect(Math.min(taken, refused)).toBeGreaterThan(300);
  });
});
