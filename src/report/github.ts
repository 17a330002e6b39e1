/** Workflow commands for GitHub Actions: faults as annotations at their line in the code review. */
import { type Diagnostic, positionOf } from '../base/diagnostics.ts';
import type { FlkError } from '../base/errors.ts';
import { cleanLine } from './text.ts';

/** One `::error …` line per diagnostic, or one for the whole error. */
export function githubAnnotations(error: FlkError): string[] {
  const hint = error.hint === '' ? '' : `\nhint: ${error.hint}`;
  if (error.diagnostics.length === 0) return [command({ title: error.code }, `${error.message}${hint}`)];
  return error.diagnostics.map((diagnostic) => annotation(error, diagnostic));
}

function annotation(error: FlkError, diagnostic: Diagnostic): string {
  const { line, column } = positionOf(diagnostic.file.text, diagnostic.range.start);
  const suggestion = diagnostic.suggestion === undefined ? '' : `\n${diagnostic.suggestion}`;
  return command(
    { title: error.code, file: diagnostic.file.path, line: String(line), col: String(column) },
    diagnostic.message + suggestion,
  );
}

function command(properties: Readonly<Record<string, string>>, message: string): string {
  const list = Object.entries(properties).map(([key, value]) => `${key}=${escapeProperty(value)}`);
  return `::error ${list.join(',')}::${escapeData(message)}`;
}

const escapeData = (text: string): string =>
  text.split('\n').map(cleanLine).join('\n').replaceAll('%', '%25').replaceAll('\n', '%0A');
const escapeProperty = (text: string): string =>
  escapeData(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
