/** `flake.yaml`: text in, a `Manifest` or the list of all its faults out. */
import type { SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import type { Manifest } from './manifest-model.ts';

export {
  type AliasPackage,
  type BuiltPackage,
  type FetchedPackage,
  type InputDeclaration,
  type Manifest,
  type MergedPackage,
  type Meta,
  type PackageDeclaration,
  type PhaseName,
  packagesFor,
  phaseNames,
  type RefSelection,
  type SelfSelection,
  type SourceSelection,
  type ToolchainDeclaration,
} from './manifest-model.ts';
export type { InputPath, PackageRef, Template } from './package-ref.ts';

export interface ManifestOptions {
  /** flk's own version, held against `requireVersion`; without it nothing is checked. */
  readonly flkVersion?: string;
}

/** Throws FLK_MANIFEST_INVALID with every fault as a diagnostic, or FLK_MANIFEST_VERSION. */
export function parseManifest(file: SourceFile, _options: ManifestOptions = {}): Manifest {
  throw new FlkError('FLK_MANIFEST_INVALID', `cannot read ${file.path} yet`);
}
