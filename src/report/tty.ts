/**
 * The report for a terminal: a small block under the lines that stay, redrawn in place. The cursor is never hidden and no
 * terminal mode is changed, so nothing has to be restored when flk is killed.
 */
import type { Event } from '../base/events.ts';
import { activityWords, noticeWords, requestWords } from './phrases.ts';
import { amountOf } from './plain.ts';
import { type EndedSpan, Progress, type RunningSpan } from './progress.ts';
import type { Clock, LogOptions, Renderer, Sink } from './renderer.ts';
import {
  cellWidth,
  cleanLine,
  clipEnd,
  clipMiddle,
  formatBytes,
  formatDuration,
  type Palette,
  padCells,
} from './text.ts';

export interface TtyOptions extends LogOptions {
  readonly palette: Palette;
  readonly clock: Clock;
  every(ms: number, tick: () => void): () => void;
}

/** A terminal that knows its size; `process.stderr` fits. */
export interface Screen extends Sink {
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
}

/** Commands that end sooner never draw. */
const firstPaint = 150;
const repaint = 100;
const mostRows = 10;
const frames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

export class TtyReport implements Renderer {
  readonly #screen: Screen;
  readonly #options: TtyOptions;
  readonly #progress = new Progress();
  readonly #seenNotices = new Set<string>();
  /** The cells of each line now on the screen, colour codes not counted. */
  #drawn: number[] = [];
  #startedAt: number | undefined;
  #frame = 0;
  #stop: (() => void) | undefined;

  constructor(screen: Screen, options: TtyOptions) {
    this.#screen = screen;
    this.#options = options;
  }

  emit(event: Event): void {
    const now = this.#options.clock();
    const ended = this.#progress.apply(event, now);
    if (event.kind === 'start' && this.#stop === undefined && !this.#options.quiet) {
      this.#startedAt = now;
      this.#stop = this.#options.every(repaint, () => this.#tick());
    }
    if (event.kind === 'log' && this.#options.logs) {
      const span = this.#progress.span(event.id);
      if (span)
        this.say(
          `${this.#options.palette.place(`${activityWords(span.activity).subject}>`)} ${cleanLine(event.line)}`,
        );
    }
    if (event.kind === 'notice' && !this.#options.quiet) this.#notice(event);
    if (event.kind === 'request' && !this.#options.quiet) this.say(requestWords(event));
    if (ended) this.#end(ended);
  }

  say(text: string): void {
    this.#screen.write(`${this.#erasing()}${text}\n`);
  }

  close(): void {
    this.#stop?.();
    this.#stop = undefined;
    const erasing = this.#erasing();
    if (erasing !== '') this.#screen.write(erasing);
  }

  #notice(event: Event & { kind: 'notice' }): void {
    const { severity, text } = noticeWords(event.notice);
    if (this.#seenNotices.has(text)) return;
    this.#seenNotices.add(text);
    const { palette } = this.#options;
    this.say(`${severity === 'warning' ? palette.warning('warning') : palette.faint('note')}: ${text}`);
  }

  #end(span: EndedSpan): void {
    const { palette, quiet } = this.#options;
    const { done, subject, place = '' } = activityWords(span.activity);
    if (span.activity.type !== 'build') return;
    const time = formatDuration(span.endedAt - span.startedAt);
    if (span.outcome === 'ok' && !quiet)
      this.say(`${palette.good(done)} ${subject}${place} ${palette.faint(`(${time})`)}`);
  }

  #tick(): void {
    const now = this.#options.clock();
    if (this.#startedAt === undefined || now - this.#startedAt < firstPaint) return;
    const lines = this.#block(now);
    this.#screen.write(
      this.#erasing() + lines.map(({ text }) => text).join('\n') + (lines.length > 0 ? '\r' : ''),
    );
    this.#drawn = lines.map(({ cells }) => cells);
  }

  /** Moves to the block's first line and clears from there: what the terminal has reflowed meanwhile counts as it lies now. */
  #erasing(): string {
    if (this.#drawn.length === 0) return '';
    const width = this.#width();
    const rows = this.#drawn.map((cells) => Math.max(1, Math.ceil(cells / width)));
    // The cursor rests in the first row of the last line.
    const above = rows.slice(0, -1).reduce((sum, count) => sum + count, 0);
    this.#drawn = [];
    return `\r${above > 0 ? `\u001b[${above}A` : ''}\u001b[J`;
  }

  #block(now: number): { text: string; cells: number }[] {
    const spans = this.#progress.running();
    const busy = spans.filter((span) => span.activity.type !== 'lock');
    if (spans.length === 0) return [];
    const width = this.#width() - 1;
    const height = Math.max(1, Math.min(mostRows, (this.#screen.rows ?? 24) - 2));
    const head = clipEnd(`${frames[this.#frame++ % frames.length]!} ${this.#summary(now)}`, width);
    const lines = [{ text: this.#options.palette.strong(head), cells: cellWidth(head) }];
    const shown = busy.length <= height - 1 ? busy : busy.slice(0, Math.max(0, height - 2));
    for (const span of shown) lines.push(this.#row(span, now, width));
    if (busy.length > shown.length && height > 1) {
      const more = clipEnd(`  … and ${busy.length - shown.length} more`, width);
      lines.push({ text: this.#options.palette.faint(more), cells: cellWidth(more) });
    }
    return lines;
  }

  #summary(now: number): string {
    const parts: string[] = [];
    const lock = this.#progress.running().find((span) => span.activity.type === 'lock');
    if (lock) parts.push('locking');
    for (const [type, word] of [
      ['fetch', 'fetched'],
      ['build', 'built'],
    ] as const) {
      const tally = this.#progress.tally(type);
      const ended = tally.ok + tally.cached + tally.failed;
      if (ended + tally.running > 0) parts.push(`${word} ${ended} of ${ended + tally.running}`);
    }
    if (this.#progress.bytes > 0) parts.push(formatBytes(this.#progress.bytes));
    const rate = this.#progress.rate(now);
    if (rate !== undefined && rate >= 1) parts.push(`${formatBytes(rate)}/s`);
    parts.push(formatDuration(this.#progress.elapsed(now)));
    return parts.join(' · ');
  }

  #row(span: RunningSpan, now: number, width: number): { text: string; cells: number } {
    const { doing, subject: what, place = '' } = activityWords(span.activity);
    const subject = `${what}${place}`;
    const right: string[] = [];
    const amount = amountOf(span);
    if (amount !== '') right.push(amount);
    const rate = span.unit === 'bytes' ? this.#progress.rate(now, span.id) : undefined;
    if (rate !== undefined && rate >= 1) right.push(`${formatBytes(rate)}/s`);
    right.push(formatDuration(now - span.startedAt));
    const left = `  ${padCells(doing, 9)} `;
    const tail = `  ${right.join(' · ')}`;
    const room = width - cellWidth(left) - cellWidth(tail);
    if (room < 12) {
      const text = clipEnd(`${left}${subject}`, width);
      return { text, cells: cellWidth(text) };
    }
    const middle = clipMiddle(subject, room);
    const spare = room - cellWidth(middle) - 2;
    const words =
      span.lastLine === undefined || spare < 12 ? '' : `  ${clipEnd(cleanLine(span.lastLine), spare)}`;
    return {
      text: `${left}${middle}${this.#options.palette.faint(`${tail}${words}`)}`,
      cells: cellWidth(left) + cellWidth(middle) + cellWidth(tail) + cellWidth(words),
    };
  }

  #width(): number {
    return Math.max(10, this.#screen.columns ?? 80);
  }
}
