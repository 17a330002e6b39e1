/** `flake.yaml`: text in, a `Manifest` or the list of all its faults out. */
import satisfies from 'semver/functions/satisfies.js';
import validRange from 'semver/ranges/valid.js';
import { Findings, type SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { readInputs } from './manifest-inputs.ts';
import type { Manifest } from './manifest-model.ts';
import { readOffers } from './manifest-offers.ts';
import { PackageReader } from './manifest-packages.ts';
import { ReferenceReader } from './manifest-references.ts';
import { checkSchema } from './manifest-schema.ts';
import { checkSystem } from './manifest-systems.ts';
import { entriesOf, itemsOf, type Located, numberOf, parseYaml, textOf } from './manifest-yaml.ts';

export {
  type AliasPackage,
  type BuiltPackage,
  type DevShell,
  type FetchedPackage,
  type Manifest,
  type MergedPackage,
  onSystem,
  type PackageDeclaration,
  type ProgramRef,
  packagesFor,
  partsOf,
  type SelfSelection,
  type SourceSelection,
  type StorePathPackage,
  type ToolchainDeclaration,
  type Varying,
} from './manifest-model.ts';
export type { InputPath, PackageRef, Template } from './package-ref.ts';

export interface ManifestOptions {
  /** flk's own version, held against `requireVersion`; without it that is not checked. */
  readonly flkVersion?: string;
}

/**
 * The text of a manifest out of its bytes. Throws FLK_MANIFEST_INVALID when they are not UTF-8. A byte order mark stays, so that
 * writing the text back changes nothing.
 */
export function decodeManifest(path: string, bytes: Uint8Array): SourceFile {
  try {
    return { path, text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    const file = { path, text: new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes) };
    const findings = new Findings(file);
    const start = Math.max(0, file.text.indexOf('\ufffd'));
    const wide = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
    findings.add(
      { start, end: start + 1 },
      wide ? 'the file is UTF-16' : 'these bytes are not UTF-8',
      'save the file as UTF-8',
    );
    throw invalid(findings);
  }
}

/** Throws FLK_MANIFEST_INVALID with every fault as a diagnostic, or FLK_MANIFEST_VERSION. */
export function parseManifest(file: SourceFile, options: ManifestOptions = {}): Manifest {
  const findings = new Findings(file);
  const root = parseYaml(file.text, findings);
  if (!root) throw invalid(findings);
  const fields = entriesOf(root);
  // First of all: what another flk would understand must not be called a fault by this one.
  checkVersion(fields.get('requireVersion')?.value, options.flkVersion, findings);
  checkSchema(root, findings);
  for (const word of ['modules', 'systemConfigurations']) {
    const entry = fields.get(word);
    if (entry) findings.add(entry.key, `${word} is not supported yet by this version of flk`, 'remove it');
  }
  const systems: string[] = [];
  for (const item of itemsOf(fields.get('systems')?.value)) {
    const system = textOf(item);
    if (system !== undefined && checkSystem(system, item.range, findings)) systems.push(system);
  }
  const inputs = readInputs(fields.get('inputs')?.value, findings);
  const packages = fields.get('packages')?.value;
  // Names that are declared, also where the declaration is faulty: one fault is told once.
  const inputNames = entriesOf(fields.get('inputs')?.value).keys();
  const references = new ReferenceReader(findings, inputNames, packages);
  const reader = new PackageReader(findings, references, systems);
  const toolchain = references.toolchain(fields.get('toolchain')?.value);
  const read = reader.packages(packages);
  const offers = readOffers(fields, { findings, references, packages: reader, systems });
  references.checkOutputs(read);
  if (findings.count > 0) throw invalid(findings);
  const description = textOf(fields.get('description')?.value);
  const requireVersion = textOf(fields.get('requireVersion')?.value);
  return {
    kind: 'yaml',
    file,
    ...(description !== undefined && { description }),
    ...(requireVersion !== undefined && { requireVersion }),
    systems,
    inputs,
    packages: read.everywhere,
    perSystem: read.perSystem,
    offers,
    ...(toolchain && { toolchain }),
    setup: numberOf(fields.get('setup')?.value) ?? 1,
  };
}

function checkVersion(located: Located | undefined, own: string | undefined, findings: Findings): void {
  const range = textOf(located);
  if (range === undefined || !located) return;
  if (range.trim() === '' || validRange(range) === null) {
    findings.add(located.range, `"${range}" is not a semver range`, 'write ">=0.1"');
  } else if (own !== undefined && !satisfies(own, range, { includePrerelease: true })) {
    findings.add(located.range, `this is flk ${own}`);
    throw new FlkError('FLK_MANIFEST_VERSION', `${findings.file.path} asks for flk ${range}`, {
      facts: { found: own, wanted: range },
      diagnostics: findings.list(),
    });
  }
}

function invalid(findings: Findings): FlkError {
  const diagnostics = findings.list();
  const count = diagnostics.length === 1 ? '1 fault' : `${diagnostics.length} faults`;
  return new FlkError('FLK_MANIFEST_INVALID', `${count} in ${findings.file.path}`, { diagnostics });
}
