import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type CliResult, type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';
import { git } from '../support/repositories.ts';

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { phase: 1 });
});

const url = (name: string): string => `git+${served.server.base}/${name}`;

const flake = (manifest: string, lock?: string): CliWorld =>
  flakeWorld(manifest, lock === undefined ? {} : { 'flake.lock': lock });

const codeOf = ({ stderr }: CliResult): string | undefined => /^error\[(FLK_[A-Z_]+)\]/m.exec(stderr)?.[1];

/** Fails with this code and status, changes no file, and leaves none behind. */
async function refused(
  world: CliWorld,
  args: readonly string[],
  code: string,
  status: number,
): Promise<CliResult> {
  const names = readdirSync(world.folder).sort();
  const texts = names.filter((name) => name !== '.git').map((name) => readFileSync(join(world.folder, name)));
  const result = await world.flk(args);
  expect(codeOf(result), result.stderr).toBe(code);
  expect(result.status).toBe(status);
  expect(result.stdout).toBe('');
  expect(readdirSync(world.folder).sort()).toEqual(names);
  expect(
    names.filter((name) => name !== '.git').map((name) => readFileSync(join(world.folder, name))),
  ).toEqual(texts);
  return result;
}

describe('manifests', () => {
  it.each([
    ['broken YAML', 'inputs: [\n', 'FLK_MANIFEST_INVALID'],
    ['a key twice', 'description: a\ndescription: b\n', 'FLK_MANIFEST_INVALID'],
    ['an unknown key', 'inptus: {}\n', 'FLK_MANIFEST_INVALID'],
    ['a wrong type', 'inputs: 7\n', 'FLK_MANIFEST_INVALID'],
    ['a bad reference', 'inputs:\n  a: "git+http://"\n', 'FLK_MANIFEST_INVALID'],
    ['another kind of reference', 'inputs:\n  a: hg+https://x/y\n', 'FLK_MANIFEST_INVALID'],
    ['a token in a URL', 'inputs:\n  a: git+https://user:secret@host.example/x\n', 'FLK_MANIFEST_INVALID'],
    [
      'aliases that explode',
      `a: &a [x,x,x,x,x,x,x,x,x]\nx-b: [${'*a,'.repeat(5000)}*a]\n`,
      'FLK_MANIFEST_INVALID',
    ],
    ['another flk', 'requireVersion: ">=99"\n', 'FLK_MANIFEST_VERSION'],
  ])('with %s', async (_, manifest, code) => {
    const { stderr } = await refused(flake(manifest), ['lock'], code, 2);
    expect(stderr).toMatch(/^flake\.yaml:\d+:\d+: /m);
    expect(stderr).not.toContain('secret');
  });

  it('that are not there, or that Git does not know', async () => {
    await refused(cliWorld(), ['lock'], 'FLK_MANIFEST_MISSING', 2);
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    git(world.folder, 'rm', '-q', '--cached', 'flake.yaml');
    const { stderr } = await refused(world, ['lock'], 'FLK_MANIFEST_UNTRACKED', 2);
    expect(stderr).toContain('hint: git add -N flake.yaml');
  });

  it('shows all faults at once', async () => {
    const { stderr } = await refused(
      flake('inptus: {}\npackages:\n  a: { versoin: "1" }\n'),
      ['lock'],
      'FLK_MANIFEST_INVALID',
      2,
    );
    expect(stderr).toContain('flake.yaml:1:1');
    expect(stderr).toContain('flake.yaml:3:8');
  });
});

describe('sources', () => {
  it.each<[string, (base: string) => string, string, number]>([
    ['a host that does not answer', () => 'git+http://127.0.0.1:1/x', 'FLK_NETWORK', 3],
    ['a repository that is not there', (base) => `git+${base}/nowhere`, 'FLK_GIT_REPO_MISSING', 2],
    ['a folder without a repository', () => 'git+file:///nowhere/at/all', 'FLK_GIT_REPO_MISSING', 2],
    ['a missing branch', (base) => `git+${base}/base?ref=nope`, 'FLK_GIT_REF_MISSING', 2],
    ['a revision that is gone', (base) => `git+${base}/base?rev=${'1'.repeat(40)}`, 'FLK_GIT_REV_GONE', 4],
    ['a repository without a manifest', (base) => `git+${base}/no-manifest`, 'FLK_MANIFEST_MISSING', 2],
    ['a circle', (base) => `git+${base}/cycle-a`, 'FLK_INPUT_CYCLE', 2],
  ])('with %s', async (_, ref, code, status) => {
    const world = flake(`inputs:\n  base: ${url('base')}\n  bad: ${ref(served.server.base)}\n`);
    const { stderr } = await refused(world, ['lock'], code, status);
    expect(stderr).toMatch(/trail.*bad/);
  });

  it('with no tag in the range, and lists the nearest', async () => {
    const world = flake(`inputs:\n  tags: { url: "${url('semver-tags')}", version: ^9 }\n`);
    const { stderr } = await refused(world, ['lock'], 'FLK_VERSION_UNSATISFIED', 2);
    expect(stderr).toMatch(/v?2\.0\.0/);
  });

  it('with --offline and bytes that are not here', async () => {
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    await refused(world, ['lock', '--offline'], 'FLK_OFFLINE', 3);
    await refused(world, ['build', '--frozen'], 'FLK_LOCK_MISSING', 1);
  });

  it('whose server fails, again and again', async () => {
    served.server.interfere = () => ({ status: 503 });
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    const { stderr } = await refused(world, ['lock'], 'FLK_HTTP_STATUS', 3);
    expect(stderr).toContain('attempt');
    served.server.interfere = undefined;
  });

  it('whose server wants a password: nothing is asked on the terminal', async () => {
    served.server.interfere = () => ({ status: 401 });
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    await refused(world, ['lock'], 'FLK_HTTP_AUTH', 3);
    served.server.interfere = undefined;
  });

  it('that follow what does not exist, or one another', async () => {
    await refused(
      flake(`inputs:\n  left: { url: "${url('left')}", inputs: { base: { follows: nope } } }\n`),
      ['lock'],
      'FLK_FOLLOWS_MISSING',
      2,
    );
    await refused(
      flake('inputs:\n  a: { follows: b }\n  b: { follows: a }\n'),
      ['lock'],
      'FLK_FOLLOWS_CYCLE',
      2,
    );
  });
});

describe('locks', () => {
  async function locked(): Promise<CliWorld & { readonly lock: string; rewrite(text: string): void }> {
    const world = flake(`inputs:\n  hello: ${url('hello')}\n`);
    expect((await world.flk(['lock'])).status).toBe(0);
    const path = join(world.folder, 'flake.lock');
    return { ...world, lock: readFileSync(path, 'utf8'), rewrite: (text) => writeFileSync(path, text) };
  }

  it('damaged in any way are refused by every command, and kept', async () => {
    const world = await locked();
    const { lock } = world;
    const cases: [string, string][] = [
      ['', 'FLK_LOCK_INVALID'],
      [lock.slice(0, lock.length / 2), 'FLK_LOCK_INVALID'],
      [`<<<<<<< HEAD\n${lock}=======\n${lock}>>>>>>> other\n`, 'FLK_LOCK_CONFLICT'],
      [lock.replace('"version": 7', '"version": 8'), 'FLK_LOCK_INVALID'],
      [lock.replace('"hello": "hello"', '"hello": "gone"'), 'FLK_LOCK_INVALID'],
      [lock.replace(/"narHash": "sha256-[^"]*"/, '"narHash": "sha256-short"'), 'FLK_LOCK_INVALID'],
      ['[]', 'FLK_LOCK_INVALID'],
    ];
    for (const [text, code] of cases) {
      world.rewrite(text);
      for (const command of [['lock'], ['lock', '--check'], ['update'], ['metadata']])
        await refused(world, command, code, 2);
    }
  });

  it('with a hash that is not the one of the bytes: nothing is built', async () => {
    const world = await locked();
    const wrong = 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=';
    const json = JSON.parse(world.lock) as { nodes: Record<string, { locked: { narHash: string } }> };
    const right = json.nodes.greet!.locked.narHash;
    world.rewrite(world.lock.replaceAll(right, wrong));
    writeFileSync(
      join(world.folder, 'flake.yaml'),
      `inputs:\n  hello: ${url('hello')}\npackages:\n  default: { toolchain: host, src: hello/greet, installPhase: "cp -r . $out" }\n`.replace(
        'hello/greet',
        'hello',
      ),
    );
    writeFileSync(
      join(world.folder, 'flake.yaml'),
      `inputs:\n  hello: ${url('hello')}\npackages:\n  default: { toolchain: host, buildInputs: [hello/greet#lib], installPhase: "mkdir $out" }\n`,
    );
    const { stderr } = await refused(world, ['build'], 'FLK_NAR_HASH_MISMATCH', 4);
    expect(stderr).toContain(`wanted  ${wrong}`);
    expect(stderr).toContain(`found   ${right}`);
    expect(existsSync(join(world.folder, 'result'))).toBe(false);
  });

  it('that are stale fail under --locked and in CI, which --no-locked takes back', async () => {
    const world = await locked();
    writeFileSync(
      join(world.folder, 'flake.yaml'),
      `inputs:\n  base: ${url('base')}\npackages:\n  default: { toolchain: host, installPhase: "mkdir $out" }\n`,
    );
    await refused(world, ['lock', '--locked'], 'FLK_LOCK_STALE', 1);
    await refused(world, ['build', '--locked'], 'FLK_LOCK_STALE', 1);
    const inCi = { ...world, flk: (args: readonly string[]) => world.flk(args, { env: { CI: 'true' } }) };
    const { stderr } = await refused(inCi, ['build'], 'FLK_LOCK_STALE', 1);
    expect(stderr).toContain('--no-locked');
    expect((await inCi.flk(['build', '--no-locked', '--no-link'])).status).toBe(0);
  });
});

describe('folders', () => {
  it('that cannot be written keep the old lock', async () => {
    // Root may write anywhere, but nobody can rename a file over a folder that is not empty.
    const world = flake(`inputs:\n  base: ${url('base')}\n`);
    mkdirSync(join(world.folder, 'flake.lock/x'), { recursive: true });
    const result = await world.flk(['lock']);
    expect(result.status).toBe(2);
    expect(codeOf(result)).toMatch(/^FLK_FILE_UN(READ|WRIT)ABLE$/);
  });

  it.skipIf(process.getuid?.() === 0)(
    'that are read-only (skipped for root, who may write anywhere)',
    async () => {
      const world = flake(`inputs:\n  base: ${url('base')}\n`);
      const { chmodSync } = await import('node:fs');
      chmodSync(world.folder, 0o555);
      await refused(world, ['lock'], 'FLK_FILE_UNWRITABLE', 2);
      chmodSync(world.folder, 0o755);
    },
  );

  it('that are files, or are not there', async () => {
    const world = cliWorld();
    writeFileSync(join(world.folder, 'file'), '');
    await refused(world, ['lock', './file'], 'FLK_FILE_UNREADABLE', 2);
    await refused(world, ['lock', './nowhere'], 'FLK_FILE_UNREADABLE', 2);
    await refused(world, ['init', './file/x'], 'FLK_FILE_UNWRITABLE', 2);
  });

  it('that a URL names and that have no manifest: the one above is another flake', async () => {
    const world = flake('packages: {}\n');
    mkdirSync(join(world.folder, 'sub'));
    const refer = (dir: string): string => `git+file://${world.folder}${dir}`;
    for (const command of ['lock', 'metadata', 'build']) {
      const result = await world.flk([command, refer('?dir=sub')]);
      expect(codeOf(result), result.stderr).toBe('FLK_MANIFEST_MISSING');
      expect(result.status).toBe(2);
      expect(readdirSync(world.folder)).not.toContain('flake.lock');
    }
    // A path is looked for upwards.
    expect((await world.flk(['metadata', './sub'])).status).toBe(0);
    expect((await world.flk(['metadata', refer('')])).status).toBe(0);
  });

  it('for the store or the cache that cannot be made', async () => {
    const world = flake('packages:\n  default: { toolchain: host, installPhase: "mkdir $out" }\n');
    writeFileSync(join(world.home, 'file'), '');
    const result = await world.flk(['build', '--store', join(world.home, 'file/store')]);
    expect(result.status).toBe(2);
    expect(codeOf(result)).toBe('FLK_FILE_UNWRITABLE');
  });
});
