import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { GitRef } from '../../../src/flake/flake-ref.ts';
import type { Fetched } from '../../../src/flake/source.ts';
import { parseGitmodules } from '../../../src/formats/git-modules.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { GitSource, type GitSourceOptions } from '../../../src/sources/git.ts';
import { submoduleUrl } from '../../../src/sources/git-submodules.ts';
import { Sources } from '../../../src/sources/source.ts';
import { withCode } from '../../support/errors.ts';
import { type GitServer, gitServer } from '../../support/git-server.ts';
import { nix, nixAvailable, nixReason } from '../../support/nix.ts';
import { git } from '../../support/repositories.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { nodeOf } from '../../support/trees.ts';

/** A repository of one commit, in `FOLDER/NAME`; gives the commit. */
function makeRepository(folder: string, name: string, files: Readonly<Record<string, string>>): string {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  git(path, 'init', '-q');
  for (const [file, content] of Object.entries(files)) {
    mkdirSync(join(path, file, '..'), { recursive: true });
    writeFileSync(join(path, file), content);
  }
  git(path, 'add', '-A');
  return commitAll(path);
}

function commitAll(path: string): string {
  git(path, 'commit', '-q', '--allow-empty', '-m', 'change');
  return git(path, 'rev-parse', 'HEAD');
}

/** A submodule: its place, where `.gitmodules` says that it comes from, and its revision. */
type Link = readonly [path: string, url: string, rev: string];

/** Adds submodules without cloning them. */
function addSubmodules(path: string, links: readonly Link[]): string {
  for (const [at, url, rev] of links) {
    git(path, 'config', '-f', '.gitmodules', `submodule.${at}.path`, at);
    git(path, 'config', '-f', '.gitmodules', `submodule.${at}.url`, url);
    git(path, 'update-index', '--add', '--cacheinfo', `160000,${rev},${at}`);
  }
  git(path, 'add', '.gitmodules');
  return commitAll(path);
}

interface Rig {
  readonly folder: string;
  readonly server: GitServer;
  source(options?: Partial<GitSourceOptions>): GitSource;
  ref(name: string): GitRef;
}

async function rig(): Promise<Rig> {
  const folder = temporaryFolder();
  const server = await gitServer(folder);
  const cacheFolder = join(temporaryFolder(), 'cache');
  return {
    folder,
    server,
    source: (options) =>
      new GitSource({ cacheFolder, reporter: { emit: () => {} }, retryDelay: 1, ...options }),
    ref: (name) => ({ type: 'git', url: `${server.base}/${name}/.git`, submodules: true }),
  };
}

/** `top` with `deps/mid` (relative URL), which has `leaf` below `sub`; and `leaf` twice more, by a whole URL and below another name. */
async function nested(sibling = (name: string) => `../../${name}/.git`): Promise<Rig & { leaf: string }> {
  const made = await rig();
  const { folder, server } = made;
  const leaf = makeRepository(folder, 'leaf', { 'flake.yaml': 'description: leaf\n', 'a/b': 'b' });
  makeRepository(folder, 'mid', { file: 'mid' });
  const mid = addSubmodules(join(folder, 'mid'), [['sub/leaf', sibling('leaf'), leaf]]);
  makeRepository(folder, 'top', { 'flake.yaml': 'description: top\n', 'deps.txt': '', z: 'z' });
  addSubmodules(join(folder, 'top'), [
    ['deps/mid', sibling('mid'), mid],
    ['a-leaf', `${server.base}/leaf/.git`, leaf],
  ]);
  return { ...made, leaf };
}

describe('submodules=1', () => {
  it('puts the trees of submodules, and of theirs, in their places', async () => {
    const { source, ref } = await nested();
    const { locked, tree } = await source().fetch(ref('top'));
    expect(locked).toMatchObject({ submodules: true, ref: 'refs/heads/main', revCount: 2 });
    expect((await hashTree(tree)).narHash).toBe(tree.narHash);
    const text = async (path: string): Promise<string | undefined> => (await tree.readFile(path))?.toString();
    expect(await text('deps/mid/file')).toBe('mid');
    expect(await text('deps/mid/sub/leaf/a/b')).toBe('b');
    expect(await text('a-leaf/flake.yaml')).toBe('description: leaf\n');
    expect(await text('deps/flake.yaml')).toBeUndefined();
    const plain = await source().fetch({ ...ref('top'), submodules: false });
    expect(plain.tree.narHash).not.toBe(tree.narHash);
    expect(await plain.tree.readFile('a-leaf/flake.yaml')).toBeUndefined();
  });

  it('asks for nothing that the lock and the cache know', async () => {
    const { source, ref, server } = await nested();
    const { locked, tree } = await source().fetch(ref('top'));
    server.log.length = 0;
    const again = await source({ offline: true }).fetch(locked as GitRef);
    expect(again.locked).toEqual(locked);
    expect(await nodeOf(again.tree)).toEqual(await nodeOf(tree));
    expect(server.log).toEqual([]);
  });

  it('leaves a submodule that .gitmodules does not know an empty folder', async () => {
    const { source, ref, folder } = await rig();
    const leaf = makeRepository(folder, 'leaf', { file: 'x' });
    makeRepository(folder, 'top', { file: 'x' });
    const path = join(folder, 'top');
    git(path, 'update-index', '--add', '--cacheinfo', `160000,${leaf},gone`);
    commitAll(path);
    const { tree } = await source().fetch(ref('top'));
    const plain = await source().fetch({ ...ref('top'), submodules: false });
    expect(tree.narHash).toBe(plain.tree.narHash);
  });

  it.skipIf(!nixAvailable())(`has Nix’s bytes, over http and from this machine ${nixReason}`, async () => {
    const served = await nested();
    const here = await nested((name) => `../${name}`);
    for (const [{ source }, ref] of [
      [served, served.ref('top')],
      [served, served.ref('mid')],
      [here, { ...here.ref('top'), url: `file://${here.folder}/top`, ref: 'main' }],
    ] as const) {
      const text = `submodules=1${ref.ref === undefined ? '' : `&ref=${ref.ref}`}`;
      const { stdout, stderr } = await nix(['flake', 'prefetch', '--json', `git+${ref.url}?${text}`], {
        env: { XDG_CACHE_HOME: temporaryFolder() },
      });
      expect(stdout, stderr).not.toBe('');
      const { hash, locked }: { hash: string; locked: object } = JSON.parse(stdout);
      expect((await source().fetch(ref)).locked).toEqual({ ...locked, narHash: hash });
    }
  });

  it('does not go with exportIgnore, as with Nix', async () => {
    const { source, ref } = await nested();
    await expect(source().fetch({ ...ref('top'), exportIgnore: true })).rejects.toEqual(
      withCode('FLK_REF_UNSUPPORTED'),
    );
  });
});

describe('the working tree with submodules=1', () => {
  /** A clone of `top`, its submodules checked out. */
  async function checkedOut(): Promise<{ root: string; open: (ref?: Partial<GitRef>) => Promise<Fetched> }> {
    const { folder } = await nested((name) => `../${name}`);
    const root = join(folder, 'work');
    git(folder, 'clone', '-q', '--no-recurse-submodules', 'top', 'work');
    git(root, 'config', '-f', '.gitmodules', 'submodule.a-leaf.url', '../leaf');
    git(root, 'commit', '-qam', 'move');
    const open = (ref: Partial<GitRef> = {}): Promise<Fetched> =>
      new Sources({ cacheFolder: join(temporaryFolder(), 'cache'), reporter: { emit: () => {} } }).fetch({
        type: 'git',
        url: `file://${root}`,
        submodules: true,
        ...ref,
      });
    return { root, open };
  }
  const update = (root: string): string =>
    git(root, '-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'update', '--init', '--recursive');

  it('holds the files of the submodules, as they are', async () => {
    const { root, open } = await checkedOut();
    update(root);
    const clean = await open();
    expect(clean.locked).toMatchObject({
      rev: git(root, 'rev-parse', 'HEAD'),
      revCount: 3,
      submodules: true,
    });
    expect(clean.tree.narHash).toBe((await open({ ref: 'main' })).tree.narHash);
    writeFileSync(join(root, 'deps/mid/sub/leaf/a/b'), 'changed');
    writeFileSync(join(root, 'deps/mid/untracked'), '');
    const { locked, tree } = await open();
    expect(locked).toMatchObject({ dirtyRev: `${git(root, 'rev-parse', 'HEAD')}-dirty` });
    expect((await tree.readFile('deps/mid/sub/leaf/a/b'))?.toString()).toBe('changed');
    expect(await tree.readFile('deps/mid/untracked')).toBeUndefined();
  });

  it.skipIf(!nixAvailable())(`is Nix’s, clean, changed, and on other commits ${nixReason}`, async () => {
    const { root, open } = await checkedOut();
    update(root);
    const same = async (): Promise<void> => {
      const { stdout, stderr } = await nix(
        ['flake', 'prefetch', '--json', `git+file://${root}?submodules=1`],
        {
          env: { XDG_CACHE_HOME: temporaryFolder() },
        },
      );
      expect(stdout, stderr).not.toBe('');
      const { hash, locked }: { hash: string; locked: object } = JSON.parse(stdout);
      expect((await open()).locked).toEqual({ ...locked, narHash: hash });
    };
    await same();
    writeFileSync(join(root, 'a-leaf/a/b'), 'another commit');
    git(join(root, 'a-leaf'), 'commit', '-qam', 'another');
    await same();
    writeFileSync(join(root, 'deps/mid/file'), 'changed');
    await same();
  });

  it('wants them checked out', async () => {
    const { root, open } = await checkedOut();
    await expect(open()).rejects.toMatchObject({
      code: 'FLK_GIT_SUBMODULE',
      hint: expect.stringContaining(`git -C ${root} submodule update`),
    });
    update(root);
    rmSync(join(root, 'a-leaf'), { recursive: true });
    symlinkSync('/', join(root, 'a-leaf'));
    await expect(open()).rejects.toEqual(withCode('FLK_GIT_SUBMODULE'));
  });
});

describe('a hostile .gitmodules', () => {
  const gone = '1234567890123456789012345678901234567890';

  it.each<[string, string, string]>([
    ['a command', 'ext::sh -c touch% pwned', 'FLK_GIT_SUBMODULE'],
    ['an option', '--upload-pack=touch pwned', 'FLK_GIT_SUBMODULE'],
    ['an option as host', 'ssh://-oProxyCommand=touch/x', 'FLK_GIT_SUBMODULE'],
    ['an option as host, the short way', 'a@-oProxyCommand=x:y', 'FLK_GIT_SUBMODULE'],
    ['an option as path', 'ssh://host.example/-x', 'FLK_GIT_SUBMODULE'],
    ['a helper', 'fd::3', 'FLK_GIT_SUBMODULE'],
    ['a file of this machine', 'file:///etc', 'FLK_GIT_SUBMODULE'],
    ['a path of this machine', '/etc', 'FLK_GIT_SUBMODULE'],
    ['a way above the server', '../../../../../x', 'FLK_GIT_SUBMODULE'],
    ['no URL', '', 'FLK_GIT_SUBMODULE'],
    ['a control character', 'https://host.example/\u0001', 'FLK_GIT_SUBMODULE'],
    ['a password', 'https://me:secret@host.example/x', 'FLK_REF_CREDENTIALS'],
  ])('with %s for a URL is refused', async (_, url, code) => {
    const { source, ref, folder, server } = await rig();
    makeRepository(folder, 'top', { file: 'x' });
    addSubmodules(join(folder, 'top'), [['sub', url, gone]]);
    const failing = source().fetch(ref('top'));
    await expect(failing).rejects.toEqual(withCode(code));
    await expect(failing).rejects.not.toMatchObject({ message: expect.stringContaining('secret') });
    expect(server.log.filter(({ path }) => !path.startsWith('/top'))).toEqual([]);
  });

  it.each(['../sub', '/sub', 'a/../sub', '.git/x', 'a/.GIT', '.', ''])(
    'with the path %j is refused',
    async (at) => {
      const { source, ref, folder } = await rig();
      makeRepository(folder, 'top', { '.gitmodules': `[submodule "x"]\n\tpath = "${at}"\n\turl = ../x\n` });
      await expect(source().fetch(ref('top'))).rejects.toEqual(withCode('FLK_GIT_SUBMODULE'));
    },
  );

  it('with one path twice is refused', async () => {
    const { source, ref, folder } = await rig();
    makeRepository(folder, 'top', { file: 'x' });
    const path = join(folder, 'top');
    git(path, 'config', '-f', '.gitmodules', 'submodule.other.path', 'sub');
    git(path, 'config', '-f', '.gitmodules', 'submodule.other.url', '../y');
    addSubmodules(path, [['sub', '../x', gone]]);
    await expect(source().fetch(ref('top'))).rejects.toMatchObject({
      code: 'FLK_GIT_SUBMODULE',
      message: expect.stringContaining('another'),
    });
  });

  it('that names a link to a folder puts nothing behind it', async () => {
    const { source, ref, folder } = await rig();
    makeRepository(folder, 'top', { '.gitmodules': '[submodule "x"]\n\tpath = link/sub\n\turl = ../x\n' });
    const plain = await source().fetch({ ...ref('top'), submodules: false });
    expect((await source().fetch(ref('top'))).tree.narHash).toBe(plain.tree.narHash);
  });

  it('that cannot be read is refused', async () => {
    const { source, ref, folder } = await rig();
    makeRepository(folder, 'top', { '.gitmodules': '[submodule "x"]\n = 3\n' });
    await expect(source().fetch(ref('top'))).rejects.toMatchObject({
      code: 'FLK_GIT_SUBMODULE',
      message: expect.stringContaining('line 2'),
    });
  });

  it('that asks for a revision that is not there says so', async () => {
    const { source, ref, folder } = await rig();
    makeRepository(folder, 'leaf', { file: 'x' });
    makeRepository(folder, 'top', { file: 'x' });
    addSubmodules(join(folder, 'top'), [['sub', '../../leaf/.git', gone]]);
    await expect(source().fetch(ref('top'))).rejects.toEqual(withCode('FLK_GIT_REV_GONE'));
  });

  it('that leads deeper and deeper ends', async () => {
    const { source, ref, folder } = await rig();
    let rev = makeRepository(folder, 'r0', { file: 'x' });
    for (let i = 1; i <= 20; i++) {
      makeRepository(folder, `r${i}`, { file: String(i) });
      rev = addSubmodules(join(folder, `r${i}`), [['sub', `../../r${i - 1}/.git`, rev]]);
    }
    await expect(source().fetch(ref('r20'))).rejects.toEqual(withCode('FLK_LIMIT'));
    await expect(source().fetch(ref('r10'))).resolves.toBeDefined();
  });
});

describe('.gitmodules', () => {
  it.each<[string, string, readonly object[]]>([
    ['nothing', '', []],
    [
      'quotes, comments, case',
      '[SubModule "A b"] # x\n  PATH = "a # b" ; y\n url=../x\\\n/y # z\n',
      [{ name: 'A b', path: 'a # b', url: '../x/y' }],
    ],
    [
      'the first of two',
      '[submodule "x"]\npath=a\npath=b\n[submodule "x"]\npath=c\nurl=u\n',
      [{ name: 'x', path: 'a', url: 'u' }],
    ],
    ['other sections', '[include]\npath = /etc/passwd\n[core "x"]\npath = y\n[submodule]\npath = z\n', []],
    ['escapes', '[submodule "q\\"\\\\"]\npath = "a\\tb\\\\"\n', [{ name: 'q"\\', path: 'a\tb\\', url: '' }]],
  ])('is read: %s', (_, text, wanted) => {
    expect(parseGitmodules(text)).toEqual(wanted);
  });
});

it.each([
  ['https://h.example/g/top.git', '../leaf.git', 'https://h.example/g/leaf.git'],
  ['https://h.example/g/top.git/', '../../leaf', 'https://h.example/leaf'],
  ['https://h.example/g/top', './leaf', 'https://h.example/g/top/leaf'],
  ['ssh://git@h.example:22/g/top', '../leaf', 'ssh://git@h.example:22/g/leaf'],
  ['file:///srv/g/top', '../leaf', 'file:///srv/g/leaf'],
  ['file:///srv/g/top', '/srv/x y', 'file:///srv/x%20y'],
  ['https://h.example/top', 'git@h.example:g/leaf.git', 'ssh://git@h.example/g/leaf.git'],
  ['https://h.example/top', 'git+https://h.example/leaf', 'https://h.example/leaf'],
])('from %s the submodule %s is %s', (parent, url, wanted) => {
  expect(submoduleUrl(parent, 'x', url)).toBe(wanted);
});
