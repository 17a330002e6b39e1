/** `npm run bench [NAME…]`: the benchmarks, one after the other; each says what it measures. The machine should do nothing else. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const all = [
  'startup',
  'nar',
  'graph',
  'fifty-inputs',
  'big-repository',
  'tarballs',
  'packages',
  'trivial-builds',
  'nar-copy',
  'remote',
];
const wanted = process.argv.slice(2);
for (const name of wanted.length > 0 ? wanted : all) {
  console.log(`\n## ${name}\n`);
  const file = fileURLToPath(new URL(`./${name}.mjs`, import.meta.url));
  const { status } = spawnSync(process.execPath, [file], { stdio: 'inherit' });
  if (status !== 0) process.exitCode = 1;
}
