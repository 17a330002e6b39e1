/** Programs that need /nix/store, started on a machine that may have none. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  enterCommand,
  enterStore,
  isAtHome,
  launcherScript,
  needsStore,
  onDisk,
} from '../../../src/build/enter.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

const canMount = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true']).status === 0;

let store: Store;
beforeEach(async () => {
  store = await openStore(join(temporaryFolder(), 'a store'));
  return () => store.close();
});

/** A package with bin/program that refers to another path of the store. */
async function program(script: string): Promise<{ path: StorePath; data: StorePath }> {
  const { path: data } = await store.addTree('data', treeFrom(file('found in the store\n')));
  const { path } = await store.addTree(
    'package',
    treeFrom(directory({ bin: directory({ program: file(`#!/bin/sh\ndata=${data}\n${script}\n`, true) }) })),
    { references: [data] },
  );
  return { path, data };
}

function finished(
  child: ChildProcess,
): Promise<{ status: number | null; signal: string | null; stdout: string }> {
  let stdout = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    stdout += chunk;
  });
  return new Promise((resolve) => child.on('close', (status, signal) => resolve({ status, signal, stdout })));
}

describe('a program that refers to nothing', () => {
  it('is started where it lies', async () => {
    const { path } = await store.addTree(
      'plain',
      treeFrom(directory({ bin: directory({ plain: file('#!/bin/sh\necho "$@"\n', true) }) })),
    );
    expect(await needsStore(store, path)).toBe(false);
    const { command, args } = await enterCommand(store, `${path}/bin/plain`, ['a b', 'c'], '/');
    expect(command).toBe(join(store.physical(path), 'bin/plain'));
    expect(spawnSync(command, args, { encoding: 'utf8' }).stdout).toBe('a b c\n');
  });

  it('must be in the store', async () => {
    const error = await errorOf(enterCommand(store, '/bin/sh', [], '/'));
    expect(error.code).toBe('FLK_STORE_PATH_INVALID');
  });
});

describe.skipIf(!canMount)(
  `a program that refers to /nix/store${canMount ? '' : ' (no namespaces on this machine)'}`,
  () => {
    it('finds it there also where the store cannot be written', async () => {
      const { path } = await program('cat "$data"');
      const shut = await openStore(store.root, { readOnly: true });
      try {
        const before = readdirSync(join(store.root, 'nix/var/flk'), { recursive: true }).length;
        const { command, args } = await enterCommand(shut, `${path}/bin/program`, [], '/');
        expect(spawnSync(command, args, { encoding: 'utf8' }).stdout).toBe('found in the store\n');
        expect(readdirSync(join(store.root, 'nix/var/flk'), { recursive: true })).toHaveLength(before);
      } finally {
        shut.close();
      }
    });

    it('finds it there, and this machine as it is', async () => {
      const { path } = await program(
        'cat $data; ls -d /nix/*; id -u; id -g; pwd; echo "$A|$PWD|$OLDPWD|$flk_root|$#|$2"; cat; ls -A /; exit 7',
      );
      expect(await needsStore(store, path)).toBe(true);
      const cwd = temporaryFolder();
      const { command, args } = await enterCommand(store, `${path}/bin/program`, ['x', '$y z'], cwd);
      const result = spawnSync(command, args, {
        cwd,
        input: 'from stdin\n',
        encoding: 'utf8',
        env: { PATH: process.env.PATH, A: 'one\ntwo', PWD: cwd, OLDPWD: '/old' },
      });
      expect(result.stderr).toBe('');
      expect(result.stdout.split('\n')).toEqual([
        'found in the store',
        '/nix/store',
        String(process.getuid?.()),
        String(process.getgid?.()),
        cwd,
        'one',
        `two|${cwd}|/old||2|$y z`,
        'from stdin',
        ...[...new Set([...readdirSync('/'), 'nix'])].sort(),
        '',
      ]);
      expect(result.status).toBe(7);
    });

    it('leaves this machine without a /nix that it did not have', async () => {
      const before = existsSync('/nix');
      const { path } = await program('echo > /nix/store/x');
      const { command, args } = await enterCommand(store, `${path}/bin/program`, [], '/');
      expect(spawnSync(command, args).status).not.toBe(0);
      expect(existsSync('/nix')).toBe(before);
      expect(readdirSync(join(store.root, 'nix/store'))).not.toContain('x');
    });

    it('is the process that was started: signals reach it, its end is told', async () => {
      const { path } = await program(
        "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
      );
      const { command, args } = await enterCommand(store, `${path}/bin/program`, [], '/');
      const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
      child.stdout.once('data', () => child.kill('SIGTERM'));
      expect(await finished(child)).toEqual({ status: 3, signal: null, stdout: 'ready\ncaught\n' });
      const { path: killed } = await program('kill -KILL $$');
      const again = await enterCommand(store, `${killed}/bin/program`, [], '/');
      expect(await finished(spawn(again.command, again.args))).toMatchObject({ signal: 'SIGKILL' });
    });

    it('shares its view with others, also at once', async () => {
      const { path } = await program('cat $data');
      const commands = await Promise.all(
        Array.from({ length: 5 }, () => enterCommand(store, `${path}/bin/program`, [], '/')),
      );
      const results = await Promise.all(commands.map(({ command, args }) => finished(spawn(command, args))));
      expect(results.map(({ stdout }) => stdout)).toEqual(Array(5).fill('found in the store\n'));
      expect(readdirSync(join(store.root, 'nix/var/flk/views'))).toHaveLength(1);
      expect(readdirSync(join(store.root, 'nix/var/flk/stage'))).toEqual([]);
    });

    it('runs in a folder whose name needs care', async () => {
      const { path } = await program('pwd; cat $data');
      const cwd = join(temporaryFolder(), 'a \'b" $c\\d');
      mkdirSync(cwd);
      const { command, args } = await enterCommand(store, `${path}/bin/program`, [], cwd);
      expect(spawnSync(command, args, { cwd, encoding: 'utf8' }).stdout).toBe(`${cwd}\nfound in the store\n`);
    });

    it('starts any other command, which finds programs of the store on its PATH', async () => {
      const { path } = await program('echo "$1"; cat $data');
      const script = 'program "a  b"; command -v program';
      const { command, args } = await enterStore(store, ['sh', '-c', script], '/');
      const env = { PATH: `${path}/bin:${process.env.PATH}` };
      const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', env });
      expect(stdout, stderr).toBe(`a  b\nfound in the store\n${path}/bin/program\n`);
    });

    it('writes launchers that work wherever they are started, without flk', async () => {
      const { path } = await program('pwd; echo "$#|$1|$2"; cat $data');
      const cwd = join(temporaryFolder(), `a 'b" $c\\d`);
      mkdirSync(cwd);
      const launcher = join(cwd, 'launcher');
      writeFileSync(launcher, await launcherScript(store, `${path}/bin/program`), { mode: 0o755 });
      const { stdout, stderr } = spawnSync(launcher, ['$x y', ''], { cwd, encoding: 'utf8' });
      expect(stdout, stderr).toBe(`${cwd}\n2|$x y|\nfound in the store\n`);
      expect(readdirSync(cwd)).toEqual(['launcher']);
    });

    it('sees in the view that the store is at its place', async () => {
      expect(await isAtHome(store)).toBe(false);
      const { command, args } = await enterStore(store, ['stat', '-c', '%d %i', '/nix/store'], '/');
      const there = spawnSync(command, args, { encoding: 'utf8' }).stdout;
      const here = spawnSync('stat', ['-c', '%d %i', onDisk(store, '/nix/store/x').slice(0, -2)], {
        encoding: 'utf8',
      });
      expect(there).toBe(here.stdout);
      expect(there).toMatch(/^\d+ \d+\n$/);
    });
  },
);
