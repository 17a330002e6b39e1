/** How tightly operators bind, and how what waits for its right side is completed. */
import type { TokenKind } from './lexer.ts';
import type { BinaryOperator, Expr } from './syntax.ts';

interface Operator {
  readonly level: number;
  readonly side: 'left' | 'right' | 'none';
}

/** The higher the level, the tighter an operator binds. */
export const binaryOperators: ReadonlyMap<TokenKind, Operator> = new Map<BinaryOperator, Operator>([
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
export const notLevel = 7;
export const hasLevel = 11;
export const minusLevel = 12;

/** An operator whose right side is not complete yet. */
export type Pending =
  | {
      readonly kind: 'binary';
      readonly operator: BinaryOperator;
      readonly level: number;
      readonly left: Expr;
    }
  | { readonly kind: 'unary'; readonly operator: '!' | '-'; readonly level: number; readonly start: number };

/** Gives the operand to whatever binds tighter than `level`. */
export function complete(pending: Pending[], level: number, operand: Expr): Expr {
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
