import { describe, expect, it } from 'vitest';
import { comparePaths, LockGraph, startsWith, type TreeEntry } from '../../../src/flake/graph.ts';
import type { LockEdge, LockFile, LockNode } from '../../../src/flake/lock-file.ts';
import { thrownBy } from '../../support/errors.ts';

/** `{ root: { a: 'n', b: ['a', 'c'] }, n: {} }`: a text is a node's key, a list what is followed. */
function graph(nodes: Record<string, Record<string, string | string[]>>): LockGraph {
  const lock: LockFile = {
    root: 'root',
    nodes: new Map(
      Object.entries(nodes).map(([key, inputs]): [string, LockNode] => [
        key,
        {
          flake: true,
          inputs: new Map(
            Object.entries(inputs).map(([name, to]): [string, LockEdge] => [
              name,
              typeof to === 'string' ? { kind: 'node', key: to } : { kind: 'follows', path: to },
            ]),
          ),
        },
      ]),
    ),
  };
  return new LockGraph(lock);
}

describe('a path', () => {
  const diamond = graph({
    root: { a: 'A', b: 'B', z: ['a'], y: ['z', 'c'], x: ['y', 'd'], r: [] },
    A: { c: ['b'], self: ['a'] },
    B: { d: 'D' },
    D: {},
  });

  it.each([
    [[], 'root'],
    [['a'], 'A'],
    [['z'], 'A'],
    [['y'], 'B'],
    [['x'], 'D'],
    [['z', 'c', 'd'], 'D'],
    [['a', 'self', 'self', 'c'], 'B'],
    [['r', 'r', 'b'], 'B'],
  ])('%j leads to %s', (path, key) => {
    expect(diamond.find(path)).toBe(key);
  });

  it('that does not exist is named, with the nearest', () => {
    expect(thrownBy(() => diamond.find(['b', 'dd']))).toMatchObject({
      code: 'FLK_INPUT_UNKNOWN',
      message: 'there is no input ‘b/dd’',
      hint: 'did you mean b/d?',
    });
  });

  it('may be walked over thousands of shared steps without asking twice', () => {
    // Each level is reached by two follows of the one before: 2^60 ways.
    const inputs: Record<string, string | string[]> = { f0: 'N' };
    for (let i = 1; i < 60; i++) inputs[`f${i}`] = [`f${i - 1}`, 'back', `f${i - 1}`];
    expect(graph({ root: inputs, N: { back: [] } }).find(['f59'])).toBe('N');
  });
});

describe('follows', () => {
  it.each<[string, Record<string, Record<string, string | string[]>>, string]>([
    ['itself', { root: { a: ['a'] } }, 'a → a'],
    ['what is below itself', { root: { a: ['a', 'b'] } }, 'a → a'],
    ['one that follows it', { root: { a: ['b'], b: ['a'] } }, 'a → b → a'],
    ['through a node', { root: { n: 'N', a: ['n', 'x'] }, N: { x: ['a'] } }, 'a → n/x → a'],
  ])('in a circle is told in full: %s', (_, nodes, circle) => {
    const error = thrownBy(() => graph(nodes).check());
    expect(error.code).toBe('FLK_FOLLOWS_CYCLE');
    expect(error.message).toContain(circle);
  });

  it('to nothing names who follows what, through whom', () => {
    const error = thrownBy(() => graph({ root: { a: ['b'], b: ['gone'] } }).check());
    expect(error).toMatchObject({
      code: 'FLK_FOLLOWS_MISSING',
      message: 'input ‘b’ follows ‘gone’, which does not exist',
      trail: ['a', 'b'],
    });
  });

  it('in a chain without end is a limit, not a stack overflow', () => {
    const inputs: Record<string, string[]> = {};
    for (let i = 0; i < 20_000; i++) inputs[`n${i}`] = [`n${i + 1}`];
    expect(thrownBy(() => graph({ root: inputs }).find(['n0'])).code).toBe('FLK_GRAPH_LIMIT');
  });
});

describe('the tree', () => {
  it('is sorted by bytes and shows the inputs of a shared node once', () => {
    const draw = (entries: readonly TreeEntry[]): string[] =>
      entries.flatMap(({ path, edge, children }) => [
        `${path.join('/')}${edge.kind === 'follows' ? ` → ${edge.path.join('/')}` : ''}`,
        ...draw(children),
      ]);
    const shared = graph({ root: { b: 'S', a: 'S', B: ['a', 'x'] }, S: { x: 'X' }, X: {} });
    expect(draw(shared.tree())).toEqual(['B → a/x', 'a', 'a/x', 'b']);
    expect(shared.inputs().map(({ path }) => path.join('/'))).toEqual(['B', 'a', 'a/x', 'b']);
  });
});

describe('paths', () => {
  it('compare name by name', () => {
    const paths = [['a', 'b'], ['a-b'], ['a'], ['B'], ['a', 'B']];
    expect(paths.sort(comparePaths)).toEqual([['B'], ['a'], ['a', 'B'], ['a', 'b'], ['a-b']]);
  });

  it('start with themselves and what is above them', () => {
    expect(startsWith(['a', 'b'], [])).toBe(true);
    expect(startsWith(['a', 'b'], ['a', 'b'])).toBe(true);
    expect(startsWith(['a'], ['a', 'b'])).toBe(false);
    expect(startsWith(['ab'], ['a'])).toBe(false);
  });
});
