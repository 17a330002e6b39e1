/** Events folded into what a person wants to know: what runs, since when, how far, how fast. No I/O, no clock of its own. */
import type { Activity, Event, ProgressUnit } from '../base/events.ts';

export interface RunningSpan {
  readonly id: number;
  readonly parent: number | undefined;
  readonly activity: Activity;
  /** By the clock given to `apply`, in ms. */
  readonly startedAt: number;
  readonly done: number;
  readonly total: number | undefined;
  readonly unit: ProgressUnit | undefined;
  /** The last line it printed. */
  readonly lastLine: string | undefined;
}

export interface EndedSpan extends RunningSpan {
  readonly endedAt: number;
  readonly outcome: 'ok' | 'failed' | 'cached';
}

export interface Tally {
  readonly running: number;
  readonly ok: number;
  readonly failed: number;
  readonly cached: number;
  /** Moved or read so far, running and ended together. */
  readonly bytes: number;
}

interface Entry {
  id: number;
  parent: number | undefined;
  activity: Activity;
  startedAt: number;
  done: number;
  total: number | undefined;
  unit: ProgressUnit | undefined;
  lastLine: string | undefined;
  samples: Sample[];
}

type Sample = readonly [at: number, done: number];

/** Rates look this far back, in steps of `sampleStep`. */
const rateWindow = 3000;
const sampleStep = 200;

const emptyTally: Tally = { running: 0, ok: 0, failed: 0, cached: 0, bytes: 0 };

/** The fold. Equal events at equal times give equal answers; an event about a span that never started is ignored. */
export class Progress {
  readonly #running = new Map<number, Entry>();
  readonly #tallies = new Map<Activity['type'], Tally>();
  readonly #byteSamples: Sample[] = [];
  #bytes = 0;
  #firstAt: number | undefined;

  /** Takes one event; gives the span that it ended. */
  apply(event: Event, now: number): EndedSpan | undefined {
    this.#firstAt ??= now;
    switch (event.kind) {
      case 'start':
        this.#running.set(event.id, {
          id: event.id,
          parent: event.parent,
          activity: event.activity,
          startedAt: now,
          done: 0,
          total: undefined,
          unit: undefined,
          lastLine: undefined,
          samples: [],
        });
        this.#count(event.activity.type, (tally) => ({ ...tally, running: tally.running + 1 }));
        return undefined;
      case 'progress': {
        const entry = this.#running.get(event.id);
        if (!entry) return undefined;
        const moved = event.unit === 'bytes' ? event.done - (entry.unit === 'bytes' ? entry.done : 0) : 0;
        entry.done = event.done;
        entry.total = event.total;
        entry.unit = event.unit;
        sample(entry.samples, now, event.done);
        if (moved !== 0) {
          if (entry.activity.type === 'fetch') {
            this.#bytes += moved;
            sample(this.#byteSamples, now, this.#bytes);
          }
          this.#count(entry.activity.type, (tally) => ({ ...tally, bytes: tally.bytes + moved }));
        }
        return undefined;
      }
      case 'log': {
        const entry = this.#running.get(event.id);
        if (!entry) return undefined;
        entry.lastLine = event.line;
        return undefined;
      }
      case 'end': {
        const entry = this.#running.get(event.id);
        if (!entry) return undefined;
        this.#running.delete(event.id);
        this.#count(entry.activity.type, (tally) => ({
          ...tally,
          running: tally.running - 1,
          [event.outcome]: tally[event.outcome] + 1,
        }));
        return { ...entry, endedAt: now, outcome: event.outcome };
      }
      case 'notice':
      case 'request':
        return undefined;
    }
  }

  /** Running spans, the oldest first. */
  running(): RunningSpan[] {
    return [...this.#running.values()];
  }

  /** A running span by its id. */
  span(id: number): RunningSpan | undefined {
    return this.#running.get(id);
  }

  tally(type: Activity['type']): Tally {
    return this.#tallies.get(type) ?? emptyTally;
  }

  /** Bytes that came from elsewhere, over all spans; what is hashed or stored here is not counted again. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Ms since the first event. */
  elapsed(now: number): number {
    return this.#firstAt === undefined ? 0 : now - this.#firstAt;
  }

  /** Units per second lately: of one span, or of all bytes fetched. Undefined while too little is known. */
  rate(now: number, id?: number): number | undefined {
    const samples = id === undefined ? this.#byteSamples : (this.#running.get(id)?.samples ?? []);
    const recent = samples.filter(([at]) => now - at <= rateWindow);
    const first = recent[0];
    const last = recent.at(-1);
    if (!first || !last || last[0] - first[0] < sampleStep) return undefined;
    return Math.max(0, ((last[1] - first[1]) * 1000) / (now - first[0]));
  }

  #count(type: Activity['type'], change: (tally: Tally) => Tally): void {
    this.#tallies.set(type, change(this.tally(type)));
  }
}

function sample(samples: Sample[], now: number, done: number): void {
  const previous = samples.at(-2);
  // The newest sample is always exact; those before it are at least one step apart.
  if (previous && now - previous[0] < sampleStep) samples.pop();
  samples.push([now, done]);
  while (samples.length > 2 && now - samples[0]![0] > rateWindow) samples.shift();
}
