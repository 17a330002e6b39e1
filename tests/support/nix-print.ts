/** A syntax tree as `nix-instantiate --parse` prints it: operators that are functions to Nix as calls, names in byte order. */
import { posix } from 'node:path';
import { compareBytes } from '../../src/base/canonical.ts';
import type { AttrPath, AttrsExpr, Expr } from '../../src/nix/syntax.ts';

export interface PrintOptions {
  /** Absolute: the folder of the file, from which its paths go out. */
  readonly folder: string;
  readonly home: string;
}

export function printNix(expr: Expr, options: PrintOptions): string {
  const print = (inner: Expr): string => printNix(inner, options);
  const names = (path: AttrPath): string =>
    path
      .map((name) => (name.kind === 'static' ? identifier(name.name) : `"\${${print(name.expr)}}"`))
      .join('.');
  const applied = asCall(expr);
  if (applied)
    return `(${[applied.callee, ...applied.args].map((part) => (typeof part === 'string' ? part : print(part))).join(' ')})`;
  switch (expr.kind) {
    case 'int':
      return String(expr.value);
    case 'float':
      return float(expr.value);
    case 'string':
      return text(expr.value);
    case 'path':
      return path(expr.path, options);
    case 'interpolation':
      return `(${expr.parts.map(print).join(' + ')})`;
    case 'interpolated-path':
      return `(${[expr.head, ...expr.parts].map(print).join(' + ')})`;
    case 'variable':
      return expr.name === '' ? '' : identifier(expr.name);
    case 'position':
      return '__curPos';
    case 'list':
      return `[ ${expr.items.map((item) => `(${print(item)}) `).join('')}]`;
    case 'attrs':
      return `${expr.recursive ? 'rec ' : ''}{ ${bindings(expr, print)}}`;
    case 'let':
      return `(let ${bindings(expr.bindings, print)}in ${print(expr.body)})`;
    case 'with':
      return `(with ${print(expr.scope)}; ${print(expr.body)})`;
    case 'assert':
      return `assert ${print(expr.condition)}; ${print(expr.body)}`;
    case 'if':
      return `(if ${print(expr.condition)} then ${print(expr.then)} else ${print(expr.else)})`;
    case 'lambda': {
      const { parameter, formals } = expr;
      const set = formals && [
        ...[...formals.list]
          .sort((a, b) => compareBytes(a.name, b.name))
          .map(({ name, fallback }) => identifier(name) + (fallback ? ` ? ${print(fallback)}` : '')),
        ...(formals.open ? ['...'] : []),
      ];
      const parts = [
        ...(set ? [`{ ${set.join(', ')} }`] : []),
        ...(parameter === undefined ? [] : [identifier(parameter)]),
      ];
      return `(${parts.join(' @ ')}: ${print(expr.body)})`;
    }
    case 'select': {
      const fallback = expr.fallback ? ` or (${print(expr.fallback)})` : '';
      return `(${print(expr.subject)}).${names(expr.path)}${fallback}`;
    }
    case 'has':
      return `((${print(expr.subject)}) ? ${names(expr.path)})`;
    case 'unary':
      return `(! ${print(expr.operand)})`;
    case 'binary': {
      const { operator, left, right } = expr;
      // What is not less is the negation of a call.
      if (operator === '<=') return `(! (__lessThan ${print(right)} ${print(left)}))`;
      if (operator === '>=') return `(! (__lessThan ${print(left)} ${print(right)}))`;
      return `(${print(left)} ${operator} ${print(right)})`;
    }
    case 'call':
    case 'search-path':
      throw new Error('printed above');
  }
}

interface Applied {
  readonly callee: Expr | string;
  readonly args: readonly (Expr | string)[];
}

/** Nix makes one call of a call's call, also where the inner one is an operator. */
function asCall(expr: Expr): Applied | undefined {
  switch (expr.kind) {
    case 'call': {
      const [first] = expr.args;
      // The old rule for `or` leaves the call before it alone.
      const inner = first?.kind === 'variable' && first.name === 'or' ? undefined : asCall(expr.callee);
      return inner ? { ...inner, args: [...inner.args, ...expr.args] } : expr;
    }
    case 'search-path':
      return { callee: '__findFile', args: ['__nixPath', text(expr.path)] };
    case 'unary':
      return expr.operator === '-' ? { callee: '__sub', args: ['0', expr.operand] } : undefined;
    case 'binary': {
      const { operator, left, right } = expr;
      if (operator === '>') return { callee: '__lessThan', args: [right, left] };
      const name = { '<': '__lessThan', '-': '__sub', '*': '__mul', '/': '__div' }[operator as string];
      return name === undefined ? undefined : { callee: name, args: [left, right] };
    }
    default:
      return undefined;
  }
}

function bindings(attrs: AttrsExpr, print: (expr: Expr) => string): string {
  const sorted = [...attrs.bindings].sort(([a], [b]) => compareBytes(a, b));
  const inherited = sorted.flatMap(([name, { kind }]) =>
    kind === 'inherited' ? [` ${identifier(name)}`] : [],
  );
  const sources = new Map<Expr, string[]>();
  for (const [, binding] of attrs.bindings)
    if (binding.kind === 'inherited-from') sources.set(binding.source, []);
  for (const [name, binding] of sorted)
    if (binding.kind === 'inherited-from') sources.get(binding.source)!.push(` ${identifier(name)}`);
  return [
    ...(inherited.length > 0 ? [`inherit${inherited.join('')}; `] : []),
    ...[...sources].map(([source, names]) => `inherit (${print(source)})${names.join('')}; `),
    ...sorted.flatMap(([name, binding]) =>
      binding.kind === 'plain' ? [`${identifier(name)} = ${print(binding.value)}; `] : [],
    ),
    ...attrs.dynamic.map(({ name, value }) => `"\${${print(name)}}" = ${print(value)}; `),
  ].join('');
}

const reserved = new Set(['if', 'then', 'else', 'assert', 'with', 'let', 'in', 'rec', 'inherit']);

const identifier = (name: string): string =>
  /^[a-zA-Z_][a-zA-Z0-9_'-]*$/.test(name) && !reserved.has(name) ? name : text(name);

const escapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '${': '\\${',
};

const text = (value: string): string => `"${value.replace(/["\\\n\r\t]|\$\{/g, (found) => escapes[found]!)}"`;

/** As C prints `%g`. */
function float(value: number): string {
  const [digits = '', exponent] = value.toExponential(5).split('e');
  const power = Number(exponent);
  if (power < -4 || power >= 6)
    return `${digits.replace(/\.?0+$/, '')}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
  return value.toFixed(5 - power).replace(/\.?0+$/, '');
}

function path(written: string, { folder, home }: PrintOptions): string {
  const absolute = written.startsWith('~') ? home + written.slice(1) : posix.resolve(folder, written);
  // Before a hole the slash stays.
  return written.endsWith('/') && absolute.length > 1 && !absolute.endsWith('/') ? `${absolute}/` : absolute;
}
