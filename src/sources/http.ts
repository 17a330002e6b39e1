/** HTTP with manners: kept connections, time limits, retries with back-off, nothing sent that was not asked for. */
import { readFileSync } from 'node:fs';
import { type ClientRequest, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { pipeline, Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { createSecureContext, type SecureContext } from 'node:tls';
import { throwIfAborted } from '../base/concurrency.ts';
import { type ErrorCode, type ErrorDetails, FlkError, systemCode } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { bodyOf, HttpAgent, HttpsAgent, seconds, TimeoutError } from './http-body.ts';

export interface HttpOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until a connection must stand, TLS included. Default 20 s. */
  readonly connectTimeout?: number | undefined;
  /**
   * Milliseconds that a server may be silent. Default 60 s. Its answer must begin within twice as long, and who sends less than
   * 16 KiB in ten times as long is given up, too.
   */
  readonly idleTimeout?: number | undefined;
  /** Connections to one host. Default 16. */
  readonly maxSockets?: number | undefined;
  /** Files of certificates (PEM) to trust instead of Node's own; none: Node's own. */
  readonly caFiles?: readonly string[] | undefined;
  /** Asked for each request what lets us in. Default: nothing does. */
  readonly credentials?: HttpCredentials | undefined;
}

/** Knows what to send along to be let in. */
export interface HttpCredentials {
  /**
   * Headers for exactly this URL, if there are any; `challenged` once the server has answered 401 without them. They are sent
   * nowhere else.
   */
  headers(url: URL, challenged: boolean): Promise<Readonly<Record<string, string>> | undefined>;
}

export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE';
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer | StreamedBody;
  /** A chunk of the answer's body need only be good until the next one is asked for: large ones then cost less. */
  readonly lent?: boolean;
  /** Where the redirects that led here began: elsewhere than there (host, port or scheme) no credentials are sent. */
  readonly redirectedFrom?: URL;
}

/** What is sent piece by piece; opened anew where the server wants to have it again. */
interface StreamedBody {
  /** Bytes. */
  readonly length: number;
  open(): AsyncIterable<Buffer>;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** Ends the connection when left early. Throws as `send` does. */
  readonly body: AsyncIterable<Buffer>;
}

/** A failure that may be gone at the next attempt. */
export class TransientError extends FlkError {
  /** Milliseconds the server asks us to wait. */
  readonly retryAfter: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    details: ErrorDetails & { retryAfter?: number | undefined } = {},
  ) {
    super(code, message, details);
    this.retryAfter = details.retryAfter;
  }
}

/** Longer than this we do not wait at a server's word: the person should know. */
const longestWait = 60_000;

export interface RetryOptions {
  readonly reporter: Reporter;
  readonly signal?: AbortSignal | undefined;
  /** Attempts in all. Default 4. */
  readonly attempts?: number | undefined;
  /** Milliseconds before the second attempt; three times more before each further one. Default 300. */
  readonly firstDelay?: number | undefined;
}

/** Does `work` again after a TransientError, with a `retry` notice and a pause. Each attempt must start from nothing. */
export async function withRetries<T>(
  subject: string,
  options: RetryOptions,
  work: () => Promise<T>,
): Promise<T> {
  const attempts = options.attempts ?? 4;
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof TransientError) || attempt >= attempts) throw error;
      if ((error.retryAfter ?? 0) > longestWait) throw error;
      const backOff = (options.firstDelay ?? 300) * 3 ** (attempt - 1);
      // Many inputs fail together; spread, they do not return together.
      const delayMs = Math.round(error.retryAfter ?? backOff * (0.75 + Math.random() / 2));
      options.reporter.emit({
        kind: 'notice',
        notice: { type: 'retry', subject, attempt, delayMs, reason: error.message },
      });
      await sleep(delayMs, undefined, options.signal ? { signal: options.signal } : {}).catch(
        (cause: unknown) => {
          throw new FlkError('FLK_INTERRUPTED', 'interrupted', { cause });
        },
      );
    }
  }
}

export class HttpClient {
  readonly #options: HttpOptions;
  readonly #httpAgent: HttpAgent;
  #httpsAgent: HttpsAgent | undefined;
  /** What is on its way, to be ended by the signal: one listener for all, for a thousand small requests feel one each. */
  readonly #live = new Set<ClientRequest>();

  constructor(options: HttpOptions = {}) {
    this.#options = options;
    this.#httpAgent = new HttpAgent(this.#agentOptions);
  }

  /** Idle connections are kept, and do not keep the process alive: Node's agents see to that. */
  get #agentOptions(): { keepAlive: boolean; maxSockets: number } {
    return { keepAlive: true, maxSockets: this.#options.maxSockets ?? 16 };
  }

  /** Made when it is first needed: reading a machine's certificates costs more than many a fetch. */
  get #secureAgent(): HttpsAgent {
    const { caFiles = [] } = this.#options;
    this.#httpsAgent ??= new HttpsAgent({
      ...this.#agentOptions,
      ...(caFiles.length === 0 ? {} : { secureContext: trusting(caFiles) }),
    });
    return this.#httpsAgent;
  }

  /**
   * One exchange, or a second one where the server asks for credentials that we have; whatever the status. Redirects are the
   * caller's to judge. Throws FLK_NETWORK (a TransientError where another attempt makes sense) and FLK_INTERRUPTED.
   */
  async send(request: HttpRequest): Promise<HttpResponse> {
    const { credentials } = this.#options;
    const asked = request.redirectedFrom ?? request.url;
    if (!credentials || asked.origin !== request.url.origin) return this.#exchange(request);
    const known = await credentials.headers(asked, false);
    const response = await this.#exchange(withHeaders(request, known));
    if (response.status !== 401 || known) return response;
    const wanted = await credentials.headers(asked, true);
    if (!wanted) return response;
    await discard(response);
    return this.#exchange(withHeaders(request, wanted));
  }

  readonly #interrupt = (): void => {
    for (const outgoing of this.#live) outgoing.destroy(new Error('interrupted'));
  };

  #endWithSignal(outgoing: ClientRequest, signal: AbortSignal): void {
    if (this.#live.size === 0) signal.addEventListener('abort', this.#interrupt);
    this.#live.add(outgoing);
    outgoing.once('close', () => {
      this.#live.delete(outgoing);
      if (this.#live.size === 0) signal.removeEventListener('abort', this.#interrupt);
    });
  }

  #exchange(request: HttpRequest): Promise<HttpResponse> {
    const { url, method, body } = request;
    const { signal, connectTimeout = 20_000, idleTimeout = 60_000 } = this.#options;
    const secure = url.protocol === 'https:';
    throwIfAborted(signal);
    return new Promise((resolve, reject) => {
      const outgoing = (secure ? httpsRequest : httpRequest)(url, {
        method,
        agent: secure ? this.#secureAgent : this.#httpAgent,
        headers: {
          'user-agent': 'git/2 (flk)',
          ...request.headers,
          ...(body ? { 'content-length': String(body.length) } : {}),
        },
      });
      if (signal) this.#endWithSignal(outgoing, signal);
      let gaveUp: TimeoutError | undefined;
      const giveUp = (reason: string): void => {
        gaveUp ??= new TimeoutError(reason);
        outgoing.destroy(gaveUp);
      };
      // To a body that is being read, Node says only that its connection broke.
      const fail = (error: unknown): FlkError =>
        networkError(url, gaveUp ?? error, signal, outgoing.reusedSocket);
      outgoing.on('error', (error) => reject(fail(error)));
      outgoing.setTimeout(idleTimeout, () => giveUp(`${url.host} was silent for ${seconds(idleTimeout)}`));
      const streamed = body === undefined || Buffer.isBuffer(body) ? undefined : body;
      outgoing.on('socket', (socket) => {
        // A byte now and then is no silence.
        const begin = (): void => {
          const begun = setTimeout(
            () => giveUp(`${url.host} did not answer within ${seconds(2 * idleTimeout)}`),
            connectTimeout + 2 * idleTimeout,
          );
          const answered = (): void => clearTimeout(begun);
          outgoing.once('response', answered).once('close', answered);
        };
        // However long it takes to send: the answer comes after.
        if (streamed) outgoing.once('finish', begin);
        else begin();
        if (!socket.connecting) return;
        const timer = setTimeout(
          () => giveUp(`no connection to ${url.host} within ${seconds(connectTimeout)}`),
          connectTimeout,
        );
        const stop = (): void => clearTimeout(timer);
        socket.once(secure ? 'secureConnect' : 'connect', stop).once('close', stop);
      });
      outgoing.on('response', (response) =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: bodyOf(response, {
            lent: request.lent ?? false,
            fail,
            host: url.host,
            window: 10 * idleTimeout,
          }),
        }),
      );
      if (streamed) pipeline(Readable.from(streamed.open()), outgoing, () => {});
      else outgoing.end(body);
    });
  }
}

function withHeaders(request: HttpRequest, headers: Readonly<Record<string, string>> = {}): HttpRequest {
  return { ...request, headers: { ...request.headers, ...headers } };
}

function trusting(caFiles: readonly string[]): SecureContext {
  const ca = caFiles.map((path) => {
    try {
      return readFileSync(path);
    } catch (cause) {
      throw new FlkError('FLK_FILE_UNREADABLE', `cannot read the certificates in ${path}`, { cause });
    }
  });
  return createSecureContext({ ca });
}

/** The body, whole. More than `limit` bytes is FLK_LIMIT. */
export async function readBody(response: HttpResponse, url: URL, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response.body) {
    size += chunk.length;
    if (size > limit) throw new FlkError('FLK_LIMIT', `${place(url)} answers with more than ${limit} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Reads a small body to its end, so that the connection can be used again; a large one costs the connection. */
export async function discard(response: HttpResponse): Promise<void> {
  let size = 0;
  for await (const chunk of response.body) {
    size += chunk.length;
    if (size > 64 * 1024) return;
  }
}

/** What a status that is not 2xx means; 5xx is transient, and 429 where it will pass before anybody gets tired of waiting. */
export function statusError(url: URL, response: Pick<HttpResponse, 'status' | 'headers'>): FlkError {
  const { status, headers } = response;
  const facts = { status: String(status), url: place(url) };
  const limited = status === 429 || ((status === 403 || status === 401) && isSpent(headers));
  if (limited) return rateLimited(url, headers, facts);
  if (status === 401 || status === 403 || status === 407)
    return new FlkError('FLK_HTTP_AUTH', `${url.host} wants credentials, or refuses those it has`, { facts });
  const message = `${url.host} answers ${status}`;
  if (status >= 500 && status !== 501 && status !== 505)
    return new TransientError('FLK_HTTP_STATUS', message, {
      facts,
      retryAfter: retryAfterOf(headers['retry-after']),
      hint: 'the server is overloaded or broken: try again later',
    });
  return new FlkError('FLK_HTTP_STATUS', message, { facts });
}

/** GitHub says so with 403, in headers of its own; GitLab and others with 429. */
const isSpent = (headers: IncomingHttpHeaders): boolean =>
  headers['x-ratelimit-remaining'] === '0' || headers['retry-after'] !== undefined;

/** Milliseconds. */
const longestLimit = 365 * 86_400_000;

function rateLimited(url: URL, headers: IncomingHttpHeaders, facts: Record<string, string>): FlkError {
  const reset = [headers['x-ratelimit-reset'], headers['ratelimit-reset']].find(
    (value): value is string => typeof value === 'string' && /^\d{1,12}$/.test(value),
  );
  const retryAfter =
    retryAfterOf(headers['retry-after']) ??
    (reset === undefined ? undefined : Math.max(0, Number(reset) * 1000 - Date.now()));
  // Nobody limits anybody for a year: such a date is a mistake.
  const until =
    retryAfter === undefined || retryAfter > longestLimit
      ? undefined
      : new Date(Date.now() + retryAfter).toISOString().replace(/\.\d+Z$/, 'Z');
  return new TransientError(
    'FLK_HTTP_RATE_LIMIT',
    `${url.host} answers no more requests ${until === undefined ? 'for now' : `until ${until}`}`,
    { facts: { ...facts, ...(until === undefined ? {} : { until }) }, retryAfter },
  );
}

function retryAfterOf(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** A URL for messages: without user info and query. */
const place = (url: URL): string => `${url.origin}${url.pathname}`;

/** Broken off on the way: another attempt may get through. Everything else (no such host, refused, TLS) will be the same. */
const passing = new Set([
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EAI_AGAIN',
  'ECONNABORTED',
  'HPE_INVALID_EOF_STATE',
]);

const meanings: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no such host',
  EAI_AGAIN: 'the name cannot be looked up now',
  ECONNREFUSED: 'it refuses the connection',
  ECONNRESET: 'the connection broke',
  EPIPE: 'the connection broke',
  EHOSTUNREACH: 'there is no way to it',
  ENETUNREACH: 'there is no network',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is signed by itself',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate’s authority is not trusted',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate’s authority is not trusted',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate’s authority is not trusted',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another host',
};

/** Whether the server's certificate is what failed: git may have been told to trust it. */
export function isCertificateError(error: FlkError): boolean {
  return /CERT|LEAF_SIGNATURE/.test(error.facts.reason ?? '');
}

function networkError(url: URL, error: unknown, signal: AbortSignal | undefined, reused: boolean): FlkError {
  if (error instanceof FlkError) return error;
  if (signal?.aborted) return new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: error });
  if (error instanceof TimeoutError)
    return new TransientError('FLK_NETWORK', error.message, { cause: error });
  const code = systemCode(error) ?? 'ERROR';
  const text = meanings[code] ?? (error instanceof Error ? error.message : String(error));
  const message = `cannot reach ${url.host}: ${text}`;
  const hint = /CERT|LEAF_SIGNATURE/.test(code)
    ? 'check the address; an authority of your own is named by sslCertFile or $SSL_CERT_FILE'
    : undefined;
  const details = {
    cause: error,
    facts: { url: place(url), reason: code },
    ...(hint === undefined ? {} : { hint }),
  };
  if (!passing.has(code)) return new FlkError('FLK_NETWORK', message, details);
  // A kept connection that the server had closed meanwhile: nothing is wrong, and nothing is to be waited for.
  return new TransientError('FLK_NETWORK', message, reused ? { ...details, retryAfter: 0 } : details);
}
