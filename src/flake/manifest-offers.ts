/** What a manifest offers beside packages: checks, shells, programs, templates. */
import type { Findings } from '../base/diagnostics.ts';
import type { App, DevShell, Offers } from './manifest-model.ts';
import { type PackageReader, readMeta } from './manifest-packages.ts';
import type { ReferenceReader } from './manifest-references.ts';
import { readVarying } from './manifest-systems.ts';
import { entriesOf, type Located, type LocatedEntry, textOf } from './manifest-yaml.ts';

interface Readers {
  readonly findings: Findings;
  readonly references: ReferenceReader;
  readonly packages: PackageReader;
  /** The flake's. */
  readonly systems: readonly string[];
}

type Fields = ReadonlyMap<string, LocatedEntry>;

/** Reads them out of the manifest's top mapping. Unusable ones are left out; the findings say why. */
export function readOffers(fields: Fields, readers: Readers): Offers {
  const { findings, references, packages, systems } = readers;
  const formatter = references.program(fields.get('formatter')?.value);
  return {
    checks: packages.checks(fields.get('checks')?.value),
    devShells: readVarying(fields.get('devShells')?.value, systems, findings, {
      read: (name, entry) => readShell(name, entry, readers),
      isWhole: hasOwnKeys,
    }),
    apps: readVarying(fields.get('apps')?.value, systems, findings, {
      read: (name, entry) => readApp(name, entry, readers),
      isWhole: (own) => own.has('program'),
    }),
    templates: new Map(
      [...entriesOf(fields.get('templates')?.value)].map(([name, { value }]) => [name, describe(value)]),
    ),
    ...(formatter && { formatter }),
  };
}

/** More than `perSystem` and what is free. */
const hasOwnKeys = (fields: Fields): boolean =>
  [...fields.keys()].some((key) => key !== 'perSystem' && !key.startsWith('x-'));

function readShell(
  name: string,
  { key, value }: LocatedEntry,
  { references, packages }: Readers,
): DevShell | undefined {
  if (value.kind !== 'map') return undefined;
  const field = (word: string): Located | undefined => value.entries.get(word)?.value;
  const toolchain = references.toolchain(field('toolchain'));
  const shellHook = field('shellHook');
  return {
    name,
    description: describe(value),
    packages: references.references(field('packages'), 'package'),
    buildInputs: references.references(field('buildInputs'), 'package'),
    inputsFrom: references.references(field('inputsFrom'), 'package'),
    env: packages.env(field('env'), ['shellHook']),
    ...(textOf(shellHook) !== undefined && { shellHook: references.template(shellHook!) }),
    ...(toolchain && { toolchain }),
    range: key,
  };
}

function readApp(
  name: string,
  { key, value }: LocatedEntry,
  { findings, references }: Readers,
): App | undefined {
  if (value.kind !== 'map') return undefined;
  const program = references.program(value.entries.get('program')?.value);
  if (!value.entries.has('program'))
    findings.add(key, `apps.${name} has no program`, 'program: PACKAGE/bin/PROGRAM');
  return program && { name, description: describe(value), program, range: key };
}

/** `description`, of itself or in `meta`; '' for none. */
function describe(located: Located): string {
  const fields = entriesOf(located);
  return textOf(fields.get('description')?.value) ?? readMeta(fields.get('meta')?.value).description ?? '';
}
