import { setImmediate as turn } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { SharedWalks } from '../../../src/build/shared-walks.ts';
import { NarHasher, type Tree } from '../../../src/formats/nar.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

function counted(tree: Tree): Tree & { walks: number } {
  const counting = {
    walks: 0,
    walk: (...args: Parameters<Tree['walk']>) => {
      counting.walks++;
      return tree.walk(...args);
    },
  };
  return counting;
}

const tree = treeFrom(directory({ a: file('a'), b: directory({ c: file('c') }) }));
const hashOf = async (walks: SharedWalks, path: string): Promise<string | undefined> => {
  const hasher = new NarHasher();
  return (await walks.walk(path, hasher)) ? hasher.digest().narHash : undefined;
};

it('walks once for all that is asked for in one turn, and during a walk for the next', async () => {
  const whole = counted(tree);
  const walks = new SharedWalks(whole);
  const late: Promise<string | undefined>[] = [];
  const sink = Object.assign(new NarHasher(), {
    endFile: () => void late.push(hashOf(walks, 'a'), hashOf(walks, 'b/c')),
  });
  const [a, none, file] = await Promise.all([
    hashOf(walks, 'a'),
    hashOf(walks, 'b/d'),
    walks.walk('a', sink),
  ]);
  expect([none, file, whole.walks]).toEqual([undefined, true, 1]);
  const [again, c] = await Promise.all(late);
  expect(again).toBe(a);
  expect(c).not.toBe(a);
  expect(whole.walks).toBe(2);
});

it('tells a broken walk to all who wait, and walks again for who comes later', async () => {
  let broken = true;
  const walks = new SharedWalks({
    walk: async (sink, signal) => {
      if (broken) throw new Error('damaged');
      await tree.walk(sink, signal);
    },
  });
  const events: Event[] = [];
  const reporter = { emit: (event: Event) => void events.push(event) };
  const results = await Promise.allSettled([
    hashOf(walks, 'a'),
    hashOf(walks, 'b'),
    walks.walk('b/c', new NarHasher(), reporter),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  await turn();
  expect(events).toMatchObject([
    { kind: 'start', activity: { type: 'hash', subject: './b/c' } },
    { kind: 'end', outcome: 'failed' },
  ]);
  broken = false;
  expect(await hashOf(walks, 'a')).toBeDefined();
});
