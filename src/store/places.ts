/** Where the parts of a store lie below the folder that stands for `/`. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder, unwritable } from '../base/files.ts';
import { StageFolder } from '../base/stages.ts';
import { baseNameOf, type StorePath } from '../formats/store-path.ts';
import { removeTree } from './tree-files.ts';

/** A folder on the store's file system for what is half done. */
export interface Stage {
  readonly path: string;
  dispose(): Promise<void>;
}

export class Places {
  readonly root: string;
  readonly store: string;
  readonly state: string;
  readonly stages: StageFolder;
  readonly locks: string;
  readonly links: string;
  readonly indirectRoots: string;

  constructor(root: string) {
    this.root = root;
    this.store = join(root, 'nix/store');
    this.state = join(root, 'nix/var/flk');
    this.stages = new StageFolder(join(this.state, 'stage'), (stage) => removeTree(stage));
    this.locks = join(this.state, 'locks');
    this.links = join(this.state, 'links');
    this.indirectRoots = join(root, 'nix/var/nix/gcroots/auto');
  }

  physical(path: StorePath): string {
    return join(this.store, baseNameOf(path));
  }

  /** A fresh folder; removed by `dispose`, or by the next flk when this one dies. Throws FLK_FILE_UNWRITABLE. */
  async stage(): Promise<Stage> {
    const path = await this.stages.next();
    await mkdir(path, { mode: 0o700 }).catch((error: unknown) => {
      throw unwritable(path, error);
    });
    return { path, dispose: () => removeTree(path) };
  }

  /** Makes what was moved into the store last through a power cut. */
  async sync(): Promise<void> {
    await syncFolder(this.store).catch((error: unknown) => {
      throw unwritable(this.store, error);
    });
  }
}
