/** Who builds what: the builders there are, in order of preference, each with what it takes and how much of it at a time. */
import { asFlkError, FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import type { Engine } from './engines/engine.ts';
import type { PlannedDerivation } from './instantiation.ts';

export interface Builder {
  readonly engine: Engine;
  /** For which it builds, as derivations name them: `x86_64-linux`. */
  readonly systems: readonly string[];
  /** What derivations may ask for by `requiredSystemFeatures`. */
  readonly features: readonly string[];
  /** Builds at a time. */
  readonly jobs: number;
  /** Why it takes nothing at all in this run. */
  readonly barred?: string | undefined;
}

type Wanted = Pick<PlannedDerivation, 'derivation' | 'toolchain' | 'name'>;

/** A builder that does not take something, and why. */
export interface PassedOver {
  readonly builder: string;
  readonly reason: string;
  readonly hint?: string;
}

/** Milliseconds for which a builder that was unavailable is left out. */
const leftOutFor = 60_000;

/** A builder at work. */
class Seat {
  readonly builder: Builder;
  running = 0;
  /** Since when it is left out, and why. */
  out: { readonly at: number; readonly error: FlkError } | undefined;

  constructor(builder: Builder) {
    this.builder = builder;
  }

  get isOut(): boolean {
    return this.out !== undefined && performance.now() - this.out.at < leftOutFor;
  }

  get isFree(): boolean {
    return !this.isOut && this.running < this.builder.jobs;
  }
}

interface Waiting {
  readonly seats: readonly Seat[];
  seated(seat: Seat): void;
  /** No builder is left that takes it. */
  deserted(): void;
}

export class Builders {
  readonly #seats: readonly Seat[];
  readonly #reporter: Reporter;
  /** The first that came comes first. */
  readonly #waiting: Waiting[] = [];

  constructor(builders: readonly Builder[], reporter: Reporter) {
    this.#seats = builders.map((builder) => new Seat(builder));
    this.#reporter = reporter;
  }

  /** The first that takes it, if any does, and why those before it do not. Asks nobody. */
  choose(wanted: Wanted): {
    readonly builder: Builder | undefined;
    readonly passedOver: readonly PassedOver[];
  } {
    const passedOver: PassedOver[] = [];
    for (const { builder, isOut, out } of this.#seats) {
      const refusal = isOut && out ? { reason: reasonOf(builder, out.error) } : refusalOf(builder, wanted);
      if (!refusal) return { builder, passedOver };
      passedOver.push({ builder: builder.engine.name, ...refusal });
    }
    return { builder: undefined, passedOver };
  }

  /** Asks those that take any of this whether they could do so now; one that could not is left out, as if it had failed at it. */
  async probe(all: readonly Wanted[], signal: AbortSignal | undefined): Promise<void> {
    const asked = this.#seats.filter(({ builder }) => all.some((wanted) => !refusalOf(builder, wanted)));
    await Promise.all(
      asked.map(async (seat) => {
        try {
          await seat.builder.engine.probe(signal);
        } catch (thrown) {
          const error = asFlkError(thrown);
          if (!isUnavailable(error)) throw error;
          seat.out = { at: performance.now(), error };
        }
      }),
    );
  }

  /**
   * Runs `work` with the first builder that takes it and has a free place, else with the one that has one first; the place is given
   * back when `work` ends, or says so by `free`. One that turns out to be unavailable is left out for a while, with a notice, and the
   * next has its turn. Throws what `work` throws; FLK_BUILDER_MISSING where no builder takes this, FLK_BUILDER_UNAVAILABLE where none
   * of those that do is left.
   */
  async run<T>(wanted: Wanted, work: (engine: Engine, free: () => void) => Promise<T>): Promise<T> {
    const { able, passed } = this.#choose(wanted);
    if (able.length === 0) throw missing(wanted.name, passed);
    const left = new Set(able);
    for (;;) {
      const seat = await this.#take([...left], () => this.#unavailable(wanted.name, able, passed));
      let isOurs = true;
      const free = (): void => {
        if (isOurs) this.#give(seat);
        isOurs = false;
      };
      try {
        return await work(seat.builder.engine, free);
      } catch (thrown) {
        const error = asFlkError(thrown);
        if (!isUnavailable(error)) throw error;
        left.delete(seat);
        this.#leaveOut(seat, error, [...left]);
      } finally {
        free();
      }
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#seats.map(({ builder }) => builder.engine.close()));
  }

  #choose(wanted: Wanted): { readonly able: readonly Seat[]; readonly passed: readonly PassedOver[] } {
    const able: Seat[] = [];
    const passed: PassedOver[] = [];
    for (const seat of this.#seats) {
      const refusal = refusalOf(seat.builder, wanted);
      if (refusal) passed.push({ builder: seat.builder.engine.name, ...refusal });
      else able.push(seat);
    }
    return { able, passed };
  }

  #take(seats: readonly Seat[], deserted: () => FlkError): Promise<Seat> {
    if (seats.every(({ isOut }) => isOut)) return Promise.reject(deserted());
    const free = seats.find(({ isFree }) => isFree);
    if (free) {
      free.running++;
      return Promise.resolve(free);
    }
    return new Promise((seated, reject) => {
      this.#waiting.push({ seats, seated, deserted: () => reject(deserted()) });
    });
  }

  #give(seat: Seat): void {
    seat.running--;
    const next = seat.isFree ? this.#waiting.findIndex(({ seats }) => seats.includes(seat)) : -1;
    if (next < 0) return;
    const [waiting] = this.#waiting.splice(next, 1);
    seat.running++;
    waiting?.seated(seat);
  }

  #leaveOut(seat: Seat, error: FlkError, others: readonly Seat[]): void {
    const known = seat.isOut;
    seat.out = { at: performance.now(), error };
    if (!known && others.some(({ isOut }) => !isOut)) {
      const { name } = seat.builder.engine;
      this.#reporter.emit({
        kind: 'notice',
        notice: { type: 'builder-unavailable', builder: name, reason: reasonOf(seat.builder, error) },
      });
    }
    const hopeless = ({ seats }: Waiting): boolean => seats.every(({ isOut }) => isOut);
    for (const waiting of this.#waiting.filter(hopeless)) {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
      waiting.deserted();
    }
  }

  /** None of those that take it is left. */
  #unavailable(name: string, able: readonly Seat[], passed: readonly PassedOver[]): FlkError {
    const errors = able.flatMap(({ out }) => (out ? [out.error] : []));
    // The only builder there is speaks for itself.
    const [only] = this.#seats.length === 1 ? errors : [];
    if (only) {
      const { code, message, facts, hint, cause } = only;
      return new FlkError(code, message, { facts, hint, cause, trail: [name] });
    }
    const out = able.flatMap(({ builder, out }): PassedOver[] =>
      out ? [{ builder: builder.engine.name, reason: reasonOf(builder, out.error) }] : [],
    );
    return new FlkError('FLK_BUILDER_UNAVAILABLE', 'no builder that takes this is left', {
      facts: factsOf([...out, ...passed]),
      trail: [name],
      cause: errors[0],
    });
  }
}

/** Whether another builder may do better. A machine that makes no sandbox is as little use as one that cannot be reached. */
export const isUnavailable = ({ code }: FlkError): boolean =>
  code === 'FLK_BUILDER_UNAVAILABLE' || code === 'FLK_SANDBOX_UNAVAILABLE';

/** An engine's message begins with its name, which stands beside it already. */
const reasonOf = ({ engine }: Builder, { message }: FlkError): string =>
  message.startsWith(`${engine.name}: `) ? message.slice(engine.name.length + 2) : message;

function refusalOf(
  { engine, systems, features, barred }: Builder,
  wanted: Wanted,
): Omit<PassedOver, 'builder'> | undefined {
  if (barred !== undefined) return { reason: barred };
  const { system, env } = wanted.derivation;
  if (!systems.includes(system)) return { reason: `it builds for ${systems.join(', ')}, not for ${system}` };
  const lacking = wordsOf(env.get('requiredSystemFeatures')).filter((name) => !features.includes(name));
  if (lacking.length > 0) return { reason: `it does not offer ${lacking.join(', ')}` };
  return engine.refusal(wanted);
}

const wordsOf = (text = ''): string[] => text.split(/\s+/).filter((word) => word !== '');

function missing(name: string, passed: readonly PassedOver[]): FlkError {
  const hint = passed.find((one) => one.hint !== undefined)?.hint;
  return new FlkError('FLK_BUILDER_MISSING', 'there is no builder that takes this', {
    facts: factsOf(passed),
    trail: [name],
    ...(hint === undefined ? {} : { hint }),
  });
}

const factsOf = (passed: readonly PassedOver[]): Record<string, string> =>
  Object.fromEntries(passed.map(({ builder, reason }) => [builder, reason]));
