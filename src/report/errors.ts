/** A FlkError as a person reads it, as a program reads it, and as a code review shows it. */
import { type Diagnostic, placeOf, positionOf } from '../base/diagnostics.ts';
import { type FlkError, redactUrls } from '../base/errors.ts';
import { cellWidth, cleanLine, cleanText, clipEnd, type Palette, padCells } from './text.ts';

export interface ErrorJson {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly facts: Readonly<Record<string, string>>;
    readonly trail: readonly string[];
    readonly diagnostics: readonly DiagnosticJson[];
    readonly hint: string;
  };
}

/** Lines and columns count from one; the end column is the first one after the range, on the line the range starts on. */
interface DiagnosticJson {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly endColumn: number;
  readonly message: string;
  readonly suggestion?: string;
}

export function errorJson(error: FlkError): ErrorJson {
  return {
    error: {
      code: error.code,
      message: error.message,
      facts: error.facts,
      trail: error.trail,
      diagnostics: error.diagnostics.map(diagnosticJson),
      hint: error.hint,
    },
  };
}

function diagnosticJson(diagnostic: Diagnostic): DiagnosticJson {
  const { text } = diagnostic.file;
  const { line, column } = positionOf(text, diagnostic.range.start);
  const common = {
    file: diagnostic.file.path,
    line,
    column,
    endColumn: column + [...text.slice(diagnostic.range.start, endOnLine(diagnostic))].length,
    message: diagnostic.message,
  };
  return diagnostic.suggestion === undefined ? common : { ...common, suggestion: diagnostic.suggestion };
}

/** Where the range ends, or where its first line does. */
function endOnLine({ file: { text }, range }: Diagnostic): number {
  const lineEnd = text.indexOf('\n', range.start);
  return Math.max(range.start, Math.min(range.end, lineEnd === -1 ? text.length : lineEnd));
}

/** Many lines, none ending in a newline. `without`: names of facts that are on the screen already. */
export function renderError(error: FlkError, palette: Palette, without: readonly string[] = []): string {
  const lines = [`${palette.bad(`error[${error.code}]`)} ${palette.strong(cleanText(error.message))}`];
  const facts = Object.entries(error.facts).filter(([name]) => !without.includes(name));
  lines.push(...renderFacts(Object.fromEntries(facts), palette));
  if (error.trail.length > 0)
    lines.push(`  ${palette.faint('trail')}  ${error.trail.map(cleanLine).join(palette.faint(' → '))}`);
  for (const diagnostic of error.diagnostics) lines.push('', ...renderDiagnostic(diagnostic, palette));
  if (error.diagnostics.length > 0) lines.push('');
  // The hash to paste need not stand below the line that says to paste it.
  const said = error.diagnostics.some(({ suggestion }) => suggestion === error.hint);
  if (error.hint !== '' && !said) lines.push(`${palette.good('hint')}: ${cleanText(error.hint)}`);
  return lines.join('\n');
}

/** Names in one column; `wanted` above `found`, so that hashes can be compared by eye. */
function renderFacts(facts: Readonly<Record<string, string>>, palette: Palette): string[] {
  const order = ['wanted', 'found'];
  const rank = (name: string): number => (order.includes(name) ? order.indexOf(name) : order.length);
  const entries = Object.entries(facts)
    .sort(([a], [b]) => rank(a) - rank(b))
    .map(([name, value]) => [cleanLine(name), value] as const);
  const width = Math.max(0, ...entries.map(([name]) => cellWidth(name)));
  return entries.flatMap(([name, value]) => {
    const [first = '', ...rest] = value.split('\n').map(cleanLine);
    const indent = ' '.repeat(width + 4);
    return [`  ${palette.faint(padCells(name, width))}  ${first}`, ...rest.map((line) => `${indent}${line}`)];
  });
}

/** Source lines longer than this are shown from near the fault on. */
const widestLine = 160;

export function renderDiagnostic(diagnostic: Diagnostic, palette: Palette): string[] {
  // The line may hold the very password that it is refused for.
  const text = redactUrls(diagnostic.file.text, (user) => '*'.repeat(user.length));
  const { line } = positionOf(text, diagnostic.range.start);
  const lineStart = text.lastIndexOf('\n', Math.max(0, diagnostic.range.start - 1)) + 1;
  const start = Math.max(lineStart, diagnostic.range.start);
  const newline = text.indexOf('\n', start);
  const lineEnd = newline === -1 ? text.length : newline;
  const from = start - lineStart > widestLine - 40 ? start - 40 : lineStart;
  const cut = from > lineStart ? '…' : '';
  const before = cut + cleanLine(text.slice(from, start));
  const marked = cleanLine(text.slice(start, endOnLine(diagnostic)));
  const source = before + cleanLine(text.slice(start, lineEnd));
  const gutter = ' '.repeat(String(line).length);
  const bar = palette.faint('|');
  const carets = '^'.repeat(Math.max(1, Math.min(cellWidth(marked), widestLine - cellWidth(before))));
  const lines = [
    `${palette.place(placeOf(diagnostic))}: ${cleanText(diagnostic.message)}`,
    `${gutter} ${bar}`,
    `${palette.faint(String(line))} ${bar} ${clipEnd(source, widestLine)}`,
    `${gutter} ${bar} ${' '.repeat(cellWidth(before))}${palette.bad(carets)}`,
  ];
  if (diagnostic.suggestion !== undefined)
    lines.push(`${gutter} ${palette.good('=')} ${cleanText(diagnostic.suggestion)}`);
  return lines;
}
