/** What `FLAKE#NAME` means on a command line: which of a flake's offers, and which package stands for it. */
import { nearest } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import type { InstantiationContext, NamedPackage } from '../build/instantiate.ts';
import { splitFragment } from '../flake/flake-ref.ts';
import { type BuiltPackage, type DevShell, type Manifest, onSystem } from '../flake/manifest.ts';
import { type PackageRef, parsePackageRef } from '../flake/package-ref.ts';
import type { Context } from './context.ts';

/** Where a name may be looked up. */
const kinds = ['packages', 'checks', 'apps', 'devShells'] as const;
type OfferKind = (typeof kinds)[number];

export interface Target {
  /** As it was written; `.` where nothing was. */
  readonly flake: string;
  /** Where it says so: `.#checks.runs`. */
  readonly kind: OfferKind | undefined;
  /** Undefined where none was written, which means `default`. */
  readonly name: string | undefined;
  readonly output: string | undefined;
}

/**
 * Reads `FLAKE#NAME`, `FLAKE#NAME.OUTPUT`, `FLAKE#KIND.NAME` and, as Nix writes it, `FLAKE#KIND.SYSTEM.NAME`. Throws FLK_REF_INVALID,
 * and FLK_SYSTEM_UNSUPPORTED for another system.
 */
export function parseTarget(text: string, system: string): Target {
  const { ref, fragment } = splitFragment(text);
  const flake = ref === '' ? '.' : ref;
  const whole = fragment ?? '';
  const [first = '', second, ...others] = whole.split('.');
  const kind = kinds.find((name) => name === first);
  if (kind === undefined || second === undefined) {
    const { name, output } = parsePackageRef(`#${whole}`, 'package');
    return { flake, kind: undefined, name: whole === '' ? undefined : name, output };
  }
  const hasSystem = /^[a-z0-9_]+-(linux|darwin|freebsd|windows|none)$/.test(second);
  if (hasSystem && second !== system)
    throw new FlkError('FLK_SYSTEM_UNSUPPORTED', `${text} is for ${second}`, {
      facts: { found: second, wanted: system },
      hint: `leave ${second} out: names are looked up for this machine`,
    });
  const words = hasSystem ? others : [second, ...others];
  const { name, output } = parsePackageRef(`#${words.join('.')}`, 'package');
  return { flake, kind, name, output };
}

/**
 * The package to ask `instantiate` for, of a context that `withChecks` made. An app is the package that holds its program. Throws
 * FLK_PACKAGE_UNKNOWN, and FLK_USAGE for a shell, which is none.
 */
export function packageOf(target: Target, { root, system }: InstantiationContext): NamedPackage {
  const { kind = 'packages', name = 'default', output } = target;
  const named = { inputs: [], name, ...(output === undefined ? {} : { output }) };
  const { checks, apps } = root.manifest.offers;
  switch (kind) {
    case 'packages':
      return named;
    case 'checks':
      offered(onSystem(checks, system), 'check', name);
      return { ...named, name: checkName(name) };
    case 'apps':
      return packageNamed(offered(onSystem(apps, system), 'app', name).program.ref);
    case 'devShells':
      throw new FlkError('FLK_USAGE', `devShells.${name} is a shell, not a package`, {
        hint: `flk develop ${target.flake}#${name}`,
      });
  }
}

/** A reference in a place where only packages stand. */
export const packageNamed = (ref: PackageRef): NamedPackage => ({ ...ref, name: ref.name ?? 'default' });

/** Throws FLK_PACKAGE_UNKNOWN. */
export function offered<T>(offers: ReadonlyMap<string, T>, what: string, name: string): T {
  const offer = offers.get(name);
  if (offer !== undefined) return offer;
  const meant = nearest(name, offers.keys());
  throw new FlkError('FLK_PACKAGE_UNKNOWN', `the flake has no ${what} ${name}`, {
    facts: { [`${what}s`]: [...offers.keys()].join(' ') || 'none' },
    hint: meant === undefined ? 'flk show lists what there is' : `did you mean ${meant}?`,
  });
}

/** The shell that a target names, if it names one: a shell goes before a package of its name. */
export function shellOf(target: Target, manifest: Manifest, system: string): DevShell | undefined {
  const shells = onSystem(manifest.offers.devShells, system);
  const name = target.name ?? 'default';
  if (target.kind === 'devShells') return offered(shells, 'shell', name);
  if (target.kind !== undefined || target.output !== undefined) return undefined;
  return shells.get(name);
}

/** No package has a dot in its name, so that these stand beside the packages. */
export const checkName = (name: string): string => `checks.${name}`;

/** The manifest with its checks among its packages, so that they can be instantiated, under names that no reference has. */
export function withChecks(manifest: Manifest, system: string): Manifest {
  const checks = onSystem(manifest.offers.checks, system);
  if (checks.size === 0) return manifest;
  const own = new Map([...checks].map(([name, check]) => [checkName(name), check]));
  return { ...manifest, packages: new Map([...manifest.packages, ...own]) };
}

/** The manifest with a shell, made a package, among its packages. Gives the name to ask `instantiate` for. */
export function withShell(manifest: Manifest, shell: BuiltPackage): { manifest: Manifest; name: string } {
  const name = `devShells.${shell.name}`;
  return { manifest: { ...manifest, packages: new Map([...manifest.packages, [name, shell]]) }, name };
}

/** As Nix names this machine: `x86_64-linux`. */
export function hostSystem(): string {
  const cpu = { x64: 'x86_64', arm64: 'aarch64', ia32: 'i686', riscv64: 'riscv64', ppc64: 'powerpc64le' };
  return `${Object.entries(cpu).find(([name]) => name === process.arch)?.[1] ?? process.arch}-${process.platform}`;
}

/** For which system packages are instantiated: this machine's, unless the command line says another. Throws FLK_USAGE. */
export function systemOf({ flags: { system = hostSystem() } }: Pick<Context, 'flags'>): string {
  if (/^[a-z0-9_]+-[a-z0-9]+$/.test(system)) return system;
  throw new FlkError('FLK_USAGE', `'${system}' is no system`, { hint: '--system aarch64-linux' });
}
