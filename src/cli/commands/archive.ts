/** `flk archive`: a flake and the sources of all its inputs, copied to where a build finds them without the network. */
import { limiter } from '../../base/concurrency.ts';
import { FlkError } from '../../base/errors.ts';
import { isRelativePath, refKey } from '../../flake/flake-ref.ts';
import { LockGraph, printInputPath } from '../../flake/graph.ts';
import type { LockFile } from '../../flake/lock-file.ts';
import type { SourceTree } from '../../flake/source.ts';
import { toNarInfoHash } from '../../formats/narinfo.ts';
import { makeSourcePath, type StorePath } from '../../formats/store-path.ts';
import type { PathInfo } from '../../store/path-info.ts';
import type { Context } from '../context.ts';
import { keepInputs } from '../live-roots.ts';
import { openLocked } from '../locking.ts';

/** As `nix flake archive --json` prints it. A relative input is part of another's source, so it has no path. */
interface Archived {
  readonly path?: StorePath;
  readonly inputs: Readonly<Record<string, Archived>>;
}

/** Sources fetched and copied at once. */
const parallel = 8;

export async function runArchive(context: Context): Promise<number> {
  const { flake, lock } = await openLocked(context, context.args[0] ?? '.');
  const { tree } = await flake.tree();
  const dryRun = context.flags['dry-run'] === true;
  const sources = await sourcesOf(context, lock, dryRun);
  if (!dryRun) {
    await copy(
      context,
      new Map([tree, ...sources.values()].map((one) => [makeSourcePath('source', one.narHash), one])),
    );
    await keepInputs(context, { lockPath: flake.lockPath, lock });
  }
  const paths = new Set([makeSourcePath('source', tree.narHash)]);
  const graph = new LockGraph(lock);
  const inputsOf = (key: string): Record<string, Archived> => {
    const inputs: Record<string, Archived> = {};
    for (const [name, edge] of [...graph.node(key).inputs].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (edge.kind === 'follows') continue;
      const { locked } = graph.node(edge.key);
      const narHash =
        sources.get(edge.key)?.narHash ?? (locked && isRelativePath(locked) ? undefined : locked?.narHash);
      const path = narHash && makeSourcePath('source', narHash);
      if (path) paths.add(path);
      inputs[name] = { inputs: inputsOf(edge.key), ...(path && { path }) };
    }
    return inputs;
  };
  const archived: Archived = {
    inputs: inputsOf(lock.root),
    path: makeSourcePath('source', tree.narHash),
  };
  context.answer(archived, () => [...paths].sort().join('\n'));
  return 0;
}

/** By the keys of their nodes; equal ones are fetched once. A dry run needs only those whose hash the lock does not tell. */
async function sourcesOf(
  context: Context,
  lock: LockFile,
  dryRun: boolean,
): Promise<ReadonlyMap<string, SourceTree>> {
  const source = await context.sources();
  const limit = limiter(parallel);
  const fetched = new Map<string, Promise<SourceTree>>();
  const entries = [...lock.nodes].map(async ([key, { locked }]) => {
    if (locked === undefined || isRelativePath(locked) || (dryRun && locked.narHash)) return [];
    const known =
      fetched.get(refKey(locked)) ??
      limit(async () => (await source.fetch(locked)).tree).catch((error: unknown) => {
        throw ofInput(error, lock, key);
      });
    fetched.set(refKey(locked), known);
    return [[key, await known]] as const;
  });
  return new Map((await Promise.all(entries)).flat());
}

/** The error with the first of the inputs that are this node, which is the one to update. */
function ofInput(thrown: unknown, lock: LockFile, node: string): unknown {
  const path = new LockGraph(lock)
    .inputs()
    .find(({ edge }) => edge.kind === 'node' && edge.key === node)?.path;
  if (!(thrown instanceof FlkError) || path === undefined) return thrown;
  const { code, message, facts, trail, diagnostics, hint } = thrown;
  const input = printInputPath(path);
  return new FlkError(code, message, {
    facts,
    diagnostics,
    trail: [input, ...trail],
    hint: hint.replace(/\bINPUT\b/, input),
    cause: thrown,
  });
}

async function copy(context: Context, trees: ReadonlyMap<StorePath, SourceTree>): Promise<void> {
  const { to } = context.flags;
  if (to === undefined) {
    const store = await context.store();
    for (const tree of trees.values()) await store.addTree('source', tree, { expected: tree.narHash });
    return;
  }
  const [{ openCache }, { pushPaths }] = await Promise.all([
    import('../caches.ts'),
    import('../../store/caches/push.ts'),
  ]);
  const { cache, packing } = await openCache(context, to);
  const { reporter, signal } = context;
  const pushed = [...trees].map(([path, tree]) => ({ info: infoOf(path, tree), tree }));
  await pushPaths(cache, pushed, { packing, reporter, signal });
}

/** A source is told by its content, so it needs no signature. */
function infoOf(path: StorePath, { narHash, narSize }: SourceTree): PathInfo {
  return {
    path,
    narHash,
    narSize,
    references: [],
    registrationTime: 0,
    ultimate: false,
    signatures: [],
    ca: `fixed:r:${toNarInfoHash(narHash)}`,
  };
}
