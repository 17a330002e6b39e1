/** How builds, one at a time, are held to their limits on memory and processes: by control groups, else by limits on each process. */
import { readdirSync, statSync } from 'node:fs';
import { FlkError } from '../../base/errors.ts';
import { type Caps, ControlGroups, type Group } from './cgroups.ts';
import type { BuildLimits } from './engine.ts';

export interface Confinement {
  readonly entrances: Group['entrances'];
  /** For all processes of this user, and for the private memory of each in KiB: `ulimit`'s words. */
  readonly ulimits: readonly [processes: string, data: string];
  /** Whoever is left of the build, wherever it has gone. */
  kill(): Promise<void>;
  /**
   * At each build's end. Throws FLK_BUILD_LIMIT where the kernel had to enforce a cap and the build is the worse for it. `status`: its
   * exit status; undefined where it was killed.
   */
  assertWithin(status: number | undefined): void;
  remove(): Promise<void>;
}

/** The builds of one engine. */
export class Confinements {
  /** By which caps are asked for: whether groups can be had. */
  readonly #groups = new Map<string, Promise<ControlGroups | undefined>>();

  async of({ maxMemory, maxProcesses }: BuildLimits): Promise<Confinement> {
    const caps: Caps = {
      ...(maxMemory === undefined ? {} : { maxMemory }),
      ...(maxProcesses === undefined ? {} : { maxProcesses }),
    };
    const key = Object.keys(caps).join(' ');
    if (key === '') return byLimits(caps);
    const groups = this.#groups.get(key) ?? ControlGroups.find(caps);
    this.#groups.set(key, groups);
    const group = await (await groups)?.create(withStarter(caps)).catch(() => undefined);
    if (group) return byGroup(group, caps);
    // What was refused once is not tried for each build.
    this.#groups.set(key, Promise.resolve(undefined));
    return byLimits(caps);
  }
}

/** The shell that starts the builds is one process more. */
const withStarter = ({ maxProcesses, ...caps }: Caps): Caps => ({
  ...caps,
  ...(maxProcesses === undefined ? {} : { maxProcesses: maxProcesses + 1 }),
});

function byGroup(group: Group, caps: Caps): Confinement {
  let before = { memory: 0, processes: 0 };
  return {
    entrances: group.entrances,
    ulimits: ['unlimited', 'unlimited'],
    kill: () => group.kill(),
    remove: () => group.remove(),
    assertWithin: (status) => {
      const { memory, processes } = before;
      before = group.enforced();
      if (before.memory > memory)
        throw new FlkError(
          'FLK_BUILD_LIMIT',
          `the builder needed more than ${caps.maxMemory} bytes of memory`,
          {
            facts: { limit: `maxMemory ${caps.maxMemory}` },
            hint: 'allow more with --max-memory, or fewer jobs in the build with --cores',
          },
        );
      if (before.processes > processes && status !== 0)
        throw new FlkError('FLK_BUILD_LIMIT', `the builder wanted more than ${caps.maxProcesses} processes`, {
          facts: { limit: `maxProcesses ${caps.maxProcesses}` },
          hint: 'allow more with --max-processes, or fewer jobs in the build with --cores',
        });
    },
  };
}

/**
 * RLIMIT_NPROC counts all threads of a user, also those outside: those that there are now are granted on top. To root the kernel
 * does not apply it. RLIMIT_DATA, unlike RLIMIT_AS, lets programs reserve addresses that they do not use.
 */
function byLimits({ maxMemory, maxProcesses }: Caps): Confinement {
  return {
    entrances: [],
    ulimits: [
      maxProcesses === undefined ? 'unlimited' : String(maxProcesses + threadsOfUser()),
      maxMemory === undefined ? 'unlimited' : String(Math.ceil(maxMemory / 1024)),
    ],
    kill: async () => {},
    remove: async () => {},
    // A process that was refused memory says so itself, if it can.
    assertWithin: () => {},
  };
}

function threadsOfUser(): number {
  const user = process.getuid?.();
  let sum = 0;
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const tasks = statSync(`/proc/${pid}/task`, { throwIfNoEntry: false });
    // A folder's links are itself, its name above, and one for each folder in it.
    if (tasks?.uid === user) sum += tasks?.nlink === undefined ? 1 : tasks.nlink - 2;
  }
  return sum;
}
