/** Which builder takes what, when it has no place, and what becomes of it when the builder is gone. */
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import type { Event } from '../../../src/base/events.ts';
import { type Builder, Builders } from '../../../src/build/builders.ts';
import type { Engine } from '../../../src/build/engines/engine.ts';
import type { PlannedDerivation } from '../../../src/build/instantiation.ts';
import { buildRequest, playedEngine } from '../../support/builds.ts';
import { errorOf } from '../../support/errors.ts';

const engine = (name: string, changes: Partial<Engine> = {}): Engine =>
  playedEngine(() => expect.unreachable('a build'), { name, ...changes });

const builder = (name: string, changes: Partial<Builder> = {}): Builder => ({
  engine: engine(name),
  systems: ['x86_64-linux'],
  features: [],
  jobs: 1,
  ...changes,
});

function wanted(
  name: string,
  { system = 'x86_64-linux', features = '' }: { readonly system?: string; readonly features?: string } = {},
): PlannedDerivation {
  const { derivation, toolchain } = buildRequest('', [], { env: { requiredSystemFeatures: features } });
  return { name, derivation: { ...derivation, system }, toolchain };
}

function open(...builders: Builder[]): { builders: Builders; events: Event[] } {
  const events: Event[] = [];
  return { builders: new Builders(builders, { emit: (event) => events.push(event) }), events };
}

const gone = (reason: string): FlkError => new FlkError('FLK_BUILDER_UNAVAILABLE', reason);

/** Something that is under way until it is told how it ends. */
function work(): {
  readonly at: string[];
  readonly run: (engine: Engine, free: () => void) => Promise<string>;
  end(index: number): void;
  free(index: number): void;
} {
  const at: string[] = [];
  const ends: ((name: string) => void)[] = [];
  const frees: (() => void)[] = [];
  return {
    at,
    run: ({ name }, free) =>
      new Promise((resolve) => {
        at.push(name);
        ends.push(() => resolve(name));
        frees.push(free);
      }),
    end: (index) => ends[index]!(''),
    free: (index) => frees[index]!(),
  };
}

const turn = (): Promise<void> => sleep(0);

describe('which', () => {
  const far = builder('far', { systems: ['aarch64-linux'], features: ['kvm', 'big-parallel'] });
  const here = builder('here');
  const picky = builder('picky', {
    engine: engine('picky', { refusal: () => ({ reason: 'it has no wish', hint: 'ask another' }) }),
  });
  const { builders } = open(picky, far, here);

  it.each([
    [
      wanted('a'),
      'here',
      ['picky: it has no wish', 'far: it builds for aarch64-linux, not for x86_64-linux'],
    ],
    [
      wanted('b', { system: 'aarch64-linux' }),
      'far',
      ['picky: it builds for x86_64-linux, not for aarch64-linux'],
    ],
    [
      wanted('c', { system: 'aarch64-linux', features: 'big-parallel  kvm' }),
      'far',
      ['picky: it builds for x86_64-linux, not for aarch64-linux'],
    ],
    [
      wanted('d', { features: 'kvm big-parallel' }),
      undefined,
      [
        'picky: it does not offer kvm, big-parallel',
        'far: it builds for aarch64-linux, not for x86_64-linux',
        'here: it does not offer kvm, big-parallel',
      ],
    ],
  ])('takes $name, and why not those before', (what, name, passed) => {
    const choice = builders.choose(what);
    expect(choice.builder?.engine.name).toBe(name);
    expect(choice.passedOver.map((one) => `${one.builder}: ${one.reason}`)).toEqual(passed);
  });

  it('none: all reasons, and what mends it', async () => {
    const error = await errorOf(open(picky, far).builders.run(wanted('a'), async () => {}));
    expect(error).toMatchObject({
      code: 'FLK_BUILDER_MISSING',
      facts: { picky: 'it has no wish', far: 'it builds for aarch64-linux, not for x86_64-linux' },
      hint: 'ask another',
      trail: ['a'],
    });
  });
});

describe('when', () => {
  it('goes to the first with a free place, else to whichever is free first, in the order of asking', async () => {
    const { builders } = open(builder('one'), builder('two', { jobs: 2 }));
    const { at, run, end, free } = work();
    const all = Array.from({ length: 6 }, (_, i) => builders.run(wanted(`${i}`), run));
    await turn();
    expect(at).toEqual(['one', 'two', 'two']);
    end(1);
    await all[1];
    await turn();
    expect(at.slice(3)).toEqual(['two']);
    // A place is given back once, by whichever comes first.
    free(0);
    free(0);
    await turn();
    end(0);
    await all[0];
    await turn();
    expect(at.slice(3)).toEqual(['two', 'one']);
    for (const index of [2, 3, 4]) end(index);
    await turn();
    end(5);
    expect(await Promise.all(all)).toEqual(['one', 'two', 'two', 'two', 'one', expect.any(String)]);
  });

  it('does not make others wait for one that only a busy builder takes', async () => {
    const { builders } = open(builder('one'), builder('two', { systems: ['aarch64-linux'] }));
    const { at, run, end } = work();
    const waiting = [wanted('a'), wanted('b'), wanted('c', { system: 'aarch64-linux' })].map((what) =>
      builders.run(what, run),
    );
    await turn();
    expect(at).toEqual(['one', 'two']);
    end(0);
    end(1);
    await turn();
    expect(at).toEqual(['one', 'two', 'one']);
    end(2);
    await Promise.all(waiting);
  });

  it('never runs more at a time than a builder has places, whatever fails', async () => {
    const outcome = fc.constantFrom('ok', 'fails', 'gone');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }),
        fc.array(fc.tuple(outcome, outcome, outcome), { maxLength: 20 }),
        async (jobs, outcomes) => {
          const { builders } = open(...jobs.map((count, i) => builder(`${i}`, { jobs: count })));
          const running = jobs.map(() => 0);
          const results = await Promise.allSettled(
            outcomes.map((byBuilder, i) =>
              builders.run(wanted(`${i}`), async ({ name }) => {
                const at = Number(name);
                running[at]!++;
                expect(running[at]).toBeLessThanOrEqual(jobs[at]!);
                await turn();
                running[at]!--;
                const end = byBuilder[at];
                if (end === 'fails') throw new FlkError('FLK_BUILD_FAILED', 'no');
                if (end === 'gone') throw gone('no');
                return name;
              }),
            ),
          );
          // Nothing waits for ever, and only what no builder is left for has failed of that.
          for (const result of results)
            if (result.status === 'rejected')
              expect(['FLK_BUILD_FAILED', 'FLK_BUILDER_UNAVAILABLE']).toContain(
                (result.reason as FlkError).code,
              );
          expect(running).toEqual(jobs.map(() => 0));
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe('one that is gone', () => {
  it('is left out for a while, with one notice; the next has its turn', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      const { builders, events } = open(builder('one', { jobs: 2 }), builder('two', { jobs: 5 }));
      const asked: string[] = [];
      let works = false;
      const run = async ({ name }: Engine): Promise<string> => {
        asked.push(name);
        if (name === 'one' && !works) throw gone('one: no answer');
        return name;
      };
      const results = [1, 2, 3].map((i) => builders.run(wanted(`${i}`), run));
      expect(await Promise.all(results)).toEqual(['two', 'two', 'two']);
      expect(asked.filter((name) => name === 'one')).toHaveLength(2);
      expect(events).toEqual([
        {
          kind: 'notice',
          notice: { type: 'builder-unavailable', builder: 'one', reason: 'no answer' },
        },
      ]);
      vi.advanceTimersByTime(59_000);
      expect(await builders.run(wanted('4'), run)).toBe('two');
      works = true;
      vi.advanceTimersByTime(2000);
      expect(await builders.run(wanted('5'), run)).toBe('one');
    } finally {
      vi.useRealTimers();
    }
  });

  it('a machine that makes no sandbox is one too', async () => {
    const { builders } = open(builder('one'), builder('two'));
    const name = await builders.run(wanted('a'), async (by) => {
      if (by.name === 'one') throw new FlkError('FLK_SANDBOX_UNAVAILABLE', 'no namespaces');
      return by.name;
    });
    expect(name).toBe('two');
  });

  it('and no other is left: all reasons; what waited for it is told too', async () => {
    const far = builder('far', { systems: ['aarch64-linux'] });
    const { builders, events } = open(builder('one'), far, builder('two'));
    const fail = async ({ name }: Engine): Promise<void> => {
      await turn();
      throw gone(`${name}: no answer`);
    };
    const errors = await Promise.all(
      ['a', 'b', 'c'].map((name) => errorOf(builders.run(wanted(name), fail))),
    );
    for (const [i, error] of errors.entries())
      expect(error).toMatchObject({
        code: 'FLK_BUILDER_UNAVAILABLE',
        exitStatus: 3,
        facts: {
          one: 'no answer',
          two: 'no answer',
          far: 'it builds for aarch64-linux, not for x86_64-linux',
        },
        trail: [['a', 'b', 'c'][i]],
      });
    expect(events).toHaveLength(1);
  });

  it('and is the only one there is: its own word counts', async () => {
    const { builders, events } = open(builder('one'));
    const error = await errorOf(
      builders.run(wanted('a'), async () => {
        throw new FlkError('FLK_SANDBOX_UNAVAILABLE', 'no namespaces', {
          facts: { cause: 'sysctl' },
          hint: 'mend it',
          trail: ['a'],
        });
      }),
    );
    expect(error).toMatchObject({
      code: 'FLK_SANDBOX_UNAVAILABLE',
      facts: { cause: 'sysctl' },
      hint: 'mend it',
      trail: ['a'],
    });
    expect(events).toEqual([]);
  });

  it('does not swallow what a builder says of the derivation', async () => {
    const { builders } = open(builder('one'), builder('two'));
    const asked: string[] = [];
    const error = await errorOf(
      builders.run(wanted('a'), async ({ name }) => {
        asked.push(name);
        throw new FlkError('FLK_BUILD_FAILED', 'exit status 1');
      }),
    );
    expect([error.code, asked]).toEqual(['FLK_BUILD_FAILED', ['one']]);
  });
});

it('asks those that take something whether they could, and leaves out who could not', async () => {
  const asked: string[] = [];
  const probed = (name: string, changes: Partial<Builder> = {}, error?: FlkError) =>
    builder(name, {
      ...changes,
      engine: engine(name, {
        probe: async () => {
          asked.push(name);
          if (error) throw error;
        },
      }),
    });
  const { builders } = open(
    probed('far', { systems: ['aarch64-linux'] }),
    probed('one', {}, gone('one: no answer')),
    probed('two'),
  );
  await builders.probe([wanted('a')], undefined);
  expect(asked).toEqual(['one', 'two']);
  const { builder: chosen, passedOver } = builders.choose(wanted('a'));
  expect(chosen?.engine.name).toBe('two');
  expect(passedOver).toEqual([
    { builder: 'far', reason: 'it builds for aarch64-linux, not for x86_64-linux' },
    { builder: 'one', reason: 'no answer' },
  ]);
});

it('closes all engines', async () => {
  const closed: string[] = [];
  const close = (name: string) =>
    builder(name, { engine: engine(name, { close: async () => void closed.push(name) }) });
  await open(close('one'), close('two')).builders.close();
  expect(closed.sort()).toEqual(['one', 'two']);
});
