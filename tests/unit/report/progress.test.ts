import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { Progress } from '../../../src/report/progress.ts';

const fetching = (id: number, subject = 'x'): Event => ({
  kind: 'start',
  id,
  activity: { type: 'fetch', subject },
});
const bytes = (id: number, done: number, total?: number): Event =>
  total === undefined
    ? { kind: 'progress', id, done, unit: 'bytes' }
    : { kind: 'progress', id, done, total, unit: 'bytes' };
const end = (id: number, outcome: 'ok' | 'failed' | 'cached' = 'ok'): Event => ({ kind: 'end', id, outcome });

function fold(...events: readonly (readonly [number, Event])[]): Progress {
  const progress = new Progress();
  for (const [at, event] of events) progress.apply(event, at);
  return progress;
}

describe('Progress', () => {
  it('knows what runs, oldest first, and what ended how', () => {
    const progress = fold(
      [0, fetching(1)],
      [5, fetching(2)],
      [6, fetching(3)],
      [9, end(2, 'cached')],
      [9, end(3, 'failed')],
    );
    expect(progress.running().map(({ id }) => id)).toEqual([1]);
    expect(progress.tally('fetch')).toMatchObject({ running: 1, ok: 0, cached: 1, failed: 1 });
    expect(progress.tally('build')).toMatchObject({ running: 0, ok: 0 });
  });

  it('adds bytes of all spans, and takes a restart from zero back', () => {
    const progress = fold(
      [0, fetching(1)],
      [1, bytes(1, 100)],
      [2, bytes(1, 40)],
      [2, fetching(2)],
      [3, bytes(2, 7)],
    );
    expect(progress.bytes).toBe(47);
    expect(progress.tally('fetch').bytes).toBe(47);
  });

  it('does not count what is only hashed here as moved', () => {
    const progress = fold(
      [0, { kind: 'start', id: 1, activity: { type: 'hash', subject: '/x' } }],
      [1, bytes(1, 100)],
    );
    expect(progress.bytes).toBe(0);
    expect(progress.tally('hash').bytes).toBe(100);
  });

  it('does not count objects as bytes', () => {
    const progress = fold(
      [0, fetching(1)],
      [1, { kind: 'progress', id: 1, done: 50, unit: 'objects' }],
      [2, bytes(1, 10)],
    );
    expect(progress.bytes).toBe(10);
  });

  it('measures the rate over the last seconds only', () => {
    const events: [number, Event][] = [[0, fetching(1)]];
    for (let at = 0; at <= 10_000; at += 100)
      events.push([at, bytes(1, at < 5000 ? at * 100 : 500_000 + (at - 5000))]);
    const progress = fold(...events);
    // 100 kB a second at first, 1 kB a second at the end.
    expect(progress.rate(10_000, 1)).toBeGreaterThan(900);
    expect(progress.rate(10_000, 1)).toBeLessThan(1100);
    expect(progress.rate(10_000)).toBe(progress.rate(10_000, 1));
    expect(progress.rate(20_000)).toBeUndefined();
  });

  it('knows the last line of a span', () => {
    const progress = fold([
      0,
      { kind: 'start', id: 1, activity: { type: 'build', name: 'x', drvPath: 'd', builder: 'local' } },
    ]);
    for (let i = 0; i < 40; i++) progress.apply({ kind: 'log', id: 1, line: `line ${i}` }, i);
    expect(progress.span(1)?.lastLine).toBe('line 39');
  });

  it('takes any sequence of events: nothing is counted twice, nothing goes below zero', () => {
    const event = fc.oneof(
      fc.nat(4).map((id) => fetching(id)),
      fc.record({ id: fc.nat(4), done: fc.nat(1000) }).map(({ id, done }) => bytes(id, done)),
      fc
        .record({ id: fc.nat(4), outcome: fc.constantFrom('ok', 'failed', 'cached') })
        .map(({ id, outcome }) => end(id, outcome)),
    );
    fc.assert(
      fc.property(fc.array(event), (events) => {
        // An id is given out once.
        const started = new Set<number>();
        const honest = events.filter((each) => {
          if (each.kind !== 'start') return true;
          const fresh = !started.has(each.id);
          started.add(each.id);
          return fresh;
        });
        const progress = fold(...honest.map((each, at) => [at, each] as const));
        const tally = progress.tally('fetch');
        expect(tally.running).toBe(progress.running().length);
        expect(tally.running + tally.ok + tally.failed + tally.cached).toBe(started.size);
        expect(progress.bytes).toBeGreaterThanOrEqual(0);
      }),
    );
  });
});
