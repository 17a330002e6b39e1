/**
 * Worlds small enough to read, for rules of Nix's locker that flk once had otherwise: found by the random worlds of
 * differential.test.ts, and locked by a live Nix here too.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';
import { Machine } from './generator/both.ts';
import { GitRepository } from './generator/git-repository.ts';
import { refusalKind, sameRefusal } from './generator/refusals.ts';
import { writeFiles } from './generator/world.ts';

type Contents = Readonly<Record<string, string>>;

const plain = '{ outputs = _: { }; }\n';

/** Repositories and folders side by side, and a root flake in a plain folder. */
class Bench {
  readonly folder = temporaryFolder();
  readonly #machine = new Machine(this.folder);
  readonly #repositories = new Map<string, { repository: GitRepository; head: string }>();
  #time = 1_700_000_000;

  constructor() {
    writeFileSync(this.#machine.registry, '{ "version": 2, "flakes": [] }');
    mkdirSync(join(this.folder, 'root'));
  }

  /** What URLs name it by, after `git+` or `path:`. */
  path(name: string): string {
    return join(this.folder, name);
  }

  url(name: string): string {
    return `git+file://${this.path(name)}`;
  }

  /** A commit on `main`; the tag `v1` stays on the first. */
  commit(name: string, contents: Contents, { bare = false } = {}): void {
    const known = this.#repositories.get(name);
    const repository = known?.repository ?? new GitRepository(this.path(name), bare);
    const files = new Map(Object.entries(contents));
    this.#time += 60;
    const head = repository.commit(files, { parent: known?.head, time: this.#time });
    this.#repositories.set(name, { repository, head });
    repository.moveTo(
      new Map([
        ['refs/heads/main', head],
        ['refs/tags/v1', head],
      ]),
      files,
    );
  }

  /** A plain folder. */
  write(name: string, contents: Contents): void {
    writeFiles(this.path(name), new Map(Object.entries(contents)));
    for (const file of [...Object.keys(contents), '.'])
      utimesSync(join(this.path(name), file), this.#time, this.#time);
  }

  set lock(text: string | undefined) {
    if (text === undefined) rmSync(this.path('root/flake.lock'), { force: true });
    else writeFileSync(this.path('root/flake.lock'), text);
  }

  get lock(): string | undefined {
    const path = this.path('root/flake.lock');
    return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
  }

  /** Runs both on the root as it is now, and wants the same of them. Gives `locked`, or why both refuse. */
  async both(command: 'lock' | 'update', ...args: readonly string[]): Promise<string> {
    const before = this.lock;
    const root = `path:${this.path('root')}`;
    const all = command === 'lock' ? ['lock', root, ...args] : ['update', '--flake', root, ...args];
    const nix = await this.#machine.nix(['flake', ...all]);
    const byNix = this.lock;
    this.lock = before;
    const flk = await this.#machine.flk([...all, '--json']);
    if (nix.status !== 0) {
      const code = /"code": "(\w+)"/.exec(flk.stdout)?.[1] ?? 'none: it locks';
      expect(sameRefusal(nix.stderr, code), `flk: ${code}; Nix: ${nix.stderr}`).toBe(true);
      return refusalKind(nix.stderr);
    }
    expect(`${flk.stdout}${flk.stderr}`).not.toContain('"error"');
    expect(this.lock).toBe(byNix);
    return 'locked';
  }
}

describe.skipIf(!nixAvailable())(`rules of Nix's locker ${nixReason}`, () => {
  it('a look-up of follows that meets one target twice is a circle, also where it has come out of it', async () => {
    const bench = new Bench();
    bench.commit('d', { 'flake.nix': `{ inputs.d.url = "${bench.url('leaf')}"; outputs = _: { }; }` });
    bench.commit('leaf', { 'flake.nix': plain });
    bench.commit('b', {
      'flake.nix': `{ inputs.d.url = "${bench.url('d')}"; inputs.e.follows = "d/d"; outputs = _: { }; }`,
    });
    bench.write('root', { 'flake.nix': `{ inputs.b.url = "${bench.url('b')}"; outputs = _: { }; }` });
    expect(await bench.both('lock')).toBe('locked');
    bench.lock = undefined;
    bench.write('root', {
      'flake.nix': `{ inputs.b.url = "${bench.url('b')}"; inputs.b.inputs.d.follows = "b"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock')).toBe('circle of follows');
  });

  it('below a flake that has to be read again its pins say nothing, relative ones least', async () => {
    const bench = new Bench();
    bench.commit('other', { 'flake.nix': plain });
    bench.commit('mono', {
      'sub/flake.nix': '{ inputs.d.url = "../lib"; inputs.a.follows = "d"; outputs = _: { }; }',
      'lib/flake.nix': plain,
    });
    bench.write('root', {
      'flake.nix': `{ inputs.r.url = "${bench.url('mono')}?dir=sub"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock', '--override-input', 'r/d', bench.url('other'))).toBe('locked');
    expect(bench.lock).not.toContain('"parent"');
    expect(await bench.both('lock', '--no-update-lock-file')).toBe('lock may not change');
    expect(await bench.both('lock')).toBe('locked');
    expect(bench.lock).toContain('"parent"');
  });

  it('an absolute path is locked as it was written', async () => {
    const bench = new Bench();
    bench.write('folder', { 'flake.nix': plain });
    bench.write('root', {
      'flake.nix': `{ inputs.a.url = "path:${bench.path('folder')}/"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock')).toBe('locked');
    expect(bench.lock?.match(/folder\/"/g)).toHaveLength(2);
  });

  it('in a repository that somebody works in a short name may be a tag; in a bare one it is a branch', async () => {
    const bench = new Bench();
    bench.commit('worked', { 'flake.nix': plain });
    bench.commit('bare', { 'flake.nix': plain }, { bare: true });
    bench.write('root', {
      'flake.nix': `{ inputs.a.url = "${bench.url('worked')}?ref=v1"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock')).toBe('locked');
    bench.write('root', {
      'flake.nix': `{ inputs.a.url = "${bench.url('bare')}?ref=v1"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock')).toBe('no such ref');
    // Unless all refs are asked for.
    bench.write('root', {
      'flake.nix': `{ inputs.a.url = "${bench.url('bare')}?ref=v1&allRefs=1"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock')).toBe('locked');
  });

  it('exportIgnore and submodules do not go together, of a working tree as of a commit', async () => {
    const bench = new Bench();
    bench.commit('a', { 'flake.nix': plain });
    for (const more of ['', '&ref=main']) {
      const url = `${bench.url('a')}?exportIgnore=1&submodules=1${more}`;
      bench.write('root', { 'flake.nix': `{ inputs.a.url = "${url}"; outputs = _: { }; }` });
      expect(await bench.both('lock')).toBe('flags that do not go together');
    }
  });

  it('relative inputs that are written alike, one below the other, are a circle of flakes', async () => {
    const bench = new Bench();
    mkdirSync(bench.path('root/sub/sub'), { recursive: true });
    bench.write('root', {
      'flake.nix': '{ inputs.a.url = "path:./sub"; outputs = _: { }; }',
      'sub/flake.nix': '{ inputs.b.url = "path:./sub"; outputs = _: { }; }',
      'sub/sub/flake.nix': plain,
    });
    expect(await bench.both('lock')).toBe('circle of flakes');
  });

  it('a lock that says the same in another order, or as an older version, keeps its bytes', async () => {
    const bench = new Bench();
    bench.commit('a', { 'flake.nix': plain });
    bench.write('root', {
      'flake.nix': `{ inputs.a.url = "${bench.url('a')}"; inputs.b.url = "${bench.url('a')}"; outputs = _: { }; }`,
    });
    expect(await bench.both('lock')).toBe('locked');
    const lock = JSON.parse(bench.lock ?? '') as { version: number; nodes: object };
    lock.nodes = Object.fromEntries(Object.entries(lock.nodes).reverse());
    const other = JSON.stringify({ ...lock, version: 6 });
    bench.lock = other;
    expect(await bench.both('lock')).toBe('locked');
    expect(bench.lock).toBe(other);
  });

  it('a kept relative flake is read again in the folder that its lock names', async () => {
    const bench = new Bench();
    bench.commit('a', { 'pkgs/flake.nix': plain });
    mkdirSync(bench.path('root/sub/more'), { recursive: true });
    bench.write('root', {
      'flake.nix': '{ inputs.b.url = "path:./sub"; outputs = _: { }; }',
      'sub/flake.nix': plain,
      'sub/more/flake.nix': plain,
    });
    // As a careless merge leaves it: the reference of one input, the pin of another, and a follows that nobody declares.
    const lock = {
      nodes: {
        b: {
          inputs: { x: ['b'] },
          locked: { dir: 'pkgs', path: './sub', type: 'path' },
          original: { path: './sub', type: 'path' },
          parent: [],
        },
        root: { inputs: { b: 'b' } },
      },
      root: 'root',
      version: 7,
    };
    bench.lock = JSON.stringify(lock);
    expect(await bench.both('lock')).toBe('no manifest');
    lock.nodes.b.locked.dir = 'more';
    bench.lock = JSON.stringify(lock);
    expect(await bench.both('lock')).toBe('locked');
  });

  it('an input that only the formals of outputs name takes what overrides it, and else asks the registries', async () => {
    const bench = new Bench();
    bench.commit('a', { 'flake.nix': '{ outputs = { self, implied }: { }; }' });
    bench.commit('b', { 'flake.nix': plain });
    const root = (more: string) =>
      bench.write('root', {
        'flake.nix': `{ inputs.a.url = "${bench.url('a')}"; ${more} outputs = _: { }; }`,
      });
    root('');
    expect(await bench.both('lock')).toBe('no registry');
    root(`inputs.a.inputs.implied.url = "${bench.url('b')}";`);
    expect(await bench.both('lock')).toBe('locked');
  });
});
