/** What instantiating has planned so far: derivations by their paths, and what puts sources into the store. */
import { FlkError } from '../base/errors.ts';
import {
  type Derivation,
  type DerivationDraft,
  finishDerivation,
  hashDerivationModulo,
} from '../formats/derivation.ts';
import type { StorePath } from '../formats/store-path.ts';
import { isBuiltin } from './builtin.ts';
import type { Toolchain } from './engines/engine.ts';
import type { Instantiation, PlannedDerivation } from './instantiation.ts';

export class Plan {
  readonly #derivations = new Map<StorePath, PlannedDerivation>();
  readonly #modulo = new Map<StorePath, string>();
  readonly #sources = new Map<StorePath, () => Promise<void>>();

  /** Computes the paths of a derivation, whose inputs are planned, and keeps it. */
  add(
    name: string,
    draft: DerivationDraft,
    toolchain: Toolchain,
  ): { readonly drvPath: StorePath; readonly derivation: Derivation } {
    const { drvPath, derivation, modulo } = finishDerivation(name, draft, this.#lookup);
    this.#derivations.set(drvPath, { derivation, name, toolchain });
    this.#modulo.set(drvPath, modulo);
    return { drvPath, derivation };
  }

  /** Keeps a fixed output, which `fetch` or `merge` computed. */
  addFixed(name: string, drvPath: StorePath, derivation: Derivation): void {
    this.#derivations.set(drvPath, { derivation, name, toolchain: { kind: 'host' } });
    this.#modulo.set(drvPath, hashDerivationModulo(derivation, this.#lookup));
  }

  /** What is known by its content: `make` puts it into the store. The first to say so is kept. */
  addSource(path: StorePath, make: () => Promise<void>): void {
    if (!this.#sources.has(path)) this.#sources.set(path, make);
  }

  /** Puts a source into the store. */
  makeSource(path: StorePath): Promise<void> {
    return this.#source(path)();
  }

  /** The part of the plan that one derivation, or one source, stands on. */
  of(top: StorePath): Instantiation {
    const derivations = new Map<StorePath, PlannedDerivation>();
    const sources = new Map<StorePath, () => Promise<void>>();
    if (!this.#derivations.has(top)) {
      return { top, derivations, sources: sources.set(top, this.#source(top)) };
    }
    // A chain may be deeper than the stack: no recursion.
    const waiting = [top];
    for (let drvPath = waiting.pop(); drvPath !== undefined; drvPath = waiting.pop()) {
      if (derivations.has(drvPath)) continue;
      const planned = this.#derivations.get(drvPath)!;
      derivations.set(drvPath, planned);
      for (const path of planned.derivation.inputSrcs) sources.set(path, this.#source(path));
      waiting.push(...planned.derivation.inputDrvs.keys());
    }
    return { top, derivations, sources };
  }

  #source(path: StorePath): () => Promise<void> {
    const make = this.#sources.get(path);
    if (make === undefined) throw new FlkError('FLK_INTERNAL', `nothing says how to make ${path}`);
    return make;
  }

  readonly #lookup = (drvPath: StorePath): string => {
    const hash = this.#modulo.get(drvPath);
    if (hash === undefined) throw new FlkError('FLK_INTERNAL', `${drvPath} was not instantiated`);
    return hash;
  };
}

/** Names of those derivations that see the host's tools while they are built. Sorted, each once. */
export function hostToolchainOf({ derivations }: Instantiation): string[] {
  const names = [...derivations.values()]
    .filter(({ toolchain, derivation }) => toolchain.kind === 'host' && !isBuiltin(derivation))
    .map(({ name }) => name);
  return [...new Set(names)].sort();
}
