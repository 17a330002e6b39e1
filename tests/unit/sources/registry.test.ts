import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Event, silent } from '../../../src/base/events.ts';
import { parseFlakeRef, printFlakeRef, refToAttributes } from '../../../src/flake/flake-ref.ts';
import {
  FlakeRegistries,
  parseRegistry,
  printEntryRef,
  printRegistry,
  type RegistryEntry,
  withEntry,
  withoutEntry,
} from '../../../src/sources/registry.ts';
import {
  editRegistry,
  type RegistryFiles,
  readRegistry,
  registryLoader,
} from '../../../src/sources/registry-files.ts';
import { Sources } from '../../../src/sources/source.ts';
import { errorOf, thrownBy, withCode } from '../../support/errors.ts';
import { fileServer } from '../../support/file-server.ts';
import { temporaryFolder } from '../../support/temp.ts';

const rev = '0123456789012345678901234567890123456789';

const entry = (from: string, to: string, exact = false): RegistryEntry => ({
  from: refToAttributes(parseFlakeRef(from)),
  to: refToAttributes(parseFlakeRef(to)),
  exact,
});

describe('a registry’s text', () => {
  const entries = [entry('nixpkgs', 'github:NixOS/nixpkgs/main?dir=lib'), entry('a', 'path:/x', true)];

  it('is what Nix writes, and is read again', () => {
    const text = printRegistry(entries);
    expect(text).toBe(
      `{
  "flakes": [
    {
      "from": {
        "id": "nixpkgs",
        "type": "indirect"
      },
      "to": {
        "dir": "lib",
        "owner": "NixOS",
        "ref": "main",
        "repo": "nixpkgs",
        "type": "github"
      }
    },
    {
      "exact": true,
      "from": {
        "id": "a",
        "type": "indirect"
      },
      "to": {
        "path": "/x",
        "type": "path"
      }
    }
  ],
  "version": 2
}`,
    );
    expect(parseRegistry(text, 'r.json')).toEqual(entries);
  });

  it('has null for no entries', () => {
    expect(printRegistry([])).toBe('{\n  "flakes": null,\n  "version": 2\n}');
    expect(parseRegistry(printRegistry([]), 'r.json')).toEqual([]);
  });

  it('keeps entries of a kind that only a newer program knows', () => {
    const text = '{"flakes":[{"from":{"type":"x"},"to":{"type":"zzz","n":3}}],"version":2}';
    const [newer] = parseRegistry(text, 'r.json');
    expect(JSON.parse(printRegistry([newer!]))).toEqual(JSON.parse(text));
    expect(printEntryRef(newer!.to)).toBe('{"type":"zzz","n":3}');
  });

  it.each([
    ['', 'is not JSON'],
    ['{"flakes":[],"version":2', 'is not JSON'],
    ['[]', 'is not an object'],
    ['{"flakes":[]}', 'is of version undefined'],
    ['{"flakes":[],"version":3}', 'is of version 3'],
    ['{"flakes":{},"version":2}', 'has no list of flakes'],
    ['{"flakes":[3],"version":2}', 'flakes[0]'],
    ['{"flakes":[{"from":{"type":"a"}}],"version":2}', 'flakes[0]'],
    ['{"flakes":[{"from":{"id":"a"},"to":{"type":"a"}}],"version":2}', 'flakes[0]'],
    ['{"flakes":[{"from":{"type":"a"},"to":{"type":"a","x":{}}}],"version":2}', 'flakes[0]'],
    ['{"flakes":[{"from":{"type":"a"},"to":{"type":"a"},"exact":1}],"version":2}', 'flakes[0]'],
    [`{"flakes":[${'0,'.repeat(20_000)}0],"version":2}`, 'more than 20000 entries'],
  ])('%.40s is refused', (text, why) => {
    const error = thrownBy(() => parseRegistry(text, '/etc/r.json'));
    expect(error.code).toBe('FLK_REGISTRY_INVALID');
    expect(error.message).toContain('/etc/r.json');
    expect(error.message).toContain(why);
  });

  it('has one entry for a name, with its ref, whatever the folder', () => {
    const a = withEntry([], parseFlakeRef('a'), { type: 'path', path: '/1' });
    const both = withEntry(a, parseFlakeRef('a/x'), { type: 'path', path: '/2' });
    expect(both.map(({ to }) => to.path)).toEqual(['/1', '/2']);
    const again = withEntry(both, parseFlakeRef('flake:a?dir=d'), { type: 'path', path: '/3' });
    expect(again.map(({ to }) => to.path)).toEqual(['/2', '/3']);
    expect(withoutEntry(again, parseFlakeRef('flake:a')).map(({ to }) => to.path)).toEqual(['/2']);
    expect(withoutEntry(again, parseFlakeRef('b'))).toHaveLength(2);
  });
});

describe('a name', () => {
  const user = [
    entry('mine', 'github:me/mine'),
    entry('base', 'github:me/base'),
    entry('here', 'path:/here?dir=sub'),
  ];
  const global = [
    entry('base', 'github:world/base'),
    entry('chain', 'flake:base?dir=lib'),
    entry('chained', 'flake:chain'),
    entry('exact', 'github:world/exact', true),
    entry('pinned/v1', `github:world/pinned/${rev}`),
    entry('repo', 'git+https://h/repo'),
    entry('branch', 'git+https://h/repo?ref=main'),
    entry('archive', 'https://h/x.tar.gz'),
    entry('round', 'flake:about'),
    entry('about', 'flake:round'),
    entry('github:old/name', 'github:new/name'),
    { from: { type: 'indirect', id: 'strange' }, to: { type: 'hologram' }, exact: false },
    {
      from: { type: 'indirect', id: 'final' },
      to: { type: 'github', owner: 'o', repo: 'r', rev, __final: true },
      exact: false,
    },
  ];
  const registries = new FlakeRegistries(async (name) => ({ user, system: [], global })[name]);
  const lookup = async (text: string, which: 'all' | 'limited' = 'all'): Promise<string> =>
    printFlakeRef(await registries.lookup(parseFlakeRef(text), which));

  // Made with `nix registry resolve` of Nix 2.34.
  it.each([
    ['mine', 'github:me/mine'],
    ['base', 'github:me/base'],
    ['base/v2', 'github:me/base/v2'],
    [`base/${rev}`, `github:me/base/${rev}`],
    ['chain', 'github:me/base'],
    ['flake:chain?dir=other', 'github:me/base?dir=other'],
    ['chained', 'github:me/base'],
    ['chain/v3', 'github:me/base/v3'],
    ['here', 'path:/here?dir=sub'],
    ['exact', 'github:world/exact'],
    ['pinned/v1', `github:world/pinned/${rev}`],
    ['repo/x', 'git+https://h/repo?ref=x'],
    [`branch/${rev}`, `git+https://h/repo?ref=main&rev=${rev}`],
    [`repo/x/${rev}`, `git+https://h/repo?ref=x&rev=${rev}`],
    ['github:old/name/v1', 'github:new/name/v1'],
    ['github:a/b?dir=d', 'github:a/b?dir=d'],
    ['final', `github:o/r/${rev}`],
  ])('%s means %s', async (text, meant) => {
    expect(await lookup(text)).toBe(meant);
  });

  it('of an input is not what this person alone has named', async () => {
    expect(await lookup('base', 'limited')).toBe('github:world/base');
    expect((await errorOf(lookup('mine', 'limited'))).code).toBe('FLK_REGISTRY_UNKNOWN');
  });

  it.each([
    ['bsae', 'no registry knows flake:bsae', 'did you mean base?'],
    ['exact/v1', 'no registry knows flake:exact/v1', './exact for a folder'],
    ['pinned', 'no registry knows flake:pinned', 'flk registry add pinned REF'],
  ])('%s is unknown', async (text, message, hint) => {
    const error = await errorOf(lookup(text));
    expect(error.code).toBe('FLK_REGISTRY_UNKNOWN');
    expect(error.message).toContain(message);
    expect(error.hint).toContain(hint);
    expect(error.facts.asked).toBe('user, global');
  });

  it('that leads in a circle tells which', async () => {
    const error = await errorOf(lookup('round'));
    expect(error.code).toBe('FLK_REGISTRY_CYCLE');
    expect(error.trail).toEqual(['flake:round', 'flake:about', 'flake:round']);
  });

  it.each([
    ['archive/v1', 'https://h/x.tar.gz, which has no branches or tags'],
    [`archive/${rev}`, 'which has no revisions'],
    [`repo/${rev}`, 'where a rev needs a ref beside it'],
    [`base/x/${rev}`, 'which takes a ref or a rev, not both'],
    ['strange', 'type is not a kind of reference'],
  ])('%s is refused', async (text, why) => {
    const error = await errorOf(lookup(text));
    expect(error.code).toBe('FLK_REF_INVALID');
    expect(error.message).toContain(why);
  });

  it('means first what the command line says, of two the first', async () => {
    const own = new FlakeRegistries(async () => [entry('a', 'github:x/y')]);
    own.override(parseFlakeRef('a'), parseFlakeRef('path:/a?dir=d'));
    own.override(parseFlakeRef('a'), parseFlakeRef('path:/b'));
    expect(printFlakeRef(await own.lookup(parseFlakeRef('a'), 'limited'))).toBe('path:/a?dir=d');
  });

  it('means nothing where none may be asked', async () => {
    const none = new FlakeRegistries(async () => expect.unreachable('a registry was read'), {
      allowed: false,
    });
    none.override(parseFlakeRef('a'), parseFlakeRef('path:/a'));
    const error = await errorOf(none.lookup(parseFlakeRef('a'), 'all'));
    expect(error.code).toBe('FLK_REGISTRY_UNKNOWN');
    expect(error.hint).toContain('--no-registries');
  });

  it('reads no registry that it need not ask, and each once', async () => {
    const read: string[] = [];
    const counting = new FlakeRegistries(async (name) => {
      read.push(name);
      return name === 'user' ? [entry('a', 'path:/a')] : [];
    });
    // What is found leads no further: that takes a look at all of them.
    await Promise.all([
      counting.lookup(parseFlakeRef('a'), 'all'),
      counting.lookup(parseFlakeRef('a'), 'all'),
    ]);
    expect(read.sort()).toEqual(['global', 'system', 'user']);
  });

  it('is fetched where it leads, and says where that was', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'tree/sub'), { recursive: true });
    writeFileSync(join(folder, 'tree/sub/a'), 'a');
    const sources = new Sources({
      cacheFolder: join(folder, 'cache'),
      reporter: silent,
      registries: new FlakeRegistries(async (name) =>
        name === 'user' ? [entry('here', `path:${folder}/tree?dir=sub`)] : [],
      ),
    });
    const { locked, resolved } = await sources.fetch(parseFlakeRef('here'), 'all');
    expect(resolved).toEqual({ type: 'path', path: `${folder}/tree`, dir: 'sub' });
    expect(locked).toMatchObject({ type: 'path', path: `${folder}/tree`, dir: 'sub' });
    await expect(sources.fetch(parseFlakeRef('here'))).rejects.toEqual(withCode('FLK_REGISTRY_UNKNOWN'));
  });
});

describe('a registry’s file', () => {
  const add = (entries: readonly RegistryEntry[]) =>
    withEntry(entries, parseFlakeRef('a'), { type: 'path', path: '/a' });

  it('is made with its folder', async () => {
    const path = join(temporaryFolder(), 'deep/nix/registry.json');
    expect(await readRegistry(path)).toEqual([]);
    await editRegistry(path, add);
    expect(readFileSync(path, 'utf8')).toBe(printRegistry([entry('a', 'path:/a')]));
  });

  it('is left as it is where it cannot be read', async () => {
    const path = join(temporaryFolder(), 'registry.json');
    writeFileSync(path, '{"version":1}');
    await expect(editRegistry(path, add)).rejects.toEqual(withCode('FLK_REGISTRY_INVALID'));
    expect(readFileSync(path, 'utf8')).toBe('{"version":1}');
  });

  it('is changed where a link leads, and the link stays', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'real.json'), printRegistry([]));
    symlinkSync('real.json', join(folder, 'link.json'));
    await editRegistry(join(folder, 'link.json'), add);
    expect(await readRegistry(join(folder, 'real.json'))).toHaveLength(1);
  });

  it('loses nothing where many change it at once', async () => {
    const path = join(temporaryFolder(), 'registry.json');
    await Promise.all(
      ['a', 'b', 'c', 'd', 'e'].map((id) =>
        editRegistry(path, (entries) =>
          withEntry(entries, parseFlakeRef(id), { type: 'path', path: `/${id}` }),
        ),
      ),
    );
    expect((await readRegistry(path)).map(({ from }) => from.id).sort()).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('is not read where it is too large', async () => {
    const path = join(temporaryFolder(), 'registry.json');
    writeFileSync(path, ' '.repeat(4 * 2 ** 20 + 1));
    await expect(readRegistry(path)).rejects.toEqual(withCode('FLK_LIMIT'));
  });
});

describe('the global registry', async () => {
  const server = await fileServer();
  const text = printRegistry([entry('a', 'github:x/a')]);
  const serve = (path: string, body: string, etag?: string): string => {
    server.files.set(path, { body, headers: etag === undefined ? {} : { etag } });
    return server.base + path;
  };
  const asked = (path: string): number[] =>
    server.log.filter(({ url }) => url === path).map(({ status }) => status);
  const load = (global: string, options: Partial<RegistryFiles> = {}) =>
    registryLoader({
      userFile: '/none/user.json',
      systemFile: '/none/system.json',
      global,
      cacheFolder: temporaryFolder(),
      reporter: silent,
      ttl: 3600,
      ...options,
    })('global');

  it.each([
    ['a path', (path: string) => path],
    ['a file URL', (path: string) => `file://${path}`],
  ])('may be %s', async (_, at) => {
    const path = join(temporaryFolder(), 'r.json');
    writeFileSync(path, text);
    expect(await load(at(path))).toHaveLength(1);
  });

  it('may be none', async () => {
    expect(await load('')).toEqual([]);
    expect(await load('/none/r.json')).toEqual([]);
  });

  it('is downloaded once while it is young, and asked for with its etag when it is not', async () => {
    const url = serve('/etag.json', text, '"1"');
    const cacheFolder = temporaryFolder();
    expect(await load(url, { cacheFolder })).toHaveLength(1);
    expect(await load(url, { cacheFolder })).toHaveLength(1);
    expect(asked('/etag.json')).toEqual([200]);
    expect(await load(url, { cacheFolder, ttl: 0 })).toHaveLength(1);
    expect(await load(url, { cacheFolder, refresh: true })).toHaveLength(1);
    expect(asked('/etag.json')).toEqual([200, 304, 304]);
    serve('/etag.json', printRegistry([]), '"2"');
    expect(await load(url, { cacheFolder, refresh: true })).toEqual([]);
  });

  it('is what it was last time where it cannot be asked, and that is said', async () => {
    const url = serve('/gone.json', text);
    const cacheFolder = temporaryFolder();
    await load(url, { cacheFolder });
    server.files.delete('/gone.json');
    const events: Event[] = [];
    const reporter = { emit: (event: Event) => void events.push(event) };
    expect(await load(url, { cacheFolder, ttl: 0, reporter })).toHaveLength(1);
    expect(events).toContainEqual({
      kind: 'notice',
      notice: expect.objectContaining({ type: 'old-answer', subject: url }),
    });
    expect(await load(url, { cacheFolder, ttl: 0, offline: true })).toHaveLength(1);
  });

  it('is nothing to invent', async () => {
    await expect(load(`${server.base}/none.json`)).rejects.toEqual(withCode('FLK_HTTP_STATUS'));
    await expect(load(serve('/offline.json', text), { offline: true })).rejects.toEqual(
      withCode('FLK_OFFLINE'),
    );
    expect(asked('/offline.json')).toEqual([]);
  });

  it('is refused, and the good copy kept, where the answer is hostile', async () => {
    const url = serve('/evil.json', text);
    const cacheFolder = temporaryFolder();
    await load(url, { cacheFolder });
    serve('/evil.json', '<html>log in first</html>');
    await expect(load(url, { cacheFolder, ttl: 0 })).rejects.toEqual(withCode('FLK_REGISTRY_INVALID'));
    serve('/evil.json', ' '.repeat(5 * 2 ** 20));
    await expect(load(url, { cacheFolder, ttl: 0 })).rejects.toEqual(withCode('FLK_LIMIT'));
    expect(await load(url, { cacheFolder })).toHaveLength(1);
  });

  it.each([
    ['registry.json', 'FLK_REGISTRY_INVALID'],
    ['ftp://h/r.json', 'FLK_REGISTRY_INVALID'],
    ['https://user:sEcret@h/r.json', 'FLK_REF_CREDENTIALS'],
  ])('cannot be at %s', async (global, code) => {
    const error = await errorOf(load(global));
    expect(error.code).toBe(code);
    expect(error.message).not.toContain('sEcret');
  });
});
