/** A root flake locked by Nix and by flk, one after the other, from the same files. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runCommandLine } from '../../../src/cli/main.ts';
import { nix } from '../../support/nix.ts';
import {
  type Case,
  outputLock,
  type RootKind,
  referenceLock,
  rootDir,
  rootDirs,
  type Step,
} from './cases.ts';
import { type Files, GitRepository } from './git-repository.ts';
import { damagedLock } from './locks.ts';
import { Random } from './random.ts';
import { filesOf, type World, writeFiles } from './world.ts';

const emptyLock = '{ "nodes": { "root": {} }, "root": "root", "version": 7 }\n';

const outputMark = '\n--- written by --output-lock-file ---\n';

/** What a command left: the bytes of flake.lock, or why it refused. */
export type Outcome =
  | { readonly kind: 'locked'; readonly text: string | undefined }
  | { readonly kind: 'refused'; readonly code: string; readonly message: string };

export interface Compared {
  readonly step: Step;
  /** flake.lock before the command. */
  readonly before: string | undefined;
  readonly byNix: Outcome;
  readonly byFlk: Outcome;
}

export interface Times {
  nix: number;
  flk: number;
}

/** A machine of its own for each tool: homes and caches, which many worlds share. */
export class Machine {
  readonly folder: string;
  /** The global registry's file. */
  readonly registry: string;
  readonly times: Times = { nix: 0, flk: 0 };
  readonly #env: NodeJS.ProcessEnv;

  constructor(folder: string) {
    this.folder = folder;
    const home = join(folder, 'home');
    mkdirSync(home, { recursive: true });
    this.registry = join(folder, 'registry.json');
    const registry = `flake-registry = ${this.registry}`;
    this.#env = {
      PATH: process.env.PATH,
      HOME: home,
      XDG_CACHE_HOME: join(home, 'cache'),
      XDG_CONFIG_HOME: join(home, 'config'),
      XDG_DATA_HOME: join(home, 'data'),
      XDG_STATE_HOME: join(home, 'state'),
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
      LC_ALL: 'C.UTF-8',
      NO_COLOR: '1',
      NIX_CONFIG: registry,
      NIX_CONFIG_EXTRA: `tarball-ttl = 0\n${registry}`,
    };
  }

  async nix(args: readonly string[]): Promise<{ status: number | null; stderr: string }> {
    const start = performance.now();
    const result = await nix(args, { env: this.#env, cwd: this.folder });
    this.times.nix += performance.now() - start;
    return result;
  }

  async flk(args: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
    const start = performance.now();
    const out = { stdout: '', stderr: '' };
    const sink = (name: 'stdout' | 'stderr') => ({
      write: (text: string) => {
        out[name] += text;
      },
    });
    const world = {
      env: this.#env,
      cwd: this.folder,
      stdout: sink('stdout'),
      stderr: sink('stderr'),
      handOverSignals: () => {},
    };
    const status = await runCommandLine(args, world, new AbortController().signal);
    this.times.flk += performance.now() - start;
    return { status, ...out };
  }

  /** For `World.build`: locks are made by Nix. */
  async lockFiles(files: Files, dir: string): Promise<string | undefined> {
    const folder = join(this.folder, 'to-lock');
    rmSync(folder, { recursive: true, force: true });
    writeFiles(folder, files);
    const lock = join(folder, dir, 'flake.lock');
    const { status } = await this.nix(['flake', 'lock', `path:${folder}${dir === '' ? '' : `?dir=${dir}`}`]);
    return status === 0 && existsSync(lock) ? readFileSync(lock, 'utf8') : undefined;
  }
}

/** The root flake's tree on disk, one for each kind. */
export class Root {
  readonly #folder: string;
  readonly #kind: RootKind;
  readonly #machine: Machine;

  constructor(machine: Machine, world: World, kind: RootKind) {
    this.#machine = machine;
    this.#kind = kind;
    this.#folder = join(world.folder, `root-${kind}`);
    if (kind === 'folder' || existsSync(this.#folder)) return;
    const dir = rootDir(kind);
    const tracked = new Map(
      [...rootDirs.map((sub) => join(sub, 'flake.nix')), join(dir, 'flake.nix'), join(dir, 'flake.lock')].map(
        (path) => [path, '\n'],
      ),
    );
    const repository = new GitRepository(this.#folder, false);
    const commit = repository.commit(new Map([['README', 'a root\n']]), { time: 1_690_000_000 });
    repository.moveTo(new Map([['refs/heads/main', commit]]), tracked);
  }

  /** As both tools take it. */
  get target(): string {
    if (this.#kind === 'folder') return `path:${this.#folder}`;
    const dir = rootDir(this.#kind);
    return dir === '' ? this.#folder : `git+file://${this.#folder}?dir=${dir}`;
  }

  get #lockPath(): string {
    return join(this.#folder, rootDir(this.#kind), 'flake.lock');
  }

  set lock(text: string | undefined) {
    if (text === undefined) rmSync(this.#lockPath, { force: true });
    else writeFileSync(this.#lockPath, text);
  }

  get lock(): string | undefined {
    return existsSync(this.#lockPath) ? readFileSync(this.#lockPath, 'utf8') : undefined;
  }

  /** flake.lock, and what was written beside it. */
  get #written(): string | undefined {
    const output = join(this.#machine.folder, outputLock);
    if (!existsSync(output)) return this.lock;
    const text = readFileSync(output, 'utf8');
    rmSync(output);
    return `${this.lock}${outputMark}${text}`;
  }

  async compare(world: World, step: Step, old: string | undefined): Promise<Compared> {
    world.moveTo(step.moments, step.changed);
    writeFiles(this.#folder, filesOf(step.specs));
    const before = lockBefore(step, old);
    if (step.flags.includes(referenceLock))
      writeFileSync(
        join(this.#machine.folder, referenceLock),
        before === undefined ? emptyLock : damagedLock(before, new Random(before)),
      );
    this.lock = before;
    const byNix = await this.#byNix(step);
    this.lock = before;
    const byFlk = await this.#byFlk(step);
    return { step, before, byNix, byFlk };
  }

  async #byNix(step: Step): Promise<Outcome> {
    const { status, stderr } = await this.#machine.nix(['flake', ...this.arguments(step)]);
    if (status === 0) return { kind: 'locked', text: this.#written };
    return { kind: 'refused', code: '', message: stderr };
  }

  async #byFlk(step: Step): Promise<Outcome> {
    const { status, stdout, stderr } = await this.#machine.flk([...this.arguments(step), '--json']);
    if (status === 0) return { kind: 'locked', text: this.#written };
    const code = /"code": "(\w+)"/.exec(stdout)?.[1] ?? `status ${status}`;
    return { kind: 'refused', code, message: `${stdout}${stderr}` };
  }

  /** The same for both tools, after `nix flake` or `flk`. */
  arguments({ command, updates, flags }: Step): string[] {
    return command === 'lock'
      ? ['lock', this.target, ...flags]
      : ['update', ...updates, '--flake', this.target, ...flags];
  }
}

function lockBefore({ lock }: Step, old: string | undefined): string | undefined {
  if (lock === 'keep') return old;
  if (lock === 'remove' || old === undefined) return undefined;
  return damagedLock(old, new Random(lock.damage));
}

/** Goes through the case until the two differ, or its end; each step begins with the lock that Nix left. */
export async function* runCase(machine: Machine, world: World, given: Case): AsyncGenerator<Compared> {
  const root = new Root(machine, world, given.root);
  let lock: string | undefined;
  for (const step of given.steps) {
    const compared = await root.compare(world, step, lock);
    yield compared;
    const left = compared.byNix.kind === 'locked' ? compared.byNix.text : compared.before;
    lock = left?.includes(outputMark) ? compared.before : left;
  }
}
