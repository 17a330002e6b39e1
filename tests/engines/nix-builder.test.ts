/** flk builds in a real Nix: what it takes from there and what it does not, whom Nix must trust, and `--builders` by hand. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BuildRequest, Engine } from '../../src/build/engines/engine.ts';
import { nixEngine } from '../../src/build/engines/nix.ts';
import { hashTree } from '../../src/formats/nar.ts';
import type { StorePath } from '../../src/formats/store-path.ts';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { Bench } from '../support/engine-contract.ts';
import { errorOf } from '../support/errors.ts';
import { enginesRoot, nixAvailable, nixCommand, nixPrograms, nixReason } from '../support/nix.ts';
import { writePinnedFlake } from '../support/pinned-flake.ts';
import { temporaryFolder } from '../support/temp.ts';
import { file, treeFrom } from '../support/trees.ts';

const engineOf = (bench: Bench, programs = nixPrograms()): Engine =>
  nixEngine({
    store: bench.store,
    program: join(programs, 'nix'),
    systems: ['x86_64-linux'],
    features: ['big-parallel'],
  });

/** A word that makes a derivation one that Nix has never seen. */
const fresh = (): string => `${process.pid}-${Date.now()}-${Math.random()}`;
const outOf = ({ derivation }: BuildRequest, name = 'out'): StorePath => derivation.outputs.get(name)!.path;

describe.skipIf(!nixAvailable())(`what is in Nix’s store already ${nixReason}`, () => {
  let bench: Bench;
  let engine: Engine;
  beforeAll(async () => {
    bench = await Bench.open();
    engine = engineOf(bench);
  });
  afterAll(async () => {
    await engine.close();
    bench.store.close();
  });

  /** As whoever has the `.drv`, and mounts something else at `/`. */
  async function realisedByOthers(request: BuildRequest, toolchain: StorePath): Promise<void> {
    const mounts = ['bin', 'lib', 'lib64', 'own'].map((name) => `/${name}=${toolchain}/${name}`);
    const options = { sandbox: 'true', 'sandbox-fallback': 'false', 'sandbox-paths': mounts.join(' ') };
    const args = Object.entries(options).flatMap(([name, value]) => ['--option', name, value]);
    const done = await nixCommand('nix-store', ['--realise', request.drvPath, ...args]);
    expect(done.status, done.stderr).toBe(0);
  }
  async function forgottenByNix(...paths: StorePath[]): Promise<void> {
    const done = await nixCommand('nix-store', ['--delete', '--ignore-liveness', ...paths]);
    expect(done.status, done.stderr).toBe(0);
  }

  it('is built again, and taken only where that gives the same bytes', async () => {
    const own = (text: string) =>
      bench.with(({ entries }) => (entries as Map<string, unknown>).set('own', file(text)));
    const [ours, theirs] = [await own('ours\n'), await own('theirs\n')];
    const request = await ours.request('cat /own > $out', [], { env: { fresh: fresh() } });
    const ourEngine = engineOf(ours);
    const first = await ours.taken(ourEngine, request);
    expect(first.get('out')?.narHash).toBe((await hashTree(treeFrom(file('ours\n')))).narHash);
    // It is there now, as we built it.
    const lines: string[] = [];
    const again = await ours.taken(ourEngine, { ...request, log: (line) => lines.push(line) });
    expect(again.get('out')?.narHash).toBe(first.get('out')?.narHash);

    await forgottenByNix(outOf(request));
    const other = await theirs.request(': > $out', [], { env: { fresh: fresh() } });
    await theirs.taken(ourEngine, other);
    await realisedByOthers(request, theirs.toolchain);
    const error = await errorOf(ours.taken(ourEngine, request));
    expect(error).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      hint: expect.stringContaining(`nix-store --delete ${outOf(request)}`),
    });
    const compared = await errorOf(ours.taken(ourEngine, { ...request, variation: 1 }));
    expect(compared.code).toBe('FLK_BUILD_NOT_REPRODUCIBLE');
    await forgottenByNix(outOf(request));
    expect((await ours.taken(ourEngine, request)).get('out')?.narHash).toBe(first.get('out')?.narHash);
  });

  it('in part is not taken at all', async () => {
    const request = await bench.request('echo a > $out; echo b > $dev', [], {
      outputs: ['out', 'dev'],
      env: { fresh: fresh() },
    });
    await bench.taken(engine, request);
    await forgottenByNix(outOf(request, 'dev'));
    expect(await errorOf(bench.taken(engine, request))).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      message: expect.stringContaining(outOf(request)),
    });
  });

  it('with other bytes than ours is no input of a build', async () => {
    const text = await bench.request(`echo ${fresh()} > $out; cat /proc/sys/kernel/random/uuid >> $out`, []);
    await bench.taken(engine, text);
    // Ours is another build of the same.
    const stage = await bench.store.stage();
    const staged = join(stage.path, 'tree');
    writeFileSync(staged, 'ours\n', { mode: 0o444 });
    const { narHash, narSize } = await hashTree(treeFrom(file('ours\n')));
    const info = { path: outOf(text), narHash, narSize, references: [], registrationTime: 1, ultimate: true };
    await bench.store.register([{ staged, info: { ...info, signatures: [] } }]);
    await stage.dispose();
    const request = await bench.request(': > $out', []);
    const closure = [...request.closure, outOf(text)];
    expect(await errorOf(engine.build({ ...request, closure }))).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      message: expect.stringContaining(`other bytes at ${outOf(text)}`),
    });
  });

  it('is brought again when its garbage collector has been by', async () => {
    const { path } = await bench.store.addTree('brought', treeFrom(file(`${fresh()}\n`)));
    const request = await bench.request(`cat ${path} > $out`, [], { sources: [path] });
    await bench.taken(engine, request);
    await forgottenByNix(outOf(request), request.drvPath, path);
    expect((await bench.taken(engine, request)).get('out')).toBeDefined();
  });
});

describe.skipIf(!nixAvailable())(`through a daemon ${nixReason}`, () => {
  let bench: Bench;
  const stops: (() => Promise<void>)[] = [];
  beforeAll(async () => {
    bench = await Bench.open();
  });
  afterAll(async () => {
    for (const stop of stops) await stop();
    bench.store.close();
  });

  async function daemon(trusted: string): Promise<Engine> {
    const socket = join(temporaryFolder(), 'socket');
    const child = spawn(fileURLToPath(new URL('nix', import.meta.url)), [], {
      detached: true,
      stdio: 'ignore',
      env: {
        ...process.env,
        FLK_ENGINES: enginesRoot,
        NIX_COMMAND: 'nix-daemon',
        NIX_DAEMON_SOCKET_PATH: socket,
        NIX_CONFIG_EXTRA: `trusted-users = ${trusted}`,
      },
    });
    const ended = new Promise((resolve) => child.on('exit', resolve));
    stops.push(async () => {
      process.kill(-child.pid!, 'SIGKILL');
      await ended;
    });
    while (!existsSync(socket)) await sleep(20);
    return engineOf(bench, nixPrograms({ NIX_REMOTE: `unix://${socket}` }));
  }

  it('that trusts us: builds, and tells a failure as such', async () => {
    const engine = await daemon('root');
    const request = await bench.request('echo by the daemon > $out', [], { env: { fresh: fresh() } });
    const taken = await bench.taken(engine, request);
    expect(taken.get('out')?.narHash).toBe((await hashTree(treeFrom(file('by the daemon\n')))).narHash);
    const lines: string[] = [];
    const script = 'echo may not be deterministic; echo hash mismatch in fixed-output derivation; exit 3';
    const error = await errorOf(bench.request(script, lines).then((failing) => engine.build(failing)));
    expect(error).toMatchObject({ code: 'FLK_BUILD_FAILED', facts: { status: 'exit status 3' } });
    expect(lines).toHaveLength(2);
  });

  it('that does not: refused, for it would build with other files at /', async () => {
    const engine = await daemon('nobody');
    expect(await errorOf(engine.probe())).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      hint: expect.stringContaining('trusted-users'),
    });
    const request = await bench.request(': > $out', []);
    expect((await errorOf(engine.build(request))).code).toBe('FLK_BUILDER_UNAVAILABLE');
  });
});

describe.skipIf(!nixAvailable())(`flk build --builders ${nixReason}`, () => {
  let world: CliWorld;
  let nix: string;
  const word = fresh();

  beforeAll(async () => {
    world = cliWorld();
    nix = `nix=${join(nixPrograms(), 'nix')}`;
    await writePinnedFlake(world.folder, word);
  });

  it('gives the bytes that it gives here, and says where it builds', async () => {
    const there = await world.flk(['build', '--builders', nix, '--no-link', '--json', '-L']);
    expect(there.status, there.stderr).toBe(0);
    expect(there.stderr).toContain('building lib on nix\n');
    expect(there.stderr).toContain('default> building\n');
    const [{ outputs }] = JSON.parse(there.stdout);
    const other = join(world.home, 'other');
    mkdirSync(other);
    const here = await world.flk(['build', '--no-link', '--json', '--store', other]);
    expect(JSON.parse(here.stdout)[0].outputs).toEqual(outputs);
    const infoOf = async (...store: string[]) =>
      JSON.parse((await world.flk(['store', 'path-info', '--json', outputs.out, ...store])).stdout)[
        outputs.out
      ];
    const [far, near] = [await infoOf(), await infoOf('--store', other)];
    expect(far.narHash).toBe(near.narHash);
    expect([far.ultimate, near.ultimate]).toEqual([false, true]);
  });

  it('passes over who cannot, and says why beforehand', async () => {
    const dry = await world.flk(['build', '--dry-run', '--builders', `${nix},local`, '#host']);
    expect(dry.status, dry.stderr).toBe(0);
    expect(dry.stdout).toMatch(
      /^would build 1 package:\n {2}\S+-host\.drv {2}on local: no cache is asked\n {4}not on nix: Nix’s sandbox does not show/,
    );
    const json = await world.flk(['build', '--dry-run', '--json', '--builders', nix, '#host']);
    expect(json.status).toBe(1);
    expect(JSON.parse(json.stdout).build).toMatchObject([
      { builder: null, why: 'no-caches', passedOver: [{ builder: 'nix' }] },
    ]);
    const built = await world.flk(['build', '--builders', `${nix},local`, '--no-link', '#host']);
    expect(built.status, built.stderr).toBe(0);
    expect(built.stderr).toContain('building host\n');
  });

  it('takes the next one where the first is not there, with one notice', async () => {
    const store = ['--store', join(world.home, 'third')];
    const args = ['build', '--no-link', ...store];
    const dry = await world.flk([...args, '--dry-run', '--builders', 'nix=/no/nix,local']);
    expect(dry.stdout).toMatch(/-default\.drv {2}on local: .*\n {4}not on nix: cannot run \/no\/nix/);
    expect(dry.stdout).toMatch(/-base\.drv {2}by flk itself: /);
    const alone = await world.flk([...args, '--builders', 'nix=/no/nix']);
    expect([alone.status, alone.stderr]).toEqual([3, expect.stringContaining('FLK_BUILDER_UNAVAILABLE')]);
    const both = await world.flk([...args, '--builders', 'nix=/no/nix,local']);
    expect(both.status, both.stderr).toBe(0);
    expect(both.stderr.match(/warning: nix is left out: /g)).toHaveLength(1);
  });

  it('shows how a builder failed', async () => {
    const { status, stderr } = await world.flk(['build', '--builders', nix, '--no-link', '#broken']);
    expect(status).toBe(1);
    expect(stderr).toContain('FLK_BUILD_FAILED');
    expect(stderr).toContain('exit status 3 in installPhase');
    expect(stderr).toContain('so it goes');
  });

  it('builds again there and compares', async () => {
    const { status, stderr } = await world.flk(['build', '--builders', nix, '--no-link', '--rebuild']);
    expect(status, stderr).toBe(0);
    expect(stderr).toContain('built again: the same bytes');
  });
});
