/**
 * A world of flakes: repositories and folders, each with a few moments of history, so that many cases share one world and each
 * starts where it likes. Everything follows from the seed.
 */
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { gzipSync } from 'node:zlib';
import { tarOf } from '../../support/archives.ts';
import { type Files, GitRepository } from './git-repository.ts';
import { generateInputs, type Target } from './inputs.ts';
import { damagedLock } from './locks.ts';
import { type FlakeSpec, type InputSpec, type Inputs, printFlake } from './manifest.ts';
import { Random } from './random.ts';

/** What a place holds at one moment. */
export interface Moment {
  readonly files: Files;
  readonly specs: ReadonlyMap<string, FlakeSpec>;
  /** Full name → object; none for a folder. */
  readonly refs: ReadonlyMap<string, string>;
  /** Every revision of `main` until now, oldest first. */
  readonly revs: readonly string[];
  /** When it was made: seconds since 1970. */
  readonly time: number;
  readonly submodules?: ReadonlyMap<string, string>;
}

export interface Place {
  readonly name: string;
  readonly kind: 'repository' | 'folder' | 'archive';
  /** The archive itself, where it is one. */
  readonly folder: string;
  readonly repository: GitRepository | undefined;
  /** Folders that hold flakes; empty where there are only files. */
  readonly dirs: readonly string[];
  readonly moments: Moment[];
}

/** One flake of the world. Its inputs lead to flakes of higher levels, except where a circle is wanted. */
export interface Flake extends Target {
  readonly place: Place;
  readonly level: number;
}

/** Locks the flake that `files` hold at `dir`; undefined where that fails. */
export type LockFiles = (files: Files, dir: string) => Promise<string | undefined>;

export interface WorldOptions {
  readonly seed: string;
  readonly folder: string;
  /** Where the registry's file is to be. */
  readonly registry: string;
  readonly lockFiles: LockFiles;
  readonly moments?: number;
}

const start = 1_700_000_000;
const day = 86_400;
const dirNames = ['sub', 'lib', 'sub/sub', 'lib/deep', 'pkgs'];

export class World {
  readonly folder: string;
  readonly places: readonly Place[];
  readonly flakes: readonly Flake[];
  /** Places without a flake. */
  readonly data: readonly Place[];
  readonly moments: number;
  /** What the registry knows: name → the index of a flake. */
  readonly known = new Map<string, number>();
  readonly #random: Random;
  readonly #lockFiles: LockFiles;
  /** Place → moment. */
  readonly #now = new Map<Place, number>();
  readonly #changed = new Set<Place>();
  #clock = start;

  private constructor({ seed, folder, lockFiles, moments = 4 }: WorldOptions) {
    this.folder = folder;
    this.moments = moments;
    this.#lockFiles = lockFiles;
    this.#random = new Random(`world ${seed}`);
    const count = 10 + this.#random.below(51);
    const places: Place[] = [];
    const flakes: Flake[] = [];
    while (flakes.length < count) {
      const place = this.#place(places.length, Math.min(1 + this.#random.below(4), count - flakes.length));
      places.push(place);
      for (const dir of place.dirs)
        flakes.push({ place, dir, index: flakes.length, level: 1 + this.#random.below(4) });
    }
    this.data = [this.#files('data', true), this.#files('plain', false)];
    this.places = [...places, ...this.data];
    this.flakes = flakes;
    // Nix forgets a registry's `dir`, or gives it to others, where the repository is asked for directly too.
    const whole = flakes.filter(({ dir }) => dir === '');
    for (let i = 0; i < 3; i++) this.known.set(`known-${i}`, this.#random.pick(whole).index);
  }

  static async build(options: WorldOptions): Promise<World> {
    const world = new World(options);
    writeFileSync(options.registry, world.#registry);
    world.#found();
    await world.#lockSome();
    for (let moment = 1; moment < world.moments; moment++) await world.#evolve(moment);
    return world;
  }

  /** Puts every place where it was at its moment; those that are `changed` have a change that is not committed. */
  moveTo(moments: ReadonlyMap<string, number>, changed: readonly string[] = []): void {
    for (const place of this.places) {
      this.#move(place, moments.get(place.name) ?? 0, this.#changed.delete(place));
      const { repository, moments: all } = place;
      const { files } = all[moments.get(place.name) ?? 0]!;
      if (!repository || repository.bare || !changed.includes(place.name)) continue;
      const [path, text] = [...files].find(([name]) => name === 'flake.nix') ?? [...files][0]!;
      repository.change(path, `${text}# changed\n`);
      this.#changed.add(place);
    }
  }

  /** What the flake says at a moment. */
  spec(flake: Flake, moment: number): FlakeSpec {
    return flake.place.moments[Math.min(moment, flake.place.moments.length - 1)]!.specs.get(flake.dir)!;
  }

  /** The registry's file: names of flakes in repositories and folders, as they are at any time. */
  get #registry(): string {
    const flakes = [...this.known].map(([id, index]) => {
      const { place } = this.flakes[index]!;
      const to =
        place.kind === 'repository'
          ? { type: 'git', url: `file://${place.folder}` }
          : place.kind === 'folder'
            ? { type: 'path', path: place.folder }
            : { type: 'tarball', url: `file://${place.folder}` };
      return { from: { type: 'indirect', id }, to };
    });
    return `${JSON.stringify({ flakes, version: 2 }, null, 2)}\n`;
  }

  #place(index: number, flakes: number): Place {
    const kind = this.#random.weighted({ repository: 65, bare: 13, folder: 15, archive: 7 });
    const name = `${kind}${index}${kind === 'archive' ? '.tar.gz' : ''}`;
    const folder = join(this.folder, name);
    const others = this.#random.some(dirNames, flakes - 1);
    const isRepository = kind === 'repository' || kind === 'bare';
    return {
      name,
      kind: kind === 'bare' ? 'repository' : kind,
      folder,
      repository: isRepository ? new GitRepository(folder, kind === 'bare') : undefined,
      dirs: ['', ...others],
      moments: [],
    };
  }

  #files(name: string, git: boolean): Place {
    const folder = join(this.folder, name);
    return {
      name,
      kind: git ? 'repository' : 'folder',
      folder,
      repository: git ? new GitRepository(folder, false) : undefined,
      dirs: [],
      moments: [],
    };
  }

  /** The first moment, without locks: from those that nothing depends on downwards, so that revisions can be named. */
  #found(): void {
    for (const place of this.data)
      this.#record(place, 0, new Map([['data/readme', 'some files\n']]), new Map());
    for (const place of [...new Set(this.#byLevel().map(({ place }) => place))]) {
      const specs = new Map(
        this.#in(place).map((flake): [string, FlakeSpec] => [flake.dir, this.#newSpec(flake, 0)]),
      );
      this.#record(place, 0, filesOf(specs), specs);
    }
    if (this.#random.chance(0.1)) this.#closeCircle();
  }

  /** One flake asks for another that stands above it. */
  #closeCircle(): void {
    const low = this.flakes.filter(({ level }) => level > 2);
    const high = this.flakes.filter(({ level }) => level < 2);
    const from = low.length > 0 && this.#random.pick(low);
    const to = high.length > 0 && this.#random.pick(high);
    if (!from || !to || from.place === to.place) return;
    const { files, specs } = from.place.moments[0]!;
    const old = specs.get(from.dir)!;
    const back: InputSpec = {
      url: to.place.kind === 'repository' ? `git+file://${to.place.folder}` : `path:${to.place.folder}`,
      to: to.index,
    };
    const spec = { ...old, inputs: { ...old.inputs, back } };
    const changed = new Map(specs).set(from.dir, spec);
    this.#record(from.place, 0, new Map([...files, ...filesOf(changed)]), changed);
  }

  async #lockSome(): Promise<void> {
    for (const place of new Set(this.#byLevel().map(({ place }) => place))) {
      if (!this.#random.chance(0.5)) continue;
      const { files, specs } = place.moments[0]!;
      const locked = new Map(files);
      for (const flake of this.#in(place)) {
        if (Object.keys(specs.get(flake.dir)!.inputs).length === 0 || !this.#random.chance(0.7)) continue;
        const lock = await this.#lockFiles(locked, flake.dir);
        if (lock !== undefined) locked.set(posix.join(flake.dir, 'flake.lock'), lock);
      }
      if (locked.size !== files.size) this.#record(place, 0, locked, specs);
    }
  }

  async #evolve(moment: number): Promise<void> {
    for (const place of this.data)
      if (place.repository && this.#random.chance(0.4))
        this.#record(place, moment, new Map([['data/readme', `files of ${moment}\n`]]), new Map());
    for (const place of new Set(this.#byLevel().map(({ place }) => place))) {
      const { files, specs } = place.moments.at(-1)!;
      if (!this.#random.chance(place.repository ? 0.4 : 0.08)) {
        this.#keep(place, moment);
        continue;
      }
      const changed = new Map(
        this.#in(place).map((flake): [string, FlakeSpec] => {
          const old = specs.get(flake.dir)!;
          return [
            flake.dir,
            this.#random.chance(0.5)
              ? { ...old, description: `${old.description}.` }
              : this.#newSpec(flake, moment),
          ];
        }),
      );
      const next = new Map([...files, ...filesOf(changed)]);
      for (const flake of this.#in(place)) await this.#changeLock(next, flake.dir);
      this.#record(place, moment, next, changed);
    }
    for (const place of this.places) if (place.moments.length <= moment) this.#keep(place, moment);
  }

  async #changeLock(files: Map<string, string>, dir: string): Promise<void> {
    const path = posix.join(dir, 'flake.lock');
    const old = files.get(path);
    switch (this.#random.weighted({ keep: 4, relock: old === undefined ? 2 : 5, drop: 1, damage: 1 })) {
      case 'relock': {
        const lock = await this.#lockFiles(files, dir);
        if (lock !== undefined) files.set(path, lock);
        return;
      }
      case 'drop':
        files.delete(path);
        return;
      case 'damage':
        if (old !== undefined) files.set(path, damagedLock(old, this.#random));
        return;
      case 'keep':
    }
  }

  #newSpec(flake: Flake, moment: number): FlakeSpec {
    const random = this.#random;
    const targets = this.flakes.filter((other) => other.level > flake.level);
    const wanted = flake.level === 4 ? 0 : Number(random.weighted({ 0: 2, 1: 4, 2: 4, 3: 2 }));
    const inputs = generateInputs({ random, world: this, from: flake, targets, count: wanted, moment });
    return {
      inputs,
      ...this.#formals(inputs),
      ...(flake.place.repository && random.chance(0.02) && { self: { submodules: random.chance(0.7) } }),
      style: `${flake.index} ${moment} ${random.below(1000)}`,
      description: `flake ${flake.index} at ${moment}`,
    };
  }

  #formals(inputs: Inputs): { formals?: readonly string[] } {
    const random = this.#random;
    if (!random.chance(0.3)) return {};
    const plain = Object.keys(inputs).filter((name) => /^[A-Za-z_][\w'-]*$/.test(name));
    return {
      formals: [
        ...plain,
        ...(random.chance(0.03) ? ['implied'] : []),
        ...(random.chance(0.08) ? ['known-1'] : []),
      ],
    };
  }

  #record(place: Place, moment: number, files: Files, specs: ReadonlyMap<string, FlakeSpec>): void {
    this.#clock += 1 + this.#random.below(day);
    const time = this.#clock;
    const last = place.moments.at(-1);
    place.moments.length = Math.min(place.moments.length, moment);
    while (place.moments.length < moment && last) place.moments.push(last);
    const { repository } = place;
    if (!repository) {
      place.moments.push({ files, specs, refs: new Map(), revs: [], time });
      this.#move(place, moment, true);
      return;
    }
    const submodules = this.#submodulesOf(place, last);
    if (submodules.size > 0) files = new Map([...files, ['.gitmodules', this.#gitmodules]]);
    const main = repository.commit(files, { parent: last?.refs.get('refs/heads/main'), time, submodules });
    const refs = new Map(last?.refs).set('refs/heads/main', main);
    if (!last || this.#random.chance(0.5)) {
      const dev = repository.commit(new Map([...files, ['NEWS', `dev ${time}\n`]]), {
        parent: main,
        time: time + 60,
        submodules,
      });
      refs.set('refs/heads/dev', dev);
      if (!last || this.#random.chance(0.2)) refs.set('refs/tags/v1', main);
      refs.set('refs/tags/v2', repository.annotatedTag('v2', dev, time + 90));
    }
    place.moments.push({ files, specs, refs, revs: [...(last?.revs ?? []), main], time, submodules });
    this.#move(place, moment, true);
  }

  get #gitmodules(): string {
    return `[submodule "mod"]\n\tpath = mod\n\turl = file://${this.data[0]!.folder}\n`;
  }

  /**
   * Some hold the repository of plain files, at the revision of that moment. Only those without a working tree: of one whose
   * submodules are not checked out Nix makes another hash than of its commit.
   */
  #submodulesOf(place: Place, last: Moment | undefined): ReadonlyMap<string, string> {
    const rev = this.data[0]?.moments.at(-1)?.revs.at(-1);
    const has = last ? (last.submodules?.size ?? 0) > 0 : this.#random.chance(0.4);
    return has && rev !== undefined && place.repository?.bare ? new Map([['mod', rev]]) : new Map();
  }

  #keep(place: Place, moment: number): void {
    while (place.moments.length <= moment) place.moments.push(place.moments.at(-1)!);
  }

  #move(place: Place, moment: number, force = false): void {
    const to = place.moments[moment];
    const now = this.#now.get(place);
    if (!to || (!force && now !== undefined && place.moments[now] === to)) return;
    const from = now === undefined ? undefined : place.moments[now];
    this.#now.set(place, moment);
    if (place.repository) {
      place.repository.moveTo(to.refs, to.files, to.submodules);
      return;
    }
    if (place.kind === 'archive') {
      const entries = [...to.files].map(([path, contents]) => ({
        path: `top/${path}`,
        contents,
        modified: to.time,
      }));
      writeFileSync(place.folder, gzipSync(tarOf(...entries)));
      return;
    }
    for (const path of from?.files.keys() ?? [])
      if (!to.files.has(path)) rmSync(join(place.folder, path), { force: true });
    writeFiles(place.folder, to.files);
    // The date of a folder is that of its newest entry.
    const folders = new Set<string>(['.']);
    for (const path of to.files.keys())
      for (let up = dirname(path); up !== '.'; up = dirname(up)) folders.add(up);
    for (const path of [...to.files.keys(), ...folders])
      utimesSync(join(place.folder, path), to.time, to.time);
  }

  #in(place: Place): Flake[] {
    return this.flakes.filter((flake) => flake.place === place);
  }

  #byLevel(): Flake[] {
    return [...this.flakes].sort((a, b) => b.level - a.level || a.index - b.index);
  }
}

/** The manifests of flakes by path. */
export function filesOf(specs: ReadonlyMap<string, FlakeSpec>): Map<string, string> {
  return new Map([...specs].map(([dir, spec]) => [posix.join(dir, 'flake.nix'), printFlake(spec)]));
}

export function writeFiles(folder: string, files: Files): void {
  for (const [path, text] of files) {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}
