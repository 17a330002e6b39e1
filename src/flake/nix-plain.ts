/** Nix values that are known without evaluating: literals, and variables that stand for them. */
import type { Range } from '../base/diagnostics.ts';
import type { AttrsExpr, Binding, Expr, ListExpr } from '../nix/syntax.ts';

export type PlainValue =
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'int'; readonly value: bigint }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'bool'; readonly value: boolean }
  | { readonly kind: 'null' }
  /** As written: relative to the file, `/…` or `~/…`. */
  | { readonly kind: 'path'; readonly path: string }
  | PlainList
  /** `expr` is undefined for a function of Nix's own that is inherited. */
  | { readonly kind: 'function'; readonly expr?: Expr }
  | PlainSet
  /** Known only after evaluation; `name`: because of this name in a set. */
  | { readonly kind: 'computed'; readonly name?: Range };

/** Its items: `itemsOf`. */
export interface PlainList {
  readonly kind: 'list';
  readonly expr: ListExpr;
  /** What variables in it mean. */
  readonly scope: Scope | undefined;
}

/** Its attributes: `attributesOf`. */
export interface PlainSet {
  readonly kind: 'set';
  readonly attrs: AttrsExpr;
  /** What variables in it mean. */
  readonly scope?: Scope;
}

/** A recursive set around, and what is around that. */
interface Scope {
  readonly attrs: AttrsExpr;
  readonly outer?: Scope;
}

export interface Field {
  /** Where its name stands. */
  readonly key: Range;
  /** Where its value stands. */
  readonly range: Range;
  readonly value: PlainValue;
}

const computed = { kind: 'computed' } as const;

export function plainRoot(attrs: AttrsExpr): PlainSet {
  return plainSet(attrs, undefined);
}

function plainSet(attrs: AttrsExpr, scope: Scope | undefined): PlainSet {
  const inner = attrs.recursive ? { attrs, ...(scope && { outer: scope }) } : scope;
  return { kind: 'set', attrs, ...(inner && { scope: inner }) };
}

export function attributesOf({ attrs, scope }: PlainSet): ReadonlyMap<string, Field> {
  const fields = new Map<string, Field>();
  for (const [name, binding] of attrs.bindings)
    fields.set(name, {
      key: binding.key,
      range: binding.kind === 'plain' ? binding.value : binding.key,
      value: bound(name, binding, attrs, scope),
    });
  return fields;
}

/** What a binding of `attrs` gives; `scope` is that within `attrs`. */
function bound(name: string, binding: Binding, attrs: AttrsExpr, scope: Scope | undefined): PlainValue {
  let source = sourceOf(name, binding, attrs, scope);
  for (let hops = 0; source && hops < maxHops; hops++) {
    if (source.name === undefined) return literal(source.expr, source.scope);
    const target = lookUp(source.name, source.scope);
    if (!target) return global(source.name, source.expr);
    // While Nix puts a set together, it knows of the set's own attributes only those before.
    if (target.scope.attrs === source.within && target.binding.key.start >= source.before.key.start)
      return computed;
    source = sourceOf(source.name, target.binding, target.scope.attrs, target.scope);
  }
  return computed;
}

/** From one variable to the next; more than anyone writes. */
const maxHops = 20;

/** Where a binding's value comes from: an expression, or with `name` a variable. */
interface ValueSource {
  readonly expr?: Expr;
  readonly name?: string;
  readonly scope: Scope | undefined;
  readonly within: AttrsExpr;
  readonly before: Binding;
}

function sourceOf(
  name: string,
  before: Binding,
  within: AttrsExpr,
  scope: Scope | undefined,
): ValueSource | undefined {
  switch (before.kind) {
    case 'plain': {
      const expr = before.value;
      return { expr, ...(expr.kind === 'variable' && { name: expr.name }), scope, within, before };
    }
    case 'inherited':
      return { name, scope: within.recursive ? scope?.outer : scope, within, before };
    case 'inherited-from':
      return undefined;
  }
}

function lookUp(name: string, scope: Scope | undefined): { binding: Binding; scope: Scope } | undefined {
  for (let at = scope; at; at = at.outer) {
    const binding = at.attrs.bindings.get(name);
    if (binding) return { binding, scope: at };
  }
  return undefined;
}

function literal(expr: Expr | undefined, scope: Scope | undefined): PlainValue {
  switch (expr?.kind) {
    case 'string':
    case 'int':
    case 'float':
    case 'path':
      return expr;
    case 'lambda':
      return { kind: 'function', expr };
    case 'attrs':
      return expr.dynamic[0] ? { kind: 'computed', name: expr.dynamic[0].key } : plainSet(expr, scope);
    case 'list':
      return { kind: 'list', expr, scope };
    default:
      return computed;
  }
}

/** A name that no set around binds. */
function global(name: string, expr: Expr | undefined): PlainValue {
  if (name === 'true' || name === 'false') return { kind: 'bool', value: name === 'true' };
  if (name === 'null') return { kind: 'null' };
  return functions.has(name) ? { kind: 'function', ...(expr && { expr }) } : computed;
}

/** The items of a list. */
export function itemsOf({ expr, scope }: PlainList): readonly { value: PlainValue; range: Range }[] {
  return expr.items.map((item) => {
    if (item.kind !== 'variable') return { range: item, value: literal(item, scope) };
    const target = lookUp(item.name, scope);
    return {
      range: item,
      value: target
        ? bound(item.name, target.binding, target.scope.attrs, target.scope)
        : global(item.name, item),
    };
  });
}

/** Those of Nix's own functions that have a short name. */
const functions: ReadonlySet<string> = new Set([
  ...[
    'abort',
    'baseNameOf',
    'break',
    'derivationStrict',
    'dirOf',
    'fetchGit',
    'fetchMercurial',
    'fetchTarball',
  ],
  ...[
    'fetchTree',
    'fromTOML',
    'import',
    'isNull',
    'map',
    'placeholder',
    'removeAttrs',
    'scopedImport',
    'throw',
  ],
  'toString',
]);

/** With its article, for messages. */
export function describe(value: PlainValue): string {
  switch (value.kind) {
    case 'string':
      return 'a string';
    case 'int':
      return 'a whole number';
    case 'float':
      return 'a number with a fraction';
    case 'bool':
      return value.value ? 'true' : 'false';
    case 'null':
      return 'null';
    case 'path':
      return 'a path';
    case 'list':
      return 'a list';
    case 'function':
      return 'a function';
    case 'set':
      return 'an attribute set';
    case 'computed':
      return 'to be computed';
  }
}
