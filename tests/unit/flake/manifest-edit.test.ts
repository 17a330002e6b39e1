import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { parseManifest } from '../../../src/flake/manifest.ts';
import {
  addInput,
  changeInput,
  type InputChanges,
  initialManifest,
  inputNameFor,
  inputUsers,
  removeInput,
} from '../../../src/flake/manifest-edit.ts';
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

describe('changeInput', () => {
  const table: readonly [what: string, before: string, changes: InputChanges, after: string][] = [
    [
      'a url alone gets company, its comment stays',
      'inputs:\n  a: x # why\n  b: y # that\n\n# more\n',
      { frozen: true },
      'inputs:\n  a: x # why\n  b:\n    url: y # that\n    frozen: true\n\n# more\n',
    ],
    [
      'a key is changed where it stands',
      'inputs:\n  b:\n    version: ^1 # ours\n    url: y\n',
      { version: '^2', url: 'z' },
      'inputs:\n  b:\n    version: ^2 # ours\n    url: z\n',
    ],
    [
      'a key is taken away',
      'inputs:\n  b:\n    url: y\n    # the old one\n    rev: "123"\n    flake: false\n',
      { rev: '' },
      'inputs:\n  b:\n    url: y\n    # the old one\n    flake: false\n',
    ],
    [
      'in flow style',
      'inputs: { b: { url: y } }\n',
      { ref: 'main' },
      'inputs: { b: { url: y, ref: main } }\n',
    ],
    [
      'a url in flow style',
      'inputs: { b: y, c: z }',
      { frozen: true },
      'inputs: { b: { url: y, frozen: true }, c: z }',
    ],
    [
      'what its inputs follow, however deep',
      'inputs:\n    b: y\n',
      {
        follows: new Map([
          ['c', 'a'],
          ['c/d', 'e'],
        ]),
      },
      'inputs:\n    b:\n        url: y\n        inputs:\n            c:\n                follows: a\n                inputs:\n                    d:\n                        follows: e\n',
    ],
    [
      'and what they follow no more',
      'inputs:\n  b:\n    url: y\n    inputs:\n      c:\n        follows: a\n',
      { follows: new Map([['c', '']]) },
      'inputs:\n  b:\n    url: y\n',
    ],
    [
      'what it says already',
      'inputs: {b:   y}',
      { url: 'y', rev: '', frozen: undefined },
      'inputs: {b:   y}',
    ],
    ['with CRLF', 'inputs:\r\n  b: y\r\n', { ref: 'v1' }, 'inputs:\r\n  b:\r\n    url: y\r\n    ref: v1\r\n'],
  ];
  for (const [what, before, changes, after] of table) {
    it(what, () => expect(changeInput(before, 'b', changes)).toBe(after));
  }

  it('names an input that is not there, and leaves what it cannot change to a person', () => {
    expect(thrownBy(() => changeInput('inputs: {a: x}', 'b', { ref: 'm' })).code).toBe('FLK_INPUT_UNKNOWN');
    for (const text of ['x-i: &i y\ninputs:\n  b: *i\n', 'inputs:\n  b: &b y\n  c: *b\n', 'inputs:\n  b:\n'])
      expect(thrownBy(() => changeInput(text, 'b', { ref: 'm' })).code).toBe('FLK_MANIFEST_INVALID');
  });
});

describe('inputUsers', () => {
  it('finds packages, templates and follows, in their places', () => {
    const text = [
      'inputs:',
      '  base: path:./base',
      '  greet: { url: "path:./greet", inputs: { lib: { follows: base } } }',
      '  other: { follows: base/deep }',
      'packages:',
      '  one: { buildInputs: ["base#lib", "greet#x"], env: { P: "{{base}}/p" }, installPhase: x }',
      '  two: { src: base/src, installPhase: "echo {{greet}}" }',
      '',
    ].join('\n');
    const manifest = parseManifest({ path: 'flake.yaml', text });
    const found = inputUsers(manifest, ['base']);
    const lineOf = (at: number): number => text.slice(0, at).split('\n').length;
    expect(found.map(({ range, file }) => [lineOf(range.start), file.text === text])).toEqual([
      [3, true],
      [4, true],
      [6, true],
      [6, true],
      [7, true],
    ]);
    expect(found[0]?.message).toBe('greet/lib follows base');
    expect(inputUsers(manifest, ['other'])).toEqual([]);
    expect(inputUsers(manifest, ['base', 'greet', 'other']).map(({ range }) => lineOf(range.start))).toEqual([
      6, 6, 6, 7, 7,
    ]);
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

  it('change one key of one input, and no other line', () => {
    const change = fc.oneof(
      fc.constant<[string, InputChanges, unknown]>(['frozen', { frozen: true }, true]),
      fc
        .constantFrom('main', '1.2', 'a: b', '#x')
        .map((ref): [string, InputChanges, unknown] => ['ref', { ref }, ref]),
      fc.constant<[string, InputChanges, unknown]>(['url', { url: 'path:./new' }, 'path:./new']),
    );
    let done = 0;
    let refused = 0;
    fc.assert(
      fc.property(layout, fc.nat(), change, (text, index, [key, changes, value]) => {
        const before = (parse(text) ?? {}) as { inputs?: Record<string, unknown> | null };
        const names = Object.keys(before.inputs ?? {});
        fc.pre(names.length > 0);
        const target = names[index % names.length]!;
        let edited: string;
        try {
          edited = changeInput(text, target, changes);
        } catch (error) {
          // A url in a block of its own cannot be moved without being written anew.
          expect(error).toMatchObject({ code: 'FLK_MANIFEST_INVALID' });
          refused++;
          return;
        }
        done++;
        const old = before.inputs?.[target];
        const map = typeof old === 'string' ? { url: old } : (old as object);
        const now = key === 'url' && typeof old === 'string' ? value : { ...map, [key]: value };
        expect(parse(edited)).toEqual({ ...before, inputs: { ...before.inputs, [target]: now } });
        if (text.includes('\r\n')) expect(edited.replaceAll('\r\n', '')).not.toContain('\n');
        // Of the lines before, at most those of the value are gone.
        const lines = edited.split(/\r?\n/);
        const lost = text.split(/\r?\n/).filter((line) => {
          const at = lines.indexOf(line);
          if (at >= 0) lines.splice(at, 1);
          return at < 0;
        });
        expect(lost.length).toBeLessThanOrEqual(2);
      }),
      { numRuns: 500 },
    );
    expect(refused).toBeLessThan(done / 4);
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
