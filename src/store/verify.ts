/** Whether a store is what its records say, and putting right what is not. */
import { throwIfAborted } from '../base/concurrency.ts';
import { asFlkError, FlkError } from '../base/errors.ts';
import type { NarHash } from '../formats/hash.ts';
import type { StorePath } from '../formats/store-path.ts';
import type { PathInfo } from './path-info.ts';
import type { Store } from './store.ts';
import type { SubstitutedStore, Substituter } from './substituter.ts';

export type PathFault =
  /** A record, and nothing on disk. */
  | { readonly kind: 'missing'; readonly path: StorePath }
  /** Other bytes than those of the record. */
  | { readonly kind: 'corrupt'; readonly path: StorePath; readonly found: string; readonly wanted: NarHash }
  /** A file that cannot be read, or is something that no store holds. */
  | { readonly kind: 'unreadable'; readonly path: StorePath; readonly reason: string }
  /** It refers to what is not valid. */
  | { readonly kind: 'incomplete'; readonly path: StorePath; readonly reference: StorePath }
  /** Neither made here nor signed by a trusted key, and its content does not prove its name. */
  | { readonly kind: 'untrusted'; readonly path: StorePath };

export interface VerifyOptions {
  /** Read every file. */
  readonly contents: boolean;
  /** Who may be believed; undefined: nobody asks. */
  readonly isTrusted?: (info: PathInfo) => boolean;
  readonly signal?: AbortSignal;
  /** Told how many bytes the NARs have that have been looked at. */
  readonly progress?: (bytes: number) => void;
}

/** What is wrong with each of these paths, in their order. Throws FLK_INTERRUPTED. */
export async function* verifyPaths(
  store: Store,
  paths: readonly StorePath[],
  options: VerifyOptions,
): AsyncGenerator<PathFault> {
  let passed = 0;
  const read = options.contents ? store.verify(paths, options.signal) : paths.map((path) => ({ path }));
  for await (const verified of read) {
    const { path } = verified;
    throwIfAborted(options.signal);
    const info = store.query(path);
    if (!info) {
      yield { kind: 'missing', path };
      continue;
    }
    // Whoever removes a path removes what refers to it first.
    for (const reference of info.references)
      if (!store.query(reference) && store.query(path)) yield { kind: 'incomplete', path, reference };
    if ('fault' in verified && verified.fault) yield faultOf(info, verified.fault);
    if (options.isTrusted && !options.isTrusted(info)) yield { kind: 'untrusted', path };
    passed += info.narSize;
    options.progress?.(passed);
  }
}

function faultOf({ path, narHash }: PathInfo, error: FlkError): PathFault {
  const { code, message, facts } = error;
  if (code === 'FLK_INTERRUPTED' || code === 'FLK_INTERNAL') throw error;
  return code === 'FLK_STORE_CORRUPT' && facts.found !== undefined
    ? { kind: 'corrupt', path, found: facts.found, wanted: narHash }
    : { kind: 'unreadable', path, reason: message };
}

export interface Repair {
  readonly path: StorePath;
  /** Why it is as it was; undefined: it is whole again. */
  readonly failure?: FlkError;
}

/**
 * Makes broken paths anew from caches, in place: each is there as it was until the new one is whole. `open` gives a substituter for a
 * store in which these paths are not valid. Throws FLK_INTERRUPTED.
 */
export async function* repairPaths(
  store: Store,
  broken: readonly StorePath[],
  open: (store: SubstitutedStore) => Promise<Substituter | undefined>,
  signal?: AbortSignal,
): AsyncGenerator<Repair> {
  const left = new Set(broken);
  const substituter = await open(repairView(store, left));
  for (const path of broken) {
    throwIfAborted(signal);
    try {
      const isDone = (await substituter?.substitute(path)) === true;
      yield isDone ? { path } : { path, failure: nowhere(store, path) };
    } catch (error) {
      const failure = asFlkError(error);
      if (failure.code === 'FLK_INTERRUPTED' || failure.code === 'FLK_INTERNAL') throw error;
      yield { path, failure };
    }
  }
}

/** The store as if the broken paths were not there; what is registered takes their places. */
function repairView(store: Store, broken: Set<StorePath>): SubstitutedStore {
  return {
    valid: (paths) => store.valid([...paths].filter((path) => !broken.has(path))),
    hold: (paths) => store.hold(paths),
    stage: () => store.stage(),
    lockPaths: (paths, signal) => store.lockPaths(paths, signal),
    register: async (entries) => {
      const renewed = entries.map(({ info, staged }) => ({
        info: keepRecord(store.query(info.path), info),
        staged,
      }));
      await store.register(
        renewed.filter(({ info }) => broken.has(info.path)),
        { replace: true },
      );
      await store.register(renewed.filter(({ info }) => !broken.has(info.path)));
      for (const { info } of entries) broken.delete(info.path);
    },
  };
}

/** Of the same bytes, more is known here than the cache knows. */
function keepRecord(known: PathInfo | undefined, offered: PathInfo): PathInfo {
  if (known?.narHash !== offered.narHash) return offered;
  return { ...known, signatures: [...new Set([...known.signatures, ...offered.signatures])] };
}

function nowhere(store: Store, path: StorePath): FlkError {
  const info = store.query(path);
  return new FlkError('FLK_STORE_CORRUPT', `no cache that is trusted has ${path}`, {
    hint:
      info?.ca === undefined || info.deriver !== undefined
        ? 'flk build --rebuild, of the package that it comes from, makes it anew'
        : 'it is a source: remove it with flk store delete, and what needs it fetches or adds it again',
  });
}
