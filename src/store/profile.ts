/** What a profile has installed: the `manifest.json` in its environment, in the shape of `nix profile`, version 3. */
import { join } from 'node:path';
import { canonicalJson, compareBytes, type Json } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';
import { nameOf, parseStorePath, type StorePath } from '../formats/store-path.ts';
import { packageOf, parsePackageName } from './closure-diff.ts';
import { environmentTree } from './environment.ts';
import { addGeneration, changingProfile, type Generation, switchTo } from './generations.ts';
import type { LauncherScript } from './launchers.ts';
import type { Store } from './store.ts';

/** One package of a profile. */
export interface ProfileElement {
  /** Not active: it stays installed, but nothing of it is in the environment. */
  readonly active: boolean;
  /** The lower number wins where two packages have one file. */
  readonly priority: number;
  /** Its outputs that were asked for, sorted. */
  readonly storePaths: readonly StorePath[];
  /** Where it comes from; undefined for a bare store path, which cannot be upgraded. */
  readonly source?: ElementSource;
}

export interface ElementSource {
  /** As it was asked for: what an upgrade locks anew. */
  readonly originalUrl: string;
  /** What that was when it was installed. */
  readonly url: string;
  /** `packages.x86_64-linux.hello`. */
  readonly attrPath: string;
  /** Undefined: the default ones. */
  readonly outputs?: readonly string[];
}

/** Name → element, by name. */
export type ProfileManifest = ReadonlyMap<string, ProfileElement>;

/** What Nix gives where nothing is said. */
export const defaultPriority = 5;

const limits = { bytes: 16 << 20, elements: 10_000, paths: 1000 };

/** The elements of an environment in the store. Throws FLK_PROFILE_INVALID. */
export async function readManifest(store: Store, environment: StorePath): Promise<ProfileManifest> {
  const place = join(store.physical(environment), 'manifest.json');
  const bytes = await readFileIfExists(place, limits.bytes);
  if (bytes === undefined)
    throw new FlkError(
      'FLK_PROFILE_INVALID',
      `${environment} has no manifest.json: flk profile did not make it`,
      {
        hint: 'choose another profile with --profile',
      },
    );
  return parseManifest(place, bytes.toString());
}

type JsonObject = { readonly [key: string]: Json };

/** Reads versions 2 (a list) and 3. */
function parseManifest(place: string, text: string): ProfileManifest {
  const invalid = (why: string, cause?: unknown): FlkError =>
    new FlkError('FLK_PROFILE_INVALID', `${place}: ${why}`, { cause });
  const object = (json: Json | undefined, what: string): JsonObject => {
    if (json === null || typeof json !== 'object' || Array.isArray(json))
      throw invalid(`${what} is no object`);
    return json as JsonObject;
  };
  let json: Json;
  try {
    json = JSON.parse(text) as Json;
  } catch (error) {
    throw invalid('it is not JSON', error);
  }
  const { version, elements } = object(json, 'the file');
  if (version !== 2 && version !== 3) throw invalid(`its version is ${JSON.stringify(version)}, not 2 or 3`);
  const listed: [string | undefined, Json | undefined][] = Array.isArray(elements)
    ? elements.map((element: Json) => [undefined, element])
    : Object.entries(object(elements, 'elements'));
  if (listed.length > limits.elements) throw invalid(`it has more than ${limits.elements} elements`);
  const manifest = new Map<string, ProfileElement>();
  for (const [key, value] of listed) {
    const where = `elements.${key ?? manifest.size}`;
    const { active, priority, storePaths, originalUrl, url, attrPath, outputs } = object(value, where);
    if (!Array.isArray(storePaths) || storePaths.length > limits.paths)
      throw invalid(`${where}.storePaths is no list`);
    if (active !== undefined && typeof active !== 'boolean')
      throw invalid(`${where}.active is not true or false`);
    if (priority !== undefined && !Number.isSafeInteger(priority))
      throw invalid(`${where}.priority is no whole number`);
    const paths = storePaths.map((path: Json) => {
      try {
        return parseStorePath(String(path));
      } catch (error) {
        throw invalid(`${where}.storePaths has ${JSON.stringify(path)}`, error);
      }
    });
    let source: ElementSource | undefined;
    if (typeof url === 'string' && url !== '') {
      if (typeof originalUrl !== 'string' || typeof attrPath !== 'string')
        throw invalid(`${where} has a url, but no originalUrl or attrPath`);
      const names = Array.isArray(outputs) ? outputs.map(String) : undefined;
      source = { originalUrl, url, attrPath, ...(names === undefined ? {} : { outputs: names }) };
    }
    const element: ProfileElement = {
      active: active ?? true,
      priority: typeof priority === 'number' ? priority : defaultPriority,
      storePaths: paths.sort(compareBytes),
      ...(source === undefined ? {} : { source }),
    };
    manifest.set(freeName(manifest, key ?? nameOfElement(element)), element);
  }
  return manifest;
}

/** As a person would call it: the last word of its attribute, or the name in its store path. */
export function nameOfElement({ source, storePaths }: ProfileElement): string {
  const last = source?.attrPath.split('.').at(-1);
  if (last !== undefined && last !== '' && last !== 'default') return last;
  const [first] = storePaths;
  return first === undefined ? 'nothing' : parsePackageName(nameOf(first)).name;
}

/** The name, or with the first number that makes it another: `hello-1`. */
export function freeName(manifest: ProfileManifest, name: string): string {
  let free = name;
  for (let n = 1; manifest.has(free); n++) free = `${name}-${n}`;
  return free;
}

/** The versions of what an element has, for people: `2.12`. */
export function versionOf({ storePaths }: ProfileElement): string {
  const versions = new Set(
    storePaths.map((path) => packageOf(path).version).filter((version) => version !== ''),
  );
  return [...versions].sort().join(', ');
}

/** The manifest's own JSON. */
export function manifestJson(manifest: ProfileManifest): Json {
  const elements = Object.create(null) as Record<string, Json>;
  for (const [name, { active, priority, storePaths, source }] of manifest)
    elements[name] = {
      active,
      priority,
      storePaths: [...storePaths],
      ...(source === undefined
        ? {}
        : {
            attrPath: source.attrPath,
            originalUrl: source.originalUrl,
            outputs: source.outputs === undefined ? null : [...source.outputs],
            url: source.url,
          }),
    };
  return { elements, version: 3 };
}

/** Byte for byte as Nix prints it, so that equal profiles are one store path. */
const printManifest = (manifest: ProfileManifest): string =>
  JSON.stringify(JSON.parse(canonicalJson(manifestJson(manifest))));

/**
 * Puts the environment of these elements into the store; `before` is what there was. Their paths must be valid and held. Throws
 * FLK_PROFILE_COLLISION.
 */
export async function buildEnvironment(
  store: Store,
  manifest: ProfileManifest,
  before: ProfileManifest = manifest,
): Promise<StorePath> {
  const packages = [...manifest]
    .filter(([, { active }]) => active)
    .flatMap(([name, { storePaths, priority }]) =>
      storePaths.map((path) => ({ name, path, priority, isNew: !before.has(name) })),
    );
  const references = [...manifest.values()].flatMap(({ storePaths }) => storePaths);
  const files = new Map([['manifest.json', Buffer.from(printManifest(manifest))]]);
  const { path } = await store.addTree('profile', environmentTree(store, packages, files), { references });
  return path;
}

export interface ProfileChange {
  readonly before: ProfileManifest;
  readonly after: ProfileManifest;
  /** Undefined where nothing changed, or nothing was to. */
  readonly generation: Generation | undefined;
}

/**
 * Changes what is installed: `change` gets what there is, of which nobody else makes something else meanwhile, and gives what is to be.
 * Where that is the same, no generation is made.
 */
export async function changeProfile(
  store: Store,
  profile: string,
  change: (manifest: ProfileManifest) => ProfileManifest,
  options: {
    /** Where the store is not at /nix/store. */
    readonly script?: LauncherScript | undefined;
    readonly dryRun?: boolean;
    readonly signal?: AbortSignal;
  } = {},
): Promise<ProfileChange> {
  return await changingProfile(
    profile,
    async (generations) => {
      const { current } = generations;
      const before = current ? await readManifest(store, current.path) : new Map<string, ProfileElement>();
      const after = sorted(change(before));
      const same = current !== undefined && printManifest(before) === printManifest(after);
      if (same || options.dryRun) return { before, after, generation: undefined };
      store.hold([...after.values()].flatMap(({ storePaths }) => storePaths));
      const environment = await buildEnvironment(store, after, before);
      const generation = await addGeneration(store, generations, environment);
      await switchTo(store, profile, generation, options.script);
      return { before, after, generation };
    },
    options.signal,
  );
}

const sorted = (manifest: ProfileManifest): ProfileManifest =>
  new Map([...manifest].sort(([a], [b]) => compareBytes(a, b)));

/** What sets two manifests apart, element by element. */
export interface ElementChange {
  readonly name: string;
  readonly kind: 'added' | 'removed' | 'changed';
  /** Undefined for what was added, or has no version. */
  readonly from?: string;
  readonly to?: string;
}

/** By name; `changed` are those with other store paths, or another priority. */
export function elementChanges(before: ProfileManifest, after: ProfileManifest): readonly ElementChange[] {
  return [...new Set([...before.keys(), ...after.keys()])]
    .sort(compareBytes)
    .flatMap((name): ElementChange[] => {
      const [was, is] = [before.get(name), after.get(name)];
      if (was === undefined) return is ? [{ name, kind: 'added', to: versionOf(is) }] : [];
      if (is === undefined) return [{ name, kind: 'removed', from: versionOf(was) }];
      const same = was.storePaths.join() === is.storePaths.join() && was.priority === is.priority;
      return same ? [] : [{ name, kind: 'changed', from: versionOf(was), to: versionOf(is) }];
    });
}
