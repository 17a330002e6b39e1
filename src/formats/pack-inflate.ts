/** zlib streams one after another, out of chunks that begin and end anywhere: what a Git pack is made of. */
import { createInflate, inflateSync } from 'node:zlib';
import { FlkError, systemCode } from '../base/errors.ts';

/**
 * Inflates one stream at a time. After `begin`, `run` is called with chunk after chunk until `made` adds up and input is left over:
 * only the end of the stream, or a full output, stops it from taking all. So the output needs one byte more than is expected.
 */
export interface Inflater {
  begin(): void;
  /** Inflates `input[from…]` into `output[at…limit)`. Throws FLK_GIT_PACK for what is not zlib. */
  run(input: Buffer, from: number, output: Buffer, at: number, limit: number): void;
  /** Bytes of input that the last `run` took. */
  readonly used: number;
  /** Bytes of output that the last `run` gave. */
  readonly made: number;
}

/** The fastest that this Node offers. */
export function createInflater(): Inflater {
  return HandleInflater.create() ?? new OneShotInflater();
}

/** The parts of Node's zlib binding that allow one handle to be used for many streams. Not public, hence looked for. */
interface ZlibHandle {
  reset(): void;
  writeSync(
    flush: number,
    input: Buffer,
    from: number,
    length: number,
    output: Buffer,
    at: number,
    room: number,
  ): void;
  onerror: (message: string, errno: number, code: string) => void;
}

const syncFlush = 2;

/** One zlib handle for all streams: about ten times cheaper per small object than `inflateSync`, and it can stop and go on. */
class HandleInflater implements Inflater {
  readonly #handle: ZlibHandle;
  /** Written by the binding after each call: output room left, input left. */
  readonly #state: Uint32Array;
  #failure: string | undefined;
  used = 0;
  made = 0;

  private constructor(handle: ZlibHandle, state: Uint32Array) {
    this.#handle = handle;
    this.#state = state;
    handle.onerror = (message) => {
      this.#failure = message;
    };
  }

  static create(): HandleInflater | undefined {
    const inflate: object = createInflate({ chunkSize: 64 });
    const handle: unknown = '_handle' in inflate ? inflate._handle : undefined;
    const state: unknown = '_writeState' in inflate ? inflate._writeState : undefined;
    if (!isZlibHandle(handle) || !(state instanceof Uint32Array)) return undefined;
    const inflater = new HandleInflater(handle, state);
    return worksOn(inflater) ? inflater : undefined;
  }

  begin(): void {
    this.#handle.reset();
  }

  run(input: Buffer, from: number, output: Buffer, at: number, limit: number): void {
    const available = input.length - from;
    this.#handle.writeSync(syncFlush, input, from, available, output, at, limit - at);
    if (this.#failure !== undefined) {
      const message = this.#failure;
      this.#failure = undefined;
      throw notZlib(message);
    }
    this.made = limit - at - this.#state[0]!;
    this.used = available - this.#state[1]!;
  }
}

function isZlibHandle(value: unknown): value is ZlibHandle {
  return (
    typeof value === 'object' &&
    value !== null &&
    'writeSync' in value &&
    typeof value.writeSync === 'function' &&
    'reset' in value &&
    typeof value.reset === 'function'
  );
}

/** `x` deflated, then another byte: a stream whose end must be found. */
const sample = Buffer.from('789cab00000079007951', 'hex');

function worksOn(inflater: Inflater): boolean {
  try {
    const output = Buffer.alloc(2);
    for (const cut of [4, 9]) {
      inflater.begin();
      inflater.run(sample.subarray(0, cut), 0, output, 0, 2);
      const made = inflater.made;
      inflater.run(sample, cut, output, made, 2);
      if (made + inflater.made !== 1 || output[0] !== 0x78 || cut + inflater.used !== sample.length - 1)
        return false;
    }
    return true;
  } catch {
    return false;
  }
}

/**
 * For a Node whose binding looks different: the public API, which inflates only whole streams. Input is gathered and tried again
 * with every chunk, so it is slow for large files, and those that are read in pieces are beyond it.
 */
export class OneShotInflater implements Inflater {
  #input: Buffer = Buffer.alloc(0);
  #ended = false;
  used = 0;
  made = 0;

  begin(): void {
    this.#input = Buffer.alloc(0);
    this.#ended = false;
  }

  run(input: Buffer, from: number, output: Buffer, at: number, limit: number): void {
    this.made = 0;
    this.used = this.#ended ? 0 : input.length - from;
    if (this.#ended) return;
    const before = this.#input.length;
    this.#input = Buffer.concat([this.#input, input.subarray(from)]);
    const whole = inflateWhole(this.#input, limit - at);
    if (whole === undefined) return;
    this.#ended = true;
    this.made = whole.data.copy(output, at);
    this.used = whole.used - before;
  }
}

/** undefined where the stream goes on. */
function inflateWhole(input: Buffer, maxOutputLength: number): { data: Buffer; used: number } | undefined {
  try {
    // With `info` Node gives the engine too, which knows how much it took; its types do not say so.
    const answer: unknown = inflateSync(input, { info: true, maxOutputLength });
    if (typeof answer !== 'object' || answer === null || !('buffer' in answer) || !('engine' in answer))
      throw new FlkError('FLK_INTERNAL', 'this Node’s zlib does not tell how much it read');
    const { buffer, engine } = answer;
    const used =
      typeof engine === 'object' && engine !== null && 'bytesWritten' in engine
        ? Number(engine.bytesWritten)
        : Number.NaN;
    if (!Buffer.isBuffer(buffer) || !Number.isSafeInteger(used))
      throw new FlkError('FLK_INTERNAL', 'this Node’s zlib does not tell how much it read');
    return { data: buffer, used };
  } catch (error) {
    if (systemCode(error) === 'Z_BUF_ERROR') return undefined;
    if (error instanceof FlkError) throw error;
    throw notZlib(error instanceof Error ? error.message : String(error));
  }
}

function notZlib(message: string): FlkError {
  return new FlkError('FLK_GIT_PACK', `an object in the pack cannot be inflated: ${message}`);
}
