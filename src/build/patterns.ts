/**
 * Patterns in gitignore(5)'s syntax, matched without regular expressions: their cost is bounded by the lengths of pattern and path, however
 * hostile the manifest. Paths and patterns are latin1 strings, one character per byte, as Git compares them.
 */

type Token =
  | { readonly kind: 'one'; readonly accepts: (byte: number) => boolean }
  | { readonly kind: 'star' };
/** One folder's name in a pattern; `any` is `**`. */
type Segment = 'any' | readonly Token[];

interface Pattern {
  readonly negated: boolean;
  readonly onlyFolders: boolean;
  readonly segments: readonly Segment[];
}

/** Tells what the last pattern that matches a path says: true, false for one that begins with `!`, undefined where none matches. */
export type Matcher = (path: string, isFolder: boolean) => boolean | undefined;

export function matcher(patterns: readonly string[]): Matcher {
  const compiled = patterns
    .map(compile)
    .filter((pattern) => pattern.segments.length > 0)
    .reverse();
  return (path, isFolder) => {
    const names = path.split('/');
    const last = compiled.find(
      (pattern) => (isFolder || !pattern.onlyFolders) && matchSegments(pattern.segments, names),
    );
    return last === undefined ? undefined : !last.negated;
  };
}

function compile(text: string): Pattern {
  let rest = Buffer.from(text).toString('latin1');
  const negated = rest.startsWith('!');
  if (negated) rest = rest.slice(1);
  const onlyFolders = rest.endsWith('/');
  rest = rest.replace(/\/+$/, '').replace(/^(\.\/)+/, '/');
  // A slash before the end ties a pattern to the top; without one it holds in every folder.
  const anchored = rest.includes('/');
  const names = rest.split('/').filter((name) => name !== '');
  const segments = names.map((name): Segment => (name === '**' ? 'any' : tokens(name)));
  return {
    negated,
    onlyFolders,
    segments: anchored || segments.length === 0 ? segments : ['any', ...segments],
  };
}

function tokens(name: string): Token[] {
  const found: Token[] = [];
  for (let at = 0; at < name.length; at++) {
    const character = name[at]!;
    if (character === '*') {
      if (found.at(-1)?.kind !== 'star') found.push({ kind: 'star' });
    } else if (character === '?') {
      found.push({ kind: 'one', accepts: () => true });
    } else if (character === '[') {
      const set = bracket(name, at);
      found.push({ kind: 'one', accepts: set?.accepts ?? exactly('[') });
      if (set !== undefined) at = set.end;
    } else {
      if (character === '\\' && at + 1 < name.length) at++;
      found.push({ kind: 'one', accepts: exactly(name[at]!) });
    }
  }
  return found;
}

const exactly = (character: string) => (byte: number) => byte === character.charCodeAt(0);

/** `[a-z]`, `[!a]`, `[^a]`, `[]a]`; undefined when it is never closed. `end` is where its `]` stands. */
function bracket(
  name: string,
  start: number,
): { accepts: (byte: number) => boolean; end: number } | undefined {
  let at = start + 1;
  const inverted = name[at] === '!' || name[at] === '^';
  if (inverted) at++;
  const ranges: [number, number][] = [];
  for (let first = true; at < name.length; first = false) {
    if (name[at] === ']' && !first) {
      return {
        accepts: (byte) => ranges.some(([low, high]) => byte >= low && byte <= high) !== inverted,
        end: at,
      };
    }
    if (name[at] === '\\') at++;
    const low = name.charCodeAt(at++);
    let high = low;
    if (name[at] === '-' && at + 1 < name.length && name[at + 1] !== ']') {
      at++;
      if (name[at] === '\\') at++;
      high = name.charCodeAt(at++);
    }
    ranges.push([low, high]);
  }
  return undefined;
}

/** `**` takes any number of names; at the end of a pattern, at least one. */
function matchSegments(segments: readonly Segment[], names: readonly string[]): boolean {
  return matchWithGaps(
    segments.length,
    names.length,
    (i) => segments[i] === 'any',
    (i, j) => {
      const segment = segments[i];
      return segment !== undefined && segment !== 'any' && matchName(segment, names[j]!);
    },
    segments.at(-1) === 'any',
  );
}

function matchName(pattern: readonly Token[], name: string): boolean {
  return matchWithGaps(
    pattern.length,
    name.length,
    (i) => pattern[i]?.kind === 'star',
    (i, j) => {
      const token = pattern[i];
      return token?.kind === 'one' && token.accepts(name.charCodeAt(j));
    },
    false,
  );
}

/**
 * Matches a sequence of patterns, some of which are gaps that take anything, against a sequence of items. Only the last gap met is
 * ever tried again: what an earlier one could take instead, this one can take too.
 */
function matchWithGaps(
  patterns: number,
  items: number,
  isGap: (pattern: number) => boolean,
  matches: (pattern: number, item: number) => boolean,
  lastGapNotEmpty: boolean,
): boolean {
  let pattern = 0;
  let item = 0;
  let gap = -1;
  let gapEnd = 0;
  while (item < items) {
    if (pattern < patterns && isGap(pattern)) {
      gap = pattern++;
      gapEnd = lastGapNotEmpty && gap === patterns - 1 ? item + 1 : item;
      item = gapEnd;
    } else if (pattern < patterns && matches(pattern, item)) {
      pattern++;
      item++;
    } else if (gap !== -1) {
      pattern = gap + 1;
      item = ++gapEnd;
    } else return false;
  }
  while (pattern < patterns && isGap(pattern) && !(lastGapNotEmpty && pattern === patterns - 1)) pattern++;
  return pattern === patterns;
}
