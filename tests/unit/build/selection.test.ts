import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Event, silent } from '../../../src/base/events.ts';
import { matcher } from '../../../src/build/patterns.ts';
import { type FlakeFolder, Selector, selectSource } from '../../../src/build/selection.ts';
import { SharedWalks } from '../../../src/build/shared-walks.ts';
import type { SelfSelection } from '../../../src/flake/manifest.ts';
import type { SourceTree } from '../../../src/flake/source.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { errorOf } from '../../support/errors.ts';
import { gitEnvironment } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, entriesOf, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

describe('patterns', () => {
  test.each<[string[], string, boolean, boolean | undefined]>([
    [['Makefile'], 'Makefile', false, true],
    [['Makefile'], 'sub/Makefile', false, true],
    [['/Makefile'], 'sub/Makefile', false, undefined],
    [['src/**'], 'src/a/b', false, true],
    [['src/**'], 'src', true, undefined],
    [['**/x'], 'x', false, true],
    [['a/**/z'], 'a/z', false, true],
    [['a/**/z'], 'a/b/c/z', false, true],
    [['*.c', '!main.c'], 'sub/main.c', false, false],
    [['build/'], 'build', false, undefined],
    [['build/'], 'deep/build', true, true],
    [['[a-c]?[!x]'], 'bzy', false, true],
    [['[a-c]?[!x]'], 'bzx', false, undefined],
    [['\\*'], '*', false, true],
    [['\\*'], 'a', false, undefined],
    [['./a'], 'a', false, true],
    [['./a'], 'b/a', false, undefined],
    [[''], 'a', false, undefined],
    [['**'], 'a/b', false, true],
    [['[abc'], 'a', false, undefined],
    [['caf?'], Buffer.from('caf\xe9', 'latin1').toString('latin1'), false, true],
  ])('%j on %s (folder: %s) says %s', (patterns, path, isFolder, wanted) => {
    expect(matcher(patterns)(path, isFolder)).toBe(wanted);
  });

  test('say what git says', () => {
    const folder = temporaryFolder();
    execFileSync('git', ['init', '-q'], { cwd: folder, env: gitEnvironment });
    const name = fc.string({ minLength: 1, maxLength: 3, unit: fc.constantFrom('a', 'b', 'c') });
    const path = fc.array(name, { minLength: 1, maxLength: 4 }).map((names) => names.join('/'));
    const word = fc.string({
      minLength: 1,
      maxLength: 4,
      unit: fc.constantFrom('a', 'b', '*', '?', '[ab]', '[!a]'),
    });
    const segment = fc.oneof(word, fc.constant('**'));
    const pattern = fc
      .record({
        lead: fc.constantFrom('', '/', '!'),
        segments: fc.array(segment, { minLength: 1, maxLength: 4 }),
        end: fc.constantFrom('', '/'),
      })
      .map(({ lead, segments, end }) => `${lead}${segments.join('/')}${end}`)
      // In a word of more, git takes two stars for one; so do we, but a folder named `**` is a thing of its own.
      .filter((text) => !/[^/!]\*\*|\*\*[^/]/.test(text));
    fc.assert(
      fc.property(
        fc.array(pattern, { minLength: 1, maxLength: 3 }),
        fc.array(path, { minLength: 20, maxLength: 20 }),
        (patterns, paths) => {
          writeFileSync(join(folder, '.git/info/exclude'), `${patterns.join('\n')}\n`);
          // A file by its plain path; parents first, as git leaves out whatever lies in what it leaves out.
          const { stdout } = spawnSync('git', ['check-ignore', '--no-index', '--stdin', '-z'], {
            cwd: folder,
            env: gitEnvironment,
            input: `${paths.join('\0')}\0`,
            encoding: 'utf8',
          });
          const ignored = new Set(stdout.split('\0'));
          const says = matcher(patterns);
          for (const at of paths) {
            const steps = at.split('/').map((_, index, all) => all.slice(0, index + 1).join('/'));
            const ours = steps.some((step) => says(step, step !== at) === true);
            expect({ patterns, at, ignored: ours }).toEqual({ patterns, at, ignored: ignored.has(at) });
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test('cost nothing extra when they are made to', () => {
    const says = matcher([`${'*a'.repeat(60)}b`, `${'**/a/'.repeat(60)}b`]);
    expect(says('a'.repeat(255), false)).toBeUndefined();
    expect(says('a/'.repeat(200).slice(0, -1), false)).toBeUndefined();
  });
});

async function source(node: Node): Promise<SourceTree> {
  const tree = treeFrom(node);
  return { ...tree, ...(await hashTree(tree)), readFile: async () => undefined };
}

const flake = directory({
  'flake.yaml': file('packages: {}\n'),
  'flake.lock': file('{}\n'),
  Makefile: file('all:\n'),
  src: directory({
    'main.c': file('int main;\n'),
    'main.o': file('o'),
    sub: directory({ 'x.c': file('x') }),
  }),
  link: symlink('src'),
  empty: directory(),
  sub: directory({ 'flake.yaml': file(''), data: file('1'), 'fix.patch': file('--- a\n') }),
});

const whole: SelfSelection = { kind: 'self', path: '', include: [], exclude: [] };

class Memo {
  readonly known = new Map<string, string>();
  readonly memo = (key: string) => this.known.get(key);
  readonly setMemo = (key: string, value: string) => void this.known.set(key, value);
}

async function select(selection: Partial<SelfSelection>, dir = '', memo = new Memo()) {
  const tree = await source(flake);
  return selectSource({ tree, dir }, { ...whole, ...selection }, { store: memo, reporter: silent });
}

async function taken(selection: Partial<SelfSelection>, dir = ''): Promise<string[]> {
  const { tree, narHash } = await select(selection, dir);
  expect((await hashTree(tree)).narHash).toBe(narHash);
  return entriesOf(tree);
}

describe('a selection', () => {
  test('of the whole leaves out the manifest, the lock and empty folders', async () => {
    expect(await taken({})).toEqual([
      'Makefile',
      'link@ -> src',
      'src/',
      'src/main.c',
      'src/main.o',
      'src/sub/',
      'src/sub/x.c',
      'sub/',
      'sub/data',
      'sub/fix.patch',
      'sub/flake.yaml',
    ]);
  });

  test('by include and exclude: exclude wins', async () => {
    expect(await taken({ include: ['src', 'link'], exclude: ['*.o'] })).toEqual([
      'link@ -> src',
      'src/',
      'src/main.c',
      'src/sub/',
      'src/sub/x.c',
    ]);
    expect(await taken({ include: ['src', '!src/sub'] })).toEqual(['src/', 'src/main.c', 'src/main.o']);
    expect(await taken({ include: ['/flake.yaml', 'Makefile'] })).toEqual(['Makefile', 'flake.yaml']);
    expect(await taken({ include: ['**'], exclude: ['flake.*', 'src/'] })).toEqual([
      'Makefile',
      'link@ -> src',
      'sub/',
      'sub/data',
      'sub/fix.patch',
    ]);
  });

  test('of a folder keeps all of it; patterns count from there', async () => {
    expect(await taken({ path: 'sub' })).toEqual(['data', 'fix.patch', 'flake.yaml']);
    expect(await taken({ path: 'src', include: ['/main.c'] })).toEqual(['main.c']);
  });

  test('in a flake below the top counts from the flake', async () => {
    expect(await taken({}, 'sub')).toEqual(['data', 'fix.patch']);
    expect(await taken({ path: 'sub' }, 'src')).toEqual(['x.c']);
  });

  test('has the name `source`; a file has its own', async () => {
    expect((await select({})).path).toMatch(/-source$/);
    expect((await select({ path: 'src' })).path).toMatch(/-source$/);
    const patch = await select({ path: 'sub/fix.patch' });
    expect(patch.path).toMatch(/-fix\.patch$/);
    expect(await taken({ path: 'sub/fix.patch' })).toEqual(['']);
  });

  test('is walked once for its hash, and not at all when it is remembered', async () => {
    const memo = new Memo();
    const first = await select({ include: ['src'] }, '', memo);
    const events: Event[] = [];
    const tree: SourceTree = { ...(await source(flake)), walk: () => expect.unreachable('it was walked') };
    const again = await selectSource(
      { tree, dir: '' },
      { ...whole, include: ['src'] },
      { store: memo, reporter: { emit: (event) => events.push(event) } },
    );
    expect(again.path).toBe(first.path);
    expect(events).toEqual([]);
    await select({ include: ['Makefile'] }, '', memo);
    await select({ exclude: ['Makefile'] }, '', memo);
    await select({ path: 'src' }, '', memo);
    await select({}, 'src', memo);
    // One note for each folder that is a flake.
    expect(memo.known.size).toBe(2);
    expect([...memo.known.values()].map((note) => (JSON.parse(note.slice(65)) as unknown[]).length)).toEqual([
      4, 1,
    ]);
  });

  test.each([
    ['one tree', undefined],
    ['a working tree, which can be entered anywhere', 'x'],
  ])('is told as one piece of work with all that are asked for with it, in %s', async (_what, stamp) => {
    const count = 200;
    const names = Array.from({ length: count }, (_, i) => `p${i}`);
    const whole = await source(
      directory({
        'flake.yaml': file(''),
        packages: directory({
          apart: directory(Object.fromEntries(names.map((name) => [name, directory({ a: file(name) })]))),
          shared: directory(Object.fromEntries(names.map((name) => [name, file('')]))),
        }),
      }),
    );
    const tree: FlakeFolder['tree'] =
      stamp === undefined
        ? whole
        : {
            ...whole,
            place: '/flake',
            hashed: async () => whole,
            stamp: () => stamp,
            walkAt: async (path, sink) => await new SharedWalks({ walk: whole.walk }).walk(path, sink),
          };
    const events: Event[] = [];
    const reporter = { emit: (event: Event) => void events.push(event) };
    const selector = new Selector({ tree, dir: '' }, { store: new Memo(), reporter });
    const select = (path: string, include: string[] = []) =>
      selector.select({ kind: 'self', path, include, exclude: [] });
    const apart = names.map((name) => select(`packages/apart/${name}`));
    const shared = names.map((name) => select('packages/shared', [name]));
    const broken = select('packages/none').catch(() => undefined);
    const paths = (await Promise.all([...apart, ...shared])).map(({ path }) => path);
    expect([new Set(paths).size, await broken]).toEqual([2 * count, undefined]);
    await turn();
    const starts = () => events.flatMap((event) => (event.kind === 'start' ? [event.activity] : []));
    expect(starts()).toEqual([{ type: 'hash', subject: './packages' }]);
    expect(events.map(({ kind }) => kind)).toEqual(['start', 'end']);
    // What is taken into the store afterwards is another piece of work, and not this one's.
    await hashTree((await apart[0]!).tree);
    await select('packages/apart/p1', ['a']);
    await turn();
    expect(starts().slice(1)).toEqual([{ type: 'hash', subject: './packages/apart/p1' }]);
  });

  test.each<[string, Partial<SelfSelection>]>([
    ['a path that is not there', { path: 'nowhere' }],
    ['a path through a link', { path: 'link/main.c' }],
    ['patterns that take nothing', { include: ['*.cpp'] }],
    ['an empty folder by patterns', { path: 'empty', include: ['x'] }],
  ])('refuses %s', async (_what, selection) => {
    expect((await errorOf(select(selection))).code).toBe('FLK_PACKAGE_INVALID');
  });
});
