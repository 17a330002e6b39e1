/** `flake.lock`, version 7: the graph of locked inputs as JSON, byte for byte as Nix 2.34 writes it. */
import { canonicalJson, compareBytes, type Json } from '../base/canonical.ts';
import { positionOf, type SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { type FlakeRef, isLocked, isRelativePath, refFromAttributes, refToAttributes } from './flake-ref.ts';
import type { InputPath } from './package-ref.ts';

/** An arrow of the graph: to a node by its key, or along a path from the root. */
export type LockEdge =
  | { readonly kind: 'node'; readonly key: string }
  | { readonly kind: 'follows'; readonly path: InputPath };

/** What only flk knows about a pin; Nix reads past it. */
export interface FlkFacts {
  /** The semver range asked for. */
  readonly version?: string;
  /** The tag chosen. */
  readonly tag?: string;
}

export interface LockNode {
  readonly inputs: ReadonlyMap<string, LockEdge>;
  /** Undefined on the root only. */
  readonly original?: FlakeRef;
  readonly locked?: FlakeRef;
  readonly flake: boolean;
  /** Relative path inputs: the path to the node whose folder they are relative to; empty for the root. */
  readonly parent?: InputPath;
  readonly flk?: FlkFacts;
  /** A relative input that was locked anew, not kept; no file says so. Nix lists these even where nothing moved. */
  readonly fresh?: true;
}

export interface LockFile {
  readonly root: string;
  readonly nodes: ReadonlyMap<string, LockNode>;
}

/** What a flake without inputs is locked to. */
export const emptyLock: LockFile = {
  root: 'root',
  nodes: new Map([['root', { inputs: new Map(), flake: true }]]),
};

export const lockLimits = {
  /** UTF-16 units of the file. */
  length: 16 << 20,
  nodes: 50_000,
  /** From the root to the furthest input. */
  depth: 100,
};

/**
 * Reads versions 5 to 7. Only nodes that the root reaches are kept, as Nix does. Whether `follows` lead anywhere is the graph's
 * to say. Throws FLK_LOCK_CONFLICT, FLK_LOCK_INVALID, FLK_GRAPH_LIMIT, and of its references FLK_REF_UNSUPPORTED and
 * FLK_REF_CREDENTIALS.
 */
export function parseLockFile(file: SourceFile): LockFile {
  return new LockReader(file).read();
}

/** Whatever Nix takes passes, but for what could be taken for a path or an escape sequence. */
export function isInputName(name: string): boolean {
  return /^[^\u0000-\u001f/\u007f-\u009f]{1,200}$/u.test(name);
}

type JsonObject = { readonly [key: string]: Json };

class LockReader {
  readonly #file: SourceFile;
  readonly #nodes = new Map<string, LockNode>();

  constructor(file: SourceFile) {
    this.#file = file;
  }

  read(): LockFile {
    const json = this.#object(this.#parseJson(), 'the file');
    const { version, root } = json;
    if (typeof version !== 'number' || !Number.isInteger(version))
      throw this.#invalid('version is missing or no number');
    if (version < 5 || version > 7)
      throw this.#invalid('its version is not one that flk reads', {
        facts: { found: String(version), wanted: '5, 6 or 7' },
        ...(version > 7 ? { hint: 'update flk' } : {}),
      });
    if (typeof root !== 'string') throw this.#invalid('root does not name a node');
    const nodes = this.#object(json.nodes, 'nodes');
    if (!Object.hasOwn(nodes, root)) throw this.#invalid(`root names the missing node ‘${root}’`);
    this.#readFrom(root, nodes);
    return { root, nodes: this.#nodes };
  }

  /** Depth first, in the order of names, without recursion; each node once. A node that leads back to itself would make the graph endless. */
  #readFrom(root: string, nodes: JsonObject): void {
    type Frame = { readonly key: string; readonly children: Iterator<string> };
    const open = new Map<string, Frame>();
    const enter = (key: string, at: string) => {
      if (!Object.hasOwn(nodes, key)) throw this.#invalid(`${at} names the missing node ‘${key}’`);
      if (this.#nodes.size >= lockLimits.nodes) throw this.#limit(`more than ${lockLimits.nodes} nodes`);
      if (open.size > lockLimits.depth) throw this.#limit(`inputs nested deeper than ${lockLimits.depth}`);
      const node = this.#node(this.#object(nodes[key], `nodes.${key}`), key, key === root);
      this.#nodes.set(key, node);
      const children = [...node.inputs.values()].flatMap((edge) => (edge.kind === 'node' ? [edge.key] : []));
      open.set(key, { key, children: children.values() });
    };
    enter(root, 'root');
    for (let frame = last(open); frame !== undefined; frame = last(open)) {
      const next = frame.children.next();
      if (next.done) open.delete(frame.key);
      else if (open.has(next.value)) {
        const keys = [...open.keys()];
        throw this.#invalid(
          `its nodes lead in a circle: ${[...keys.slice(keys.indexOf(next.value)), next.value].join(' → ')}`,
        );
      } else if (!this.#nodes.has(next.value)) enter(next.value, `an input of nodes.${frame.key}`);
    }
  }

  #node(json: JsonObject, key: string, isRoot: boolean): LockNode {
    const where = `nodes.${key}`;
    const inputs = new Map<string, LockEdge>();
    const declared = json.inputs === undefined ? {} : this.#object(json.inputs, `${where}.inputs`);
    // Sorted, so that every later walk is as deep as this one, which is bounded.
    for (const [name, edge] of Object.entries(declared).sort(([a], [b]) => compareBytes(a, b))) {
      const at = `${where}.inputs.${name}`;
      this.#checkName(name, at);
      if (typeof edge === 'string') {
        this.#checkName(edge, at);
        inputs.set(name, { kind: 'node', key: edge });
      } else inputs.set(name, { kind: 'follows', path: this.#path(edge, at) });
    }
    if (isRoot) return { inputs, flake: true };
    const { flake, parent, flk } = json;
    if (flake !== undefined && typeof flake !== 'boolean')
      throw this.#invalid(`${where}.flake is not true or false`);
    const original = this.#ref(json.original, `${where}.original`);
    // Version 5 kept the hash and the date apart.
    const locked = this.#ref(
      json.info === undefined
        ? json.locked
        : { ...this.#object(json.locked, `${where}.locked`), ...this.#object(json.info, `${where}.info`) },
      `${where}.locked`,
    );
    if (!isLocked(locked) && !isRelativePath(locked) && locked.narHash === undefined)
      throw this.#invalid(`${where}.locked is not locked: it has neither a rev nor a narHash`);
    return {
      inputs,
      original,
      locked,
      flake: flake ?? true,
      ...(parent === undefined ? {} : { parent: this.#path(parent, `${where}.parent`) }),
      ...(flk === undefined ? {} : { flk: this.#facts(this.#object(flk, `${where}.flk`), `${where}.flk`) }),
    };
  }

  #facts(json: JsonObject, where: string): FlkFacts {
    const text = (name: 'version' | 'tag') => {
      const value = json[name];
      if (value === undefined) return {};
      if (typeof value !== 'string' || value.length > 1000)
        throw this.#invalid(`${where}.${name} is not a text`);
      return { [name]: value };
    };
    return { ...text('version'), ...text('tag') };
  }

  #ref(json: Json | undefined, where: string): FlakeRef {
    try {
      return refFromAttributes(json, where);
    } catch (error) {
      if (
        error instanceof FlkError &&
        (error.code === 'FLK_REF_INVALID' || error.code === 'FLK_HASH_INVALID')
      )
        throw this.#invalid(`${where} is no reference (${error.message})`, { cause: error });
      throw error instanceof FlkError ? error.within(this.#file.path) : error;
    }
  }

  #path(json: Json | undefined, where: string): InputPath {
    if (!Array.isArray(json) || json.length > lockLimits.depth)
      throw this.#invalid(`${where} is not a list of input names`);
    return json.map((name: Json) => {
      if (typeof name !== 'string') throw this.#invalid(`${where} is not a list of input names`);
      this.#checkName(name, where);
      return name;
    });
  }

  #checkName(name: string, where: string): void {
    if (!isInputName(name))
      throw this.#invalid(`${where}: ‘${name.slice(0, 200)}’ is no name of an input or node`);
  }

  #object(json: Json | undefined, where: string): JsonObject {
    if (json === undefined || json === null || typeof json !== 'object' || Array.isArray(json))
      throw this.#invalid(`${where} is ${json === undefined ? 'missing' : 'not an object'}`);
    return json as JsonObject;
  }

  #parseJson(): Json {
    const { path, text } = this.#file;
    if (text.length > lockLimits.length) throw this.#limit(`more than ${lockLimits.length} characters`);
    const marker = /^(<{7}|>{7})( .*)?$/m.exec(text);
    if (marker)
      throw new FlkError(
        'FLK_LOCK_CONFLICT',
        `${path}:${positionOf(text, marker.index).line} holds a merge-conflict marker`,
      );
    let json: Json;
    try {
      json = JSON.parse(text) as Json;
    } catch (cause) {
      const whole = text.trimEnd().endsWith('}');
      throw this.#invalid(text.trim() === '' ? 'it is empty' : whole ? 'it is not JSON' : 'it breaks off', {
        cause,
      });
    }
    // JSON.parse keeps the last of two equal keys in silence; a lock that two tools read differently proves nothing.
    const written = [...text.matchAll(/"(?:[^"\\]|\\.)*"\s*(:?)/g)].filter((match) => match[1]).length;
    if (written !== countKeys(json)) throw this.#invalid('an object in it names a key twice');
    return json;
  }

  #limit(what: string): FlkError {
    return new FlkError('FLK_GRAPH_LIMIT', `${this.#file.path} has ${what}`);
  }

  #invalid(
    why: string,
    details: { facts?: Record<string, string>; hint?: string; cause?: unknown } = {},
  ): FlkError {
    return new FlkError('FLK_LOCK_INVALID', `${this.#file.path} is not a valid lock: ${why}`, details);
  }
}

function last<K, V>(map: ReadonlyMap<K, V>): V | undefined {
  return [...map.values()].at(-1);
}

function countKeys(json: Json): number {
  let count = 0;
  const rest: Json[] = [json];
  for (let value = rest.pop(); value !== undefined; value = rest.pop()) {
    if (value === null || typeof value !== 'object') continue;
    if (!Array.isArray(value)) count += Object.keys(value).length;
    for (const item of Object.values(value) as Json[]) rest.push(item);
  }
  return count;
}

/**
 * The first input, in the order of node names, that says where it is, but not which of its revisions: a working tree with
 * changes. With `allowDirtyLocks` one that has at least a hash will do: it can be told from others, but not fetched elsewhere.
 */
export function unlockedInput(lock: LockFile, allowDirtyLocks = false): FlakeRef | undefined {
  for (const { locked } of lock.nodes.values()) {
    if (locked === undefined || isLocked(locked) || isRelativePath(locked)) continue;
    if (!allowDirtyLocks || locked.narHash === undefined) return locked;
  }
  return undefined;
}

/**
 * The same graph with its nodes named and ordered anew, as Nix does each time it writes: depth first over the names of inputs in
 * byte order, a node takes its input's name, and where that is taken the first free of `name_2`, `name_3`, …
 */
export function renumbered(lock: LockFile): LockFile {
  const nodes = new Map<string, LockNode>();
  const given = new Map<string, string>();
  const names = new NodeNames();
  const add = (key: string, name: string): string => {
    const known = given.get(key);
    if (known !== undefined) return known;
    const fresh = names.next(name);
    given.set(key, fresh);
    // A lock's edges lead to its nodes: `parseLockFile` and the locker see to that.
    const node = lock.nodes.get(key)!;
    const inputs = new Map<string, LockEdge>();
    nodes.set(fresh, { ...node, inputs });
    for (const [input, edge] of [...node.inputs].sort(([a], [b]) => compareBytes(a, b)))
      inputs.set(input, edge.kind === 'node' ? { kind: 'node', key: add(edge.key, input) } : edge);
    return fresh;
  };
  return { root: add(lock.root, 'root'), nodes };
}

/** Gives every node a name of its own. */
export class NodeNames {
  readonly #taken = new Set<string>();
  readonly #lastNumber = new Map<string, number>();

  next(name: string): string {
    let key = name;
    // Counting on from the last number given, or a name shared by all nodes would cost the square of their count.
    for (let n = this.#lastNumber.get(name) ?? 2; this.#taken.has(key); n++) {
      key = `${name}_${n}`;
      this.#lastNumber.set(name, n);
    }
    this.#taken.add(key);
    return key;
  }
}

/** The file's text, newline at the end. */
export function printLockFile(lock: LockFile): string {
  const nodes: Record<string, Json> = Object.create(null) as Record<string, Json>;
  for (const [key, node] of lock.nodes) nodes[key] = nodeJson(node);
  return `${canonicalJson({ nodes, root: lock.root, version: 7 })}\n`;
}

function nodeJson(node: LockNode): Json {
  const inputs: Record<string, Json> = Object.create(null) as Record<string, Json>;
  for (const [name, edge] of node.inputs) inputs[name] = edge.kind === 'node' ? edge.key : [...edge.path];
  return {
    ...(node.inputs.size === 0 ? {} : { inputs }),
    ...(node.original === undefined ? {} : { original: refToAttributes(node.original) }),
    ...(node.locked === undefined ? {} : { locked: refToAttributes(node.locked) }),
    ...(node.flake ? {} : { flake: false }),
    ...(node.parent === undefined ? {} : { parent: [...node.parent] }),
    ...(node.flk === undefined ? {} : { flk: { ...node.flk } }),
  };
}
