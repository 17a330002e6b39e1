import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { type CliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';

const program = join(import.meta.dirname, '../../bin/flk.js');

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { delayMs: 20 });
});

const url = (name: string): string => `git+${served.server.base}/${name}`;

function launched(world: CliWorld, args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [program, ...args], { cwd: world.folder, env: world.env, stdio: 'ignore' });
}

const ended = (child: ChildProcess): Promise<number | string | null> =>
  new Promise((resolve) => child.on('close', (status, signal) => resolve(status ?? signal)));

const files = (world: CliWorld): string[] =>
  readdirSync(world.folder)
    .filter((name) => name !== '.git')
    .sort();

describe('Ctrl-C', () => {
  it('at any moment of a lock leaves the old file or the new one, whole, and nothing beside it', async () => {
    const world = flakeWorld(`inputs:\n  hello: ${url('hello')}\n`);
    const path = join(world.folder, 'flake.lock');
    const whole = await world.flk(['lock']);
    expect(whole.status).toBe(0);
    const wanted = readFileSync(path, 'utf8');
    const statuses = new Set<number | string | null>();
    for (let after = 20; after <= 900; after += 80) {
      rmSync(path, { force: true });
      rmSync(join(world.home, 'cache/flk/git'), { recursive: true, force: true });
      const child = launched(world, ['lock']);
      const done = ended(child);
      await sleep(after);
      child.kill('SIGINT');
      statuses.add(await done);
      expect(files(world).filter((name) => name !== 'flake.lock')).toEqual(['flake.yaml']);
      if (files(world).includes('flake.lock')) expect(readFileSync(path, 'utf8')).toBe(wanted);
    }
    // Before flk has taken over the signal, Node itself dies of it.
    for (const status of statuses) expect([0, 130, 'SIGINT']).toContain(status);
    // And the next one finds nothing in its way.
    expect((await world.flk(['lock'])).status).toBe(0);
    expect(readFileSync(path, 'utf8')).toBe(wanted);
  });

  it('ends with status 130 and says so, also while a server is silent', async () => {
    served.server.interfere = () => ({ hang: true });
    const world = flakeWorld(`inputs:\n  base: ${url('base')}\n`);
    const stop = new AbortController();
    const asked = served.server.log.length;
    const result = world.flk(['lock'], { signal: stop.signal });
    while (served.server.log.length === asked) await sleep(10);
    stop.abort();
    const { status, stderr } = await result;
    served.server.interfere = undefined;
    expect({ status, stderr }).toEqual({ status: 130, stderr: 'error[FLK_INTERRUPTED] interrupted\n' });
    expect(files(world)).toEqual(['flake.yaml']);
  });

  it('ends a builder with all that it started', async () => {
    const mark = `flk-test-${process.pid}-${Date.now()}`;
    const world = flakeWorld(
      `packages:\n  default:\n    toolchain: host\n    buildPhase: |\n      : ${mark}\n      sh -c 'sleep 600' ${mark} & sleep 600\n    installPhase: mkdir $out\n`,
    );
    const child = launched(world, ['build', '--no-sandbox']);
    const done = ended(child);
    const running = (): boolean => processes().some((line) => line.includes(mark));
    while (!running() && child.exitCode === null) await sleep(20);
    child.kill('SIGINT');
    expect(await done).toBe(130);
    expect(running()).toBe(false);
    expect(files(world)).toEqual(['flake.yaml']);
  });
});

/** The command lines of this machine's processes. */
function processes(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      } catch {
        return '';
      }
    });
}

describe('several flk at once', () => {
  it('in one folder take turns and agree', async () => {
    const world = flakeWorld(`inputs:\n  hello: ${url('hello')}\n  split: ${url('split-diamond')}\n`);
    const results = await Promise.all(Array.from({ length: 4 }, () => world.flk(['lock'])));
    expect(results.map(({ status }) => status)).toEqual([0, 0, 0, 0]);
    // One of them wrote; the others found it done.
    expect(results.filter(({ stderr }) => stderr.includes('wrote flake.lock'))).toHaveLength(1);
    expect(files(world)).toEqual(['flake.lock', 'flake.yaml']);
  });

  it('add inputs without losing one', async () => {
    const world = flakeWorld('description: x\n');
    const names = ['base', 'assets', 'left'];
    const results = await Promise.all(
      names.map((name) => world.flk(['add', url(name), ...(name === 'assets' ? ['--no-flake'] : [])])),
    );
    expect(results.map(({ status }) => status)).toEqual([0, 0, 0]);
    const lock = JSON.parse(readFileSync(join(world.folder, 'flake.lock'), 'utf8')) as {
      nodes: { root: { inputs: object } };
    };
    expect(Object.keys(lock.nodes.root.inputs).sort()).toEqual([...names].sort());
    expect((await world.flk(['lock', '--check'])).status).toBe(0);
  });
});
