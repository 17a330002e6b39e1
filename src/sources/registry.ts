/**
 * Flake registries: files that lead names (`nixpkgs`) on to references. Files, order and rules are those of Nix, which shares
 * them: a file that one has written the other reads.
 */
import { canonicalJson, compareBytes, type Json } from '../base/canonical.ts';
import { nearest } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import {
  type FlakeRef,
  printFlakeRef,
  type RefAttributes,
  refFromAttributes,
  refToAttributes,
} from '../flake/flake-ref.ts';
import type { Registries as Which } from '../flake/source.ts';

export interface RegistryEntry {
  /** As the file has it: entries of a kind that only a newer program knows are kept. */
  readonly from: RefAttributes;
  /** With `dir`, where there is one. */
  readonly to: RefAttributes;
  /** Leads on only what is written exactly so, without a ref or rev of its own. */
  readonly exact: boolean;
}

/** In the order in which they are asked. */
export const registryNames = ['flags', 'user', 'system', 'global'] as const;

export type RegistryName = (typeof registryNames)[number];

const maxEntries = 20_000;
const maxAttributes = 50;
/** As many steps as Nix takes. */
const maxSteps = 100;

/** Reads a registry's file, version 2. `path` is for errors. Throws FLK_REGISTRY_INVALID. */
export function parseRegistry(text: string, path: string): RegistryEntry[] {
  const invalid = (why: string, cause?: unknown): FlkError =>
    new FlkError('FLK_REGISTRY_INVALID', `the registry ${path} ${why}`, { cause });
  let json: Json;
  try {
    json = JSON.parse(text) as Json;
  } catch (cause) {
    throw invalid('is not JSON', cause);
  }
  if (!isObject(json)) throw invalid('is not an object');
  if (json.version !== 2) throw invalid(`is of version ${String(json.version)}; flk reads version 2`);
  // What Nix writes when the last entry is gone.
  const flakes = json.flakes ?? [];
  if (!Array.isArray(flakes)) throw invalid('has no list of flakes');
  if (flakes.length > maxEntries) throw invalid(`has more than ${maxEntries} entries`);
  return flakes.map((entry: Json, index): RegistryEntry => {
    const where = `flakes[${index}]`;
    if (!isObject(entry)) throw invalid(`has an entry that is not an object: ${where}`);
    const { from, to, exact = false } = entry;
    if (!isAttributes(from) || !isAttributes(to))
      throw invalid(`has an entry without a reference in from or to: ${where}`);
    if (typeof exact !== 'boolean')
      throw invalid(`has an entry whose exact is neither true nor false: ${where}`);
    return { from, to, exact };
  });
}

const isObject = (json: Json | undefined): json is { readonly [key: string]: Json } =>
  json !== null && typeof json === 'object' && !Array.isArray(json);

function isAttributes(json: Json | undefined): json is RefAttributes {
  return (
    isObject(json) &&
    typeof json.type === 'string' &&
    Object.keys(json).length <= maxAttributes &&
    Object.values(json).every((value) => /^(string|number|boolean)$/.test(typeof value))
  );
}

/** The file's text, as Nix writes it. */
export function printRegistry(entries: readonly RegistryEntry[]): string {
  return canonicalJson({
    flakes:
      entries.length === 0
        ? null
        : entries.map(({ from, to, exact }) => ({ from, to, ...(exact && { exact }) })),
    version: 2,
  });
}

/** Without every entry for exactly this reference; its `dir` does not count. */
export function withoutEntry(entries: readonly RegistryEntry[], from: FlakeRef): RegistryEntry[] {
  const key = keyOf(fromAttributesOf(from));
  return entries.filter((entry) => keyOf(entry.from) !== key);
}

/** With one entry for `from`, at the end. `to` is a reference's attributes. */
export function withEntry(
  entries: readonly RegistryEntry[],
  from: FlakeRef,
  to: RefAttributes,
): RegistryEntry[] {
  return [...withoutEntry(entries, from), { from: fromAttributesOf(from), to, exact: false }];
}

function fromAttributesOf(ref: FlakeRef): RefAttributes {
  const { dir: _, ...attributes } = refToAttributes(ref);
  return attributes;
}

/** One text for equal attributes. */
function keyOf(attributes: RefAttributes): string {
  return Object.entries(attributes)
    .map((pair) => JSON.stringify(pair))
    .sort(compareBytes)
    .join('');
}

/** The reference as it is printed; as JSON where it is of a kind that flk does not know. */
export function printEntryRef(attributes: RefAttributes): string {
  try {
    return printFlakeRef(refOf(attributes));
  } catch (error) {
    if (!(error instanceof FlkError)) throw error;
    return JSON.stringify(attributes);
  }
}

/** An entry's target. Nix marks what it has pinned itself (`__final`). */
function refOf({ __final: _, ...attributes }: RefAttributes): FlakeRef {
  return refFromAttributes(attributes, 'a registry’s entry');
}

/** Reads one of the registries that are files; what is not there is empty. */
export type RegistryLoader = (name: Exclude<RegistryName, 'flags'>) => Promise<readonly RegistryEntry[]>;

/** The registries of one run: each is read once, when a name has not been found before it. */
export class FlakeRegistries {
  readonly #load: RegistryLoader;
  readonly #allowed: boolean;
  readonly #flags: RegistryEntry[] = [];
  readonly #loaded = new Map<RegistryName, Promise<readonly RegistryEntry[]>>();

  /** `allowed: false` is `--no-registries`: then no name means anything. */
  constructor(load: RegistryLoader, { allowed = true }: { readonly allowed?: boolean } = {}) {
    this.#load = load;
    this.#allowed = allowed;
  }

  /** For this run, before all files (`--override-flake`). Of two for one name, the first counts. */
  override(from: FlakeRef, to: FlakeRef): void {
    this.#flags.push({ from: fromAttributesOf(from), to: refToAttributes(to), exact: false });
  }

  async entries(name: RegistryName): Promise<readonly RegistryEntry[]> {
    if (name === 'flags') return this.#flags;
    let entries = this.#loaded.get(name);
    if (!entries) {
      entries = this.#load(name);
      this.#loaded.set(name, entries);
    }
    return await entries;
  }

  /**
   * Where the registries lead a reference: step by step, until none has an entry for it. `limited` asks those of the command line
   * and the global one alone. What a name asks for beyond an entry's own (`nixpkgs/release`) goes along. Throws
   * FLK_REGISTRY_UNKNOWN, FLK_REGISTRY_CYCLE, FLK_REF_INVALID for a ref or rev where there can be none, and as reading does.
   */
  async lookup(start: FlakeRef, which: Which): Promise<FlakeRef> {
    const names = registryNames.filter((name) => which === 'all' || name === 'flags' || name === 'global');
    const trail = [printFlakeRef(start)];
    if (!this.#allowed)
      throw new FlkError('FLK_REGISTRY_UNKNOWN', `${trail[0]} is a registry’s name, and none may be asked`, {
        hint: 'leave --no-registries out (or useRegistries: false in the settings), or write the whole reference',
      });
    let dir = start.dir;
    let attributes = fromAttributesOf(start);
    for (
      let found = await this.#find(attributes, names);
      found;
      found = await this.#find(attributes, names)
    ) {
      const { dir: added, ...to } = found.to;
      attributes = found.exact ? to : withOverrides(found.from, to, attributes);
      // The last entry's folder alone counts, as in Nix.
      dir = typeof added === 'string' ? added : start.dir;
      trail.push(printEntryRef(attributes));
      if (trail.length > maxSteps) throw this.#cycle(trail);
    }
    const ref = refOf({ ...attributes, ...(dir === undefined ? {} : { dir }) });
    if (ref.type === 'indirect') throw await this.#unknown(ref.id, trail, names);
    return ref;
  }

  async #find(attributes: RefAttributes, names: readonly RegistryName[]): Promise<RegistryEntry | undefined> {
    const whole = keyOf(attributes);
    const { ref: _ref, rev: _rev, ...rest } = attributes;
    const bare = keyOf(rest);
    for (const name of names) {
      const entries = await this.entries(name).catch((error: unknown) => {
        throw name === 'global' ? unreached(error, printEntryRef(attributes)) : error;
      });
      const found = entries.find(({ from, exact }) => {
        const key = keyOf(from);
        return key === whole || (!exact && key === bare);
      });
      if (found) return found;
    }
    return undefined;
  }

  #cycle(trail: readonly string[]): FlkError {
    const again = trail.findIndex((step, index) => trail.indexOf(step) < index);
    return new FlkError('FLK_REGISTRY_CYCLE', `the registries lead ${trail[0]} in a circle`, {
      trail: trail.slice(0, Math.max(again + 1, 1)),
      hint: 'flk registry list shows them, flk registry remove breaks the circle',
    });
  }

  async #unknown(id: string, trail: readonly string[], names: readonly RegistryName[]): Promise<FlkError> {
    const all = await Promise.all(names.map((name) => this.entries(name)));
    const ids = all.flat().flatMap(({ from }) => (typeof from.id === 'string' ? [from.id] : []));
    const near = nearest(id, ids);
    const asked = names.filter((_, index) => all[index]!.length > 0);
    return new FlkError(
      'FLK_REGISTRY_UNKNOWN',
      trail.length === 1
        ? `no registry knows ${trail[0]}`
        : `no registry knows ${trail.at(-1)}, to which ${trail[0]} leads`,
      {
        facts: { asked: asked.length === 0 ? 'all are empty' : asked.join(', ') },
        hint:
          near === undefined || near === id
            ? `write ./${id} for a folder, or flk registry add ${id} REF`
            : `did you mean ${near}?`,
      },
    );
  }
}

/** What a name says beyond the entry's own name: a ref, a rev. */
function withOverrides(from: RefAttributes, to: RefAttributes, asked: RefAttributes): RefAttributes {
  const ref = from.ref === undefined ? asked.ref : undefined;
  const rev = from.rev === undefined ? asked.rev : undefined;
  if (ref === undefined && rev === undefined) return to;
  const refuse = (why: string): FlkError =>
    new FlkError('FLK_REF_INVALID', `${printEntryRef(asked)} leads to ${printEntryRef(to)}, ${why}`, {
      hint: 'write the whole reference instead',
    });
  const own = { ...(ref === undefined ? {} : { ref }), ...(rev === undefined ? {} : { rev }) };
  switch (to.type) {
    case 'github':
    case 'gitlab':
    case 'sourcehut': {
      if (ref !== undefined && rev !== undefined) throw refuse('which takes a ref or a rev, not both');
      const { ref: _ref, rev: _rev, ...rest } = to;
      return { ...rest, ...own };
    }
    case 'git':
      if (to.ref === undefined && ref === undefined) throw refuse('where a rev needs a ref beside it');
      return { ...to, ...own };
    case 'indirect':
      return { ...to, ...own };
    default:
      throw refuse(`which has no ${ref === undefined ? 'revisions' : 'branches or tags'}`);
  }
}

/** Who asked for a name may not know that a server was to explain it. */
function unreached(thrown: unknown, name: string): unknown {
  if (!(thrown instanceof FlkError)) return thrown;
  const { code, message, facts, trail, diagnostics } = thrown;
  if (code !== 'FLK_NETWORK' && code !== 'FLK_HTTP_STATUS' && code !== 'FLK_OFFLINE') return thrown;
  const hint = `the global registry says what ${name} means: write the whole reference instead, or --override-flake NAME REF`;
  return new FlkError(code, message, { hint, facts, trail, diagnostics, cause: thrown });
}
