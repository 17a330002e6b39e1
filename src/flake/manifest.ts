/** `flake.yaml`, read: what a flake asks for and what it offers. */
import type { Range, SourceFile } from '../base/diagnostics.ts';
import type { NarHash } from '../formats/hash.ts';
import type { FlakeRef } from './flake-ref.ts';

/** The way from a flake to one of its inputs, over other inputs. Never empty, except for `follows: ""` (the flake itself). */
export type InputPath = readonly string[];

export interface InputDeclaration {
  /** Undefined for an input that follows another, or that only overrides below itself. */
  readonly ref?: FlakeRef;
  /** Semver range over the repository's tags. */
  readonly version?: string;
  /** Tag shape, `release-{version}`. Default: `v{version}`, `{version}` and what semver reads loosely. */
  readonly tag?: string;
  /** From the flake that declares this input. */
  readonly follows?: InputPath;
  /** False: only files, no manifest is read. */
  readonly flake: boolean;
  readonly frozen: boolean;
  readonly groups: readonly string[];
  /** Overrides of that flake's own inputs. */
  readonly inputs: ReadonlyMap<string, InputDeclaration>;
  /** Where the declaration stands in the manifest. */
  readonly range: Range;
}

/** `a/b#name.output` (DESIGN section 3), parsed; `path` empty for this flake, `name` undefined for an input's own source. */
export interface PackageRef {
  readonly inputs: InputPath;
  readonly name?: string;
  readonly output?: string;
  /** After an input's source: `assets/fonts` gives inputs [assets], subpath `fonts`. */
  readonly subpath?: string;
}

/** Text with `{{ref}}` holes. */
export type Template = readonly (string | PackageRef)[];

export type SourceSelection =
  /** This flake's tree, or what of it lies at `path`. */
  | {
      readonly kind: 'self';
      readonly path: string;
      readonly include: readonly string[];
      readonly exclude: readonly string[];
    }
  /** An input's source. */
  | { readonly kind: 'ref'; readonly ref: PackageRef };

export type ToolchainDeclaration =
  | { readonly kind: 'host' }
  | { readonly kind: 'package'; readonly ref: PackageRef };

export interface Meta {
  readonly description?: string;
  readonly license?: string;
  readonly homepage?: string;
  readonly mainProgram?: string;
}

interface PackageBase {
  readonly name: string;
  readonly version?: string;
  readonly meta: Meta;
  readonly range: Range;
}

export interface BuiltPackage extends PackageBase {
  readonly kind: 'build';
  readonly src?: SourceSelection;
  /** Undefined: the manifest's default. */
  readonly toolchain?: ToolchainDeclaration;
  readonly buildInputs: readonly PackageRef[];
  readonly env: ReadonlyMap<string, Template>;
  /** Paths in this flake's tree, or references. */
  readonly patches: readonly SourceSelection[];
  /** `configurePhase`, `buildPhase`, `checkPhase`, `installPhase`: only those that are given. */
  readonly phases: ReadonlyMap<PhaseName, Template>;
  readonly outputs: readonly string[];
}

export type PhaseName = 'unpackPhase' | 'configurePhase' | 'buildPhase' | 'checkPhase' | 'installPhase';

export interface FetchedPackage extends PackageBase {
  readonly kind: 'fetch';
  readonly urls: readonly string[];
  /** Undefined when the author has not filled it in yet: fetching then tells the right one. */
  readonly hash?: NarHash;
  readonly unpack: boolean;
  /** Drop an archive's single top folder. */
  readonly stripRoot: boolean;
  readonly executable: boolean;
}

export interface MergedPackage extends PackageBase {
  readonly kind: 'merge';
  readonly parts: readonly PackageRef[];
  /** Link path in the tree → target. */
  readonly links: ReadonlyMap<string, string>;
}

export interface AliasPackage {
  readonly kind: 'alias';
  readonly name: string;
  readonly target: PackageRef;
  readonly range: Range;
}

export type PackageDeclaration = BuiltPackage | FetchedPackage | MergedPackage | AliasPackage;

export interface Manifest {
  readonly file: SourceFile;
  readonly description?: string;
  readonly requireVersion?: string;
  /** Empty: any. */
  readonly systems: readonly string[];
  readonly inputs: ReadonlyMap<string, InputDeclaration>;
  /** Per-system settings are applied by `packagesFor`. */
  readonly packages: ReadonlyMap<string, PackageDeclaration>;
  readonly toolchain?: ToolchainDeclaration;
  /** Which phases runner, `setup/N.sh`. */
  readonly setup: number;
}
