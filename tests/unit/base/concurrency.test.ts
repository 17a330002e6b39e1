import { describe, expect, test } from 'vitest';
import { limiter, OnceMap, throwIfAborted } from '../../../src/base/concurrency.ts';

describe('OnceMap', () => {
  test('asks once for equal keys, and again after a failure', async () => {
    const once = new OnceMap<string, number>();
    let asked = 0;
    const ask = async (): Promise<number> => {
      if (++asked === 1) throw new Error('first');
      return asked;
    };
    const [a, b] = await Promise.allSettled([once.get('k', ask), once.get('k', ask)]);
    expect([a.status, b.status, asked]).toEqual(['rejected', 'rejected', 1]);
    expect(await Promise.all([once.get('k', ask), once.get('k', ask)])).toEqual([2, 2]);
    expect(await once.get('k', ask)).toBe(2);
  });
});

describe('limiter', () => {
  test('runs no more than its number at once', async () => {
    const limit = limiter(3);
    let running = 0;
    let most = 0;
    await Promise.all(
      Array.from({ length: 10 }, () =>
        limit(async () => {
          most = Math.max(most, ++running);
          await new Promise((resolve) => setImmediate(resolve));
          running--;
        }),
      ),
    );
    expect(most).toBe(3);
  });
});

describe('throwIfAborted', () => {
  test('throws FLK_INTERRUPTED only after the signal', () => {
    const abort = new AbortController();
    throwIfAborted(abort.signal);
    throwIfAborted(undefined);
    abort.abort();
    expect(() => throwIfAborted(abort.signal)).toThrow(expect.objectContaining({ code: 'FLK_INTERRUPTED' }));
  });
});
