/** One shell for many works: who gets which answer, and what is said when it is gone. */
import { spawnSync } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';
import { Servant } from '../../../src/base/servant.ts';
import { bundleChild } from '../../support/child.ts';

const servants: Servant[] = [];
afterEach(() => {
  for (const servant of servants.splice(0)) servant.kill();
});

function servant(script: string, ...args: string[]): Servant {
  const made = new Servant(script, args);
  servants.push(made);
  return made;
}

const echo = 'while read -r line; do echo "$1 $line"; echo "$line"; echo; done';

describe('a servant', () => {
  it('answers requests in their order, with any number of lines', async () => {
    const one = servant(echo, 'to');
    expect(await Promise.all(['a', 'b', 'c'].map((word) => one.ask(`${word}\n`)))).toEqual([
      ['to a', 'a'],
      ['to b', 'b'],
      ['to c', 'c'],
    ]);
    expect(await servant('while read -r _; do echo; done').ask('x\n')).toEqual([]);
  });

  it('says something by itself', async () => {
    expect(await servant('echo ready; echo; read -r _').ask('')).toEqual(['ready']);
  });

  it('is no more once it has ended, was killed, or is not understood', async () => {
    const ends = servant('read -r _; exit 1');
    expect([await ends.ask('x\n'), await ends.ask('x\n')]).toEqual([undefined, undefined]);
    const killed = servant('read -r _; sleep 100');
    const asked = killed.ask('x\n');
    killed.kill();
    expect(await asked).toBeUndefined();
    expect(await servant('yes').ask('')).toBeUndefined();
    expect(await servant('head -c 1000000 /dev/zero; sleep 100').ask('')).toBeUndefined();
  });

  it('is no more where there is no shell', async () => {
    expect(await new Servant(echo, [], { env: { PATH: '/nonexistent' } }).ask('x\n')).toBeUndefined();
  });

  it('keeps nobody waiting who asks nothing, and everybody who does', async () => {
    const program = await bundleChild(`
      import { Servant } from './src/base/servant.ts';
      const servant = new Servant('while read -r seconds; do sleep "$seconds"; echo done; echo; done', []);
      console.log((await servant.ask('0.2\\n')).join());`);
    const { stdout, signal } = spawnSync(process.execPath, [program], { encoding: 'utf8', timeout: 10_000 });
    expect({ stdout, signal }).toEqual({ stdout: 'done\n', signal: null });
  });
});
