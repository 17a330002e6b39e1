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
   * promised: host name, user, number of cores, times, the order in which folders are read.
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
}

export interface Engine {
  /** Throws FLK_BUILD_FAILED, FLK_BUILD_TIMEOUT, FLK_BUILD_…LIMIT, FLK_BUILD_DISK_FULL, FLK_SANDBOX_UNAVAILABLE, FLK_INTERRUPTED. */
  build(request: BuildRequest): Promise<BuiltOutputs>;
}
