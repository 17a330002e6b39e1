/** Nix's lock flags: the same commands by Nix and by flk on two clones of one repository, which must end up the same. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cliWorld } from '../support/cli.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

class Pair {
  readonly folder = temporaryFolder();
  readonly #world = cliWorld({ NIX_CONFIG: 'flake-registry =' });

  constructor() {
    for (const name of ['base', 'other', 'top']) {
      mkdirSync(join(this.folder, name));
      git(this.at(name), 'init', '--quiet');
    }
    this.commit('base', { 'flake.nix': '{ outputs = _: { }; }' });
    this.commit('other', {
      'flake.nix': `{ inputs.base.url = "git+file://${this.folder}/base"; outputs = _: { }; }`,
    });
    const text = `{ inputs.base.url = "git+file://${this.folder}/base"; inputs.other.url = "git+file://${this.folder}/other"; outputs = _: { }; }`;
    this.commit('top', { 'flake.nix': text, 'sub/flake.nix': text });
    for (const clone of ['nix', 'flk']) {
      git(this.folder, 'clone', '--quiet', 'top', clone);
      for (const [key, value] of [
        ['user.name', 'me'],
        ['user.email', 'me@example.org'],
      ] as const)
        git(this.at(clone), 'config', key, value);
    }
  }

  at(...path: string[]): string {
    return join(this.folder, ...path);
  }

  commit(name: string, files: Readonly<Record<string, string>> = {}): void {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(this.at(name, path, '..'), { recursive: true });
      writeFileSync(this.at(name, path), text);
    }
    git(this.at(name), 'add', '.');
    git(this.at(name), 'commit', '--quiet', '--allow-empty', '-m', 'more');
  }

  /** In both clones. */
  each(work: (clone: string) => void): void {
    for (const clone of ['nix', 'flk']) work(this.at(clone));
  }

  /** `nix flake ARGS` and `flk ARGS`; whether both did it. Afterwards the clones are in the same state. */
  async run(...args: string[]): Promise<boolean> {
    const theirs = await nix(['flake', ...args], { cwd: this.at('nix') });
    const ours = await this.#world.flk(args, { cwd: this.at('flk') });
    expect(ours.status === 0, `${args.join(' ')}\n${ours.stderr}\n${theirs.stderr}`).toBe(
      theirs.status === 0,
    );
    expect(this.#state('flk'), args.join(' ')).toEqual(this.#state('nix'));
    return ours.status === 0;
  }

  #state(clone: string): unknown {
    const folder = this.at(clone);
    const read = (name: string): string | undefined =>
      existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8') : undefined;
    return {
      files: ['flake.lock', 'sub/flake.lock', 'out.lock'].map(read),
      status: git(folder, 'status', '--porcelain'),
      log: git(folder, 'log', '--format=%B%x00', '--name-status'),
    };
  }
}

describe.skipIf(!nixAvailable())(`flk takes Nix's lock flags as Nix does ${nixReason}`, () => {
  it('for a new lock', async () => {
    const pair = new Pair();
    expect(await pair.run('lock', '--no-update-lock-file')).toBe(false);
    expect(await pair.run('metadata', '--no-write-lock-file')).toBe(true);
    expect(await pair.run('lock', '--output-lock-file', 'out.lock')).toBe(true);
    expect(await pair.run('lock', '--commit-lock-file', '--output-lock-file', 'out.lock')).toBe(false);
    pair.each((clone) => writeFileSync(join(clone, 'staged'), 'x'));
    pair.each((clone) => git(clone, 'add', 'staged'));
    expect(await pair.run('lock', '--commit-lock-file')).toBe(true);
    expect(await pair.run('lock', './sub', '--commit-lock-file')).toBe(true);
    expect(await pair.run('lock', '--commit-lock-file')).toBe(true);
    // A lock that is as it should be is written to another file all the same.
    expect(await pair.run('metadata', '--output-lock-file', 'out.lock')).toBe(true);
  });

  it('for a lock that could move', async () => {
    const pair = new Pair();
    await pair.run('lock', '--commit-lock-file');
    pair.each((clone) => writeFileSync(join(clone, 'first.lock'), readFileSync(join(clone, 'flake.lock'))));
    pair.commit('base');
    for (const args of [
      ['lock'],
      ['metadata'],
      ['lock', '--update-input', 'other/base', '--no-update-lock-file'],
      ['metadata', '--recreate-lock-file', '--no-update-lock-file'],
      ['metadata', '--override-input', 'base', '../other'],
      ['metadata', '--override-input', 'base', '../other', '--no-update-lock-file'],
      ['metadata', '--override-input', 'nothing', '../other'],
      ['lock', '--override-input', 'other/base/', '../other'],
      ['lock', '--override-input', '', '../other'],
      ['lock', '--update-input', 'base'],
      ['lock', '--reference-lock-file', 'first.lock'],
      ['lock', '--reference-lock-file', 'missing.lock'],
      ['update', 'base', '--commit-lock-file'],
      ['update', '--output-lock-file', 'out.lock', '--reference-lock-file', 'first.lock'],
      ['metadata', '--update-input', 'other'],
      ['update', '--commit-lock-file'],
      ['update', 'nothing'],
    ])
      await pair.run(...args);
    expect(await pair.run('lock', '--override-input', 'base', '../nowhere')).toBe(false);
  });

  it('beside uncommitted changes', async () => {
    const pair = new Pair();
    await pair.run('lock');
    appendFileSync(pair.at('base', 'flake.nix'), '# changed\n');
    expect(await pair.run('update')).toBe(true);
    expect(await pair.run('metadata', '--update-input', 'base')).toBe(true);
    expect(await pair.run('lock', '--update-input', 'base')).toBe(false);
    expect(await pair.run('lock', '--update-input', 'base', '--no-allow-dirty')).toBe(false);
    expect(await pair.run('lock', '--update-input', 'base', '--allow-dirty-locks')).toBe(true);
    pair.each((clone) => appendFileSync(join(clone, 'flake.nix'), '# changed\n'));
    expect(await pair.run('metadata', '--no-allow-dirty')).toBe(false);
    expect(await pair.run('lock', '--reference-lock-file', 'flake.lock', '--no-allow-dirty')).toBe(false);
  });

  it('with names out of another flake and of the command line', async () => {
    const pair = new Pair();
    await pair.run('lock', '--commit-lock-file');
    pair.each((clone) =>
      writeFileSync(
        join(clone, 'sub/flake.nix'),
        '{ inputs.base.url = "base"; outputs = { self, base, other }: { }; }',
      ),
    );
    expect(await pair.run('lock', './sub')).toBe(false);
    expect(await pair.run('lock', './sub', '--no-registries', '--override-flake', 'base', '../base')).toBe(
      false,
    );
    expect(await pair.run('lock', './sub', '--inputs-from', '.')).toBe(true);
    pair.commit('base');
    const base = `git+file://${pair.at('base')}`;
    expect(
      await pair.run(
        'lock',
        './sub',
        '--update-input',
        'base',
        '--override-flake',
        'base',
        base,
        '--refresh',
      ),
    ).toBe(true);
  });
});
