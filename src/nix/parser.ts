/** The grammar of the Nix language, as Nix 2.34 has it without experimental features. */
import { type Diagnostic, positionOf, type Range, type SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { bindInherited, bindPath, type GrowingAttrs, newAttrs, type OnDuplicate } from './attributes.ts';
import { type IndentedPart, stripIndentation } from './indentation.ts';
import { Lexer, type Token, type TokenKind } from './lexer.ts';
import type {
  AttrName,
  AttrPath,
  AttrsExpr,
  BinaryOperator,
  Expr,
  Formal,
  Formals,
  StringExpr,
} from './syntax.ts';

/** UTF-16 units. The largest file of the Nix package collection has a third of them. */
const maxTextLength = 48 * 1024 * 1024;

/** Brackets, and names in attribute paths, that may lie within one another. */
export const maxNesting = 400;

export interface ParseNixOptions {
  /** As a flake's files are read: `~/…`, which differs from person to person, is refused. */
  readonly pure?: boolean;
}

/** Throws FLK_NIX_SYNTAX with one diagnostic. */
export function parseNix(file: SourceFile, options: ParseNixOptions = {}): Expr {
  if (file.text.length > maxTextLength)
    throw syntaxError(file, { start: 0, end: 0 }, `the file has more than ${maxTextLength} characters`);
  return new Parser(file, options.pure ?? false).file();
}

function syntaxError(file: SourceFile, range: Range, message: string, suggestion?: string): FlkError {
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

interface Operator {
  readonly level: number;
  readonly side: 'left' | 'right' | 'none';
}

/** The higher the level, the tighter an operator binds. */
const binaryOperators: ReadonlyMap<TokenKind, Operator> = new Map<BinaryOperator, Operator>([
  ['->', { level: 1, side: 'right' }],
  ['||', { level: 2, side: 'left' }],
  ['&&', { level: 3, side: 'left' }],
  ['==', { level: 4, side: 'none' }],
  ['!=', { level: 4, side: 'none' }],
  ['<', { level: 5, side: 'none' }],
  ['>', { level: 5, side: 'none' }],
  ['<=', { level: 5, side: 'none' }],
  ['>=', { level: 5, side: 'none' }],
  ['//', { level: 6, side: 'right' }],
  ['+', { level: 8, side: 'left' }],
  ['-', { level: 8, side: 'left' }],
  ['*', { level: 9, side: 'left' }],
  ['/', { level: 9, side: 'left' }],
  ['++', { level: 10, side: 'right' }],
]);
const notLevel = 7;
const hasLevel = 11;
const minusLevel = 12;

/** An operator whose right side is not complete yet. */
type Pending =
  | {
      readonly kind: 'binary';
      readonly operator: BinaryOperator;
      readonly level: number;
      readonly left: Expr;
    }
  | { readonly kind: 'unary'; readonly operator: '!' | '-'; readonly level: number; readonly start: number };

/** Everything of an expression but the expression that ends it. */
type Opening = (body: Expr) => Expr;

class Parser {
  readonly #file: SourceFile;
  readonly #pure: boolean;
  readonly #lexer: Lexer;
  #token: Token;
  readonly #ahead: Token[] = [];
  /** Where the last token that was taken ended. */
  #end = 0;
  #nesting = 0;

  constructor(file: SourceFile, pure: boolean) {
    this.#file = file;
    this.#pure = pure;
    this.#lexer = new Lexer(file.text);
    this.#token = this.#lexer.next();
  }

  file(): Expr {
    const expr = this.#expression();
    if (this.#token.kind !== 'end') throw this.#unexpected('an operator, an argument or the end of the file');
    return expr;
  }

  // Tokens.

  #take(): Token {
    const token = this.#token;
    this.#end = token.end;
    this.#token = this.#ahead.shift() ?? this.#lexer.next();
    return token;
  }

  #peek(distance: number): TokenKind {
    while (this.#ahead.length < distance) this.#ahead.push(this.#lexer.next());
    return this.#ahead[distance - 1]!.kind;
  }

  #expect(kind: TokenKind, wanted: string, opened?: Token): Token {
    if (this.#token.kind !== kind) throw this.#unexpected(wanted, { opened });
    return this.#take();
  }

  /** `opened`: what is not closed yet. `missing`: where a `;` may be missing, an offset. */
  #unexpected(
    wanted: string,
    { opened, missing }: { readonly opened?: Token | undefined; readonly missing?: number } = {},
  ): FlkError {
    const token = this.#token;
    if (token.kind === 'fault') return syntaxError(this.#file, token, token.value);
    const open = opened && positionOf(this.#file.text, opened.start);
    const before = missing === undefined ? undefined : positionOf(this.#file.text, missing);
    const suggestion =
      open !== undefined
        ? `what is open since line ${open.line}, column ${open.column} is not complete`
        : before !== undefined && before.line < positionOf(this.#file.text, token.start).line
          ? `is a ; missing at the end of line ${before.line}?`
          : undefined;
    return syntaxError(
      this.#file,
      token,
      `found ${this.#describe(token)} where ${wanted} should be`,
      suggestion,
    );
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

  /** One step, or `by` steps, deeper; `#leave` comes back. */
  #enter(by = 1): void {
    this.#nesting += by;
    if (this.#nesting > maxNesting)
      throw syntaxError(
        this.#file,
        this.#token,
        `this is nested more than ${maxNesting} deep`,
        'give a part of it a name with let',
      );
  }

  #leave(by = 1): void {
    this.#nesting -= by;
  }

  // Expressions.

  /** What stands before a body is gathered, so that a chain of a thousand functions is no depth of a thousand calls. */
  #expression(): Expr {
    this.#enter();
    const openings: Opening[] = [];
    for (let opening = this.#opening(); opening; opening = this.#opening()) openings.push(opening);
    let expr = this.#operators();
    for (const opening of openings.reverse()) expr = opening(expr);
    this.#leave();
    return expr;
  }

  #opening(): Opening | undefined {
    const { kind, start } = this.#token;
    switch (kind) {
      case 'name': {
        const after = this.#peek(1);
        return after === ':' || after === '@' ? this.#lambda() : undefined;
      }
      case '{':
        return this.#formalsAhead() ? this.#lambda() : undefined;
      case 'assert':
      case 'with': {
        this.#take();
        const head = this.#expression();
        this.#expect(';', `; after what ${kind} is given`);
        return (body) =>
          kind === 'with'
            ? { kind, start, end: body.end, scope: head, body }
            : { kind, start, end: body.end, condition: head, body };
      }
      case 'let': {
        if (this.#peek(1) === '{') return undefined;
        const opened = this.#take();
        const bindings = this.#bindings(newAttrs(this.#token.start, false), 'in', opened);
        const [dynamic] = bindings.dynamic;
        if (dynamic)
          throw syntaxError(
            this.#file,
            dynamic.key,
            'a name in let cannot be computed',
            'write a plain name, or make an attribute set and use with',
          );
        return (body) => ({ kind, start, end: body.end, bindings, body });
      }
      case 'if': {
        this.#take();
        const condition = this.#expression();
        this.#expect('then', 'then');
        const then = this.#expression();
        this.#expect('else', 'else');
        return (body) => ({ kind, start, end: body.end, condition, then, else: body });
      }
      default:
        return undefined;
    }
  }

  /** Whether the brace here opens the formals of a function, not a set. */
  #formalsAhead(): boolean {
    const first = this.#peek(1);
    if (first === '...') return true;
    const second = this.#peek(2);
    if (first === '}') return second === ':' || second === '@';
    return first === 'name' && (second === ',' || second === '?' || second === '}');
  }

  #lambda(): Opening {
    const { kind, start } = this.#token;
    let parameter: Token | undefined;
    let formals: Formals | undefined;
    if (kind === 'name') {
      parameter = this.#take();
      if (this.#token.kind === '@') {
        this.#take();
        formals = this.#formals();
      }
    } else {
      formals = this.#formals();
      if (this.#token.kind === '@') {
        this.#take();
        parameter = this.#expect('name', 'a name for the whole argument');
      }
    }
    this.#expect(':', formals ? ': after the function’s argument' : ':');
    const same = formals?.list.find(({ name }) => name === parameter?.value);
    if (same) throw this.#duplicateFormal(same);
    return (body) => ({
      kind: 'lambda',
      start,
      end: body.end,
      ...(parameter && { parameter: parameter.value }),
      ...(formals && { formals }),
      body,
    });
  }

  #formals(): Formals {
    const opened = this.#expect('{', 'the { of the attributes that the function takes');
    const list: Formal[] = [];
    const names = new Set<string>();
    let open = false;
    while (this.#token.kind !== '}') {
      if (this.#token.kind === '...') {
        this.#take();
        open = true;
        break;
      }
      const { value: name, start, end } = this.#expect('name', 'a name, ... or }', opened);
      let fallback: Expr | undefined;
      if (this.#token.kind === '?') {
        this.#take();
        fallback = this.#expression();
      }
      const formal: Formal = { start, end, name, ...(fallback && { fallback }) };
      if (names.has(name)) throw this.#duplicateFormal(formal);
      names.add(name);
      list.push(formal);
      if (this.#token.kind !== ',') break;
      this.#take();
    }
    this.#expect('}', open ? '} after ...' : ', or }', opened);
    return { start: opened.start, end: this.#end, list, open };
  }

  #duplicateFormal(formal: Formal): FlkError {
    return syntaxError(this.#file, formal, `the function takes ${formal.name} twice`, 'remove one of them');
  }

  /** Operators and their operands, by what waits for its right side: no recursion, however long the chain. */
  #operators(): Expr {
    const pending: Pending[] = [];
    for (;;) {
      const { kind, start } = this.#token;
      if (kind === '!' || kind === '-') {
        this.#take();
        pending.push({ kind: 'unary', operator: kind, level: kind === '!' ? notLevel : minusLevel, start });
        continue;
      }
      let operand = this.#application();
      while (this.#token.kind === '?') {
        operand = complete(pending, hasLevel, operand);
        this.#take();
        const path = this.#attrPath();
        operand = { kind: 'has', start: operand.start, end: this.#end, subject: operand, path };
      }
      const operator = this.#token;
      const rule = binaryOperators.get(operator.kind);
      if (!rule) return complete(pending, -1, operand);
      const { level, side } = rule;
      operand = complete(pending, side === 'left' ? level - 1 : level, operand);
      if (side === 'none' && pending.at(-1)?.level === level)
        throw syntaxError(
          this.#file,
          operator,
          `${operator.kind} cannot follow another comparison`,
          'put one of them in parentheses',
        );
      this.#take();
      pending.push({ kind: 'binary', operator: operator.kind as BinaryOperator, level, left: operand });
    }
  }

  #application(): Expr {
    const callee = this.#select();
    if (!this.#startsOperand()) return callee;
    const args: Expr[] = [];
    while (this.#startsOperand()) args.push(this.#select());
    return call(callee, args, this.#end);
  }

  #startsOperand(): boolean {
    switch (this.#token.kind) {
      case 'name':
      case 'int':
      case 'float':
      case '"':
      case 'indented-open':
      case 'path':
      case 'search-path':
      case 'uri':
      case '(':
      case '[':
      case '{':
      case 'rec':
        return true;
      case 'let':
        return this.#peek(1) === '{';
      default:
        return false;
    }
  }

  /** An operand with the attribute path behind it. */
  #select(): Expr {
    const { start } = this.#token;
    const subject = this.#simple();
    const after = this.#token;
    if (after.kind === 'or') {
      // Without a path before it, `or` is an argument: a function of that name is older than the operator.
      this.#take();
      const or = { kind: 'variable', start: after.start, end: after.end, name: 'or' } as const;
      return { kind: 'call', start, end: after.end, callee: subject, args: [or] };
    }
    if (after.kind !== '.') return subject;
    this.#take();
    const path = this.#attrPath();
    if (this.#token.kind !== 'or') return { kind: 'select', start, end: this.#end, subject, path };
    this.#take();
    this.#enter();
    const fallback = this.#select();
    this.#leave();
    return { kind: 'select', start, end: this.#end, subject, path, fallback };
  }

  #simple(): Expr {
    const token = this.#token;
    const { start, end, value } = token;
    switch (token.kind) {
      case 'name':
        this.#take();
        return value === '__curPos'
          ? { kind: 'position', start, end }
          : { kind: 'variable', start, end, name: value };
      case 'int':
        return this.#int();
      case 'float':
        return this.#float();
      case '"':
        return this.#string();
      case 'indented-open':
        return this.#indentedString();
      case 'path':
        return this.#path();
      case 'search-path':
        this.#take();
        return { kind: 'search-path', start, end, path: value };
      case 'uri':
        this.#take();
        return { kind: 'string', start, end, value };
      case '(': {
        this.#take();
        const expr = this.#expression();
        this.#expect(')', ')', token);
        return expr;
      }
      case '[':
        return this.#list();
      case '{':
        return this.#set(newAttrs(start, false), this.#take());
      case 'rec':
        this.#take();
        return this.#set(newAttrs(start, true), this.#expect('{', '{ after rec'));
      case 'let':
        return this.#oldLet();
      default:
        throw this.#unexpected('an expression');
    }
  }

  #int(): Expr {
    const { start, end, value } = this.#take();
    const digits = value.replace(/^0+(?=.)/, '');
    const int = digits.length <= 19 ? BigInt(digits) : undefined;
    if (int === undefined || int > 0x7fff_ffff_ffff_ffffn)
      throw syntaxError(
        this.#file,
        { start, end },
        'the number is too large',
        'write at most 9223372036854775807',
      );
    return { kind: 'int', start, end, value: int };
  }

  #float(): Expr {
    const { start, end, value } = this.#take();
    const float = Number(value);
    // Nix takes neither what overflows nor what loses digits near zero.
    const tiny = float < 2 ** -1022 && /[1-9]/.test(value.replace(/e.*/i, ''));
    if (tiny || !Number.isFinite(float))
      throw syntaxError(this.#file, { start, end }, 'the number is out of the range of floats');
    return { kind: 'float', start, end, value: float };
  }

  #string(): StringExpr | Extract<Expr, { kind: 'interpolation' }> {
    const opened = this.#take();
    const parts: Expr[] = [];
    let holes = 0;
    while (this.#token.kind !== '"') {
      if (this.#token.kind === 'text') {
        const { start, end, value } = this.#take();
        parts.push({ kind: 'string', start, end, value });
      } else if (this.#token.kind === '${') {
        parts.push(this.#hole());
        holes++;
      } else throw this.#unclosed(opened);
    }
    const { end } = this.#take();
    const { start } = opened;
    const [first] = parts;
    if (!first) return { kind: 'string', start, end, value: '' };
    if (holes === 0 && first.kind === 'string') return { kind: 'string', start, end, value: first.value };
    return { kind: 'interpolation', start, end, parts };
  }

  /** A string that never ends is told of at its beginning: its end is the end of the file. */
  #unclosed(opened: Token): FlkError {
    const token = this.#token;
    return token.kind === 'fault' && token.start === this.#file.text.length
      ? syntaxError(this.#file, opened, token.value)
      : this.#unexpected('text', { opened });
  }

  #indentedString(): Expr {
    const opened = this.#take();
    const parts: IndentedPart[] = [];
    for (;;) {
      const { kind, start, end, value } = this.#token;
      if (kind === 'indented-close') break;
      if (kind === 'indented-text' || kind === 'indented-escape') {
        this.#take();
        parts.push({ kind: kind === 'indented-text' ? 'text' : 'escape', start, end, text: value });
      } else if (kind === '${') parts.push({ kind: 'hole', expr: this.#hole() });
      else throw this.#unclosed(opened);
    }
    const { end } = this.#take();
    const { start } = opened;
    const stripped = stripIndentation(parts);
    const [first] = stripped;
    if (!first) return { kind: 'string', start, end, value: '' };
    // Nix, too, takes a hole with nothing but a literal string in it for that string.
    if (stripped.length === 1 && first.kind === 'string')
      return { kind: 'string', start, end, value: first.value };
    return { kind: 'interpolation', start, end, parts: stripped };
  }

  #hole(): Expr {
    const opened = this.#take();
    const expr = this.#expression();
    this.#expect('}', '} after the interpolated expression', opened);
    return expr;
  }

  #path(): Expr {
    const { start, end, value } = this.#take();
    if (this.#pure && value.startsWith('~'))
      throw syntaxError(
        this.#file,
        { start, end },
        'a flake’s files do not name the home folder, which is another one for everybody',
        'put the file into the flake and write ./…',
      );
    const head = { kind: 'path', start, end, path: value } as const;
    const parts: Expr[] = [];
    for (;;) {
      const token = this.#token;
      if (token.kind === 'path-end') break;
      if (token.kind === '${') parts.push(this.#hole());
      else if (token.kind === 'path-text' && (parts.length > 0 || this.#peek(1) === '${')) {
        this.#take();
        parts.push({ kind: 'string', start: token.start, end: token.end, value: token.value });
      } else if (token.kind === 'path-text')
        throw syntaxError(this.#file, token, 'a path has no two slashes in a row', 'remove one of them');
      else throw this.#unexpected('the rest of the path');
    }
    this.#take();
    return parts.length === 0 ? head : { kind: 'interpolated-path', start, end: this.#end, head, parts };
  }

  #list(): Expr {
    const opened = this.#take();
    const items: Expr[] = [];
    this.#enter();
    while (this.#startsOperand()) items.push(this.#select());
    this.#leave();
    this.#expect(']', 'a list item or ]', opened);
    return { kind: 'list', start: opened.start, end: this.#end, items };
  }

  // Attributes.

  #set(attrs: GrowingAttrs, opened: Token): GrowingAttrs {
    this.#bindings(attrs, '}', opened);
    return attrs;
  }

  #oldLet(): Expr {
    const { start } = this.#take();
    const opened = this.#expect('{', 'bindings or {');
    const subject = this.#set(newAttrs(start, true), opened);
    const { end } = subject;
    return { kind: 'select', start, end, subject, path: [{ kind: 'static', start, end, name: 'body' }] };
  }

  /** Up to and with `close`. */
  #bindings(attrs: GrowingAttrs, close: '}' | 'in', opened: Token): AttrsExpr {
    while (this.#token.kind !== close) {
      if (this.#token.kind === 'inherit') this.#inherit(attrs);
      else {
        if (!this.#startsAttrName()) throw this.#unexpected(`an attribute’s name or ${close}`, { opened });
        const path = this.#attrPath();
        this.#expect('=', '. or =');
        this.#enter(path.length);
        const value = this.#expression();
        this.#leave(path.length);
        if (this.#token.kind !== ';') throw this.#unexpected('; after the value', { missing: lastOf(value) });
        this.#take();
        bindPath(attrs, path, value, this.#onDuplicate);
      }
    }
    attrs.end = this.#take().end;
    return attrs;
  }

  #inherit(attrs: GrowingAttrs): void {
    this.#take();
    let source: Expr | undefined;
    if (this.#token.kind === '(') {
      const opened = this.#take();
      source = this.#expression();
      attrs.sources.push(source);
      this.#expect(')', ')', opened);
    }
    while (this.#startsAttrName()) {
      const name = this.#attrName();
      if (name.kind === 'dynamic')
        throw syntaxError(
          this.#file,
          name,
          'a name in inherit cannot be computed',
          'write the attribute with =',
        );
      const place = { start: name.start, end: name.end };
      bindInherited(
        attrs,
        name.name,
        source
          ? { kind: 'inherited-from', source, key: place, path: place }
          : { kind: 'inherited', key: place, path: place },
        this.#onDuplicate,
      );
    }
    this.#expect(';', 'a name or ;');
  }

  readonly #onDuplicate: OnDuplicate = (names, again, first) => {
    const { line, column } = positionOf(this.#file.text, first.start);
    throw syntaxError(
      this.#file,
      again,
      `the attribute ${names.join('.')} is set already, on line ${line}, column ${column}`,
      'keep one of them',
    );
  };

  #startsAttrName(): boolean {
    const { kind } = this.#token;
    return kind === 'name' || kind === 'or' || kind === '"' || kind === '${';
  }

  #attrPath(): AttrPath {
    const path = [this.#attrName()];
    while (this.#token.kind === '.') {
      this.#take();
      path.push(this.#attrName());
    }
    return path;
  }

  #attrName(): AttrName {
    const { kind, start, end, value } = this.#token;
    switch (kind) {
      case 'name':
        this.#take();
        return { kind: 'static', start, end, name: value };
      case 'or':
        this.#take();
        return { kind: 'static', start, end, name: 'or' };
      case '"':
      case '${': {
        const expr = kind === '"' ? this.#string() : this.#hole();
        // Nix reads ${"a"} as a.
        return expr.kind === 'string'
          ? { kind: 'static', start, end: this.#end, name: expr.value }
          : { kind: 'dynamic', start, end: this.#end, expr };
      }
      default:
        throw this.#unexpected('an attribute’s name');
    }
  }
}

/** Gives the operand to whatever binds tighter than `level`. */
function complete(pending: Pending[], level: number, operand: Expr): Expr {
  let expr = operand;
  for (;;) {
    const top = pending.at(-1);
    if (!top || top.level <= level) return expr;
    pending.pop();
    expr =
      top.kind === 'binary'
        ? {
            kind: 'binary',
            start: top.left.start,
            end: expr.end,
            operator: top.operator,
            left: top.left,
            right: expr,
          }
        : { kind: 'unary', start: top.start, end: expr.end, operator: top.operator, operand: expr };
  }
}

function call(callee: Expr, args: readonly Expr[], end: number): Expr {
  return callee.kind === 'call'
    ? { ...callee, end, args: [...callee.args, ...args] }
    : { kind: 'call', start: callee.start, end, callee, args };
}

/** Where a value most likely ends: what is called with the next line's first word was not meant to be called. */
function lastOf(value: Expr): number {
  if (value.kind !== 'call') return value.end;
  return (value.args.at(-2) ?? value.callee).end;
}
