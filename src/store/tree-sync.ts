/** Trees on their way to the disk: what becomes valid must last through a power cut. */
import { closeSync, constants, fsync, lstatSync, openSync, readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { limiter } from '../base/concurrency.ts';
import { Servant } from '../base/servant.ts';
import { type BytePath, bytePath, onDisk, reading, unwritable, writing } from './tree-files.ts';

const fsyncFile = promisify(fsync);

/** Trees of up to this many nodes are synced one by one: a few milliseconds, and nobody else's bytes are waited for. */
const syncOneByOne = 64;
/** A file system puts syncs that come at one time into one write of its journal. */
const syncsAtOnce = 4;

/** Bytes. The disk is idle while a large tree is written into memory, and everybody waits for it afterwards. */
const worthStarting = 32 * 1024 * 1024;

/** Makes what lies at these paths, on one file system, last through a power cut. Throws FLK_FILE_UNWRITABLE. */
export async function syncTrees(paths: readonly string[]): Promise<void> {
  const [first] = paths;
  if (first === undefined) return;
  const sync = new TreeSync(dirname(first));
  await sync.sync(paths).finally(() => sync.close());
}

/**
 * Syncs trees of one file system, and begins while large ones are being written. Node has no syncfs: for many nodes `sync -f` does it,
 * 40,000 files in one go; where there is none, each file is synced.
 */
export class TreeSync {
  readonly #folder: string;
  #fileSystem: Servant | undefined;
  #unsynced = 0;
  #running: Promise<void> | undefined;
  /** A failure is told once, to whoever syncs first. From then on each file is asked, and knows its own. */
  #failed = false;

  /** A folder on that file system that is there when the first bytes are. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * So large a tree is about to be written. What syncs it starts now: Node's memory is smaller than it will be, and to copy its listing
   * takes as long as that is.
   */
  expects(bytes: number): void {
    if (bytes >= worthStarting && !this.#failed) this.#start();
  }

  /** As many more bytes lie in trees that will be synced. */
  wrote(bytes: number): void {
    this.#unsynced += bytes;
    if (this.#unsynced < worthStarting || this.#running || this.#failed) return;
    this.#unsynced = 0;
    this.#running = this.#syncAll().then(() => {
      this.#running = undefined;
    });
  }

  /** Throws FLK_FILE_UNWRITABLE. */
  async sync(paths: readonly string[]): Promise<void> {
    await this.#running;
    const few = this.#failed ? undefined : listNodes(paths, syncOneByOne);
    if (few) return await syncNodes(few);
    if (!this.#failed) await this.#syncAll();
    if (this.#failed) await syncNodes(listNodes(paths, Number.POSITIVE_INFINITY) ?? []);
  }

  close(): void {
    this.#fileSystem?.close();
  }

  async #syncAll(): Promise<void> {
    this.#failed = (await this.#start()?.ask('\n')) === undefined;
  }

  /** Undefined where no program can be started: there is no memory for one, or no descriptor. */
  #start(): Servant | undefined {
    try {
      this.#fileSystem ??= new Servant(servantScript, [this.#folder]);
    } catch {
      // The next who asks tries again.
    }
    return this.#fileSystem;
  }
}

/** Syncs the file system of a folder for each line, and answers with an empty one. */
const servantScript = 'while read -r _; do sync -f "$1" || exit; echo; done';

async function syncNodes(nodes: readonly BytePath[]): Promise<void> {
  const limit = limiter(syncsAtOnce);
  await Promise.all(nodes.map((node) => limit(() => syncNode(node))));
}

async function syncNode(node: BytePath): Promise<void> {
  const fd = writing(node, () => openSync(onDisk(node), constants.O_RDONLY | constants.O_NOFOLLOW));
  try {
    await fsyncFile(fd);
  } catch (error) {
    throw unwritable(node, error);
  } finally {
    closeSync(fd);
  }
}

/** All files and folders (a symlink is a part of its folder), or undefined when there are more than `max` nodes. */
function listNodes(paths: readonly string[], max: number): BytePath[] | undefined {
  const nodes: BytePath[] = [];
  const waiting = paths.map(bytePath);
  // Grows while it is walked.
  for (const path of waiting) {
    if (waiting.length > max) return undefined;
    const info = reading(path, () => lstatSync(onDisk(path)));
    if (info.isFile() || info.isDirectory()) nodes.push(path);
    if (info.isDirectory())
      for (const name of reading(path, () => readdirSync(onDisk(path), 'latin1')))
        waiting.push(`${path}/${name}`);
  }
  return nodes;
}
