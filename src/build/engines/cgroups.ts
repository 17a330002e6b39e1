/**
 * Control groups: what a build and all that it starts may use together, counted by the kernel. Facts: cgroups(7) and the kernel's
 * cgroup-v2 and cgroup-v1 documents. Where this user may make no group (that is up to who set the machine up), there is none.
 */
import { readFileSync } from 'node:fs';
import { access, constants, mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../base/errors.ts';
import { isOwnerAlive, ownerName } from '../../base/files.ts';

export interface Caps {
  /** Bytes that all processes of a build may take together, swap and files in memory included. */
  readonly maxMemory?: number;
  /** How many processes and threads it may have at a time. */
  readonly maxProcesses?: number;
}

/** How often the kernel had to enforce a cap. */
interface Enforced {
  /** Processes that it killed for their memory. */
  readonly memory: number;
  /** Processes that it did not let start. */
  readonly processes: number;
}

export interface Group {
  /** Whoever writes 0 to each of these files is in the group, and with it all that it starts from then on. */
  readonly entrances: readonly string[];
  enforced(): Enforced;
  /** Kills whoever is in the group. */
  kill(): Promise<void>;
  /** Kills them and removes the group. */
  remove(): Promise<void>;
}

type Controller = 'memory' | 'pids';

/** A folder in which groups can be made, for some controllers of one hierarchy. */
interface Parent {
  readonly folder: string;
  readonly version: 1 | 2;
  readonly controllers: readonly Controller[];
}

/** Where the kernel tells about this process; replaced in tests. */
export interface KernelFiles {
  readonly cgroup: string;
  readonly mountinfo: string;
}

const own: KernelFiles = { cgroup: '/proc/self/cgroup', mountinfo: '/proc/self/mountinfo' };
const prefix = 'flk-';

export class ControlGroups {
  readonly #parents: readonly Parent[];

  private constructor(parents: readonly Parent[]) {
    this.#parents = parents;
  }

  /** Undefined where these caps cannot be set by groups. Removes groups that dead processes of this user left behind. */
  static async find(caps: Caps, files: KernelFiles = own): Promise<ControlGroups | undefined> {
    const wanted: Controller[] = [
      ...(caps.maxMemory === undefined ? [] : ['memory' as const]),
      ...(caps.maxProcesses === undefined ? [] : ['pids' as const]),
    ];
    const parents = await parentsFor(wanted, files).catch(() => undefined);
    if (!parents) return undefined;
    for (const { folder } of parents) await removeAbandoned(folder);
    return new ControlGroups(parents);
  }

  /** A group of its own. Rejects with a system error where the kernel refuses. */
  async create(caps: Caps): Promise<Group> {
    const name = `${prefix}${await ownerName()}`;
    const groups: Parent[] = [];
    const remove = async (): Promise<void> => {
      await kill(groups);
      for (const { folder } of groups) await removeGroup(folder);
    };
    try {
      for (const parent of this.#parents) {
        const folder = join(parent.folder, name);
        await mkdir(folder);
        groups.push({ ...parent, folder });
        for (const [file, value] of settings(parent, caps)) await writeFile(join(folder, file), value);
        for (const [file, value] of niceties(parent, caps))
          await writeFile(join(folder, file), value).catch(() => {});
      }
    } catch (error) {
      await remove();
      throw error;
    }
    return {
      entrances: groups.map(({ folder }) => join(folder, 'cgroup.procs')),
      enforced: () => enforced(groups),
      kill: () => kill(groups),
      remove,
    };
  }
}

function settings({ version, controllers }: Parent, caps: Caps): [file: string, value: string][] {
  const lines: [string, string][] = [];
  if (controllers.includes('memory'))
    lines.push([version === 2 ? 'memory.max' : 'memory.limit_in_bytes', String(caps.maxMemory)]);
  if (controllers.includes('pids')) lines.push(['pids.max', String(caps.maxProcesses)]);
  return lines;
}

/** What not every kernel has. */
function niceties({ version, controllers }: Parent, caps: Caps): [file: string, value: string][] {
  if (!controllers.includes('memory')) return [];
  return version === 2
    ? [
        ['memory.swap.max', '0'],
        // A build that has lost one of its processes cannot be trusted to notice.
        ['memory.oom.group', '1'],
      ]
    : [['memory.memsw.limit_in_bytes', String(caps.maxMemory)]];
}

/** The kernel writes these few lines out of its memory. */
function enforced(groups: readonly Parent[]): Enforced {
  const counts = { memory: 0, processes: 0 };
  for (const { folder, version, controllers } of groups) {
    const count = (file: string, key: string): number => {
      try {
        const text = readFileSync(join(folder, file), 'utf8');
        return Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
      } catch {
        return 0;
      }
    };
    if (controllers.includes('memory'))
      counts.memory += count(version === 2 ? 'memory.events' : 'memory.oom_control', 'oom_kill');
    if (controllers.includes('pids')) counts.processes += count('pids.events', 'max');
  }
  return counts;
}

/** By cgroup.kill (Linux 5.14), else one after the other until nobody is left: what forks meanwhile is in the group too. */
async function kill(groups: readonly Parent[]): Promise<void> {
  for (const { folder, version } of groups) {
    const atOnce =
      version === 2 &&
      (await writeFile(join(folder, 'cgroup.kill'), '1').then(
        () => true,
        () => false,
      ));
    for (let round = 0; !atOnce && round < 1000; round++) {
      const members = (await readFile(join(folder, 'cgroup.procs'), 'utf8').catch(() => ''))
        .split('\n')
        .map(Number)
        .filter((pid) => pid > 1);
      if (members.length === 0) break;
      for (const pid of members) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // It is gone.
        }
      }
      await sleep(1);
    }
  }
}

/** The kernel lets a group go only when the last of its processes is buried, which takes a moment. */
async function removeGroup(folder: string): Promise<void> {
  for (let wait = 1; wait < 2000; wait *= 2) {
    try {
      return await rmdir(folder);
    } catch (error) {
      if (systemCode(error) !== 'EBUSY') return;
    }
    await sleep(wait);
  }
}

async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.startsWith(prefix) || (await isOwnerAlive(name.slice(prefix.length)))) continue;
    const group = { folder: join(folder, name), version: 2, controllers: [] } as const;
    await kill([group]);
    await rmdir(group.folder).catch(() => {});
  }
}

/** One parent for each hierarchy that has some of the controllers; undefined where one of them can be had nowhere. */
async function parentsFor(wanted: readonly Controller[], files: KernelFiles): Promise<Parent[] | undefined> {
  const mounts = parseMounts(await readFile(files.mountinfo, 'utf8'));
  const memberships = parseMemberships(await readFile(files.cgroup, 'utf8'));
  const parents = new Map<string, Parent & { controllers: Controller[] }>();
  for (const controller of wanted) {
    const old = memberships.find(({ controllers }) => controllers.includes(controller));
    const member = old ?? memberships.find(({ controllers }) => controllers.length === 0);
    const mount = mounts.find(({ version, options }) =>
      old ? version === 1 && options.includes(controller) : version === 2,
    );
    if (!member || !mount) return undefined;
    const start = join(mount.target, below(mount.root, member.path));
    const folder = old ? await usable(start) : await delegated(start, mount.target, wanted);
    if (folder === undefined) return undefined;
    const parent = parents.get(folder) ?? { folder, version: mount.version, controllers: [] };
    parent.controllers.push(controller);
    parents.set(folder, parent);
  }
  return [...parents.values()];
}

/**
 * The nearest group, from this process's own up, whose members can be capped and that we may add members to. A group with
 * processes of its own hands no controller on, so it is rarely the own one: often it is the slice around a terminal's scope.
 */
async function delegated(
  start: string,
  top: string,
  wanted: readonly Controller[],
): Promise<string | undefined> {
  for (let folder = start; folder.startsWith(top); folder = dirname(folder)) {
    const given = await readFile(join(folder, 'cgroup.subtree_control'), 'utf8').catch(() => '');
    const hasAll = wanted.every((controller) => given.trim().split(' ').includes(controller));
    if (hasAll && (await usable(folder))) return folder;
    if (folder === top) break;
  }
  return undefined;
}

async function usable(folder: string): Promise<string | undefined> {
  try {
    await access(folder, constants.W_OK);
    // Moving a process takes the right to write this file of the group that holds both the old place and the new one.
    await access(join(folder, 'cgroup.procs'), constants.W_OK);
    const probe = join(folder, `${prefix}${await ownerName()}`);
    await mkdir(probe);
    await rmdir(probe);
    return folder;
  } catch {
    return undefined;
  }
}

/** A path of the hierarchy as seen below what is mounted of it. */
function below(root: string, path: string): string {
  if (root === '/' || !`${path}/`.startsWith(`${root}/`)) return path;
  return path.slice(root.length);
}

interface CgroupMount {
  readonly version: 1 | 2;
  readonly root: string;
  readonly target: string;
  /** Of a version 1 hierarchy, its controllers among others. */
  readonly options: readonly string[];
}

/** Format: proc(5), mountinfo. */
function parseMounts(text: string): CgroupMount[] {
  return text.split('\n').flatMap((line): CgroupMount[] => {
    const [before = '', after = ''] = line.split(' - ');
    const [type, , options = ''] = after.split(' ');
    const [, , , root = '/', target = '/'] = before.split(' ');
    if (type !== 'cgroup' && type !== 'cgroup2') return [];
    return [{ version: type === 'cgroup' ? 1 : 2, root, target, options: options.split(',') }];
  });
}

/** `ID:CONTROLLERS:PATH`, one line for each hierarchy; version 2 names no controllers. */
function parseMemberships(text: string): { readonly controllers: string[]; readonly path: string }[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, controllers = '', ...path] = line.split(':');
      return { controllers: controllers === '' ? [] : controllers.split(','), path: path.join(':') };
    });
}
