/** Derivations: the ATerm text of a `.drv`, its path, and its output paths. */
import type { StorePath } from './store-path.ts';

export interface DerivationOutput {
  readonly path: StorePath;
  /** For a fixed output: `sha256` (flat) or `r:sha256`, and the hash in base16; else both empty. */
  readonly hashAlgo: string;
  readonly hash: string;
}

export interface Derivation {
  readonly outputs: ReadonlyMap<string, DerivationOutput>;
  /** `.drv` path → names of its outputs that are needed. */
  readonly inputDrvs: ReadonlyMap<StorePath, readonly string[]>;
  readonly inputSrcs: readonly StorePath[];
  readonly system: string;
  readonly builder: string;
  readonly args: readonly string[];
  readonly env: ReadonlyMap<string, string>;
}
