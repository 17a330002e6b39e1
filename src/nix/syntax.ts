/**
 * The syntax tree of the Nix language. Every node is a `Range` of its file (UTF-16 offsets); parentheses leave no
 * node. A tree is nested no deeper than `maxNesting` through brackets and attribute paths, but a chain (`a + b + c`,
 * `x: y: z`, `if … else if …`) is as deep as it is long: walk those by loops.
 */
import type { Range } from '../base/diagnostics.ts';

export type Expr =
  | IntExpr
  | FloatExpr
  | StringExpr
  | InterpolationExpr
  | PathExpr
  | InterpolatedPathExpr
  | SearchPathExpr
  | VariableExpr
  | PositionExpr
  | ListExpr
  | AttrsExpr
  | LetExpr
  | WithExpr
  | AssertExpr
  | IfExpr
  | LambdaExpr
  | CallExpr
  | SelectExpr
  | HasExpr
  | UnaryExpr
  | BinaryExpr;

interface IntExpr extends Range {
  readonly kind: 'int';
  /** 0 to 2^63 - 1: a minus is an operator. */
  readonly value: bigint;
}

interface FloatExpr extends Range {
  readonly kind: 'float';
  readonly value: number;
}

/** Text without holes: a string, an indented string with its indentation gone, or a bare URI. */
export interface StringExpr extends Range {
  readonly kind: 'string';
  readonly value: string;
}

/** A string with `${…}` in it. */
interface InterpolationExpr extends Range {
  readonly kind: 'interpolation';
  /** Never empty. Literal text is a `string`. */
  readonly parts: readonly Expr[];
}

interface PathExpr extends Range {
  readonly kind: 'path';
  /** As written: `./a`, `a/b`, `/x`, `~/x`; `~` and what is relative are not resolved. */
  readonly path: string;
}

interface InterpolatedPathExpr extends Range {
  readonly kind: 'interpolated-path';
  /** The path up to its first hole, its slash at the end included. */
  readonly head: PathExpr;
  /** What is joined to it. Never empty. */
  readonly parts: readonly Expr[];
}

/** `<nixpkgs>` */
interface SearchPathExpr extends Range {
  readonly kind: 'search-path';
  /** Between the angle brackets. */
  readonly path: string;
}

interface VariableExpr extends Range {
  readonly kind: 'variable';
  readonly name: string;
}

/** `__curPos` */
interface PositionExpr extends Range {
  readonly kind: 'position';
}

export interface ListExpr extends Range {
  readonly kind: 'list';
  readonly items: readonly Expr[];
}

/**
 * An attribute set, put together: `a.b = 1; a.c = 2;` and `a = { b = 1; }; a.c = 2;` are one binding `a` with two below it.
 * As in Nix, only the first part's `rec` counts.
 */
export interface AttrsExpr extends Range {
  readonly kind: 'attrs';
  readonly recursive: boolean;
  /** In the order of the text. */
  readonly bindings: ReadonlyMap<string, Binding>;
  /** Those whose names are known only when evaluated. */
  readonly dynamic: readonly DynamicBinding[];
  /** What `inherit (source)` takes from, also where it takes nothing: a variable in there has to mean something. */
  readonly sources: readonly Expr[];
}

interface Place {
  /** The binding's own name, where it stands first. */
  readonly key: Range;
  /** The whole attribute path that it is a part of: where Nix says that the attribute is. */
  readonly path: Range;
}

export type Binding = Place &
  (
    | { readonly kind: 'plain'; readonly value: Expr }
    /** `inherit x;`: from the scope around the set, also where the set is recursive. */
    | { readonly kind: 'inherited' }
    /** `inherit (source) x;`: what one `inherit` binds shares one `source` (the same object). */
    | { readonly kind: 'inherited-from'; readonly source: Expr }
  );

export interface DynamicBinding extends Place {
  readonly name: Expr;
  readonly value: Expr;
}

/** `let … in …`. The old `let { …; body = …; }` is a `select` of `body`. */
interface LetExpr extends Range {
  readonly kind: 'let';
  /** `recursive` is false here, though each binding sees all of them. Nothing dynamic. */
  readonly bindings: AttrsExpr;
  readonly body: Expr;
}

interface WithExpr extends Range {
  readonly kind: 'with';
  readonly scope: Expr;
  readonly body: Expr;
}

interface AssertExpr extends Range {
  readonly kind: 'assert';
  readonly condition: Expr;
  readonly body: Expr;
}

interface IfExpr extends Range {
  readonly kind: 'if';
  readonly condition: Expr;
  readonly then: Expr;
  readonly else: Expr;
}

export interface LambdaExpr extends Range {
  readonly kind: 'lambda';
  /** `x` of `x: …`, or of `x @ { … }: …`. */
  readonly parameter?: string;
  readonly formals?: Formals;
  readonly body: Expr;
}

export interface Formals extends Range {
  /** In the order of the text; names are unique, and none is the lambda's `parameter`. */
  readonly list: readonly Formal[];
  /** `...`: other attributes are taken too. */
  readonly open: boolean;
}

export interface Formal extends Range {
  readonly name: string;
  readonly fallback?: Expr;
}

/** `f x y`, also where it was written `(f x) y`. */
interface CallExpr extends Range {
  readonly kind: 'call';
  readonly callee: Expr;
  /** Never empty. */
  readonly args: readonly Expr[];
}

interface SelectExpr extends Range {
  readonly kind: 'select';
  readonly subject: Expr;
  readonly path: AttrPath;
  /** After `or`. */
  readonly fallback?: Expr;
}

/** `subject ? path` */
interface HasExpr extends Range {
  readonly kind: 'has';
  readonly subject: Expr;
  readonly path: AttrPath;
}

/** Never empty. */
export type AttrPath = readonly AttrName[];

export type AttrName = Range &
  ({ readonly kind: 'static'; readonly name: string } | { readonly kind: 'dynamic'; readonly expr: Expr });

interface UnaryExpr extends Range {
  readonly kind: 'unary';
  readonly operator: '!' | '-';
  readonly operand: Expr;
}

export type BinaryOperator =
  | '->'
  | '||'
  | '&&'
  | '=='
  | '!='
  | '<'
  | '>'
  | '<='
  | '>='
  | '//'
  | '+'
  | '-'
  | '*'
  | '/'
  | '++';

interface BinaryExpr extends Range {
  readonly kind: 'binary';
  readonly operator: BinaryOperator;
  readonly left: Expr;
  readonly right: Expr;
}
