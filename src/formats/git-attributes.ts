/** `.gitattributes`: which attributes a path of a repository has. Source: gitattributes(5), gitignore(5) for the patterns. */
import { FlkError } from '../base/errors.ts';
import type { NodePath } from './tree-sinks.ts';

/** Set, unset, or set to a text. Nobody says anything: undefined. */
export type AttributeValue = boolean | string | undefined;

interface Rule {
  readonly matches: (path: string, name: string) => boolean;
  /** In the order of the line; null says that the attribute is unspecified after all. */
  readonly changes: readonly (readonly [string, AttributeValue | null])[];
}

/** What no honest repository exceeds. */
const maxRules = 100_000;
const maxLine = 2048;

/** All `.gitattributes` of one tree. */
export class GitAttributes {
  /** By folder: '' for the root, else without a slash at the end. */
  readonly #rules = new Map<NodePath, readonly Rule[]>();
  readonly #macros = new Map<string, Rule['changes']>([
    [
      'binary',
      [
        ['diff', false],
        ['merge', false],
        ['text', false],
      ],
    ],
  ]);
  #count = 0;

  /** `files`: by folder, the content of its `.gitattributes`, one character for each byte. Throws FLK_LIMIT. */
  constructor(files: ReadonlyMap<NodePath, string>) {
    // Macros are defined in the root's file alone, and hold everywhere.
    const folders = [...files].sort(([a], [b]) => a.length - b.length);
    for (const [folder, text] of folders) this.#rules.set(folder, this.#parse(text, folder === ''));
  }

  /** What the nearest file says of a path's attribute, and in it the last line. */
  value(path: NodePath, attribute: string): AttributeValue {
    const name = path.slice(path.lastIndexOf('/') + 1);
    for (let end = path.lastIndexOf('/'); ; end = path.lastIndexOf('/', end - 1)) {
      const folder = end < 0 ? '' : path.slice(0, end);
      const below = end < 0 ? path : path.slice(end + 1);
      for (const { matches, changes } of this.#rules.get(folder) ?? []) {
        if (!changes.some(([changed]) => changed === attribute) || !matches(below, name)) continue;
        const said = changes.findLast(([changed]) => changed === attribute)?.[1];
        return said ?? undefined;
      }
      if (end < 0) return undefined;
    }
  }

  /** The rules, last line first. */
  #parse(text: string, root: boolean): readonly Rule[] {
    const rules: Rule[] = [];
    for (const line of text.split(/\r?\n/)) {
      const trimmed = line.replace(/^[ \t]+/, '');
      // Git passes over lines that are too long, and those that begin with an exclamation mark.
      if (trimmed === '' || trimmed.startsWith('#') || line.length > maxLine) continue;
      const [, quoted, plain, rest] = /^(?:"((?:[^"\\]|\\.)*)"|([^ \t]+))(.*)$/s.exec(trimmed) ?? [];
      const words = (rest ?? '').split(/[ \t]+/).filter(Boolean);
      const pattern = quoted === undefined ? (plain ?? '') : quoted.replace(/\\(.)/g, '$1');
      if (++this.#count > maxRules)
        throw new FlkError('FLK_LIMIT', `the repository has more than ${maxRules} lines of .gitattributes`);
      if (quoted === undefined && pattern.startsWith('[attr]')) {
        if (root) this.#macros.set(pattern.slice('[attr]'.length), this.#changes(words));
        continue;
      }
      if (pattern.startsWith('!') || words.length === 0) continue;
      rules.push({ matches: matcher(pattern), changes: this.#changes(words) });
    }
    return rules.reverse();
  }

  #changes(words: readonly string[]): Rule['changes'] {
    return words.flatMap((word): Rule['changes'] => {
      const [, sign, name = '', value] = /^([-!]?)([^=]*)(?:=(.*))?$/s.exec(word) ?? [];
      if (sign === '-') return [[name, false]];
      if (sign === '!') return [[name, null]];
      if (value !== undefined) return [[name, value]];
      return [[name, true], ...(this.#macros.get(name) ?? [])];
    });
  }
}

/** A pattern without a slash fits a name anywhere below; with one, the path from the file's folder. */
function matcher(pattern: string): Rule['matches'] {
  // A pattern for folders alone fits nothing: what is in a folder does not take its attributes, and none is asked for.
  if (pattern.endsWith('/')) return () => false;
  const anchored = pattern.includes('/');
  const bare = pattern.replace(/^\//, '');
  const of = (path: string, name: string): string => (anchored ? path : name);
  // Nearly all patterns are one of these two.
  if (!/[*?[\\]/.test(bare)) return (path, name) => of(path, name) === bare;
  if (!anchored && /^\*[^*?[\\]*$/.test(bare)) return (_, name) => name.endsWith(bare.slice(1));
  const steps = stepsOf(bare);
  if (!steps) return () => false;
  return (path, name) => fits(steps, of(path, name));
}

/** One step of a pattern: a character, a star (any number of characters but `/`), or `**` (whole folders, or anything). */
type Step = ((c: string) => boolean) | 'star' | 'folders' | 'anything';

/** undefined for a pattern that can fit nothing. */
function stepsOf(pattern: string): readonly Step[] | undefined {
  const steps: Step[] = [];
  const is =
    (wanted: string): Step =>
    (c) =>
      c === wanted;
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i]!;
    if (c === '*') {
      const stars = /^\*+/.exec(pattern.slice(i))![0].length;
      const whole = stars === 2 && (i === 0 || pattern[i - 1] === '/');
      const after = pattern[i + stars];
      i += stars - 1;
      if (whole && after === '/') {
        steps.push('folders');
        i++;
      } else steps.push(whole && after === undefined ? 'anything' : 'star');
    } else if (c === '?') steps.push((found) => found !== '/');
    else if (c === '[') {
      const set = /^\[([!^]?)(\]?(?:\\.|\[:[a-z]+:\]|[^\]\\])*)\]/s.exec(pattern.slice(i));
      const members = set && characterClass(set[2]!);
      if (!members) return undefined;
      const negated = set[1] !== '';
      steps.push((found) => found !== '/' && members(found) !== negated);
      i += set[0].length - 1;
    } else if (c === '\\') {
      const next = pattern[++i];
      if (next === undefined) return undefined;
      steps.push(is(next));
    } else steps.push(is(c));
  }
  return steps;
}

/**
 * Whether the steps fit the whole text. All ways are followed at once, so that no pattern takes longer than its length times the
 * text's.
 */
function fits(steps: readonly Step[], text: string): boolean {
  let at = new Uint8Array(steps.length + 1);
  const reach = (states: Uint8Array, from: number, folderBegins: boolean): void => {
    for (let i = from; ; i++) {
      if (states[i]) return;
      states[i] = 1;
      const step = steps[i];
      // Nothing at all is enough for a star, and for folders where one could begin.
      if (!(step === 'star' || step === 'anything' || (step === 'folders' && folderBegins))) return;
    }
  };
  reach(at, 0, true);
  for (const c of text) {
    const next = new Uint8Array(steps.length + 1);
    for (let i = 0; i < steps.length; i++) {
      if (!at[i]) continue;
      const step = steps[i]!;
      if (step === 'star') {
        if (c !== '/') reach(next, i, false);
      } else if (step === 'anything') reach(next, i, c === '/');
      else if (step === 'folders') {
        // Within a folder's name it goes on; after the slash the next step may begin.
        if (c === '/') reach(next, i, true);
        else next[i] = 1;
      } else if (step(c)) reach(next, i + 1, c === '/');
    }
    at = next;
  }
  return at[steps.length] === 1;
}

const namedClasses: Readonly<Record<string, RegExp>> = {
  alpha: /[A-Za-z]/,
  digit: /[0-9]/,
  alnum: /[A-Za-z0-9]/,
  upper: /[A-Z]/,
  lower: /[a-z]/,
  space: /\s/,
  xdigit: /[0-9A-Fa-f]/,
  punct: /[!-/:-@[-`{-~]/,
};

/** What stands between brackets: characters, ranges, and classes by name. */
function characterClass(set: string): ((c: string) => boolean) | undefined {
  const tests: ((c: string) => boolean)[] = [];
  const parts = /\[:([a-z]+):\]|(?:\\(.)|([^\\]))(?:-(?:\\(.)|([^\\\]])))?/gs;
  for (const [, name, escaped, plain, escapedEnd, plainEnd] of set.matchAll(parts)) {
    if (name !== undefined) {
      const named = Object.hasOwn(namedClasses, name) ? namedClasses[name] : undefined;
      if (!named) return undefined;
      tests.push((c) => named.test(c));
    } else {
      const from = (escaped ?? plain)!;
      const to = escapedEnd ?? plainEnd ?? from;
      tests.push((c) => c >= from && c <= to);
    }
  }
  return (c) => tests.some((test) => test(c));
}
