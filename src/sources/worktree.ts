/**
 * The repository at hand: where it is, and what Git says of its working tree. Where there is no git program, isomorphic-git says it
 * (worktree-isomorphic.ts). Nothing here writes to the repository, except `trackFile`.
 */
import { statSync } from 'node:fs';
import { devNull } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { type Finished, quote, run } from '../base/process.ts';
import type { Rev } from '../flake/flake-ref.ts';
import { type BytePath, bytePath } from '../store/tree-files.ts';
import { lookAt } from './disk.ts';
import type { TrackedEntry, TrackedState } from './tracked-files.ts';

/**
 * The root of the repository that `folder` lies in: the nearest folder upwards that holds a `.git`, on the same file system.
 * Undefined when there is none. Starts no process.
 */
export function findRepository(folder: string): string | undefined {
  for (const at of upwards(folder)) if (lookAt(join(at, '.git'))) return at;
  return undefined;
}

/** The folder and those above it, up to the root or the border of the file system. */
export function* upwards(folder: string): Generator<string> {
  const device = statSync(folder, { throwIfNoEntry: false })?.dev;
  for (let at = resolve(folder); ; at = dirname(at)) {
    if (statSync(at, { throwIfNoEntry: false })?.dev !== device) return;
    yield at;
    if (dirname(at) === at) return;
  }
}

/** What Git tracks in the repository at `root`, and how it compares with HEAD. Throws FLK_GIT_WORKTREE, FLK_GIT_REMOTE. */
export async function readTracked(root: string, signal?: AbortSignal): Promise<TrackedState> {
  try {
    // Without asking first whether there is git: it nearly always is, and starts at once.
    const state = await readTrackedByGit(root, signal);
    gitFound ??= Promise.resolve(true);
    return state;
  } catch (error) {
    if (!(error instanceof FlkError) || error.code !== 'FLK_GIT_MISSING') throw error;
    const { readTrackedByIsomorphicGit } = await import('./worktree-isomorphic.ts');
    return await readTrackedByIsomorphicGit(root);
  }
}

let gitFound: Promise<boolean> | undefined;

/** Whether there is a git program; asked once. */
export function hasGit(): Promise<boolean> {
  gitFound ??= run('git', ['--version'], { env: gitEnvironment() }).then(
    ({ status }) => status === 0,
    (error: unknown) => {
      if (error instanceof FlkError && error.code === 'FLK_GIT_MISSING') return false;
      throw error;
    },
  );
  return gitFound;
}

/** As `readTracked`, by the git program. */
export async function readTrackedByGit(root: string, signal?: AbortSignal): Promise<TrackedState> {
  const [status, list, head] = await Promise.all([
    git(root, signal, 'status', ...statusArguments),
    git(root, signal, 'ls-files', '-z', '-s', '-t'),
    // Fails before the first commit.
    tryGit(root, signal, 'rev-list', '--max-count=1', '--timestamp', 'HEAD', '--'),
  ]);
  const { oid, head: branch, dirty } = parseStatus(status);
  const entries = parseList(list);
  if (dirty && entries.sparse)
    throw new FlkError(
      'FLK_GIT_WORKTREE',
      `${root} is a sparse checkout with uncommitted changes, so the files that are not checked out are unknown`,
      { hint: 'commit the changes, or run git sparse-checkout disable' },
    );
  const rev = oid === '(initial)' ? undefined : (oid as Rev);
  const [time, ofHead] = head.stdout.toString('latin1').trim().split(' ');
  const lastModified =
    rev === undefined
      ? 0
      : ofHead === rev
        ? Number.parseInt(time!, 10)
        : // Somebody has committed meanwhile.
          await committerTime(root, rev, signal);
  return {
    entries: entries.list,
    ...(rev === undefined ? {} : { rev }),
    ...(branch === '(detached)' ? {} : { ref: `refs/heads/${branch}` }),
    lastModified,
    dirty,
  };
}

const statusArguments = [
  '--porcelain=v2',
  '-z',
  '--branch',
  '--no-ahead-behind',
  '--no-renames',
  '--untracked-files=no',
  '--ignore-submodules=dirty',
];

/** git-status(1), porcelain v2 with -z: `# branch.oid X`, then one record per changed path. */
function parseStatus(output: Buffer): { oid: string; head: string; dirty: boolean } {
  let oid = '';
  let head = '';
  let dirty = false;
  for (const record of output.toString('latin1').split('\0')) {
    const [, header, value] = /^# branch\.(oid|head) (.*)$/s.exec(record) ?? [];
    if (header === 'oid') oid = value!;
    else if (header === 'head') head = Buffer.from(value!, 'latin1').toString();
    else if (/^[12u] /.test(record)) {
      // `1 XY SUB …`: a submodule that only has another commit checked out changes nothing in our tree.
      const [, index, inSubmodule] = /^. (.). (.)/.exec(record) ?? [];
      if (!(inSubmodule === 'S' && index === '.')) dirty = true;
    }
  }
  if (!/^([0-9a-f]{40,64}|\(initial\))$/.test(oid))
    throw new FlkError('FLK_GIT_REMOTE', 'git status answers with something that flk does not know', {
      facts: { found: output.subarray(0, 200).toString() },
    });
  return { oid, head, dirty };
}

/** git-ls-files(1), -z -s -t: `TAG MODE ID STAGE<tab>PATH`. A path in conflict comes once per side. */
function parseList(output: Buffer): { list: TrackedEntry[]; sparse: boolean } {
  const list: TrackedEntry[] = [];
  let sparse = false;
  let last: BytePath | undefined;
  for (let at = 0; at < output.length; ) {
    const end = output.indexOf(0, at);
    const record = end < 0 ? '' : output.toString('latin1', at, end);
    const tab = record.indexOf('\t');
    if (tab < 0)
      throw new FlkError('FLK_GIT_REMOTE', 'git ls-files answers with something that flk does not know');
    at = end + 1;
    if (record[0] === 'S' || record[0] === 's') sparse = true;
    const path = record.slice(tab + 1);
    if (path === last) continue;
    last = path;
    list.push({ path, submodule: record.startsWith('160000 ', 2) });
  }
  return { list, sparse };
}

/** What Git tracks and is not as it was committed; paths from the repository's root, in the order of their names. */
export interface ChangedFiles {
  readonly changed: readonly Buffer[];
  readonly deleted: readonly Buffer[];
}

/** By the git program. Throws FLK_GIT_WORKTREE, FLK_GIT_MISSING. */
export async function changedFiles(root: string, signal?: AbortSignal): Promise<ChangedFiles> {
  const found = { changed: [] as Buffer[], deleted: [] as Buffer[] };
  const status = await git(root, signal, 'status', ...statusArguments);
  for (const record of status.toString('latin1').split('\0')) {
    // How many fields stand before the path is told by the first.
    const [, state, path] =
      /^1 (..) N(?:\S* ){6}(.+)$/s.exec(record) ?? /^u (..) N(?:\S* ){8}(.+)$/s.exec(record) ?? [];
    if (state === undefined || path === undefined) continue;
    found[state.includes('D') ? 'deleted' : 'changed'].push(Buffer.from(path, 'latin1'));
  }
  // As if names, not whole paths, were compared.
  const key = (path: Buffer): string => path.toString('latin1').replaceAll('/', '\0');
  const order = (a: Buffer, b: Buffer): number => (key(a) < key(b) ? -1 : 1);
  return { changed: found.changed.sort(order), deleted: found.deleted.sort(order) };
}

async function committerTime(root: string, rev: Rev, signal: AbortSignal | undefined): Promise<number> {
  const line = await git(root, signal, 'rev-list', '--max-count=1', '--timestamp', rev, '--');
  return Number.parseInt(line.toString('latin1'), 10);
}

/**
 * Makes sure that Git tracks the file, so that a clone would have it. Throws FLK_MANIFEST_UNTRACKED with the command that mends it.
 */
export async function assertTracked(root: string, path: string): Promise<void> {
  const known = (await hasGit())
    ? (await git(root, undefined, 'ls-files', '-z', '--', `./${path}`)).length > 0
    : (await readTracked(root)).entries.some((entry) => entry.path === bytePath(path));
  if (known) return;
  const ignored =
    (await hasGit()) && (await tryGit(root, undefined, 'check-ignore', '-q', '--', `./${path}`)).status === 0;
  // Where flk runs inside the repository, the way from there; else git must be told where the repository is.
  const inside = !isOutside(relative(root, process.cwd()));
  const shown = inside ? relative(process.cwd(), join(root, path)) : path;
  throw new FlkError(
    'FLK_MANIFEST_UNTRACKED',
    ignored
      ? `${shown} is ignored by Git (.gitignore), so a clone would not have it`
      : `${shown} is not tracked by Git, so a clone would not have it`,
    {
      hint: `git ${inside ? '' : `-C ${quote(root)} `}add ${ignored ? '-fN' : '-N'} ${quote(shown)}`,
      facts: { repository: root },
    },
  );
}

/** Makes Git know a file that flk wrote (`git add -N`), its content unstaged. False where there is no git program to do it. */
export async function trackFile(root: string, path: string): Promise<boolean> {
  if (!(await hasGit())) return false;
  await git(root, undefined, 'add', '--intent-to-add', '--force', '--', `./${path}`);
  return true;
}

/**
 * Commits one file that Git tracks, whatever else is staged, and gives the new revision; undefined where Git ignores the file or
 * it is as it was committed. The person's own hooks and signing take part, as in any commit. Throws FLK_GIT_MISSING,
 * FLK_GIT_WORKTREE.
 */
export async function commitFile(root: string, path: string, message: string): Promise<Rev | undefined> {
  const ignored = await tryGit(root, undefined, 'check-ignore', '--quiet', '--', `./${path}`);
  if (ignored.status === 0) return undefined;
  const before = await tryGit(root, undefined, 'rev-parse', '--verify', '--quiet', 'HEAD');
  const { status, stderr } = await run(
    'git',
    ['-c', 'core.fsmonitor=false', '-C', root, 'commit', '--quiet', '--file=-', '--only', '--', `./${path}`],
    { env: { ...gitEnvironment(), ...identity() }, input: message },
  );
  if (status !== 0) {
    const known = await run('git', ['-C', root, 'var', 'GIT_COMMITTER_IDENT'], {
      env: { ...gitEnvironment(), ...identity() },
    });
    throw new FlkError('FLK_GIT_WORKTREE', `git does not commit ${path} (status ${status})`, {
      facts: { git: stderr.trim().split('\n').slice(-3).join('\n'), repository: root },
      hint:
        known.status === 0
          ? `${path} is written; commit it by hand: git commit ${quote(path)}`
          : 'tell git who you are: git config user.name NAME; git config user.email ADDRESS',
    });
  }
  const after = (await git(root, undefined, 'rev-parse', '--verify', 'HEAD')).toString().trim();
  return after === before.stdout.toString().trim() ? undefined : (after as Rev);
}

/** Who commits, and when: what the environment says of that counts. */
function identity(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => /^GIT_(AUTHOR|COMMITTER)_/.test(name)),
  );
}

/** Whether a relative path leads out of the folder that it starts from. */
export const isOutside = (path: string): boolean => path === '..' || path.startsWith('../');

/** Runs git in the repository and gives its output. Throws FLK_GIT_WORKTREE where the repository may not be read. */
async function git(root: string, signal: AbortSignal | undefined, ...args: string[]): Promise<Buffer> {
  const { status, stdout, stderr } = await tryGit(root, signal, ...args);
  if (status === 0) return stdout;
  throw await explainFailure(root, args[0]!, status, stderr);
}

async function tryGit(root: string, signal: AbortSignal | undefined, ...args: string[]): Promise<Finished> {
  return await run('git', [...safeSettings, '-C', root, ...args], {
    env: gitEnvironment(),
    maxOutput: 1024 * 1024 * 1024,
    ...(signal === undefined ? {} : { signal }),
  });
}

/** Why git refused: asked of git again, never read from its messages. */
async function explainFailure(
  root: string,
  command: string,
  status: number | null,
  stderr: string,
): Promise<FlkError> {
  const trusting = await run(
    'git',
    [...safeSettings, '-c', `safe.directory=${root}`, '-C', root, 'rev-parse', '--git-dir'],
    { env: gitEnvironment() },
  );
  const plain = await tryGit(root, undefined, 'rev-parse', '--git-dir');
  if (trusting.status === 0 && plain.status !== 0)
    return new FlkError('FLK_GIT_WORKTREE', `the repository ${root} belongs to another user`, {
      hint: `if you trust it: git config --global --add safe.directory ${quote(root)}`,
    });
  return new FlkError('FLK_GIT_WORKTREE', `git ${command} fails in ${root} (status ${status})`, {
    hint: 'run git status there: it must work before flk can',
    facts: { git: stderr.trim().split('\n')[0] ?? '' },
  });
}

/** No program that the repository's configuration names is run, and nothing is written in passing. */
const safeSettings = [
  '--no-optional-locks',
  '-c',
  'core.fsmonitor=false',
  '-c',
  `core.hooksPath=${devNull}`,
  '-c',
  'core.quotePath=false',
];

/** The user's own settings count, but not what points git to another repository. */
function gitEnvironment(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {};
  for (const [name, value] of Object.entries(process.env))
    if (!name.startsWith('GIT_') || name.startsWith('GIT_CONFIG_')) env[name] = value;
  return { ...env, LC_ALL: 'C', GIT_TERMINAL_PROMPT: '0' };
}
