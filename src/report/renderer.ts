/** What every report is: a listener that also takes the command's own lines, and must be closed. */
import type { Reporter } from '../base/events.ts';

export interface Renderer extends Reporter {
  /** Prints lines that stay, above whatever is redrawn. No newline at the end. */
  say(text: string): void;
  /** Ends the report: nothing that is redrawn is left on the screen. Safe to call twice. */
  close(): void;
}

/** Where a report is written; `process.stderr` fits. */
export interface Sink {
  write(text: string): unknown;
}

/** Milliseconds that only grow. */
export type Clock = () => number;

export interface LogOptions {
  /** Show each line that builders print (`-L`). */
  readonly logs: boolean;
  /** Only errors and the command's own results. */
  readonly quiet: boolean;
}
