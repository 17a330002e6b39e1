/** `flk show`: what a flake offers, in the shape and the words of `nix flake show`. Nothing is built for it. */
import { compareBytes } from '../../base/canonical.ts';
import { printFlakeRef } from '../../flake/flake-ref.ts';
import { type Manifest, type PackageDeclaration, packagesFor } from '../../flake/manifest.ts';
import { cleanText, type Palette } from '../../report/text.ts';
import type { Context } from '../context.ts';
import { openFlake, readPackages } from '../flake.ts';
import { hostSystem } from './build.ts';

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
  const { checks, devShells, apps, templates } = manifest.offers;
  const perSystem = (of: (system: string) => Branch): Branch =>
    Object.fromEntries(systems.map((system) => [system, of(system)]));
  const kinds: Readonly<Record<string, Branch>> = {
    apps: perSystem(() => leaves(apps, ([, text]) => app(text))),
    checks: perSystem(() => leaves(checks, ([, check]) => derivation(check, checks))),
    devShells: perSystem(() =>
      leaves(devShells, ([name, description]) => ({ type: 'derivation', name, description })),
    ),
    packages: perSystem((system) => {
      const packages = packagesFor(manifest, system);
      return leaves(packages, ([, declared]) => derivation(declared, packages));
    }),
    templates: leaves(templates, ([, description]) => ({ type: 'template', description })),
  };
  const offered: Readonly<Record<string, ReadonlyMap<string, unknown>>> = {
    apps,
    checks,
    devShells,
    packages: new Map([...manifest.packages, ...[...manifest.perSystem.values()].flatMap((own) => [...own])]),
    templates,
  };
  return Object.fromEntries(Object.entries(kinds).filter(([kind]) => (offered[kind]?.size ?? 0) > 0));
}

function leaves<T>(offers: ReadonlyMap<string, T>, leaf: (entry: [string, T]) => Leaf): Branch {
  const sorted = [...offers].sort(([a], [b]) => compareBytes(a, b));
  return Object.fromEntries(sorted.map((entry) => [entry[0], leaf(entry)]));
}

const app = (description: string): Leaf => ({ type: 'app', ...(description === '' ? {} : { description }) });

/** An alias has the name of what it stands for, as far as this manifest tells. */
function derivation(
  declared: PackageDeclaration,
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
