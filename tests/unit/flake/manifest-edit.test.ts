import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { parseManifest } from '../../../src/flake/manifest.ts';
import { addInput, initialManifest, inputNameFor, removeInput } from '../../../src/flake/manifest-edit.ts';
import { thrownBy } from '../../support/errors.ts';

const url = 'git+https://git.example.org/new';

describe('addInput', () => {
  const table: readonly [what: string, before: string, after: string][] = [
    ['an empty file', '', `inputs:\n  new: ${url}\n`],
    ['only comments', '# mine\n', `# mine\ninputs:\n  new: ${url}\n`],
    ['a byte order mark', '\ufeffdescription: x\n', `\ufeffdescription: x\n\ninputs:\n  new: ${url}\n`],
    ['an empty flow root', '{}\n', `{ inputs: { new: ${url} } }\n`],
    ['a flow root', '{ description: x }\n', `{ description: x, inputs: { new: ${url} } }\n`],
    [
      'a flow root with empty inputs',
      '{ inputs: {}, description: x }\n',
      `{ inputs: { new: ${url} }, description: x }\n`,
    ],
    [
      'no inputs, before packages and their comment',
      'description: x\n\n# what we make\npackages: {}\n',
      `description: x\n\ninputs:\n  new: ${url}\n\n# what we make\npackages: {}\n`,
    ],
    [
      'packages with a comment right below another key',
      'description: x\n# what we make\npackages: {}\n',
      `description: x\ninputs:\n  new: ${url}\n\n# what we make\npackages: {}\n`,
    ],
    [
      'a text at the end that keeps its blank lines',
      'x-a: |+\n  text\n\n\n',
      `x-a: |+\n  text\n\n\ninputs:\n  new: ${url}\n`,
    ],
    [
      'packages first: at the end',
      '# head\npackages: {}\n',
      `# head\npackages: {}\n\ninputs:\n  new: ${url}\n`,
    ],
    ['no newline at the end', 'inputs:\n  a: path:./a', `inputs:\n  a: path:./a\n  new: ${url}\n`.trimEnd()],
    ['inputs without a value', 'inputs: # none\nx-a: 1\n', `inputs: # none\n  new: ${url}\nx-a: 1\n`],
    ['empty inputs', 'inputs: {} # none\nx-a: 1\n', `inputs: # none\n  new: ${url}\nx-a: 1\n`],
    ['null inputs', 'inputs: null\n', `inputs:\n  new: ${url}\n`],
    [
      'block inputs with comments',
      'inputs:\n    # first\n    a: path:./a # why\n    # last\npackages: {}\n',
      `inputs:\n    # first\n    a: path:./a # why\n    new: ${url}\n    # last\npackages: {}\n`,
    ],
    [
      'deep block inputs',
      'inputs:\n  a:\n    url: path:./a\n    inputs:\n      b:\n        follows: c\n\npackages: {}\n',
      `inputs:\n  a:\n    url: path:./a\n    inputs:\n      b:\n        follows: c\n  new: ${url}\n\npackages: {}\n`,
    ],
    ['flow inputs', 'inputs: { a: path:./a }\n', `inputs: { a: path:./a, new: ${url} }\n`],
    [
      'flow inputs over lines with a last comma',
      'inputs: {\n  a: path:./a,\n}\n',
      `inputs: {\n  a: path:./a, new: ${url},\n}\n`,
    ],
    ['CRLF', 'inputs:\r\n  a: path:./a\r\n', `inputs:\r\n  a: path:./a\r\n  new: ${url}\r\n`],
    [
      'the end of a document',
      '---\ninputs:\n  a: path:./a\n...\n',
      `---\ninputs:\n  a: path:./a\n  new: ${url}\n...\n`,
    ],
    [
      'a block text above',
      'x-a: |+\n  text\n\n\npackages: {}\n',
      `x-a: |+\n  text\n\n\ninputs:\n  new: ${url}\n\npackages: {}\n`,
    ],
  ];
  for (const [what, before, after] of table) {
    it(`keeps the author's layout: ${what}`, () => expect(addInput(before, 'new', { url })).toBe(after));
  }

  it('writes version and flake below the name, and quotes what YAML would bend', () => {
    const text = addInput('inputs:\n  a: path:./a\n', 'new', { url, version: '>=2 <4', flake: false });
    expect(text).toBe(
      `inputs:\n  a: path:./a\n  new:\n    url: ${url}\n    version: ">=2 <4"\n    flake: false\n`,
    );
    expect(addInput('inputs: { a: path:./a }', 'new', { url, version: '1.2' })).toContain('version: "1.2"');
  });

  it('refuses what it cannot do without harm', () => {
    expect(thrownBy(() => addInput('inputs:\n  new: path:./a\n', 'new', { url })).code).toBe('FLK_USAGE');
    expect(thrownBy(() => addInput('', '9x', { url })).code).toBe('FLK_USAGE');
    expect(thrownBy(() => addInput('', 'self', { url })).code).toBe('FLK_USAGE');
    expect(thrownBy(() => addInput('a: [', 'new', { url })).code).toBe('FLK_MANIFEST_INVALID');
    expect(thrownBy(() => addInput('- a\n', 'new', { url })).code).toBe('FLK_MANIFEST_INVALID');
    expect(thrownBy(() => addInput('x-i: &i {a: path:./a}\ninputs: *i\n', 'new', { url })).code).toBe(
      'FLK_MANIFEST_INVALID',
    );
    expect(thrownBy(() => addInput('inputs: text\n', 'new', { url })).code).toBe('FLK_MANIFEST_INVALID');
  });
});

describe('removeInput', () => {
  const table: readonly [what: string, before: string, after: string][] = [
    [
      'one of several',
      'inputs:\n  a: x\n  # of b\n  b:\n    url: y\n  c: z\n',
      'inputs:\n  a: x\n  # of b\n  c: z\n',
    ],
    ['the last one, with inputs', 'inputs:\n  b: y\npackages: {}\n', 'packages: {}\n'],
    ['in flow style', 'inputs: { a: x, b: y }\n', 'inputs: { a: x }\n'],
    ['first in flow style', 'inputs: { b: y, a: x }\n', 'inputs: { a: x }\n'],
    ['CRLF', 'inputs:\r\n  a: x\r\n  b: y\r\n', 'inputs:\r\n  a: x\r\n'],
  ];
  for (const [what, before, after] of table) {
    it(what, () => expect(removeInput(before, 'b')).toBe(after));
  }

  it('does nothing rather than break an alias', () => {
    expect(thrownBy(() => removeInput('inputs:\n  b: &b path:./b\n  c: *b\n', 'b')).code).toBe(
      'FLK_MANIFEST_INVALID',
    );
  });
  it('names an input that is not there', () => {
    expect(thrownBy(() => removeInput('inputs: {a: x}', 'b')).code).toBe('FLK_INPUT_UNKNOWN');
    expect(thrownBy(() => removeInput('', 'toString')).code).toBe('FLK_INPUT_UNKNOWN');
  });
});

describe('edits of any layout', () => {
  const name = fc.stringMatching(/^[A-Za-z][A-Za-z0-9_-]{0,6}$/).filter((word) => word !== 'self');
  const comment = fc.constantFrom('', '', '# note\n', '\n', '  # deep note\n', '\n\n');
  const newline = fc.constantFrom('\n', '\r\n');
  const block = fc.constantFrom(
    'path:./x # why',
    '"git+https://h/#"',
    '\n    url: path:./x\n    inputs: { y: { follows: z } }',
    '\n    # inside\n    url: path:./x\n\n    inputs:\n      y:\n        follows: z',
    '{ url: path:./x, flake: false }',
    '>-\n    path:./x',
    "'path:./x'",
  );
  const others = fc.constantFrom(
    'description: A "quoted" thing\n',
    'packages:\n  a: |\n    text\n    more\n\n  b: {}\n',
    'x-list:\n- a\n- b: c\n',
    'x-flow: [a,\n  b]\n',
    'x-keep: |+\n  text\n\n\n',
  );
  const layout = fc
    .tuple(
      fc.array(others, { maxLength: 2 }),
      fc.constantFrom('block', 'flow', 'none', 'null', 'empty'),
      fc.uniqueArray(fc.tuple(name, block, fc.constantFrom('path:./x', '{ url: path:./x }'), comment), {
        selector: ([word]) => word,
        minLength: 1,
        maxLength: 4,
      }),
      fc.array(others, { maxLength: 2 }),
      comment,
      newline,
      fc.boolean(),
    )
    .filter(([before, , , after]) => new Set([...before, ...after]).size === before.length + after.length)
    .map(([before, style, inputs, after, note, eol, open]) => {
      const own = {
        block: `inputs:\n${inputs.map(([word, value, , said]) => `${said}  ${word}: ${value}`.replace(': \n', ':\n')).join('\n')}\n`,
        flow: `inputs: { ${inputs.map(([word, , value]) => `${word}: ${value}`).join(', ')} }\n`,
        none: '',
        null: 'inputs:\n',
        empty: 'inputs: {}\n',
      }[style];
      const text = `${before.join('')}${note}${own}${note}${after.join('')}`.replaceAll('\n', eol);
      return open ? text.trimEnd() : text;
    });

  it('mean what was intended, and leave every other line alone', () => {
    fc.assert(
      fc.property(
        layout,
        name,
        fc.option(fc.constantFrom('^1.2', '1.2', '*', '>=1')),
        (text, added, version) => {
          const before = (parse(text) ?? {}) as { inputs?: Record<string, unknown> | null };
          fc.pre(!Object.hasOwn(before.inputs ?? {}, added));
          const edited = addInput(text, added, version === null ? { url } : { url, version });
          expect(parse(edited)).toEqual({
            ...before,
            inputs: { ...before.inputs, [added]: version === null ? url : { url, version } },
          });
          const lines = edited.split(/\r?\n/);
          const flow = /inputs: \{/.test(text);
          let at = 0;
          for (const line of text.split(/\r?\n/)) {
            if (flow && line.startsWith('inputs: {')) continue;
            const found = lines.indexOf(line, at);
            expect(found, `lost line ${JSON.stringify(line)}`).toBeGreaterThanOrEqual(at);
            at = found + 1;
          }
          // And away again: the same meaning as before, and the same line ends.
          expect(parse(removeInput(edited, added))?.inputs ?? {}).toEqual(before.inputs ?? {});
          if (text.includes('\r\n')) expect(edited.replaceAll('\r\n', '')).not.toContain('\n');
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('inputNameFor', () => {
  const none = new Set<string>();
  const table: readonly [string, string][] = [
    ['git+https://git.example.org/acme/greet', 'greet'],
    ['git+https://git.example.org/acme/greet.git?ref=main', 'greet'],
    ['git+ssh://git@git.example.org/~me/my.tool.git', 'my-tool'],
    ['git+https://git.example.org/acme/mono?dir=packages/lib', 'lib'],
    ['github:acme/base/stable', 'base'],
    ['path:./libfoo/', 'libfoo'],
    ['path:.', 'input'],
    ['git+https://git.example.org/9lives', 'lives'],
    ['git+https://git.example.org/', 'input'],
    ['git+https://git.example.org/self', 'self-2'],
  ];
  for (const [ref, name] of table) it(ref, () => expect(inputNameFor(ref, none)).toBe(name));
  it('finds a free name', () => {
    expect(inputNameFor('path:./a', new Set(['a', 'a-2']))).toBe('a-3');
  });
});

describe('initialManifest', () => {
  for (const folder of ['hello', 'My Project', '7zip', 'default', 'true', '日本', '-x']) {
    it(`is a manifest without faults in a folder called ${folder}`, () => {
      const text = initialManifest(folder, 'flake.schema.json');
      const manifest = parseManifest({ path: 'flake.yaml', text });
      expect(text.split('\n')[0]).toBe('# yaml-language-server: $schema=flake.schema.json');
      expect(manifest.packages.size).toBe(2);
      expect(manifest.packages.get('default')?.kind).toBe('alias');
    });
  }
  it('takes an input', () => {
    const text = addInput(initialManifest('hello'), 'new', { url });
    expect([...parseManifest({ path: 'flake.yaml', text }).inputs.keys()]).toEqual(['new']);
    expect(text).toContain(`\ninputs:\n  new: ${url}\n\npackages:`);
  });
});
