/** Where the parts of a manifest's text stand, and what the text would be with one of them added, changed or taken away. */
import { isMap, isScalar, isSeq, type Node, type Pair, parseDocument, type YAMLMap } from 'yaml';
import type { Json } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';

/** Throws FLK_MANIFEST_INVALID: for this layout, no way is known that harms nothing. */
export const byHand = (): FlkError =>
  new FlkError('FLK_MANIFEST_INVALID', 'flake.yaml is laid out in a way that flk cannot edit', {
    hint: 'edit inputs by hand',
  });

/** A text and where its parts stand. */
export class Layout {
  readonly #text: string;
  readonly #newline: string;
  readonly #root: Node | null;

  constructor(text: string) {
    this.#text = text;
    this.#newline = /\r?\n/.exec(text)?.[0] ?? '\n';
    this.#root = parseDocument(text, { stringKeys: true, prettyErrors: false, logLevel: 'silent' }).contents;
  }

  /** With another input. Candidates, the most pleasing first. */
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

  /** Without an input. Candidates, the most pleasing first. */
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

  /** With another value at the end of a path of keys; maps that are missing on the way are made. */
  setAt(path: readonly string[], value: string | boolean): string {
    let map = this.#root;
    for (const [index, key] of path.entries()) {
      if (!isMap(map)) throw byHand();
      const pair = pairOf(map, key);
      if (pair === undefined) {
        const inner = path.slice(index + 1).reduceRight<Json>((json, name) => ({ [name]: json }), value);
        return this.#addToMap(map, key, inner);
      }
      const node = pair.value as Node | null;
      if (index === path.length - 1) {
        if (!isScalar(node) || node.anchor || node.tag) throw byHand();
        const [start] = rangeOf(node);
        return this.#replaced(start, this.#endOf(pair), scalar(value));
      }
      // A text is short for a map with a url.
      if (isScalar(node)) return new Layout(this.#withUrl(map, pair, node)).setAt(path, value);
      map = node;
    }
    throw byHand();
  }

  /** Without what stands at the end of a path of keys, and without a map that is empty then. */
  removeAt(path: readonly string[]): string {
    let map = this.#root;
    for (const [index, key] of path.entries()) {
      const pair = isMap(map) ? pairOf(map, key) : undefined;
      if (!isMap(map) || pair === undefined) throw byHand();
      if (index < path.length - 1) map = pair.value as Node | null;
      else if (map.items.length === 1) return this.removeAt(path.slice(0, -1));
      else return map.flow ? this.#withoutFlowItem(map, key) : this.#withoutLines(pair);
    }
    throw byHand();
  }

  /** `greet: URL` as a map that holds the url, and has room for more. */
  #withUrl(map: YAMLMap, pair: Pair, url: Node): string {
    const [start] = rangeOf(url);
    const end = this.#endOf(pair);
    if (map.flow) return this.#replaced(start, end, `{ url: ${this.#text.slice(start, end)} }`);
    const colon = this.#text.indexOf(':', rangeOf(pair.key as Node)[1]) + 1;
    if (this.#text.slice(colon, start).trim() !== '') throw byHand();
    const pad = ' '.repeat(this.#columnOf(pair.key as Node) + this.#step());
    return this.#replaced(colon, start, `${this.#newline}${pad}url: `);
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

/** Text in YAML. Bare where no YAML reader could take it for anything but this text; else in double quotes. */
export function scalar(value: Json): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  const bare =
    /^[A-Za-z./^~][A-Za-z0-9+./_^~=&%@:?-]*$/.test(value) &&
    !value.endsWith(':') &&
    !/^(true|false|yes|no|on|off|y|n|null|~|[.](inf|nan|[0-9_]+(e[0-9]+)?))$/i.test(value);
  return bare ? value : JSON.stringify(value);
}
