/** Derivations: the ATerm text of a `.drv`, its path, and its output paths. */
import { compareBytes } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { sha256, sha256Hex } from './hash.ts';
import {
  isStoreName,
  makeFixedOutputPath,
  makeOutputPath,
  makeTextPath,
  parseStorePath,
  type StorePath,
} from './store-path.ts';

export interface DerivationOutput {
  readonly path: StorePath;
  /** For a fixed output: `sha256` (flat) or `r:sha256`, and the hash in base16; else both empty. */
  readonly hashAlgo: string;
  readonly hash: string;
}

export interface Derivation {
  readonly outputs: ReadonlyMap<string, DerivationOutput>;
  /** `.drv` path → names of its outputs that are needed. */
  readonly inputDrvs: ReadonlyMap<StorePath, readonly string[]>;
  readonly inputSrcs: readonly StorePath[];
  readonly system: string;
  readonly builder: string;
  readonly args: readonly string[];
  readonly env: ReadonlyMap<string, string>;
}

/** A derivation before its output paths are known; those in its environment do not count either. */
export interface DerivationDraft extends Omit<Derivation, 'outputs'> {
  readonly outputs: ReadonlyMap<string, Pick<DerivationOutput, 'hashAlgo' | 'hash'>>;
}

/** Gives the hash modulo fixed outputs of an input derivation, which the caller has read and keeps; in base16. */
export type ModuloLookup = (drvPath: StorePath) => string;

/** The text of a `.drv`. Maps, sources and output names may come in any order; the text is always the same. */
export function printDerivation(derivation: Derivation): string {
  return new Printer(derivation).print(derivation.outputs, printInputs(derivation.inputDrvs));
}

/** What a `.drv` refers to: its input derivations and sources, sorted. */
export function derivationReferences({
  inputDrvs,
  inputSrcs,
}: Pick<Derivation, 'inputDrvs' | 'inputSrcs'>): StorePath[] {
  return [...new Set([...inputDrvs.keys(), ...inputSrcs])].sort(compareBytes);
}

/** The path of `NAME.drv`. */
export function derivationPath(name: string, derivation: Derivation): StorePath {
  return makeTextPath(`${name}.drv`, printDerivation(derivation), derivationReferences(derivation));
}

/**
 * The hash that stands for a derivation in those that use it: a fixed output counts by its content, whatever fetches it, and
 * inputs count by their own such hash. In base16.
 */
export function hashDerivationModulo(derivation: Derivation, lookup: ModuloLookup): string {
  const fixed = fixedOutput(derivation.outputs);
  const out = derivation.outputs.get('out');
  if (fixed && out) return sha256Hex(`fixed:out:${fixed.hashAlgo}:${fixed.hash}:${out.path}`);
  const inputs = printInputs(moduloInputs(derivation, lookup));
  return sha256Hex(new Printer(derivation).print(derivation.outputs, inputs));
}

/** The derivation with its output paths, in `outputs` and in the environment. Throws FLK_DERIVATION_INVALID. */
export function withOutputPaths(name: string, draft: DerivationDraft, lookup: ModuloLookup): Derivation {
  return withPaths(
    draft,
    outputPaths(name, draft, () => draftDigest(draft, lookup)),
  );
}

/**
 * What `withOutputPaths`, `derivationPath` and `hashDerivationModulo` give, one after the other, at less than half the cost: a graph
 * has thousands. Throws FLK_DERIVATION_INVALID.
 */
export function finishDerivation(
  name: string,
  draft: DerivationDraft,
  lookup: ModuloLookup,
): { readonly derivation: Derivation; readonly drvPath: StorePath; readonly modulo: string } {
  const printer = new Printer(draft, true);
  const inputs = printInputs(moduloInputs(draft, lookup));
  const paths = outputPaths(name, draft, () => sha256(printer.print(undefined, inputs)));
  const derivation = withPaths(draft, paths);
  const text = printer.print(derivation.outputs, printInputs(draft.inputDrvs));
  const drvPath = makeTextPath(`${name}.drv`, text, [...draft.inputDrvs.keys(), ...draft.inputSrcs]);
  const modulo = fixedOutput(draft.outputs)
    ? hashDerivationModulo(derivation, lookup)
    : sha256Hex(printer.print(derivation.outputs, inputs));
  return { derivation, drvPath, modulo };
}

const draftDigest = (draft: DerivationDraft, lookup: ModuloLookup): Buffer =>
  sha256(new Printer(draft, true).print(undefined, printInputs(moduloInputs(draft, lookup))));

function withPaths(draft: DerivationDraft, paths: ReadonlyMap<string, StorePath>): Derivation {
  const outputs = new Map<string, DerivationOutput>();
  const env = new Map(draft.env);
  for (const [output, { hashAlgo, hash }] of draft.outputs) {
    const path = paths.get(output)!;
    outputs.set(output, { path, hashAlgo, hash });
    env.set(output, path);
  }
  return { ...draft, outputs, env };
}

/** Throws FLK_DERIVATION_INVALID unless the output paths are those that the derivation's content implies. */
export function assertOutputPaths(name: string, derivation: Derivation, lookup: ModuloLookup): void {
  for (const [output, wanted] of outputPaths(name, derivation, () => draftDigest(derivation, lookup))) {
    const found = derivation.outputs.get(output)!.path;
    const told = derivation.env.get(output);
    if (found !== wanted || (told !== undefined && told !== wanted))
      throw new FlkError(
        'FLK_DERIVATION_INVALID',
        `${name}.drv names the wrong path for its output ${output}`,
        {
          facts: { found: found === wanted ? (told ?? '') : found, wanted },
        },
      );
  }
}

/** `digestOf` is asked only where the paths depend on it. */
function outputPaths(
  name: string,
  draft: Pick<DerivationDraft, 'outputs'>,
  digestOf: () => Buffer,
): Map<string, StorePath> {
  if (draft.outputs.size === 0) throw invalid(`${name} has no outputs`);
  const fixed = fixedOutput(draft.outputs);
  if (fixed) {
    const { hashAlgo, hash } = fixed;
    if ((hashAlgo !== 'sha256' && hashAlgo !== 'r:sha256') || !/^[0-9a-f]{64}$/.test(hash))
      throw invalid(`${name} has a fixed output whose hash is not SHA-256 in base16`);
    return new Map([['out', makeFixedOutputPath(name, hashAlgo, Buffer.from(hash, 'hex'))]]);
  }
  const digest = digestOf();
  const paths = new Map<string, StorePath>();
  for (const [output, { hashAlgo, hash }] of draft.outputs) {
    if (hashAlgo !== '' || hash !== '') throw invalid(`${name} has a fixed output besides others`);
    if (!isStoreName(output) || output === 'drv')
      throw invalid(`${name} has an output with the forbidden name ${JSON.stringify(output)}`);
    paths.set(output, makeOutputPath(output, digest, name));
  }
  return paths;
}

/** The only output, when it is `out` and its content is known beforehand. */
function fixedOutput(
  outputs: DerivationDraft['outputs'],
): Pick<DerivationOutput, 'hashAlgo' | 'hash'> | undefined {
  const out = outputs.get('out');
  return outputs.size === 1 && out && out.hash !== '' ? out : undefined;
}

/** Input derivations by their hashes. Two that differ only in how they fetch the same thing become one. */
function moduloInputs({ inputDrvs }: Pick<Derivation, 'inputDrvs'>, lookup: ModuloLookup): Inputs {
  const byHash = new Map<string, readonly string[]>();
  for (const [path, names] of inputDrvs) {
    const hash = lookup(path);
    const known = byHash.get(hash);
    byHash.set(hash, known === undefined ? names : [...known, ...names]);
  }
  return byHash;
}

/** By `.drv` path, or by what stands for it: names of outputs. */
type Inputs = ReadonlyMap<string, readonly string[]>;

/** Prints one derivation, maybe more than once: what does not change between is put into words once. */
class Printer {
  readonly #outputs: readonly (readonly [name: string, hash: string])[];
  /** From the sources to the arguments. */
  readonly #middle: string;
  /** The environment, cut where an output's path belongs, and what comes after the last. */
  readonly #env: readonly (readonly [before: string, output: string])[];
  readonly #end: string;

  /** `isDraft`: the outputs' variables are not part of `env`, or do not count. */
  constructor({ outputs, inputSrcs, system, builder, args, env }: DerivationDraft, isDraft = false) {
    this.#outputs = inOrder(outputs.keys()).map((name) => {
      const { hashAlgo, hash } = outputs.get(name)!;
      return [name, `${quote(hashAlgo)},${quote(hash)}`];
    });
    const sources = list(sortedSet(inputSrcs).map(quote));
    this.#middle = `${sources},${quote(system)},${quote(builder)},${list(args.map(quote))}`;
    const cuts: [string, string][] = [];
    let text = '';
    for (const name of isDraft ? inOrder(new Set([...env.keys(), ...outputs.keys()])) : inOrder(env.keys())) {
      text += `${text === '' && cuts.length === 0 ? '' : ','}(${quote(name)},`;
      if (isDraft && outputs.has(name)) {
        cuts.push([text, name]);
        text = ')';
      } else text += `${quote(env.get(name)!)})`;
    }
    this.#env = cuts;
    this.#end = text;
  }

  /** Without `paths`, those of the outputs are blank. `inputs`: as `printInputs` gives them. */
  print(paths: Derivation['outputs'] | undefined, inputs: string): string {
    const pathOf = (name: string): string => quote(paths?.get(name)?.path ?? '');
    const outputs = this.#outputs.map(([name, hash]) => `(${quote(name)},${pathOf(name)},${hash})`);
    let env = '';
    for (const [before, output] of this.#env) env += before + pathOf(output);
    return `Derive(${list(outputs)},${inputs},${this.#middle},[${env}${this.#end}])`;
  }
}

/** Paths and hashes are ASCII, for which every order is the bytes'. */
const printInputs = (inputs: Inputs): string =>
  list(
    [...inputs.keys()].sort().map((key) => `(${quote(key)},${list(sortedSet(inputs.get(key)!).map(quote))})`),
  );

const inOrder = (names: Iterable<string>): string[] => [...names].sort(compareBytes);
const sortedSet = (values: readonly string[]): readonly string[] =>
  values.length < 2 ? values : inOrder(new Set(values));
const list = (items: readonly string[]): string => `[${items.join(',')}]`;

const escapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};
const unescapes = new Map([
  ['"', '"'],
  ['\\', '\\'],
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t'],
]);

const special = /["\\\n\r\t]/;

const quote = (text: string): string =>
  special.test(text) ? `"${text.replace(/["\\\n\r\t]/g, (character) => escapes[character]!)}"` : `"${text}"`;

/**
 * Reads the text of a `.drv`. Strict: only the text that `printDerivation` gives for the same derivation is taken; else
 * FLK_DERIVATION_INVALID. Output paths are not recomputed here (`assertOutputPaths` does that).
 */
export function parseDerivation(text: string): Derivation {
  const reader = new AtermReader(text);
  reader.expect('Derive(');
  const outputs = reader.list(() => reader.tuple(4));
  reader.expect(',');
  const inputDrvs = reader.list((): [string, string[]] => {
    reader.expect('(');
    const path = reader.string();
    reader.expect(',');
    const names = reader.list(() => reader.string());
    reader.expect(')');
    return [path, names];
  });
  reader.expect(',');
  const inputSrcs = reader.list(() => reader.string());
  reader.expect(',');
  const system = reader.string();
  reader.expect(',');
  const builder = reader.string();
  reader.expect(',');
  const args = reader.list(() => reader.string());
  reader.expect(',');
  const env = reader.list(() => reader.tuple(2));
  reader.expect(')');
  const derivation: Derivation = {
    outputs: new Map(
      outputs.map(([name, path, hashAlgo, hash]) => [
        name!,
        { path: storePath(path!), hashAlgo: hashAlgo!, hash: hash! },
      ]),
    ),
    inputDrvs: new Map(inputDrvs.map(([path, names]) => [storePath(path), names])),
    inputSrcs: inputSrcs.map(storePath),
    system,
    builder,
    args,
    env: new Map(env.map(([key, value]) => [key!, value!])),
  };
  // What is unsorted, twice, escaped in another way or followed by something does not print as it was read.
  if (printDerivation(derivation) !== text) throw invalid('its text is not in canonical form');
  return derivation;
}

function storePath(text: string): StorePath {
  try {
    return parseStorePath(text);
  } catch (cause) {
    throw new FlkError('FLK_DERIVATION_INVALID', `a derivation names ${JSON.stringify(text.slice(0, 300))}`, {
      cause,
    });
  }
}

class AtermReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  expect(word: string): void {
    if (!this.#text.startsWith(word, this.#at)) throw invalid(`it lacks ${word} at character ${this.#at}`);
    this.#at += word.length;
  }

  string(): string {
    this.expect('"');
    let value = '';
    for (;;) {
      let end = this.#at;
      while (end < this.#text.length && this.#text[end] !== '"' && this.#text[end] !== '\\') end++;
      value += this.#text.slice(this.#at, end);
      this.#at = end + 1;
      if (end >= this.#text.length) throw invalid('it ends within a string');
      if (this.#text[end] === '"') return value;
      const character = unescapes.get(this.#text[this.#at] ?? '');
      if (character === undefined) throw invalid(`it has an unknown escape at character ${end}`);
      value += character;
      this.#at++;
    }
  }

  tuple(length: number): string[] {
    const items: string[] = [];
    for (let i = 0; i < length; i++) {
      this.expect(i === 0 ? '(' : ',');
      items.push(this.string());
    }
    this.expect(')');
    return items;
  }

  list<T>(item: () => T): T[] {
    const items: T[] = [];
    this.expect('[');
    while (this.#text[this.#at] !== ']') {
      if (items.length > 0) this.expect(',');
      items.push(item());
    }
    this.#at++;
    return items;
  }
}

function invalid(what: string): FlkError {
  return new FlkError('FLK_DERIVATION_INVALID', `not a derivation that flk can use: ${what}`);
}
