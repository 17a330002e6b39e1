/** The server's store of blobs: what is missing there is sent, what is needed from there is fetched, and all of it is checked. */
import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import { pipeline, Readable } from 'node:stream';
import { type Limiter, limiter, throwIfAborted } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import { decompress } from '../../../formats/archives/decompress.ts';
import { type Digest, methods, type WriteRequest } from '../../../generated/remote-execution.ts';
import { type Abilities, zstdEncoder } from './capabilities.ts';
import { CallFailure, type Connection, code } from './connection.ts';
import { assertBlob, BlobCheck, blobDigest, keyOf } from './digest.ts';
import { Gathering } from './gather.ts';

/** Something to be sent: bytes at hand, or a file in the store. */
export interface Blob {
  readonly digest: Digest;
  readonly content: Buffer | string;
}

/** A digest takes about 75 bytes of a message, which may have 4 MiB. */
const digestsAtOnce = 20_000;
const blobsAtOnce = 4000;
/** What a blob in a batch takes besides its bytes. */
const blobOverhead = 200;
const callsAtOnce = 3;
/** Each holds a few pieces in memory. */
const streamsAtOnce = 4;
const pieceSize = 256 * 1024;
/** Up to here a blob goes with others into one call. */
const smallBlob = 128 * 1024;

export class Blobs {
  readonly #connection: Connection;
  readonly #instance: string;
  readonly #abilities: Abilities;
  /** Blobs that are there, as far as we heard. */
  readonly #present = new Set<string>();
  /** Blobs that are being looked for or sent; whether that came to a good end. */
  readonly #coming = new Map<string, Promise<boolean>>();
  readonly #missing: Gathering<Digest, boolean>;
  readonly #updates: Gathering<Blob, undefined>;
  readonly #reads: Gathering<Digest, Buffer | Error>;
  readonly #streams: Limiter = limiter(streamsAtOnce);

  constructor(connection: Connection, instance: string, abilities: Abilities) {
    this.#connection = connection;
    this.#instance = instance;
    this.#abilities = abilities;
    const batch = { maxCount: blobsAtOnce, maxWeight: abilities.batchBytes, atOnce: callsAtOnce };
    const digests = { maxCount: digestsAtOnce, maxWeight: Number.POSITIVE_INFINITY, atOnce: callsAtOnce };
    this.#missing = new Gathering(digests, (asked) => this.#findMissing(asked));
    this.#updates = new Gathering(batch, (blobs) => this.#update(blobs));
    this.#reads = new Gathering(batch, (asked) => this.#readBatch(asked));
  }

  /** Makes the server have all of these; each is asked for, and sent, once, however many builds need it. */
  async ensure(blobs: Iterable<Blob>, signal?: AbortSignal): Promise<void> {
    const wanted = new Map<string, Blob>();
    for (const blob of blobs) wanted.set(keyOf(blob.digest), blob);
    for (;;) {
      throwIfAborted(signal);
      const own: Blob[] = [];
      const others: Promise<boolean>[] = [];
      for (const [key, blob] of wanted) {
        const other = this.#coming.get(key);
        if (this.#present.has(key)) wanted.delete(key);
        else if (other) others.push(other);
        else own.push(blob);
      }
      if (wanted.size === 0) return;
      if (own.length > 0) await this.#bring(own, signal);
      // Who sends it may have been interrupted: then it is ours to send.
      await abortable(Promise.all(others), signal);
    }
  }

  /** Forgets that these are there: a server may drop what it has, and says so when it comes to use it. */
  forget(blobs: Iterable<Blob>): void {
    for (const { digest } of blobs) this.#present.delete(keyOf(digest));
  }

  async #bring(blobs: readonly Blob[], signal: AbortSignal | undefined): Promise<void> {
    const all = this.#bringAll(blobs, signal);
    const ended = all.then(
      () => true,
      () => false,
    );
    const keys = blobs.map(({ digest }) => keyOf(digest));
    for (const key of keys) this.#coming.set(key, ended);
    try {
      await all;
      for (const key of keys) this.#present.add(key);
    } finally {
      for (const key of keys) this.#coming.delete(key);
    }
  }

  async #bringAll(blobs: readonly Blob[], signal: AbortSignal | undefined): Promise<void> {
    const found = Promise.all(blobs.map(({ digest }) => this.#missing.get(digest, 1)));
    const isMissing = await abortable(found, signal);
    const missing = blobs.filter((_, index) => isMissing[index]);
    const largest = missing.reduce((size, { digest }) => Math.max(size, digest.sizeBytes), 0);
    if (largest > this.#abilities.maxBlobBytes)
      throw new FlkError(
        'FLK_BUILDER_UNAVAILABLE',
        'the remote builder takes no file as large as one of these',
        {
          facts: { found: `${largest} bytes`, wanted: `at most ${this.#abilities.maxBlobBytes} bytes` },
        },
      );
    const sent = missing.map((blob) =>
      this.#isSmall(blob.digest)
        ? this.#updates.get(blob, blob.digest.sizeBytes + blobOverhead)
        : this.#streams(() => this.#write(blob, signal)),
    );
    await abortable(Promise.all(sent), signal);
  }

  #isSmall({ sizeBytes }: Digest): boolean {
    return sizeBytes <= Math.min(smallBlob, this.#abilities.batchBytes - blobOverhead);
  }

  #findMissing(digests: readonly Digest[]): Promise<readonly boolean[]> {
    return this.#connection.persist('looking for blobs', {}, async () => {
      const request = { instanceName: this.#instance, blobDigests: digests };
      const { missingBlobDigests } = await this.#connection.ask(methods.findMissingBlobs, request);
      const missing = new Set(missingBlobDigests.map(keyOf));
      return digests.map((digest) => missing.has(keyOf(digest)));
    });
  }

  /** Those that the server did not take for the moment are sent again. */
  async #update(blobs: readonly Blob[]): Promise<readonly undefined[]> {
    let left = new Map(blobs.map((blob) => [keyOf(blob.digest), blob]));
    await this.#connection.persist('sending blobs', {}, async () => {
      const requests = await Promise.all(
        [...left.values()].map(async ({ digest, content }) => ({
          digest,
          data: typeof content === 'string' ? await readFile(content) : content,
        })),
      );
      const { responses } = await this.#connection.ask(methods.batchUpdateBlobs, {
        instanceName: this.#instance,
        requests,
      });
      let failure: CallFailure | undefined;
      const still = new Map(left);
      for (const { digest, status } of responses) {
        if (status && status.code !== code.ok)
          failure ??= new CallFailure(status.code, status.message, status.details);
        else if (digest) still.delete(keyOf(digest));
      }
      left = still;
      if (failure) throw failure;
      if (left.size > 0) throw new CallFailure(code.unknown, 'the server says nothing of some of the blobs');
    });
    return blobs.map(() => undefined);
  }

  /** One large blob, piece by piece. */
  async #write({ digest, content }: Blob, signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal);
    await this.#connection.persist('sending a file', { signal }, async () => {
      const packed = this.#abilities.zstd ? zstdEncoder : undefined;
      const kind = packed ? 'compressed-blobs/zstd' : 'blobs';
      const resourceName = this.#resource(`uploads/${randomUUID()}/${kind}/${keyOf(digest)}`);
      const source =
        typeof content === 'string'
          ? createReadStream(content, { highWaterMark: pieceSize })
          : Readable.from([content]);
      try {
        const bytes = packed ? pipeline(source, packed(), () => {}) : source;
        const parts = writeRequests(resourceName, bytes as unknown as AsyncIterable<Buffer>);
        const { committedSize } = await this.#connection.send(methods.write, parts, { signal });
        // −1 says of a packed blob that it was there already.
        if (!packed && committedSize !== digest.sizeBytes)
          throw new CallFailure(
            code.unknown,
            `the server kept ${committedSize} of ${digest.sizeBytes} bytes`,
          );
      } finally {
        source.destroy();
      }
    });
  }

  /** A blob that is held whole. Throws FLK_REMOTE_INTEGRITY, and what calls do: NOT_FOUND where it is gone. */
  async read(digest: Digest, signal?: AbortSignal): Promise<Buffer> {
    if (keyOf(digest) === emptyKey) return Buffer.alloc(0);
    if (this.#isSmall(digest)) {
      const read = await abortable(this.#reads.get(digest, digest.sizeBytes + blobOverhead), signal);
      if (read instanceof Error) throw read;
      return read;
    }
    let chunks: Buffer[] = [];
    const begin = async (): Promise<(chunk: Buffer) => void> => {
      chunks = [];
      return (chunk) => void chunks.push(chunk);
    };
    await this.#stream(digest, signal, begin);
    return Buffer.concat(chunks);
  }

  /** The same into a new file. */
  async readInto(
    digest: Digest,
    path: string | Buffer,
    executable: boolean,
    signal?: AbortSignal,
  ): Promise<void> {
    const mode = executable ? 0o755 : 0o644;
    if (this.#isSmall(digest)) {
      await writeFile(path, await this.read(digest, signal), { flag: 'wx', mode });
      return;
    }
    const file = await open(path, 'wx', mode);
    try {
      await this.#stream(digest, signal, async () => {
        await file.truncate();
        let at = 0;
        return async (chunk) => {
          for (let done = 0; done < chunk.length; )
            done += (await file.write(chunk, done, chunk.length - done, at + done)).bytesWritten;
          at += chunk.length;
        };
      });
    } finally {
      await file.close();
    }
  }

  /** What comes of a blob is handed on, anew with each try. */
  async #stream(
    digest: Digest,
    signal: AbortSignal | undefined,
    begin: () => Promise<(chunk: Buffer) => Promise<void> | void>,
  ): Promise<void> {
    await this.#streams(() =>
      this.#connection.persist('fetching a file', { signal }, async () => {
        const take = await begin();
        const check = new BlobCheck(digest);
        for await (const chunk of this.#pieces(digest, signal)) {
          check.update(chunk);
          await take(chunk);
        }
        check.end();
      }),
    );
  }

  async *#pieces(digest: Digest, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
    const packed = this.#abilities.zstd;
    const resourceName = this.#resource(`${packed ? 'compressed-blobs/zstd' : 'blobs'}/${keyOf(digest)}`);
    const connection = this.#connection;
    let failure: unknown;
    const sent = async function* (): AsyncGenerator<Buffer> {
      try {
        for await (const { data } of connection.listen(methods.read, { resourceName }, { signal }))
          yield data;
      } catch (error) {
        failure = error;
        throw error;
      }
    };
    if (!packed) return yield* sent();
    try {
      yield* decompress(Readable.from(sent()), 'zstd');
    } catch (error) {
      if (failure !== undefined) throw failure;
      throw new FlkError('FLK_REMOTE_INTEGRITY', 'the server sent a file that cannot be unpacked', {
        facts: { wanted: keyOf(digest) },
        cause: error,
      });
    }
  }

  /** The encoded folders of a tree, as many as there are. Throws FLK_BUILD_OUTPUT_LIMIT. */
  async tree(rootDigest: Digest, maxBytes: number, signal?: AbortSignal): Promise<Buffer[]> {
    return await this.#connection.persist('fetching a tree', { signal }, async () => {
      const folders: Buffer[] = [];
      let bytes = 0;
      const request = { instanceName: this.#instance, rootDigest };
      for await (const { directories } of this.#connection.listen(methods.getTree, request, { signal })) {
        for (const folder of directories) bytes += folder.length + blobOverhead;
        if (bytes > maxBytes)
          throw new FlkError('FLK_BUILD_OUTPUT_LIMIT', `a tree of more than ${maxBytes} bytes is not kept`);
        folders.push(...directories);
      }
      return folders;
    });
  }

  /** A log as the server writes it: pieces as they come, until it is done. */
  async *follow(resourceName: string, signal: AbortSignal): AsyncGenerator<Buffer> {
    const parts = this.#connection.listen(methods.read, { resourceName }, { signal, patient: true });
    for await (const { data } of parts) yield data;
  }

  #readBatch(digests: readonly Digest[]): Promise<readonly (Buffer | Error)[]> {
    return this.#connection.persist('fetching blobs', {}, async () => {
      const request = { instanceName: this.#instance, digests: [...byKey(digests).values()] };
      const { responses } = await this.#connection.ask(methods.batchReadBlobs, request);
      const answers = new Map(responses.map((answer) => [answer.digest ? keyOf(answer.digest) : '', answer]));
      return digests.map((digest) => {
        const answer = answers.get(keyOf(digest));
        if (!answer) return new CallFailure(code.notFound, 'the server says nothing of a blob');
        const { status, data } = answer;
        if (status && status.code !== code.ok) return new CallFailure(status.code, status.message);
        try {
          assertBlob(digest, data);
          return data;
        } catch (error) {
          return error as Error;
        }
      });
    });
  }

  #resource(name: string): string {
    return this.#instance === '' ? name : `${this.#instance}/${name}`;
  }
}

const emptyKey = keyOf(blobDigest(Buffer.alloc(0)));

const byKey = (digests: readonly Digest[]): Map<string, Digest> =>
  new Map(digests.map((digest) => [keyOf(digest), digest]));

async function* writeRequests(
  resourceName: string,
  bytes: AsyncIterable<Buffer>,
): AsyncGenerator<Partial<WriteRequest>> {
  let writeOffset = 0;
  // The first part alone has the name: the others belong to the same call.
  for await (const data of bytes) {
    yield { ...(writeOffset === 0 ? { resourceName } : {}), writeOffset, data };
    writeOffset += data.length;
  }
  yield { ...(writeOffset === 0 ? { resourceName } : {}), writeOffset, finishWrite: true };
}

/** The work goes on where others need it too; who was interrupted does not wait for it. */
async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return await work;
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    const act = (): void => reject(new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: signal.reason }));
    stop = () => signal.removeEventListener('abort', act);
    if (signal.aborted) act();
    else signal.addEventListener('abort', act, { once: true });
  });
  work.catch(() => {});
  try {
    return await Promise.race([work, aborted]);
  } finally {
    stop();
  }
}
