/** The report for pipes, files and CI: lines that are only ever added, one per thing worth knowing. */
import type { Event } from '../base/events.ts';
import { activityWords, noticeWords, requestWords } from './phrases.ts';
import { type EndedSpan, Progress, type RunningSpan } from './progress.ts';
import type { Clock, LogOptions, Renderer, Sink } from './renderer.ts';
import { cleanLine, formatBytes, formatDuration, type Palette } from './text.ts';

export interface PlainOptions extends LogOptions {
  readonly palette: Palette;
  readonly clock: Clock;
  /** Calls back every so many ms until the returned function is called; injected for tests. */
  every(ms: number, tick: () => void): () => void;
}

/** Work that goes on for this long without a line gets one. */
const heartbeat = 10_000;

export class PlainReport implements Renderer {
  readonly #sink: Sink;
  readonly #options: PlainOptions;
  readonly #progress = new Progress();
  /** Span → when it was last spoken of. */
  readonly #mentioned = new Map<number, number>();
  readonly #seenNotices = new Set<string>();
  #stop: (() => void) | undefined;

  constructor(sink: Sink, options: PlainOptions) {
    this.#sink = sink;
    this.#options = options;
  }

  emit(event: Event): void {
    const now = this.#options.clock();
    const ended = this.#progress.apply(event, now);
    switch (event.kind) {
      case 'start':
        this.#mentioned.set(event.id, now);
        this.#stop ??= this.#options.every(1000, () => this.#beat());
        if (event.activity.type === 'build') {
          const { subject, place = '' } = activityWords(event.activity);
          this.#line(`building ${subject}${place}`);
        }
        break;
      case 'log': {
        const span = this.#progress.span(event.id);
        if (this.#options.logs && span) {
          this.say(`${activityWords(span.activity).subject}> ${cleanLine(event.line)}`);
          this.#mentioned.set(event.id, now);
        }
        break;
      }
      case 'end':
        this.#mentioned.delete(event.id);
        if (ended) this.#end(ended);
        break;
      case 'notice': {
        const { severity, text } = noticeWords(event.notice);
        if (this.#seenNotices.has(text)) break;
        this.#seenNotices.add(text);
        const { palette } = this.#options;
        this.#line(`${severity === 'warning' ? palette.warning('warning') : palette.faint('note')}: ${text}`);
        break;
      }
      case 'request':
        this.#line(requestWords(event));
        break;
      case 'progress':
        break;
    }
  }

  say(text: string): void {
    this.#sink.write(`${text}\n`);
  }

  close(): void {
    this.#stop?.();
    this.#stop = undefined;
  }

  #line(text: string): void {
    if (!this.#options.quiet) this.say(text);
  }

  #end(span: EndedSpan): void {
    const { doing, done, subject, place = '' } = activityWords(span.activity);
    if (span.outcome === 'failed') {
      // The error says why, with a builder's last lines; here only when, for what runs beside it.
      if (span.activity.type === 'build')
        this.#line(
          `failed ${doing} ${subject}${place} after ${formatDuration(span.endedAt - span.startedAt)}`,
        );
      return;
    }
    if (span.outcome === 'cached' || !isNotable(span)) return;
    this.#line(`${done} ${subject}${place} ${this.#options.palette.faint(`(${costOf(span)})`)}`);
  }

  #beat(): void {
    const now = this.#options.clock();
    for (const span of this.#progress.running()) {
      if (span.activity.type === 'lock' || now - (this.#mentioned.get(span.id) ?? now) < heartbeat) continue;
      this.#mentioned.set(span.id, now);
      const { doing, subject, place = '' } = activityWords(span.activity);
      const far = amountOf(span);
      this.#line(
        `still ${doing} ${subject}${place} (${far === '' ? '' : `${far}, `}${formatDuration(now - span.startedAt)})`,
      );
    }
  }
}

/** What moved bytes or ran a program; asking a server and hashing are only part of it. */
function isNotable(span: EndedSpan): boolean {
  return (
    span.activity.type === 'fetch' ||
    span.activity.type === 'build' ||
    span.activity.type === 'push' ||
    (span.activity.type !== 'lock' && span.endedAt - span.startedAt >= heartbeat)
  );
}

function costOf(span: EndedSpan): string {
  const time = formatDuration(span.endedAt - span.startedAt);
  return span.unit === 'bytes' && span.done > 0 ? `${formatBytes(span.done)} in ${time}` : time;
}

/** `1.2 MB of 4 MB`, `812 of 40000 files`, `12 objects`; empty when nothing was counted. */
export function amountOf(span: RunningSpan): string {
  if (span.unit === undefined) return '';
  if (span.unit === 'bytes')
    return span.total === undefined
      ? formatBytes(span.done)
      : `${formatBytes(span.done)} of ${formatBytes(span.total)}`;
  return `${span.total === undefined ? span.done : `${span.done} of ${span.total}`} ${span.unit}`;
}
