import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { baseNameOf, type StorePath } from '../../../src/formats/store-path.ts';
import { findRoots, type ReadLock, resultLink } from '../../../src/store/roots.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

let store: Store;
let outside: string;
let proc: string;
let hello: StorePath;
beforeEach(async () => {
  store = await openStore(join(temporaryFolder(), 'root'));
  outside = temporaryFolder();
  proc = temporaryFolder();
  hello = await add('hello', 'hi');
});

const add = async (name: string, text: string): Promise<StorePath> =>
  (await store.addTree(name, treeFrom(directory({ a: file(text) })))).path;

const noLock: ReadLock = async (place) => {
  throw new Error(`nobody asks for ${place}`);
};
const roots = (readLock = noLock) => findRoots(store, { readLock, proc });
const gcroots = (...names: string[]): string => {
  const folder = join(store.root, 'nix/var/nix/gcroots', ...names.slice(0, -1));
  mkdirSync(folder, { recursive: true });
  return join(folder, names.at(-1)!);
};

describe('findRoots', () => {
  it('finds nothing in a store without any', async () => {
    expect(await roots()).toEqual({ roots: [], stale: [], unreadLocks: [] });
  });

  it('takes links to a path or below it, physical or logical, in folders of folders', async () => {
    symlinkSync(store.physical(hello), gcroots('mine'));
    symlinkSync(`${hello}/a`, gcroots('deep', 'er', 'below'));
    writeFileSync(gcroots('files', baseNameOf(hello)), '');
    writeFileSync(gcroots('files', 'README'), 'not a root');
    symlinkSync('/etc/passwd', gcroots('elsewhere'));
    const { roots: found } = await roots();
    expect(found).toEqual(
      [gcroots('deep', 'er', 'below'), gcroots('files', baseNameOf(hello)), gcroots('mine')].map((place) => ({
        kind: 'link',
        place,
        path: hello,
      })),
    );
  });

  it('finds them by names that are not UTF-8', async () => {
    const odd = (text: string): Buffer => Buffer.from(text, 'latin1');
    symlinkSync(hello, odd(`${gcroots('x')}\xff`));
    mkdirSync(odd(`${outside}/\xfe`));
    symlinkSync(hello, odd(`${outside}/\xfe/result`));
    symlinkSync(odd(`${outside}/\xfe/result`), gcroots('auto', 'one'));
    const source = await add('source', 'input');
    writeFileSync(odd(`${outside}/\xfe/flake.lock`), '{}');
    symlinkSync(odd(`${outside}/\xfe/flake.lock`), gcroots('auto', 'two'));
    const { roots: found, stale, unreadLocks } = await roots();
    expect(found.map(({ kind, place, path }) => [kind, path, place.slice(-8)]).sort()).toEqual([
      ['link', hello, 'roots/x\ufffd'],
      ['link', hello, '\ufffd/result'],
      ['lock', source, 'ake.lock'],
    ]);
    expect(stale).toEqual([]);
    expect(unreadLocks).toEqual([`${outside}/\ufffd/flake.lock`]);
  });

  it('passes over links that somebody removes meanwhile', async () => {
    const links = ['a', 'b', 'c'].map((name) => gcroots('locks', name));
    for (const [index, link] of links.entries()) {
      mkdirSync(join(outside, String(index)));
      writeFileSync(join(outside, String(index), 'flake.lock'), '');
      symlinkSync(join(outside, String(index), 'flake.lock'), link);
    }
    let reads = 0;
    const { roots: found } = await roots(async () => {
      reads++;
      for (const link of links) rmSync(link, { force: true });
      return [hello];
    });
    expect(reads).toBe(1);
    expect(found).toHaveLength(1);
  });

  it('follows indirect roots to the link outside, over further links and other names of the store', async () => {
    await resultLink(store, join(outside, 'result'), store.physical(hello));
    symlinkSync('result', join(outside, 'other'));
    await store.addIndirectRoot(join(outside, 'other'));
    const alias = join(outside, 'alias');
    symlinkSync(store.root, alias);
    symlinkSync(`${alias}${hello}/a`, join(outside, 'by-alias'));
    await store.addIndirectRoot(join(outside, 'by-alias'));
    const { roots: found, stale } = await roots();
    expect(found).toEqual(
      [`${alias}${hello}/a`, join(outside, 'result')].map((place) => ({ kind: 'link', place, path: hello })),
    );
    expect(stale).toEqual([]);
  });

  it('tells of links in auto that lead nowhere, and leaves others alone', async () => {
    await store.addIndirectRoot(join(outside, 'gone'));
    writeFileSync(join(outside, 'plain'), '');
    await store.addIndirectRoot(join(outside, 'plain'));
    await store.addIndirectRoot(join(outside, 'plain/below-a-file'));
    symlinkSync(join(outside, 'gone'), gcroots('not-auto'));
    const found = await roots();
    expect(found.roots).toEqual([]);
    expect(found.stale).toHaveLength(2);
  });

  it('lets a link that leads round in circles stop the sweep', async () => {
    symlinkSync('b', join(outside, 'a'));
    symlinkSync('a', join(outside, 'b'));
    await store.addIndirectRoot(join(outside, 'a'));
    const error = await errorOf(roots());
    expect(error.code).toBe('FLK_ROOT_UNREADABLE');
    expect(error.hint).toContain(gcroots('auto', ''));
  });

  it('asks for the sources of live locks, and keeps all sources for one that says nothing', async () => {
    const source = await add('source', 'an input');
    const other = await add('source', 'another input');
    const lock = join(outside, 'flake.lock');
    writeFileSync(lock, '{}');
    await store.addIndirectRoot(lock);
    const missing = hello.replace('hello', 'gone') as StorePath;
    const read = await roots(async (place) => (place === lock ? [source, missing] : []));
    expect(read.roots).toEqual([{ kind: 'lock', place: lock, path: source }]);
    const unread = await roots(async () => {
      throw new FlkError('FLK_LOCK_CONFLICT', 'markers');
    });
    expect(unread.unreadLocks).toEqual([lock]);
    expect(unread.roots.map(({ path }) => path)).toEqual([source, other].sort());
    // Our own mistakes are no reason to go on.
    await expect(roots()).rejects.toThrow('nobody asks for');
  });

  it('takes generations of profiles, but not the launchers beside them', async () => {
    const folder = join(store.root, 'nix/var/nix/profiles/per-user/ada');
    mkdirSync(join(folder, 'profile-1-run/bin'), { recursive: true });
    symlinkSync(store.physical(hello), join(folder, 'profile-1-link'));
    symlinkSync(store.physical(hello), join(folder, 'profile-1-run/bin/hello'));
    symlinkSync('profile-1-run', join(folder, 'profile'));
    expect((await roots()).roots).toEqual([
      { kind: 'profile', place: join(folder, 'profile-1-link'), path: hello },
    ]);
  });

  it('sees what processes run, read, stand in and speak of, if it is valid', async () => {
    const of = join(proc, '123');
    mkdirSync(join(of, 'fd'), { recursive: true });
    mkdirSync(join(proc, 'self'));
    symlinkSync(`${hello}/a`, join(proc, 'self/exe'));
    symlinkSync(`${store.physical(hello)}/a`, join(of, 'exe'));
    symlinkSync('/', join(of, 'cwd'));
    symlinkSync(`${hello}/a (deleted)`, join(of, 'fd/3'));
    symlinkSync('socket:[1]', join(of, 'fd/4'));
    const gone = hello.replace('hello', 'gone');
    writeFileSync(join(of, 'environ'), `A=1\0PATH=/bin:${hello}/bin:${gone}/bin\0B=/nix/store/short\0`);
    writeFileSync(join(of, 'maps'), `7f00-7f01 r-xp 0 0:1 5   ${store.physical(hello)}/a\n`);
    const { roots: found } = await roots();
    expect(found).toEqual(
      ['environ', 'exe', 'fd/3', 'maps'].map((name) => ({
        kind: 'process',
        place: join(of, name),
        path: hello,
      })),
    );
  });

  it('lets nothing be kept by a process that uses the same path of another store', async () => {
    const other = await openStore(join(temporaryFolder(), 'root'));
    await other.addTree('hello', treeFrom(directory({ a: file('hi') })));
    const inView = (pid: string, root: string): string => {
      mkdirSync(join(proc, pid, 'fd'), { recursive: true });
      symlinkSync(root, join(proc, pid, 'root'));
      symlinkSync(`${hello}/a`, join(proc, pid, 'fd/3'));
      return join(proc, pid);
    };
    writeFileSync(join(inView('1', other.root), 'environ'), `A=${hello}\0`);
    const ours = inView('2', store.root);
    // Where it is not known what lies there, the safe side.
    const neither = inView('3', temporaryFolder());
    const outside = inView('4', '/');
    writeFileSync(join(outside, 'environ'), `A=x:${other.physical(hello)}/a\0`);
    writeFileSync(join(outside, 'maps'), `7f00-7f01 r-xp 0 0:1 5   ${store.physical(hello)}/a\n`);
    other.close();
    const { roots: found } = await roots();
    expect(found.map(({ place }) => place)).toEqual([
      join(ours, 'fd/3'),
      join(neither, 'fd/3'),
      join(outside, 'fd/3'),
      join(outside, 'maps'),
    ]);
  });

  it('tells what other flks that run hold, if it is valid', async () => {
    const other = await openStore(store.root);
    const dead = hello.replace(/-hello$/, '-never') as StorePath;
    other.hold([hello, dead]);
    const { default: Database } = await import('libsql');
    const database = new Database(join(store.root, 'nix/var/flk/store.sqlite'));
    database
      .prepare<[string, string]>('INSERT INTO holds (owner, path) VALUES (?, ?)')
      .run('4194304-1-dead', hello);
    database.close();
    // What this one holds itself is no reason.
    store.hold([hello]);
    const place = `a running flk (pid ${process.pid})`;
    expect((await roots()).roots).toEqual([{ kind: 'flk', place, path: hello }]);
    other.close();
    expect((await roots()).roots).toEqual([]);
  });

  it('sees a real process', async () => {
    const child = spawn(process.execPath, ['-e', 'console.log(1); setInterval(() => {}, 1000)'], {
      env: { TEST: `x:${hello}/bin` },
      cwd: store.physical(hello),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await new Promise((ready) => child.stdout.once('data', ready));
      const { roots: found } = await findRoots(store, { readLock: noLock });
      const places = found.filter(({ path }) => path === hello).map(({ place }) => place);
      expect(places).toEqual([`/proc/${child.pid}/cwd`, `/proc/${child.pid}/environ`]);
    } finally {
      child.kill('SIGKILL');
    }
  });
});
