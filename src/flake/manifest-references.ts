/** What manifests refer to: packages, inputs, their own files. Each word is held against what there is. */
import { type Findings, nearest, type Range } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import type {
  PackageDeclaration,
  ProgramRef,
  SourceSelection,
  ToolchainDeclaration,
  Varying,
} from './manifest-model.ts';
import { entriesOf, itemsOf, type Located, textOf } from './manifest-yaml.ts';
import {
  type BareWord,
  isInnerPath,
  type PackageRef,
  parsePackageRef,
  parseProgramRef,
  parseTemplate,
  type Template,
} from './package-ref.ts';

export class ReferenceReader {
  readonly #findings: Findings;
  readonly #inputs: ReadonlySet<string>;
  readonly #names: ReadonlySet<string>;
  /** Own packages' outputs that are asked for; checked once all packages are read. */
  readonly #outputUses: { name: string; output: string; range: Range }[] = [];

  /** `inputs` and `packages`: the names that are declared, also where the declaration is faulty. */
  constructor(findings: Findings, inputs: Iterable<string>, packages: Located | undefined) {
    this.#findings = findings;
    this.#inputs = new Set(inputs);
    this.#names = new Set(entriesOf(packages).keys());
  }

  /** `toolchain` of a package, or of the whole flake. */
  toolchain(located: Located | undefined): ToolchainDeclaration | undefined {
    if (textOf(located) === 'host') return { kind: 'host' };
    const ref = this.reference(located, 'package');
    return ref && { kind: 'package', ref };
  }

  /** A reference whose first step exists. */
  reference(located: Located | undefined, bareWord: BareWord): PackageRef | undefined {
    const ref = this.#parsed(located, (text) => parsePackageRef(text, bareWord));
    return ref && this.#known(ref, located!.range) ? ref : undefined;
  }

  /** The references in a list; faulty ones are left out. */
  references(located: Located | undefined, bareWord: BareWord): PackageRef[] {
    return itemsOf(located).flatMap((item) => this.reference(item, bareWord) ?? []);
  }

  /** `hello/bin/hello`, or a package alone. */
  program(located: Located | undefined): ProgramRef | undefined {
    const program = this.#parsed(located, parseProgramRef);
    return program && this.#known(program.ref, located!.range) ? program : undefined;
  }

  #parsed<T>(located: Located | undefined, parse: (text: string) => T): T | undefined {
    const text = textOf(located);
    if (text === undefined || !located) return undefined;
    try {
      return parse(text);
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

  /** `src`: a reference, a path, or a mapping that picks among this flake’s files. */
  source(located: Located): SourceSelection | undefined {
    if (located.kind !== 'map') return this.selected(located, 'src');
    const path = located.entries.get('path')?.value;
    const selection = path ? this.selected(path, 'src') : { kind: 'self' as const, path: '' };
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
  selected(located: Located, what: string): SourceSelection | undefined {
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

  /** Whether own packages have, on one system at least, the outputs that were asked of them. */
  checkOutputs({ everywhere, perSystem }: Varying<PackageDeclaration>): void {
    for (const { name, output, range } of this.#outputUses) {
      const declarations = [everywhere, ...perSystem.values()].flatMap((own) => own.get(name) ?? []);
      const outputs = new Set(declarations.flatMap(outputsOf));
      if (outputs.size === 0 || outputs.has(output)) continue;
      const near = nearest(output, outputs);
      this.#findings.add(
        range,
        `package ${name} has no output "${output}"`,
        near ? `did you mean ${near}?` : `it has ${[...outputs].join(', ')}`,
      );
    }
  }
}

/** None for an alias: its target may be another flake's. */
function outputsOf(declaration: PackageDeclaration): readonly string[] {
  if (declaration.kind === 'alias') return [];
  return declaration.kind === 'build' ? declaration.outputs : ['out'];
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
