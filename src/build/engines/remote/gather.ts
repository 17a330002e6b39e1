/** Many small questions, asked in few calls. */

interface Waiting<Q, A> {
  readonly question: Q;
  readonly weight: number;
  readonly answered: (answer: A) => void;
  readonly failed: (error: unknown) => void;
}

export interface GatherOptions {
  /** Of one call; a single question may weigh more. */
  readonly maxCount: number;
  readonly maxWeight: number;
  /** Calls at a time. */
  readonly atOnce: number;
}

/** While calls are under way, what else is asked waits, and goes together into the next one. */
export class Gathering<Q, A> {
  readonly #options: GatherOptions;
  readonly #ask: (questions: readonly Q[]) => Promise<readonly A[]>;
  #waiting: Waiting<Q, A>[] = [];
  #running = 0;

  /** `ask` answers in the order of the questions. */
  constructor(options: GatherOptions, ask: (questions: readonly Q[]) => Promise<readonly A[]>) {
    this.#options = options;
    this.#ask = ask;
  }

  get(question: Q, weight: number): Promise<A> {
    return new Promise((answered, failed) => {
      this.#waiting.push({ question, weight, answered, failed });
      // What is asked in the same turn goes along.
      if (this.#waiting.length === 1) setImmediate(() => this.#next());
    });
  }

  #next(): void {
    while (this.#running < this.#options.atOnce && this.#waiting.length > 0) void this.#call(this.#take());
  }

  #take(): Waiting<Q, A>[] {
    const { maxCount, maxWeight } = this.#options;
    let count = 0;
    for (let weight = 0; count < Math.min(maxCount, this.#waiting.length); count++) {
      weight += this.#waiting[count]!.weight;
      if (count > 0 && weight > maxWeight) break;
    }
    return this.#waiting.splice(0, count);
  }

  async #call(taken: readonly Waiting<Q, A>[]): Promise<void> {
    this.#running++;
    try {
      const answers = await this.#ask(taken.map(({ question }) => question));
      for (const [index, { answered }] of taken.entries()) answered(answers[index]!);
    } catch (error) {
      for (const { failed } of taken) failed(error);
    } finally {
      this.#running--;
      this.#next();
    }
  }
}
