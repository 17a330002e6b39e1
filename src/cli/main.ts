/** The program: a command line in, an exit status out. */
import { setMaxListeners } from 'node:events';
import { fstatSync } from 'node:fs';
import { asFlkError, FlkError, systemCode } from '../base/errors.ts';
import { version } from '../base/version.ts';
import { errorJson, renderError } from '../report/errors.ts';
import { githubAnnotations } from '../report/github.ts';
import type { Renderer } from '../report/renderer.ts';
import { helpText, parseCommandLine } from './command-line.ts';
import type { CommandName } from './command-table.ts';
import { Context, makeReport, paletteFor, type Stamp, type Terminal, type World } from './context.ts';

type Run = (context: Context) => Promise<number>;

/** Each command is loaded when it is called. */
const loaders: Readonly<Record<CommandName, () => Promise<Run>>> = {
  init: async () => (await import('./commands/init.ts')).runInit,
  add: async () => (await import('./commands/add.ts')).runAdd,
  remove: async () => (await import('./commands/remove.ts')).runRemove,
  pin: async () => (await import('./commands/pin.ts')).runPin,
  unpin: async () => (await import('./commands/pin.ts')).runUnpin,
  set: async () => (await import('./commands/set.ts')).runSet,
  lock: async () => (await import('./commands/lock.ts')).runLock,
  update: async () => (await import('./commands/lock.ts')).runUpdate,
  build: async () => (await import('./commands/build.ts')).runBuild,
  run: async () => (await import('./commands/run.ts')).runRun,
  shell: async () => (await import('./commands/shell.ts')).runShell,
  develop: async () => (await import('./commands/develop.ts')).runDevelop,
  check: async () => (await import('./commands/check.ts')).runCheck,
  fmt: async () => (await import('./commands/run.ts')).runFmt,
  metadata: async () => (await import('./commands/metadata.ts')).runMetadata,
  prefetch: async () => (await import('./commands/prefetch.ts')).runPrefetch,
  archive: async () => (await import('./commands/archive.ts')).runArchive,
  show: async () => (await import('./commands/show.ts')).runShow,
  hash: async () => (await import('./commands/hash.ts')).runHash,
  derivation: async () => (await import('./commands/derivation.ts')).runDerivation,
  registry: async () => (await import('./commands/registry.ts')).runRegistry,
  store: async () => (await import('./commands/store.ts')).runStore,
  profile: async () => (await import('./commands/profile.ts')).runProfile,
  gc: async () => (await import('./commands/gc.ts')).runGc,
  log: async () => (await import('./commands/log.ts')).runLog,
  'why-alive': async () => (await import('./commands/why-alive.ts')).runWhyAlive,
  cache: async () => (await import('./commands/cache.ts')).runCache,
  explain: async () => (await import('./commands/explain.ts')).runExplain,
};

/** After the first Ctrl-C, the time that running work has to clean up. */
const graceMs = 5000;

/** Runs one command line; never rejects. `signal` stops it: the status is then 130. */
export async function runCommandLine(
  argv: readonly string[],
  world: World,
  signal: AbortSignal,
): Promise<number> {
  // Each request and builder in flight listens.
  setMaxListeners(0, signal);
  let report: Renderer | undefined;
  let logsShown = false;
  try {
    const asked = parseCommandLine(argv, world.env);
    if (asked.kind === 'help') {
      world.stdout.write(`${helpText(asked.command)}\n`);
      return 0;
    }
    if (asked.kind === 'version') {
      world.stdout.write(`flk ${version}\n`);
      return 0;
    }
    report = makeReport(world, asked.flags);
    logsShown = asked.flags['print-build-logs'];
    const context = new Context(world, asked, report, signal);
    const run = await loaders[asked.command]();
    try {
      if (context.flags['inputs-from'].length > 0)
        await (await import('./inputs-from.ts')).applyInputsFrom(context);
      return await run(context);
    } finally {
      await context.dispose();
    }
  } catch (thrown) {
    return fail(thrown, argv, world, signal, report, logsShown);
  } finally {
    report?.close();
  }
}

/**
 * The error for people goes to stderr. Under `--json` stdout gets `{"error": …}` where the result would stand, so that a program
 * reads one document from one place.
 */
function fail(
  thrown: unknown,
  argv: readonly string[],
  world: World,
  signal: AbortSignal,
  report: Renderer | undefined,
  logsShown: boolean,
): number {
  // What breaks while everything is being torn down is not the reason.
  const error = signal.aborted ? new FlkError('FLK_INTERRUPTED', 'interrupted') : asFlkError(thrown);
  report?.close();
  const ends = argv.indexOf('--');
  if (argv.slice(0, ends === -1 ? argv.length : ends).includes('--json'))
    world.stdout.write(`${JSON.stringify(errorJson(error), null, 2)}\n`);
  // With -L what a builder printed stands above.
  const without = logsShown ? ['last lines'] : [];
  const lines = [renderError(error, paletteFor(world.stderr, world.env), without)];
  if (error.code === 'FLK_INTERNAL' && error.cause instanceof Error && error.cause.stack !== undefined)
    lines.push(error.cause.stack);
  if (world.env.GITHUB_ACTIONS === 'true') lines.push(...githubAnnotations(error));
  const text = lines.join('\n');
  if (report) report.say(text);
  else world.stderr.write(`${text}\n`);
  return error.exitStatus;
}

/** The process: signals, broken pipes, the exit status. `stamp`: see bin/flk.js. */
export function main(stamp?: Stamp): void {
  const controller = new AbortController();
  let finished = false;
  let receive: ((signal: NodeJS.Signals) => void) | undefined;
  const stdout = new StandardStream(1, () => process.stdout);
  const stderr = new StandardStream(2, () => process.stderr);
  const finish = (status: number): void => {
    finished = true;
    // Sockets kept alive and timers must not hold the process; what a slow reader has not taken yet must.
    void Promise.all([stdout.drained(controller.signal), stderr.drained(controller.signal)]).then(() => {
      if (status !== 0 || !stdout.failure) process.exit(status);
      const error = new FlkError(
        'FLK_FILE_UNWRITABLE',
        `cannot write the answer: ${stdout.failure.message}`,
        {
          hint: 'check what standard output leads to',
        },
      );
      stderr.write(`${renderError(error, paletteFor(stderr, process.env))}\n`);
      process.exit(error.exitStatus);
    });
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (receive) {
        // A terminal's Ctrl-C reaches the program too, which is in our process group.
        if (name !== 'SIGINT') receive(name);
        return;
      }
      if (controller.signal.aborted) process.exit(130);
      controller.abort(name);
      setTimeout(() => finish(130), graceMs).unref();
    });
  }
  process.on('beforeExit', () => {
    // Nothing is left to wait for, yet the command has not ended: a promise was lost.
    if (!finished) process.exit(70);
  });
  const world: World = {
    env: process.env,
    get cwd() {
      return workingFolder();
    },
    stdout,
    stderr,
    get stdin() {
      return process.stdin;
    },
    stamp,
    handOverSignals: (taker) => {
      receive = taker;
    },
  };
  void runCommandLine(process.argv.slice(2), world, controller.signal).then(finish);
}

/** Opens Node's stream, which takes milliseconds, only where something is written or a terminal may be there. */
class StandardStream implements Terminal {
  readonly #fd: number;
  readonly #get: () => NodeJS.WriteStream;
  #opened: NodeJS.WriteStream | undefined;
  /** Why something written did not arrive. */
  failure: Error | undefined;

  constructor(fd: number, get: () => NodeJS.WriteStream) {
    this.#fd = fd;
    this.#get = get;
  }

  get #stream(): NodeJS.WriteStream {
    this.#opened ??= this.#get().on('error', (error) => {
      // A reader that has seen enough, as in `flk metadata | head`, is no failure.
      if (systemCode(error) !== 'EPIPE') this.failure = error;
    });
    return this.#opened;
  }

  get isTTY(): boolean {
    return isCharacterDevice(this.#fd) && this.#stream.isTTY;
  }

  get columns(): number | undefined {
    return this.#stream.columns;
  }

  get rows(): number | undefined {
    return this.#stream.rows;
  }

  write(text: string): void {
    this.#stream.write(text);
  }

  writeBytes(bytes: Buffer): Promise<boolean> {
    return new Promise((resolve) => this.#stream.write(bytes, (error) => resolve(!error)));
  }

  /** When all that was written is taken, or nobody reads it any more, or `signal` fires. */
  drained(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (!this.#opened || signal.aborted) {
        setImmediate(resolve);
        return;
      }
      signal.addEventListener('abort', () => resolve());
      // Behind all that waits; what failed is told before.
      this.#opened.write('', () => setImmediate(resolve));
    });
  }
}

function isCharacterDevice(fd: number): boolean {
  try {
    return fstatSync(fd).isCharacterDevice();
  } catch {
    // It may be closed: `flk lock 2>&-`.
    return false;
  }
}

function workingFolder(): string {
  try {
    return process.cwd();
  } catch (error) {
    throw new FlkError('FLK_FILE_UNREADABLE', 'the folder that flk was started in does not exist any more', {
      cause: error,
    });
  }
}
