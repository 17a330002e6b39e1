import { describe, expect, it } from 'vitest';
import type { Activity, Event } from '../../../src/base/events.ts';
import { JsonReport } from '../../../src/report/json.ts';
import { PlainReport } from '../../../src/report/plain.ts';
import type { Renderer } from '../../../src/report/renderer.ts';
import { noColours } from '../../../src/report/text.ts';
import { TtyReport } from '../../../src/report/tty.ts';
import { VirtualScreen } from '../../support/screen.ts';

const fetching = (subject: string): Activity => ({ type: 'fetch', subject });
const building = (name: string): Activity => ({
  type: 'build',
  name,
  drvPath: `/nix/store/x-${name}.drv`,
  builder: 'local',
});
const start = (id: number, activity: Activity): Event => ({ kind: 'start', id, activity });
const end = (id: number, outcome: 'ok' | 'failed' | 'cached' = 'ok'): Event => ({ kind: 'end', id, outcome });
const log = (id: number, line: string): Event => ({ kind: 'log', id, line });

/** A clock that goes only when told, and what it drives. */
class Time {
  now = 0;
  #timers = new Set<{ ms: number; next: number; tick: () => void }>();
  every = (ms: number, tick: () => void): (() => void) => {
    const timer = { ms, next: this.now + ms, tick };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  };
  pass(ms: number): void {
    const until = this.now + ms;
    for (;;) {
      const due = [...this.#timers].filter(({ next }) => next <= until).sort((a, b) => a.next - b.next)[0];
      if (!due) break;
      this.now = due.next;
      due.next += due.ms;
      due.tick();
    }
    this.now = until;
  }
  get running(): number {
    return this.#timers.size;
  }
}

function plain(options: { logs?: boolean; quiet?: boolean } = {}) {
  const time = new Time();
  let text = '';
  const report = new PlainReport(
    {
      write: (more) => {
        text += more;
      },
    },
    { logs: false, quiet: false, palette: noColours, clock: () => time.now, every: time.every, ...options },
  );
  return { report, time, lines: () => text.split('\n').slice(0, -1) };
}

describe('PlainReport', () => {
  it('says what was fetched and built, and for how much', () => {
    const { report, time, lines } = plain();
    report.emit(start(1, { type: 'lock', flake: '.' }));
    report.emit(start(2, { type: 'resolve', subject: 'git+http://x/a' }));
    report.emit(end(2));
    report.emit(start(3, fetching('git+http://x/a')));
    time.pass(300);
    report.emit({ kind: 'progress', id: 3, done: 1_200_000, unit: 'bytes' });
    report.emit(end(3));
    report.emit(start(4, fetching('git+http://x/b')));
    report.emit(end(4, 'cached'));
    report.emit(end(1));
    report.emit(start(5, building('hello-1')));
    time.pass(2000);
    report.emit(end(5));
    expect(lines()).toEqual([
      'fetched git+http://x/a (1.2 MB in 300 ms)',
      'building hello-1',
      'built hello-1 (2.0 s)',
    ]);
  });

  it('gives a sign of life every ten seconds of silence, per span, and none after the end', () => {
    const { report, time, lines } = plain();
    report.emit(start(1, fetching('x')));
    report.emit({ kind: 'progress', id: 1, done: 500, total: 1000, unit: 'bytes' });
    time.pass(25_000);
    expect(lines()).toEqual([
      'still fetching x (500 B of 1.0 kB, 10.0 s)',
      'still fetching x (500 B of 1.0 kB, 20.0 s)',
    ]);
    report.close();
    expect(time.running).toBe(0);
  });

  it('shows logs as they come with -L; else the error has the last lines', () => {
    const shown = plain({ logs: true });
    const kept = plain();
    for (const { report } of [shown, kept]) {
      report.emit(start(1, building('x')));
      report.emit(log(1, 'compiling \u001b[31mx.c'));
      report.emit(end(1, 'failed'));
    }
    expect(shown.lines()).toEqual(['building x', 'x> compiling x.c', 'failed building x after 0 ms']);
    expect(kept.lines()).toEqual(['building x', 'failed building x after 0 ms']);
  });

  it('says a notice once', () => {
    const { report, lines } = plain();
    for (let i = 0; i < 3; i++) report.emit({ kind: 'notice', notice: { type: 'dirty-tree', path: '.' } });
    expect(lines()).toEqual(['warning: Git tree . has uncommitted changes']);
  });

  it('under --quiet says only what it is told to', () => {
    const { report, time, lines } = plain({ quiet: true });
    report.emit({ kind: 'notice', notice: { type: 'ci-locked' } });
    report.emit(start(1, building('x')));
    time.pass(60_000);
    report.emit(end(1));
    report.say('error');
    expect(lines()).toEqual(['error']);
  });
});

function tty(
  size: { columns?: number; rows?: number } = {},
  options: { logs?: boolean; quiet?: boolean } = {},
) {
  const time = new Time();
  const screen = new VirtualScreen(size.columns ?? 80, size.rows ?? 24);
  const report = new TtyReport(screen, {
    logs: false,
    quiet: false,
    palette: noColours,
    clock: () => time.now,
    every: time.every,
    ...options,
  });
  return { report, time, screen };
}

describe('TtyReport', () => {
  it('draws nothing for what ends at once', () => {
    const { report, time, screen } = tty();
    report.emit(start(1, fetching('x')));
    time.pass(140);
    report.emit(end(1));
    report.close();
    expect(screen.written).toBe('');
  });

  it('shows a block, redraws it in place, and leaves nothing behind', () => {
    const { report, time, screen } = tty();
    screen.write('$ flk build\n');
    report.emit(start(1, fetching('git+http://x/greet')));
    report.emit(start(2, building('hello-2.12')));
    report.emit(log(2, 'cc -o hello'));
    report.emit({ kind: 'progress', id: 1, done: 1_000_000, total: 4_000_000, unit: 'bytes' });
    time.pass(1000);
    expect(screen.lines().map((line) => line.replace(/^[⠁-⣿]/u, '*'))).toEqual([
      '$ flk build',
      '* fetched 0 of 1 · built 0 of 1 · 1.0 MB · 1.0 s',
      '  fetching  git+http://x/greet  1.0 MB of 4.0 MB · 1.0 s',
      '  building  hello-2.12  1.0 s  cc -o hello',
    ]);
    report.emit(end(1));
    time.pass(100);
    expect(screen.lines()).toHaveLength(3);
    report.say('a line that stays');
    time.pass(100);
    expect(screen.lines().slice(0, 2)).toEqual(['$ flk build', 'a line that stays']);
    report.emit(end(2));
    report.close();
    expect(screen.lines()).toEqual(['$ flk build', 'a line that stays', 'built hello-2.12 (1.2 s)']);
    expect(screen.cursor).toEqual({ row: 3, column: 0 });
    expect(time.running).toBe(0);
  });

  it('redraws no more than ten times a second, however many events come', () => {
    const { report, time, screen } = tty();
    report.emit(start(1, fetching('x')));
    for (let done = 0; done < 1000; done++) {
      report.emit({ kind: 'progress', id: 1, done, unit: 'bytes' });
      time.pass(1);
    }
    expect(screen.writes).toBeLessThanOrEqual(10);
  });

  it.each([1, 2, 3, 5, 24])('fits into %i rows', (rows) => {
    const { report, time, screen } = tty({ rows });
    for (let id = 1; id <= 30; id++) report.emit(start(id, fetching(`git+http://x/${id}`)));
    for (let i = 0; i < 5; i++) time.pass(100);
    expect(screen.scrolled).toBe(0);
    expect(screen.lines().length).toBeLessThanOrEqual(Math.max(1, rows - 1));
    report.close();
    expect(screen.lines()).toEqual([]);
  });

  it.each([10, 20, 33, 60, 200])('never fills a line of %i columns, also with wide characters', (columns) => {
    const { report, time, screen } = tty({ columns });
    report.emit(start(1, fetching(`git+http://日本語日本語日本語日本語日本語/${'x'.repeat(300)}`)));
    report.emit(start(2, building(`${'長'.repeat(100)}`)));
    report.emit(log(2, '行'.repeat(200)));
    for (let i = 0; i < 5; i++) time.pass(100);
    expect(screen.wrapped).toBe(false);
    report.close();
    expect(screen.lines()).toEqual([]);
  });

  it('erases the whole block after the window became narrow', () => {
    const { report, time, screen } = tty({ columns: 120 });
    screen.write('$ flk lock\n');
    for (let id = 1; id <= 4; id++) report.emit(start(id, fetching(`git+http://${'x'.repeat(80)}/${id}`)));
    time.pass(300);
    screen.resize(40, 24);
    time.pass(300);
    report.close();
    expect(screen.lines()).toEqual(['$ flk lock']);
  });

  it('under --quiet draws nothing', () => {
    const { report, time, screen } = tty({}, { quiet: true });
    report.emit(start(1, building('x')));
    time.pass(5000);
    report.emit(end(1));
    report.close();
    expect(screen.written).toBe('');
  });
});

describe('JsonReport', () => {
  it('writes one event a line, whatever it holds', () => {
    let text = '';
    const report: Renderer = new JsonReport({
      write: (more) => {
        text += more;
      },
    });
    report.emit(log(1, 'two\nlines \u2028'));
    report.emit(end(1));
    const lines = text.split('\n').slice(0, -1);
    expect(lines.map((line) => JSON.parse(line))).toEqual([log(1, 'two\nlines \u2028'), end(1)]);
  });
});
