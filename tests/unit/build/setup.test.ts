import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { latestSetup, setupRunner } from '../../../src/build/setup.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { temporaryFolder } from '../../support/temp.ts';

describe('the phases runners', () => {
  test('never change: a change is a new one', () => {
    // nix hash path src/build/setup/1.sh; nix-store --add-fixed --recursive sha256 setup-1.sh
    expect(setupRunner(1).path).toBe('/nix/store/az3hz0zknlrjrb03am92w7n4c3ba68g7-setup-1.sh');
    expect(latestSetup).toBe(1);
  });

  test('are the files that their hashes promise', async () => {
    for (let version = 1; version <= latestSetup; version++) {
      const { tree, narHash } = setupRunner(version);
      expect((await hashTree(tree)).narHash).toBe(narHash);
    }
  });

  test('an unknown one is an error', () => {
    expect(() => setupRunner(99)).toThrow(FlkError);
  });
});

const runner = fileURLToPath(new URL('../../../src/build/setup/1.sh', import.meta.url));

const works = (command: readonly string[]): boolean =>
  spawnSync(command[0]!, [...command.slice(1), '-c', ':']).status === 0;
const shells: [string, string[]][] = [
  ['sh', ['sh']],
  ['dash', ['dash']],
  ['bash', ['bash', '--posix']],
  ['busybox', ['busybox', 'sh']],
];

interface Result {
  readonly status: number | null;
  readonly output: string;
  /** What `env` printed where the builder ran it. */
  readonly env: Readonly<Record<string, string>>;
  readonly top: string;
  readonly out: string;
}

for (const [name, shell] of shells) {
  const there = works(shell);
  describe.skipIf(!there)(`setup/1.sh in ${name}${there ? '' : ' (skipped: not installed)'}`, () => {
    const root = temporaryFolder();

    function build(
      attributes: Readonly<Record<string, string>>,
      engine: Readonly<Record<string, string>> = {},
    ): Result {
      const top = mkdtempSync(join(root, 'top-'));
      const out = mkdtempSync(join(root, 'out-'));
      const program = execFileSync('sh', ['-c', `command -v ${shell[0]}`], { encoding: 'utf8' }).trim();
      const { status, stdout, stderr } = spawnSync(program, [...shell.slice(1), runner], {
        cwd: top,
        env: {
          out,
          NIX_BUILD_TOP: top,
          PATH: '/path-not-set',
          HOME: '/homeless-shelter',
          ...engine,
          ...attributes,
        },
        encoding: 'utf8',
      });
      const env = existsSync(join(out, 'env')) ? readFileSync(join(out, 'env'), 'utf8') : '';
      const pairs = env.split('\n').filter((line) => line.includes('='));
      return {
        status,
        output: stdout + stderr,
        env: Object.fromEntries(
          pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]),
        ),
        top,
        out,
      };
    }

    function folder(files: Readonly<Record<string, string>>): string {
      const made = mkdtempSync(join(root, 'folder-'));
      for (const [path, contents] of Object.entries(files)) {
        mkdirSync(join(made, path, '..'), { recursive: true });
        writeFileSync(join(made, path), contents);
      }
      return made;
    }

    test('makes the environment the same, whatever the engine sets', () => {
      const plain = build({ buildPhase: 'env > $out/env' });
      const noisy = build(
        { buildPhase: 'env > $out/env' },
        {
          TMP: '/x',
          TEMP: '/x',
          TEMPDIR: '/x',
          TMPDIR: '/x',
          TERM: 'xterm',
          NIX_LOG_FD: '2',
          NIX_STORE: '/nix/store',
          CDPATH: '/',
          IFS: 'x',
        },
      );
      const fixed = {
        PATH: '/bin:/usr/bin:/sbin:/usr/sbin',
        TERM: 'dumb',
        TZ: 'UTC',
        LC_ALL: 'C',
        SOURCE_DATE_EPOCH: '315532800',
        NIX_BUILD_CORES: '1',
        NIX_STORE: '/nix/store',
      };
      for (const { env, top, status } of [plain, noisy]) {
        expect(status).toBe(0);
        expect(env).toMatchObject({ ...fixed, NIX_BUILD_TOP: top, TMPDIR: top, HOME: join(top, 'home') });
        for (const absent of [
          'TMP',
          'TEMP',
          'TEMPDIR',
          'NIX_LOG_FD',
          'CPATH',
          'LIBRARY_PATH',
          'LD_RUN_PATH',
          'PKG_CONFIG_PATH',
        ]) {
          expect(env).not.toHaveProperty(absent);
        }
        expect(Object.keys(env).filter((key) => key.startsWith('flk'))).toEqual([]);
      }
      expect(Object.keys(noisy.env).sort()).toEqual(Object.keys(plain.env).sort());
    });

    test('lets the package choose its own zone, locale, date and cores', () => {
      const { env } = build(
        { TZ: 'Asia/Tokyo', LC_ALL: 'C.UTF-8', SOURCE_DATE_EPOCH: '7', buildPhase: 'env > $out/env' },
        { NIX_BUILD_CORES: '3' },
      );
      expect(env).toMatchObject({
        TZ: 'Asia/Tokyo',
        LC_ALL: 'C.UTF-8',
        SOURCE_DATE_EPOCH: '7',
        NIX_BUILD_CORES: '3',
      });
    });

    test('finds what build inputs have, where they have it', () => {
      const one = folder({
        'bin/x': '',
        'include/x.h': '',
        'lib/pkgconfig/x.pc': '',
        'share/aclocal/x.m4': '',
      });
      symlinkSync('lib', join(one, 'lib64'));
      const two = folder({ 'lib64/libx.a': '', 'share/pkgconfig/y.pc': '' });
      const three = folder({ file: '' });
      const { env } = build({
        buildInputs: `${one} ${two} ${three}`,
        LIBRARY_PATH: '/own',
        buildPhase: 'env > $out/env',
      });
      expect(env).toMatchObject({
        PATH: `${one}/bin:/bin:/usr/bin:/sbin:/usr/sbin`,
        CPATH: `${one}/include`,
        LIBRARY_PATH: `/own:${one}/lib:${two}/lib64`,
        LD_RUN_PATH: `${one}/lib:${two}/lib64`,
        PKG_CONFIG_PATH: `${one}/lib/pkgconfig:${two}/share/pkgconfig`,
        CMAKE_PREFIX_PATH: `${one}:${two}:${three}`,
        ACLOCAL_PATH: `${one}/share/aclocal`,
      });
    });

    test('copies a folder writable, with its links, modes and times', () => {
      const src = folder({ 'sub/file': 'x', run: '#!/bin/sh\n', '.hidden': '' });
      symlinkSync('sub/file', join(src, 'link'));
      chmodSync(join(src, 'run'), 0o555);
      chmodSync(join(src, 'sub/file'), 0o444);
      utimesSync(join(src, 'sub/file'), 1, 1);
      chmodSync(join(src, 'sub'), 0o555);
      chmodSync(src, 0o555);
      const { top, status, output } = build({
        src,
        buildPhase: 'echo more >> sub/file; : > sub/new; umask > $out/umask; pwd > $out/pwd; : > $out/made',
        installPhase: 'cp -p run $out/',
      });
      expect(output).toBe('==> unpackPhase\n==> buildPhase\n==> installPhase\n');
      expect(status).toBe(0);
      const source = join(top, 'source');
      expect(readdirSync(source).sort()).toEqual(['.hidden', 'link', 'run', 'sub']);
      expect(readFileSync(join(source, 'link'), 'utf8')).toBe('xmore\n');
      expect(statSync(join(source, 'run')).mode & 0o777).toBe(0o755);
      expect(readFileSync(join(src, 'sub/file'), 'utf8')).toBe('x');
      chmodSync(src, 0o755);
      chmodSync(join(src, 'sub'), 0o755);
    });

    test('keeps all times equal, so that make rebuilds nothing that was shipped', () => {
      const src = folder({ a: '', b: '' });
      utimesSync(join(src, 'a'), 1, 1);
      utimesSync(join(src, 'b'), 1, 1);
      const { top } = build({ src });
      expect([statSync(join(top, 'source/a')).mtimeMs, statSync(join(top, 'source/b')).mtimeMs]).toEqual([
        1000, 1000,
      ]);
    });

    test('copies a single file under its own name', () => {
      const store = folder({
        'abcdfghijklmnpqrsvwxyz0123456789-tool.c': 'int x;',
        'deep/my-font.ttf': 'font',
      });
      const build1 = build(
        { src: `${store}/abcdfghijklmnpqrsvwxyz0123456789-tool.c`, buildPhase: 'cp * $out/' },
        { NIX_STORE: store },
      );
      expect(readdirSync(build1.out)).toEqual(['tool.c']);
      const build2 = build(
        { src: `${store}/deep/my-font.ttf`, buildPhase: 'cp * $out/' },
        { NIX_STORE: store },
      );
      expect(readdirSync(build2.out)).toEqual(['my-font.ttf']);
    });

    test('runs the phases in order, in one shell, and stops at the first failure', () => {
      const ok = build({
        unpackPhase: 'mkdir work; cd work',
        configurePhase: 'flavour=sweet',
        buildPhase: 'echo $flavour > result',
        checkPhase: 'test "$(cat result)" = sweet',
        installPhase: 'cp result $out/',
      });
      expect(ok.output).toBe(
        '==> unpackPhase\n==> configurePhase\n==> buildPhase\n==> checkPhase\n==> installPhase\n',
      );
      expect(readFileSync(join(ok.out, 'result'), 'utf8')).toBe('sweet\n');
      const failed = build({ buildPhase: 'false\necho after', installPhase: ': > $out/made' });
      expect(failed.status).not.toBe(0);
      expect(failed.output).toBe('==> buildPhase\n');
      expect(readdirSync(failed.out)).toEqual([]);
      expect(build({ buildPhase: 'f() { false; echo in; }\nf' }).output).toBe('==> buildPhase\n');
      expect(build({ buildPhase: 'exit 7' }).status).toBe(7);
      expect(build({ buildPhase: 'if (' }).status).not.toBe(0);
    });

    test('globs in phases, not in the paths that it is given', () => {
      const odd = folder({ 'x?y/bin/tool': '', 'xzy/bin/tool': '' });
      const { env, output } = build({
        buildInputs: `${odd}/x?y`,
        buildPhase: 'env > $out/env; : > a1; : > a2; echo a*',
      });
      expect(env.PATH).toBe(`${odd}/x?y/bin:/bin:/usr/bin:/sbin:/usr/sbin`);
      expect(output).toBe('==> buildPhase\na1 a2\n');
    });

    test('says that patches need a program', () => {
      const { status, output } = build(
        { patches: '/nix/store/x.patch', buildInputs: '' },
        { src: folder({}) },
      );
      // Where there is one, it is the patch that is missing.
      expect(status).not.toBe(0);
      expect(output).toMatch(/patches need the program patch|\/nix\/store\/x\.patch/);
    });

    const patch = works(['sh', '-c', 'command -v patch >/dev/null || exit 1; sh']);
    test.skipIf(!patch)(`applies patches${patch ? '' : ' (skipped: no patch)'}`, () => {
      const src = folder({ greeting: 'hello\n' });
      const patches = folder({
        'one.patch': '--- a/greeting\n+++ b/greeting\n@@ -1 +1 @@\n-hello\n+goodbye\n',
      });
      const { out, output, status } = build({
        src,
        patches: `${patches}/one.patch`,
        installPhase: 'cp greeting $out/',
      });
      expect(status).toBe(0);
      expect(output).toContain('==> patch one.patch\n');
      expect(readFileSync(join(out, 'greeting'), 'utf8')).toBe('goodbye\n');
    });
  });
}
