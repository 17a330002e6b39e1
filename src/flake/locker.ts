/** Locking: a manifest and its old lock in, the new lock out. By which rules, `lock-rules.ts` says. */
import { compareBytes } from '../base/canonical.ts';
import { limiter, OnceMap } from '../base/concurrency.ts';
import { nearest } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { type Reporter, silent, span } from '../base/events.ts';
import type { Tree } from '../formats/nar.ts';
import type { ReadManifest } from './flake-folder.ts';
import { type FlakeRef, printFlakeRef, refKey } from './flake-ref.ts';
import { LockGraph, printInputPath } from './graph.ts';
import {
  emptyLock,
  type LockEdge,
  type LockFile,
  type LockNode,
  NodeNames,
  printLockFile,
  renumbered,
  unlockedInput,
} from './lock-file.ts';
import { type LockRules, rulesOf } from './lock-rules.ts';
import type { FlakeManifest } from './manifest-model.ts';
import type { InputPath } from './package-ref.ts';
import { atRootInput, type Draft } from './resolution.ts';
import type { Fetched, Source, Tag } from './source.ts';

export interface LockOptions {
  readonly manifest: FlakeManifest;
  readonly previous?: LockFile | undefined;
  /** Make the lock as if there were no previous one. Default: false. */
  readonly recreate?: boolean;
  /** Inputs that have a hash, but no revision, may be in the lock; for what is not to be written, too. Default: false. */
  readonly allowDirtyLocks?: boolean;
  readonly source: Source;
  /** For the manifests of inputs; their `path` says where they are from. */
  readonly readManifest: ReadManifest;
  /**
   * Which inputs to move; `all` are the root's own, except those that are frozen, and for a `flake.nix` the whole graph anew.
   * Default: none.
   */
  readonly update?: 'none' | 'all' | readonly InputPath[];
  /** Pins below a moved input move too. `all` does so anyway, and any update of a `flake.nix`. */
  readonly deep?: boolean;
  /** From the command line, by path (`greet/base`). Relative references must have been made absolute. */
  readonly overrides?: ReadonlyMap<string, FlakeRef>;
  /** Reads a file of the tree that holds the root flake, by its path from that tree's root. */
  readonly readRelative: (path: string) => Promise<Buffer | undefined>;
  /** Walks that tree, to find manifests that are symlinks; without it they are not there. */
  readonly walkRelative?: Tree['walk'];
  /** The root flake's folder in that tree, without slashes at its ends. Default: the tree's root. */
  readonly rootDir?: string;
  readonly reporter?: Reporter;
  /** How many references are fetched at once. Default: 25. */
  readonly maxConcurrency?: number;
}

/**
 * The lock that the manifest should have. Equal to the previous one when nothing is to be changed; nothing is fetched then.
 * Throws what the source, the manifests and the locks of inputs throw, with the trail of inputs; FLK_INPUT_UNKNOWN for an
 * update of what does not exist; FLK_FOLLOWS_MISSING, FLK_FOLLOWS_CYCLE, FLK_INPUT_CYCLE, FLK_GRAPH_LIMIT,
 * FLK_VERSION_UNSATISFIED; FLK_LOCK_UNLOCKED_INPUT where the lock changes and an input has no revision.
 */
export async function lock(options: LockOptions): Promise<LockFile> {
  const { manifest, reporter = silent, update = 'none', deep = false, recreate = false } = options;
  const rules = rulesOf(manifest);
  const chosen = update === 'none' ? [] : update === 'all' ? rules.movable(manifest) : update;
  const updates = chosen === 'afresh' ? [] : chosen;
  if (rules.strictUpdates)
    for (const path of updates)
      if (!manifest.inputs.has(path[0] ?? '')) throw unknownInput(path, [...manifest.inputs.keys()]);
  return span(reporter, { type: 'lock', flake: manifest.file.path }, async () => {
    const resolution = rules.resolve({
      manifest,
      previous: recreate || chosen === 'afresh' ? undefined : options.previous,
      readManifest: options.readManifest,
      readRelative: options.readRelative,
      walkRelative: options.walkRelative,
      rootDir: options.rootDir ?? '',
      updates,
      deep: deep || update === 'all',
      overrides: options.overrides ?? new Map(),
      source: deduplicated(options.source, options.maxConcurrency ?? 25),
    });
    const locked = numbered(await resolution.run());
    checkUpdates(updates, resolution.visited, locked, rules, reporter);
    try {
      rules.checkFollows(new LockGraph(locked));
    } catch (error) {
      throw atRootInput(error, manifest);
    }
    if (!isSameLock(locked, options.previous ?? emptyLock)) checkLocked(locked, options.allowDirtyLocks);
    for (const input of resolution.unusedOverrides())
      reporter.emit({ kind: 'notice', notice: { type: 'unused-override', input: printInputPath(input) } });
    for (const input of await resolution.outdated())
      reporter.emit({ kind: 'notice', notice: { type: 'outdated-relative', input: printInputPath(input) } });
    return locked;
  });
}

/** Whether the two say the same; names of nodes do not count, nor the version and the layout of the file they came out of. */
export function isSameLock(a: LockFile, b: LockFile): boolean {
  return printLockFile(renumbered(a)) === printLockFile(renumbered(b));
}

function checkLocked(locked: LockFile, allowDirtyLocks: boolean | undefined): void {
  const unlocked = unlockedInput(locked, allowDirtyLocks);
  if (unlocked === undefined) return;
  const path = new LockGraph(locked)
    .inputs()
    .find(({ edge }) => edge.kind === 'node' && locked.nodes.get(edge.key)?.locked === unlocked)?.path;
  throw new FlkError(
    'FLK_LOCK_UNLOCKED_INPUT',
    `input ‘${printInputPath(path ?? [])}’ is a working tree with changes, ${printFlakeRef(unlocked)}: no lock can say where to get it`,
    { hint: 'commit the changes there, or try --allow-dirty-locks' },
  );
}

function checkUpdates(
  updates: readonly InputPath[],
  visited: ReadonlyMap<string, 'node' | 'follows'>,
  locked: LockFile,
  { strictUpdates }: LockRules,
  reporter: Reporter,
): void {
  for (const path of updates) {
    const kind = visited.get(printInputPath(path));
    if (!strictUpdates) {
      if (kind !== 'node')
        reporter.emit({ kind: 'notice', notice: { type: 'unused-update', input: printInputPath(path) } });
      continue;
    }
    if (kind === undefined) throw unknownInput(path, [...visited.keys()]);
    if (kind === 'node') continue;
    const target = new LockGraph(locked)
      .inputs()
      .find((input) => printInputPath(input.path) === printInputPath(path));
    const followed = target?.edge.kind === 'follows' ? printInputPath(target.edge.path) : '';
    throw new FlkError(
      'FLK_INPUT_UNKNOWN',
      `input ‘${printInputPath(path)}’ has no pin of its own: it follows ‘${followed}’`,
      {
        hint: `flk update ${followed}`,
      },
    );
  }
}

function unknownInput(path: InputPath, known: readonly string[]): FlkError {
  const wanted = printInputPath(path);
  const meant = nearest(wanted, known);
  return new FlkError('FLK_INPUT_UNKNOWN', `there is no input ‘${wanted}’ to update`, {
    facts: { wanted, found: [...known].sort(compareBytes).slice(0, 20).join(', ') || 'no inputs' },
    ...(meant === undefined ? {} : { hint: `did you mean ${meant}?` }),
  });
}

/** One promise per distinct reference, and a bound on those that are under way. */
function deduplicated(source: Source, maxConcurrency: number): Source {
  const limit = limiter(maxConcurrency);
  const fetches = new OnceMap<string, Fetched>();
  const tags = new OnceMap<string, readonly Tag[]>();
  return {
    fetch: (ref, registries = 'limited') =>
      fetches.get(`${registries} ${refKey(ref)}`, () => limit(() => source.fetch(ref, registries))),
    tags: (ref) => tags.get(refKey(ref), () => limit(() => source.tags(ref))),
  };
}

/** Gives nodes their keys, as `renumbered` does. */
function numbered(root: Draft): LockFile {
  const nodes = new Map<string, LockNode>();
  const names = new NodeNames();
  const add = (name: string, { inputs, ...node }: Draft): string => {
    const key = names.next(name);
    const edges = new Map<string, LockEdge>();
    nodes.set(key, { ...node, inputs: edges });
    for (const input of [...inputs.keys()].sort(compareBytes)) {
      const edge = inputs.get(input)!;
      edges.set(input, edge.kind === 'node' ? { kind: 'node', key: add(input, edge.node) } : edge);
    }
    return key;
  };
  return { root: add('root', root), nodes };
}
