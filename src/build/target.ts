/** Where references lead while a package is instantiated. */
import { FlkError } from '../base/errors.ts';
import type {
  AliasPackage,
  BuiltPackage,
  FetchedPackage,
  MergedPackage,
  PackageDeclaration,
  PackageRef,
} from '../flake/manifest.ts';
import type { Derivation } from '../formats/derivation.ts';
import type { StorePath } from '../formats/store-path.ts';

/** A reference to a package, not to an input's source. */
export type NamedPackage = PackageRef & { readonly name: string };

export const isPackage = (ref: PackageRef): ref is NamedPackage => ref.name !== undefined;

export type Made = Exclude<PackageDeclaration, AliasPackage>;

/** A package, ready to be referred to. */
export type ResolvedPackage =
  | {
      readonly kind: 'derivation';
      readonly drvPath: StorePath;
      readonly derivation: Derivation;
      readonly declaration: BuiltPackage | FetchedPackage | MergedPackage;
    }
  | ({ readonly kind: 'source'; readonly declaration: Made; asDerivation?(): StorePath } & ResolvedSource);

/** Something that is known by its content. */
interface ResolvedSource {
  readonly path: StorePath;
  /** Whether it may name store paths. */
  readonly refers: boolean;
}

/** Where a reference leads: the thing, and the text that stands for it. */
export interface Target {
  readonly resolved: ResolvedPackage | ({ readonly kind: 'source' } & ResolvedSource);
  readonly output: string;
  /** The store path, or a path below it. */
  readonly path: string;
}

export interface PackageTarget extends Target {
  readonly resolved: ResolvedPackage;
}

/** What a derivation turns out to refer to while its attributes are put together. */
export class Inputs {
  readonly drvs = new Map<StorePath, string[]>();
  readonly srcs = new Set<StorePath>();

  add({ resolved, output }: Target): void {
    if (resolved.kind === 'source') {
      this.srcs.add(resolved.path);
      return;
    }
    const outputs = this.drvs.get(resolved.drvPath) ?? [];
    if (!outputs.includes(output)) outputs.push(output);
    this.drvs.set(resolved.drvPath, outputs);
  }
}

/** A package on the way from the one that was asked for, in which circles show. */
export interface Step {
  readonly name: string;
  readonly parent: Step | undefined;
}

/** Throws FLK_PACKAGE_CYCLE when one of the steps above is the same one. */
export function assertNoCircle({ name, parent }: Step): void {
  const names = [name];
  for (let step = parent; step !== undefined; step = step.parent) {
    names.unshift(step.name);
    if (step.name !== name) continue;
    if (names.length > 12) names.splice(6, names.length - 12, '…');
    throw new FlkError('FLK_PACKAGE_CYCLE', `${name} needs itself: ${names.join(' → ')}`);
  }
}

/** Whether what lies there can name store paths: sources out of repositories and fetches stand for themselves. */
export function mayRefer({ resolved }: Target): boolean {
  return resolved.kind === 'source' ? resolved.refers : resolved.declaration.kind !== 'fetch';
}

export function targetOf(resolved: ResolvedPackage, output: string, shown: string): PackageTarget {
  const path =
    resolved.kind === 'source'
      ? output === 'out'
        ? resolved.path
        : undefined
      : resolved.derivation.outputs.get(output)?.path;
  if (path !== undefined) return { resolved, output, path };
  const outputs = resolved.kind === 'source' ? ['out'] : [...resolved.derivation.outputs.keys()];
  throw new FlkError('FLK_PACKAGE_UNKNOWN', `${shown} has no output ${output}`, {
    facts: { outputs: outputs.join(' ') },
    hint: '',
  });
}
