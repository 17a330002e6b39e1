/** What the builds of one engine share, because making it anew for each would cost more than a small build does. */
import { chmodSync, constants, lstatSync, openSync, readdirSync, rmSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { OnceMap } from '../../base/concurrency.ts';
import { FlkError } from '../../base/errors.ts';
import { run } from '../../base/process.ts';
import type { Store } from '../../store/store.ts';
import type { Toolchain } from './engine.ts';
import { assertSafePlace } from './safe-place.ts';
import type { Surroundings } from './surroundings.ts';
import { type Base, makeBase } from './view.ts';

/**
 * A pipe whose writing end is a real one: what Node makes are sockets, and a builder that opens /dev/stdout could not. `end` is to
 * be closed once the child has it.
 */
export interface OutputPipe {
  readonly stream: Socket;
  readonly end: number;
  /** To be called when the stream is closed. `drained`: it ended by itself, so that nobody is left who could write to it. */
  release(drained: boolean): void;
}

/** How much one build may leave to be removed at the end, and how many builds. */
const smallNodes = 16;
const smallBytes = 64 * 1024;
const maxLeft = 4096;

/** Whether few and small files are below a folder. What the builder has shut cannot be small. */
function isSmall(folder: string): boolean {
  let nodes = 0;
  let bytes = 0;
  const folders = [folder];
  try {
    for (const here of folders) {
      for (const entry of readdirSync(here, { withFileTypes: true })) {
        if (++nodes > smallNodes) return false;
        const path = join(here, entry.name);
        if (entry.isDirectory()) folders.push(path);
        else bytes += lstatSync(path).blocks * 512;
        if (bytes > smallBytes) return false;
      }
    }
    return true;
  } catch {
    return false;
  }
}

export class Workshop {
  readonly #store: Pick<Store, 'physical' | 'stage'>;
  readonly #bases = new OnceMap<string, Base>();
  #stage: ReturnType<Store['stage']> | undefined;
  readonly #leaving = new Set<Promise<void>>();
  /** Small things that wait for `close` to remove them. */
  readonly #left: (() => Promise<void>)[] = [];
  /** Named pipes that nobody has open. */
  #idle: string[] = [];
  #made = 0;
  #safe: Promise<void> | undefined;

  constructor(store: Pick<Store, 'physical' | 'stage'>) {
    this.#store = store;
  }

  /** Throws FLK_STORE_UNSAFE. `folder` is the store's, so one look is enough. */
  assertSafe(folder: string): Promise<void> {
    this.#safe ??= assertSafePlace(folder);
    return this.#safe;
  }

  /** Read-only for builds, so that what one build does to it no other can see. */
  base(toolchain: Toolchain, user: Surroundings['user']): Promise<Base> {
    const tools = toolchain.kind === 'host' ? 'host' : toolchain.path;
    return this.#bases.get(`${tools} ${user.name}`, async () => {
      const folder = await this.#place('base');
      await mkdir(folder, { mode: 0o755 });
      return makeBase(folder, toolchain, (path) => this.#store.physical(path), user);
    });
  }

  async pipe(): Promise<OutputPipe> {
    const path = this.#idle.pop() ?? (await this.#makePipe());
    // A builder may have changed the rights of its own output.
    chmodSync(path, 0o600);
    const reading = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return {
      stream: new Socket({ fd: reading, readable: true, writable: false }),
      end: openSync(path, constants.O_WRONLY),
      release: (drained) => {
        if (drained) this.#idle.push(path);
        else rmSync(path, { force: true });
      },
    };
  }

  /**
   * Removes a build's folder; what is small at the very end. `dispose` removes anything; where it fails, the next flk does it.
   *
   * ext4 gives no inode away that was deleted within the last minute and looks at each of them before it finds another: hundreds of
   * builds that remove their few files at once would spend a quarter of their time there.
   */
  discard(folder: string, dispose: () => Promise<void>): void {
    if (this.#left.length < maxLeft && isSmall(folder)) {
      this.#left.push(dispose);
      return;
    }
    // While others go on: removing may wait for the file system's journal.
    const done = rm(folder, { recursive: true })
      .catch(dispose)
      .catch(() => {})
      .finally(() => this.#leaving.delete(done));
    this.#leaving.add(done);
  }

  /** Removes all of it. Whoever builds after that begins anew. */
  async close(): Promise<void> {
    await Promise.all(this.#leaving);
    for (const dispose of this.#left.splice(0)) await dispose().catch(() => {});
    const stage = this.#stage;
    this.#stage = undefined;
    this.#bases.clear();
    this.#idle = [];
    await (await stage)?.dispose();
  }

  async #makePipe(): Promise<string> {
    const path = await this.#place('output');
    const { status, stderr } = await run('mkfifo', [path]);
    if (status !== 0) throw new FlkError('FLK_FILE_UNWRITABLE', `cannot create ${path}: ${stderr.trim()}`);
    return path;
  }

  async #place(name: string): Promise<string> {
    this.#stage ??= this.#store.stage();
    const { path } = await this.#stage;
    return join(path, `${name}-${++this.#made}`);
  }
}
