/** A folder for what is half done, where nothing that a killed process left stays for long. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isOwnerAlive, makeFolder, ownerName } from './files.ts';

export class StageFolder {
  readonly path: string;
  readonly #remove: (path: string) => Promise<void>;
  #ready: Promise<void> | undefined;

  /** Need not exist. `remove` is for stages that it takes more than rights to their folder to remove. */
  constructor(
    path: string,
    remove = (stage: string): Promise<void> => rm(stage, { recursive: true, force: true }),
  ) {
    this.path = path;
    this.#remove = remove;
  }

  /** Makes the folder and removes what dead processes left in it; once, however often it is asked. Throws FLK_FILE_UNWRITABLE. */
  open(): Promise<void> {
    this.#ready ??= makeFolder(this.path).then(() => this.#removeAbandoned());
    return this.#ready;
  }

  /** A path in it at which nothing is. It belongs to this process. */
  async next(): Promise<string> {
    await this.open();
    return join(this.path, await ownerName());
  }

  async #removeAbandoned(): Promise<void> {
    for (const name of await readdir(this.path).catch(() => [])) {
      if (await isOwnerAlive(name)) continue;
      // Another process may be at the same; what stays is the next one's.
      await this.#remove(join(this.path, name)).catch(() => {});
    }
  }
}
