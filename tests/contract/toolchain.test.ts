/** A pinned toolchain, from archives on a web server to a package built with nothing of this machine in sight. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silent } from '../../src/base/events.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import type { Download } from '../../src/build/fetch.ts';
import { instantiate } from '../../src/build/instantiate.ts';
import { realise } from '../../src/build/realise.ts';
import { hashTree } from '../../src/formats/nar.ts';
import { downloader } from '../../src/sources/download.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { debOf, type TarEntry, tarOf } from '../support/archives.ts';
import { soleBuilder } from '../support/builds.ts';
import { lockedWorld } from '../support/locked-flakes.ts';
import { temporaryFolder } from '../support/temp.ts';
import { programFiles, treeOfFiles } from '../support/toolchain.ts';
import { directory, file, type Node, treeFrom } from '../support/trees.ts';

const succeeds = (...command: [string, ...string[]]): boolean =>
  spawnSync(command[0], command.slice(1)).status === 0;
const canSandbox =
  succeeds('bwrap', '--version') || succeeds('unshare', '--user', '--map-root-user', '--mount', 'true');

const programs = ['sh', 'mkdir', 'cp', 'chmod', 'rm', 'cat'];
const files = programFiles(programs);
const runnable = canSandbox && files.size > programs.length;

function archiveOf(paths: readonly string[]): { entries: TarEntry[]; tree: Node } {
  const entries = paths.map((path) => ({
    path: `./${path}`,
    contents: readFileSync(files.get(path)!),
    mode: 0o755,
  }));
  return { entries, tree: treeOfFiles(new Map(paths.map((path) => [path, files.get(path)!]))) };
}

const served = new Map<string, Buffer>();
let server: Server;
let store: Store;
let requests = 0;
beforeAll(async () => {
  server = createServer((request, response) => {
    requests++;
    response.end(served.get(request.url ?? ''));
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  store = await openStore(temporaryFolder());
});
afterAll(() => {
  server.close();
  store.close();
});

test.skipIf(!runnable)(
  `builds with a toolchain out of archives${runnable ? '' : ' (skipped: no sandbox, or no ldd that lists libraries)'}`,
  async () => {
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const isProgram = (path: string) => path.startsWith('bin/');
    const tools = archiveOf([...files.keys()].filter(isProgram));
    const libraries = archiveOf([...files.keys()].filter((path) => !isProgram(path)));
    served.set('/tools.tar.gz', gzipSync(tarOf(...tools.entries)));
    served.set('/libraries.deb', debOf(gzipSync(tarOf(...libraries.entries)), '.gz'));
    const hash = async (tree: Node) => (await hashTree(treeFrom(tree))).narHash;
    const world = await lockedWorld(
      directory({
        'flake.yaml': file(`toolchain: "#base"
packages:
  tools: { fetch: { url: "${base}/tools.tar.gz", hash: "${await hash(tools.tree)}", unpack: true, stripRoot: false } }
  libraries: { fetch: { url: "${base}/libraries.deb", hash: "${await hash(libraries.tree)}", unpack: true } }
  base: { merge: ["#tools", "#libraries"], links: { usr/bin: ../bin } }
  default:
    src: { path: ., include: [greeting] }
    buildPhase: |
      echo /* > root
      echo /bin/* >> root
      cat greeting >> root
    installPhase: mkdir -p $out/share; cp root $out/share/
`),
        greeting: file('hello\n'),
      }),
    );
    const download: Download = downloader({ reporter: silent });
    const context = { ...world, store, system: 'x86_64-linux', reporter: silent, download };
    const build = async () => {
      const made = await instantiate(context, { inputs: [], name: 'default' });
      const engine = localEngine({ store, reporter: silent, sandbox: 'auto' });
      return {
        made,
        ...(await realise({ ...context, builders: soleBuilder(engine) }, made, { jobs: 1, cores: 1 })),
      };
    };
    const { made, outputs, built } = await build();
    expect(built).toEqual([made.top]);
    expect(made.hostToolchain).toEqual([]);
    const tops = [
      ...new Set([
        'bin',
        'build',
        'dev',
        'etc',
        'nix',
        'proc',
        'tmp',
        'usr',
        ...[...files.keys()].map((path) => path.split('/')[0]!),
      ]),
    ];
    expect(readFileSync(join(store.physical(outputs.get('out')!), 'share/root'), 'utf8')).toBe(
      `${tops
        .sort()
        .map((name) => `/${name}`)
        .join(' ')}\n${[...programs]
        .sort()
        .map((name) => `/bin/${name}`)
        .join(' ')}\nhello\n`,
    );
    expect(requests).toBe(2);
    const again = await build();
    expect(again.built).toEqual([]);
    expect(requests).toBe(2);
  },
);
