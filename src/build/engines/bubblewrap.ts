/** The sandbox by bubblewrap 0.8 or later. Its manual: bwrap(1). */

import type { Confined, Inside, Sandbox } from './sandbox.ts';
import { seccompFilter } from './seccomp.ts';
import { kernelFiles, type View } from './view.ts';

/** A sandbox that starts `program` (bwrap). */
export function bubblewrap(program: string): Sandbox {
  const filter = seccompFilter(process.arch);
  return {
    name: 'bubblewrap',
    confine: async (view: View, _folder: string, inside: Inside): Promise<Confined> => {
      const options = optionsFor(view, inside);
      if (!view.isolated) return { program, args: [...options, '--', ...inside.argv], inputs: [] };
      if (filter) options.push('--seccomp', '5');
      return {
        program,
        // fd 3 tells what became of the command; fd 4 holds the options, which may be longer than a command line; fd 5 the filter.
        args: ['--json-status-fd', '3', '--args', '4', '--', ...inside.argv],
        inputs: [options.map((option) => `${option}\0`).join(''), ...(filter ? [filter] : [])],
        // Only a command that was started has an exit code; a sandbox that could not be made has none.
        started: (report) => report.includes('"exit-code"'),
      };
    },
  };
}

function optionsFor(view: View, inside: Inside): string[] {
  const options = ['--die-with-parent', '--unshare-user', '--cap-drop', 'ALL', '--ro-bind', view.root, '/'];
  if (view.isolated) {
    const { hostName, user } = view.isolated;
    options.push('--unshare-pid', '--as-pid-1', '--unshare-net', '--unshare-ipc', '--unshare-uts');
    options.push('--unshare-cgroup-try', '--disable-userns', '--new-session', '--hostname', hostName);
    options.push('--uid', String(user.uid), '--gid', String(user.gid));
    options.push('--proc', '/proc', '--dev', '/dev', '--tmpfs', '/dev/shm', '--remount-ro', '/dev');
    for (const path of kernelFiles) options.push('--ro-bind-try', path, path);
  }
  const flags = { 'read-only': '--ro-bind', writable: '--bind', 'as-is': '--dev-bind' };
  for (const mount of view.mounts) options.push(flags[mount.access], mount.source, mount.target);
  for (const { target } of view.inMemory) options.push('--perms', '0755', '--tmpfs', target);
  options.push('--chdir', inside.cwd);
  if (inside.env) options.push('--clearenv');
  for (const [name, value] of inside.env ?? []) options.push('--setenv', name, value);
  return options;
}
