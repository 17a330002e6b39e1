/**
 * References to packages and sources, as manifests and command lines write them:
 *
 *     #hello            package hello of this flake        greet#lib        of the input greet
 *     greet/base#libc   of greet's own input base          #hello.dev       one output of it
 *     # or greet#       the package `default`              assets/fonts     a folder in an input's source
 *
 * A bare word is a package in some places and an input in others; the place says which.
 */
import { FlkError } from '../base/errors.ts';

/** The way from a flake to one of its inputs, over other inputs. Never empty, except for `follows: ""` (the flake itself). */
export type InputPath = readonly string[];

/** A package when `name` is set; else the source of the input that `inputs` names. */
export interface PackageRef {
  /** Empty: this flake. */
  readonly inputs: InputPath;
  readonly name?: string;
  readonly output?: string;
  /** Inside an input's source: `fonts` of `assets/fonts`. No leading or trailing slash. */
  readonly subpath?: string;
}

/** Text with `{{ref}}` holes. */
export type Template = readonly (string | PackageRef)[];

/** What a word without `#` stands for. */
export type BareWord = 'package' | 'input';

/** What Nix 2.34 accepts in a `follows`. */
export const inputNamePattern = /^[A-Za-z][A-Za-z0-9_-]*$/;
/** Part of a store path's name, without the dot, which separates an output. */
const packageNamePattern = /^[A-Za-z0-9_][A-Za-z0-9_+-]*$/;
const outputNamePattern = /^[A-Za-z_][A-Za-z0-9_-]*$/;

/** Throws FLK_REF_INVALID. */
export function parsePackageRef(text: string, bareWord: BareWord): PackageRef {
  const hash = text.indexOf('#');
  if (hash >= 0) {
    const inputs = hash === 0 ? [] : text.slice(0, hash).split('/');
    for (const input of inputs) assertName(inputNamePattern, input, text, 'an input’s name');
    return { inputs, ...parsePackageName(text.slice(hash + 1) || 'default', text) };
  }
  if (bareWord === 'package') return { inputs: [], ...parsePackageName(text, text) };
  const slash = text.indexOf('/');
  const input = slash < 0 ? text : text.slice(0, slash);
  assertName(inputNamePattern, input, text, 'an input’s name');
  if (slash < 0) return { inputs: [input] };
  return { inputs: [input], subpath: parseSubpath(text.slice(slash + 1), text) };
}

function parsePackageName(words: string, text: string): { name: string; output?: string } {
  const [name = '', output, ...rest] = words.split('.');
  assertName(packageNamePattern, name, text, 'a package’s name');
  if (output === undefined) return { name };
  assertName(outputNamePattern, output, text, 'an output’s name');
  if (rest.length > 0) throw refError(text, 'a package has outputs, and outputs have nothing below them');
  return { name, output };
}

function parseSubpath(path: string, text: string): string {
  const trimmed = path.replace(/\/$/, '');
  if (!isInnerPath(trimmed)) throw refError(text, 'a path has no empty parts, no . and no ..');
  return trimmed;
}

/**
 * `hello/bin/hello`, `greet#lib.dev/bin/x`: a package, and where in its output a program lies; a package alone has no `path`.
 * Throws FLK_REF_INVALID.
 */
export function parseProgramRef(text: string): { readonly ref: PackageRef; readonly path?: string } {
  const slash = text.indexOf('/', Math.max(0, text.indexOf('#')));
  if (slash < 0) return { ref: parsePackageRef(text, 'package') };
  return {
    ref: parsePackageRef(text.slice(0, slash), 'package'),
    path: parseSubpath(text.slice(slash + 1), text),
  };
}

/** `a/b`: relative, and nothing in it that leads elsewhere. */
export function isInnerPath(path: string): boolean {
  return (
    !path.includes('\0') && path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
  );
}

function assertName(pattern: RegExp, name: string, text: string, what: string): void {
  if (pattern.test(name)) return;
  throw refError(text, name === '' ? `${what} is missing` : `${quoted(name)} cannot be ${what}`);
}

const refError = (text: string, why: string): FlkError =>
  new FlkError('FLK_REF_INVALID', `${quoted(text)} is no reference: ${why}`, {
    hint: 'write #package, input#package or input#package.output',
  });

const quoted = (text: string): string => `"${text.length > 100 ? `${text.slice(0, 100)}…` : text}"`;

/** The reference with its `#`, so that it means the same in every place. */
export function printPackageRef(ref: PackageRef): string {
  const inputs = ref.inputs.join('/');
  if (ref.name === undefined) return ref.subpath === undefined ? inputs : `${inputs}/${ref.subpath}`;
  return `${inputs}#${ref.name}${ref.output === undefined ? '' : `.${ref.output}`}`;
}

/**
 * Splits text at its `{{ref}}` holes; in them a bare word is an input. `{{{{` is two braces. What else stands between double
 * braces is handed to `fault`, with its offsets in `text` and a reason, and left out.
 */
export function parseTemplate(
  text: string,
  fault: (start: number, end: number, reason: string) => void,
): Template {
  const parts: (string | PackageRef)[] = [];
  let literal = '';
  let at = 0;
  for (;;) {
    const open = text.indexOf('{{', at);
    if (open < 0) break;
    literal += text.slice(at, open);
    if (text.startsWith('{{{{', open)) {
      literal += '{{';
      at = open + 4;
      continue;
    }
    const close = text.indexOf('}}', open);
    if (close < 0) {
      fault(open, open + 2, '{{ is never closed');
      at = open;
      break;
    }
    at = close + 2;
    try {
      const ref = parsePackageRef(text.slice(open + 2, close).trim(), 'input');
      if (literal !== '') parts.push(literal);
      literal = '';
      parts.push(ref);
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      fault(open, at, error.message);
    }
  }
  literal += text.slice(at);
  if (literal !== '') parts.push(literal);
  return parts;
}

/** The text that `parseTemplate` reads as this template. */
export function printTemplate(template: Template): string {
  return template
    .map((part) =>
      typeof part === 'string' ? part.replaceAll('{{', '{{{{') : `{{${printPackageRef(part)}}}`,
    )
    .join('');
}
