/** `flk log`, and the options that limit builds, on the command line. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { flakeWorld } from '../support/cli.ts';

const program = join(import.meta.dirname, '../../bin/flk.js');
const works = (...command: [string, ...string[]]): boolean =>
  spawnSync(command[0], command.slice(1)).status === 0;
const canSandbox =
  works('bwrap', '--version') || works('unshare', '--user', '--map-root-user', '--mount', 'true');

const manifest = `description: builds that talk and fail
toolchain: host
packages:
  default: { installPhase: 'echo talking; touch $out' }
  bad: { buildPhase: 'echo half > half; echo oops; exit 4', installPhase: 'touch $out' }
  silent: { installPhase: 'sleep 60; touch $out' }
  chatty: { installPhase: 'while sleep 0.2; do echo still here; done' }
  cores: { installPhase: 'echo "cores: $NIX_BUILD_CORES"; touch $out' }
`;

describe.skipIf(!canSandbox)(`builds${canSandbox ? '' : ' (skipped: no sandbox)'}`, () => {
  it('have logs, found by package, by result link, by path and by derivation', async () => {
    const world = flakeWorld(manifest);
    const built = JSON.parse((await world.flk(['build', '--json'])).stdout);
    const { drvPath, outputs } = built[0];
    const text = '==> installPhase\ntalking\n';
    for (const subject of [[], ['.'], ['.#default'], ['result'], [outputs.out], [drvPath]])
      expect(await world.flk(['log', ...subject])).toMatchObject({ status: 0, stdout: text });
    const json = JSON.parse((await world.flk(['log', '--json'])).stdout);
    expect(json).toEqual({ drvPath, lines: ['==> installPhase', 'talking'] });
  });

  it('that were never done have none', async () => {
    const world = flakeWorld(manifest);
    const { status, stderr } = await world.flk(['log', '.#bad']);
    expect(status).toBe(1);
    expect(stderr).toContain('FLK_LOG_MISSING');
  });

  it('that were done elsewhere have the logs that a cache holds, however long', async () => {
    const world = flakeWorld(manifest);
    const { derivations } = JSON.parse((await world.flk(['derivation', 'show', '.#bad'])).stdout);
    const [name = ''] = Object.keys(derivations);
    const cache = join(world.folder, 'cache');
    mkdirSync(join(cache, 'log'), { recursive: true });
    writeFileSync(join(cache, 'nix-cache-info'), 'StoreDir: /nix/store\n');
    const text = Array.from({ length: 200_000 }, (_, i) => `line ${i}\n`).join('');
    writeFileSync(join(cache, 'log', name), text);
    const { status, stdout } = await world.flk(['log', '--substituters', `file://${cache}`, '.#bad']);
    expect({ status, isWhole: stdout === text }).toEqual({ status: 0, isWhole: true });
  });

  it('that fail are kept where one asks for it, and point at their log', async () => {
    const world = flakeWorld(manifest);
    const plain = JSON.parse((await world.flk(['build', '--json', '.#bad'])).stdout);
    expect(plain.error.facts.kept).toBeUndefined();
    const kept = JSON.parse((await world.flk(['build', '--json', '-K', '.#bad'])).stdout);
    expect(readFileSync(join(kept.error.facts.kept, 'half'), 'utf8')).toBe('half\n');
    expect(kept.error.hint).toMatch(/^flk log \/nix\/store\/.*-bad\.drv$/);
    const log = await world.flk(kept.error.hint.split(' ').slice(1));
    expect(log.stdout).toBe('==> buildPhase\noops\n');
  });

  it.each([
    ['a missing output', 'FLK_BUILD_OUTPUT_MISSING', 'installPhase: echo half > half'],
    [
      'an output no store can hold',
      'FLK_BUILD_OUTPUT_INVALID',
      'installPhase: echo half > half; mkfifo $out',
    ],
    [
      'an output with another hash',
      'FLK_FETCH_HASH_MISMATCH',
      `outputHash: sha256-${'A'.repeat(43)}=\n    installPhase: echo half > half; echo > $out`,
    ],
  ])('that leave %s are kept, too', async (_what, code, lines) => {
    const world = flakeWorld(`packages:\n  default:\n    toolchain: host\n    ${lines}\n`);
    const plain = JSON.parse((await world.flk(['build', '--json'])).stdout);
    expect(plain.error.code).toBe(code);
    expect(plain.error.facts.kept).toBeUndefined();
    const kept = JSON.parse((await world.flk(['build', '--json', '-K'])).stdout);
    expect(kept.error.code).toBe(code);
    expect(readFileSync(join(kept.error.facts.kept, 'half'), 'utf8')).toBe('half\n');
    expect(readFileSync(join(kept.error.facts.kept, 'env-vars'), 'utf8')).toContain('export out=');
    expect(readdirSync(join(world.home, 'data/flk/nix/var/flk/stage'))).toEqual([]);
  });

  it('that are killed have a log that ends', async () => {
    const world = flakeWorld(manifest);
    const args = [program, 'build', '--no-link', '.#chatty'];
    const child = spawn(process.execPath, args, { cwd: world.folder, env: world.env, stdio: 'ignore' });
    const over = new Promise((done) => child.once('exit', done));
    const isWriting = async (): Promise<string> => (await world.flk(['log', '.#chatty'])).stdout;
    await expect.poll(isWriting).toContain('still here');
    const following = world.flk(['log', '-f', '.#chatty']);
    child.kill('SIGKILL');
    await over;
    const { status, stdout } = await following;
    expect(status).toBe(0);
    expect(stdout).toContain('==> installPhase\nstill here\n');
  });

  it.each([
    [['--timeout', '1'], 'chatty', 'FLK_BUILD_TIMEOUT', 'ran for'],
    [['--max-silent-time', '1'], 'silent', 'FLK_BUILD_TIMEOUT', 'was silent for'],
    [['--max-memory', 'much'], 'silent', 'FLK_USAGE', '--max-memory'],
  ])('are stopped by %j', async (options, name, code, words) => {
    const { stdout } = await flakeWorld(manifest).flk(['build', '--json', ...options, `.#${name}`]);
    const { error } = JSON.parse(stdout);
    expect(error.code).toBe(code);
    expect(error.message).toContain(words);
  });

  it.each([
    [['--cores', '7'], /^7$/],
    [['--cores', '0', '-j', 'auto'], /^[1-9]\d*$/],
    [['-j', '0'], /^[1-9]\d*$/],
  ])('are told of %j', async (options, wanted) => {
    const world = flakeWorld(manifest);
    expect(await world.flk(['build', '--no-link', ...options, '.#cores'])).toMatchObject({ status: 0 });
    const { stdout } = await world.flk(['log', '.#cores']);
    expect(/cores: (.*)/.exec(stdout)?.[1]).toMatch(wanted);
  });

  it('whose log is damaged say so', async () => {
    const world = flakeWorld(manifest);
    const { stdout } = await world.flk(['build', '--json', '--no-link', '.#bad']);
    writeFileSync(JSON.parse(stdout).error.facts.log, 'not gzip');
    const { status, stderr } = await world.flk(['log', '.#bad']);
    expect(status).not.toBe(0);
    expect(stderr).toContain('damaged');
  });
});
