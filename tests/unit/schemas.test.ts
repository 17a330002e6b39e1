import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { parseManifest } from '../../src/flake/manifest.ts';

type Schema = { readonly [key: string]: unknown };

const folder = fileURLToPath(new URL('../../schemas', import.meta.url));
const read = (name: string): Schema => JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')) as Schema;
const isSchema = (value: unknown): value is Schema =>
  value !== null && typeof value === 'object' && !Array.isArray(value);

it.each(readdirSync(folder))('%s is JSON Schema 2020-12', (name) => {
  const schema = read(name);
  expect(schema.$schema).toBe('https://json-schema.org/draft/2020-12/schema');
  const ajv = new Ajv2020({ strictTypes: false, strictRequired: false, allowUnionTypes: true });
  ajv.addVocabulary(['patternErrorMessage']);
  expect(ajv.validateSchema(schema), ajv.errorsText()).toBe(true);
  expect(() => ajv.compile(schema)).not.toThrow();
});

describe('flake.schema.json', () => {
  const schema = read('flake.schema.json');
  const definitions = schema.$defs as Readonly<Record<string, Schema>>;
  /** Every schema that describes a key: by its path. */
  const keys = new Map<string, Schema>();
  const collect = (node: Schema, path: string): void => {
    for (const [word, value] of Object.entries(node)) {
      if (!isSchema(value) || word === 'examples' || word === 'default') continue;
      if (word === 'properties' || word === 'patternProperties' || word === '$defs') {
        for (const [key, inner] of Object.entries(value)) {
          if (!isSchema(inner)) continue;
          keys.set(`${path}/${word}/${key}`, inner);
          collect(inner, `${path}/${word}/${key}`);
        }
      } else collect(value, `${path}/${word}`);
    }
  };
  collect(schema, '#');
  const target = (node: Schema): Schema =>
    typeof node.$ref === 'string' ? definitions[node.$ref.split('/').at(-1)!]! : node;

  it('says of every key what it means, for editors', () => {
    expect(keys.size).toBeGreaterThan(60);
    const silent = [...keys].filter(
      ([, node]) => typeof (node.description ?? target(node).description) !== 'string',
    );
    expect(silent.map(([path]) => path)).toEqual([]);
  });

  it('has examples that it accepts itself', () => {
    const ajv = new Ajv2020({ strict: false });
    ajv.addSchema(schema, 'flake');
    let count = 0;
    for (const [path, node] of keys) {
      for (const example of (node.examples as unknown[] | undefined) ?? []) {
        const pointer = path.slice(1).split('/').map(encodeURIComponent).join('/');
        const accepts = ajv.compile({ $ref: `flake#${pointer}` });
        expect(accepts(example), `${path}: ${JSON.stringify(example)}`).toBe(true);
        count++;
      }
    }
    expect(count).toBeGreaterThan(30);
  });

  it('speaks for every pattern in words', () => {
    const visit = (node: unknown, path: string): string[] => {
      if (Array.isArray(node)) return node.flatMap((item, index) => visit(item, `${path}/${index}`));
      if (!isSchema(node)) return [];
      const here =
        typeof node.pattern === 'string' && typeof node.patternErrorMessage !== 'string' ? [path] : [];
      return [...here, ...Object.entries(node).flatMap(([key, value]) => visit(value, `${path}/${key}`))];
    };
    expect(visit(schema, '#')).toEqual([]);
  });

  it('compiles to a validator that needs no other module, and agrees with it', async () => {
    const file = fileURLToPath(new URL('../../src/generated/flake-validator.js', import.meta.url));
    // From a data: URL there is nothing to import from, and no require.
    const url = `data:text/javascript,${encodeURIComponent(readFileSync(file, 'utf8'))}`;
    const { validate } = (await import(url)) as { validate: (value: unknown) => boolean };
    const ajv = new Ajv2020({ strict: false });
    const slow = ajv.compile(schema);
    const samples: readonly unknown[] = [
      {},
      null,
      [],
      'x',
      { description: 1 },
      { inputs: { a: 'path:./a', b: { url: 'path:./b', flake: false } } },
      { inputs: { '9a': 'path:./a' } },
      { inputs: { a: { url: 'x', inputs: { b: { folows: 'c' } } } } },
      { packages: { a: { outputs: ['dev'] } } },
      { packages: { a: { perSystem: { x: { env: { A: 'b' } } } } } },
      { packages: { a: { perSystem: { x: { perSystem: {} } } } } },
      { packages: { a: { fetch: { url: 'https://x', hash: 'sha256-x' } } } },
      { 'x-free': 1, packages: { a: { 'x-free': 1 } } },
    ];
    for (const sample of samples) expect(validate(sample), JSON.stringify(sample)).toBe(slow(sample));
  });

  it('shows sections that are manifests without faults', () => {
    const sections = Object.entries(schema.properties as Readonly<Record<string, Schema>>);
    const examples = sections.flatMap(([key, node]) =>
      ((target(node).examples as unknown[] | undefined) ?? [])
        // A toolchain or a formatter refers to what its manifest would hold besides.
        .filter((example) => (key !== 'toolchain' || example === 'host') && key !== 'formatter')
        .map((example) => stringify({ [key]: example })),
    );
    expect(examples.length).toBeGreaterThan(4);
    for (const text of examples) {
      expect(() => parseManifest({ path: 'flake.yaml', text }), text).not.toThrow();
    }
  });
});
