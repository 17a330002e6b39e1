/** Doing things once, a few at a time, and stopping them. */
import pLimit from 'p-limit';
import { FlkError } from './errors.ts';

/** Runs at most `max` of the given tasks at once, in the order they were handed in. */
export type Limiter = <T>(task: () => Promise<T>) => Promise<T>;

export function limiter(max: number): Limiter {
  const limit = pLimit(max);
  return (task) => limit(task);
}

/** One promise per key: whoever asks second gets the first one's answer. A failure is forgotten, so it can be retried. */
export class OnceMap<K, V> {
  readonly #pending = new Map<K, Promise<V>>();

  get(key: K, make: () => Promise<V>): Promise<V> {
    const known = this.#pending.get(key);
    if (known) return known;
    const made = make();
    this.#pending.set(key, made);
    made.catch(() => this.#pending.delete(key));
    return made;
  }

  /** Forgets all answers. */
  clear(): void {
    this.#pending.clear();
  }
}

/** Throws `FLK_INTERRUPTED` once the signal has fired; for loops that do not await anything abortable. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: signal.reason });
}
