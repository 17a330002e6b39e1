/**
 * NAR hash of a tree on disk, flk beside `nix hash path`: 40,000 small files, and one file of 1 GB. Whole processes, medians of 7.
 * Usage: node bench/nar.mjs
 */
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { bundle, nixRunner, scratchFolder, sideBySide, table } from './support.mjs';

const folder = scratchFolder();
const hasher = await bundle(
  `import { hashTree } from './src/formats/nar.ts';
   import { walkPath } from './src/store/tree-files.ts';
   console.log((await hashTree(walkPath(process.argv[2]))).narHash);`,
  join(folder, 'hash.mjs'),
);

/** Files of 1 to 16 KB, 40 to a folder, in two levels of folders. */
function smallFiles(place, count) {
  const text = Buffer.alloc(16 * 1024, 'a small file of a source tree\n');
  for (let i = 0; i < count; i++) {
    const inner = join(place, `d${Math.floor(i / 1600)}`, `e${Math.floor(i / 40) % 40}`);
    if (i % 40 === 0) mkdirSync(inner, { recursive: true });
    writeFileSync(join(inner, `file-${i}.nix`), text.subarray(i % 13, 1024 + ((i * 7919) % (15 * 1024))));
  }
}

function bigFile(place, size) {
  const block = Buffer.alloc(1024 * 1024);
  const file = openSync(place, 'w');
  for (let at = 0; at < size; at += block.length) {
    block.writeUInt32LE(at / block.length);
    writeSync(file, block);
  }
  closeSync(file);
}

smallFiles(join(folder, 'small'), 40_000);
bigFile(join(folder, 'big'), 1024 ** 3);

const nix = nixRunner();
if (!nix) console.log('no Nix to compare with: tests/engines/install gives one');
for (const [title, name] of [
  ['40,000 small files', 'small'],
  ['one file of 1 GB', 'big'],
]) {
  const place = join(folder, name);
  const results = await sideBySide({
    flk: [process.execPath, hasher, place],
    ...(nix ? { 'nix hash path': [nix, 'hash', 'path', place] } : {}),
    'node -e 0': [process.execPath, '-e', '0'],
  });
  if (nix && results.flk.output !== results['nix hash path'].output)
    throw new Error(`the hashes differ: ${results.flk.output}, ${results['nix hash path'].output}`);
  table(title, results, 'nix hash path');
}
