/** Faults in a text file that a person wrote: where, what, and what to type instead. */

export interface SourceFile {
  /** As the person knows it: `flake.yaml`, or `git+https://…/flake.yaml` for a dependency's. */
  readonly path: string;
  readonly text: string;
}

/** UTF-16 offsets into the text, end exclusive. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export interface Diagnostic {
  readonly file: SourceFile;
  readonly range: Range;
  readonly message: string;
  /** One line: what to write instead. */
  readonly suggestion?: string;
}

/**
 * Gathers the faults of one file: one per place, since a second one there is mostly the first one's shadow, and no more than
 * a person would read.
 */
export class Findings {
  readonly file: SourceFile;
  readonly #byPlace = new Map<string, Diagnostic>();

  constructor(file: SourceFile) {
    this.file = file;
  }

  add(range: Range, message: string, suggestion?: string): void {
    if (this.full || this.has(range)) return;
    this.#byPlace.set(placeKey(range), {
      file: this.file,
      range,
      message: printable(message),
      ...(suggestion === undefined ? {} : { suggestion: printable(suggestion) }),
    });
  }

  /** Whether something was found in exactly this place. */
  has(range: Range): boolean {
    return this.#byPlace.has(placeKey(range));
  }

  get count(): number {
    return this.#byPlace.size;
  }

  get full(): boolean {
    return this.#byPlace.size >= 100;
  }

  /** In the order of the text. */
  list(): Diagnostic[] {
    return [...this.#byPlace.values()].sort(
      (a, b) => a.range.start - b.range.start || a.range.end - b.range.end,
    );
  }
}

const placeKey = ({ start, end }: Range): string => `${start}-${end}`;

/** Names from the file are repeated in messages, and the file may be hostile. */
const printable = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '\ufffd');

/** One-based line and column (in code points, tabs count one) of an offset. */
export function positionOf(text: string, offset: number): { line: number; column: number } {
  const before = text.slice(0, Math.max(0, offset));
  const line = before.split('\n').length;
  const start = before.lastIndexOf('\n') + 1;
  return { line, column: [...before.slice(start)].length + 1 };
}

/** `flake.yaml:7:3`. */
export function placeOf(diagnostic: Pick<Diagnostic, 'file' | 'range'>): string {
  const { line, column } = positionOf(diagnostic.file.text, diagnostic.range.start);
  return `${diagnostic.file.path}:${line}:${column}`;
}

/** The candidate nearest to what was written, if it is near enough to be what was meant (Damerau-Levenshtein). */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  // A third of the letters may be wrong, never all of them.
  let bestDistance = Math.min(word.length, Math.ceil(word.length / 3) + 1);
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase(), bestDistance);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit || a.length > 200 || b.length > 200) return limit;
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let value = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        value = Math.min(value, beforeLast[j - 2]! + 1);
      row.push(value);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length]!;
}
