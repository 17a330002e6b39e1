/** `.gitmodules`: which submodules a repository has, and where from. Source: gitmodules(5), git-config(1) "Syntax". */
import { FlkError } from '../base/errors.ts';

export interface Submodule {
  readonly name: string;
  /** As written. */
  readonly path: string;
  /** As written: relative to the repository's own URL where it begins with `./` or `../`. Empty where there is none. */
  readonly url: string;
}

const maxSize = 4 * 2 ** 20;

/**
 * The submodules that have a path, in the order of their names. Of a key that is there twice the first counts, as for Nix.
 * Throws FLK_GIT_SUBMODULE for what is no configuration.
 */
export function parseGitmodules(text: string): readonly Submodule[] {
  if (text.length > maxSize) throw new FlkError('FLK_LIMIT', `.gitmodules is larger than ${maxSize} bytes`);
  const found = new Map<string, Map<string, string>>();
  let section: Map<string, string> | undefined;
  for (const [number, line] of joinedLines(text)) {
    const head = /^\s*\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]\s*(.*)$/.exec(line);
    if (head) {
      const name = head[1]!.toLowerCase() === 'submodule' ? head[2]?.replace(/\\(.)/g, '$1') : undefined;
      section = name === undefined ? new Map() : (found.get(name) ?? new Map());
      if (name !== undefined) found.set(name, section);
    }
    const rest = (head ? head[3]! : line).trim();
    if (rest === '' || /^[#;]/.test(rest)) continue;
    const entry = /^([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*))?$/.exec(rest);
    if (!entry || !section)
      throw new FlkError('FLK_GIT_SUBMODULE', `.gitmodules cannot be read: line ${number}`, {
        facts: { found: rest.slice(0, 200) },
      });
    const key = entry[1]!.toLowerCase();
    if (!section.has(key)) section.set(key, textOf(entry[2] ?? ''));
  }
  return [...found]
    .flatMap(([name, keys]) => {
      const path = keys.get('path');
      return path === undefined ? [] : [{ name, path, url: keys.get('url') ?? '' }];
    })
    .sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
}

/** Lines with their numbers; one that ends in a backslash goes on in the next. */
function* joinedLines(text: string): Generator<[number, string]> {
  const lines = text.replace(/^\ufeff/, '').split(/\r?\n/);
  for (let i = 0; i < lines.length; i++) {
    const first = i + 1;
    let line = lines[i]!;
    while (/(^|[^\\])(\\\\)*\\$/.test(line) && i + 1 < lines.length) line = line.slice(0, -1) + lines[++i]!;
    yield [first, line];
  }
}

/** Quotes and escapes taken away, and what follows `#` or `;` outside quotes. */
function textOf(text: string): string {
  let value = '';
  /** Up to where the value is not only spaces. */
  let end = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    let c = text[i]!;
    if (c === '"') {
      quoted = !quoted;
      end = value.length;
      continue;
    }
    if (!quoted && (c === '#' || c === ';')) break;
    const escaped = c === '\\';
    if (escaped) {
      const next = text[++i] ?? '';
      c = { n: '\n', t: '\t', b: '\b' }[next] ?? next;
    }
    value += c;
    if (quoted || escaped || !/\s/.test(c)) end = value.length;
  }
  return value.slice(0, end);
}
