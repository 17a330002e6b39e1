import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { type Event, silent } from '../../../src/base/events.ts';
import { printFlakeRef } from '../../../src/flake/flake-ref.ts';
import type { Source } from '../../../src/flake/source.ts';
import { type LocalFlake, openLocalFlake } from '../../../src/sources/local-flake.ts';
import { errorOf } from '../../support/errors.ts';
import { git, gitEnvironment } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

/** The committed tree of a clean repository is somebody else's work: here it is only asked for. */
const asked: unknown[] = [];
const source: Pick<Source, 'fetch'> = {
  fetch: async (ref) => {
    asked.push(ref);
    throw new FlkError('FLK_OFFLINE', 'only asked');
  },
};

const open = (folder: string): Promise<LocalFlake> => openLocalFlake(folder, { reporter: silent, source });

function repository(): string {
  const root = temporaryFolder();
  git(root, 'init', '--quiet');
  writeFileSync(join(root, 'flake.yaml'), 'description: outer\n');
  mkdirSync(join(root, 'parts/inner/src'), { recursive: true });
  writeFileSync(join(root, 'parts/inner/flake.yaml'), 'description: inner\n');
  writeFileSync(join(root, 'parts/inner/src/x'), 'x\n');
  git(root, 'add', '.');
  git(root, 'commit', '--quiet', '-m', 'first');
  return root;
}

/** Runs `work` where no program can be found. */
async function withoutPrograms<T>(work: () => Promise<T>): Promise<T> {
  const path = process.env.PATH;
  process.env.PATH = temporaryFolder();
  try {
    return await work();
  } finally {
    process.env.PATH = path;
  }
}

describe('the flake at hand', () => {
  test('is found in a repository', async () => {
    const root = repository();
    writeFileSync(join(root, 'flake.lock'), '{}\n');
    const flake = await open(root);
    expect(flake).toMatchObject({ kind: 'git', root, dir: '', folder: root, lockText: '{}\n' });
    expect(flake.manifest.text).toBe('description: outer\n');
    expect(flake.lockPath).toBe(join(root, 'flake.lock'));
    expect(printFlakeRef(flake.ref)).toBe(`git+file://${root}`);
  });

  test('that Git was asked about beforehand has the same tree', async () => {
    const root = repository();
    writeFileSync(join(root, 'flake.yaml'), 'description: changed\n');
    const flake = await open(root);
    flake.lookAhead();
    const { tree, rev, lastModified, dirty } = await flake.tree();
    const later = await (await open(root)).tree();
    expect({ narHash: tree.narHash, rev, lastModified, dirty }).toEqual({
      narHash: later.tree.narHash,
      rev: git(root, 'rev-parse', 'HEAD'),
      lastModified: Number(git(root, 'log', '-1', '--format=%ct')),
      dirty: true,
    });
  });

  test('whose repository is broken says so when the tree is asked for, not before', async () => {
    const root = repository();
    writeFileSync(join(root, '.git/HEAD'), 'nothing\n');
    const flake = await open(root);
    flake.lookAhead();
    // Asks git too, and so takes as long.
    expect((await errorOf(flake.assertTracked())).code).toBe('FLK_GIT_WORKTREE');
    expect((await errorOf(flake.tree())).code).toBe('FLK_GIT_WORKTREE');
  });

  test('is found upwards from a folder within it, the nearest first', async () => {
    const root = repository();
    expect(await open(join(root, 'parts'))).toMatchObject({ folder: root, dir: '' });
    const inner = await open(join(root, 'parts/inner/src'));
    expect(inner).toMatchObject({ root, folder: join(root, 'parts/inner'), dir: 'parts/inner' });
    expect(inner.manifest.text).toBe('description: inner\n');
    expect(printFlakeRef(inner.ref)).toBe(`git+file://${root}?dir=parts/inner`);
  });

  test('is found through a link to its folder, by its real name', async () => {
    const root = repository();
    const link = join(temporaryFolder(), 'link');
    symlinkSync(root, link);
    expect((await open(link)).root).toBe(root);
  });

  test('is a path where there is no repository', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'flake.yaml'), '');
    const flake = await open(folder);
    expect(flake).toMatchObject({ kind: 'path', root: folder, ref: { type: 'path', path: folder } });
    expect(flake.lockText).toBeUndefined();
    const { locked, tree, dirty } = await flake.tree();
    expect(locked).toMatchObject({ type: 'path', path: folder, narHash: tree.narHash });
    expect(dirty).toBe(false);
    await flake.assertTracked();
    await flake.trackLock();
  });

  test('is not looked for above the repository', async () => {
    const outer = temporaryFolder();
    writeFileSync(join(outer, 'flake.yaml'), '');
    const inner = join(outer, 'inner');
    mkdirSync(inner);
    git(inner, 'init', '--quiet');
    expect((await errorOf(open(inner))).code).toBe('FLK_MANIFEST_MISSING');
  });

  test('may be a flake.nix, whichever is nearest', async () => {
    const root = temporaryFolder();
    git(root, 'init', '--quiet');
    const inner = join(root, 'inner');
    mkdirSync(join(inner, 'deep'), { recursive: true });
    writeFileSync(join(root, 'flake.yaml'), '');
    writeFileSync(join(inner, 'flake.nix'), '{ }');
    expect(await open(join(inner, 'deep'))).toMatchObject({
      folder: inner,
      dir: 'inner',
      manifestName: 'flake.nix',
      manifest: { text: '{ }' },
    });
    expect((await errorOf((await open(inner)).assertTracked())).hint).toContain('inner/flake.nix');
    // Who names the file means its folder.
    expect((await open(join(inner, 'flake.nix'))).folder).toBe(inner);
  });

  test('with both manifests has to be told which one counts', async () => {
    const root = temporaryFolder();
    git(root, 'init', '--quiet');
    for (const name of ['flake.yaml', 'flake.nix']) writeFileSync(join(root, name), '');
    const error = await errorOf(open(root));
    expect(error.code).toBe('FLK_MANIFEST_AMBIGUOUS');
    expect(error.hint).toContain('--manifest flake.yaml');
    for (const manifest of ['flake.yaml', 'flake.nix'] as const)
      expect((await openLocalFlake(root, { source, reporter: silent, manifest })).manifestName).toBe(
        manifest,
      );
  });

  test.each<[string, (folder: string) => string]>([
    ['a folder that is not there', (folder) => join(folder, 'none')],
    [
      'a file instead of a folder',
      (folder) => {
        writeFileSync(join(folder, 'notes'), '');
        return join(folder, 'notes');
      },
    ],
    [
      'a manifest that is a link',
      (folder) => {
        symlinkSync('/etc/hostname', join(folder, 'flake.yaml'));
        return folder;
      },
    ],
    [
      'a manifest that is not UTF-8',
      (folder) => {
        writeFileSync(join(folder, 'flake.yaml'), Buffer.from('description: caf\xe9\n', 'latin1'));
        return folder;
      },
    ],
    [
      'a lock that is a folder',
      (folder) => {
        writeFileSync(join(folder, 'flake.yaml'), '');
        mkdirSync(join(folder, 'flake.lock'));
        return folder;
      },
    ],
  ])('fails with %s', async (_, arrange) => {
    expect((await errorOf(open(arrange(temporaryFolder())))).code).toBe('FLK_FILE_UNREADABLE');
  });

  test('needs no program as long as only its texts are read', async () => {
    const root = repository();
    await withoutPrograms(async () => {
      expect((await open(join(root, 'parts/inner'))).manifest.text).toBe('description: inner\n');
    });
  });
});

describe('an untracked manifest', () => {
  test.each([
    ['at the root', 'flake.yaml', 'git add -N'],
    ['in a folder', 'my parts/it’s/flake.yaml', 'git add -N'],
    ['ignored', 'build/flake.yaml', 'git add -fN'],
  ])('%s: the command that makes it known', async (_, path, command) => {
    const root = temporaryFolder();
    git(root, 'init', '--quiet');
    writeFileSync(join(root, '.gitignore'), 'build\n');
    const folder = join(root, path, '..');
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(root, path), '');
    const flake = await open(folder);
    for (const asking of [() => flake.assertTracked(), () => flake.tree()]) {
      const error = await errorOf(asking());
      expect(error.code).toBe('FLK_MANIFEST_UNTRACKED');
      // The hint is a shell's command, to be typed where flk was run.
      expect(error.hint.startsWith(command.replace('git', `git -C ${root}`))).toBe(true);
    }
    const { hint } = await errorOf(flake.assertTracked());
    execFileSync('sh', ['-c', hint], { env: gitEnvironment });
    await flake.assertTracked();
    expect((await (await open(folder)).tree()).dirty).toBe(true);
  });
});

describe('its tree', () => {
  test('without changes is HEAD, fetched by revision', async () => {
    const root = repository();
    const flake = await open(join(root, 'parts/inner'));
    expect((await errorOf(flake.tree())).code).toBe('FLK_OFFLINE');
    expect(asked.at(-1)).toEqual({
      type: 'git',
      url: `file://${root}`,
      dir: 'parts/inner',
      ref: 'refs/heads/main',
      rev: git(root, 'rev-parse', 'HEAD'),
    });
  });

  test('with changes is what is on disk, told once', async () => {
    const root = repository();
    appendFileSync(join(root, 'flake.yaml'), 'x-more: 1\n');
    const events: Event[] = [];
    const flake = await openLocalFlake(root, { reporter: { emit: (event) => events.push(event) }, source });
    const { tree, locked, dirty, rev, lastModified } = await flake.tree();
    expect((await tree.readFile('flake.yaml'))?.toString()).toBe('description: outer\nx-more: 1\n');
    expect(await tree.readFile('.git/config')).toBeUndefined();
    expect({ dirty, lastModified }).toEqual({ dirty: true, lastModified: 1704067200 });
    expect(rev).toBe(git(root, 'rev-parse', 'HEAD'));
    expect(locked).toMatchObject({ type: 'git', url: `file://${root}`, lastModified, narHash: tree.narHash });
    expect(await flake.tree()).toBe(await flake.tree());
    expect(events.filter((event) => event.kind === 'notice')).toEqual([
      { kind: 'notice', notice: { type: 'dirty-tree', path: root } },
    ]);
  });

  test('holds a new lock once it is tracked', async () => {
    const root = repository();
    const flake = await open(root);
    writeFileSync(flake.lockPath, '{}\n');
    await flake.trackLock();
    expect(git(root, 'status', '--porcelain')).toBe('A flake.lock');
    const { tree } = await (await open(root)).tree();
    expect((await tree.readFile('flake.lock'))?.toString()).toBe('{}\n');
  });
});
