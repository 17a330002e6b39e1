import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hashTree, type TreeSink } from '../../../src/formats/nar.ts';
import { canonicalise } from '../../../src/store/canonicalise.ts';
import { removeTree, restoreTree, walkPath } from '../../../src/store/tree-files.ts';
import { withCode } from '../../support/errors.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { temporaryFolder } from '../../support/temp.ts';
import {
  anyNode,
  directory,
  file,
  listing,
  type Node,
  narOf,
  nodeOf,
  symlink,
  TreeCollector,
  treeFrom,
  writeNode,
} from '../../support/trees.ts';

const read = (path: string): Promise<Node> => nodeOf(walkPath(path));

const sample = directory({
  bin: directory({ run: file('#!/bin/sh\n', true), plain: file('plain') }),
  empty: directory(),
  link: symlink('nowhere'),
  big: file(Buffer.alloc(9 * 1024 * 1024 + 3, 'flk')),
  exact: file(Buffer.alloc(1024 * 1024, 'x')),
  '\xff\xfe': directory({ '\xe9': file('bytes') }),
});

/** Every node with its mode and time. */
function modes(path: string | Buffer): string[] {
  const info = lstatSync(path);
  const own = `${info.isSymbolicLink() ? 'link' : (info.mode & 0o7777).toString(8)} ${info.mtimeMs}`;
  if (!info.isDirectory()) return [own];
  const below = readdirSync(path, 'buffer').flatMap((name) =>
    modes(Buffer.concat([Buffer.from(path), Buffer.from('/'), name])),
  );
  return [own, ...below];
}

describe('a walk over the disk', () => {
  it('sees what was written, bytes of names included', async () => {
    const path = join(temporaryFolder(), 'tree');
    writeNode(sample, path);
    // Compared as archives: a matcher takes minutes for megabytes.
    const seen = await read(path);
    expect(listing(seen)).toEqual(listing(sample));
    expect(narOf(seen).equals(narOf(sample))).toBe(true);
    expect(await read(join(path, 'link'))).toEqual(symlink('nowhere'));
    expect(await read(join(path, 'bin/run'))).toEqual(file('#!/bin/sh\n', true));
  });

  it('tells how far it is, and ends there', async () => {
    const path = join(temporaryFolder(), 'tree');
    writeNode(sample, path);
    const seen: number[] = [];
    await walkPath(path, { progress: (bytes) => seen.push(bytes) }).walk(new TreeCollector());
    expect(seen.length).toBeGreaterThan(5);
    expect(seen.at(-1)).toBe(
      9 * 1024 * 1024 + 3 + 1024 * 1024 + 'plain'.length + 'bytes'.length + '#!/bin/sh\n'.length,
    );
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
  });

  it('stops when it is told to', async () => {
    const path = join(temporaryFolder(), 'tree');
    writeNode(sample, path);
    const abort = new AbortController();
    const collector = new TreeCollector();
    const sink: TreeSink = {
      directory: () => collector.directory(),
      entry: (name) => collector.entry(name),
      endDirectory: () => collector.endDirectory(),
      file: (size, executable) => collector.file(size, executable),
      data: () => abort.abort(),
      endFile: () => collector.endFile(),
      symlink: (target) => collector.symlink(target),
    };
    await expect(walkPath(path).walk(sink, abort.signal)).rejects.toEqual(withCode('FLK_INTERRUPTED'));
    await expect(walkPath(path).walk(sink, AbortSignal.abort())).rejects.toEqual(withCode('FLK_INTERRUPTED'));
  });

  it('refuses a file that changes its size meanwhile, small or large', async () => {
    for (const size of [100, 5 * 1024 * 1024]) {
      const folder = temporaryFolder();
      for (const [name, change] of [
        ['grows', (path: string) => appendFileSync(path, 'more')],
        ['shrinks', (path: string) => writeFileSync(path, '')],
      ] as const) {
        const path = join(folder, name);
        writeFileSync(path, Buffer.alloc(size));
        const collector = new TreeCollector();
        const sink: TreeSink = Object.assign(Object.create(collector) as TreeCollector, {
          file: () => change(path),
          data: () => {},
        });
        await expect(walkPath(path).walk(sink)).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
      }
    }
  });

  it('refuses what no tree holds, without waiting for it', async () => {
    const folder = temporaryFolder();
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    await expect(read(folder)).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
    await expect(read('/dev/null')).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
    await expect(read(join(folder, 'nothing'))).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
    const server = createServer();
    const socket = join(temporaryFolder(), 'socket');
    await new Promise<void>((listening) => server.listen(socket, listening));
    await expect(read(socket)).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
    server.close();
  });
});

describe('a tree written to disk', () => {
  it('is the tree that was walked, in canonical form, whatever the umask', async () => {
    const folder = temporaryFolder();
    const umask = process.umask(0o077);
    try {
      await fc.assert(
        fc.asyncProperty(anyNode, async (node) => {
          const path = join(folder, 'tree');
          await treeFrom(node, 50).walk(restoreTree(path));
          expect(await read(path)).toEqual(node);
          expect(modes(path).every((mode) => /^(444|555|link) 1000$/.test(mode))).toBe(true);
          await removeTree(path);
        }),
        { numRuns: 50 },
      );
    } finally {
      process.umask(umask);
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  it('takes nobody’s place', async () => {
    const path = join(temporaryFolder(), 'tree');
    symlinkSync('elsewhere', path);
    for (const node of [directory(), file('x'), symlink('x')])
      await expect(treeFrom(node).walk(restoreTree(path))).rejects.toEqual(withCode('FLK_FILE_UNWRITABLE'));
    expect(existsSync(path)).toBe(false);
  });
});

describe('removing', () => {
  it('removes read-only folders, and no more than it was told', async () => {
    const folder = temporaryFolder();
    writeNode(directory({ kept: file('kept') }), join(folder, 'outside'));
    const path = join(folder, 'tree');
    await treeFrom(
      directory({ a: directory({ b: directory({ c: file('') }) }), out: symlink('../outside') }),
    ).walk(restoreTree(path));
    chmodSync(join(path, 'a/b'), 0o000);
    await removeTree(path);
    await removeTree(path);
    expect(readdirSync(folder)).toEqual(['outside']);
    expect(readdirSync(join(folder, 'outside'))).toEqual(['kept']);
    symlinkSync('outside', path);
    await removeTree(path);
    expect(readdirSync(join(folder, 'outside'))).toEqual(['kept']);
  });

  it('removes folders nested deeper than a path can name', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'tree');
    mkdirSync(path);
    // 300 times 30 characters, made as a builder would: one step at a time.
    const dig = `for (let i = 0; i < 300; i++) { fs.mkdirSync('n'.repeat(30)); process.chdir('n'.repeat(30)); } fs.writeFileSync('end', '');`;
    execFileSync(process.execPath, ['-e', dig], { cwd: path });
    await removeTree(path);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('canonicalising', () => {
  it('gives modes and times, and changes no content', async () => {
    const path = join(temporaryFolder(), 'out');
    writeNode(sample, path);
    const { narHash } = await hashTree(walkPath(path));
    chmodSync(join(path, 'bin/run'), 0o700);
    chmodSync(join(path, 'bin/plain'), 0o071);
    mkdirSync(join(path, 'empty/secret'));
    execFileSync('rmdir', [join(path, 'empty/secret')]);
    chmodSync(join(path, 'empty'), 0o2000);
    await canonicalise(path);
    expect(modes(path).every((mode) => /^(444|555|link) 1000$/.test(mode))).toBe(true);
    expect((await hashTree(walkPath(path))).narHash).toBe(narHash);
  });

  it('takes single files and links as outputs', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), 'x', { mode: 0o600 });
    symlinkSync('x', join(folder, 'link'));
    await canonicalise(join(folder, 'file'));
    await canonicalise(join(folder, 'link'));
    expect(modes(join(folder, 'file'))).toEqual(['444 1000']);
    expect(modes(join(folder, 'link'))).toEqual(['link 1000']);
  });

  it('refuses setuid files and pipes, naming them', async () => {
    for (const spoil of [
      (path: string) => chmodSync(path, 0o4755),
      (path: string) => chmodSync(path, 0o2755),
      (path: string) => execFileSync('sh', ['-c', 'rm "$1" && mkfifo "$1"', 'sh', path]),
    ]) {
      const path = join(temporaryFolder(), 'out');
      writeNode(sample, path);
      spoil(join(path, 'bin/run'));
      await expect(canonicalise(path)).rejects.toMatchObject({
        code: 'FLK_BUILD_OUTPUT_INVALID',
        message: expect.stringContaining('bin/run'),
      });
    }
  });

  it('keeps hard links within the output, and copies files that have a name outside', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'out');
    writeNode(directory({ a: file('inside', true) }), path);
    linkSync(join(path, 'a'), join(path, 'b'));
    writeFileSync(join(folder, 'outside'), 'outside', { mode: 0o600 });
    utimesSync(join(folder, 'outside'), 5, 5);
    linkSync(join(folder, 'outside'), join(path, 'c'));
    await canonicalise(path);
    expect(statSync(join(path, 'a')).ino).toBe(statSync(join(path, 'b')).ino);
    const outside = statSync(join(folder, 'outside'));
    expect([outside.mode & 0o777, outside.mtimeMs]).toEqual([0o600, 5000]);
    writeFileSync(join(folder, 'outside'), 'changed');
    expect(readFileSync(join(path, 'c'), 'utf8')).toBe('outside');
    expect(modes(path).every((mode) => /^(444|555) 1000$/.test(mode))).toBe(true);
    expect(readdirSync(path)).toEqual(['a', 'b', 'c']);
  });
});

describe.skipIf(!nixAvailable())(`trees on disk ${nixReason}`, () => {
  it('have the hash and the archive that Nix gives them', async () => {
    const folder = temporaryFolder();
    for (const [i, node] of [sample, ...fc.sample(anyNode, 6)].entries()) {
      const path = join(folder, `tree${i}`);
      writeNode(node, path);
      const { stdout } = await nix(['hash', 'path', path]);
      expect((await hashTree(walkPath(path))).narHash).toBe(stdout.trim());
    }
  });
});
