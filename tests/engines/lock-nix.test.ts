/**
 * Flakes with a flake.nix, locked step by step by Nix and by flk out of the same repositories: after each step flake.lock must hold
 * the same bytes, or both must have refused. What each step is about, its name says; many were differences once.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { SourceFile } from '../../src/base/diagnostics.ts';
import { silent } from '../../src/base/events.ts';
import { parseFlakeRef } from '../../src/flake/flake-ref.ts';
import { checkLock } from '../../src/flake/lock-check.ts';
import { lockChanges, printChanges } from '../../src/flake/lock-diff.ts';
import { emptyLock, type LockFile, parseLockFile, printLockFile } from '../../src/flake/lock-file.ts';
import { isSameLock, lock } from '../../src/flake/locker.ts';
import { parseFlakeNix } from '../../src/flake/nix-inputs.ts';
import { FlakeRegistries, type RegistryEntry } from '../../src/sources/registry.ts';
import { Sources } from '../../src/sources/source.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

interface Step {
  readonly update?: 'all' | readonly string[];
  readonly overrides?: Readonly<Record<string, string>>;
  readonly recreate?: boolean;
  readonly allowDirtyLocks?: boolean;
  /** The root flake's folder in its repository. */
  readonly dir?: string;
}

/** Repositories in a folder; the one called `root` is locked. */
class World {
  readonly folder = temporaryFolder();
  /** Name → repository. */
  registry: Readonly<Record<string, string>> = {};

  url(name: string): string {
    return `git+file://${this.folder}/${name}`;
  }

  /** Writes flakes by their folders (`''` is the top), or files by their names, and stages them. */
  write(name: string, files: Readonly<Record<string, string>>): void {
    const folder = join(this.folder, name);
    mkdirSync(folder, { recursive: true });
    if (!existsSync(join(folder, '.git'))) git(folder, 'init', '-q');
    for (const [path, text] of Object.entries(files)) {
      const file = join(folder, path);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, text);
    }
    git(folder, 'add', '-A');
  }

  commit(name: string, files: Readonly<Record<string, string>> = {}): void {
    this.write(name, files);
    git(join(this.folder, name), 'commit', '-q', '--allow-empty', '-m', 'a commit');
  }

  /** Gives a repository the lock that Nix makes for it. */
  async commitLocked(name: string): Promise<void> {
    expect(await this.#nix(['flake', 'lock', this.url(name)])).toMatchObject({ status: 0 });
    this.commit(name);
  }

  get lockPath(): string {
    return join(this.folder, 'root', 'flake.lock');
  }

  editLock(edit: (json: Lock) => void): void {
    const json = JSON.parse(readFileSync(this.lockPath, 'utf8')) as Lock;
    edit(json);
    writeFileSync(this.lockPath, JSON.stringify(json));
    git(join(this.folder, 'root'), 'add', '-A');
  }

  /**
   * Locks the root by both. `refused`: neither wrote. The list of changes must be Nix's, and where inputs are not updated,
   * `checkLock` must have foreseen whether the file changes.
   */
  async lock(step: Step = {}): Promise<'locked' | 'unchanged' | 'refused'> {
    const path = join(this.folder, 'root', step.dir ?? '', 'flake.lock');
    const before = existsSync(path) ? readFileSync(path, 'utf8') : undefined;
    const ours = await this.#flk(step, before).catch((error: unknown) => error as Error);
    const byNix = await this.#nix(this.#nixArguments(step), step.allowDirtyLocks);
    if (byNix.status !== 0) {
      expect(ours, `Nix refuses: ${byNix.stderr}`).toBeInstanceOf(Error);
      return 'refused';
    }
    if (ours instanceof Error) throw new Error('flk refuses what Nix locks', { cause: ours });
    const after = existsSync(path) ? readFileSync(path, 'utf8') : undefined;
    expect(ours.text).toBe(after);
    git(join(this.folder, 'root'), 'add', '-A');
    if (after !== before) expect(ours.changes).toBe(changesOf(byNix.stderr));
    if (ours.stale !== undefined) expect(ours.stale, 'what checkLock says').toBe(after !== before);
    return after === before ? 'unchanged' : 'locked';
  }

  async #flk(step: Step, before: string | undefined) {
    const root = join(this.folder, 'root');
    const { dir = '', overrides = {}, update, recreate, allowDirtyLocks } = step;
    const previous = before === undefined ? undefined : parseLockFile({ path: 'flake.lock', text: before });
    const common = {
      manifest: readFlakeNix({ path: 'flake.nix', text: readFileSync(join(root, dir, 'flake.nix'), 'utf8') }),
      previous,
      readManifest: readFlakeNix,
      readRelative: async (path: string) =>
        existsSync(join(root, path)) ? readFileSync(join(root, path)) : undefined,
      rootDir: dir,
      overrides: new Map(Object.entries(overrides).map(([path, ref]) => [path, parseFlakeRef(ref)])),
    };
    const reasons =
      update === undefined && !recreate && Object.keys(overrides).length === 0
        ? await checkLock({ ...common, cached: this.#sources(true) })
        : undefined;
    const made: LockFile = await lock({
      ...common,
      source: this.#sources(false),
      ...(update === undefined
        ? {}
        : { update: update === 'all' ? update : update.map((path) => path.split('/')) }),
      ...(recreate === undefined ? {} : { recreate }),
      ...(allowDirtyLocks === undefined ? {} : { allowDirtyLocks }),
    });
    return {
      // Nix writes what says something else, not what looks different.
      text: isSameLock(made, previous ?? emptyLock) ? before : printLockFile(made),
      changes: printChanges(lockChanges(previous ?? emptyLock, made), { details: false }),
      stale: reasons && reasons.length > 0,
    };
  }

  #sources(offline: boolean): Sources {
    const entries = this.#registryEntries();
    return new Sources({
      cacheFolder: join(this.folder, '.cache'),
      reporter: silent,
      offline,
      registries: new FlakeRegistries(async (name) => (name === 'global' ? entries : [])),
    });
  }

  #registryEntries(): RegistryEntry[] {
    return Object.entries(this.registry).map(([id, name]) => ({
      from: { type: 'indirect', id },
      to: { type: 'git', url: `file://${this.folder}/${name}` },
      exact: false,
    }));
  }

  #nixArguments({ update, overrides = {}, recreate, dir }: Step): string[] {
    const flake = this.url('root') + (dir === undefined ? '' : `?dir=${dir}`);
    return [
      'flake',
      ...(update === undefined
        ? ['lock', flake]
        : ['update', '--flake', flake, ...(update === 'all' ? [] : update)]),
      ...(recreate ? ['--recreate-lock-file'] : []),
      ...Object.entries(overrides).flatMap(([path, ref]) => ['--override-input', path, ref]),
    ];
  }

  #nix(args: readonly string[], allowDirtyLocks = false) {
    const registry = join(this.folder, 'registry.json');
    writeFileSync(registry, JSON.stringify({ version: 2, flakes: this.#registryEntries() }));
    const settings = [
      `flake-registry = ${registry}`,
      ...(allowDirtyLocks ? ['allow-dirty-locks = true'] : []),
    ];
    return nix(args, { env: { NIX_CONFIG_EXTRA: settings.join('\n') } });
  }
}

interface Lock {
  version: number;
  nodes: Record<string, LockJsonNode>;
}

interface LockJsonNode {
  inputs?: Record<string, string | string[]>;
  parent?: string[];
  flake?: boolean;
  flk?: object;
  info?: object;
  locked?: Record<string, unknown>;
  original?: Record<string, unknown>;
}

const readFlakeNix = (file: SourceFile) => parseFlakeNix(file);

/** Out of what Nix prints, without colours. */
function changesOf(stderr: string): string {
  return stderr
    .replaceAll(new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, 'g'), '')
    .split('\n')
    .filter((line) => /^(•| {4}| {2}→)/.test(line))
    .map((line) => `${line}\n`)
    .join('');
}

const flake = (inputs = '') => `{ inputs = { ${inputs} }; outputs = _: { }; }\n`;

describe.skipIf(!nixAvailable())(`flake.nix roots, byte for byte ${nixReason}`, { timeout: 120_000 }, () => {
  /** c ← b (locked) ← a, and c has moved since. */
  const chain = async () => {
    const w = new World();
    w.commit('c', { 'flake.nix': flake() });
    w.commit('d', { 'flake.nix': flake() });
    w.commit('b', { 'flake.nix': flake(`c.url = "${w.url('c')}";`) });
    await w.commitLocked('b');
    w.commit('c');
    w.commit('a', { 'flake.nix': flake(`b.url = "${w.url('b')}"; c.url = "${w.url('c')}";`) });
    return w;
  };
  const set = (w: World, inputs: string) => w.write('root', { 'flake.nix': flake(inputs) });

  it('overrides come and go, at every depth', async () => {
    const w = await chain();
    const [a, b, d] = ['a', 'b', 'd'].map((name) => w.url(name));
    set(
      w,
      `a.url = "${a}"; b.url = "${b}"; c = { url = "${w.url('c')}"; flake = false; }; z.follows = "a"; y.follows = "z/b/c";`,
    );
    expect(await w.lock()).toBe('locked');
    expect(await w.lock()).toBe('unchanged');
    set(w, `a.url = "${a}"; b.url = "${b}"; c.url = "${w.url('c')}"; z.follows = "a"; y.follows = "z/b/c";`);
    expect(await w.lock(), 'flake: changed').toBe('unchanged');
    const overrides: [string, 'locked' | 'unchanged'][] = [
      ['a.inputs.b.follows = "b"; a.inputs.none.url = "path:/nowhere";', 'locked'],
      [`a.inputs.b.inputs.c.url = "${d}";`, 'locked'],
      // What overrode is gone; the lock below a kept pin is trusted.
      ['', 'unchanged'],
      ['a.inputs.b.inputs.c.follows = "";', 'locked'],
      [`a.inputs.c.follows = "a/b"; a.inputs.b.url = "${d}";`, 'locked'],
      ['', 'locked'],
    ];
    for (const [override, result] of overrides) {
      set(w, `a.url = "${a}"; b.url = "${b}"; ${override}`);
      expect(await w.lock(), override).toBe(result);
      expect(await w.lock(), override).toBe('unchanged');
    }
  });

  it('--override-input, its like and what stays of it', async () => {
    const w = await chain();
    set(w, `a.url = "${w.url('a')}"; f.follows = "a/b"; s.url = "./s";`);
    w.write('root', { 's/flake.nix': flake(`c.url = "${w.url('c')}";`) });
    await w.lock();
    const steps: NonNullable<Step['overrides']>[] = [
      { 'a/b': w.url('d') },
      { 'a/b': w.url('b'), 'a/b/c': w.url('d') },
      { f: w.url('d') },
      { s: w.url('d') },
      { 'a/none': w.url('d') },
    ];
    for (const overrides of steps) {
      await w.lock({ overrides });
      await w.lock();
    }
    expect(await w.lock({ update: 'all' })).toBe('locked');
  });

  it('updates of one input, of one below, of none and of all', async () => {
    const w = await chain();
    set(w, `a.url = "${w.url('a')}"; b.url = "${w.url('b')}"; c.url = "${w.url('c')}";`);
    await w.lock();
    const moves: NonNullable<Step['update']>[] = [['c'], ['a/b'], ['a/b/c', 'b'], ['none'], ['a'], 'all'];
    for (const update of moves) {
      w.commit('c');
      w.commit('b');
      expect(await w.lock({ update }), String(update)).toBe(
        String(update) === 'none' ? 'unchanged' : 'locked',
      );
    }
    w.commit('c');
    expect(await w.lock({ recreate: true })).toBe('locked');
  });

  it('relative inputs of the root, of a dependency with a lock, and of overrides', async () => {
    const w = await chain();
    const c = `c.url = "${w.url('c')}";`;
    w.commit('r', {
      'flake.nix': flake(`lib.url = "path:./lib"; ${c}`),
      'lib/flake.nix': flake(`${c} up.url = "path:../other"; g.follows = "up";`),
      'other/flake.nix': flake(),
    });
    await w.commitLocked('r');
    w.commit('c');
    w.write('root', {
      'flake.nix': flake(
        `near.url = "./near"; r.url = "${w.url('r')}"; raw = { url = "path:./raw"; flake = false; };`,
      ),
      'near/flake.nix': flake(`far.url = "path:../far/x"; ${c} m.follows = "far";`),
      'far/x/flake.nix': flake(),
      'mine/flake.nix': flake(c),
    });
    expect(await w.lock()).toBe('locked');
    expect(await w.lock()).toBe('unchanged');
    w.commit('c');
    for (const update of [['r/lib/c'], ['r/lib'], ['near'], ['r']])
      expect(await w.lock({ update }), String(update)).toMatch(/locked|unchanged/);
    set(w, `r.url = "${w.url('r')}"; r.inputs.lib.inputs.c.url = "path:./mine"; mine.url = "./mine";`);
    expect(await w.lock()).toBe('locked');
    w.write('root', { 'mine/flake.nix': flake(`d.url = "${w.url('d')}";`) });
    expect(await w.lock(), 'unnoticed').toBe('unchanged');
    expect(await w.lock({ update: ['r/lib/c'] })).toBe('locked');
    expect(await w.lock({ update: ['mine'] })).toBe('locked');
  });

  it('a relative override that a dependency declares is lost by Nix on the second lock', async () => {
    const w = await chain();
    w.commit('i', {
      'flake.nix': flake(
        `a.url = "${w.url('a')}"; a.inputs.b.inputs.c.url = "./own"; a.inputs.c.url = "./own";`,
      ),
      'own/flake.nix': flake(),
    });
    set(w, `i.url = "${w.url('i')}";`);
    expect(await w.lock()).toBe('locked');
    expect(await w.lock()).toBe('refused');
    rmSync(w.lockPath);
    await w.commitLocked('i');
    expect(await w.lock()).toBe('locked');
  });

  it('locks of other versions, layouts, names; with too much and too little in them', async () => {
    const w = await chain();
    w.commit('e', {
      'flake.nix': flake(`b.url = "${w.url('b')}"; g.follows = "b/c"; h.follows = "g"; s.url = "./s";`),
      's/flake.nix': flake(`c.url = "${w.url('c')}";`),
    });
    set(w, `e.url = "${w.url('e')}"; c.url = "${w.url('c')}"; s.url = "./s";`);
    w.write('root', { 's/flake.nix': flake(`c.url = "${w.url('d')}";`) });
    await w.lock();
    const each = (json: Lock, edit: (node: LockJsonNode) => void) => Object.values(json.nodes).forEach(edit);
    const edits: Record<string, (json: Lock) => void> = {
      'another layout': () => {},
      'version 6': (json) => {
        json.version = 6;
      },
      'version 5': (json) => {
        json.version = 5;
        each(json, (node) => {
          if (node.locked?.narHash === undefined) return;
          const { narHash, lastModified, ...rest } = node.locked;
          Object.assign(node, { info: { narHash, lastModified }, locked: rest });
        });
      },
      'no parents': (json) => each(json, (node) => delete node.parent),
      'a shared node': (json) => {
        json.nodes.root!.inputs!.c = json.nodes.b!.inputs!.c!;
      },
      'a missing input': (json) => delete json.nodes.e!.inputs!.b,
      'no inputs': (json) => delete json.nodes.e!.inputs,
      'an input too many': (json) => {
        json.nodes.e!.inputs = { ...json.nodes.e!.inputs, c: 'c' };
      },
      'a follows instead of a node': (json) => {
        json.nodes.e!.inputs = { ...json.nodes.e!.inputs, b: ['c'] };
      },
      'no follows': (json) => delete json.nodes.e!.inputs!.g,
      'other flake': (json) => {
        json.nodes.c!.flake = false;
      },
      'without lastModified': (json) => delete json.nodes.c!.locked!.lastModified,
      'without narHash': (json) => delete json.nodes.c!.locked!.narHash,
      'another original': (json) => {
        json.nodes.c!.original!.ref = 'main';
      },
    };
    for (const [what, edit] of Object.entries(edits)) {
      w.editLock(edit);
      expect(await w.lock(), what).toMatch(/locked|unchanged/);
    }
    for (const wrong of [
      (json: Lock) => delete json.nodes.c!.locked!.rev && delete json.nodes.c!.locked!.narHash,
      (json: Lock) => {
        json.version = 8;
      },
      (json: Lock) => {
        json.nodes.root!.inputs!.c = 'none';
      },
    ]) {
      const good = readFileSync(w.lockPath, 'utf8');
      w.editLock(wrong);
      expect(await w.lock(), String(wrong)).toBe('refused');
      writeFileSync(w.lockPath, good);
    }
  });

  it('references that change in ref, rev or dir alone', async () => {
    const w = await chain();
    w.commit('m', { 'flake.nix': flake(), 'sub/flake.nix': flake(`c.url = "${w.url('c')}";`) });
    const rev = git(join(w.folder, 'm'), 'rev-parse', 'HEAD');
    const m = w.url('m');
    for (const [input, result] of [
      [`url = "${m}";`, 'locked'],
      [`url = "${m}?dir=sub";`, 'locked'],
      [`url = "${m}?ref=main&dir=sub";`, 'locked'],
      [`url = "${m}?ref=refs/heads/main&dir=sub";`, 'locked'],
      [`type = "git"; url = "file://${w.folder}/m"; ref = "refs/heads/main"; dir = "sub";`, 'unchanged'],
      [
        `type = "git"; url = "file://${w.folder}/m?dir=sub"; ref = "refs/heads/main"; dir = "sub";`,
        'unchanged',
      ],
      [`url = "${m}?rev=${rev}";`, 'locked'],
      [`url = "${m}?ref=main&rev=${rev}&shallow=1";`, 'locked'],
      [`url = "${m}?dir=none"; flake = false;`, 'locked'],
      [`url = "${m}?dir=other";`, 'refused'],
      [`url = "${w.url('missing')}";`, 'refused'],
    ] as const) {
      set(w, `m = { ${input} };`);
      expect(await w.lock(), input).toBe(result);
    }
  });

  it('names from the registry, stated and implied', async () => {
    const w = await chain();
    w.registry = { c: 'c', x: 'd' };
    w.write('root', {
      'flake.nix': `{ inputs.e.url = "flake:x"; inputs.f = { url = "c/main"; flake = false; };
        inputs.a.url = "${w.url('a')}"; inputs.a.inputs.c.url = "x"; outputs = { self, c, ... }: { }; }`,
    });
    expect(await w.lock()).toBe('locked');
    w.registry = { c: 'd', x: 'd' };
    expect(await w.lock()).toBe('unchanged');
    expect(await w.lock({ update: ['c'] })).toBe('locked');
    expect(await w.lock({ overrides: { 'a/b': 'x' } })).toBe('locked');
    w.registry = {};
    expect(await w.lock({ update: ['c'] })).toBe('refused');
  });

  it('follows: through others, to the root, in circles, to nothing', async () => {
    const w = await chain();
    w.commit('e', { 'flake.nix': flake(`v.follows = "k"; k.url = "${w.url('c')}"; root.follows = "";`) });
    const e = w.url('e');
    for (const [inputs, result] of [
      [`p.url = "${e}"; u.follows = "p"; z.follows = "u/v"; y.follows = "";`, 'locked'],
      [`p.url = "${e}"; q.url = "${e}"; q.inputs.v.follows = "p"; y.follows = "q/v";`, 'locked'],
      [`p.url = "${e}"; x.follows = "x";`, 'refused'],
      [`x.follows = "y"; y.follows = "x";`, 'refused'],
      [`p.url = "${e}"; x.follows = "p/none";`, 'refused'],
      // No circle, but Nix takes it for one.
      [`p.url = "${e}"; p.inputs.k.follows = "u"; u.follows = "p"; z.follows = "u/k";`, 'refused'],
    ] as const) {
      set(w, inputs);
      expect(await w.lock(), inputs).toBe(result);
    }
  });

  it('circles of flakes, and the same relative reference again, are refused', async () => {
    const w = new World();
    w.commit('x', { 'flake.nix': flake(`y.url = "${w.url('y')}";`) });
    w.commit('y', { 'flake.nix': flake(`x.url = "${w.url('x')}";`) });
    set(w, `x.url = "${w.url('x')}";`);
    expect(await w.lock()).toBe('refused');
    w.write('root', {
      'flake.nix': flake('s.url = "./s";'),
      's/flake.nix': flake('s.url = "./s";'),
      's/s/flake.nix': flake(),
    });
    expect(await w.lock()).toBe('refused');
    w.write('root', { 's/flake.nix': flake('up.url = "../";') });
    expect(await w.lock()).toBe('refused');
    set(w, 's.url = "../out";');
    expect(await w.lock()).toBe('refused');
  });

  it('working trees with changes, plain folders', async () => {
    const w = await chain();
    set(w, `c.url = "${w.url('c')}";`);
    w.write('c', { x: 'not committed' });
    expect(await w.lock()).toBe('refused');
    expect(await w.lock({ allowDirtyLocks: true })).toBe('locked');
    expect(await w.lock()).toBe('unchanged');
    w.commit('c');
    expect(await w.lock({ update: ['c'] })).toBe('locked');
    const folder = join(w.folder, 'p');
    mkdirSync(folder);
    writeFileSync(join(folder, 'flake.nix'), flake(`c.url = "${w.url('c')}";`));
    utimesSync(join(folder, 'flake.nix'), 1_700_000_000, 1_700_000_000);
    utimesSync(folder, 1_700_000_000, 1_700_000_000);
    set(w, `p.url = "path:${folder}"; q = { url = "path:${folder}"; flake = false; };`);
    expect(await w.lock()).toBe('locked');
    writeFileSync(join(folder, 'more'), '');
    utimesSync(join(folder, 'more'), 1_700_000_100, 1_700_000_100);
    expect(await w.lock()).toBe('unchanged');
    expect(await w.lock({ update: ['p'] })).toBe('locked');
  });

  it('flakes that want their own submodules', async () => {
    const w = new World();
    w.commit('part', { data: 'x' });
    w.commit('s', {
      'flake.nix': '{ inputs.self.submodules = true; inputs.m.url = "path:./m"; outputs = _: { }; }',
      'm/flake.nix': flake(),
    });
    git(
      join(w.folder, 's'),
      '-c',
      'protocol.file.allow=always',
      'submodule',
      'add',
      '-q',
      `${w.folder}/part`,
      'sub',
    );
    w.commit('s');
    w.commit('no', { 'flake.nix': '{ inputs.self.submodules = false; outputs = _: { }; }' });
    set(w, `s.url = "${w.url('s')}"; no.url = "${w.url('no')}";`);
    expect(await w.lock()).toBe('locked');
    expect(await w.lock()).toBe('unchanged');
    expect(await w.lock({ update: 'all' })).toBe('unchanged');
  });

  it('names that are odd, and their order', async () => {
    const w = await chain();
    const c = w.url('c');
    set(
      w,
      `"1".url = "${c}"; "a b".url = "${w.url('a')}"; "ü".follows = "z"; z.url = "${c}"; "x.y".url = "${c}";`,
    );
    expect(await w.lock()).toBe('locked');
    expect(await w.lock()).toBe('unchanged');
    const names = ['B', 'a', 'a-b', 'a_b', 'aB', '"__proto__"', 'constructor', 'root', 'root_2', 'c_2', 'c'];
    set(w, names.map((name) => `${name}.url = "${w.url(name === 'a' ? 'a' : 'b')}";`).join(' '));
    expect(await w.lock()).toBe('locked');
    expect(await w.lock()).toBe('unchanged');
  });

  it('a root in a folder of its repository', async () => {
    const w = new World();
    w.write('root', {
      'flake.nix': flake(),
      'in/flake.nix': flake('up.url = "../"; s.url = "./s"; o.url = "path:../o"; d.url = "path:..?dir=o";'),
      'in/s/flake.nix': flake('x.url = "../../o";'),
      'o/flake.nix': flake(),
    });
    expect(await w.lock({ dir: 'in' })).toBe('locked');
    expect(await w.lock({ dir: 'in' })).toBe('unchanged');
  });
});
