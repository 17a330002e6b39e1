/** Paths out of a store and into another, as one stream: what `nix-store --export` and `--import` do. */

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { compareBytes } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { fileHasher, provenAddress } from '../formats/content-address.ts';
import { type ExportedPath, exportEnd, exportEntry, exportRecord, readExport } from '../formats/export.ts';
import { type NarHash, narHashOf } from '../formats/hash.ts';
import { NarHasher } from '../formats/nar.ts';
import { toNarInfoHash } from '../formats/narinfo.ts';
import { baseNameOf, type StorePath } from '../formats/store-path.ts';
import { tee } from '../formats/tree-sinks.ts';
import { readNar } from './nar-stream.ts';
import { type PathInfo, takenOver } from './path-info.ts';
import type { Store } from './store.ts';
import { restoreTree, type TreeWriter } from './tree-files.ts';

/** The paths, each after those among them that it refers to; else in byte order. The order in which Nix exports and lists. */
export function referencesFirst(
  paths: Iterable<StorePath>,
  referencesOf: (path: StorePath) => readonly StorePath[],
): StorePath[] {
  const among = new Set(paths);
  const met = new Set<StorePath>();
  const ordered: StorePath[] = [];
  // A chain of references may be longer than the stack is deep.
  for (const start of [...among].sort(compareBytes)) {
    const way: { readonly path: StorePath; readonly ahead: StorePath[] }[] = [];
    const enter = (path: StorePath): void => {
      if (met.has(path)) return;
      met.add(path);
      const ahead = referencesOf(path).filter((reference) => among.has(reference));
      way.push({ path, ahead: ahead.sort(compareBytes).reverse() });
    };
    enter(start);
    for (let last = way.at(-1); last; last = way.at(-1)) {
      const next = last.ahead.pop();
      if (next !== undefined) enter(next);
      else ordered.push(way.pop()!.path);
    }
  }
  return ordered;
}

/**
 * Writes the stream of valid paths, piece by piece. A path whose files are not what was put there is FLK_STORE_CORRUPT: it would spread.
 */
export async function exportPaths(
  store: Store,
  infos: readonly PathInfo[],
  write: (bytes: Buffer) => Promise<void>,
): Promise<void> {
  const known = new Map(infos.map((info) => [info.path, info]));
  for (const path of referencesFirst(known.keys(), (one) => known.get(one)?.references ?? [])) {
    const info = known.get(path)!;
    await write(exportEntry);
    await writeNar(store, info, write);
    await write(exportRecord(info));
  }
  await write(exportEnd);
}

/** Writes a valid path's NAR, piece by piece. Throws FLK_STORE_CORRUPT at its end where it was another. */
export async function writeNar(
  store: Store,
  info: PathInfo,
  write: (bytes: Buffer) => Promise<void>,
): Promise<void> {
  const hash = createHash('sha256');
  for await (const piece of readNar(store.physical(info.path))) {
    hash.update(piece);
    await write(piece);
  }
  const found = narHashOf(hash.digest());
  if (found !== info.narHash)
    throw new FlkError('FLK_STORE_CORRUPT', `${info.path} is not what was put there`, {
      facts: { found, wanted: info.narHash },
      hint: `flk store repair ${info.path}`,
    });
}

export interface ImportOptions {
  /** Take paths that nothing proves, too. */
  readonly trusted: boolean;
  readonly signal?: AbortSignal;
  /** Told of each path that was read. */
  readonly progress?: (path: StorePath) => void;
}

/** Staged paths are made valid together, so that their syncs cost one: so many paths or bytes. */
const batchPaths = 64;
const batchBytes = 64 * 1024 * 1024;

/**
 * Reads a stream and makes its paths valid, in its order; gives them all, those that were here already too. When it fails, the paths
 * before the fault may be valid. Throws FLK_EXPORT_INVALID, also where a path refers to one that is neither here nor earlier in the
 * stream; FLK_EXPORT_UNTRUSTED where its content does not prove its name; FLK_NAR_INVALID; FLK_FILE_UNWRITABLE; FLK_INTERRUPTED.
 */
export async function importPaths(
  store: Store,
  chunks: AsyncIterable<Buffer>,
  options: ImportOptions,
): Promise<StorePath[]> {
  const imports = new Import(store, options);
  try {
    await readExport(chunks, imports);
    await imports.flush();
    return imports.paths;
  } finally {
    await imports.dispose();
  }
}

/** A tree on its way into the store. */
interface Arrival {
  readonly staged: string;
  readonly writer: TreeWriter;
  readonly nar: NarHasher;
  readonly file: ReturnType<typeof fileHasher>;
}

class Import {
  readonly paths: StorePath[] = [];
  readonly #store: Store;
  readonly #options: ImportOptions;
  readonly #stages: { dispose(): Promise<void> }[] = [];
  #waiting: { readonly info: PathInfo; readonly staged: string }[] = [];
  #bytes = 0;
  #arrival: Arrival | undefined;

  constructor(store: Store, options: ImportOptions) {
    this.#store = store;
    this.#options = options;
  }

  async begin(): Promise<ReturnType<typeof tee>> {
    const stage = await this.#store.stage();
    this.#stages.push(stage);
    const staged = join(stage.path, 'tree');
    this.#arrival = { staged, writer: restoreTree(staged), nar: new NarHasher(), file: fileHasher() };
    return tee(this.#arrival.writer, this.#arrival.nar, this.#arrival.file);
  }

  async end(exported: ExportedPath): Promise<void> {
    const { staged, nar, file } = this.#arrival!;
    this.#arrival = undefined;
    const { narHash, narSize } = nar.digest();
    const info = this.#infoOf(exported, narHash, narSize, file.digest());
    this.#store.hold([info.path, ...info.references]);
    for (const reference of info.references) this.#needs(reference, info.path);
    this.paths.push(info.path);
    this.#options.progress?.(info.path);
    if (this.#store.query(info.path) || this.#waiting.some((one) => one.info.path === info.path)) return;
    this.#waiting.push({ info, staged });
    this.#bytes += narSize;
    if (this.#waiting.length >= batchPaths || this.#bytes >= batchBytes) await this.flush();
  }

  async flush(): Promise<void> {
    const entries = this.#waiting;
    this.#waiting = [];
    this.#bytes = 0;
    await this.#store.withPathLocks(
      entries.map(({ info }) => info.path),
      () => this.#store.register(entries),
      this.#options.signal,
    );
    for (const stage of this.#stages.splice(0)) await stage.dispose();
  }

  async dispose(): Promise<void> {
    this.#arrival?.writer.close();
    for (const stage of this.#stages.splice(0)) await stage.dispose();
  }

  #infoOf(
    exported: ExportedPath,
    narHash: NarHash,
    narSize: number,
    fileHash: NarHash | undefined,
  ): PathInfo {
    const { path, deriver } = exported;
    const references = [...new Set(exported.references)].sort(compareBytes);
    const nar = `fixed:r:${toNarInfoHash(narHash)}`;
    const file = fileHash && toNarInfoHash(fileHash);
    const addresses = file === undefined ? [nar] : [nar, `text:${file}`, `fixed:${file}`];
    const ca = addresses.find((address) => provenAddress({ path, references, ca: address }));
    if (ca === undefined && !this.#options.trusted)
      throw new FlkError(
        'FLK_EXPORT_UNTRUSTED',
        `${path} is not named after its content, so nothing proves it`,
      );
    return takenOver(
      { path, narHash, narSize, references, ...(deriver === undefined ? {} : { deriver }) },
      ca,
    );
  }

  #needs(reference: StorePath, referrer: StorePath): void {
    if (reference === referrer || this.#store.query(reference)) return;
    if (this.#waiting.some(({ info }) => info.path === reference)) return;
    throw new FlkError(
      'FLK_EXPORT_INVALID',
      `${baseNameOf(referrer)} refers to ${reference}, which is neither here nor before it in the stream`,
      {
        hint: 'export with all that the paths refer to: flk store export -r, or nix-store --export $(nix-store -qR PATH)',
      },
    );
  }
}
