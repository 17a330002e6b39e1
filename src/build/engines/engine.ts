/** The port behind which a derivation is run. */
import type { Derivation } from '../../formats/derivation.ts';
import type { StorePath } from '../../formats/store-path.ts';

/** What lies at `/` besides the store: the host's own tools, or the top entries of a store path. */
export type Toolchain = { readonly kind: 'host' } | { readonly kind: 'path'; readonly path: StorePath };

export interface BuildRequest {
  readonly drvPath: StorePath;
  readonly derivation: Derivation;
  /** Every store path the builder may see, closed under references, without the outputs. All valid. */
  readonly closure: readonly StorePath[];
  readonly toolchain: Toolchain;
  readonly limits: {
    /** Seconds; undefined: none. */
    readonly timeout?: number;
    readonly maxSilent?: number;
    readonly maxOutputBytes: number;
    readonly maxLogBytes: number;
  };
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
  /** Removes what the build left behind. */
  dispose(): Promise<void>;
}

export interface Engine {
  /** Throws FLK_BUILD_FAILED, FLK_BUILD_TIMEOUT, FLK_SANDBOX_UNAVAILABLE, FLK_INTERRUPTED. */
  build(request: BuildRequest): Promise<BuiltOutputs>;
}
