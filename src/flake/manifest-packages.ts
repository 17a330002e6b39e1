/** The `packages` of a manifest: what they mean, after the schema has seen their shape. */
import type { Findings } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { type NarHash, parseNarHash } from '../formats/hash.ts';
import { parseStorePath, type StorePath } from '../formats/store-path.ts';
import type {
  AliasPackage,
  BuiltPackage,
  FetchedPackage,
  MergedPackage,
  MergePartDeclaration,
  Meta,
  PackageDeclaration,
  PhaseName,
  StorePathPackage,
  Varying,
} from './manifest-model.ts';
import { phaseNames, usualPriority } from './manifest-model.ts';
import type { ReferenceReader } from './manifest-references.ts';
import { readVarying } from './manifest-systems.ts';
import {
  entriesOf,
  flagOf,
  itemsOf,
  type Located,
  type LocatedEntry,
  numberOf,
  textOf,
} from './manifest-yaml.ts';
import { isInnerPath, type Template } from './package-ref.ts';

type Fields = ReadonlyMap<string, LocatedEntry>;
type Kind = keyof typeof ownKeys;
type Base = Pick<BuiltPackage, 'name' | 'version' | 'meta' | 'range'>;

/** Only these keys may stand beside a kind's own. */
const commonKeys = ['version', 'meta', 'perSystem'];
const fixedKeys = ['outputHash', 'outputHashMode'] as const;
const ownKeys = {
  fetch: ['fetch'],
  merge: ['merge', 'links'],
  storePath: ['storePath', 'narHash', 'cache', 'publicKey'],
  build: [
    'src',
    'toolchain',
    'buildInputs',
    'env',
    'patches',
    'outputs',
    ...fixedKeys,
    'contentAddressed',
    'requiredSystemFeatures',
    ...phaseNames,
  ],
} as const;
const allOwnKeys: readonly string[] = Object.values(ownKeys).flat();

/** Words of the derivation itself, of Nix's builder protocol and of the phases runner: they say what is built, and how. */
const reservedVariables =
  /^(name|system|builder|args|outputs|out|src|requiredSystemFeatures|allowed.*|allowSubstitutes|disallowed.*|outputHash.*|__.*|passAsFile|impureEnvVars|exportReferencesGraph|preferLocalBuild|buildInputs|patches|toolchain|\w+Phase|NIX_STORE|NIX_BUILD_.*|flk_.*)$/;

/** Nix allows 211 characters in a store path's name; `.drv` comes on top of a derivation's. */
const longestName = 207;

/** Reads all packages of one manifest. Unusable ones are left out; `findings` say why. */
export class PackageReader {
  readonly #findings: Findings;
  readonly #references: ReferenceReader;
  readonly #systems: readonly string[];

  constructor(findings: Findings, references: ReferenceReader, systems: readonly string[]) {
    this.#findings = findings;
    this.#references = references;
    this.#systems = systems;
  }

  /** `packages`; their aliases must end somewhere. */
  packages(located: Located | undefined): Varying<PackageDeclaration> {
    const read = this.#declarations(located);
    this.#checkAliases(read.everywhere);
    return read;
  }

  /** `checks`: packages too, but an alias there names one of `packages`. */
  checks(located: Located | undefined): Varying<PackageDeclaration> {
    return this.#declarations(located);
  }

  #declarations(located: Located | undefined): Varying<PackageDeclaration> {
    return readVarying(located, this.#systems, this.#findings, {
      read: (name, entry) => this.#package(name, entry),
      isWhole,
    });
  }

  #package(name: string, { key, value }: LocatedEntry): PackageDeclaration | undefined {
    if (value.kind === 'scalar') {
      const target = this.#references.reference(value, 'package');
      return target && ({ kind: 'alias', name, target, range: key } satisfies AliasPackage);
    }
    if (value.kind !== 'map') return undefined;
    const fields = value.entries;
    const kind = (['fetch', 'merge', 'storePath'] as const).find((word) => fields.has(word)) ?? 'build';
    this.#checkKeys(name, kind, fields);
    const version = textOf(fields.get('version')?.value);
    const base = {
      name,
      ...(version !== undefined && { version }),
      meta: readMeta(fields.get('meta')?.value),
      range: key,
    };
    const outputs = itemsOf(fields.get('outputs')?.value).flatMap((output) => textOf(output) ?? []);
    const longest = Math.max(0, ...outputs.map((output) => (output === 'out' ? 0 : output.length + 1)));
    if (name.length + (version === undefined ? 0 : version.length + 1) + longest > longestName) {
      this.#findings.add(key, `a store path’s name has at most ${longestName} characters`, 'shorten it');
    }
    switch (kind) {
      case 'fetch':
        return this.#fetched(base, fields.get('fetch')!);
      case 'merge':
        return this.#merged(base, fields);
      case 'storePath':
        return this.#storePath(base, fields);
      case 'build':
        return this.#built(base, fields, outputs.length === 0 ? ['out'] : outputs);
    }
  }

  #checkKeys(name: string, kind: Kind, fields: Fields): void {
    const allowed: readonly string[] = [...commonKeys, ...ownKeys[kind]];
    for (const [word, entry] of fields) {
      if (!allOwnKeys.includes(word) || allowed.includes(word)) continue;
      const owner = word === 'links' ? 'merge' : 'storePath';
      this.#findings.add(
        entry.key,
        kind === 'build'
          ? `${word} belongs to ${owner}, and ${name} has none`
          : `${word} has no meaning beside ${kind}`,
        kind === 'build' ? `add ${owner}` : `make a second package, and refer to it as #NAME`,
      );
    }
  }

  #fetched(base: Base, { key, value }: LocatedEntry): FetchedPackage {
    const fields = entriesOf(value);
    const single = textOf(fields.get('url')?.value);
    const urls = [
      ...(single === undefined ? [] : [single]),
      ...itemsOf(fields.get('urls')?.value).flatMap((url) => textOf(url) ?? []),
    ];
    if (urls.length === 0 && value.kind === 'map' && !fields.has('url') && !fields.has('urls')) {
      this.#findings.add(key, `${base.name} is fetched from nowhere`, 'add url');
    }
    const unpack = flagOf(fields.get('unpack')?.value) ?? false;
    const executable = flagOf(fields.get('executable')?.value) ?? false;
    if (unpack && executable) {
      this.#findings.add(fields.get('executable')!.key, 'an archive is unpacked or executable, not both');
    }
    if (!unpack && fields.has('stripRoot')) {
      this.#findings.add(
        fields.get('stripRoot')!.key,
        'stripRoot works on what is unpacked',
        'add unpack: true',
      );
    }
    const hash = this.#hash(fields.get('hash')?.value, 'leave hash out once, and flk tells the right one');
    return {
      ...base,
      kind: 'fetch',
      urls,
      ...(hash && { hash }),
      unpack,
      stripRoot: flagOf(fields.get('stripRoot')?.value) ?? true,
      executable,
    };
  }

  #hash(located: Located | undefined, advice: string): NarHash | undefined {
    const text = textOf(located);
    if (text === undefined || !located) return undefined;
    try {
      return parseNarHash(text);
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      this.#findings.add(located.range, error.message, advice);
      return undefined;
    }
  }

  #merged(base: Base, fields: Fields): MergedPackage {
    const links = new Map<string, string>();
    for (const [path, { key, value }] of entriesOf(fields.get('links')?.value)) {
      if (!isInnerPath(path)) {
        this.#findings.add(key, `"${path}" is not a path inside the tree`, 'write it like bin/cc');
        continue;
      }
      const target = textOf(value);
      if (target !== undefined) links.set(path, target);
    }
    return {
      ...base,
      kind: 'merge',
      parts: itemsOf(fields.get('merge')?.value).flatMap((part) => this.#part(part) ?? []),
      links,
    };
  }

  #part(located: Located): MergePartDeclaration | undefined {
    const fields = entriesOf(located);
    const ref = this.#references.reference(
      located.kind === 'map' ? fields.get('ref')?.value : located,
      'input',
    );
    return ref && { ref, priority: numberOf(fields.get('priority')?.value) ?? usualPriority };
  }

  #storePath(base: Base, fields: Fields): StorePathPackage | undefined {
    const missing = ownKeys.storePath.filter((word) => !fields.has(word));
    if (missing.length > 0) {
      this.#findings.add(
        fields.get('storePath')!.key,
        `storePath needs ${missing.join(', ')} too`,
        'flk store path-info --json tells narHash; cache is the URL, publicKey its NAME:KEY',
      );
    }
    const path = this.#path(fields.get('storePath')!.value);
    const narHash = this.#hash(fields.get('narHash')?.value, 'write sha256- and 44 characters of base64');
    if (path === undefined || narHash === undefined) return undefined;
    return {
      ...base,
      kind: 'storePath',
      path,
      narHash,
      caches: textsOf(fields.get('cache')?.value),
      publicKeys: textsOf(fields.get('publicKey')?.value),
    };
  }

  #path(located: Located): StorePath | undefined {
    const text = textOf(located);
    if (text === undefined) return undefined;
    try {
      const path = parseStorePath(text);
      if (!path.endsWith('.drv')) return path;
      this.#findings.add(located.range, 'a .drv is a recipe, not a package', 'name one of its outputs');
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      this.#findings.add(located.range, error.message, error.hint);
    }
    return undefined;
  }

  #built(base: Base, fields: Fields, outputs: readonly string[]): BuiltPackage {
    const references = this.#references;
    if (outputs.includes('drv')) {
      this.#findings.add(fields.get('outputs')!.value.range, 'no output can be called drv', 'rename it');
    }
    const src = fields.has('src') ? references.source(fields.get('src')!.value) : undefined;
    const toolchain = references.toolchain(fields.get('toolchain')?.value);
    const phases = new Map<PhaseName, Template>();
    for (const phase of phaseNames) {
      const value = fields.get(phase)?.value;
      if (textOf(value) !== undefined) phases.set(phase, references.template(value!));
    }
    if (!fields.has('src') && !phaseNames.some((phase) => fields.has(phase))) {
      this.#findings.add(
        base.range,
        `${base.name} makes nothing`,
        'give it an installPhase, or make it with fetch or merge',
      );
    }
    if (fields.has('patches') && !fields.has('src')) {
      this.#findings.add(fields.get('patches')!.key, 'there is no src to patch', 'add src');
    }
    return {
      ...base,
      kind: 'build',
      ...(src && { src }),
      ...(toolchain && { toolchain }),
      buildInputs: references.references(fields.get('buildInputs')?.value, 'package'),
      env: this.env(fields.get('env')?.value, outputs),
      patches: itemsOf(fields.get('patches')?.value).flatMap(
        (item) => references.selected(item, 'a patch') ?? [],
      ),
      phases,
      outputs,
      ...this.#fixed(fields, outputs),
      contentAddressed: this.#isContentAddressed(fields, outputs),
      requiredFeatures: textsOf(fields.get('requiredSystemFeatures')?.value),
    };
  }

  #fixed(fields: Fields, outputs: readonly string[]): Pick<BuiltPackage, 'fixed'> {
    const [given, mode] = fixedKeys.map((word) => fields.get(word));
    if (given === undefined) {
      if (mode) this.#findings.add(mode.key, 'there is no outputHash whose mode this is', 'add outputHash');
      return {};
    }
    if (outputs.length > 1)
      this.#findings.add(given.key, 'only a package with one output has an outputHash', 'outputs: [out]');
    const hash = this.#hash(given.value, 'write sha256- and 44 characters of base64');
    return hash ? { fixed: { hash, recursive: textOf(mode?.value) === 'recursive' } } : {};
  }

  #isContentAddressed(fields: Fields, outputs: readonly string[]): boolean {
    const entry = fields.get('contentAddressed');
    if (!entry || !flagOf(entry.value)) return false;
    if (outputs.length > 1)
      this.#findings.add(entry.key, 'only a package with one output is contentAddressed', 'outputs: [out]');
    if (fields.has('outputHash'))
      this.#findings.add(entry.key, 'with outputHash its content is known already', 'remove it');
    return true;
  }

  /** The variables of a build or of a shell; `outputs` are variables of their own. */
  env(located: Located | undefined, outputs: readonly string[]): Map<string, Template> {
    const env = new Map<string, Template>();
    for (const [variable, { key, value }] of entriesOf(located)) {
      if (outputs.includes(variable) || reservedVariables.test(variable)) {
        this.#findings.add(key, `env cannot set ${variable}: the builder needs it`, 'choose another name');
      } else if (textOf(value) !== undefined) env.set(variable, this.#references.template(value));
    }
    return env;
  }

  /** An alias of an alias … must end somewhere. */
  #checkAliases(packages: ReadonlyMap<string, PackageDeclaration>): void {
    const fine = new Set<string>();
    for (const start of packages.keys()) {
      const trail = new Set<string>();
      let at: string | undefined = start;
      while (at !== undefined && !fine.has(at) && !trail.has(at)) {
        trail.add(at);
        const declaration = packages.get(at);
        const own = declaration?.kind === 'alias' && declaration.target.inputs.length === 0;
        at = own ? declaration.target.name : undefined;
      }
      if (at !== undefined && trail.has(at)) {
        const steps = [...trail];
        const circle = [...steps.slice(steps.indexOf(at)), at];
        if (circle.length > 10) circle.splice(5, circle.length - 10, '…');
        this.#findings.add(
          packages.get(at)!.range,
          `aliases go in a circle: ${circle.join(' → ')}`,
          'point one of them at a package',
        );
      }
      for (const step of trail) fine.add(step);
    }
  }
}

/** False for a package that has no shape of its own before one of its systems is chosen. */
function isWhole(fields: Fields): boolean {
  const fetch = fields.get('fetch');
  if (fetch) return ['url', 'urls'].some((word) => entriesOf(fetch.value).has(word));
  if (ownKeys.storePath.some((word) => fields.has(word))) return fields.has('storePath');
  return allOwnKeys.some((word) => fields.has(word));
}

/** A text, or a list of texts. */
function textsOf(located: Located | undefined): string[] {
  const single = textOf(located);
  return single === undefined ? itemsOf(located).flatMap((item) => textOf(item) ?? []) : [single];
}

export function readMeta(located: Located | undefined): Meta {
  const fields = entriesOf(located);
  const meta: { -readonly [K in keyof Meta]: Meta[K] } = {};
  for (const word of ['description', 'license', 'homepage', 'mainProgram'] as const) {
    const text = textOf(fields.get(word)?.value);
    if (text !== undefined) meta[word] = text;
  }
  return meta;
}
