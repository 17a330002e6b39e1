/** Environments on machines that have the store elsewhere than at /nix/store, where the links in one lead nowhere. */
import { mkdirSync, readdirSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { FlkError } from '../base/errors.ts';
import { unwritable } from '../base/files.ts';
import { parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import { followInStore } from './environment.ts';
import type { Store } from './store.ts';

/** The text of a launcher: an executable that starts `program`, a logical path, as it would be on a machine with /nix/store. */
export type LauncherScript = (program: string) => Promise<string>;

/**
 * Writes an environment anew at `folder`, where nothing is yet: the same names, linked to where things physically lie, and in `bin` a
 * launcher for each program that only runs where the store is at /nix/store. Throws FLK_FILE_UNWRITABLE.
 */
export async function writeLaunchers(
  store: Store,
  environment: StorePath,
  folder: string,
  script: LauncherScript,
): Promise<void> {
  try {
    await new Mirror(store, environment, script).folder(environment, latin1(folder), 0);
  } catch (error) {
    throw error instanceof FlkError ? error : unwritable(folder, error);
  }
}

/** Paths are latin1, one character a byte. */
const latin1 = (path: string): string => Buffer.from(path).toString('latin1');
const onDisk = (path: string): Buffer => Buffer.from(path, 'latin1');

class Mirror {
  readonly #store: Store;
  readonly #root: string;
  readonly #environment: StorePath;
  readonly #script: LauncherScript;

  constructor(store: Store, environment: StorePath, script: LauncherScript) {
    this.#store = store;
    this.#root = latin1(store.root);
    this.#environment = environment;
    this.#script = script;
  }

  async folder(logical: string, place: string, depth: number): Promise<void> {
    mkdirSync(onDisk(place));
    for (const { from, to, isFolder } of this.#entries(logical, place)) {
      // A single package's folder is one link, but `bin` has to be one of launchers.
      if (depth === 0 && from.endsWith('/bin')) await this.#programs(from, to);
      else if (isFolder) await this.folder(from, to, depth + 1);
      else symlinkSync(onDisk(this.#physical(this.#targetOf(from))), onDisk(to));
    }
  }

  async #programs(logical: string, place: string): Promise<void> {
    const found = followInStore(this.#store, logical);
    if (!found?.isFolder) return;
    mkdirSync(onDisk(place));
    for (const { from, to } of this.#entries(found.path, place)) {
      const program = this.#targetOf(from);
      if (this.#needsStore(program)) {
        const text = await this.#script(Buffer.from(program, 'latin1').toString());
        writeFileSync(onDisk(to), text, { mode: 0o755 });
      } else symlinkSync(onDisk(this.#physical(program)), onDisk(to));
    }
  }

  #entries(logical: string, place: string): { from: string; to: string; isFolder: boolean }[] {
    const entries = readdirSync(onDisk(this.#physical(logical)), { withFileTypes: true, encoding: 'latin1' });
    return entries.map((entry) => ({
      from: `${logical}/${entry.name}`,
      to: `${place}/${entry.name}`,
      isFolder: entry.isDirectory(),
    }));
  }

  /** What the environment's own link says; anything else stands for itself, for a program may look at its name. */
  #targetOf(logical: string): string {
    if (!logical.startsWith(`${this.#environment}/`)) return logical;
    try {
      return readlinkSync(onDisk(this.#physical(logical)), 'latin1');
    } catch {
      return logical;
    }
  }

  /** A program in a path without references (static, or a script for the host's shell) runs where it lies. */
  #needsStore(program: string): boolean {
    const [owner] = /^\/nix\/store\/[^/]+/.exec(program) ?? [];
    if (owner === undefined) return false;
    return (this.#store.query(parseStorePath(owner))?.references.length ?? 0) > 0;
  }

  #physical(path: string): string {
    return path.startsWith(`${storeDir}/`) ? this.#root + path : path;
  }
}
