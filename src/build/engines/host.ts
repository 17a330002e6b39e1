/** This machine: which programs it has, and why it lets flk make no sandbox. */
import { access, constants, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { FlkError } from '../../base/errors.ts';

/**
 * Where sandbox programs are looked for: the system's folders, also those that an ordinary user's PATH lacks, then PATH. This order,
 * because inside the first mounts only the system's folders are left, and the same program should be found throughout.
 */
export function toolPath(): string {
  return ['/usr/sbin', '/usr/bin', '/sbin', '/bin', process.env.PATH ?? '', '/usr/local/sbin']
    .filter((part) => part !== '')
    .join(delimiter);
}

/** The absolute path of a program, if there is one. */
export async function findTool(name: string): Promise<string | undefined> {
  for (const folder of toolPath().split(delimiter)) {
    if (!folder.startsWith('/')) continue;
    const path = join(folder, name);
    const usable = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (usable) return path;
  }
  return undefined;
}

interface Cause {
  readonly cause: string;
  readonly hint: string;
}

/** Reads a small file of the kernel's; undefined where there is none. Replaced in tests. */
export type ReadKernel = (path: string) => Promise<string | undefined>;

const readKernel: ReadKernel = (path) => readFile(path, 'utf8').catch(() => undefined);

/** Why namespaces cannot be made, as far as the kernel tells, and the command that mends it. */
export async function namespaceObstacle(read: ReadKernel = readKernel): Promise<Cause | undefined> {
  const value = async (path: string): Promise<string | undefined> => (await read(path))?.trim();
  if ((await value('/proc/sys/user/max_user_namespaces')) === '0')
    return {
      cause: 'user.max_user_namespaces is 0',
      hint: 'sudo sysctl -w user.max_user_namespaces=15000',
    };
  if ((await value('/proc/sys/kernel/unprivileged_userns_clone')) === '0')
    return {
      cause: 'kernel.unprivileged_userns_clone is 0',
      hint: 'sudo sysctl -w kernel.unprivileged_userns_clone=1',
    };
  if ((await value('/proc/sys/kernel/apparmor_restrict_unprivileged_userns')) === '1')
    return {
      cause: 'AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)',
      hint: 'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0',
    };
  if (/^Seccomp:\s*2$/m.test((await read('/proc/self/status')) ?? ''))
    return {
      cause: 'a seccomp filter, as container engines set, refuses them',
      hint: 'start the container with --security-opt seccomp=unconfined --security-opt systempaths=unconfined',
    };
  const mounts = (await read('/proc/self/mountinfo')) ?? '';
  if (mounts.split('\n').some((line) => line.split(' ')[4]?.startsWith('/proc/')))
    return {
      cause: 'parts of /proc are masked, as container engines do, so that no other may be mounted',
      hint: 'start the container with --security-opt systempaths=unconfined',
    };
  return undefined;
}

/** FLK_SANDBOX_UNAVAILABLE with what was tried, the cause and the way out. `open`: even --no-sandbox found no way. */
export async function sandboxUnavailable(
  failures: readonly { readonly sandbox: string; readonly output: readonly string[] }[],
  wanted: 'shut' | 'open' = 'shut',
): Promise<FlkError> {
  const obstacle = await namespaceObstacle();
  const facts: Record<string, string> = {};
  for (const { sandbox, output } of failures) facts[sandbox] = output.slice(-3).join(' · ') || 'no message';
  if (obstacle) facts.cause = obstacle.cause;
  if (failures.length === 0) {
    return new FlkError('FLK_SANDBOX_UNAVAILABLE', 'neither bubblewrap nor util-linux is on this machine', {
      facts: { cause: 'no bwrap and no unshare on PATH' },
      hint: 'apt install bubblewrap (or util-linux), or accept --no-sandbox',
    });
  }
  if (wanted === 'open')
    return new FlkError(
      'FLK_SANDBOX_UNAVAILABLE',
      'without namespaces a build can only create /nix/store/… where the store lies at /nix/store',
      { facts, hint: obstacle?.hint ?? 'sudo install -d -o $USER /nix, then add --store /' },
    );
  return new FlkError('FLK_SANDBOX_UNAVAILABLE', 'this machine lets flk make no sandbox', {
    facts,
    ...(obstacle ? { hint: `${obstacle.hint}, or accept --no-sandbox` } : {}),
  });
}
