import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import {
  type BareWord,
  type PackageRef,
  parsePackageRef,
  parseTemplate,
  printPackageRef,
  printTemplate,
  type Template,
} from '../../../src/flake/package-ref.ts';

describe('parsePackageRef', () => {
  const table: readonly [text: string, bare: BareWord, ref: PackageRef][] = [
    ['#x', 'input', { inputs: [], name: 'x' }],
    ['a#x', 'package', { inputs: ['a'], name: 'x' }],
    ['a/b#x', 'package', { inputs: ['a', 'b'], name: 'x' }],
    ['#x.dev', 'input', { inputs: [], name: 'x', output: 'dev' }],
    ['a/b/c#x.lib', 'input', { inputs: ['a', 'b', 'c'], name: 'x', output: 'lib' }],
    ['#', 'input', { inputs: [], name: 'default' }],
    ['a#', 'package', { inputs: ['a'], name: 'default' }],
    ['x', 'package', { inputs: [], name: 'x' }],
    ['x.dev', 'package', { inputs: [], name: 'x', output: 'dev' }],
    ['gtk+', 'package', { inputs: [], name: 'gtk+' }],
    ['7zip', 'package', { inputs: [], name: '7zip' }],
    ['a', 'input', { inputs: ['a'] }],
    ['assets/fonts', 'input', { inputs: ['assets'], subpath: 'fonts' }],
    ['assets/share/fonts/', 'input', { inputs: ['assets'], subpath: 'share/fonts' }],
  ];
  for (const [text, bare, ref] of table) {
    it(`${JSON.stringify(text)} where a bare word is ${bare === 'input' ? 'an input' : 'a package'}`, () => {
      expect(parsePackageRef(text, bare)).toEqual(ref);
    });
  }

  const wrong: readonly [text: string, bare: BareWord][] = [
    ['', 'package'],
    ['', 'input'],
    ['a b', 'input'],
    ['9a#x', 'package'],
    ['_a#x', 'package'],
    ['a//b#x', 'package'],
    ['/a#x', 'package'],
    ['a#x#y', 'package'],
    ['#x.', 'package'],
    ['#.dev', 'package'],
    ['#x.dev.y', 'package'],
    ['#-x', 'package'],
    ['x/bin/x', 'package'],
    ['a/../b', 'input'],
    ['a/./b', 'input'],
    ['a//b', 'input'],
    ['a/', 'input'],
    ['a/x\0y', 'input'],
    ['a\n#x', 'package'],
    ['#x\n', 'package'],
    ['é#x', 'package'],
  ];
  for (const [text, bare] of wrong) {
    it(`refuses ${JSON.stringify(text)} where a bare word is ${bare === 'input' ? 'an input' : 'a package'}`, () => {
      expect(() => parsePackageRef(text, bare)).toThrow(FlkError);
      try {
        parsePackageRef(text, bare);
      } catch (error) {
        expect(error).toHaveProperty('code', 'FLK_REF_INVALID');
      }
    });
  }
});

const inputName = fc.stringMatching(/^[A-Za-z][A-Za-z0-9_-]{0,5}$/);
const packageName = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_+-]{0,5}$/);
const packageRef: fc.Arbitrary<PackageRef> = fc.oneof(
  fc.record(
    {
      inputs: fc.array(inputName, { maxLength: 3 }),
      name: packageName,
      output: fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_-]{0,5}$/),
    },
    { requiredKeys: ['inputs', 'name'] },
  ),
  fc.record({ inputs: inputName.map((name) => [name]) }),
  fc.record({
    inputs: inputName.map((name) => [name]),
    subpath: fc.stringMatching(/^[a-z]{1,4}(\/[a-z.]{3}){0,2}$/).filter((path) => !path.endsWith('...')),
  }),
);

it('printing a reference and parsing it gives the same reference', () => {
  fc.assert(
    fc.property(packageRef, (ref) => {
      expect(parsePackageRef(printPackageRef(ref), 'input')).toEqual(ref);
    }),
  );
});

describe('parseTemplate', () => {
  function parse(text: string): { template: Template; faults: string[] } {
    const faults: string[] = [];
    return { template: parseTemplate(text, (start, end) => faults.push(text.slice(start, end))), faults };
  }
  const hello = { inputs: [], name: 'hello' };
  const table: readonly [text: string, template: Template, faults: readonly string[]][] = [
    ['', [], []],
    ['plain $x {y} }}', ['plain $x {y} }}'], []],
    ['{{#hello}}', [hello], []],
    ['a{{#hello}}b{{ assets }}', ['a', hello, 'b', { inputs: ['assets'] }], []],
    ['{{assets/fonts}}/x', [{ inputs: ['assets'], subpath: 'fonts' }, '/x'], []],
    ['{{{{x}}', ['{{x}}'], []],
    ['{{{{{{#hello}}', ['{{', hello], []],
    [`\${{#hello}}`, ['$', hello], []],
    ['a {{ b', ['a {{ b'], ['{{']],
    ['{{}}', [], ['{{}}']],
    ['x{{a b}}y', ['xy'], ['{{a b}}']],
    ['{{{x}}}', ['}'], ['{{{x}}']],
    ['{{#a}}{{ $1 }}', [{ inputs: [], name: 'a' }], ['{{ $1 }}']],
  ];
  for (const [text, template, faults] of table) {
    it(JSON.stringify(text), () => expect(parse(text)).toEqual({ template, faults }));
  }

  it('printing a template and parsing it gives the same template', () => {
    const literal = fc
      .array(fc.constantFrom('a', '{', '}', '{{', ' ', '$', '\n'), { minLength: 1, maxLength: 6 })
      .map((parts) => parts.join(''))
      // Next to a hole a single brace would move it: nobody can write that in this grammar.
      .filter((text) => !text.replaceAll('{{', '').includes('{'));
    const template = fc
      .array(fc.tuple(literal, packageRef), { maxLength: 4 })
      .map((pairs): Template => pairs.flat());
    fc.assert(
      fc.property(template, (parts) => {
        expect(parse(printTemplate(parts))).toEqual({ template: parts, faults: [] });
      }),
    );
  });

  it('takes any text at all, in time that grows with it', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('{{', '}}', '#', 'x', '{', '/')), (parts) => {
        parse(parts.join(''));
      }),
    );
    expect(parse('{{x'.repeat(50_000)).faults).toHaveLength(1);
  });
});
