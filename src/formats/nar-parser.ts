/** NAR archives from outside, read chunk by chunk into a walk. Checked against Nix 2.34, and stricter than it. */
import { FlkError } from '../base/errors.ts';
import { isNodeName, maxDepth, maxNameLength, maxTargetLength, padded, type TreeSink } from './nar.ts';

const nothing: Buffer = Buffer.alloc(0);

export interface NarLimits {
  /** Bytes of the whole archive. Default: none, the caller counts. */
  readonly maxSize?: number;
  /** Folders within folders. Default 1024. */
  readonly maxDepth?: number;
}

/** What comes next in the archive. */
type Expected =
  | 'magic'
  | 'node'
  | 'type'
  | 'kind'
  | 'contents'
  | 'executable-value'
  | 'executable-contents'
  | 'file-size'
  | 'file-data'
  | 'file-padding'
  | 'target-word'
  | 'target'
  | 'entry'
  | 'entry-open'
  | 'name-word'
  | 'name'
  | 'node-word'
  | 'close'
  | 'entry-close'
  | 'nothing';

/** Where only one word fits, or one besides those that `#string` knows: the word, and what follows it. */
const fixedWords: Partial<Record<Expected, readonly [word: string, next: Expected]>> = {
  magic: ['nix-archive-1', 'node'],
  node: ['(', 'type'],
  type: ['type', 'kind'],
  contents: ['contents', 'file-size'],
  'executable-value': ['', 'executable-contents'],
  'executable-contents': ['contents', 'file-size'],
  'target-word': ['target', 'target'],
  entry: ['entry', 'entry-open'],
  'entry-open': ['(', 'name-word'],
  'name-word': ['name', 'name'],
  'node-word': ['node', 'node'],
  'entry-close': [')', 'entry'],
};

/**
 * Reads a NAR from chunks of any size and walks a sink over it. Strict: what it accepts is exactly what NarWriter would write for
 * the same walk. Everything else is FLK_NAR_INVALID, naming the byte; a sink may have seen a part of the tree by then.
 */
export class NarParser {
  readonly #sink: TreeSink;
  readonly #maxSize: number;
  readonly #maxDepth: number;
  /** The beginning of a string whose end has not come yet. */
  #held: Buffer = nothing;
  #position = 0;
  #expected: Expected = 'magic';
  readonly #names: Buffer[] = [];
  #executable = false;
  #missing = 0;
  #padding = 0;

  constructor(sink: TreeSink, limits: NarLimits = {}) {
    this.#sink = sink;
    this.#maxSize = limits.maxSize ?? Number.MAX_SAFE_INTEGER;
    this.#maxDepth = limits.maxDepth ?? maxDepth;
  }

  push(chunk: Buffer): void {
    if (this.#position + this.#held.length + chunk.length > this.#maxSize)
      throw new FlkError('FLK_LIMIT', `a NAR has more than ${this.#maxSize} bytes`);
    if (this.take(chunk) < chunk.length) throw this.#fault('has bytes past its end');
  }

  /** The same where a stream goes on after the archive: how many of the chunk's bytes belong to it. */
  take(chunk: Buffer): number {
    const input = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const used = this.#parse(input);
    // The caller may reuse its chunk.
    this.#held = this.whole || used === input.length ? nothing : Buffer.from(input.subarray(used));
    return this.whole ? chunk.length - (input.length - used) : chunk.length;
  }

  /** Whether the archive's last byte has come. */
  get whole(): boolean {
    return this.#expected === 'nothing';
  }

  /** The archive is over: throws FLK_NAR_INVALID when it was not whole. */
  end(): void {
    if (!this.whole) throw this.#fault(`ends where ${this.#expected} belongs`);
  }

  /** Takes what is whole and tells how many bytes that was. */
  #parse(input: Buffer): number {
    let at = 0;
    const start = this.#position;
    while (at < input.length) {
      if (this.#expected === 'file-data') {
        const part = input.subarray(at, at + Math.min(input.length - at, this.#missing));
        this.#sink.data(part);
        this.#missing -= part.length;
        at += part.length;
        if (this.#missing === 0) this.#expected = 'file-padding';
      } else if (this.#expected === 'file-size') {
        if (input.length - at < 8) break;
        const size = this.#readLength(input, at);
        if (size > this.#maxSize) throw this.#fault(`a file of ${size} bytes`);
        at += 8;
        this.#missing = size;
        this.#padding = padded(size) - size;
        this.#sink.file(size, this.#executable);
        this.#expected = size > 0 ? 'file-data' : 'file-padding';
      } else if (this.#expected === 'nothing') {
        break;
      } else if (this.#expected !== 'file-padding') {
        if (input.length - at < 8) break;
        const length = this.#readLength(input, at);
        if (length > this.#longest())
          throw this.#fault(`a string of ${length} bytes where ${this.#expected} belongs`);
        const end = at + 8 + padded(length);
        if (end > input.length) break;
        for (let i = at + 8 + length; i < end; i++)
          if (input[i] !== 0) throw this.#fault('padding that is not zero');
        this.#string(input.subarray(at + 8, at + 8 + length));
        at = end;
      }
      if (this.#expected === 'file-padding') {
        if (input.length - at < this.#padding) {
          this.#position = start + at;
          break;
        }
        for (let i = at; i < at + this.#padding; i++)
          if (input[i] !== 0) throw this.#fault('padding that is not zero');
        at += this.#padding;
        this.#sink.endFile();
        this.#expected = 'close';
      }
      this.#position = start + at;
    }
    return at;
  }

  #readLength(input: Buffer, at: number): number {
    const high = input.readUInt32LE(at + 4);
    if (high >= 2 ** 21) throw this.#fault('a length beyond any file');
    return high * 2 ** 32 + input.readUInt32LE(at);
  }

  #longest(): number {
    if (this.#expected === 'name') return maxNameLength;
    return this.#expected === 'target' ? maxTargetLength : 16;
  }

  /** One whole string, at a place where a string belongs. */
  #string(value: Buffer): void {
    const fixed = fixedWords[this.#expected];
    if (fixed && isWord(value, fixed[0])) this.#expected = fixed[1];
    else if (this.#expected === 'kind') this.#kind(value);
    else if (this.#expected === 'name') this.#name(value);
    else if (this.#expected === 'target') this.#target(value);
    else if (this.#expected === 'contents' && isWord(value, 'executable')) {
      this.#executable = true;
      this.#expected = 'executable-value';
    } else if (this.#expected === 'entry' && isWord(value, ')')) {
      this.#sink.endDirectory();
      this.#names.pop();
      this.#expected = this.#afterNode();
    } else if (this.#expected === 'close' && isWord(value, ')')) this.#expected = this.#afterNode();
    else throw this.#fault(`${quoted(value)} where ${fixed?.[0] ?? this.#expected} belongs`);
  }

  #afterNode(): Expected {
    return this.#names.length > 0 ? 'entry-close' : 'nothing';
  }

  #kind(value: Buffer): void {
    if (isWord(value, 'directory')) {
      if (this.#names.length >= this.#maxDepth) throw this.#fault(`more than ${this.#maxDepth} folders deep`);
      this.#names.push(nothing);
      this.#sink.directory();
      this.#expected = 'entry';
    } else if (isWord(value, 'regular')) {
      this.#executable = false;
      this.#expected = 'contents';
    } else if (isWord(value, 'symlink')) this.#expected = 'target-word';
    else throw this.#fault(`the unknown node type ${quoted(value)}`);
  }

  #name(value: Buffer): void {
    const last = this.#names.length - 1;
    if (!isNodeName(value)) throw this.#fault(`the forbidden name ${quoted(value)}`);
    if (Buffer.compare(this.#names[last]!, value) >= 0)
      throw this.#fault(`${quoted(value)} twice or out of order`);
    this.#names[last] = Buffer.from(value);
    this.#sink.entry(value);
    this.#expected = 'node-word';
  }

  #target(value: Buffer): void {
    if (value.length === 0 || value.includes(0)) throw this.#fault('a symlink without a usable target');
    this.#sink.symlink(value);
    this.#expected = 'close';
  }

  #fault(what: string): FlkError {
    return new FlkError('FLK_NAR_INVALID', `not a valid NAR at byte ${this.#position}: ${what}`);
  }
}

function isWord(value: Buffer, word: string): boolean {
  if (value.length !== word.length) return false;
  for (let i = 0; i < word.length; i++) if (value[i] !== word.charCodeAt(i)) return false;
  return true;
}

const quoted = (value: Buffer): string => JSON.stringify(value.toString('utf8').slice(0, 80));
