/** Running programs of the store on this machine, where there may be no /nix/store. */
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { lstat, mkdir, mkdtemp, readdir, readlink, realpath, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { quote } from '../base/process.ts';
import { sha256, toNixBase32 } from '../formats/hash.ts';
import { parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import type { Store } from '../store/store.ts';
import { settleView } from '../store/views.ts';
import { bubblewrap } from './engines/bubblewrap.ts';
import { findTool, sandboxUnavailable } from './engines/host.ts';
import { utilLinux } from './engines/unshare.ts';
import { hostView, type View } from './engines/view.ts';

export interface HostCommand {
  /** Absolute. Start it with inherited stdio, environment and process group; its exit status is the program's. */
  readonly command: string;
  readonly args: readonly string[];
}

/**
 * Whether a path works only where it, or what it refers to, is found at /nix/store, and this machine has it elsewhere. A path without
 * references (a static program, a script for the host's shell) runs where it physically lies.
 */
export async function needsStore(store: Store, path: StorePath): Promise<boolean> {
  if ((store.query(path)?.references.length ?? 0) === 0) return false;
  return !(await isAtHome(store));
}

/**
 * The command that runs `program`, a logical path (`/nix/store/…/bin/hello`) in a valid store path: itself where that is enough, else
 * `enterStore`, which says what it throws.
 */
export async function enterCommand(
  store: Store,
  program: string,
  args: readonly string[],
  cwd: string,
): Promise<HostCommand> {
  const path = storePathOf(program);
  const inside = program.slice(path.length);
  if (!(await needsStore(store, path))) return { command: join(store.physical(path), inside), args };
  return await enterStore(store, [program, ...args], cwd);
}

/**
 * The command that runs any other in a namespace in which this machine is as it is, but with the store at /nix/store; working folder,
 * environment, user, terminal and signals stay. A program without a slash is looked for there, on the PATH that the command is
 * started with. Throws FLK_SANDBOX_UNAVAILABLE where the machine has neither util-linux nor bubblewrap.
 */
export async function enterStore(store: Store, argv: readonly string[], cwd: string): Promise<HostCommand> {
  const { view, folder } = await storeView(store);
  // util-linux becomes the program; bubblewrap would stand between it and the terminal's signals.
  const unshare = await findTool('unshare');
  const bwrap = unshare ? undefined : await findTool('bwrap');
  const sandbox = unshare ? utilLinux(unshare) : bwrap ? bubblewrap(bwrap) : undefined;
  if (!sandbox) throw await sandboxUnavailable([], 'open');
  const { program: command, args } = await sandbox.confine(view, folder, { argv, cwd });
  return { command, args };
}

/**
 * The text of a script, for the host's shell, that runs a program of the store wherever it is started, in that folder, as
 * `enterCommand` does. It works for as long as the path is valid, this user and this machine are as they are, and without flk.
 */
export async function launcherScript(store: Store, program: string): Promise<string> {
  const folder = `/${randomBytes(16).toString('hex')}`;
  const { command, args } = await enterCommand(store, program, [], folder);
  const words = [command, ...args].map((word) => word.split(folder).map(quote).join('"$PWD"'));
  return `#!/bin/sh\nexec ${words.join(' ')} "$@"\n`;
}

/** Whether this machine's /nix/store is the store: because it lies there, or because flk has already put it there. */
export async function isAtHome(store: Store): Promise<boolean> {
  const [here, there] = await Promise.all([
    stat(join(store.root, storeDir)),
    stat(storeDir).catch(() => undefined),
  ]);
  return there !== undefined && here.dev === there.dev && here.ino === there.ino;
}

/** Where a path lies that may be one of the store's. */
export const onDisk = (store: Pick<Store, 'root'>, place: string): string =>
  place.startsWith(`${storeDir}/`) ? join(store.root, place) : place;

/** The store path in which a logical path lies. */
function storePathOf(program: string): StorePath {
  if (!program.startsWith(`${storeDir}/`))
    throw new FlkError('FLK_STORE_PATH_INVALID', `${program} is not in ${storeDir}`);
  return parseStorePath(program.split('/').slice(0, 4).join('/'));
}

/**
 * The host with this store at /nix/store. The folder that becomes `/` is kept, because programs may run in it long after flk; where
 * the host's `/` has changed, there is a new one.
 */
async function storeView(store: Store): Promise<{ readonly view: View; readonly folder: string }> {
  if (store.readOnly) return await fillView(store, await ownFolder());
  const stage = await store.stage();
  try {
    const made = await fillView(store, join(stage.path, 'view'));
    const folder = await settleView(store, made.folder, await keyOf(made.view.root));
    return { view: { ...made.view, root: join(folder, 'root') }, folder };
  } finally {
    await stage.dispose();
  }
}

async function fillView(
  store: Store,
  folder: string,
): Promise<{ readonly view: View; readonly folder: string }> {
  const root = join(folder, 'root');
  await mkdir(root, { recursive: true });
  const source = await realpath(join(store.root, storeDir));
  return { view: hostView(root, [{ source, target: storeDir, access: 'read-only' }]), folder };
}

/** For a store that cannot be written: this process's own, gone when it ends, and the program with it. */
async function ownFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'flk-view-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Names the entries of a view's root and their kinds. */
async function keyOf(root: string): Promise<string> {
  const entries: string[][] = [];
  for (const name of (await readdir(root)).sort()) {
    const info = await lstat(join(root, name));
    const link = info.isSymbolicLink() ? await readlink(join(root, name)) : '';
    entries.push([name, info.isDirectory() ? 'folder' : 'file', link]);
  }
  return toNixBase32(sha256(JSON.stringify(entries))).slice(0, 32);
}
