/** Has a server run an action, through lost connections, lost blobs and restarts. */
import { FlkError } from '../../../base/errors.ts';
import {
  type ActionResult,
  type Any,
  type Codec,
  type Digest,
  decode,
  ExecuteOperationMetadata,
  ExecuteResponse,
  ExecutionStage,
  methods,
  type Operation,
} from '../../../generated/remote-execution.ts';
import type { BuildRequest } from '../engine.ts';
import { late } from '../supervise.ts';
import { CallFailure, type Connection, code, isFailure } from './connection.ts';
import type { RemoteLog } from './log.ts';

/** How often a server may find that it has lost what it was sent. */
const maxLosses = 3;
/** Milliseconds after which a call that breaks off is no fault of the server's: something between us has a limit. */
const longCall = 10_000;
/** Seconds that a server may take longer to end a build than it was told. */
const timeoutGrace = 30;
/** Milliseconds for a server to hear that nobody waits any more. */
const cancelTime = 2000;

export interface ExecuteOptions {
  readonly connection: Connection;
  readonly instance: string;
  readonly request: Pick<BuildRequest, 'limits' | 'signal'>;
  /** What the server is told that this is about. */
  readonly target: string;
  /** Runs it, whatever the server knows of earlier runs. */
  readonly anew: boolean;
  readonly log: RemoteLog;
  /** Makes the server have the action and its inputs; `again` after it said that some are missing. */
  provide(again: boolean): Promise<void>;
  /** Fires when the build must end, for `verdict`'s sake. */
  readonly stop: AbortController;
}

/** Throws what `stop` was fired with, FLK_BUILD_TIMEOUT, FLK_INTERRUPTED, FLK_BUILDER_UNAVAILABLE, and what calls do. */
export async function execute(actionDigest: Digest, options: ExecuteOptions): Promise<ActionResult> {
  const execution = new Execution(actionDigest, options);
  try {
    return await execution.run();
  } catch (error) {
    await execution.abandon();
    throw options.stop.signal.aborted ? options.stop.signal.reason : error;
  } finally {
    execution.end();
  }
}

class Execution {
  readonly #action: Digest;
  readonly #options: ExecuteOptions;
  readonly #signal: AbortSignal;
  /** The server's name for it, once it has one, until it is over. */
  #operation = '';
  #losses = 0;
  /** What the server said of it the last time. */
  #lossReason = '';
  /** The server told how the last run ended, so that it was no call that broke off. */
  #isTold = false;
  #overtime: NodeJS.Timeout | undefined;

  constructor(action: Digest, options: ExecuteOptions) {
    const { request, stop } = options;
    this.#action = action;
    this.#options = options;
    this.#signal = AbortSignal.any([stop.signal, ...(request.signal ? [request.signal] : [])]);
  }

  async run(): Promise<ActionResult> {
    const { connection } = this.#options;
    for (;;) {
      await this.#options.provide(this.#losses > 0);
      let began = 0;
      const result = await connection.persist(
        'the build',
        { signal: this.#signal, progressed: () => !this.#isTold && Date.now() - began > longCall },
        () => {
          began = Date.now();
          this.#isTold = false;
          return this.#attend();
        },
      );
      if (result) return result;
      if (++this.#losses > maxLosses)
        throw new FlkError(
          'FLK_BUILDER_UNAVAILABLE',
          'the remote builder loses what it is sent, or cannot run it',
          { facts: { reason: this.#lossReason } },
        );
    }
  }

  end(): void {
    clearTimeout(this.#overtime);
  }

  /** Lets the server know that nobody waits any more. */
  async abandon(): Promise<void> {
    if (this.#operation === '') return;
    const { connection } = this.#options;
    const signal = AbortSignal.timeout(cancelTime);
    await connection.ask(methods.cancelOperation, { name: this.#operation }, { signal }).catch(() => {});
  }

  /** Starts the action, or listens on; undefined when the server lacks some of its blobs. */
  async #attend(): Promise<ActionResult | undefined> {
    const { connection, instance, anew, target } = this.#options;
    const options = { signal: this.#signal, target, patient: true };
    const waits = this.#operation !== '';
    const operations = !waits
      ? connection.listen(
          methods.execute,
          { instanceName: instance, skipCacheLookup: anew, actionDigest: this.#action, inlineStdout: true },
          options,
        )
      : connection.listen(methods.waitExecution, { name: this.#operation }, options);
    try {
      for await (const operation of operations) {
        this.#operation = operation.name;
        this.#heed(operation);
        if (operation.done) return this.#outcome(operation);
      }
    } catch (error) {
      if (isFailure(error, code.failedPrecondition)) return this.#forgotten(error.message);
      if (!waits || !isFailure(error, code.notFound)) throw error;
      // It was restarted, perhaps.
      this.#operation = '';
      return this.#attend();
    }
    throw new CallFailure(code.unavailable, 'the server left the build before its end');
  }

  #heed({ metadata }: Operation): void {
    if (!metadata?.typeUrl.endsWith('ExecuteOperationMetadata')) return;
    const { stage, stdoutStreamName } = unpacked(ExecuteOperationMetadata, metadata);
    this.#options.log.follow(stdoutStreamName);
    const { timeout } = this.#options.request.limits;
    if (stage === ExecutionStage.EXECUTING && timeout !== undefined)
      this.#overtime ??= setTimeout(
        () => this.#options.stop.abort(tooLate(timeout)),
        (timeout + timeoutGrace) * 1000,
      );
  }

  #outcome({ error, response }: Operation): ActionResult | undefined {
    this.#operation = '';
    if (error && error.code !== code.ok) return this.#failed(error.code, error.message);
    if (!response) throw new CallFailure(code.unknown, 'the server gives no result of the build');
    const { status, result, message } = unpacked(ExecuteResponse, response);
    if (status && status.code !== code.ok) return this.#failed(status.code, status.message || message);
    if (!result) throw new CallFailure(code.unknown, 'the server gives no result of the build');
    return result;
  }

  #failed(status: number, reason: string): undefined {
    const { timeout } = this.#options.request.limits;
    this.#isTold = true;
    switch (status) {
      case code.failedPrecondition:
        return this.#forgotten(reason);
      case code.internal:
      case code.unknown:
        // Not what the builder did: what should have run it, or taken its outputs, could not.
        throw new FlkError('FLK_BUILDER_UNAVAILABLE', 'the remote builder cannot do this build', {
          facts: { reason },
        });
      case code.deadlineExceeded:
        if (timeout !== undefined) throw tooLate(timeout);
        throw new FlkError('FLK_BUILD_TIMEOUT', 'the remote builder has a time limit of its own', {
          facts: { reason },
          hint: 'have the server’s limit raised, or ask it for the time with --timeout',
        });
    }
    throw new CallFailure(status, reason);
  }

  #forgotten(reason: string): undefined {
    this.#operation = '';
    this.#lossReason = reason;
    return undefined;
  }
}

const tooLate = (timeout: number): FlkError => late('ran for', timeout, 'timeout');

function unpacked<T>(codec: Codec<T>, { value }: Any): T {
  try {
    return decode(codec, value);
  } catch {
    throw new CallFailure(code.unknown, 'the server sent what cannot be read');
  }
}
