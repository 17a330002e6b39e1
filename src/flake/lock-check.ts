/** Whether a lock is what locking would give now, told from the manifest and the lock alone, without any network. */
import { compareBytes } from '../base/canonical.ts';
import type { Diagnostic } from '../base/diagnostics.ts';
import { type Reporter, silent } from '../base/events.ts';
import type { Tree } from '../formats/nar.ts';
import type { ReadManifest } from './flake-folder.ts';
import { type FlakeRef, printFlakeRef, sameRef } from './flake-ref.ts';
import { comparePaths, LockGraph, printInputPath } from './graph.ts';
import { emptyLock, type LockEdge, type LockFile } from './lock-file.ts';
import { rulesOf } from './lock-rules.ts';
import type { FlakeManifest } from './manifest-model.ts';
import type { InputPath } from './package-ref.ts';
import { atRootInput, type Draft, type DraftEdge, type Unknown } from './resolution.ts';
import type { Source } from './source.ts';

export interface CheckOptions {
  readonly manifest: FlakeManifest;
  /** Undefined: there is no lock yet. */
  readonly previous: LockFile | undefined;
  readonly readManifest: ReadManifest;
  readonly readRelative: (path: string) => Promise<Buffer | undefined>;
  readonly walkRelative?: Tree['walk'];
  readonly rootDir?: string;
  readonly overrides?: ReadonlyMap<string, FlakeRef>;
  /**
   * Has trees that are here already, and throws at all others: some answers stand only in the manifest of a pinned input. By
   * default there is none.
   */
  readonly cached?: Pick<Source, 'fetch'>;
  /** Told of `overrides` that match no input where the lock is current; elsewhere locking tells. */
  readonly reporter?: Reporter;
}

type StaleKind =
  | 'added'
  | 'removed'
  /** Declared with another reference than the one that was locked. */
  | 'reference'
  /** The locked tag is not in the range, or the range was not there before. */
  | 'version'
  | 'follows'
  /** `flake:` changed. */
  | 'flake'
  /** Locked as it should be, but in one node with another input. */
  | 'node'
  /** Only its own manifest can tell, and its bytes are not here for certain. */
  | 'unread';

/** Why locking now would give another graph. */
export interface StaleReason {
  readonly input: InputPath;
  readonly kind: StaleKind;
  readonly message: string;
  /** Where the root's manifest declares the input, or the one that it hangs on; undefined when it is not there any more. */
  readonly place?: Diagnostic;
  /** The command that mends it. */
  readonly command: string;
}

/** In the order of input paths; empty when the lock is current. Throws what locking would throw without any network. */
export async function checkLock(options: CheckOptions): Promise<readonly StaleReason[]> {
  const { manifest, previous = emptyLock, overrides = new Map(), reporter = silent } = options;
  const unknown: Unknown[] = [];
  const rules = rulesOf(manifest);
  const resolution = rules.resolve({
    manifest,
    previous,
    readManifest: options.readManifest,
    readRelative: options.readRelative,
    walkRelative: options.walkRelative,
    rootDir: options.rootDir ?? '',
    updates: [],
    deep: false,
    overrides,
    source: undefined,
    cached: options.cached,
    onUnknown: (one) => unknown.push(one),
  });
  const root = await resolution.run();
  const comparison = new Comparison(manifest, previous, unknown, rules.splitsNodes);
  comparison.compare(root, previous.root, []);
  const reasons = comparison.reasons.sort((a, b) => comparePaths(a.input, b.input));
  if (reasons.length > 0) return reasons;
  try {
    rules.checkFollows(new LockGraph(previous));
  } catch (error) {
    throw atRootInput(error, manifest);
  }
  for (const input of resolution.unusedOverrides().map(printInputPath))
    if (overrides.has(input)) reporter.emit({ kind: 'notice', notice: { type: 'unused-override', input } });
  for (const input of (await resolution.outdated()).map(printInputPath))
    reporter.emit({ kind: 'notice', notice: { type: 'outdated-relative', input } });
  return reasons;
}

type Verdict = readonly [kind: StaleKind, text: string];

const wasFollowing = (path: InputPath): Verdict => [
  'added',
  `has no pin of its own: it is locked to follow ‘${printInputPath(path)}’`,
];

class Comparison {
  readonly reasons: StaleReason[] = [];
  readonly #manifest: FlakeManifest;
  readonly #previous: LockFile;
  readonly #unknown: ReadonlyMap<string, Unknown>;
  readonly #splitsNodes: boolean;
  /** Node → the first input that led to it. */
  readonly #seen = new Map<string, InputPath>();

  constructor(
    manifest: FlakeManifest,
    previous: LockFile,
    unknown: readonly Unknown[],
    splitsNodes: boolean,
  ) {
    this.#manifest = manifest;
    this.#splitsNodes = splitsNodes;
    this.#previous = previous;
    this.#unknown = new Map(unknown.map((one) => [printInputPath(one.path), one]));
  }

  compare(draft: Draft, oldKey: string, path: InputPath): void {
    const old = this.#previous.nodes.get(oldKey)?.inputs ?? new Map<string, LockEdge>();
    const names = new Set([...draft.inputs.keys(), ...old.keys()]);
    for (const name of [...names].sort(compareBytes)) {
      const inner = [...path, name];
      const now = draft.inputs.get(name);
      const edge = old.get(name);
      const unknown = this.#unknown.get(printInputPath(inner));
      if (unknown?.kind === 'flake')
        this.#add(inner, [
          'unread',
          'has to be read again: an override was added or removed, and only its own manifest tells what follows',
        ]);
      const verdict = unknown?.kind === 'input' ? this.#ofUnknown(unknown, edge) : this.#ofEdges(now, edge);
      if (verdict) this.#add(inner, verdict);
      if (unknown?.kind !== 'input' && now?.kind === 'node' && edge?.kind === 'node') {
        this.#checkShared(edge.key, inner);
        this.compare(now.node, edge.key, inner);
      }
    }
  }

  #checkShared(key: string, path: InputPath): void {
    const first = this.#seen.get(key);
    if (first === undefined) this.#seen.set(key, path);
    else if (this.#splitsNodes)
      this.#add(path, [
        'node',
        `shares a node of the lock with ‘${printInputPath(first)}’, and is to get its own`,
      ]);
  }

  #ofEdges(now: DraftEdge | undefined, old: LockEdge | undefined): Verdict | undefined {
    if (!now) return ['removed', 'is locked, but not declared any more'];
    if (!old) return ['added', 'is declared, but not locked'];
    if (now.kind === 'node')
      return old.kind === 'node' ? this.#ofNodes(now.node, old.key) : wasFollowing(old.path);
    const target = printInputPath(now.path);
    if (old.kind === 'node') return ['follows', `follows ‘${target}’ now, and has a pin of its own`];
    const before = printInputPath(old.path);
    return before === target
      ? undefined
      : ['follows', `follows ‘${target}’ now, and is locked to follow ‘${before}’`];
  }

  #ofNodes(now: Draft, oldKey: string): Verdict | undefined {
    const old = this.#previous.nodes.get(oldKey);
    if (!old) return undefined;
    if (now.flake !== old.flake)
      return [
        'flake',
        now.flake ? 'is a flake now, and locked as files only' : 'is files only now, and locked as a flake',
      ];
    const { version, tag } = now.flk ?? {};
    if (version === old.flk?.version && tag === old.flk?.tag) return undefined;
    return [
      'version',
      old.flk?.version === undefined
        ? `asks for version ${version}, which the lock does not say; its tag ${tag} fits`
        : `asks for version ${version}, and is locked for ${old.flk.version}; its tag ${tag} still fits`,
    ];
  }

  #ofUnknown({ ref, version, forced }: Unknown, old: LockEdge | undefined): Verdict {
    if (!old) return ['added', 'is declared, but not locked'];
    if (old.kind === 'follows') return wasFollowing(old.path);
    if (forced) return ['unread', `is overridden by hand: what ${printFlakeRef(ref)} is now has to be asked`];
    const { original, flk } = this.#previous.nodes.get(old.key) ?? {};
    if (original && !sameRef(original, ref))
      return ['reference', `is ${printFlakeRef(ref)} now, and was locked as ${printFlakeRef(original)}`];
    if (version === undefined)
      return flk?.version === undefined
        ? ['reference', 'is overridden, or relative to another folder now']
        : ['version', `asks for no version any more, and was locked for ${flk.version}`];
    return [
      'version',
      flk?.tag === undefined
        ? `asks for version ${version}, and is locked to no tag`
        : `asks for version ${version}, which the locked tag ${flk.tag} does not satisfy`,
    ];
  }

  #add(input: InputPath, [kind, text]: Verdict): void {
    const message = `input ‘${printInputPath(input)}’ ${text}`;
    const range = this.#declaration(input);
    this.reasons.push({
      input,
      kind,
      message,
      ...(range && { place: { file: this.#manifest.file, range, message } }),
      command: 'flk lock',
    });
  }

  /** The innermost declaration on the way: an override, or the input that brings it. */
  #declaration(path: InputPath): Diagnostic['range'] | undefined {
    let inputs = this.#manifest.inputs;
    let range: Diagnostic['range'] | undefined;
    for (const name of path) {
      const declaration = inputs.get(name);
      if (!declaration) break;
      range = declaration.range;
      inputs = declaration.inputs;
    }
    return range;
  }
}
