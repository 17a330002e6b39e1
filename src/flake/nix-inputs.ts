/**
 * `flake.nix` as a manifest: what locking needs is in it in plain words, since Nix reads `description`, `inputs` and `nixConfig`
 * without evaluating anything. What counts as plain is what Nix 2.34 takes: literals, sets without computed names, and variables
 * that stand for such (`true`, or another attribute of a `rec` set around).
 */
import { posix } from 'node:path';
import { Findings, nearest, type Range, type SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { parseNix } from '../nix/parser.ts';
import type { AttrsExpr, Expr, LambdaExpr } from '../nix/syntax.ts';
import { globalNames, undefinedVariables } from '../nix/variables.ts';
import { type FlakeRef, parseFlakeRef, refFromAttributes } from './flake-ref.ts';
import type { FlakeManifest, InputDeclaration } from './manifest-model.ts';
import {
  attributesOf,
  describe,
  type Field,
  itemsOf,
  type PlainSet,
  type PlainValue,
  plainRoot,
} from './nix-plain.ts';
import { type InputPath, inputNamePattern } from './package-ref.ts';

/** A path is copied to the store by who applies the setting; as written, relative to the flake's folder. */
type NixSetting = string | boolean | bigint | readonly string[] | { readonly path: string };

export interface NixFlake extends FlakeManifest {
  readonly kind: 'nix';
  readonly expr: AttrsExpr;
  /** A lambda, mostly; undefined where it is a function of Nix's own. */
  readonly outputs?: LambdaExpr;
  /** Settings of Nix that the flake asks for, in the order of the text. Names and values are not checked further. */
  readonly nixConfig: ReadonlyMap<string, NixSetting>;
}

const topLevel = ['description', 'inputs', 'outputs', 'nixConfig'];

const inputWords = ['url', 'flake', 'inputs', 'follows'];

/** What a value should be, and how that is written. */
const examples = {
  'a string': 'write it in double quotes: "…"',
  'true or false': 'write true or false, without quotes',
  'an attribute set': 'write { … }',
  'a function': 'write { self, … }: { … }',
  'a string or a path': 'write "github:owner/repo", or ./folder',
  'a string, a number, true or false': 'write "…", 1, true or false',
  'a string, a number, true, false or a list of strings': 'write "…", 1, true, false or [ "…" ]',
};

type Wanted = keyof typeof examples;

/** Inputs within inputs; each level is an override of one flake further away. */
const maxLevels = 100;

/** All levels together: with variables a small text can name the same inputs again and again. */
const maxInputs = 10_000;

/** Throws FLK_MANIFEST_INVALID with every fault as a diagnostic. */
export function parseFlakeNix(file: SourceFile): NixFlake {
  const findings = new Findings(file);
  const expr = parsed(file);
  if (expr.kind !== 'attrs') {
    findings.add(expr, 'a flake is an attribute set, written out', 'begin the file with { and end it with }');
    throw invalid(findings);
  }
  for (const { name, ...range } of undefinedVariables(expr)) {
    const meant = nearest(name, globalNames);
    findings.add(
      range,
      `nothing here is named ${name}`,
      meant ? `did you mean ${meant}?` : 'bind it with let, take it as an argument, or put it in quotes',
    );
  }
  const reader = new FlakeNixReader(findings);
  const flake = reader.read(file, expr);
  if (findings.count > 0) throw invalid(findings);
  return flake;
}

function parsed(file: SourceFile): Expr {
  try {
    return parseNix(file, { pure: true });
  } catch (error) {
    if (!(error instanceof FlkError) || error.code !== 'FLK_NIX_SYNTAX') throw error;
    throw new FlkError('FLK_MANIFEST_INVALID', `1 fault in ${file.path}`, {
      diagnostics: error.diagnostics,
      cause: error,
    });
  }
}

function invalid(findings: Findings): FlkError {
  const diagnostics = findings.list();
  const count = diagnostics.length === 1 ? '1 fault' : `${diagnostics.length} faults`;
  return new FlkError('FLK_MANIFEST_INVALID', `${count} in ${findings.file.path}`, { diagnostics });
}

class FlakeNixReader {
  readonly #findings: Findings;
  #inputCount = 0;

  constructor(findings: Findings) {
    this.#findings = findings;
  }

  read(file: SourceFile, expr: AttrsExpr): NixFlake {
    for (const { key } of expr.dynamic)
      this.#findings.add(key, 'a flake’s attributes have plain names', `write ${topLevel.join(', ')}`);
    const fields = attributesOf(plainRoot(expr));
    for (const [name, field] of fields) {
      if (topLevel.includes(name)) continue;
      const meant = nearest(name, topLevel);
      this.#findings.add(
        field.key,
        `a flake has no attribute ${name}`,
        meant
          ? `did you mean ${meant}?`
          : `a flake has ${topLevel.join(', ')}; everything else goes into outputs`,
      );
    }
    const description = this.#text(fields.get('description'), 'description');
    const { inputs, self } = this.#topInputs(fields.get('inputs'));
    const outputs = this.#outputs(fields.get('outputs'), expr, inputs);
    const nixConfig = this.#nixConfig(fields.get('nixConfig'));
    return {
      kind: 'nix',
      file,
      ...(description !== undefined && { description }),
      inputs,
      ...(self && { self }),
      expr,
      ...(outputs && { outputs }),
      nixConfig,
    };
  }

  #wanted(field: Field, what: string, wanted: Wanted): undefined {
    const { value, range } = field;
    if (value.kind === 'computed')
      this.#findings.add(
        value.name ?? range,
        value.name
          ? `the names in ${what} have to be written out, and this one must be computed`
          : `${what} has to be ${wanted} written out, and this must be computed`,
        'write out what comes of it: Nix reads this part of a flake without evaluating it',
      );
    else
      this.#findings.add(range, `${what} is ${describe(value)}, and should be ${wanted}`, examples[wanted]);
    return undefined;
  }

  #text(field: Field | undefined, what: string): string | undefined {
    if (!field) return undefined;
    return field.value.kind === 'string' ? field.value.value : this.#wanted(field, what, 'a string');
  }

  #flag(field: Field | undefined, what: string): boolean | undefined {
    if (!field) return undefined;
    return field.value.kind === 'bool' ? field.value.value : this.#wanted(field, what, 'true or false');
  }

  #set(field: Field, what: string): PlainSet | undefined {
    return field.value.kind === 'set' ? field.value : this.#wanted(field, what, 'an attribute set');
  }

  // Inputs.

  #topInputs(field: Field | undefined): {
    inputs: Map<string, InputDeclaration>;
    self?: NonNullable<FlakeManifest['self']>;
  } {
    if (!field) return { inputs: new Map() };
    const set = this.#set(field, 'inputs');
    if (!set) return { inputs: new Map() };
    const self = attributesOf(set).get('self');
    return { inputs: this.#inputs(set, 'inputs', 1), ...(self && { self: this.#self(self) }) };
  }

  #inputs(set: PlainSet, what: string, level: number): Map<string, InputDeclaration> {
    const inputs = new Map<string, InputDeclaration>();
    for (const [name, field] of attributesOf(set)) {
      if (this.#findings.full || this.#inputCount > maxInputs) break;
      if (name === 'self') {
        if (level > 1)
          this.#findings.add(
            field.key,
            'self is that flake itself, and cannot be overridden',
            'remove it; inputs.self stands at the top alone',
          );
        continue;
      }
      const input = this.#input(name, field, `${what}.${name}`, level);
      if (input) inputs.set(name, input);
    }
    return inputs;
  }

  #input(name: string, field: Field, what: string, level: number): InputDeclaration | undefined {
    if (++this.#inputCount > maxInputs) {
      this.#findings.add(field.key, `the flake declares more than ${maxInputs} inputs`, 'remove some');
      return undefined;
    }
    if (level > maxLevels) {
      this.#findings.add(field.key, `inputs are nested more than ${maxLevels} deep`, 'remove some levels');
      return undefined;
    }
    if (field.value.kind === 'string') {
      this.#findings.add(
        field.range,
        `${what} is a string, and should be an attribute set`,
        `write ${what}.url = "…"`,
      );
      return undefined;
    }
    const set = this.#set(field, what);
    if (!set) return undefined;
    const fields = attributesOf(set);
    const flake = this.#flag(fields.get('flake'), `${what}.flake`) ?? true;
    const below = fields.get('inputs');
    const belowSet = below && this.#set(below, `${what}.inputs`);
    const inputs = belowSet ? this.#inputs(belowSet, `${what}.inputs`, level + 1) : new Map();
    const followsField = fields.get('follows');
    const follows = this.#follows(followsField, `${what}.follows`);
    const ref = this.#ref(name, fields, what, flake, field);
    const source = fields.get('type') ?? fields.get('url');
    if (followsField && source)
      this.#findings.add(
        source.key,
        `input ${name} has a source of its own and follows another`,
        'keep its source or follows, not both',
      );
    return {
      ...(ref && { ref }),
      ...(follows && { follows }),
      flake,
      frozen: false,
      groups: [],
      inputs,
      range: field.key,
    };
  }

  #follows(field: Field | undefined, what: string): InputPath | undefined {
    const text = this.#text(field, what);
    if (text === undefined || !field) return undefined;
    const path = text.split('/').filter((name) => name !== '');
    const wrong = path.find((name) => !inputNamePattern.test(name));
    if (wrong === undefined) return path;
    this.#findings.add(
      field.range,
      `${what} is a path over inputs’ names, and "${wrong}" is none`,
      'write "nixpkgs" or "greet/nixpkgs"',
    );
    return undefined;
  }

  #ref(
    name: string,
    fields: ReadonlyMap<string, Field>,
    what: string,
    flake: boolean,
    field: Field,
  ): FlakeRef | undefined {
    const before = this.#findings.count;
    const attributes: Record<string, string | number | boolean> = {};
    for (const [word, attribute] of fields) {
      if (word === 'flake' || word === 'inputs' || word === 'follows') continue;
      const value =
        word === 'url' ? this.#url(attribute, `${what}.url`) : this.#attribute(attribute, `${what}.${word}`);
      if (value !== undefined) attributes[word] = value;
    }
    const url = fields.get('url');
    const type = fields.get('type');
    if (this.#findings.count > before) return undefined;
    if (type) return this.#guarded(type.range, () => refFromAttributes(attributes, `input ${name}`));
    const extra = [...fields].find(([word]) => !inputWords.includes(word));
    if (extra) {
      const [word, { key }] = extra;
      const meant = nearest(word, inputWords);
      this.#findings.add(
        key,
        `an input without a type has no attribute ${word}`,
        meant ? `did you mean ${meant}?` : url ? `put ${word} into the url` : 'give the input a type too',
      );
      return undefined;
    }
    const text = attributes.url;
    if (typeof text !== 'string') return undefined;
    return this.#guarded((url ?? field).range, () => parseFlakeRef(text, { flake }));
  }

  #url(field: Field, what: string): string | undefined {
    const { value } = field;
    if (value.kind === 'string') return value.value;
    if (value.kind === 'path' && !/^[/~]/.test(value.path))
      // As Nix writes it, `./` is not kept.
      return `path:${posix.normalize(value.path)}`;
    if (value.kind === 'path') {
      this.#findings.add(
        field.range,
        `${what} leads out of the flake’s own source`,
        `write it as a string: "path:${value.path}"`,
      );
      return undefined;
    }
    return this.#wanted(field, what, 'a string or a path');
  }

  #attribute(field: Field, what: string): string | number | boolean | undefined {
    const { value } = field;
    if (value.kind === 'string' || value.kind === 'bool') return value.value;
    if (value.kind === 'int') {
      if (value.value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value.value);
      this.#findings.add(
        field.range,
        `${what} is too large a number`,
        `write at most ${Number.MAX_SAFE_INTEGER}`,
      );
      return undefined;
    }
    return this.#wanted(field, what, 'a string, a number, true or false');
  }

  #guarded<T>(range: Range, parse: () => T): T | undefined {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      const { wanted } = error.facts;
      this.#findings.add(range, error.message, error.hint || (wanted && `write ${wanted}`) || undefined);
      return undefined;
    }
  }

  #self(field: Field): NonNullable<FlakeManifest['self']> {
    const self: { submodules?: boolean; lfs?: boolean } = {};
    const set = this.#set(field, 'inputs.self');
    if (!set) return self;
    for (const [name, attribute] of attributesOf(set)) {
      if (name !== 'submodules' && name !== 'lfs') {
        this.#findings.add(
          attribute.key,
          `inputs.self has no attribute ${name}`,
          'it has submodules and lfs; the rest is said where the flake is named',
        );
        continue;
      }
      const flag = this.#flag(attribute, `inputs.self.${name}`);
      if (flag !== undefined) self[name] = flag;
    }
    return self;
  }

  // Outputs and settings.

  /** Adds the inputs that only the function's formals name. */
  #outputs(
    field: Field | undefined,
    flake: AttrsExpr,
    inputs: Map<string, InputDeclaration>,
  ): LambdaExpr | undefined {
    if (!field) {
      this.#findings.add(
        { start: flake.start, end: flake.start + 1 },
        'the flake has no outputs',
        'add outputs = { self }: { };',
      );
      return undefined;
    }
    if (field.value.kind !== 'function') return this.#wanted(field, 'outputs', 'a function');
    const { expr } = field.value;
    if (expr?.kind !== 'lambda') return undefined;
    for (const formal of expr.formals?.list ?? []) {
      if (formal.name === 'self') continue;
      const ref = this.#guarded(formal, () => parseFlakeRef(formal.name));
      if (!ref || inputs.has(formal.name)) continue;
      const range = { start: formal.start, end: formal.end };
      inputs.set(formal.name, { ref, flake: true, frozen: false, groups: [], inputs: new Map(), range });
    }
    return expr;
  }

  #nixConfig(field: Field | undefined): Map<string, NixSetting> {
    const settings = new Map<string, NixSetting>();
    const set = field && this.#set(field, 'nixConfig');
    if (!set) return settings;
    for (const [name, setting] of attributesOf(set)) {
      const value = this.#setting(setting, `nixConfig.${name}`);
      if (value !== undefined) settings.set(name, value);
    }
    return settings;
  }

  #setting(field: Field, what: string): NixSetting | undefined {
    const { value } = field;
    switch (value.kind) {
      case 'string':
      case 'bool':
      case 'int':
        return value.value;
      case 'path':
        return { path: value.path };
      case 'list':
        return this.#strings(itemsOf(value), what);
      default:
        return this.#wanted(field, what, 'a string, a number, true, false or a list of strings');
    }
  }

  #strings(items: readonly { value: PlainValue; range: Range }[], what: string): string[] | undefined {
    const texts: string[] = [];
    for (const { value, range } of items) {
      if (value.kind === 'string') texts.push(value.value);
      else
        this.#findings.add(
          range,
          `${what} is a list of strings, and this is ${describe(value)}`,
          'put it in double quotes',
        );
    }
    return texts;
  }
}
