/** Derivations as JSON, as `nix derivation show` prints them. Format: Nix 2.34, version 4. */
import { compareBytes } from '../base/canonical.ts';
import type { Derivation, DerivationOutput } from './derivation.ts';
import { narHashOf } from './hash.ts';
import { baseNameOf, nameOf, type StorePath } from './store-path.ts';

/** A document whose keys keep their order: names of variables may be digits, which a plain object would put first. */
type Document = string | number | boolean | null | readonly Document[] | ReadonlyMap<string, Document>;

/** `.drv` path → derivation, as one document: in one line, or for people. */
export function printDerivations(derivations: ReadonlyMap<StorePath, Derivation>, pretty: boolean): string {
  const byName = [...derivations].map(([drvPath, derivation]): [string, Document] => [
    baseNameOf(drvPath),
    document(drvPath, derivation),
  ]);
  return print(record({ derivations: new Map(byName), version: 4 }), pretty ? '\n' : undefined);
}

function document(drvPath: StorePath, derivation: Derivation): Document {
  const { outputs, inputDrvs, inputSrcs, system, builder, args } = derivation;
  const env = new Map(derivation.env);
  // Attributes that are not text stand in one variable; Nix shows them by themselves.
  const structured = env.get('__json');
  env.delete('__json');
  const drvs = [...inputDrvs].map(([path, names]): [string, Document] => [
    baseNameOf(path),
    record({ dynamicOutputs: new Map(), outputs: [...names].sort(compareBytes) }),
  ]);
  return record({
    args,
    builder,
    env,
    inputs: record({ drvs: new Map(drvs), srcs: inputSrcs.map(baseNameOf).sort(compareBytes) }),
    name: nameOf(drvPath).slice(0, -'.drv'.length),
    outputs: new Map([...outputs].map(([name, output]) => [name, outputDocument(output)])),
    ...(structured === undefined ? {} : { structuredAttrs: fromJson(JSON.parse(structured)) }),
    system,
    version: 4,
  });
}

function outputDocument({ path, hashAlgo, hash }: DerivationOutput): Document {
  if (hash === '') return record({ path: baseNameOf(path) });
  return record({
    hash: narHashOf(Buffer.from(hash, 'hex')),
    method: hashAlgo.startsWith('r:') ? 'nar' : 'flat',
  });
}

const record = (entries: Readonly<Record<string, Document>>): Document => new Map(Object.entries(entries));

function fromJson(value: unknown): Document {
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value === 'object' && value !== null)
    return new Map(Object.entries(value).map(([key, item]) => [key, fromJson(item)]));
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? value : null;
}

/** `line`: a line's end and its indentation; undefined for a text without blanks. */
function print(value: Document, line: string | undefined): string {
  const inner = line === undefined ? undefined : `${line}  `;
  const between = (open: string, items: readonly string[], close: string): string =>
    items.length === 0
      ? `${open}${close}`
      : `${open}${inner ?? ''}${items.join(`,${inner ?? ''}`)}${line ?? ''}${close}`;
  if (value instanceof Map) {
    const entries = [...(value as ReadonlyMap<string, Document>)].sort(([a], [b]) => compareBytes(a, b));
    const colon = line === undefined ? ':' : ': ';
    return between(
      '{',
      entries.map(([key, item]) => `${JSON.stringify(key)}${colon}${print(item, inner)}`),
      '}',
    );
  }
  if (Array.isArray(value))
    return between(
      '[',
      (value as readonly Document[]).map((item) => print(item, inner)),
      ']',
    );
  return JSON.stringify(value);
}
