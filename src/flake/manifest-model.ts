/** A flake's manifest, read: what a flake asks for and what it offers. */
import type { Range, SourceFile } from '../base/diagnostics.ts';
import type { NarHash } from '../formats/hash.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { FlakeRef } from './flake-ref.ts';
import type { InputPath, PackageRef, Template } from './package-ref.ts';

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
  /** Where the declaration's key stands in the manifest. */
  readonly range: Range;
}

/** This flake's tree, or what of it lies at `path`: empty for the whole, else no leading `./`, no trailing slash, no `..`. */
export interface SelfSelection {
  readonly kind: 'self';
  readonly path: string;
  /** Patterns in gitignore syntax; empty: everything. */
  readonly include: readonly string[];
  readonly exclude: readonly string[];
}

/** A source or a package's output: `inputs` of a manifest are known by then, packages of other flakes are not. */
interface RefSelection {
  readonly kind: 'ref';
  readonly ref: PackageRef;
}

export type SourceSelection = SelfSelection | RefSelection;

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
  /** Where the package's key stands in the manifest. */
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
  /** Only those that are given. */
  readonly phases: ReadonlyMap<PhaseName, Template>;
  /** Holds `out`. */
  readonly outputs: readonly string[];
  /** What the only output must hash to; then nothing that it is built with is part of its path. */
  readonly fixed?: { readonly hash: NarHash; readonly recursive: boolean };
  /** The result is known by its content, once it is built. */
  readonly contentAddressed: boolean;
  /** What a builder must offer. */
  readonly requiredFeatures: readonly string[];
}

export const phaseNames = [
  'unpackPhase',
  'configurePhase',
  'buildPhase',
  'checkPhase',
  'installPhase',
] as const;

export type PhaseName = (typeof phaseNames)[number];

export interface FetchedPackage extends PackageBase {
  readonly kind: 'fetch';
  /** Never empty. */
  readonly urls: readonly string[];
  /** SRI. Undefined when the author has not filled it in yet: fetching then tells the right one. */
  readonly hash?: NarHash;
  readonly unpack: boolean;
  /** Drop an archive's single top folder. */
  readonly stripRoot: boolean;
  readonly executable: boolean;
}

export interface MergePartDeclaration {
  readonly ref: PackageRef;
  /** Of two parts that differ at one place the lower wins. */
  readonly priority: number;
}

/** The priority of a part that says none, as in Nix. */
export const usualPriority = 5;

export interface MergedPackage extends PackageBase {
  readonly kind: 'merge';
  readonly parts: readonly MergePartDeclaration[];
  /** Link path in the tree → target. */
  readonly links: ReadonlyMap<string, string>;
}

/** A path out of a binary cache, with all that it refers to. */
export interface StorePathPackage extends PackageBase {
  readonly kind: 'storePath';
  readonly path: StorePath;
  /** Of its NAR. */
  readonly narHash: NarHash;
  /** URLs, asked in order. Never empty. */
  readonly caches: readonly string[];
  /** `NAME:BASE64`; one of them must have signed each path. Never empty. */
  readonly publicKeys: readonly string[];
}

export interface AliasPackage {
  readonly kind: 'alias';
  readonly name: string;
  readonly target: PackageRef;
  readonly range: Range;
}

export type PackageDeclaration =
  | BuiltPackage
  | FetchedPackage
  | MergedPackage
  | StorePathPackage
  | AliasPackage;

/** A program in a package's output. */
export interface ProgramRef {
  readonly ref: PackageRef;
  /** Below the output, `bin/hello`. Undefined: the package's main program. */
  readonly path?: string;
}

/** A shell to work in. */
export interface DevShell {
  readonly name: string;
  /** '' for none. */
  readonly description: string;
  readonly packages: readonly PackageRef[];
  readonly buildInputs: readonly PackageRef[];
  /** Packages whose own build inputs the shell has too. */
  readonly inputsFrom: readonly PackageRef[];
  readonly env: ReadonlyMap<string, Template>;
  /** Shell text for its start. */
  readonly shellHook?: Template;
  /** Undefined: the manifest's default. */
  readonly toolchain?: ToolchainDeclaration;
  /** Where its key stands in the manifest. */
  readonly range: Range;
}

/** A program to run by name. */
export interface App {
  readonly name: string;
  /** '' for none. */
  readonly description: string;
  readonly program: ProgramRef;
  readonly range: Range;
}

/** What every flake says, whichever file it says it in: all that locking looks at. */
export interface FlakeManifest {
  /** `flake.yaml` or `flake.nix`. The root's decides by whose rules it is locked. */
  readonly kind: 'yaml' | 'nix';
  readonly file: SourceFile;
  readonly description?: string;
  readonly inputs: ReadonlyMap<string, InputDeclaration>;
  /** How the flake's own source is to be fetched, where it says so (`inputs.self` of a flake.nix). */
  readonly self?: { readonly submodules?: boolean; readonly lfs?: boolean };
}

/** Things by name, of which some are different on some systems. */
export interface Varying<T> {
  /** As they are where no `perSystem` says otherwise. */
  readonly everywhere: ReadonlyMap<string, T>;
  /** System → the things that are different there, or that are only there. */
  readonly perSystem: ReadonlyMap<string, ReadonlyMap<string, T>>;
}

/** What a flake offers beside packages. To use it, ask `onSystem`. */
export interface Offers {
  /** An alias here names a package, never a check. */
  readonly checks: Varying<PackageDeclaration>;
  readonly devShells: Varying<DevShell>;
  readonly apps: Varying<App>;
  /** By name; the text is the one line that describes it, '' for none. */
  readonly templates: ReadonlyMap<string, string>;
  /** What `flk fmt` runs. */
  readonly formatter?: ProgramRef;
}

/** `flake.yaml`. */
export interface Manifest extends FlakeManifest {
  readonly kind: 'yaml';
  readonly requireVersion?: string;
  /** Empty: any. */
  readonly systems: readonly string[];
  /** As they are where no `perSystem` says otherwise. To build, ask `packagesFor`. */
  readonly packages: ReadonlyMap<string, PackageDeclaration>;
  /** System → the packages that are different there, or that are only there. */
  readonly perSystem: ReadonlyMap<string, ReadonlyMap<string, PackageDeclaration>>;
  readonly offers: Offers;
  readonly toolchain?: ToolchainDeclaration;
  /** Which phases runner, `setup/N.sh`. */
  readonly setup: number;
}

/** Things as they are on one system. */
export function onSystem<T>({ everywhere, perSystem }: Varying<T>, system: string): ReadonlyMap<string, T> {
  const own = perSystem.get(system);
  return own === undefined ? everywhere : new Map([...everywhere, ...own]);
}

/** The packages as they are on one system. */
export function packagesFor(
  { packages, perSystem }: Manifest,
  system: string,
): ReadonlyMap<string, PackageDeclaration> {
  return onSystem({ everywhere: packages, perSystem }, system);
}

/** What a package is made from: what it refers to, and which files of its flake. */
export function partsOf(declaration: PackageDeclaration): {
  readonly refs: readonly PackageRef[];
  readonly selections: readonly SelfSelection[];
} {
  const isRef = (part: string | PackageRef): part is PackageRef => typeof part !== 'string';
  switch (declaration.kind) {
    case 'alias':
      return { refs: [declaration.target], selections: [] };
    case 'fetch':
    case 'storePath':
      return { refs: [], selections: [] };
    case 'merge':
      return { refs: declaration.parts.map(({ ref }) => ref), selections: [] };
    case 'build': {
      const { src, patches, buildInputs, toolchain, env, phases } = declaration;
      const sources = [...(src ? [src] : []), ...patches];
      return {
        refs: [
          ...buildInputs,
          ...(toolchain?.kind === 'package' ? [toolchain.ref] : []),
          ...[...env.values(), ...phases.values()].flatMap((template) => template.filter(isRef)),
          ...sources.flatMap((source) => (source.kind === 'ref' ? [source.ref] : [])),
        ],
        selections: sources.filter((source) => source.kind === 'self'),
      };
    }
  }
}
