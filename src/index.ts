/**
 * flk as a library: read manifests and locks, lock flakes.
 *
 * @example
 * import { lock, openLocalFlake, parseManifest, printLockFile, silent, Sources } from 'flk';
 *
 * const source = new Sources({ cacheFolder: '/tmp/flk', reporter: silent });
 * const flake = await openLocalFlake('.', { source, reporter: silent });
 * const locked = await lock({
 *   manifest: parseManifest(flake.manifest),
 *   source,
 *   readManifest: parseManifest,
 *   readRelative: async (path) => (await flake.tree()).tree.readFile(path),
 *   rootDir: flake.dir,
 * });
 * process.stdout.write(printLockFile(locked));
 */
export type { Diagnostic, Range, SourceFile } from './base/diagnostics.ts';
export { type ErrorCode, FlkError } from './base/errors.ts';
export { type Event, type Reporter, silent } from './base/events.ts';
export { version } from './base/version.ts';
export { type FlakeRef, parseFlakeRef, printFlakeRef } from './flake/flake-ref.ts';
export { type CheckOptions, checkLock, type StaleReason } from './flake/lock-check.ts';
export { type LockChange, lockChanges, printChanges } from './flake/lock-diff.ts';
export { type LockFile, type LockNode, parseLockFile, printLockFile } from './flake/lock-file.ts';
export { type LockOptions, lock } from './flake/locker.ts';
export { type Manifest, parseManifest } from './flake/manifest.ts';
export type { FlakeManifest } from './flake/manifest-model.ts';
export { type NixFlake, parseFlakeNix } from './flake/nix-inputs.ts';
export type { Fetched, Source, SourceTree, Tag } from './flake/source.ts';
export { type LocalFlake, openLocalFlake } from './sources/local-flake.ts';
export { Sources, type SourcesOptions } from './sources/source.ts';
