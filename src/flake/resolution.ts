/**
 * From a manifest, and the lock that was made of it before, to the graph it should have. There are two sets of rules, by the kind
 * of the root's manifest: Nix's to the letter for a `flake.nix` (`nix-resolution.ts`), ours for a `flake.yaml`
 * (`yaml-resolution.ts`). Here is what both ask and answer.
 */
import { compareBytes } from '../base/canonical.ts';
import { type Diagnostic, placeOf } from '../base/diagnostics.ts';
import { asFlkError, FlkError } from '../base/errors.ts';
import type { Tree } from '../formats/nar.ts';
import type { ReadManifest } from './flake-folder.ts';
import type { FlakeRef } from './flake-ref.ts';
import { printInputPath } from './graph.ts';
import { type FlkFacts, type LockFile, lockLimits } from './lock-file.ts';
import type { FlakeManifest } from './manifest-model.ts';
import type { InputPath } from './package-ref.ts';
import type { Source } from './source.ts';

/** A node of the new lock, before nodes have keys. */
export interface Draft {
  readonly original?: FlakeRef;
  readonly locked?: FlakeRef;
  readonly flake: boolean;
  readonly parent?: InputPath;
  readonly flk?: FlkFacts;
  readonly fresh?: true;
  readonly inputs: Map<string, DraftEdge>;
}

export type DraftEdge =
  | { readonly kind: 'node'; readonly node: Draft }
  | { readonly kind: 'follows'; readonly path: InputPath };

/** What would have to be fetched: an input that is new or declared anew, or a kept flake that has to be read again. */
export interface Unknown {
  readonly path: InputPath;
  readonly kind: 'input' | 'flake';
  /** As it is declared now. */
  readonly ref: FlakeRef;
  readonly version?: string;
  /** Overridden by hand, which is looked up each time: it may be what is locked already. */
  readonly forced?: boolean;
}

export interface ResolutionOptions {
  readonly manifest: FlakeManifest;
  /** Undefined: nothing is kept. */
  readonly previous: LockFile | undefined;
  readonly readManifest: ReadManifest;
  /** Reads a file of the tree that holds the root flake, by its path from the tree's root. */
  readonly readRelative: (path: string) => Promise<Buffer | undefined>;
  /** Walks that tree, to find manifests that are symlinks. */
  readonly walkRelative: Tree['walk'] | undefined;
  /** The root flake's folder in that tree. */
  readonly rootDir: string;
  /** Inputs to move, by path. */
  readonly updates: readonly InputPath[];
  /** What stands below a moved input moves too, as far as its flake's own lock lets it. By Nix's rules it always does. */
  readonly deep: boolean;
  /** From the command line, by path; stronger than any manifest's. */
  readonly overrides: ReadonlyMap<string, FlakeRef>;
  /** Undefined: what is new or was moved is not fetched, and `onUnknown` told instead. */
  readonly source: Source | undefined;
  /** Without `source`: has what is here already. What it does not have, it throws at. */
  readonly cached?: Pick<Source, 'fetch'> | undefined;
  readonly onUnknown?: (unknown: Unknown) => void;
}

/** One run of a set of rules. */
export interface Resolution {
  /** Throws what reading and fetching throw, with the trail of inputs; FLK_INPUT_CYCLE and FLK_GRAPH_LIMIT. */
  run(): Promise<Draft>;
  /** Which inputs came up, by their paths, and as what. After `run`. */
  readonly visited: ReadonlyMap<string, DraftEdge['kind']>;
  /** Overrides for inputs that there are not. After `run`. */
  unusedOverrides(): readonly InputPath[];
  /** Relative inputs of the root's tree whose manifest does not say any more what stays locked. After `run`. */
  outdated(): Promise<readonly InputPath[]>;
}

/** Counts inputs, so that a hostile graph ends somewhere. */
export class Visits {
  readonly all = new Map<string, DraftEdge['kind']>();

  add(path: InputPath, kind: DraftEdge['kind']): void {
    this.all.set(printInputPath(path), kind);
    if (path.length > lockLimits.depth)
      throw new FlkError('FLK_GRAPH_LIMIT', `inputs are nested deeper than ${lockLimits.depth}`);
    if (this.all.size > lockLimits.nodes)
      throw new FlkError('FLK_GRAPH_LIMIT', `there are more than ${lockLimits.nodes} inputs`);
  }
}

/**
 * Locks inputs side by side and puts their edges into the draft in the order of names. Every answer is waited for, so that of
 * several faults the same one is told each time.
 */
export async function lockSideBySide(
  inputs: Iterable<string>,
  lockInput: (name: string) => Promise<DraftEdge>,
  { draft, path, root }: { readonly draft: Draft; readonly path: InputPath; readonly root: FlakeManifest },
): Promise<void> {
  const names = [...inputs].sort(compareBytes);
  const edges = await Promise.allSettled(names.map(lockInput));
  for (const [index, edge] of edges.entries()) {
    const name = names[index]!;
    if (edge.status === 'rejected') throw within(edge.reason, [...path, name], root);
    draft.inputs.set(name, edge.value);
  }
}

/** A fault of `follows` in a lock that was just made, with the place in the manifest where it begins. */
export function atRootInput(thrown: unknown, root: FlakeManifest): FlkError {
  const error = asFlkError(thrown);
  const range = root.inputs.get(error.trail[0]?.split('/')[0] ?? '')?.range;
  return range ? error.within(placeOf({ file: root.file, range })) : error;
}

/** With the input's place in the trail; of the root's own inputs the place in its manifest. */
function within(thrown: unknown, path: InputPath, root: FlakeManifest): FlkError {
  const error = asFlkError(thrown).within(printInputPath(path));
  if (path.length > 1) return error;
  const range: Diagnostic['range'] | undefined = root.inputs.get(path[0]!)?.range;
  return range ? error.within(placeOf({ file: root.file, range })) : error;
}
