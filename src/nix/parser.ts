/** The grammar of the Nix language, as Nix 2.34 has it without experimental features. */
import { positionOf, type SourceFile } from '../base/diagnostics.ts';
import type { FlkError } from '../base/errors.ts';
import { bindInherited, bindPath, type GrowingAttrs, newAttrs, type OnDuplicate } from './attributes.ts';
import { type IndentedPart, stripIndentation } from './indentation.ts';
import type { Token } from './lexer.ts';
import { binaryOperators, complete, hasLevel, minusLevel, notLevel, type Pending } from './operators.ts';
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
import { syntaxError, TokenStream } from './tokens.ts';

/** UTF-16 units. The largest file of the Nix package collection has a third of them. */
const maxTextLength = 48 * 1024 * 1024;

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

/** Everything of an expression but the expression that ends it. */
type Opening = (body: Expr) => Expr;

class Parser {
  readonly #file: SourceFile;
  readonly #pure: boolean;
  readonly #tokens: TokenStream;

  constructor(file: SourceFile, pure: boolean) {
    this.#file = file;
    this.#pure = pure;
    this.#tokens = new TokenStream(file);
  }

  file(): Expr {
    const expr = this.#expression();
    if (this.#tokens.current.kind !== 'end')
      throw this.#tokens.unexpected('an operator, an argument or the end of the file');
    return expr;
  }

  /** What stands before a body is gathered, so that a chain of a thousand functions is no depth of a thousand calls. */
  #expression(): Expr {
    this.#tokens.enter();
    const openings: Opening[] = [];
    for (let opening = this.#opening(); opening; opening = this.#opening()) openings.push(opening);
    let expr = this.#operators();
    for (const opening of openings.reverse()) expr = opening(expr);
    this.#tokens.leave();
    return expr;
  }

  #opening(): Opening | undefined {
    const { kind, start } = this.#tokens.current;
    switch (kind) {
      case 'name': {
        const after = this.#tokens.peek(1);
        return after === ':' || after === '@' ? this.#lambda() : undefined;
      }
      case '{':
        return this.#formalsAhead() ? this.#lambda() : undefined;
      case 'assert':
      case 'with': {
        this.#tokens.take();
        const head = this.#expression();
        this.#tokens.expect(';', `; after what ${kind} is given`);
        return (body) =>
          kind === 'with'
            ? { kind, start, end: body.end, scope: head, body }
            : { kind, start, end: body.end, condition: head, body };
      }
      case 'let': {
        if (this.#tokens.peek(1) === '{') return undefined;
        const opened = this.#tokens.take();
        const bindings = this.#bindings(newAttrs(this.#tokens.current.start, false), 'in', opened);
        const [dynamic] = bindings.dynamic;
        if (dynamic)
          throw this.#tokens.error(
            dynamic.key,
            'a name in let cannot be computed',
            'write a plain name, or make an attribute set and use with',
          );
        return (body) => ({ kind, start, end: body.end, bindings, body });
      }
      case 'if': {
        this.#tokens.take();
        const condition = this.#expression();
        this.#tokens.expect('then', 'then');
        const then = this.#expression();
        this.#tokens.expect('else', 'else');
        return (body) => ({ kind, start, end: body.end, condition, then, else: body });
      }
      default:
        return undefined;
    }
  }

  /** Whether the brace here opens the formals of a function, not a set. */
  #formalsAhead(): boolean {
    const first = this.#tokens.peek(1);
    if (first === '...') return true;
    const second = this.#tokens.peek(2);
    if (first === '}') return second === ':' || second === '@';
    return first === 'name' && (second === ',' || second === '?' || second === '}');
  }

  #lambda(): Opening {
    const { kind, start } = this.#tokens.current;
    let parameter: Token | undefined;
    let formals: Formals | undefined;
    if (kind === 'name') {
      parameter = this.#tokens.take();
      if (this.#tokens.current.kind === '@') {
        this.#tokens.take();
        formals = this.#formals();
      }
    } else {
      formals = this.#formals();
      if (this.#tokens.current.kind === '@') {
        this.#tokens.take();
        parameter = this.#tokens.expect('name', 'a name for the whole argument');
      }
    }
    this.#tokens.expect(':', formals ? ': after the function’s argument' : ':');
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
    const opened = this.#tokens.expect('{', 'the { of the attributes that the function takes');
    const list: Formal[] = [];
    const names = new Set<string>();
    let open = false;
    while (this.#tokens.current.kind !== '}') {
      if (this.#tokens.current.kind === '...') {
        this.#tokens.take();
        open = true;
        break;
      }
      const { value: name, start, end } = this.#tokens.expect('name', 'a name, ... or }', opened);
      let fallback: Expr | undefined;
      if (this.#tokens.current.kind === '?') {
        this.#tokens.take();
        fallback = this.#expression();
      }
      const formal: Formal = { start, end, name, ...(fallback && { fallback }) };
      if (names.has(name)) throw this.#duplicateFormal(formal);
      names.add(name);
      list.push(formal);
      if (this.#tokens.current.kind !== ',') break;
      this.#tokens.take();
    }
    this.#tokens.expect('}', open ? '} after ...' : ', or }', opened);
    return { start: opened.start, end: this.#tokens.end, list, open };
  }

  #duplicateFormal(formal: Formal): FlkError {
    return this.#tokens.error(formal, `the function takes ${formal.name} twice`, 'remove one of them');
  }

  /** Operators and their operands, by what waits for its right side: no recursion, however long the chain. */
  #operators(): Expr {
    const pending: Pending[] = [];
    for (;;) {
      const { kind, start } = this.#tokens.current;
      if (kind === '!' || kind === '-') {
        this.#tokens.take();
        pending.push({ kind: 'unary', operator: kind, level: kind === '!' ? notLevel : minusLevel, start });
        continue;
      }
      let operand = this.#application();
      while (this.#tokens.current.kind === '?') {
        operand = complete(pending, hasLevel, operand);
        this.#tokens.take();
        const path = this.#attrPath();
        operand = { kind: 'has', start: operand.start, end: this.#tokens.end, subject: operand, path };
      }
      const operator = this.#tokens.current;
      const rule = binaryOperators.get(operator.kind);
      if (!rule) return complete(pending, -1, operand);
      const { level, side } = rule;
      operand = complete(pending, side === 'left' ? level - 1 : level, operand);
      if (side === 'none' && pending.at(-1)?.level === level)
        throw this.#tokens.error(
          operator,
          `${operator.kind} cannot follow another comparison`,
          'put one of them in parentheses',
        );
      this.#tokens.take();
      pending.push({ kind: 'binary', operator: operator.kind as BinaryOperator, level, left: operand });
    }
  }

  #application(): Expr {
    const callee = this.#select();
    if (!this.#startsOperand()) return callee;
    const args: Expr[] = [];
    while (this.#startsOperand()) args.push(this.#select());
    return call(callee, args, this.#tokens.end);
  }

  #startsOperand(): boolean {
    switch (this.#tokens.current.kind) {
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
        return this.#tokens.peek(1) === '{';
      default:
        return false;
    }
  }

  /** An operand with the attribute path behind it. */
  #select(): Expr {
    const { start } = this.#tokens.current;
    const subject = this.#simple();
    const after = this.#tokens.current;
    if (after.kind === 'or') {
      // Without a path before it, `or` is an argument: a function of that name is older than the operator.
      this.#tokens.take();
      const or = { kind: 'variable', start: after.start, end: after.end, name: 'or' } as const;
      return { kind: 'call', start, end: after.end, callee: subject, args: [or] };
    }
    if (after.kind !== '.') return subject;
    this.#tokens.take();
    const path = this.#attrPath();
    if (this.#tokens.current.kind !== 'or')
      return { kind: 'select', start, end: this.#tokens.end, subject, path };
    this.#tokens.take();
    this.#tokens.enter();
    const fallback = this.#select();
    this.#tokens.leave();
    return { kind: 'select', start, end: this.#tokens.end, subject, path, fallback };
  }

  #simple(): Expr {
    const token = this.#tokens.current;
    const { start, end, value } = token;
    switch (token.kind) {
      case 'name':
        this.#tokens.take();
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
        this.#tokens.take();
        return { kind: 'search-path', start, end, path: value };
      case 'uri':
        this.#tokens.take();
        return { kind: 'string', start, end, value };
      case '(': {
        this.#tokens.take();
        const expr = this.#expression();
        this.#tokens.expect(')', ')', token);
        return expr;
      }
      case '[':
        return this.#list();
      case '{':
        return this.#set(newAttrs(start, false), this.#tokens.take());
      case 'rec':
        this.#tokens.take();
        return this.#set(newAttrs(start, true), this.#tokens.expect('{', '{ after rec'));
      case 'let':
        return this.#oldLet();
      default:
        throw this.#tokens.unexpected('an expression');
    }
  }

  #int(): Expr {
    const { start, end, value } = this.#tokens.take();
    const digits = value.replace(/^0+(?=.)/, '');
    const int = digits.length <= 19 ? BigInt(digits) : undefined;
    if (int === undefined || int > 0x7fff_ffff_ffff_ffffn)
      throw this.#tokens.error(
        { start, end },
        'the number is too large',
        'write at most 9223372036854775807',
      );
    return { kind: 'int', start, end, value: int };
  }

  #float(): Expr {
    const { start, end, value } = this.#tokens.take();
    const float = Number(value);
    // Nix takes neither what overflows nor what loses digits near zero.
    const tiny = float < 2 ** -1022 && /[1-9]/.test(value.replace(/e.*/i, ''));
    if (tiny || !Number.isFinite(float))
      throw this.#tokens.error({ start, end }, 'the number is out of the range of floats');
    return { kind: 'float', start, end, value: float };
  }

  #string(): StringExpr | Extract<Expr, { kind: 'interpolation' }> {
    const opened = this.#tokens.take();
    const parts: Expr[] = [];
    let holes = 0;
    while (this.#tokens.current.kind !== '"') {
      if (this.#tokens.current.kind === 'text') {
        const { start, end, value } = this.#tokens.take();
        parts.push({ kind: 'string', start, end, value });
      } else if (this.#tokens.current.kind === '${') {
        parts.push(this.#hole());
        holes++;
      } else throw this.#unclosed(opened);
    }
    const { end } = this.#tokens.take();
    const { start } = opened;
    const [first] = parts;
    if (!first) return { kind: 'string', start, end, value: '' };
    if (holes === 0 && first.kind === 'string') return { kind: 'string', start, end, value: first.value };
    return { kind: 'interpolation', start, end, parts };
  }

  /** A string that never ends is told of at its beginning: its end is the end of the file. */
  #unclosed(opened: Token): FlkError {
    const token = this.#tokens.current;
    return token.kind === 'fault' && token.start === this.#file.text.length
      ? this.#tokens.error(opened, token.value)
      : this.#tokens.unexpected('text', { opened });
  }

  #indentedString(): Expr {
    const opened = this.#tokens.take();
    const parts: IndentedPart[] = [];
    for (;;) {
      const { kind, start, end, value } = this.#tokens.current;
      if (kind === 'indented-close') break;
      if (kind === 'indented-text' || kind === 'indented-escape') {
        this.#tokens.take();
        parts.push({ kind: kind === 'indented-text' ? 'text' : 'escape', start, end, text: value });
      } else if (kind === '${') parts.push({ kind: 'hole', expr: this.#hole() });
      else throw this.#unclosed(opened);
    }
    const { end } = this.#tokens.take();
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
    const opened = this.#tokens.take();
    const expr = this.#expression();
    this.#tokens.expect('}', '} after the interpolated expression', opened);
    return expr;
  }

  #path(): Expr {
    const { start, end, value } = this.#tokens.take();
    if (this.#pure && value.startsWith('~'))
      throw this.#tokens.error(
        { start, end },
        'a flake’s files do not name the home folder, which is another one for everybody',
        'put the file into the flake and write ./…',
      );
    const head = { kind: 'path', start, end, path: value } as const;
    const parts: Expr[] = [];
    for (;;) {
      const token = this.#tokens.current;
      if (token.kind === 'path-end') break;
      if (token.kind === '${') parts.push(this.#hole());
      else if (token.kind === 'path-text' && (parts.length > 0 || this.#tokens.peek(1) === '${')) {
        this.#tokens.take();
        parts.push({ kind: 'string', start: token.start, end: token.end, value: token.value });
      } else if (token.kind === 'path-text')
        throw this.#tokens.error(token, 'a path has no two slashes in a row', 'remove one of them');
      else throw this.#tokens.unexpected('the rest of the path');
    }
    this.#tokens.take();
    return parts.length === 0
      ? head
      : { kind: 'interpolated-path', start, end: this.#tokens.end, head, parts };
  }

  #list(): Expr {
    const opened = this.#tokens.take();
    const items: Expr[] = [];
    this.#tokens.enter();
    while (this.#startsOperand()) items.push(this.#select());
    this.#tokens.leave();
    this.#tokens.expect(']', 'a list item or ]', opened);
    return { kind: 'list', start: opened.start, end: this.#tokens.end, items };
  }

  // Attributes.

  #set(attrs: GrowingAttrs, opened: Token): GrowingAttrs {
    this.#bindings(attrs, '}', opened);
    return attrs;
  }

  #oldLet(): Expr {
    const { start } = this.#tokens.take();
    const opened = this.#tokens.expect('{', 'bindings or {');
    const subject = this.#set(newAttrs(start, true), opened);
    const { end } = subject;
    return { kind: 'select', start, end, subject, path: [{ kind: 'static', start, end, name: 'body' }] };
  }

  /** Up to and with `close`. */
  #bindings(attrs: GrowingAttrs, close: '}' | 'in', opened: Token): AttrsExpr {
    while (this.#tokens.current.kind !== close) {
      if (this.#tokens.current.kind === 'inherit') this.#inherit(attrs);
      else {
        if (!this.#startsAttrName())
          throw this.#tokens.unexpected(`an attribute’s name or ${close}`, { opened });
        const path = this.#attrPath();
        this.#tokens.expect('=', '. or =');
        this.#tokens.enter(path.length);
        const value = this.#expression();
        this.#tokens.leave(path.length);
        if (this.#tokens.current.kind !== ';')
          throw this.#tokens.unexpected('; after the value', { missing: lastOf(value) });
        this.#tokens.take();
        bindPath(attrs, path, value, this.#onDuplicate);
      }
    }
    attrs.end = this.#tokens.take().end;
    return attrs;
  }

  #inherit(attrs: GrowingAttrs): void {
    this.#tokens.take();
    let source: Expr | undefined;
    if (this.#tokens.current.kind === '(') {
      const opened = this.#tokens.take();
      source = this.#expression();
      attrs.sources.push(source);
      this.#tokens.expect(')', ')', opened);
    }
    while (this.#startsAttrName()) {
      const name = this.#attrName();
      if (name.kind === 'dynamic')
        throw this.#tokens.error(name, 'a name in inherit cannot be computed', 'write the attribute with =');
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
    this.#tokens.expect(';', 'a name or ;');
  }

  readonly #onDuplicate: OnDuplicate = (names, again, first) => {
    const { line, column } = positionOf(this.#file.text, first.start);
    throw this.#tokens.error(
      again,
      `the attribute ${names.join('.')} is set already, on line ${line}, column ${column}`,
      'keep one of them',
    );
  };

  #startsAttrName(): boolean {
    const { kind } = this.#tokens.current;
    return kind === 'name' || kind === 'or' || kind === '"' || kind === '${';
  }

  #attrPath(): AttrPath {
    const path = [this.#attrName()];
    while (this.#tokens.current.kind === '.') {
      this.#tokens.take();
      path.push(this.#attrName());
    }
    return path;
  }

  #attrName(): AttrName {
    const { kind, start, end, value } = this.#tokens.current;
    switch (kind) {
      case 'name':
        this.#tokens.take();
        return { kind: 'static', start, end, name: value };
      case 'or':
        this.#tokens.take();
        return { kind: 'static', start, end, name: 'or' };
      case '"':
      case '${': {
        const expr = kind === '"' ? this.#string() : this.#hole();
        // Nix reads ${"a"} as a.
        return expr.kind === 'string'
          ? { kind: 'static', start, end: this.#tokens.end, name: expr.value }
          : { kind: 'dynamic', start, end: this.#tokens.end, expr };
      }
      default:
        throw this.#tokens.unexpected('an attribute’s name');
    }
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
