/** The log of a build: a file under `nix/var/log/flk/drvs` that keeps what a builder printed, and the end of it at hand for errors. */
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { asFlkError, FlkError } from '../base/errors.ts';
import { unwritable } from '../base/files.ts';
import { baseNameOf, type StorePath } from '../formats/store-path.ts';

/** In code units: an error is read by a person, and the log has the rest. */
const maxShownLine = 1000;

export class BuildLog {
  readonly #path: string;
  readonly #stream: ReturnType<typeof createWriteStream>;
  readonly #last: string[] = [];
  #phase: string | undefined;

  private constructor(path: string) {
    this.#path = path;
    this.#stream = createWriteStream(path);
    // A log that cannot be written (a full disk) is no reason to fail: the build itself will say it.
    this.#stream.on('error', () => {});
  }

  static async create(root: string, drvPath: StorePath): Promise<BuildLog> {
    const path = logPath(root, drvPath);
    await mkdir(dirname(path), { recursive: true }).catch((error: unknown) => {
      throw unwritable(dirname(path), error);
    });
    return new BuildLog(path);
  }

  add(line: string): void {
    this.#stream.write(`${line}\n`);
    this.#last.push(line.length <= maxShownLine ? line : `${line.slice(0, maxShownLine)}…`);
    if (this.#last.length > 20) this.#last.shift();
    // As the phases runner announces them.
    this.#phase = /^==> (\w+Phase)$/.exec(line)?.[1] ?? this.#phase;
  }

  close(): Promise<void> {
    return new Promise((done) => {
      this.#stream.once('close', done);
      this.#stream.end();
      if (this.#stream.closed) done();
    });
  }

  /** What an engine threw, with the phase and the last lines, so that one need not look for the log. */
  explain(name: string, error: unknown): FlkError {
    const known = asFlkError(error);
    if (!['FLK_BUILD_FAILED', 'FLK_BUILD_TIMEOUT', 'FLK_BUILD_OUTPUT_LIMIT'].includes(known.code))
      return known.within(name);
    const { log: _, ...facts } = known.facts;
    const inPhase = this.#phase === undefined ? '' : ` in ${this.#phase}`;
    return new FlkError(known.code, `${name}: ${known.message}${inPhase}`, {
      facts: {
        ...facts,
        ...(this.#phase === undefined ? {} : { phase: this.#phase }),
        ...(this.#last.length === 0 ? {} : { 'last lines': this.#last.join('\n') }),
        log: this.#path,
      },
      hint: known.hint,
      trail: [name, ...known.trail],
      cause: error,
    });
  }
}

/** Where the log of a derivation's last build is kept: `nix/var/log/flk/drvs/xx/REST.drv`, plain text. */
export function logPath(root: string, drvPath: StorePath): string {
  const base = baseNameOf(drvPath);
  return join(root, 'nix/var/log/flk/drvs', base.slice(0, 2), base.slice(2));
}
