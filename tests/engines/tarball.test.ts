/** The same archives from the same server, by Nix and by flk: equal hashes, times and locked attributes, or a refusal by both. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../src/base/errors.ts';
import { silent } from '../../src/base/events.ts';
import { parseFlakeRef, refToAttributes } from '../../src/flake/flake-ref.ts';
import { Sources } from '../../src/sources/source.ts';
import { paxEntry, type TarEntry, tarOf, zipOf } from '../support/archives.ts';
import { compressed } from '../support/compressed.ts';
import { fileServer, type ServedFile } from '../support/file-server.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

const server = await fileServer();
let count = 0;

/** A URL that answers so, for the first time. */
function serve(name: string, file: ServedFile | Buffer): string {
  const path = `/${++count}/${name}`;
  server.files.set(path, Buffer.isBuffer(file) ? { body: file } : file);
  return server.base + path;
}

type Locked = Readonly<Record<string, unknown>>;

async function byFlk(ref: string): Promise<Locked> {
  const sources = new Sources({ cacheFolder: temporaryFolder(), reporter: silent });
  const { locked } = await sources.fetch(parseFlakeRef(ref));
  return refToAttributes(locked);
}

/** What `nix flake prefetch` locks; its complaint where it refuses. */
async function byNix(ref: string): Promise<Locked | string> {
  const home = temporaryFolder();
  const { status, stdout, stderr } = await nix(['flake', 'prefetch', '--json', ref], {
    env: { XDG_CACHE_HOME: home, TZ: process.env.TZ ?? '' },
  });
  return status === 0 ? (JSON.parse(stdout) as { locked: Locked }).locked : stderr;
}

/** Both lock it, and equally. */
async function compare(ref: string): Promise<Locked> {
  const locked = await byFlk(ref);
  expect(locked).toEqual(await byNix(ref));
  return locked;
}

/** Neither locks it. */
async function bothRefuse(ref: string): Promise<void> {
  expect(await byNix(ref)).toBeTypeOf('string');
  await expect(byFlk(ref)).rejects.toBeInstanceOf(FlkError);
}

const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined;
const packers: Readonly<Record<string, string>> = { gz: 'gzip', xz: 'xz', zst: 'zstd', bz2: 'bzip2' };

/** A folder with what archives hold, below one top folder. */
function project(): string {
  const folder = temporaryFolder();
  const top = join(folder, 'top');
  mkdirSync(join(top, 'sub/empty'), { recursive: true });
  writeFileSync(join(top, 'flake.nix'), '{ outputs = _: { }; }\n');
  writeFileSync(join(top, 'run'), '#!/bin/sh\n');
  chmodSync(join(top, 'run'), 0o755);
  symlinkSync('../flake.nix', join(top, 'sub/link'));
  linkSync(join(top, 'run'), join(top, 'sub/hard'));
  // In another order by bytes than a folder’s slash gives them.
  for (const name of ['sub/a', 'sub/a-b', 'sub/a.nix', 'sub/a0']) mkdirSync(join(top, name));
  for (const name of ['sub/a/x', 'sub/a-b/x', 'sub/a.nix/x', 'sub/a0/x', 'sub/bär'])
    writeFileSync(join(top, name), name);
  writeFileSync(join(top, 'sub', 'n'.repeat(180)), 'long');
  utimesSync(join(top, 'run'), 1_700_000_000, 1_700_000_000);
  return folder;
}

describe.skipIf(!nixAvailable())(`tarball and file references ${nixReason}`, () => {
  const tar = (folder: string, ...options: string[]): Buffer =>
    execFileSync('tar', ['-C', folder, '-cf', '-', ...options, 'top'], { maxBuffer: 2 ** 26 });

  for (const format of ['gnu', 'pax', 'ustar', 'v7'])
    it(`tar --format=${format}`, async () => {
      const folder = project();
      // These hold no name that long.
      const without = ['ustar', 'v7'].includes(format) ? ['--exclude=nnn*'] : [];
      await compare(serve('x.tar', tar(folder, `--format=${format}`, ...without)));
    });

  for (const [ending, program] of Object.entries(packers))
    it.skipIf(!has(program))(`.tar.${ending}${has(program) ? '' : ` (skipped: no ${program})`}`, async () => {
      const packed = execFileSync(program, ['-c'], { input: tar(project()) });
      await compare(serve(`x.tar.${ending}`, packed));
      // And by content alone.
      await compare(`tarball+${serve('x', packed)}`);
    });

  it('the archives of the other tests', async () => {
    for (const make of Object.values(compressed)) await compare(serve('x.tar', await make()));
  });

  it.skipIf(!has('zip'))(`zip${has('zip') ? '' : ' (skipped: no zip)'}`, async () => {
    const folder = project();
    execFileSync('zip', ['-qry', 'x.zip', 'top'], { cwd: folder });
    const zip = execFileSync('cat', [join(folder, 'x.zip')]);
    await compare(serve('x.zip', zip));
    // What is not called a zip loses its links and modes.
    await compare(`tarball+${serve('x', zip)}`);
    await compare(`file://${folder}/x.zip`);
  });

  it('zips made elsewhere, with times of nobody’s zone', async () => {
    await compare(serve('x.zip', zipOf({ path: 'a\\x', contents: '1' }, { path: 'a\\b\\y' })));
    await compare(serve('x.zip', zipOf({ path: 'a/q\\x', contents: '1' })));
    await compare(
      serve('x.zip', zipOf({ path: 'a/x', mode: 0o100755 }, { path: 'a/x', contents: '2', mode: 0o100644 })),
    );
  });

  it('git archive', async () => {
    const folder = project();
    const git = (...args: string[]): Buffer =>
      execFileSync('git', [
        '-C',
        join(folder, 'top'),
        '-c',
        'user.name=x',
        '-c',
        'user.email=x@example.org',
        ...args,
      ]);
    git('init', '-q');
    git('add', '-A');
    git('commit', '-q', '-m', 'one', '--date=2024-01-01T00:00:00Z');
    await compare(serve('x.tar.gz', git('archive', '--format=tar.gz', '--prefix=repo-1/', 'HEAD')));
    // Nix refuses zips with names in UTF-8 where its locale is C.
    const zip = [
      'archive',
      '--format=zip',
      '--prefix=repo-1/',
      'HEAD',
      'flake.nix',
      'run',
      'sub/link',
      'sub/a',
    ];
    await compare(serve('x.zip', git(...zip)));
    await compare(serve('x.tar', git('archive', '--format=tar', 'HEAD')));
  });

  const entries: readonly TarEntry[] = [
    { path: 'top/b', contents: 'b', modified: 1_600_000_000 },
    { path: 'top/', type: '5', modified: 1_650_000_000 },
    { path: 'top/a/run', contents: '#!', mode: 0o755, modified: 1_500_000_000 },
    { path: 'top/a.x', contents: 'x' },
    { path: 'top/a-/y', contents: 'y' },
    { path: Buffer.from('top/caf\xe9', 'latin1'), contents: 'not UTF-8' },
    { path: 'top/café', contents: 'UTF-8' },
    { path: 'top/link', type: '2', target: Buffer.from('nowhere/\xff', 'latin1') },
    { path: 'top/hard', type: '1', target: 'top/a/run', modified: 1_699_999_999 },
    { path: 'top/empty', type: '5' },
    { path: 'top/B', contents: 'another case' },
    { path: 'top/twice', contents: 'old' },
  ];

  it('entries in any order', async () => {
    const orders = fc.sample(fc.shuffledSubarray([...entries], { minLength: entries.length - 4 }), {
      numRuns: 6,
      seed: 7,
    });
    // A hard link must have something to lead to.
    for (const order of orders)
      if (order.some(({ path }) => path === 'top/a/run') || !order.some(({ type }) => type === '1'))
        await compare(serve('x.tar', tarOf(...order)));
  });

  it.each<[string, Buffer]>([
    ['twice the same file: the later one', tarOf(...entries, { path: 'top/twice', contents: 'new' })],
    [
      'a hard link to what comes later',
      tarOf({ path: 'a/y', type: '1', target: 'a/x' }, { path: 'a/x', mode: 0o755 }),
    ],
    [
      'a hard link and a file of its own',
      tarOf({ path: 'a/x' }, { path: 'a/y', type: '1', target: 'a/x' }, { path: 'a/y', contents: 'own' }),
    ],
    [
      'a hard link to a link',
      tarOf({ path: 'a/x', type: '2', target: 'b' }, { path: 'a/y', type: '1', target: 'a/x' }),
    ],
    ['two at the top', tarOf({ path: 'a/x' }, { path: 'b' })],
    ['one file at the top', tarOf({ path: 'b', contents: 'b' })],
    ['one link at the top', tarOf({ path: 'a', type: '2', target: 'b' })],
    ['folders within folders', tarOf({ path: './a/b/c' })],
    ['an empty top', tarOf({ path: 'a/', type: '5' })],
    ['nothing at all', tarOf()],
    ['no time', tarOf({ path: 'a/x' })],
    [
      'a fraction of a second',
      Buffer.concat([paxEntry({ path: 'a/x' }, { mtime: '1700000000.9' }), tarOf()]),
    ],
    ['before 1970', Buffer.concat([paxEntry({ path: 'a/x' }, { mtime: '-1.5' }), tarOf()])],
    ['others may run it', tarOf({ path: 'a/x', mode: 0o655 })],
    [
      'a global header',
      tarOf({ path: 'g', type: 'g', contents: '30 comment=0123456789012345678\n' }, { path: 'a/x' }),
    ],
    [
      'gzip in two members',
      Buffer.concat([
        gzipSync(tarOf({ path: 'a/x' }).subarray(0, 700)),
        gzipSync(tarOf({ path: 'a/x' }).subarray(700)),
      ]),
    ],
    ['rubbish behind its end', Buffer.concat([tarOf({ path: 'a/x' }), Buffer.alloc(3000, 'x')])],
    ['63 names', Buffer.concat([paxEntry({ path: `a/${'d/'.repeat(62)}f` }), tarOf()])],
  ])('%s', async (_, body) => {
    await compare(serve('x.tar', body));
  });

  it.each<[string, Buffer]>([
    ['64 names', Buffer.concat([paxEntry({ path: `a/${'d/'.repeat(63)}f` }), tarOf()])],
    ['a pipe', tarOf({ path: 'a/x', type: '6' })],
    ['a device', tarOf({ path: 'a/x', type: '3' })],
    ['a hard link to nothing', tarOf({ path: 'a/y', type: '1', target: 'a/x' })],
    ['a hard link to a folder', tarOf({ path: 'a/x/z' }, { path: 'a/y', type: '1', target: 'a/x' })],
    // Not an entry below a link: Nix writes with several threads, and takes it when the link comes last.
    ['.git', tarOf({ path: 'a/.git/config' }, { path: 'a/x' })],
    ['.GIT', tarOf({ path: 'a/.GIT' }, { path: 'a/x' })],
    ['git~1', tarOf({ path: 'a/git~1/x' }, { path: 'a/x' })],
    ['.git with a dot and a stream', tarOf({ path: 'a/.git. .' }, { path: 'a/.git::x' })],
    ['a long name', Buffer.concat([paxEntry({ path: `a/${'n'.repeat(256)}` }), tarOf()])],
    ['a long link', Buffer.concat([paxEntry({ path: 'a/x', type: '2', target: 'n'.repeat(4096) }), tarOf()])],
    ['an empty link', tarOf({ path: 'a/x', type: '2' })],
    ['a gzip that breaks off', gzipSync(tarOf({ path: 'a/x' })).subarray(0, -9)],
    ['a file that breaks off', tarOf({ path: 'a/x', contents: 'x'.repeat(600) }).subarray(0, 1300)],
    ['text', Buffer.from('<html>'.repeat(300))],
  ])('refused by both: %s', async (_, body) => {
    await bothRefuse(serve('x.tar', body));
  });

  it('names that look like .git and are not', async () => {
    await compare(
      serve(
        'x.tar',
        tarOf({ path: 'a/..git' }, { path: 'a/.gitmodules' }, { path: 'a/git~10' }, { path: 'a/.gi' }),
      ),
    );
  });

  it('single files', async () => {
    await compare(`file+${serve('x.txt', Buffer.from('text'))}`);
    await compare(`file+${serve('empty', Buffer.alloc(0))}`);
    await compare(`file+${serve('x.tar.gz', await compressed.gzip())}`);
    await compare(
      `file+${serve('x', { body: gzipSync('packed'), headers: { 'content-encoding': 'gzip' } })}`,
    );
  });

  it('files of this machine', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'x.tar'), tarOf(...entries));
    writeFileSync(join(folder, 'x.txt'), 'text');
    await compare(`file://${folder}/x.tar`);
    await compare(`tarball+file://${folder}/x.tar`);
    await compare(`file+file://${folder}/x.tar`);
    await compare(`file+file://${folder}/x.txt`);
    await bothRefuse(`file://${folder}/x.txt`);
    await bothRefuse(`file://${folder}/gone.tar`);
    await bothRefuse(`tarball+file://${folder}`);
  });

  it('redirects', async () => {
    const there = serve('there.tar', tarOf(...entries));
    await compare(serve('x.tar', { status: 302, headers: { location: there } }));
    await compare(serve('x.tar', { status: 301, headers: { location: new URL(there).pathname } }));
    await bothRefuse(serve('x.tar', { status: 404 }));
  });

  describe('immutable URLs', () => {
    const body = tarOf(...entries);
    const rev = '0123456789abcdef0123456789abcdef01234567';
    const linked = (target: string, header = 'link'): string =>
      serve('x.tar', { body, headers: { [header]: `<${target}>; rel="immutable"` } });

    it('take the place of the one asked for, with what their query tells', async () => {
      const target = serve('y.tar', body);
      expect(await compare(linked(target))).toMatchObject({ url: target });
      await compare(linked(`${target}?rev=${rev}&revCount=7`));
      await compare(linked(`${target}?rev=${rev}&lastModified=1234567890&other=kept`));
      const { narHash } = await byFlk(target);
      await compare(linked(`${target}?narHash=${encodeURIComponent(String(narHash))}`));
      await compare(linked(target, 'x-amz-meta-link'));
      expect(await compare(`${linked(target)}?dir=sub`)).toMatchObject({ url: target });
    });

    it('need not look like an archive, or be true about it, but be one', async () => {
      const target = serve('y.tar', body);
      const wrong = 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=';
      await compare(linked(serve('y.txt', body)));
      await compare(linked(`${target}?narHash=${wrong}`));
      await compare(linked(`${target}?zeta=1&dir=sub&alpha=2`));
      await bothRefuse(linked(`git+${target}`));
      await bothRefuse(linked(`file+${target}`));
      await bothRefuse(linked('/y.tar'));
    });
  });

  it('a narHash is held against what came', async () => {
    const url = serve('x.tar', tarOf(...entries));
    const { narHash } = await byFlk(url);
    await compare(`${url}?narHash=${encodeURIComponent(String(narHash))}`);
    const wrong = 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=';
    await bothRefuse(`${url}?narHash=${wrong}`);
  });
});
