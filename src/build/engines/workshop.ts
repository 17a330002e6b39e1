/** What the builds of one engine share, because making it anew for each would cost more than a small build does. */
import {
  chmodSync,
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
} from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { OnceMap } from '../../base/concurrency.ts';
import type { Store } from '../../store/store.ts';
import { type Confinement, Confinements } from './confinement.ts';
import type { BuildLimits, Toolchain } from './engine.ts';
import { assertSafePlace } from './safe-place.ts';
import { Starter } from './starter.ts';
import type { Surroundings } from './surroundings.ts';
import { type Base, makeBase } from './view.ts';

/** What one build at a time has: somebody who starts it, and the pipe that its output comes by. */
export interface Workplace {
  readonly starter: Starter;
  readonly confinement: Confinement;
  /** Of a real pipe: what Node makes are sockets, and a builder that opens /dev/stdout could not. It does not end before `shut`. */
  readonly output: Socket;
  /** The output ends when nobody is left who could write to it. */
  shut(): void;
  /** When all is over. `drained`: the output ended by itself. */
  leave(drained: boolean): Promise<void>;
}

/** Who starts builds and the limits it is held to itself, so that they are. */
type Hand = Pick<Workplace, 'starter' | 'confinement'>;

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

/** The ends of a named pipe, as descriptors. Throws where it is gone, or there is no descriptor for both. */
function openEnds(pipe: string): { readonly reading: number; readonly writing: number } {
  // A builder may have changed the rights of its own output.
  chmodSync(pipe, 0o600);
  const reading = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    return { reading, writing: openSync(pipe, constants.O_WRONLY) };
  } catch (error) {
    closeSync(reading);
    throw error;
  }
}

export class Workshop {
  readonly #store: Pick<Store, 'physical' | 'stage'>;
  readonly #bases = new OnceMap<string, Base>();
  #stage: ReturnType<Store['stage']> | undefined;
  readonly #leaving = new Set<Promise<void>>();
  /** Small things that wait for `close` to remove them. */
  readonly #left: (() => Promise<void>)[] = [];
  readonly #files = new OnceMap<Uint8Array, string>();
  readonly #confinements = new Confinements();
  readonly #hands = new Set<Hand>();
  /** Those of them whose output nobody has open, by the limits that they hold builds to. */
  readonly #idle = new Map<string, Hand[]>();
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
      mkdirSync(folder, { mode: 0o755 });
      return makeBase(folder, toolchain, (path) => this.#store.physical(path), user);
    });
  }

  /** Throws FLK_SANDBOX_UNAVAILABLE. */
  async workplace(limits: BuildLimits): Promise<Workplace> {
    const bounds = JSON.stringify([limits.maxOutputBytes, limits.maxMemory, limits.maxProcesses]);
    const hand = (await this.#idleHand(bounds)) ?? (await this.#hire(limits));
    const { starter, confinement } = hand;
    let ends: ReturnType<typeof openEnds>;
    try {
      ends = openEnds(starter.output);
    } catch (error) {
      await this.#dismiss(hand);
      throw error;
    }
    const output = new Socket({ fd: ends.reading, readable: true, writable: false });
    let end: number | undefined = ends.writing;
    const shut = (): void => {
      if (end !== undefined) closeSync(end);
      end = undefined;
    };
    return {
      ...{ starter, confinement, output, shut },
      leave: async (drained) => {
        shut();
        output.destroy();
        if (!drained || !starter.isAlive) return await this.#dismiss(hand);
        const idle = this.#idle.get(bounds) ?? [];
        this.#idle.set(bounds, idle);
        idle.push(hand);
      },
    };
  }

  async #idleHand(bounds: string): Promise<Hand | undefined> {
    for (let hand = this.#idle.get(bounds)?.pop(); hand; hand = this.#idle.get(bounds)?.pop()) {
      if (hand.starter.isAlive) return hand;
      // Somebody has killed it while it had nothing to do.
      await this.#dismiss(hand);
    }
    return undefined;
  }

  /** One of a few at the beginning, and one for each that had to be killed. */
  async #hire(limits: BuildLimits): Promise<Hand> {
    const confinement = await this.#confinements.of(limits);
    try {
      const { ulimits, entrances } = confinement;
      const maxFileBlocks = Math.ceil(limits.maxOutputBytes / 512);
      const starter = await Starter.create(await this.#place('output'), {
        maxFileBlocks,
        ulimits,
        entrances,
      });
      const hand = { starter, confinement };
      this.#hands.add(hand);
      return hand;
    } catch (error) {
      await confinement.remove();
      throw error;
    }
  }

  async #dismiss(hand: Hand): Promise<void> {
    this.#hands.delete(hand);
    hand.starter.kill();
    rmSync(hand.starter.output, { force: true });
    await hand.confinement.remove();
  }

  /** A file with these bytes, which builds only read: for the same buffer the same one. */
  file(bytes: Uint8Array): Promise<string> {
    return this.#files.get(bytes, async () => {
      const path = await this.#place('file');
      await writeFile(path, bytes);
      return path;
    });
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
    this.#files.clear();
    this.#idle.clear();
    for (const hand of this.#hands) await this.#dismiss(hand);
    await (await stage)?.dispose();
  }

  async #place(name: string): Promise<string> {
    this.#stage ??= this.#store.stage();
    const { path } = await this.#stage;
    return join(path, `${name}-${++this.#made}`);
  }
}
