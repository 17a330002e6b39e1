/** What every engine promises, whichever way it builds: tests/contract/engine.test.ts says over which. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FlkError } from '../../src/base/errors.ts';
import type { BuildRequest, Engine } from '../../src/build/engines/engine.ts';
import { takeOutputs } from '../../src/build/outputs.ts';
import { finishDerivation, printDerivation } from '../../src/formats/derivation.ts';
import { sha256, toBase16 } from '../../src/formats/hash.ts';
import { hashTree } from '../../src/formats/nar.ts';
import { nameOf, type StorePath } from '../../src/formats/store-path.ts';
import type { PathInfo } from '../../src/store/path-info.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { errorOf } from './errors.ts';
import { temporaryFolder } from './temp.ts';
import { type Folder, programFiles, treeOfFiles } from './toolchain.ts';
import { directory, file, type Node, symlink, treeFrom } from './trees.ts';

export interface EngineVariant {
  readonly title: string;
  /** Why it cannot be tried on this machine. */
  readonly skipped?: string | undefined;
  open(store: Store): Promise<Engine> | Engine;
  /** Of one that cannot be reached: nothing is there, or it does not answer. */
  unreachable?(store: Store): Engine;
  /** It tells lines of a build while the build runs. */
  readonly streams: boolean;
  /** What its servers lack: an output that is itself a symlink; a word on pipes and devices, which they leave out. */
  readonly lacks?: { readonly linkOutputs?: boolean; readonly specialFiles?: boolean };
  /** Seconds that a limit on time or silence may be; one that asks in steps needs more. */
  readonly shortTime?: number;
}

const programs = 'sh cat chmod cp env head ln ls mkdir mkfifo readlink rm sleep sort yes'.split(' ');
const files = programFiles(programs);

/** Why none of this can be tried. */
const noPrograms = files.size > programs.length ? undefined : 'no ldd that lists libraries';

interface Wanted {
  readonly outputs?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly builder?: string;
  readonly sources?: readonly StorePath[];
  /** The hash that its only output is promised to have. */
  readonly fixed?: { readonly hashAlgo: string; readonly hash: string };
  readonly limits?: Partial<BuildRequest['limits']>;
  readonly signal?: AbortSignal;
  log?(line: string): void;
}

/** Derivations whose builder is a script for the shell of a pinned toolchain, over a store of their own. */
export class Bench {
  readonly store: Store;
  readonly toolchain: StorePath;

  private constructor(store: Store, toolchain: StorePath) {
    this.store = store;
    this.toolchain = toolchain;
  }

  static async open(): Promise<Bench> {
    const store = await openStore(temporaryFolder());
    const { path } = await store.addTree('toolchain', treeFrom(treeOfFiles(files)));
    return new Bench(store, path);
  }

  /** The same store, with the toolchain changed. */
  async with(change: (tree: Folder) => void): Promise<Bench> {
    const tree = treeOfFiles(files);
    change(tree);
    const { path } = await this.store.addTree('toolchain', treeFrom(tree));
    return new Bench(this.store, path);
  }

  async request(script: string, lines: string[], wanted: Wanted = {}): Promise<BuildRequest> {
    const { sources = [], env = {}, outputs = ['out'], fixed } = wanted;
    const inputSrcs = [this.toolchain, ...sources];
    const draft = {
      outputs: new Map(outputs.map((name) => [name, fixed ?? { hashAlgo: '', hash: '' }])),
      inputDrvs: new Map(),
      inputSrcs,
      system: 'x86_64-linux',
      builder: wanted.builder ?? '/bin/sh',
      args: ['-c', script],
      env: new Map(Object.entries({ PATH: '/bin', toolchain: this.toolchain, ...env })),
    };
    const { derivation, drvPath } = finishDerivation('test', draft, () => '0'.repeat(64));
    await this.store.addText('test.drv', printDerivation(derivation), inputSrcs);
    return {
      drvPath,
      derivation,
      closure: this.store.closure(inputSrcs),
      toolchain: { kind: 'path', path: this.toolchain },
      cores: 2,
      limits: { maxOutputBytes: 64 * 2 ** 20, maxLogBytes: 2 ** 20, timeout: 60, ...wanted.limits },
      log: (line) => {
        lines.push(line);
        wanted.log?.(line);
      },
      ...(wanted.signal ? { signal: wanted.signal } : {}),
    };
  }

  /** As a realisation does it: the outputs' records. */
  async taken(engine: Engine, request: BuildRequest): Promise<Map<string, PathInfo>> {
    const built = await engine.build(request);
    try {
      const { drvPath, derivation, closure, limits } = request;
      const taken = await takeOutputs(built.outputs, {
        drvPath,
        derivation,
        closure,
        maxBytes: limits.maxOutputBytes,
        ultimate: engine.ultimate,
      });
      const names = new Map([...derivation.outputs].map(([name, { path }]) => [path, name]));
      return new Map(taken.map(({ info }) => [names.get(info.path)!, info]));
    } finally {
      await built.dispose();
    }
  }
}

export function engineContract(variant: EngineVariant): void {
  const { title, shortTime = 1, lacks = {} } = variant;
  const skipped = variant.skipped ?? noPrograms;
  describe.skipIf(skipped)(`${title}${skipped ? ` (skipped: ${skipped})` : ''}`, () => {
    let bench: Bench;
    let engine: Engine;
    beforeAll(async () => {
      bench = await Bench.open();
      engine = await variant.open(bench.store);
    });
    afterAll(async () => {
      await engine.close();
      // Nothing of any build, failed or not, stays.
      expect(readdirSync(join(bench.store.root, 'nix/var/flk/stage'))).toEqual([]);
      bench.store.close();
    });

    async function printed(script: string, wanted?: Wanted): Promise<string[]> {
      const lines: string[] = [];
      const built = await engine.build(await bench.request(`${script}\n: > $out`, lines, wanted));
      await built.dispose();
      return lines;
    }

    async function failure(script: string, wanted?: Wanted): Promise<FlkError> {
      return (await errorOf(
        bench.request(script, [], wanted).then((request) => bench.taken(engine, request)),
      )) as FlkError;
    }

    async function outcome(
      script: string,
      wanted?: Wanted,
    ): Promise<Record<string, Omit<PathInfo, 'registrationTime'>>> {
      const taken = await bench.taken(engine, await bench.request(script, [], wanted));
      return Object.fromEntries(taken);
    }

    it('has a name to show, and can be asked whether it works', async () => {
      expect(engine.name).toMatch(/^(local|nix|remote \S+)$/);
      await engine.probe();
    });

    it('takes a pinned toolchain', async () => {
      const request = await bench.request(': > $out', []);
      expect(engine.refusal(request)).toBeUndefined();
    });

    it('shows at / the sandbox’s entries and the toolchain’s', async () => {
      const top = readdirSync(bench.store.physical(bench.toolchain));
      expect(await printed('ls -1A /')).toEqual(
        [...new Set([...top, 'bin', 'build', 'dev', 'etc', 'nix', 'proc', 'tmp'])].sort(),
      );
    });

    it('gives the derivation’s environment and what Nix sets, nothing of flk’s', async () => {
      process.env.FLK_TEST_SECRET = 'leaked';
      const env = { A: 'one two\n$three', HOME: '/own', TMPDIR: 'overridden', UNICODE: 'é 𝄞' };
      const told = await printed('env', { env }).finally(() => {
        delete process.env.FLK_TEST_SECRET;
      });
      const fixed = told.filter(
        (line) => !/^(NIX_BUILD_CORES=\d+|out=.*|_=.*|SHLVL=.*|OLDPWD=.*)$/.test(line),
      );
      expect(fixed.sort()).toEqual(
        [
          ...['$three', 'A=one two', 'HOME=/own', 'UNICODE=é 𝄞', 'PATH=/bin'],
          ...['NIX_BUILD_TOP=/build', 'NIX_LOG_FD=2', 'NIX_STORE=/nix/store', `toolchain=${bench.toolchain}`],
          ...['PWD=/build', 'TEMP=/build', 'TEMPDIR=/build', 'TMP=/build', 'TMPDIR=/build'],
          'TERM=xterm-256color',
        ].sort(),
      );
      expect(told.filter((line) => /^NIX_BUILD_CORES=[1-9]\d*$/.test(line))).toHaveLength(1);
    });

    it('starts in an empty /build that can be written, with umask 022, and an empty stdin', async () => {
      expect(
        await printed('umask; pwd; ls -1A; : > a; : > /tmp/b; ls -1; cat; readlink /proc/self/fd/0'),
      ).toEqual([...['0022', '/build', 'a'], expect.stringMatching(/^(\/dev\/null|pipe:\[\d+\])$/)]);
    });

    it('shows the closure, read-only, and no other path', async () => {
      const seen = await bench.store.addTree('seen', treeFrom(directory({ file: file('seen\n') })));
      await bench.store.addTree('unseen', treeFrom(file('unseen\n')));
      const lines = await printed(
        `cat ${seen.path}/file
         { echo x > ${seen.path}/file; } 2>/dev/null || echo read-only
         { echo x > ${seen.path}/more; } 2>/dev/null || echo read-only
         { echo x > /bin/more; } 2>/dev/null || echo read-only
         for path in /nix/store/*; do echo "\${path#*-}"; done; cat ${seen.path}/file`,
        { sources: [seen.path] },
      );
      // An engine may have made the folder of the output’s own place.
      expect(lines.filter((line) => line !== 'test')).toEqual([
        ...['seen', 'read-only', 'read-only', 'read-only'],
        ...[seen.path, bench.toolchain].sort().map(nameOf),
        'seen',
      ]);
      await bench.store.verifyPath(seen.path);
    });

    it('gives the same outputs as any other: files, folders, links, modes, names, references', async () => {
      const { path: dep } = await bench.store.addTree('dep', treeFrom(file('dep\n')));
      const script = `
        echo hi > $out
        mkdir -p $dev/bin $dev/empty; echo '#!/bin/sh' > $dev/bin/run; chmod 755 $dev/bin/run
        chmod 0700 $dev/bin; echo $out ${dep} > "$dev/é 𝄞"; ln -s run $dev/bin/alias; ln -s $doc/gone $dev/gone
        chmod 600 "$dev/é 𝄞"; ln $dev/bin/run $dev/bin/hard
        ${lacks.linkOutputs ? `mkdir $doc; ln -s ${dep} $doc/dep` : `ln -s ${dep} $doc`}`;
      const infos = await outcome(script, { outputs: ['out', 'dev', 'doc'], sources: [dep] });
      const { out, dev, doc } = infos;
      const run = file('#!/bin/sh\n', true);
      const wanted: Record<string, Node> = {
        out: file('hi\n'),
        dev: directory({
          bin: directory({ run, hard: run, alias: symlink('run') }),
          empty: directory(),
          [Buffer.from('é 𝄞').toString('latin1')]: file(`${out!.path} ${dep}\n`),
          gone: symlink(`${doc!.path}/gone`),
        }),
        doc: lacks.linkOutputs ? directory({ dep: symlink(dep) }) : symlink(dep),
      };
      for (const [name, node] of Object.entries(wanted))
        expect([name, infos[name]!.narHash]).toEqual([name, (await hashTree(treeFrom(node))).narHash]);
      expect(out!.references).toEqual([]);
      expect(dev!.references).toEqual([out!.path, doc!.path, dep].sort());
      expect(doc!.references).toEqual([dep]);
      for (const info of Object.values(infos)) expect(info.ultimate).toBe(engine.ultimate);
    });

    it('gives a fixed output, and one that is not as promised is found out', async () => {
      const { narHash } = await hashTree(treeFrom(directory({ a: file('a\n') })));
      const script = 'mkdir $out; echo a > $out/a';
      const hash = toBase16(Buffer.from(narHash.slice('sha256-'.length), 'base64'));
      const { out } = await outcome(script, { fixed: { hashAlgo: 'r:sha256', hash } });
      expect(out).toMatchObject({ narHash, ca: expect.stringMatching(/^fixed:r:sha256:/) });
      const flat = { hashAlgo: 'sha256', hash: toBase16(sha256('flat\n')) };
      expect((await outcome('echo flat > $out', { fixed: flat })).out?.ca).toMatch(/^fixed:sha256:/);
      expect(await failure('echo other > $out', { fixed: flat })).toMatchObject({
        code: 'FLK_FETCH_HASH_MISMATCH',
      });
    });

    it('builds many at once', async () => {
      const all = await Promise.all([1, 2, 3, 4].map((i) => outcome(`echo ${i} > $out`)));
      const wanted = [1, 2, 3, 4].map(async (i) => (await hashTree(treeFrom(file(`${i}\n`)))).narHash);
      expect(all.map(({ out }) => out!.narHash)).toEqual(await Promise.all(wanted));
    });

    describe('a builder that misbehaves', () => {
      it('fails: its status is told, its lines come in order from both streams', async () => {
        const lines: string[] = [];
        const script = 'echo a; echo b >&2; echo c; printf "%s" 1%; printf "\\r2%%\\n"; printf last; exit 7';
        const error = await errorOf(bench.request(script, lines).then((request) => engine.build(request)));
        expect(error).toMatchObject({ code: 'FLK_BUILD_FAILED', facts: { status: 'exit status 7' } });
        expect(lines).toEqual(['a', 'b', 'c', '2%', 'last']);
      });

      it('does not exist', async () => {
        expect((await failure('', { builder: '/no/such/builder' })).code).toBe('FLK_BUILD_FAILED');
      });

      it('does not create an output', async () => {
        expect((await failure('echo > $out', { outputs: ['out', 'dev'] })).code).toBe(
          'FLK_BUILD_OUTPUT_MISSING',
        );
      });

      it.skipIf(lacks.specialFiles)('leaves what no store can hold', async () => {
        expect((await failure('mkdir $out; mkfifo $out/pipe')).code).toBe('FLK_BUILD_OUTPUT_INVALID');
      });

      it('runs for too long, or is silent', async () => {
        expect(
          await failure('while :; do echo x; sleep 0.1; done', { limits: { timeout: shortTime } }),
        ).toMatchObject({ code: 'FLK_BUILD_TIMEOUT', facts: { limit: `timeout ${shortTime} s` } });
        if (!variant.streams) return;
        expect(await failure('sleep 98771', { limits: { maxSilent: shortTime } })).toMatchObject({
          code: 'FLK_BUILD_TIMEOUT',
          facts: { limit: `maxSilent ${shortTime} s` },
        });
      });

      it('prints without end', async () => {
        const limits = { maxLogBytes: 100_000, ...(variant.streams ? {} : { timeout: 10 }) };
        const script = variant.streams ? 'yes' : 'yes | head -n 200000';
        expect((await failure(script, { limits })).code).toBe('FLK_BUILD_OUTPUT_LIMIT');
      });

      it('leaves more than it may', async () => {
        const script = 'head -c 3000000 /dev/zero > $out';
        expect((await failure(script, { limits: { maxOutputBytes: 1_000_000 } })).code).toBe(
          'FLK_BUILD_OUTPUT_LIMIT',
        );
      });

      it('is interrupted while it runs', async () => {
        const abort = new AbortController();
        const building = failure('echo started; sleep 98772', {
          signal: abort.signal,
          ...(variant.streams ? { log: () => abort.abort() } : {}),
        });
        if (!variant.streams) {
          await sleep(1000);
          abort.abort();
        }
        expect((await building).code).toBe('FLK_INTERRUPTED');
      });
    });

    const { unreachable } = variant;
    it.skipIf(!unreachable)(
      `says when it cannot be reached${unreachable ? '' : ' (skipped: it always can)'}`,
      async () => {
        const gone = unreachable!(bench.store);
        try {
          expect(await errorOf(gone.probe())).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
          const request = await bench.request(': > $out', []);
          expect(await errorOf(gone.build(request))).toMatchObject({ code: 'FLK_BUILDER_UNAVAILABLE' });
        } finally {
          await gone.close();
        }
      },
    );
  });
}
