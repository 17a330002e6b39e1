import { execFileSync } from 'node:child_process';
import { readSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { narHashOf, sha256 } from '../../../src/formats/hash.ts';
import { ArrivalWalk } from '../../../src/sources/archive-order.ts';
import { ArchiveSource } from '../../../src/sources/archive-source.ts';
import type { FileNode, LinkNode } from '../../../src/sources/archive-tree.ts';
import { HttpClient } from '../../../src/sources/http.ts';
import { tarOf } from '../../support/archives.ts';
import { fileServer } from '../../support/file-server.ts';
import { temporaryFolder } from '../../support/temp.ts';
import {
  anyNode,
  directory,
  file,
  listing,
  type Node,
  narOf,
  symlink,
  TreeCollector,
  writeNode,
} from '../../support/trees.ts';

vi.mock('node:fs', async (original) => {
  const real = await original<typeof import('node:fs')>();
  return { ...real, readSync: vi.fn(real.readSync) };
});

/** An entry of an archive: its names below the top, and what it is. */
type Arrival = readonly [names: readonly string[], node: Node];

/** Every node of a tree with the folder before what is in it, in an order of one's own within each folder. */
function arrivals(node: Node, compare: (a: Arrival, b: Arrival) => number, names: string[] = []): Arrival[] {
  const own: Arrival = [names, node];
  if (node.type !== 'directory') return [own];
  const children = [...node.entries].map(([name, child]): Arrival => [[...names, name], child]).sort(compare);
  return [own, ...children.flatMap(([path, child]) => arrivals(child, compare, [...path]))];
}

const byText =
  (text: (arrival: Arrival) => string) =>
  (a: Arrival, b: Arrival): number =>
    text(a) < text(b) ? -1 : 1;
const nameOf = ([names]: Arrival): string => names.at(-1)!;
const inOrderOfNames = byText(nameOf);
const inOrderOfGit = byText((arrival) => nameOf(arrival) + (arrival[1].type === 'directory' ? '/' : ''));

/** What a sink is sent of entries that come below `top`, and what it was sent as soon as each was there. */
function walked(entries: readonly Arrival[], { folders = true } = {}) {
  const contents: Buffer[] = [];
  const sink = new TreeCollector();
  const sent: string[] = [];
  const walk = new ArrivalWalk(
    Object.assign(sink, {
      entry(name: Buffer) {
        TreeCollector.prototype.entry.call(sink, name);
        sent.push(name.toString('latin1'));
      },
    }),
    (offset) => [contents[offset]!],
  );
  const after: number[] = [];
  for (const [names, node] of entries) {
    if (node.type !== 'directory' || folders) for (const _ of walk.add(['top', ...names], added(node)));
    after.push(sent.length);
  }
  for (const _ of walk.end());
  return { ordered: walk.ordered, root: () => sink.root, sent, after };

  function added(node: Node): FileNode | LinkNode | 'directory' {
    if (node.type === 'directory') return 'directory';
    if (node.type === 'symlink') return { kind: 'symlink', target: node.target.toString('latin1') };
    contents.push(node.contents);
    return {
      kind: 'file',
      offset: contents.length - 1,
      size: node.contents.length,
      executable: node.executable,
    };
  }
}

const x = file('x');
/** Names on both sides of the slash, one beginning with the other. */
const hardNames: Readonly<Record<string, Node>> = {
  a: directory({ x, 'x-y': x, 'x.y': directory({ z: x }) }),
  'a-b': x,
  'a-b.c': directory({ x }),
  'a.b': directory({ 'c d': x, c: directory({ 'd.e': x, d: directory({ x }) }) }),
  'a.b-c': symlink('a'),
  a0: x,
  b: directory(),
  '.a': x,
  '.a.b': x,
};
const hard = directory(hardNames);
const folders = anyNode.filter((node) => node.type === 'directory');

describe('a walk on arrival', () => {
  test('sends an archive in Git’s order, or in byte order, as byte order', async () => {
    for (const order of [inOrderOfGit, inOrderOfNames]) {
      const { ordered, root } = walked(arrivals(hard, order));
      expect(ordered).toBe(true);
      expect(listing(root())).toEqual(listing(hard));
    }
    fc.assert(
      fc.property(folders, fc.constantFrom(inOrderOfGit, inOrderOfNames), (node, order) => {
        const { ordered, root } = walked(arrivals(node, order));
        expect(ordered).toBe(true);
        expect(root()).toEqual(node);
      }),
      { numRuns: 300 },
    );
  });

  test('sends nothing wrong, whatever the order', () => {
    fc.assert(
      fc.property(folders, fc.infiniteStream(fc.nat()), (node, random) => {
        const all = arrivals(node, inOrderOfGit)
          .map((arrival) => ({ arrival, at: random.next().value ?? 0 }))
          .sort((a, b) => a.at - b.at)
          .map(({ arrival }) => arrival);
        const { ordered, root } = walked(all);
        if (ordered) expect(root()).toEqual(node);
      }),
      { numRuns: 300 },
    );
  });

  test('needs no entries for folders', () => {
    const full = directory({ a: directory({ x, y: directory({ z: x }) }), 'a-b': x, b: directory({ x }) });
    const { ordered, root } = walked(arrivals(full, inOrderOfGit), { folders: false });
    expect(ordered).toBe(true);
    expect(root()).toEqual(full);
  });

  test('lets nothing wait longer than it has to', () => {
    const order = arrivals(
      directory({ Makefile: x, 'a.b': x, 'a.c': x, ab: x, c: directory({ 'd.e': x, f: x }), 'c.d': x }),
      inOrderOfGit,
    );
    const { sent, after } = walked(order);
    expect(order.map(([names], i) => [names.join('/'), sent.slice(0, after[i]).join(' ')])).toEqual([
      ['', ''],
      ['Makefile', 'Makefile'],
      ['a.b', 'Makefile'],
      ['a.c', 'Makefile'],
      ['ab', 'Makefile a.b a.c ab'],
      ['c.d', 'Makefile a.b a.c ab'],
      ['c', 'Makefile a.b a.c ab c'],
      ['c/d.e', 'Makefile a.b a.c ab c'],
      ['c/f', 'Makefile a.b a.c ab c d.e f'],
    ]);
    expect(sent.at(-1)).toBe('c.d');
  });

  const arrive = (...paths: string[]): readonly Arrival[] =>
    paths.map((path) => [path.split('/').filter(Boolean), path.endsWith('/') ? directory() : x]);
  test.each([
    ['names that go back', ['b', 'a']],
    ['a file twice', ['a', 'a']],
    ['a file that waits, twice', ['a.b', 'a.b']],
    ['a folder that it had left', ['a/x', 'b', 'a/y']],
    ['a folder that waits, and that it had left', ['a.b/x', 'a.c', 'a.b/y']],
    ['a file and a folder of one name', ['a.b', 'a.b/']],
    ['a folder before what has been sent', ['a.b', 'b', 'a/']],
    ['order lost further down', ['a/b/c/y', 'a/b/c/x']],
  ])('gives up on %s', (_, paths) => {
    expect(walked(arrive('/', ...paths)).ordered).toBe(false);
  });

  test('takes an open folder’s entry again for nothing new', () => {
    const { ordered, root } = walked(arrive('/', 'a/', 'a/b/x', 'a/', '/', 'a/b/', 'a/b/y'));
    expect(ordered).toBe(true);
    expect(listing(root())).toEqual(['a/', 'a/b/', 'a/b/x', 'a/b/y']);
  });

  test.each<[string, (walk: ArrivalWalk) => Iterable<void>[]]>([
    ['nothing', () => []],
    ['a second top folder', (walk) => [walk.add(['a'], 'directory'), walk.add(['b'], 'directory')]],
    ['a file at the top', (walk) => [walk.add(['a'], { kind: 'symlink', target: 'b' })]],
    [
      'what it is told to',
      (walk) => {
        walk.giveUp();
        return [walk.add(['a'], 'directory')];
      },
    ],
  ])('gives up on %s', (_, add) => {
    const walk = new ArrivalWalk(new TreeCollector(), () => []);
    for (const steps of add(walk)) for (const _ of steps);
    for (const _ of walk.end());
    expect(walk.ordered).toBe(false);
  });
});

describe('an archive', () => {
  beforeEach(() => void vi.mocked(readSync).mockClear());

  async function fetched(body: Buffer) {
    const server = await fileServer();
    server.files.set('/x.tar.gz', { body: gzipSync(body) });
    const source = new ArchiveSource({
      cacheFolder: temporaryFolder(),
      client: new HttpClient({}),
      reporter: { emit() {} },
    });
    return source.fetch({ url: new URL(`${server.base}/x.tar.gz`), shown: 'x', kind: 'tarball' });
  }

  /** What `git archive` makes of a tree. */
  function archiveOf(node: Node): Buffer {
    const folder = temporaryFolder();
    writeNode(node, `${folder}/tree`);
    const git = (...args: string[]) =>
      execFileSync('git', ['-c', 'user.name=n', '-c', 'user.email=e', ...args], {
        cwd: `${folder}/tree`,
        maxBuffer: 2 ** 30,
      });
    git('init', '-q');
    git('add', '-A', '-f');
    git('commit', '-q', '-m', 'm');
    return git('archive', '--prefix=repository-1/', 'HEAD');
  }

  const bytesRead = (): number =>
    vi.mocked(readSync).mock.results.reduce((sum, { value }) => sum + Number(value), 0);
  const many = (length: number): Record<string, Node> =>
    Object.fromEntries(Array.from({ length }, (_, i) => [`f${i}.txt`, file(`${i}\n`.repeat(3000))]));

  test('of Git’s is hashed as it comes, from memory', async () => {
    const node = directory({ ...many(200), sub: directory({ ...many(100), 'run.sh': file('#!', true) }) });
    const { tree } = await fetched(archiveOf(node));
    expect(tree.narHash).toBe(narHashOf(sha256(narOf(node))));
    expect(readSync).not.toHaveBeenCalled();
  });

  test('with a file that is larger than what is kept in memory has that one read again', async () => {
    const node = directory({ ...many(200), 'large.bin': file(Buffer.alloc(700_000, 'large')) });
    const { tree } = await fetched(archiveOf(node));
    expect(tree.narHash).toBe(narHashOf(sha256(narOf(node))));
    expect(bytesRead()).toBeGreaterThan(0);
    expect(bytesRead()).toBeLessThan(1_000_000);
  });

  test('in nobody’s order is read again, from its beginning', async () => {
    const node = directory(many(200));
    const entries = arrivals(node, inOrderOfNames).slice(1).reverse();
    const body = tarOf(
      ...entries.map(([names, node]) => ({
        path: `top/${names.join('/')}`,
        contents: node.type === 'file' ? node.contents : '',
      })),
    );
    const { tree } = await fetched(body);
    expect(tree.narHash).toBe(narHashOf(sha256(narOf(node))));
    expect(bytesRead()).toBeGreaterThan(1_000_000);
  });

  test('of Git’s with hard names has the hash of its tree', async () => {
    // Git knows no empty folders.
    const node = directory({ ...hardNames, b: x });
    expect((await fetched(archiveOf(node))).tree.narHash).toBe(narHashOf(sha256(narOf(node))));
  });
});
