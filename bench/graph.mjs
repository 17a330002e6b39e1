/**
 * Locking graphs of 200, 2,000 and 20,000 nodes over repositories in memory, and checking the lock that comes out: time (of
 * the processor) and memory must grow no faster than the graph. One fresh process per figure, medians of 5. Usage: node bench/graph.mjs
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { bundle, scratchFolder } from './support.mjs';

const subject = await bundle(
  `import { FakeSource, flakeYaml, readFakeManifest } from './tests/support/fake-source.ts';
   import { lock } from './src/flake/locker.ts';
   import { checkLock } from './src/flake/lock-check.ts';
   import { parseLockFile, printLockFile } from './src/flake/lock-file.ts';

   // The root has one input per ten nodes; each is a flake with three inputs, each of those with two.
   const nodes = Number(process.argv[2]);
   const source = new FakeSource(() => new Promise(setImmediate));
   const url = (name) => 'git+https://h/' + name;
   const root = {};
   for (let i = 0; i < nodes / 10; i++) {
     const middle = {};
     for (let j = 0; j < 3; j++) {
       const leaves = {};
       for (let k = 0; k < 2; k++) {
         const leaf = 'n' + i + '-' + j + '-' + k;
         source.commit('https://h/' + leaf, flakeYaml({}));
         leaves['leaf' + k] = url(leaf);
       }
       source.commit('https://h/n' + i + '-' + j, flakeYaml(leaves));
       middle['middle' + j] = url('n' + i + '-' + j);
     }
     source.commit('https://h/n' + i, flakeYaml(middle));
     root['input' + i] = url('n' + i);
   }
   const manifest = readFakeManifest({ path: 'flake.yaml', text: flakeYaml(root)['flake.yaml'] });
   const common = { manifest, readManifest: readFakeManifest, readRelative: async () => undefined };
   gc();
   const before = process.memoryUsage().heapUsed;
   // Processor time: what else the machine does is left out.
   const now = () => (process.cpuUsage().user + process.cpuUsage().system) / 1000;
   const start = now();
   const made = await lock({ ...common, source });
   const locked = now();
   const text = printLockFile(made);
   gc();
   const after = process.memoryUsage().heapUsed;
   const middle = now();
   const previous = parseLockFile({ path: 'flake.lock', text });
   const reasons = await checkLock({ ...common, previous });
   const end = now();
   if (made.nodes.size !== nodes + 1 || reasons.length > 0) throw new Error('not the graph that was meant');
   console.log(JSON.stringify({ lock: locked - start, check: end - middle, heap: after - before }));`,
  join(scratchFolder(), 'graph.mjs'),
);

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const rows = [200, 2_000, 20_000].map((nodes) => {
  const runs = Array.from({ length: 5 }, () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', subject, String(nodes)], {
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(stderr);
    return JSON.parse(stdout);
  });
  const [lock, check, heap] = ['lock', 'check', 'heap'].map((name) => median(runs.map((run) => run[name])));
  return [
    nodes,
    `${lock.toFixed(0)} ms`,
    `${((lock * 1000) / nodes).toFixed(0)} µs`,
    `${check.toFixed(0)} ms`,
    `${((check * 1000) / nodes).toFixed(0)} µs`,
    `${(heap / nodes / 1024).toFixed(1)} KB`,
  ];
});
const titles = ['nodes', 'lock', 'per node', 'read and check', 'per node', 'kept per node'];
for (const row of [titles, ...rows]) console.log(row.map((cell) => String(cell).padStart(15)).join(''));
