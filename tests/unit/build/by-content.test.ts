/** Packages whose paths follow from content, and merges of what is built: instantiated and realised, by an engine that runs nothing. */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { silent } from '../../../src/base/events.ts';
import type { Engine } from '../../../src/build/engines/engine.ts';
import {
  type ClosureRequest,
  type InstantiatedPackage,
  type InstantiationContext,
  Instantiator,
} from '../../../src/build/instantiate.ts';
import type { Instantiation } from '../../../src/build/instantiation.ts';
import { realise } from '../../../src/build/realise.ts';
import { narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { makeFixedOutputPath, makeSourcePath, type StorePath } from '../../../src/formats/store-path.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { playedEngine, soleBuilder } from '../../support/builds.ts';
import { errorOf } from '../../support/errors.ts';
import { lockedWorld } from '../../support/locked-flakes.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

/** What a package of these tests leaves at its output; `env` is its environment. */
type Action = (place: string, env: ReadonlyMap<string, string>) => void;

let store: Store;
beforeEach(async () => {
  store = await openStore(temporaryFolder());
  return () => store.close();
});

class World {
  readonly built: string[] = [];
  readonly imported: ClosureRequest[] = [];
  readonly #actions: Readonly<Record<string, Action>>;

  constructor(actions: Readonly<Record<string, Action>>) {
    this.#actions = actions;
  }

  readonly #engine: Engine = playedEngine(async ({ derivation }) => {
    const name = derivation.env.get('name')!;
    this.built.push(name);
    const folder = mkdtempSync(join(temporaryFolder(), 'build-'));
    const action = this.#actions[name] ?? ((place) => writeFileSync(place, name));
    action(join(folder, 'out'), derivation.env);
    return { outputs: new Map([['out', join(folder, 'out')]]), dispose: async () => {} };
  });

  async instantiate(
    manifest: string,
    name: string,
    more: Partial<InstantiationContext> = {},
  ): Promise<InstantiatedPackage> {
    const world = await lockedWorld(directory({ 'flake.yaml': file(manifest), 'README.md': file('x') }));
    const context: InstantiationContext = {
      ...world,
      store,
      system: 'x86_64-linux',
      reporter: silent,
      download: () => expect.unreachable('a download'),
      realise: async (instantiation) => await this.realise(instantiation),
      importClosure: async (request) => {
        this.imported.push(request);
        await store.addTree('lib', treeFrom(directory({ lib: file('lib') })));
      },
      ...more,
    };
    return new Instantiator(context).instantiate({ inputs: [], name });
  }

  async realise(instantiation: Instantiation): Promise<ReadonlyMap<string, StorePath>> {
    const context = {
      store,
      builders: soleBuilder(this.#engine),
      reporter: silent,
      download: () => expect.unreachable('a download'),
    };
    return (await realise(context, instantiation, { jobs: 2, cores: 1 })).outputs;
  }

  /** Instantiates and realises; the path of `out`. */
  async build(manifest: string, name: string): Promise<StorePath> {
    return (await this.realise(await this.instantiate(manifest, name))).get('out')!;
  }
}

const write = (place: string, files: Readonly<Record<string, string>>): void => {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(place, path, '..'), { recursive: true });
    writeFileSync(join(place, path), text);
  }
};

describe('contentAddressed', () => {
  const manifest = (phase: string) => `packages:
  lib: { contentAddressed: true, buildPhase: "${phase}" }
  app: { buildInputs: [lib], buildPhase: x }
  top: { buildInputs: [app], buildPhase: x }
`;
  const same: Action = (place, env) => write(place, { 'lib/a': 'always the same', self: env.get('out')! });

  test('a rebuild that gives the same bytes rebuilds nothing above it', async () => {
    const world = new World({ lib: same });
    const first = await world.build(manifest('one'), 'top');
    expect(world.built).toEqual(['lib', 'app', 'top']);
    expect(await world.build(manifest('two'), 'top')).toBe(first);
    expect(world.built).toEqual(['lib', 'app', 'top', 'lib']);
    // What is known is not built again to be known.
    await world.build(manifest('one'), 'top');
    expect(world.built).toHaveLength(4);
  });

  test('other bytes give another path', async () => {
    const world = new World({ lib: (place, env) => write(place, { a: env.get('buildPhase')! }) });
    const first = await world.build(manifest('one'), 'app');
    expect(await world.build(manifest('two'), 'app')).not.toBe(first);
    expect(world.built).toEqual(['lib', 'app', 'lib', 'app']);
  });

  test('names itself by its new path, and is held by what names it', async () => {
    const world = new World({
      lib: same,
      app: (place, env) => writeFileSync(place, env.get('buildInputs')!),
    });
    const app = await world.build(manifest('one'), 'app');
    const lib = readFileSync(store.physical(app), 'utf8') as StorePath;
    expect(store.query(app)!.references).toEqual([lib]);
    expect(readFileSync(join(store.physical(lib), 'self'), 'utf8')).toBe(lib);
    expect(store.query(lib)).toMatchObject({
      references: [lib],
      ca: expect.stringMatching(/^fixed:r:sha256:/),
    });
    await store.verifyPath(lib);
  });

  test('asked for by itself it is the build that it is', async () => {
    const world = new World({ lib: same });
    const { top, derivations } = await world.instantiate(manifest('one'), 'lib');
    expect(world.built).toEqual([]);
    expect(derivations.get(top)!.name).toBe('lib');
  });

  test('that cannot be built keeps what stands on it from being named', async () => {
    const world = new World({});
    const refuse = () => Promise.reject(new FlkError('FLK_BUILD_FAILED', 'lib does not build'));
    expect(await errorOf(world.instantiate(manifest('one'), 'app', { realise: refuse }))).toMatchObject({
      code: 'FLK_BUILD_FAILED',
      trail: ['#app'],
    });
  });

  test.skipIf(!nixAvailable())(`has the path that Nix gives the same bytes ${nixReason}`, async () => {
    const world = new World({
      lib: same,
      app: (place, env) => writeFileSync(place, env.get('buildInputs')!),
    });
    const app = await world.build(manifest('one'), 'app');
    const copy = readFileSync(store.physical(app), 'utf8') as StorePath;
    // Nix makes a path that names itself, and then the copy of it.
    const expression = `derivation { name = "lib"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin"; args = [ "-c" "mkdir -p $out/lib; printf 'always the same' > $out/lib/a; printf %s $out > $out/self" ]; }`;
    const built = await nix(['build', '--impure', '--no-link', '--print-out-paths', '--expr', expression]);
    const { stdout, stderr } = await nix(['store', 'make-content-addressed', '--json', built.stdout.trim()]);
    expect(stderr).not.toContain('error');
    expect(Object.values((JSON.parse(stdout) as { rewrites: Record<string, string> }).rewrites)).toEqual([
      copy,
    ]);
  });
});

describe('outputHash', () => {
  const hash = narHashOf(sha256('known'));
  test('gives a path that does not depend on how it is made, and nothing above is built again', async () => {
    const manifest = (phase: string) => `packages:
  data: { outputHash: "${hash}", buildPhase: "${phase}" }
  app: { buildInputs: [data], buildPhase: x }
`;
    const world = new World({ data: (place) => writeFileSync(place, 'known') });
    const app = await world.build(manifest('one'), 'app');
    const data = makeFixedOutputPath('data', 'sha256', sha256('known'));
    expect(store.query(data)!.ca).toMatch(/^fixed:sha256:/);
    expect(await world.build(manifest('two'), 'app')).toBe(app);
    expect(world.built).toEqual(['data', 'app']);
  });

  test('of a tree is that of its NAR', async () => {
    const { narHash } = await hashTree(treeFrom(directory({ a: file('b') })));
    const world = new World({ tree: (place) => write(place, { a: 'b' }) });
    const manifest = `packages: { tree: { outputHash: "${narHash}", outputHashMode: recursive, buildPhase: x } }\n`;
    expect(await world.build(manifest, 'tree')).toBe(makeSourcePath('tree', narHash));
  });

  test.each<[string, Action, string]>([
    ['other bytes', (place) => writeFileSync(place, 'other'), 'FLK_FETCH_HASH_MISMATCH'],
    ['a folder for a flat hash', (place) => write(place, { a: 'b' }), 'FLK_BUILD_OUTPUT_INVALID'],
    [
      'a path of the store',
      (place, env) => writeFileSync(place, env.get('buildInputs')!),
      'FLK_BUILD_OUTPUT_INVALID',
    ],
  ])('refuses %s', async (_what, action, code) => {
    const world = new World({ data: action });
    const manifest = `packages: { lib: { buildPhase: x }, data: { outputHash: "${hash}", buildInputs: [lib], buildPhase: x } }\n`;
    const error = await errorOf(world.build(manifest, 'data'));
    expect(error).toMatchObject({ code });
    expect(error).toBeInstanceOf(FlkError);
  });
});

describe('a merge of what is built', () => {
  const actions: Readonly<Record<string, Action>> = {
    a: (place, env) => {
      write(place, { 'bin/tool': 'from a', 'share/own': env.get('out')! });
      chmodSync(join(place, 'bin/tool'), 0o755);
      symlinkSync(`${env.get('out')}/bin/tool`, join(place, 'bin/link'));
    },
    b: (place) => write(place, { 'bin/tool': 'from b', 'bin/other': 'b' }),
    c: (place) => write(place, { 'bin/other': 'b' }),
  };
  const manifest = (parts: string) =>
    `packages: { a: { buildPhase: x }, b: { buildPhase: x }, c: { buildPhase: x }, m: { merge: [${parts}], links: { bin/sh: tool } } }\n`;

  test('unites them, and keeps alive what its files and links name', async () => {
    const world = new World(actions);
    const made = await world.instantiate(manifest('"#a", "#c"'), 'm');
    const path = (await world.realise(made)).get('out')!;
    expect(readdirSync(join(store.physical(path), 'bin')).sort()).toEqual(['link', 'other', 'sh', 'tool']);
    const a = [...made.derivations.values()]
      .find(({ name }) => name === 'a')!
      .derivation.outputs.get('out')!.path;
    expect(store.query(path)).toMatchObject({ references: [a], deriver: made.top });
    expect(store.query(path)!.ca).toBeUndefined();
    await store.verifyPath(path);
  });

  test('of two parts that differ asks which wins, and takes that one in whatever order', async () => {
    const world = new World(actions);
    const error = await errorOf(world.build(manifest('"#a", "#b"'), 'm'));
    expect(error).toMatchObject({
      code: 'FLK_PACKAGE_INVALID',
      hint: expect.stringContaining('priority: 4'),
    });
    expect(error.message).toMatch(/^a and b both have bin\/tool/);
    for (const parts of ['"#a", { ref: "#b", priority: 4 }', '{ ref: "#b" }, { ref: "#a", priority: 9 }']) {
      const path = await world.build(manifest(parts), 'm');
      expect(readFileSync(join(store.physical(path), 'bin/tool'), 'utf8')).toBe('from b');
      expect(readdirSync(join(store.physical(path), 'share'))).toEqual(['own']);
    }
  });

  test('may be a toolchain and an input of a build', async () => {
    const world = new World(actions);
    const { derivations, top } = await world.instantiate(
      'packages: { a: { buildPhase: x }, m: { merge: ["#a"] }, d: { toolchain: "#m", buildInputs: [m], buildPhase: x } }\n',
      'd',
    );
    const { toolchain, derivation } = derivations.get(top)!;
    expect(toolchain).toEqual({ kind: 'path', path: derivation.env.get('buildInputs') });
  });
});

describe('storePath', () => {
  const known = async () => {
    const { narHash } = await hashTree(treeFrom(directory({ lib: file('lib') })));
    return { narHash, path: makeSourcePath('lib', narHash) };
  };
  const manifest = async () => {
    const { path, narHash } = await known();
    const key = `k:${Buffer.alloc(32).toString('base64')}`;
    return `packages:
  lib: { storePath: ${path}, narHash: "${narHash}", cache: "https://c.example", publicKey: "${key}" }
  app: { toolchain: "#lib", buildInputs: [lib], env: { L: "{{#lib}}/lib" }, buildPhase: x }
  merged: { merge: ["#lib"] }
`;
  };

  test('is a source that a cache gives', async () => {
    const { path, narHash } = await known();
    const world = new World({});
    const made = await world.instantiate(await manifest(), 'app');
    expect(world.imported).toEqual([]);
    const { derivation, toolchain } = made.derivations.get(made.top)!;
    expect(derivation.inputSrcs).toContain(path);
    expect(derivation.env.get('L')).toBe(`${path}/lib`);
    expect(toolchain).toEqual({ kind: 'path', path });
    await world.realise(made);
    expect(world.imported).toMatchObject([{ path, narHash, caches: ['https://c.example'] }]);
    expect(made.hostToolchain).toEqual([]);
  });

  test('may be asked for by itself', async () => {
    const { path } = await known();
    const world = new World({});
    const made = await world.instantiate(await manifest(), 'lib');
    expect([made.top, made.derivations.size]).toEqual([path, 0]);
    expect(await world.realise(made)).toEqual(new Map([['out', path]]));
    expect(store.query(path)).toBeDefined();
  });

  test('in a merge makes that one a build, since it may name store paths', async () => {
    const world = new World({});
    const path = await world.build(await manifest(), 'merged');
    expect(store.query(path)!.ca).toBeUndefined();
    expect(readdirSync(store.physical(path))).toEqual(['lib']);
  });

  test('that the store has with other bytes is refused', async () => {
    const { narHash } = await known();
    const path = (await store.addTree('lib', treeFrom(file('other')))).path;
    const text = (await manifest()).replace(/storePath: [^,]+/, `storePath: ${path}`);
    const error = await errorOf(new World({}).instantiate(text, 'app'));
    expect(error).toMatchObject({ code: 'FLK_NAR_HASH_MISMATCH', facts: { wanted: narHash } });
  });
});

describe('what changes nothing', () => {
  const paths = async (manifest: string) => (await new World({}).instantiate(manifest, 'app')).top;
  const plain = 'packages: { app: { src: { path: ., exclude: ["*.md"] }, buildPhase: x } }\n';

  test.each([
    ['a comment', `# hello\n${plain}`],
    ['a description', `description: d\n${plain}`],
    ['meta', plain.replace('buildPhase: x', 'buildPhase: x, meta: { license: MIT }')],
    ['a package beside it', plain.replace('packages: {', 'packages: { other: { buildPhase: y },')],
  ])('%s', async (_what, changed) => {
    const before = plain.replace('exclude: ["*.md"]', 'include: [README.md]');
    expect(await paths(changed.replace('exclude: ["*.md"]', 'include: [README.md]'))).toBe(
      await paths(before),
    );
  });

  test('where a fetch comes from', async () => {
    const fetch = (url: string) =>
      `packages: { data: { fetch: { url: "${url}", hash: "${narHashOf(sha256('x'))}" } }, app: { src: "#data", buildPhase: x } }\n`;
    const world = new World({});
    const outputOf = async (url: string) => {
      const { top, derivations } = await world.instantiate(fetch(url), 'app');
      return derivations.get(top)!.derivation.outputs.get('out')!.path;
    };
    expect(await outputOf('https://a.example/x')).toBe(await outputOf('https://b.example/y'));
  });
});
