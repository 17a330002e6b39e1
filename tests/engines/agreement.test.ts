/**
 * One derivation, three engines, one hash: packages made up by chance, built by the sandbox of this machine, by Nix and by a server
 * of the Remote Execution API, each into a store of its own, have the same derivations, paths, bytes and references.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { narHashOf, sha256 } from '../../src/formats/hash.ts';
import { hashTree } from '../../src/formats/nar.ts';
import { tarOf } from '../support/archives.ts';
import { canNamespace } from '../support/builds.ts';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { nixAvailable, nixPrograms } from '../support/nix.ts';
import { type BuildBox, buildBox, noBuildBox } from '../support/reapi.ts';
import { programFiles, treeOfFiles } from '../support/toolchain.ts';
import { file, treeFrom } from '../support/trees.ts';

const reason = nixAvailable() ? (canNamespace ? noBuildBox : 'no sandbox') : 'no Nix';

const amount = 50;

interface Spec {
  readonly name: string;
  readonly version: string | undefined;
  readonly outputs: readonly string[];
  readonly values: readonly string[];
  readonly files: readonly { readonly path: string; readonly value: number; readonly executable: boolean }[];
  readonly links: readonly { readonly path: string; readonly target: string }[];
  /** Earlier packages, counted back from this one. */
  readonly needs: readonly number[];
  readonly fixed: 'flat' | 'recursive' | undefined;
  readonly namesItself: boolean;
}

const word = fc.string({ unit: fc.constantFrom(...'abcXYZ0189+-._?='), minLength: 1, maxLength: 12 });
/** In a folder, names of any letters; not `.`, `..` or an option of a program. */
const entry = fc
  .string({ unit: fc.constantFrom(...'abcXYZ019 é𝄞-._+"$\\\''), minLength: 1, maxLength: 8 })
  .map((name) => `f${name}`);
const value = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'grapheme', maxLength: 20 }),
      fc.constantFrom("'", '"', '$HOME', '\\n', '\n', '`id`', 'é', '𝄞', ' '),
    ),
  )
  // `{{` names a package, and no variable holds NUL.
  .map((parts) => parts.join('').replaceAll('\0', '').replaceAll('{{', '{ '));

const spec: fc.Arbitrary<Spec> = fc.record({
  name: fc.oneof(
    { weight: 9, arbitrary: word },
    { weight: 1, arbitrary: fc.string({ unit: fc.constantFrom(...'abc'), minLength: 150, maxLength: 180 }) },
  ),
  version: fc.option(word, { nil: undefined }),
  outputs: fc.constantFrom(['out'], ['out'], ['out', 'dev'], ['out', 'dev', 'doc']),
  values: fc.array(value, { minLength: 1, maxLength: 4 }),
  files: fc.uniqueArray(
    fc.record({
      path: fc.array(entry, { minLength: 1, maxLength: 3 }).map((names) => names.join('/')),
      value: fc.nat(3),
      executable: fc.boolean(),
    }),
    { maxLength: 5, selector: ({ path }) => path.split('/')[0] },
  ),
  links: fc.uniqueArray(
    fc.record({
      path: entry.map((name) => `l${name}`),
      target: fc.oneof(entry, fc.constantFrom('..', '/build', 'a/../b')),
    }),
    {
      maxLength: 2,
      selector: ({ path }) => path,
    },
  ),
  needs: fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 3 }),
  fixed: fc.option(fc.constantFrom('flat' as const, 'recursive' as const), { nil: undefined, freq: 5 }),
  namesItself: fc.boolean(),
});

const specs = fc.sample(spec, { numRuns: amount, seed: 20261129 });

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
/** Nix's store, which other runs use too, has seen none of these. */
const fresh = `${process.pid}-${Date.now()}`;
const nameOf = (index: number): string => `p${index}`;

async function declarationOf({ fixed, ...made }: Spec, index: number): Promise<Record<string, unknown>> {
  const env = { ...Object.fromEntries(made.values.map((text, i) => [`VALUE_${i}`, text])), FRESH: fresh };
  const of = (number: number): string => `"$VALUE_${number % made.values.length}"`;
  const needs = made.needs.map((back) => index - back).filter((need) => need >= 0);
  const common = {
    ...(made.version === undefined ? {} : { version: made.version }),
    env,
    buildInputs: needs.map((need) => `#${nameOf(need)}`),
  };
  if (fixed !== undefined) {
    const bytes = Buffer.from(made.values[0]!);
    return {
      ...common,
      outputHash:
        fixed === 'flat' ? narHashOf(sha256(bytes)) : (await hashTree(treeFrom(file(bytes)))).narHash,
      outputHashMode: fixed,
      installPhase: `printf %s ${of(0)} > $out`,
    };
  }
  const lines = ['mkdir -p $out', `printf '%s\\n' ${quoted(made.name)} > $out/name`];
  for (const { path, value: which, executable } of made.files) {
    const place = `$out/${quoted(path)}`;
    const folder = path.split('/').slice(0, -1).join('/');
    lines.push(`mkdir -p $out/${quoted(folder)}`, `printf %s ${of(which)} > ${place}`);
    if (executable) lines.push(`chmod 755 ${place}`);
  }
  for (const { path, target } of made.links) lines.push(`ln -s ${quoted(target)} $out/${quoted(path)}`);
  for (const need of needs) lines.push(`echo {{#${nameOf(need)}}} >> $out/needs`);
  if (made.namesItself) lines.push('echo $out > $out/self');
  // Outputs that name each other are refused.
  const environment = `env ${made.outputs.map((output) => `-u ${output}`).join(' ')} | sort`;
  for (const output of made.outputs.slice(1))
    lines.push(`mkdir $${output}`, `${environment} > $${output}/environment`);
  lines.push('ls / > $out/root', 'pwd > $out/place', 'umask > $out/umask');
  return { ...common, outputs: made.outputs, installPhase: lines.join('\n') };
}

describe.skipIf(reason)(
  `one derivation, three engines, one hash${reason ? ` (skipped: ${reason})` : ''}`,
  () => {
    let world: CliWorld;
    let box: BuildBox | undefined;
    const packages = specs.map((_, index) => `#${nameOf(index)}`);

    beforeAll(async () => {
      world = cliWorld();
      const files = programFiles(['sh', 'mkdir', 'cp', 'chmod', 'rm', 'ln', 'ls', 'env', 'sort']);
      const { narHash } = await hashTree(treeFrom(treeOfFiles(files)));
      const archive = join(world.folder, 'tools.tar');
      writeFileSync(
        archive,
        tarOf(...[...files].map(([path, place]) => ({ path, contents: readFileSync(place), mode: 0o755 }))),
      );
      const declared = await Promise.all(
        specs.map(async (one, index) => [nameOf(index), await declarationOf(one, index)] as const),
      );
      const manifest = {
        toolchain: '#tools',
        packages: {
          tools: {
            fetch: { url: pathToFileURL(archive).href, hash: narHash, unpack: true, stripRoot: false },
          },
          ...Object.fromEntries(declared),
        },
      };
      writeFileSync(join(world.folder, 'flake.yaml'), stringify(manifest));
      box = await buildBox();
    });
    afterAll(() => box?.kill());

    /** What became of all packages: path → what its record says of its content. */
    async function builtBy(builder: string): Promise<ReadonlyMap<string, unknown>> {
      const store = join(world.home, `store-${builder.split('=')[0]}`);
      mkdirSync(store);
      const args = ['--store', store];
      const built = await world.flk([
        'build',
        '--no-link',
        '--json',
        '--cores',
        '4',
        '--builders',
        builder,
        ...args,
        ...packages,
      ]);
      expect(built.status, built.stderr).toBe(0);
      const paths = (JSON.parse(built.stdout) as { outputs: Record<string, string> }[]).flatMap(
        ({ outputs }) => Object.values(outputs),
      );
      const told = await world.flk(['store', 'path-info', '--json', ...args, ...paths]);
      expect(told.status, told.stderr).toBe(0);
      const infos = Object.entries(JSON.parse(told.stdout) as Record<string, Record<string, unknown>>);
      return new Map(
        infos.map(([path, { narHash, narSize, references, deriver, ca }]) => [
          path,
          { narHash, narSize, references, deriver, ca },
        ]),
      );
    }

    let here: ReadonlyMap<string, unknown>;

    it(`builds ${amount} packages made up by chance`, async () => {
      here = await builtBy('local');
      expect(here.size).toBeGreaterThanOrEqual(amount);
    }, 600_000);

    it('has the same from Nix', async () => {
      expect(await builtBy(`nix=${join(nixPrograms(), 'nix')}`)).toEqual(here);
    }, 600_000);

    it('has the same from BuildBox', async () => {
      expect(await builtBy(`remote=${box!.address}`)).toEqual(here);
    }, 600_000);
  },
);
