import { execFileSync } from 'node:child_process';
import { lutimesSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Event, silent } from '../../../src/base/events.ts';
import type { NarHash } from '../../../src/formats/hash.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { fetchPath } from '../../../src/sources/path.ts';
import { canonical, writeFiles } from '../../../test-repos/build.mjs';
import { errorOf } from '../../support/errors.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { recipe } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';

function folderWithFiles(): string {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'file'), 'content\n');
  mkdirSync(join(folder, 'sub'));
  writeFileSync(join(folder, 'sub/run'), '#!/bin/sh\n', { mode: 0o755 });
  symlinkSync('nowhere', join(folder, 'link'));
  return folder;
}

const fetch = (path: string, more: { narHash?: NarHash; lastModified?: number; dir?: string } = {}) =>
  fetchPath({ type: 'path', path, ...more }, { reporter: silent });

/** Sets the modification times of everything in the folder from `folderWithFiles`, in seconds. */
function date(folder: string, times: { file: number; sub: number; run: number; link: number; root: number }) {
  const at = (seconds: number): Date => new Date(seconds * 1000);
  utimesSync(join(folder, 'file'), at(times.file), at(times.file));
  utimesSync(join(folder, 'sub/run'), at(times.run), at(times.run));
  utimesSync(join(folder, 'sub'), at(times.sub), at(times.sub));
  lutimesSync(join(folder, 'link'), at(times.link), at(times.link));
  utimesSync(folder, at(times.root), at(times.root));
}

describe('a path source', () => {
  test('is locked by its NAR hash', async () => {
    const folder = folderWithFiles();
    date(folder, { file: 10, sub: 10, run: 10, link: 10, root: 10 });
    const { locked, tree } = await fetch(folder, { dir: 'sub' });
    expect(locked).toEqual({
      type: 'path',
      path: folder,
      dir: 'sub',
      lastModified: 10,
      narHash: (await hashTree(tree)).narHash,
    });
    // nix hash path, of the same four nodes
    expect(tree.narHash).toBe('sha256-T0nqPzpzn/vVoAu/jfjO8E6bs9ba2WHrOVXHhsSUXeI=');
  });

  test.each(['file', 'sub', 'run', 'link', 'root'] as const)(
    'was last modified when its newest node was: %s',
    async (newest) => {
      const folder = folderWithFiles();
      date(folder, { file: 10, sub: 10, run: 10, link: 10, root: 10, [newest]: 2000.9 });
      expect((await fetch(folder)).locked.lastModified).toBe(2000);
    },
  );

  test('keeps the date that its reference has, and has none before 1970', async () => {
    const folder = folderWithFiles();
    date(folder, { file: -5, sub: -5, run: -5, link: -5, root: -5 });
    expect((await fetch(folder)).locked.lastModified).toBe(0);
    expect((await fetch(folder, { lastModified: 77 })).locked.lastModified).toBe(77);
  });

  test('reads single files, and follows nothing', async () => {
    const folder = folderWithFiles();
    const outside = folderWithFiles();
    symlinkSync(outside, join(folder, 'out'));
    symlinkSync('file', join(folder, 'alias'));
    const { tree } = await fetch(folder);
    expect((await tree.readFile('sub/run'))?.toString()).toBe('#!/bin/sh\n');
    for (const path of [
      'none',
      'sub',
      'alias',
      'out/file',
      'file/x',
      '../x',
      './file',
      'sub/../file',
      '',
      '/etc/passwd',
    ])
      expect(await tree.readFile(path), path).toBeUndefined();
  });

  test('may be a single file', async () => {
    const folder = folderWithFiles();
    const { tree } = await fetch(join(folder, 'sub/run'));
    expect(tree.narSize).toBe(160);
  });

  test('locks a path as it was written, as Nix does, and finds the folder all the same', async () => {
    const folder = folderWithFiles();
    const { locked, tree } = await fetch(`${folder}//sub/../`);
    expect(locked.path).toBe(`${folder}//sub/../`);
    expect(tree.narHash).toBe((await fetch(folder)).tree.narHash);
  });

  test('is verified against the hash of its reference', async () => {
    const folder = folderWithFiles();
    const { tree } = await fetch(folder);
    await fetch(folder, { narHash: tree.narHash });
    writeFileSync(join(folder, 'file'), 'other\n');
    const error = await errorOf(fetch(folder, { narHash: tree.narHash }));
    expect(error.code).toBe('FLK_NAR_HASH_MISMATCH');
    expect(error.facts).toMatchObject({ wanted: tree.narHash });
    expect(error.facts.found).not.toBe(tree.narHash);
  });

  test.each<[string, (folder: string) => string]>([
    ['nothing there', (folder) => join(folder, 'none')],
    ['a link instead of a folder', (folder) => join(folder, 'link')],
    [
      'a pipe in it',
      (folder) => {
        execFileSync('mkfifo', [join(folder, 'pipe')]);
        return folder;
      },
    ],
  ])('fails with %s', async (_, arrange) => {
    expect((await errorOf(fetch(arrange(folderWithFiles())))).code).toBe('FLK_FILE_UNREADABLE');
  });

  test('stops when it is told to', async () => {
    const stop = new AbortController();
    stop.abort();
    const folder = folderWithFiles();
    for (let i = 0; i < 200; i++) writeFileSync(join(folder, `file-${i}`), '');
    const options = { reporter: silent, signal: stop.signal };
    expect((await errorOf(fetchPath({ type: 'path', path: folder }, options))).code).toBe('FLK_INTERRUPTED');
  });

  test('tells how far hashing is', async () => {
    const events: Event[] = [];
    const folder = folderWithFiles();
    await fetchPath({ type: 'path', path: folder }, { reporter: { emit: (event) => events.push(event) } });
    expect(events.map((event) => event.kind)).toEqual(expect.arrayContaining(['start', 'progress', 'end']));
  });
});

describe.skipIf(!nixAvailable())(`a path source is what Nix makes of it ${nixReason}`, () => {
  test('odd files', async () => {
    const folder = join(temporaryFolder(), 'odd');
    writeFiles(canonical(recipe('odd-files')), 'first', folder);
    const { locked, tree } = await fetch(folder);
    expect(`${tree.narHash}\n`).toBe((await nix(['hash', 'path', folder])).stdout);
    const answer = await nix(['flake', 'prefetch', '--json', `path:${folder}`], {
      env: { HOME: temporaryFolder() },
    });
    expect(JSON.parse(answer.stdout)).toMatchObject({
      hash: tree.narHash,
      locked: { lastModified: locked.lastModified, path: folder },
    });
  });
});
