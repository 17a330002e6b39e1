import { spawn } from 'node:child_process';
import { existsSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { type CliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';

const program = join(import.meta.dirname, '../../bin/flk.js');

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { phase: 1 });
});

const manifest = `packages:
  default: top
  lib:
    toolchain: host
    installPhase: mkdir -p $out; echo lib > $out/lib
  top:
    toolchain: host
    env: { LIB: "{{#lib}}" }
    installPhase: mkdir -p $out; echo $LIB > $out/top
  loose:
    toolchain: host
    installPhase: mkdir -p $out; echo loose > $out/loose
`;

const inStore = (world: CliWorld): string[] =>
  readdirSync(join(world.home, 'data/flk/nix/store')).map((name) => name.slice(33));
const built = async (world: CliWorld, name: string): Promise<string> =>
  (await world.flk(['build', name, '--no-link', '--print-out-paths'])).stdout.trim();

describe('flk gc', () => {
  it('frees what nothing keeps, tells how much, and why the rest lives', async () => {
    const world = flakeWorld(manifest);
    await world.flk(['build']);
    const loose = await built(world, '.#loose');
    const lib = await built(world, '.#lib');
    const top = `/nix/store/${realpathSync(join(world.folder, 'result')).split('/').at(-1)}`;

    const why = await world.flk(['why-alive', lib]);
    expect(why.status).toBe(0);
    expect(why.stdout).toBe(`${lib}:\n  ${join(world.folder, 'result')}\n    → ${top}\n    → ${lib}\n`);
    const nothing = await world.flk(['why-alive', loose, 'result']);
    expect(nothing.status).toBe(1);
    expect(nothing.stdout).toContain(`${loose}: nothing: the next flk gc removes it`);

    const roots = await world.flk(['gc', '--print-roots']);
    expect(roots.stdout).toBe(`${join(world.folder, 'result')} -> ${top}\n`);

    const dry = await world.flk(['gc', '--dry-run']);
    expect(dry.stdout).toContain(`${loose}\n`);
    expect(dry.stdout).toMatch(/would free about .* 2 paths\n$/);
    expect(inStore(world)).toContain('loose');

    const { status, stdout, stderr } = await world.flk(['gc']);
    expect(status, stderr).toBe(0);
    expect(stdout).toMatch(/^freed \d.*: 2 paths, 1 log\n\d+ paths in use, by 1 root; flk why-alive PATH/);
    expect(inStore(world).filter((name) => name.startsWith('loose'))).toEqual([]);
    expect(inStore(world).sort()).toContain('top.drv');

    rmSync(join(world.folder, 'result'));
    const all = JSON.parse((await world.flk(['gc', '--json'])).stdout) as { alive: number; left: number };
    expect(all).toMatchObject({
      alive: 0,
      left: 0,
      roots: 0,
      dryRun: false,
      staleRoots: [expect.any(String)],
    });
    expect(inStore(world)).toEqual([]);
    // What is gone is built again.
    expect((await world.flk(['build'])).status).toBe(0);
    expect(existsSync(join(world.folder, 'result/top'))).toBe(true);
  });

  it('tells what a running flk holds', async () => {
    const world = flakeWorld(`${manifest}  waits:
    toolchain: host
    env: { LIB: "{{#lib}}" }
    buildPhase: echo waiting; sleep 600
    installPhase: mkdir $out
`);
    const lib = await built(world, '.#lib');
    const loose = await built(world, '.#loose');
    const args = [program, 'build', '--no-link', '.#waits'];
    const child = spawn(process.execPath, args, { cwd: world.folder, env: world.env, stdio: 'ignore' });
    onTestFinished(() => void child.kill('SIGKILL'));
    const over = new Promise((done) => child.once('exit', done));
    await expect.poll(async () => (await world.flk(['log', '.#waits'])).stdout).toContain('waiting');
    const held = `a running flk (pid ${child.pid})`;
    const dry = JSON.parse((await world.flk(['gc', '--dry-run', '--json'])).stdout);
    expect(dry.removed.map(({ path }: { path: string }) => path)).toContain(loose);
    expect(dry.removed.map(({ path }: { path: string }) => path)).not.toContain(lib);
    expect((await world.flk(['why-alive', lib])).stdout).toContain(`${lib}:\n  ${held}`);
    expect((await world.flk(['gc', '--print-roots'])).stdout).toContain(`${held} -> ${lib}\n`);
    expect((await world.flk(['gc'])).status).toBe(0);
    expect(inStore(world)).toContain('lib');
    expect(inStore(world)).not.toContain('loose');
    child.kill('SIGKILL');
    await over;
    // The kernel ends the builder a moment later.
    await expect.poll(async () => (await world.flk(['why-alive', lib])).status).toBe(1);
  });

  it('takes derivations too where settings say so', async () => {
    const world = flakeWorld(manifest);
    await world.flk(['build']);
    await world.flk(['gc'], { env: { NIX_CONFIG: 'keep-derivations = false' } });
    expect(inStore(world).sort()).toEqual(['lib', 'top']);
  });

  it('drops old generations first, where that is asked for, and only as many as agreed', async () => {
    const world = flakeWorld(manifest);
    for (const name of ['lib', 'top', 'loose']) await world.flk(['profile', 'install', `.#${name}`]);
    await world.flk(['profile', 'remove', 'loose', 'top']);
    const kept = JSON.parse((await world.flk(['gc', '--older-than', '30d', '--json'])).stdout);
    expect(kept).toMatchObject({ generations: [] });
    const dry = await world.flk(['gc', '--keep', '2', '--dry-run']);
    expect(dry.stdout).toMatch(/profile-1-link\n.*profile-2-link\n/);
    const { stdout } = await world.flk(['gc', '--older-than', '0h', '--keep', '1']);
    expect(stdout).toMatch(/^freed .*, 3 generations/);
    expect(inStore(world)).not.toContain('loose');
    expect((await world.flk(['profile', 'history'])).stdout).toMatch(/^generation 4/);
  });

  it('stops when enough was freed, in a dry run too', async () => {
    const world = flakeWorld(manifest);
    await built(world, '.#loose');
    await built(world, '.');
    const dry = await world.flk(['gc', '--max-freed', '1K', '--dry-run', '--json']);
    const foreseen = JSON.parse(dry.stdout) as { removed: unknown[]; left: number };
    expect(foreseen.removed.length).toBeGreaterThan(0);
    expect(foreseen.left).toBeGreaterThan(0);
    const { removed, left, bytes } = JSON.parse(
      (await world.flk(['gc', '--max-freed', '1K', '--json'])).stdout,
    ) as { removed: unknown[]; left: number; bytes: number };
    expect(bytes).toBeGreaterThanOrEqual(1024);
    expect(left).toBeGreaterThan(0);
    expect(removed.length).toBeGreaterThan(0);
    expect((await world.flk(['gc'])).stdout).toContain('freed');
    expect(inStore(world)).toEqual([]);
  });

  it('stops when enough of the disk is free, which may be at once', async () => {
    const world = flakeWorld(manifest);
    await built(world, '.#loose');
    const gc = async (...args: string[]): Promise<{ removed: unknown[]; left: number }> =>
      JSON.parse((await world.flk(['gc', '--json', ...args])).stdout);
    // This disk has a byte, and not thousands of terabytes.
    const enough = await gc('--max-free', '1');
    expect(enough.removed).toEqual([]);
    expect(enough.left).toBeGreaterThan(0);
    expect((await gc('--max-free', '8000T', '--max-freed', '0', '--dry-run')).removed).toEqual([]);
    expect((await gc('--max-free', '8000T', '--dry-run')).left).toBe(0);
    expect((await gc('--max-free', '8000T')).left).toBe(0);
    expect(inStore(world)).toEqual([]);
  });

  it('keeps the inputs of live locks, until their lock is gone', async () => {
    const world = flakeWorld(`inputs:
  input: { url: "git+${served.server.base}/odd-files", flake: false }
packages:
  default:
    toolchain: host
    env: { FROM: "{{input}}" }
    installPhase: mkdir -p $out; cat $FROM/* > $out/all 2>/dev/null || true
`);
    const output = await built(world, '.');
    expect(output).toMatch(/^\/nix\/store\//);
    await world.flk(['gc']);
    expect(inStore(world)).toEqual(['source']);
    const [source] = readdirSync(join(world.home, 'data/flk/nix/store'));
    const lock = join(world.folder, 'flake.lock');
    expect((await world.flk(['why-alive', `/nix/store/${source}`])).stdout).toContain(lock);
    // A merge that is not over yet says nothing of what is needed afterwards.
    writeFileSync(lock, '<<<<<<< ours\n');
    const { stderr } = await world.flk(['gc']);
    expect(stderr).toContain(`${lock} cannot be read, so every source in the store stays`);
    expect(inStore(world)).toEqual(['source']);
    rmSync(lock);
    await world.flk(['gc']);
    expect(inStore(world)).toEqual([]);
  });

  it.each([
    [['--older-than', '30'], '30d, 12h or 2w'],
    [['--max-free', 'much'], '10G, or 500M'],
    [['--max-freed', 'much'], '10G, or 500M'],
    [['--keep', '0'], '--keep 1'],
  ])('refuses %j', async (args, said) => {
    const { status, stderr } = await flakeWorld(manifest).flk(['gc', ...args]);
    expect(status).toBe(2);
    expect(stderr).toContain(said);
  });
});
