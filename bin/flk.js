#!/usr/bin/env node
'use strict';
// Small and CommonJS on purpose: it runs before anything is known about this Node (an old one must be
// able to read it), and answers `--version` by itself.
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
  // Node 22 and newer can keep compiled code between runs.
  const { enableCompileCache } = require('node:module');
  if (enableCompileCache) enableCompileCache();
  require(program).main();
}
