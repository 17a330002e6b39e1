/* biome-ignore-all lint/suspicious/noTemplateCurlyInString: Nix has such holes in its strings too */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { positionOf } from '../../../src/base/diagnostics.ts';
import { FlkError } from '../../../src/base/errors.ts';
import { type NixFlake, parseFlakeNix } from '../../../src/flake/nix-inputs.ts';
import { thrownBy } from '../../support/errors.ts';

const path = 'flake.nix';
const read = (text: string): NixFlake => parseFlakeNix({ path, text });
/** With outputs, which every flake has. */
const flake = (body: string): string => `{\n${body}\noutputs = _: { };\n}`;

/** Each fault as `LINE:COLUMN «what is underlined» message → suggestion`. */
function faultsOf(text: string): string[] {
  const error = thrownBy(() => read(text));
  expect(error.code).toBe('FLK_MANIFEST_INVALID');
  return error.diagnostics.map(({ range, message, suggestion }) => {
    const { line, column } = positionOf(text, range.start);
    const advice = suggestion === undefined ? '' : ` → ${suggestion}`;
    return `${line}:${column} «${text.slice(range.start, range.end)}» ${message}${advice}`;
  });
}

const whole = `rec {
  description = "All of it";
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-24.05";
  inputs = {
    sub = { url = ./sub/../lib; flake = false; };
    forge = { type = "gitlab"; owner = "group/inner"; repo = "it"; host = "git.example.org"; dir = "nix"; };
    same.follows = "forge/nixpkgs";
    forge.inputs.nixpkgs.follows = "nixpkgs";
    forge.inputs.deep.inputs.deeper.url = "path:./x";
    plain = { };
    none.follows = "";
    self.submodules = true;
  };
  nixConfig = {
    extra-substituters = [ "https://cache.example.org" description ];
    sandbox = false;
    max-jobs = 4;
    netrc-file = ./netrc;
    inherit (import ./more.nix) x;
  };
  outputs = inputs@{ self, nixpkgs, implied ? null, ... }: { };
}
`;

describe('flake.nix', () => {
  it('says all that locking wants to know', () => {
    const text = whole.replace(/ *inherit.*\n/, '');
    const { kind, description, inputs, self, nixConfig, outputs } = read(text);
    expect({ kind, description, self }).toEqual({
      kind: 'nix',
      description: 'All of it',
      self: { submodules: true },
    });
    const base = { flake: true, frozen: false, groups: [], inputs: new Map(), range: expect.anything() };
    expect(Object.fromEntries(inputs)).toEqual({
      nixpkgs: { ...base, ref: { type: 'github', owner: 'NixOS', repo: 'nixpkgs', ref: 'nixos-24.05' } },
      sub: { ...base, ref: { type: 'path', path: 'lib' }, flake: false },
      forge: {
        ...base,
        ref: { type: 'gitlab', owner: 'group/inner', repo: 'it', host: 'git.example.org', dir: 'nix' },
        inputs: new Map([
          ['nixpkgs', { ...base, follows: ['nixpkgs'] }],
          [
            'deep',
            { ...base, inputs: new Map([['deeper', { ...base, ref: { type: 'path', path: './x' } }]]) },
          ],
        ]),
      },
      same: { ...base, follows: ['forge', 'nixpkgs'] },
      plain: base,
      none: { ...base, follows: [] },
      implied: { ...base, ref: { type: 'indirect', id: 'implied' } },
    });
    expect(Object.fromEntries(nixConfig)).toEqual({
      'extra-substituters': ['https://cache.example.org', 'All of it'],
      sandbox: false,
      'max-jobs': 4n,
      'netrc-file': { path: './netrc' },
    });
    expect(text.slice(outputs?.start, outputs?.end)).toMatch(/^inputs@\{.*\}$/);
    for (const [name, { range }] of inputs) expect(text.slice(range.start, range.end)).toBe(name);
  });

  it('takes one of Nix’s own functions for outputs', () => {
    expect(read('{ outputs = import; }').outputs).toBeUndefined();
  });

  it('tells of several faults at once', () => {
    expect(
      faultsOf(flake('description = 1;\ninputs.a.url = 2;\ninputs.b.flaek = true;\nouputs = x;')),
    ).toEqual([
      '2:15 «1» description is a whole number, and should be a string → write it in double quotes: "…"',
      '3:16 «2» inputs.a.url is a whole number, and should be a string or a path → write "github:owner/repo", or ./folder',
      '4:10 «flaek» an input without a type has no attribute flaek → did you mean flake?',
      '5:1 «ouputs» a flake has no attribute ouputs → did you mean outputs?',
      '5:10 «x» nothing here is named x → bind it with let, take it as an argument, or put it in quotes',
    ]);
  });

  it.each([
    ['x: x', '1:1 «x: x» a flake is an attribute set, written out → begin the file with { and end it with }'],
    ['{ }', '1:1 «{» the flake has no outputs → add outputs = { self }: { };'],
    ['{ outputs = _: ; }', '1:16 «;» found ‘;’ where an expression should be'],
    [
      flake('inputs.a = "github:a/b";'),
      '2:12 «"github:a/b"» inputs.a is a string, and should be an attribute set → write inputs.a.url = "…"',
    ],
    [
      flake('inputs.a.url = "x" + "y";'),
      '2:16 «"x" + "y"» inputs.a.url has to be a string or a path written out, and this must be computed → write out what comes of it: Nix reads this part of a flake without evaluating it',
    ],
    [
      flake('inputs.${"a" + "b"}.url = "x";'),
      '2:8 «${"a" + "b"}» the names in inputs have to be written out, and this one must be computed → write out what comes of it: Nix reads this part of a flake without evaluating it',
    ],
    [
      flake('inputs.a = { url = "path:./x"; flake = "false"; };'),
      '2:40 «"false"» inputs.a.flake is a string, and should be true or false → write true or false, without quotes',
    ],
    [
      flake('inputs.a = { url = "path:./x"; follows = "b"; };'),
      '2:14 «url» input a has a source of its own and follows another → keep its source or follows, not both',
    ],
    [
      flake('inputs.a.follows = "b c";'),
      '2:20 «"b c"» inputs.a.follows is a path over inputs’ names, and "b c" is none → write "nixpkgs" or "greet/nixpkgs"',
    ],
    [
      flake('inputs.a = { url = "path:./x"; dir = "y"; };'),
      '2:32 «dir» an input without a type has no attribute dir → put dir into the url',
    ],
    [
      flake('inputs.a.url = /etc;'),
      '2:16 «/etc» inputs.a.url leads out of the flake’s own source → write it as a string: "path:/etc"',
    ],
    [
      flake('inputs.a.inputs.self.url = "path:./x";'),
      '2:17 «self» self is that flake itself, and cannot be overridden → remove it; inputs.self stands at the top alone',
    ],
    [
      flake('inputs.self.ref = "main";'),
      '2:13 «ref» inputs.self has no attribute ref → it has submodules and lfs; the rest is said where the flake is named',
    ],
    [
      flake('nixConfig.a = [ 1 ];'),
      '2:17 «1» nixConfig.a is a list of strings, and this is a whole number → put it in double quotes',
    ],
    [
      flake('nixConfig.a = null;'),
      '2:15 «null» nixConfig.a is null, and should be a string, a number, true, false or a list of strings → write "…", 1, true, false or [ "…" ]',
    ],
    [
      '{ outputs = { }; }',
      '1:13 «{ }» outputs is an attribute set, and should be a function → write { self, … }: { … }',
    ],
    [
      flake('inputs.a = { type = "path"; path = "./x"; lastModified = 9007199254740993; };'),
      '2:58 «9007199254740993» inputs.a.lastModified is too large a number → write at most 9007199254740991',
    ],
  ])('refuses %j', (text, fault) => {
    expect(faultsOf(text)).toEqual([fault]);
  });

  it('points at a reference that is none, and says what it should be', () => {
    const [wrong] = faultsOf(flake('inputs.a = { type = "zip"; };'));
    expect(wrong).toMatch(/^2:21 «"zip"» .* → write git, path, github/);
    expect(faultsOf(flake('inputs.a.url = "x:y:z";'))[0]).toMatch(/^2:16 «"x:y:z"» flake reference/);
  });

  it('follows variables of recursive sets as far as Nix does', () => {
    expect(faultsOf('rec { description = outputs; outputs = description; }')).toHaveLength(2);
    expect(faultsOf(flake('inputs = rec { b = a; a.url = "path:./x"; };'))).toHaveLength(1);
    expect(read(flake('inputs = rec { a.url = "path:./x"; b = a; };')).inputs.size).toBe(2);
    const hops = Array.from({ length: 50_000 }, (_, i) => `a${i + 1} = a${i};`).join(' ');
    const text = flake(`inputs = rec { a0.url = "path:./x"; ${hops} };`);
    expect(faultsOf(text)).toHaveLength(100);
    expect(faultsOf('rec { inputs.a.inputs = inputs; outputs = _: { }; }')[0]).toContain('nested more than');
    const doubling = 'rec { inputs = { a.inputs = inputs; b.inputs = inputs; }; outputs = _: { }; }';
    expect(faultsOf(doubling)).toHaveLength(2);
    const many = Array.from({ length: 10_001 }, (_, i) => `a${i} = { };`).join(' ');
    expect(faultsOf(flake(`inputs = { ${many} };`)).join()).toContain(
      '«a10000» the flake declares more than',
    );
    expect(faultsOf('rec { nixConfig.a = [ nixConfig ]; outputs = _: { }; }')[0]).toContain('attribute set');
  });

  it('throws nothing but FLK_MANIFEST_INVALID, whatever is done to a flake', () => {
    const piece = fc.constantFrom(
      '{',
      '}',
      ';',
      '=',
      '"',
      "''",
      '$',
      '.',
      'rec',
      'inputs',
      'self',
      '1',
      '[',
      'x',
      '(',
      '/',
      ' ',
      '',
    );
    const edits = fc.array(fc.tuple(fc.nat(whole.length), fc.nat(12), piece), { minLength: 1, maxLength: 5 });
    let taken = 0;
    fc.assert(
      fc.property(edits, (all) => {
        const text = all.reduce((now, [at, cut, put]) => now.slice(0, at) + put + now.slice(at + cut), whole);
        try {
          read(text);
          taken++;
        } catch (error) {
          if (!(error instanceof FlkError)) throw error;
          expect(error.code).toBe('FLK_MANIFEST_INVALID');
          expect(error.diagnostics.length).toBeGreaterThan(0);
        }
      }),
      { seed: 4, numRuns: 2000 },
    );
    expect(taken).toBeLessThan(2000);
  });
});
