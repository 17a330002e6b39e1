/** Names without a meaning: Nix refuses a whole file for one variable that nothing around it binds. */
import type { Range } from '../base/diagnostics.ts';
import type { AttrPath, AttrsExpr, Expr } from './syntax.ts';

/**
 * What Nix 2.34 binds around every file in pure evaluation; `__currentSystem` and `__currentTime` come on top of it elsewhere.
 * Source: each attribute of its `builtins`, tried with and without the underscores.
 */
export const globalNames: ReadonlySet<string> = new Set([
  ...['abort', 'baseNameOf', 'break', 'builtins', 'derivation', 'derivationStrict', 'dirOf', 'false'],
  ...['fetchGit', 'fetchMercurial', 'fetchTarball', 'fetchTree', 'fromTOML', 'import', 'isNull', 'map'],
  ...['null', 'placeholder', 'removeAttrs', 'scopedImport', 'throw', 'toString', 'true'],
  ...(
    'add addDrvOutputDependencies addErrorContext all any appendContext attrNames attrValues bitAnd bitOr bitXor catAttrs ceil ' +
    'compareVersions concatLists concatMap concatStringsSep convertHash deepSeq div elem elemAt fetchurl filter filterSource ' +
    "findFile flakeRefToString floor foldl' fromJSON functionArgs genList genericClosure getAttr getContext getEnv getFlake " +
    'groupBy hasAttr hasContext hashFile hashString head intersectAttrs isAttrs isBool isFloat isFunction isInt isList isPath ' +
    'isString langVersion length lessThan listToAttrs mapAttrs match mul nixPath nixVersion parseDrvName parseFlakeRef ' +
    'partition path pathExists readDir readFile readFileType replaceStrings seq sort split splitVersion storeDir storePath ' +
    'stringLength sub substring tail toFile toJSON toPath toXML trace traceVerbose tryEval typeOf unsafeDiscardOutputDependency ' +
    'unsafeDiscardStringContext unsafeGetAttrPos warn zipAttrsWith'
  )
    .split(' ')
    .map((name) => `__${name}`),
]);

export interface UndefinedVariable extends Range {
  readonly name: string;
}

type Step =
  | { readonly kind: 'visit'; readonly expr: Expr }
  | { readonly kind: 'leave'; readonly names: readonly string[] }
  | { readonly kind: 'with'; readonly body: Expr }
  | { readonly kind: 'leave-with' };

/** In the order of the text. Below a `with` nothing is known to be undefined. */
export function undefinedVariables(root: Expr): UndefinedVariable[] {
  const found: UndefinedVariable[] = [];
  /** How many sets, functions and lets around bind a name. */
  const bound = new Map<string, number>();
  let withs = 0;
  // A tree may be deeper than the stack.
  const steps: Step[] = [{ kind: 'visit', expr: root }];

  const use = (name: string, { start, end }: Range): void => {
    if (withs === 0 && !bound.get(name) && !globalNames.has(name)) found.push({ name, start, end });
  };
  const visit = (expr: Expr): void => {
    steps.push({ kind: 'visit', expr });
  };
  const visitPath = (path: AttrPath): void => {
    for (const name of path) if (name.kind === 'dynamic') visit(name.expr);
  };
  const enter = (names: readonly string[]): void => {
    for (const name of names) bound.set(name, (bound.get(name) ?? 0) + 1);
    steps.push({ kind: 'leave', names });
  };
  const visitAttrs = (attrs: AttrsExpr, recursive: boolean): void => {
    for (const [name, { kind, key }] of attrs.bindings) if (kind === 'inherited') use(name, key);
    if (recursive) enter([...attrs.bindings.keys()]);
    attrs.sources.forEach(visit);
    for (const binding of attrs.bindings.values()) if (binding.kind === 'plain') visit(binding.value);
    for (const { name, value } of attrs.dynamic) {
      visit(name);
      visit(value);
    }
  };

  for (let step = steps.pop(); step; step = steps.pop()) {
    if (step.kind === 'leave') {
      for (const name of step.names) bound.set(name, bound.get(name)! - 1);
      continue;
    }
    if (step.kind === 'with') {
      withs++;
      steps.push({ kind: 'leave-with' }, { kind: 'visit', expr: step.body });
      continue;
    }
    if (step.kind === 'leave-with') {
      withs--;
      continue;
    }
    const { expr } = step;
    switch (expr.kind) {
      case 'int':
      case 'float':
      case 'string':
      case 'path':
      case 'search-path':
      case 'position':
        break;
      case 'variable':
        use(expr.name, expr);
        break;
      case 'interpolation':
      case 'interpolated-path':
        expr.parts.forEach(visit);
        break;
      case 'list':
        expr.items.forEach(visit);
        break;
      case 'attrs':
        visitAttrs(expr, expr.recursive);
        break;
      case 'let':
        visitAttrs(expr.bindings, true);
        visit(expr.body);
        break;
      case 'with':
        visit(expr.scope);
        steps.push({ kind: 'with', body: expr.body });
        break;
      case 'assert':
        visit(expr.condition);
        visit(expr.body);
        break;
      case 'if':
        visit(expr.condition);
        visit(expr.then);
        visit(expr.else);
        break;
      case 'lambda': {
        const formals = expr.formals?.list ?? [];
        enter([
          ...formals.map(({ name }) => name),
          ...(expr.parameter === undefined ? [] : [expr.parameter]),
        ]);
        for (const { fallback } of formals) if (fallback) visit(fallback);
        visit(expr.body);
        break;
      }
      case 'call':
        visit(expr.callee);
        expr.args.forEach(visit);
        break;
      case 'select':
        visit(expr.subject);
        visitPath(expr.path);
        if (expr.fallback) visit(expr.fallback);
        break;
      case 'has':
        visit(expr.subject);
        visitPath(expr.path);
        break;
      case 'unary':
        visit(expr.operand);
        break;
      case 'binary':
        visit(expr.left);
        visit(expr.right);
        break;
    }
  }
  return found.sort((a, b) => a.start - b.start);
}
