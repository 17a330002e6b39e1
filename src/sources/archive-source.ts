/**
 * Archives and single files by URL, streamed: from the socket through decompression into one file of the cache, and on into the NAR
 * hash; an archive in an order of its own is hashed at its end, from that file. No tree is unpacked on the way.
 */
import { createReadStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { OnceMap, throwIfAborted } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import { type Reporter, type Span, span } from '../base/events.ts';
import type { SourceTree } from '../flake/source.ts';
import { compressionOf, decompress } from '../formats/archives/decompress.ts';
import { type ArchiveEntry, ArchiveTruncated, archiveError } from '../formats/archives/entry.ts';
import { archiveKind, headLength } from '../formats/archives/kind.ts';
import { readTar } from '../formats/archives/tar.ts';
import { readZip } from '../formats/archives/zip.ts';
import type { NarHash } from '../formats/hash.ts';
import {
  ArchiveCache,
  type CachedTree,
  type KeptAnswer,
  Spool,
  type TreeIdentity,
  TreeReader,
} from './archive-cache.ts';
import { ArrivalWalk } from './archive-order.ts';
import {
  type FileNode,
  inTurns,
  type LinkNode,
  TreeBuilder,
  type TreeNode,
  walkTree,
} from './archive-tree.ts';
import { contentLength, openUrl } from './download.ts';
import { type HttpClient, type HttpResponse, TransientError, withRetries } from './http.ts';

export interface ArchiveRequest {
  /** `https:`, `http:`, or `file:` for a file of this machine. */
  readonly url: URL;
  /** For this URL's origin alone. */
  readonly headers?: Readonly<Record<string, string>>;
  /** For messages and events: no secrets. */
  readonly shown: string;
  /** A name that means one tree for ever (`github:github.com/owner/repo/REV`): once here, it is not asked for again. */
  readonly identity?: string;
  /** What a lock says of the tree: an earlier answer with another one is not taken, but asked for again. */
  readonly narHash?: NarHash | undefined;
  /** `file`: the bytes as they are, as a tree of one regular file. */
  readonly kind: 'tarball' | 'file';
}

export interface ArchiveAnswer {
  readonly tree: SourceTree;
  /** Of the newest entry, in seconds since 1970; 0 where none has a time, and for a single file. */
  readonly lastModified: number;
  /** After redirects, without its query. */
  readonly url: URL;
  /** Where the server says that exactly these bytes stay: `Link: <URL>; rel="immutable"`. */
  readonly immutableUrl?: string;
}

export interface ArchiveLimits {
  /** Of the download, and of what it unpacks to. */
  readonly bytes: number;
  readonly entries: number;
  /** How many times larger than the download an unpacked archive of more than `freeBytes` may be. */
  readonly ratio: number;
  readonly freeBytes: number;
}

/** Text packs to a tenth; zeros to a thousandth by gzip, and to next to nothing by others. */
const defaultLimits: ArchiveLimits = {
  bytes: 16 * 2 ** 30,
  entries: 1_000_000,
  ratio: 1000,
  freeBytes: 256 * 2 ** 20,
};

export interface ArchiveSourceOptions {
  readonly cacheFolder: string;
  readonly client: HttpClient;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  /** No network: what is not in the cache is FLK_OFFLINE. */
  readonly offline?: boolean;
  /** Asks servers again also where the answer is young. */
  readonly refresh?: boolean;
  /** Seconds for which an answer is young. Default 0. */
  readonly refTtl?: number;
  readonly limits?: ArchiveLimits;
}

export class ArchiveSource {
  readonly #options: ArchiveSourceOptions;
  readonly #cache: ArchiveCache;
  readonly #limits: ArchiveLimits;
  readonly #asked = new OnceMap<string, ArchiveAnswer>();

  constructor(options: ArchiveSourceOptions) {
    this.#options = options;
    this.#cache = new ArchiveCache(options.cacheFolder);
    this.#limits = options.limits ?? defaultLimits;
  }

  /**
   * Equal requests are answered once. Throws FLK_ARCHIVE_INVALID, FLK_LIMIT, FLK_OFFLINE, FLK_NETWORK, FLK_HTTP_STATUS, FLK_HTTP_AUTH,
   * FLK_FILE_UNREADABLE for a `file:` URL, FLK_INTERRUPTED.
   */
  fetch(request: ArchiveRequest): Promise<ArchiveAnswer> {
    const question = questionOf(request);
    return this.#asked.get(`${question}\n${request.narHash ?? ''}`, () =>
      this.#fetch(request, question).catch((error: unknown) => {
        // What is wrong within an archive does not know the archive's name.
        const nameless =
          error instanceof FlkError && (error.code === 'FLK_ARCHIVE_INVALID' || error.code === 'FLK_LIMIT');
        throw nameless ? error.within(request.shown) : error;
      }),
    );
  }

  /** A tree that is known by its NAR hash, whoever served it. */
  byHash(narHash: NarHash): Promise<(SourceTree & { readonly lastModified: number }) | undefined> {
    return this.#cache.tree(narHash);
  }

  async #fetch(request: ArchiveRequest, question: string): Promise<ArchiveAnswer> {
    const asked = Date.now();
    const known = await this.#known(request, question, asked);
    if (known) return known;
    const local = request.url.protocol === 'file:';
    const { reporter, signal, offline } = this.#options;
    if (offline && !local) throw new FlkError('FLK_OFFLINE', `${request.shown} would have to be downloaded`);
    return span(reporter, { type: 'fetch', subject: request.shown }, (work) =>
      this.#cache.whileAsking(question, async (scratch) => {
        // Another process may have asked while this one waited.
        const meanwhile = await this.#known(request, question, asked);
        if (meanwhile) return meanwhile;
        return withRetries(request.shown, { reporter, signal }, () =>
          (local
            ? this.#read(request, question, scratch, work)
            : this.#get(request, question, scratch, work)
          ).catch((error: unknown) => {
            if (!(error instanceof ArchiveTruncated) || local) throw error;
            throw new TransientError(error.code, error.message, {
              cause: error,
              hint: 'the server, or something on the way to it, does not send the whole archive',
            });
          }),
        );
      }),
    );
  }

  /** What needs no request. */
  async #known(request: ArchiveRequest, question: string, asked: number): Promise<ArchiveAnswer | undefined> {
    if (request.url.protocol === 'file:') return undefined;
    const kept = await this.#cache.answer(question);
    if (!kept || !isWanted(kept.answer, request)) return undefined;
    const { offline, refresh, refTtl = 0 } = this.#options;
    const young = kept.time > asked || (!refresh && Date.now() - kept.time < refTtl * 1000);
    if (request.identity === undefined && !young && !offline) return undefined;
    return this.#opened(kept.answer);
  }

  async #opened(answer: KeptAnswer): Promise<ArchiveAnswer | undefined> {
    const tree = await this.#cache.tree(answer.narHash);
    return tree && answerOf(tree, answer);
  }

  async #get(request: ArchiveRequest, question: string, scratch: string, work: Span): Promise<ArchiveAnswer> {
    const kept = await this.#cache.answer(question);
    const before = kept && isWanted(kept.answer, request) ? await this.#opened(kept.answer) : undefined;
    const conditions = before && kept ? conditionsOf(kept.answer) : {};
    const { response, url } = await openUrl(this.#options.client, {
      url: request.url,
      common: { 'accept-encoding': 'identity', ...conditions },
      ...(request.headers ? { own: request.headers } : {}),
    });
    const { headers, status } = response;
    if (status === 304) {
      for await (const _ of response.body);
      if (!before || !kept)
        throw new FlkError('FLK_HTTP_STATUS', `${url.host} answers 304 to a question without a condition`);
      await this.#cache.keepAnswer(question, kept.answer);
      work.cached();
      return before;
    }
    const total = contentLength(response);
    const { tree, lastModified } = await this.#take(request, scratch, response.body, {
      encoding: headers['content-encoding'],
      progress: (bytes) => work.progress(bytes, total, 'bytes'),
    });
    const immutableUrl = immutableLink(headers);
    const answer: KeptAnswer = {
      narHash: tree.narHash,
      lastModified,
      // Where a forge sends us for a private archive, the query lets anybody in who knows it.
      url: url.origin + url.pathname,
      ...(immutableUrl === undefined ? {} : { immutableUrl }),
      ...(headers.etag === undefined ? {} : { etag: headers.etag }),
      ...(headers['last-modified'] === undefined ? {} : { modifiedSince: headers['last-modified'] }),
    };
    await this.#cache.keepAnswer(question, answer);
    return answerOf(tree, answer);
  }

  /** A file of this machine: read again when it is another one, or was written to. */
  async #read(
    request: ArchiveRequest,
    question: string,
    scratch: string,
    work: Span,
  ): Promise<ArchiveAnswer> {
    const { url, shown } = request;
    const path = fileURLToPath(url);
    const info = await stat(path, { bigint: true }).catch((cause: unknown) => {
      throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${path}`, { cause });
    });
    if (!info.isFile())
      throw new FlkError(
        'FLK_FILE_UNREADABLE',
        `${shown} is no archive, but a ${info.isDirectory() ? 'folder' : 'special file'}`,
        {
          hint: 'for a folder write path:, for a Git repository git+file:',
        },
      );
    const etag = [info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].join(' ');
    const kept = await this.#cache.answer(question);
    const before = kept?.answer.etag === etag ? await this.#opened(kept.answer) : undefined;
    if (before) {
      work.cached();
      return before;
    }
    const { tree, lastModified } = await this.#take(
      request,
      scratch,
      createReadStream(path, { highWaterMark: 256 * 1024 }),
      { encoding: undefined, progress: (bytes) => work.progress(bytes, Number(info.size), 'bytes') },
    );
    const answer: KeptAnswer = { narHash: tree.narHash, lastModified, url: url.href, etag };
    await this.#cache.keepAnswer(question, answer);
    return answerOf(tree, answer);
  }

  /** Takes in a body, whatever it is packed with. */
  async #take(
    request: ArchiveRequest,
    scratch: string,
    body: AsyncIterable<Buffer>,
    about: { readonly encoding: string | undefined; progress(bytes: number): void },
  ): Promise<{ tree: CachedTree; lastModified: number }> {
    const meter = new Meter(this.#limits, this.#options.signal, about.progress);
    const spool = new Spool(`${scratch}.tree`);
    try {
      const plain = withoutEncoding(meter.received(body), about.encoding);
      const { root, lastModified, identity } =
        request.kind === 'file'
          ? { root: await spoolFile(meter.unpacked(plain), spool, false), lastModified: 0 }
          : await this.#unpack(plain, request.url, `${scratch}.zip`, spool, meter);
      const facts = identity ?? (await identityOf(root, spool, this.#options.signal));
      const tree = await this.#cache.keep(spool, root, { ...facts, lastModified });
      return { tree, lastModified };
    } finally {
      await spool.discard();
    }
  }

  async #unpack(
    body: AsyncIterable<Buffer>,
    url: URL,
    scratch: string,
    spool: Spool,
    meter: Meter,
  ): Promise<Unpacked> {
    const { signal } = this.#options;
    const { head, whole } = await peek(body, headLength);
    switch (archiveKind(head)) {
      case 'tar': {
        const plain = decompress(Readable.from(whole), compressionOf(head));
        return build(readTar(meter.unpacked(plain)), spool, this.#limits, signal);
      }
      case 'zip': {
        // What a zip archive holds is written at its end. Nix reads that part only of what is called a zip: of another one it
        // does not see which files are links or executable.
        const plain = !/\.zip$/i.test(url.pathname);
        const file = new Spool(scratch);
        try {
          await spoolFile(whole, file, false);
          file.close();
          return await build(metered(readZip(scratch, { plain }), meter), spool, this.#limits, signal);
        } finally {
          await file.discard();
          await rm(scratch, { force: true });
        }
      }
      case 'deb':
      case undefined:
        throw archiveError('neither a tar nor a zip archive');
    }
  }
}

/** One text per thing that can be asked. */
function questionOf({ kind, url, identity }: ArchiveRequest): string {
  return identity === undefined ? `${kind} ${url.href}` : `${kind} as ${identity}`;
}

/** What a server once gave is no reason to believe a lock wrong: it may have been broken, or somebody else's. */
function isWanted(answer: KeptAnswer, { narHash }: ArchiveRequest): boolean {
  return narHash === undefined || narHash === answer.narHash;
}

function answerOf(tree: CachedTree, answer: KeptAnswer): ArchiveAnswer {
  return {
    tree,
    lastModified: answer.lastModified,
    url: new URL(answer.url),
    ...(answer.immutableUrl === undefined ? {} : { immutableUrl: answer.immutableUrl }),
  };
}

function conditionsOf({ etag, modifiedSince }: KeptAnswer): Record<string, string> {
  if (etag !== undefined) return { 'if-none-match': etag };
  return modifiedSince === undefined ? {} : { 'if-modified-since': modifiedSince };
}

/** `<URL>; rel="immutable"` among the links; object stores only let one set headers with a name of theirs. */
function immutableLink(headers: HttpResponse['headers']): string | undefined {
  const links = [headers.link, headers['x-amz-meta-link']].flat().join(', ');
  return /<([^<>]{1,4096})>\s*;\s*rel="?immutable"?\s*(?:,|$)/i.exec(links)?.[1];
}

/** Appends one file's bytes. */
async function spoolFile(
  content: AsyncIterable<Buffer>,
  spool: Spool,
  executable: boolean,
): Promise<FileNode> {
  const offset = spool.size;
  for await (const piece of content) spool.write(piece);
  return { kind: 'file', offset, size: spool.size - offset, executable };
}

interface Unpacked {
  readonly root: TreeNode;
  readonly lastModified: number;
  /** Where the order of the entries let it be found on the way. */
  readonly identity?: TreeIdentity;
}

/** Writes what files hold to the spool, and sends it on from there as long as the entries' order allows. */
async function build(
  entries: AsyncIterable<ArchiveEntry>,
  spool: Spool,
  limits: ArchiveLimits,
  signal: AbortSignal | undefined,
): Promise<Unpacked> {
  const tree = new TreeBuilder(limits);
  const reader = new TreeReader();
  const walk = new ArrivalWalk(reader.sink, (offset, size) => spool.read(offset, size));
  let lastModified = 0;
  for await (const entry of entries) {
    lastModified = Math.max(lastModified, entry.modified);
    switch (entry.kind) {
      case 'directory':
        await inTurns(walk.add(tree.directory(entry.path), 'directory'), signal);
        break;
      case 'file': {
        const node = await spoolFile(entry.content, spool, entry.executable);
        await inTurns(walk.add(tree.file(entry.path, node), node), signal);
        break;
      }
      case 'symlink': {
        const node: LinkNode = { kind: 'symlink', target: entry.target.toString('latin1') };
        await inTurns(walk.add(tree.symlink(entry.path, node), node), signal);
        break;
      }
      case 'hardlink':
        tree.hardlink(entry.path, entry.target);
        walk.giveUp();
    }
  }
  const root = tree.root();
  await inTurns(walk.end(), signal);
  return { root, lastModified, ...(walk.ordered ? { identity: reader.identity() } : {}) };
}

/** By a walk of what lies in the spool. */
async function identityOf(
  root: TreeNode,
  spool: Spool,
  signal: AbortSignal | undefined,
): Promise<TreeIdentity> {
  const reader = new TreeReader();
  await walkTree(root, (offset, size) => spool.read(offset, size), reader.sink, signal);
  return reader.identity();
}

/** With what the files unpack to counted. */
async function* metered(entries: AsyncIterable<ArchiveEntry>, meter: Meter): AsyncGenerator<ArchiveEntry> {
  for await (const entry of entries)
    yield entry.kind === 'file' ? { ...entry, content: meter.unpacked(entry.content) } : entry;
}

/** Counts what comes in and what it unpacks to, and stops both at the limits. */
class Meter {
  readonly #limits: ArchiveLimits;
  readonly #signal: AbortSignal | undefined;
  readonly #progress: (bytes: number) => void;
  #in = 0;
  #out = 0;

  constructor(limits: ArchiveLimits, signal: AbortSignal | undefined, progress: (bytes: number) => void) {
    this.#limits = limits;
    this.#signal = signal;
    this.#progress = progress;
  }

  async *received(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const piece of body) {
      throwIfAborted(this.#signal);
      this.#in += piece.length;
      if (this.#in > this.#limits.bytes)
        throw new FlkError('FLK_LIMIT', `the download has more than ${this.#limits.bytes} bytes`);
      this.#progress(this.#in);
      yield piece;
    }
  }

  async *unpacked(content: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    const { bytes, ratio, freeBytes } = this.#limits;
    for await (const piece of content) {
      throwIfAborted(this.#signal);
      this.#out += piece.length;
      if (this.#out > bytes)
        throw new FlkError('FLK_LIMIT', `the archive unpacks to more than ${bytes} bytes`);
      if (this.#out > freeBytes && this.#out > ratio * this.#in)
        throw new FlkError('FLK_LIMIT', `the archive unpacks to more than ${ratio} times its size`, {
          facts: { packed: String(this.#in), unpacked: String(this.#out) },
        });
      yield piece;
    }
  }
}

/** Takes off what a server has packed the body with on its own account. */
function withoutEncoding(body: AsyncIterable<Buffer>, encoding: string | undefined): AsyncIterable<Buffer> {
  switch (encoding?.trim().toLowerCase()) {
    case undefined:
    case '':
    case 'identity':
      return body;
    case 'gzip':
    case 'x-gzip':
      return decompress(Readable.from(body), 'gzip');
    case 'zstd':
      return decompress(Readable.from(body), 'zstd');
    default:
      throw new FlkError(
        'FLK_HTTP_STATUS',
        `the server sends a content encoding nobody asked for: ${encoding}`,
      );
  }
}

/** The first `length` bytes, or all if there are fewer, and the whole body again. */
async function peek(
  body: AsyncIterable<Buffer>,
  length: number,
): Promise<{ readonly head: Buffer; readonly whole: AsyncGenerator<Buffer> }> {
  const pieces = body[Symbol.asyncIterator]();
  const first: Buffer[] = [];
  let size = 0;
  let ended = false;
  while (size < length && !ended) {
    const next = await pieces.next();
    if (next.done) ended = true;
    else {
      first.push(next.value);
      size += next.value.length;
    }
  }
  const head = Buffer.concat(first);
  async function* whole(): AsyncGenerator<Buffer> {
    try {
      yield head;
      for (;;) {
        const next = await pieces.next();
        if (next.done) return;
        yield next.value;
      }
    } finally {
      await pieces.return?.();
    }
  }
  return { head: head.subarray(0, length), whole: whole() };
}
