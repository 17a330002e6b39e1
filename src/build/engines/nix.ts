/**
 * The engine that hands the same `.drv` to an installed Nix, one derivation at a time, its inputs first; docs/builders.md says what it
 * needs. What Nix mounts at `/` is no part of a `.drv`'s meaning: an output that is in Nix's store already may have been built with
 * something else there. So none is taken that Nix has not built just now, or built again with the same bytes.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { limiter } from '../../base/concurrency.ts';
import { FlkError } from '../../base/errors.ts';
import { parseNarHash } from '../../formats/hash.ts';
import { NarHasher } from '../../formats/nar.ts';
import { NarParser } from '../../formats/nar-parser.ts';
import { baseNameOf, type StorePath } from '../../formats/store-path.ts';
import { tee } from '../../formats/tree-sinks.ts';
import { exportPaths } from '../../store/exchange.ts';
import type { PathInfo } from '../../store/path-info.ts';
import type { Store } from '../../store/store.ts';
import { restoreTree } from '../../store/tree-files.ts';
import type { BuildRequest, BuiltOutputs, Engine } from './engine.ts';
import { type NixEnd, NixProgram, unavailable } from './nix-program.ts';
import { etcFileNames, ownEntries } from './view.ts';

export interface NixEngineOptions {
  readonly store: Store;
  /** The absolute path of `nix`; undefined: the one on PATH. */
  readonly program?: string | undefined;
  /** For which it builds, and what it offers: so Nix is told, whatever it would think of itself. */
  readonly systems: readonly string[];
  readonly features: readonly string[];
}

/** How often a build is tried while others meddle with Nix's store. */
const maxAttempts = 3;

export function nixEngine(options: NixEngineOptions): Engine {
  return new NixEngine(options);
}

class NixEngine implements Engine {
  readonly name = 'nix';
  readonly ultimate = false;
  readonly #options: NixEngineOptions;
  #program: Promise<NixProgram> | undefined;
  /** In Nix's store with the bytes that ours has. */
  readonly #provided = new Set<StorePath>();
  /** What two builds need is brought once. */
  readonly #oneByOne = limiter(1);

  constructor(options: NixEngineOptions) {
    this.#options = options;
  }

  refusal({ toolchain }: Pick<BuildRequest, 'derivation' | 'toolchain'>): ReturnType<Engine['refusal']> {
    if (toolchain.kind === 'path') return undefined;
    return {
      reason: 'Nix’s sandbox does not show this machine’s own programs (toolchain: host)',
      hint: 'give the package a toolchain, or build it with --builders local',
    };
  }

  async probe(signal?: AbortSignal): Promise<void> {
    await this.#open(signal);
  }

  async close(): Promise<void> {
    this.#provided.clear();
    this.#program = undefined;
  }

  async build(request: BuildRequest): Promise<BuiltOutputs> {
    const { toolchain, drvPath, closure, derivation, signal } = request;
    const refused = this.refusal(request);
    if (refused || toolchain.kind !== 'path') throw unavailable(refused?.reason ?? '', refused?.hint);
    const program = await this.#open(signal);
    const mounts = await this.#mounts(toolchain.path);
    const needed = this.#options.store.closure([drvPath, ...closure, toolchain.path]);
    const outputs = [...derivation.outputs.values()].map(({ path }) => path);
    for (let attempt = 1; ; attempt++) {
      await this.#oneByOne(() => this.#provide(program, needed, signal));
      const ended = await this.#run(program, request, mounts, outputs);
      const isWell = ended.status === 0;
      if (isWell && ended.began) return await this.#fetch(program, request);
      // Somebody else has built it meanwhile, with who knows what at /; or Nix's garbage collector has been by.
      if (attempt < maxAttempts && (isWell || (await this.#lost(program, needed, signal)))) continue;
      throw isWell ? unavailable(`others build ${drvPath} there, too`) : failureOf(ended, request, outputs);
    }
  }

  async #run(
    program: NixProgram,
    request: BuildRequest,
    mounts: readonly string[],
    outputs: readonly StorePath[],
  ): Promise<NixEnd> {
    const missing = await program.invalid(outputs, request.signal);
    if (missing.length > 0 && missing.length < outputs.length) {
      const there = outputs.filter((path) => !missing.includes(path));
      throw unavailable(
        `it has some outputs already, and nothing says how they were built: ${there.join(' ')}`,
        deleting(there),
      );
    }
    const args = ['--realise', ...(missing.length === 0 ? ['--check'] : []), request.drvPath];
    return await program.realise([...args, ...this.#settings(request, mounts)], request);
  }

  /** Whether Nix has no longer what it was given. */
  async #lost(
    program: NixProgram,
    needed: readonly StorePath[],
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    const lost = await program.invalid(needed, signal);
    if (lost.length > 0) this.#provided.clear();
    return lost.length > 0;
  }

  #open(signal: AbortSignal | undefined): Promise<NixProgram> {
    this.#program ??= this.#find(signal).catch((error: unknown) => {
      this.#program = undefined;
      throw error;
    });
    return this.#program;
  }

  async #find(signal: AbortSignal | undefined): Promise<NixProgram> {
    const program = await NixProgram.find(this.#options.program);
    if (!(await program.isTrusted(signal)))
      throw unavailable(
        'its daemon does not trust this user, and would build without the toolchain',
        'add the user to trusted-users in /etc/nix/nix.conf and restart nix-daemon, or leave nix out of --builders',
      );
    return program;
  }

  /** The toolchain's top entries, as `sandbox-paths` names them, out of Nix's own store: no build gets at ours. */
  async #mounts(toolchain: StorePath): Promise<string[]> {
    const top = this.#options.store.physical(toolchain);
    const names = await readdir(top);
    const etc = names.includes('etc') ? await readdir(join(top, 'etc')).catch(() => []) : [];
    const entries = [
      ...names.filter((name) => !ownEntries.has(name)),
      ...etc.filter((name) => !etcFileNames.includes(name)).map((name) => `etc/${name}`),
    ];
    const odd = entries.find((name) => /[\s=?]/.test(name));
    if (odd !== undefined) throw unavailable(`it cannot be told of “${odd}” in the toolchain`);
    return entries.map((name) => `/${name}=${toolchain}/${name}`);
  }

  /** Brings the recipe and all that the builder may see into Nix's store, what is not there yet. */
  async #provide(
    program: NixProgram,
    needed: readonly StorePath[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { store } = this.#options;
    const asked = needed.filter((path) => !this.#provided.has(path)).map((path) => store.query(path)!);
    if (asked.length === 0) return;
    const lacking = new Set(
      await program.invalid(
        asked.map(({ path }) => path),
        signal,
      ),
    );
    await assertSame(
      program,
      asked.filter(({ path }) => !lacking.has(path)),
      signal,
    );
    const infos = asked.filter(({ path }) => lacking.has(path));
    if (infos.length > 0) await program.import((write) => exportPaths(store, infos, write), signal);
    for (const { path } of asked) this.#provided.add(path);
  }

  /** All that decides what a builder sees, whatever nix.conf says; and what would do more than is asked for. */
  #settings({ cores }: BuildRequest, mounts: readonly string[]): string[] {
    const { systems, features } = this.#options;
    const settings = {
      sandbox: 'true',
      'sandbox-fallback': 'false',
      'sandbox-paths': mounts.join(' '),
      'sandbox-build-dir': '/build',
      builders: '',
      substituters: '',
      'pre-build-hook': '',
      'post-build-hook': '',
      'extra-platforms': systems.join(' '),
      'system-features': features.join(' '),
      'max-jobs': '1',
      cores: String(cores),
      timeout: '0',
      'max-silent-time': '0',
      'max-build-log-size': '0',
      'keep-failed': 'false',
      'run-diff-hook': 'false',
    };
    return Object.entries(settings).flatMap(([name, value]) => ['--option', name, value]);
  }

  /** The outputs out of Nix's store into a stage of ours, their bytes held against what Nix says of them. */
  async #fetch(program: NixProgram, { derivation, limits, signal }: BuildRequest): Promise<BuiltOutputs> {
    const stage = await this.#options.store.stage();
    try {
      const all = [...derivation.outputs];
      const hashes = await program.hashes(
        all.map(([, { path }]) => path),
        signal,
      );
      const outputs = new Map<string, string>();
      let left = limits.maxOutputBytes;
      for (const [i, [name, { path }]] of all.entries()) {
        const place = join(stage.path, baseNameOf(path));
        const writer = restoreTree(place);
        const hasher = new NarHasher();
        const parser = new NarParser(tee(writer, hasher));
        await program
          .dump(
            path,
            (chunk) => {
              left -= chunk.length;
              if (left < 0)
                throw new FlkError(
                  'FLK_BUILD_OUTPUT_LIMIT',
                  `outputs of more than ${limits.maxOutputBytes} bytes are not kept`,
                );
              parser.push(chunk);
            },
            signal,
          )
          .finally(() => writer.close());
        parser.end();
        const { narHash } = hasher.digest();
        const wanted = parseNarHash(hashes[i]!);
        if (narHash !== wanted)
          throw new FlkError(
            'FLK_NAR_HASH_MISMATCH',
            `Nix’s store holds other bytes at ${path} than it says`,
            {
              facts: { found: narHash, wanted },
              hint: 'nix-store --verify --check-contents --repair',
            },
          );
        outputs.set(name, place);
      }
      return { outputs, dispose: () => stage.dispose() };
    } catch (error) {
      await stage.dispose();
      throw error;
    }
  }
}

/** What Nix has under a name that ours has too must be the same: else the build would see something else. */
async function assertSame(
  program: NixProgram,
  infos: readonly PathInfo[],
  signal: AbortSignal | undefined,
): Promise<void> {
  if (infos.length === 0) return;
  const hashes = await program.hashes(
    infos.map(({ path }) => path),
    signal,
  );
  const other = infos.find(({ narHash }, i) => parseNarHash(hashes[i]!) !== narHash);
  if (other) throw unavailable(`it has other bytes at ${other.path} than this store`, deleting([other.path]));
}

const deleting = (paths: readonly string[]): string =>
  `if nothing of Nix’s needs it: nix-store --delete ${paths.join(' ')}`;

/** What a run that failed came to. The statuses from 100 on say that it was the builder: nix-store(1), --realise. */
function failureOf(
  { status, errors }: NixEnd,
  { variation }: BuildRequest,
  outputs: readonly StorePath[],
): FlkError {
  // A daemon repeats the builder's own last lines.
  const said = errors.join('\n').replace(/\n\s*Last \d+ log lines:[\s\S]*/, '');
  const last =
    errors
      .at(-1)
      ?.replace(/^error:\s*/, '')
      .replace(/\s+/g, ' ') ?? `status ${status}`;
  const absent = [...said.matchAll(/failed to produce output path for output '?([^\s']+)'?/g)].map(
    ([, name]) => name,
  );
  if (absent.length > 0)
    return new FlkError(
      'FLK_BUILD_OUTPUT_MISSING',
      `the builder ended well but did not create ${absent.join(', ')}`,
      {
        hint: `installPhase must create ${absent.map((name) => `$${name}`).join(' and ')}`,
      },
    );
  const [, wanted, found] =
    /hash mismatch in fixed-output derivation[\s\S]*specified:\s*(\S+)\s*got:\s*(\S+)/.exec(said) ?? [];
  if (wanted !== undefined && found !== undefined)
    return new FlkError('FLK_FETCH_HASH_MISMATCH', 'the output is not the one that its derivation promises', {
      facts: { found, wanted },
    });
  if (/unsupported type|suspicious ownership or permission|contains? .*invalid/.test(said))
    return new FlkError('FLK_BUILD_OUTPUT_INVALID', last);
  if (/may not be deterministic/.test(said)) {
    if (variation !== undefined)
      return new FlkError('FLK_BUILD_NOT_REPRODUCIBLE', `building again in Nix gave other bytes: ${last}`);
    return unavailable(
      'its store has other bytes under the name of an output than building it gives',
      deleting(outputs),
    );
  }
  const how = /failed with (exit code \d+)|failed due to (signal \d+)/.exec(said);
  const wording = how?.[1]?.replace('code', 'status') ?? how?.[2];
  if (wording !== undefined)
    return new FlkError('FLK_BUILD_FAILED', `the builder ended with ${wording}`, {
      facts: { status: wording },
    });
  if (status !== null && status >= 100)
    return new FlkError('FLK_BUILD_FAILED', last, { facts: { status: last } });
  return unavailable(last);
}
