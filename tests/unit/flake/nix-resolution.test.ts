/** Roots that are a flake.nix, on graphs in memory. That the rules are Nix's, `tests/engines/lock-nix.test.ts` shows beside it. */
import { describe, expect, it } from 'vitest';
import type { Notice } from '../../../src/base/events.ts';
import { parseFlakeRef, refToAttributes } from '../../../src/flake/flake-ref.ts';
import { LockGraph } from '../../../src/flake/graph.ts';
import { checkLock } from '../../../src/flake/lock-check.ts';
import { lockChanges, printChanges } from '../../../src/flake/lock-diff.ts';
import {
  type LockFile,
  parseLockFile,
  printLockFile,
  renumbered,
  unlockedInput,
} from '../../../src/flake/lock-file.ts';
import { isSameLock, type LockOptions, lock } from '../../../src/flake/locker.ts';
import type { Source } from '../../../src/flake/source.ts';
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
const git = (name: string) => `git+${url(name)}`;

class Bench {
  readonly source = new FakeSource();
  readonly notices: Notice[] = [];
  inputs: FakeInputs = {};
  /** Beside the root's manifest. */
  files: Record<string, string> = {};
  previous: LockFile | undefined;

  flake(name: string, inputs: FakeInputs = {}, extra: Record<string, string> = {}): void {
    this.source.commit(url(name), { ...fakeManifest('flake.nix', inputs), ...extra });
  }

  /** The lock that Nix's rules give a flake with these inputs, as a file. */
  async ownLock(inputs: FakeInputs, files: Record<string, string> = {}): Promise<Record<string, string>> {
    const made = await lock({
      manifest: readFakeManifest({
        path: 'flake.nix',
        text: fakeManifest('flake.nix', inputs)['flake.nix']!,
      }),
      source: this.source,
      readManifest: readFakeManifest,
      readRelative: async (path) => fakeFile(files, path),
    });
    return { 'flake.lock': printLockFile(made) };
  }

  get #common() {
    const text = fakeManifest('flake.nix', this.inputs)['flake.nix']!;
    this.notices.length = 0;
    this.source.requests.length = 0;
    return {
      manifest: readFakeManifest({ path: 'flake.nix', text }),
      previous: this.previous,
      readManifest: readFakeManifest,
      readRelative: async (path: string) => fakeFile(this.files, path),
      reporter: {
        emit: (event: { kind: string; notice?: Notice }) => {
          if (event.notice) this.notices.push(event.notice);
        },
      },
    };
  }

  /** Locks, keeps the lock, and gives path → `name@COUNT`, `→follows` or a relative path. */
  async run(options: Partial<LockOptions> = {}): Promise<Record<string, string>> {
    const made = await lock({ ...this.#common, source: this.source, ...options });
    this.previous = parseLockFile({ path: 'flake.lock', text: printLockFile(made) });
    const graph = new LockGraph(this.previous);
    return Object.fromEntries(
      graph.inputs().map(({ path, edge }) => {
        if (edge.kind === 'follows') return [path.join('/'), `→${edge.path.join('/')}`];
        const { url: at, path: relative, revCount } = refToAttributes(graph.node(edge.key).locked!);
        return [path.join('/'), at === undefined ? relative : `${String(at).slice(10)}@${revCount}`];
      }),
    ) as Record<string, string>;
  }

  /** `PATH KIND`; nothing is fetched but what `cached` has. */
  async check(
    options: { cached?: Pick<Source, 'fetch'>; overrides?: LockOptions['overrides'] } = {},
  ): Promise<string[]> {
    const { overrides, cached } = options;
    const reasons = await checkLock({
      ...this.#common,
      ...(overrides && { overrides }),
      ...(cached && { cached }),
    });
    return reasons.map(({ input, kind }) => `${input.join('/')} ${kind}`);
  }

  get node() {
    return (key: string) => this.previous!.nodes.get(key)!;
  }
}

describe('a pin of a flake.nix root', () => {
  it('stays when only flake: changes, as Nix looks at the reference alone', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c') });
    bench.inputs = { a: git('a') };
    await bench.run();
    bench.inputs = { a: { url: git('a'), flake: false } };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/c': 'c@1' });
    expect(bench.source.requests).toEqual([]);
    expect(bench.node('a').flake).toBe(true);
  });

  it('goes when its reference is written in another way', async () => {
    const bench = new Bench();
    bench.flake('a');
    bench.inputs = { a: git('a') };
    await bench.run();
    bench.flake('a');
    expect(await bench.run()).toEqual({ a: 'a@1' });
    bench.inputs = { a: `${git('a')}?ref=main` };
    expect(await bench.run()).toEqual({ a: 'a@2' });
  });

  it('is trusted for all that is below: a flake there is not read again for its follows', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('b', { c: git('c'), f: { follows: 'c' } });
    bench.flake('a', { b: git('b') });
    bench.inputs = { a: git('a') };
    await bench.run();
    await bench.run();
    expect(bench.source.requests).toEqual([]);
  });

  it('goes with everything below it when all is updated or the lock is made anew', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c') });
    bench.inputs = { a: git('a') };
    await bench.run();
    bench.flake('c');
    expect(await bench.run()).toMatchObject({ 'a/c': 'c@1' });
    expect(await bench.run({ update: 'all' })).toMatchObject({ 'a/c': 'c@2' });
    bench.flake('c');
    expect(await bench.run({ recreate: true })).toMatchObject({ 'a/c': 'c@3' });
  });

  it('goes with everything below it when it is updated by name', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c') });
    bench.inputs = { a: git('a'), b: git('a') };
    await bench.run();
    bench.flake('c');
    expect(await bench.run({ update: [['a']] })).toMatchObject({ 'a/c': 'c@2', 'b/c': 'c@1' });
  });

  it('is not looked for by an update of what there is not: that is told', async () => {
    const bench = new Bench();
    bench.flake('a');
    bench.inputs = { a: git('a'), f: { follows: 'a' } };
    await bench.run({ update: [['q'], ['f'], ['a']] });
    expect(bench.notices).toEqual([
      { type: 'unused-update', input: 'q' },
      { type: 'unused-update', input: 'f' },
    ]);
  });

  it('keeps what flk once wrote beside it', async () => {
    const bench = new Bench();
    bench.flake('a');
    bench.inputs = { a: git('a') };
    await bench.run();
    const file = JSON.parse(printLockFile(bench.previous!));
    file.nodes.a.flk = { version: '^1', tag: 'v1.0.0' };
    bench.previous = parseLockFile({ path: 'flake.lock', text: JSON.stringify(file) });
    expect(await bench.check()).toEqual([]);
    await bench.run();
    expect(bench.source.requests).toEqual([]);
    expect(bench.node('a').flk).toEqual({ version: '^1', tag: 'v1.0.0' });
  });
});

describe('an input without a url', () => {
  it('is looked up by its name; the lock keeps the name, and what it led to', async () => {
    const bench = new Bench();
    bench.flake('a');
    bench.source.register('x', parseFlakeRef(git('a')));
    bench.inputs = { x: {} };
    expect(await bench.run()).toEqual({ x: 'a@1' });
    expect(bench.node('x').original).toEqual({ type: 'indirect', id: 'x' });
    bench.source.register('x', parseFlakeRef(git('b')));
    bench.flake('b');
    expect(await bench.run()).toEqual({ x: 'a@1' });
    expect(await bench.run({ update: [['x']] })).toEqual({ x: 'b@1' });
  });

  it('takes a registry’s folder when it is a flake, not when it is files', async () => {
    const bench = new Bench();
    bench.source.commit(url('a'), { 'sub/flake.nix': '{}' });
    bench.source.register('x', parseFlakeRef(`${git('a')}?dir=sub`));
    bench.inputs = { x: {}, y: { url: 'flake:x', flake: false } };
    await bench.run();
    expect(bench.node('x').locked?.dir).toBe('sub');
    expect(bench.node('y').locked?.dir).toBeUndefined();
  });
});

describe('a relative input', () => {
  const inDependency = async () => {
    const bench = new Bench();
    bench.flake('c');
    const inputs = { lib: 'path:./lib' };
    const files = { 'lib/flake.nix': JSON.stringify({ inputs: { c: git('c') } }) };
    bench.flake('a', inputs, { ...files, ...(await bench.ownLock(inputs, files)) });
    bench.flake('c');
    return bench;
  };

  it('of a new dependency is read, whatever that one’s own lock pins below', async () => {
    const bench = await inDependency();
    bench.inputs = { a: git('a') };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/lib': './lib', 'a/lib/c': 'c@2' });
    expect(bench.node('lib').parent).toEqual(['a']);
  });

  it('stays as it is locked though its manifest says something else, and that is told', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('d');
    bench.inputs = { near: './near', far: './far' };
    bench.files = {
      'near/flake.nix': JSON.stringify({ inputs: { c: git('c') } }),
      'far/flake.nix': JSON.stringify({ inputs: { c: git('c') } }),
    };
    const before = await bench.run();
    expect(bench.notices).toEqual([]);
    await bench.run();
    expect(bench.notices).toEqual([]);
    bench.files['near/flake.nix'] = JSON.stringify({ inputs: { c: git('d') } });
    expect(await bench.run()).toEqual(before);
    expect(bench.notices).toEqual([{ type: 'outdated-relative', input: 'near' }]);
    expect(await bench.check()).toEqual([]);
    expect(bench.notices).toEqual([{ type: 'outdated-relative', input: 'near' }]);
    expect(await bench.run({ update: [['near']] })).toMatchObject({ 'near/c': 'd@1', 'far/c': 'c@1' });
  });

  it('that is locked anew is in the list of changes, as in Nix’s', async () => {
    const bench = await inDependency();
    bench.inputs = { a: git('a') };
    await bench.run();
    const was = bench.previous!;
    bench.flake('c');
    const now = await lock({
      manifest: readFakeManifest({ path: 'flake.nix', text: JSON.stringify({ inputs: bench.inputs }) }),
      previous: was,
      source: bench.source,
      readManifest: readFakeManifest,
      readRelative: async () => undefined,
      update: [['a']],
    });
    const list = printChanges(lockChanges(was, now), { details: false });
    expect(list).toContain("• Updated input 'a/lib':\n    'path:./lib'\n  → 'path:./lib'\n");
    expect(list).toContain("• Updated input 'a/lib/c':");
  });

  it('that overrides by hand has no parent', async () => {
    const bench = new Bench();
    bench.flake('a');
    bench.inputs = { a: git('a') };
    bench.files = { 'near/flake.nix': '{}' };
    expect(await bench.run({ overrides: new Map([['a', parseFlakeRef('./near')]]) })).toEqual({
      a: './near',
    });
    expect(bench.node('a').parent).toBeUndefined();
  });

  it('that is overridden by hand has no parent, so the next lock makes it anew', async () => {
    const bench = new Bench();
    bench.flake('d');
    bench.inputs = { near: './near' };
    bench.files = { 'near/flake.nix': '{}' };
    const overrides = new Map([['near', parseFlakeRef(git('d'))]]);
    expect(await bench.run({ overrides })).toEqual({ near: 'd@1' });
    expect(bench.node('near')).toMatchObject({ original: { path: './near' } });
    expect(bench.node('near').parent).toBeUndefined();
    expect(await bench.run()).toEqual({ near: './near' });
  });
});

describe('a flake’s wishes for itself', () => {
  it('fetch it anew with submodules; the declaration stays as it was written', async () => {
    const bench = new Bench();
    bench.source.commit(url('a'), fakeManifest('flake.nix', {}, { submodules: true }));
    bench.inputs = { a: git('a') };
    await bench.run();
    expect(bench.node('a').locked).toMatchObject({ submodules: true, rev: expect.any(String) });
    expect(bench.node('a').original).toEqual({ type: 'git', url: url('a') });
    expect(bench.source.requests).toHaveLength(2);
  });

  it('are nothing to a folder: Nix locks them, and refuses its lock', async () => {
    const bench = new Bench();
    bench.source.folder('/p', fakeManifest('flake.nix', {}, { submodules: true }));
    bench.inputs = { a: 'path:/p' };
    await bench.run();
    expect(bench.node('a').locked).not.toHaveProperty('submodules');
  });
});

describe('dependencies', () => {
  it('with both manifests are read by flake.nix, and those with flake.yaml by that', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', {}, flakeYaml({ c: git('c') }));
    bench.source.commit(url('b'), flakeYaml({ c: git('c') }));
    bench.inputs = { a: git('a'), b: git('b') };
    expect(await bench.run()).toEqual({ a: 'a@1', b: 'b@1', 'b/c': 'c@1' });
  });

  it('may ask for versions in a flake.yaml; such a pin fits while its tag does', async () => {
    const bench = new Bench();
    bench.source.commit(url('c'), fakeManifest('flake.nix', {}), { tags: ['v1.2.0'] });
    bench.source.commit(url('b'), flakeYaml({ c: { url: git('c'), version: '^1' } }));
    bench.inputs = { b: git('b') };
    expect(await bench.run()).toEqual({ b: 'b@1', 'b/c': 'c@1' });
    expect(bench.node('c').flk).toEqual({ version: '^1', tag: 'v1.2.0' });
    await bench.run();
    expect(bench.source.requests).toEqual([]);
  });

  it('bring what their own locks pin', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c') }, await bench.ownLock({ c: git('c') }));
    bench.flake('c');
    bench.inputs = { a: git('a'), c: git('c') };
    expect(await bench.run()).toEqual({ a: 'a@1', 'a/c': 'c@1', c: 'c@2' });
  });

  it('are overridden by whoever stands further out', async () => {
    const bench = new Bench();
    for (const name of ['c', 'd', 'e']) bench.flake(name);
    bench.flake('b', { c: git('c') });
    bench.flake('a', { b: { url: git('b'), inputs: { c: { url: git('d') } } } });
    bench.inputs = { a: { url: git('a'), inputs: { b: { inputs: { c: { url: git('e') } } } } }, x: git('a') };
    expect(await bench.run()).toMatchObject({ 'a/b/c': 'e@1', 'x/b/c': 'd@1' });
    const overrides = new Map([['a/b/c', parseFlakeRef(git('c'))]]);
    expect(await bench.run({ overrides })).toMatchObject({ 'a/b/c': 'c@1', 'x/b/c': 'd@1' });
  });

  it('may not be inputs of themselves', async () => {
    const bench = new Bench();
    bench.flake('a', { b: git('b') });
    bench.flake('b', { a: git('a') });
    bench.inputs = { a: git('a') };
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_INPUT_CYCLE',
      trail: expect.arrayContaining(['a/b/a']),
    });
  });

  it('tell of overrides for inputs that there are not, theirs too', async () => {
    const bench = new Bench();
    bench.flake('b');
    bench.flake('a', { b: { url: git('b'), inputs: { none: { url: git('b') } } } });
    bench.inputs = { a: { url: git('a'), inputs: { gone: { follows: 'a' } } } };
    await bench.run({ overrides: new Map([['z', parseFlakeRef(git('b'))]]) });
    expect(bench.notices.map((notice) => ('input' in notice ? notice.input : notice.type))).toEqual([
      'a/b/none',
      'a/gone',
      'z',
    ]);
  });

  it('may not name an input so that its path means another one', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { 'b/c': git('c') });
    bench.inputs = { a: git('a') };
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_MANIFEST_INVALID',
      facts: { found: '"b/c"' },
    });
    bench.flake('a', { '1': git('c'), 'with space': git('c') });
    expect(await bench.run()).toMatchObject({ 'a/1': 'c@1', 'a/with space': 'c@1' });
  });

  it('from elsewhere may not name folders of this machine', async () => {
    const bench = new Bench();
    bench.source.folder('/etc', fakeManifest('flake.nix', {}));
    bench.flake('a', { e: 'path:/etc' });
    bench.inputs = { a: git('a') };
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_REF_INVALID',
      trail: expect.arrayContaining(['a/e']),
    });
  });

  it('are nested only so deep', async () => {
    const bench = new Bench();
    for (let i = 0; i < 103; i++) bench.flake(`n${i}`, i < 102 ? { n: git(`n${i + 1}`) } : {});
    bench.inputs = { n: git('n0') };
    expect(await errorOf(bench.run())).toMatchObject({ code: 'FLK_GRAPH_LIMIT' });
  });
});

describe('a follows', () => {
  it('that walks one path twice is refused: Nix takes it for a circle', async () => {
    const bench = new Bench();
    bench.flake('w');
    bench.flake('p', { w: git('w') });
    bench.inputs = {
      p: { url: git('p'), inputs: { w: { follows: 'u' } } },
      u: { follows: 'p' },
      z: { follows: 'u/w' },
    };
    expect(await errorOf(bench.run())).toMatchObject({
      code: 'FLK_FOLLOWS_CYCLE',
      message: expect.stringContaining('‘p’'),
    });
  });

  it('may pass one node twice by different ways', async () => {
    const bench = new Bench();
    bench.flake('p', { k: git('w'), v: { follows: 'k' } });
    bench.flake('w');
    bench.inputs = { p: git('p'), u: { follows: 'p' }, z: { follows: 'u/v' } };
    expect(await bench.run()).toMatchObject({ z: '→u/v', 'p/v': '→p/k' });
  });
});

describe('a working tree with changes', () => {
  const dirty: Source = {
    fetch: async (ref) => {
      const fake = new FakeSource();
      fake.commit(url('a'), fakeManifest('flake.nix', {}));
      const { locked, tree } = await fake.fetch(ref);
      const { rev, ref: _, revCount, ...rest } = locked as typeof locked & { ref?: string };
      return { locked: { ...rest, dirtyRev: `${rev}-dirty` } as typeof locked, tree };
    },
    tags: async () => [],
  };

  it('is not locked, unless that is allowed', async () => {
    const bench = new Bench();
    bench.inputs = { a: git('a') };
    expect(await errorOf(bench.run({ source: dirty }))).toMatchObject({
      code: 'FLK_LOCK_UNLOCKED_INPUT',
      message: expect.stringContaining('‘a’'),
      hint: expect.stringContaining('--allow-dirty-locks'),
    });
    await bench.run({ source: dirty, allowDirtyLocks: true });
    expect(bench.node('a').locked).toMatchObject({ dirtyRev: expect.stringMatching(/-dirty$/) });
  });

  it('without a hash is not locked at all', () => {
    const locked = { type: 'git', url: url('a') } as const;
    const made: LockFile = {
      root: 'root',
      nodes: new Map([
        ['root', { inputs: new Map([['a', { kind: 'node', key: 'a' }]]), flake: true }],
        ['a', { inputs: new Map(), flake: true, original: locked, locked }],
      ]),
    };
    expect(unlockedInput(made, true)).toBe(locked);
    expect(unlockedInput(made, false)).toBe(locked);
  });

  it('that is locked already stays, without a word', async () => {
    const bench = new Bench();
    bench.inputs = { a: git('a') };
    await bench.run({ source: dirty, allowDirtyLocks: true });
    await bench.run({ source: dirty });
    expect(bench.node('a').locked).toHaveProperty('dirtyRev');
  });
});

describe('two locks', () => {
  const read = (nodes: object) =>
    parseLockFile({ path: 'flake.lock', text: JSON.stringify({ nodes, root: 'root', version: 7 }) });
  const locked = { type: 'git', url: url('a'), rev: '6955f5000036d0bb141d8d2167e3980f874ce177' };
  const node = { original: { type: 'git', url: url('a') }, locked };

  it('are the same whatever their nodes are called', () => {
    const one = read({ root: { inputs: { a: 'a', b: 'b' } }, a: node, b: node });
    const other = read({ root: { inputs: { a: 'x', b: 'a' } }, x: node, a: node });
    expect(isSameLock(one, other)).toBe(true);
    expect([...renumbered(other).nodes.keys()]).toEqual(['root', 'a', 'b']);
  });

  it('differ where inputs share a node', () => {
    const one = read({ root: { inputs: { a: 'a', b: 'b' } }, a: node, b: node });
    const shared = read({ root: { inputs: { a: 'a', b: 'a' } }, a: node });
    expect(isSameLock(one, shared)).toBe(false);
    expect([...renumbered(shared).nodes.keys()]).toEqual(['root', 'a']);
  });
});

describe('--check of a flake.nix root', () => {
  /** Nix reads a again on each lock: one of its inputs follows another. */
  const withOwnFollows = async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.flake('a', { c: git('c'), f: { follows: 'c' } });
    bench.inputs = { a: git('a') };
    await bench.run();
    return bench;
  };

  it('tells what has to be read where it is not here', async () => {
    const bench = await withOwnFollows();
    expect(await bench.check()).toEqual(['a unread']);
    const offline = { fetch: async () => Promise.reject(new Error('no network')) };
    expect(await bench.check({ cached: offline })).toEqual(['a unread']);
    expect(bench.source.requests).toEqual([]);
  });

  it('reads what is here', async () => {
    const bench = await withOwnFollows();
    expect(await bench.check({ cached: bench.source })).toEqual([]);
    expect(bench.source.requests).toHaveLength(1);
  });

  it('fetches nothing that is new, though it could', async () => {
    const bench = await withOwnFollows();
    bench.inputs = { ...bench.inputs, n: git('c') };
    expect(await bench.check({ cached: bench.source })).toEqual(['n added']);
    expect(bench.source.requests.every((request) => !request.endsWith(' HEAD'))).toBe(true);
  });

  it('says nothing of what is below a flake that it cannot read', async () => {
    const bench = new Bench();
    bench.source.commit(url('r'), {
      'sub/flake.nix': JSON.stringify({ inputs: { d: '../lib', a: { follows: 'd' } } }),
      'lib/flake.nix': '{}',
    });
    bench.flake('d');
    bench.inputs = { r: `${git('r')}?dir=sub` };
    await bench.run({ overrides: new Map([['r/d', parseFlakeRef(git('d'))]]) });
    expect(await bench.check()).toEqual(['r unread']);
  });

  it('wants a node for each input', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.inputs = { a: git('c'), b: git('c') };
    await bench.run();
    const file = JSON.parse(printLockFile(bench.previous!));
    file.nodes.root.inputs.b = 'a';
    bench.previous = parseLockFile({ path: 'flake.lock', text: JSON.stringify(file) });
    expect(await bench.check()).toEqual(['b node']);
    await bench.run();
    expect([...bench.previous.nodes.keys()].sort()).toEqual(['a', 'b', 'root']);
    expect(await bench.check()).toEqual([]);
  });

  it('cannot tell where an override by hand leads now', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.inputs = { a: git('c') };
    await bench.run();
    expect(await bench.check({ overrides: new Map([['a', parseFlakeRef(git('c'))]]) })).toEqual(['a unread']);
  });

  it('sees what is new, gone, and declared anew', async () => {
    const bench = new Bench();
    bench.flake('c');
    bench.inputs = { a: git('c'), b: git('c'), f: git('c') };
    await bench.run();
    bench.inputs = { a: `${git('c')}?ref=main`, n: git('c'), f: { follows: 'a' } };
    expect(await bench.check()).toEqual(['a reference', 'b removed', 'f follows', 'n added']);
  });
});
