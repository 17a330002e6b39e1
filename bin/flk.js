#!/usr/bin/env node
'use strict';
// Small and CommonJS on purpose: it runs before anything is known about this Node (an old one must be able to read it), and
// answers `--version` by itself.
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
  const program = require('node:path').join(__dirname, '../dist/flk.cjs');
  if (!require('node:fs').existsSync(program)) {
    process.stderr.write(`flk is not built: ${program} is missing; npm run build makes it\n`);
    process.exitCode = 70;
    return;
  }
  const { enableCompileCache } = require('node:module');
  if (enableCompileCache) enableCompileCache();
  (enableCompileCache ? require(program) : loadWithCache(program)).main();
}

/**
 * Node 20 cannot keep compiled code between runs, so the launcher does: a fifth of the time of `flk lock` with nothing to do. One
 * file per command, because V8 keeps the functions that were called. V8 itself refuses code of another version or source length;
 * the file's name holds what else decides. Without a cache folder, or whatever goes wrong, the program is loaded as always.
 */
function loadWithCache(program) {
  const {
    mkdirSync,
    readdirSync,
    readFileSync,
    renameSync,
    rmSync,
    statSync,
    writeFileSync,
  } = require('node:fs');
  const { dirname, isAbsolute, join } = require('node:path');
  const { HOME = '', XDG_CACHE_HOME = '' } = process.env;
  const caches = isAbsolute(XDG_CACHE_HOME) ? XDG_CACHE_HOME : isAbsolute(HOME) && join(HOME, '.cache');
  if (!caches || !/^(--)?[a-z]{1,20}$/.test(first)) return require(program);
  const folder = join(caches, 'flk/code');
  const { mtimeMs, size } = statSync(program);
  const build = `${version}-${process.version}-${process.arch}-${size}-${Math.floor(mtimeMs)}`;
  const kept = join(folder, `${build}-${first}`);
  let cachedData;
  try {
    cachedData = readFileSync(kept);
  } catch {}
  const { Script } = require('node:vm');
  const wrapped = `(function(exports,require,module,__filename,__dirname){${readFileSync(program, 'latin1')}\n})`;
  const script = new Script(wrapped, { filename: program, cachedData });
  const loaded = { exports: {} };
  const load = script.runInThisContext();
  load(loaded.exports, require('node:module').createRequire(program), loaded, program, dirname(program));
  if (cachedData === undefined || script.cachedDataRejected) {
    process.once('exit', (status) => {
      if (status !== 0) return;
      try {
        mkdirSync(folder, { recursive: true, mode: 0o700 });
        for (const name of readdirSync(folder)) {
          if (!name.startsWith(build)) rmSync(join(folder, name), { force: true });
        }
        const staged = `${kept}.${process.pid}`;
        writeFileSync(staged, script.createCachedData(), { mode: 0o600 });
        renameSync(staged, kept);
      } catch {}
    });
  }
  return loaded.exports;
}
