import { appendFileSync, existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';
import { serveFolder } from '../support/folder-server.ts';
import { writePinnedFlake } from '../support/pinned-flake.ts';
import { temporaryFolder } from '../support/temp.ts';

/** A file in the store, named after its content. */
async function added(world: CliWorld, text: string): Promise<string> {
  writeFileSync(join(world.folder, 'file'), text);
  const { stdout, stderr, status } = await world.flk(['store', 'add', 'file']);
  expect(status, stderr).toBe(0);
  return stdout.trim();
}

async function keyOf(world: CliWorld): Promise<{ file: string; secret: string; publicKey: string }> {
  const { stdout, stderr } = await world.flk(['cache', 'keygen', 'test-1']);
  const file = join(world.folder, 'key');
  writeFileSync(file, stdout, { mode: 0o600 });
  return { file, secret: stdout.trim(), publicKey: stderr.trim() };
}

/** A package whose path is not named after its content, built with the host's programs. */
const hostFlake = `packages:
  default:
    toolchain: host
    installPhase: mkdir $out; echo hi > $out/file
`;

describe('flk cache keygen', () => {
  it('prints the secret key on stdout and the public one on stderr', async () => {
    const world = cliWorld();
    const { secret, publicKey } = await keyOf(world);
    expect(secret).toMatch(/^test-1:[A-Za-z0-9+/]{86}==$/);
    expect(publicKey).toMatch(/^test-1:[A-Za-z0-9+/]{43}=$/);
    const shown = await world.flk(['cache', 'keygen', '--public'], { input: `${secret}\n` });
    expect(shown.stdout).toBe(`${publicKey}\n`);
    const json = await world.flk(['cache', 'keygen', 'test-2', '--json']);
    expect(Object.keys(JSON.parse(json.stdout) as object)).toEqual(['secretKey', 'publicKey']);
    expect(json.stderr).toBe('');
  });

  it('refuses what is no name, and what is no key', async () => {
    const world = cliWorld();
    expect(await world.flk(['cache', 'keygen', 'a b'])).toMatchObject({ status: 2, stdout: '' });
    const { status, stderr } = await world.flk(['cache', 'keygen', '--public'], { input: 'hush:hush\n' });
    expect(status).toBe(2);
    expect(stderr).toContain('FLK_KEY_INVALID');
    expect(stderr).not.toContain('hush');
  });
});

describe('flk cache push and pull', () => {
  it('carry a path from one store to another, by a folder', async () => {
    const world = cliWorld();
    const path = await added(world, 'text');
    const pushed = await world.flk(['cache', 'push', 'cache', path, '--json']);
    expect(pushed.status, pushed.stderr).toBe(0);
    expect(JSON.parse(pushed.stdout)).toMatchObject({ paths: [path], added: [path] });
    expect((await world.flk(['cache', 'push', 'cache', path])).stdout).toBe('');
    const pulled = await world.flk([
      'cache',
      'pull',
      `file://${world.folder}/cache`,
      path,
      '--store',
      'other',
    ]);
    expect(pulled).toMatchObject({ status: 0, stdout: `${path}\n` });
    expect(readFileSync(join(world.folder, 'other', path), 'utf8')).toBe('text');
  });

  it('carry what was built, signed, by a server; links to results are taken', async () => {
    const world = flakeWorld(hostFlake);
    const { file, publicKey } = await keyOf(world);
    expect((await world.flk(['build'])).status).toBe(0);
    const refused = await world.flk(['cache', 'push', 'cache', 'result']);
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain('FLK_CACHE_HOST_TOOLCHAIN');
    expect(refused.stderr).toContain('--allow-host');
    expect(existsSync(join(world.folder, 'cache'))).toBe(false);
    const server = await serveFolder(temporaryFolder());
    const push = await world.flk(['cache', 'push', '--allow-host', '--key', file, server.base, 'result']);
    expect(push.status, push.stderr).toBe(0);
    const path = push.stdout.trim();
    const pull = ['cache', 'pull', server.base, path, '--store', 'other'];
    const untrusted = await world.flk(pull);
    expect(untrusted.status).toBe(4);
    expect(untrusted.stderr).toMatch(/^error\[FLK_CACHE_UNTRUSTED\] no key that you trust has signed /);
    expect(untrusted.stderr.split(path)).toHaveLength(2);
    expect(existsSync(join(world.folder, 'other', path))).toBe(false);
    const trusted = await world.flk([...pull, '--trusted-public-key', publicKey]);
    expect(trusted.status, trusted.stderr).toBe(0);
    expect(readFileSync(join(world.folder, 'other', path, 'file'), 'utf8')).toBe('hi\n');
    // The same said once for all.
    const settings = { NIX_CONFIG: `extra-trusted-public-keys = ${publicKey}` };
    const again = await world.flk(['cache', 'pull', server.base, path, '--store', 'third'], {
      env: settings,
    });
    expect(again.status, again.stderr).toBe(0);
  });

  it('say what is missing, and whose fault it is', async () => {
    const world = cliWorld();
    const path = await added(world, 'text');
    await world.flk(['cache', 'push', 'cache', path]);
    const other = '/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1';
    const missing = await world.flk(['cache', 'pull', 'cache', other]);
    expect(missing.status).toBe(1);
    expect(missing.stderr).toContain(`error[FLK_CACHE_MISSING] no cache has ${other}`);
    const nowhere = await world.flk(['cache', 'pull', 'http://127.0.0.1:1/', other]);
    expect(nowhere.status).toBe(3);
    expect(nowhere.stderr).toContain('FLK_NETWORK');
    const offline = await world.flk(['cache', 'pull', '--offline', 'http://127.0.0.1:1/', other]);
    expect(offline.stderr).toContain('FLK_OFFLINE');
    const [nar] = readdirSync(join(world.folder, 'cache/nar'));
    writeFileSync(join(world.folder, 'cache/nar', nar!), 'nonsense');
    const damaged = await world.flk(['cache', 'pull', 'cache', path, '--store', 'other']);
    expect(damaged.status).toBe(4);
    expect(damaged.stderr).toContain(`file://${world.folder}/cache`);
  });

  it('warn of a key that anybody may read, and name the file of one that is none', async () => {
    const world = cliWorld();
    const path = await added(world, 'text');
    const { file, secret } = await keyOf(world);
    symlinkSync(file, join(world.folder, 'link'));
    writeFileSync(join(world.folder, 'open'), secret, { mode: 0o644 });
    const open = await world.flk(['cache', 'push', '--key', 'open', 'cache', path]);
    expect(open.status).toBe(0);
    expect(open.stderr).toContain(`chmod 600 ${world.folder}/open`);
    expect((await world.flk(['cache', 'push', '--key', 'link', 'cache', path])).stderr).toBe('');
    writeFileSync(join(world.folder, 'none'), 'hush');
    const none = await world.flk(['cache', 'push', '--key', 'none', 'cache', path]);
    expect(none.status).toBe(2);
    expect(none.stderr).toContain(`${world.folder}/none`);
    expect(none.stderr).not.toContain('hush');
  });

  it('refuse other ways of packing', async () => {
    const world = cliWorld();
    const path = await added(world, 'text');
    const { status, stderr } = await world.flk(['cache', 'push', '--compression', 'lzma', 'cache', path]);
    expect(status).toBe(2);
    expect(stderr).toContain('none, xz, zstd');
    await world.flk(['cache', 'push', 'cache?compression=none', path]);
    expect(readdirSync(join(world.folder, 'cache/nar'))[0]).toMatch(/\.nar$/);
  });
});

describe('flk cache info', () => {
  it('tells what a cache says of itself, without secrets', async () => {
    const world = cliWorld();
    const path = await added(world, 'text');
    await world.flk(['cache', 'push', 'cache', path]);
    const { stdout } = await world.flk(['cache', 'info', 'cache?priority=7&trusted=true', '--json']);
    expect(JSON.parse(stdout)).toEqual({
      url: `file://${world.folder}/cache`,
      storeDir: '/nix/store',
      priority: 7,
      trusted: true,
      wantMassQuery: false,
    });
    const server = await serveFolder(join(world.folder, 'cache'));
    const shown = await world.flk(['cache', 'info', server.base.replace('//', '//me:hush@')]);
    expect(shown.stdout).toContain(server.base);
    expect(shown.stdout + shown.stderr).not.toContain('hush');
    const none = await world.flk(['cache', 'info', 'nowhere']);
    expect(none.status).toBe(4);
    expect(none.stderr).toContain('nix-cache-info');
  });

  it('is one of few commands', async () => {
    const world = cliWorld();
    for (const args of [['cache'], ['cache', 'polish'], ['cache', 'info'], ['cache', 'push', 'x']])
      expect((await world.flk(args)).status).toBe(2);
  });
});

describe('flk build with a cache', () => {
  it('takes what another machine made, builds where it trusts no key and says so, and takes a storePath', async () => {
    const maker = flakeWorld(hostFlake);
    const { file, publicKey } = await keyOf(maker);
    const made = await maker.flk(['build', '--json']);
    const { out, drvPath } = ((answer) => ({ out: answer[0].outputs.out, drvPath: answer[0].drvPath }))(
      JSON.parse(made.stdout),
    );
    const cache = join(maker.folder, 'cache');
    const pushed = await maker.flk(['cache', 'push', '--allow-host', '--key', file, cache, out]);
    expect(pushed.status, pushed.stderr).toBe(0);
    const other = flakeWorld(hostFlake);
    const build = ['build', '--no-link', '--json', '--substituters', `file://${cache}`];
    const taken = await other.flk([...build, '--trusted-public-keys', publicKey]);
    expect(taken.status, taken.stderr).toBe(0);
    expect(JSON.parse(taken.stdout)).toMatchObject([{ drvPath, outputs: { out } }]);
    // What is taken leaves no log of a build.
    expect(taken.stderr).toContain('fetched default');
    expect((await other.flk(['log', drvPath])).status).not.toBe(0);

    const stranger = flakeWorld(hostFlake);
    const wrong = await keyOf(stranger);
    const built = await stranger.flk([...build, '--trusted-public-keys', wrong.publicKey]);
    expect(built.status, built.stderr).toBe(0);
    expect(JSON.parse(built.stdout)).toMatchObject([{ outputs: { out } }]);
    expect(built.stderr).toContain('with no signature that you trust: not taken');
    expect((await stranger.flk(['log', drvPath])).status).toBe(0);

    const narinfo = readdirSync(cache).find((name) => name.endsWith('.narinfo'))!;
    const nix32 = /^NarHash: (sha256:\S+)$/m.exec(readFileSync(join(cache, narinfo), 'utf8'))![1]!;
    const narHash = (await maker.flk(['hash', 'convert', '--to', 'sri', nix32])).stdout.trim();
    const user = flakeWorld(`packages:
  base:
    storePath: ${out}
    narHash: ${narHash}
    cache: file://${cache}
    publicKey: "${publicKey}"
  default:
    toolchain: host
    installPhase: mkdir $out; cp {{#base}}/file $out/copy
`);
    const used = await user.flk(['build']);
    expect(used.status, used.stderr).toBe(0);
    expect(readFileSync(join(user.folder, 'result/copy'), 'utf8')).toBe('hi\n');
  });

  it('takes a toolchain as a storePath, and shows a build nothing else', async () => {
    const maker = cliWorld();
    await writePinnedFlake(maker.folder, 'any');
    // A path that follows from no content, so that a signature decides.
    const copying = 'mkdir $out; for top in /bin /lib /lib64 /usr; do [ ! -e $top ] || cp -r $top $out; done';
    appendFileSync(
      join(maker.folder, 'flake.yaml'),
      `  tools: { toolchain: "#base", installPhase: "${copying}" }\n`,
    );
    const { file, publicKey } = await keyOf(maker);
    const made = await maker.flk(['build', '--no-link', '--json', '#tools']);
    expect(made.status, made.stderr).toBe(0);
    const { out } = JSON.parse(made.stdout)[0].outputs;
    const cache = join(maker.folder, 'cache');
    expect((await maker.flk(['cache', 'push', '--key', file, cache, out])).status).toBe(0);
    const told = await maker.flk(['store', 'path-info', '--json', out]);
    const { narHash } = JSON.parse(told.stdout)[out];
    const manifest = (key: string): string => `packages:
  tools: { storePath: ${out}, narHash: "${narHash}", cache: "file://${cache}", publicKey: "${key}" }
  default: { toolchain: "#tools", installPhase: 'cat /bin/sh > /dev/null; for entry in /*; do echo $entry; done > $out' }
`;
    const user = flakeWorld(manifest(publicKey));
    const built = await user.flk(['build']);
    expect(built.status, built.stderr).toBe(0);
    const seen = readFileSync(join(user.folder, 'result'), 'utf8').trim().split('\n');
    const own = ['/bin', '/build', '/dev', '/etc', '/nix', '/proc', '/tmp'];
    const brought = readdirSync(join(maker.home, 'data/flk', out)).map((name) => `/${name}`);
    expect(seen.sort()).toEqual([...new Set([...own, ...brought])].sort());
    const other = await keyOf(cliWorld());
    const refused = await flakeWorld(manifest(other.publicKey)).flk(['build', '--json']);
    expect([refused.status, JSON.parse(refused.stdout).error.code]).toEqual([4, 'FLK_CACHE_UNTRUSTED']);
  });
});
