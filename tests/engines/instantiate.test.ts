/** flk and Nix agree: on the path of every `.drv` and of every output, and on the bytes that come out when each runs the same `.drv`. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { silent } from '../../src/base/events.ts';
import { run } from '../../src/base/process.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import { type InstantiatedPackage, instantiate } from '../../src/build/instantiate.ts';
import { realise } from '../../src/build/realise.ts';
import { lock } from '../../src/flake/locker.ts';
import { decodeManifest, parseManifest } from '../../src/flake/manifest.ts';
import { parsePackageRef } from '../../src/flake/package-ref.ts';
import type { Derivation } from '../../src/formats/derivation.ts';
import { digestOf, narHashOf, sha256, toNixBase32 } from '../../src/formats/hash.ts';
import { baseNameOf, nameOf, type StorePath } from '../../src/formats/store-path.ts';
import { Sources } from '../../src/sources/source.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { tarOf } from '../support/archives.ts';
import { soleBuilder } from '../support/builds.ts';
import { lockedWorld } from '../support/locked-flakes.ts';
import { nix, nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { buildRepositories } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';
import { directory, file, symlink } from '../support/trees.ts';

let store: Store;
const noDownload = () => expect.unreachable('a download');

/** The recipe's default branch, locked and instantiated as `flk build` does. */
async function fromRecipe(folder: string, name: string, pkg: string): Promise<InstantiatedPackage> {
  const source = new Sources({ cacheFolder: join(folder, 'cache'), reporter: silent });
  const { tree } = await source.fetch({ type: 'git', url: `file://${folder}/${name}` });
  const manifest = parseManifest(decodeManifest('flake.yaml', (await tree.readFile('flake.yaml'))!));
  const locked = await lock({
    manifest,
    source,
    readManifest: parseManifest,
    readRelative: (path) => tree.readFile(path),
  });
  return await instantiate(
    {
      lock: locked,
      root: { manifest, tree, dir: '' },
      source,
      parseManifest,
      store,
      system: 'x86_64-linux',
      reporter: silent,
      download: noDownload,
    },
    { inputs: [], name: pkg },
  );
}

/** The JSON that `nix derivation add` takes, version 4. */
function nixJson(
  name: string,
  { outputs, inputDrvs, inputSrcs, system, builder, args, env }: Derivation,
): string {
  return JSON.stringify({
    version: 4,
    name,
    system,
    builder,
    args,
    env: Object.fromEntries(env),
    outputs: Object.fromEntries(
      [...outputs].map(([output, { path, hashAlgo, hash }]) => [
        output,
        hash === ''
          ? { path: baseNameOf(path) }
          : { method: hashAlgo === 'r:sha256' ? 'nar' : 'flat', hash: narHashOf(Buffer.from(hash, 'hex')) },
      ]),
    ),
    inputs: {
      srcs: inputSrcs.map(baseNameOf),
      drvs: Object.fromEntries(
        [...inputDrvs].map(([drv, names]) => [baseNameOf(drv), { outputs: names, dynamicOutputs: {} }]),
      ),
    },
  });
}

/** Copies a valid path of ours, which refers to nothing, into Nix's store. */
async function giveNix(path: StorePath, mode: 'nar' | 'flat' = 'nar'): Promise<void> {
  const added = await nix(['store', 'add', '--mode', mode, '--name', nameOf(path), store.physical(path)]);
  expect(added.stdout.trim()).toBe(path);
}

/** Nix computes the paths of the package and of all it needs, from the attributes alone. */
async function addedByNix(made: InstantiatedPackage): Promise<void> {
  const added = new Set<StorePath>();
  const add = async (drvPath: StorePath): Promise<void> => {
    if (added.has(drvPath)) return;
    added.add(drvPath);
    const { name, derivation } = made.derivations.get(drvPath)!;
    for (const input of derivation.inputDrvs.keys()) await add(input);
    for (const source of derivation.inputSrcs) {
      if (store.query(source) === undefined) await made.sources.get(source)!();
      await giveNix(source);
    }
    const answer = await nix(['derivation', 'add'], { input: nixJson(name, derivation) });
    expect(answer.stderr).toBe('');
    expect(answer.stdout.trim()).toBe(drvPath);
  };
  await add(made.top);
}

async function realised(made: InstantiatedPackage): Promise<ReadonlyMap<string, StorePath>> {
  const engine = localEngine({ store, reporter: silent, sandbox: 'auto' });
  const context = { store, builders: soleBuilder(engine, 2), reporter: silent, download: noDownload };
  return (await realise(context, made, { jobs: 2, cores: 2 })).outputs;
}

/** Runs the same `.drv` files in Nix, anew, and compares what comes out. */
async function builtByNix(
  made: InstantiatedPackage,
  realiseInNix: (drvPath: StorePath) => Promise<void>,
): Promise<void> {
  const built = [...made.derivations.values()].flatMap(({ derivation }) => [...derivation.outputs.values()]);
  await nixCommand('nix-store', ['--delete', '--ignore-liveness', ...built.map(({ path }) => path)]);
  for (const { derivation } of made.derivations.values()) {
    const output = derivation.outputs.get('out')!;
    if (derivation.builder.startsWith('builtin:'))
      await giveNix(output.path, output.hashAlgo === 'sha256' ? 'flat' : 'nar');
  }
  await realiseInNix(made.top);
  for (const { path, hash } of built) {
    if (hash !== '') continue;
    const info = store.query(path)!;
    const theirs = await nixCommand('nix-store', ['--query', '--hash', path]);
    expect(theirs.stdout.trim()).toBe(`sha256:${toNixBase32(digestOf(info.narHash))}`);
    const references = await nixCommand('nix-store', ['--query', '--references', path]);
    expect(references.stdout.split('\n').filter(Boolean).sort()).toEqual([...info.references].sort());
  }
}

async function withoutSandbox(drvPath: StorePath): Promise<void> {
  const done = await nixCommand('nix-store', ['--realise', drvPath]);
  expect(done.status, done.stderr).toBe(0);
}

const has = (program: string): boolean => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;

/** In Nix's own sandbox, with this machine's tools in it: those that flk's host toolchain means. */
async function withHostTools(drvPath: StorePath): Promise<void> {
  const host = temporaryFolder();
  const tools = ['/bin', '/usr', '/lib', '/lib64', '/etc/alternatives'].map(
    (path) => `${path}=${host}${path}`,
  );
  const { status, stderr } = await run(
    'bwrap',
    [
      ...['--dev-bind', '/', '/', '--ro-bind', '/', host, '--cap-add', 'ALL', '--'],
      ...[fileURLToPath(new URL('nix', import.meta.url)), '--realise', drvPath],
    ],
    {
      env: {
        ...process.env,
        NIX_COMMAND: 'nix-store',
        NIX_CONFIG_EXTRA: `sandbox = true\nsandbox-fallback = false\nsandbox-paths = ${tools.join(' ')}`,
      },
    },
  );
  expect(status, stderr).toBe(0);
}

describe.skipIf(!nixAvailable())(`the same derivation in flk and in Nix ${nixReason}`, () => {
  beforeAll(async () => {
    store = await openStore(temporaryFolder());
  });
  afterAll(() => store.close());

  test.each([
    ['hello', 'default'],
    ['greet', 'lib'],
  ])('%s#%s, without a sandbox', async (name, pkg) => {
    const folder = temporaryFolder();
    buildRepositories(folder, undefined, { base: `file://${folder}` });
    const made = await fromRecipe(folder, name, pkg);
    await addedByNix(made);
    await realised(made);
    await builtByNix(made, withoutSandbox);
  });

  const compiler = has('cc') && has('bwrap');
  test.skipIf(!compiler)(
    `greet-program#default, with its C library${compiler ? '' : ' (skipped: no cc or no bwrap)'}`,
    async () => {
      const folder = temporaryFolder();
      buildRepositories(folder, undefined, { base: `file://${folder}` });
      const made = await fromRecipe(folder, 'greet-program', 'default');
      await addedByNix(made);
      await realised(made);
      await builtByNix(made, withHostTools);
    },
  );

  test('everything a manifest can say, at once', async () => {
    const folder = temporaryFolder();
    const archive = join(folder, 'archive.tar');
    writeFileSync(archive, tarOf({ path: 'top/tool', contents: '#!/bin/sh\necho tool\n', mode: 0o755 }));
    writeFileSync(join(folder, 'one'), 'one\n');
    const url = (name: string) => pathToFileURL(join(folder, name)).href;
    mkdirSync(join(folder, 'tree'));
    writeFileSync(join(folder, 'tree/tool'), '#!/bin/sh\necho tool\n', { mode: 0o755 });
    const unpacked = (await nix(['hash', 'path', join(folder, 'tree')])).stdout.trim();
    symlinkSync('tool', join(folder, 'tree/alias'));
    const merged = (await nix(['hash', 'path', join(folder, 'tree')])).stdout.trim();
    const world = await lockedWorld(
      directory({
        'flake.yaml': file(`inputs: { data: { url: "git+https://test.example/data", flake: false } }
packages:
  default: all
  all:
    version: "1.0"
    src: { path: ./src, exclude: ["*.o"] }
    buildInputs: ["#two", "#two.dev"]
    env:
      ODD: "tab\\t, newline\\n, quote\\", backslash \\\\, dollar $x, é"
      EMPTY: ""
      ONE: "{{#one}} {{#two.dev}} {{data}}/sub {{#tools}} {{#merged}}"
    buildPhase: |
      cat file $EMPTY > result
      printf '%s\\n' "$ODD" "$ONE" >> result
      cat {{#one}} >> result
      helper >> result
      {{#merged}}/alias >> result
      read -r line < {{data}}/sub/words
      echo "$line $PATH $CPATH $LD_RUN_PATH $PKG_CONFIG_PATH" >> result
      umask >> result; date +%Z >> result; echo $LC_ALL $TZ $SOURCE_DATE_EPOCH >> result
      chmod 444 result
    installPhase: |
      mkdir -p $out $doc
      cp -p result link $out/
      ln -s $doc $out/docs
      cp file $doc/
    outputs: [out, doc]
    requiredSystemFeatures: [big-parallel, benchmark]
  two:
    buildPhase: mkdir -p $out/bin $out/lib $dev/include $dev/lib/pkgconfig; echo 'echo helper' > $out/bin/helper; chmod +x $out/bin/helper; echo $out > $dev/include/x.h
    outputs: [out, dev]
  one: { fetch: { url: "${url('one')}", hash: "${narHashOf(sha256('one\n'))}" } }
  tools: { fetch: { url: "${url('archive.tar')}", hash: "${unpacked}", unpack: true } }
  merged: { merge: ["#tools"], links: { alias: tool } }
`),
        src: directory({ file: file('before\n', true), 'x.o': file('o'), link: symlink('file') }),
      }),
      { data: { tree: directory({ sub: directory({ words: file('words\n') }) }), flake: false } },
    );
    const { name = '', ...ref } = parsePackageRef('#', 'package');
    const context = { ...world, store, system: 'x86_64-linux', reporter: silent, download: noDownload };
    const made = await instantiate(context, { ...ref, name });
    const mergedPath = [...made.sources.keys()].find((path) => nameOf(path) === 'merged')!;
    expect(store.query(mergedPath)?.narHash).toBe(merged);
    await addedByNix(made);
    const outputs = await realised(made);
    expect([...outputs.keys()].sort()).toEqual(['doc', 'out']);
    await builtByNix(made, withoutSandbox);
    const whole = await instantiate(context, { inputs: [], name: 'merged' });
    for (const { derivation } of whole.derivations.values())
      if (derivation.inputDrvs.size === 0) await realised(whole);
    await addedByNix(whole);
  });

  const patch = has('patch') && has('bwrap');
  test.skipIf(!patch)(`patches${patch ? '' : ' (skipped: no patch or no bwrap)'}`, async () => {
    const world = await lockedWorld(
      directory({
        'flake.yaml': file(
          'packages: { patched: { src: { path: ., include: [file] }, patches: [./fix.patch], installPhase: cp file $out } }\n',
        ),
        file: file('before\n'),
        'fix.patch': file('--- a/file\n+++ b/file\n@@ -1 +1 @@\n-before\n+after\n'),
      }),
    );
    const context = { ...world, store, system: 'x86_64-linux', reporter: silent, download: noDownload };
    const made = await instantiate(context, { inputs: [], name: 'patched' });
    await addedByNix(made);
    const outputs = await realised(made);
    expect(readFileSync(store.physical(outputs.get('out')!), 'utf8')).toBe('after\n');
    await builtByNix(made, withHostTools);
  });
});
