/** Calls to one server: gRPC with time limits, a second try where that is safe, and failures in our words. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client, Metadata, ServiceError, StatusObject } from '@grpc/grpc-js';
import { throwIfAborted } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import type { Reporter } from '../../../base/events.ts';
import { version } from '../../../base/version.ts';
import type { Any } from '../../../generated/remote-execution.ts';
import {
  type Codec,
  decode,
  encode,
  type Method,
  RequestMetadata,
  Status,
} from '../../../generated/remote-execution.ts';
import {
  type Address,
  parseAddress,
  type RemoteCredentials,
  readCertificates,
  secretHeaders,
} from './address.ts';

/** Of gRPC's status codes those that mean something here. */
export const code = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** What all calls here do can be done twice: blobs are named by their bytes, an action by what it does. */
const retryable: ReadonlySet<number> = new Set([
  code.cancelled,
  code.unknown,
  code.deadlineExceeded,
  code.resourceExhausted,
  code.aborted,
  code.internal,
  code.unavailable,
]);

/** A call that failed, or the like of it inside an answer. */
export class CallFailure extends Error {
  readonly status: number;
  readonly details: readonly Any[];

  constructor(status: number, message: string, details: readonly Any[] = []) {
    super(message.slice(0, 2000));
    this.name = 'CallFailure';
    this.status = status;
    this.details = details;
  }

  get isRetryable(): boolean {
    return retryable.has(this.status);
  }
}

export const isFailure = (error: unknown, status: number): error is CallFailure =>
  error instanceof CallFailure && error.status === status;

/** How often a call that failed is tried again, and after how many milliseconds first; then twice as many, up to `longest`. */
export interface Patience {
  readonly tries: number;
  readonly first: number;
  readonly longest: number;
}

export interface ConnectionOptions {
  readonly address: string;
  /** What people are told that this leads to. */
  readonly name: string;
  readonly credentials: RemoteCredentials;
  readonly reporter: Reporter;
  readonly patience: Patience;
  /** Milliseconds until an answer, or the next part of one, must have come. */
  readonly answerTime: number;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** What the server is told that this is about. */
  readonly target?: string;
}

interface PersistOptions {
  readonly signal?: AbortSignal | undefined;
  readonly patience?: Patience;
  /** Asked after each failure whether anything was gained: then counting begins anew. */
  readonly progressed?: () => boolean;
}

/** Largest message that is received. Servers send at most 4 MB, but for what they put into one by themselves. */
const maxMessage = 16 * 2 ** 20;
/** How many bytes may be on their way to us: what a distant server can send before it hears from us. */
const flowWindow = 4 * 2 ** 20;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #address: Address;
  readonly #secrets: readonly [string, string][];
  #opened: Promise<Opened> | undefined;

  /** Throws FLK_REMOTE_ADDRESS. Nothing is sent before the first call. */
  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#address = parseAddress(options.address);
    this.#secrets = secretHeaders(this.#address, options.credentials);
  }

  /** One question, one answer. */
  async ask<Q, R>(
    method: Method<Q, R>,
    request: Partial<Q>,
    options: CallOptions & { readonly time?: number } = {},
  ): Promise<R> {
    const { client, metadata } = await this.#open();
    const { answerTime } = this.#options;
    return await new Promise<R>((resolve, reject) => {
      const call = client.makeUnaryRequest(
        method.path,
        (message: Partial<Q>) => encode(method.request, message),
        reader(method.response),
        request,
        metadata(options.target),
        { deadline: Date.now() + Math.min(options.time ?? answerTime, answerTime) },
        (error, answer) => {
          stop();
          if (error) reject(this.#failure(error));
          else resolve(answer!);
        },
      );
      const stop = whenAborted(options.signal, () => call.cancel());
    }).catch((error: unknown) => {
      throw unlessAborted(options.signal, error);
    });
  }

  /** One question, many answers. `patient`: they may be as far apart as they like. */
  async *listen<Q, R>(
    method: Method<Q, R>,
    request: Partial<Q>,
    options: CallOptions & { readonly patient?: boolean } = {},
  ): AsyncGenerator<R> {
    const { client, metadata } = await this.#open();
    const call = client.makeServerStreamRequest(
      method.path,
      (message: Partial<Q>) => encode(method.request, message),
      reader(method.response),
      request,
      metadata(options.target),
    );
    const stop = whenAborted(options.signal, () => call.cancel());
    let late = false;
    const silence = options.patient
      ? undefined
      : setTimeout(() => {
          late = true;
          call.cancel();
        }, this.#options.answerTime);
    try {
      for await (const answer of call) {
        yield answer as R;
        silence?.refresh();
      }
    } catch (error) {
      if (late) throw new CallFailure(code.deadlineExceeded, 'the server fell silent');
      throw unlessAborted(options.signal, this.#failure(error));
    } finally {
      clearTimeout(silence);
      stop();
      call.cancel();
    }
  }

  /** Many parts of a question, one answer, which may come before the last part. A part is sent when the one before has gone. */
  async send<Q, R>(
    method: Method<Q, R>,
    parts: AsyncIterable<Partial<Q>>,
    options: CallOptions = {},
  ): Promise<R> {
    const { client, metadata } = await this.#open();
    let answered = false;
    let stop = (): void => {};
    let call: ReturnType<typeof client.makeClientStreamRequest<Partial<Q>, R>> | undefined;
    const silence = setTimeout(() => call?.cancel(), this.#options.answerTime);
    const answer = new Promise<R>((resolve, reject) => {
      call = client.makeClientStreamRequest<Partial<Q>, R>(
        method.path,
        (message: Partial<Q>) => encode(method.request, message),
        reader(method.response),
        metadata(options.target),
        (error, value) => {
          answered = true;
          if (error) reject(this.#failure(error));
          else resolve(value!);
        },
      );
      // What went wrong, the answer tells.
      call.on('error', () => {});
      stop = whenAborted(options.signal, () => call?.cancel());
    });
    answer.catch(() => {});
    try {
      for await (const part of parts) {
        if (answered) break;
        await new Promise<void>((sent) => {
          call!.write(part, () => sent());
          answer.then(
            () => sent(),
            () => sent(),
          );
        });
        silence.refresh();
      }
      call!.end();
      return await answer;
    } catch (error) {
      call!.cancel();
      throw unlessAborted(options.signal, error);
    } finally {
      clearTimeout(silence);
      stop();
    }
  }

  /** Runs calls until they succeed, with pauses that grow. Throws what is no passing failure, and when patience is at its end the last. */
  async persist<T>(
    subject: string,
    { signal, patience = this.#options.patience, progressed = () => false }: PersistOptions,
    work: () => Promise<T>,
  ): Promise<T> {
    const { tries, first, longest } = patience;
    for (let attempt = 1; ; attempt++) {
      throwIfAborted(signal);
      try {
        return await work();
      } catch (error) {
        if (progressed()) attempt = 1;
        if (!(error instanceof CallFailure) || !error.isRetryable || attempt >= tries) throw error;
        // Whom all wait for should not be asked by all at one time again.
        const delayMs = Math.round(
          Math.min(longest, first * 2 ** (attempt - 1)) * (0.75 + Math.random() / 2),
        );
        this.#options.reporter.emit({
          kind: 'notice',
          notice: { type: 'retry', subject, attempt, delayMs, reason: error.message },
        });
        await sleep(delayMs, undefined, { ...(signal ? { signal } : {}) }).catch(() => {});
      }
    }
  }

  /** A failure that is at the end of its tries, as one of ours. */
  told(error: unknown): unknown {
    if (!(error instanceof CallFailure)) return error;
    const facts = { builder: this.#options.name, reason: error.message };
    if (error.isRetryable)
      return new FlkError(
        'FLK_BUILDER_UNAVAILABLE',
        'the remote builder cannot be reached, or does not answer',
        {
          facts,
          cause: error,
        },
      );
    if (error.status === code.unauthenticated || error.status === code.permissionDenied)
      return new FlkError('FLK_REMOTE_REFUSED', 'the remote builder does not let you in', {
        facts,
        hint: 'check the token, headers and certificates that are set for it',
        cause: error,
      });
    return new FlkError('FLK_REMOTE_REFUSED', 'the remote builder refuses what it was asked for', {
      facts,
      cause: error,
    });
  }

  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined);
    opened?.client.close();
    this.#opened = undefined;
  }

  #open(): Promise<Opened> {
    this.#opened ??= this.#connect();
    return this.#opened;
  }

  async #connect(): Promise<Opened> {
    const { ca, key, cert } = await readCertificates(this.#options.credentials);
    const grpc = await import('@grpc/grpc-js');
    const { target, tls, local } = this.#address;
    const credentials = tls ? grpc.credentials.createSsl(ca, key, cert) : grpc.credentials.createInsecure();
    const client = new grpc.Client(target, credentials, {
      'grpc.primary_user_agent': `flk/${version}`,
      'grpc.max_receive_message_length': maxMessage,
      'grpc.max_send_message_length': maxMessage,
      'grpc-node.flow_control_window': flowWindow,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 5000,
      // Servers take more frequent pings for an attack.
      'grpc.keepalive_time_ms': 310_000,
      'grpc.keepalive_timeout_ms': 20_000,
      'grpc.enable_retries': 0,
      'grpc.enable_http_proxy': local ? 0 : 1,
      'grpc.use_local_subchannel_pool': 1,
    });
    const metadata = (targetId = ''): Metadata => {
      const sent = new grpc.Metadata();
      for (const [name, value] of this.#secrets) sent.set(name, value);
      const about = { toolDetails: { toolName: 'flk', toolVersion: version }, targetId };
      sent.set('build.bazel.remote.execution.v2.requestmetadata-bin', encode(RequestMetadata, about));
      return sent;
    };
    return { client, metadata };
  }

  #failure(error: unknown): CallFailure {
    if (error instanceof CallFailure) return error;
    const { code: status, details, metadata, message } = error as Partial<ServiceError & StatusObject>;
    if (typeof status !== 'number')
      return new CallFailure(code.unknown, this.#masked(String(message ?? error)));
    const [packed] = metadata?.get('grpc-status-details-bin') ?? [];
    return new CallFailure(status, this.#masked(details ?? message ?? ''), detailsIn(packed));
  }

  /** A server may say again what it was sent. */
  #masked(text: string): string {
    let masked = text;
    for (const [, value] of this.#secrets)
      for (const secret of [value, value.replace(/^\S+ /, '')]) masked = masked.replaceAll(secret, '***');
    return masked;
  }
}

interface Opened {
  readonly client: Client;
  metadata(target?: string): Metadata;
}

function detailsIn(packed: string | Buffer | undefined): readonly Any[] {
  try {
    return Buffer.isBuffer(packed) ? decode(Status, packed).details : [];
  } catch {
    return [];
  }
}

const reader =
  <T>(codec: Codec<T>) =>
  (bytes: Buffer): T =>
    decode(codec, bytes);

/** Has something done once the signal fires; the result takes that back. */
function whenAborted(signal: AbortSignal | undefined, act: () => void): () => void {
  if (!signal) return () => {};
  if (signal.aborted) act();
  signal.addEventListener('abort', act, { once: true });
  return () => signal.removeEventListener('abort', act);
}

/** A call that failed because we left is no failure of the server's. */
const unlessAborted = (signal: AbortSignal | undefined, error: unknown): unknown =>
  signal?.aborted ? new FlkError('FLK_INTERRUPTED', 'interrupted', { cause: signal.reason }) : error;
