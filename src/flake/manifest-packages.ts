/** The `packages` of a manifest: what they mean, after the schema has seen their shape. */
import { type Findings, nearest, type Range } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { type NarHash, parseNarHash } from '../formats/hash.ts';
import type {
  AliasPackage,
  BuiltPackage,
  FetchedPackage,
  MergedPackage,
  Meta,
  PackageDeclaration,
  PhaseName,
  SourceSelection,
  ToolchainDeclaration,
} from './manifest-model.ts';
import { phaseNames } from './manifest-model.ts';
import {
  entriesOf,
  flagOf,
  itemsOf,
  type Located,
  type LocatedEntry,
  type LocatedMap,
  textOf,
} from './manifest-yaml.ts';
import {
  type BareWord,
  isInnerPath,
  type PackageRef,
  parsePackageRef,
  parseTemplate,
  type Template,
} from './package-ref.ts';

type Fields = ReadonlyMap<string, LocatedEntry>;

export interface ReadPackages {
  readonly packages: Map<string, PackageDeclaration>;
  readonly perSystem: Map<string, Map<string, PackageDeclaration>>;
}

/** Only these keys may stand beside a kind's own. */
const commonKeys = ['version', 'meta', 'perSystem'];
const ownKeys = {
  fetch: ['fetch'],
  merge: ['merge', 'links'],
  build: ['src', 'toolchain', 'buildInputs', 'env', 'patches', 'outputs', ...phaseNames],
} as const;
const notYet = ['storePath', 'narHash', 'cache', 'publicKey'];

/** Words of the derivation itself, of Nix's builder protocol and of the phases runner: they say what is built, and how. */
const reservedVariables =
  /^(name|system|builder|args|outputs|out|src|requiredSystemFeatures|allowed.*|allowSubstitutes|disallowed.*|outputHash.*|__.*|passAsFile|impureEnvVars|exportReferencesGraph|preferLocalBuild|buildInputs|patches|toolchain|\w+Phase|NIX_STORE|NIX_BUILD_.*|flk_.*)$/;

const mostSystems = 50;

/** Nix allows 211 characters in a store path's name; `.drv` comes on top of a derivation's. */
const longestName = 207;

/** Reads all packages of one manifest. Unusable ones are left out; `findings` say why. */
export class PackageReader {
  readonly #findings: Findings;
  readonly #inputs: ReadonlySet<string>;
  readonly #systems: readonly string[];
  readonly #names: ReadonlySet<string>;
  /** Own packages' outputs that are asked for; checked once all are read. */
  readonly #outputUses: { name: string; output: string; range: Range }[] = [];

  constructor(
    findings: Findings,
    inputs: Iterable<string>,
    systems: readonly string[],
    packages: Located | undefined,
  ) {
    this.#findings = findings;
    this.#inputs = new Set(inputs);
    this.#systems = systems;
    this.#names = new Set(entriesOf(packages).keys());
  }

  readAll(located: Located | undefined): ReadPackages {
    const packages = new Map<string, PackageDeclaration>();
    const perSystem = new Map<string, Map<string, PackageDeclaration>>();
    for (const [name, entry] of entriesOf(located)) {
      const parts = this.#systemParts(entry.value);
      if (parts.size === 0 || !onlyPerSystem(entriesOf(entry.value))) {
        const declaration = this.#package(name, entry);
        if (declaration) packages.set(name, declaration);
      }
      for (const [system, part] of parts) {
        const value = overlay(entry.value, part);
        const declaration = this.#package(name, { key: entry.key, value });
        if (!declaration) continue;
        const others = perSystem.get(system) ?? new Map<string, PackageDeclaration>();
        perSystem.set(system, others.set(name, declaration));
      }
    }
    this.#checkAliases(packages);
    this.#checkOutputs(packages);
    return { packages, perSystem };
  }

  /** `toolchain` of a package, or of the whole flake. */
  toolchain(located: Located | undefined): ToolchainDeclaration | undefined {
    if (textOf(located) === 'host') return { kind: 'host' };
    const ref = this.reference(located, 'package');
    return ref && { kind: 'package', ref };
  }

  /** A reference whose first step exists. */
  reference(located: Located | undefined, bareWord: BareWord): PackageRef | undefined {
    const text = textOf(located);
    if (text === undefined || !located) return undefined;
    try {
      const ref = parsePackageRef(text, bareWord);
      return this.#known(ref, located.range) ? ref : undefined;
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      this.#findings.add(located.range, error.message, error.hint);
      return undefined;
    }
  }

  #known(ref: PackageRef, range: Range): boolean {
    const [input] = ref.inputs;
    if (input !== undefined) {
      if (this.#inputs.has(input)) return true;
      const near = this.#nearest(input, this.#inputs);
      const advice = this.#names.has(input)
        ? `the package of that name is #${input}`
        : near
          ? `did you mean ${near}?`
          : 'declare it under inputs';
      this.#findings.add(range, `there is no input "${input}"`, advice);
      return false;
    }
    const name = ref.name ?? 'default';
    if (!this.#names.has(name)) {
      const near = this.#nearest(name, this.#names);
      const advice = this.#inputs.has(name)
        ? `the default package of that input is ${name}#`
        : near
          ? `did you mean ${near}?`
          : undefined;
      this.#findings.add(range, `there is no package "${name}" in this flake`, advice);
      return false;
    }
    if (ref.output !== undefined) this.#outputUses.push({ name, output: ref.output, range });
    return true;
  }

  /** Looking among more names than a person would write is not worth the time. */
  #nearest(name: string, names: ReadonlySet<string>): string | undefined {
    return this.#findings.full || names.size > 1000 ? undefined : nearest(name, names);
  }

  #systemParts(located: Located): Map<string, LocatedMap> {
    const parts = new Map<string, LocatedMap>();
    for (const [system, { key, value }] of entriesOf(entriesOf(located).get('perSystem')?.value)) {
      const near = this.#systems.length === 0 ? undefined : nearest(system, this.#systems);
      if (this.#systems.length > 0 && !this.#systems.includes(system)) {
        this.#findings.add(
          key,
          `${system} is none of this flake’s systems`,
          near ? `did you mean ${near}?` : `they are ${this.#systems.join(', ')}`,
        );
      } else if (!checkSystem(system, key, this.#findings)) continue;
      // Each one reads the whole package again.
      if (parts.size === mostSystems) {
        this.#findings.add(key, `a package differs on at most ${mostSystems} systems`);
        break;
      }
      if (value.kind === 'map') parts.set(system, value);
    }
    return parts;
  }

  #package(name: string, { key, value }: LocatedEntry): PackageDeclaration | undefined {
    if (value.kind === 'scalar') {
      const target = this.reference(value, 'package');
      return target && ({ kind: 'alias', name, target, range: key } satisfies AliasPackage);
    }
    if (value.kind !== 'map') return undefined;
    const fields = value.entries;
    for (const word of notYet) {
      const entry = fields.get(word);
      if (!entry) continue;
      this.#findings.add(entry.key, `${word} is not supported yet by this version of flk`, 'use fetch');
      return undefined;
    }
    const kind = fields.has('fetch') ? 'fetch' : fields.has('merge') ? 'merge' : 'build';
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
    if (kind === 'fetch') return this.#fetched(base, fields.get('fetch')!);
    if (kind === 'merge') return this.#merged(base, fields);
    return this.#built(base, fields, outputs.length === 0 ? ['out'] : outputs);
  }

  #checkKeys(name: string, kind: 'fetch' | 'merge' | 'build', fields: Fields): void {
    const allowed: readonly string[] = [...commonKeys, ...ownKeys[kind]];
    const others: readonly string[] = Object.values(ownKeys).flat();
    for (const [word, entry] of fields) {
      if (!others.includes(word) || allowed.includes(word)) continue;
      this.#findings.add(
        entry.key,
        kind === 'build'
          ? `${word} belongs to merge, and ${name} has none`
          : `${word} has no meaning beside ${kind}`,
        kind === 'build' ? 'add merge' : `make a second package, and refer to it as #NAME`,
      );
    }
  }

  #fetched(
    base: Omit<FetchedPackage, 'kind' | 'urls' | 'hash' | 'unpack' | 'stripRoot' | 'executable'>,
    { key, value }: LocatedEntry,
  ): FetchedPackage {
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
    const hash = this.#hash(fields.get('hash')?.value);
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

  #hash(located: Located | undefined): NarHash | undefined {
    const text = textOf(located);
    if (text === undefined || !located) return undefined;
    try {
      return parseNarHash(text);
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      this.#findings.add(located.range, error.message, 'leave hash out once, and flk tells the right one');
      return undefined;
    }
  }

  #merged(base: Omit<MergedPackage, 'kind' | 'parts' | 'links'>, fields: Fields): MergedPackage {
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
      parts: itemsOf(fields.get('merge')?.value).flatMap((part) => this.reference(part, 'input') ?? []),
      links,
    };
  }

  #built(
    base: Omit<BuiltPackage, 'kind' | 'buildInputs' | 'env' | 'patches' | 'phases' | 'outputs'>,
    fields: Fields,
    outputs: readonly string[],
  ): BuiltPackage {
    if (outputs.includes('drv')) {
      this.#findings.add(fields.get('outputs')!.value.range, 'no output can be called drv', 'rename it');
    }
    const src = fields.has('src') ? this.#source(fields.get('src')!.value) : undefined;
    const toolchain = this.toolchain(fields.get('toolchain')?.value);
    const phases = new Map<PhaseName, Template>();
    for (const phase of phaseNames) {
      const value = fields.get(phase)?.value;
      if (textOf(value) !== undefined) phases.set(phase, this.template(value!));
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
      buildInputs: itemsOf(fields.get('buildInputs')?.value).flatMap(
        (item) => this.reference(item, 'package') ?? [],
      ),
      env: this.#env(fields.get('env')?.value, outputs),
      patches: itemsOf(fields.get('patches')?.value).flatMap((item) => this.#selected(item, 'a patch') ?? []),
      phases,
      outputs,
    };
  }

  #env(located: Located | undefined, outputs: readonly string[]): Map<string, Template> {
    const env = new Map<string, Template>();
    for (const [variable, { key, value }] of entriesOf(located)) {
      if (outputs.includes(variable) || reservedVariables.test(variable)) {
        this.#findings.add(key, `env cannot set ${variable}: the builder needs it`, 'choose another name');
      } else if (textOf(value) !== undefined) env.set(variable, this.template(value));
    }
    return env;
  }

  /** Text with holes, each of them checked; a fault is placed at its own hole. */
  template(located: Located): Template {
    const text = textOf(located) ?? '';
    const source = this.#findings.file.text;
    let searched = located.range.start;
    const placeOf = (hole: string): Range => {
      const start = source.indexOf(hole, searched);
      if (start < 0 || start >= located.range.end) return located.range;
      searched = start + hole.length;
      return { start, end: searched };
    };
    const template = parseTemplate(text, (start, end, reason) => {
      this.#findings.add(placeOf(text.slice(start, end)), reason, 'for two braces write {{{{');
    });
    searched = located.range.start;
    for (const part of template) {
      if (typeof part === 'string') continue;
      // The hole as written may hold blanks: look for what it begins with.
      const word = part.inputs[0] ?? `#${part.name ?? ''}`;
      const start = source.indexOf(word, source.indexOf('{{', searched));
      const inside = start >= 0 && start < located.range.end;
      this.#known(part, inside ? { start, end: start + word.length } : located.range);
      if (inside) searched = start + word.length;
    }
    return template;
  }

  #source(located: Located): SourceSelection | undefined {
    if (located.kind !== 'map') return this.#selected(located, 'src');
    const path = located.entries.get('path')?.value;
    const selection = path ? this.#selected(path, 'src') : { kind: 'self' as const, path: '' };
    const include = this.#patterns(located.entries.get('include')?.value);
    const exclude = this.#patterns(located.entries.get('exclude')?.value);
    if (!selection) return undefined;
    if (selection.kind === 'self') return { kind: 'self', path: selection.path, include, exclude };
    for (const word of ['include', 'exclude']) {
      const entry = located.entries.get(word);
      if (entry) {
        this.#findings.add(
          entry.key,
          `${word} picks among this flake’s own files`,
          'remove it, or use path: ./dir',
        );
      }
    }
    return selection;
  }

  /** `.` and `./x` are this flake’s files; all else is a reference. */
  #selected(located: Located, what: string): SourceSelection | undefined {
    const text = textOf(located);
    if (text === undefined) return undefined;
    if (!text.startsWith('.') && !text.startsWith('/')) {
      if (!text.includes('#') && !this.#inputs.has(text.split('/')[0]!) && /[./]/.test(text)) {
        this.#findings.add(
          located.range,
          `there is no input "${text.split('/')[0]}"`,
          `a file of this flake is ./${text}`,
        );
        return undefined;
      }
      const ref = this.reference(located, 'input');
      return ref && { kind: 'ref', ref };
    }
    const path = text.replace(/^\.(\/|$)/, '').replace(/\/$/, '');
    if (text !== '.' && text !== './' && (!text.startsWith('./') || !isInnerPath(path))) {
      this.#findings.add(
        located.range,
        `${what} must lie inside this flake`,
        'write ./dir, or add an input for what lies elsewhere',
      );
      return undefined;
    }
    return { kind: 'self', path, include: [], exclude: [] };
  }

  #patterns(located: Located | undefined): string[] {
    const patterns: string[] = [];
    for (const item of itemsOf(located)) {
      const pattern = textOf(item);
      if (pattern === undefined) continue;
      const fault = patternFault(pattern);
      if (fault) this.#findings.add(item.range, ...fault);
      else patterns.push(pattern);
    }
    return patterns;
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

  #checkOutputs(packages: ReadonlyMap<string, PackageDeclaration>): void {
    for (const { name, output, range } of this.#outputUses) {
      const declaration = packages.get(name);
      if (!declaration || declaration.kind === 'alias') continue;
      const outputs = declaration.kind === 'build' ? declaration.outputs : ['out'];
      if (outputs.includes(output)) continue;
      const near = nearest(output, outputs);
      this.#findings.add(
        range,
        `package ${name} has no output "${output}"`,
        near ? `did you mean ${near}?` : `it has ${outputs.join(', ')}`,
      );
    }
  }
}

/** A package that has no shape of its own before one of its systems is chosen. */
function onlyPerSystem(fields: Fields): boolean {
  const fetch = fields.get('fetch');
  if (fetch) return !['url', 'urls'].some((word) => entriesOf(fetch.value).has(word));
  return ![...Object.values(ownKeys).flat()].some((word) => fields.has(word));
}

/** Mappings are merged key by key; what else the part says replaces. */
function overlay(base: Located, part: LocatedMap): Located {
  if (base.kind !== 'map') return part;
  const entries = new Map(base.entries);
  for (const [key, entry] of part.entries) {
    const below = entries.get(key);
    const value =
      below?.value.kind === 'map' && entry.value.kind === 'map'
        ? overlay(below.value, entry.value)
        : entry.value;
    entries.set(key, { key: entry.key, value });
  }
  return { kind: 'map', entries, range: base.range };
}

function readMeta(located: Located | undefined): Meta {
  const fields = entriesOf(located);
  const meta: { -readonly [K in keyof Meta]: Meta[K] } = {};
  for (const word of ['description', 'license', 'homepage', 'mainProgram'] as const) {
    const text = textOf(fields.get(word)?.value);
    if (text !== undefined) meta[word] = text;
  }
  return meta;
}

function patternFault(pattern: string): [message: string, suggestion: string] | undefined {
  if (pattern.startsWith('!')) return ['a pattern cannot be negated here', 'put it under exclude'];
  if (pattern.startsWith('#')) return ['gitignore reads # as a comment', 'write \\#'];
  if (pattern.length > 1000) return ['a pattern has at most 1000 characters', 'shorten it'];
  if (pattern.includes('\n')) return ['a pattern is one line', 'make it several items'];
  if (pattern.split('/').some((part) => part === '..' || part === '.'))
    return ['a pattern has no . or .. in it', 'write it from the folder itself: src/**'];
  if (/(^|[^\\])(\\\\)*\\$/.test(pattern)) return ['a pattern cannot end in a backslash', 'remove it'];
  return undefined;
}

const knownSystems = [
  'x86_64-linux',
  'aarch64-linux',
  'i686-linux',
  'armv6l-linux',
  'armv7l-linux',
  'riscv64-linux',
  'powerpc64le-linux',
  's390x-linux',
  'loongarch64-linux',
  'mips64el-linux',
  'x86_64-darwin',
  'aarch64-darwin',
  'x86_64-freebsd',
  'aarch64-freebsd',
];

/** Any CPU-KERNEL will do, but not one that is a slip away from a known one. */
export function checkSystem(system: string, range: Range, findings: Findings): boolean {
  if (knownSystems.includes(system)) return true;
  const near = nearest(system, knownSystems);
  if (/^[a-z0-9_]+-[a-z0-9_]+$/.test(system) && near === undefined) return true;
  findings.add(
    range,
    `"${system}" is no system flk knows`,
    near ? `did you mean ${near}?` : 'write it like x86_64-linux',
  );
  return false;
}
