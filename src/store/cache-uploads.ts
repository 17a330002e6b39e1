/**
 * What clients put into a binary cache, as Nix's and flk's own send it: the archive first, then the narinfo that tells of it. Archives
 * wait in a stage; with its narinfo a path is checked, unpacked and registered, so that nothing becomes valid by halves.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { FlkError, systemCode } from '../base/errors.ts';
import { decompress } from '../formats/archives/decompress.ts';
import { fileHasher, provenAddress } from '../formats/content-address.ts';
import { type NarHash, narHashOf, toNixBase32 } from '../formats/hash.ts';
import { NarHasher } from '../formats/nar.ts';
import { NarParser } from '../formats/nar-parser.ts';
import { fingerprint, maxNarInfoSize, type NarInfo, parseNarInfo } from '../formats/narinfo.ts';
import { isSignedBy, type PublicKey } from '../formats/signature.ts';
import { hashPart, parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import { tee } from '../formats/tree-sinks.ts';
import { narOffer, type Offer } from './cache-offers.ts';
import type { Leases } from './leases.ts';
import { readNar } from './nar-stream.ts';
import { takenOver } from './path-info.ts';
import type { Store } from './store.ts';
import { restoreTree } from './tree-files.ts';

export interface UploadOptions {
  /** A path needs a signature by one of these, or a content address. None: whoever may upload is believed. */
  readonly trustedKeys?: readonly PublicKey[];
  /** Of one archive as it is sent, in bytes. Default 32 GiB. */
  readonly maxArchive?: number;
  /** Of all archives that wait for their narinfo. Default 64 GiB. */
  readonly maxWaiting?: number;
  /** Milliseconds that an archive may wait for its narinfo. Default one hour. */
  readonly patience?: number;
}

/** An upload that is not taken: why, as an HTTP status and one line for whoever sent it. */
export class UploadRefused extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

interface Waiting {
  readonly file: string;
  readonly size: number;
  readonly hash: NarHash;
  readonly since: number;
}

const gibibyte = 2 ** 30;
/** Listings and the like, which are read to their end and dropped. */
const maxDropped = 256 * 2 ** 20;
const maxRealisation = 64 * 1024;
const mostWaiting = 100_000;
/** What clients call an archive: its hash, and how it is packed. */
const archiveName = /^nar\/([0-9a-zA-Z][0-9a-zA-Z+\-._=]{0,200}\.nar(?:\.[0-9a-z]{1,8})?)$/;
const ownHash = /^nar\/([0-9abcdfghijklmnpqrsvwxyz]{52})\.nar/;
const narInfoName = /^([0-9abcdfghijklmnpqrsvwxyz]{32})\.narinfo$/;
const listingName = /^[0-9abcdfghijklmnpqrsvwxyz]{32}\.ls$/;
const realisationName = /^realisations\/[0-9a-zA-Z][0-9a-zA-Z+\-._!:^=/]{0,254}$/;

export class CacheUploads {
  readonly #leases: Leases;
  readonly #options: Required<UploadOptions>;
  /** By address. */
  readonly #waiting = new Map<string, Waiting>();
  #stage: Promise<{ readonly path: string; dispose(): Promise<void> }> | undefined;
  #serial = 0;

  constructor(leases: Leases, options: UploadOptions = {}) {
    this.#leases = leases;
    this.#options = {
      trustedKeys: options.trustedKeys ?? [],
      maxArchive: options.maxArchive ?? 32 * gibibyte,
      maxWaiting: options.maxWaiting ?? 64 * gibibyte,
      patience: options.patience ?? 3_600_000,
    };
  }

  /** Takes what is put at an address; `length` is what the client says it sends. Throws UploadRefused. */
  async put(address: string, body: AsyncIterable<Buffer>, length: number | undefined): Promise<void> {
    if (length !== undefined && length > this.#options.maxArchive) throw tooLarge(this.#options.maxArchive);
    if (archiveName.test(address)) return await this.#putArchive(address, body);
    const narInfo = narInfoName.exec(address)?.[1];
    if (narInfo !== undefined) return await this.#putNarInfo(narInfo, await whole(body, maxNarInfoSize));
    if (address === 'nix-cache-info') return checkCacheInfo(await whole(body, maxNarInfoSize));
    // flk lists what is there itself.
    if (listingName.test(address)) return await drop(body, maxDropped);
    if (realisationName.test(address)) {
      const text = await whole(body, maxRealisation);
      return await this.#leases.use(async (store) =>
        store.setMemo(memoOf(address), text, realisedPath(store, text)),
      );
    }
    throw new UploadRefused(405, 'nothing can be put here');
  }

  /** What was put at an address and is not among what the store offers by itself. */
  async find(address: string): Promise<Offer | undefined> {
    const waiting = this.#waiting.get(address);
    if (waiting)
      return {
        type: 'application/x-nix-nar',
        size: waiting.size,
        tag: waiting.hash,
        read: (from, to) =>
          to > from ? createReadStream(waiting.file, { start: from, end: to - 1 }) : Readable.from([]),
      };
    return await this.#leases.use(async (store) => {
      if (realisationName.test(address)) {
        const text = store.memo(memoOf(address));
        const bytes = text === undefined ? undefined : Buffer.from(text);
        return (
          bytes && {
            type: 'application/json',
            size: bytes.length,
            read: (from, to) => Readable.from([bytes.subarray(from, to)]),
          }
        );
      }
      const info = this.#uploaded(store, address);
      const packed = address.endsWith('.nar')
        ? 'none'
        : address.endsWith('.xz')
          ? 'xz'
          : address.endsWith('.zst')
            ? 'zstd'
            : undefined;
      return info && packed && narOffer(this.#leases, info, packed);
    });
  }

  /** Removes what still waits. */
  async close(): Promise<void> {
    this.#waiting.clear();
    await (await this.#stage)?.dispose();
  }

  /**
   * A client remembers where it put a path's archive (Nix for thirty days), but with the path's registration that file is gone: its
   * address leads to the path from then on, which gives the same archive again.
   */
  #uploaded(store: Store, address: string): ReturnType<Store['find']> {
    const part = archiveName.test(address) ? store.memo(memoOf(address)) : undefined;
    return part === undefined ? undefined : store.find(part);
  }

  async #folder(): Promise<string> {
    this.#stage ??= this.#leases.use((store) => store.stage());
    return (await this.#stage).path;
  }

  async #putArchive(address: string, body: AsyncIterable<Buffer>): Promise<void> {
    await this.#forgetOld();
    const waitingBytes = [...this.#waiting.values()].reduce((sum, { size }) => sum + size, 0);
    const room = Math.min(this.#options.maxArchive, this.#options.maxWaiting - waitingBytes);
    if (room <= 0 || this.#waiting.size >= mostWaiting)
      throw new UploadRefused(507, 'too much waits for its narinfo already');
    const place = join(await this.#folder(), `${this.#serial++}`);
    try {
      const { size, hash } = await save(body, `${place}.part`, room);
      const promised = ownHash.exec(address)?.[1];
      if (promised !== undefined && promised !== toNixBase32(hash))
        throw new UploadRefused(
          400,
          `this is not the file with the SHA-256 ${promised}, but with ${toNixBase32(hash)}`,
        );
      await rename(`${place}.part`, place);
      const before = this.#waiting.get(address);
      this.#waiting.set(address, { file: place, size, hash: narHashOf(hash), since: Date.now() });
      if (before) await rm(before.file, { force: true });
    } catch (error) {
      await rm(`${place}.part`, { force: true });
      throw systemCode(error) === 'ENOSPC' ? new UploadRefused(507, 'the disk is full') : error;
    }
  }

  async #forgetOld(): Promise<void> {
    const oldest = Date.now() - this.#options.patience;
    for (const [address, { since }] of [...this.#waiting]) if (since < oldest) await this.#forget(address);
  }

  async #forget(address: string): Promise<void> {
    const waiting = this.#waiting.get(address);
    this.#waiting.delete(address);
    if (waiting) await rm(waiting.file, { force: true });
  }

  async #putNarInfo(part: string, text: string): Promise<void> {
    const info = readNarInfo(part, text);
    const proven = provenAddress(info);
    const { trustedKeys } = this.#options;
    const isSigned = info.signatures.some((signature) =>
      isSignedBy(fingerprint(info), signature, trustedKeys),
    );
    if (trustedKeys.length > 0 && !isSigned && !proven)
      throw new UploadRefused(403, `${info.path} is signed by none of the keys that are trusted here`);
    await this.#leases.use((store) => {
      store.hold([info.path, ...info.references]);
      // Whoever puts the same path at the same time finds it there.
      return store.withPathLocks([info.path], () => this.#register(store, info));
    });
    await this.#forget(info.url);
  }

  async #register(store: Store, info: NarInfo): Promise<void> {
    const { path, narHash, narSize, references, signatures } = info;
    const proven = provenAddress(info);
    const known = store.query(path);
    if (known) {
      if (known.narHash !== narHash)
        throw new UploadRefused(409, `${path} is here already, with other content (${known.narHash})`);
      store.addSignatures(path, signatures);
      return;
    }
    for (const reference of references)
      if (reference !== path && !store.query(reference))
        throw new UploadRefused(422, `${path} refers to ${reference}, which is not here`);
    const stage = await store.stage();
    try {
      const staged = join(stage.path, 'tree');
      const found = await unpack(await this.#source(store, info), staged, narSize);
      if (found.narHash !== narHash || found.narSize !== narSize)
        throw new UploadRefused(
          422,
          `the archive of ${path} is not what its narinfo promises: ${found.narHash} with ${found.narSize} bytes, not ${narHash} with ${narSize}`,
        );
      if (proven && proven.hash !== (proven.of === 'nar' ? found.narHash : found.fileHash))
        throw new UploadRefused(422, `${path} does not have the content that its CA promises`);
      await store.register([{ info: takenOver(info, proven && info.ca), staged }]);
      if (archiveName.test(info.url)) store.setMemo(memoOf(info.url), hashPart(path), path);
    } finally {
      await stage.dispose();
    }
  }

  /** The archive that a narinfo speaks of, unpacked. */
  async #source(store: Store, info: NarInfo): Promise<AsyncIterable<Buffer>> {
    const waiting = this.#waiting.get(info.url);
    const file = waiting && (await openIfThere(waiting.file));
    if (!waiting || !file) {
      // Another path with the same content may have used it up.
      const same = this.#uploaded(store, info.url);
      if (!same) throw new UploadRefused(422, `${info.url} was not put here before its narinfo`);
      return readNar(store.physical(same.path));
    }
    const { size, hash } = waiting;
    if ((info.fileHash ?? hash) !== hash || (info.fileSize ?? size) !== size) {
      await file.close();
      throw new UploadRefused(422, `${info.url} is not the file that the narinfo of ${info.path} speaks of`);
    }
    return decompress(file.createReadStream({ highWaterMark: 256 * 1024 }), info.compression);
  }
}

/** The path that a realisation speaks of, if it is there. Format: Nix's, `{"outPath": "HASH-NAME", …}`. */
function realisedPath(store: Store, text: string): StorePath | undefined {
  try {
    const path = parseStorePath(`${storeDir}/${(JSON.parse(text) as { readonly outPath: unknown }).outPath}`);
    return store.query(path) && path;
  } catch {
    return undefined;
  }
}

const memoOf = (address: string): string => `cache-upload:${address}`;

const tooLarge = (max: number): UploadRefused => new UploadRefused(413, `at most ${max} bytes are taken`);

function readNarInfo(part: string, text: string): NarInfo {
  try {
    const path = parseStorePath(/^StorePath: (.*)$/m.exec(text)?.[1] ?? '');
    if (hashPart(path) !== part)
      throw new UploadRefused(400, `this is the narinfo of ${path}, put at another's place`);
    return parseNarInfo(text, path);
  } catch (error) {
    throw error instanceof FlkError ? new UploadRefused(400, error.message) : error;
  }
}

function checkCacheInfo(text: string): void {
  const other = /^StoreDir:\s*(.*?)\s*$/m.exec(text)?.[1];
  if (other !== storeDir) throw new UploadRefused(400, `this is a cache of ${storeDir}`);
}

/** Writes a tree. Never reads more of it than it was said to have. */
async function unpack(
  source: AsyncIterable<Buffer>,
  place: string,
  narSize: number,
): Promise<{ narHash: NarHash; narSize: number; fileHash: NarHash | undefined }> {
  const writer = restoreTree(place);
  const nar = new NarHasher();
  const contents = fileHasher();
  const parser = new NarParser(tee(writer, nar, contents), { maxSize: narSize });
  try {
    for await (const chunk of source) parser.push(chunk);
    parser.end();
    return { ...nar.digest(), fileHash: contents.digest() };
  } catch (error) {
    if (error instanceof FlkError && error.exitStatus === 4)
      throw new UploadRefused(422, `the archive cannot be taken: ${error.message}`);
    throw error;
  } finally {
    writer.close();
  }
}

async function openIfThere(file: string): Promise<FileHandle | undefined> {
  try {
    return await open(file);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

async function save(
  body: AsyncIterable<Buffer>,
  file: string,
  room: number,
): Promise<{ size: number; hash: Buffer }> {
  const handle = await open(file, 'wx', 0o600);
  try {
    const hash = createHash('sha256');
    let size = 0;
    for await (const chunk of body) {
      size += chunk.length;
      if (size > room) throw tooLarge(room);
      hash.update(chunk);
      await handle.write(chunk);
    }
    return { size, hash: hash.digest() };
  } finally {
    await handle.close();
  }
}

async function whole(body: AsyncIterable<Buffer>, max: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > max) throw tooLarge(max);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

async function drop(body: AsyncIterable<Buffer>, max: number): Promise<void> {
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > max) throw tooLarge(max);
  }
}
