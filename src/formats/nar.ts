/**
 * A file tree as Nix sees it (names, bytes, executable bits, symlinks; nothing else), walked once, in byte order of names;
 * and the NAR archive, its serialisation. Format: the Nix thesis, section 5.2.1; checked against Nix 2.34.
 */
import { createHash } from 'node:crypto';
import { FlkError } from '../base/errors.ts';
import { type NarHash, narHashOf } from './hash.ts';

/**
 * Takes one walk of a tree. The caller keeps the order: a node is `directory … endDirectory`, `file data… endFile` or `symlink`;
 * in a directory each node is announced by `entry`, names ascending by bytes. Calls are synchronous; a sink may throw.
 * Buffers belong to the caller and may be reused after the call: a sink that keeps bytes copies them.
 */
export interface TreeSink {
  directory(): void;
  entry(name: Buffer): void;
  endDirectory(): void;
  /** The `data` calls that follow add up to `size` bytes. */
  file(size: number, executable: boolean): void;
  data(chunk: Buffer): void;
  endFile(): void;
  symlink(target: Buffer): void;
}

/** Something that can be walked, again and again, giving the same nodes each time. */
export interface Tree {
  walk(sink: TreeSink, signal?: AbortSignal): Promise<void>;
}

/** A walk broke off, or gave something wrong, but what was wrong with its tree is mended: the next walk gives the right nodes. */
export class TreeMended extends FlkError {}

/** Runs what walks a tree, once more if the tree was mended meanwhile; `walk` begins with new sinks each time. */
export async function walkMended<T>(walk: () => Promise<T>): Promise<T> {
  try {
    return await walk();
  } catch (error) {
    if (!(error instanceof TreeMended)) throw error;
    return await walk();
  }
}

/** What Linux's file systems hold: a name has at most 255 bytes, a symlink's target 4095. */
export const maxNameLength = 255;
export const maxTargetLength = 4095;
/** Folders within folders: what a path of 4096 bytes can name, halved. Walkers and readers recurse no deeper. */
export const maxDepth = 1024;

/** Whether a node in a folder may have this name: not empty, not `.` or `..`, no slash, no NUL, at most 255 bytes. */
export function isNodeName(name: Buffer): boolean {
  const { length } = name;
  if (length === 0 || length > maxNameLength) return false;
  if (name[0] === 0x2e && (length === 1 || (length === 2 && name[1] === 0x2e))) return false;
  for (let i = 0; i < length; i++) if (name[i] === 0x2f || name[i] === 0) return false;
  return true;
}

/** Strings one after the other, as NAR writes them: length in 8 bytes, little-endian; bytes; zeros up to a multiple of 8. */
function strings(...texts: string[]): Buffer {
  return Buffer.concat(
    texts.map((text) => {
      const encoded = Buffer.alloc(8 + padded(text.length));
      encoded.writeUInt32LE(text.length);
      encoded.write(text, 8, 'latin1');
      return encoded;
    }),
  );
}

/** A size with NAR's padding. */
export const padded = (size: number): number => Math.ceil(size / 8) * 8;
const zeros = Buffer.alloc(8);

const magic = strings('nix-archive-1');
const openDirectory = strings('(', 'type', 'directory');
const openEntry = strings('entry', '(', 'name');
const openNode = strings('node');
const openRegular = strings('(', 'type', 'regular', 'contents');
const openExecutable = strings('(', 'type', 'regular', 'executable', '', 'contents');
const openSymlink = strings('(', 'type', 'symlink', 'target');
const close = strings(')');
const closeTwice = strings(')', ')');

/** Bytes that are gathered: few at first, since a flake of thousands of packages has as many small sources being hashed at once. */
const firstBuffer = 2 * 1024;
const fullBuffer = 256 * 1024;

/**
 * Writes the NAR of one walk through a callback, in chunks of about 256 KiB: small writes are gathered, large data passes
 * through uncopied. A chunk belongs to the writer and is only good during the call. A walk out of order, with a forbidden name or
 * with a file of another size than announced is FLK_INTERNAL: no archive is better than one with another meaning.
 */
export class NarWriter implements TreeSink {
  readonly #write: (chunk: Buffer) => void;
  #buffer = Buffer.allocUnsafeSlow(firstBuffer);
  #used = 0;
  #size = 0;
  /** The last name in each open folder, outermost first. */
  readonly #names: Buffer[] = [];
  /** Bytes that the open file still lacks; -1 outside a file. */
  #missing = -1;
  #fileSize = 0;
  /** Whether a node may begin here: at the start, and after an entry's name. */
  #expectsNode = true;
  #started = false;

  constructor(write: (chunk: Buffer) => void) {
    this.#write = write;
  }

  /** Bytes of archive so far. */
  get size(): number {
    return this.#size + this.#used;
  }

  directory(): void {
    this.#open(openDirectory);
    this.#names.push(zeros.subarray(0, 0));
  }

  entry(name: Buffer): void {
    const top = this.#names.length - 1;
    if (top < 0 || this.#expectsNode || this.#missing >= 0) throw disorder('an entry outside a folder');
    if (!isNodeName(name)) throw disorder(`the forbidden name ${JSON.stringify(name.toString())}`);
    if (Buffer.compare(this.#names[top]!, name) >= 0)
      throw disorder(`${name} after ${this.#names[top]}, which is not byte order`);
    this.#names[top] = Buffer.from(name);
    this.#bytes(openEntry);
    this.#string(name);
    this.#bytes(openNode);
    this.#expectsNode = true;
  }

  endDirectory(): void {
    if (this.#expectsNode || this.#missing >= 0 || this.#names.pop() === undefined)
      throw disorder('the end of a folder that is not open');
    this.#bytes(this.#names.length > 0 ? closeTwice : close);
  }

  file(size: number, executable: boolean): void {
    if (!Number.isSafeInteger(size) || size < 0) throw disorder(`a file of ${size} bytes`);
    this.#open(executable ? openExecutable : openRegular);
    this.#length(size);
    this.#fileSize = size;
    this.#missing = size;
  }

  data(chunk: Buffer): void {
    if (chunk.length > this.#missing) throw disorder('more data than the file was said to have');
    this.#missing -= chunk.length;
    if (chunk.length >= 16 * 1024) {
      this.#flush();
      this.#size += chunk.length;
      this.#write(chunk);
    } else this.#bytes(chunk);
  }

  endFile(): void {
    if (this.#missing !== 0) throw disorder('less data than the file was said to have');
    this.#missing = -1;
    this.#pad(this.#fileSize);
    this.#bytes(this.#names.length > 0 ? closeTwice : close);
  }

  symlink(target: Buffer): void {
    this.#open(openSymlink);
    this.#string(target);
    this.#bytes(this.#names.length > 0 ? closeTwice : close);
  }

  /** Hands out what is left. The tree must be whole. */
  end(): void {
    if (!this.#started || this.#expectsNode || this.#missing >= 0 || this.#names.length > 0)
      throw disorder('an end before the tree was whole');
    this.#flush();
  }

  #open(head: Buffer): void {
    if (!this.#expectsNode || this.#missing >= 0) throw disorder('a node where none belongs');
    if (!this.#started) {
      this.#started = true;
      this.#bytes(magic);
    }
    this.#expectsNode = false;
    this.#bytes(head);
  }

  #bytes(data: Buffer): void {
    if (this.#used + data.length > this.#buffer.length) this.#makeRoom(data.length);
    // Most writes are a few words; calling out to copy them costs more than the loop.
    if (data.length < 64) for (let i = 0; i < data.length; i++) this.#buffer[this.#used++] = data[i]!;
    else this.#used += data.copy(this.#buffer, this.#used);
  }

  #string(data: Buffer): void {
    this.#length(data.length);
    this.#bytes(data);
    this.#pad(data.length);
  }

  #length(value: number): void {
    if (this.#used + 8 > this.#buffer.length) this.#makeRoom(8);
    this.#buffer.writeUInt32LE(value % 2 ** 32, this.#used);
    this.#buffer.writeUInt32LE(Math.floor(value / 2 ** 32), this.#used + 4);
    this.#used += 8;
  }

  #pad(size: number): void {
    const rest = padded(size) - size;
    if (rest > 0) this.#bytes(zeros.subarray(0, rest));
  }

  #makeRoom(wanted: number): void {
    const size = Math.min(fullBuffer, Math.max(8 * this.#buffer.length, this.#used + wanted));
    if (this.#used + wanted > size) this.#flush();
    if (this.#buffer.length === fullBuffer) return;
    const larger = Buffer.allocUnsafeSlow(size);
    this.#buffer.copy(larger, 0, 0, this.#used);
    this.#buffer = larger;
  }

  #flush(): void {
    if (this.#used === 0) return;
    this.#size += this.#used;
    const chunk = this.#buffer.subarray(0, this.#used);
    this.#used = 0;
    this.#write(chunk);
  }
}

function disorder(what: string): FlkError {
  return new FlkError('FLK_INTERNAL', `a tree was walked out of order: ${what}`);
}

/** The NAR hash and size of one walk. */
export class NarHasher extends NarWriter {
  readonly #finish: () => Buffer;

  constructor() {
    const hash = createHash('sha256');
    super((chunk) => void hash.update(chunk));
    this.#finish = () => hash.digest();
  }

  /** Once, after the walk. `narSize` in bytes. */
  digest(): { readonly narHash: NarHash; readonly narSize: number } {
    this.end();
    return { narHash: narHashOf(this.#finish()), narSize: this.size };
  }
}

/** Walks a tree for nothing but its hash. */
export async function hashTree(
  tree: Tree,
  signal?: AbortSignal,
): Promise<{ readonly narHash: NarHash; readonly narSize: number }> {
  return walkMended(async () => {
    const hasher = new NarHasher();
    await tree.walk(hasher, signal);
    return hasher.digest();
  });
}
