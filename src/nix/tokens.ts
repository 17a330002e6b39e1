/** The tokens of a file of Nix, as the parser goes through them: the one at hand, those ahead, and what is told where another was wanted. */
import { type Diagnostic, positionOf, type Range, type SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { Lexer, type Token, type TokenKind } from './lexer.ts';

/** Brackets, and names in attribute paths, that may lie within one another. */
export const maxNesting = 400;

/** FLK_NIX_SYNTAX with one diagnostic. */
export function syntaxError(file: SourceFile, range: Range, message: string, suggestion?: string): FlkError {
  const diagnostic: Diagnostic = {
    file,
    range: { start: range.start, end: range.end },
    message,
    ...(suggestion !== undefined && { suggestion }),
  };
  return new FlkError('FLK_NIX_SYNTAX', `${file.path} cannot be read as Nix: ${message}`, {
    diagnostics: [diagnostic],
    ...(suggestion !== undefined && { hint: suggestion }),
  });
}

export class TokenStream {
  readonly #file: SourceFile;
  readonly #lexer: Lexer;
  #current: Token;
  readonly #ahead: Token[] = [];
  #end = 0;
  #nesting = 0;

  constructor(file: SourceFile) {
    this.#file = file;
    this.#lexer = new Lexer(file.text);
    this.#current = this.#lexer.next();
  }

  get current(): Token {
    return this.#current;
  }

  /** Where the last token that was taken ended. */
  get end(): number {
    return this.#end;
  }

  error(range: Range, message: string, suggestion?: string): FlkError {
    return syntaxError(this.#file, range, message, suggestion);
  }

  take(): Token {
    const token = this.#current;
    this.#end = token.end;
    this.#current = this.#ahead.shift() ?? this.#lexer.next();
    return token;
  }

  /** What comes `distance` tokens later. */
  peek(distance: number): TokenKind {
    while (this.#ahead.length < distance) this.#ahead.push(this.#lexer.next());
    return this.#ahead[distance - 1]!.kind;
  }

  /** `opened`: what is not closed yet. */
  expect(kind: TokenKind, wanted: string, opened?: Token): Token {
    if (this.#current.kind !== kind) throw this.unexpected(wanted, { opened });
    return this.take();
  }

  /** `opened`: what is not closed yet. `missing`: where a `;` may be missing, an offset. */
  unexpected(
    wanted: string,
    { opened, missing }: { readonly opened?: Token | undefined; readonly missing?: number } = {},
  ): FlkError {
    const token = this.#current;
    if (token.kind === 'fault') return this.error(token, token.value);
    const open = opened && positionOf(this.#file.text, opened.start);
    const before = missing === undefined ? undefined : positionOf(this.#file.text, missing);
    const suggestion =
      open !== undefined
        ? `what is open since line ${open.line}, column ${open.column} is not complete`
        : before !== undefined && before.line < positionOf(this.#file.text, token.start).line
          ? `is a ; missing at the end of line ${before.line}?`
          : undefined;
    return this.error(token, `found ${this.#describe(token)} where ${wanted} should be`, suggestion);
  }

  #describe(token: Token): string {
    switch (token.kind) {
      case 'end':
        return 'the end of the file';
      case 'text':
      case 'indented-text':
      case 'indented-escape':
      case 'path-text':
        return 'text';
      case 'path-end':
        return 'the end of a path';
      default: {
        const text = this.#file.text.slice(token.start, Math.min(token.end, token.start + 60));
        return `‘${text.trimEnd()}’`;
      }
    }
  }

  /** One step, or `by` steps, deeper; `leave` comes back. */
  enter(by = 1): void {
    this.#nesting += by;
    if (this.#nesting > maxNesting)
      throw this.error(
        this.#current,
        `this is nested more than ${maxNesting} deep`,
        'give a part of it a name with let',
      );
  }

  leave(by = 1): void {
    this.#nesting -= by;
  }
}
