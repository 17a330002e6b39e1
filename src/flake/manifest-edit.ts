/**
 * Edits of a manifest's text that leave everything else as its author wrote it: comments, layout, order, line ends. Each edit is
 * checked before it is given out: read again, the text must mean what was intended, or nothing is done.
 */
import { canonicalJson, type Json } from '../base/canonical.ts';
import { type Diagnostic, Findings } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { parseManifest } from './manifest.ts';
import { byHand, Layout, scalar } from './manifest-layout.ts';
import type { InputDeclaration, Manifest } from './manifest-model.ts';
import { parseYaml, plainValue } from './manifest-yaml.ts';
import { inputNamePattern } from './package-ref.ts';

/** What an input says of itself, by the manifest's own keys. */
interface InputKeys {
  readonly url?: string;
  /** Semver range. */
  readonly version?: string;
  /** Tag shape, `release-{version}`. */
  readonly tag?: string;
  readonly ref?: string;
  readonly rev?: string;
  /** False: only files. */
  readonly flake?: boolean;
  readonly frozen?: boolean;
  /** Path of an input of that flake (`base`, `greet/base`) → what it follows, from this flake. */
  readonly follows?: ReadonlyMap<string, string>;
}

export type NewInput = InputKeys & { readonly url: string };

/** As `InputKeys`; an empty text takes the key away, and so does `undefined` for truth values. */
export type InputChanges = { readonly [K in keyof InputKeys]?: InputKeys[K] | undefined };

/**
 * The text with one more input, `inputs:` included where there is none. Throws FLK_USAGE when the name is taken or cannot name an
 * input, FLK_MANIFEST_INVALID when the text is no manifest, or is laid out in a way that only a person can edit.
 */
export function addInput(text: string, name: string, input: NewInput): string {
  if (!inputNamePattern.test(name) || name === 'self') {
    throw new FlkError('FLK_USAGE', `"${name}" cannot name an input`, {
      hint:
        name === 'self'
          ? 'self is this flake: choose another name'
          : 'a name is a letter, then letters, digits, _ and -',
    });
  }
  const before = read(text);
  const inputs = inputsOf(before);
  if (Object.hasOwn(inputs, name)) {
    throw new FlkError('FLK_USAGE', `there is an input "${name}" already`, {
      hint: `flk update ${name} moves it, flk set ${name} changes it; another name adds a second one`,
    });
  }
  const { url, follows, ...keys } = input;
  let map: Plain = { url, ...keys };
  for (const [path, target] of follows ?? []) map = withValue(map, followsKeys(path), target);
  const value: Json = Object.keys(map).length === 1 ? url : map;
  return verified(new Layout(text).add(name, value), {
    ...before,
    inputs: { ...inputs, [name]: value },
  });
}

/**
 * The text with some keys of an input changed; where nothing changes, the same text. Throws FLK_INPUT_UNKNOWN,
 * FLK_MANIFEST_INVALID.
 */
export function changeInput(text: string, name: string, changes: InputChanges): string {
  if (!Object.hasOwn(inputsOf(read(text)), name)) throw unknownInput(name);
  const { follows, ...keys } = changes;
  const settings: [path: string[], value: string | boolean | undefined][] = [
    ...Object.entries(keys).map(([key, value]): [string[], string | boolean | undefined] => [[key], value]),
    ...[...(follows ?? [])].map(([path, target]): [string[], string] => [followsKeys(path), target]),
  ];
  return settings.reduce(
    (edited, [path, value]) => setKey(edited, ['inputs', name, ...path], value === '' ? undefined : value),
    text,
  );
}

function setKey(text: string, keys: readonly string[], value: string | boolean | undefined): string {
  const before = read(text);
  const alone = keys.at(-1) === 'url' && typeof valueAt(before, keys.slice(0, -1)) === 'string';
  const path = alone ? keys.slice(0, -1) : keys;
  const old = valueAt(before, path);
  if (old === value) return text;
  const layout = new Layout(text);
  const edited = value === undefined ? layout.removeAt(path) : layout.setAt(path, value);
  return verified([edited], withValue(before, path, value));
}

/** `greet/base` as the keys that lead to what it follows. */
const followsKeys = (path: string): string[] => [
  ...path.split('/').flatMap((name) => ['inputs', name]),
  'follows',
];

function valueAt(json: Json | undefined, path: readonly string[]): Json | undefined {
  const [key, ...rest] = path;
  if (key === undefined) return json;
  if (typeof json === 'string' && key === 'url') return valueAt(json, rest);
  const known = typeof json === 'object' && json !== null && !Array.isArray(json) && Object.hasOwn(json, key);
  return known ? valueAt((json as Plain)[key], rest) : undefined;
}

/** With another value at a path; a map that is empty then goes too. A text on the way is short for a map with a url. */
function withValue(json: Json | undefined, path: readonly string[], value: Json | undefined): Plain {
  const [key = '', ...rest] = path;
  const map: Plain =
    typeof json === 'string' ? { url: json } : json === null || json === undefined ? {} : (json as Plain);
  const { [key]: old, ...others } = map;
  const inner = rest.length === 0 ? value : withValue(old, rest, value);
  const gone =
    inner === undefined ||
    (value === undefined && rest.length > 0 && Object.keys(inner as Plain).length === 0);
  return gone ? others : { ...others, [key]: inner };
}

/** The text without one of its inputs. Throws FLK_INPUT_UNKNOWN, FLK_MANIFEST_INVALID. */
export function removeInput(text: string, name: string): string {
  const before = read(text);
  const { [name]: _, ...inputs } = inputsOf(before);
  if (!Object.hasOwn(inputsOf(before), name)) {
    throw unknownInput(name);
  }
  return verified(new Layout(text).remove(name), { ...before, inputs });
}

/** Where a manifest uses these inputs, except in their own declarations. Empty: they can go. */
export function inputUsers(manifest: Manifest, names: readonly string[]): readonly Diagnostic[] {
  const { file, inputs } = manifest;
  const findings = new Findings(file);
  const search = (declared: ReadonlyMap<string, InputDeclaration>, path: string): void => {
    for (const [name, { follows, inputs: inner, range }] of declared) {
      if (path === '' && names.includes(name)) continue;
      const [first] = follows ?? [];
      if (first !== undefined && names.includes(first))
        findings.add(range, `${path}${name} follows ${follows!.join('/')}`);
      search(inner, `${path}${name}/`);
    }
  };
  search(inputs, '');
  for (const name of names) {
    const range = inputs.get(name)?.range;
    if (!range) continue;
    // Called otherwise, the input is missed wherever it is used; what is as long leaves all places as they are.
    const { start } = range;
    const at = file.text.slice(start, range.end).indexOf(name) + start;
    const other = ['q', 'x', 'z', 'Q', 'X', 'Z', 'j', 'J', 'v', 'V']
      .map((letter) => letter.repeat(name.length))
      .find((word) => word !== name && !inputs.has(word));
    if (at < start || other === undefined) continue;
    const text = file.text.slice(0, at) + other + file.text.slice(at + name.length);
    try {
      parseManifest({ ...file, text });
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
      for (const diagnostic of error.diagnostics) findings.add(diagnostic.range, `this uses ${name}`);
    }
  }
  return findings.list();
}

const unknownInput = (name: string): FlkError =>
  new FlkError('FLK_INPUT_UNKNOWN', `there is no input "${name}"`);

type Plain = Readonly<Record<string, Json>>;

function read(text: string): Plain {
  const findings = new Findings({ path: 'flake.yaml', text });
  const root = parseYaml(text, findings);
  if (!root || root.kind === 'list' || (root.kind === 'scalar' && root.value !== null)) {
    if (root) findings.add(root.range, 'a manifest must be a mapping');
    throw new FlkError('FLK_MANIFEST_INVALID', 'flake.yaml has faults, so it cannot be edited', {
      diagnostics: findings.list(),
    });
  }
  return root.kind === 'map' ? (plainValue(root) as Plain) : {};
}

function inputsOf(manifest: Plain): Plain {
  const inputs = manifest.inputs ?? {};
  if (typeof inputs !== 'object' || Array.isArray(inputs)) throw byHand();
  return inputs as Plain;
}

/** The first text that means what is wanted. An empty `inputs` and none mean the same. */
function verified(texts: readonly string[], wanted: Plain): string {
  const meaning = (manifest: Plain): string => canonicalJson({ ...manifest, inputs: inputsOf(manifest) });
  for (const text of texts) {
    try {
      if (meaning(read(text)) === meaning(wanted)) return text;
    } catch (error) {
      if (!(error instanceof FlkError)) throw error;
    }
  }
  throw byHand();
}

/** An input's name out of its reference: the repository's or folder's own, `-2` where that is taken. */
export function inputNameFor(url: string, taken: ReadonlySet<string>): string {
  const [place = '', query = ''] = url.split(/[?#]/, 2);
  const dir = url.includes('?') ? new URLSearchParams(query).get('dir') : null;
  const parts = (dir || place)
    .replace(/^[a-z][a-z0-9+.-]*:(\/\/[^/]*)?/i, '')
    .split('/')
    .filter((part) => part !== '' && part !== '.' && part !== '..');
  const forge = /^(github|gitlab|sourcehut):/.test(place) && !dir;
  const word = (forge ? parts[1] : parts.at(-1)) ?? '';
  const name =
    word
      .replace(/\.git$/, '')
      .replace(/[^A-Za-z0-9_-]+/g, '-')
      .replace(/^[^A-Za-z]+|[-_]+$/g, '') || 'input';
  const free = (candidate: string): boolean => candidate !== 'self' && !taken.has(candidate);
  if (free(name)) return name;
  for (let count = 2; ; count++) if (free(`${name}-${count}`)) return `${name}-${count}`;
}

/**
 * What `flk init` writes: a manifest that locks and builds at once on any machine, and says what to try next. Its package is
 * named after the folder; `schema` is where editors find the schema, if anywhere.
 */
export function initialManifest(folder: string, schema?: string): string {
  const name = packageNameFor(folder);
  const modeline = schema === undefined ? '' : `# yaml-language-server: $schema=${schema}\n`;
  return `${modeline}description: ${JSON.stringify(`The flake of ${name}`)}

# Other sources, pinned in flake.lock. "flk add URL" puts one here, "flk update" moves it.
inputs: {}

packages:
  default: ${scalar(name)} # what "flk build" and "flk run" take

  ${scalar(name)}:
    version: "0.1.0"
    # To build from the files beside this one: src: .
    # host: the tools of this machine. A package as toolchain makes the build the same everywhere.
    toolchain: host
    env:
      GREETING: Hello
    buildPhase: |
      {
        echo '#!/bin/sh'
        echo "echo $GREETING from ${name}"
      } > greet
      chmod +x greet
    installPhase: |
      mkdir -p "$out/bin"
      cp greet "$out/bin/${name}"
    meta:
      description: Says hello
      mainProgram: ${scalar(name)}
`;
}

function packageNameFor(folder: string): string {
  const name = folder
    .replace(/[^A-Za-z0-9_+-]+/g, '-')
    .replace(/^[^A-Za-z0-9_]+|-+$/g, '')
    .slice(0, 60);
  return name === '' || name === 'default' ? 'hello' : name;
}
