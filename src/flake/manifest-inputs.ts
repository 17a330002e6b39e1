/** The `inputs` of a manifest: what they mean, after the schema has seen their shape. */
import validRange from 'semver/ranges/valid.js';
import type { Findings } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import {
  type FlakeRef,
  isRepository,
  parseFlakeRef,
  refFromAttributes,
  refToAttributes,
} from './flake-ref.ts';
import type { InputDeclaration } from './manifest-model.ts';
import { entriesOf, flagOf, itemsOf, type Located, type LocatedEntry, textOf } from './manifest-yaml.ts';
import { type InputPath, inputNamePattern } from './package-ref.ts';

/** Unusable declarations are left out; `findings` say why. */
export function readInputs(located: Located | undefined, findings: Findings): Map<string, InputDeclaration> {
  return readLevel(located, findings, true);
}

function readLevel(
  located: Located | undefined,
  findings: Findings,
  top: boolean,
): Map<string, InputDeclaration> {
  const inputs = new Map<string, InputDeclaration>();
  for (const [name, entry] of entriesOf(located)) {
    if (name === 'self') {
      findings.add(entry.key, 'self is this flake, and cannot name an input', 'choose another name');
      continue;
    }
    const declaration = readInput(name, entry, findings, top);
    if (declaration) inputs.set(name, declaration);
  }
  return inputs;
}

/** Keys that pin down a reference, beside `url`, as in Nix's attribute form. */
const gitKeys = ['ref', 'rev', 'dir', 'submodules', 'lfs', 'shallow', 'exportIgnore', 'allRefs'] as const;
const attributeKeys = [
  'type',
  'url',
  'path',
  'owner',
  'repo',
  'host',
  'id',
  ...gitKeys,
  'narHash',
  'lastModified',
  'revCount',
  'name',
  'unpack',
] as const;

const notYet = ['minAge', 'patches', 'mirrors'];

function readInput(
  name: string,
  { key, value }: LocatedEntry,
  findings: Findings,
  top: boolean,
): InputDeclaration | undefined {
  const url = textOf(value);
  if (url !== undefined) {
    const ref = guarded(value, findings, () => parseFlakeRef(url));
    return ref && { ref, flake: true, frozen: false, groups: [], inputs: new Map(), range: key };
  }
  if (value.kind !== 'map') return undefined;
  const fields = value.entries;
  for (const word of notYet) {
    const entry = fields.get(word);
    if (entry) findings.add(entry.key, `${word} is not supported yet by this version of flk`, 'remove it');
  }
  const followsText = textOf(fields.get('follows')?.value);
  const source = fields.get('url') ?? fields.get('type');
  if (followsText !== undefined && source) {
    findings.add(
      source.key,
      `input ${name} has a source of its own and follows another`,
      'keep url or follows, not both',
    );
  }
  if (!source && followsText === undefined && (top || fields.size === 0)) {
    findings.add(key, `input ${name} has no source`, 'give it a url, or follows');
  }
  const follows = followsText === undefined ? undefined : readFollows(followsText, fields, findings);
  const flake = flagOf(fields.get('flake')?.value) ?? true;
  const ref = source && readRef(name, fields, flake, findings);
  const version = readVersion(fields, ref, findings);
  const tag = textOf(fields.get('tag')?.value);
  if (tag !== undefined && !fields.has('version')) {
    findings.add(fields.get('tag')!.key, 'tag shapes the tags that version looks at', 'add a version');
  }
  return {
    ...(ref && { ref }),
    ...(version !== undefined && { version }),
    ...(tag !== undefined && { tag }),
    ...(follows && { follows }),
    flake,
    frozen: flagOf(fields.get('frozen')?.value) ?? false,
    groups: itemsOf(fields.get('groups')?.value).flatMap((group) => textOf(group) ?? []),
    inputs: readLevel(fields.get('inputs')?.value, findings, false),
    range: key,
  };
}

function readFollows(
  text: string,
  fields: ReadonlyMap<string, LocatedEntry>,
  findings: Findings,
): InputPath | undefined {
  if (text === '') return [];
  const path = text.split('/');
  const wrong = path.find((name) => !inputNamePattern.test(name));
  if (wrong === undefined) return path;
  findings.add(
    fields.get('follows')!.value.range,
    `follows is a path over inputs’ names, and "${wrong}" is none`,
    'write base or greet/base',
  );
  return undefined;
}

function readRef(
  name: string,
  fields: ReadonlyMap<string, LocatedEntry>,
  flake: boolean,
  findings: Findings,
): FlakeRef | undefined {
  const attributes: Record<string, string | number | boolean> = {};
  for (const word of attributeKeys) {
    const value = fields.get(word)?.value;
    if (value?.kind === 'scalar' && value.value !== null) attributes[word] = value.value;
  }
  if (fields.has('type')) {
    return guarded(fields.get('type')!.value, findings, () => refFromAttributes(attributes, `input ${name}`));
  }
  const { url, ...extra } = attributes;
  const located = fields.get('url')?.value;
  if (typeof url !== 'string' || !located) return undefined;
  const ref = guarded(located, findings, () => parseFlakeRef(url, { flake }));
  if (!ref || Object.keys(extra).length === 0) return ref;
  const own: Readonly<Record<string, unknown>> = { ...ref };
  const words = Object.keys(extra);
  for (const word of words) {
    if (own[word] !== undefined && own[word] !== extra[word]) {
      findings.add(fields.get(word)!.key, `the url says ${word} too, and something else`, 'keep one of them');
    }
  }
  // What the schema has said about one of these is not said again about all of them together.
  const places = words.map((word) => fields.get(word)!.value);
  if (places.some((place) => findings.has(place.range))) return ref;
  return guarded(places.length === 1 ? places[0]! : located, findings, () =>
    refFromAttributes({ ...refToAttributes(ref), ...extra }, `input ${name}`),
  );
}

function readVersion(
  fields: ReadonlyMap<string, LocatedEntry>,
  ref: FlakeRef | undefined,
  findings: Findings,
): string | undefined {
  const entry = fields.get('version');
  const version = textOf(entry?.value);
  if (!entry || version === undefined) return undefined;
  if (version.trim() === '' || validRange(version) === null) {
    findings.add(entry.value.range, `"${version}" is not a semver range`, 'write ^1.2, ~1.4, >=2 <4 or 1.x');
    return undefined;
  }
  if (ref && !isRepository(ref)) {
    findings.add(
      entry.key,
      `version chooses among a repository’s tags, and this input is of type ${ref.type}`,
      'remove version',
    );
  } else if (ref?.ref !== undefined || ref?.rev !== undefined) {
    findings.add(
      entry.key,
      `version chooses the tag, and ${ref.rev === undefined ? 'ref' : 'rev'} has chosen already`,
      'keep one of them',
    );
  } else if (!fields.has('url') && !fields.has('type')) {
    findings.add(entry.key, 'version chooses among the tags of a repository, and there is none', 'add a url');
  }
  return version;
}

/** What the parser of references has against this one becomes a finding here. */
function guarded<T>(located: Located, findings: Findings, parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof FlkError)) throw error;
    findings.add(located.range, error.message, error.hint || undefined);
    return undefined;
  }
}
