import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type CliWorld, flakeWorld } from '../support/cli.ts';
import { serveFolder } from '../support/folder-server.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';

const identity = ['-c', 'user.name=A', '-c', 'user.email=a@example.org'];

/** A flake with a plain folder, a repository with a folder of its own, and a relative input. */
function archiveWorld(): CliWorld {
  const world = flakeWorld('');
  const assets = join(world.home, 'assets');
  mkdirSync(assets);
  writeFileSync(join(assets, 'font'), 'letters');
  const dep = join(world.home, 'dep');
  mkdirSync(dep);
  writeFileSync(join(dep, 'flake.yaml'), `inputs: { assets: { url: "path:${assets}", flake: false } }\n`);
  git(dep, 'init', '-q');
  git(dep, 'add', '-A');
  git(dep, ...identity, 'commit', '-q', '-m', 'dep');
  mkdirSync(join(world.folder, 'sub'));
  writeFileSync(join(world.folder, 'sub/flake.yaml'), 'description: below\n');
  writeFileSync(
    join(world.folder, 'flake.yaml'),
    `inputs:\n  dep: git+file://${dep}\n  sub: ./sub\n  same: { follows: dep/assets }\n`,
  );
  git(world.folder, 'add', '-A');
  git(world.folder, ...identity, 'commit', '-q', '-m', 'root');
  return world;
}

interface Archived {
  readonly path?: string;
  readonly inputs: Readonly<Record<string, Archived>>;
}

describe('flk archive', () => {
  it('puts every source into the store, and says where each lies', async () => {
    const { flk, home } = archiveWorld();
    const { stdout, status } = await flk(['archive', '--json']);
    expect(status).toBe(0);
    const archived = JSON.parse(stdout) as Archived;
    expect(Object.keys(archived.inputs)).toEqual(['dep', 'sub']);
    expect(archived.inputs.sub).toEqual({ inputs: {} });
    const store = join(home, 'data/flk');
    for (const path of [archived.path, archived.inputs.dep?.path, archived.inputs.dep?.inputs.assets?.path])
      expect(existsSync(join(store, path!))).toBe(true);
    expect(readFileSync(join(store, archived.inputs.dep!.inputs.assets!.path!, 'font'), 'utf8')).toBe(
      'letters',
    );
  });

  it('with --dry-run copies nothing', async () => {
    const { flk, home } = archiveWorld();
    const { stdout } = await flk(['archive', '--dry-run', '--to', 'bundle']);
    expect(stdout.trim().split('\n')).toHaveLength(3);
    expect(existsSync(join(home, 'work/bundle'))).toBe(false);
  });

  it('with --dry-run fetches nothing that the lock has the hash of', async () => {
    const { flk, home } = archiveWorld();
    const { stdout } = await flk(['archive', '--json', '--dry-run']);
    rmSync(join(home, 'assets'), { recursive: true });
    expect(await flk(['archive', '--json', '--dry-run'])).toMatchObject({ status: 0, stdout });
    expect((await flk(['archive', '--json'])).stdout).toContain('FLK_');
  });

  it('copies to a server that is a cache', async () => {
    const { flk, home } = archiveWorld();
    const server = await serveFolder(join(home, 'bundle'));
    const { status, stdout, stderr } = await flk(['archive', '--to', server.base]);
    expect(status, stderr).toBe(0);
    const hashes = stdout
      .trim()
      .split('\n')
      .map((path) => path.slice(11, 43));
    const notes = readdirSync(join(home, 'bundle')).filter((name) => name.endsWith('.narinfo'));
    expect(notes.sort()).toEqual(hashes.map((hash) => `${hash}.narinfo`).sort());
  });

  it('refuses to copy to what is no cache', async () => {
    const { flk } = archiveWorld();
    const { status, stderr } = await flk(['archive', '--to', 'ftp://cache.example.org']);
    expect(status).toBe(2);
    expect(stderr).toContain('file:///FOLDER');
  });

  it('leaves a cache alone that belongs to another store', async () => {
    const { flk, folder } = archiveWorld();
    mkdirSync(join(folder, '../bundle'));
    writeFileSync(join(folder, '../bundle/nix-cache-info'), 'StoreDir: /gnu/store\n');
    const { stderr } = await flk(['archive', '--to', '../bundle']);
    expect(stderr).toContain('FLK_CACHE_INVALID');
  });

  it('adds to a cache only what is not there', async () => {
    const { flk, home } = archiveWorld();
    const { stdout } = await flk(['archive', '--to', '../bundle']);
    const files = readdirSync(join(home, 'bundle/nar'));
    expect(files).toHaveLength(3);
    const note = join(
      home,
      'bundle',
      `${stdout.split('\n')[0]!.slice('/nix/store/'.length).slice(0, 32)}.narinfo`,
    );
    writeFileSync(note, `${readFileSync(note, 'utf8')}Sig: somebody:else\n`);
    expect((await flk(['archive', '--to', `file://${home}/bundle`])).status).toBe(0);
    expect(readFileSync(note, 'utf8')).toContain('Sig: somebody:else');
    expect(readdirSync(join(home, 'bundle/nar'))).toEqual(files);
  });

  it.skipIf(!nixAvailable())(`makes a cache that Nix copies from ${nixReason}`, async () => {
    const { flk, home } = archiveWorld();
    const { stdout } = await flk(['archive', '--json', '--to', '../bundle']);
    const archived = JSON.parse(stdout) as Archived;
    for (const path of [archived.path!, archived.inputs.dep!.path!]) {
      const copied = await nix(['copy', '--from', `file://${home}/bundle`, path]);
      expect(copied).toMatchObject({ status: 0 });
      const verified = await nix(['store', 'verify', '--no-trust', path]);
      expect(verified).toMatchObject({ status: 0 });
    }
  });
});

describe('flk prefetch', () => {
  it.skipIf(!nixAvailable())(`prints what nix flake prefetch prints ${nixReason}`, async () => {
    const { flk, home } = archiveWorld();
    for (const ref of [`git+file://${home}/dep`, `path:${home}/assets`]) {
      const expected = await nix(['flake', 'prefetch', '--json', ref]);
      expect(JSON.parse((await flk(['prefetch', '--json', ref])).stdout)).toEqual(
        JSON.parse(expected.stdout),
      );
    }
  });

  it('fetches what is no flake, and links it where it is asked to', async () => {
    const { flk, home, folder } = archiveWorld();
    const { stdout, status } = await flk(['prefetch', `path:${home}/assets`, '--out-link', 'assets']);
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /^Downloaded 'path:\S+' to '\/nix\/store\/\S+-source' \(hash 'sha256-\S+='\)\.\n$/,
    );
    expect(readFileSync(join(folder, 'assets/font'), 'utf8')).toBe('letters');
  });
});
