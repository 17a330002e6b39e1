/** A store for a process that runs for long: what it holds while it uses it is let go of soon after, so that it can be swept. */
import type { Store } from './store.ts';

/** Milliseconds after which what was held is let go of, unless it is still used. */
const leaseTime = 60_000;

interface Lease {
  readonly store: Promise<Store>;
  users: number;
  retired: boolean;
}

export class Leases {
  readonly #open: () => Promise<Store>;
  readonly #timer: NodeJS.Timeout;
  #current: Lease | undefined;

  /** `open`: opens the same store, each time anew: what a store holds, it holds until it is closed. */
  constructor(open: () => Promise<Store>, time = leaseTime) {
    this.#open = open;
    this.#timer = setInterval(() => this.#renew(), time);
    this.#timer.unref();
  }

  /** Runs `work` with a store that stays open, with all that it holds, until the work is over. */
  async use<T>(work: (store: Store) => Promise<T>): Promise<T> {
    const { store, release } = await this.take();
    try {
      return await work(store);
    } finally {
      release();
    }
  }

  /** The same for work that is no one call. */
  async take(): Promise<{ readonly store: Store; release(): void }> {
    this.#current ??= { store: this.#open(), users: 0, retired: false };
    const lease = this.#current;
    lease.users++;
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      lease.users--;
      this.#closeUnused(lease);
    };
    try {
      return { store: await lease.store, release };
    } catch (error) {
      if (this.#current === lease) this.#current = undefined;
      throw error;
    }
  }

  /** Nobody may use it from now on; what is used still is closed by its last user. */
  close(): void {
    clearInterval(this.#timer);
    this.#renew();
  }

  #renew(): void {
    const lease = this.#current;
    this.#current = undefined;
    if (!lease) return;
    lease.retired = true;
    this.#closeUnused(lease);
  }

  #closeUnused(lease: Lease): void {
    if (lease.retired && lease.users === 0)
      void lease.store.then(
        (store) => store.close(),
        () => {},
      );
  }
}
