/**
 * The same graphs of repositories, locked by Nix (through flake.nix) and by flk (through flake.yaml, in memory). Contents differ, so
 * revisions and hashes do; everything else must be equal: names of nodes, edges, originals, parents, and which commit is pinned.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type FlakeRef, parseFlakeRef, refToAttributes } from '../../src/flake/flake-ref.ts';
import { emptyLock, type LockFile, parseLockFile, printLockFile } from '../../src/flake/lock-file.ts';
import { lock } from '../../src/flake/locker.ts';
import {
  type FakeInput,
  type FakeInputs,
  FakeSource,
  fakeFile,
  flakeYaml,
  readFakeManifest,
} from '../support/fake-source.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

/** One world, twice: repositories on disk with flake.nix, and in memory with flake.yaml. */
class Worlds {
  readonly folder: string;
  readonly source = new FakeSource();
  #root: FakeInputs = {};
  #subs: Readonly<Record<string, FakeInputs>> = {};
  #previous: LockFile | undefined;

  constructor(folder: string) {
    this.folder = folder;
  }

  url(name: string): string {
    return `git+file://${this.folder}/${name}`;
  }

  /** A commit of a flake in both worlds; with its own lock where that is wanted; `subs` are flakes in its folders. */
  async commit(
    name: string,
    inputs: FakeInputs,
    options: { locked?: boolean; subs?: Readonly<Record<string, FakeInputs>> } = {},
  ) {
    const { locked = false, subs = {} } = options;
    const files: Record<string, string> = { ...flakeYaml(inputs), ...yamlOf(subs) };
    rmSync(join(this.folder, name, 'flake.lock'), { force: true });
    this.#write(name, inputs, subs);
    if (locked) {
      expect(await this.#nixLock(name)).toBe('');
      files['flake.lock'] = printLockFile(await this.#flkLock(inputs, files, undefined));
    }
    this.#git(name, 'add', '-A');
    this.#git(name, 'commit', '-q', '--allow-empty', '-m', 'a commit');
    this.source.commit(`file://${this.folder}/${name}`, files);
  }

  /** What the root flake says from now on. */
  setRoot(inputs: FakeInputs, subs: Readonly<Record<string, FakeInputs>> = {}): void {
    this.#root = inputs;
    this.#subs = subs;
    this.#write('root', inputs, subs);
  }

  /** Locks both and compares; `pins: false` leaves out which commits are pinned. Gives flk's shape, or `error`. */
  async lock(
    options: { update?: readonly string[]; overrides?: Record<string, string>; pins?: boolean } = {},
  ): Promise<unknown> {
    const { update = [], overrides = {}, pins = true } = options;
    const overridden = Object.entries(overrides).flatMap(([path, ref]) => ['--override-input', path, ref]);
    const nixError = await this.#nixLock('root', update, overridden);
    let flk: unknown = 'error';
    try {
      const files = { ...flakeYaml(this.#root), ...yamlOf(this.#subs) };
      this.#previous = await this.#flkLock(this.#root, files, this.#previous, update, overrides);
      flk = shape(this.#previous, pins);
    } catch (error) {
      expect(nixError, `flk refuses what Nix locks: ${error}`).not.toBe('');
      return 'error';
    }
    expect(nixError, 'Nix refuses what flk locks').toBe('');
    const text = readFileSync(join(this.folder, 'root', 'flake.lock'), 'utf8');
    const byNix = parseLockFile({ path: 'flake.lock', text });
    expect(printLockFile(byNix)).toBe(text);
    expect(flk).toEqual(shape(byNix, pins));
    return flk;
  }

  async #flkLock(
    inputs: FakeInputs,
    files: Record<string, string>,
    previous: LockFile | undefined,
    update: readonly string[] = [],
    overrides: Record<string, string> = {},
  ): Promise<LockFile> {
    return lock({
      manifest: readFakeManifest({ path: 'flake.yaml', text: flakeYaml(inputs)['flake.yaml'] ?? '' }),
      previous,
      source: this.source,
      readManifest: readFakeManifest,
      readRelative: async (path) => fakeFile(files, path),
      update: update.map((path) => path.split('/')),
      // As Nix moves everything below.
      deep: true,
      overrides: new Map(Object.entries(overrides).map(([path, ref]) => [path, parseFlakeRef(ref)])),
    });
  }

  /** Empty, or what Nix says is wrong. */
  async #nixLock(
    name: string,
    update: readonly string[] = [],
    options: readonly string[] = [],
  ): Promise<string> {
    const flake = `git+file://${this.folder}/${name}`;
    const command =
      update.length > 0 ? ['flake', 'update', ...update, '--flake', flake] : ['flake', 'lock', flake];
    const { status, stderr } = await nix([...command, ...options]);
    if (status === 0) {
      // A flake without inputs gets no lock.
      const file = join(this.folder, name, 'flake.lock');
      if (!existsSync(file)) writeFileSync(file, printLockFile(emptyLock));
      this.#git(name, 'add', '-A');
    }
    return status === 0 ? '' : stderr;
  }

  #write(name: string, inputs: FakeInputs, subs: Readonly<Record<string, FakeInputs>>): void {
    const folder = join(this.folder, name);
    mkdirSync(folder, { recursive: true });
    if (!existsSync(join(folder, '.git'))) this.#git(name, 'init', '-q', '-b', 'main');
    for (const [path, own] of [['.', inputs] as const, ...Object.entries(subs)]) {
      const file = join(folder, path, 'flake.nix');
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, `{ inputs = ${nixOf(own)}; outputs = _: { }; }\n`);
    }
    this.#git(name, 'add', '-A');
  }

  #git(name: string, ...args: string[]): void {
    const who = {
      GIT_AUTHOR_NAME: 'a',
      GIT_AUTHOR_EMAIL: 'a@a',
      GIT_COMMITTER_NAME: 'a',
      GIT_COMMITTER_EMAIL: 'a@a',
    };
    execFileSync('git', args, {
      cwd: join(this.folder, name),
      env: { ...process.env, ...who, GIT_CONFIG_GLOBAL: '/dev/null' },
    });
  }
}

function yamlOf(subs: Readonly<Record<string, FakeInputs>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(subs).map(([path, inputs]) => [
      `${path}/flake.yaml`,
      flakeYaml(inputs)['flake.yaml'] ?? '',
    ]),
  );
}

function nixOf(inputs: FakeInputs): string {
  const attributes = Object.entries(inputs).map(([name, given]) => {
    const {
      url,
      follows,
      flake,
      inputs: inner,
    }: FakeInput = typeof given === 'string' ? { url: given } : given;
    const parts = [
      url === undefined ? '' : `url = "${url}";`,
      follows === undefined ? '' : `follows = "${follows}";`,
      flake === false ? 'flake = false;' : '',
      inner === undefined ? '' : `inputs = ${nixOf(inner)};`,
    ];
    return `${name} = { ${parts.filter(Boolean).join(' ')} };`;
  });
  return `{ ${attributes.join(' ')} }`;
}

function shape({ root, nodes }: LockFile, pins: boolean): unknown {
  const pinOf = (ref: FlakeRef | undefined) =>
    ref?.type === 'git'
      ? { url: ref.url, ref: ref.ref, dir: ref.dir, ...(pins && { revCount: ref.revCount }) }
      : ref && refToAttributes(ref);
  return {
    root,
    nodes: Object.fromEntries(
      [...nodes].map(([key, node]) => [
        key,
        {
          inputs: Object.fromEntries(node.inputs),
          original: node.original && refToAttributes(node.original),
          locked: pinOf(node.locked),
          flake: node.flake,
          parent: node.parent,
        },
      ]),
    ),
  };
}

describe.skipIf(!nixAvailable())(`locks beside Nix's ${nixReason}`, () => {
  const worlds = () => new Worlds(temporaryFolder());

  it('transitive inputs, shared names, a dependency’s own lock', async () => {
    const w = worlds();
    await w.commit('c', {});
    await w.commit('b', { c: w.url('c') }, { locked: true });
    await w.commit('c', {});
    await w.commit('a', { b: w.url('b'), c: w.url('c') });
    w.setRoot({
      a: w.url('a'),
      b: w.url('b'),
      c: { url: w.url('c'), flake: false },
      z: { follows: 'a' },
      y: { follows: 'z/b/c' },
    });
    await w.lock();
  });

  it('follows through follows, deep overrides, the outermost first', async () => {
    const w = worlds();
    for (const name of ['c', 'd', 'e']) await w.commit(name, {});
    await w.commit('b', { c: w.url('c'), d: { follows: 'c' } });
    await w.commit(
      'a',
      { b: { url: w.url('b'), inputs: { c: { url: w.url('d') } } }, me: { follows: '' } },
      { locked: true },
    );
    w.setRoot({
      a: { url: w.url('a'), inputs: { b: { inputs: { c: { follows: 'e' } } } } },
      e: w.url('e'),
      x: { url: w.url('a'), inputs: { b: { inputs: { c: { url: w.url('e') } } } } },
      y: { url: w.url('a'), inputs: { nope: { follows: 'e' } } },
      z: w.url('a'),
    });
    await w.lock();
  });

  it('relative inputs of the root, of a dependency and of an override', async () => {
    const w = worlds();
    await w.commit('c', {});
    await w.commit(
      'a',
      { lib: 'path:./lib', raw: { url: 'path:./raw', flake: false } },
      { subs: { lib: { c: w.url('c'), up: 'path:../other' }, other: {}, raw: {} } },
    );
    w.setRoot(
      {
        a: { url: w.url('a'), inputs: { lib: { inputs: { c: { url: 'path:./mine' } } } } },
        near: './near',
        b: w.url('a'),
      },
      { near: { far: 'path:../far/x', c: w.url('c') }, 'far/x': {}, mine: {} },
    );
    await w.lock();
    await w.lock();
  });

  it('an old lock: kept, stale, changed', async () => {
    const w = worlds();
    for (const name of ['c', 'd']) await w.commit(name, {});
    await w.commit('b', { c: w.url('c') });
    await w.commit('a', { b: w.url('b'), d: w.url('d') });
    w.setRoot({ a: { url: w.url('a'), inputs: { b: { follows: 'b' } } }, b: w.url('b'), gone: w.url('d') });
    await w.lock();
    for (const name of ['c', 'd']) await w.commit(name, {});
    await w.lock();
    w.setRoot({ a: { url: w.url('a'), inputs: { d: { follows: 'c' } } }, b: w.url('b'), c: w.url('c') });
    await w.lock();
    w.setRoot({ a: { url: w.url('a'), inputs: { b: { inputs: { c: { url: w.url('d') } } } } } });
    await w.lock();
  });

  it('updates of one input, at the top and below', async () => {
    const w = worlds();
    await w.commit('c', {});
    await w.commit('b', { c: w.url('c') });
    await w.commit('a', { b: w.url('b'), c: w.url('c') });
    w.setRoot({ a: w.url('a'), b: w.url('b'), c: w.url('c') });
    await w.lock();
    await w.commit('c', {});
    await w.commit('b', { c: w.url('c') });
    await w.lock({ update: ['c'] });
    await w.lock({ update: ['a/b'] });
    await w.commit('c', {});
    await w.lock({ update: ['a/b/c', 'b'] });
    await w.commit('a', { c: w.url('c') });
    await w.lock({ update: ['a'] });
  });

  it('--override-input, and what stays of it', async () => {
    const w = worlds();
    await w.commit('c', {});
    await w.commit('d', { c: w.url('c') });
    await w.commit('b', { c: w.url('c') });
    await w.commit('a', { b: w.url('b') });
    w.setRoot({ a: w.url('a') });
    await w.lock({ overrides: { 'a/b': w.url('d') } });
    await w.lock();
    await w.lock({ overrides: { a: w.url('d') } });
  });

  it.each([
    ['a cycle', { a: 'b' }, { b: 'a' }],
    ['a missing follows', { a: 'b' }, {}],
  ])('%s is refused by both', async (what, ofRoot, ofB) => {
    const w = worlds();
    const urls = (names: Record<string, string>) =>
      Object.fromEntries(Object.entries(names).map(([name, to]) => [name, w.url(to)]));
    await w.commit('a', urls({ x: 'b' }));
    await w.commit('b', urls(ofB));
    w.setRoot({ ...urls(ofRoot), ...(what === 'a missing follows' && { z: { follows: 'a/none' } }) });
    expect(await w.lock()).toBe('error');
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('a graph grown from seed %i, changed and updated', async (seed) => {
    const w = worlds();
    const random = generator(seed);
    const pick = <T>(items: readonly T[]): T => items[random() % items.length]!;
    const names = ['p', 'q', 'r'];
    const size = 5;
    /** Inputs that lead to later flakes; some follow, some override what is below. */
    const inputsFor = (index: number): FakeInputs => {
      const inputs: Record<string, FakeInput> = {};
      for (const name of names) {
        const target = index + 1 + (random() % 2);
        if (target >= size || random() % 3 === 0) continue;
        const inner: Record<string, FakeInput> = {};
        if (random() % 3 === 0) inner[pick(names)] = { url: w.url(`n${size - 1}`) };
        if (random() % 3 === 0)
          inner[pick(names)] = { inputs: { [pick(names)]: { url: w.url(`n${size - 1}`) } } };
        inputs[name] = {
          url: w.url(`n${target}`),
          ...(random() % 6 === 0 && { flake: false }),
          ...(Object.keys(inner).length > 0 && { inputs: inner }),
        };
      }
      const [first, second] = Object.keys(inputs);
      if (first && second && random() % 2 === 0)
        inputs.f = { follows: random() % 2 === 0 ? first : `${first}/${pick(names)}` };
      return inputs;
    };
    for (let i = size - 1; i > 0; i--) {
      const inputs = inputsFor(i);
      // A flake of its own must lock; whether the root's does is for both to say.
      delete (inputs as Record<string, FakeInput>).f;
      await w.commit(`n${i}`, inputs, { locked: random() % 2 === 0 });
      if (random() % 2 === 0) await w.commit(`n${i}`, inputs);
    }
    w.setRoot(inputsFor(0));
    await w.lock();
    await w.commit(`n${size - 1}`, {});
    const changed = inputsFor(0);
    w.setRoot(changed);
    const isLocked = (await w.lock({ pins: false })) !== 'error';
    const top = Object.entries(changed).find(([, input]) => typeof input === 'object' && input.url);
    if (isLocked && top) await w.lock({ update: [top[0]], pins: false });
  });
});

/** Numbers that look random and are the same each time. */
function generator(seed: number): () => number {
  let state = seed * 2654435761;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state >>> 8;
  };
}
