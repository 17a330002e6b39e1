import { describe, expect, it } from 'vitest';
import { parseFlakeRef, refFromAttributes } from '../../../src/flake/flake-ref.ts';
import { lockChanges, printChanges } from '../../../src/flake/lock-diff.ts';
import { emptyLock, type LockEdge, type LockFile, type LockNode } from '../../../src/flake/lock-file.ts';

interface Pinned {
  readonly rev?: string;
  readonly revCount?: number;
  readonly tag?: string;
  readonly url?: string;
  readonly inputs?: Pins;
}
type Pins = Readonly<Record<string, Pinned | string[]>>;

function lockOf(pins: Pins): LockFile {
  const nodes = new Map<string, LockNode>();
  const add = (
    key: string,
    { rev = '1', revCount, tag, url = 'https://h/x', inputs = {} }: Pinned,
    isRoot = false,
  ) => {
    const edges = new Map<string, LockEdge>();
    const attributes = { type: 'git', url, rev: rev.padEnd(40, '0'), lastModified: 1795350141 };
    const locked = refFromAttributes({ ...attributes, ...(revCount && { revCount }) }, 'here');
    nodes.set(key, {
      flake: true,
      inputs: edges,
      ...(!isRoot && { locked, original: parseFlakeRef(`git+${url}`) }),
      ...(tag && { flk: { version: '*', tag } }),
    });
    for (const [name, input] of Object.entries(inputs)) {
      if (Array.isArray(input)) edges.set(name, { kind: 'follows', path: input });
      else edges.set(name, { kind: 'node', key: add(`${key}-${name}`, input) });
    }
    return key;
  };
  return { root: add('root', { inputs: pins }, true), nodes };
}

const list = (was: Pins, now: Pins) => printChanges(lockChanges(lockOf(was), lockOf(now)));
const ref = (digit: string) => `'git+https://h/x?rev=${digit.padEnd(40, '0')}' (2026-11-22)`;

describe('the list of changes', () => {
  // The first four as Nix 2.34 prints them, without its colours.
  it.each<[string, Pins, Pins, string[]]>([
    ['nothing', { a: {} }, { a: {} }, []],
    [
      'inputs added, nested ones too',
      {},
      { z: ['a'], a: { inputs: { c: {} } } },
      [
        "• Added input 'a':",
        `    ${ref('1')}`,
        "• Added input 'a/c':",
        `    ${ref('1')}`,
        "• Added input 'z':",
        "    follows 'a'",
      ],
    ],
    ['one removed', { a: {}, z: ['a'] }, { a: {} }, ["• Removed input 'z'"]],
    [
      'follows that change',
      { y: ['z', 'c'], x: {} },
      { y: ['a', 'c'], x: ['y'] },
      [
        "• Updated input 'x':",
        `    ${ref('1')}`,
        "  → follows 'y'",
        "• Updated input 'y':",
        "    follows 'z/c'",
        "  → follows 'a/c'",
      ],
    ],
    [
      'a revision',
      { a: {} },
      { a: { rev: '2' } },
      ["• Updated input 'a':", `    ${ref('1')}`, `  → ${ref('2')}`],
    ],
    [
      'a tag and a count of commits',
      { a: { tag: 'v1.3.0', revCount: 5 } },
      { a: { rev: '2', tag: 'v1.4.1', revCount: 17 } },
      ["• Updated input 'a':", `    ${ref('1')}`, `  → ${ref('2')}`, '    tag v1.3.0 → v1.4.1, +12 commits'],
    ],
    [
      'a tag of a new input',
      {},
      { a: { tag: 'v1.3.0' } },
      ["• Added input 'a':", `    ${ref('1')}`, '    tag v1.3.0'],
    ],
    [
      'going back',
      { a: { tag: 'v1.3.0', revCount: 5 } },
      { a: { rev: '2', revCount: 4 } },
      ["• Updated input 'a':", `    ${ref('1')}`, `  → ${ref('2')}`, '    tag v1.3.0 → none, −1 commit'],
    ],
  ])('%s', (_, was, now, lines) => {
    expect(list(was, now)).toBe(lines.map((line) => `${line}\n`).join(''));
  });

  it('counts commits within one repository only', () => {
    const text = list({ a: { revCount: 5 } }, { a: { revCount: 9, url: 'https://h/y' } });
    expect(text).not.toContain('commits');
  });

  it('is in the order of paths, whatever happened to them', () => {
    const changes = lockChanges(lockOf({ b: {}, d: {} }), lockOf({ a: {}, b: { rev: '2' }, 'b-c': {} }));
    expect(changes.map(({ kind, input }) => `${kind} ${input.join('/')}`)).toEqual([
      'added a',
      'updated b',
      'added b-c',
      'removed d',
    ]);
  });

  it('of a first lock is everything', () => {
    expect(lockChanges(emptyLock, lockOf({ a: {} }))).toHaveLength(1);
  });

  it('survives a date that no calendar has', () => {
    const lock = lockOf({ a: {} });
    const node = lock.nodes.get('root-a')!;
    const far = { ...node, locked: { ...node.locked!, lastModified: Number.MAX_SAFE_INTEGER } };
    const text = printChanges(
      lockChanges(emptyLock, { ...lock, nodes: new Map([...lock.nodes, ['root-a', far]]) }),
    );
    expect(text).toContain('9007199254740991 s');
  });
});
