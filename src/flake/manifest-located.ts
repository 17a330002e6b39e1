/** Values of a YAML text that know where they stand. */
import type { Range } from '../base/diagnostics.ts';

export interface LocatedScalar {
  readonly kind: 'scalar';
  readonly value: string | number | boolean | null;
  /** As written, without quotes; for a null before a comment, the comment's first word: YAML has eaten what was meant. */
  readonly source: string;
  readonly range: Range;
}

interface LocatedList {
  readonly kind: 'list';
  readonly items: readonly Located[];
  readonly range: Range;
}

export interface LocatedMap {
  readonly kind: 'map';
  readonly entries: ReadonlyMap<string, LocatedEntry>;
  readonly range: Range;
}

export interface LocatedEntry {
  /** Where the key stands. */
  readonly key: Range;
  readonly value: Located;
}

export type Located = LocatedScalar | LocatedList | LocatedMap;
