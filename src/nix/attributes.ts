/** Puts attribute sets together by Nix's rules: what merges, and what is said twice. */
import type { Range } from '../base/diagnostics.ts';
import type { AttrName, AttrPath, AttrsExpr, Binding, DynamicBinding, Expr } from './syntax.ts';

/** A set that is still growing. */
export interface GrowingAttrs extends AttrsExpr {
  start: number;
  end: number;
  recursive: boolean;
  readonly bindings: Map<string, Binding>;
  readonly dynamic: DynamicBinding[];
  readonly sources: Expr[];
}

/** Told of a name that is bound a second time; throws. */
export type OnDuplicate = (names: readonly string[], again: Range, first: Range) => never;

export function newAttrs(start: number, recursive: boolean): GrowingAttrs {
  return { kind: 'attrs', start, end: start, recursive, bindings: new Map(), dynamic: [], sources: [] };
}

/** Every set in a tree that is being parsed came from `newAttrs`. */
const isAttrs = (expr: Expr): expr is GrowingAttrs => expr.kind === 'attrs';

/** Binds `path = value`. */
export function bindPath(attrs: GrowingAttrs, path: AttrPath, value: Expr, onDuplicate: OnDuplicate): void {
  const whole: Range = { start: path[0]!.start, end: path.at(-1)!.end };
  const names: string[] = [];
  let into = attrs;
  for (const [index, name] of path.slice(0, -1).entries()) {
    const nested = newAttrs(path[index + 1]!.start, false);
    nested.end = value.end;
    into = stepInto(into, name, whole, nested, names, onDuplicate);
  }
  const last = path.at(-1)!;
  if (last.kind === 'dynamic') into.dynamic.push({ name: last.expr, value, key: placeOf(last), path: whole });
  else {
    names.push(last.name);
    add(into, names, last.name, { kind: 'plain', value, key: placeOf(last), path: whole }, onDuplicate);
  }
}

/** The set that `name` binds: `nested` where there is none yet. */
function stepInto(
  attrs: GrowingAttrs,
  name: AttrName,
  whole: Range,
  nested: GrowingAttrs,
  names: string[],
  onDuplicate: OnDuplicate,
): GrowingAttrs {
  const place = { key: placeOf(name), path: whole };
  if (name.kind === 'dynamic') {
    attrs.dynamic.push({ name: name.expr, value: nested, ...place });
    names.push('…');
    return nested;
  }
  names.push(name.name);
  const known = attrs.bindings.get(name.name);
  if (!known) {
    attrs.bindings.set(name.name, { kind: 'plain', value: nested, ...place });
    return nested;
  }
  if (known.kind === 'plain' && isAttrs(known.value)) return known.value;
  return onDuplicate(names, place.key, known.key);
}

/** Binds one name that an `inherit` gives. */
export function bindInherited(
  attrs: GrowingAttrs,
  name: string,
  binding: Binding,
  onDuplicate: OnDuplicate,
): void {
  const known = attrs.bindings.get(name);
  if (known) onDuplicate([name], binding.key, known.key);
  attrs.bindings.set(name, binding);
}

function add(
  attrs: GrowingAttrs,
  names: readonly string[],
  name: string,
  binding: Binding,
  onDuplicate: OnDuplicate,
): void {
  const known = attrs.bindings.get(name);
  if (!known) {
    attrs.bindings.set(name, binding);
    return;
  }
  const into = known.kind === 'plain' ? known.value : undefined;
  const from = binding.kind === 'plain' ? binding.value : undefined;
  if (into && from && isAttrs(into) && isAttrs(from)) {
    for (const [inner, value] of from.bindings) add(into, [...names, inner], inner, value, onDuplicate);
    for (const dynamic of from.dynamic) into.dynamic.push(dynamic);
    for (const source of from.sources) into.sources.push(source);
  } else onDuplicate(names, binding.key, known.key);
}

const placeOf = ({ start, end }: Range): Range => ({ start, end });
