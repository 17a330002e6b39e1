/** `flk registry` beside `nix registry`: the same words, the same files. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';
import { nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

const registryOf = (world: CliWorld): string => join(world.env.XDG_CONFIG_HOME!, 'nix/registry.json');
const readRegistry = (world: CliWorld): string => readFileSync(registryOf(world), 'utf8');

/** With no global registry. */
const quietWorld = (): CliWorld => cliWorld({ NIX_CONFIG: 'flake-registry =' });

function commit(folder: string): void {
  git(folder, 'init', '-q', '-b', 'main');
  git(folder, 'add', '.');
  git(folder, 'commit', '-q', '-m', 'first');
}

interface Done {
  readonly status: number | null;
  readonly stdout: string;
}

describe.skipIf(!nixAvailable())(`flk registry and nix registry ${nixReason}`, () => {
  /** What `nix registry` does, command after command, in a world of its own. */
  async function withNix(world: CliWorld, commands: readonly (readonly string[])[]): Promise<Done[]> {
    const results: Done[] = [];
    for (const command of commands) {
      const { HOME, XDG_CACHE_HOME, XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_STATE_HOME } = world.env;
      const env = { HOME, XDG_CACHE_HOME, XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_STATE_HOME };
      const { status, stdout } = await nixCommand('nix', ['registry', ...command], {
        env,
        cwd: world.folder,
      });
      results.push({ status: status === 0 ? 0 : 1, stdout });
    }
    return results;
  }

  async function withFlk(world: CliWorld, commands: readonly (readonly string[])[]): Promise<Done[]> {
    const results: Done[] = [];
    for (const command of commands) {
      const { status, stdout } = await world.flk(['registry', ...command]);
      results.push({ status: status === 0 ? 0 : 1, stdout });
    }
    return results;
  }

  it('print and write the same', async () => {
    const repository = join(temporaryFolder(), 'repository');
    mkdirSync(join(repository, 'sub'), { recursive: true });
    writeFileSync(join(repository, 'sub/a'), 'a');
    commit(repository);
    const url = `git+${pathToFileURL(repository).href}`;
    const commands = [
      ['add', 'nixpkgs', 'github:a/b/main'],
      ['add', 'greet/v1', 'git+https://h/x?dir=d&ref=m&submodules=1'],
      ['add', 'bar', '/tmp/x y?dir=z'],
      ['add', 'github:a/b', 'github:c/d?dir=q'],
      ['add', 'gone', 'https://h/x.tar.gz'],
      ['add', 'sub', 'gitlab:group%2Fsub/project?host=git.example.org'],
      ['add', 'nixpkgs', 'sourcehut:~a/b'],
      ['list'],
      ['resolve', 'nixpkgs', 'greet/v1', 'bar', 'nixpkgs/rel', 'github:a/b/zz', 'flake:nixpkgs?dir=u', url],
      ['remove', 'gone'],
      ['remove', 'never-there'],
      ['pin', 'here', url],
      ['pin', 'folder', `path:${repository}`],
      ['add', 'named', `${url}?dir=sub`],
      ['pin', 'named'],
      ['pin', 'flake:two?dir=sub', 'named'],
      ['list'],
    ];
    const [ours, theirs] = [quietWorld(), quietWorld()];
    expect(await withFlk(ours, commands)).toEqual(await withNix(theirs, commands));
    expect(readRegistry(ours)).toBe(readRegistry(theirs));
    // Each goes on where the other stopped.
    writeFileSync(registryOf(ours), readRegistry(theirs));
    const rest = [['remove', 'here'], ['add', 'new', 'github:x/y'], ['list']];
    expect(await withFlk(ours, rest)).toEqual(await withNix(theirs, rest));
    expect(readRegistry(ours)).toBe(readRegistry(theirs));
    const names = ['nixpkgs', 'greet/v1', 'bar', 'github:a/b', 'sub', 'folder', 'named', 'flake:two', 'new'];
    const removals = names.map((name) => ['remove', name]);
    await withFlk(ours, removals);
    await withNix(theirs, removals);
    expect(readRegistry(ours)).toBe(readRegistry(theirs));
    expect(readRegistry(ours)).toContain('null');
  }, 120_000);
});

describe('flk registry', () => {
  it('changes another file where told to, and answers in JSON', async () => {
    const world = quietWorld();
    expect(await world.flk(['registry', 'add', '--registry', 'r.json', 'a', './lib'])).toMatchObject({
      status: 0,
    });
    const { flakes } = JSON.parse(readFileSync(join(world.folder, 'r.json'), 'utf8')) as { flakes: unknown };
    expect(flakes).toEqual([
      { from: { id: 'a', type: 'indirect' }, to: { path: join(world.folder, 'lib'), type: 'path' } },
    ]);
    await world.flk(['registry', 'add', 'b', 'github:o/r']);
    expect(JSON.parse((await world.flk(['registry', 'list', '--json'])).stdout)).toEqual([
      {
        registry: 'user',
        from: { id: 'b', type: 'indirect' },
        to: { owner: 'o', repo: 'r', type: 'github' },
        exact: false,
      },
    ]);
    const resolve = ['registry', 'resolve', 'b/v1', '--json'];
    expect(JSON.parse((await world.flk(resolve)).stdout)).toEqual([
      { from: 'flake:b/v1', to: 'github:o/r/v1' },
    ]);
  });

  it('asks the command line first', async () => {
    const world = quietWorld();
    await world.flk(['registry', 'add', 'a', 'github:o/r']);
    const flags = ['--override-flake', 'a', 'github:mine/r'];
    expect((await world.flk(['registry', 'resolve', 'a', ...flags])).stdout).toBe('github:mine/r\n');
    expect((await world.flk(['registry', 'list', ...flags])).stdout).toBe(
      'flags  flake:a github:mine/r\nuser   flake:a github:o/r\n',
    );
    const { status, stderr } = await world.flk(['registry', 'resolve', 'a', '--no-registries']);
    expect(status).toBe(2);
    expect(stderr).toContain('FLK_REGISTRY_UNKNOWN');
  });

  it.each([
    [['frobnicate'], 'there is no flk registry frobnicate'],
    [['add', 'a'], 'flk registry add takes FROM and TO'],
    [['remove'], 'flk registry remove takes FROM'],
    [['list', 'x'], 'flk registry list takes nothing more'],
    [['resolve'], 'flk registry resolve takes references'],
    [['resolve', 'a', '--override-flake', './a', './b'], 'a path is no registry’s name'],
    [['resolve', 'nonsuch'], 'no registry knows flake:nonsuch'],
  ])('%j is refused', async (args, message) => {
    const { status, stdout, stderr } = await quietWorld().flk(['registry', ...args]);
    expect(status).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toContain(message);
  });

  it('says what an input’s name means, and the lock keeps the name beside what it meant', async () => {
    const world = flakeWorld('inputs: { lib: { url: thing/main, flake: false } }\n');
    const repository = join(world.home, 'repository');
    mkdirSync(repository);
    writeFileSync(join(repository, 'a'), 'a');
    commit(repository);
    const url = pathToFileURL(repository).href;
    // This person's own names are none of an input's, which others have to understand, too.
    await world.flk(['registry', 'add', 'thing', `git+${url}`], { env: { NIX_CONFIG: 'flake-registry =' } });
    const alone = await world.flk(['lock'], { env: { NIX_CONFIG: 'flake-registry =' } });
    expect(alone.status).toBe(2);
    expect(alone.stderr).toContain('FLK_REGISTRY_UNKNOWN');

    const global = join(world.home, 'global.json');
    await world.flk(['registry', 'add', '--registry', global, 'thing', `git+${url}`]);
    const locked = await world.flk(['lock'], { env: { NIX_CONFIG: `flake-registry = ${global}` } });
    expect(locked).toMatchObject({ status: 0 });
    const { nodes } = JSON.parse(readFileSync(join(world.folder, 'flake.lock'), 'utf8')) as {
      nodes: Record<string, unknown>;
    };
    expect(nodes.lib).toMatchObject({
      original: { id: 'thing', ref: 'main', type: 'indirect' },
      locked: { type: 'git', url, ref: 'main' },
    });
    // Locked once, no registry is asked.
    const env = { NIX_CONFIG: 'flake-registry = /none.json' };
    expect(await world.flk(['lock', '--check'], { env })).toMatchObject({ status: 0 });
  });
});
