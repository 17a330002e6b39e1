#!/usr/bin/env node
'use strict';
// CommonJS on purpose: Node starts it sooner, and an old Node must be able to read it. It answers by itself what is asked most
// often, `--version` and `flk lock` where nothing has changed, and else loads the program.
const version = '0.1.0';
const [major, minor] = process.versions.node.split('.').map(Number);
const [first, ...others] = process.argv.slice(2);

if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`flk needs Node 20.19 or newer; this is ${process.versions.node}\n`);
  process.exitCode = 2;
} else if ((first === '--version' || first === '-V') && others.length === 0) {
  // Opening process.stdout costs more than the rest of this file.
  require('node:fs').writeSync(1, `flk ${version}\n`);
} else {
  start();
}

function start() {
  const fs = require('node:fs');
  const { isAbsolute, join } = require('node:path');
  const program = join(__dirname, '../dist/flk.cjs');
  const info = fs.statSync(program, { throwIfNoEntry: false });
  if (info === undefined) {
    process.stderr.write(`flk is not built: ${program} is missing; npm run build makes it\n`);
    process.exitCode = 70;
    return;
  }
  const { HOME = '', XDG_CACHE_HOME = '' } = process.env;
  const caches = isAbsolute(XDG_CACHE_HOME) ? XDG_CACHE_HOME : isAbsolute(HOME) && join(HOME, '.cache');
  const build = `${version}-${process.version}-${process.arch}-${info.size}-${Math.floor(info.mtimeMs)}`;
  const stamp =
    caches && first === 'lock' && others.length === 0
      ? stampOf(join(caches, 'flk/current'), build)
      : undefined;
  if (stamp && isUnchanged(fs, stamp)) return;

  // Node 20 optimises a function once it has run for some milliseconds, which pays in a server; flk is nearly over by then, and the
  // threads that optimise take the processors from its builders: a third of the work for a thousand packages. What runs for long is
  // optimised a little later. Newer ones have a cheap compiler for the time in between, and other flags.
  if (major < 22 && first !== 'lock') require('node:v8').setFlagsFromString('--interrupt-budget=1000000');
  const { enableCompileCache } = require('node:module');
  if (enableCompileCache) enableCompileCache();
  const cached = caches && !enableCompileCache && /^(--)?[a-z]{1,20}$/.test(first);
  const { main } = cached ? loadWithCode(fs, program, join(caches, 'flk/code'), build) : require(program);
  main(stamp);
}

/**
 * Where `flk lock` in this folder keeps the bytes that it found to be current, and what this build of flk writes before them. The
 * program writes it, the manifest's length in between, and only where the answer depends on nothing but these bytes.
 */
function stampOf(folder, build) {
  try {
    const name = encodeURIComponent(process.cwd());
    return name.length < 250
      ? { path: require('node:path').join(folder, name), header: `${build}\n` }
      : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the manifest and flake.lock here hold the very bytes that were current, and there is nobody to say so to. */
function isUnchanged(fs, { path, header }) {
  const { FLK_LOCKED, FLK_FROZEN, FLK_OFFLINE } = process.env;
  if (FLK_LOCKED || FLK_FROZEN || FLK_OFFLINE) return false;
  try {
    if (fs.fstatSync(2).isCharacterDevice()) return false;
    const [name, another] = ['flake.yaml', 'flake.nix'].filter((file) =>
      fs.lstatSync(file, { throwIfNoEntry: false }),
    );
    if (another || ![name, 'flake.lock'].every((file) => fs.lstatSync(file).isFile())) return false;
    const [manifest, lock] = [name, 'flake.lock'].map((file) => fs.readFileSync(file));
    const start = Buffer.from(`${header}${name} ${manifest.length}\n`);
    return fs.readFileSync(path).equals(Buffer.concat([start, manifest, lock]));
  } catch {
    return false;
  }
}

/**
 * Node 20 cannot keep compiled code between runs, so the launcher does. One file per command, because V8 keeps the functions that
 * were called. V8 itself refuses code of another version or source length; the file's name holds what else decides. Whatever goes
 * wrong with the file, the program runs.
 */
function loadWithCode(fs, program, folder, build) {
  const { dirname, join } = require('node:path');
  const kept = join(folder, `${build}-${first}`);
  let cachedData;
  try {
    cachedData = fs.readFileSync(kept);
  } catch {}
  const { Script } = require('node:vm');
  // Its last value is the program as a function, as scripts/build.mjs writes it.
  const script = new Script(fs.readFileSync(program, 'latin1'), { filename: program, cachedData });
  const loaded = { exports: {} };
  const load = script.runInThisContext();
  load(loaded.exports, require('node:module').createRequire(program), loaded, program, dirname(program));
  if (cachedData === undefined || script.cachedDataRejected) {
    process.once('exit', (status) => {
      if (status !== 0) return;
      try {
        fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
        for (const name of fs.readdirSync(folder)) {
          if (!name.startsWith(build)) fs.rmSync(join(folder, name), { force: true });
        }
        const staged = `${kept}.${process.pid}`;
        fs.writeFileSync(staged, script.createCachedData(), { mode: 0o600 });
        fs.renameSync(staged, kept);
      } catch {}
    });
  }
  return loaded.exports;
}
