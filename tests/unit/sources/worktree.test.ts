import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { TrackedFiles, type TrackedState } from '../../../src/sources/tracked-files.ts';
import { findRepository, readTrackedByGit } from '../../../src/sources/worktree.ts';
import {
  openCommitByIsomorphicGit,
  readTrackedByIsomorphicGit,
} from '../../../src/sources/worktree-isomorphic.ts';
import { errorOf } from '../../support/errors.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { buildRepositories, git } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { entriesOf } from '../../support/trees.ts';

/** A clone, with a working tree, of a recipe's repository. */
function clone(name: string): string {
  const folder = temporaryFolder();
  buildRepositories(folder, [name]);
  const root = join(folder, 'clone');
  git(folder, 'clone', '--quiet', name, root);
  return root;
}

/** A repository with two committed files, one in a folder. */
function small(): string {
  const root = temporaryFolder();
  git(root, 'init', '--quiet');
  writeFileSync(join(root, 'flake.yaml'), 'description: small\n');
  mkdirSync(join(root, 'src'));
  writeFileSync(join(root, 'src/main'), 'main\n');
  git(root, 'add', '.');
  git(root, 'commit', '--quiet', '-m', 'first');
  return root;
}

const paths = (state: TrackedState): string[] => state.entries.map((entry) => entry.path);

async function listed(root: string): Promise<string[]> {
  const state = await readTrackedByGit(root);
  return entriesOf(new TrackedFiles(root, state.entries, { reporter: silent }));
}

describe('a working tree', () => {
  test('holds what is tracked, as it is on disk', async () => {
    const root = small();
    writeFileSync(join(root, 'untracked'), '');
    writeFileSync(join(root, 'src/.gitignore'), 'ignored\n');
    writeFileSync(join(root, 'src/ignored'), '');
    expect(await listed(root)).toEqual(['flake.yaml', 'src/', 'src/main']);
  });

  test('is dirty, or not', async () => {
    const root = small();
    const rev = git(root, 'rev-parse', 'HEAD');
    const clean = await readTrackedByGit(root);
    expect(clean).toMatchObject({ rev, ref: 'refs/heads/main', dirty: false, lastModified: 1704067200 });
    writeFileSync(join(root, 'untracked'), '');
    expect((await readTrackedByGit(root)).dirty).toBe(false);
    appendFileSync(join(root, 'src/main'), 'more\n');
    expect(await readTrackedByGit(root)).toMatchObject({ rev, dirty: true, lastModified: 1704067200 });
  });

  test.each<[string, (root: string) => void, string[]]>([
    [
      'a changed mode',
      (root) => chmodSync(join(root, 'src/main'), 0o755),
      ['flake.yaml', 'src/', 'src/main*'],
    ],
    ['a deleted file', (root) => rmSync(join(root, 'flake.yaml')), ['src/', 'src/main']],
    ['a deleted folder', (root) => rmSync(join(root, 'src'), { recursive: true }), ['flake.yaml']],
    ['a folder without its files', (root) => rmSync(join(root, 'src/main')), ['flake.yaml']],
    [
      'a staged file',
      (root) => {
        writeFileSync(join(root, 'new'), '');
        git(root, 'add', 'new');
      },
      ['flake.yaml', 'new', 'src/', 'src/main'],
    ],
    [
      'a file known by add -N',
      (root) => {
        writeFileSync(join(root, 'new'), '');
        git(root, 'add', '-N', 'new');
      },
      ['flake.yaml', 'new', 'src/', 'src/main'],
    ],
    [
      'a file replaced by a link',
      (root) => {
        rmSync(join(root, 'src/main'));
        symlinkSync('/etc/hostname', join(root, 'src/main'));
      },
      ['flake.yaml', 'src/', 'src/main@ -> /etc/hostname'],
    ],
    [
      'a file replaced by a folder',
      (root) => {
        rmSync(join(root, 'src/main'));
        mkdirSync(join(root, 'src/main'));
        writeFileSync(join(root, 'src/main/secret'), '');
      },
      ['flake.yaml'],
    ],
    [
      'a folder replaced by a link to a folder outside',
      (root) => {
        const outside = temporaryFolder();
        writeFileSync(join(outside, 'main'), 'secret\n');
        rmSync(join(root, 'src'), { recursive: true });
        symlinkSync(outside, join(root, 'src'));
      },
      ['flake.yaml'],
    ],
    [
      'a folder within a folder replaced by such a link',
      (root) => {
        const outside = temporaryFolder();
        mkdirSync(join(root, 'deep/down'), { recursive: true });
        writeFileSync(join(root, 'deep/down/file'), '');
        git(root, 'add', '.');
        rmSync(join(root, 'deep/down'), { recursive: true });
        writeFileSync(join(outside, 'file'), 'secret\n');
        symlinkSync(outside, join(root, 'deep/down'));
      },
      ['flake.yaml', 'src/', 'src/main'],
    ],
  ])('with %s', async (_, change, expected) => {
    const root = small();
    change(root);
    expect((await readTrackedByGit(root)).dirty).toBe(true);
    expect(await listed(root)).toEqual(expected);
    expect(await readTrackedByIsomorphicGit(root)).toEqual(await readTrackedByGit(root));
  });

  test('lists each side of a conflict once', async () => {
    const root = small();
    git(root, 'checkout', '--quiet', '-b', 'other');
    writeFileSync(join(root, 'src/main'), 'other\n');
    git(root, 'commit', '--quiet', '-am', 'other');
    git(root, 'checkout', '--quiet', 'main');
    writeFileSync(join(root, 'src/main'), 'ours\n');
    git(root, 'commit', '--quiet', '-am', 'ours');
    expect(() => git(root, 'merge', '--quiet', 'other')).toThrow();
    const state = await readTrackedByGit(root);
    expect(state.dirty).toBe(true);
    expect(paths(state)).toEqual(['flake.yaml', 'src/main']);
    expect(await readTrackedByIsomorphicGit(root)).toEqual(state);
  });

  test('before its first commit', async () => {
    const root = temporaryFolder();
    git(root, 'init', '--quiet');
    expect(await readTrackedByGit(root)).toEqual({
      entries: [],
      ref: 'refs/heads/main',
      lastModified: 0,
      dirty: false,
    });
    expect(await readTrackedByIsomorphicGit(root)).toEqual(await readTrackedByGit(root));
    writeFileSync(join(root, 'flake.yaml'), '');
    git(root, 'add', 'flake.yaml');
    expect(await readTrackedByGit(root)).toMatchObject({ dirty: true, lastModified: 0 });
    expect(await readTrackedByIsomorphicGit(root)).toEqual(await readTrackedByGit(root));
  });

  test('with a detached HEAD has no ref', async () => {
    const root = small();
    git(root, 'checkout', '--quiet', '--detach');
    const state = await readTrackedByGit(root);
    expect(state.ref).toBeUndefined();
    expect(state.rev).toBe(git(root, 'rev-parse', 'HEAD'));
    expect(await readTrackedByIsomorphicGit(root)).toEqual(state);
  });

  test('shows a submodule as an empty folder, whatever is checked out there', async () => {
    const inner = small();
    const root = small();
    git(root, '-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'add', inner, 'module');
    git(root, 'commit', '--quiet', '-m', 'module');
    expect(await listed(root)).toEqual(['.gitmodules', 'flake.yaml', 'module/', 'src/', 'src/main']);
    appendFileSync(join(root, 'module/src/main'), 'changed\n');
    expect((await readTrackedByGit(root)).dirty).toBe(false);
    git(join(root, 'module'), 'commit', '--quiet', '-am', 'another commit');
    expect((await readTrackedByGit(root)).dirty).toBe(false);
    expect(await readTrackedByIsomorphicGit(root)).toEqual(await readTrackedByGit(root));
    git(root, 'add', 'module');
    expect((await readTrackedByGit(root)).dirty).toBe(true);
    expect(await readTrackedByIsomorphicGit(root)).toEqual(await readTrackedByGit(root));
  });

  test('reads names that are not UTF-8, through links to nowhere and past odd modes', async () => {
    const root = clone('odd-files');
    const state = await readTrackedByGit(root);
    expect(paths(state)).toContain('caf\xe9');
    expect(paths(state)).toContain('\xff\xfe/\x80');
    expect(await listed(root)).toContain('latin-link@ -> caf\ufffd');
    expect((await errorOf(readTrackedByIsomorphicGit(root))).code).toBe('FLK_GIT_WORKTREE');
  });

  test('is not led astray by the environment of a hook', async () => {
    const root = small();
    const other = small();
    process.env.GIT_DIR = join(other, '.git');
    process.env.GIT_INDEX_FILE = join(other, 'no-such-index');
    try {
      expect(paths(await readTrackedByGit(root))).toEqual(['flake.yaml', 'src/main']);
    } finally {
      delete process.env.GIT_DIR;
      delete process.env.GIT_INDEX_FILE;
    }
  });

  test('runs no program that the repository names as its file system monitor', async () => {
    const root = small();
    const mark = join(root, 'ran');
    const hook = join(root, 'monitor');
    writeFileSync(hook, `#!/bin/sh\ntouch ${mark}\n`, { mode: 0o755 });
    git(root, 'config', 'core.fsmonitor', hook);
    await readTrackedByGit(root);
    expect(existsSync(mark)).toBe(false);
    git(root, 'status');
    expect(existsSync(mark)).toBe(true);
  });

  test('works in a linked worktree, which isomorphic-git cannot read', async () => {
    const root = small();
    const linked = join(temporaryFolder(), 'linked');
    git(root, 'worktree', 'add', '--quiet', linked);
    expect(findRepository(join(linked, 'src'))).toBe(linked);
    expect(paths(await readTrackedByGit(linked))).toEqual(['flake.yaml', 'src/main']);
    expect((await errorOf(readTrackedByIsomorphicGit(linked))).code).toBe('FLK_GIT_WORKTREE');
  });

  test('refuses a damaged repository', async () => {
    const root = small();
    writeFileSync(join(root, '.git/HEAD'), 'nonsense\n');
    expect((await errorOf(readTrackedByGit(root))).code).toBe('FLK_GIT_WORKTREE');
  });

  test('refuses a dirty sparse checkout, whose other files are not there', async () => {
    const root = small();
    git(root, 'sparse-checkout', 'set', '--no-cone', '/flake.yaml');
    expect(await readTrackedByGit(root)).toMatchObject({ dirty: false });
    appendFileSync(join(root, 'flake.yaml'), 'x-more: 1\n');
    expect((await errorOf(readTrackedByGit(root))).code).toBe('FLK_GIT_WORKTREE');
    expect((await errorOf(readTrackedByIsomorphicGit(root))).code).toBe('FLK_GIT_WORKTREE');
  });
});

describe('without a git program', () => {
  test.each<[string, (root: string) => void]>([
    ['an index of version 4', (root) => git(root, 'update-index', '--index-version', '4')],
    ['a split index', (root) => git(root, 'update-index', '--split-index')],
    ['a partial clone', (root) => git(root, 'config', 'extensions.partialClone', 'origin')],
    ['files elsewhere', (root) => git(root, 'config', 'core.worktree', '/elsewhere')],
    ['borrowed objects', (root) => writeFileSync(join(root, '.git/objects/info/alternates'), '/elsewhere\n')],
    ['a truncated index', (root) => writeFileSync(join(root, '.git/index'), 'DIRC')],
    ['a damaged index', (root) => writeFileSync(join(root, '.git/index'), Buffer.alloc(64, 'DIRC'))],
  ])('%s is refused', async (_, change) => {
    const root = small();
    await readTrackedByIsomorphicGit(root);
    change(root);
    expect((await errorOf(readTrackedByIsomorphicGit(root))).code).toBe('FLK_GIT_WORKTREE');
  });

  test('a repository of SHA-256 objects is refused', async () => {
    const root = temporaryFolder();
    git(root, 'init', '--quiet', '--object-format=sha256');
    expect((await errorOf(readTrackedByIsomorphicGit(root))).code).toBe('FLK_GIT_WORKTREE');
  });

  test('a file rewritten with the same size and time as before is found out', async () => {
    const root = small();
    const file = join(root, 'src/main');
    const before = join(temporaryFolder(), 'before');
    execFileSync('cp', ['-p', file, before]);
    writeFileSync(file, 'MAIN\n');
    execFileSync('touch', ['-r', before, file]);
    // As if the index had been written in the same moment.
    execFileSync('touch', ['-r', before, join(root, '.git/index')]);
    expect((await readTrackedByIsomorphicGit(root)).dirty).toBe(true);
  });

  test('an empty file that is staged as deleted and known by add -N again is a change', async () => {
    const root = small();
    writeFileSync(join(root, 'empty'), '');
    git(root, 'add', 'empty');
    git(root, 'commit', '--quiet', '-m', 'empty');
    git(root, 'rm', '--quiet', '--cached', 'empty');
    git(root, 'add', '-N', 'empty');
    expect((await readTrackedByIsomorphicGit(root)).dirty).toBe(true);
    expect(await readTrackedByIsomorphicGit(root)).toEqual(await readTrackedByGit(root));
  });

  test('a commit’s tree is what git checks out', async () => {
    const root = clone('semver-tags');
    git(root, 'gc', '--quiet');
    const { rev, entries } = await readTrackedByGit(root);
    const committed = await openCommitByIsomorphicGit(root, rev!);
    const onDisk = await new TrackedFiles(root, entries, { reporter: silent }).hashed();
    expect(committed.narHash).toBe(onDisk.narHash);
    expect((await committed.readFile('VERSION'))?.toString()).toBe('2.0.0\n');
    expect(await committed.readFile('no/such')).toBeUndefined();
    expect(await hashTree(committed)).toEqual({ narHash: onDisk.narHash, narSize: onDisk.narSize });
  });
});

describe.skipIf(!nixAvailable())(`a dirty working tree hashes as Nix does ${nixReason}`, () => {
  test('with files staged, changed, deleted and known by add -N', async () => {
    const root = small();
    writeFileSync(join(root, 'flake.nix'), '{ outputs = _: { }; }\n');
    for (const name of ['gone', 'staged', 'a.b', 'a-b']) writeFileSync(join(root, name), `${name}\n`);
    mkdirSync(join(root, 'a'));
    writeFileSync(join(root, 'a/x'), '', { mode: 0o755 });
    symlinkSync('nowhere', join(root, 'link'));
    git(root, 'add', '.');
    git(root, 'commit', '--quiet', '-m', 'second');
    rmSync(join(root, 'gone'));
    appendFileSync(join(root, 'a.b'), 'more\n');
    writeFileSync(join(root, 'known'), 'known\n');
    git(root, 'add', '-N', 'known');
    writeFileSync(join(root, 'untracked'), '');
    const state = await readTrackedByGit(root);
    const tree = await new TrackedFiles(root, state.entries, { reporter: silent }).hashed();
    const answer = await nix(['flake', 'metadata', '--json', root], { env: { HOME: temporaryFolder() } });
    const { locked, lastModified } = JSON.parse(answer.stdout);
    expect(tree.narHash).toBe(locked.narHash);
    expect(state.lastModified).toBe(lastModified);
    expect(`${state.rev}-dirty`).toBe(locked.dirtyRev);
  });
});
