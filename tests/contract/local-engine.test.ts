/** What the local engine promises beyond every engine, over each sandbox of this machine: the view, and what a hostile builder cannot do. */
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { FlkError } from '../../src/base/errors.ts';
import { type Event, silent } from '../../src/base/events.ts';
import type { Engine } from '../../src/build/engines/engine.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import {
  buildRequest,
  type Changes,
  canNamespace,
  longSleep,
  running,
  sandboxVariants,
  storePath,
} from '../support/builds.ts';
import { bundleChild } from '../support/child.ts';
import { errorOf } from '../support/errors.ts';
import { folderStore } from '../support/folder-store.ts';
import { temporaryFolder } from '../support/temp.ts';

const path = storePath;
const out = path('out');

interface Built {
  readonly lines: string[];
  readonly outputs: ReadonlyMap<string, string>;
  dispose(): Promise<void>;
}

for (const { sandbox, usable } of sandboxVariants) {
  describe.skipIf(!usable)(`engine with ${sandbox}${usable ? '' : ' (not usable on this machine)'}`, () => {
    let root: string;
    let engine: Engine;

    beforeAll(() => {
      // A space, which must survive mount tables.
      root = join(temporaryFolder(), 'a store');
      mkdirSync(root);
      engine = localEngine({ store: folderStore(root), sandbox, reporter: silent });
    });

    async function build(script: string, changes: Changes = {}): Promise<Built> {
      const lines: string[] = [];
      const built = await engine.build(buildRequest(script, lines, changes));
      return { lines, outputs: built.outputs, dispose: () => built.dispose() };
    }

    async function printed(script: string, changes: Changes = {}): Promise<string[]> {
      const built = await build(script, changes);
      await built.dispose();
      return built.lines;
    }

    async function failure(script: string, changes: Changes = {}): Promise<FlkError> {
      const lines: string[] = [];
      try {
        await (await engine.build(buildRequest(script, lines, changes))).dispose();
      } catch (error) {
        if (error instanceof FlkError) return error;
        throw error;
      } finally {
        // Nothing of a failed build stays.
        await engine.close();
        expect(readdirSync(join(root, 'stage'))).toEqual([]);
      }
      throw new Error(`the build succeeded: ${lines.join('\n')}`);
    }

    describe('what a build sees', () => {
      it('has the sandbox’s entries at / and the host toolchain’s', async () => {
        const lines = await printed('ls -A /');
        const host = readdirSync('/').filter((name) => /^(bin|sbin|usr|lib[0-9a-z]*)$/.test(name));
        expect(lines).toEqual(
          [...new Set([...host, 'bin', 'build', 'dev', 'etc', 'nix', 'proc', 'tmp'])].sort(),
        );
      });

      it('has a small /dev that works and cannot be added to', async () => {
        expect(
          await printed('ls -A /dev; echo x > /dev/null; head -c 3 /dev/zero | wc -c; : > /dev/shm/x'),
        ).toEqual([
          ...['core', 'fd', 'full', 'null', 'ptmx', 'pts', 'random', 'shm', 'stderr', 'stdin', 'stdout'],
          ...['tty', 'urandom', 'zero', '3'],
        ]);
        await failure(': > /dev/x');
      });

      it('has an /etc without the host’s secrets', async () => {
        const lines = await printed('cat /etc/hosts; ls /etc/ssl/private 2>/dev/null; ls /etc');
        expect(lines.slice(0, 2)).toEqual(['127.0.0.1 localhost', '::1 localhost']);
        for (const name of lines.slice(2))
          expect([
            'alternatives',
            'group',
            'hosts',
            'ld.so.cache',
            'ld.so.conf',
            'ld.so.conf.d',
            'passwd',
            'ssl',
          ]).toContain(name);
      });

      it('runs as a fixed user of a fixed host, without any privilege', async () => {
        const lines = await printed(
          'id -un; id -u; id -g; uname -n; umask; pwd; grep -E "^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)" /proc/self/status',
        );
        expect(lines).toEqual([
          ...['nixbld', '1000', '100', 'localhost', '0022', '/build'],
          ...['CapInh:\t0000000000000000', 'CapPrm:\t0000000000000000', 'CapEff:\t0000000000000000'],
          ...['CapAmb:\t0000000000000000', 'NoNewPrivs:\t1'],
        ]);
      });

      it('differs, where only compared, in what is not promised and in nothing else', async () => {
        const script = [
          'id -un; id -u; uname -n; nproc; : > b; : > a',
          'echo "$(ls -U | xargs) $(df --output=fstype . | tail -1)"',
          'umask; pwd; ls / | xargs; env | grep -v CORES | sort; echo ok > $out',
        ].join('\n');
        const usual = await printed(script);
        const odd = await printed(script, { variation: 1 });
        const even = await printed(script, { variation: 2 });
        const [own, second] = [odd, even].map((lines) => lines.slice(0, 3));
        expect(own).toEqual(['rebuilder1', '2001', 'rebuild-1']);
        expect(second).toEqual(['rebuilder2', '2002', 'rebuild-2']);
        // One processor, and a working folder in memory.
        expect([odd[3], odd[4]]).toEqual(['1', expect.stringContaining('tmpfs')]);
        expect(even.slice(3)).toEqual(usual.slice(3));
        expect(odd.slice(5)).toEqual(usual.slice(5));
      });

      it('has the derivation’s environment and what Nix sets, nothing of flk’s', async () => {
        process.env.FLK_TEST_SECRET = 'leaked';
        const lines = await printed('', {
          builder: '/usr/bin/env',
          args: [],
          env: { A: 'one two\n$three', HOME: '/own', TMPDIR: 'overridden' },
        });
        delete process.env.FLK_TEST_SECRET;
        expect(lines.sort()).toEqual(
          [
            ...[
              '$three',
              'A=one two',
              'HOME=/own',
              'NIX_BUILD_CORES=2',
              'NIX_BUILD_TOP=/build',
              'NIX_LOG_FD=2',
            ],
            ...[
              'NIX_STORE=/nix/store',
              'PATH=/usr/sbin:/usr/bin:/sbin:/bin',
              'PWD=/build',
              'TEMP=/build',
              'TEMPDIR=/build',
            ],
            ...['TERM=xterm-256color', 'TMP=/build', 'TMPDIR=/build', `out=${out}`],
          ].sort(),
        );
      });

      it('has no descriptors but the three, and an empty stdin', async () => {
        const lines = await printed(
          'cat; for fd in /proc/self/fd/*; do echo "$(readlink $fd)"; done | sort -u',
        );
        // The pipe of the log, and of the command substitution.
        expect(lines.filter((line) => !line.startsWith('pipe:') && !/\/output-\d+$/.test(line))).toEqual([
          '',
          '/dev/null',
        ]);
        expect(await printed('echo out > /dev/stdout; echo err > /dev/stderr')).toEqual(['out', 'err']);
      });

      it('sees its closure, read-only, and no other store path', async () => {
        const store = folderStore(root);
        for (const name of ['seen', 'unseen']) {
          mkdirSync(store.physical(path(name, 'b')), { recursive: true });
          writeFileSync(join(store.physical(path(name, 'b')), 'file'), name);
        }
        writeFileSync(store.physical(path('text', 'c')), 'text');
        const lines = await printed(
          `ls /nix/store; cat ${path('seen', 'b')}/file ${path('text', 'c')}; echo
           { echo x > ${path('seen', 'b')}/file; } 2>/dev/null || echo read-only
           { echo x > ${path('text', 'c')}; } 2>/dev/null || echo read-only
           rm -rf ${path('seen', 'b')} 2>/dev/null || echo kept`,
          { closure: [path('seen', 'b'), path('text', 'c')] },
        );
        expect(lines).toEqual([
          `${'b'.repeat(32)}-seen`,
          `${'c'.repeat(32)}-text`,
          ...['seentext', 'read-only', 'read-only', 'kept'],
        ]);
        expect(readFileSync(join(store.physical(path('seen', 'b')), 'file'), 'utf8')).toBe('seen');
      });

      it('sees of a pinned toolchain its top entries, and no file of the host', async () => {
        const store = folderStore(root);
        const toolchain = path('toolchain', 'f');
        const top = store.physical(toolchain);
        mkdirSync(join(top, 'etc'), { recursive: true });
        mkdirSync(join(top, 'tmp'));
        writeFileSync(join(top, 'etc/own'), 'toolchain');
        writeFileSync(join(top, 'etc/passwd'), 'not this one');
        writeFileSync(join(top, 'tmp/not-seen'), '');
        // The host's shell with its libraries, as a toolchain of its own.
        const libraries = spawnSync('ldd', ['/bin/ls'], { encoding: 'utf8' }).stdout.matchAll(
          /(\/\S+) \(0x/g,
        );
        for (const file of ['/bin/sh', '/bin/ls', '/bin/cat', ...[...libraries].map(([, file]) => file!)]) {
          mkdirSync(join(top, file, '..'), { recursive: true });
          spawnSync('cp', ['-L', file, join(top, file)]);
        }
        const lines = await printed('ls /; cat /etc/own; echo; ls /etc /tmp; cat /usr/bin/env', {
          toolchain: { kind: 'path', path: toolchain },
          closure: [toolchain],
        }).catch((error: FlkError) => error.facts.status);
        expect(lines).toBe('exit status 1');
        const seen = await printed('ls /; cat /etc/own; echo; ls /etc; ls /tmp', {
          toolchain: { kind: 'path', path: toolchain },
        });
        expect(seen).toEqual([
          ...[...new Set([...readdirSync(top), 'build', 'dev', 'nix', 'proc'])].sort(),
          ...['toolchain', 'group', 'hosts', 'own', 'passwd'],
        ]);
      });
    });

    describe('outputs', () => {
      it('come as file, folder, symlink, or not at all', async () => {
        const built = await build(
          `echo hi > $out; mkdir ${path('out-dev')}; ln -s gone ${path('out-link')}`,
          {
            outputs: ['out', 'dev', 'link', 'missing'],
          },
        );
        expect(readFileSync(built.outputs.get('out')!, 'utf8')).toBe('hi\n');
        expect(lstatSync(built.outputs.get('dev')!).isDirectory()).toBe(true);
        expect(lstatSync(built.outputs.get('link')!).isSymbolicLink()).toBe(true);
        expect(built.outputs.has('missing')).toBe(false);
        await built.dispose();
        await engine.close();
        expect(readdirSync(join(root, 'stage'))).toEqual([]);
      });

      it('are found in a store folder that the builder has shut', async () => {
        const built = await build('echo hi > $out; chmod 0 /nix/store /build /tmp');
        expect(built.outputs.has('out')).toBe(true);
        await built.dispose();
      });
    });

    describe('a builder that misbehaves', () => {
      it('fails: its status is told, its lines come in order from both streams', async () => {
        const lines: string[] = [];
        const error = await errorOf(
          engine.build(
            buildRequest('echo a; echo b >&2; echo c; printf "%s" 1%; printf "\\r2%%\\r\\n"; exit 7', lines),
          ),
        );
        expect(error).toMatchObject({ code: 'FLK_BUILD_FAILED', facts: { status: 'exit status 7' } });
        expect(lines).toEqual(['a', 'b', 'c', '2%']);
      });

      it('is killed by a signal', async () => {
        expect(await failure('sh -c "kill -SEGV \\$\\$"; exit $?')).toMatchObject({
          code: 'FLK_BUILD_FAILED',
        });
      });

      it('does not exist', async () => {
        expect(await failure('', { builder: '/no/such/builder' })).toMatchObject({
          code: 'FLK_BUILD_FAILED',
        });
        expect(await failure('', { builder: 'sh' })).toMatchObject({ code: 'FLK_DERIVATION_INVALID' });
      });

      it('gets more environment than the kernel hands over', async () => {
        expect(await failure('echo > $out', { env: { LONG: 'x'.repeat(200_000) } })).toMatchObject({
          code: 'FLK_BUILD_FAILED',
          message: expect.stringContaining('could not be started'),
        });
      });

      it('hangs: time and silence are limited', async () => {
        expect(
          await failure('while :; do echo x; sleep 0.1; done', { limits: { timeout: 1 } }),
        ).toMatchObject({
          code: 'FLK_BUILD_TIMEOUT',
          facts: { limit: 'timeout 1 s' },
        });
        const word = longSleep();
        expect(await failure(`sleep ${word}`, { limits: { maxSilent: 1 } })).toMatchObject({
          code: 'FLK_BUILD_TIMEOUT',
          facts: { limit: 'maxSilent 1 s' },
        });
        await expect.poll(() => running(word)).toEqual([]);
      });

      it('is interrupted with all that it started', async () => {
        const abort = new AbortController();
        const word = longSleep();
        const error = await failure(`setsid sleep ${word} & sleep ${word} & echo started; wait`, {
          signal: abort.signal,
          log: () => abort.abort(),
        });
        expect(error.code).toBe('FLK_INTERRUPTED');
        // The kernel ends a process namespace a moment after its first process.
        await expect.poll(() => running(word)).toEqual([]);
      });

      it('is interrupted at any moment', async () => {
        const word = longSleep();
        for (const delay of [0, 1, 3, 10, 20, 30, 50, 80]) {
          await engine.close();
          const abort = new AbortController();
          setTimeout(() => abort.abort(), delay);
          const error = await failure(`sleep ${word}`, { signal: abort.signal });
          expect(error.code).toBe('FLK_INTERRUPTED');
        }
        await expect.poll(() => running(word)).toEqual([]);
      });

      it('forks away: what it leaves behind dies with it', async () => {
        const word = longSleep();
        await printed(`setsid sleep ${word} > /dev/null 2>&1 < /dev/null & echo > $out`);
        expect(running(word)).toEqual([]);
      });

      it('writes elsewhere: refused, or gone', async () => {
        const lines = await printed(
          'for f in /x /etc/x /usr/x /bin/x /usr/bin/env /proc/x /dev/x /nix/x /etc/passwd; do { printf "" >> $f; } 2>/dev/null && echo $f; done; echo x > /tmp/flk-escaped; echo x > /nix/store/stray; :',
        );
        expect(lines).toEqual([]);
        expect(existsSync('/tmp/flk-escaped')).toBe(false);
        expect(existsSync(join(root, 'nix/store/stray'))).toBe(false);
      });

      it('writes to the kernel’s files, mounts, makes devices or namespaces, changes its user: refused', async () => {
        const lines = await printed(
          // Opened, not written: a test that fails must not change this machine.
          `for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger; do
             { printf "" >> $f; } 2>/dev/null && echo $f
           done
           mount -t tmpfs none /tmp 2>/dev/null && echo mount
           mount -o remount,rw / 2>/dev/null && echo remount
           umount /etc/ssl/private 2>/dev/null && echo umount
           mknod /tmp/null c 1 3 2>/dev/null && echo mknod
           unshare --user true 2>/dev/null && echo userns
           unshare --mount true 2>/dev/null && echo mountns
           chroot / /bin/true 2>/dev/null && echo chroot
           setpriv --reuid 0 true 2>/dev/null && echo setuid
           kill -9 0x1 2>/dev/null && echo kill
           :`,
        );
        expect(lines).toEqual([]);
      });

      it('reads the host’s files: there are none', async () => {
        const secret = temporaryFolder();
        writeFileSync(join(secret, 'secret'), 'secret');
        const lines = await printed(
          `for f in /root /home /var /run /sys /boot /srv /mnt /opt '${secret}' /proc/1/root/home /proc/1/root/var; do [ -e "$f" ] && echo "$f"; done; ls /tmp; grep -c '${root}' /proc/self/environ; :`,
        );
        expect(lines).toEqual(['0']);
      });

      it('sees no process but its own, and cannot reach its parent', async () => {
        const lines = await printed(
          'echo $$; ls /proc | grep -c "^[0-9]"; kill -9 $PPID 2>/dev/null; echo alive',
        );
        expect(lines[0]).toBe('1');
        expect(Number(lines[1])).toBeLessThan(5);
        expect(lines[2]).toBe('alive');
      });

      it('tries the network: no server of the host can be reached', async () => {
        const server = createServer((socket) => socket.end('reached')).listen(0, '127.0.0.1');
        await new Promise((resolve) => server.once('listening', resolve));
        const { port } = server.address() as { port: number };
        try {
          const lines = await printed(
            `tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /proc/net/route | tail -n +2
             bash -c 'exec 3<>/dev/tcp/127.0.0.1/${port} && cat <&3' 2>/dev/null && echo reached
             getent hosts example.org > /dev/null 2>&1 && echo resolved
             :`,
          );
          expect(
            lines.filter(
              (line) => !/^(lo|sit0|tunl0|ip6tnl0|gre0|gretap0|erspan0|ip_vti0|ip6_vti0|ip6gre0)$/.test(line),
            ),
          ).toEqual([]);
        } finally {
          server.close();
        }
      });

      it('can talk to itself over loopback', async () => {
        expect(
          await printed('cat /proc/net/fib_trie 2>/dev/null | grep -c 127.0.0.1 | sed "s/[1-9].*/up/"'),
        ).toEqual(['up']);
      });

      it('prints without end', async () => {
        expect(await failure('yes', { limits: { maxLogBytes: 100_000 } })).toMatchObject({
          code: 'FLK_BUILD_OUTPUT_LIMIT',
        });
      });

      it('prints one line without end: it is cut', async () => {
        const lines = await printed('head -c 100000 /dev/zero | tr "\\0" x');
        expect(lines.join('')).toHaveLength(100_000);
        expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(16 * 1024);
      });

      it('writes a file without end', async () => {
        expect(
          await failure('head -c 3000000 /dev/zero > $out', { limits: { maxOutputBytes: 1_000_000 } }),
        ).toMatchObject({
          code: 'FLK_BUILD_OUTPUT_LIMIT',
        });
      });

      it('leaves folders that cannot be listed, or are too deep to name', async () => {
        await printed('mkdir -p /build/a/b; chmod 0 /build/a');
        await printed(`perl -e 'for (1..300) { mkdir "a" x 20; chdir "a" x 20 }'; :`);
        await engine.close();
        expect(readdirSync(join(root, 'stage'))).toEqual([]);
      });

      it('names environment variables to change the host’s own programs: they do not read its files', async () => {
        const lines = await printed('echo "$LD_PRELOAD"', {
          env: {
            LD_PRELOAD: '/nix/store/evil.so',
            LD_LIBRARY_PATH: '/build',
            BASH_ENV: '/build/x',
            ENV: '/build/x',
          },
        });
        expect(lines.at(-1)).toBe('/nix/store/evil.so');
      });
    });

    it('inherits nothing from flk, and dies with it, however flk ends', async () => {
      const word = longSleep();
      const program = await bundleChild(`
        import { localEngine } from './src/build/engines/local.ts';
        import { folderStore } from './tests/support/folder-store.ts';
        const env = new Map([['PATH', '/usr/bin:/bin']]);
        const derivation = { outputs: new Map(), inputDrvs: new Map(), inputSrcs: [], system: '', env,
          builder: '/bin/sh', args: ['-c', 'sleep ${word} & setsid sleep ${word} & umask; readlink /proc/self/fd/40; wait'] };
        const engine = localEngine({ store: folderStore(process.argv[2]), sandbox: process.argv[3], reporter: { emit() {} } });
        await engine.build({ drvPath: '/nix/store/x.drv', derivation, closure: [], toolchain: { kind: 'host' }, cores: 1,
          log: (line) => console.log(line), limits: { maxOutputBytes: 1e6, maxLogBytes: 1e6 } });`);
      const other = temporaryFolder();
      const folder = openSync('/', 'r');
      const flk = spawn(
        'sh',
        ['-c', 'umask 077; exec "$@"', 'sh', process.execPath, program, other, sandbox],
        {
          // A number so high that Node does not think of it: it closes only the lowest.
          stdio: ['ignore', 'pipe', 'inherit', ...Array<'ignore'>(37).fill('ignore'), folder],
        },
      );
      closeSync(folder);
      let told = '';
      flk.stdout!.on('data', (chunk: Buffer) => {
        told += chunk;
      });
      try {
        await expect.poll(() => told).toBe('0022\n/dev/null\n');
        await expect.poll(() => running(word)).toHaveLength(2);
      } finally {
        flk.kill('SIGKILL');
      }
      await expect.poll(() => running(word)).toEqual([]);
    });

    it('is not there: a name no variable can have', async () => {
      expect(await failure('', { env: { 'A=B': 'x' } })).toMatchObject({ code: 'FLK_DERIVATION_INVALID' });
    });

    it('runs many builds at once', async () => {
      const all = await Promise.all(
        Array.from({ length: 6 }, (_, i) => printed(`echo ${i}; echo ${i} > $out; cat $out`)),
      );
      expect(all).toEqual(Array.from({ length: 6 }, (_, i) => [String(i), String(i)]));
    });
  });
}

describe.skipIf(!canNamespace)(
  `engine without a sandbox${canNamespace ? '' : ' (no namespaces on this machine)'}`,
  () => {
    it('builds on the host, with /nix/store as it must be, and says so once', async () => {
      const root = temporaryFolder();
      const events: Event[] = [];
      const store = folderStore(root);
      const engine = localEngine({
        store,
        sandbox: 'none',
        reporter: { emit: (event) => events.push(event) },
      });
      writeFileSync(store.physical(path('text', 'c')), 'from the store');
      const server = createServer((socket) => socket.end('reached\n')).listen(0, '127.0.0.1');
      await new Promise((resolve) => server.once('listening', resolve));
      const { port } = server.address() as { port: number };
      try {
        for (const round of [1, 2]) {
          const lines: string[] = [];
          const script = `ls /nix/store; cat ${path('text', 'c')}; echo
          { echo x > ${path('text', 'c')}; } 2>/dev/null || echo read-only
          [ "$PWD" = "$TMPDIR" ] && [ "$PWD" = "$(pwd)" ] && ls -A; id -u; cat '${join(root, 'nix/store')}'/c*; echo
          bash -c 'exec 3<>/dev/tcp/127.0.0.1/${port} && cat <&3'
          echo ${round} > $out; env | grep -c FLK_TEST_SECRET`;
          process.env.FLK_TEST_SECRET = 'leaked';
          const built = await engine.build(
            buildRequest(`${script}; :`, lines, { closure: [path('text', 'c')] }),
          );
          delete process.env.FLK_TEST_SECRET;
          expect(lines).toEqual([
            `${'c'.repeat(32)}-text`,
            ...['from the store', 'read-only', String(process.getuid?.()), 'from the store', 'reached', '0'],
          ]);
          expect(readFileSync(built.outputs.get('out')!, 'utf8')).toBe(`${round}\n`);
          await built.dispose();
        }
      } finally {
        server.close();
      }
      expect(events).toEqual([{ kind: 'notice', notice: { type: 'no-sandbox', reason: '--no-sandbox' } }]);
      await engine.close();
      expect(readdirSync(join(root, 'stage'))).toEqual([]);
    });

    it('does not wait for what has left the builder’s group', async () => {
      const engine = localEngine({
        store: folderStore(temporaryFolder()),
        sandbox: 'none',
        reporter: silent,
      });
      const lines: string[] = [];
      const [stays, leaves] = [longSleep(), longSleep()];
      const built = await engine.build(
        buildRequest(`sleep ${stays} & setsid sleep ${leaves} & echo > $out; echo done`, lines),
      );
      await built.dispose();
      expect(lines).toEqual(['done']);
      await expect.poll(() => running(stays)).toEqual([]);
      for (const pid of running(leaves)) process.kill(Number(pid), 'SIGKILL');
    });

    it('refuses a pinned toolchain, which only a sandbox can put at /', async () => {
      const engine = localEngine({
        store: folderStore(temporaryFolder()),
        sandbox: 'none',
        reporter: silent,
      });
      const toolchain = { kind: 'path' as const, path: path('toolchain', 'f') };
      await expect(engine.build(buildRequest('', [], { toolchain }))).rejects.toMatchObject({
        code: 'FLK_SANDBOX_UNAVAILABLE',
      });
    });
  },
);
