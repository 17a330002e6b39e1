/** What changed between two locks, as data and in the words of Nix's list. */
import { type FlakeRef, printFlakeRef, refKey } from './flake-ref.ts';
import { comparePaths, LockGraph, printInputPath } from './graph.ts';
import type { LockEdge, LockFile } from './lock-file.ts';
import type { InputPath } from './package-ref.ts';

/** What an input leads to in one of the locks. */
type Pinned =
  | { readonly kind: 'node'; readonly locked: FlakeRef; readonly tag?: string; readonly fresh?: true }
  | { readonly kind: 'follows'; readonly path: InputPath };

export type LockChange =
  | { readonly kind: 'added'; readonly input: InputPath; readonly now: Pinned }
  | { readonly kind: 'removed'; readonly input: InputPath; readonly was: Pinned }
  | { readonly kind: 'updated'; readonly input: InputPath; readonly was: Pinned; readonly now: Pinned };

/** In the order of input paths. What an input is declared as is not looked at, only where it leads. */
export function lockChanges(was: LockFile, now: LockFile): readonly LockChange[] {
  const before = pinnedInputs(was);
  const after = pinnedInputs(now);
  const changes: LockChange[] = [];
  for (const [key, { input, pinned }] of after) {
    const old = before.get(key)?.pinned;
    if (!old) changes.push({ kind: 'added', input, now: pinned });
    else if (keyOf(old) !== keyOf(pinned) || isFresh(pinned))
      changes.push({ kind: 'updated', input, was: old, now: pinned });
  }
  for (const [key, { input, pinned }] of before)
    if (!after.has(key)) changes.push({ kind: 'removed', input, was: pinned });
  return changes.sort((a, b) => comparePaths(a.input, b.input));
}

/** What an input leads to, as `--json` writes it: a reference, with its tag where a version chose one; or the input it follows. */
type PinnedJson =
  | { readonly url: string; readonly locked: FlakeRef; readonly tag?: string }
  | { readonly follows: InputPath };

/** One change as `--json` writes it; `was` and `now` are null where the input is not. */
export interface ChangeJson {
  readonly change: LockChange['kind'];
  readonly input: InputPath;
  readonly was: PinnedJson | null;
  readonly now: PinnedJson | null;
}

export function changesJson(changes: readonly LockChange[]): readonly ChangeJson[] {
  return changes.map((change) => ({
    change: change.kind,
    input: change.input,
    was: change.kind === 'added' ? null : pinnedJson(change.was),
    now: change.kind === 'removed' ? null : pinnedJson(change.now),
  }));
}

function pinnedJson(pinned: Pinned): PinnedJson {
  if (pinned.kind === 'follows') return { follows: pinned.path };
  const { locked, tag } = pinned;
  return { url: printFlakeRef(locked), locked, ...(tag === undefined ? {} : { tag }) };
}

function pinnedInputs(lock: LockFile): Map<string, { input: InputPath; pinned: Pinned }> {
  const graph = new LockGraph(lock);
  const inputs = new Map<string, { input: InputPath; pinned: Pinned }>();
  for (const { path, edge } of graph.inputs()) {
    const pinned = pinnedBy(graph, edge);
    if (pinned) inputs.set(printInputPath(path), { input: path, pinned });
  }
  return inputs;
}

function pinnedBy(graph: LockGraph, edge: LockEdge): Pinned | undefined {
  if (edge.kind === 'follows') return edge;
  const { locked, flk, fresh } = graph.node(edge.key);
  if (!locked) return undefined;
  return {
    kind: 'node',
    locked,
    ...(flk?.tag === undefined ? {} : { tag: flk.tag }),
    ...(fresh && { fresh }),
  };
}

const isFresh = (pinned: Pinned): boolean => pinned.kind === 'node' && pinned.fresh === true;

function keyOf(pinned: Pinned): string {
  return pinned.kind === 'follows'
    ? `follows ${printInputPath(pinned.path)}`
    : `${refKey(pinned.locked)} ${pinned.tag ?? ''}`;
}

/**
 * Nix's list, without colours, and, unless `details` is false, a line more where tags or counts of commits are known. Ends in a
 * newline unless empty.
 */
export function printChanges(
  changes: readonly LockChange[],
  { details = true }: { readonly details?: boolean } = {},
): string {
  return changes
    .flatMap((change) => linesOf(change, details))
    .map((line) => `${line}\n`)
    .join('');
}

function linesOf(change: LockChange, details: boolean): string[] {
  const input = `input '${printInputPath(change.input)}'`;
  const detail = details ? detailOf : () => [];
  switch (change.kind) {
    case 'added':
      return [`• Added ${input}:`, `    ${describe(change.now)}`, ...detail(undefined, change.now)];
    case 'removed':
      return [`• Removed ${input}`];
    case 'updated':
      return [
        `• Updated ${input}:`,
        `    ${describe(change.was)}`,
        `  → ${describe(change.now)}`,
        ...detail(change.was, change.now),
      ];
  }
}

function describe(pinned: Pinned): string {
  if (pinned.kind === 'follows') return `follows '${printInputPath(pinned.path)}'`;
  const { lastModified } = pinned.locked;
  return `'${printFlakeRef(pinned.locked)}'${lastModified === undefined ? '' : ` (${dateOf(lastModified)})`}`;
}

/** `2026-11-22`, in UTC; a date beyond what a calendar holds is given in seconds. */
function dateOf(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? `${seconds} s` : date.toISOString().replace(/T.*/, '');
}

function detailOf(was: Pinned | undefined, now: Pinned): string[] {
  const parts = [tags(was, now), commits(was, now)].filter((part) => part !== '');
  return parts.length === 0 ? [] : [`    ${parts.join(', ')}`];
}

function tags(was: Pinned | undefined, now: Pinned): string {
  const before = was?.kind === 'node' ? was.tag : undefined;
  const after = now.kind === 'node' ? now.tag : undefined;
  if (after === undefined) return before === undefined ? '' : `tag ${before} → none`;
  return before === undefined || before === after ? `tag ${after}` : `tag ${before} → ${after}`;
}

/** Of one repository; counts of two say nothing about each other. */
function commits(was: Pinned | undefined, now: Pinned): string {
  if (was?.kind !== 'node' || now.kind !== 'node') return '';
  const [old, young] = [was.locked, now.locked];
  if (old.type !== 'git' || young.type !== 'git' || old.url !== young.url) return '';
  if (old.revCount === undefined || young.revCount === undefined || old.revCount === young.revCount)
    return '';
  const count = young.revCount - old.revCount;
  return `${count > 0 ? '+' : '−'}${Math.abs(count)} ${Math.abs(count) === 1 ? 'commit' : 'commits'}`;
}
