/**
 * The plain part of YAML that nearly every manifest keeps to, read in one pass at a small part of the cost: mappings of words, lists,
 * scalars and flow collections that end on their line, literal blocks. All else is left to the whole parser, and so is whatever may
 * be wrong: here are no errors, only doubts.
 */
import type { Range } from '../base/diagnostics.ts';
import type { Located, LocatedEntry, LocatedScalar } from './manifest-located.ts';

/** The whole parser must read this text. */
class Doubt extends Error {}

/** What comes near the whole parser's own limits is its to judge. `values`: lines with nothing on them count, too. */
const limits = { length: 1 << 22, values: 150_000, depth: 40 };

const word = /[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,999}(?=:[ \n])/y;
/** Where a flow collection's plain scalar may end. */
const flowSign = /[,[\]{}\n]/g;
/** Some of YAML's own values begin like this, or have another meaning than they seem to. */
const peculiar = /^(?:[-+.~0-9]|(?:null|true|false)$)/i;
const counting = /^(?:0|[1-9][0-9]{0,14})$/;
const escapes: Readonly<Record<string, string>> = { '"': '"', '\\': '\\', '/': '/', n: '\n', t: '\t' };

const [newline, blank, double, hash, single, comma, dash, pipe] = [10, 32, 34, 35, 39, 44, 45, 124];
const [squareOpen, squareClose, curlyOpen, curlyClose, backslash] = [91, 93, 123, 125, 92];
const indicators = new Set([...'-?:,[]{}#&*!|>\'"%@`\n'].map((sign) => sign.charCodeAt(0)));

/** What the whole parser gives, for a text that it takes; undefined where that is not plain to see. */
export function parsePlainYaml(text: string): Located | undefined {
  if (text.length > limits.length || !text.endsWith('\n')) return undefined;
  if (/[\t\r\ufeff]|\p{Surrogate}/u.test(text)) return undefined;
  try {
    return new PlainReader(text).document();
  } catch (error) {
    if (error instanceof Doubt) return undefined;
    throw error;
  }
}

class PlainReader {
  readonly #text: string;
  #at = 0;
  /** Where the line at hand begins, and how deep its first word stands; that is -1 at the end. */
  #line = 0;
  #indent = 0;
  /** Where the value that was read last is over, the rest of its line included: collections end there. */
  #end = 0;
  #values = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): Located {
    this.#nextLine(0);
    if (this.#indent !== 0 || this.#isItem()) throw new Doubt();
    return this.#map(0, 0);
  }

  /** To the first word from here on. Comments must stand as deep as what follows them: else it is not plain where they belong. */
  #nextLine(from: number): void {
    let comment = -1;
    for (let line = from; ; ) {
      let at = line;
      while (this.#text.charCodeAt(at) === blank) at++;
      const code = this.#text.charCodeAt(at);
      const depth = at >= this.#text.length ? -1 : at - line;
      if (code !== newline && code !== hash) {
        if (comment !== -1 && comment !== Math.max(depth, 0)) throw new Doubt();
        this.#line = line;
        this.#at = at;
        this.#indent = depth;
        return;
      }
      this.#count();
      if (code === hash) {
        if (comment !== -1 && comment !== depth) throw new Doubt();
        comment = depth;
        at = this.#text.indexOf('\n', at);
      }
      line = at + 1;
    }
  }

  #count(): void {
    if (++this.#values > limits.values) throw new Doubt();
  }

  #code(offset = 0): number {
    return this.#text.charCodeAt(this.#at + offset);
  }

  #skipBlanks(): void {
    while (this.#code() === blank) this.#at++;
  }

  #isItem(): boolean {
    return this.#code() === dash && this.#code(1) === blank;
  }

  /** A mapping whose first key stands here, `indent` deep. */
  #map(indent: number, depth: number): Located {
    const start = this.#at;
    const entries = new Map<string, LocatedEntry>();
    do this.#entry(entries, () => this.#value(indent, depth + 1));
    while (this.#indent === indent);
    if (this.#indent > indent) throw new Doubt();
    return this.#located({ kind: 'map', entries, range: { start, end: this.#end } });
  }

  /** Reads `key:`, whatever `read` finds behind it, and puts them in. */
  #entry(entries: Map<string, LocatedEntry>, read: () => Located): void {
    if (!this.#isKey()) throw new Doubt();
    const key = { start: this.#at, end: word.lastIndex };
    const name = this.#text.slice(key.start, key.end);
    if (entries.has(name)) throw new Doubt();
    this.#at = key.end + 1;
    this.#skipBlanks();
    entries.set(name, { key, value: read() });
  }

  /** Whether a word before a colon stands here; `word.lastIndex` is then where it ends. */
  #isKey(): boolean {
    word.lastIndex = this.#at;
    return word.test(this.#text);
  }

  /** A list whose first dash stands here, `indent` deep. */
  #list(indent: number, depth: number): Located {
    const start = this.#at;
    const items: Located[] = [];
    do {
      this.#at++;
      this.#skipBlanks();
      items.push(this.#isKey() ? this.#map(this.#at - this.#line, depth + 1) : this.#inline(indent));
    } while (this.#indent === indent && this.#isItem());
    if (this.#indent > indent) throw new Doubt();
    return this.#located({ kind: 'list', items, range: { start, end: this.#end } });
  }

  /** What stands behind a key of a mapping that is `indent` deep: on the same line, or below. */
  #value(indent: number, depth: number): Located {
    const code = this.#code();
    if (code !== newline && !(code === hash && this.#code(-1) === blank)) return this.#inline(indent);
    this.#nextLine(this.#text.indexOf('\n', this.#at) + 1);
    if (depth > limits.depth) throw new Doubt();
    const isList = this.#isItem(); // It may stand as deep as the key above it.
    if (this.#indent < indent || (this.#indent === indent && !isList)) throw new Doubt();
    return isList ? this.#list(this.#indent, depth) : this.#map(this.#indent, depth);
  }

  /** A value that begins on this line, below something `indent` deep; goes on to the next line. */
  #inline(indent: number): Located {
    if (this.#code() === pipe) return this.#literal(indent);
    const lineEnd = this.#text.indexOf('\n', this.#at);
    const comment = this.#text.slice(this.#at, lineEnd).indexOf(' #');
    const value = this.#flow(lineEnd, 0) ?? this.#plain(comment < 0 ? lineEnd : this.#at + comment);
    this.#skipBlanks();
    if (this.#code() !== newline && !(this.#code() === hash && this.#code(-1) === blank)) throw new Doubt();
    this.#end = lineEnd + 1;
    this.#nextLine(this.#end);
    return value;
  }

  /** A flow collection or a quoted scalar, if one begins here. */
  #flow(lineEnd: number, depth: number): Located | undefined {
    switch (this.#code()) {
      case double:
      case single:
        return this.#quoted(lineEnd);
      case squareOpen: {
        const items: Located[] = [];
        const range = this.#parts(squareClose, depth, () => items.push(this.#flowValue(lineEnd, depth)));
        return this.#located({ kind: 'list', items, range });
      }
      case curlyOpen: {
        const entries = new Map<string, LocatedEntry>();
        const range = this.#parts(curlyClose, depth, () =>
          this.#entry(entries, () => this.#flowValue(lineEnd, depth)),
        );
        return this.#located({ kind: 'map', entries, range });
      }
      default:
        return undefined;
    }
  }

  /** The parts of a flow collection, from its opening sign to the closing one; each is read by `read`. */
  #parts(close: number, depth: number, read: () => void): Range {
    if (depth > limits.depth) throw new Doubt();
    const start = this.#at++;
    this.#skipBlanks();
    for (let isFirst = true; this.#code() !== close; isFirst = false) {
      if (!isFirst) {
        if (this.#code() !== comma) throw new Doubt();
        this.#at++;
        this.#skipBlanks();
      }
      read();
      this.#skipBlanks();
    }
    this.#at++;
    return { start, end: this.#at };
  }

  #flowValue(lineEnd: number, depth: number): Located {
    const value = this.#flow(lineEnd, depth + 1);
    if (value !== undefined) return value;
    flowSign.lastIndex = this.#at;
    // There is a newline, at the least.
    flowSign.test(this.#text);
    return this.#plain(flowSign.lastIndex - 1);
  }

  /** A scalar without quotes, which ends at `limit` or, where that follows blanks, before them. */
  #plain(limit: number): Located {
    const start = this.#at;
    if (indicators.has(this.#code()) && !(this.#code() === dash && this.#code(1) > double)) throw new Doubt();
    const source = this.#text.slice(start, limit).trimEnd();
    if (source.includes(': ') || source.includes(' #') || source.endsWith(':')) throw new Doubt();
    this.#at = start + source.length;
    return this.#scalar(peculiar.test(source) ? peculiarValue(source) : source, source, start);
  }

  #quoted(lineEnd: number): Located {
    const start = this.#at;
    const sign = this.#code();
    let value = '';
    for (let from = ++this.#at; ; this.#at++) {
      const code = this.#code();
      if (this.#at >= lineEnd) throw new Doubt();
      if (sign === double && code === backslash) {
        const meant = escapes[this.#text[this.#at + 1] ?? ''];
        if (meant === undefined) throw new Doubt();
        value += this.#text.slice(from, this.#at) + meant;
        from = ++this.#at + 1;
      } else if (code === sign) {
        value += this.#text.slice(from, this.#at++);
        if (sign === double || this.#code() !== sign) return this.#scalar(value, value, start);
        // Two of them are one of the text's own.
        from = this.#at;
      }
    }
  }

  /** A literal block, below something `indent` deep. */
  #literal(indent: number): Located {
    const start = this.#at;
    const header = /\|-?\n/y;
    header.lastIndex = start;
    if (!header.test(this.#text)) throw new Doubt();
    const strips = this.#code(1) === dash;
    let value = '';
    let deep = -1;
    let end = header.lastIndex;
    for (let line = end; ; ) {
      let at = line;
      while (this.#text.charCodeAt(at) === blank) at++;
      const found = at - line;
      if (this.#text.charCodeAt(at) === newline) {
        // Blanks on an empty line may be part of the text.
        if (found > 0) throw new Doubt();
        this.#count();
        line++;
        continue;
      }
      if (deep < 0 && found <= indent) throw new Doubt();
      if (deep < 0) deep = found;
      if (at >= this.#text.length || found < deep) break;
      const next = this.#text.indexOf('\n', at) + 1;
      // The empty lines before it, and the line itself.
      value += '\n'.repeat(line - end) + this.#text.slice(line + deep, next);
      line = next;
      end = next;
    }
    this.#at = this.#end = end;
    const text = strips ? value.slice(0, -1) : value;
    const literal = this.#scalar(text, text, start);
    this.#nextLine(end);
    return literal;
  }

  #scalar(value: LocatedScalar['value'], source: string, start: number): Located {
    return this.#located({ kind: 'scalar', value, source, range: { start, end: this.#at } });
  }

  #located(value: Located): Located {
    this.#count();
    return value;
  }
}

/** Numbers, truth and nothing: the usual ones of them are read here. */
function peculiarValue(source: string): LocatedScalar['value'] {
  if (source === 'true' || source === 'false') return source === 'true';
  if (counting.test(source)) return Number(source);
  // What has two points, or a sign that no number has, is text like any other: 1.2.3, ./main.c, -lm.
  const isWord = /^[-+]?\.?(?:inf|nan|null|true|false)$/i.test(source);
  if (!isWord && /\..*\.|[g-np-wyzG-NP-WYZ/]/.test(source)) return source;
  throw new Doubt();
}
