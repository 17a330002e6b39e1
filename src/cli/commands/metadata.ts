/** `flk metadata`: where a flake comes from, and the tree of its inputs, as `nix flake metadata` has both. */
import { createHash } from 'node:crypto';
import {
  type FlakeRef,
  isLocked,
  isRelativePath,
  printFlakeRef,
  type RefAttributes,
  refToAttributes,
} from '../../flake/flake-ref.ts';
import { LockGraph, type TreeEntry } from '../../flake/graph.ts';
import { type LockFile, printLockFile, renumbered } from '../../flake/lock-file.ts';
import { makeSourcePath } from '../../formats/store-path.ts';
import type { Palette } from '../../report/text.ts';
import { cleanText } from '../../report/text.ts';
import type { Context } from '../context.ts';
import type { Flake, FlakeTree } from '../flake.ts';
import { openLocked } from '../locking.ts';

/** Nix's names and shapes; `revision` of a clean flake, `dirtyRevision` of one with changes. */
export interface Metadata {
  readonly description?: string;
  readonly dirtyRevision?: string;
  /** Equal where source, folder and lock are equal, and missing where that cannot be said. */
  readonly fingerprint?: string;
  /** Seconds since 1970. */
  readonly lastModified: number;
  readonly locked: RefAttributes;
  /** The lock file's own JSON. */
  readonly locks: unknown;
  readonly original: RefAttributes;
  readonly originalUrl: string;
  /** Where the source would lie in a store, whether or not it does. */
  readonly path: string;
  readonly resolved: RefAttributes;
  readonly resolvedUrl: string;
  readonly revCount?: number;
  readonly revision?: string;
  readonly url: string;
}

export async function runMetadata(context: Context): Promise<number> {
  const { flake, manifest, lock } = await openLocked(context, context.args[0] ?? '.');
  const metadata = await describe(flake, await flake.tree(), lock, manifest.description);
  context.answer(metadata, () => metadataText(metadata, lock, context.paint));
  return 0;
}

async function describe(
  flake: Pick<Flake, 'ref' | 'resolved'>,
  whole: FlakeTree,
  lock: LockFile,
  description: string | undefined,
): Promise<Metadata> {
  const { locked, dirty, rev } = whole;
  const dirtyRevision = dirty && rev !== undefined ? `${rev}-dirty` : undefined;
  const attributes = refToAttributes(flake.ref);
  const url = printFlakeRef(flake.ref);
  const resolved = flake.resolved ?? flake.ref;
  const fingerprint = fingerprintOf(locked, lock, await whole.changes?.());
  return {
    ...(description === undefined ? {} : { description }),
    ...(dirtyRevision === undefined ? {} : { dirtyRevision }),
    ...(fingerprint === undefined ? {} : { fingerprint }),
    lastModified: whole.lastModified,
    locked: {
      // Nix's way to say that nothing is to be added to these attributes any more.
      __final: true,
      ...refToAttributes(locked),
      ...(dirtyRevision === undefined
        ? {}
        : { dirtyRev: dirtyRevision, dirtyShortRev: `${dirtyRevision.slice(0, 7)}-dirty` }),
    },
    locks: JSON.parse(printLockFile(renumbered(lock))) as unknown,
    original: attributes,
    originalUrl: url,
    path: makeSourcePath('source', whole.tree.narHash),
    resolved: refToAttributes(resolved),
    resolvedUrl: printFlakeRef(resolved),
    ...(locked.revCount === undefined ? {} : { revCount: locked.revCount }),
    ...(dirty || rev === undefined ? {} : { revision: rev }),
    url: dirty ? printFlakeRef(resolved) : printFlakeRef(locked),
  };
}

/** As Nix 2.34 makes it, which names its cache of evaluations so. `changes` stands for the revision of a changed tree. */
function fingerprintOf(locked: FlakeRef, lock: LockFile, changes: string | undefined): string | undefined {
  const source = changes ?? sourceIdentity(locked);
  const pinned = [...lock.nodes.values()].every(
    (node) => !node.locked || isLocked(node.locked) || isRelativePath(node.locked),
  );
  if (source === undefined || !pinned) return undefined;
  const { dir = '', revCount, lastModified } = locked;
  const parts = [source, dir, printLockFile(renumbered(lock)).trimEnd()];
  if (revCount !== undefined) parts.push(`revCount=${revCount}`);
  if (lastModified !== undefined) parts.push(`lastModified=${lastModified}`);
  return createHash('sha256').update(parts.join(';')).digest('hex');
}

function sourceIdentity(ref: FlakeRef): string | undefined {
  switch (ref.type) {
    case 'git':
      return (
        ref.rev &&
        `${ref.rev}${ref.submodules ? ';s' : ''}${ref.exportIgnore ? ';e' : ''}${ref.lfs ? ';l' : ''}`
      );
    case 'github':
    case 'gitlab':
    case 'sourcehut':
      return ref.rev;
    case 'path':
      return ref.narHash && `path:${ref.narHash}`;
    case 'tarball':
    case 'file':
      return ref.narHash ?? ref.rev;
    case 'indirect':
      return undefined;
  }
}

/** For people, in Nix's words. */
export function metadataText(metadata: Metadata, lock: LockFile, paint: Palette): string {
  const lines: string[] = [];
  const put = (name: string, value: string | number | undefined): void => {
    if (value !== undefined)
      lines.push(`${paint.strong(`${name}:`)}${' '.repeat(14 - name.length)}${cleanText(String(value))}`);
  };
  put('Resolved URL', metadata.resolvedUrl);
  if (metadata.url !== metadata.resolvedUrl) put('Locked URL', metadata.url);
  put('Description', metadata.description);
  put('Path', metadata.path);
  put('Revision', metadata.revision ?? metadata.dirtyRevision);
  put('Revisions', metadata.revCount);
  put('Last modified', localTime(metadata.lastModified));
  put('Fingerprint', metadata.fingerprint);
  const tree = new LockGraph(lock).tree();
  if (tree.length > 0) lines.push(paint.strong('Inputs:'), ...treeLines(tree, '', paint));
  return lines.join('\n');
}

function treeLines(entries: readonly TreeEntry[], prefix: string, paint: Palette): string[] {
  return entries.flatMap((entry, index) => {
    const last = index === entries.length - 1;
    const name = paint.strong(entry.path.at(-1)!);
    const branch = `${prefix}${last ? '└───' : '├───'}${name}`;
    if (entry.edge.kind === 'follows') return [`${branch} follows input '${entry.edge.path.join('/')}'`];
    const locked = entry.node?.locked;
    const tag = entry.node?.flk?.tag;
    const date = locked?.lastModified === undefined ? '' : ` (${utcTime(locked.lastModified)})`;
    return [
      `${branch}: ${locked === undefined ? '' : cleanText(printFlakeRef(locked))}${date}${tag === undefined ? '' : ` tag ${cleanText(tag)}`}`,
      ...treeLines(entry.children, `${prefix}${last ? '    ' : '│   '}`, paint),
    ];
  });
}

const two = (value: number): string => String(value).padStart(2, '0');

function utcTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString().slice(0, 19).replace('T', ' ');
}

/** As Nix does, in this machine's time zone. */
function localTime(seconds: number): string {
  const at = new Date(seconds * 1000);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}
