/**
 * `npm run build`: the program (dist/flk.cjs, one file), the library (dist/index.js) and its types (dist/types).
 * `--no-types` leaves the types out, which take longest.
 *
 * The program is CommonJS: Node 20 starts an ES module 10 ms later than a CommonJS one, and the whole of `flk lock` with nothing
 * to do takes 30. Every import() inside stays lazy: the modules behind it are compiled by V8 only when they are first called.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

/** Loaded from node_modules when first needed: native code, and what few need: isomorphic-git without git, gRPC with remote builders. */
const external = [
  'libsql',
  'lzma-native',
  'isomorphic-git',
  'isomorphic-git/*',
  '@grpc/grpc-js',
  'protobufjs',
  'protobufjs/*',
];

const common = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  write: false,
  legalComments: 'none',
  logLevel: 'warning',
  // Stack traces keep their names; the blanks and comments are only bytes to read at every start.
  minifyWhitespace: true,
  minifySyntax: true,
};

/**
 * Node's own modules, each loaded when one of its names is first used: `flk lock` with nothing to do needs neither node:crypto nor
 * node:child_process, though what it imports imports them.
 */
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup(bundle) {
    const eager = ['node:events', 'node:fs', 'node:path', 'node:url', 'node:module', 'node:process'];
    bundle.onResolve({ filter: /^node:/ }, ({ path, kind }) =>
      kind === 'import-statement' && !eager.includes(path) ? { path, namespace: 'lazy' } : undefined,
    );
    bundle.onResolve({ filter: /^node:/, namespace: 'lazy' }, ({ path }) => ({ path, external: true }));
    bundle.onLoad({ filter: /.*/, namespace: 'lazy' }, async ({ path }) => {
      const names = Object.keys(await import(path)).filter(
        (name) => /^[A-Za-z_$][\w$]*$/.test(name) && name !== 'default',
      );
      return {
        contents: `let it; const all = () => (it ??= require(${JSON.stringify(path)}));
for (const name of ${JSON.stringify(names.join(' '))}.split(' '))
  Object.defineProperty(exports, name, { enumerable: true, get: () => all()[name] });
Object.defineProperty(exports, 'default', { enumerable: true, get: all });
for (const name of ['__esModule', '__whole']) Object.defineProperty(exports, name, { value: true });`,
        loader: 'js',
      };
    });
  },
};

if (existsSync(join(root, 'scripts/validators.mjs'))) node('scripts/validators.mjs');
if (existsSync(join(root, 'scripts/protos.mjs'))) node('scripts/protos.mjs');

const outputs = await Promise.all([
  build({
    ...common,
    entryPoints: ['src/cli/main.ts'],
    outfile: 'dist/flk.cjs',
    format: 'cjs',
    external,
    plugins: [lazyBuiltins],
    supported: { 'dynamic-import': false },
    define: {
      'import.meta.url': '__flkUrl',
      'import.meta.dirname': '__dirname',
      'import.meta.filename': '__filename',
    },
    // Run as a script, the file's value is the program as a function: bin/flk.js takes it so without copying the text once more.
    banner: {
      js: "(f=>typeof module==='object'?f(exports,require,module,__filename,__dirname):f)(function(exports,require,module,__filename,__dirname){'use strict';const __flkUrl=require('node:url').pathToFileURL(__filename).href;",
    },
    footer: { js: '});' },
  }),
  build({
    ...common,
    entryPoints: ['src/index.ts'],
    outfile: 'dist/index.js',
    format: 'esm',
    external: Object.keys(manifest.dependencies).flatMap((name) => [name, `${name}/*`]),
  }),
]);
for (const { outputFiles } of outputs)
  for (const file of outputFiles)
    put(file.path, file.path.endsWith('.cjs') ? withoutCopies(file.text) : file.contents);

// Files that the program reads at run time, found beside it as they are beside their module in src.
const assets = join(root, 'src/build/setup');
if (existsSync(assets)) {
  for (const name of readdirSync(assets)) put(join(dist, 'setup', name), readFileSync(join(assets, name)));
}

if (!process.argv.includes('--no-types')) {
  const staged = `dist/.types-${process.pid}`;
  node('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--outDir', staged);
  rmSync(join(dist, 'types'), { recursive: true, force: true });
  renameSync(join(root, staged), join(dist, 'types'));
}

/**
 * Whoever imports from what is not a module gets an object of its own, with all names of the other: for 120 imports of Node's own, 5 ms
 * at each start. Those above have all that such an object has, and are used as they are.
 */
function withoutCopies(text) {
  const helper = 'var __toESM=(mod,isNodeMode,target)=>';
  if (text.split(helper).length !== 2)
    throw new Error('esbuild writes its imports in another way than it did');
  return text.replace(helper, `${helper}mod?.__whole?mod:`);
}

/** In one step: a program that runs meanwhile sees the old file or the new one. */
function put(path, contents) {
  mkdirSync(dirname(path), { recursive: true });
  const staged = join(dirname(path), `.${basename(path)}.${process.pid}`);
  writeFileSync(staged, contents);
  renameSync(staged, path);
}

function node(...args) {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
