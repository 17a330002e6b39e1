/** One folder for all that is half done at a time: to make and remove one for each of a thousand small paths takes longer than they do. */
import { join } from 'node:path';
import { exists, type Stage } from './places.ts';
import type { Store } from './store.ts';
import { removeTree } from './tree-files.ts';

/** Where one tree may be written. */
export interface StagedPlace {
  /** Nothing is there yet. */
  readonly path: string;
  wrote(bytes: number): void;
  /** Removes what is there still. To be called once. */
  free(): Promise<void>;
}

export class SharedStage {
  readonly #store: Pick<Store, 'stage'>;
  #stage: Promise<Stage> | undefined;
  /** Places that are not free yet. */
  #used = 0;
  #count = 0;

  constructor(store: Pick<Store, 'stage'>) {
    this.#store = store;
  }

  /** For a tree of about so many bytes. The folder is made for the first place, and goes with the last. Throws FLK_FILE_UNWRITABLE. */
  async place(size: number): Promise<StagedPlace> {
    this.#used++;
    try {
      this.#stage ??= this.#store.stage();
      const stage = await this.#stage;
      stage.expects(size);
      const path = join(stage.path, `tree-${this.#count++}`);
      return {
        path,
        wrote: stage.wrote,
        free: async () => {
          try {
            if (exists(path)) await removeTree(path);
          } finally {
            await this.#leave();
          }
        },
      };
    } catch (error) {
      await this.#leave().catch(() => {});
      throw error;
    }
  }

  async #leave(): Promise<void> {
    if (--this.#used > 0) return;
    const stage = this.#stage;
    // Whoever comes next makes another one.
    this.#stage = undefined;
    await (await stage)?.dispose();
  }
}
