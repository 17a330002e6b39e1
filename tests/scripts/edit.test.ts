/** `flk add|remove|set|pin|unpin`: flake.yaml as its author wrote it, but for one thing, and the lock that belongs to it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type CliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';
import { git } from '../support/repositories.ts';

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { phase: 1 });
});
const url = (name: string): string => `git+${served.server.base}/${name}`;

interface Lock {
  readonly nodes: Record<
    string,
    { locked?: { rev?: string }; inputs?: Record<string, unknown>; flk?: { tag?: string } }
  >;
}

class World {
  readonly #world: CliWorld;

  constructor(manifest: string) {
    this.#world = flakeWorld(manifest);
  }

  /** What stderr says. */
  async run(...args: string[]): Promise<string> {
    const { status, stderr } = await this.#world.flk(args);
    expect(stderr).not.toContain('error[');
    expect(status).toBe(0);
    return stderr;
  }

  async json(...args: string[]): Promise<unknown> {
    return JSON.parse((await this.#world.flk([...args, '--json'])).stdout);
  }

  /** A refusal: neither file has changed. */
  async refused(...args: string[]): Promise<string> {
    const before = [this.manifest, this.lockText];
    const { status, stderr } = await this.#world.flk(args);
    expect(status).toBeGreaterThan(0);
    expect([this.manifest, this.lockText]).toEqual(before);
    return stderr;
  }

  get folder(): string {
    return this.#world.folder;
  }

  get manifest(): string {
    return readFileSync(join(this.folder, 'flake.yaml'), 'utf8');
  }

  get lockText(): string {
    return readFileSync(join(this.folder, 'flake.lock'), 'utf8');
  }

  get lock(): Lock {
    return JSON.parse(this.lockText) as Lock;
  }
}

describe('flk add', () => {
  it('takes a range of tags, what follows, a branch', async () => {
    const world = new World('# mine\ninputs: {}\n');
    await world.run('add', url('base'));
    expect(await world.json('add', url('greet'), '--version', '^1.2', '--follows', 'style=base')).toEqual({
      name: 'greet',
      url: url('greet'),
      version: '^1.2',
      follows: { style: 'base' },
    });
    expect(world.manifest).toBe(
      `# mine\ninputs:\n  base: ${url('base')}\n  greet:\n    url: ${url('greet')}\n    version: ^1.2\n    inputs:\n      style:\n        follows: base\n`,
    );
    expect(world.lock.nodes.greet).toMatchObject({ flk: { tag: 'v1.2.0' }, inputs: { style: ['base'] } });
    expect(await world.refused('add', url('left'), '--ref', 'nowhere')).toContain('FLK_GIT_REF_MISSING');
    expect(await world.refused('add', url('left'), 'self')).toContain('self is this flake');
    expect(await world.refused('add', url('left'), '--follows', 'base')).toContain('INPUT=TARGET');
  });

  it('takes a shape of tags', async () => {
    const world = new World('inputs: {}\n');
    await world.run('lock');
    const repository = join(served.folder, 'left');
    git(repository, 'tag', 'release-1.4.0');
    await world.run('add', url('left'), '--version', '^1', '--tag', 'release-{version}');
    expect(world.lock.nodes.left).toMatchObject({ flk: { tag: 'release-1.4.0' } });
  });
});

describe('flk remove', () => {
  it('takes inputs out of both files', async () => {
    const world = new World(`inputs:\n  a: ${url('base')} # gone\n  # stays\n  b: ${url('hello')}\n`);
    await world.run('lock');
    expect(await world.run('remove', 'a')).toContain("• Removed input 'a'");
    expect(world.manifest).toBe(`inputs:\n  # stays\n  b: ${url('hello')}\n`);
    expect(Object.keys(world.lock.nodes.root?.inputs ?? {})).toEqual(['b']);
    expect(await world.refused('remove', 'a')).toContain('FLK_INPUT_UNKNOWN');
  });

  it('lists what uses an input, and leaves everything', async () => {
    const world = new World(
      `inputs:\n  base: ${url('base')}\n  greet:\n    url: ${url('greet')}\n    inputs: { base: { follows: base } }\npackages:\n  p: { src: base, installPhase: x }\n`,
    );
    await world.run('lock');
    const said = await world.refused('remove', 'base');
    expect(said).toContain('error[FLK_USAGE] base cannot be removed: something uses it');
    expect(said).toContain('flake.yaml:5:15: greet/base follows base');
    expect(said).toContain('flake.yaml:7:13: this uses base');
    expect(await world.refused('remove', 'greet', 'base')).not.toContain('follows base');
    await world.run('remove', 'greet');
  });
});

describe('flk set', () => {
  it('changes keys, and takes them away', async () => {
    const world = new World(`inputs:\n  greet: ${url('greet')} # hello\n`);
    await world.run('lock');
    await world.run('set', 'greet', '--version', '~1.2');
    expect(world.manifest).toBe(`inputs:\n  greet:\n    url: ${url('greet')} # hello\n    version: ~1.2\n`);
    expect(world.lock.nodes.greet?.flk?.tag).toBe('v1.2.0');
    await world.run('set', 'greet', '--version', '', '--url', url('hello'));
    expect(world.manifest).toBe(`inputs:\n  greet:\n    url: ${url('hello')} # hello\n`);
    expect(await world.refused('set', 'greet')).toContain('there is nothing to set');
    expect(await world.refused('set', 'greet', '--url', '')).toContain('flk remove greet');
    expect(await world.refused('set', 'greet', '--ref', 'main', '--version', '^1')).toContain(
      'keep one of them',
    );
  });
});

describe('flk pin', () => {
  it('keeps an input where it is until it is unpinned', async () => {
    const world = new World(`inputs:\n  moves: ${url('base')}\n`);
    const repository = join(served.folder, 'base');
    await world.run('lock');
    const pinned = world.lock.nodes.moves?.locked?.rev;
    expect(await world.json('pin', 'moves')).toEqual({ name: 'moves', frozen: true });
    const newest = git(repository, 'commit-tree', 'HEAD^{tree}', '-p', 'HEAD', '-m', 'one more');
    git(repository, 'update-ref', 'HEAD', newest);
    await world.run('update');
    expect(world.lock.nodes.moves?.locked?.rev).toBe(pinned);
    await world.run('unpin', 'moves');
    expect(world.lock.nodes.moves?.locked?.rev).toBe(pinned);
    await world.run('update');
    expect(world.lock.nodes.moves?.locked?.rev).toBe(newest);

    await world.run('pin', 'moves', pinned!);
    expect(world.lock.nodes.moves?.locked?.rev).toBe(pinned);
    await world.run('update');
    expect(world.lock.nodes.moves?.locked?.rev).toBe(pinned);
    await world.run('unpin', 'moves');
    expect(world.lock.nodes.moves?.locked?.rev).toBe(newest);
    expect(world.manifest).toBe(`inputs:\n  moves:\n    url: ${url('base')}\n`);
  });

  it('says why it cannot', async () => {
    const world = new World(
      `inputs:\n  greet: { url: "${url('greet')}", version: ^1 }\n  same: { follows: greet }\n  fixed: ${url('base')}?rev=${git(join(served.folder, 'base'), 'rev-parse', 'HEAD')}\n`,
    );
    await world.run('lock');
    const rev = 'a'.repeat(40);
    expect(await world.refused('pin', 'greet', rev)).toContain('flk pin greet keeps the tag');
    expect(await world.refused('pin', 'fixed', 'main')).toContain('40 hex digits');
    expect(await world.refused('pin', 'same')).toContain('same follows greet');
    expect(await world.refused('pin', 'none')).toContain('FLK_INPUT_UNKNOWN');
    expect(await world.refused('unpin', 'fixed')).toContain('flk set fixed --url URL');
  });
});

describe('a flake.nix', () => {
  it('is left to its author, who is told what to write', async () => {
    const world = flakeWorld('', { 'flake.nix': '{ outputs = _: { }; }\n' });
    const run = async (...args: string[]): Promise<string> =>
      (await world.flk([...args, '--manifest', 'flake.nix'])).stderr;
    expect(await run('add', 'github:a/b')).toContain('hint: write inputs.b.url = "github:a/b"; into it');
    for (const args of [
      ['remove', 'x'],
      ['pin', 'x'],
      ['unpin', 'x'],
      ['set', 'x', '--ref', 'y'],
    ])
      expect(await run(...args)).toContain('flk does not edit flake.nix');
    expect((await world.flk(['add', 'github:a/b'])).stderr).toContain('error[FLK_MANIFEST_AMBIGUOUS]');
    writeFileSync(join(world.folder, 'flake.yaml'), '');
    expect(readFileSync(join(world.folder, 'flake.nix'), 'utf8')).toBe('{ outputs = _: { }; }\n');
  });
});
