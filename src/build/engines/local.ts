/** The engine that builds on this machine, shut in by bubblewrap or util-linux; docs/sandbox.md says what a build sees. */
import { chmodSync, lstatSync, writeFileSync } from 'node:fs';
import { mkdir, readFile, realpath, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { throwIfAborted } from '../../base/concurrency.ts';
import { FlkError, systemCode } from '../../base/errors.ts';
import type { Reporter } from '../../base/events.ts';
import { baseNameOf, type StorePath, storeDir } from '../../formats/store-path.ts';
import type { Store } from '../../store/store.ts';
import { bubblewrap } from './bubblewrap.ts';
import type { BuildRequest, BuiltOutputs, Engine } from './engine.ts';
import { builderEnvironment } from './environment.ts';
import { keepBuildFolder } from './failed.ts';
import { findTool, sandboxUnavailable } from './host.ts';
import type { Confined, Ended, Sandbox } from './sandbox.ts';
import { type Supervised, supervise } from './supervise.ts';
import { surroundingsOf } from './surroundings.ts';
import { utilLinux } from './unshare.ts';
import { hostView, isolatedView, makeScratch, type Scratch, storeMounts, type View } from './view.ts';
import { Workshop } from './workshop.ts';

/** `auto`: bubblewrap where it is installed and works, else util-linux (`unshare`), else refuse. `none`: the host, with a notice. */
type SandboxChoice = 'auto' | 'bubblewrap' | 'unshare' | 'none';

export interface LocalEngineOptions {
  readonly store: Pick<Store, 'physical' | 'query' | 'stage'>;
  readonly sandbox: SandboxChoice;
  readonly reporter: Reporter;
  /** A folder on the store's file system in which the build folders of failed builds are kept; undefined: they are removed. */
  readonly keepFailed?: string | undefined;
}

export function localEngine(options: LocalEngineOptions): Engine {
  return options.sandbox === 'none' ? openEngine(options) : sandboxedEngine(options, options.sandbox);
}

/** What both kinds have in common. */
const here = { name: 'local', ultimate: true, probe: async (): Promise<void> => {} };

/** Builds in the first sandbox that this machine lets us make; one that cannot be made is not tried again. */
function sandboxedEngine(
  { store, keepFailed }: LocalEngineOptions,
  choice: Exclude<SandboxChoice, 'none'>,
): Engine {
  const place: Place = { store, workshop: new Workshop(store), keepFailed };
  let candidates: Promise<Sandbox[]> | undefined;
  const failures: { readonly sandbox: string; readonly output: readonly string[] }[] = [];
  return {
    ...here,
    refusal: () => undefined,
    build: async (request) => {
      candidates ??= sandboxes(choice);
      const left = await candidates;
      for (let sandbox = left[0]; sandbox; sandbox = left[0]) {
        const built = await buildIn(sandbox, place, request);
        if (!('notStarted' in built)) return built;
        if (await works(sandbox, place, request))
          throw new FlkError('FLK_BUILD_FAILED', `${request.derivation.builder} could not be started`, {
            facts: { status: built.notStarted.at(-1) ?? 'no message' },
          });
        failures.push({ sandbox: sandbox.name, output: built.notStarted });
        if (left[0] === sandbox) left.shift();
      }
      throw await sandboxUnavailable(failures);
    },
    close: () => place.workshop.close(),
  };
}

/** Where the builds of an engine are done. */
interface Place {
  readonly store: Pick<Store, 'physical' | 'stage'>;
  readonly workshop: Workshop;
  readonly keepFailed: string | undefined;
}

function buildIn(
  sandbox: Sandbox,
  place: Place,
  request: BuildRequest,
): Promise<BuiltOutputs | { readonly notStarted: readonly string[] }> {
  const physical = (path: StorePath): string => place.store.physical(path);
  return inStage(place, request, async ({ folder, scratch, dispose, failed }) => {
    const surroundings = surroundingsOf(request.variation);
    const base = await place.workshop.base(request.toolchain, surroundings.user);
    const view = isolatedView(base, scratch, request.closure, physical, surroundings);
    const inside = await confined(sandbox, view, { folder, cwd: '/build' }, request);
    const what = surroundings.oneProcessor ? await onOneProcessor(inside) : inside;
    const ended = await run(what, place, { folder, scratch, request });
    if (!ended.started) {
      await dispose();
      return { notStarted: ended.lastLines };
    }
    assertSuccess(ended, request);
    return { outputs: findOutputs(scratch, request), dispose, failed };
  });
}

/** With all that it starts; as it is, where util-linux's taskset is missing. */
async function onOneProcessor<T extends Confined>(what: T): Promise<T> {
  const taskset = await findTool('taskset');
  const allowed = /^Cpus_allowed_list:\s*(\d+)/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1];
  if (taskset === undefined || allowed === undefined) return what;
  return { ...what, program: taskset, args: ['-c', allowed, what.program, ...what.args] };
}

/** Whether it was the sandbox that could not be made, or only this builder that could not be started in it. */
async function works(sandbox: Sandbox, place: Place, request: BuildRequest): Promise<boolean> {
  const derivation = {
    ...request.derivation,
    builder: '/bin/sh',
    args: ['-c', ':'],
    env: new Map<string, string>(),
  };
  const tried = await buildIn(
    sandbox,
    { ...place, keepFailed: undefined },
    {
      ...request,
      derivation,
      closure: [],
      toolchain: { kind: 'host' },
      log: () => {},
    },
  );
  if ('notStarted' in tried) return false;
  await tried.dispose();
  return true;
}

/**
 * Builds on the host itself: its files, its network, your user. Only /nix/store is made to be right, by a mount namespace; where
 * even that is refused, the store must really be at /nix/store.
 */
function openEngine({ store, reporter, keepFailed }: LocalEngineOptions): Engine {
  const place = { store, workshop: new Workshop(store), keepFailed };
  let told = false;
  const refusal: Engine['refusal'] = ({ toolchain }) =>
    toolchain.kind === 'path'
      ? { reason: 'a pinned toolchain can only be used in a sandbox', hint: 'leave out --no-sandbox' }
      : undefined;
  return {
    ...here,
    refusal,
    build: async (request) => {
      const refused = refusal(request);
      if (refused) throw new FlkError('FLK_SANDBOX_UNAVAILABLE', refused.reason, refused);
      if (!told) reporter.emit({ kind: 'notice', notice: { type: 'no-sandbox', reason: '--no-sandbox' } });
      told = true;
      return await buildOpenly(place, request);
    },
    close: () => place.workshop.close(),
  };
}

function buildOpenly(
  place: Place & { readonly store: Pick<Store, 'physical' | 'query' | 'stage'> },
  request: BuildRequest,
): Promise<BuiltOutputs> {
  const { store } = place;
  return inStage(place, request, async ({ folder, scratch, dispose, failed }) => {
    if (await isAtHome(store, request)) {
      await clearOutputs(store, scratch, request);
      const ended = await run(await direct(request, scratch), place, { folder, scratch, request });
      assertSuccess(ended, request);
      await moveOutputs(store, scratch.store, request);
    } else {
      const root = join(folder, 'root');
      await mkdir(root);
      const mounts = storeMounts(scratch, request.closure, (path) => store.physical(path));
      const view = hostView(root, mounts);
      const unshare = await findTool('unshare');
      if (!unshare) throw await sandboxUnavailable([], 'open');
      const what = await confined(utilLinux(unshare), view, { folder, cwd: scratch.build }, request);
      const ended = await run(what, place, { folder, scratch, request });
      if (!ended.started)
        throw await sandboxUnavailable([{ sandbox: 'unshare', output: ended.lastLines }], 'open');
      assertSuccess(ended, request);
    }
    return { outputs: findOutputs(scratch, request), dispose, failed };
  });
}

async function sandboxes(choice: Exclude<SandboxChoice, 'none'>): Promise<Sandbox[]> {
  const found: Sandbox[] = [];
  const bwrap = choice === 'unshare' ? undefined : await findTool('bwrap');
  if (bwrap) found.push(bubblewrap(bwrap));
  const unshare = choice === 'bubblewrap' ? undefined : await findTool('unshare');
  if (unshare) found.push(utilLinux(unshare));
  return found;
}

interface Staged {
  /** Outside the builder's reach. */
  readonly folder: string;
  /** In it. */
  readonly scratch: Scratch;
  dispose(): Promise<void>;
  failed(error: unknown): Promise<unknown>;
}

/** Gives `work` a staging folder, which goes when the work fails; else it is the result's to dispose of. */
async function inStage<T>(
  place: Place,
  request: BuildRequest,
  work: (staged: Staged) => Promise<T>,
): Promise<T> {
  const { store, workshop, keepFailed } = place;
  await workshop.assertSafe(dirname(store.physical(request.drvPath)));
  const stage = await store.stage();
  const scratch = makeScratch(stage.path);
  const dispose = async (): Promise<void> => workshop.discard(stage.path, () => stage.dispose());
  // Where nothing can be kept, the failure itself is what counts.
  const failed = async (error: unknown): Promise<unknown> =>
    keepFailed === undefined
      ? error
      : await keepBuildFolder(keepFailed, scratch, request, error).catch(() => error);
  try {
    return await work({ folder: stage.path, scratch, dispose, failed });
  } catch (error) {
    const told = await failed(error);
    await stage.dispose();
    throw told;
  }
}

/** What starts the builder in the view. */
async function confined(
  sandbox: Sandbox,
  view: View,
  { folder, cwd }: { readonly folder: string; readonly cwd: string },
  request: BuildRequest,
): Promise<Startable> {
  const { builder, args } = request.derivation;
  if (!builder.startsWith('/'))
    throw new FlkError('FLK_DERIVATION_INVALID', `a builder must be an absolute path, not ${builder}`);
  const inside = { argv: [builder, ...args], env: builderEnvironment(request, cwd), cwd };
  return {
    ...(await sandbox.confine(view, folder, inside)),
    cwd: folder,
    isolated: view.isolated !== undefined,
  };
}

type Startable = Confined & Pick<Supervised, 'cwd' | 'isolated'>;

interface EndedBuild extends Ended {
  readonly started: boolean;
}

async function run(
  what: Startable,
  { store, workshop }: Place,
  { folder, scratch, request }: Pick<Staged, 'folder' | 'scratch'> & { readonly request: BuildRequest },
): Promise<EndedBuild> {
  const outputs = [...request.derivation.outputs.values()].map(({ path }) => store.physical(path));
  const folders = [...Object.values<string>({ ...scratch }), ...outputs];
  const inputs: string[] = [];
  for (const input of what.inputs) {
    const own = `input-${inputs.length}`;
    if (typeof input === 'string') writeFileSync(join(folder, own), input);
    inputs.push(typeof input === 'string' ? own : await workshop.file(input));
  }
  throwIfAborted(request.signal);
  const { program, args, cwd, isolated, started } = what;
  const workplace = await workshop.workplace(request.limits);
  const reports = started !== undefined;
  const supervised = { argv: [program, ...args], cwd, reports, inputs, workplace, folders, isolated };
  const ended = await supervise(supervised, request);
  return { ...ended, started: started?.(ended.report) ?? true };
}

async function direct(request: BuildRequest, scratch: Scratch): Promise<Startable> {
  const { builder, args } = request.derivation;
  const env = await findTool('env');
  if (env === undefined) throw await sandboxUnavailable([], 'open');
  const assignments = [...builderEnvironment(request, scratch.build)].map((pair) => pair.join('='));
  // What holds `=` is no program to env.
  const command = builder.includes('=') ? ['/bin/sh', '-c', 'exec "$0" "$@"', builder] : [builder];
  return {
    program: env,
    args: ['-i', '--', ...assignments, ...command, ...args],
    cwd: scratch.build,
    inputs: [],
    isolated: false,
  };
}

function assertSuccess(ended: Ended, request: BuildRequest): void {
  if (ended.status === 0) return;
  // 128 + SIGXFSZ: a file grew past what the wrapper allows.
  if (ended.status === 153)
    throw new FlkError(
      'FLK_BUILD_OUTPUT_LIMIT',
      `the builder wrote a file larger than ${request.limits.maxOutputBytes} bytes`,
    );
  const how = typeof ended.status === 'number' ? `exit status ${ended.status}` : `signal ${ended.status}`;
  throw new FlkError('FLK_BUILD_FAILED', `the builder ended with ${how}`, { facts: { status: how } });
}

/** Whether /nix/store is the store itself, by no symlink: then what is created there is where it should be. */
async function isAtHome(store: Pick<Store, 'physical'>, request: BuildRequest): Promise<boolean> {
  const physical = join(store.physical(request.drvPath), '..');
  try {
    if ((await realpath(storeDir)) !== storeDir) return false;
    const [logical, real] = [await stat(storeDir), await stat(physical)];
    return logical.dev === real.dev && logical.ino === real.ino;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** What an interrupted build left at the outputs' places goes; what is valid there cannot be built beside itself. */
async function clearOutputs(
  store: Pick<Store, 'physical' | 'query'>,
  scratch: Scratch,
  request: BuildRequest,
): Promise<void> {
  for (const { path } of request.derivation.outputs.values()) {
    if (store.query(path))
      throw new FlkError('FLK_SANDBOX_UNAVAILABLE', `${path} is in use and cannot be rebuilt in place`, {
        hint: 'leave out --no-sandbox',
      });
  }
  await moveOutputs(store, scratch.tmp, request);
}

async function moveOutputs(
  store: Pick<Store, 'physical'>,
  folder: string,
  request: BuildRequest,
): Promise<void> {
  for (const { path } of request.derivation.outputs.values()) {
    await rename(store.physical(path), join(folder, baseNameOf(path))).catch((error: unknown) => {
      if (systemCode(error) !== 'ENOENT') throw error;
    });
  }
}

function findOutputs(scratch: Scratch, request: BuildRequest): BuiltOutputs['outputs'] {
  // The builder owned this folder and may have shut it.
  chmodSync(scratch.store, 0o755);
  const outputs = new Map<string, string>();
  for (const [name, { path }] of request.derivation.outputs) {
    const built = join(scratch.store, baseNameOf(path));
    if (lstatSync(built, { throwIfNoEntry: false })) outputs.set(name, built);
  }
  return outputs;
}
