/** What a command works with: its arguments, its folders, the report, and the parts of flk, each made when first asked for. */
import { isAbsolute, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { homeFolder } from '../base/files.ts';
import { JsonReport } from '../report/json.ts';
import { PlainReport } from '../report/plain.ts';
import type { Renderer } from '../report/renderer.ts';
import { colours, noColours, type Palette } from '../report/text.ts';
import { TtyReport } from '../report/tty.ts';
import type { FlakeRegistries } from '../sources/registry.ts';
import type { Sources } from '../sources/source.ts';
import type { CacheAnswers } from '../store/caches/answers.ts';
import type { Store } from '../store/store.ts';
import type { Substituter } from '../store/substituter.ts';
import type { AfterBuild } from './after-build.ts';
import type { CommandName } from './command-table.ts';
import type { Flags } from './options.ts';
import type { Settings } from './settings.ts';

/** A place text goes to; `process.stdout` and `process.stderr` fit. */
export interface Terminal {
  write(text: string): unknown;
  /** Settles when the place can take more; false: nobody reads any more. */
  writeBytes?(bytes: Buffer): Promise<boolean>;
  readonly isTTY?: boolean;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
}

/** Where the launcher looks whether there is anything to do, and what it wants to find before the bytes of the two files. */
export interface Stamp {
  readonly path: string;
  readonly header: string;
}

/** The process around flk. */
export interface World {
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  readonly stdout: Terminal;
  readonly stderr: Terminal;
  /** Opened when it is first read. None: nothing comes. */
  readonly stdin?: AsyncIterable<Buffer>;
  readonly stamp?: Stamp | undefined;
  /** From now on Ctrl-C is the foreground program's own business, and other signals are passed on. */
  handOverSignals(receive: (signal: NodeJS.Signals) => void): void;
}

export interface Folders {
  /** May be removed at any time. */
  readonly cache: string;
  /** The root that stands for `/`: store paths lie in `STORE/nix/store`. */
  readonly store: string;
}

/** Commands that use a flake's packages, and change its lock only where they must. */
const building: ReadonlySet<CommandName> = new Set(['build', 'run', 'shell', 'develop', 'check', 'fmt']);

export class Context {
  readonly command: CommandName;
  readonly args: readonly string[];
  readonly rest: readonly string[];
  readonly flags: Flags;
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  readonly folders: Folders;
  readonly report: Renderer;
  /** Fires at the first Ctrl-C. */
  readonly signal: AbortSignal;
  /** A person watches stderr. */
  readonly interactive: boolean;
  readonly stamp: Stamp | undefined;
  readonly handOverSignals: World['handOverSignals'];
  readonly #world: Pick<World, 'stdin'>;
  readonly #stdout: Terminal;
  #sources: Promise<Sources> | undefined;
  #registries: Promise<FlakeRegistries> | undefined;
  #store: Promise<Store> | undefined;
  #settings: Promise<Settings> | undefined;
  #substituter: Promise<Substituter | undefined> | undefined;
  #cacheAnswers: Promise<CacheAnswers> | undefined;
  #afterBuild: Promise<AfterBuild | undefined> | undefined;

  constructor(
    world: World,
    asked: {
      readonly command: CommandName;
      readonly args: readonly string[];
      readonly rest: readonly string[];
      readonly flags: Flags;
    },
    report: Renderer,
    signal: AbortSignal,
  ) {
    this.command = asked.command;
    this.args = asked.args;
    this.rest = asked.rest;
    this.flags = asked.flags;
    this.env = world.env;
    this.cwd = world.cwd;
    this.folders = foldersOf(world, asked.flags.store);
    this.report = report;
    this.signal = signal;
    this.interactive = world.stderr.isTTY === true;
    this.stamp = world.stamp;
    this.handOverSignals = (receive) => world.handOverSignals(receive);
    this.#world = world;
    this.#stdout = world.stdout;
  }

  /** Colours for stdout. */
  get paint(): Palette {
    return paletteFor(this.#stdout, this.env);
  }

  get reporter(): Reporter {
    return this.report;
  }

  get offline(): boolean {
    return this.flags.offline || this.flags.frozen;
  }

  /** Whether flake.lock must stay as it is: asked for, or because a CI job that builds must not choose its inputs itself. */
  get locked(): boolean {
    return this.flags.frozen || this.flags['no-update-lock-file'] || (this.flags.locked ?? this.lockedByCi);
  }

  /** Whether only `CI=true` says so. */
  get lockedByCi(): boolean {
    return (
      building.has(this.command) &&
      this.env.CI === 'true' &&
      this.flags.locked === undefined &&
      !this.flags.frozen
    );
  }

  /** What is set once for all flakes. Read when it is first needed: a lock that is current needs none of it. */
  settings(): Promise<Settings> {
    this.#settings ??= import('./settings.ts').then(({ readSettings }) => readSettings(this.env));
    return this.#settings;
  }

  /** What names mean: for this run, for this person, on this machine, everywhere. No file is read before it is asked. */
  registries(): Promise<FlakeRegistries> {
    this.#registries ??= import('./registries.ts').then(({ openRegistries }) => openRegistries(this));
    return this.#registries;
  }

  async allowDirty(): Promise<boolean> {
    return this.flags['allow-dirty'] ?? (await this.settings()).allowDirty;
  }

  async allowDirtyLocks(): Promise<boolean> {
    return this.flags['allow-dirty-locks'] ?? (await this.settings()).allowDirtyLocks;
  }

  /** The same for the whole run: equal references have equal answers. */
  sources(): Promise<Sources> {
    this.#sources ??= this.#openSources(this.offline);
    return this.#sources;
  }

  /** What of the world's sources is on this machine already; whatever is not, is FLK_OFFLINE. */
  cachedSources(): Promise<Sources> {
    return this.offline ? this.sources() : this.#openSources(true);
  }

  #openSources(offline: boolean): Promise<Sources> {
    return Promise.all([
      import('../sources/source.ts'),
      import('../sources/credentials.ts'),
      this.registries(),
      this.settings(),
    ]).then(
      ([
        { Sources },
        { Credentials },
        registries,
        { accessTokens, netrcFile, sslCertFile, tarballTtl, allowDirty, warnDirty },
      ]) =>
        new Sources({
          registries,
          credentials: new Credentials({ accessTokens, netrcFile, env: this.env, reporter: this.reporter }),
          caFile: sslCertFile,
          cacheFolder: this.folders.cache,
          reporter: this.reporter,
          signal: this.signal,
          offline,
          refresh: this.flags.refresh,
          revCount: !this.flags['no-rev-count'],
          allowDirty: this.flags['allow-dirty'] ?? allowDirty,
          warnDirty: async () => warnDirty,
          // Who locks wants to know what is there now; who uses a remote flake, not to wait for the same answer each time.
          refTtl: building.has(this.command) || this.command === 'metadata' ? tarballTtl : 0,
        }),
    );
  }

  /** Opened once, closed when the command ends. */
  store(): Promise<Store> {
    this.#store ??= import('../store/store.ts').then(({ openStore }) => openStore(this.folders.store));
    return this.#store;
  }

  /** Takes from the binary caches that are set, or that the command line names; undefined where there are none. */
  substituter(): Promise<Substituter | undefined> {
    this.#substituter ??= import('./caches.ts').then(({ openConfiguredSubstituter }) =>
      openConfiguredSubstituter(this),
    );
    return this.#substituter;
  }

  /** Opened once, closed when the command ends. */
  cacheAnswers(): Promise<CacheAnswers> {
    this.#cacheAnswers ??= import('./caches.ts').then(({ openCacheAnswers }) => openCacheAnswers(this));
    return this.#cacheAnswers;
  }

  /** Signs and pushes what is built; undefined where neither is set. */
  afterBuild(): Promise<AfterBuild | undefined> {
    this.#afterBuild ??= import('./after-build.ts').then(({ openAfterBuild }) => openAfterBuild(this));
    return this.#afterBuild;
  }

  /** Lets go of what was opened. */
  async dispose(): Promise<void> {
    // Where a command failed, what it had built is still on its way.
    await (await this.#afterBuild?.catch(() => undefined))?.settled().catch(() => {});
    this.#afterBuild = undefined;
    const answers = await this.#cacheAnswers?.catch(() => undefined);
    this.#cacheAnswers = undefined;
    answers?.close();
    const store = await this.#store?.catch(() => undefined);
    this.#store = undefined;
    store?.close();
  }

  /** Standard input, as it comes. */
  get input(): AsyncIterable<Buffer> {
    return this.#world.stdin ?? Readable.from([]);
  }

  /**
   * Runs what writes bytes to stdout, each piece after the one before was taken. Ends early, and well, when the reader has seen enough.
   * `what` goes to no terminal: FLK_USAGE.
   */
  async pour(
    what: string,
    work: (write: (bytes: Buffer) => Promise<void>) => Promise<void>,
    options: { readonly terminal?: boolean } = {},
  ): Promise<void> {
    if (this.#stdout.isTTY && options.terminal !== true)
      throw new FlkError('FLK_USAGE', `${what} would go to the terminal`, {
        hint: 'send it to a file or another program: … > FILE',
      });
    this.report.close();
    const enough = new Error('the reader has gone');
    try {
      await work(async (bytes) => {
        if ((await this.#stdout.writeBytes?.(bytes)) === false) throw enough;
      });
    } catch (error) {
      if (error !== enough) throw error;
    }
  }

  /** Whether a person reads what is answered. */
  get onTerminal(): boolean {
    return this.#stdout.isTTY === true;
  }

  /** For people whose answer is empty: why it is. Programs read that from the answer itself. */
  sayNothing(why: string): void {
    if (!this.flags.json && !this.flags.quiet) this.report.say(why);
  }

  /** Prints a command's result: the data itself under `--json`, else what `human` makes of it, if anything. */
  answer(data: unknown, human: () => string): void {
    this.print(this.flags.json ? JSON.stringify(data, null, 2) : human());
  }

  /** Prints a result that has one form, `--json` or not. */
  print(text: string): void {
    this.report.close();
    if (text !== '') this.#stdout.write(`${text}\n`);
  }
}

/** XDG's folders; `--store` and relative values count from the current folder. */
export function foldersOf(world: Pick<World, 'env' | 'cwd'>, store: string | undefined): Folders {
  const home = homeFolder(world.env);
  // The XDG specification: a value that is not absolute is ignored.
  const xdg = (name: string, fallback: string): string => {
    const value = world.env[name];
    return value !== undefined && isAbsolute(value) ? value : join(home, fallback);
  };
  return {
    cache: join(xdg('XDG_CACHE_HOME', '.cache'), 'flk'),
    store:
      store === undefined ? join(xdg('XDG_DATA_HOME', '.local/share'), 'flk') : resolve(world.cwd, store),
  };
}

/** Colours only where a person looks, and not against their wish (no-color.org). */
export function paletteFor(terminal: Pick<Terminal, 'isTTY'>, env: NodeJS.ProcessEnv): Palette {
  const wanted = terminal.isTTY === true && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb';
  return wanted ? colours : noColours;
}

/** The report that suits the place it is written to, or the one that was asked for. */
export function makeReport(
  world: World,
  flags: Pick<Flags, 'log-format' | 'quiet' | 'print-build-logs'>,
): Renderer {
  const asked = flags['log-format'] ?? 'auto';
  if (!['auto', 'tty', 'plain', 'json'].includes(asked))
    throw new FlkError('FLK_USAGE', `there is no log format '${asked}'`, {
      hint: '--log-format auto, tty, plain or json',
    });
  if (asked === 'json') return new JsonReport(world.stderr);
  const redraws = world.stderr.isTTY === true && world.env.TERM !== 'dumb' && world.env.CI !== 'true';
  const options = {
    logs: flags['print-build-logs'],
    quiet: flags.quiet,
    palette: paletteFor(world.stderr, world.env),
    clock: () => performance.now(),
    every: (ms: number, tick: () => void) => {
      const timer = setInterval(tick, ms);
      timer.unref();
      return () => clearInterval(timer);
    },
  };
  return asked === 'tty' || (asked === 'auto' && redraws)
    ? new TtyReport(world.stderr, options)
    : new PlainReport(world.stderr, options);
}
