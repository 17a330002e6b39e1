/** Derivations of every shape, made up by chance: flk and Nix give each the same paths, the same text and the same JSON. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  type Derivation,
  type DerivationDraft,
  finishDerivation,
  parseDerivation,
  printDerivation,
} from '../../src/formats/derivation.ts';
import { printDerivations } from '../../src/formats/derivation-json.ts';
import { narHashOf, sha256 } from '../../src/formats/hash.ts';
import { makeTextPath, type StorePath } from '../../src/formats/store-path.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

interface Spec {
  readonly name: string;
  readonly outputs: readonly string[];
  readonly fixed: { readonly recursive: boolean; readonly seed: string } | undefined;
  readonly args: readonly string[];
  readonly variables: readonly (readonly [string, string])[];
  /** Earlier derivations, counted back from this one, and which of their outputs. */
  readonly needs: readonly (readonly [back: number, output: number])[];
  readonly source: string | undefined;
}

/** What `nix eval` keeps as it is: no NUL, no half of a pair. */
const text = fc.string({ unit: 'grapheme', maxLength: 30 }).filter((value) => !value.includes('\0'));
const awkward = fc
  .array(
    fc.constantFrom(
      '"',
      '\\',
      '\n',
      '\r',
      '\t',
      '$',
      '${',
      '$${',
      "''",
      '\u0001',
      '\u007f',
      'é',
      '𝄞',
      '\ue000',
      ' ',
    ),
    {
      maxLength: 12,
    },
  )
  .map((parts) => parts.join(''));
const value = fc.oneof(fc.constant(''), text, awkward);
const nameCharacter = fc.constantFrom(...'abcXYZ0189+-._?=');
const name = fc.oneof(
  { weight: 9, arbitrary: fc.string({ unit: nameCharacter, minLength: 1, maxLength: 20 }) },
  { weight: 1, arbitrary: fc.string({ unit: nameCharacter, minLength: 190, maxLength: 203 }) },
);
const variable = fc.oneof(
  fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_-]{0,8}$/),
  fc.constantFrom('1', '10', '9', 'é', '\ue000', '𝄞', 'a b', 'toString'),
);
const taken = new Set([
  'name',
  'system',
  'builder',
  'args',
  'outputs',
  'source',
  '__proto__',
  'out',
  'dev',
  'zdoc',
  'Lib',
]);

const spec: fc.Arbitrary<Spec> = fc.record({
  // Nix refuses . and .. before a dash, and names that end in .drv.
  name: name.map((word) => `n${word}`).filter((word) => !word.endsWith('.drv')),
  outputs: fc.constantFrom(
    ['out'],
    ['out'],
    ['out', 'dev'],
    ['dev', 'out', 'zdoc'],
    ['zdoc', 'Lib', 'out', 'dev'],
    ['Lib', 'dev'],
    ['dev'],
  ),
  fixed: fc.option(fc.record({ recursive: fc.boolean(), seed: fc.string() }), { nil: undefined, freq: 4 }),
  args: fc.array(value, { maxLength: 4 }),
  variables: fc.uniqueArray(
    fc.tuple(
      variable.filter((word) => !taken.has(word) && !word.startsWith('__') && !/^need\d/.test(word)),
      value,
    ),
    { maxLength: 6, selector: ([key]) => key },
  ),
  needs: fc.array(fc.tuple(fc.integer({ min: 1, max: 40 }), fc.nat(3)), { maxLength: 5 }),
  source: fc.option(value, { nil: undefined, freq: 3 }),
});

const amount = 500;
const specs = fc.sample(spec, { numRuns: amount, seed: 20260101 });

/** Text in the Nix language. */
const quoted = (content: string): string =>
  `"${content
    .replace(/["\\]|\$(?=\{)/g, (character) => `\\${character}`)
    .replaceAll('$${', '$\\${')
    .replaceAll('\r', '\\r')}"`;

function nixExpression(): string {
  const lines = specs.map(({ name: called, outputs, fixed, args, variables, needs, source }, i) => {
    const attributes = [
      `name = ${quoted(called)};`,
      `args = [ ${args.map(quoted).join(' ')} ];`,
      ...(outputsOf(i).length === 1 && outputs[0] === 'out'
        ? []
        : [`outputs = [ ${outputsOf(i).map(quoted).join(' ')} ];`]),
      ...variables.map(([key, content]) => `${quoted(key)} = ${quoted(content)};`),
      ...(source === undefined ? [] : [`source = builtins.toFile "source" ${quoted(source)};`]),
      ...needsOf(i, needs).map(
        ([at, output], j) => `need${j} = (builtins.elemAt all ${at}).${quoted(output)};`,
      ),
      ...(fixed === undefined
        ? []
        : [
            `outputHash = ${quoted(narHashOf(sha256(fixed.seed)))};`,
            'outputHashAlgo = "sha256";',
            `outputHashMode = "${fixed.recursive ? 'recursive' : 'flat'}";`,
          ]),
    ];
    return `(derivation { system = "x86_64-linux"; builder = "/bin/sh"; ${attributes.join(' ')} })`;
  });
  return `let all = [\n${lines.join('\n')}\n]; in all\n`;
}

/** A fixed output is the only one. */
const outputsOf = (i: number): readonly string[] => (specs[i]!.fixed ? ['out'] : specs[i]!.outputs);

function needsOf(i: number, needs: Spec['needs']): [at: number, output: string][] {
  return needs.flatMap(([back, output]) => {
    const at = i - back;
    if (at < 0) return [];
    const outputs = outputsOf(at);
    return [[at, outputs[output % outputs.length]!]];
  });
}

interface Made {
  readonly drvPath: StorePath;
  readonly derivation: Derivation;
}

/** As flk computes them. */
function ours(): Made[] {
  const made: Made[] = [];
  const modulo = new Map<StorePath, string>();
  for (const [
    i,
    { name: called, fixed, args, variables, needs, source, outputs: written },
  ] of specs.entries()) {
    const outputs = outputsOf(i);
    const inputDrvs = new Map<StorePath, string[]>();
    const env = new Map<string, string>(variables.map(([key, content]) => [key, content]));
    env.set('name', called).set('system', 'x86_64-linux').set('builder', '/bin/sh');
    if (!(outputs.length === 1 && written[0] === 'out')) env.set('outputs', outputs.join(' '));
    for (const [j, [at, output]] of needsOf(i, needs).entries()) {
      const { drvPath, derivation } = made[at]!;
      env.set(`need${j}`, derivation.outputs.get(output)!.path);
      inputDrvs.set(drvPath, [...new Set([...(inputDrvs.get(drvPath) ?? []), output])]);
    }
    const inputSrcs = source === undefined ? [] : [makeTextPath('source', source)];
    if (source !== undefined) env.set('source', inputSrcs[0]!);
    let output = { hashAlgo: '', hash: '' };
    if (fixed !== undefined) {
      const digest = sha256(fixed.seed);
      output = { hashAlgo: fixed.recursive ? 'r:sha256' : 'sha256', hash: digest.toString('hex') };
      env.set('outputHash', narHashOf(digest)).set('outputHashAlgo', 'sha256');
      env.set('outputHashMode', fixed.recursive ? 'recursive' : 'flat');
    }
    const draft: DerivationDraft = {
      outputs: new Map(outputs.map((word) => [word, output])),
      inputDrvs,
      inputSrcs,
      system: 'x86_64-linux',
      builder: '/bin/sh',
      args,
      env,
    };
    const finished = finishDerivation(called, draft, (path) => modulo.get(path)!);
    modulo.set(finished.drvPath, finished.modulo);
    made.push(finished);
  }
  return made;
}

describe.skipIf(!nixAvailable())(`${amount} derivations ${nixReason}`, () => {
  const made = ours();
  const folder = temporaryFolder();
  const place = join(folder, 'all.nix');
  let paths: { readonly drv: string; readonly outputs: Readonly<Record<string, string>> }[] = [];

  beforeAll(async () => {
    writeFileSync(place, nixExpression());
    const expression = `map (d: { drv = d.drvPath; outputs = builtins.listToAttrs (map (o: { name = o; value = d.\${o}.outPath; }) (d.outputs or [ "out" ])); }) (import ${place})`;
    const { status, stdout, stderr } = await nix(['eval', '--impure', '--json', '--expr', expression]);
    expect(stderr.includes('error') ? stderr : '').toBe('');
    expect(status).toBe(0);
    paths = JSON.parse(stdout) as typeof paths;
  });

  test('have the same .drv paths and output paths', () => {
    expect(paths).toHaveLength(amount);
    for (const [i, { drvPath, derivation }] of made.entries()) {
      const outputs = Object.fromEntries([...derivation.outputs].map(([word, { path }]) => [word, path]));
      expect({ drv: drvPath, outputs }, JSON.stringify(specs[i])).toEqual(paths[i]);
    }
  });

  test('are the same JSON', async () => {
    const shown = new Map(made.map(({ drvPath, derivation }) => [drvPath, derivation]));
    const { stdout } = await nix(['derivation', 'show', ...shown.keys()]);
    expect(printDerivations(shown, false)).toBe(stdout.trimEnd());
    const pretty = await nix(['derivation', 'show', '--pretty', made[0]!.drvPath, made[7]!.drvPath]);
    const two = new Map([made[0]!, made[7]!].map(({ drvPath, derivation }) => [drvPath, derivation]));
    expect(printDerivations(two, true)).toBe(pretty.stdout.trimEnd());
  });

  test('are the text that Nix wrote, and read back from it', async () => {
    for (const { drvPath, derivation } of [3, 50, 499].map((i) => made[i]!)) {
      const { stdout } = await nix(['store', 'cat', drvPath]);
      expect(stdout).toBe(printDerivation(derivation));
    }
    for (const { derivation } of made) {
      const written = printDerivation(derivation);
      expect(printDerivation(parseDerivation(written))).toBe(written);
    }
  });

  test('cover what they are meant to', () => {
    const count = (wanted: (spec: Spec, i: number) => boolean) => specs.filter(wanted).length;
    expect(count(({ fixed }) => fixed?.recursive === true)).toBeGreaterThan(20);
    expect(count(({ fixed }) => fixed?.recursive === false)).toBeGreaterThan(20);
    expect(count((_, i) => outputsOf(i).length > 1)).toBeGreaterThan(50);
    expect(count((_, i) => !outputsOf(i).includes('out'))).toBeGreaterThan(10);
    expect(count(({ name: called }) => called.length > 190)).toBeGreaterThan(20);
    expect(count(({ needs }, i) => needsOf(i, needs).length > 1)).toBeGreaterThan(100);
    expect(count(({ args }) => args.some((content) => /[^\u0000-\u007f]/.test(content)))).toBeGreaterThan(50);
    expect(readFileSync(place, 'utf8').length).toBeGreaterThan(50_000);
  });
});
