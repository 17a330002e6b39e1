import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';
import { git } from '../support/repositories.ts';

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { phase: 1 });
});

const url = (name: string): string => `git+${served.server.base}/${name}`;

/** A repository in the world's folder whose flake.yaml Git knows. */
function flake(manifest: string, env?: Record<string, string>): CliWorld & { readonly lockPath: string } {
  const world = flakeWorld(manifest, {}, env);
  return { ...world, lockPath: join(world.folder, 'flake.lock') };
}

interface Lock {
  readonly nodes: Record<string, { locked?: { rev?: string; narHash?: string }; flk?: { tag?: string } }>;
}
const lockOf = (world: { lockPath: string }): Lock =>
  JSON.parse(readFileSync(world.lockPath, 'utf8')) as Lock;

describe('flk lock', () => {
  it('locks over HTTP, lists what it did, makes Git know the lock; again it does nothing', async () => {
    const world = flake(`inputs:\n  diamond: ${url('diamond')}\n`);
    const first = await world.flk(['lock']);
    expect(first).toMatchObject({ status: 0, stdout: '' });
    expect(first.stderr).toContain(
      `wrote flake.lock:\n• Added input 'diamond':\n    '${url('diamond')}?ref=refs/heads/main&rev=`,
    );
    expect(first.stderr).toContain("• Added input 'diamond/right/base':\n    follows 'diamond/left/base'");
    expect(Object.keys(lockOf(world).nodes).sort()).toEqual(['base', 'diamond', 'left', 'right', 'root']);
    expect(git(world.folder, 'ls-files')).toBe('flake.lock\nflake.yaml');
    expect(git(world.folder, 'diff', '--cached', '--name-only')).toBe('');

    const before = readFileSync(world.lockPath);
    const asked = served.server.log.length;
    expect(await world.flk(['lock'])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(readFileSync(world.lockPath)).toEqual(before);
    expect(served.server.log.length).toBe(asked);
  });

  it('is asked anew when either file changes, or a file of a relative input', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    await world.flk(['lock']);
    expect(await world.flk(['lock'])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(await world.flk(['lock'])).toEqual({ status: 0, stdout: '', stderr: '' });
    const lock = readFileSync(world.lockPath, 'utf8');
    writeFileSync(world.lockPath, lock.slice(0, 100));
    expect((await world.flk(['lock'])).status).toBe(2);
    writeFileSync(world.lockPath, lock);
    expect((await world.flk(['lock'])).status).toBe(0);
    mkdirSync(join(world.folder, 'lib'));
    const library = join(world.folder, 'lib/flake.yaml');
    writeFileSync(library, 'description: a\n');
    writeFileSync(join(world.folder, 'flake.yaml'), 'inputs:\n  lib: path:./lib\n');
    git(world.folder, 'add', '-N', '.');
    for (let i = 0; i < 3; i++) expect((await world.flk(['lock'])).status).toBe(0);
    writeFileSync(library, `inputs:\n  base: ${url('base')}\n`);
    expect((await world.flk(['lock'])).stderr).toContain("• Added input 'lib/base'");
  });

  it('gives equal bytes in another folder, to another user, whoever answers first', async () => {
    const manifest = `inputs:\n  hello: ${url('hello')}\n  split: ${url('split-diamond')}\n  over: ${url('nested-overrides')}\n`;
    const worlds = [flake(manifest), flake(manifest)];
    served.server.delayMs = 20;
    await Promise.all(worlds.map((world) => world.flk(['lock'])));
    served.server.delayMs = 0;
    expect(readFileSync(worlds[0]!.lockPath)).toEqual(readFileSync(worlds[1]!.lockPath));
  });

  it('writes no lock for a flake without inputs', async () => {
    const world = flake('description: alone\n');
    expect((await world.flk(['lock'])).status).toBe(0);
    expect(readdirSync(world.folder).sort()).toEqual(['.git', 'flake.yaml']);
  });

  it('works in a folder that is no repository, and from a folder below', async () => {
    const world = cliWorld();
    const below = join(world.folder, 'deep/er');
    mkdirSync(below, { recursive: true });
    git(world.folder, 'init', '-q');
    writeFileSync(join(world.folder, 'flake.yaml'), `inputs:\n  base: ${url('base')}\n`);
    git(world.folder, 'add', '-N', 'flake.yaml');
    expect((await world.flk(['lock'], { cwd: below })).status).toBe(0);
    expect(readdirSync(world.folder)).toContain('flake.lock');
    rmSync(join(world.folder, '.git'), { recursive: true });
    rmSync(join(world.folder, 'flake.lock'));
    expect((await world.flk(['lock', world.folder], { cwd: below })).status).toBe(0);
    expect(readdirSync(world.folder)).toContain('flake.lock');
  });

  it('answers in JSON', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    expect(JSON.parse((await world.flk(['lock', '--json'])).stdout)).toEqual({
      lockFile: world.lockPath,
      changed: true,
      written: world.lockPath,
      changes: [
        {
          change: 'added',
          input: ['base'],
          was: null,
          now: { url: expect.stringContaining(url('base')), locked: lockOf(world).nodes.base?.locked },
        },
      ],
    });
    expect(JSON.parse((await world.flk(['lock', '--json'])).stdout)).toEqual({
      lockFile: world.lockPath,
      changed: false,
      written: null,
      changes: [],
    });
  });

  it('says in JSON what moved, also where it is written elsewhere or nowhere', async () => {
    const manifest = `inputs:\n  greet: { url: "${url('greet')}", version: ^1.2 }\n`;
    const world = flake(manifest);
    await world.flk(['lock']);
    writeFileSync(join(world.folder, 'flake.yaml'), `${manifest}  same: { follows: greet }\n`);
    for (const [flags, written] of [
      [['--no-write-lock-file'], null],
      [['--output-lock-file', 'other.lock'], join(world.folder, 'other.lock')],
      [[], world.lockPath],
    ] as const) {
      const answer: unknown = JSON.parse(
        (await world.flk(['lock', '--json', '--override-input', 'greet', url('style'), ...flags])).stdout,
      );
      expect(answer).toMatchObject({ lockFile: world.lockPath, changed: true, written });
      expect(answer).toMatchObject({
        changes: [
          {
            change: 'updated',
            input: ['greet'],
            was: { tag: 'v1.2.0', locked: { type: 'git', url: url('greet').slice('git+'.length) } },
            now: { url: expect.stringContaining(url('style')) },
          },
          { change: 'removed', input: ['greet', 'style'] },
          { change: 'added', input: ['same'], was: null, now: { follows: ['greet'] } },
        ],
      });
    }
  });

  it('under --quiet says nothing, with --log-format json events', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    expect(await world.flk(['lock', '--quiet'])).toEqual({ status: 0, stdout: '', stderr: '' });
    rmSync(world.lockPath);
    rmSync(join(world.home, 'cache'), { recursive: true });
    const { stderr } = await world.flk(['lock', '--log-format', 'json']);
    const events = stderr
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { kind: string });
    expect(events.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['start', 'end', 'message']));
  });

  it('says what it wrote where no input moved', async () => {
    const world = flake(`inputs:\n  greet: { url: "${url('greet')}", version: ^1.2 }\n`);
    expect((await world.flk(['lock'])).status).toBe(0);
    writeFileSync(
      join(world.folder, 'flake.yaml'),
      `inputs:\n  greet: { url: "${url('greet')}", version: ~1 }\n`,
    );
    expect(await world.flk(['lock'])).toMatchObject({
      status: 0,
      stderr: 'updated flake.lock: no input moved\n',
    });
  });

  it('leaves the file alone with --no-write-lock-file, and a remote flake in any case', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    const kept = await world.flk(['lock', '--no-write-lock-file']);
    expect(kept.status).toBe(0);
    expect(kept.stderr).toContain('changes to flake.lock, not written:');
    expect(readdirSync(world.folder)).not.toContain('flake.lock');
    const remote = await world.flk(['lock', url('hello')]);
    expect(remote.status).toBe(2);
    expect(remote.stderr).toContain('error[FLK_USAGE] this flake is not in a folder of this machine');
  });

  it('takes an input from elsewhere with --override-input, and says when there is none of that name', async () => {
    const world = flake(`inputs:\n  left: ${url('left')}\n`);
    const { status, stderr } = await world.flk([
      'lock',
      '--override-input',
      'left/base',
      url('right'),
      '--override-input',
      'nothing',
      url('base'),
    ]);
    expect(stderr).toContain('warning: input nothing is overridden, but the flake has no such input');
    expect(stderr).toContain(`• Added input 'left/base':\n    '${url('right')}`);
    expect(status).toBe(0);
  });
});

describe('flk lock --check', () => {
  it('says yes, or every reason with its line and the command, without any network', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    const missing = await world.flk(['lock', '--check']);
    expect(missing.status).toBe(1);
    expect(missing.stderr).toContain('error[FLK_LOCK_MISSING]');
    await world.flk(['lock']);
    const asked = served.server.log.length;
    expect((await world.flk(['lock', '--check'])).status).toBe(0);
    writeFileSync(
      join(world.folder, 'flake.yaml'),
      `inputs:\n  base: ${url('left')}\n  more: ${url('right')}\n`,
    );
    const before = readFileSync(world.lockPath);
    const stale = await world.flk(['lock', '--check', '--json']);
    expect(stale.status).toBe(1);
    const { error } = JSON.parse(stale.stdout) as {
      error: { code: string; hint: string; diagnostics: { line: number }[] };
    };
    expect(error.code).toBe('FLK_LOCK_STALE');
    expect(error.hint).toBe('flk lock');
    expect(error.diagnostics.map(({ line }) => line)).toEqual([2, 3]);
    expect(readFileSync(world.lockPath)).toEqual(before);
    expect(served.server.log.length).toBe(asked);
  });
});

describe('flk update', () => {
  it('moves what is named and nothing else, then all; a range keeps to its tags', async () => {
    served.rebuild(1);
    const world = flake(
      `inputs:\n  base: ${url('base')}\n  greet:\n    url: ${url('greet')}\n    version: ^1.2\n`,
    );
    await world.flk(['lock']);
    const old = lockOf(world);
    expect(old.nodes.greet?.flk?.tag).toBe('v1.2.0');
    served.rebuild(2);
    expect((await world.flk(['lock', '--refresh'])).status).toBe(0);
    expect(lockOf(world)).toEqual(old);

    const one = await world.flk(['update', 'greet', '--refresh']);
    expect(one.stderr).toContain("updated flake.lock:\n• Updated input 'greet':");
    expect(one.stderr).toMatch(/tag v1\.2\.0 → v1\.3\.0/);
    expect(lockOf(world).nodes.base).toEqual(old.nodes.base);

    await world.flk(['update', '--refresh', '--flake', world.folder], { cwd: world.home });
    expect(lockOf(world).nodes.base?.locked?.rev).not.toBe(old.nodes.base?.locked?.rev);
    served.rebuild(1);
  });

  it('names the inputs there are when asked for another', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    const { status, stderr } = await world.flk(['update', 'bsae']);
    expect(status).toBe(2);
    expect(stderr).toContain('error[FLK_INPUT_UNKNOWN]');
    expect(stderr).toContain('did you mean base?');
    expect(readdirSync(world.folder)).not.toContain('flake.lock');
  });
});

describe('flk add', () => {
  it('adds to the text as it stands, checks it, locks it', async () => {
    const world = flake('# mine\ndescription: x # really\n');
    const { status, stderr } = await world.flk(['add', url('greet'), '--version', '^1.2']);
    expect({ status, stderr }).toMatchObject({ status: 0 });
    const text = readFileSync(join(world.folder, 'flake.yaml'), 'utf8');
    expect(text.startsWith('# mine\ndescription: x # really\n')).toBe(true);
    expect(text).toContain('^1.2');
    expect(lockOf(world).nodes.greet?.flk?.tag).toBe('v1.2.0');
    expect((await world.flk(['lock', '--check'])).status).toBe(0);
    expect((await world.flk(['add', url('assets'), 'files', '--no-flake'])).status).toBe(0);
    expect(Object.keys(lockOf(world).nodes)).toContain('files');
  });

  it.each([
    ['an address that cannot be reached', () => ['git+http://127.0.0.1:1/x'], 3],
    ['no reference', () => ['some words'], 2],
    ['a name that is taken', () => [url('greet'), 'base'], 2],
    ['a range that nothing satisfies', () => [url('greet'), '--version', '^9'], 2],
  ])('leaves both files as they were at %s', async (_, args, wanted) => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    await world.flk(['lock']);
    const before = ['flake.yaml', 'flake.lock'].map((name) => readFileSync(join(world.folder, name), 'utf8'));
    expect((await world.flk(['add', ...args()])).status).toBe(wanted);
    expect(
      ['flake.yaml', 'flake.lock'].map((name) => readFileSync(join(world.folder, name), 'utf8')),
    ).toEqual(before);
  });
});

describe('flk metadata', () => {
  it('shows a local flake and its inputs as Nix does', async () => {
    const world = flake(`description: mine\ninputs:\n  diamond: ${url('diamond')}\n`);
    const { status, stdout } = await world.flk(['metadata']);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Resolved URL: {2}git\+file:\/\//);
    expect(stdout).toContain('Description:   mine\n');
    const tree = stdout.slice(stdout.indexOf('Inputs:')).replace(/: git\+http\S+ \([^)]*\)/g, '');
    expect(tree).toBe(
      [
        'Inputs:',
        '└───diamond',
        '    ├───base',
        '    ├───left',
        "    │   └───base follows input 'diamond/base'",
        '    └───right',
        "        └───base follows input 'diamond/left/base'",
        '',
      ].join('\n'),
    );
  });

  it('has the same in JSON, also of a flake that is fetched', async () => {
    const world = cliWorld();
    const { stdout, stderr } = await world.flk(['metadata', url('greet'), '--json']);
    const metadata = JSON.parse(stdout) as Record<string, unknown>;
    expect(stderr).not.toContain('error');
    expect(metadata).toMatchObject({
      description: 'Greetings for shell programs',
      originalUrl: url('greet'),
      resolved: { type: 'git', url: url('greet').slice(4) },
      locked: { type: 'git', ref: 'refs/heads/main' },
      revision: git(join(served.folder, 'greet'), 'rev-parse', 'main'),
    });
    expect(metadata.path).toMatch(/^\/nix\/store\/[0-9a-z]{32}-source$/);
    expect(readdirSync(world.folder)).toEqual([]);
  });

  it('asks what a ref is once in a while, and anew when told to', async () => {
    const world = cliWorld();
    const requests = async (...args: string[]): Promise<number> => {
      const before = served.server.log.length;
      expect((await world.flk(['metadata', url('base'), ...args])).status).toBe(0);
      return served.server.log.length - before;
    };
    expect([await requests(), await requests(), await requests('--refresh')]).toEqual([3, 0, 1]);
  });
});
