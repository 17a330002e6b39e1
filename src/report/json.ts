/** `--log-format json`: one event a line, as `schemas/event.schema.json` describes them. */
import type { Event } from '../base/events.ts';
import type { Renderer, Sink } from './renderer.ts';

export class JsonReport implements Renderer {
  readonly #sink: Sink;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  emit(event: Event): void {
    this.#sink.write(`${JSON.stringify(event)}\n`);
  }

  say(text: string): void {
    this.#sink.write(`${JSON.stringify({ kind: 'message', text })}\n`);
  }

  close(): void {}
}
