/** The forges' answers, good and bad: nock speaks for github.com, gitlab.com and git.sr.ht. Their Git servers come first. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import nock from 'nock';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Event, type Notice, silent } from '../../../src/base/events.ts';
import type { ForgeRef } from '../../../src/flake/flake-ref.ts';
import { parseFlakeRef } from '../../../src/flake/flake-ref.ts';
import { printLockFile } from '../../../src/flake/lock-file.ts';
import { lock } from '../../../src/flake/locker.ts';
import { parseManifest } from '../../../src/flake/manifest.ts';
import { flushPacket, textPacket } from '../../../src/formats/pkt-line.ts';
import { Credentials } from '../../../src/sources/credentials.ts';
import { Sources, type SourcesOptions } from '../../../src/sources/source.ts';
import { type TarEntry, tarOf } from '../../support/archives.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

const rev = 'a'.repeat(40);
const other = 'b'.repeat(40);
const hour = 3600_000;

beforeEach(() => {
  nock.disableNetConnect();
  // Without a git program nobody but flk itself asks anybody anything.
  vi.stubEnv('PATH', temporaryFolder());
});
afterEach(() => {
  const pending = nock.pendingMocks();
  nock.cleanAll();
  nock.enableNetConnect();
  vi.unstubAllEnvs();
  expect(pending).toEqual([]);
});

interface Kind {
  readonly ref: string;
  readonly git: string;
  /** Where the archive of a revision is, and what says so there. */
  readonly archive: string;
  /** Questions to the API about a ref, in order, with the answers that mean `rev`. */
  readonly api: (ref: string) => readonly (readonly [string, string])[];
  readonly oddAnswers: readonly string[];
  readonly token: string;
  /** A header of the archive request that shows the token. */
  readonly shows: readonly [string, string];
  readonly tokenArchive: string;
}

const kinds: Readonly<Record<ForgeRef['type'], Kind>> = {
  github: {
    ref: 'github:acme/tool',
    git: 'https://github.com/acme/tool.git',
    archive: `https://github.com/acme/tool/archive/${rev}.tar.gz`,
    api: (ref) => [
      [`https://api.github.com/repos/acme/tool/commits/${ref}`, JSON.stringify({ sha: rev, commit: {} })],
    ],
    oddAnswers: [
      '<html>',
      '"text"',
      'null',
      '{}',
      '{"sha":"main"}',
      `{"sha":"${'A'.repeat(40)}"}`,
      '{"sha":5}',
    ],
    token: 'ghp_secret',
    shows: ['authorization', 'token ghp_secret'],
    tokenArchive: `https://api.github.com/repos/acme/tool/tarball/${rev}`,
  },
  gitlab: {
    ref: 'gitlab:acme%2Fgroup/tool',
    git: 'https://gitlab.com/acme/group/tool.git',
    archive: `https://gitlab.com/api/v4/projects/acme%2Fgroup%2Ftool/repository/archive.tar.gz?sha=${rev}`,
    api: (ref) => [
      [
        `https://gitlab.com/api/v4/projects/acme%2Fgroup%2Ftool/repository/commits?ref_name=${ref}`,
        JSON.stringify([{ id: rev }, { id: other }]),
      ],
    ],
    oddAnswers: ['<html>', '{"id":"x"}', '[null]', '[{}]', '[{"id":"main"}]'],
    token: 'PAT:glpat-secret',
    shows: ['private-token', 'glpat-secret'],
    tokenArchive: `https://gitlab.com/api/v4/projects/acme%2Fgroup%2Ftool/repository/archive.tar.gz?sha=${rev}`,
  },
  sourcehut: {
    ref: 'sourcehut:~acme/tool',
    git: 'https://git.sr.ht/~acme/tool',
    archive: `https://git.sr.ht/~acme/tool/archive/${rev}.tar.gz`,
    api: (ref) => [
      ...(ref === 'HEAD' ? ([['https://git.sr.ht/~acme/tool/HEAD', 'ref: refs/heads/main\n']] as const) : []),
      [
        'https://git.sr.ht/~acme/tool/info/refs',
        `${other}\trefs/heads/maintenance\n${rev}\trefs/heads/main\n${rev}\trefs/tags/v1\n${other}\trefs/tags/v1^{}\n`,
      ],
    ],
    oddAnswers: ['<html>', 'ref: main', rev.slice(1)],
    token: 'srht-secret',
    shows: ['authorization', 'Bearer srht-secret'],
    tokenArchive: `https://git.sr.ht/~acme/tool/archive/${rev}.tar.gz`,
  },
};

function get(url: string): nock.Interceptor {
  const { origin, pathname, search } = new URL(url);
  return nock(origin).get(pathname + search);
}

/** The Git server answers one `ls-refs` with these lines: `ID NAME ATTRIBUTES`. */
function gitRefs(url: string, ...lines: readonly string[]): nock.Scope {
  const { origin, pathname } = new URL(`${url}/git-upload-pack`);
  const body = Buffer.concat([...lines.map((line) => textPacket(line)), flushPacket]);
  return nock(origin)
    .post(pathname)
    .reply(200, body, { 'content-type': 'application/x-git-upload-pack-result' });
}

/** The Git server does not let us in, or says that there is nothing. */
function gitRefuses(url: string, status: number): void {
  const { origin, pathname } = new URL(url);
  nock(origin).post(`${pathname}/git-upload-pack`).reply(status);
  if (status !== 401 && status !== 403)
    nock(origin).get(`${pathname}/info/refs?service=git-upload-pack`).reply(status);
}

const archive = (...entries: readonly TarEntry[]): Buffer => gzipSync(tarOf(...entries));
const plain = archive(
  { path: 'tool-1/', type: '5', mode: 0o755, modified: 1_700_000_000 },
  { path: 'tool-1/flake.nix', contents: '{ }', modified: 1_700_000_000 },
);
// nix hash path of a folder with this flake.nix.
const plainHash = 'sha256-ddUxMhrIdAb+0cYeyDyGNoxs77b5/Q8ns34Q6LJWCTA=';

function sources(options: Partial<SourcesOptions> & { readonly token?: string } = {}) {
  const { token, ...rest } = options;
  const host = token?.startsWith('PAT') ? 'gitlab.com' : token?.startsWith('gh') ? 'github.com' : 'git.sr.ht';
  const events: Event[] = [];
  const source = new Sources({
    cacheFolder: temporaryFolder(),
    reporter: { emit: (event) => events.push(event) },
    credentials: new Credentials({
      accessTokens: new Map(token === undefined ? [] : [[host, token]]),
      netrcFile: '/nonexistent',
      env: {},
      reporter: silent,
    }),
    ...rest,
  });
  const notices = (): Notice[] => events.flatMap((event) => (event.kind === 'notice' ? [event.notice] : []));
  return { events, notices, fetch: (text: string) => source.fetch(parseFlakeRef(text)), source };
}

describe.each(Object.entries(kinds))('%s', (type, kind) => {
  const owner = type === 'gitlab' ? 'acme/group' : type === 'sourcehut' ? '~acme' : 'acme';
  const locked = { type, owner, repo: 'tool', rev, narHash: plainHash, lastModified: 1_700_000_000 };

  it('tells HEAD by its Git server, and gives the archive of that', async () => {
    gitRefs(kind.git, `${rev} HEAD symref-target:refs/heads/main`);
    get(kind.archive).reply(200, plain);
    const { locked: found, tree } = await sources().fetch(kind.ref);
    expect(found).toEqual(locked);
    expect((await tree.readFile('flake.nix'))?.toString()).toBe('{ }');
  });

  it.each([
    [
      'a branch before a tag',
      'v1',
      [`${other} refs/heads/v10`, `${rev} refs/heads/v1`, `${other} refs/tags/v1`],
    ],
    ['a full name', 'refs/pull/1/head', [`${rev} refs/pull/1/head`]],
    ['half a name', 'heads/main', [`${rev} refs/heads/main`]],
    ['a name with slashes', 'a/b/c', [`${rev} refs/heads/a/b/c`]],
  ])('takes %s', async (_, ref, lines) => {
    gitRefs(kind.git, ...lines);
    get(kind.archive).reply(200, plain);
    expect((await sources().fetch(`${kind.ref}/${ref}`)).locked).toEqual(locked);
  });

  it('means by an annotated tag what its API does', async () => {
    const lines = type === 'sourcehut' ? [rev, other] : [other, rev];
    gitRefs(kind.git, `${lines[0]} refs/tags/v1 peeled:${lines[1]}`);
    get(kind.archive).reply(200, plain);
    expect((await sources().fetch(`${kind.ref}/v1`)).locked).toEqual(locked);
  });

  it('is asked nothing for a revision that is here, nor for a young answer, nor offline', async () => {
    const cacheFolder = temporaryFolder();
    gitRefs(kind.git, `${rev} refs/heads/main`);
    get(kind.archive).reply(200, plain);
    await sources({ cacheFolder }).fetch(`${kind.ref}/main`);
    expect(nock.pendingMocks()).toEqual([]);
    expect((await sources({ cacheFolder }).fetch(`${kind.ref}/${rev}`)).locked).toEqual(locked);
    expect((await sources({ cacheFolder, refTtl: 60 }).fetch(`${kind.ref}/main`)).locked).toEqual(locked);
    expect((await sources({ cacheFolder, offline: true }).fetch(`${kind.ref}/main`)).locked).toEqual(locked);
    expect((await errorOf(sources({ cacheFolder, offline: true }).fetch(`${kind.ref}/side`))).code).toBe(
      'FLK_OFFLINE',
    );
    // It has moved: the archive is another one.
    gitRefs(kind.git, `${other} refs/heads/main`);
    get(kind.archive.replace(rev, other)).reply(200, plain);
    expect(
      (await sources({ cacheFolder, refTtl: 60, refresh: true }).fetch(`${kind.ref}/main`)).locked,
    ).toEqual({
      ...locked,
      rev: other,
    });
  });

  it('takes any tree of the promised hash, and refuses another', async () => {
    const cacheFolder = temporaryFolder();
    get(kind.archive).reply(200, plain);
    await sources({ cacheFolder }).fetch(`${kind.ref}/${rev}`);
    const ref = `${kind.ref}/${other}?narHash=${encodeURIComponent(plainHash)}`;
    expect((await sources({ cacheFolder }).fetch(ref)).locked).toEqual({ ...locked, rev: other });
    get(kind.archive.replace(rev, other)).reply(200, archive({ path: 'x/', type: '5' }, { path: 'x/y' }));
    const error = await errorOf(sources().fetch(ref));
    expect(error.code).toBe('FLK_NAR_HASH_MISMATCH');
    expect(error.facts.wanted).toBe(plainHash);
  });

  it.each([['HEAD'], ['main'], ['v1']])(
    'asks the API what %s is where the Git server refuses',
    async (ref) => {
      gitRefuses(kind.git, 403);
      for (const [url, answer] of kind.api(ref)) get(url).reply(200, answer);
      get(kind.archive).reply(200, plain);
      const text = ref === 'HEAD' ? kind.ref : `${kind.ref}/${ref}`;
      expect((await sources().fetch(text)).locked).toEqual(locked);
    },
  );

  it.each(kind.oddAnswers)('does not believe an API that answers %s', async (answer) => {
    gitRefuses(kind.git, 403);
    get(kind.api('HEAD')[0]![0]).reply(200, answer);
    expect((await errorOf(sources().fetch(kind.ref))).code).toBe('FLK_FORGE_ANSWER');
  });

  it('does not read an answer without end', async () => {
    gitRefuses(kind.git, 403);
    get(kind.api('HEAD')[0]![0]).reply(200, Buffer.alloc(17 * 2 ** 20, ' '));
    expect((await errorOf(sources().fetch(kind.ref))).code).toBe('FLK_LIMIT');
  });

  it.each([
    [401, 404],
    [404, 404],
    [404, 401],
  ])('says that a repository is missing or private: %i by Git, %i by the API', async (git, api) => {
    gitRefuses(kind.git, git);
    get(kind.api('HEAD')[0]![0]).reply(api);
    const error = await errorOf(sources().fetch(kind.ref));
    expect(error.code).toBe('FLK_GIT_REPO_MISSING');
    expect(error.message).toContain(`${type}:${owner}/tool`);
    expect(error.hint).toMatch(type === 'sourcehut' ? /git\+ssh/ : /set GIT(HUB|LAB)_TOKEN/);
  });

  it('says that a revision is gone', async () => {
    get(kind.archive).reply(404);
    gitRefs(kind.git, `${other} HEAD`);
    const error = await errorOf(sources().fetch(`${kind.ref}/${rev}`));
    expect(error.code).toBe('FLK_GIT_REV_GONE');
    expect(error.message).toContain(rev);
  });

  it('says that the whole repository is, where it is', async () => {
    get(kind.archive).reply(404);
    gitRefuses(kind.git, 404);
    expect((await errorOf(sources().fetch(`${kind.ref}/${rev}`))).code).toBe('FLK_GIT_REPO_MISSING');
  });

  it('says that it wants a token where Git lets us in and the archive does not', async () => {
    gitRefs(kind.git, `${rev} HEAD`);
    get(kind.archive).reply(404);
    expect((await errorOf(sources().fetch(kind.ref))).code).toBe('FLK_HTTP_AUTH');
  });

  it('names the nearest branch for one that is not there', async () => {
    gitRefs(kind.git);
    gitRefs(kind.git, `${rev} refs/heads/main`, `${rev} refs/heads/other`, `${rev} refs/tags/v1`);
    const error = await errorOf(sources().fetch(`${kind.ref}/mian`));
    expect(error.code).toBe('FLK_GIT_REF_MISSING');
    expect(error.facts).toEqual({ wanted: 'mian', found: 'main, other, v1' });
    expect(error.hint).toContain('/main?');
  });

  it('tells when a rate limit ends', async () => {
    const reset = Math.ceil((Date.now() + hour) / 1000);
    gitRefs(kind.git, `${rev} HEAD`);
    get(kind.archive).reply(403, '', { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': String(reset) });
    const error = await errorOf(sources().fetch(kind.ref));
    expect(error.code).toBe('FLK_HTTP_RATE_LIMIT');
    expect(Math.abs(Date.parse(error.facts.until ?? '') - reset * 1000)).toBeLessThanOrEqual(1000);
    expect(error.message).toContain(error.facts.until);
    expect(error.hint).toMatch(/GITHUB_TOKEN|token for/);
  });

  it('is asked again after 429 and 5xx, and for an archive that breaks off', async () => {
    gitRefs(kind.git, `${rev} HEAD`);
    get(kind.archive).reply(429, '', { 'retry-after': '0' });
    get(kind.archive).reply(503, '', { 'retry-after': '0' });
    get(kind.archive).reply(200, plain.subarray(0, plain.length - 20));
    get(kind.archive).reply(200, plain);
    const { fetch, notices } = sources();
    expect((await fetch(kind.ref)).locked).toEqual(locked);
    expect(notices().map((notice) => notice.type)).toEqual(['retry', 'retry', 'retry']);
  });

  it.each<[string, TarEntry[]]>([
    ['leads out of it', [{ path: 'x/../../y', contents: 'z' }]],
    ['has an absolute name', [{ path: '/etc/passwd', contents: 'z' }]],
    ['is a device', [{ path: 'x/null', type: '3' }]],
    [
      'lies behind a link',
      [
        { path: 'x/a', type: '2', target: '/etc' },
        { path: 'x/a/b', contents: 'z' },
      ],
    ],
  ])('is refused an archive whose entry %s', async (_, entries) => {
    get(kind.archive).reply(200, archive({ path: 'x/', type: '5', mode: 0o755 }, ...entries));
    expect((await errorOf(sources().fetch(`${kind.ref}/${rev}`))).code).toBe('FLK_ARCHIVE_INVALID');
  });

  it('may send two top folders, which then stay', async () => {
    get(kind.archive).reply(200, archive({ path: 'a/x', contents: '1' }, { path: 'b/x', contents: '2' }));
    const { tree } = await sources().fetch(`${kind.ref}/${rev}`);
    expect((await tree.readFile('a/x'))?.toString()).toBe('1');
    expect((await tree.readFile('b/x'))?.toString()).toBe('2');
  });

  it('is shown a token, and nobody whom it redirects to is', async () => {
    const [header, value] = kind.shows;
    gitRefs(kind.git, `${rev} HEAD`);
    const { origin, pathname, search } = new URL(kind.tokenArchive);
    nock(origin, { reqheaders: { [header]: value } })
      .get(pathname + search)
      .reply(302, '', { location: 'https://storage.flk.example/x?signature=1' });
    nock('https://storage.flk.example', { badheaders: ['authorization', 'private-token'] })
      .get('/x?signature=1')
      .reply(200, plain);
    const cacheFolder = temporaryFolder();
    const { fetch, events } = sources({ token: kind.token, cacheFolder });
    expect((await fetch(kind.ref)).locked).toEqual(locked);
    expect(JSON.stringify(events)).not.toContain('secret');
    const kept = readdirSync(cacheFolder, { recursive: true, withFileTypes: true });
    const texts = kept.map((entry) =>
      entry.isFile() ? readFileSync(join(entry.parentPath, entry.name), 'latin1') : '',
    );
    expect(texts.filter((text) => text !== '').length).toBeGreaterThan(2);
    expect(texts.join() + kept.map(({ name }) => name).join()).not.toMatch(/secret|signature/);
  });

  it('says so where it refuses the token, and does not tell it', async () => {
    gitRefs(kind.git, `${rev} HEAD`);
    get(kind.tokenArchive).reply(401);
    if (kind.archive !== kind.tokenArchive) get(kind.archive).reply(404);
    const error = await errorOf(sources({ token: kind.token }).fetch(kind.ref));
    expect(error.code).toBe('FLK_HTTP_AUTH');
    expect(error.hint).toContain('expired');
    expect(JSON.stringify([error.message, error.hint, error.facts])).not.toContain('secret');
  });

  it('lists its tags by its Git server', async () => {
    gitRefs(kind.git, `${rev} refs/tags/v1`, `${other} refs/tags/v2 peeled:${rev}`);
    const ref = parseFlakeRef(kind.ref) as ForgeRef;
    expect(await sources().source.tags(ref)).toEqual([
      { name: 'v1', rev },
      { name: 'v2', rev },
    ]);
    gitRefuses(kind.git, 401);
    expect((await errorOf(sources().source.tags(ref))).code).toBe('FLK_GIT_REPO_MISSING');
  });
});

it.each(Object.entries(kinds))(
  'a version of a %s repository is the newest tag in the range',
  async (_, kind) => {
    const text = `inputs: { tool: { url: "${kind.ref}", version: ^1.2, flake: false } }\n`;
    const options = {
      manifest: parseManifest({ path: 'flake.yaml', text }),
      readManifest: parseManifest,
      readRelative: async () => undefined,
    };
    gitRefs(kind.git, `${other} refs/tags/v1.2.0`, `${rev} refs/tags/v1.10.0`, `${other} refs/tags/v2.0.0`);
    get(kind.archive).reply(200, plain);
    const made = await lock({ ...options, source: sources().source });
    expect(JSON.parse(printLockFile(made))).toMatchObject({
      nodes: {
        tool: {
          flk: { version: '^1.2', tag: 'v1.10.0' },
          locked: { rev, narHash: plainHash },
          original: { repo: 'tool' },
        },
      },
    });
    expect(made.nodes.get('tool')).not.toHaveProperty('locked.ref');
    // Nothing is asked again.
    const again = await lock({ ...options, previous: made, source: sources().source });
    expect(printLockFile(again)).toBe(printLockFile(made));
  },
);

describe('github', () => {
  const { ref, git } = kinds.github;

  it.each([
    [401, {}],
    [403, { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': '99999999999' }],
  ])('gives its public archive where its API answers %i to a token', async (status, headers) => {
    gitRefs(git, `${rev} HEAD`);
    get(kinds.github.tokenArchive).reply(status, '', headers);
    const { origin, pathname } = new URL(kinds.github.archive);
    nock(origin, { badheaders: ['authorization'] })
      .get(pathname)
      .reply(200, plain);
    expect((await sources({ token: 'ghp_secret' }).fetch(ref)).locked.narHash).toBe(plainHash);
  });

  it('tells the beginning of a revision by its API', async () => {
    gitRefs(git);
    get('https://api.github.com/repos/acme/tool/commits/aaaaaaa').reply(200, { sha: rev });
    get(kinds.github.archive).reply(200, plain);
    expect((await sources().fetch(`${ref}/aaaaaaa`)).locked.rev).toBe(rev);
    gitRefs(git);
    get('https://api.github.com/repos/acme/tool/commits/bbbbbbb').reply(422);
    gitRefs(git, `${rev} refs/heads/main`);
    expect((await errorOf(sources().fetch(`${ref}/bbbbbbb`))).code).toBe('FLK_GIT_REF_MISSING');
  });

  it('is followed where a repository has moved, which is told', async () => {
    gitRefs(git, `${rev} HEAD`);
    get(kinds.github.archive).reply(301, '', {
      location: `https://github.com/acme-inc/tool/archive/${rev}.tar.gz`,
    });
    get(`https://github.com/acme-inc/tool/archive/${rev}.tar.gz`).reply(302, '', {
      location: `https://codeload.github.com/acme-inc/tool/tar.gz/${rev}`,
    });
    get(`https://codeload.github.com/acme-inc/tool/tar.gz/${rev}`).reply(200, plain);
    const { fetch, notices } = sources();
    expect((await fetch(ref)).locked).toMatchObject({ owner: 'acme', repo: 'tool' });
    expect(notices()).toEqual([{ type: 'repository-moved', from: ref, to: 'github:acme-inc/tool' }]);
  });

  it('says nothing of the host that only has its archives', async () => {
    gitRefs(git, `${rev} HEAD`);
    get(kinds.github.archive).reply(302, '', {
      location: `https://codeload.github.com/Acme/tool/tar.gz/${rev}`,
    });
    get(`https://codeload.github.com/Acme/tool/tar.gz/${rev}`).reply(200, plain);
    const { fetch, notices } = sources();
    await fetch(ref);
    expect(notices()).toEqual([]);
  });

  it('of one’s own has its API below /api/v3', async () => {
    gitRefs('https://ghe.flk.example/acme/tool.git', `${rev} HEAD`);
    get(`https://ghe.flk.example/api/v3/repos/acme/tool/tarball/${rev}`).reply(200, plain);
    const { locked } = await sources().fetch(`${ref}?host=ghe.flk.example&dir=sub`);
    expect(locked).toEqual({
      type: 'github',
      owner: 'acme',
      repo: 'tool',
      host: 'ghe.flk.example',
      dir: 'sub',
      rev,
      narHash: plainHash,
      lastModified: 1_700_000_000,
    });
  });
});
