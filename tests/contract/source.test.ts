/** What every implementation of the Source port owes its callers, held by one suite over three kinds of source. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { silent } from '../../src/base/events.ts';
import { type FlakeRef, isLocked, refKey } from '../../src/flake/flake-ref.ts';
import type { Source } from '../../src/flake/source.ts';
import { parseNarHash } from '../../src/formats/hash.ts';
import { hashTree } from '../../src/formats/nar.ts';
import { Sources } from '../../src/sources/source.ts';
import { walkPath } from '../../src/store/tree-files.ts';
import { canonical, type Recipe, writeFiles } from '../../test-repos/build.mjs';
import { errorOf } from '../support/errors.ts';
import { gitServer } from '../support/git-server.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { buildRepositories, recipe } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';
import { entriesOf } from '../support/trees.ts';

/** A recipe's last commit on `main`. */
function lastOnMain(made: Recipe): string {
  return made.commits.findLast((commit) => (commit.branch ?? 'main') === 'main')!.id;
}

/** The files of the recipe's `main`, written out without Git. */
function filesOf(name: string): string {
  const folder = join(temporaryFolder(), name);
  const made = canonical(recipe(name));
  writeFiles(made, lastOnMain(made), folder);
  return folder;
}

interface World {
  readonly source: Source;
  /** A reference to the recipe's `main`, not pinned. */
  ref(name: string): FlakeRef;
  /** Makes the recipe's sources unreachable, so that nothing can be fetched any more. */
  remove(name: string): void;
}

const newSource = (): Sources => new Sources({ cacheFolder: temporaryFolder(), reporter: silent });

const worlds: Record<string, () => Promise<World>> = {
  'git over http': async () => {
    const folder = temporaryFolder();
    buildRepositories(folder);
    const server = await gitServer(folder);
    return {
      source: newSource(),
      ref: (name) => ({ type: 'git', url: `${server.base}/${name}` }),
      remove: (name) => rmSync(join(folder, name), { recursive: true }),
    };
  },
  'git over file': async () => {
    const folder = temporaryFolder();
    buildRepositories(folder);
    return {
      source: newSource(),
      ref: (name) => ({ type: 'git', url: `file://${folder}/${name}` }),
      remove: (name) => rmSync(join(folder, name), { recursive: true }),
    };
  },
  path: async () => {
    const folder = temporaryFolder();
    mkdirSync(folder, { recursive: true });
    const made = new Set<string>();
    return {
      source: newSource(),
      ref: (name) => {
        const path = join(folder, name);
        const built = canonical(recipe(name));
        if (!made.has(name)) writeFiles(built, lastOnMain(built), path);
        made.add(name);
        return { type: 'path', path };
      },
      remove: (name) => rmSync(join(folder, name), { recursive: true }),
    };
  },
};

describe.each(Object.entries(worlds))('%s', (_, make) => {
  let world: World;

  beforeAll(async () => {
    world = await make();
  });

  test('pins what it fetches, and keeps the rest of the reference', async () => {
    const ref: FlakeRef = { ...world.ref('monorepo'), dir: 'part' };
    const { locked, tree } = await world.source.fetch(ref);
    expect(locked).toMatchObject(ref);
    expect(locked.narHash).toBe(tree.narHash);
    expect(locked.lastModified).toBeGreaterThan(0);
    expect(isLocked(locked)).toBe(true);
    expect((await tree.readFile('part/flake.yaml'))?.toString()).toContain('a part');
  });

  test.each(['base', 'greet-lib', 'odd-files'])('gives the whole tree of %s, bit by bit', async (name) => {
    const { tree } = await world.source.fetch(world.ref(name));
    const written = await hashTree(walkPath(filesOf(name)));
    expect({ narHash: tree.narHash, narSize: tree.narSize }).toEqual(written);
    expect(await hashTree(tree)).toEqual(written);
    // Again: a tree may be walked as often as one likes.
    expect(await hashTree(tree)).toEqual(written);
  });

  test('gives two walks at once', async () => {
    const { tree } = await world.source.fetch(world.ref('odd-files'));
    const [one, other] = await Promise.all([entriesOf(tree), entriesOf(tree)]);
    expect(one).toEqual(other);
    expect(one).toContain('bin/run');
    expect(one).toContain('caf\xe9');
  });

  test('reads single files, and only files', async () => {
    const { tree } = await world.source.fetch(world.ref('odd-files'));
    expect((await tree.readFile('a/inside'))?.toString()).toBe('slash\n');
    expect((await tree.readFile('grüße/日本語'))?.toString()).toBe('UTF-8\n');
    expect((await tree.readFile('crlf.txt'))?.toString()).toBe('one\r\ntwo\r\n');
    expect((await tree.readFile('empty.txt'))?.length).toBe(0);
    for (const path of [
      'none',
      'a',
      'link-to-file',
      'link-to-folder/run',
      'module',
      '',
      '.',
      '../base',
      '/a',
      'a/',
    ])
      expect(await tree.readFile(path), path).toBeUndefined();
  });

  test('gives again what it locked', async () => {
    const first = await world.source.fetch(world.ref('diamond'));
    const again = await world.source.fetch(first.locked);
    expect(again.locked).toEqual(first.locked);
    expect(again.tree.narHash).toBe(first.tree.narHash);
    expect((await newSource().fetch(first.locked)).locked).toEqual(first.locked);
  });

  test('refuses other bytes than those that were locked', async () => {
    const { locked } = await world.source.fetch(world.ref('left'));
    const narHash = parseNarHash(`sha256:${'0'.repeat(64)}`);
    const error = await errorOf(world.source.fetch({ ...locked, narHash }));
    expect(error.code).toBe('FLK_NAR_HASH_MISMATCH');
    expect(error.facts).toEqual({ wanted: narHash, found: locked.narHash });
  });

  test('fetches equal references once', async () => {
    const ref = world.ref('right');
    const [one, other] = await Promise.all([world.source.fetch(ref), world.source.fetch({ ...ref })]);
    expect(refKey(one.locked)).toBe(refKey(other.locked));
    expect(one).toBe(other);
  });

  test('says which source is not there, and tries it again when asked again', async () => {
    const ref = world.ref('assets');
    world.remove('assets');
    const error = await errorOf(world.source.fetch(ref));
    expect(error.code).not.toBe('FLK_INTERNAL');
    expect(error.message).toContain('assets');
    expect((await errorOf(world.source.fetch(ref))).code).toBe(error.code);
  });
});

describe.skipIf(!nixAvailable())(`every recipe hashes as Nix does ${nixReason}`, () => {
  test.each(['base', 'odd-files', 'semver-tags', 'monorepo', 'hello'])('%s', async (name) => {
    const folder = temporaryFolder();
    buildRepositories(folder, [name]);
    const { locked } = await newSource().fetch({ type: 'git', url: `file://${folder}/${name}` });
    const { stdout } = await nix(['hash', 'path', filesOf(name)]);
    expect(locked.narHash).toBe(stdout.trim());
  });
});
