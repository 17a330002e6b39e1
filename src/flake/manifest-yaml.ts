/**
 * YAML 1.2 text → values that know where they stand. Only what a manifest needs: one document, no directives, no tags but the
 * core ones, no merge keys, string keys; everything bounded before anything recurses over it.
 */
import {
  type Alias,
  Composer,
  type CST,
  isAlias,
  isMap,
  isScalar,
  Lexer,
  type ParsedNode,
  Parser,
  type YAMLError,
} from 'yaml';
import type { Json } from '../base/canonical.ts';
import { type Findings, positionOf, type Range } from '../base/diagnostics.ts';
import type { Located, LocatedEntry } from './manifest-located.ts';
import { parsePlainYaml } from './manifest-yaml-plain.ts';

export type { Located, LocatedEntry, LocatedMap } from './manifest-located.ts';

/** No manifest that a person wrote comes near these; see tests for what lies beyond. */
const yamlLimits = {
  /** UTF-16 units. */
  length: 1 << 22,
  lexemes: 1_000_000,
  /** The parser recurses when it composes: V8 dies, rather than throws, where a regular expression meets the end of the stack. */
  depth: 100,
  /** Values after aliases are expanded. */
  values: 400_000,
};

/** Undefined when the text is not YAML that a manifest may hold; `findings` then say why. An empty text is an empty mapping. */
export function parseYaml(text: string, findings: Findings): Located | undefined {
  const control = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f\ufffe\uffff]/.exec(text);
  if (control) {
    const code = control[0].charCodeAt(0).toString(16).padStart(4, '0').toUpperCase();
    findings.add(span(control.index, 1), `control character U+${code}`, 'remove it');
    return undefined;
  }
  return parsePlainYaml(text) ?? parseWholeYaml(text, findings);
}

/** As `parseYaml`, by the parser that knows all of YAML, and what is wrong. Control characters have been looked for. */
export function parseWholeYaml(text: string, findings: Findings): Located | undefined {
  const tokens = boundedTokens(text, findings);
  if (tokens === undefined) return undefined;
  const composer = new Composer({
    version: '1.2',
    schema: 'core',
    merge: false,
    resolveKnownTags: false,
    stringKeys: true,
    // Its own check compares every key with every other; the Locator's does not.
    uniqueKeys: false,
    prettyErrors: false,
    logLevel: 'silent',
  });
  const [document, second] = composer.compose(tokens, true, text.length);
  if (second) {
    const start = text.indexOf('---', document?.range[1] ?? 0);
    findings.add(
      start < 0 ? span(second.range[0], 0) : span(start, 3),
      'a second YAML document begins here',
      'keep one document per manifest',
    );
  }
  reportSyntax(document?.errors ?? [], text, findings);
  if (findings.count > 0) return undefined;
  const root = document?.contents;
  if (!root) return { kind: 'map', entries: new Map(), range: span(0, 0) };
  const located = new Locator(text, findings).locate(root, span(0, 0));
  return findings.count > 0 ? undefined : located;
}

/** The concrete syntax tree, unless it is too large or too deep to go on with. Lexer and parser themselves do not recurse. */
function boundedTokens(text: string, findings: Findings): CST.Token[] | undefined {
  if (text.length > yamlLimits.length) {
    findings.add(
      span(0, 0),
      `a manifest has at most ${yamlLimits.length} characters, this one ${text.length}`,
    );
    return undefined;
  }
  const parser = new Parser();
  const tokens: CST.Token[] = [];
  let lexemes = 0;
  for (const lexeme of new Lexer().lex(text)) {
    if (++lexemes > yamlLimits.lexemes) {
      findings.add(span(parser.offset, 0), `a manifest has at most ${yamlLimits.lexemes} words and signs`);
      return undefined;
    }
    tokens.push(...parser.next(lexeme));
    if (parser.stack.length > yamlLimits.depth) {
      findings.add(span(parser.offset, 1), `nested more than ${yamlLimits.depth} deep`);
      return undefined;
    }
  }
  tokens.push(...parser.end());
  for (const token of tokens) {
    if (token.type !== 'directive') continue;
    findings.add(
      span(token.offset, token.source.length),
      'YAML directives have no meaning in a manifest',
      'remove the line; if it is a value, quote it',
    );
  }
  return tokens;
}

/** One fault per line: those that follow on it are the first one's shadows. */
function reportSyntax(errors: readonly YAMLError[], text: string, findings: Findings): void {
  /** The newline that ends the last line with a fault: to look back for each fault's line would take the square of a long one. */
  let lineEnd = -1;
  let swallowed = false;
  for (const error of [...errors].sort((a, b) => a.pos[0] - b.pos[0])) {
    const [start, end] = error.pos;
    if (start <= lineEnd) continue;
    const line = text.lastIndexOf('\n', start - 1);
    const next = text.indexOf('\n', start);
    lineEnd = next < 0 ? text.length : next;
    const opening = text.lastIndexOf('{{', start);
    if (opening > line && start - opening <= 2) {
      const value = valueAt(text, opening);
      findings.add(
        span(opening, value.length),
        'a value that begins with {{ is a mapping to YAML',
        quoteAdvice(value),
      );
      continue;
    }
    const value = valueAt(text, start);
    switch (error.code) {
      case 'BAD_SCALAR_START':
        findings.add(
          span(start, value.length),
          `a value cannot begin with ${text[start]}`,
          quoteAdvice(value),
        );
        break;
      case 'BLOCK_AS_IMPLICIT_KEY':
        findings.add(
          span(start, value.length),
          'a value with ": " in it is a mapping to YAML',
          `${quoteAdvice(value)}, or use a block: |`,
        );
        break;
      case 'MISSING_CHAR':
        if (text[start] !== '#') {
          findings.add({ start, end: Math.max(start, end) }, lowerFirst(error.message));
          break;
        }
        swallowed = true;
        findings.add(span(start, value.length), 'to YAML, # begins a comment', quoteAdvice(value));
        break;
      case 'TAB_AS_INDENT':
        findings.add(span(start, 1), 'a tab cannot indent', 'indent with spaces');
        break;
      case 'NON_STRING_KEY':
        findings.add({ start, end }, 'a key must be a word', 'quote the key');
        break;
      case 'BAD_INDENT':
        // The comment took the closing bracket with it: that is one fault, not two.
        if (swallowed && error.message.startsWith('Flow')) break;
        findings.add(
          { start, end },
          error.message.startsWith('Flow')
            ? 'a [ or { above is not closed, or what is in it not indented'
            : lowerFirst(error.message),
        );
        break;
      default:
        findings.add({ start, end: Math.max(start, end) }, lowerFirst(error.message));
    }
  }
}

const lowerFirst = (message: string): string => message.charAt(0).toLowerCase() + message.slice(1);

/** The value a person meant to write from here: to the end of the line, its comment, or the flow collection's next sign. */
function valueAt(text: string, start: number): string {
  const line = text.lastIndexOf('\n', start - 1) + 1;
  const end = text.indexOf('\n', start);
  const rest = text.slice(start, end < 0 ? text.length : end).replace(/\s+#.*$|\s+$/, '');
  const before = text.slice(line, start).replace(/"[^"]*"|'[^']*'/g, '');
  const inFlow = /[[{]/.test(before.replace(/\{[^{}]*\}|\[[^[\]]*\]/g, ''));
  if (!inFlow) return rest;
  const flow = /^(?:\{\{[^}]*\}\}|[^,\]}])*/.exec(rest);
  return flow?.[0].trimEnd() || rest;
}

/** `quote it: "@x"`; nothing where the text is too long to repeat. */
export function quoteAdvice(text: string): string {
  return text.length > 120 ? 'quote it' : `quote it: ${JSON.stringify(text)}`;
}

interface Measured {
  readonly located: Located;
  /** Values in it, aliases expanded. */
  readonly size: number;
  readonly depth: number;
}

/** Turns composed nodes into located values, follows aliases, and finds keys that are set twice. */
class Locator {
  readonly #text: string;
  readonly #findings: Findings;
  /** Anchors seen so far; undefined while the anchored value itself is being read. */
  readonly #anchors = new Map<string, Measured | undefined>();

  constructor(text: string, findings: Findings) {
    this.#text = text;
    this.#findings = findings;
  }

  locate(node: ParsedNode, owner: Range): Located {
    return this.#measure(node, owner).located;
  }

  #measure(node: ParsedNode | null, owner: Range): Measured {
    if (node === null) return this.#scalar(null, '', span(owner.end, 0), owner);
    const range: Range = { start: node.range[0], end: Math.max(node.range[0], node.range[1]) };
    if (isAlias(node)) return this.#alias(node.source, range);
    if (node.tag !== undefined && !/^tag:yaml\.org,2002:(str|int|float|bool|null|map|seq)$/.test(node.tag)) {
      // The node's range begins after its tag.
      const written = /!\S*(?=\s+(&\S+\s+)?$)/.exec(this.#text.slice(owner.start, range.start));
      this.#findings.add(
        written ? span(owner.start + written.index, written[0].length) : owner,
        'YAML tags (!…) have no meaning in a manifest',
        'if the ! belongs to the value, quote the value',
      );
    }
    if (node.anchor !== undefined) this.#anchors.set(node.anchor, undefined);
    const measured = this.#collection(node, range, owner);
    if (node.anchor !== undefined) this.#anchors.set(node.anchor, measured);
    return measured;
  }

  #collection(node: Exclude<ParsedNode, Alias.Parsed>, range: Range, owner: Range): Measured {
    if (isScalar(node)) return this.#scalar(node.value, node.source, range, owner);
    const children: Measured[] = [];
    let located: Located;
    if (isMap(node)) {
      const entries = new Map<string, LocatedEntry>();
      for (const pair of node.items) {
        const key: Range = { start: pair.key.range[0], end: pair.key.range[1] };
        const name = isScalar(pair.key) ? String(pair.key.value ?? pair.key.source) : undefined;
        if (name === undefined) {
          this.#findings.add(key, 'a key must be a word', 'quote the key');
          continue;
        }
        if (name === '<<') {
          this.#findings.add(
            key,
            'YAML 1.2 has no merge key <<',
            'repeat the keys, or alias each value: key: *anchor',
          );
          continue;
        }
        const first = entries.get(name);
        const child = this.#measure(pair.value, key);
        children.push(child);
        if (first) {
          // Finding the line costs a walk over the text, and a hostile one repeats a key without end.
          const line = this.#findings.full ? '' : positionOf(this.#text, first.key.start).line;
          this.#findings.add(key, `"${name}" is set twice, first on line ${line}`, 'keep one of them');
          continue;
        }
        entries.set(name, { key, value: child.located });
      }
      located = { kind: 'map', entries, range };
    } else {
      const items = node.items.map((item) => {
        const child = this.#measure(item, range);
        children.push(child);
        return child.located;
      });
      located = { kind: 'list', items, range };
    }
    return this.#bounded(
      {
        located,
        size: children.reduce((sum, child) => sum + child.size, 1),
        depth: children.reduce((deepest, child) => Math.max(deepest, child.depth), 0) + 1,
      },
      range,
    );
  }

  #scalar(value: unknown, source: string | undefined, range: Range, owner: Range): Measured {
    const text = source ?? '';
    if (value === null && text === '') {
      const comment = /^[ \t]*(#\S+)/.exec(this.#text.slice(range.start, range.start + 200));
      const eaten = comment?.[1] ?? '';
      const start = range.start + (comment?.[0].length ?? 0) - eaten.length;
      return {
        located: {
          kind: 'scalar',
          value,
          source: eaten,
          range: eaten === '' ? owner : span(start, eaten.length),
        },
        size: 1,
        depth: 1,
      };
    }
    const known =
      typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' || value === null;
    if (typeof value === 'string' && /\0|\p{Surrogate}/u.test(value))
      this.#findings.add(range, 'a NUL, or half of a surrogate pair, by escape', 'remove it');
    return {
      located: { kind: 'scalar', value: known ? value : text, source: text, range },
      size: 1,
      depth: 1,
    };
  }

  #alias(name: string, range: Range): Measured {
    const target = this.#anchors.get(name);
    if (target) return this.#bounded(target, range);
    const value = valueAt(this.#text, range.start);
    if (this.#anchors.has(name)) {
      this.#findings.add(range, `*${name} stands inside the very value it repeats`, 'write the value out');
    } else {
      this.#findings.add(
        span(range.start, value.length),
        `to YAML, * repeats a value marked &${name}, and there is none`,
        quoteAdvice(value),
      );
    }
    return { located: { kind: 'scalar', value: null, source: '', range }, size: 1, depth: 1 };
  }

  /** Aliases of aliases grow like powers: what is read twice is counted twice, and cut off where it is too much. */
  #bounded(measured: Measured, range: Range): Measured {
    if (measured.size <= yamlLimits.values && measured.depth <= yamlLimits.depth) return measured;
    this.#findings.add(
      range,
      `aliases expand to more than ${yamlLimits.values} values, or deeper than ${yamlLimits.depth}`,
    );
    return { located: { kind: 'scalar', value: null, source: '', range }, size: 1, depth: 1 };
  }
}

/** The entries of a mapping; none where something else stands, which the schema has then reported. */
export function entriesOf(located: Located | undefined): ReadonlyMap<string, LocatedEntry> {
  return located?.kind === 'map' ? located.entries : noEntries;
}

const noEntries: ReadonlyMap<string, LocatedEntry> = new Map();

export function itemsOf(located: Located | undefined): readonly Located[] {
  return located?.kind === 'list' ? located.items : [];
}

/** The scalar, if it is of the type asked for. */
export function textOf(located: Located | undefined): string | undefined {
  return located?.kind === 'scalar' && typeof located.value === 'string' ? located.value : undefined;
}

export function flagOf(located: Located | undefined): boolean | undefined {
  return located?.kind === 'scalar' && typeof located.value === 'boolean' ? located.value : undefined;
}

export function numberOf(located: Located | undefined): number | undefined {
  return located?.kind === 'scalar' && typeof located.value === 'number' ? located.value : undefined;
}

/** The bare value, for a validator. Objects have no prototype, so that a key `__proto__` is a key like any other. */
export function plainValue(located: Located): Json {
  if (located.kind === 'scalar') return located.value;
  if (located.kind === 'list') return located.items.map(plainValue);
  const plain: Record<string, Json> = Object.create(null) as Record<string, Json>;
  for (const [key, { value }] of located.entries) plain[key] = plainValue(value);
  return plain;
}

const span = (start: number, length: number): Range => ({ start, end: start + length });
