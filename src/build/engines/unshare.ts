/**
 * The sandbox by util-linux 2.36 or later, which every Debian has: unshare, mount, pivot_root, setpriv. Same view as bubblewrap.
 *
 * A first user namespace gives the right to mount. There a small *tools root* is put together: the host's programs, read-only,
 * and in it, under a name nobody can guess, the root that the builder gets. pivot_root leaves the host behind; then the
 * privileges go, a second user namespace gives the builder its fixed user, and chroot puts it into its own root, where no
 * util-linux need be. From inside a chroot the kernel allows no further user namespace, so there is no way back to privileges.
 */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, readFile, readlink, rename, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { toolPath } from './host.ts';
import type { Confined, Inside, Sandbox } from './sandbox.ts';
import type { Surroundings } from './surroundings.ts';
import { devices, kernelFiles, type Mount, type View } from './view.ts';

/**
 * $1 the new root, $2 where in it the old one is put for a moment, $3 a mount table (fstab), $4 further remounts, one to a line
 * as OPTIONS SPACE TARGET, $5 `isolated` or `host`, $6 the PATH for its own tools; the rest is the command that goes on. Data comes
 * in parameters and files only. Nothing is exported and no folder entered, because the command may inherit both. Without iproute2
 * and net-tools the loopback device is set up by perl (SIOCSIFFLAGS; every Debian has perl-base).
 */
const script = `
set -e
flk_root=$1 flk_old=$2 flk_table=$3 flk_again=$4 flk_host=$5 flk_path=$6
shift 6
tool() { PATH=$flk_path "$@"; }
tool mount --rbind -- "$flk_root" "$flk_root"
tool mount -a -T "$flk_table"
while read -r flk_options flk_target; do tool mount -o "$flk_options" -- "$flk_target"; done < "$flk_again"
if [ -n "$flk_host" ]; then
  tool hostname "$flk_host"
  tool ip link set lo up 2>/dev/null || tool ifconfig lo up 2>/dev/null ||
    tool perl -e '$up = pack("a16s", "lo", 0x49); socket(S, 2, 2, 0) && ioctl(S, 0x8914, $up)' 2>/dev/null || :
fi
( cd -- "$flk_root" && tool pivot_root . "$flk_old" )
tool umount -l "/$flk_old"
tool mount -o remount,bind,ro /
{ echo started >&3; } 2>&- || :
exec "$@" 3>&-
`;

/** A sandbox by the util-linux programs on PATH; `unshare` is the absolute path of that one, which also runs where PATH is the builder's. */
export function utilLinux(unshare: string): Sandbox {
  return {
    name: 'unshare',
    confine: async (view, folder, inside) =>
      view.isolated
        ? confineIsolated(unshare, view, view.isolated, folder, inside)
        : confineOnHost(unshare, view, folder, inside),
  };
}

async function confineIsolated(
  unshare: string,
  view: View,
  { hostName, user }: Surroundings,
  folder: string,
  inside: Inside,
): Promise<Confined> {
  // The builder's environment is already set when the last host programs run. What it may name (LD_PRELOAD) cannot be a file
  // of the build, because nobody can know this name.
  const name = randomBytes(16).toString('hex');
  const tools = join(folder, 'tools');
  const root = join(tools, name);
  await mkdir(root, { recursive: true });
  await mkdir(join(tools, 'old'));
  await symlink(`${name}/proc`, join(tools, 'proc'));
  const mounts: Mount[] = [];
  for (const entry of ['bin', 'sbin', 'usr', 'lib', 'lib32', 'lib64', 'libx32']) {
    const info = await lstat(`/${entry}`).catch(() => undefined);
    if (info?.isSymbolicLink()) await symlink(await readlink(`/${entry}`), join(tools, entry));
    else if (info?.isDirectory()) {
      await mkdir(join(tools, entry));
      mounts.push({ source: `/${entry}`, target: `/${entry}`, access: 'read-only' });
    }
  }
  const host = await hostMounts();
  const covered = await Promise.all(kernelFiles.map(async (path) => ((await exists(path)) ? [path] : [])));
  const table = [
    ...mounts.map((mount) => bindLine(mount, tools, host)),
    bindLine({ source: view.root, target: '', access: 'read-only' }, root, host),
    line('proc', join(root, 'proc'), 'proc', 'nosuid,nodev,noexec'),
    ...covered.flat().map((path) => selfBind(join(root, path))),
    ...devices.map((entry) => line(`/dev/${entry}`, join(root, 'dev', entry), 'none', 'bind')),
    line('devpts', join(root, 'dev/pts'), 'devpts', 'nosuid,noexec,newinstance,ptmxmode=0666,mode=620'),
    line('tmpfs', join(root, 'dev/shm'), 'tmpfs', 'nosuid,nodev,mode=1777'),
    ...view.mounts.map((mount) => bindLine(mount, root, host)),
    ...view.inMemory.map(({ target }) => line('tmpfs', join(root, target), 'tmpfs', 'nosuid,nodev,mode=755')),
  ];
  const again = [...submounts(mounts, tools, host), ...submounts(view.mounts, root, host)];
  return {
    program: 'setpriv',
    args: [
      ...['--pdeathsig', 'KILL', 'unshare', '--user', '--map-root-user', '--mount', '--pid', '--net'],
      ...[
        '--ipc',
        '--uts',
        '--cgroup',
        '--fork',
        '--kill-child',
        '--',
        'setsid',
        '/bin/sh',
        '-c',
        script,
        'flk',
      ],
      ...[tools, 'old', ...(await written(folder, table, again)), hostName, toolPath()],
      // CAP_SETFCAP alone stays: the kernel asks for it where user 0 is mapped into a namespace below.
      ...['setpriv', '--no-new-privs', '--inh-caps=-all', '--bounding-set=-all,+setfcap', '--'],
      ...['env', '-i', '--', ...assignments(inside.env ?? new Map())],
      ...[unshare, `--map-user=${user.uid}`, `--map-group=${user.gid}`],
      ...[`--root=/${name}`, `--wd=${inside.cwd}`, '--', ...inside.argv],
    ],
    inputs: [],
    started: (status) => status.startsWith('started'),
  };
}

/** The host as it is, with another /nix/store. Whoever is really root needs no user namespace and keeps all rights. */
async function confineOnHost(unshare: string, view: View, folder: string, inside: Inside): Promise<Confined> {
  const host = await hostMounts();
  const table = view.mounts.map((mount) => bindLine(mount, view.root, host));
  const again = submounts(view.mounts, view.root, host);
  const mayMount = await hasMountRight();
  const { getuid, getgid } = process;
  const user = [`--map-user=${getuid?.() ?? 0}`, `--map-group=${getgid?.() ?? 0}`];
  return {
    program: unshare,
    args: [
      ...(mayMount ? ['--mount'] : ['--user', '--map-root-user', '--mount']),
      ...['--', '/bin/sh', '-c', script, 'flk', view.root, 'nix'],
      ...[...(await written(folder, table, again)), '', toolPath()],
      ...(inside.env ? ['env', '-i', '--', ...assignments(inside.env)] : []),
      ...[unshare, ...(mayMount ? [] : user), `--wd=${inside.cwd}`, '--', ...inside.argv],
    ],
    inputs: [],
    started: (status) => status.startsWith('started'),
  };
}

/** CAP_SYS_ADMIN, bit 21 of the effective capabilities. Format: proc(5), status. */
async function hasMountRight(): Promise<boolean> {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(await readFile('/proc/self/status', 'utf8'));
  return process.getuid?.() === 0 && ((BigInt(`0x${effective?.[1] ?? '0'}`) >> 21n) & 1n) === 1n;
}

function assignments(env: ReadonlyMap<string, string>): string[] {
  return [...env].map(([name, value]) => `${name}=${value}`);
}

/** Replaced in one step: a view that is used again may be in use. */
async function written(folder: string, table: string[], again: string[]): Promise<[string, string]> {
  const files: [string, string] = [join(folder, 'mounts'), join(folder, 'remounts')];
  for (const [i, lines] of [table, again].entries()) {
    const staged = `${files[i]}.${randomBytes(6).toString('hex')}`;
    await writeFile(staged, lines.map((entry) => `${entry}\n`).join(''));
    await rename(staged, files[i]!);
  }
  return files;
}

const line = (source: string, target: string, type: string, options: string): string =>
  `${escaped(source)} ${escaped(target)} ${type} ${options} 0 0`;

const selfBind = (path: string): string => line(path, path, 'none', 'bind,ro,nosuid,nodev,noexec');

function bindLine(mount: Mount, root: string, host: readonly HostMount[]): string {
  const base = mount.access === 'read-only' ? 'rbind,ro,nosuid,nodev' : 'bind,nosuid,nodev';
  // In a user namespace a restriction of the mount below may be kept but not lifted: leaving noexec out is refused.
  const below = host.findLast((other) => isWithin(mount.source, other.target));
  const options = mount.access === 'as-is' ? 'rbind' : base + (below?.noexec ? ',noexec' : '');
  return line(mount.source, join(root, mount.target), 'none', options);
}

/** Read-only reaches only the top of what is bound; what the host has mounted below is remounted by itself. */
function submounts(mounts: readonly Mount[], root: string, host: readonly HostMount[]): string[] {
  const lines: string[] = [];
  for (const mount of mounts) {
    if (mount.access !== 'read-only') continue;
    for (const other of host) {
      if (other.target === mount.source || !isWithin(other.target, mount.source)) continue;
      const target = join(root, mount.target, other.target.slice(mount.source.length));
      lines.push(`remount,bind,ro,nosuid,nodev${other.noexec ? ',noexec' : ''} ${target}`);
    }
  }
  return lines;
}

const isWithin = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`);

interface HostMount {
  readonly target: string;
  readonly noexec: boolean;
}

/** What is mounted on the host, shorter paths first. Format: proc(5), mountinfo. */
async function hostMounts(): Promise<HostMount[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text
    .split('\n')
    .filter((entry) => entry !== '')
    .map((entry) => {
      const [, , , , target = '/', options = ''] = entry.split(' ');
      return {
        target: target.replace(/\\([0-7]{3})/g, (_, octal: string) =>
          String.fromCharCode(Number.parseInt(octal, 8)),
        ),
        noexec: options.split(',').includes('noexec'),
      };
    })
    .sort((a, b) => a.target.length - b.target.length);
}

const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );

/** As fstab(5) writes white space and backslashes. */
function escaped(path: string): string {
  return path.replace(/[\s\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
}
