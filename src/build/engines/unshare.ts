/**
 * The sandbox by util-linux 2.36 or later, which every Debian has: unshare, mount, pivot_root, setpriv. Same view as bubblewrap.
 *
 * A first user namespace gives the right to mount. There a small *tools root* is put together: the host's programs, read-only,
 * and in it, under a name nobody can guess, the root that the builder gets. pivot_root leaves the host behind; then the
 * privileges go, a second user namespace gives the builder its fixed user, and chroot puts it into its own root, where no
 * util-linux need be. From inside a chroot the kernel allows no further user namespace, so there is no way back to privileges.
 */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { type Confined, type Inside, type Sandbox, sandboxUser } from './sandbox.ts';
import { devices, kernelFiles, type Mount, type View } from './view.ts';

/**
 * $1 the new root, $2 where in it the old one is put for a moment, $3 a mount table (fstab), $4 further remounts, one to a line
 * as OPTIONS SPACE TARGET, $5 `isolated` or `host`; the rest is the command that goes on. Data comes in parameters and files
 * only. Without iproute2 and net-tools the loopback device is set up by perl (SIOCSIFFLAGS; every Debian has perl-base).
 */
const script = `
set -e
root=$1 old=$2 table=$3 again=$4 kind=$5
shift 5
mount --rbind -- "$root" "$root"
mount -a -T "$table"
while read -r options target; do mount -o "$options" -- "$target"; done < "$again"
if [ "$kind" = isolated ]; then
  hostname localhost
  ip link set lo up 2>/dev/null || ifconfig lo up 2>/dev/null ||
    perl -e 'socket(S,2,2,0) && ioctl(S,0x8914,pack("a16s","lo",0x49))' 2>/dev/null || :
fi
cd -- "$root"
pivot_root . "$old"
cd /
umount -l "/$old"
mount -o remount,bind,ro /
{ echo started >&3; } 2>&- || :
exec "$@" 3>&-
`;

/** A sandbox by the util-linux programs on PATH; `unshare` is the absolute path of that one, which also runs where PATH is the builder's. */
export function utilLinux(unshare: string): Sandbox {
  return {
    name: 'unshare',
    confine: async (view, folder, inside) =>
      view.isolated
        ? confineIsolated(unshare, view, folder, inside)
        : confineOnHost(unshare, view, folder, inside),
  };
}

async function confineIsolated(
  unshare: string,
  view: View,
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
  ];
  const again = [...submounts(mounts, tools, host), ...submounts(view.mounts, root, host)];
  return {
    program: 'setpriv',
    args: [
      ...['--pdeathsig', 'KILL', 'unshare', '--user', '--map-root-user', '--mount', '--pid', '--net'],
      ...['--ipc', '--uts', '--cgroup', '--fork', '--kill-child', '--', 'setsid', 'sh', '-c', script, 'flk'],
      ...[tools, 'old', ...(await written(folder, table, again)), 'isolated'],
      // CAP_SETFCAP alone stays: the kernel asks for it where user 0 is mapped into a namespace below.
      ...['setpriv', '--no-new-privs', '--inh-caps=-all', '--bounding-set=-all,+setfcap', '--'],
      ...['env', '-i', '--', ...assignments(inside)],
      ...[unshare, `--map-user=${sandboxUser.uid}`, `--map-group=${sandboxUser.gid}`],
      ...[`--root=/${name}`, `--wd=${inside.cwd}`, '--', ...inside.argv],
    ],
    started: (status) => status.startsWith('started'),
  };
}

async function confineOnHost(unshare: string, view: View, folder: string, inside: Inside): Promise<Confined> {
  const host = await hostMounts();
  const table = view.mounts.map((mount) => bindLine(mount, view.root, host));
  const again = submounts(view.mounts, view.root, host);
  const { getuid, getgid } = process;
  return {
    program: 'unshare',
    args: [
      ...['--user', '--map-root-user', '--mount', '--', 'sh', '-c', script, 'flk'],
      ...[view.root, 'nix', ...(await written(folder, table, again)), 'host'],
      ...['env', '-i', '--', ...assignments(inside)],
      ...[unshare, `--map-user=${getuid?.() ?? 0}`, `--map-group=${getgid?.() ?? 0}`],
      ...[`--wd=${inside.cwd}`, '--', ...inside.argv],
    ],
    started: (status) => status.startsWith('started'),
  };
}

function assignments(inside: Inside): string[] {
  return [...inside.env].map(([name, value]) => {
    if (name === '' || name.includes('='))
      throw new FlkError('FLK_DERIVATION_INVALID', `no environment variable can be named “${name}”`);
    return `${name}=${value}`;
  });
}

async function written(folder: string, table: string[], again: string[]): Promise<[string, string]> {
  const files: [string, string] = [join(folder, 'mounts'), join(folder, 'remounts')];
  await writeFile(files[0], `${table.join('\n')}\n`);
  await writeFile(files[1], again.map((entry) => `${entry}\n`).join(''));
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
