import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import { parseFlakeRef, refToAttributes } from '../../../src/flake/flake-ref.ts';
import { Sources } from '../../../src/sources/source.ts';
import { freePlace } from '../../support/addresses.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { git, gitEnvironment } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

// Its usage, and status 129, where it is installed; 1 and a complaint where it is not.
const noDaemon = spawnSync('git', ['daemon', '--no-such-option']).status !== 129;
const reason = noDaemon ? ' (skipped: this git has no daemon)' : '';

const answers = (host: string, port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection(port, host);
    socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
    socket.on('connect', () => socket.destroy());
  });

/** A repository of one commit behind a daemon, for one test. */
async function served() {
  const home = temporaryFolder();
  const repository = join(home, 'served', 'repo');
  mkdirSync(repository, { recursive: true });
  writeFileSync(join(repository, 'file'), 'text');
  git(repository, 'init', '-q', '-b', 'main');
  git(repository, 'add', '-A');
  git(repository, '-c', 'user.name=A', '-c', 'user.email=a@example.org', 'commit', '-q', '-m', 'one');
  const { host, port } = await freePlace();
  const options = ['--export-all', `--listen=${host}`, `--port=${port}`];
  const daemon = spawn('git', ['daemon', ...options, `--base-path=${join(home, 'served')}`], {
    env: gitEnvironment,
    stdio: 'ignore',
    // The program is a child of git's own; both are to end.
    detached: true,
  });
  onTestFinished(() => void process.kill(-daemon.pid!));
  while (!(await answers(host, port))) await sleep(20);
  const sources = new Sources({ cacheFolder: join(home, 'cache'), reporter: silent });
  const url = `git://${host}:${port}/repo`;
  return {
    url,
    rev: git(repository, 'rev-parse', 'HEAD'),
    fetch: () => sources.fetch(parseFlakeRef(`${url}?ref=main`)),
  };
}

it.skipIf(noDaemon)(`git:// is a way to a repository as any other${reason}`, async () => {
  const { url, rev, fetch } = await served();
  const { locked, tree } = await fetch();
  expect(String(await tree.readFile('file'))).toBe('text');
  expect(locked).toMatchObject({ type: 'git', url, rev, revCount: 1 });
});

it.skipIf(noDaemon || !nixAvailable())(`git:// is locked as by Nix ${nixReason}${reason}`, async () => {
  const { url, fetch } = await served();
  const { stdout } = await nix(['flake', 'prefetch', '--json', `${url}?ref=main`]);
  const expected = JSON.parse(stdout) as { hash: string; locked: object };
  expect(refToAttributes((await fetch()).locked)).toEqual({ ...expected.locked, narHash: expected.hash });
});
