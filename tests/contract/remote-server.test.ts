/** The remote engine before a server that loses things, lies, stalls and leaves; and what it asks of one that does not, call by call. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import * as zlib from 'node:zlib';
import { ServerCredentials } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Event } from '../../src/base/events.ts';
import type { Engine } from '../../src/build/engines/engine.ts';
import { blobDigest, keyOf } from '../../src/build/engines/remote/digest.ts';
import { directoryOf, type Node as MerkleNode } from '../../src/build/engines/remote/merkle.ts';
import type { RemoteEngineOptions } from '../../src/build/engines/remote/remote.ts';
import type { StorePath } from '../../src/formats/store-path.ts';
import { Directory, type DirectoryNode, decode, encode, Tree } from '../../src/generated/remote-execution.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { buildRequest, type Changes, storePath } from '../support/builds.ts';
import { errorOf, thrownBy } from '../support/errors.ts';
import { testEngine } from '../support/reapi.ts';
import { FakeServer, type Fault, forever, missing, unavailable } from '../support/reapi-server.ts';
import { temporaryFolder } from '../support/temp.ts';
import { directory, file, type Node, symlink, treeFrom } from '../support/trees.ts';

const patience = { tries: 4, first: 5, longest: 20 };
const out = storePath('out').slice(1);
/** More than goes with others into one call. */
const large = randomBytes(700_000);

let store: Store;
let toolchain: StorePath;
let server: FakeServer;
const engines: Engine[] = [];

beforeAll(async () => {
  store = await openStore(temporaryFolder());
  const tree = directory({
    bin: directory({ dash: file('a shell', true), sh: symlink('dash') }),
    etc: directory({ own: file('own'), passwd: file('not this one') }),
    lib: directory({ large: file(large), small: file('small') }),
    tmp: directory({ unseen: file('') }),
  });
  toolchain = (await store.addTree('toolchain', treeFrom(tree))).path;
});
beforeEach(async () => {
  server = new FakeServer();
  await server.start();
  server.outcome = () => server.outputs({ [out]: file('built\n') });
});
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close();
  server.stop();
  // Nothing of any build stays.
  expect(readdirSync(join(store.root, 'nix/var/flk/stage'))).toEqual([]);
});
afterAll(() => store.close());

function engineFor(options: Partial<RemoteEngineOptions> = {}): Engine {
  const engine = testEngine({ store, address: server.address, patience, ...options });
  engines.push(engine);
  return engine;
}

const request = (changes: Changes = {}, lines: string[] = []) =>
  buildRequest('true', lines, {
    toolchain: { kind: 'path', path: toolchain },
    closure: [toolchain],
    ...changes,
  });

/** What lies where the output should. */
async function built(engine: Engine, changes: Changes = {}): Promise<string> {
  const { outputs, dispose } = await engine.build(request(changes));
  const path = outputs.get('out');
  const found = path === undefined ? 'nothing' : content(path);
  await dispose();
  return found;
}

function content(path: string): string {
  const info = lstatSync(path);
  if (info.isSymbolicLink()) return `-> ${readlinkSync(path)}`;
  if (info.isDirectory()) return readdirSync(path).sort().join(' ');
  return readFileSync(path, 'latin1');
}

const failure = (engine: Engine, changes: Changes = {}) => errorOf(built(engine, changes));
const counts = () => Object.fromEntries(server.calls);

describe('what a server is asked', () => {
  it('is first for the result, then what it lacks, then to run; the second time for the result alone', async () => {
    expect(await built(engineFor())).toBe('built\n');
    expect(counts()).toEqual({
      ...{ getCapabilities: 1, getActionResult: 1, findMissingBlobs: 1, batchUpdateBlobs: 1, write: 1 },
      ...{ execute: 1, batchReadBlobs: 1 },
    });
    server.calls.clear();
    expect(await built(engineFor())).toBe('built\n');
    expect(counts()).toEqual({ getCapabilities: 1, getActionResult: 1, batchReadBlobs: 1 });
  });

  it('is of many builds at once one question for what they share, and few for all', async () => {
    const engine = engineFor({ jobs: 50 });
    await Promise.all(Array.from({ length: 50 }, (_, i) => built(engine, { env: { I: String(i) } })));
    expect(server.count('write')).toBe(1);
    expect(server.count('execute')).toBe(50);
    expect(server.count('findMissingBlobs')).toBeLessThan(10);
    expect(server.count('batchUpdateBlobs')).toBeLessThan(20);
  });

  it('is nothing about inputs that it has been asked for, and their files are not read again', async () => {
    await built(engineFor());
    const place = store.physical(toolchain);
    chmodSync(join(place, 'lib'), 0o755);
    rmSync(join(place, 'lib/large'), { force: true });
    try {
      expect(await built(engineFor(), { env: { ANOTHER: 'action' } })).toBe('built\n');
      expect(server.count('write')).toBe(1);
    } finally {
      writeFileSync(join(place, 'lib/large'), large, { mode: 0o444 });
      chmodSync(join(place, 'lib'), 0o555);
    }
  });

  it('is an action that shows the toolchain at /, the closure in the store, and folders to write in', async () => {
    const seen = await store.addTree('seen', treeFrom(file('seen')));
    await built(engineFor({ platform: { pool: 'b', arch: 'a' } }), {
      closure: [toolchain, seen.path],
      limits: { timeout: 7 },
    });
    const { action, command } = server.ran[0]!;
    expect(action).toMatchObject({ doNotCache: false, timeout: { seconds: 7 }, salt: Buffer.alloc(0) });
    expect(action.platform?.properties.map(({ name }) => name)).toEqual(['arch', 'pool']);
    expect(command.arguments.slice(-3)).toEqual(['/bin/sh', '-c', 'true']);
    expect(command.outputPaths).toEqual([out]);
    expect(command.outputFiles).toEqual([]);
    const names = command.environmentVariables.map(({ name }) => name);
    expect(names).toEqual([...names].sort());
    expect(names).toContain('NIX_BUILD_TOP');
    const root = list(action.inputRootDigest!.hash);
    const paths = [toolchain, seen.path].map((path) => path.slice(1)).sort();
    const inside = new RegExp(`^${toolchain.slice(1)}/.`);
    expect(root.filter((path) => !inside.test(path))).toEqual(
      [
        ...[
          'bin/',
          'bin/dash*',
          'bin/sh -> dash',
          'build/',
          'dev/',
          'etc/',
          'etc/group',
          'etc/hosts',
          'etc/own',
        ],
        ...['etc/passwd', 'lib/', 'lib/large', 'lib/small', 'nix/', 'nix/store/', 'proc/', 'tmp/'],
        ...paths.map((path) => (path.endsWith('toolchain') ? `${path}/` : path)),
      ].sort(),
    );
  });

  it('is for outputs by their kinds, where the server is older', async () => {
    server.capabilities = { ...server.capabilities, highApiVersion: { major: 2, minor: 0 } };
    await built(engineFor());
    const { outputPaths, outputFiles, outputDirectories } = server.ran[0]!.command;
    expect({ outputPaths, outputFiles, outputDirectories }).toEqual({
      ...{ outputPaths: [], outputFiles: [out], outputDirectories: [out] },
    });
  });

  it('is to run again, and to remember nothing, where builds are compared', async () => {
    const engine = engineFor();
    await built(engine);
    for (const variation of [1, 2]) await built(engine, { variation });
    const again = server.ran.slice(1);
    expect(
      again.map(({ request: { skipCacheLookup }, action: { doNotCache } }) => [skipCacheLookup, doNotCache]),
    ).toEqual([
      [true, true],
      [true, true],
    ]);
    expect(new Set(server.ran.map(({ action }) => action.salt.toString())).size).toBe(3);
  });

  it('is by an instance’s name, where one is set', async () => {
    await built(engineFor({ instance: 'main/linux' }));
    expect(server.ran[0]!.request.instanceName).toBe('main/linux');
    expect(server.resources[0]).toMatch(/^main\/linux\/uploads\/[0-9a-f-]{36}\/blobs\/[0-9a-f]{64}\/700000$/);
  });

  const packs = 'createZstdCompress' in zlib;
  it(`is for packed blobs only where this Node packs${packs ? '' : ' (it does not)'}`, async () => {
    const { cacheCapabilities } = server.capabilities;
    server.capabilities = {
      ...server.capabilities,
      cacheCapabilities: { ...cacheCapabilities!, supportedCompressors: [1] },
    };
    // The server here does not unpack: what is sent packed is refused.
    const error = await engineFor()
      .build(request())
      .then(({ dispose }) => dispose())
      .catch((thrown: Error) => thrown);
    expect(server.resources[0]).toContain(packs ? '/compressed-blobs/zstd/' : '/blobs/');
    expect(error === undefined).toBe(!packs);
  });

  /** Paths below a folder that the server has: folders end in `/`, programs in `*`. */
  function list(hash: string, prefix = ''): string[] {
    const bytes = [...server.blobs].find(([key]) => key.startsWith(hash))![1];
    const { files, directories, symlinks } = decode(Directory, bytes);
    return [
      ...files.map(({ name, isExecutable }) => `${prefix}${name}${isExecutable ? '*' : ''}`),
      ...symlinks.map(({ name, target }) => `${prefix}${name} -> ${target}`),
      ...directories.flatMap(({ name, digest }) => [
        `${prefix}${name}/`,
        ...list(digest!.hash, `${prefix}${name}/`),
      ]),
    ].sort();
  }
});

describe('what a server gives', () => {
  const give = (node: Node) => {
    server.outcome = () => server.outputs({ [out]: node });
  };

  it('is a file, a folder, a symlink, or nothing', async () => {
    const engine = engineFor();
    give(directory({ a: file(large, true), b: symlink('a'), c: directory(), d: file('') }));
    const { outputs, dispose } = await engine.build(request());
    const path = outputs.get('out')!;
    expect(content(path)).toBe('a b c d');
    expect(readFileSync(join(path, 'a')).equals(large)).toBe(true);
    expect([lstatSync(join(path, 'a')).mode & 0o111, lstatSync(join(path, 'd')).mode & 0o111]).toEqual([
      0o111, 0,
    ]);
    await dispose();
    give(symlink('/nowhere'));
    expect(await built(engine, { env: { N: '2' } })).toBe('-> /nowhere');
    server.outcome = () => ({});
    expect(await built(engine, { env: { N: '3' } })).toBe('nothing');
  });

  it('is a log: at the end, or as it grows and then the rest, each line once', async () => {
    const printed = Buffer.from('one\ntwo\nthree\n');
    server.outcome = () => ({ ...server.outputs({ [out]: file('') }), stdoutDigest: server.put(printed) });
    const lines: string[] = [];
    await (await engineFor().build(request({}, lines))).dispose();
    expect(lines).toEqual(['one', 'two', 'three']);
    server.stdoutStream = 'logs/1';
    server.blobs.set('logs/1', printed.subarray(0, 6));
    const more: string[] = [];
    await (await engineFor().build(request({ env: { N: '2' } }, more))).dispose();
    expect(more).toEqual(['one', 'two', 'three']);
  });

  it('is a failure, which is never taken from what it remembers', async () => {
    server.outcome = (_, ran) => (ran === 1 ? { exitCode: 3 } : server.outputs({ [out]: file('at last') }));
    const engine = engineFor();
    expect(await failure(engine)).toMatchObject({
      code: 'FLK_BUILD_FAILED',
      facts: { status: 'exit status 3' },
    });
    expect(await built(engine)).toBe('at last');
    expect(server.ran[1]!.request.skipCacheLookup).toBe(true);
  });

  it('is word of time that ran out', async () => {
    server.outcome = () => ({ status: { code: 4, message: 'deadline' } });
    expect(await failure(engineFor(), { limits: { timeout: 5 } })).toMatchObject({
      code: 'FLK_BUILD_TIMEOUT',
      facts: { limit: 'timeout 5 s' },
    });
  });

  it('is more than may be kept', async () => {
    give(directory({ a: file(large) }));
    const lots = { limits: { maxOutputBytes: 600_000 } };
    expect(await failure(engineFor(), lots)).toMatchObject({ code: 'FLK_BUILD_OUTPUT_LIMIT' });
    server.outcome = () => ({ stdoutRaw: Buffer.alloc(2000, 'x') });
    const noisy = { limits: { maxLogBytes: 1000 }, env: { N: '2' } };
    expect(await failure(engineFor(), noisy)).toMatchObject({ code: 'FLK_BUILD_OUTPUT_LIMIT' });
    expect(server.count('read')).toBe(0);
  });
});

describe('a server that fails', () => {
  /** Faults for the first calls of a method. */
  const failing = (method: string, times: number, fault: Fault = unavailable) => {
    server.fault = (name, count) => (name === method && count <= times ? fault : undefined);
  };
  const exhausted: Fault = { code: 8, message: 'too much at once' };

  for (const method of [
    ...['getCapabilities', 'getActionResult', 'findMissingBlobs', 'batchUpdateBlobs', 'write', 'execute'],
    'batchReadBlobs',
  ]) {
    it(`for a moment, at ${method}: it is asked again`, async () => {
      const events: Event[] = [];
      failing(method, 2, method === 'execute' ? exhausted : unavailable);
      expect(await built(engineFor({ reporter: { emit: (event) => events.push(event) } }))).toBe('built\n');
      expect(events.map((event) => event.kind === 'notice' && event.notice.type)).toEqual(['retry', 'retry']);
    });

    it(`for good, at ${method}: another builder may be asked`, async () => {
      failing(method, 1000);
      expect(await failure(engineFor())).toMatchObject({
        code: 'FLK_BUILDER_UNAVAILABLE',
        facts: { builder: server.address, reason: 'gone for a moment' },
      });
      expect(counts()[method]).toBeLessThanOrEqual(4);
      const { facts } = await failure(engineFor({ instance: 'main' }));
      expect(facts).toMatchObject({ builder: `${server.address}?instance=main` });
    });
  }

  it('by silence: it is not waited for', async () => {
    for (const method of ['getCapabilities', 'findMissingBlobs', 'write', 'batchReadBlobs']) {
      server.fault = (name) => (name === method ? forever() : undefined);
      const engine = engineFor({ answerTime: 200, patience: { ...patience, tries: 2 } });
      expect(await failure(engine)).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
    }
  });

  it('in the middle of a blob: it is fetched again', async () => {
    server.outcome = () => server.outputs({ [out]: file(large) });
    server.breaks = 2;
    expect(await built(engineFor())).toBe(large.toString('latin1'));
    expect(server.count('read')).toBe(3);
  });

  it('by leaving a build: it is asked how that goes, and to begin anew where it does not know', async () => {
    server.leaves = 2;
    expect(await built(engineFor())).toBe('built\n');
    expect([server.count('execute'), server.count('waitExecution')]).toEqual([3, 2]);
  });

  it('by a restart, while it builds', async () => {
    server.outcome = async (_, ran) => {
      if (ran > 1) return server.outputs({ [out]: file('built\n') });
      await server.restart();
      return forever();
    };
    expect(await built(engineFor())).toBe('built\n');
  });

  it('by losing blobs that it had: they are sent again, and the build begins again', async () => {
    const engine = engineFor();
    await built(engine);
    server.blobs.clear();
    expect(await built(engine, { env: { N: '2' } })).toBe('built\n');
    expect(server.count('write')).toBe(2);
    server.outcome = () => ({ status: missing(blobDigest(large)) });
    expect(await failure(engine, { env: { N: '3' } })).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
  });

  it('by a condition of its own: its reason is told', async () => {
    server.outcome = () => ({ status: { code: 9, message: 'no workers for this platform' } });
    expect(await errorOf(engineFor().build(request()))).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      facts: { reason: 'no workers for this platform' },
    });
  });

  it('by a time limit of its own: nobody asks again', async () => {
    server.outcome = () => ({ status: { code: 4, message: 'no more than an hour' } });
    const { limits, ...unlimited } = request();
    const { timeout: _, ...others } = limits;
    expect(await errorOf(engineFor().build({ ...unlimited, limits: others }))).toMatchObject({
      code: 'FLK_BUILD_TIMEOUT',
      facts: { reason: 'no more than an hour' },
    });
    expect(server.ran).toHaveLength(1);
  });

  it('by losing outputs that it remembers: they are built again', async () => {
    await built(engineFor());
    server.blobs.delete(keyOf(blobDigest(Buffer.from('built\n'))));
    expect(await built(engineFor())).toBe('built\n');
    expect(server.ran.map(({ request: { skipCacheLookup } }) => skipCacheLookup)).toEqual([false, true]);
  });

  it('to do what should have run the builder: another builder may be asked', async () => {
    server.outcome = () => ({ status: { code: 13, message: 'no such image' } });
    expect(await failure(engineFor())).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      facts: { reason: 'no such image' },
    });
    expect(server.ran).toHaveLength(1);
  });

  it('to take the action: that is told', async () => {
    failing('execute', 1000, { code: 3, message: 'no such platform' });
    expect(await failure(engineFor())).toMatchObject({
      code: 'FLK_REMOTE_REFUSED',
      facts: { reason: 'no such platform' },
    });
  });

  it('does not matter any more to who was interrupted: the server hears of it', async () => {
    const abort = new AbortController();
    server.outcome = forever;
    // Whoever listens has heard that the action runs.
    server.stdoutStream = 'logs/1';
    server.fault = (name) => {
      if (name === 'read') abort.abort();
      return undefined;
    };
    expect(await failure(engineFor(), { signal: abort.signal })).toMatchObject({ code: 'FLK_INTERRUPTED' });
    expect(server.cancelled).toEqual(['operations/1']);
  });

  it('to end a build that is silent, or prints without end: the server hears of it', async () => {
    server.stdoutStream = 'logs/1';
    server.outcome = forever;
    const { fault } = server;
    server.fault = (name) => (name === 'read' ? forever() : undefined);
    expect(await failure(engineFor(), { limits: { maxSilent: 0.2 } })).toMatchObject({
      code: 'FLK_BUILD_TIMEOUT',
      facts: { limit: 'maxSilent 0.2 s' },
    });
    server.fault = fault;
    server.blobs.set('logs/1', Buffer.alloc(2000, 'x'));
    expect(await failure(engineFor(), { limits: { maxLogBytes: 1000 }, env: { N: '2' } })).toMatchObject({
      code: 'FLK_BUILD_OUTPUT_LIMIT',
    });
    expect(server.cancelled).toEqual(['operations/1', 'operations/2']);
  });
});

describe('a server that lies', () => {
  const lie = async (result: () => object) => {
    server.outcome = result;
    return failure(engineFor());
  };
  const name = (text: string) => Buffer.from(text, 'latin1');
  const small = (): MerkleNode => ({
    kind: 'file',
    node: { name: name('a'), digest: server.put(name('a')), isExecutable: false },
  });
  /** An output of these folders, the last of which is the root. */
  const tree = (...folders: readonly (readonly MerkleNode[])[]) => {
    const encoded = folders.map((nodes) => directoryOf(nodes));
    const treeDigest = server.put(encode(Tree, { root: encoded.at(-1)!, children: encoded.slice(0, -1) }));
    return { outputDirectories: [{ path: out, treeDigest, rootDirectoryDigest: undefined }] };
  };
  const folder = (label: string, bytes: Buffer): MerkleNode => ({
    kind: 'directory',
    node: { name: name(label), digest: blobDigest(bytes) } satisfies DirectoryNode,
  });

  it('about the bytes of a blob, small or large', async () => {
    for (const bytes of [Buffer.from('small'), large]) {
      const digest = server.put(bytes);
      server.corrupt = (sent) =>
        keyOf(blobDigest(sent)) === keyOf(digest) ? Buffer.alloc(sent.length) : sent;
      const error = await lie(() => server.outputs({ [out]: file(bytes) }));
      expect(error).toMatchObject({ code: 'FLK_REMOTE_INTEGRITY', facts: { wanted: keyOf(digest) } });
      server.results.clear();
    }
  });

  it('about its length: an endless one is broken off, a short one found out', async () => {
    for (const corrupt of [
      (sent: Buffer) => Buffer.concat([sent, Buffer.alloc(50_000_000)]),
      () => large.subarray(1),
    ]) {
      server.corrupt = corrupt;
      expect(await lie(() => server.outputs({ [out]: file(large) }))).toMatchObject({
        code: 'FLK_REMOTE_INTEGRITY',
      });
      server.results.clear();
    }
  });

  it('about digests', async () => {
    const contents = Buffer.alloc(0);
    for (const digest of [
      undefined,
      { hash: '../../etc/passwd', sizeBytes: 1 },
      { hash: 'a'.repeat(64), sizeBytes: -1 },
      { hash: 'A'.repeat(64), sizeBytes: 1 },
      { hash: 'a'.repeat(64), sizeBytes: 2 ** 60 },
    ]) {
      const error = await lie(() => ({
        outputFiles: [{ path: out, digest, isExecutable: false, contents }],
      }));
      expect([digest, error.code]).toEqual([digest, 'FLK_REMOTE_INTEGRITY']);
      server.results.clear();
    }
  });

  it('about what it has', async () => {
    const digest = blobDigest(Buffer.from('nowhere'));
    const contents = Buffer.alloc(0);
    expect(
      await lie(() => ({ outputFiles: [{ path: out, digest, isExecutable: false, contents }] })),
    ).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
    });
  });

  it('about names: none leads out of its folder', async () => {
    for (const label of ['..', '.', '', '/etc/x', 'a/b', 'a\0b', 'x'.repeat(256)]) {
      for (const node of [
        { ...small(), node: { ...small().node, name: name(label) } } as MerkleNode,
        { kind: 'symlink', node: { name: name(label), target: name('x') } } as const,
        folder(label, directoryOf([])),
      ]) {
        const error = await lie(() => tree([], [node]));
        expect([label, node.kind, error.code]).toEqual([label, node.kind, 'FLK_REMOTE_INTEGRITY']);
        server.results.clear();
      }
    }
  });

  it('with one name twice: nothing is made through a link', async () => {
    const outside = temporaryFolder();
    const link: MerkleNode = { kind: 'symlink', node: { name: name('a'), target: name(outside) } };
    for (const second of [small(), folder('a', directoryOf([small()])), link]) {
      expect(await lie(() => tree([small()], [link, second]))).toMatchObject({
        code: 'FLK_REMOTE_INTEGRITY',
      });
      server.results.clear();
    }
    const twice = server.outputs({ [out]: symlink(outside) });
    expect(await lie(() => ({ ...twice, ...tree([small()]) }))).toMatchObject({
      code: 'FLK_REMOTE_INTEGRITY',
    });
    expect(readdirSync(outside)).toEqual([]);
  });

  it('with folders that are not there, that are none, or too deep, or too many', async () => {
    expect(await lie(() => tree([folder('gone', name('x'))]))).toMatchObject({
      code: 'FLK_REMOTE_INTEGRITY',
    });
    server.results.clear();
    const garbage = server.put(Buffer.alloc(40, 0xff));
    const broken = {
      outputDirectories: [{ path: out, treeDigest: garbage, rootDirectoryDigest: undefined }],
    };
    expect(await lie(() => broken)).toMatchObject({ code: 'FLK_REMOTE_INTEGRITY' });
    server.results.clear();
    const chain: (readonly MerkleNode[])[] = [[]];
    for (let depth = 0; depth < 1100; depth++) chain.push([folder('d', directoryOf(chain.at(-1)!))]);
    expect(await lie(() => tree(...chain))).toMatchObject({ code: 'FLK_REMOTE_INTEGRITY' });
    server.results.clear();
    // Each folder holds the one before it eight times: 8 to the power of 30 in the end.
    const bomb: (readonly MerkleNode[])[] = [[]];
    for (let depth = 0; depth < 30; depth++)
      bomb.push([...'abcdefgh'].map((label) => folder(label, directoryOf(bomb.at(-1)!))));
    expect(await lie(() => tree(...bomb))).toMatchObject({ code: 'FLK_BUILD_OUTPUT_LIMIT' });
  });

  it('with symlinks to nowhere', async () => {
    for (const target of ['', 'a\0b', 'x'.repeat(4096)]) {
      const link: MerkleNode = { kind: 'symlink', node: { name: name('a'), target: name(target) } };
      expect(await lie(() => tree([link]))).toMatchObject({ code: 'FLK_REMOTE_INTEGRITY' });
      server.results.clear();
    }
  });

  it('about what nobody asked for: it is not taken', async () => {
    server.outcome = () =>
      server.outputs({ [out]: file('built\n'), 'etc/passwd': file('x'), '../x': file('x') });
    expect(await built(engineFor())).toBe('built\n');
  });

  it('keeps bytes in names that are no UTF-8 as they are', async () => {
    server.outcome = () => server.outputs({ [out]: directory({ '\xff\xfe': file('x') }) });
    const { outputs, dispose } = await engineFor().build(request());
    expect(readdirSync(outputs.get('out')!, 'latin1')).toEqual(['\xff\xfe']);
    await dispose();
  });
});

describe('what is not asked of a server', () => {
  it('is what it says that it cannot', async () => {
    const { cacheCapabilities, executionCapabilities } = server.capabilities;
    for (const [reason, changed] of Object.entries({
      'runs nothing': { executionCapabilities: { ...executionCapabilities!, execEnabled: false } },
      'SHA-256': { cacheCapabilities: { ...cacheCapabilities!, digestFunctions: [9] } },
      symlinks: { cacheCapabilities: { ...cacheCapabilities!, symlinkAbsolutePathStrategy: 1 } },
      'version 1': { highApiVersion: { major: 1, minor: 0 } },
    })) {
      server.capabilities = { ...new FakeServer().capabilities, ...changed };
      const error = await errorOf(engineFor().probe());
      expect(error).toMatchObject({
        code: 'FLK_BUILDER_UNAVAILABLE',
        message: expect.stringContaining(reason),
      });
    }
    server.capabilities = {
      ...new FakeServer().capabilities,
      cacheCapabilities: { ...cacheCapabilities!, maxCasBlobSizeBytes: 600_000 },
    };
    expect(await failure(engineFor())).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
  });

  it('is a build with the host’s programs, without a shell, or with what no message can say', async () => {
    const engine = engineFor();
    const host = request({ toolchain: { kind: 'host' } });
    expect(engine.refusal(host)).toMatchObject({ reason: expect.stringContaining('host') });
    expect(await errorOf(engine.build(host))).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
    const bare = (
      await store.addTree('bare', treeFrom(directory({ bin: directory({ sh: symlink('gone') }) })))
    ).path;
    const without = { toolchain: { kind: 'path' as const, path: bare }, closure: [bare] };
    expect(await failure(engine, without)).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
      facts: { toolchain: bare },
    });
    const odd = (await store.addTree('odd', treeFrom(directory({ '\xff': file('') })))).path;
    expect(await failure(engine, { closure: [toolchain, odd] })).toMatchObject({
      code: 'FLK_BUILDER_UNAVAILABLE',
    });
    expect(await failure(engine, { env: { 'a.b': 'x' } })).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
    expect(await failure(engine, { builder: 'sh' })).toMatchObject({ code: 'FLK_DERIVATION_INVALID' });
    expect(server.ran).toEqual([]);
  });

  it('follows a shell’s links, also into the closure', async () => {
    const shell = (await store.addTree('shell', treeFrom(directory({ sh: file('sh', true) })))).path;
    const tree = directory({
      bin: symlink('usr/bin'),
      usr: directory({ bin: directory({ sh: symlink(`${shell}/sh`) }) }),
    });
    const linked = (await store.addTree('linked', treeFrom(tree), { references: [shell] })).path;
    const changes = { toolchain: { kind: 'path' as const, path: linked }, closure: [linked, shell] };
    expect(await built(engineFor(), changes)).toBe('built\n');
  });
});

describe('who may come in', () => {
  const token = 'a-very-secret-token';

  it('says so with each call, and nowhere else: not even where the server repeats it', async () => {
    const headers = { 'x-api-key': 'another-secret' };
    await built(engineFor({ credentials: { token, headers } }));
    for (const metadata of server.metadata)
      expect([metadata.get('authorization'), metadata.get('x-api-key')]).toEqual([
        [`Bearer ${token}`],
        ['another-secret'],
      ]);
    server.fault = () => ({ code: 16, message: `Bearer ${token} and another-secret are not known` });
    const error = await failure(engineFor({ credentials: { token, headers } }));
    expect(error).toMatchObject({
      code: 'FLK_REMOTE_REFUSED',
      facts: { reason: expect.stringContaining('***') },
    });
    const shown = JSON.stringify([
      error.message,
      error.facts,
      error.hint,
      String(error.cause),
      (error.cause as Error).stack,
    ]);
    expect(shown).not.toMatch(/secret/);
  });

  it('does not say so where others could listen, unless told to', () => {
    const open = (address: string, allowPlaintext = false) =>
      testEngine({ address, credentials: { token, allowPlaintext } });
    expect(thrownBy(() => open('grpc://192.0.2.1:8980'))).toMatchObject({ code: 'FLK_REMOTE_ADDRESS' });
    for (const address of [
      'grpc://127.0.0.2:1',
      'grpc://[::1]:1',
      'grpc://localhost:1',
      'grpcs://192.0.2.1',
      'unix:/x',
    ])
      open(address);
    open('grpc://192.0.2.1:8980', true);
  });

  it('needs an address and headers that can be', () => {
    for (const address of [
      'http://x:1',
      'grpc://x',
      'grpc://u:secret@x:1',
      'grpc://x:1/y',
      'x',
      'grpc://x:1?q',
      'unix:x',
    ])
      expect(thrownBy(() => testEngine({ address }))).toMatchObject({ code: 'FLK_REMOTE_ADDRESS' });
    for (const headers of [{ 'A B': 'x' }, { 'grpc-timeout': '1' }, { 'x-bin': 'x' }, { ok: 'a\nb' }])
      expect(thrownBy(() => testEngine({ address: 'unix:/x', credentials: { headers } }))).toMatchObject({
        code: 'FLK_REMOTE_ADDRESS',
      });
  });

  const openssl = spawnSync('openssl', ['version']).status === 0;
  it.skipIf(!openssl)(`shows a certificate, and asks for one${openssl ? '' : ' (no openssl)'}`, async () => {
    const folder = temporaryFolder();
    const place = (name: string) => join(folder, name);
    const make = (...args: string[]) => {
      const done = spawnSync('openssl', args, { cwd: folder, encoding: 'utf8' });
      expect([done.status, done.status === 0 ? '' : done.stderr]).toEqual([0, '']);
    };
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    make('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=ca', '-days', '2');
    for (const name of ['server', 'client']) {
      make('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
      writeFileSync(place(`${name}.ext`), 'subjectAltName=DNS:localhost\n');
      const by = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2'];
      make('x509', '-req', '-in', `${name}.csr`, ...by, '-extfile', `${name}.ext`, '-out', `${name}.pem`);
    }
    server.stop();
    server = new FakeServer();
    server.outcome = () => server.outputs({ [out]: file('built\n') });
    const pair = {
      private_key: readFileSync(place('server.key')),
      cert_chain: readFileSync(place('server.pem')),
    };
    await server.start(ServerCredentials.createSsl(readFileSync(place('ca.pem')), [pair], true));
    const address = `grpcs://localhost:${server.port}`;
    const ca = { caFile: place('ca.pem') };
    const ours = { certFile: place('client.pem'), keyFile: place('client.key') };
    expect(await built(engineFor({ address, credentials: { ...ca, ...ours, token } }))).toBe('built\n');
    for (const credentials of [ca, ours, {}])
      expect(await failure(engineFor({ address, credentials }))).toMatchObject({
        code: 'FLK_BUILDER_UNAVAILABLE',
      });
    expect(
      await failure(engineFor({ address, credentials: { certFile: place('client.pem') } })),
    ).toMatchObject({
      code: 'FLK_REMOTE_ADDRESS',
    });
    expect(await failure(engineFor({ address, credentials: { caFile: place('none') } }))).toMatchObject({
      code: 'FLK_FILE_UNREADABLE',
    });
  });
});
