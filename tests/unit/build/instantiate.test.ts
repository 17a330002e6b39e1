import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { FlkError } from '../../../src/base/errors.ts';
import { silent } from '../../../src/base/events.ts';
import { type InstantiatedPackage, instantiate } from '../../../src/build/instantiate.ts';
import { mergeKey } from '../../../src/build/merge.ts';
import { setupRunner } from '../../../src/build/setup.ts';
import { parsePackageRef } from '../../../src/flake/package-ref.ts';
import { assertOutputPaths, derivationPath, hashDerivationModulo } from '../../../src/formats/derivation.ts';
import { narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { makeSourcePath, nameOf, type StorePath } from '../../../src/formats/store-path.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { tarOf } from '../../support/archives.ts';
import { errorOf } from '../../support/errors.ts';
import { type InputFixture, type LockedWorld, lockedWorld } from '../../support/locked-flakes.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, type Node, symlink, treeFrom } from '../../support/trees.ts';

let store: Store;
beforeAll(async () => {
  store = await openStore(temporaryFolder());
});
afterAll(() => store.close());

const flakeTree = (manifest: string, more: Readonly<Record<string, Node>> = {}): Node =>
  directory({ 'flake.yaml': file(manifest), ...more });

async function make(world: LockedWorld, name: string, system = 'x86_64-linux'): Promise<InstantiatedPackage> {
  const ref = parsePackageRef(name, 'package');
  const made = await instantiate(
    { ...world, store, system, reporter: silent, download: () => expect.unreachable('a download') },
    { ...ref, name: ref.name ?? 'default' },
  );
  check(made);
  return made;
}

/** What holds for every instantiation. */
function check({ top, derivations, sources }: InstantiatedPackage): void {
  const modulo = (path: StorePath): string => hashDerivationModulo(derivations.get(path)!.derivation, modulo);
  expect(derivations.has(top)).toBe(true);
  for (const [drvPath, { derivation, name, toolchain }] of derivations) {
    expect(derivationPath(name, derivation)).toBe(drvPath);
    expect(nameOf(drvPath)).toBe(`${name}.drv`);
    assertOutputPaths(name, derivation, modulo);
    const known = new Set<string>(derivation.inputSrcs);
    for (const source of derivation.inputSrcs) expect(sources.has(source)).toBe(true);
    for (const [input, names] of derivation.inputDrvs) {
      const { outputs } = derivations.get(input)!.derivation;
      for (const output of names) known.add(outputs.get(output)!.path);
    }
    for (const { path } of derivation.outputs.values()) known.add(path);
    if (toolchain.kind === 'path') expect(known).toContain(toolchain.path);
    const mentioned =
      [...derivation.env.values(), ...derivation.args].join('\n').match(/\/nix\/store\/[^/\s"]+/g) ?? [];
    for (const path of mentioned) expect(known).toContain(path);
  }
}

const topOf = (made: InstantiatedPackage) => made.derivations.get(made.top)!;

async function world(
  manifest: string,
  more?: Readonly<Record<string, Node>>,
  inputs?: Readonly<Record<string, InputFixture>>,
) {
  return lockedWorld(flakeTree(manifest, more), inputs);
}

describe('a built package', () => {
  test('has the attributes that docs/derivations.md lists, and no others', async () => {
    const made = await make(
      await world(
        `packages:
  default: hello
  hello:
    version: "1.0"
    src: .
    patches: [./fix.patch]
    buildInputs: [helper]
    env: { GREETING: Hello }
    buildPhase: make
    installPhase: cp hello $out
    outputs: [out, dev]
  helper: { installPhase: mkdir $out }
`,
        { 'main.c': file('int main;'), 'fix.patch': file('--- a\n') },
      ),
      'default',
    );
    const { derivation, name, toolchain } = topOf(made);
    const setup = setupRunner(1).path;
    const helper = [...made.derivations.values()].find((planned) => planned.name === 'helper')!;
    const src = (
      await hashTree(treeFrom(directory({ 'main.c': file('int main;'), 'fix.patch': file('--- a\n') })))
    ).narHash;
    const patch = (await hashTree(treeFrom(file('--- a\n')))).narHash;
    expect(name).toBe('hello-1.0');
    expect(toolchain).toEqual({ kind: 'host' });
    expect({ ...derivation, env: Object.fromEntries(derivation.env) }).toMatchObject({
      system: 'x86_64-linux',
      builder: '/bin/sh',
      args: [setup],
      env: {
        name: 'hello-1.0',
        system: 'x86_64-linux',
        builder: '/bin/sh',
        out: derivation.outputs.get('out')!.path,
        dev: derivation.outputs.get('dev')!.path,
        outputs: 'out dev',
        src: makeSourcePath('source', src),
        patches: makeSourcePath('fix.patch', patch),
        buildInputs: helper.derivation.outputs.get('out')!.path,
        toolchain: 'host',
        GREETING: 'Hello',
        buildPhase: 'make',
        installPhase: 'cp hello $out',
      },
    });
    expect(derivation.env.size).toBe(13);
    expect(nameOf(derivation.outputs.get('dev')!.path)).toBe('hello-1.0-dev');
    expect([...derivation.inputSrcs].sort()).toEqual(
      [makeSourcePath('source', src), makeSourcePath('fix.patch', patch), setup].sort(),
    );
    expect(made).toMatchObject({
      outputs: ['out'],
      hostToolchain: ['hello-1.0', 'helper'],
      declaration: { name: 'hello' },
    });
    expect([...helper.derivation.env.keys()].sort()).toEqual([
      'builder',
      'installPhase',
      'name',
      'out',
      'system',
      'toolchain',
    ]);
  });

  test('is the same whatever else the tree, the lock and the manifest hold', async () => {
    const manifest = 'packages: { a: { src: { path: ., include: [a.c] }, buildPhase: make } }\n';
    const one = await make(await world(manifest, { 'a.c': file('a') }), 'a');
    const two = await make(
      await world(`description: other\n${manifest}`, { 'a.c': file('a'), 'b.c': file('b') }),
      'a',
    );
    expect(two.top).toBe(one.top);
    const three = await make(await world(manifest, { 'a.c': file('changed') }), 'a');
    expect(three.top).not.toBe(one.top);
  });

  test('refers to outputs, sources and folders of sources by {{ }}', async () => {
    const lib = flakeTree('packages: { default: { outputs: [out, dev], buildPhase: x } }\n');
    const made = await make(
      await world(
        `inputs: { lib: { url: "git+https://test.example/lib" }, assets: { url: "git+https://test.example/assets", flake: false } }
packages:
  a:
    src: assets/fonts
    env: { LIB: "-I{{lib#.dev}}/include:{{lib#}}", SELF: "{{{{x}}" }
    buildPhase: cp {{assets}}/x {{#b}} $out
  b: { buildPhase: touch $out }
`.replace('{{lib#.dev}}', '{{lib#default.dev}}'),
        {},
        {
          lib: { tree: lib },
          assets: { tree: directory({ fonts: directory({ f: file('') }) }), flake: false },
        },
      ),
      'a',
    );
    const { derivation } = topOf(made);
    const byName = (name: string) => [...made.derivations].find(([, planned]) => planned.name === name)!;
    const [libDrv, { derivation: libDerivation }] = byName('default');
    const [bDrv, { derivation: b }] = byName('b');
    const assets = makeSourcePath(
      'source',
      (await hashTree(treeFrom(directory({ fonts: directory({ f: file('') }) })))).narHash,
    );
    expect(derivation.env.get('src')).toBe(`${assets}/fonts`);
    expect(derivation.env.get('LIB')).toBe(
      `-I${libDerivation.outputs.get('dev')!.path}/include:${libDerivation.outputs.get('out')!.path}`,
    );
    expect(derivation.env.get('SELF')).toBe('{{x}}');
    expect(derivation.env.get('buildPhase')).toBe(`cp ${assets}/x ${b.outputs.get('out')!.path} $out`);
    expect(new Map(derivation.inputDrvs)).toEqual(
      new Map([
        [libDrv, ['dev', 'out']],
        [bDrv, ['out']],
      ]),
    );
  });

  test('puts its sources into the store when asked, and not before', async () => {
    const made = await make(
      await world('packages: { a: { src: ., buildPhase: x } }\n', { unique: file('stored on demand') }),
      'a',
    );
    const src = topOf(made).derivation.env.get('src') as StorePath;
    expect(store.query(src)).toBeUndefined();
    for (const ensure of made.sources.values()) await ensure();
    for (const path of made.sources.keys()) await store.verifyPath(path);
    expect([...made.sources.keys()].sort()).toEqual([src, setupRunner(1).path].sort());
  });

  test('fetches no input that it does not need the bytes of', async () => {
    const made = await world(
      `inputs: { used: { url: "git+https://test.example/used" }, assets: { url: "git+https://test.example/assets", flake: false }, other: { url: "git+https://test.example/other" } }
packages: { a: { src: assets, buildInputs: [used#lib], buildPhase: x } }
`,
      {},
      {
        used: { tree: flakeTree('packages: { lib: { buildPhase: x } }\n') },
        assets: { tree: directory({ f: file('') }), flake: false },
        other: { tree: flakeTree('packages: {}\n') },
      },
    );
    await make(made, 'a');
    expect(made.fetched).toEqual(['used']);
  });
});

describe('packages of other flakes', () => {
  const deep = flakeTree('packages: { lib: { version: "1", buildPhase: "echo deep > $out" } }\n');
  const deeper = flakeTree('packages: { lib: { version: "2", buildPhase: "echo deeper > $out" } }\n');
  const middle = flakeTree(
    'inputs: { deep: { url: "git+https://test.example/deep" } }\npackages: { default: all, all: { buildInputs: ["deep#lib"], src: ., buildPhase: x } }\n',
    { code: file('c') },
  );
  const manifest = `inputs: { middle: { url: "git+https://test.example/middle" } }
packages: { default: "middle#", a: { buildInputs: ["middle#", "middle/deep#lib"], buildPhase: x } }
`;

  test('are instantiated in the locked graph of the root, follows and all', async () => {
    const plain = await lockedWorld(
      flakeTree(manifest),
      { middle: { tree: middle, inputs: { deep: 'deep' } }, deep: { tree: deep } },
      { middle: 'middle' },
    );
    const made = await make(plain, 'a');
    expect([...made.derivations.values()].map(({ name }) => name).sort()).toEqual(['a', 'all', 'lib-1']);
    // The middle's own folder is its source.
    const all = [...made.derivations.values()].find(({ name }) => name === 'all')!;
    const src = (await hashTree(treeFrom(directory({ code: file('c') })))).narHash;
    expect(all.derivation.env.get('src')).toBe(makeSourcePath('source', src));
    const follows = await lockedWorld(
      flakeTree(manifest),
      { middle: { tree: middle, inputs: { deep: ['mine'] } }, deeper: { tree: deeper } },
      { middle: 'middle', mine: 'deeper' },
    );
    expect([...(await make(follows, 'a')).derivations.values()].map(({ name }) => name).sort()).toEqual([
      'a',
      'all',
      'lib-2',
    ]);
    const same = await make(plain, 'default');
    expect(topOf(same).name).toBe('all');
    expect((await make(plain, 'middle#all')).top).toBe(same.top);
  });

  test('below a folder, and relative to another flake', async () => {
    const mono = flakeTree('packages: {}\n', {
      libs: directory({
        foo: flakeTree(
          'packages: { foo: { src: ., env: { ALL: "{{bar}}" }, buildPhase: x } }\ninputs: { bar: { url: "path:../bar", flake: false } }\n',
          { 'foo.c': file('f') },
        ),
        bar: directory({ 'bar.c': file('b') }),
      }),
    });
    const made = await lockedWorld(
      flakeTree(
        'packages: { a: { buildInputs: ["foo#foo"], src: foo, buildPhase: x } }\ninputs: { foo: { url: "git+https://test.example/mono?dir=libs/foo" } }\n',
      ),
      {
        mono: { tree: mono, dir: 'libs/foo', inputs: { bar: 'bar' } },
        bar: { tree: directory(), flake: false, dir: 'sub', relative: { path: '../bar', parent: ['foo'] } },
      },
      { foo: 'mono' },
    );
    const whole = makeSourcePath('source', (await hashTree(treeFrom(mono))).narHash);
    const result = await make(made, 'a');
    expect(topOf(result).derivation.env.get('src')).toBe(`${whole}/libs/foo`);
    const foo = [...result.derivations.values()].find(({ name }) => name === 'foo')!;
    expect(foo.derivation.env.get('ALL')).toBe(`${whole}/libs/bar/sub`);
    expect(foo.derivation.env.get('src')).toBe(
      makeSourcePath('source', (await hashTree(treeFrom(directory({ 'foo.c': file('f') })))).narHash),
    );
  });
});

describe('toolchains, fetches and merges', () => {
  const folder = temporaryFolder();
  const serve = (name: string, bytes: Buffer): string => {
    writeFileSync(join(folder, name), bytes);
    return pathToFileURL(join(folder, name)).href;
  };
  const tools = serve(
    'tools.tar',
    tarOf({ path: 'bin/sh', contents: 'sh', mode: 0o755 }, { path: 'usr/x', contents: '1' }),
  );
  const toolsHash = async () =>
    (
      await hashTree(
        treeFrom(directory({ bin: directory({ sh: file('sh', true) }), usr: directory({ x: file('1') }) })),
      )
    ).narHash;
  const single = serve('single', Buffer.from('one file\n'));

  const manifest = async () => `toolchain: "#base"
packages:
  tools: { fetch: { url: "${tools}", hash: "${await toolsHash()}", unpack: true } }
  base: { merge: ["#tools", extra], links: { bin/cc: sh } }
  again: { merge: ["#base"], links: { z: y } }
  data: { fetch: { url: "${single}", hash: "${narHashOf(sha256('one file\n'))}" } }
  a: { src: "#data", buildPhase: x }
  host: { toolchain: host, buildPhase: x }
  direct: { toolchain: "#tools", buildPhase: x }
inputs: { extra: { url: "git+https://test.example/extra", flake: false } }
`;
  const extra = directory({ usr: directory({ y: symlink('x') }) });
  const merged = directory({
    bin: directory({ sh: file('sh', true), cc: symlink('sh') }),
    usr: directory({ x: file('1'), y: symlink('x') }),
  });
  const make2 = async (name: string) => {
    const made = await world(await manifest(), {}, { extra: { tree: extra, flake: false } });
    return { made: await make(made, name), fetched: made.fetched };
  };

  test('a merge enters as a source, known by its content, computed once', async () => {
    const base = makeSourcePath('base', (await hashTree(treeFrom(merged))).narHash);
    const { made, fetched } = await make2('a');
    const { derivation, toolchain } = topOf(made);
    expect(toolchain).toEqual({ kind: 'path', path: base });
    expect(derivation.env.get('toolchain')).toBe(base);
    expect(derivation.inputSrcs).toContain(base);
    expect(made.hostToolchain).toEqual([]);
    expect(fetched).toEqual(['extra']);
    await store.verifyPath(base);
    // Only the fetch that is built with is a derivation of this build; those in the merge have done their duty.
    expect([...made.derivations.values()].map(({ name }) => name).sort()).toEqual(['a', 'data']);
    expect((await make2('a')).fetched).toEqual([]);
    const parts = [
      { label: '', path: makeSourcePath('tools', await toolsHash()) },
      { label: '', path: makeSourcePath('source', (await hashTree(treeFrom(extra))).narHash) },
    ];
    expect(store.memo(mergeKey(parts, new Map([['bin/cc', 'sh']])))).toBe(store.query(base)?.narHash);
  });

  test('a merge may lie in a merge', async () => {
    const { made } = await make2('again');
    expect(topOf(made).name).toBe('again');
    expect(topOf(made).derivation.builder).toBe('builtin:flk-merge');
  });

  test('a merge that is asked for is a derivation over its parts', async () => {
    const { made } = await make2('base');
    const { derivation } = topOf(made);
    const { narHash } = await hashTree(treeFrom(merged));
    expect(derivation.outputs.get('out')!.path).toBe(makeSourcePath('base', narHash));
    expect([...made.derivations.values()].map(({ name }) => name).sort()).toEqual(['base', 'tools']);
    expect(made.declaration.kind).toBe('merge');
  });

  test('a fetch is a fixed output, also as a toolchain or a source', async () => {
    const { made } = await make2('direct');
    const toolsPath = makeSourcePath('tools', await toolsHash());
    expect(topOf(made).toolchain).toEqual({ kind: 'path', path: toolsPath });
    expect(topOf(made).derivation.inputSrcs).toEqual([setupRunner(1).path]);
    expect(topOf((await make2('host')).made).toolchain).toEqual({ kind: 'host' });
  });

  test('a fetch without a hash tells it at once', async () => {
    const made = await world(
      `packages: { x: { fetch: { url: "${single}" } }, a: { src: "#x", buildPhase: x } }\n`,
    );
    const error = await errorOf(make(made, 'a'));
    expect(error).toMatchObject({
      code: 'FLK_FETCH_HASH_MISSING',
      hint: `hash: ${narHashOf(sha256('one file\n'))}`,
      trail: ['#a', '#x'],
    });
    const [place] = error.diagnostics;
    expect(place!.file.text.slice(place!.range.start, place!.range.end)).toBe('x');
  });

  test('a merge of a built package has the output path of a build', async () => {
    const made = await make(
      await world(
        'packages: { a: { buildPhase: x }, m: { merge: ["#a", { ref: "#m2", priority: 4 }] }, m2: { merge: ["#a"], links: { x: y } } }\n',
      ),
      'm',
    );
    const { derivation, name } = topOf(made);
    expect(name).toBe('m');
    expect(derivation).toMatchObject({ builder: 'builtin:flk-merge', system: 'builtin', args: [] });
    expect(derivation.outputs.get('out')).toMatchObject({ hashAlgo: '', hash: '' });
    expect(derivation.env.get('priorities')).toBe('5 4');
    expect([...made.derivations.values()].map((planned) => planned.name).sort()).toEqual(['a', 'm', 'm2']);
  });
});

describe('errors', () => {
  test.each<[string, string, string, Partial<FlkError>]>([
    [
      'an unknown package',
      'packages: { hello: { buildPhase: x } }',
      'helo',
      { code: 'FLK_PACKAGE_UNKNOWN', hint: 'did you mean #hello?' },
    ],
    ['no default', 'packages: { hello: { buildPhase: x } }', '#', { code: 'FLK_PACKAGE_UNKNOWN' }],
    [
      'an unknown output',
      'packages: { a: { buildPhase: x } }',
      'a.dev',
      { code: 'FLK_PACKAGE_UNKNOWN', facts: { outputs: 'out' } },
    ],
    [
      'another system',
      'systems: [aarch64-linux]\npackages: { a: { buildPhase: x } }',
      'a',
      { code: 'FLK_SYSTEM_UNSUPPORTED', facts: { found: 'aarch64-linux', wanted: 'x86_64-linux' } },
    ],
    [
      'a circle',
      'packages: { a: { buildInputs: [b], buildPhase: x }, b: { env: { X: "{{#c}}" }, buildPhase: x }, c: a }',
      'a',
      { code: 'FLK_PACKAGE_CYCLE', message: '#a needs itself: #a → #b → #c → #a' },
    ],
    [
      'itself',
      'packages: { a: { src: "#a", buildPhase: x } }',
      'a',
      { code: 'FLK_PACKAGE_CYCLE', message: '#a needs itself: #a → #a' },
    ],
    [
      'a variable that the build sets',
      'packages: { a: { env: { PATH: /x }, buildPhase: x } }',
      'a',
      { code: 'FLK_PACKAGE_INVALID', trail: ['#a'] },
    ],
    [
      'a source that is not there',
      'packages: { a: { src: ./nowhere, buildPhase: x }, b: { buildInputs: [a], buildPhase: x } }',
      'b',
      { code: 'FLK_PACKAGE_INVALID', trail: ['#b', '#a'] },
    ],
    [
      'an input that is not locked',
      'inputs: { i: { url: "git+https://test.example/i" } }\npackages: { a: { buildInputs: ["i#x"], buildPhase: x } }',
      'a',
      { code: 'FLK_LOCK_STALE' },
    ],
    ['an unknown input', 'packages: {}', 'nope#x', { code: 'FLK_INPUT_UNKNOWN' }],
  ])('%s', async (_what, manifest, name, wanted) => {
    expect(await errorOf(make(await world(`${manifest}\n`), name))).toMatchObject(wanted);
  });

  test('packages of what has none', async () => {
    const manifest = `inputs: { files: { url: "git+https://test.example/files", flake: false }, nix: { url: "git+https://test.example/nix" }, none: { url: "git+https://test.example/none" } }
packages: { a: { buildInputs: ["files#x"], buildPhase: x }, b: { buildInputs: ["nix#x"], buildPhase: x }, c: { buildInputs: ["none#x"], buildPhase: x } }
`;
    const made = await world(
      manifest,
      {},
      {
        files: { tree: directory(), flake: false },
        nix: { tree: directory({ 'flake.nix': file('{}') }) },
        none: { tree: directory() },
      },
    );
    expect((await errorOf(make(made, 'a'))).message).toContain('flake: false');
    expect((await errorOf(make(made, 'b'))).message).toContain('flake.nix');
    expect((await errorOf(make(made, 'c'))).code).toBe('FLK_MANIFEST_MISSING');
  });

  test('a lock that leads out of a tree', async () => {
    const made = await lockedWorld(
      flakeTree(
        'inputs: { r: { url: "path:../r", flake: false } }\npackages: { a: { src: r, buildPhase: x } }\n',
      ),
      { r: { tree: directory(), flake: false, relative: { path: '../../r', parent: [] } } },
    );
    expect((await errorOf(make(made, 'a'))).code).toBe('FLK_LOCK_INVALID');
  });
});
