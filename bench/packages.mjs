/**
 * A graph of packages after a change to one of them: evaluating all and building the two that changed, beside Nix on the same graph
 * (written in its language, as plainly as can be: `derivation` and nothing else). flk's sandbox is on, Nix's is off.
 *
 *     node bench/packages.mjs [ROUNDS] [PACKAGES…]      default 5, and 1000 3000 10000
 *
 * Nix takes part up to 1,000 packages: the first build of each takes it a tenth of a second.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bundle, measure, median, nixRunner, repository, scratchFolder, table } from './support.mjs';

const rounds = Number(process.argv[2] ?? 5);
const counts = process.argv.length > 3 ? process.argv.slice(3).map(Number) : [1000, 3000, 10_000];
const mostForNix = 1000;
const scratch = scratchFolder();
const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');
const environment = {
  PATH: process.env.PATH,
  HOME: scratch,
  ...(process.env.FLK_ENGINES ? { FLK_ENGINES: process.env.FLK_ENGINES } : {}),
};
const quiet = ['ignore', 'pipe', 'inherit'];

/** Each package needs up to three earlier ones; the last needs every hundredth and the one before it, which is what changes. */
function graph(count) {
  const needs = [];
  for (let i = 0; i < count - 1; i++)
    needs.push([...new Set([i - 1, (i * 7) >> 3, i >> 1])].filter((need) => need >= 0 && need < i));
  const top = [count - 2];
  for (let i = 0; i < count - 2; i += 100) top.push(i);
  needs.push(top);
  return needs;
}

/** What a package says, as packages do: a version, sources of its own, a few settings, what it needs, its phases. */
const attributes = (needs, i, change) => ({
  version: `1.${i % 40}.${i % 7}`,
  needs: needs[i],
  env: {
    PREFIX_STYLE: 'usr',
    FEATURES: `tls http${i % 3} threads`,
    NOTE: i === needs.length - 2 ? `changed ${change}` : 'as it was',
  },
  buildPhase: 'test -e main.c && cat main.c util.c > all.c',
  installPhase: 'mkdir -p $out/share && cp all.c $out/share/',
});

function flkText(needs, change) {
  const lines = [
    'description: a graph of packages',
    'systems: [x86_64-linux, aarch64-linux]',
    'toolchain: host',
    'packages:',
  ];
  for (let i = 0; i < needs.length; i++) {
    const { version, env, buildPhase, installPhase } = attributes(needs, i, change);
    lines.push(`  p${i}:`, `    version: "${version}"`, `    src: ./packages/p${i}`);
    lines.push(`    buildInputs: [${needs[i].map((need) => `p${need}`).join(', ')}]`, '    env:');
    for (const [name, value] of Object.entries(env)) lines.push(`      ${name}: ${value}`);
    lines.push(`    buildPhase: ${buildPhase}`, `    installPhase: ${installPhase}`);
  }
  return `${lines.join('\n')}\n`;
}

function nixText(needs, change) {
  const lines = [
    '{ outputs = _: let',
    '  package = attributes: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; args = [ ./setup.sh ]; toolchain = "host"; } // attributes);',
  ];
  for (let i = 0; i < needs.length; i++) {
    const { version, env, buildPhase, installPhase } = attributes(needs, i, change);
    lines.push(
      `  p${i} = package { name = "p${i}-${version}"; src = ./packages/p${i}; buildInputs = [ ${needs[i].map((need) => `p${need}`).join(' ')} ];`,
    );
    for (const [name, value] of Object.entries(env)) lines.push(`    ${name} = "${value}";`);
    lines.push(
      `    buildPhase = ${JSON.stringify(buildPhase)}; installPhase = ${JSON.stringify(installPhase)}; };`,
    );
  }
  lines.push(`in { packages.x86_64-linux.top = p${needs.length - 1}; }; }`);
  return `${lines.join('\n')}\n`;
}

/** A repository with both manifests' flakes: the sources are the same files. */
function writeProject(folder, files, count) {
  for (let i = 0; i < count; i++) {
    const own = join(folder, `packages/p${i}`);
    mkdirSync(own, { recursive: true });
    writeFileSync(join(own, 'main.c'), `int main(void) { return util_${i}(); }\n`);
    writeFileSync(join(own, 'util.c'), `int util_${i}(void) { return 0; }\n`.repeat(20));
  }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const git = (...args) =>
    execFileSync('git', [
      '-C',
      folder,
      '-c',
      'user.name=bench',
      '-c',
      'user.email=bench@example.org',
      ...args,
    ]);
  git('init', '--quiet');
  git('add', '.');
  git('commit', '--quiet', '--message', 'A graph of packages');
}

/** Makes all packages valid as `flk build` does, with an engine that only writes the output: seconds instead of minutes. */
const prepare = await bundle(
  `import { mkdtempSync, writeFileSync } from 'node:fs';
   import { join } from 'node:path';
   import { Builders } from './src/build/builders.ts';
   import { instantiate } from './src/build/instantiate.ts';
   import { realise } from './src/build/realise.ts';
   import { lock } from './src/flake/locker.ts';
   import { parseManifest } from './src/flake/manifest.ts';
   import { openLocalFlake } from './src/sources/local-flake.ts';
   import { Sources } from './src/sources/source.ts';
   import { openStore } from './src/store/store.ts';
   const [root, folder, name, scratch] = process.argv.slice(2);
   const store = await openStore(root);
   const reporter = { emit() {} };
   const source = new Sources({ cacheFolder: join(scratch, 'cache'), reporter });
   const local = await openLocalFlake(folder, { reporter, source, flags: {}, warnDirty: async () => false });
   const tree = (await local.files()).files;
   const manifest = parseManifest(local.manifest);
   const none = () => { throw new Error('nothing is fetched here'); };
   const locked = await lock({ manifest, source, readManifest: parseManifest, readRelative: none });
   const system = process.arch === 'arm64' ? 'aarch64-linux' : 'x86_64-linux';
   const context = { lock: locked, root: { manifest, tree, dir: '' }, source, parseManifest, store, system, reporter, download: none };
   const engine = {
     name: 'writer',
     ultimate: true,
     refusal: () => undefined,
     probe: async () => {},
     close: async () => {},
     build: async () => {
       const file = join(mkdtempSync(join(scratch, 'out-')), 'out');
       writeFileSync(file, 'same');
       return { outputs: new Map([['out', file]]), dispose: async () => {} };
     },
   };
   const top = await instantiate(context, { inputs: [], name });
   const builders = new Builders([{ engine, systems: [system], features: [], jobs: 8 }], reporter);
   await realise({ store, builders: async () => builders, reporter, download: none }, top, { jobs: 8, cores: 1 });
   store.close();`,
  // Where the store's native parts and the phases runner are found.
  join(repository, `bench/prepare-${process.pid}.mjs`),
);

process.on('exit', () => rmSync(prepare, { force: true }));

for (const count of counts) {
  const needs = graph(count);
  const store = join(scratch, `store-${count}`);
  const projects = { flk: join(scratch, `flk-${count}`), nix: join(scratch, `nix-${count}`) };
  writeProject(projects.flk, { 'flake.yaml': flkText(needs, 0) }, count);
  const started = performance.now();
  execFileSync(process.execPath, [prepare, store, projects.flk, `p${count - 1}`, scratch], {
    stdio: 'inherit',
  });
  console.error(
    `${count} packages were made valid in ${((performance.now() - started) / 1000).toFixed(1)} s`,
  );
  const contenders = {
    flk: [
      process.execPath,
      [
        join(repository, 'bin/flk.js'),
        'build',
        '--no-link',
        '--quiet',
        '--store',
        store,
        `${projects.flk}#p${count - 1}`,
      ],
    ],
  };
  if (nix && count <= mostForNix) {
    const setup = readFileSync(join(repository, 'src/build/setup/1.sh'));
    writeProject(projects.nix, { 'flake.nix': nixText(needs, 0), 'setup.sh': setup }, count);
    contenders['nix 2.34'] = [nix, ['build', '--no-link', '--quiet', `${projects.nix}#top`]];
  }
  const runs = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
  // In the first round Nix builds all.
  for (let round = 0; round <= rounds; round++) {
    writeFileSync(join(projects.flk, 'flake.yaml'), flkText(needs, `${process.pid} ${round}`));
    if (contenders['nix 2.34'])
      writeFileSync(join(projects.nix, 'flake.nix'), nixText(needs, `${process.pid} ${round}`));
    for (const [name, [command, args]] of Object.entries(contenders)) {
      const result = await measure(command, args, { env: environment, stdio: quiet });
      if (round > 0) runs[name].push(result);
    }
  }
  const summary = Object.entries(runs).map(([name, list]) => [
    name,
    { ms: median(list.map(({ ms }) => ms)), peak: Math.max(...list.map(({ peak }) => peak)) },
  ]);
  table(`${count} packages, one changed: evaluate all, build two`, Object.fromEntries(summary), 'flk');
}
