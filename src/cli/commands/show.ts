/** `flk show`: what a flake offers, in the shape and the words of `nix flake show`. Nothing is built for it. */
import { compareBytes } from '../../base/canonical.ts';
import { printFlakeRef } from '../../flake/flake-ref.ts';
import {
  type AliasPackage,
  type Manifest,
  onSystem,
  type PackageDeclaration,
  packagesFor,
  type Varying,
} from '../../flake/manifest.ts';
import { cleanText, type Palette } from '../../report/text.ts';
import type { Context } from '../context.ts';
import { openFlake, readPackages } from '../flake.ts';
import { hostSystem } from '../targets.ts';

type Leaf =
  | { readonly type: 'derivation'; readonly name: string; readonly description: string }
  | { readonly type: 'app' | 'template'; readonly description?: string };

/** Kind of output → system (templates have none) → name. */
type Branch = { readonly [name: string]: Branch | Leaf };

export async function runShow(context: Context): Promise<number> {
  // Its manifest says it all: nothing is locked or fetched for it.
  const flake = await openFlake(context, context.args[0] ?? '.');
  const outputs = outputsOf(await readPackages(flake));
  context.answer(outputs, () => {
    const { paint } = context;
    return [paint.strong(cleanText(printFlakeRef(flake.ref))), ...lines(outputs, [], '', paint)].join('\n');
  });
  return 0;
}

function outputsOf(manifest: Manifest): Branch {
  const systems = manifest.systems.length === 0 ? [hostSystem()] : [...manifest.systems].sort(compareBytes);
  const { checks, devShells, apps, templates, formatter } = manifest.offers;
  const perSystem = (of: (system: string) => Branch): Branch =>
    Object.fromEntries(systems.map((system) => [system, of(system)]));
  const derivations = (system: string, declared: ReadonlyMap<string, PackageDeclaration>): Branch => {
    const packages = packagesFor(manifest, system);
    return leaves(declared, ([, declaration]) => derivation(declaration, packages));
  };
  const kinds: Readonly<Record<string, Branch>> = {
    apps: perSystem((system) => leaves(onSystem(apps, system), ([, { description }]) => app(description))),
    checks: perSystem((system) => derivations(system, onSystem(checks, system))),
    devShells: perSystem((system) =>
      leaves(onSystem(devShells, system), ([name, { description }]) => ({
        type: 'derivation',
        name,
        description,
      })),
    ),
    formatter:
      formatter === undefined
        ? {}
        : Object.fromEntries(
            systems.map((system) => [
              system,
              derivation({ kind: 'alias', target: formatter.ref }, packagesFor(manifest, system)),
            ]),
          ),
    packages: perSystem((system) => derivations(system, packagesFor(manifest, system))),
    templates: leaves(templates, ([, description]) => ({ type: 'template', description })),
  };
  const offered: Readonly<Record<string, number>> = {
    apps: sizeOf(apps),
    checks: sizeOf(checks),
    devShells: sizeOf(devShells),
    formatter: formatter === undefined ? 0 : 1,
    packages: sizeOf({ everywhere: manifest.packages, perSystem: manifest.perSystem }),
    templates: templates.size,
  };
  return Object.fromEntries(Object.entries(kinds).filter(([kind]) => offered[kind] !== 0));
}

function sizeOf({ everywhere, perSystem }: Varying<unknown>): number {
  return [...perSystem.values()].reduce((sum, own) => sum + own.size, everywhere.size);
}

function leaves<T>(offers: ReadonlyMap<string, T>, leaf: (entry: [string, T]) => Leaf): Branch {
  const sorted = [...offers].sort(([a], [b]) => compareBytes(a, b));
  return Object.fromEntries(sorted.map((entry) => [entry[0], leaf(entry)]));
}

const app = (description: string): Leaf => ({ type: 'app', ...(description === '' ? {} : { description }) });

/** An alias has the name of what it stands for, as far as this manifest tells. */
function derivation(
  declared: Exclude<PackageDeclaration, AliasPackage> | Pick<AliasPackage, 'kind' | 'target'>,
  packages: ReadonlyMap<string, PackageDeclaration>,
  steps = 0,
): Leaf {
  if (declared.kind !== 'alias') {
    const { name, version, meta } = declared;
    return {
      type: 'derivation',
      name: version === undefined ? name : `${name}-${version}`,
      description: meta.description ?? '',
    };
  }
  const { inputs, name = 'default' } = declared.target;
  const target = inputs.length === 0 ? packages.get(name) : undefined;
  return target !== undefined && steps < packages.size
    ? derivation(target, packages, steps + 1)
    : { type: 'derivation', name, description: '' };
}

/** `path`: the kinds and systems above. */
function lines(branch: Branch, path: readonly string[], prefix: string, paint: Palette): string[] {
  const entries = Object.entries(branch);
  return entries.flatMap(([name, node], index) => {
    const last = index === entries.length - 1;
    const label = `${prefix}${last ? '└───' : '├───'}${paint.strong(cleanText(name))}`;
    if (isLeaf(node)) return [`${label}: ${cleanText(described(node, path[0] ?? ''))}`];
    return [label, ...lines(node, [...path, name], `${prefix}${last ? '    ' : '│   '}`, paint)];
  });
}

const isLeaf = (node: Branch | Leaf): node is Leaf => typeof node.type === 'string';

const kindNames: Readonly<Record<string, string>> = {
  formatter: 'formatter',
  packages: 'package',
  devShells: 'development environment',
};

function described(leaf: Leaf, kind: string): string {
  switch (leaf.type) {
    case 'derivation': {
      const what = `${kindNames[kind] ?? 'derivation'} '${leaf.name}'`;
      return leaf.description === '' ? what : `${what} - '${leaf.description}'`;
    }
    case 'app':
    case 'template':
      return `${leaf.type}: ${leaf.description || 'no description'}`;
  }
}
