/**
 * A binary cache over HTTP, as Nix's clients speak to one: GET and HEAD of what there is, in parts where the size is known; PUT for
 * those who know the token. Clients may be many, slow, gone or hostile: each costs a buffer, and has a time to show itself.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { asFlkError, FlkError, systemCode } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import type { CacheOffers, Offer } from './cache-offers.ts';
import { type CacheUploads, UploadRefused } from './cache-uploads.ts';

export interface CacheServerOptions {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly reporter: Reporter;
  /** What `/` says to a person with a browser. */
  readonly greeting?: string;
  /** Who may put: whoever sends the token. Without it nobody. */
  readonly uploads?: { readonly taker: CacheUploads; readonly token: string };
  readonly limits?: Partial<ServerLimits>;
}

export interface ServerLimits {
  /** Clients at a time; who comes then is not let in. */
  readonly connections: number;
  /** Milliseconds for the head of a request. */
  readonly headMs: number;
  /** Milliseconds in which no byte moves, in either direction, after which a connection is cut. */
  readonly idleMs: number;
  /** The same between two requests. */
  readonly keepAliveMs: number;
}

const defaultLimits: ServerLimits = { connections: 512, headMs: 10_000, idleMs: 60_000, keepAliveMs: 15_000 };
const maxHead = 16 * 1024;
/** Of an upload that is refused; who is told only after that would not be listening. */
const mostIgnored = 1024 * 1024;

interface Outcome {
  readonly status: number;
  /** Of the body; -1 where it was cut off. */
  readonly bytes: number;
  /** Why it is not what was asked for, for whoever runs the server. */
  readonly error?: unknown;
}

export class CacheServer {
  readonly #offers: CacheOffers;
  readonly #options: CacheServerOptions;
  readonly #server: Server;
  readonly #running = new Set<Promise<void>>();

  private constructor(offers: CacheOffers, options: CacheServerOptions) {
    this.#offers = offers;
    this.#options = options;
    const limits = { ...defaultLimits, ...options.limits };
    const server = createServer({
      maxHeaderSize: maxHead,
      connectionsCheckingInterval: Math.min(limits.headMs, 5000),
      headersTimeout: limits.headMs,
      // An upload takes as long as it takes; the idle time bounds it.
      requestTimeout: 0,
      keepAliveTimeout: limits.keepAliveMs,
    });
    server.maxConnections = limits.connections;
    server.timeout = limits.idleMs;
    const take = (request: IncomingMessage, response: ServerResponse): void => {
      const work = this.#answer(request, response).finally(() => this.#running.delete(work));
      this.#running.add(work);
    };
    server.on('request', take);
    // The client waits to be told whether to send its body.
    server.on('checkContinue', take);
    this.#server = server;
  }

  /** Begins to answer. Throws FLK_CACHE_LISTEN where the address cannot be had. */
  static async listen(offers: CacheOffers, options: CacheServerOptions): Promise<CacheServer> {
    const server = new CacheServer(offers, options);
    await new Promise<void>((done, fail) => {
      server.#server.once('error', (error) => fail(cannotListen(options, error)));
      server.#server.listen({ host: options.host, port: options.port }, done);
    });
    return server;
  }

  /** `http://HOST:PORT`. */
  get url(): string {
    const { address, family, port } = this.#server.address() as AddressInfo;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  /** Takes no more requests, lets those that run finish for so long, and cuts off what is left. */
  async stop(graceMs: number): Promise<void> {
    const closed = new Promise((done) => this.#server.close(done));
    this.#server.closeIdleConnections();
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise((done) => {
      timer = setTimeout(done, graceMs);
    });
    await Promise.race([Promise.all(this.#running), patience]);
    clearTimeout(timer);
    this.#server.closeAllConnections();
    await closed;
    await Promise.all(this.#running);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const started = performance.now();
    const address = addressOf(request.url ?? '');
    const outcome = await this.#respond(request, response, address).catch((error: unknown): Outcome => {
      if (response.headersSent || response.destroyed) {
        response.destroy();
        return { status: response.statusCode, bytes: -1, error };
      }
      return { ...say(request, response, 500, 'the server has a fault'), error };
    });
    this.#options.reporter.emit({
      kind: 'request',
      method: request.method ?? '',
      address: `/${address ?? ''}`,
      status: outcome.status,
      bytes: Math.max(0, outcome.bytes),
      ms: Math.round(performance.now() - started),
      ...(outcome.bytes < 0 ? { broken: true } : {}),
      ...(outcome.error !== undefined && !isGone(outcome.error)
        ? { fault: asFlkError(outcome.error).message }
        : {}),
    });
  }

  async #respond(
    request: IncomingMessage,
    response: ServerResponse,
    address: string | undefined,
  ): Promise<Outcome> {
    if (!this.#server.listening) response.setHeader('connection', 'close');
    response.setHeader('server', 'flk');
    if (address === undefined) return say(request, response, 400, 'this is no address');
    switch (request.method) {
      case 'GET':
      case 'HEAD':
        return await this.#give(request, response, address);
      case 'PUT':
        return await this.#take(request, response, address);
      default:
        response.setHeader('allow', this.#options.uploads ? 'GET, HEAD, PUT' : 'GET, HEAD');
        return say(request, response, 405, `${request.method} is not done here`);
    }
  }

  async #give(request: IncomingMessage, response: ServerResponse, address: string): Promise<Outcome> {
    if (address === '') return say(request, response, 200, this.#options.greeting ?? 'a binary cache');
    if (address === 'health') {
      const fault = await this.#offers.check().then(
        () => undefined,
        (error: unknown) => asFlkError(error),
      );
      return say(request, response, fault ? 503 : 200, fault ? 'the store cannot be read' : 'ok');
    }
    try {
      const offer = (await this.#offers.find(address)) ?? (await this.#options.uploads?.taker.find(address));
      if (offer) return await send(request, response, offer);
    } catch (error) {
      if (!(error instanceof FlkError) || error.code !== 'FLK_CACHE_HOST_TOOLCHAIN') throw error;
      return { ...say(request, response, 404, error.message), error };
    }
    return say(request, response, 404, 'not here');
  }

  async #take(request: IncomingMessage, response: ServerResponse, address: string): Promise<Outcome> {
    const { uploads } = this.#options;
    if (!uploads) {
      response.setHeader('allow', 'GET, HEAD');
      return say(request, response, 405, 'this cache takes nothing');
    }
    const sent = tokenOf(request.headers.authorization);
    if (sent === undefined) {
      response.setHeader('www-authenticate', 'Basic realm="flk cache"');
      return say(
        request,
        response,
        401,
        'this needs the token: as Bearer, or as the password in a netrc file',
      );
    }
    if (!isSame(sent, uploads.token)) return say(request, response, 403, 'this is not the token');
    if ((request.headers['content-encoding'] ?? 'identity') !== 'identity')
      return say(request, response, 415, 'send it as it is, without Content-Encoding');
    if (/^100-continue$/i.test(request.headers.expect ?? '')) response.writeContinue();
    const length = request.headers['content-length'];
    try {
      // What is unpacked once the last byte has come may take longer than anybody may be silent.
      request.once('end', () => request.socket.setTimeout(0));
      await uploads.taker.put(address, request, length === undefined ? undefined : Number(length));
      return say(request, response, 201, 'taken');
    } catch (error) {
      if (error instanceof UploadRefused) return say(request, response, error.status, error.message);
      throw error;
    } finally {
      request.socket.setTimeout(this.#server.timeout);
    }
  }
}

/** The way below the root, decoded; undefined for what is none. */
function addressOf(url: string): string | undefined {
  try {
    const { pathname } = new URL(url.startsWith('/') ? `http://cache${url.replace(/^\/+/, '/')}` : url);
    return decodeURIComponent(pathname.replace(/^\/+/, ''));
  } catch {
    return undefined;
  }
}

async function send(request: IncomingMessage, response: ServerResponse, offer: Offer): Promise<Outcome> {
  const { size } = offer;
  const tag = offer.tag === undefined ? undefined : `"${offer.tag}"`;
  response.setHeader('content-type', offer.type);
  if (tag !== undefined) response.setHeader('etag', tag);
  if (offer.immutable) response.setHeader('cache-control', 'public, max-age=31536000, immutable');
  response.setHeader('accept-ranges', size === undefined ? 'none' : 'bytes');
  if (tag !== undefined && isListed(request.headers['if-none-match'], tag)) {
    response.writeHead(304).end();
    return { status: 304, bytes: 0 };
  }
  const asked = size === undefined ? 'all' : rangeOf(request, size, tag);
  if (asked === 'none') {
    response.setHeader('content-range', `bytes */${size}`);
    return say(request, response, 416, 'there is no such part of it');
  }
  const { from, to } = asked === 'all' ? { from: 0, to: size ?? Number.POSITIVE_INFINITY } : asked;
  const status = asked === 'all' ? 200 : 206;
  if (size !== undefined) response.setHeader('content-length', to - from);
  if (asked !== 'all') response.setHeader('content-range', `bytes ${from}-${to - 1}/${size}`);
  if (request.method === 'HEAD') {
    offer.discard?.();
    response.writeHead(status).end();
    return { status, bytes: 0 };
  }
  const chunks = offer.read(from, to)[Symbol.asyncIterator]();
  // Whatever cannot be opened shows itself here, while the status can still tell.
  const first = await chunks.next();
  response.writeHead(status);
  let bytes = 0;
  await pipeline(async function* body() {
    try {
      for (let next = first; !next.done; next = await chunks.next()) {
        bytes += next.value.length;
        yield next.value;
      }
    } finally {
      await chunks.return?.();
    }
  }, response);
  return { status, bytes };
}

/** The part that is asked for. Several parts, or what is no range, are answered with all of it, as RFC 9110 has it. */
function rangeOf(
  request: IncomingMessage,
  size: number,
  tag: string | undefined,
): { readonly from: number; readonly to: number } | 'all' | 'none' {
  const { range, 'if-range': condition } = request.headers;
  if (range === undefined || request.method !== 'GET') return 'all';
  if (condition !== undefined && condition !== tag) return 'all';
  const [, first, last] = /^bytes=(\d{0,16})-(\d{0,16})$/.exec(range.trim()) ?? [];
  if (first === undefined || last === undefined || (first === '' && last === '')) return 'all';
  if (first === '')
    return last === '0' || size === 0 ? 'none' : { from: Math.max(0, size - Number(last)), to: size };
  if (last !== '' && Number(last) < Number(first)) return 'all';
  const to = last === '' ? size : Math.min(size, Number(last) + 1);
  return Number(first) < to ? { from: Number(first), to } : 'none';
}

const isListed = (header: string | undefined, tag: string): boolean =>
  header?.split(',').some((one) => one.trim() === '*' || one.trim().replace(/^W\//, '') === tag) === true;

/** One line as the whole answer. */
function say(request: IncomingMessage, response: ServerResponse, status: number, message: string): Outcome {
  const body = Buffer.from(`${message}\n`);
  if (!request.complete && (request.method === 'PUT' || request.method === 'POST')) {
    // Somebody is still sending: they are listened to for a little, else they would not hear the answer.
    response.setHeader('connection', 'close');
    let ignored = 0;
    request.on('data', (chunk: Buffer) => {
      ignored += chunk.length;
      if (ignored > mostIgnored) request.destroy();
    });
  }
  for (const name of ['etag', 'cache-control']) response.removeHeader(name);
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', 'content-length': body.length });
  response.end(request.method === 'HEAD' ? undefined : body);
  return { status, bytes: request.method === 'HEAD' ? 0 : body.length };
}

/** The token of `Bearer TOKEN`, or the password of `Basic …`, which is what netrc files can say. */
function tokenOf(header: string | undefined): string | undefined {
  const [, scheme, value] = /^(Bearer|Basic) +(\S+)$/i.exec(header ?? '') ?? [];
  if (scheme === undefined || value === undefined) return undefined;
  if (scheme.toLowerCase() === 'bearer') return value;
  const pair = Buffer.from(value, 'base64').toString();
  return pair.slice(pair.indexOf(':') + 1);
}

/** In a time that tells nothing of how much of it is right. */
function isSame(one: string, other: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(one), digest(other));
}

/** Whether an error only says that the client has gone. */
const isGone = (error: unknown): boolean =>
  ['ERR_STREAM_PREMATURE_CLOSE', 'ECONNRESET', 'EPIPE', 'ERR_STREAM_DESTROYED'].includes(
    systemCode(error) ?? '',
  ) ||
  (error instanceof Error && error.name === 'AbortError');

function cannotListen({ host, port }: CacheServerOptions, error: Error): FlkError {
  const place = `${host}:${port}`;
  switch (systemCode(error)) {
    case 'EADDRINUSE':
      return new FlkError('FLK_CACHE_LISTEN', `another program listens on ${place} already`, {
        cause: error,
      });
    case 'EACCES':
      return new FlkError('FLK_CACHE_LISTEN', `you may not listen on ${place}`, {
        cause: error,
        hint: 'ports from 1024 on are for everyone',
      });
    default:
      return new FlkError('FLK_CACHE_LISTEN', `cannot listen on ${place}: ${error.message}`, {
        cause: error,
      });
  }
}
