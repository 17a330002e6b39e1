/** Where the parts of a store lie below the folder that stands for `/`. */
import { randomBytes } from 'node:crypto';
import { lstatSync, mkdirSync, rmSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FlkError, systemCode } from '../base/errors.ts';
import { type LockMark, makeLockMark, syncFolder, unwritable } from '../base/files.ts';
import { StageFolder } from '../base/stages.ts';
import { baseNameOf, type StorePath } from '../formats/store-path.ts';
import { removeTree } from './tree-files.ts';
import { TreeSync } from './tree-sync.ts';

/** What the database's log takes for the first paths that a sweep removes, and a folder to move them into: with room to spare. */
const reservedSize = 4 * 1024 * 1024;

/** A folder on the store's file system for what is half done. */
export interface Stage {
  readonly path: string;
  /** A tree of this size, in bytes, is about to be written there. */
  expects(bytes: number): void;
  /** As many more bytes lie there of what will be registered: the disk begins with them at once. */
  wrote(bytes: number): void;
  dispose(): Promise<void>;
}

export class Places {
  readonly root: string;
  readonly readOnly: boolean;
  readonly store: string;
  readonly state: string;
  readonly stages: StageFolder;
  readonly locks: string;
  /** The marks that locks are names of. */
  readonly #owners: StageFolder;
  readonly links: string;
  readonly indirectRoots: string;
  readonly #syncing: TreeSync;
  #mark: Promise<LockMark | undefined> | undefined;
  #markFile: string | undefined;

  constructor(root: string, readOnly: boolean) {
    this.root = root;
    this.readOnly = readOnly;
    this.store = join(root, 'nix/store');
    this.state = join(root, 'nix/var/flk');
    this.#syncing = new TreeSync(this.state);
    this.stages = new StageFolder(join(this.state, 'stage'), (stage) => removeTree(stage));
    this.locks = join(this.state, 'locks');
    this.#owners = new StageFolder(join(this.state, 'owners'));
    this.links = join(this.state, 'links');
    this.indirectRoots = join(root, 'nix/var/nix/gcroots/auto');
  }

  physical(path: StorePath): string {
    return join(this.store, baseNameOf(path));
  }

  get database(): string {
    return join(this.state, 'store.sqlite');
  }

  /** Throws FLK_FILE_UNWRITABLE where the store is only read. */
  assertWritable(): void {
    if (this.readOnly)
      throw new FlkError('FLK_FILE_UNWRITABLE', `the store in ${this.root} can only be read`, {
        hint: 'choose a store that is yours to write with --store',
      });
  }

  /** A fresh folder; removed by `dispose`, or by the next flk when this one dies. Throws FLK_FILE_UNWRITABLE. */
  async stage(): Promise<Stage> {
    this.assertWritable();
    const path = await this.stages.next();
    try {
      mkdirSync(path, { mode: 0o700 });
    } catch (error) {
      throw unwritable(path, error);
    }
    return {
      path,
      expects: (bytes) => this.#syncing.expects(bytes),
      wrote: (bytes) => this.#syncing.wrote(bytes),
      dispose: () => removeTree(path),
    };
  }

  /** What this process's locks are names of; made when it is first asked for. Undefined: they do without. */
  mark(): Promise<LockMark | undefined> {
    this.#mark ??= this.#owners.next().then(
      (file) => {
        this.#markFile = file;
        return makeLockMark(file);
      },
      // On a full disk, say.
      () => undefined,
    );
    return this.#mark;
  }

  /** Removes what is this process's own. Its locks are gone by then. */
  close(): void {
    this.#syncing.close();
    if (this.#markFile !== undefined) rmSync(this.#markFile, { force: true });
  }

  /** Space on the disk for a sweep to begin with when there is none else. What cannot be had is done without. */
  async reserve(): Promise<void> {
    if (exists(this.#reserved)) return;
    // Not zeros, which some file systems keep for nothing.
    await writeFile(this.#reserved, randomBytes(reservedSize), { flag: 'wx' }).catch(
      async (error: unknown) => {
        // Somebody else was first.
        if (systemCode(error) !== 'EEXIST') await this.release();
      },
    );
  }

  async release(): Promise<void> {
    await rm(this.#reserved, { force: true }).catch(() => {});
  }

  get #reserved(): string {
    return join(this.state, 'reserved');
  }

  /** Makes trees that were staged last through a power cut. Throws FLK_FILE_UNWRITABLE. */
  syncStaged(trees: readonly string[]): Promise<void> {
    return this.#syncing.sync(trees);
  }

  /** Makes what was moved into the store last through a power cut. */
  async sync(): Promise<void> {
    await syncFolder(this.store).catch((error: unknown) => {
      throw unwritable(this.store, error);
    });
  }
}

/** Whether anything lies there; links are not followed. */
export const exists = (place: string | Buffer): boolean =>
  lstatSync(place, { throwIfNoEntry: false }) !== undefined;
