/** Where a person's profiles are, how their programs are started on this machine, and the link that leads there. */
import { lstatSync, readlinkSync } from 'node:fs';
import { mkdir, readFile, realpath, rename, rm, symlink } from 'node:fs/promises';
import { basename, delimiter, dirname, isAbsolute, join, resolve } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { homeFolder } from '../base/files.ts';
import { quote } from '../base/process.ts';
import { launcherScript } from '../build/enter.ts';
import { storeDir } from '../formats/store-path.ts';
import { profilesFolder } from '../store/generations.ts';
import type { LauncherScript } from '../store/launchers.ts';
import type { Store } from '../store/store.ts';
import type { Context } from './context.ts';

/** As Nix calls it. */
const defaultName = 'profile';

/** Where the profile lies that `--profile` names; a link to one, as `$XDG_STATE_HOME/flk/profile`, stands for it. Throws FLK_USAGE. */
export function profilePlace(context: Context, store: Store): string {
  const asked = context.flags.profile ?? defaultName;
  if (!asked.includes('/')) {
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$/.test(asked))
      throw new FlkError('FLK_USAGE', `'${asked}' cannot name a profile`, {
        hint: 'letters, digits and _ . + -; or a path with a slash in it',
      });
    return join(profilesFolder(store), asked);
  }
  let place = resolve(context.cwd, asked);
  for (let hops = 0; hops < 40; hops++) {
    const target = linkAt(place);
    if (target === undefined || /-\d+-(link|run)$/.test(target)) return place;
    place = resolve(dirname(place), target);
  }
  throw new FlkError('FLK_USAGE', `the links at ${asked} lead to one another`, {
    hint: 'name another profile',
  });
}

function linkAt(place: string): string | undefined {
  const info = lstatSync(place, { throwIfNoEntry: false });
  return info?.isSymbolicLink() ? readlinkSync(place) : undefined;
}

/**
 * How programs of this store are started; undefined where they start by themselves, because it lies at /nix/store. Throws FLK_USAGE
 * in a view of the machine that flk itself has made: there it cannot be told how the machine is.
 */
export async function launchersFor(store: Store): Promise<LauncherScript | undefined> {
  const mounts = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '');
  if (/^\d+ \d+ \S+ \S*\/flk\/views\/\S+ \/ /m.test(mounts))
    throw new FlkError('FLK_USAGE', 'a profile cannot be changed from within flk shell or flk run', {
      hint: 'leave the shell first: it shows another /nix/store than this machine has',
    });
  const [here, there] = await Promise.all([
    realpath(join(store.root, storeDir)),
    realpath(storeDir).catch(() => undefined),
  ]);
  return here === there ? undefined : (program) => launcherScript(store, program);
}

/**
 * Lets `$XDG_STATE_HOME/flk/profile` lead to the usual profile, where there is nothing else yet, and then says what makes its programs
 * known to the shell.
 */
export async function linkProfile(context: Context, store: Store, profile: string): Promise<void> {
  if (profile !== join(profilesFolder(store), defaultName)) return;
  const link = join(stateFolder(context), 'flk/profile');
  const target = linkAt(link);
  if (target === profile || (target === undefined && lstatSync(link, { throwIfNoEntry: false }))) return;
  // A link to a profile of another store is somebody's wish; one that leads nowhere is not.
  if (target !== undefined && lstatSync(target, { throwIfNoEntry: false })) return;
  const staged = `${link}.${process.pid}`;
  try {
    await mkdir(dirname(link), { recursive: true });
    await rm(staged, { force: true });
    await symlink(profile, staged);
    await rename(staged, link);
  } catch {
    // The profile itself is as it should be; a home that cannot be written needs no link.
    return;
  }
  const bin = join(link, 'bin');
  const isKnown = (context.env.PATH ?? '').split(delimiter).includes(bin);
  if (!isKnown && !context.flags.quiet)
    context.report.say(`for your shell’s ${rcOf(context)}: export PATH=${quote(bin)}:"$PATH"`);
}

export function stateFolder({ env }: Context): string {
  const home = homeFolder(env);
  return isAbsolute(env.XDG_STATE_HOME ?? '') ? env.XDG_STATE_HOME! : join(home, '.local/state');
}

const rcOf = ({ env }: Context): string => (basename(env.SHELL ?? '') === 'zsh' ? '~/.zshrc' : '~/.profile');
