/** The engine that builds on other machines, by the Remote Execution API, version 2; docs/remote.md says how. */
import { type Limiter, limiter, throwIfAborted } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import type { Reporter } from '../../../base/events.ts';
import { nameOf } from '../../../formats/store-path.ts';
import {
  type ActionResult,
  type Digest,
  methods,
  type Property,
} from '../../../generated/remote-execution.ts';
import type { Store } from '../../../store/store.ts';
import type { BuildRequest, BuiltOutputs, Engine } from '../engine.ts';
import { actionOf, placesOf } from './action.ts';
import { type RemoteCredentials, serverName } from './address.ts';
import { type Blob, Blobs } from './blobs.ts';
import { type Abilities, abilitiesOf } from './capabilities.ts';
import { Connection, code, isFailure, type Patience } from './connection.ts';
import { execute } from './execution.ts';
import { InputRoots } from './input-root.ts';
import { RemoteLog } from './log.ts';
import { MerkleTrees } from './merkle.ts';
import { fetchOutputs } from './outputs.ts';

export interface RemoteEngineOptions {
  readonly store: Pick<Store, 'physical' | 'query' | 'stage' | 'memo' | 'setMemo'>;
  readonly reporter: Reporter;
  /** `grpc://HOST:PORT`, `grpcs://HOST[:443]` or `unix:/PATH`. */
  readonly address: string;
  /** Which of the server's instances; by default the one without a name. */
  readonly instance?: string | undefined;
  readonly credentials?: RemoteCredentials | undefined;
  /** What the worker must be, by the server's own words: `OSFamily`, `container-image` and the like. */
  readonly platform?: Readonly<Record<string, string>> | undefined;
  /** Builds on the server at a time. Default 16. */
  readonly jobs?: number | undefined;
  /** NIX_BUILD_CORES, the same for all who use the server, so that they share its cache. Default 4. */
  readonly cores?: number | undefined;
  readonly patience?: Patience | undefined;
  /** Milliseconds until an answer, or the next part of one, must have come. Default one minute. */
  readonly answerTime?: number | undefined;
}

/** A server that restarts is waited for, about half a minute. */
const usualPatience: Patience = { tries: 9, first: 200, longest: 8000 };
/** To find out whether somebody is there, a second or so. */
const shortPatience: Patience = { tries: 3, first: 200, longest: 1000 };

/** Milliseconds for the first answer. */
const greetingTime = 5000;

/** What a server and we have in common once it has answered. */
interface Session {
  readonly abilities: Abilities;
  readonly blobs: Blobs;
}

/** Throws FLK_REMOTE_ADDRESS. Nothing is asked of the server before the first build. */
export function remoteEngine(options: RemoteEngineOptions): Engine {
  return new RemoteEngine(options);
}

class RemoteEngine implements Engine {
  readonly ultimate = false;
  readonly name: string;
  readonly #options: RemoteEngineOptions;
  readonly #instance: string;
  readonly #server: string;
  readonly #platform: readonly Property[];
  readonly #connection: Connection;
  readonly #patience: Patience;
  readonly #job: Limiter;
  readonly #roots: InputRoots;
  #session: Promise<Session> | undefined;

  constructor(options: RemoteEngineOptions) {
    const { address, credentials = {}, reporter, patience = usualPatience } = options;
    this.#options = options;
    this.#patience = patience;
    this.#instance = options.instance ?? '';
    this.#server = serverName(address, options.instance);
    this.name = `remote ${this.#server}`;
    this.#platform = Object.entries(options.platform ?? {}).map(([name, value]) => ({ name, value }));
    const { answerTime = 60_000 } = options;
    this.#connection = new Connection({
      address,
      name: this.#server,
      credentials,
      reporter,
      patience,
      answerTime,
    });
    this.#job = limiter(options.jobs ?? 16);
    this.#roots = new InputRoots(new MerkleTrees(options.store));
  }

  refusal({ toolchain }: Pick<BuildRequest, 'derivation' | 'toolchain'>): ReturnType<Engine['refusal']> {
    if (toolchain.kind === 'path') return undefined;
    return {
      reason: 'it has no toolchain: host; another machine’s programs are not this machine’s',
      hint: 'give the package a toolchain, or build it here',
    };
  }

  async probe(signal?: AbortSignal): Promise<void> {
    await this.#asSaid(() => this.#meet(signal));
  }

  build(request: BuildRequest): Promise<BuiltOutputs> {
    return this.#job(() => this.#asSaid(() => this.#build(request)));
  }

  async close(): Promise<void> {
    this.#session = undefined;
    await this.#connection.close();
  }

  async #asSaid<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#connection.told(error);
    }
  }

  /** What the server can do, asked once. */
  #meet(signal: AbortSignal | undefined): Promise<Session> {
    this.#session ??= this.#ask(signal).catch((error: unknown) => {
      this.#session = undefined;
      throw error;
    });
    return this.#session;
  }

  async #ask(signal: AbortSignal | undefined): Promise<Session> {
    const connection = this.#connection;
    const request = { instanceName: this.#instance };
    const patience = { ...shortPatience, tries: Math.min(shortPatience.tries, this.#patience.tries) };
    const capabilities = await connection.persist('the remote builder', { signal, patience }, () =>
      connection.ask(methods.getCapabilities, request, { signal, time: greetingTime }),
    );
    const abilities = abilitiesOf(capabilities, this.#server);
    return { abilities, blobs: new Blobs(connection, this.#instance, abilities) };
  }

  async #build(request: BuildRequest): Promise<BuiltOutputs> {
    const { toolchain, closure, signal } = request;
    throwIfAborted(signal);
    if (toolchain.kind === 'host') {
      const { reason, hint } = this.refusal(request)!;
      throw new FlkError('FLK_BUILDER_UNAVAILABLE', `${this.name}: ${reason}`, { hint: hint ?? '' });
    }
    const session = await this.#meet(signal);
    const root = await this.#roots.make(toolchain.path, closure, signal);
    const { digest, blobs } = actionOf(request, {
      inputRoot: root.digest,
      abilities: session.abilities,
      platform: this.#platform,
      cores: this.#options.cores ?? 4,
    });
    const cached = request.variation === undefined ? await this.#cached(digest, request) : undefined;
    if (cached?.exitCode === 0) {
      const built = await this.#takeCached(cached, session, request);
      if (built) return built;
    }
    // A server that remembers a failure is not asked about it again.
    const anew = cached !== undefined || request.variation !== undefined;
    return await this.#run({ digest, blobs: [...root.blobs, ...blobs] }, anew, session, request);
  }

  /** What the server remembers of an earlier run. */
  async #cached(actionDigest: Digest, { signal }: BuildRequest): Promise<ActionResult | undefined> {
    const connection = this.#connection;
    const question = { instanceName: this.#instance, actionDigest, inlineStdout: true };
    try {
      return await connection.persist('the remote builder', { signal }, () =>
        connection.ask(methods.getActionResult, question, { signal }),
      );
    } catch (error) {
      if (isFailure(error, code.notFound) || isFailure(error, code.unimplemented)) return undefined;
      throw error;
    }
  }

  /** Undefined where the server remembers a result, and has lost some of it. */
  async #takeCached(
    result: ActionResult,
    session: Session,
    request: BuildRequest,
  ): Promise<BuiltOutputs | undefined> {
    const log = new RemoteLog(request, session.blobs, () => {});
    try {
      const built = await this.#fetch(result, session, request);
      await log.finish(result, request.signal);
      return built;
    } catch (error) {
      if (isFailure(error, code.notFound)) return undefined;
      throw error;
    }
  }

  async #run(
    { digest, blobs }: { readonly digest: Digest; readonly blobs: readonly Blob[] },
    anew: boolean,
    session: Session,
    request: BuildRequest,
  ): Promise<BuiltOutputs> {
    const stop = new AbortController();
    const log = new RemoteLog(request, session.blobs, (verdict) => stop.abort(verdict));
    let result: ActionResult;
    try {
      result = await execute(digest, {
        connection: this.#connection,
        instance: this.#instance,
        request,
        target: nameOf(request.drvPath),
        anew,
        log,
        stop,
        provide: async (again) => {
          if (again) session.blobs.forget(blobs);
          await session.blobs.ensure(blobs, request.signal);
        },
      });
    } catch (error) {
      log.stop();
      throw error;
    }
    await log.finish(result, request.signal);
    if (result.exitCode !== 0) {
      const status = `exit status ${result.exitCode}`;
      throw new FlkError('FLK_BUILD_FAILED', `the builder ended with ${status}`, { facts: { status } });
    }
    return await this.#fetch(result, session, request).catch((error: unknown) => {
      if (!isFailure(error, code.notFound)) throw error;
      throw new FlkError(
        'FLK_BUILDER_UNAVAILABLE',
        'the remote builder does not have what it says that it built',
        {
          facts: { builder: this.#server },
          cause: error,
        },
      );
    });
  }

  async #fetch(result: ActionResult, session: Session, request: BuildRequest): Promise<BuiltOutputs> {
    const stage = await this.#options.store.stage();
    try {
      const outputs = await fetchOutputs(result, {
        blobs: session.blobs,
        folder: stage.path,
        places: placesOf(request),
        maxBytes: request.limits.maxOutputBytes,
        signal: request.signal,
      });
      return { outputs, dispose: () => stage.dispose() };
    } catch (error) {
      await stage.dispose();
      throw error;
    }
  }
}
