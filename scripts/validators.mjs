/**
 * Compiles schemas into plain ES modules under src/generated, so that no schema is compiled at run time (that costs 100 ms).
 * Faults carry the schema they come from: the keys it knows and the words it has for a pattern become advice.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import standaloneCode from 'ajv/dist/standalone/index.js';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const generated = join(root, 'src/generated');

/** Keywords that speak to editors and to flk, and validate nothing. */
export const annotations = ['patternErrorMessage'];

/** An Ajv as the validators are made with: every fault is reported, schemas are held to strict rules. */
export function makeAjv(options = {}) {
  const ajv = new Ajv2020({
    allErrors: true,
    allowUnionTypes: true,
    strict: true,
    strictRequired: false,
    ...options,
  });
  ajv.addVocabulary(annotations);
  return ajv;
}

/** The generated code carries its schema along: no need for the words in it. `properties` holds names, not keywords. */
function withoutProse(node, names = false) {
  if (node === null || typeof node !== 'object' || Array.isArray(node)) return node;
  const prose = ['description', 'title', 'examples', 'default'];
  return Object.fromEntries(
    Object.entries(node)
      .filter(([key]) => names || !prose.includes(key))
      .map(([key, value]) => [
        key,
        withoutProse(value, !names && ['properties', 'patternProperties', '$defs'].includes(key)),
      ]),
  );
}

async function compile(name) {
  const schema = JSON.parse(readFileSync(join(root, 'schemas', `${name}.schema.json`), 'utf8'));
  const ajv = makeAjv({
    verbose: true,
    messages: false,
    inlineRefs: false,
    code: { source: true, esm: true, lines: false },
  });
  const code = standaloneCode(ajv, ajv.compile(withoutProse(schema)));
  // The standalone code requires parts of ajv's runtime; esbuild puts them in, so that the result stands alone.
  const bundled = await build({
    stdin: {
      contents: code,
      resolveDir: root,
      loader: 'js',
    },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['main'],
    minifyWhitespace: true,
    logLevel: 'error',
  });
  mkdirSync(generated, { recursive: true });
  writeFileSync(join(generated, `${name}-validator.js`), bundled.outputFiles[0].text);
  writeFileSync(
    join(generated, `${name}-validator.d.ts`),
    `export interface SchemaFault {
  readonly keyword: string;
  readonly instancePath: string;
  readonly schemaPath: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** The keyword's own value, and the schema it stands in. */
  readonly schema: unknown;
  readonly parentSchema: Readonly<Record<string, unknown>>;
}
export declare const validate: {
  (value: unknown): boolean;
  errors?: readonly SchemaFault[] | null;
};
`,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const name of ['flake']) await compile(name);
}
