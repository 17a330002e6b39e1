/**
 * The log of a build: what a builder printed, kept under `nix/var/log/flk/drvs`, and the end of it at hand for errors.
 *
 * While it builds the log is plain text, `xx/REST.drv`, so that it can be followed and a kill loses nothing. At the end `REST.drv.gz`
 * takes its place. Where both are there the plain one is the newer: a build is running, or was killed.
 */
import {
  closeSync,
  createReadStream,
  createWriteStream,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGunzip, createGzip, gzipSync } from 'node:zlib';
import { asFlkError, errorCodes, FlkError, systemCode } from '../base/errors.ts';
import { unwritable } from '../base/files.ts';
import { baseNameOf, type StorePath } from '../formats/store-path.ts';

/** In code units: an error is read by a person, and the log has the rest. */
const maxShownLine = 1000;
/** A log up to this many bytes is compressed out of memory. */
const smallLog = 64 * 1024;

export class BuildLog {
  readonly #path: string;
  readonly #drvPath: StorePath;
  #file: number | undefined;
  /** All of the log, as long as it is small. */
  #all: Buffer[] | undefined = [];
  #size = 0;
  /** Lines of this turn of the event loop: what came together is written together. */
  #waiting: string[] = [];
  #flush: NodeJS.Immediate | undefined;
  readonly #last: string[] = [];
  #phase: string | undefined;

  private constructor(path: string, drvPath: StorePath) {
    this.#path = path;
    this.#drvPath = drvPath;
  }

  /** Whoever creates it is the only one who builds this derivation. Throws FLK_FILE_UNWRITABLE. */
  static create(root: string, drvPath: StorePath): BuildLog {
    const path = logPath(root, drvPath);
    try {
      mkdirSync(dirname(path), { recursive: true });
      // What a killed build left would else be taken for the newest when this one prints nothing.
      rmSync(path, { force: true });
    } catch (error) {
      throw unwritable(dirname(path), error);
    }
    return new BuildLog(path, drvPath);
  }

  add(line: string): void {
    this.#waiting.push(line);
    this.#flush ??= setImmediate(() => this.#write(this.#take()));
    this.#last.push(line.length <= maxShownLine ? line : `${line.slice(0, maxShownLine)}…`);
    if (this.#last.length > 20) this.#last.shift();
    // As the phases runner announces them.
    this.#phase = /^==> (\w+Phase)$/.exec(line)?.[1] ?? this.#phase;
  }

  /** Compresses the log. Never rejects: a log that cannot be written (a full disk) is no reason to fail, the build itself will say it. */
  async close(): Promise<void> {
    const last = this.#take();
    if (this.#file !== undefined || !this.#all) this.#write(last);
    const onDisk = this.#file !== undefined;
    if (this.#file !== undefined) closeSync(this.#file);
    const staged = `${this.#path}.gz.new`;
    try {
      if (this.#all) writeFileSync(staged, gzipSync(Buffer.concat(this.#all)));
      else await pipeline(createReadStream(this.#path), createGzip(), createWriteStream(staged));
      renameSync(staged, `${this.#path}.gz`);
      if (onDisk) rmSync(this.#path, { force: true });
    } catch {
      await rm(staged, { force: true }).catch(() => {});
    }
  }

  #take(): Buffer {
    clearImmediate(this.#flush);
    this.#flush = undefined;
    const bytes = Buffer.from(this.#waiting.map((line) => `${line}\n`).join(''));
    this.#waiting = [];
    this.#size += bytes.length;
    this.#all?.push(bytes);
    if (this.#size > smallLog) this.#all = undefined;
    return bytes;
  }

  #write(bytes: Buffer): void {
    try {
      this.#file ??= openSync(this.#path, 'w', 0o644);
      writeSync(this.#file, bytes);
    } catch {
      // As for close.
    }
  }

  /** What an engine threw, with the phase and the last lines, so that one need not look for the log. */
  explain(name: string, error: unknown): FlkError {
    const known = asFlkError(error);
    if (!/^FLK_BUILD_(FAILED|TIMEOUT|.*LIMIT|DISK_FULL)$/.test(known.code)) return known.within(name);
    const { log: _, ...facts } = known.facts;
    const inPhase = this.#phase === undefined ? '' : ` in ${this.#phase}`;
    return new FlkError(known.code, `${name}: ${known.message}${inPhase}`, {
      facts: {
        ...facts,
        ...(this.#phase === undefined ? {} : { phase: this.#phase }),
        ...(this.#last.length === 0 ? {} : { 'last lines': this.#last.join('\n') }),
        log: `${this.#path}.gz`,
      },
      hint: known.hint === errorCodes.FLK_BUILD_FAILED.hint ? `flk log ${this.#drvPath}` : known.hint,
      trail: [name, ...known.trail],
      cause: error,
    });
  }
}

/** Where the log of a derivation's last build is kept: this path while it runs, with `.gz` afterwards. */
export function logPath(root: string, drvPath: StorePath): string {
  const base = baseNameOf(drvPath);
  return join(root, 'nix/var/log/flk/drvs', base.slice(0, 2), base.slice(2));
}

/** The log of a derivation's last build as it is now, or undefined. A damaged file makes the stream fail. */
export async function readLog(root: string, drvPath: StorePath): Promise<Readable | undefined> {
  const path = logPath(root, drvPath);
  // A build may end between two looks.
  for (let look = 0; look < 2; look++) {
    const plain = await openIfExists(path);
    if (plain) return plain.createReadStream();
    const packed = await openIfExists(`${path}.gz`);
    if (packed) {
      const text = createGunzip();
      packed
        .createReadStream()
        .on('error', (error) => text.destroy(error))
        .pipe(text);
      return text;
    }
  }
  return undefined;
}

/** Milliseconds between two looks at a log that grows. */
const followEvery = 200;

/** The same, and of a build that runs all that it will print. `isBuilding`: whether anybody builds the derivation. */
export async function followLog(
  root: string,
  drvPath: StorePath,
  isBuilding: () => Promise<boolean>,
  signal: AbortSignal,
): Promise<Readable | undefined> {
  const plain = await openIfExists(logPath(root, drvPath));
  return plain ? Readable.from(growing(plain, isBuilding, signal)) : readLog(root, drvPath);
}

async function* growing(
  file: FileHandle,
  isBuilding: () => Promise<boolean>,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  try {
    for (;;) {
      // At its end the file loses its name; that of a build that was killed does not. What it holds then is all.
      const isOver = !(await isBuilding()) || (await file.stat()).nlink === 0;
      for (;;) {
        const { bytesRead, buffer } = await file.read();
        if (bytesRead === 0) break;
        yield Buffer.from(buffer.subarray(0, bytesRead));
      }
      if (isOver) return;
      await sleep(followEvery, undefined, { signal });
    }
  } finally {
    await file.close();
  }
}

async function openIfExists(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
