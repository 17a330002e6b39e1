import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { type FlakeRef, parseFlakeRef } from '../../../src/flake/flake-ref.ts';
import { LockGraph } from '../../../src/flake/graph.ts';
import { checkLock } from '../../../src/flake/lock-check.ts';
import { type LockFile, parseLockFile, printLockFile } from '../../../src/flake/lock-file.ts';
import { type LockOptions, lock } from '../../../src/flake/locker.ts';
import { errorOf } from '../../support/errors.ts';
import {
  type FakeInputs,
  FakeSource,
  fakeFile,
  fakeManifest,
  flakeYaml,
  readFakeManifest,
} from '../../support/fake-source.ts';

const url = (name: string) => `https://h/${name}`;
const git = (name: string, query = '') => `git+https://h/${name}${query}`;

/** A root flake over a fake source; locks again and again as a person does. */
const pathOf = (ref: FlakeRef): string => (ref.type === 'path' ? ref.path : ref.type);

class Bench {
  readonly source: FakeSource;
  lock: LockFile | undefined;
  inputs: FakeInputs = {};
  files: Record<string, string> = {};
  readonly events: Event[] = [];

  constructor(source = new FakeSource()) {
    this.source = source;
  }

  /** A repository that is a flake with these inputs. */
  flake(name: string, inputs: FakeInputs = {}, extra: Record<string, string> = {}, tags: string[] = []) {
    return this.source.commit(url(name), { ...flakeYaml(inputs), ...extra }, { tags });
  }

  get manifest() {
    return readFakeManifest({ path: 'flake.yaml', text: flakeYaml(this.inputs)['flake.yaml'] ?? '' });
  }

  async run(options: Partial<LockOptions> = {}): Promise<Record<string, string>> {
    this.source.requests.length = 0;
    const made = await lock({
      manifest: this.manifest,
      previous: this.lock,
      source: this.source,
      readManifest: readFakeManifest,
      readRelative: async (path) => fakeFile(this.files, path),
      reporter: { emit: (event) => this.events.push(event) },
      ...options,
    });
    // What the next run reads is what a file would hold.
    this.lock = parseLockFile({ path: 'flake.lock', text: printLockFile(made) });
    return this.pins();
  }

  /** Path → `name@COUNT` for the COUNT-th commit of a repository, `→target` for follows, or a relative path. */
  pins(): Record<string, string> {
    const graph = new LockGraph(this.lock!);
    return Object.fromEntries(
      graph.inputs().map(({ path, edge }) => {
        if (edge.kind === 'follows') return [path.join('/'), `→${edge.path.join('/')}`];
        const locked = graph.node(edge.key).locked!;
        return [
          path.join('/'),
          locked.type === 'git'
            ? `${locked.url.slice('https://h/'.length)}@${locked.revCount}`
            : pathOf(locked),
        ];
      }),
    );
  }

  async reasons(options: { overrides?: LockOptions['overrides'] } = {}) {
    this.source.requests.length = 0;
    const reasons = await checkLock({
      manifest: this.manifest,
      previous: this.lock,
      readManifest: readFakeManifest,
      readRelative: async (path) => fakeFile(this.files, path),
      ...(options.overrides && { overrides: options.overrides }),
      reporter: { emit: (event) => this.events.push(event) },
    });
    expect(this.source.requests).toEqual([]);
    return reasons.map(({ input, kind }) => `${input.join('/')} ${kind}`);
  }
}

/** a → b → c, and d. */
function chain(): Bench {
  const bench = new Bench();
  bench.flake('c');
  bench.flake('d');
  bench.flake('b', { c: git('c') });
  bench.flake('a', { b: git('b') });
  bench.inputs = { a: git('a'), d: git('d') };
  return bench;
}

describe('a first lock', () => {
  it('holds the whole graph', async () => {
    expect(await chain().run()).toEqual({ a: 'a@1', 'a/b': 'b@1', 'a/b/c': 'c@1', d: 'd@1' });
  });

  it('is empty for a flake without inputs', async () => {
    const bench = new Bench();
    expect(await bench.run()).toEqual({});
    expect(printLockFile(bench.lock!)).toBe(
      '{\n  "nodes": {\n    "root": {}\n  },\n  "root": "root",\n  "version": 7\n}\n',
    );
  });

  it('fetches a reference once, however many inputs share it', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c') });
    bench.flake('b', { c: git('c'), d: git('c') });
    bench.inputs = { a: git('a'), b: git('b'), c: git('c') };
    await bench.run();
    expect(bench.source.requests.toSorted()).toEqual(
      ['a', 'b', 'c'].map((name) => `fetch ${url(name)} HEAD`),
    );
    expect([...bench.lock!.nodes.keys()].sort()).toEqual(['a', 'b', 'c', 'c_2', 'c_3', 'd', 'root']);
  });

  it('numbers nodes of one name depth first, in the order of names', async () => {
    const bench = chain();
    bench.inputs = { c: git('d'), b: git('c'), a: git('b') };
    await bench.run();
    const keyed = [...bench.lock!.nodes].map(
      ([key, { locked }]) => `${key} ${locked?.type === 'git' ? locked.url : ''}`,
    );
    expect(keyed.sort()).toEqual([
      `a ${url('b')}`,
      `b ${url('c')}`,
      `c ${url('c')}`,
      `c_2 ${url('d')}`,
      'root ',
    ]);
  });

  it('reads no manifest where only files are wanted', async () => {
    const bench = new Bench();
    bench.source.commit(url('x'), { README: '' });
    bench.inputs = { x: { url: git('x'), flake: false } };
    expect(await bench.run()).toEqual({ x: 'x@1' });
    expect(bench.lock!.nodes.get('x')?.flake).toBe(false);
  });

  it('honours the lock that a dependency brings', async () => {
    const bench = new Bench();
    bench.flake('c');
    const inner = new Bench(bench.source);
    inner.inputs = { c: git('c') };
    await inner.run();
    bench.flake('c', {}, { new: '' });
    bench.flake('b', inner.inputs, { 'flake.lock': printLockFile(inner.lock!) });
    bench.inputs = { b: git('b'), c: git('c') };
    expect(await bench.run()).toEqual({ b: 'b@1', 'b/c': 'c@1', c: 'c@2' });
  });

  it('leaves out what a dependency needs for itself alone', async () => {
    const bench = new Bench();
    bench.flake('tool');
    bench.flake('b', { tool: { url: git('tool'), groups: ['dev'] } });
    bench.inputs = { b: git('b'), tool: { url: git('tool'), groups: ['dev'] } };
    expect(await bench.run()).toEqual({ b: 'b@1', tool: 'tool@1' });
  });

  it('finds the flake in a folder of a repository', async () => {
    const bench = new Bench();
    bench.flake('c');
    const sub = flakeYaml({ c: git('c') })['flake.yaml']!;
    bench.source.commit(url('mono'), { 'sub/dir/flake.yaml': sub });
    bench.inputs = { m: git('mono', '?dir=sub/dir') };
    expect(await bench.run()).toEqual({ m: 'mono@1', 'm/c': 'c@1' });
    expect(bench.lock!.nodes.get('m')?.locked).toMatchObject({ dir: 'sub/dir' });
  });
});

describe('a lock that fits', () => {
  it('stays as it is, without one request', async () => {
    const bench = chain();
    const first = await bench.run();
    bench.flake('a', {}, { new: '' });
    bench.flake('c', {}, { new: '' });
    expect(await bench.reasons()).toEqual([]);
    expect(await bench.run()).toEqual(first);
    expect(bench.source.requests).toEqual([]);
  });

  it('takes in a new input and lets go of one that is gone', async () => {
    const bench = chain();
    await bench.run();
    bench.flake('e');
    bench.inputs = { a: git('a'), e: git('e') };
    expect(await bench.reasons()).toEqual(['d removed', 'e added']);
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': 'b@1', 'a/b/c': 'c@1', e: 'e@1' });
    expect(bench.source.requests).toEqual([`fetch ${url('e')} HEAD`]);
  });

  it('fetches what is declared anew, and keeps the pins below that still fit', async () => {
    const bench = chain();
    await bench.run();
    bench.source.commit(url('a'), { ...flakeYaml({ b: git('b'), d: git('d') }) }, { branch: 'next' });
    bench.flake('b', { c: git('c') }, { new: '' });
    bench.flake('d', {}, { new: '' });
    bench.inputs = { a: git('a', '?ref=next'), d: git('d') };
    expect(await bench.reasons()).toEqual(['a reference']);
    expect(await bench.run()).toEqual({ a: 'a@2', 'a/b': 'b@1', 'a/b/c': 'c@1', 'a/d': 'd@2', d: 'd@1' });
  });

  it('is read again where flake: false came or went', async () => {
    const bench = chain();
    await bench.run();
    bench.inputs = { a: { url: git('a'), flake: false }, d: git('d') };
    expect(await bench.reasons()).toEqual(['a flake', 'a/b removed']);
    expect(await bench.run()).toEqual({ a: 'a@1', d: 'd@1' });
    bench.flake('a', {}, { new: '' });
    bench.inputs = { a: git('a'), d: git('d') };
    expect(await bench.reasons()).toEqual(['a unread', 'a flake']);
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': 'b@1', 'a/b/c': 'c@1', d: 'd@1' });
  });
});

describe('follows and overrides', () => {
  it('let a nested input follow one of the root', async () => {
    const bench = chain();
    bench.inputs = {
      a: { url: git('a'), inputs: { b: { inputs: { c: { follows: 'd' } } } } },
      d: git('d'),
    };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': 'b@1', 'a/b/c': '→d', d: 'd@1' });
    expect(bench.source.requests).not.toContain(`fetch ${url('c')} HEAD`);
    expect(await bench.reasons()).toEqual([]);
  });

  it('make a dependency’s own follows absolute', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('b', { c: git('c') });
    bench.flake('a', {
      b: { url: git('b'), inputs: { c: { follows: 'c' } } },
      c: git('c'),
      same: { follows: 'b/c' },
      self: { follows: '' },
    });
    bench.inputs = { a: git('a') };
    const wanted = {
      a: 'a@1',
      'a/b': 'b@1',
      'a/b/c': '→a/c',
      'a/c': 'c@1',
      'a/same': '→a/b/c',
      'a/self': '→a',
    };
    expect(await bench.run()).toEqual(wanted);
    expect(await bench.reasons()).toEqual([]);
    const outer = new Bench(bench.source);
    bench.flake('r', bench.inputs, { 'flake.lock': printLockFile(bench.lock!) });
    outer.inputs = { r: git('r') };
    await outer.run();
    expect(outer.pins()).toMatchObject({ 'r/a/b/c': '→r/a/c', 'r/a/self': '→r/a' });
  });

  it('added later cost no request where the lock knows the input', async () => {
    const bench = chain();
    await bench.run();
    bench.inputs = { a: { url: git('a'), inputs: { b: { follows: 'd' } } }, d: git('d') };
    expect(await bench.reasons()).toEqual(['a/b follows']);
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': '→d', d: 'd@1' });
    expect(bench.source.requests).toEqual([]);
  });

  it('that are gone make the flakes on the way be read again, at their pins', async () => {
    const bench = chain();
    bench.inputs = { a: { url: git('a'), inputs: { b: { inputs: { c: { follows: 'd' } } } } }, d: git('d') };
    await bench.run();
    bench.flake('a', {}, { new: '' });
    bench.inputs = { a: git('a'), d: git('d') };
    expect(await bench.reasons()).toEqual(['a unread']);
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': 'b@1', 'a/b/c': 'c@1', d: 'd@1' });
    expect(bench.source.requests).toHaveLength(3);
  });

  it('take another reference, the outermost one', async () => {
    const bench = chain();
    bench.flake('c2');
    bench.flake('c3');
    bench.flake('a', { b: { url: git('b'), inputs: { c: { url: git('c2') } } } });
    expect(await bench.run()).toMatchObject({ 'a/b/c': 'c2@1' });
    bench.inputs = {
      a: { url: git('a'), inputs: { b: { inputs: { c: { url: git('c3') } } } } },
      d: git('d'),
    };
    expect(await bench.reasons()).toEqual(['a/b/c reference']);
    expect(await bench.run()).toMatchObject({ 'a/b/c': 'c3@1' });
    expect(bench.source.requests).toEqual([`fetch ${url('c3')} HEAD`]);
  });

  it('leave an overridden input as it is: a flake, or files', async () => {
    const bench = new Bench();
    bench.source.commit(url('files'), {});
    bench.source.commit(url('others'), {});
    bench.flake('a', { x: { url: git('files'), flake: false } });
    bench.inputs = { a: { url: git('a'), inputs: { x: { url: git('others') } } } };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/x': 'others@1' });
  });

  it('find a path through an input that follows', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c') });
    bench.inputs = { a: git('a'), z: { follows: 'a' }, y: { follows: 'z/c' } };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/c': 'c@1', y: '→z/c', z: '→a' });
  });

  it('that match nothing are told, once, in order', async () => {
    const bench = chain();
    bench.inputs = {
      d: { url: git('d'), inputs: { z: { follows: 'a' }, y: { url: git('d') } } },
      a: { url: git('a'), inputs: { b: { inputs: { nope: { follows: 'd' } } } } },
    };
    await bench.run({ overrides: new Map([['gone', parseFlakeRef(git('d'))]]) });
    expect(bench.events.flatMap((event) => (event.kind === 'notice' ? [event.notice] : []))).toEqual(
      ['a/b/nope', 'd/y', 'd/z', 'gone'].map((input) => ({ type: 'unused-override', input })),
    );
  });

  it('that lead nowhere are an error that names the nearest input', async () => {
    const bench = chain();
    bench.inputs = { a: git('a'), x: { follows: 'a/bb' } };
    const error = await errorOf(bench.run());
    expect(error).toMatchObject({ code: 'FLK_FOLLOWS_MISSING', hint: 'did you mean a/b?' });
    expect(error.trail.at(-1)).toBe('x');
    expect(error.message).toBe('input ‘x’ follows ‘a/bb’, which does not exist');
  });

  it('that go in a circle are an error that names all of it', async () => {
    const bench = new Bench();
    bench.inputs = { a: { follows: 'b' }, b: { follows: 'c' }, c: { follows: 'a' } };
    const error = await errorOf(bench.run());
    expect(error.code).toBe('FLK_FOLLOWS_CYCLE');
    expect(error.message).toContain('a → b → c → a');
  });

  it('that go through themselves are a circle too', async () => {
    const bench = new Bench();
    bench.inputs = { a: { follows: 'a/b' } };
    expect((await errorOf(bench.run())).message).toContain('a → a');
  });
});

describe('--override-input', () => {
  const overrides = (path: string, ref: string) => ({ overrides: new Map([[path, parseFlakeRef(ref)]]) });

  it('pins another reference and keeps the declared one as original, so that it lasts', async () => {
    const bench = chain();
    bench.flake('fork', { c: git('c') });
    expect(await bench.run(overrides('a/b', git('fork')))).toEqual({
      a: 'a@1',
      'a/b': 'fork@1',
      'a/b/c': 'c@1',
      d: 'd@1',
    });
    expect(bench.lock!.nodes.get('b')?.original).toMatchObject({ url: url('b') });
    expect(await bench.run()).toMatchObject({ 'a/b': 'fork@1' });
    expect(bench.source.requests).toEqual([]);
  });

  it('of what follows reads the flake around it, which knows whether files are wanted', async () => {
    const bench = new Bench();
    bench.source.commit(url('files'), {});
    bench.source.commit(url('others'), {});
    bench.flake('a', { x: { url: git('files'), flake: false } });
    bench.inputs = {
      a: { url: git('a'), inputs: { x: { follows: 'f' } } },
      f: { url: git('files'), flake: false },
    };
    await bench.run();
    expect(await bench.run(overrides('a/x', git('others')))).toMatchObject({ 'a/x': 'others@1' });
  });
});

describe('an update', () => {
  const moved = () => {
    const bench = chain();
    return {
      bench,
      move: () => {
        for (const name of ['c', 'd']) bench.flake(name, {}, { new: '' });
        bench.flake('b', { c: git('c') }, { new: '' });
        bench.flake('a', { b: git('b') }, { new: '' });
      },
    };
  };

  it('of all moves all', async () => {
    const { bench, move } = moved();
    await bench.run();
    move();
    expect(await bench.run({ update: 'all' })).toEqual({ a: 'a@2', 'a/b': 'b@2', 'a/b/c': 'c@2', d: 'd@2' });
  });

  it('of all leaves what is frozen, unless it is named', async () => {
    const { bench, move } = moved();
    bench.inputs = { ...bench.inputs, d: { url: git('d'), frozen: true } };
    await bench.run();
    move();
    expect(await bench.run({ update: 'all' })).toMatchObject({ a: 'a@2', d: 'd@1' });
    expect(await bench.run({ update: [['d']] })).toMatchObject({ d: 'd@2' });
  });

  it('of one moves that one alone', async () => {
    const { bench, move } = moved();
    await bench.run();
    move();
    expect(await bench.run({ update: [['a']] })).toEqual({
      a: 'a@2',
      'a/b': 'b@1',
      'a/b/c': 'c@1',
      d: 'd@1',
    });
    expect(bench.source.requests).toEqual([`fetch ${url('a')} HEAD`]);
  });

  it('of one, deep, moves what is below', async () => {
    const { bench, move } = moved();
    await bench.run();
    move();
    expect(await bench.run({ update: [['a']], deep: true })).toEqual({
      a: 'a@2',
      'a/b': 'b@2',
      'a/b/c': 'c@2',
      d: 'd@1',
    });
  });

  it('of a nested input moves that one, at the pins around it', async () => {
    const { bench, move } = moved();
    await bench.run();
    move();
    expect(await bench.run({ update: [['a', 'b', 'c']] })).toEqual({
      a: 'a@1',
      'a/b': 'b@1',
      'a/b/c': 'c@2',
      d: 'd@1',
    });
  });

  it('takes what the flake’s own lock has moved, and keeps what was moved by hand', async () => {
    const bench = new Bench();
    for (const name of ['x', 'y']) for (const n of ['1', '2', '3']) bench.flake(name, {}, { n });
    const inner = new Bench(bench.source);
    const pinned = async (x: number, y: number) => {
      const revs = ['x', 'y'].map((name, i) => {
        const count = [x, y][i]!;
        return [name, bench.flake(name, {}, { n: `pin ${count}` })] as const;
      });
      inner.inputs = { x: git('x'), y: git('y') };
      inner.lock = undefined;
      await inner.run();
      return { revs, text: printLockFile(inner.lock!) };
    };
    const first = await pinned(1, 1);
    bench.flake('a', inner.inputs, { 'flake.lock': first.text });
    bench.inputs = { a: git('a') };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/x': 'x@4', 'a/y': 'y@4' });
    // By hand: y goes to what is newest. Then a's author moves x, and leaves y.
    bench.flake('y', {}, { n: 'newest' });
    expect(await bench.run({ update: [['a', 'y']] })).toEqual({ a: 'a@1', 'a/x': 'x@4', 'a/y': 'y@5' });
    bench.flake('x', {}, { n: 'newer' });
    await inner.run({ update: [['x']] });
    bench.flake('a', inner.inputs, { 'flake.lock': printLockFile(inner.lock!) });
    expect(await bench.run({ update: [['a']] })).toEqual({ a: 'a@2', 'a/x': 'x@5', 'a/y': 'y@5' });
  });

  it.each([
    [['nope'], 'there is no input ‘nope’ to update'],
    [['a', 'c'], 'there is no input ‘a/c’ to update'],
  ])('of %j, which there is not, is an error', async (path, message) => {
    const { bench } = moved();
    const error = await errorOf(bench.run({ update: [path] }));
    expect(error).toMatchObject({ code: 'FLK_INPUT_UNKNOWN', message });
  });

  it('of what follows points to what it follows', async () => {
    const bench = chain();
    bench.inputs = { ...bench.inputs, x: { follows: 'a/b' } };
    expect(await errorOf(bench.run({ update: [['x']] }))).toMatchObject({
      code: 'FLK_INPUT_UNKNOWN',
      hint: 'flk update a/b',
    });
  });
});

describe('a range over tags', () => {
  const tagged = () => {
    const bench = new Bench();
    for (const version of ['v1.2.0', 'v1.3.0', 'v2.0.0']) bench.flake('lib', {}, { version }, [version]);
    bench.inputs = { lib: { url: git('lib'), version: '^1.2' } };
    return bench;
  };

  it('is locked to the highest tag, and says so', async () => {
    const bench = tagged();
    expect(await bench.run()).toEqual({ lib: 'lib@2' });
    expect(bench.lock!.nodes.get('lib')).toMatchObject({
      original: { type: 'git', url: url('lib') },
      locked: { ref: 'refs/tags/v1.3.0' },
      flk: { version: '^1.2', tag: 'v1.3.0' },
    });
    expect(bench.source.requests).toHaveLength(2);
  });

  it('stays until it is updated', async () => {
    const bench = tagged();
    await bench.run();
    bench.flake('lib', {}, {}, ['v1.4.1']);
    expect(await bench.reasons()).toEqual([]);
    expect(await bench.run()).toEqual({ lib: 'lib@2' });
    expect(await bench.run({ update: [['lib']] })).toEqual({ lib: 'lib@4' });
  });

  it('may change while the tag fits: only the lock’s words change', async () => {
    const bench = tagged();
    await bench.run();
    bench.inputs = { lib: { url: git('lib'), version: '>=1.3' } };
    expect(await bench.reasons()).toEqual(['lib version']);
    expect(await bench.run()).toEqual({ lib: 'lib@2' });
    expect(bench.source.requests).toEqual([]);
    expect(bench.lock!.nodes.get('lib')?.flk).toEqual({ version: '>=1.3', tag: 'v1.3.0' });
  });

  it.each([
    [{ version: '^2' }, 'lib@3'],
    [{}, 'lib@3'],
  ])('that becomes %j moves', async (change, pin) => {
    const bench = tagged();
    await bench.run();
    bench.inputs = { lib: { url: git('lib'), ...change } };
    expect(await bench.reasons()).toEqual(['lib version']);
    expect(await bench.run()).toEqual({ lib: pin });
  });

  it('moves where the tags have another shape', async () => {
    const bench = tagged();
    await bench.run();
    bench.flake('lib', {}, {}, ['release-1.2.9']);
    bench.inputs = { lib: { url: git('lib'), version: '^1.2', tag: 'release-{version}' } };
    expect(await bench.reasons()).toEqual(['lib version']);
    expect(await bench.run()).toEqual({ lib: 'lib@4' });
  });

  it('is filled in again, offline, when another tool has dropped it', async () => {
    const bench = tagged();
    await bench.run();
    const whole = printLockFile(bench.lock!);
    const json = JSON.parse(whole) as { nodes: { lib: { flk?: unknown } } };
    delete json.nodes.lib.flk;
    bench.lock = parseLockFile({ path: 'flake.lock', text: JSON.stringify(json) });
    expect(await bench.reasons()).toEqual(['lib version']);
    await bench.run();
    expect(bench.source.requests).toEqual([]);
    expect(printLockFile(bench.lock!)).toBe(whole);
  });

  it('is kept with a dependency’s lock, and below a pin that is kept', async () => {
    const bench = tagged();
    bench.flake('a', bench.inputs);
    const root = new Bench(bench.source);
    root.inputs = { a: git('a') };
    expect(await root.run()).toEqual({ a: 'a@1', 'a/lib': 'lib@2' });
    expect(await root.reasons()).toEqual([]);
    await root.run();
    expect(root.lock!.nodes.get('lib')?.flk).toEqual({ version: '^1.2', tag: 'v1.3.0' });
  });

  it('that no tag satisfies lists the nearest', async () => {
    const bench = tagged();
    bench.inputs = { lib: { url: git('lib'), version: '^1.9' } };
    const error = await errorOf(bench.run());
    expect(error.code).toBe('FLK_VERSION_UNSATISFIED');
    expect(error.message).toContain('v2.0.0, v1.3.0, v1.2.0');
    expect(error.trail).toEqual(['flake.yaml:1:12', 'lib']);
  });

  it('over a path is an error', async () => {
    const bench = new Bench();
    bench.inputs = { lib: { url: 'path:/x', version: '^1' } };
    expect((await errorOf(bench.run())).code).toBe('FLK_VERSION_UNSATISFIED');
  });
});

describe('relative inputs', () => {
  const withLib = () => {
    const bench = new Bench();
    bench.flake('c');
    bench.inputs = { lib: 'path:./lib' };
    bench.files = {
      'lib/flake.yaml': flakeYaml({ c: git('c'), data: { url: 'path:../data', flake: false } })[
        'flake.yaml'
      ]!,
    };
    return bench;
  };

  it('carry their parent and no hash', async () => {
    const bench = withLib();
    expect(await bench.run()).toEqual({ lib: './lib', 'lib/c': 'c@1', 'lib/data': '../data' });
    expect(bench.lock!.nodes.get('lib')).toMatchObject({
      locked: { type: 'path', path: './lib' },
      parent: [],
    });
    expect(bench.lock!.nodes.get('data')).toMatchObject({ parent: ['lib'], flake: false });
  });

  it('are read again each time, and their inputs keep their pins', async () => {
    const bench = withLib();
    await bench.run();
    bench.flake('c', {}, { new: '' });
    bench.flake('e');
    expect(await bench.reasons()).toEqual([]);
    bench.files = { 'lib/flake.yaml': flakeYaml({ c: git('c'), e: git('e') })['flake.yaml']! };
    expect(await bench.reasons()).toEqual(['lib/data removed', 'lib/e added']);
    expect(await bench.run()).toEqual({ lib: './lib', 'lib/c': 'c@1', 'lib/e': 'e@1' });
  });

  it('stand in the folder of the flake, which may be below the tree’s', async () => {
    const bench = withLib();
    bench.files = { 'deep/er/lib/flake.yaml': '{}' };
    expect(await bench.run({ rootDir: 'deep/er' })).toEqual({ lib: './lib' });
  });

  it('of a dependency stand in its tree, and stay below a kept pin', async () => {
    const bench = new Bench();
    bench.flake('c');
    const lib = flakeYaml({ c: git('c') })['flake.yaml']!;
    bench.source.commit(url('a'), {
      'x/flake.yaml': flakeYaml({ lib: 'path:../lib' })['flake.yaml']!,
      'lib/flake.yaml': lib,
    });
    bench.inputs = { a: git('a', '?dir=x') };
    const wanted = { a: 'a@1', 'a/lib': '../lib', 'a/lib/c': 'c@1' };
    expect(await bench.run()).toEqual(wanted);
    expect(bench.lock!.nodes.get('lib')?.parent).toEqual(['a']);
    expect(await bench.reasons()).toEqual([]);
    expect(await bench.run()).toEqual(wanted);
    expect(bench.source.requests).toEqual([]);
    bench.flake('c', {}, { new: '' });
    expect(await bench.run({ update: [['a', 'lib', 'c']] })).toEqual({ ...wanted, 'a/lib/c': 'c@2' });
  });

  it('of a dependency keep the pins of its lock', async () => {
    const bench = withLib();
    await bench.run();
    bench.source.commit(url('a'), {
      ...flakeYaml(bench.inputs),
      ...bench.files,
      'flake.lock': printLockFile(bench.lock!),
    });
    bench.flake('c', {}, { new: '' });
    const root = new Bench(bench.source);
    root.inputs = { a: git('a') };
    expect(await root.run()).toEqual({
      a: 'a@1',
      'a/lib': './lib',
      'a/lib/c': 'c@1',
      'a/lib/data': '../data',
    });
    expect(root.lock!.nodes.get('data')?.parent).toEqual(['a', 'lib']);
  });

  it('of an override stand in the folder of the flake that overrides', async () => {
    const bench = chain();
    bench.inputs = { a: { url: git('a'), inputs: { b: { url: 'path:./mine' } } } };
    bench.files = { 'mine/flake.yaml': flakeYaml({ d: git('d') })['flake.yaml']! };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': './mine', 'a/b/d': 'd@1' });
    expect(bench.lock!.nodes.get('b')?.parent).toEqual([]);
    expect(await bench.reasons()).toEqual([]);
    bench.inputs = { a: git('a') };
    expect(await bench.reasons()).toEqual(['a unread']);
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/b': 'b@1', 'a/b/c': 'c@1' });
  });

  it('of an override are other ones than those of the same words in the flake itself', async () => {
    const bench = chain();
    bench.source.commit(url('a'), {
      ...flakeYaml({ b: 'path:./mine' }),
      'mine/flake.yaml': flakeYaml({ c: git('c') })['flake.yaml']!,
    });
    bench.inputs = { a: git('a') };
    expect(await bench.run()).toEqual({ a: 'a@2', 'a/b': './mine', 'a/b/c': 'c@1' });
    bench.inputs = { a: { url: git('a'), inputs: { b: { url: 'path:./mine' } } } };
    bench.files = { 'mine/flake.yaml': flakeYaml({ d: git('d') })['flake.yaml']! };
    expect(await bench.reasons()).toEqual(['a/b reference']);
    expect(await bench.run()).toEqual({ a: 'a@2', 'a/b': './mine', 'a/b/d': 'd@1' });
    bench.inputs = { a: git('a') };
    expect(await bench.run()).toEqual({ a: 'a@2', 'a/b': './mine', 'a/b/c': 'c@1' });
  });

  it.each(['path:../x', 'path:./a/../../x', 'path:..'])('%s may not leave the tree', async (path) => {
    const bench = new Bench();
    bench.inputs = { x: path };
    expect(await errorOf(bench.run())).toMatchObject({ code: 'FLK_REF_INVALID' });
    bench.source.commit(url('a'), flakeYaml({ x: path }));
    bench.inputs = { a: git('a') };
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_REF_INVALID',
      trail: ['flake.yaml:1:12', 'a', 'a/x'],
    });
  });

  it('that are absolute are for flakes of this machine only', async () => {
    const bench = new Bench();
    bench.source.folder('/data', flakeYaml({}));
    bench.source.folder('/lib', flakeYaml({ data: 'path:/data' }));
    bench.inputs = { lib: 'path:/lib' };
    expect(await bench.run()).toEqual({ lib: '/lib', 'lib/data': '/data' });
    bench.flake('a', { data: 'path:/data' });
    bench.inputs = { a: git('a') };
    expect(await errorOf(bench.run())).toMatchObject({ code: 'FLK_REF_INVALID' });
  });
});

describe('what is wrong with a dependency', () => {
  it('is told with the way to it', async () => {
    const bench = chain();
    bench.source.commit(url('c'), { 'other.yaml': '' });
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_MANIFEST_MISSING',
      message: `there is no flake.yaml and no flake.nix in ${git('c')}`,
      hint: expect.stringContaining('flake: false'),
      trail: ['flake.yaml:1:12', 'a', 'a/b', 'a/b/c'],
    });
  });

  it('is not that it is a flake.nix; where there are both, flake.yaml counts', async () => {
    const bench = chain();
    bench.flake('d');
    bench.source.commit(url('c'), fakeManifest('flake.nix', { d: git('d') }));
    expect(Object.keys(await bench.run())).toContain('a/b/c/d');
    bench.lock = undefined;
    bench.source.commit(url('c'), { ...fakeManifest('flake.nix', { d: git('d') }), ...flakeYaml({}) });
    expect(Object.keys(await bench.run())).not.toContain('a/b/c/d');
  });

  it('may be its lock', async () => {
    const bench = chain();
    bench.flake('c', {}, { 'flake.lock': '<<<<<<< ours\n' });
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_LOCK_CONFLICT',
      message: expect.stringContaining(`${git('c')}/flake.lock:1`),
    });
  });

  it('may be that it leads back to itself', async () => {
    const bench = new Bench();
    bench.flake('a', { b: git('b') });
    bench.flake('b', { a: git('a') });
    bench.inputs = { x: git('a') };
    const error = await errorOf(bench.run());
    expect(error).toMatchObject({ code: 'FLK_INPUT_CYCLE', trail: ['flake.yaml:1:12', 'x', 'x/b', 'x/b/a'] });
    expect(error.message).toContain('x → x/b → x/b/a');
  });

  it('may be that it leads back to itself under another name', async () => {
    const bench = new Bench();
    bench.flake('a', { b: git('b') });
    bench.flake('b', { a: git('a', '?ref=refs/heads/main') });
    bench.inputs = { x: git('a', '?ref=refs/heads/main&dir='), y: git('b') };
    expect((await errorOf(bench.run())).code).toBe('FLK_INPUT_CYCLE');
  });

  it('may be a circle of relative paths', async () => {
    const bench = new Bench();
    bench.inputs = { lib: 'path:./lib' };
    bench.files = {
      'flake.yaml': flakeYaml(bench.inputs)['flake.yaml']!,
      'lib/flake.yaml': flakeYaml({ up: 'path:..' })['flake.yaml']!,
    };
    expect((await errorOf(bench.run())).message).toContain('this flake → lib → lib/up');
  });

  it('may be that it never ends', async () => {
    const bench = new Bench();
    for (let i = 0; i < 120; i++) bench.flake(`n${i}`, { n: git(`n${i + 1}`) });
    bench.inputs = { n: git('n0') };
    expect((await errorOf(bench.run())).code).toBe('FLK_GRAPH_LIMIT');
  });

  it('may be that it doubles at every step', async () => {
    const bench = new Bench();
    for (let i = 0; i < 40; i++) bench.flake(`n${i}`, { a: git(`n${i + 1}`), b: git(`n${i + 1}`) });
    bench.inputs = { n: git('n0') };
    expect((await errorOf(bench.run())).code).toBe('FLK_GRAPH_LIMIT');
  });

  it('is the first fault by name, whoever answers first', async () => {
    for (const slow of ['a', 'b']) {
      const source = new FakeSource(async (request) => {
        if (request.includes(url(slow))) await new Promise((resolve) => setTimeout(resolve, 5));
      });
      const bench = new Bench(source);
      bench.inputs = { b: git('b'), a: git('a') };
      expect((await errorOf(bench.run())).message).toContain(url('a'));
    }
  });
});

describe('a check', () => {
  it('of a flake without a lock names every input and its line', async () => {
    const bench = chain();
    const reasons = await checkLock({
      manifest: bench.manifest,
      previous: undefined,
      readManifest: readFakeManifest,
      readRelative: async () => undefined,
    });
    expect(reasons).toMatchObject([
      { input: ['a'], kind: 'added', command: 'flk lock', place: { file: { path: 'flake.yaml' } } },
      { input: ['d'], kind: 'added' },
    ]);
    expect(reasons[0]?.message).toBe('input ‘a’ is declared, but not locked');
  });

  it('tells the overrides of the command line that match nothing, when nothing else makes locking tell', async () => {
    const bench = chain();
    await bench.run();
    bench.events.length = 0;
    const overrides = new Map(['a/nope', 'gone'].map((path) => [path, parseFlakeRef(git('d'))]));
    expect(await bench.reasons({ overrides })).toEqual([]);
    expect(bench.events).toEqual(
      ['a/nope', 'gone'].map((input) => ({ kind: 'notice', notice: { type: 'unused-override', input } })),
    );
  });

  it('says what changed in an override', async () => {
    const bench = chain();
    bench.inputs = { a: { url: git('a'), inputs: { b: { follows: 'd' } } }, d: git('d') };
    await bench.run();
    bench.flake('e');
    bench.inputs = { a: { url: git('a'), inputs: { b: { follows: 'e' } } }, d: git('d'), e: git('d') };
    expect(await bench.reasons()).toEqual(['a/b follows', 'e added']);
  });

  it('throws what locking would, where it needs no network for it', async () => {
    const bench = new Bench();
    bench.inputs = { lib: 'path:./lib' };
    expect((await errorOf(bench.reasons())).code).toBe('FLK_MANIFEST_MISSING');
  });
});

describe('any graph', () => {
  /** Flakes 0…n-1; each may name later ones, and overrides and follows below them. */
  const graph = fc.integer({ min: 2, max: 8 }).chain((size) =>
    fc.array(
      fc.record({
        inputs: fc.array(fc.tuple(fc.constantFrom('p', 'q', 'r'), fc.nat({ max: size })), { maxLength: 3 }),
        follows: fc.option(fc.constantFrom('p', 'q', 'r'), { nil: undefined }),
        version: fc.boolean(),
      }),
      { minLength: size, maxLength: size },
    ),
  );

  it('is locked to the same bytes in whatever order answers come, and is current then', async () => {
    await fc.assert(
      fc.asyncProperty(graph, fc.infiniteStream(fc.nat({ max: 3 })), async (flakes, delays) => {
        const texts = await Promise.all(
          [true, false].map(async (shuffled) => {
            const source = new FakeSource(async () => {
              if (!shuffled) return;
              for (let left = delays.next().value ?? 0; left > 0; left--) await new Promise(setImmediate);
            });
            const bench = new Bench(source);
            for (const [index, { inputs, follows, version }] of flakes.entries()) {
              const declared: Record<string, object> = {};
              for (const [name, step] of inputs) {
                const target = index + 1 + step;
                if (target >= flakes.length) continue;
                declared[name] = {
                  url: git(`n${target}`),
                  ...(flakes[target]!.version && { version: '^1' }),
                };
              }
              // One of a flake's inputs may follow another; below them, one may be replaced.
              const names = Object.keys(declared);
              if (follows && names.length > 1 && names[0] !== follows && declared[follows])
                declared[names[0]!] = { follows };
              if (index === 0) bench.inputs = declared as FakeInputs;
              bench.flake(`n${index}`, declared as FakeInputs, {}, version ? ['v1.0.0', 'v1.2.0'] : []);
            }
            await bench.run({ maxConcurrency: shuffled ? 2 : 50 });
            expect(await bench.reasons()).toEqual([]);
            const text = printLockFile(bench.lock!);
            await bench.run();
            expect(bench.source.requests).toEqual([]);
            expect(printLockFile(bench.lock!)).toBe(text);
            return text;
          }),
        );
        expect(texts[0]).toBe(texts[1]);
      }),
      { numRuns: 200 },
    );
  });
});
