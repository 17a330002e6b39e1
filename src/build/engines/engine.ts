/** The port behind which a derivation is run. */
import type { Derivation } from '../../formats/derivation.ts';
import type { StorePath } from '../../formats/store-path.ts';

/** What lies at `/` besides the store: the host's own tools, or the top entries of a store path. */
export type Toolchain = { readonly kind: 'host' } | { readonly kind: 'path'; readonly path: StorePath };

/** What is not there has no limit. */
export interface BuildLimits {
  /** Seconds. */
  readonly timeout?: number;
  readonly maxSilent?: number;
  /** Of each file that the builder writes; and, for who takes the outputs, of all of them. */
  readonly maxOutputBytes: number;
  readonly maxLogBytes: number;
  /** Bytes on disk of all that the builder has there at a time. */
  readonly maxDiskBytes?: number;
  /** Bytes of disk that a build must leave free. */
  readonly minFreeBytes?: number;
  /** Bytes of memory, of all its processes together. */
  readonly maxMemory?: number;
  /** Processes and threads at a time. */
  readonly maxProcesses?: number;
}

export interface BuildRequest {
  readonly drvPath: StorePath;
  readonly derivation: Derivation;
  /** Every store path the builder may see, closed under references, without the outputs. All valid. */
  readonly closure: readonly StorePath[];
  readonly toolchain: Toolchain;
  readonly limits: BuildLimits;
  readonly cores: number;
  /**
   * Absent for what will be kept. A number asks for a surrounding that differs, and differs from other numbers', in all that is not
   * promised: host name, user, number of cores, times, the order in which folders are read; as far as the engine can.
   */
  readonly variation?: number;
  log(line: string): void;
  readonly signal?: AbortSignal;
}

export interface BuiltOutputs {
  /** Output name → physical path of what the builder left, not yet canonical. A missing one has no entry. */
  readonly outputs: ReadonlyMap<string, string>;
  /** Has what the build left behind removed, at once or by and by. */
  dispose(): Promise<void>;
  /**
   * For an error that says what is wrong with the outputs, before `dispose`: keeps what a failed build leaves where that is wanted, and
   * gives the error with the place of it.
   */
  failed?(error: unknown): Promise<unknown>;
}

/** Why an engine does not take something, to be read after its name: `nix: it has no toolchain: host`. */
interface Refusal {
  readonly reason: string;
  /** What mends it. */
  readonly hint?: string;
}

export interface Engine {
  /** As people know it: `local`, `nix`, `remote grpc://host:port`. Holds no secret. */
  readonly name: string;
  /**
   * Whether what it built was built on this machine by flk itself, so that its records are `ultimate`. What others built is so only on
   * their word, and is signed only by an explicit key.
   */
  readonly ultimate: boolean;
  /** Why it can never build this; undefined: it may. Asks nobody and runs nothing. */
  refusal(wanted: Pick<BuildRequest, 'derivation' | 'toolchain'>): Refusal | undefined;
  /**
   * Finds out, in seconds, whether it could take a build now, without building anything: throws FLK_BUILDER_UNAVAILABLE,
   * FLK_INTERRUPTED.
   */
  probe(signal?: AbortSignal): Promise<void>;
  /**
   * Many may run at a time. With `variation` no earlier result answers for the build. Limits hold as far as the engine can see what
   * they limit; time, silence and the log's size always. Throws FLK_BUILD_FAILED, FLK_BUILD_TIMEOUT, FLK_BUILD_…LIMIT,
   * FLK_BUILD_DISK_FULL, FLK_SANDBOX_UNAVAILABLE, FLK_INTERRUPTED; and FLK_BUILDER_UNAVAILABLE where it cannot be reached, or cannot
   * take or end this now and the derivation is not at fault: another engine may build it.
   */
  build(request: BuildRequest): Promise<BuiltOutputs>;
  /** Lets go of what its builds shared: files, connections, processes. An engine that is used again makes that anew. */
  close(): Promise<void>;
}
