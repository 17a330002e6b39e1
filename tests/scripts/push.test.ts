/** What one machine builds, others take: signed and pushed as it is built, by an S3 server and by a plain one. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { sandboxVariants } from '../support/builds.ts';
import { type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';
import { serveFolder } from '../support/folder-server.ts';
import { git } from '../support/repositories.ts';
import { s3Available, s3Reason, startS3 } from '../support/s3.ts';
import { temporaryFolder } from '../support/temp.ts';
import { programFiles } from '../support/toolchain.ts';

const usable = sandboxVariants.some((variant) => variant.usable);
const sandboxReason = usable ? '' : ' (skipped: no namespaces)';

/** `app` refers to `lib`; both are built with nothing of the machine's. */
const manifest = `inputs: { tools: { url: path:./tools, flake: false } }
toolchain: "#tools"
packages:
  tools: { merge: [tools] }
  lib: { installPhase: mkdir $out; echo lib > $out/lib }
  app: { installPhase: "mkdir $out; echo {{#lib}}/lib > $out/app" }
  broken: { buildInputs: [lib], installPhase: "false" }
  default: app
`;

/** A machine with the flake, the same bytes on each. */
function teamWorld(config = '', env: Readonly<Record<string, string>> = {}): CliWorld {
  const world = flakeWorld(manifest, {}, env);
  for (const [path, place] of programFiles(['sh', 'mkdir', 'cp', 'chmod', 'rm'])) {
    const file = join(world.folder, 'tools', path);
    mkdirSync(dirname(file), { recursive: true });
    copyFileSync(place, file);
  }
  git(world.folder, 'add', '-N', '.');
  configure(world, config);
  return world;
}

function configure(world: CliWorld, config: string): void {
  mkdirSync(join(world.home, 'config/flk'), { recursive: true });
  writeFileSync(join(world.home, 'config/flk/config.yaml'), config);
}

async function newKey(world: CliWorld): Promise<{ readonly file: string; readonly publicKey: string }> {
  const { stdout, stderr } = await world.flk(['cache', 'keygen', 'team-1']);
  const file = join(world.home, 'key');
  writeFileSync(file, stdout, { mode: 0o600 });
  return { file, publicKey: stderr.trim() };
}

async function build(
  world: CliWorld,
  ...args: string[]
): Promise<{ out: string; drvPath: string; stderr: string }> {
  const { status, stdout, stderr } = await world.flk(['build', '--no-link', '--json', ...args]);
  expect(status, stderr).toBe(0);
  const [{ outputs, drvPath }] = JSON.parse(stdout) as [{ outputs: { out: string }; drvPath: string }];
  return { out: outputs.out, drvPath, stderr };
}

/** Machine A builds and pushes, B takes, C trusts nobody and builds. */
async function share(cache: string, env: Readonly<Record<string, string>> = {}): Promise<void> {
  const { file, publicKey } = await newKey(cliWorld());
  const a = teamWorld(`secretKeyFiles: [${file}]\npushTo: ["${cache}"]\n`, env);
  const made = await build(a);
  expect(made.stderr).toContain('pushed app');
  const info = await a.flk(['store', 'path-info', '--sigs', made.out]);
  expect(info.stdout).toContain('team-1:');

  const b = teamWorld(`substituters: ["${cache}"]\ntrustedPublicKeys: ["${publicKey}"]\n`, env);
  const taken = await build(b, '.#app', '.#lib');
  expect(taken.out).toBe(made.out);
  expect(taken.stderr).toContain('fetched app');
  expect(taken.stderr).not.toContain('built ');
  const lib = readFileSync(join(b.home, 'data/flk', made.out, 'app'), 'utf8').trim();
  expect(readFileSync(join(b.home, 'data/flk', lib), 'utf8')).toBe('lib\n');

  const c = teamWorld(`substituters: ["${cache}"]\n`, env);
  const built = await build(c);
  expect(built.out).toBe(made.out);
  expect(built.stderr).toContain('built app');
  expect(built.stderr).toContain('not taken');
}

describe.skipIf(!usable)(`pushing what is built${sandboxReason}`, () => {
  it.skipIf(!s3Available)(`shares it by a bucket ${s3Reason}`, async () => {
    const server = await startS3();
    await share(server.address('team'), server.env);
  });

  it('shares it by a server that takes PUT, and by a folder', async () => {
    await share((await serveFolder(temporaryFolder())).base);
    await share(`file://${temporaryFolder()}/cache`);
  });

  it('pushes while something else is still being built', async () => {
    const folder = temporaryFolder();
    const server = await serveFolder(join(folder, 'cache'));
    // Ends when the other one is in the cache.
    const world = flakeWorld(`toolchain: host
packages:
  first: { installPhase: echo first > $out }
  second: { installPhase: 'until [ -e ${folder}/there ]; do sleep 0.1; done; echo second > $out' }
`);
    server.fault = (request) => {
      if (request.method === 'PUT' && request.url?.endsWith('.narinfo'))
        writeFileSync(join(folder, 'there'), '');
      return false;
    };
    const options = ['--no-sandbox', '--allow-host', '--push-to', server.base, '-j', '2', '--timeout', '60'];
    const { status, stderr } = await world.flk(['build', '--no-link', '.#first', '.#second', ...options]);
    expect(status, stderr).toBe(0);
    expect(readdirSync(join(folder, 'cache')).filter((name) => name.endsWith('.narinfo'))).toHaveLength(2);
  });

  it('pushes what was built although something else failed', async () => {
    const cache = join(temporaryFolder(), 'cache');
    const world = teamWorld();
    const { status } = await world.flk(['build', '--no-link', '.#broken', '--push-to', cache]);
    expect(status).toBe(1);
    const { out } = await build(world, '.#lib');
    expect(existsSync(join(cache, `${out.slice(11, 43)}.narinfo`))).toBe(true);
  });

  it('tells what could not be pushed, and what to do; and fails only where that is wanted', async () => {
    const server = await serveFolder(temporaryFolder());
    server.fault = (_request, response) => {
      response.writeHead(403).end();
      return true;
    };
    const world = teamWorld(`pushTo: ["${server.base}"]\n`);
    const { out, stderr } = await build(world);
    const command = /flk (cache push .*)$/m.exec(stderr)![1]!;
    expect(stderr).toContain(`${server.base}: `);
    expect(command).toContain(out);
    server.fault = undefined;
    const mended = await world.flk(command.split(' '));
    expect(mended.status, mended.stderr).toBe(0);

    server.fault = (_request, response) => {
      response.writeHead(403).end();
      return true;
    };
    configure(world, `pushTo: ["${server.base}"]\nrequirePush: true\n`);
    writeFileSync(join(world.folder, 'flake.yaml'), manifest.replace('echo lib', 'echo other'));
    const failed = await world.flk(['build', '--no-link']);
    expect(failed.status).toBe(3);
    expect(failed.stderr).toContain('FLK_HTTP_AUTH');
    expect(failed.stderr).toContain('flk cache push');
    // It is built all the same, and nothing else is to be pushed.
    expect((await world.flk(['build', '--no-link'])).status).toBe(0);
  });

  it('asks a cache that is out of reach no more than once', async () => {
    const world = teamWorld('pushTo: ["http://127.0.0.1:1/"]\n');
    const { stderr } = await build(world);
    expect(stderr.match(/127\.0\.0\.1:1/g)!.length).toBeLessThan(4);
    expect(stderr).toContain('and 1 more are not in http://127.0.0.1:1/');
    // --offline means that it is not asked at all.
    writeFileSync(join(world.folder, 'flake.yaml'), manifest.replace('echo lib', 'echo other'));
    expect((await build(world, '--offline')).stderr).not.toContain('127.0.0.1');
  });

  it('keeps this machine’s own builds to itself unless told otherwise, and nothing else', async () => {
    const cache = join(temporaryFolder(), 'cache');
    const world = flakeWorld('packages: { default: { toolchain: host, installPhase: echo > $out } }\n');
    configure(world, `pushTo: ["${cache}"]\n`);
    expect((await build(world)).stderr).toMatch(/not pushed, .*--allow-host/);
    expect(existsSync(cache)).toBe(false);
    const other = flakeWorld('packages: { default: { toolchain: host, installPhase: echo > $out } }\n');
    configure(other, `pushTo: ["${cache}"]\n`);
    await build(other, '--no-push');
    expect(existsSync(cache)).toBe(false);
    const third = flakeWorld('packages: { default: { toolchain: host, installPhase: echo > $out } }\n');
    await build(third, '--allow-host', '--push-to', cache);
    expect(readdirSync(cache).filter((name) => name.endsWith('.narinfo'))).toHaveLength(1);
  });

  it('says before it builds that a key or an address is none', async () => {
    const world = teamWorld(`secretKeyFiles: [/nowhere/key]\n`);
    const key = await world.flk(['build', '--no-link']);
    expect(key.stderr).toContain('/nowhere/key');
    expect(key.stderr).not.toContain('built');
    configure(world, 'pushTo: ["ftp://h/x"]\n');
    const address = await world.flk(['build', '--no-link']);
    expect(address.status).toBe(2);
    expect(address.stderr).not.toContain('built');
  });
});
