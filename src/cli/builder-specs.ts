/** Who is to build, as `--builders` and config.yaml name it: `local`, `nix=/usr/bin/nix`, `remote=grpcs://host?instance=main`. */
import { isAbsolute, join } from 'node:path';
import { type Findings, nearest } from '../base/diagnostics.ts';
import { FlkError, redactUrls } from '../base/errors.ts';
import { serverName } from '../build/engines/remote/address.ts';
import type { Located } from '../flake/manifest-located.ts';

interface CommonSpec {
  readonly systems?: readonly string[] | undefined;
  readonly features?: readonly string[] | undefined;
  readonly maxJobs?: number | undefined;
}

/** On the Remote Execution API's side of the network. */
export interface RemoteSpec extends CommonSpec {
  readonly kind: 'remote';
  /** `grpc://HOST:PORT`, `grpcs://HOST[:443]` or `unix:/PATH`. */
  readonly address: string;
  readonly instance?: string | undefined;
  /** What the worker must be, by the server's own words. */
  readonly platform?: Readonly<Record<string, string>> | undefined;
  /** Absolute. */
  readonly caFile?: string | undefined;
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  /** The file, and the environment variable, that hold what lets us in. */
  readonly tokenFile?: string | undefined;
  readonly tokenVariable?: string | undefined;
  /** Secret, as far as anybody knows. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Lets secrets go over a network that may be listened to. */
  readonly allowPlaintext?: boolean | undefined;
}

interface NixSpec extends CommonSpec {
  readonly kind: 'nix';
  /** Absolute; undefined: the one on PATH. */
  readonly program?: string | undefined;
}

export type BuilderSpec = ({ readonly kind: 'local' } & CommonSpec) | NixSpec | RemoteSpec;

/** As it can be named again, with all that tells it from others; holds no secret. */
export function nameOfSpec(spec: BuilderSpec): string {
  switch (spec.kind) {
    case 'local':
      return 'local';
    case 'nix':
      return spec.program === undefined ? 'nix' : `nix=${spec.program}`;
    case 'remote':
      return `remote=${serverName(spec.address, spec.instance)}`;
  }
}

/**
 * Reads `--builders`: comma-separated, in order of preference. Of one that config.yaml has too, by address and instance, what is set there
 * counts, under what is said here. The empty text is Nix's word for no machine but this one. Throws FLK_USAGE.
 */
export function parseBuilders(text: string, configured: readonly BuilderSpec[]): BuilderSpec[] {
  if (text.trim() === '') return [{ kind: 'local' }];
  return text.split(',').map((word): BuilderSpec => {
    const spec = parseBuilder(word.trim());
    if (typeof spec === 'string')
      throw new FlkError('FLK_USAGE', `--builders ${redactUrls(word.trim())}: ${spec}`, {
        hint: '--builders local,nix,remote=grpc://HOST:PORT; docs/builders.md says what can be added',
      });
    return { ...entryOf(spec, configured), ...spec } as BuilderSpec;
  });
}

/** Where no instance is named, the only one there is of that address is meant. */
function entryOf(spec: BuilderSpec, configured: readonly BuilderSpec[]): BuilderSpec | undefined {
  const named = configured.find((one) => nameOfSpec(one) === nameOfSpec(spec));
  if (named !== undefined || spec.kind !== 'remote' || spec.instance !== undefined) return named;
  const there = configured.filter((one) => one.kind === 'remote' && one.address === spec.address);
  const names = new Set(there.map(nameOfSpec));
  if (names.size > 1)
    throw new FlkError(
      'FLK_USAGE',
      `--builders ${nameOfSpec(spec)} may be ${names.size} builders of config.yaml`,
      {
        hint: `name the instance: ${[...names].join(' or ')}`,
      },
    );
  return there[0];
}

type Parameters = ReadonlyMap<string, readonly string[]>;

/** Gives what is wrong with it, in words, where it is no builder. */
function parseBuilder(word: string): BuilderSpec | string {
  const [, name = '', equals, where = '', query] = /^([^=?]*)(?:(=)([^?]*))?(?:\?(.*))?$/s.exec(word) ?? [];
  const parameters = new Map<string, string[]>();
  for (const [key, value] of new URLSearchParams(query ?? ''))
    parameters.set(key, [...(parameters.get(key) ?? []), value]);
  const common = commonOf(parameters);
  if (typeof common === 'string') return common;
  switch (name) {
    case 'local':
      return equals === undefined
        ? (unknownParameter(parameters, []) ?? { kind: 'local', ...common })
        : 'local is this machine: nothing follows it';
    case 'nix':
      if (equals !== undefined && !isAbsolute(where))
        return 'nix= is followed by the absolute path of the program';
      return (
        unknownParameter(parameters, []) ?? {
          kind: 'nix',
          ...(equals === undefined ? {} : { program: where }),
          ...common,
        }
      );
    case 'remote':
      return remoteOf(where, parameters, common);
    default: {
      const near = nearest(name, ['local', 'nix', 'remote']);
      return `there is no kind of builder “${name}”${near === undefined ? '' : `; did you mean ${near}?`}`;
    }
  }
}

const commonParameters = ['system', 'feature', 'max-jobs'];

function unknownParameter(parameters: Parameters, more: readonly string[]): string | undefined {
  const known = [...commonParameters, ...more];
  const unknown = [...parameters.keys()].find((key) => !known.includes(key));
  if (unknown === undefined) return undefined;
  const near = nearest(unknown, known);
  return `there is no parameter ${unknown}${near === undefined ? '' : `; did you mean ${near}?`}`;
}

function commonOf(parameters: Parameters): CommonSpec | string {
  const [systems, features, jobs] = commonParameters.map((key) => parameters.get(key));
  const bad = [...(systems ?? []), ...(features ?? [])].find((word) => !isWord(word));
  if (bad !== undefined) return `“${bad}” is neither a system nor a feature`;
  const maxJobs = jobs?.at(-1);
  if (maxJobs !== undefined && !/^[1-9]\d{0,4}$/.test(maxJobs)) return 'max-jobs is a whole number from 1 on';
  return {
    ...(systems ? { systems } : {}),
    ...(features ? { features } : {}),
    ...(maxJobs === undefined ? {} : { maxJobs: Number(maxJobs) }),
  };
}

const isWord = (word: string): boolean => /^[A-Za-z0-9][\w.+:-]{0,99}$/.test(word);

function remoteOf(address: string, parameters: Parameters, common: CommonSpec): BuilderSpec | string {
  const unknown = unknownParameter(parameters, ['instance']);
  if (unknown !== undefined) return unknown;
  if (!isAddress(address)) return 'remote= is followed by grpc://HOST:PORT, grpcs://HOST or unix:/PATH';
  const instance = parameters.get('instance')?.at(-1);
  return { kind: 'remote', address, ...(instance === undefined ? {} : { instance }), ...common };
}

/** Without a login: what lets flk in stands in a file or a variable. */
const isAddress = (text: string): boolean => /^(grpcs?:\/\/[^@\s/?#]+\/?|unix:\/[^\0]+)$/.test(text);

/** The keys of a builder in config.yaml beside `builder`, by what they hold. */
const entryKeys = {
  systems: 'words',
  features: 'words',
  maxJobs: 'number',
  platform: 'map',
  caFile: 'file',
  certFile: 'file',
  keyFile: 'file',
  tokenFile: 'file',
  tokenVariable: 'text',
  headers: 'map',
  allowPlaintext: 'flag',
} as const;
type EntryKey = keyof typeof entryKeys;
const isEntryKey = (key: string): key is EntryKey => Object.hasOwn(entryKeys, key);
const ofAll: readonly EntryKey[] = ['systems', 'features', 'maxJobs'];

/** Reads the setting `builders`. Faults are added to `findings`, in words that repeat no value. */
export function buildersOf(located: Located, home: string, findings: Findings): BuilderSpec[] {
  if (located.kind !== 'list') {
    findings.add(located.range, 'builders is not a list');
    return [];
  }
  return located.items.flatMap((item) => {
    const spec = builderOf(item, home, findings);
    return spec ? [spec] : [];
  });
}

function builderOf(item: Located, home: string, findings: Findings): BuilderSpec | undefined {
  const named = item.kind === 'map' ? item.entries.get('builder')?.value : item;
  const word = named?.kind === 'scalar' ? named.value : undefined;
  if (typeof word !== 'string') {
    findings.add(
      item.range,
      'this names no builder',
      'write local, nix, or builder: remote=grpc://HOST:PORT',
    );
    return undefined;
  }
  const spec = parseBuilder(word);
  if (typeof spec === 'string') {
    findings.add(named!.range, spec);
    return undefined;
  }
  if (item.kind !== 'map') return spec;
  const more: Partial<Record<EntryKey, unknown>> = {};
  for (const [name, { key, value }] of item.entries) {
    if (name === 'builder' || name.startsWith('x-')) continue;
    if (!isEntryKey(name)) {
      const near = nearest(name, Object.keys(entryKeys));
      findings.add(key, `a builder has no ${name}`, near === undefined ? undefined : `did you mean ${near}?`);
    } else if (spec.kind !== 'remote' && !ofAll.includes(name)) {
      findings.add(key, `${name} is for remote builders`);
    } else {
      const found = contentOf(value, entryKeys[name], home);
      if (found === undefined) findings.add(value.range, `${name} is not ${inWords[entryKeys[name]]}`);
      else more[name] = found;
    }
  }
  return { ...more, ...spec } as BuilderSpec;
}

type ValueKind = (typeof entryKeys)[EntryKey];
const inWords: Readonly<Record<ValueKind, string>> = {
  words: 'a list of words',
  number: 'a whole number from 1 on',
  map: 'a mapping of names to texts',
  file: 'an absolute path, or one in ~/',
  text: 'a text',
  flag: 'true or false',
};

/** Undefined where something else stands there. */
function contentOf(located: Located, kind: ValueKind, home: string): unknown {
  const scalar = located.kind === 'scalar' ? located.value : undefined;
  switch (kind) {
    case 'words': {
      const items = located.kind === 'list' ? located.items : [located];
      const words = items.map((item) => (item.kind === 'scalar' ? item.value : undefined));
      return words.every((word) => typeof word === 'string' && isWord(word)) ? words : undefined;
    }
    case 'number':
      return typeof scalar === 'number' && Number.isInteger(scalar) && scalar > 0 && scalar < 1e5
        ? scalar
        : undefined;
    case 'map': {
      if (located.kind !== 'map') return undefined;
      const entries = [...located.entries].map(([name, { value }]) => [
        name,
        value.kind === 'scalar' && typeof value.value === 'string' ? value.value : undefined,
      ]);
      return entries.every(([, value]) => value !== undefined) ? Object.fromEntries(entries) : undefined;
    }
    case 'file': {
      const path =
        typeof scalar === 'string' && scalar.startsWith('~/') ? join(home, scalar.slice(2)) : scalar;
      return typeof path === 'string' && isAbsolute(path) ? path : undefined;
    }
    case 'text':
      return typeof scalar === 'string' && /^[A-Za-z_]\w*$/.test(scalar) ? scalar : undefined;
    case 'flag':
      return typeof scalar === 'boolean' ? scalar : undefined;
  }
}
