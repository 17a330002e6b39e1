/**
 * Many small actions on a real server of the Remote Execution API (BuildBox), by flk's engine and by the server's own client, as many at
 * a time; then a large input. Needs `npm run build`, busybox-static, and what tests/engines/install gives.
 *
 *     node bench/remote.mjs [ACTIONS] [MEGABYTES]      default 200, and 300
 */
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bundle, measure, repository, scratchFolder } from './support.mjs';

const count = Number(process.argv[2] ?? 200);
const megabytes = Number(process.argv[3] ?? 300);
const atOnce = 8;
const engines = process.env.FLK_ENGINES ?? '/opt/flk-engines';
const busybox = '/usr/bin/busybox';
if (!existsSync(join(engines, 'usr/bin/buildbox-casd')) || !existsSync(busybox)) {
  console.log('needs busybox-static, and BuildBox: tests/engines/install gives one');
  process.exit(0);
}

const scratch = scratchFolder();
const port = 20000 + (process.pid % 10000);
const address = `grpc://127.0.0.1:${port}`;
const server = spawn(join(repository, 'tests/engines/reapi'), [`127.0.0.1:${port}`, join(scratch, 'cas')], {
  stdio: 'ignore',
  env: { ...process.env, FLK_REAPI_JOBS: '4' },
});
process.on('exit', () => server.kill('SIGKILL'));

const tree = join(scratch, 'toolchain');
mkdirSync(join(tree, 'bin'), { recursive: true });
copyFileSync(busybox, join(tree, 'bin/busybox'));
symlinkSync('busybox', join(tree, 'bin/sh'));
const large = join(scratch, 'large');
mkdirSync(large);
for (let i = 0; i < megabytes; i++) writeFileSync(join(large, `file-${i}`), randomBytes(1024 * 1024));

const program = await bundle(
  `
  import { remoteEngine } from './src/build/engines/remote/remote.ts';
  import { Connection } from './src/build/engines/remote/connection.ts';
  import { methods } from './src/generated/remote-execution.ts';
  import { openStore } from './src/store/store.ts';
  import { walkPath } from './src/store/tree-files.ts';
  const [root, address, tree, large, count, atOnce, label] = process.argv.slice(2);
  const names = new Map(Object.entries(methods).map(([name, { path }]) => [path, name]));
  const calls = {};
  for (const kind of ['ask', 'send', 'listen']) {
    const call = Connection.prototype[kind];
    Connection.prototype[kind] = function (method, ...rest) {
      const name = names.get(method.path);
      calls[name] = (calls[name] ?? 0) + 1;
      return call.call(this, method, ...rest);
    };
  }
  const store = await openStore(root);
  const toolchain = (await store.addTree('toolchain', walkPath(tree))).path;
  const closure = large === '' ? [toolchain] : [toolchain, (await store.addTree('large', walkPath(large))).path];
  const engine = remoteEngine({ store, reporter: { emit() {} }, address, jobs: Number(atOnce) });
  await engine.probe();
  const started = performance.now();
  await Promise.all(Array.from({ length: Number(count) }, async (_, i) => {
    const path = '/nix/store/' + 'a'.repeat(32) + '-out';
    const derivation = { outputs: new Map([['out', { path, hashAlgo: '', hash: '' }]]), inputDrvs: new Map(), inputSrcs: [], system: '',
      builder: '/bin/sh', args: ['-c', 'echo ' + label + ' ' + i + ' > $out'], env: new Map([['out', path]]) };
    const built = await engine.build({ drvPath: path + '.drv', derivation, closure, toolchain: { kind: 'path', path: toolchain },
      cores: 1, log() {}, limits: { maxOutputBytes: 1e9, maxLogBytes: 1e6 } });
    await built.dispose();
  }));
  console.log(JSON.stringify({ ms: Math.round(performance.now() - started), calls }));
  await engine.close();
  store.close();
  `,
  join(repository, 'bench/out/remote.mjs'),
);
const flk = async (label, input = '', actions = count) => {
  const args = [
    program,
    join(scratch, 'store'),
    address,
    tree,
    input,
    String(actions),
    String(atOnce),
    label,
  ];
  const { output, ...rest } = await measure(process.execPath, args);
  return { ...rest, ...JSON.parse(output) };
};

// The server's own client: one process for each action, as it is made to be used.
const inside = [
  'bwrap',
  '--bind',
  engines,
  '/',
  '--dev-bind',
  '/dev',
  '/dev',
  '--proc',
  '/proc',
  '--bind',
  scratch,
  scratch,
];
const own = `seq ${count} | xargs -P ${atOnce} -I N trexe --remote=${address.replace('grpc', 'http')} --instance= --do-not-follow-symlinks \
  --input-path=${join(scratch, 'root')} --output-path=nix/store/out --d=${join(scratch, 'got')}/N -- /bin/sh -c 'echo own N > /nix/store/out'`;
spawnSync('cp', ['-a', tree, join(scratch, 'root')]);
for (const name of ['build', 'dev', 'proc', 'tmp', 'etc', 'nix/store'])
  mkdirSync(join(scratch, 'root', name), { recursive: true });
spawnSync('sh', ['-c', `mkdir -p ${scratch}/got && cd ${scratch}/got && seq ${count} | xargs mkdir`]);

for (let tries = 0; tries < 50; tries++) {
  await sleep(200);
  const ready = spawnSync('bash', ['-c', `exec 3<>/dev/tcp/127.0.0.1/${port}`], { stdio: 'ignore' });
  if (ready.status === 0) break;
}
await flk('warm', '', 1);
const first = await flk('first');
const started = performance.now();
spawnSync(inside[0], [...inside.slice(1), '--setenv', 'PATH', '/usr/bin:/bin', 'sh', '-c', own], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
const theirs = Math.round(performance.now() - started);
console.log(
  `${count} actions, ${atOnce} at a time: flk ${first.ms} ms, trexe ${theirs} ms, ratio ${(theirs / first.ms).toFixed(2)}`,
);
console.log(`calls: ${JSON.stringify(first.calls)}`);
const second = await flk('first');
console.log(`again: ${second.ms} ms, ${JSON.stringify(second.calls)}`);
const sent = await flk('large', large, 2);
console.log(
  `${megabytes} MB of input: ${sent.ms} ms, peak ${Math.round(sent.peak)} MB, ${JSON.stringify(sent.calls)}`,
);
const resent = await flk('more', large, 2);
console.log(
  `the same input, other actions: ${resent.ms} ms, peak ${Math.round(resent.peak)} MB, ${JSON.stringify(resent.calls)}`,
);
process.exit();
