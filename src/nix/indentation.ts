/** The indentation of an indented string (`'' … ''`): how much all its lines share, and their text without it. */
import type { Range } from '../base/diagnostics.ts';
import type { Expr } from './syntax.ts';

export type IndentedPart =
  | (Range & { readonly kind: 'text'; readonly text: string })
  /** An escape's text: never indentation, though it may hold spaces and newlines. */
  | (Range & { readonly kind: 'escape'; readonly text: string })
  | { readonly kind: 'hole'; readonly expr: Expr };

/** Text becomes `string`; what is empty by then is left out. */
export function stripIndentation(parts: readonly IndentedPart[]): Expr[] {
  const indent = sharedIndent(parts);
  const stripped: Expr[] = [];
  let lineStart = true;
  let dropped = 0;
  for (const [index, part] of parts.entries()) {
    if (part.kind === 'hole') {
      lineStart = false;
      dropped = 0;
      stripped.push(part.expr);
      continue;
    }
    const { text } = part;
    let value = '';
    let at = 0;
    while (at < text.length) {
      if (lineStart) {
        const char = text[at];
        if (char === ' ') {
          if (dropped++ >= indent) value += char;
        } else {
          value += char;
          dropped = 0;
          lineStart = char === '\n';
        }
        at++;
      } else {
        const newline = text.indexOf('\n', at);
        const end = newline < 0 ? text.length : newline + 1;
        value += text.slice(at, end);
        at = end;
        lineStart = newline >= 0;
      }
    }
    // The closing quotes may stand on a line of their own.
    if (index === parts.length - 1) {
      const newline = value.lastIndexOf('\n');
      if (newline >= 0 && /^ *$/.test(value.slice(newline + 1))) value = value.slice(0, newline + 1);
    }
    if (value !== '') stripped.push({ kind: 'string', start: part.start, end: part.end, value });
  }
  return stripped;
}

/** Where no line counts, Nix takes this many spaces for indentation. */
const most = 1_000_000;

/** The fewest spaces that a line begins with; lines of spaces alone do not count, nor does a last one before the quotes. */
function sharedIndent(parts: readonly IndentedPart[]): number {
  let least = most;
  let current = 0;
  let lineStart = true;
  for (const part of parts) {
    if (part.kind !== 'text') {
      if (lineStart) least = Math.min(least, current);
      lineStart = false;
      continue;
    }
    const { text } = part;
    let at = 0;
    while (at < text.length) {
      if (lineStart) {
        const char = text[at++];
        if (char === ' ') current++;
        else if (char === '\n') current = 0;
        else {
          lineStart = false;
          least = Math.min(least, current);
        }
      } else {
        const newline = text.indexOf('\n', at);
        if (newline < 0) break;
        at = newline + 1;
        lineStart = true;
        current = 0;
      }
    }
  }
  return least;
}
