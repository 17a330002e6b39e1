/** `flk prefetch REF`: what a reference means now, fetched into the store. */
import { resolve } from 'node:path';
import { type FlakeRef, printFlakeRef, type RefAttributes, refToAttributes } from '../../flake/flake-ref.ts';
import { resultLink } from '../../store/roots.ts';
import type { Context } from '../context.ts';
import { refFromArgument } from '../flake.ts';

/** As `nix flake prefetch --json` prints it. */
interface Prefetched {
  readonly hash: string;
  readonly locked: RefAttributes;
  readonly original: RefAttributes;
  readonly storePath: string;
}

export async function runPrefetch(context: Context): Promise<number> {
  const original = refFromArgument(context, context.args[0] ?? '.');
  const fetched = await (await context.sources()).fetch(original, 'all');
  const { resolved = original, tree } = fetched;
  const locked = asNixTellsIt(fetched.locked, original);
  const store = await context.store();
  const { path } = await store.addTree('source', tree, { expected: tree.narHash });
  const link = context.flags['out-link'];
  if (link !== undefined) await resultLink(store, resolve(context.cwd, link), store.physical(path));
  const prefetched: Prefetched = {
    hash: tree.narHash,
    locked: refToAttributes(locked),
    // Nix's name for what the registries made of it.
    original: refToAttributes(resolved),
    storePath: path,
  };
  context.answer(
    prefetched,
    () => `Downloaded '${printFlakeRef(locked)}' to '${path}' (hash '${tree.narHash}').`,
  );
  return 0;
}

/** Nix knows an archive by its hash from the start; that of any other tree it tells beside the reference only. */
function asNixTellsIt(locked: FlakeRef, original: FlakeRef): FlakeRef {
  if (locked.type === 'tarball' || locked.type === 'file' || original.narHash !== undefined) return locked;
  const { narHash, ...rest } = locked;
  return rest;
}
