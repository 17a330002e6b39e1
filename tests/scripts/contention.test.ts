/** Several flk at once on one store, as a person or a CI machine starts them. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

const storeOf = (world: CliWorld): string => join(world.home, 'data/flk/nix/store');
const inStore = (world: CliWorld): string[] => readdirSync(storeOf(world)).map((name) => name.slice(33));

/** One package on top of nineteen, which need each other. */
const count = 20;
const manifest = `packages:\n  default: p${count - 1}\n${Array.from({ length: count }, (_, i) => {
  const needs = i === 0 ? [] : [...new Set([i >> 1, i - 1 - (i % 3)])].filter((one) => one >= 0 && one < i);
  const all = i === count - 1 ? Array.from({ length: i }, (_, one) => one) : needs;
  const env = all.map((one) => `N${one}: "{{#p${one}}}"`).join(', ');
  return `  p${i}:\n    toolchain: host\n    env: { ${env} }\n    installPhase: mkdir -p $out; env | grep ^N > $out/needs || true\n`;
}).join('')}`;

describe('several flk at once', () => {
  it('build each package once between them, while others sweep', { timeout: 180_000 }, async () => {
    const world = flakeWorld(manifest);
    let building = true;
    const sweeps: (number | null)[] = [];
    const sweeping = (async () => {
      while (building) {
        const { status, stderr } = await world.flk(['gc']);
        expect(stderr).not.toContain('FLK_INTERNAL');
        sweeps.push(status);
      }
    })();
    const builds = await Promise.all(
      ['a', 'b', 'c', 'd'].map((name) => world.flk(['build', '-o', name, '-j', '2', '--log-format', 'json'])),
    );
    building = false;
    await sweeping;
    expect(
      builds.map(({ status }) => status),
      builds.map(({ stderr }) => stderr).join(''),
    ).toEqual([0, 0, 0, 0]);
    const built = builds.flatMap(({ stderr }) =>
      stderr.split('\n').flatMap((line) => {
        const event = line === '' ? {} : JSON.parse(line);
        return event.kind === 'start' && event.activity.type === 'build' ? [event.activity.name] : [];
      }),
    );
    expect(built.sort()).toEqual(Array.from({ length: count }, (_, i) => `p${i}`).sort());
    expect(sweeps.length).toBeGreaterThan(0);
    expect(sweeps.every((status) => status === 0)).toBe(true);
    expect((await world.flk(['store', 'verify', '--all'])).status).toBe(0);
    expect((await world.flk(['gc'])).status).toBe(0);
    expect(inStore(world).filter((name) => /^p\d+$/.test(name))).toHaveLength(count);
  });

  it('begin one store at once', async () => {
    for (let round = 0; round < 4; round++) {
      const world = cliWorld();
      const begun = await Promise.all(
        [1, 2, 3, 4, 5, 6].map(() => world.flk(['store', 'path-info', '--all'])),
      );
      expect(begun.map(({ status, stderr }) => [status, stderr])).toEqual(begun.map(() => [0, '']));
    }
  });

  it('pull one closure at once', async () => {
    const from = flakeWorld(manifest);
    const path = (await from.flk(['build', '--no-link', '--print-out-paths'])).stdout.trim();
    const { stdout: key, stderr: publicKey } = await from.flk(['cache', 'keygen', 'test-1']);
    writeFileSync(join(from.folder, 'key'), key, { mode: 0o600 });
    const cache = join(from.home, 'cache-of-paths');
    const pushes = await Promise.all(
      [1, 2].map(() => from.flk(['cache', 'push', '--allow-host', '--key', 'key', cache, path])),
    );
    expect(
      pushes.map(({ status }) => status),
      pushes[0]?.stderr,
    ).toEqual([0, 0]);
    const world = cliWorld();
    const keys = ['--trusted-public-key', publicKey.trim()];
    const pulls = await Promise.all([1, 2].map(() => world.flk(['cache', 'pull', ...keys, cache, path])));
    expect(
      pulls.map(({ status, stdout }) => [status, stdout]),
      pulls.map(({ stderr }) => stderr).join('\n'),
    ).toEqual([
      [0, `${path}\n`],
      [0, `${path}\n`],
    ]);
    const trust = ['--trusted-public-keys', publicKey.trim()];
    const verified = await world.flk(['store', 'verify', '--all', ...trust]);
    expect(verified.status, verified.stderr).toBe(0);
    expect(inStore(world)).toHaveLength(count);
  });

  it('serve what nothing keeps to its end, while it is swept', async () => {
    const world = cliWorld();
    const folder = join(world.folder, 'thing');
    mkdirSync(folder);
    // Many, for a file that is open can be read to its end even if it is removed.
    for (let i = 10; i < 34; i++) writeFileSync(join(folder, `${i}`), randomBytes(2 ** 20));
    const path = (await world.flk(['store', 'add', folder])).stdout.trim();
    const wanted = JSON.parse((await world.flk(['store', 'path-info', '--json', path])).stdout)[path];
    const child = spawn(process.execPath, [program, 'cache', 'serve', '--listen', '127.0.0.1:0', '--quiet'], {
      cwd: world.folder,
      env: world.env,
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const url = await new Promise<string>((done) =>
      child.stdout.once('data', (chunk: Buffer) => done(chunk.toString().split('\n')[0]!)),
    );
    const part = path.split('/').at(-1)!.slice(0, 32);
    const note = await (await fetch(`${url}/${part}.narinfo`)).text();
    const answer = await asked(`${url}/${/^URL: (.*)$/m.exec(note)?.[1]}`);
    // Nobody reads on: the server waits with the rest in its hands.
    answer.pause();
    const { status, stderr } = await world.flk(['gc']);
    expect(status, stderr).toBe(0);
    expect(inStore(world)).toEqual(['thing']);
    const hash = createHash('sha256');
    for await (const chunk of answer) hash.update(chunk);
    expect(/^Compression: (.*)$/m.exec(note)?.[1]).toBe('none');
    expect(`sha256-${hash.digest('base64')}`).toBe(wanted.narHash);
    child.kill('SIGINT');
    await new Promise((done) => child.once('exit', done));
    // Now nobody needs it.
    expect((await world.flk(['gc'])).status).toBe(0);
    expect(inStore(world)).toEqual([]);
  });
});

const asked = (url: string): Promise<IncomingMessage> =>
  new Promise((done, fail) => {
    get(url, { agent: false }, done).on('error', fail);
  });
