/**
 * What a build sees of the file system, as one list for every sandbox: a folder that holds the entries of `/` (symlinks, small
 * files, empty mount points), and what is mounted over them. Made by calls that do not wait for a thread: each takes some µs, and a build
 * needs dozens.
 */
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { FlkError, systemCode } from '../../base/errors.ts';
import { baseNameOf, type StorePath, storeDir } from '../../formats/store-path.ts';
import type { Toolchain } from './engine.ts';
import type { Surroundings } from './surroundings.ts';

export interface Mount {
  /** A physical folder or file, without symlinks on the way. */
  readonly source: string;
  /** Where it appears: an absolute path, for which the view's root holds a mount point of the same kind. */
  readonly target: string;
  /** `as-is`: with whatever is mounted below it, devices included, as it is on the host. */
  readonly access: 'read-only' | 'writable' | 'as-is';
}

/** An empty folder in memory, to be written, at a place like a mount's. */
interface MemoryFolder {
  readonly target: string;
}

export interface View {
  /** The physical folder that becomes `/`, read-only. */
  readonly root: string;
  /** In the order in which they are mounted. */
  readonly mounts: readonly Mount[];
  /** After the mounts. */
  readonly inMemory: readonly MemoryFolder[];
  /**
   * Own processes, network, System V IPC, /proc and /dev, and this host name and user; undefined: only the file system differs and
   * all else is the caller's.
   */
  readonly isolated: Surroundings | undefined;
}

/** The folders that one build may write, all on the store's file system. */
export interface Scratch {
  /** Appears as /nix/store; outputs are created here. */
  readonly store: string;
  /** Appears as /build. */
  readonly build: string;
  /** Appears as /tmp. */
  readonly tmp: string;
}

/** Makes the folders of a build below a fresh one. */
export function makeScratch(folder: string): Scratch {
  const scratch: Scratch = {
    store: join(folder, 'store'),
    build: join(folder, 'build'),
    tmp: join(folder, 'tmp'),
  };
  for (const path of Object.values(scratch) as string[]) mkdirSync(path, { mode: 0o755 });
  return scratch;
}

/** What builds with one toolchain share: the entries of `/`, to be mounted read-only, and the toolchain in them. */
export interface Base {
  readonly root: string;
  readonly mounts: readonly Mount[];
}

/** Entries of `/` that are the sandbox's own; a toolchain cannot bring them. Its `etc` is added to ours. */
export const ownEntries: ReadonlySet<string> = new Set(['build', 'dev', 'etc', 'nix', 'proc', 'tmp']);

/** Who a builder is, as Nix names it, so that `id` and `ls -l` say the same in both. */
export const etcFiles = ({ name, uid, gid }: Surroundings['user']): Readonly<Record<string, string>> => ({
  passwd: [
    'root:x:0:0:root:/build:/noshell',
    `${name}:x:${uid}:${gid}:builder:/build:/noshell`,
    'nobody:x:65534:65534:nobody:/:/noshell',
    '',
  ].join('\n'),
  group: ['root:x:0:', `${name}:!:${gid}:`, 'nogroup:x:65534:', ''].join('\n'),
  hosts: '127.0.0.1 localhost\n::1 localhost\n',
});

/** Of `/etc`, whatever the toolchain has there. */
export const etcFileNames = ['passwd', 'group', 'hosts'];

/** What of the host's /etc its compilers and interpreters cannot do without, where it exists. */
const hostEtc = ['alternatives', 'ld.so.cache', 'ld.so.conf', 'ld.so.conf.d', 'ssl'];
const hostTop = /^(bin|sbin|usr|lib[0-9a-z]*)$/;

/** Fills a fresh folder with all that is at `/`: the sandbox's own entries, and those of the toolchain. */
export function makeBase(
  folder: string,
  toolchain: Toolchain,
  physical: (path: StorePath) => string,
  user: Surroundings['user'],
): Base {
  const [root, empty] = [join(folder, 'root'), join(folder, 'empty')];
  for (const path of [root, empty]) mkdirSync(path, { mode: 0o755 });
  for (const name of ownEntries) mkdirSync(join(root, name));
  mkdirSync(join(root, storeDir), { recursive: true });
  const files = etcFiles(user);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(root, 'etc', name), text);
  fillDev(join(root, 'dev'));
  const mounts: Mount[] = [];
  const place = (source: string, target: string) => placeAt(root, source, target, 'read-only', mounts);
  const top = toolchain.kind === 'host' ? '/' : physical(toolchain.path);
  for (const name of entriesOf(top)) {
    if (toolchain.kind === 'host' ? hostTop.test(name) : !ownEntries.has(name))
      place(join(top, name), `/${name}`);
  }
  if (!exists(join(root, 'bin'))) mkdirSync(join(root, 'bin'));
  const etc =
    toolchain.kind === 'host' ? hostEtc : isFolder(join(top, 'etc')) ? entriesOf(join(top, 'etc')) : [];
  for (const name of etc) {
    if (!Object.hasOwn(files, name)) place(join(top, 'etc', name), `/etc/${name}`);
  }
  // Who runs flk as root is the owner of /etc/ssl also inside: the host's private keys must not be there to be read.
  if (toolchain.kind === 'host' && isFolder('/etc/ssl/private'))
    mounts.push({ source: empty, target: '/etc/ssl/private', access: 'read-only' });
  return { root, mounts };
}

/** The isolated view: the base at `/`, the closure read-only in a /nix/store that can be written beside it, nothing else. */
export function isolatedView(
  base: Base,
  scratch: Scratch,
  closure: readonly StorePath[],
  physical: (path: StorePath) => string,
  surroundings: Surroundings,
): View {
  const mounts: Mount[] = [
    ...base.mounts,
    { source: scratch.build, target: '/build', access: 'writable' },
    { source: scratch.tmp, target: '/tmp', access: 'writable' },
    ...storeMounts(scratch, closure, physical),
  ];
  const inMemory = surroundings.inMemory ? [{ target: '/build' }] : [];
  return { root: base.root, mounts, inMemory, isolated: surroundings };
}

/** The host as it is, but for /nix/store, which is `store` (and the closure in it, for a build). */
export function hostView(root: string, store: readonly Mount[]): View {
  const mounts: Mount[] = [];
  for (const name of entriesOf('/')) {
    if (name !== 'nix') placeAt(root, `/${name}`, `/${name}`, 'as-is', mounts);
  }
  mkdirSync(join(root, storeDir), { recursive: true });
  return { root, mounts: [...mounts, ...store], inMemory: [], isolated: undefined };
}

/** /nix/store: a folder that can be written, with every path of the closure read-only in it. */
export function storeMounts(
  scratch: Pick<Scratch, 'store'>,
  closure: readonly StorePath[],
  physical: (path: StorePath) => string,
): Mount[] {
  const mounts: Mount[] = [{ source: scratch.store, target: storeDir, access: 'writable' }];
  for (const path of closure)
    placeAt(scratch.store, physical(path), path, 'read-only', mounts, baseNameOf(path));
  return mounts;
}

/** Makes `target` show `source`: a symlink is copied, anything else gets a mount point below `root` and a mount. */
function placeAt(
  root: string,
  source: string,
  target: string,
  access: Mount['access'],
  mounts: Mount[],
  name = target,
): void {
  const info = lstatSync(source, { throwIfNoEntry: false });
  if (!info) return;
  const point = join(root, name);
  if (info.isSymbolicLink()) {
    symlinkSync(readlinkSync(source), point);
    return;
  }
  if (info.isDirectory()) mkdirSync(point);
  else writeFileSync(point, '');
  mounts.push({ source: realpathSync.native(source), target, access });
}

/** The names that every /dev of ours has; in each sandbox they become the kernel's devices. */
export const devices = ['null', 'zero', 'full', 'random', 'urandom', 'tty'] as const;

/**
 * What /proc lets root write. Who runs flk as root is, to the kernel, root inside too: without capabilities, but still the owner
 * of these files. Each sandbox covers them by a read-only mount, where they exist.
 */
export const kernelFiles = ['/proc/sys', '/proc/sysrq-trigger', '/proc/irq', '/proc/bus'] as const;

function fillDev(dev: string): void {
  for (const name of devices) writeFileSync(join(dev, name), '');
  for (const name of ['pts', 'shm']) mkdirSync(join(dev, name));
  const links = {
    ptmx: 'pts/ptmx',
    fd: '/proc/self/fd',
    stdin: '/proc/self/fd/0',
    stdout: '/proc/self/fd/1',
    stderr: '/proc/self/fd/2',
    core: '/proc/kcore',
  };
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(dev, name));
}

/** Far more than any root folder has. */
const maxEntries = 10_000;

function entriesOf(folder: string): string[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (systemCode(error) === 'ENOTDIR')
      throw new FlkError('FLK_PACKAGE_INVALID', `a toolchain must be a folder: ${folder} is a file`);
    throw error;
  }
  if (names.length > maxEntries)
    throw new FlkError(
      'FLK_LIMIT',
      `${folder} has ${names.length} entries; at most ${maxEntries} are mounted`,
    );
  return names.sort();
}

const exists = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;

const isFolder = (path: string): boolean =>
  lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
