/** Scheduling, locks, failures and what is registered, over a real store and an engine that builds in this process. */
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { type Event, silent } from '../../../src/base/events.ts';
import { readLog } from '../../../src/build/build-log.ts';
import type { BuildRequest, Engine, Toolchain } from '../../../src/build/engines/engine.ts';
import type { Instantiation, PlannedDerivation } from '../../../src/build/instantiation.ts';
import { type RealiseOptions, realise, realiseAll } from '../../../src/build/realise.ts';
import { SharedWalks } from '../../../src/build/shared-walks.ts';
import {
  type Derivation,
  derivationPath,
  hashDerivationModulo,
  printDerivation,
  withOutputPaths,
} from '../../../src/formats/derivation.ts';
import { hashTree, type Tree } from '../../../src/formats/nar.ts';
import { makeSourcePath, type StorePath } from '../../../src/formats/store-path.ts';
import { resultLink } from '../../../src/store/roots.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { walkPath } from '../../../src/store/tree-files.ts';
import { soleBuilder } from '../../support/builds.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

/** What a package of these tests does instead of running a builder. */
type Action = (request: BuildRequest, place: (name: string) => string) => Promise<void> | void;

interface Spec {
  readonly needs?: readonly string[];
  readonly sources?: readonly StorePath[];
  readonly outputs?: readonly string[];
  readonly toolchain?: Toolchain;
}

/** Derivations by short names, and their instantiation. */
class Graph {
  readonly drvPaths = new Map<string, StorePath>();
  readonly derivations = new Map<StorePath, PlannedDerivation>();
  readonly sources = new Map<StorePath, () => Promise<void>>();
  readonly #modulo = new Map<StorePath, string>();

  add(name: string, spec: Spec = {}): this {
    const derivation = withOutputPaths(
      name,
      {
        outputs: new Map((spec.outputs ?? ['out']).map((output) => [output, { hashAlgo: '', hash: '' }])),
        inputDrvs: new Map((spec.needs ?? []).map((need) => [this.drv(need), ['out']])),
        inputSrcs: spec.sources ?? [],
        system: 'x86_64-linux',
        builder: '/bin/sh',
        args: [],
        env: new Map([['name', name]]),
      },
      (path) => this.#modulo.get(path)!,
    );
    const drvPath = derivationPath(name, derivation);
    this.#modulo.set(
      drvPath,
      hashDerivationModulo(derivation, (path) => this.#modulo.get(path)!),
    );
    this.drvPaths.set(name, drvPath);
    this.derivations.set(drvPath, { derivation, name, toolchain: spec.toolchain ?? { kind: 'host' } });
    return this;
  }

  drv(name: string): StorePath {
    return this.drvPaths.get(name)!;
  }

  derivation(name: string): Derivation {
    return this.derivations.get(this.drv(name))!.derivation;
  }

  out(name: string, output = 'out'): StorePath {
    return this.derivation(name).outputs.get(output)!.path;
  }

  top(name: string): Instantiation {
    return { top: this.drv(name), derivations: this.derivations, sources: this.sources };
  }
}

class FakeEngine implements Engine {
  readonly name: string = 'fake';
  readonly ultimate: boolean = true;
  readonly requests: string[] = [];
  running = 0;
  most = 0;
  readonly #folder = temporaryFolder();
  readonly #actions: Readonly<Record<string, Action>>;

  constructor(actions: Readonly<Record<string, Action>> = {}) {
    this.#actions = actions;
  }

  refusal(): undefined {}
  async probe(): Promise<void> {}
  async close(): Promise<void> {}

  async build(request: BuildRequest) {
    const name = request.derivation.env.get('name')!;
    this.requests.push(name);
    this.most = Math.max(this.most, ++this.running);
    const folder = mkdtempSync(join(this.#folder, 'build-'));
    const place = (output: string) => join(folder, output);
    try {
      const action = this.#actions[name];
      if (action) await action(request, place);
      else for (const output of request.derivation.outputs.keys()) writeFileSync(place(output), name);
    } finally {
      this.running--;
    }
    const outputs = new Map(
      [...request.derivation.outputs.keys()]
        .filter((output) => lstatSync(place(output), { throwIfNoEntry: false }))
        .map((output) => [output, place(output)]),
    );
    return { outputs, dispose: async () => {} };
  }
}

let root: string;
let store: Store;

beforeEach(async () => {
  root = temporaryFolder();
  store = await openStore(root);
  return () => store.close();
});

const noDownload = (): never => {
  throw new Error('nothing is downloaded here');
};

function run(
  engine: Engine,
  what: Instantiation,
  options: Partial<RealiseOptions> = {},
  signal?: AbortSignal,
) {
  const builders = soleBuilder(engine, options.jobs ?? 2);
  const context = { store, builders, reporter: silent, download: noDownload };
  return realise(signal ? { ...context, signal } : context, what, { jobs: 2, cores: 1, ...options });
}

async function logOf(drvPath: StorePath): Promise<string> {
  return (await (await readLog(root, drvPath))!.toArray()).join('');
}

/** Everything below the root, with content, but for the database's own files. */
function everything(folder = root, prefix = ''): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !entry.name.startsWith('store.sqlite'))
    .flatMap((entry) => {
      const name = `${prefix}${entry.name}`;
      if (entry.isDirectory()) return [`${name}/`, ...everything(join(folder, entry.name), `${name}/`)];
      return [entry.isFile() ? `${name}: ${readFileSync(join(folder, entry.name), 'latin1')}` : name];
    })
    .sort();
}

/** What lies in the store besides the recipes. */
const outputsInStore = (): string[] =>
  readdirSync(join(root, 'nix/store')).filter((name) => !name.endsWith('.drv'));

describe('realise', () => {
  it('builds what is needed, inputs first, each once, and registers it', async () => {
    const graph = new Graph()
      .add('base')
      .add('left', { needs: ['base'] })
      .add('right', { needs: ['base'] });
    graph.add('top', { needs: ['left', 'right'] }).add('unneeded');
    const engine = new FakeEngine({
      top: ({ closure }, place) => {
        expect(closure).toEqual([graph.out('left'), graph.out('right'), graph.out('base')].sort());
        mkdirSync(place('out'));
        writeFileSync(join(place('out'), 'refers'), `to ${graph.out('left')} and itself ${graph.out('top')}`);
        chmodSync(join(place('out'), 'refers'), 0o640);
      },
      left: (_, place) => writeFileSync(place('out'), `left of ${graph.out('base')}`),
      right: (_, place) => writeFileSync(place('out'), `right of ${graph.out('base')}`),
    });
    const realised = await run(engine, graph.top('top'));
    expect(engine.requests[0]).toBe('base');
    expect(engine.requests.slice(1, 3).sort()).toEqual(['left', 'right']);
    expect(engine.requests.slice(3)).toEqual(['top']);
    expect(realised.outputs).toEqual(new Map([['out', graph.out('top')]]));
    expect(realised.built).toHaveLength(4);
    expect(store.query(graph.out('top'))).toMatchObject({
      references: [graph.out('left'), graph.out('top')].sort(),
      deriver: graph.drv('top'),
      ultimate: true,
    });
    const refers = lstatSync(join(store.physical(graph.out('top')), 'refers'));
    expect([refers.mode & 0o7777, refers.mtimeMs]).toEqual([0o444, 1000]);
    await store.verifyPath(graph.out('top'));
    expect(readdirSync(join(root, 'nix/var/flk/stage'))).toEqual([]);
  });

  it('keeps the recipe of what it builds, with those of its inputs', async () => {
    const graph = new Graph().add('base').add('top', { needs: ['base'] });
    await run(new FakeEngine(), graph.top('top'));
    for (const name of ['base', 'top'])
      expect(readFileSync(store.physical(graph.drv(name)), 'utf8')).toBe(
        printDerivation(graph.derivation(name)),
      );
    expect(store.query(graph.drv('top'))).toMatchObject({ references: [graph.drv('base')] });
  });

  it('does nothing and writes nothing when it is there', async () => {
    const graph = new Graph().add('base').add('top', { needs: ['base'] });
    await run(new FakeEngine(), graph.top('top'));
    const before = everything();
    const engine = new FakeEngine();
    expect((await run(engine, graph.top('top'))).built).toEqual([]);
    expect(engine.requests).toEqual([]);
    expect(everything()).toEqual(before);
  });

  it('materialises sources and toolchains only when something is built from them', async () => {
    const tree = treeFrom(file('content'));
    const { narHash } = await hashTree(tree);
    const source = makeSourcePath('source', narHash);
    let made = 0;
    const graph = new Graph().add('one', { sources: [source] });
    graph.add('two', { needs: ['one'], sources: [source], toolchain: { kind: 'path', path: source } });
    graph.sources.set(source, async () => {
      made++;
      await store.addTree('source', tree);
    });
    await run(
      new FakeEngine({
        two: ({ closure }, place) => {
          expect(closure).toContain(source);
          writeFileSync(place('out'), '');
        },
      }),
      graph.top('two'),
    );
    expect(made).toBe(1);
    await run(new FakeEngine(), graph.top('two'));
    expect(made).toBe(1);
  });

  it('asks for the sources of a whole chain together, so that one walk of their tree serves them', async () => {
    const whole = treeFrom(directory({ a: file('1'), b: file('2'), c: file('3') }));
    let walks = 0;
    const tree: Tree = {
      walk: async (sink) => {
        walks++;
        await whole.walk(sink);
      },
    };
    const shared = new SharedWalks(tree);
    const graph = new Graph();
    for (const [i, name] of ['a', 'b', 'c'].entries()) {
      const part: Tree = { walk: async (sink) => void (await shared.walk(name, sink)) };
      const source = makeSourcePath(name, (await hashTree(part)).narHash);
      graph.sources.set(source, async () => void (await store.addTree(name, part)));
      graph.add(name, { sources: [source], needs: i === 0 ? [] : ['ab'[i - 1]!] });
    }
    walks = 0;
    const seen: number[] = [];
    const build: Action = (_, place) => {
      seen.push(walks);
      writeFileSync(place('out'), '');
    };
    await run(new FakeEngine({ a: build, b: build, c: build }), graph.top('c'));
    // Whoever comes while the first walk begins is in the second.
    expect(seen[0]).toBeLessThanOrEqual(2);
    expect(seen).toEqual([seen[0], seen[0], seen[0]]);
  });

  it('ends with what is wrong with a source once all that was begun has ended', async () => {
    const source = makeSourcePath('source', (await hashTree(treeFrom(file('content')))).narHash);
    const graph = new Graph().add('one').add('two', { needs: ['one'], sources: [source] });
    graph.sources.set(source, async () => {
      throw new FlkError('FLK_PACKAGE_INVALID', 'it is gone');
    });
    const failed = run(new FakeEngine(), graph.top('two'));
    await expect(failed).rejects.toMatchObject({ code: 'FLK_PACKAGE_INVALID', trail: ['two'] });
    expect(store.query(graph.out('one'))).toBeDefined();
    expect(store.query(graph.out('two'))).toBeUndefined();
  });

  it('keeps to --max-jobs', async () => {
    const graph = new Graph();
    const names = Array.from({ length: 8 }, (_, i) => `p${i}`);
    for (const name of names) graph.add(name);
    graph.add('top', { needs: names });
    const together: Action = async (_, place) => {
      while (engine.most < 3) await sleep(1);
      await sleep(5);
      writeFileSync(place('out'), randomBytes(4));
    };
    const engine = new FakeEngine(Object.fromEntries(names.map((name) => [name, together])));
    await run(engine, graph.top('top'), { jobs: 3 });
    expect(engine.most).toBe(3);
  });

  it('begins the next build while the disk takes an earlier one, and no more than one ahead for each job', async () => {
    const graph = new Graph()
      .add('a')
      .add('b')
      .add('c')
      .add('top', { needs: ['a', 'b', 'c'] });
    const engine = new FakeEngine();
    const register = store.register.bind(store);
    const begun: number[] = [];
    vi.spyOn(store, 'register').mockImplementation(async (entries, options) => {
      if (entries[0]?.info.deriver === graph.drv('a')) {
        while (engine.requests.length < 2) await sleep(1);
        await sleep(20);
        begun.push(engine.requests.length);
      }
      // It keeps its place meanwhile.
      if (entries[0]?.info.deriver === graph.drv('b')) while (begun.length === 0) await sleep(1);
      return register(entries, options);
    });
    await run(engine, graph.top('top'), { jobs: 1 });
    expect(begun).toEqual([2]);
    expect(engine.most).toBe(1);
    expect(store.query(graph.out('top'))).toBeDefined();
  });

  it('builds several packages together, as many at a time as it may', async () => {
    const graph = new Graph().add('shared');
    for (const name of ['a', 'b', 'c']) graph.add(name, { needs: ['shared'] });
    const together: Action = async (_, place) => {
      while (engine.most < 2) await sleep(1);
      await sleep(5);
      writeFileSync(place('out'), '');
    };
    const engine = new FakeEngine({ a: together, b: together, c: together });
    const context = { store, builders: soleBuilder(engine, 2), reporter: silent, download: noDownload };
    const tops = ['a', 'b', 'c'].map((name) => graph.top(name));
    const results = await realiseAll(context, tops, { jobs: 2, cores: 1 });
    expect(results.map((result) => result.status === 'fulfilled' && result.value.outputs.get('out'))).toEqual(
      ['a', 'b', 'c'].map((name) => graph.out(name)),
    );
    expect(engine.requests.toSorted()).toEqual(['a', 'b', 'c', 'shared']);
    expect(engine.most).toBe(2);
  });

  it('lets two realisations of one thing build it once', async () => {
    const graph = new Graph().add('top');
    const slow: Action = async (_, place) => {
      await sleep(100);
      writeFileSync(place('out'), '');
    };
    const engine = new FakeEngine({ top: slow });
    const other = await openStore(root);
    try {
      await Promise.all([
        run(engine, graph.top('top')),
        realise(
          { store: other, builders: soleBuilder(engine, 2), reporter: silent, download: noDownload },
          graph.top('top'),
          {
            jobs: 1,
            cores: 1,
          },
        ),
      ]);
    } finally {
      other.close();
    }
    expect(engine.requests).toEqual(['top']);
  });

  describe('a failure', () => {
    const failing: Action = ({ log }) => {
      log('==> buildPhase');
      for (let i = 0; i < 30; i++) log(`line ${i}`);
      throw new FlkError('FLK_BUILD_FAILED', 'the builder ended with exit status 2', {
        facts: { status: 'exit status 2' },
      });
    };

    it('is told with its phase, its last lines and the way to it, and leaves nothing but the log', async () => {
      const graph = new Graph().add('broken').add('middle', { needs: ['broken'] });
      graph.add('top', { needs: ['middle'] });
      const error = await errorOf(run(new FakeEngine({ broken: failing }), graph.top('top')));
      expect(error).toMatchObject({
        code: 'FLK_BUILD_FAILED',
        message: 'broken: the builder ended with exit status 2 in buildPhase',
        trail: ['top', 'middle', 'broken'],
      });
      expect(error.facts['last lines']!.split('\n')).toEqual(
        Array.from({ length: 20 }, (_, i) => `line ${i + 10}`),
      );
      expect((await logOf(graph.drv('broken'))).split('\n')).toHaveLength(32);
      expect(outputsInStore()).toEqual([]);
    });

    it('does not flood the error with one endless line; the log has all of it', async () => {
      const long = 'x'.repeat(60_000);
      const graph = new Graph().add('broken');
      const babbling: Action = (request) => {
        request.log(long);
        throw new FlkError('FLK_BUILD_FAILED', 'the builder ended with exit status 2');
      };
      const error = await errorOf(run(new FakeEngine({ broken: babbling }), graph.top('broken')));
      expect(error.facts['last lines']).toBe(`${'x'.repeat(1000)}…`);
      expect(await logOf(graph.drv('broken'))).toBe(`${long}\n`);
    });

    it('stops what is not started yet, unless told to keep going', async () => {
      const graph = new Graph().add('broken').add('late').add('good');
      graph.add('after-good', { needs: ['good'] }).add('top', { needs: ['broken', 'after-good', 'late'] });
      const engine = new FakeEngine({ broken: failing });
      expect(await errorOf(run(engine, graph.top('top'), { jobs: 1 }))).toMatchObject({
        trail: ['top', 'broken'],
      });
      // What ran before is kept.
      const [last, ...before] = engine.requests.toReversed();
      expect(last).toBe('broken');
      for (const name of before) expect(store.query(graph.out(name))).toBeDefined();
      expect(before).not.toContain('after-good');
      const stubborn = new FakeEngine({ broken: failing });
      await errorOf(run(stubborn, graph.top('top'), { jobs: 1, keepGoing: true }));
      expect([...before, ...stubborn.requests].sort()).toEqual(['after-good', 'broken', 'good', 'late']);
    });

    it('is told alone where others were not started', async () => {
      const graph = new Graph()
        .add('broken')
        .add('late')
        .add('later')
        .add('middle', { needs: ['late', 'later'] })
        .add('top', { needs: ['broken', 'middle'] });
      // Whichever of the three has its turn first.
      const engine = new FakeEngine({ broken: failing, late: failing, later: failing });
      const error = await errorOf(run(engine, graph.top('top'), { jobs: 1 }));
      expect(error).toMatchObject({ code: 'FLK_BUILD_FAILED', trail: expect.arrayContaining(['top']) });
      expect(engine.requests).toHaveLength(1);
    });

    it('of several things names them all', async () => {
      const graph = new Graph()
        .add('one')
        .add('two')
        .add('top', { needs: ['one', 'two'] });
      const engine = new FakeEngine({ one: failing, two: failing });
      const error = await errorOf(run(engine, graph.top('top'), { keepGoing: true, jobs: 1 }));
      expect(error.code).toBe('FLK_DEPENDENCY_FAILED');
      expect(Object.keys(error.facts).sort()).toEqual(['one', 'two']);
    });

    it('of a missing, invalid, cyclic or too large output registers none of them', async () => {
      const graph = new Graph().add('p', { outputs: ['dev', 'out'] });
      const attempt = (action: Action, options: Partial<RealiseOptions> = {}) =>
        errorOf(run(new FakeEngine({ p: action }), graph.top('p'), options));
      expect(await attempt((_, place) => writeFileSync(place('out'), ''))).toMatchObject({
        code: 'FLK_BUILD_OUTPUT_MISSING',
        facts: { wanted: graph.out('p', 'dev') },
      });
      const setuid = await attempt((_, place) => {
        writeFileSync(place('dev'), '');
        mkdirSync(place('out'));
        writeFileSync(join(place('out'), 'su'), '');
        chmodSync(join(place('out'), 'su'), 0o4755);
      });
      expect(setuid).toMatchObject({ code: 'FLK_BUILD_OUTPUT_INVALID', trail: ['p', 'output out'] });
      expect(setuid.message).toContain('su');
      const cyclic = await attempt((_, place) => {
        writeFileSync(place('dev'), graph.out('p'));
        writeFileSync(place('out'), graph.out('p', 'dev'));
      });
      expect(cyclic).toMatchObject({ code: 'FLK_BUILD_OUTPUT_INVALID' });
      expect(cyclic.facts.found).toContain(graph.out('p', 'dev'));
      const large: Action = (_, place) => {
        writeFileSync(place('dev'), Buffer.alloc(600));
        writeFileSync(place('out'), Buffer.alloc(600));
      };
      expect(await attempt(large, { maxOutputBytes: 1300 })).toMatchObject({
        code: 'FLK_BUILD_OUTPUT_LIMIT',
      });
      expect(outputsInStore()).toEqual([]);
      await run(new FakeEngine({ p: large }), graph.top('p'), { maxOutputBytes: 3000 });
    });

    it('by an interruption starts nothing more', async () => {
      const graph = new Graph().add('first').add('top', { needs: ['first'] });
      const abort = new AbortController();
      const engine = new FakeEngine({
        first: (_, place) => {
          writeFileSync(place('out'), '');
          abort.abort();
        },
      });
      const error = await errorOf(run(engine, graph.top('top'), {}, abort.signal));
      expect(error.code).toBe('FLK_INTERRUPTED');
      expect(engine.requests).toEqual(['first']);
      expect(outputsInStore()).toEqual([]);
    });
  });

  describe('a substituter', () => {
    /** Offers the outputs named; gives those it was asked for. */
    const substituterOf = (graph: Graph, names: readonly string[]) => {
      const asked: StorePath[] = [];
      const offered = new Set(names.map((name) => graph.out(name)));
      return {
        asked,
        offers: async () => new Map(),
        substitute: async (path: StorePath) => {
          asked.push(path);
          if (!offered.has(path)) return false;
          const staged = join(temporaryFolder(), 'staged');
          writeFileSync(staged, 'from a cache');
          const { narHash, narSize } = await hashTree(walkPath(staged));
          const info = { path, narHash, narSize, references: [], signatures: [] };
          await store.register([{ info: { ...info, registrationTime: 1, ultimate: false }, staged }]);
          return true;
        },
      };
    };

    it('is asked first, and what it gives needs no inputs', async () => {
      const graph = new Graph().add('deep').add('base', { needs: ['deep'] });
      graph.add('p', { needs: ['base'] });
      const engine = new FakeEngine();
      const substituter = substituterOf(graph, ['base']);
      const context = {
        store,
        builders: soleBuilder(engine),
        reporter: silent,
        download: noDownload,
        substituter,
      };
      const { built, substituted } = await realise(context, graph.top('p'), { jobs: 2, cores: 1 });
      expect([built, substituted]).toEqual([[graph.drv('p')], [graph.drv('base')]]);
      expect(substituter.asked).toEqual([graph.out('p'), graph.out('base')]);
    });

    it('must have all outputs, or they are built', async () => {
      const graph = new Graph().add('p', { outputs: ['out', 'dev'] });
      const engine = new FakeEngine();
      const substituter = substituterOf(graph, ['p']);
      const context = {
        store,
        builders: soleBuilder(engine),
        reporter: silent,
        download: noDownload,
        substituter,
      };
      const { built, substituted } = await realise(context, graph.top('p'), { jobs: 2, cores: 1 });
      expect([built, substituted]).toEqual([[graph.drv('p')], []]);
    });
  });

  describe('--rebuild', () => {
    const constant: Action = (_, place) => {
      mkdirSync(join(place('out'), 'bin'), { recursive: true });
      writeFileSync(join(place('out'), 'bin/hello'), 'hello');
    };

    it('is content when the bytes are the same', async () => {
      const graph = new Graph().add('p');
      const engine = new FakeEngine({ p: constant });
      await run(engine, graph.top('p'));
      expect(await run(engine, graph.top('p'), { rebuild: true })).toMatchObject({
        built: [],
        repaired: false,
      });
      expect(engine.requests).toEqual(['p', 'p']);
    });

    it('names every file that differs and keeps what is there', async () => {
      const graph = new Graph().add('p');
      let time = 0;
      const engine = new FakeEngine({
        p: (request, place) => {
          constant(request, place);
          writeFileSync(join(place('out'), 'stamp'), String(++time));
          writeFileSync(join(place('out'), `only-${time}`), '');
          writeFileSync(join(place('out'), 'mode'), '', { mode: time === 1 ? 0o644 : 0o755 });
          if (time === 1) symlinkSync('x', join(place('out'), 'kind'));
          else mkdirSync(join(place('out'), 'kind'));
        },
      });
      await run(engine, graph.top('p'));
      const before = everything(store.physical(graph.out('p')));
      const error = await errorOf(run(engine, graph.top('p'), { rebuild: true }));
      expect(error.code).toBe('FLK_BUILD_NOT_REPRODUCIBLE');
      const out = graph.out('p');
      expect(error.facts).toEqual({
        [`${out}/kind`]: 'was a symlink, is a folder',
        [`${out}/mode`]: 'was a file, is an executable file',
        [`${out}/only-1`]: 'missing in the new one',
        [`${out}/only-2`]: 'only in the new one',
        [`${out}/stamp`]: 'content at byte 0: “1” became “2”',
      });
      expect(everything(store.physical(graph.out('p')))).toEqual(before);
      expect(readdirSync(join(root, 'nix/var/flk/stage'))).toEqual([]);
    });

    it('puts a path right that is not what was put there', async () => {
      const graph = new Graph().add('p');
      const engine = new FakeEngine({ p: constant });
      await run(engine, graph.top('p'));
      const broken = join(store.physical(graph.out('p')), 'bin/hello');
      chmodSync(broken, 0o644);
      writeFileSync(broken, 'HELLO');
      expect((await run(engine, graph.top('p'), { rebuild: true })).repaired).toBe(true);
      expect(readFileSync(broken, 'utf8')).toBe('hello');
      await store.verifyPath(graph.out('p'));
    });

    it('builds what it needs when only the package itself is left', async () => {
      const graph = new Graph().add('base').add('p', { needs: ['base'] });
      const engine = new FakeEngine();
      await run(engine, graph.top('p'));
      const emptied = await openStore(temporaryFolder());
      try {
        expect(engine.requests).toEqual(['base', 'p']);
        await realise(
          { store: emptied, builders: soleBuilder(engine, 2), reporter: silent, download: noDownload },
          graph.top('p'),
          {
            jobs: 1,
            cores: 1,
            rebuild: true,
          },
        );
        expect(engine.requests).toEqual(['base', 'p', 'base', 'p', 'p']);
      } finally {
        emptied.close();
      }
    });
  });

  it('reports each build as a span with its lines', async () => {
    const graph = new Graph().add('p');
    const events: Event[] = [];
    const engine = new FakeEngine({
      p: ({ log }, place) => {
        log('hi');
        writeFileSync(place('out'), '');
      },
    });
    const reporter = { emit: (event: Event) => void events.push(event) };
    await realise({ store, builders: soleBuilder(engine), reporter, download: noDownload }, graph.top('p'), {
      jobs: 1,
      cores: 1,
    });
    expect(events).toMatchObject([
      { kind: 'start', activity: { type: 'build', name: 'p', drvPath: graph.drv('p'), builder: 'fake' } },
      { kind: 'log', line: 'hi' },
      { kind: 'end', outcome: 'ok' },
    ]);
  });
});

describe('resultLink', () => {
  it('makes, keeps and replaces a symlink, and makes it a root', async () => {
    const link = join(temporaryFolder(), 'result');
    await resultLink(store, link, '/one');
    await resultLink(store, link, '/one');
    await resultLink(store, link, '/two');
    expect(readlinkSync(link)).toBe('/two');
    expect(readdirSync(dirname(link))).toEqual(['result']);
    const roots = join(root, 'nix/var/nix/gcroots/auto');
    expect(readdirSync(roots).map((name) => readlinkSync(join(roots, name)))).toEqual([link]);
  });

  it('leaves anything else alone', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), 'mine');
    mkdirSync(join(folder, 'folder'));
    for (const name of ['file', 'folder', 'no/such/folder'])
      expect(await errorOf(resultLink(store, join(folder, name), '/x'))).toMatchObject({
        code: 'FLK_FILE_UNWRITABLE',
      });
    expect(readFileSync(join(folder, 'file'), 'utf8')).toBe('mine');
    expect(existsSync(join(folder, 'folder'))).toBe(true);
  });
});
