/** What instantiating a package gives and realising it needs: the derivations, and the sources they stand on. */
import type { Derivation } from '../formats/derivation.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { Toolchain } from './engines/engine.ts';

/** One derivation of the graph, with what its `.drv` does not say. */
export interface PlannedDerivation {
  readonly derivation: Derivation;
  /** As a person knows it: `hello-2.12`. */
  readonly name: string;
  /** What lies at `/` while it is built; of no meaning for `builtin:` builders. */
  readonly toolchain: Toolchain;
}

export interface Instantiation {
  /**
   * The `.drv` path of the package that was asked for, a key of `derivations`; or, of a package that lies in a binary cache, its own
   * path, a key of `sources`.
   */
  readonly top: StorePath;
  /** `.drv` path → derivation: `top` and every derivation it needs, directly or not. */
  readonly derivations: ReadonlyMap<StorePath, PlannedDerivation>;
  /**
   * Source path → what puts it into the store. Every `inputSrcs` entry of every derivation, and every path toolchain that no
   * derivation makes, has one unless it was put there already. Called at most once per realisation, and only where a build needs
   * the path.
   */
  readonly sources: ReadonlyMap<StorePath, () => Promise<void>>;
}
