/**
 * Edits of a manifest's text that leave everything else as its author wrote it: comments, layout, order, line ends. Each edit is
 * checked before it is given out: read again, the text must mean what was intended, or nothing is done.
 */
import { isMap, isScalar, isSeq, type Node, type Pair, parseDocument, type YAMLMap } from 'yaml';
import { canonicalJson, type Json } from '../base/canonical.ts';
import { Findings } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { parseYaml, plainValue } from './manifest-yaml.ts';
import { inputNamePattern } from './package-ref.ts';

export interface NewInput {
  readonly url: string;
  /** Semver range. */
  readonly version?: string;
  /** False: only files. */
  readonly flake?: boolean;
}

/**
 * The text with one more input, `inputs:` included where there is none. Throws FLK_USAGE when the name is taken or cannot name an
 * input, FLK_MANIFEST_INVALID when the text is no manifest, or is laid out in a way that only a person can edit.
 */
export function addInput(text: string, name: string, input: NewInput): string {
  if (!inputNamePattern.test(name) || name === 'self') {
    throw new FlkError('FLK_USAGE', `"${name}" cannot name an input`, {
      hint: 'a name is a letter, then letters, digits, _ and -',
    });
  }
  const before = read(text);
  const inputs = inputsOf(before);
  if (Object.hasOwn(inputs, name)) {
    throw new FlkError('FLK_USAGE', `there is an input "${name}" already`, {
      hint: `flk update ${name} moves it; another name adds a second one`,
    });
  }
  const value: Json =
    input.version === undefined && input.flake !== false
      ? input.url
      : {
          url: input.url,
          ...(input.version !== undefined && { version: input.version }),
          ...(input.flake === false && { flake: false }),
        };
  return verified(new Layout(text).add(name, value), {
    ...before,
    inputs: { ...inputs, [name]: value },
  });
}

/** The text without one of its inputs. Throws FLK_INPUT_UNKNOWN, FLK_MANIFEST_INVALID. */
export function removeInput(text: string, name: string): string {
  const before = read(text);
  const { [name]: _, ...inputs } = inputsOf(before);
  if (!Object.hasOwn(inputsOf(before), name)) {
    throw new FlkError('FLK_INPUT_UNKNOWN', `there is no input "${name}"`);
  }
  return verified(new Layout(text).remove(name), { ...before, inputs });
}

type Plain = Readonly<Record<string, Json>>;

function read(text: string): Plain {
  const findings = new Findings({ path: 'flake.yaml', text });
  const root = parseYaml(text, findings);
  if (!root || root.kind === 'list' || (root.kind === 'scalar' && root.value !== null)) {
    if (root) findings.add(root.range, 'a manifest must be a mapping');
    throw new FlkError('FLK_MANIFEST_INVALID', 'flake.yaml has faults, so it cannot be edited', {
      diagnostics: findings.list(),
    });
  }
  return root.kind === 'map' ? (plainValue(root) as Plain) : {};
}

function inputsOf(manifest: Plain): Plain {
  const inputs = manifest.inputs ?? {};
  if (typeof inputs !== 'object' || Array.isArray(inputs)) throw byHand();
  return inputs as Plain;
}

const byHand = (): FlkError =>
  new FlkError('FLK_MANIFEST_INVALID', 'flake.yaml is laid out in a way that flk cannot edit', {
    hint: 'edit inputs by hand',
  });

/** The first text that means what is wanted. An empty `inputs` and none mean the same. */
function verified(texts: readonly string[], wanted: Plain): string {
  const meaning = (manifest: Plain): string => canonicalJson({ ...manifest, inputs: inputsOf(manifest) });
  for (const text of texts) {
    try {
      if (meaning(read(text)) === meaning(wanted)) return text;
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
    }
  }
  throw byHand();
}

/** A text and where its parts stand. */
class Layout {
  readonly #text: string;
  readonly #newline: string;
  readonly #root: Node | null;

  constructor(text: string) {
    this.#text = text;
    this.#newline = /\r?\n/.exec(text)?.[0] ?? '\n';
    this.#root = parseDocument(text, { stringKeys: true, prettyErrors: false, logLevel: 'silent' }).contents;
  }

  /** Candidates, the most pleasing first. */
  add(name: string, value: Json): string[] {
    const root = this.#root;
    if (root === null || (isScalar(root) && root.value === null)) {
      return [this.#appended(this.#block('inputs', { [name]: value }, 0, 2))];
    }
    if (!isMap(root)) throw byHand();
    const pair = pairOf(root, 'inputs');
    if (pair === undefined) return this.#addSection(root, { [name]: value });
    const inputs = pair.value as Node | null;
    if (isMap(inputs) && (inputs.items.length > 0 || root.flow)) return [this.#addToMap(inputs, name, value)];
    const empty = isMap(inputs) || (isScalar(inputs) && inputs.value === null);
    if (!empty || inputs.anchor || inputs.tag) throw byHand();
    const [start, end] = rangeOf(inputs);
    if (root.flow) return [this.#replaced(start, end, ` { ${flowEntry(name, value)} }`)];
    // `inputs:`, `inputs: {}`, `inputs: null`: the lines below take the empty value's place.
    const [, keyEnd] = rangeOf(pair.key as Node);
    const colon = this.#text.indexOf(':', keyEnd) + 1;
    if (/[#\n]/.test(this.#text.slice(start, end))) throw byHand();
    const bare = end > start ? new Layout(this.#replaced(colon, end, '')) : this;
    const indent = this.#columnOf(pair.key as Node) + this.#step();
    return [bare.#insertedLines(bare.#lineEnd(colon), this.#block(name, value, indent, this.#step()))];
  }

  /** Candidates, the most pleasing first. */
  remove(name: string): string[] {
    const root = this.#root;
    const pair = isMap(root) ? pairOf(root, 'inputs') : undefined;
    if (!isMap(root) || !pair || !isMap(pair.value)) throw byHand();
    const inputs = pair.value as YAMLMap;
    if (inputs.flow) return [this.#withoutFlowItem(inputs, name)];
    const entry = pairOf(inputs, name)!;
    const texts = [this.#withoutLines(entry)];
    const above = this.#text.slice(rangeOf(pair.key as Node)[1], rangeOf(entry.key as Node)[0]);
    // An `inputs:` with nothing below it goes too, unless a comment would go with it.
    if (inputs.items.length === 1 && !root.flow && /^\s*:\s*$/.test(above)) {
      texts.unshift(this.#withoutLines(pair));
    }
    return texts;
  }

  #addToMap(map: YAMLMap, key: string, value: Json): string {
    const last = map.items.at(-1);
    if (map.flow) {
      const [start, end] = rangeOf(map);
      if (!last) return this.#replaced(start, end, `{ ${flowEntry(key, value)} }`);
      const at = this.#endOf(last);
      const comma = /^\s*,/.exec(this.#text.slice(at, end));
      const after = at + (comma?.[0].length ?? 0);
      return this.#replaced(after, after, `${comma ? '' : ','} ${flowEntry(key, value)}${comma ? ',' : ''}`);
    }
    if (!last) throw byHand();
    const indent = this.#columnOf(map.items[0]!.key as Node);
    const lines = this.#block(key, value, indent, this.#step());
    return this.#insertedLines(this.#lineEnd(this.#endOf(last)), lines);
  }

  /** A first `inputs`: above packages, at the end, or, where text at the end would take in what follows it, at the top. */
  #addSection(root: YAMLMap, value: Json): string[] {
    const [first] = root.items;
    const last = root.items.at(-1);
    if (root.flow || !first || !last) return [this.#addToMap(root, 'inputs', value)];
    const lines = this.#block('inputs', value, this.#columnOf(first.key as Node), this.#step());
    const end = this.#lineEnd(this.#endOf(last));
    const spaced = /\n\r?\n$/.test(this.#text.slice(0, end));
    const above = (at: number): string => this.#replaced(at, at, lines + this.#newline.repeat(2));
    const packages = this.#beforePackages(root);
    return [
      ...(packages === undefined ? [] : [above(packages)]),
      this.#insertedLines(end, (spaced ? '' : this.#newline) + lines),
      above(this.#lineStart(rangeOf(first.key as Node)[0])),
    ];
  }

  /** Inputs are looked for above packages: there, but not between those and the comment that belongs to them. */
  #beforePackages(root: YAMLMap): number | undefined {
    const index = root.items.findIndex((pair) => isScalar(pair.key) && pair.key.value === 'packages');
    if (index < 1) return undefined;
    let at = this.#lineStart(rangeOf(root.items[index]!.key as Node)[0]);
    const floor = this.#lineEnd(this.#endOf(root.items[index - 1]!));
    while (at > floor) {
      const above = this.#lineStart(at - 1);
      if (!/^\s*#/.test(this.#text.slice(above, at))) break;
      at = above;
    }
    return at;
  }

  /** `key: value` in block style, without a newline at the end. */
  #block(key: string, value: Json, indent: number, step: number): string {
    const pad = ' '.repeat(indent);
    if (value === null || typeof value !== 'object') return `${pad}${scalar(key)}: ${scalar(value)}`;
    const lines = Object.entries(value).map(([name, item]) =>
      this.#block(name, item as Json, indent + step, step),
    );
    return [`${pad}${scalar(key)}:`, ...lines].join(this.#newline);
  }

  /** How far this text indents: by its first indented mapping. */
  #step(): number {
    if (!isMap(this.#root) || this.#root.flow) return 2;
    const base = this.#columnOf(this.#root.items[0]!.key as Node);
    for (const { value } of this.#root.items) {
      if (!isMap(value) || value.flow || value.items.length === 0) continue;
      const step = this.#columnOf(value.items[0]!.key as Node) - base;
      if (step > 0) return step;
    }
    return 2;
  }

  #withoutLines(pair: Pair): string {
    const start = this.#lineStart(rangeOf(pair.key as Node)[0]);
    const end = this.#lineEnd(this.#endOf(pair));
    if (this.#text.slice(start, rangeOf(pair.key as Node)[0]).trim() !== '') throw byHand();
    return this.#replaced(start, end, '');
  }

  #withoutFlowItem(map: YAMLMap, name: string): string {
    const index = map.items.findIndex((pair) => isScalar(pair.key) && pair.key.value === name);
    const pair = map.items[index]!;
    const [start] = rangeOf(pair.key as Node);
    const end = this.#endOf(pair);
    const next = map.items[index + 1];
    if (next) return this.#replaced(start, rangeOf(next.key as Node)[0], '');
    const previous = map.items[index - 1];
    return previous ? this.#replaced(this.#endOf(previous), end, '') : this.#replaced(start, end, '');
  }

  /** The end of what a pair holds: not of the comments and blank lines after it. */
  #endOf(pair: Pair): number {
    const value = pair.value as Node | null;
    const [, keyEnd] = rangeOf(pair.key as Node);
    if (value === null) return keyEnd;
    if ((isMap(value) || isSeq(value)) && !value.flow) {
      const last = value.items.at(-1) as Pair | Node | undefined;
      if (last === undefined) return rangeOf(value)[1];
      return 'key' in last ? this.#endOf(last) : this.#endOfNode(last);
    }
    return Math.max(keyEnd, this.#endOfNode(value));
  }

  #endOfNode(node: Node): number {
    if (isMap(node) && !node.flow && node.items.length > 0) return this.#endOf(node.items.at(-1)!);
    if (isSeq(node) && !node.flow && node.items.length > 0) return this.#endOfNode(node.items.at(-1) as Node);
    const [start, end] = rangeOf(node);
    const written = this.#text.slice(start, end);
    // In a block scalar with + the blank lines at the end count; so they do not anywhere else.
    return /^[|>][0-9]?\+/.test(written) ? end : start + written.trimEnd().length;
  }

  #columnOf(node: Node): number {
    const [start] = rangeOf(node);
    return start - this.#lineStart(start);
  }

  /** A byte order mark is no column. */
  #lineStart(offset: number): number {
    const start = this.#text.lastIndexOf('\n', offset - 1) + 1;
    return start === 0 && this.#text.startsWith('\ufeff') ? Math.min(1, offset) : start;
  }

  /** Where the next line begins. */
  #lineEnd(offset: number): number {
    // The offset may already be at a line's start, behind a block scalar that keeps its last newline.
    if (offset > 0 && this.#text[offset - 1] === '\n') return offset;
    const newline = this.#text.indexOf('\n', offset);
    return newline < 0 ? this.#text.length : newline + 1;
  }

  #replaced(start: number, end: number, by: string): string {
    return this.#text.slice(0, start) + by + this.#text.slice(end);
  }

  /** `at` is a line's start, or the end of a text that lacks its last newline. */
  #insertedLines(at: number, lines: string): string {
    const open = at > 0 && this.#text[at - 1] !== '\n';
    return open
      ? this.#replaced(at, at, this.#newline + lines)
      : this.#replaced(at, at, lines + this.#newline);
  }

  #appended(lines: string): string {
    const bare = this.#text.replace('\ufeff', '');
    if (bare.trim() === '' && !bare.includes('\n')) return `${this.#text.trimEnd()}${lines}${this.#newline}`;
    return this.#insertedLines(this.#text.length, lines);
  }
}

function pairOf(map: YAMLMap, key: string): Pair | undefined {
  return map.items.find((pair) => isScalar(pair.key) && pair.key.value === key);
}

function rangeOf(node: Node): readonly [start: number, end: number] {
  if (!node.range) throw byHand();
  return [node.range[0], node.range[1]];
}

function flowEntry(key: string, value: Json): string {
  if (value === null || typeof value !== 'object') return `${scalar(key)}: ${scalar(value)}`;
  const entries = Object.entries(value).map(([name, item]) => flowEntry(name, item as Json));
  return `${scalar(key)}: { ${entries.join(', ')} }`;
}

/** Bare where no YAML reader could take it for anything but this text; else in double quotes. */
function scalar(value: Json): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  const bare =
    /^[A-Za-z./^~][A-Za-z0-9+./_^~=&%@:?-]*$/.test(value) &&
    !value.endsWith(':') &&
    !/^(true|false|yes|no|on|off|y|n|null|~|[.](inf|nan|[0-9_]+(e[0-9]+)?))$/i.test(value);
  return bare ? value : JSON.stringify(value);
}

/** An input's name out of its reference: the repository's or folder's own, `-2` where that is taken. */
export function inputNameFor(url: string, taken: ReadonlySet<string>): string {
  const [place = '', query = ''] = url.split(/[?#]/, 2);
  const dir = url.includes('?') ? new URLSearchParams(query).get('dir') : null;
  const parts = (dir || place)
    .replace(/^[a-z][a-z0-9+.-]*:(\/\/[^/]*)?/i, '')
    .split('/')
    .filter((part) => part !== '' && part !== '.' && part !== '..');
  const forge = /^(github|gitlab|sourcehut):/.test(place) && !dir;
  const word = (forge ? parts[1] : parts.at(-1)) ?? '';
  const name =
    word
      .replace(/\.git$/, '')
      .replace(/[^A-Za-z0-9_-]+/g, '-')
      .replace(/^[^A-Za-z]+|[-_]+$/g, '') || 'input';
  const free = (candidate: string): boolean => candidate !== 'self' && !taken.has(candidate);
  if (free(name)) return name;
  for (let count = 2; ; count++) if (free(`${name}-${count}`)) return `${name}-${count}`;
}

/**
 * What `flk init` writes: a manifest that locks and builds at once on any machine, and says what to try next. Its package is
 * named after the folder; `schema` is where editors find the schema, if anywhere.
 */
export function initialManifest(folder: string, schema?: string): string {
  const name = packageNameFor(folder);
  const modeline = schema === undefined ? '' : `# yaml-language-server: $schema=${schema}\n`;
  return `${modeline}description: ${JSON.stringify(`The flake of ${name}`)}

# Other sources, pinned in flake.lock. "flk add URL" puts one here, "flk update" moves it.
inputs: {}

packages:
  default: ${scalar(name)} # what "flk build" and "flk run" take

  ${scalar(name)}:
    version: "0.1.0"
    # To build from the files beside this one: src: .
    # host: the tools of this machine. A package as toolchain makes the build the same everywhere.
    toolchain: host
    env:
      GREETING: Hello
    buildPhase: |
      {
        echo '#!/bin/sh'
        echo "echo $GREETING from ${name}"
      } > greet
      chmod +x greet
    installPhase: |
      mkdir -p "$out/bin"
      cp greet "$out/bin/${name}"
    meta:
      description: Says hello
      mainProgram: ${scalar(name)}
`;
}

function packageNameFor(folder: string): string {
  const name = folder
    .replace(/[^A-Za-z0-9_+-]+/g, '-')
    .replace(/^[^A-Za-z0-9_]+|-+$/g, '')
    .slice(0, 60);
  return name === '' || name === 'default' ? 'hello' : name;
}
