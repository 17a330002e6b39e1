/** flk cache serve as a person runs it: started, asked, stopped, killed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type CliWorld, cliWorld } from '../support/cli.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

interface Served {
  readonly url: string;
  readonly stdout: readonly string[];
  readonly child: ChildProcess;
  readonly over: Promise<number | string | null>;
  stderr(): string;
}

/** Starts it on a port that is free; it has told its URL by then. */
async function serve(world: CliWorld, ...args: string[]): Promise<Served> {
  const child = spawn(process.execPath, [program, 'cache', 'serve', '--listen', '127.0.0.1:0', ...args], {
    cwd: world.folder,
    env: world.env,
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let [stdout, stderr] = ['', ''];
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const over = new Promise<number | string | null>((done) => {
    child.on('exit', (status, signal) => done(signal ?? status));
  });
  await new Promise<void>((done, fail) => {
    child.stdout.on('data', (chunk) => {
      stdout += chunk;
      if (stdout.endsWith('\n')) done();
    });
    void over.then(() => fail(new Error(stderr)));
  });
  const lines = stdout.trim().split('\n');
  return { url: lines[0]!, stdout: lines, child, over, stderr: () => stderr };
}

async function added(world: CliWorld): Promise<string> {
  const folder = join(world.folder, 'thing');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'text'), 'what is served\n'.repeat(1000));
  return (await world.flk(['store', 'add', folder])).stdout.trim();
}

const token = 'some-token-that-is-long-enough';

describe('flk cache serve', () => {
  it('gives the store to another flk, signed, and tells of each request', async () => {
    const [world, other] = [cliWorld(), cliWorld()];
    const path = await added(world);
    const { stdout: key, stderr: publicKey } = await world.flk(['cache', 'keygen', 'served-1']);
    writeFileSync(join(world.folder, 'key'), key, { mode: 0o600 });
    const served = await serve(world, '--key', 'key', '--priority', '11');
    expect(served.stdout).toEqual([expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/), publicKey.trim()]);
    const info = await other.flk(['cache', 'info', '--json', served.url]);
    expect(JSON.parse(info.stdout)).toMatchObject({ priority: 11, wantMassQuery: true });
    const pulled = await other.flk([
      'cache',
      'pull',
      '--trusted-public-key',
      publicKey.trim(),
      served.url,
      path,
    ]);
    expect([pulled.status, pulled.stdout]).toEqual([0, `${path}\n`]);
    expect((await other.flk(['store', 'verify', '--all'])).status).toBe(0);
    expect(served.stderr()).toMatch(/^GET \/nix-cache-info 200 51 B \d+ ms$/m);
    expect(served.stderr()).toMatch(/^GET \/nar\/\S+ 200 15.* kB \d+ ms$/m);
    served.child.kill('SIGINT');
    expect(await served.over).toBe(0);
  });

  it('takes what another flk pushes, with the token', async () => {
    const [world, other] = [cliWorld(), cliWorld()];
    const path = await added(other);
    writeFileSync(join(world.folder, 'token'), `${token}\n`, { mode: 0o600 });
    const { url } = await serve(world, '--quiet', '--token-file', 'token');
    const refused = await other.flk(['cache', 'push', url, path]);
    expect(refused.status).toBe(3);
    expect(refused.stderr).toContain('FLK_HTTP_AUTH');
    writeFileSync(join(other.home, '.netrc'), `machine 127.0.0.1 login flk password ${token}\n`, {
      mode: 0o600,
    });
    const pushed = await other.flk(['cache', 'push', url, path]);
    expect([pushed.status, pushed.stdout]).toEqual([0, `${path}\n`]);
    const known = JSON.parse((await world.flk(['store', 'path-info', '--json', path])).stdout);
    expect(known[path]).toMatchObject({ ultimate: false });
  });

  it('leaves nothing when it is killed in the middle of an upload', async () => {
    const world = cliWorld();
    writeFileSync(join(world.folder, 'token'), token, { mode: 0o600 });
    const served = await serve(world, '--token-file', 'token');
    const sent = httpRequest(`${served.url}/nar/x.nar`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${token}`, 'content-length': 10_000_000 },
    });
    sent.on('error', () => {});
    sent.write(Buffer.alloc(1_000_000));
    const stages = join(world.env.XDG_DATA_HOME!, 'flk/nix/var/flk/stage');
    await expect.poll(() => readdirSync(stages).length).toBe(1);
    served.child.kill('SIGKILL');
    expect(await served.over).toBe('SIGKILL');
    expect(readdirSync(stages)).toHaveLength(1);
    expect((await world.flk(['store', 'verify', '--all'])).status).toBe(0);
    expect(readdirSync(stages)).toEqual([]);
  });

  it('serves a folder that is a cache', async () => {
    const [world, other] = [cliWorld(), cliWorld()];
    const path = await added(world);
    expect((await world.flk(['cache', 'push', 'cache', path])).status).toBe(0);
    const { url, stderr } = await serve(world, '--folder', 'cache', '--log-format', 'json');
    expect((await other.flk(['cache', 'pull', url, path])).status).toBe(0);
    const events = stderr()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events[0]).toMatchObject({ kind: 'request', address: '/nix-cache-info', status: 200 });
  });

  it('says what is wrong with how it was called', async () => {
    const world = cliWorld();
    writeFileSync(join(world.folder, 'short'), 'short');
    const cases: readonly (readonly [readonly string[], string])[] = [
      [['--listen', 'nowhere'], "--listen takes HOST:PORT, not 'nowhere'"],
      [['--listen', '127.0.0.1:70000'], '--listen takes HOST:PORT'],
      [['--priority', 'high'], "--priority takes a whole number, not 'high'"],
      [['--compression', 'lz4'], 'there is no compression lz4'],
      [['--token-file', 'short'], 'short holds no token'],
      [['--token-file', 'missing'], 'cannot read the token'],
      [['--key', 'missing'], 'cannot read the key'],
      [['--folder', 'missing'], 'missing'],
      [['--folder', '.', '--compression', 'xz'], '--compression does not go with --folder'],
      [['extra'], 'flk cache serve takes options only'],
    ];
    for (const [args, message] of cases) {
      const { status, stdout, stderr } = await world.flk(['cache', 'serve', ...args]);
      expect([args, status, stdout]).toEqual([args, 2, '']);
      expect(stderr).toContain(message);
    }
  });
});
