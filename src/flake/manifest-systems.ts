/** `perSystem`: what of a manifest differs on some systems. */
import { type Findings, nearest, type Range } from '../base/diagnostics.ts';
import type { Varying } from './manifest-model.ts';
import { entriesOf, type Located, type LocatedEntry, type LocatedMap } from './manifest-yaml.ts';

const mostSystems = 50;

export interface VaryingReader<T> {
  /** Reads one thing, as it is everywhere or as one system has it. Undefined where it is faulty: the findings then say why. */
  read(name: string, entry: LocatedEntry): T | undefined;
  /** Whether something is said that makes it a thing on all systems, or only what its `perSystem` completes. */
  isWhole(fields: ReadonlyMap<string, LocatedEntry>): boolean;
}

/** Reads things by name, each of which may have a `perSystem`. `systems`: those of the flake; empty for any. */
export function readVarying<T>(
  located: Located | undefined,
  systems: readonly string[],
  findings: Findings,
  reader: VaryingReader<T>,
): { readonly everywhere: Map<string, T>; readonly perSystem: Map<string, Map<string, T>> } {
  const everywhere = new Map<string, T>();
  const perSystem = new Map<string, Map<string, T>>();
  for (const [name, entry] of entriesOf(located)) {
    const parts = systemParts(entry.value, systems, findings);
    if (parts.size === 0 || reader.isWhole(entriesOf(entry.value))) {
      const thing = reader.read(name, entry);
      if (thing !== undefined) everywhere.set(name, thing);
    }
    for (const [system, part] of parts) {
      const thing = reader.read(name, { key: entry.key, value: overlay(entry.value, part) });
      if (thing === undefined) continue;
      const others = perSystem.get(system) ?? new Map<string, T>();
      perSystem.set(system, others.set(name, thing));
    }
  }
  return { everywhere, perSystem } satisfies Varying<T>;
}

function systemParts(
  located: Located,
  systems: readonly string[],
  findings: Findings,
): Map<string, LocatedMap> {
  const parts = new Map<string, LocatedMap>();
  for (const [system, { key, value }] of entriesOf(entriesOf(located).get('perSystem')?.value)) {
    const near = systems.length === 0 ? undefined : nearest(system, systems);
    if (systems.length > 0 && !systems.includes(system)) {
      findings.add(
        key,
        `${system} is none of this flake’s systems`,
        near ? `did you mean ${near}?` : `they are ${systems.join(', ')}`,
      );
    } else if (!checkSystem(system, key, findings)) continue;
    // Each one reads the whole thing again.
    if (parts.size === mostSystems) {
      findings.add(key, `a package differs on at most ${mostSystems} systems`);
      break;
    }
    if (value.kind === 'map') parts.set(system, value);
  }
  return parts;
}

/** Mappings are merged key by key; what else the part says replaces. */
function overlay(base: Located, part: LocatedMap): Located {
  if (base.kind !== 'map') return part;
  const entries = new Map(base.entries);
  for (const [key, entry] of part.entries) {
    const below = entries.get(key);
    const value =
      below?.value.kind === 'map' && entry.value.kind === 'map'
        ? overlay(below.value, entry.value)
        : entry.value;
    entries.set(key, { key: entry.key, value });
  }
  return { kind: 'map', entries, range: base.range };
}

const knownSystems = [
  'x86_64-linux',
  'aarch64-linux',
  'i686-linux',
  'armv6l-linux',
  'armv7l-linux',
  'riscv64-linux',
  'powerpc64le-linux',
  's390x-linux',
  'loongarch64-linux',
  'mips64el-linux',
  'x86_64-darwin',
  'aarch64-darwin',
  'x86_64-freebsd',
  'aarch64-freebsd',
];

/** Any CPU-KERNEL will do, but not one that is a slip away from a known one. */
export function checkSystem(system: string, range: Range, findings: Findings): boolean {
  if (knownSystems.includes(system)) return true;
  const near = nearest(system, knownSystems);
  if (/^[a-z0-9_]+-[a-z0-9_]+$/.test(system) && near === undefined) return true;
  findings.add(
    range,
    `"${system}" is no system flk knows`,
    near ? `did you mean ${near}?` : 'write it like x86_64-linux',
  );
  return false;
}
