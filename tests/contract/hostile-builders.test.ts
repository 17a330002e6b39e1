/** What a builder that means ill can do to this machine, to flk and to other builds: nothing, over each sandbox. */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { FlkError } from '../../src/base/errors.ts';
import { silent } from '../../src/base/events.ts';
import { ControlGroups } from '../../src/build/engines/cgroups.ts';
import type { Engine } from '../../src/build/engines/engine.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import { takeOutputs } from '../../src/build/outputs.ts';
import {
  buildRequest,
  type Changes,
  longSleep,
  running,
  sandboxVariants,
  storePath,
} from '../support/builds.ts';
import { errorOf } from '../support/errors.ts';
import { folderStore } from '../support/folder-store.ts';
import { temporaryFolder } from '../support/temp.ts';

const hasGroups = (await ControlGroups.find({ maxMemory: 1, maxProcesses: 1 })) !== undefined;
// To root the kernel applies no limit on processes.
const canCap = hasGroups || process.getuid?.() !== 0;
const has = (tool: string): boolean => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0;

for (const { sandbox, usable } of sandboxVariants) {
  describe.skipIf(!usable)(`in ${sandbox}, a builder${usable ? '' : ' (not usable on this machine)'}`, () => {
    // The numbers below are those of x86_64.
    const filtered = sandbox === 'bubblewrap' && process.arch === 'x64';
    let root: string;
    let engine: Engine;

    beforeAll(() => {
      root = temporaryFolder();
      engine = localEngine({ store: folderStore(root), sandbox, reporter: silent });
    });

    async function printed(script: string, changes: Changes = {}): Promise<string[]> {
      const lines: string[] = [];
      const built = await engine.build(buildRequest(script, lines, changes));
      await built.dispose();
      await engine.close();
      expect(readdirSync(join(root, 'stage'))).toEqual([]);
      return lines;
    }

    async function failure(script: string, changes: Changes = {}): Promise<FlkError> {
      const error = await errorOf(engine.build(buildRequest(script, [], changes)));
      await engine.close();
      expect(readdirSync(join(root, 'stage'))).toEqual([]);
      return error;
    }

    describe('that wants too much', () => {
      it.skipIf(!canCap)(
        `starts processes without end${canCap ? '' : ' (root, and no control groups)'}`,
        async () => {
          const word = longSleep();
          const error = await failure(`for i in $(seq 400); do sleep ${word} & done; wait`, {
            limits: { maxProcesses: 60 },
          });
          expect(error.code).toBe(hasGroups ? 'FLK_BUILD_LIMIT' : 'FLK_BUILD_FAILED');
          if (hasGroups) expect(error.message).toContain('60 processes');
          await expect.poll(() => running(word)).toEqual([]);
        },
      );

      it.skipIf(!hasGroups)('is not blamed for what another wanted before it', async () => {
        const limits = { maxProcesses: 60, maxMemory: 100_000_000 };
        const greedy = 'for i in $(seq 100); do sleep 1 & done 2>/dev/null; exit 3';
        const codes: string[] = [];
        for (const script of [greedy, 'exit 3', greedy, 'exit 4'])
          codes.push((await errorOf(engine.build(buildRequest(script, [], { limits })))).code);
        await engine.close();
        expect(codes).toEqual(['FLK_BUILD_LIMIT', 'FLK_BUILD_FAILED', 'FLK_BUILD_LIMIT', 'FLK_BUILD_FAILED']);
      });

      it('takes memory without end', async () => {
        const error = await failure('head -c 400000000 /dev/zero | tail -c 400000000 > /dev/null', {
          limits: { maxMemory: 50_000_000 },
        });
        expect(error.code).toBe(hasGroups ? 'FLK_BUILD_LIMIT' : 'FLK_BUILD_FAILED');
        if (hasGroups) expect(error.hint).toContain('--max-memory');
      });

      it('is let be within its limits', async () => {
        const limits = { maxMemory: 200_000_000, maxProcesses: 200, maxDiskBytes: 1e9, minFreeBytes: 1 };
        expect(
          await printed('seq 3 | tac; head -c 9000000 /dev/zero | tail -c 9000000 | wc -c', { limits }),
        ).toEqual(['3', '2', '1', '9000000']);
      });

      it('writes files without end, each of them small', async () => {
        const script =
          'i=0; while [ $i -lt 40 ]; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done; sleep 50';
        // Also in a folder whose name is not UTF-8.
        for (const folder of ['/build', '/tmp', '/nix/store', '/build/$(printf "\\377")'])
          expect(
            await failure(`mkdir -p ${folder}; cd ${folder}; ${script}`, {
              limits: { maxDiskBytes: 20_000_000 },
            }),
          ).toMatchObject({
            code: 'FLK_BUILD_OUTPUT_LIMIT',
          });
      });

      it('leaves too little of the disk', async () => {
        const error = await failure('sleep 50', { limits: { minFreeBytes: Number.MAX_SAFE_INTEGER } });
        expect(error.code).toBe('FLK_BUILD_DISK_FULL');
        expect(error.hint).toContain('flk gc');
      });

      it('makes a file that is large and empty', async () => {
        expect(await failure('truncate -s 1T $out')).toMatchObject({ code: 'FLK_BUILD_OUTPUT_LIMIT' });
      });

      it('prints a gigabyte in one line', async () => {
        expect(await failure('head -c 1000000000 /dev/zero')).toMatchObject({
          code: 'FLK_BUILD_OUTPUT_LIMIT',
        });
      });

      it('has no more files open than programs are used to', async () => {
        expect(await printed('ulimit -S -n; ulimit -c')).toEqual(['1024', '0']);
      });
    });

    describe('that will not go', () => {
      it('ends while others of its session, and of another, hold its output', async () => {
        const word = longSleep();
        const lines = await printed(`sleep ${word} & setsid sleep ${word} & echo > $out; echo done`);
        expect(lines).toEqual(['done']);
        expect(running(word)).toEqual([]);
      });

      it('sleeps for ever where no signal but the last reaches it', async () => {
        const word = longSleep();
        const error = await failure(`trap "" TERM INT HUP; setsid sleep ${word} & sleep ${word}`, {
          limits: { timeout: 1 },
        });
        expect(error.code).toBe('FLK_BUILD_TIMEOUT');
        await expect.poll(() => running(word)).toEqual([]);
      });

      it('leaves trees that are thousands deep, shut, or said to be immutable', async () => {
        await printed('perl -e \'for (1..1000) { mkdir "d" or die; chdir "d" }\' && : > /tmp/ok');
        const lines = await printed(
          'mkdir -p a/b/c; : > a/b/c/f; chattr +i a/b/c/f 2>/dev/null && echo immutable; chmod -R 0 a 2>/dev/null; chmod 0 /build /tmp /nix/store; :',
        );
        expect(lines).toEqual([]);
      });
    });

    describe('that looks around', () => {
      it('reads no environment of the host’s and finds no process of it', async () => {
        process.env.FLK_TEST_SECRET = 'leaked';
        const lines = await printed(
          `cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c 'leake[d]'
           [ -e /proc/${process.pid} ] && echo flk; kill -0 ${process.pid} 2>/dev/null && echo reached
           { true > /proc/${process.pid}/mem; } 2>/dev/null && echo memory; :`,
        );
        delete process.env.FLK_TEST_SECRET;
        expect(lines).toEqual(['0']);
      });

      it.skipIf(!has('perl'))(`finds no abstract socket${has('perl') ? '' : ' (no perl)'}`, async () => {
        const name = `\0flk-test-${process.pid}-${sandbox}`;
        const server = createServer((socket) => socket.end()).listen(name);
        await new Promise((resolve) => server.once('listening', resolve));
        const connect = `use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); print connect(S, pack("Sa*", AF_UNIX, "\\0${name.slice(1)}")) ? "reached" : "nobody"`;
        try {
          // The same program reaches it from outside.
          expect(spawnSync('perl', ['-e', connect], { encoding: 'utf8', timeout: 1 }).error).toBeDefined();
          expect(await printed(`perl -e '${connect}'`)).toEqual(['nobody']);
        } finally {
          server.close();
        }
      });

      it.skipIf(!has('perl'))(`has no terminal to type into${has('perl') ? '' : ' (no perl)'}`, async () => {
        expect(
          await printed(
            `perl -e '$c = "x"; for ("/dev/tty", "/dev/stdin", "/dev/stdout") { print "$_\\n" if open(T, "+<", $_) && ioctl(T, 0x5412, $c) } exit 0'`,
          ),
        ).toEqual([]);
      });
    });

    describe('that leaves traps', () => {
      it('links its output to a file of the host: the link is kept, the file left alone', async () => {
        const secret = join(temporaryFolder(), 'secret');
        writeFileSync(secret, 'secret', { mode: 0o640 });
        const request = buildRequest(`ln -s ${secret} $out`, []);
        const built = await engine.build(request);
        const [taken] = await takeOutputs(built.outputs, {
          drvPath: request.drvPath,
          derivation: request.derivation,
          closure: [],
          maxBytes: 1000,
          ultimate: true,
        });
        expect(lstatSync(taken!.staged).isSymbolicLink()).toBe(true);
        expect(statSync(secret).mode & 0o777).toBe(0o640);
        await built.dispose();
        await engine.close();
        expect(readFileSync(secret, 'utf8')).toBe('secret');
      });

      it('cannot link an input into its output, nor change it by any name', async () => {
        const store = folderStore(root);
        const input = storePath('input', 'b');
        mkdirSync(store.physical(input), { recursive: true });
        writeFileSync(join(store.physical(input), 'file'), 'input', { mode: 0o444 });
        const before = statSync(join(store.physical(input), 'file'));
        const lines = await printed(
          `mkdir $out; ln ${input}/file $out/file 2>/dev/null && echo linked
           chmod u+w ${input}/file 2>/dev/null && echo chmod; touch ${input}/file 2>/dev/null && echo touched
           mv ${input} /nix/store/other 2>/dev/null && echo moved; :`,
          { closure: [input] },
        );
        expect(lines).toEqual([]);
        expect(statSync(join(store.physical(input), 'file'))).toMatchObject({
          mode: before.mode,
          mtimeMs: before.mtimeMs,
        });
      });

      it('cannot change what another build sees', async () => {
        const lines = await printed(
          `for f in / /etc /etc/passwd /dev /nix /usr /proc/sys/kernel/hostname; do
             { chmod 777 $f || touch $f/x || { echo x > $f; }; } 2>/dev/null && echo $f
           done; :`,
        );
        expect(lines).toEqual([]);
      });
    });

    describe.skipIf(!filtered)(
      `that makes forbidden calls${filtered ? '' : ' (no filter of system calls here)'}`,
      () => {
        it('makes no file that would run with other rights, by chmod or install; other modes are as they were', async () => {
          const lines = await printed(
            `: > f; mkdir d
             chmod u+s f 2>/dev/null || echo setuid; chmod g+s d 2>/dev/null || echo setgid
             install -m 4755 f g 2>/dev/null || echo install; ls -l g | cut -c4
             chmod 1755 d && chmod 555 f && install -m 755 f h && cp -p h i && cp -a /usr/bin/env env && ls -l i | cut -c1-10
             tar cf t.tar d f i && mkdir x && tar xpf t.tar -C x && ls -ld x/d | cut -c1-10`,
          );
          expect(lines).toEqual(['setuid', 'setgid', 'install', '-', '-rwxr-xr-x', 'drwxr-xr-t']);
        });

        it.skipIf(!has('perl'))(
          `gets an error from each call that it makes itself${has('perl') ? '' : ' (no perl)'}`,
          async () => {
            const calls = [
              // open, creat, chmod, mknod, fchmodat2: EPERM
              ...[
                '2, $f, 0101, 04755',
                '85, $f, 02755',
                '90, $f, 04755',
                '133, $f, 0104755, 0',
                '452, -100, $f, 04755, 0',
              ],
              // keyctl, add_key, TIOCSTI, that with an upper half: EPERM
              ...['250, 0, -3, 0', '248, 0, 0, 0', '16, 0, 0x5412', '16, 0, 0x700005412'],
              // setxattr, getxattr: ENOTSUP
              ...['188, $f, "user.x", "y", 1, 0', '191, $f, "user.x", 0, 0'],
              // io_uring_setup, openat2, chmod of x32: ENOSYS
              ...['425, 1, 0', '437, -100, 0', '0x4000005a, $f, 04755'],
            ];
            const asked = calls.map((call) => `[${call}]`).join(', ');
            const script = `for (${asked}) { my $n = shift @$_; print "", (syscall($n, @$_) == -1 ? $!+0 : "done"), "\\n" }`;
            const lines = await printed(`: > f; exec perl -e '$f = "f"; ${script}'`);
            expect(lines).toEqual([...Array(9).fill('1'), '95', '95', '38', '38', '38']);
          },
        );
      },
    );

    describe('that fails', () => {
      it('leaves its build folder where one wants to keep it, with its environment', async () => {
        const kept = join(temporaryFolder(), 'failed');
        const keeper = localEngine({ store: folderStore(root), sandbox, reporter: silent, keepFailed: kept });
        const secret = join(temporaryFolder(), 'file');
        writeFileSync(secret, 'as it was');
        const script = `echo half > half; ln -s ${secret} env-vars; chmod 0 /build; exit 3`;
        for (const number of [0, 1]) {
          const error = await errorOf(
            keeper.build(buildRequest(script, [], { env: { SAYS: "it's $HOME\n" } })),
          );
          const folder = join(kept, `test-${number}`);
          expect(error).toMatchObject({ code: 'FLK_BUILD_FAILED', facts: { kept: folder } });
          expect(readFileSync(join(folder, 'half'), 'utf8')).toBe('half\n');
          expect(lstatSync(join(folder, 'env-vars')).isFile()).toBe(true);
          const sourced = spawnSync('sh', ['-c', '. ./env-vars; printf %s "$SAYS$NIX_BUILD_TOP"'], {
            cwd: folder,
          });
          expect(sourced.stdout.toString()).toBe("it's $HOME\n/build");
        }
        expect(readFileSync(secret, 'utf8')).toBe('as it was');
        await (await keeper.build(buildRequest(': > $out', []))).dispose();
        await keeper.close();
        expect(readdirSync(kept)).toEqual(['test-0', 'test-1']);
        expect(existsSync(join(root, 'stage')) && readdirSync(join(root, 'stage'))).toEqual([]);
      });
    });
  });
}
