import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Findings } from '../../../src/base/diagnostics.ts';
import { parseWholeYaml } from '../../../src/flake/manifest-yaml.ts';
import { parsePlainYaml } from '../../../src/flake/manifest-yaml-plain.ts';

const repository = new URL('../../..', import.meta.url).pathname;

function whole(text: string) {
  const findings = new Findings({ path: 'flake.yaml', text });
  const located = parseWholeYaml(text, findings);
  return { located, faults: findings.count };
}

/** Where the plain reader has an answer, it is the whole parser's. Says whether it had one. */
function agrees(text: string): boolean {
  const plain = parsePlainYaml(text);
  if (plain === undefined) return false;
  expect({ text, located: plain, faults: 0 }).toEqual({ text, ...whole(text) });
  return true;
}

describe('the plain reader and the whole parser give the same', () => {
  const scalars = [
    'word',
    'two words',
    '1',
    '0',
    '007',
    '1.2',
    '1.2.3',
    '-1',
    '-x',
    '--x',
    '+1',
    '.5',
    '.inf',
    '-.INF',
    '.nan',
    '.NaN',
    '0x1F',
    '0o17',
    '1e5',
    '1.5E+3',
    '1_000',
    '~',
    '~/x',
    'null',
    'Null',
    'true',
    'True',
    'FALSE',
    'yes',
    '2024-01-01',
    '12:30',
    '12:30:45',
    'a: b',
    'a:',
    'a:b',
    ':a',
    'a #b',
    'a#b',
    'a  # b',
    'a ',
    '#a',
    '"a"',
    '"a\\n\\t\\"\\\\\\/b"',
    '"\\u00e9"',
    '"a" b',
    '"a" # c',
    '"a"# c',
    '"a',
    "'a'",
    "'it''s'",
    "'a' b",
    "''",
    '""',
    '[a, b]',
    '[]',
    '{}',
    '[ a , b ]',
    '[a,b]',
    '[a, ]',
    '[a b, "c" d]',
    '["c", \'d\']',
    '[a: b]',
    '[a:b]',
    '[http://x/y?z]',
    '{a: b, c: [1, 2]}',
    '{a: {b: true}}',
    '{a, b}',
    '{a: }',
    '{"a": b}',
    '{a: b, a: c}',
    '[a] # c',
    '[a]#',
    '[[a], [b]]',
    '[a # b',
    '[a{{b}}]',
    '{{x}}/y',
    '$out/{{x}}',
    '&a b',
    '*a',
    '!x y',
    '!!str 1',
    '@a',
    '`a',
    '%a',
    '| x',
    '>',
    '|',
    '|-',
    '|+',
    '|2',
    '- a',
    '? a',
    '\u00e9',
    '\ud83d\ude00',
    '\ufeffx',
    'a\u2028b',
    '<<',
    '1,2',
    'a, b',
    'a]',
    '-',
    '[-1, -x, - y]',
    '[a, , b]',
    '',
    '---',
    '...',
    '1e',
    '1.',
    '.',
    '..',
    './x',
    '../x',
    '+',
    '- ',
    'a\tb',
  ]; // prettier-ignore
  const keys = [
    'a',
    'b',
    'c-d',
    'e.f',
    '1',
    'true',
    'null',
    '"q"',
    '<<',
    'a b',
    '-x',
    '?',
    '',
    'g:h',
    'k',
    'l',
    'm',
  ];

  it.each(scalars)('on %j, as a value, an item, in a list and below', (scalar) => {
    for (const text of [
      `a: ${scalar}\n`,
      `a: ${scalar}\nb: c\n`,
      `a:\n  - ${scalar}\n  - x\n`,
      `a:\n- ${scalar}\n`,
      `a: [${scalar}, x]\n`,
      `a: {b: ${scalar}}\n`,
      `a:\n  ${scalar}\n`,
      `a: ${scalar}\n  more\n`,
      `a: ${scalar}\n  x\n\n y\n`,
      `a: ${scalar}\n    x\n\n  y\nb: d\n`,
      `a:\n  - b: ${scalar}\n    c: d\n`,
      `${scalar}\n`,
      `a: ${scalar}`,
      `${scalar}: a\n`,
    ]) // prettier-ignore
      agrees(text);
  });

  const line = fc.record({
    indent: fc.oneof(
      { arbitrary: fc.constantFrom(0, 2), weight: 9 },
      { arbitrary: fc.constantFrom(1, 3, 4), weight: 1 },
    ),
    start: fc.oneof(
      { arbitrary: fc.constant(''), weight: 4 },
      { arbitrary: fc.constantFrom('- ', '-   ', '- - ', '-'), weight: 1 },
    ),
    key: fc.option(
      fc.oneof(
        {
          arbitrary: fc.string({ unit: fc.constantFrom(...'abcde'), minLength: 2, maxLength: 4 }),
          weight: 9,
        },
        { arbitrary: fc.constantFrom(...keys), weight: 1 },
      ),
      { nil: undefined, freq: 9 },
    ),
    value: fc.oneof(
      { arbitrary: fc.constantFrom('', 'x', 'y z', '[a, b]', '"q"', '|'), weight: 4 },
      { arbitrary: fc.constantFrom(...scalars), weight: 1 },
    ),
    rest: fc.constantFrom(
      '',
      '',
      '',
      '',
      ' ',
      ' # note',
      '\n',
      '\n\n',
      '\n  \n',
      '\n# note',
      '\n  # note',
      '\n    # note',
      '\n  # one\n# two',
    ),
  });

  it('on lines put together at random', () => {
    let answered = 0;
    fc.assert(
      fc.property(fc.array(line, { minLength: 1, maxLength: 6 }), (lines) => {
        const text = lines
          .map(({ indent, start, key, value, rest }) => {
            const words = key === undefined ? value : `${key}:${value === '' ? '' : ` ${value}`}`;
            return `${' '.repeat(indent)}${start}${words}${rest}\n`;
          })
          .join('');
        if (agrees(text)) answered++;
      }),
      { numRuns: 3000 },
    );
    expect(answered).toBeGreaterThan(50);
  });

  /** Blocks that hang together, as a person writes them. */
  const plainScalar = fc.constantFrom(
    'word',
    'two words',
    '1.2.3',
    '12',
    'true',
    '"a: b"',
    "'it''s'",
    '[a, b]',
    '{ref: x, priority: 3}',
    '$out/bin',
    'a # note',
    './src',
    '["x"]',
    '[]',
  );
  const { block } = fc.letrec<{ block: string[]; map: string[]; list: string[]; literal: string[] }>(
    (tie) => ({
      block: fc.oneof({ maxDepth: 4 }, tie('map'), tie('list'), tie('literal')),
      literal: fc
        .tuple(
          fc.constantFrom('|', '|-'),
          fc.array(fc.constantFrom('cc main.c', '  deeper', '', '# no comment', 'a: b', '- c'), {
            minLength: 1,
            maxLength: 4,
          }),
        )
        .map(([sign, lines]) => [sign, 'first', ...lines]),
      list: fc
        .array(plainScalar, { minLength: 1, maxLength: 3 })
        .map((items) => items.map((item) => `- ${item}`)),
      map: fc
        .uniqueArray(
          fc.tuple(
            fc.constantFrom('a', 'b', 'src', 'x-y'),
            fc.oneof({ maxDepth: 4 }, plainScalar, tie('block')),
          ),
          { selector: ([name]) => name, minLength: 1, maxLength: 3 },
        )
        .map((pairs) =>
          pairs.flatMap(([name, value]) => {
            if (typeof value === 'string') return [`${name}: ${value}`];
            const [first, ...others] = value;
            const deeper = (text: string): string => (text === '' ? '' : `  ${text}`);
            return first!.startsWith('|')
              ? [`${name}: ${first}`, ...others.map(deeper)]
              : [`${name}:`, ...value.map(deeper)];
          }),
        ),
    }),
  ) as { block: fc.Arbitrary<string[]> };

  it('on blocks, and has an answer for nearly all of them', () => {
    let answered = 0;
    const numRuns = 1000;
    fc.assert(
      fc.property(block, (lines) => {
        if (
          agrees(
            `top:\n${lines[0]!.startsWith('|') ? '  x: y' : lines.map((text) => (text === '' ? '' : `  ${text}`)).join('\n')}\nend: 1\n`,
          )
        )
          answered++;
      }),
      { numRuns },
    );
    expect(answered).toBeGreaterThan(numRuns * 0.9);
  });

  it('on the manifests of this repository', () => {
    const texts = ['tests', 'test-repos', 'docs', 'bench'].flatMap((folder) =>
      readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' })
        .filter((path) => /\.(md|m?[jt]s)$/.test(path))
        .map((path) => readFileSync(join(repository, folder, path), 'utf8')),
    );
    // Those in documents, and those that recipes and tests write: texts of several lines in backticks.
    const manifests = texts.flatMap((text) => [
      ...[...text.matchAll(/^```yaml\n(.*?\n)```/gms)].map(([, inner]) => inner!),
      ...[...text.matchAll(/(?<!`)`([^`]*\n)\s*`(?!`)/g)].map(([, inner]) => inner!),
    ]);
    expect(manifests.filter(agrees).length).toBeGreaterThan(15);
  });
});

describe('the plain reader', () => {
  it.each([
    ['a second key of one name', 'a: b\na: c\n'],
    ['anchors', 'a: &x b\n'],
    ['a text that goes on', 'a: b\n  c\n'],
    ['values without end', `a:\n${'  - b\n'.repeat(200_000)}`],
    ['empty lines without end', `a: b\n${'\n'.repeat(200_000)}`],
    ['lists in lists', `a: ${'['.repeat(200)}${']'.repeat(200)}\n`],
    ['half a surrogate pair', 'a: \ud800\n'],
  ])('leaves %s to the whole parser', (_, text) => {
    expect(parsePlainYaml(text)).toBeUndefined();
  });
});
