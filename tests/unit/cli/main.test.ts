import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { runCommandLine } from '../../../src/cli/main.ts';
import { git } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

/** A repository with one commit. */
function repository(folder: string): string {
  mkdirSync(folder);
  git(folder, 'init', '-q');
  writeFileSync(join(folder, 'file'), folder);
  git(folder, 'add', '.');
  git(folder, '-c', 'user.name=x', '-c', 'user.email=x@y.z', 'commit', '-qm', 'x');
  return folder;
}

describe('runCommandLine', () => {
  it('lets as many things wait for the signal as are in flight', async () => {
    const home = temporaryFolder();
    const inputs = Array.from({ length: 16 }, (_, i) => repository(join(home, `repository-${i}`)));
    const lines = inputs.map((folder, i) => `  i${i}: { url: "git+file://${folder}", flake: false }\n`);
    writeFileSync(join(home, 'flake.yaml'), `inputs:\n${lines.join('')}`);
    const warnings: Error[] = [];
    const note = (warning: Error): void => void warnings.push(warning);
    process.on('warning', note);
    onTestFinished(() => void process.off('warning', note));
    const said: string[] = [];
    const sink = { write: (text: string) => void said.push(text) };
    const world = {
      env: { PATH: process.env.PATH, HOME: home, GIT_CONFIG_GLOBAL: '/dev/null', GIT_CONFIG_NOSYSTEM: '1' },
      cwd: home,
      stdout: sink,
      stderr: sink,
      handOverSignals: () => {},
    };
    const status = await runCommandLine(['lock', `path:${home}`], world, new AbortController().signal);
    expect(status, said.join('')).toBe(0);
    const lock = JSON.parse(readFileSync(join(home, 'flake.lock'), 'utf8')) as { nodes: object };
    expect(Object.keys(lock.nodes)).toHaveLength(17);
    // Node tells of them a moment later.
    await nextTurn();
    expect(warnings).toEqual([]);
  });
});
