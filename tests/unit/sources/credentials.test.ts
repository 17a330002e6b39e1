import { chmodSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { type Event, silent } from '../../../src/base/events.ts';
import { Credentials, type CredentialsOptions } from '../../../src/sources/credentials.ts';
import { openUrl } from '../../../src/sources/download.ts';
import { HttpClient } from '../../../src/sources/http.ts';
import { parseNetrc } from '../../../src/sources/netrc.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

const home = temporaryFolder();

/** The credentials of a person with these tokens and variables, and nothing else. */
function credentials(
  tokens: Readonly<Record<string, string>> = {},
  options: Partial<CredentialsOptions> = {},
): Credentials {
  return new Credentials({
    accessTokens: new Map(Object.entries(tokens)),
    reporter: silent,
    netrcFile: join(home, 'none'),
    ...options,
    env: { HOME: home, ...options.env },
  });
}

function netrc(text: string, mode = 0o600): string {
  const path = join(temporaryFolder(), 'netrc');
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

const basic = (user: string, password: string): string =>
  `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;

describe('a token', () => {
  const tokens = {
    'github.com/acme/tool': 'gh-tool',
    'github.com': 'gh',
    'github.com/acme': 'gh-acme',
    'gitlab.com': 'PAT:gl',
    'gitlab.com/group/sub': 'OAuth2:gl-sub',
    'gitlab.example.org': 'Deploy-Token:own',
    'ghe.example.org': 'ghe',
    'git.sr.ht': 'srht',
    'forge.example.org:8443': 'gh-port',
  };
  it.each([
    ['https://api.github.com/repos/else/x/commits/HEAD', { authorization: 'token gh' }],
    ['https://api.github.com/repos/acme/x/tarball/1', { authorization: 'token gh-acme' }],
    ['https://api.github.com/repos/acme/tool/tarball/1', { authorization: 'token gh-tool' }],
    ['https://api.github.com/repos/acme/tools/tarball/1', { authorization: 'token gh-acme' }],
    ['https://api.github.com/repos/acmes/tool/tarball/1', { authorization: 'token gh' }],
    ['https://ghe.example.org/api/v3/repos/a/b/tarball/1', { authorization: 'token ghe' }],
    ['https://forge.example.org:8443/api/v3/repos/a/b/tarball/1', { authorization: 'token gh-port' }],
    ['https://gitlab.com/api/v4/projects/a%2Fb/repository/commits', { 'private-token': 'gl' }],
    ['https://gitlab.com/api/v4/projects/group%2Fsub%2Fb/repository', { authorization: 'Bearer gl-sub' }],
    ['https://gitlab.example.org/api/v4/projects/a%2Fb/repository', { 'deploy-token': 'own' }],
    ['https://git.sr.ht/~a/b/archive/1.tar.gz', { authorization: 'Bearer srht' }],
    ['https://git.sr.ht/~a/b/HEAD', { authorization: 'Bearer srht' }],
  ])('is sent at once to %s', async (url, headers) => {
    expect(await credentials(tokens).headers(new URL(url), false)).toEqual(headers);
  });

  it.each([
    'https://github.com/acme/tool/archive/1.tar.gz',
    'https://codeload.github.com/acme/tool/tar.gz/1',
    'https://api.github.com.evil.example/repos/acme/tool',
    'https://evil.example/api/v3/repos/github.com/acme',
    'https://github.com:8443/api/v3/repos/acme/tool/commits/HEAD',
    'http://ghe.example.org/api/v3/repos/a/b/tarball/1',
    'https://forge.example.org/api/v3/repos/a/b/tarball/1',
    'https://gitlab.com.example.org/api/v4/projects/a%2Fb',
    'https://gitlab.com/a/b.tar.gz',
  ])('is never sent to %s', async (url) => {
    const own = credentials(tokens);
    expect(await own.headers(new URL(url), false)).toBeUndefined();
    expect(await own.headers(new URL(url), true)).toBeUndefined();
  });

  it.each([
    ['https://github.com/acme/tool.git/git-upload-pack', basic('x-access-token', 'gh-tool')],
    ['https://github.com/acme/x/info/refs?service=git-upload-pack', basic('x-access-token', 'gh-acme')],
    ['https://gitlab.com/group/sub/b.git/git-upload-pack', basic('oauth2', 'gl-sub')],
    ['https://gitlab.example.org/a/b.git/git-upload-pack', basic('oauth2', 'own')],
  ])('is sent to the Git server %s once it asks', async (url, authorization) => {
    const own = credentials(tokens);
    expect(await own.headers(new URL(url), false)).toBeUndefined();
    expect(await own.headers(new URL(url), true)).toEqual({ authorization });
    expect(await own.headers(new URL(url), false)).toEqual({ authorization });
    const other = new URL(url.replace(/b?\.git|x/, 'other.git'));
    expect(await own.headers(other, false)).toBeUndefined();
  });

  it.each([
    [{ GITHUB_TOKEN: 'a', GH_TOKEN: 'b' }, 'https://api.github.com/repos/a/b', { authorization: 'token a' }],
    [{ GH_TOKEN: 'b' }, 'https://api.github.com/repos/a/b', { authorization: 'token b' }],
    [{ GITHUB_TOKEN: 'a' }, 'https://ghe.example.org/api/v3/repos/a/b', undefined],
    [{ GITLAB_TOKEN: 'c' }, 'https://gitlab.com/api/v4/projects/a%2Fb', { 'private-token': 'c' }],
    [
      { GITLAB_TOKEN: 'c', CI_SERVER_HOST: 'g.example' },
      'https://gitlab.com/api/v4/projects/a%2Fb',
      undefined,
    ],
    [
      { CI_JOB_TOKEN: 'd', CI_SERVER_HOST: 'g.example' },
      'https://g.example/api/v4/projects/a%2Fb',
      { 'job-token': 'd' },
    ],
    [
      { CI_JOB_TOKEN: 'd', CI_SERVER_HOST: 'g.example', CI_SERVER_PORT: '8443' },
      'https://g.example:8443/api/v4/projects/a%2Fb',
      { 'job-token': 'd' },
    ],
    [{ GITHUB_TOKEN: 'a\r\nx-evil: 1' }, 'https://api.github.com/repos/a/b', undefined],
    [{ GITHUB_TOKEN: '' }, 'https://api.github.com/repos/a/b', undefined],
  ])('of the environment: %j at %s', async (env, url, headers) => {
    expect(await credentials({}, { env }).headers(new URL(url), true)).toEqual(headers);
  });

  it('that was configured wins over the environment’s', async () => {
    const own = credentials({ 'github.com': 'mine' }, { env: { GITHUB_TOKEN: 'theirs' } });
    expect(await own.headers(new URL('https://api.github.com/repos/a/b'), false)).toEqual({
      authorization: 'token mine',
    });
  });

  it('of a job is given to the Git server by GitLab’s own name for it', async () => {
    const own = credentials({}, { env: { CI_JOB_TOKEN: 'd', CI_SERVER_HOST: 'g.example' } });
    expect(await own.headers(new URL('https://g.example/a/b.git/git-upload-pack'), true)).toEqual({
      authorization: basic('gitlab-ci-token', 'd'),
    });
  });
});

describe('a netrc login', () => {
  const file = netrc(`machine a.example login ada password secret
machine quoted.example
  login "ada lovelace" password "a \\"b\\" #c"
macdef init
machine trap.example login no password no

machine a.example login second password second # the first one counts
default login anybody password guess
`);

  it('is sent to its host, on any port, and to no other', async () => {
    const own = credentials({}, { netrcFile: file });
    const at = (url: string, challenged = false) => own.headers(new URL(url), challenged);
    expect(await at('https://a.example/x.tar.gz')).toEqual({ authorization: basic('ada', 'secret') });
    expect(await at('http://A.example:8080/x.tar.gz')).toEqual({ authorization: basic('ada', 'secret') });
    expect(await at('https://quoted.example/')).toEqual({ authorization: basic('ada lovelace', 'a "b" #c') });
    expect(await at('https://b.a.example/x.tar.gz')).toBeUndefined();
    expect(await at('https://trap.example/x.tar.gz')).toBeUndefined();
  });

  it('of every host is for those that ask, and a Git server has to ask', async () => {
    const own = credentials({}, { netrcFile: file });
    const else_ = new URL('https://else.example/x');
    expect(await own.headers(else_, false)).toBeUndefined();
    expect(await own.headers(else_, true)).toEqual({ authorization: basic('anybody', 'guess') });
    const git = new URL('https://a.example/r.git/git-upload-pack');
    expect(await own.headers(git, false)).toBeUndefined();
    expect(await own.headers(git, true)).toEqual({ authorization: basic('ada', 'secret') });
  });

  it('in a file that everybody may read is told of, once', async () => {
    const events: Event[] = [];
    const netrcFile = netrc('machine a.example login a password b', 0o644);
    const own = credentials({}, { netrcFile, reporter: { emit: (event) => events.push(event) } });
    await own.headers(new URL('https://a.example/'), false);
    await own.headers(new URL('https://a.example/'), false);
    expect(events).toEqual([{ kind: 'notice', notice: { type: 'netrc-readable', path: netrcFile } }]);
    expect(JSON.stringify(events)).not.toContain('machine');
  });

  it('is looked for at home where no file is named, and a folder in its place is a fault only where one is', async () => {
    const person = temporaryFolder();
    writeFileSync(join(person, '.netrc'), 'machine a.example login a password b', { mode: 0o600 });
    const own = new Credentials({ env: { HOME: person }, reporter: silent });
    expect(await own.headers(new URL('https://a.example/'), false)).toEqual({
      authorization: basic('a', 'b'),
    });
    const bad = credentials({}, { netrcFile: person });
    expect((await errorOf(bad.headers(new URL('https://a.example/'), false))).code).toBe(
      'FLK_FILE_UNREADABLE',
    );
  });
});

describe('parseNetrc', () => {
  it('reads what was written, whatever it is', () => {
    const word = fc.string({ minLength: 1, unit: 'binary' }).filter((text) => !text.includes('\r'));
    const entry = fc.record({ machine: word.map((text) => text.toLowerCase()), login: word, password: word });
    const quoted = (text: string): string => `"${text.replace(/["\\]/g, '\\$&')}"`;
    fc.assert(
      fc.property(fc.array(entry), fc.constantFrom(' ', '\n', '\t \n  '), (entries, gap) => {
        const text = entries.map(({ machine, login, password }) =>
          ['machine', quoted(machine), 'login', quoted(login), 'password', quoted(password)].join(gap),
        );
        expect(parseNetrc(text.join('\n'))).toEqual(entries);
      }),
    );
  });

  it('ends, and gives entries, for any text', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('machine', 'login', 'macdef', '"', '\\', ' ', '\n', '#', 'x') }),
        (text) => {
          // Only between quotes there may be nothing.
          for (const { machine } of parseNetrc(text)) if (!text.includes('"')) expect(machine).not.toBe('');
        },
      ),
    );
  });

  it.each(['machine "" login d', 'machine ""login d', 'machine "'])(
    'gives no other entry’s login to %j',
    (end) => {
      const login = end.includes('d') ? { login: 'd' } : {};
      expect(parseNetrc(`machine a login b ${end}`)).toEqual([
        { machine: 'a', login: 'b' },
        { machine: '', ...login },
      ]);
    },
  );
});

/** Servers that remember what they were shown. */
class Witness {
  readonly seen: { url: string; headers: IncomingMessage['headers'] }[] = [];
  readonly base: string;

  private constructor(server: Server) {
    this.base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async start(answer: (url: string, authorized: boolean) => { status: number; location?: string }) {
    const server = createServer((request, response) => {
      const url = request.url ?? '';
      witness.seen.push({ url, headers: request.headers });
      const { status, location } = answer(url, request.headers.authorization !== undefined);
      response.writeHead(status, location === undefined ? {} : { location }).end('body');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
    afterAll(() => server.close());
    const witness = new Witness(server);
    return witness;
  }

  get authorizations(): (string | undefined)[] {
    return this.seen.map(({ headers }) => headers.authorization);
  }
}

describe('HttpClient with credentials', () => {
  const login = () => credentials({}, { netrcFile: netrc('machine 127.0.0.1 login ada password secret') });

  it('shows them to the server they are for, and to nobody that it redirects to', async () => {
    const other = await Witness.start(() => ({ status: 200 }));
    const first = await Witness.start((url) =>
      url === '/a' ? { status: 302, location: '/b' } : { status: 302, location: `${other.base}/c` },
    );
    const client = new HttpClient({ credentials: login() });
    const { url } = await openUrl(client, { url: new URL(`${first.base}/a`) });
    expect(url.href).toBe(`${other.base}/c`);
    expect(first.authorizations).toEqual([basic('ada', 'secret'), basic('ada', 'secret')]);
    expect(other.authorizations).toEqual([undefined]);
  });

  it('does not show them to a server that another one redirected to, not even when it asks', async () => {
    const other = await Witness.start(() => ({ status: 401 }));
    const first = await Witness.start(() => ({ status: 302, location: `${other.base}/c` }));
    const client = new HttpClient({ credentials: login() });
    const error = await errorOf(openUrl(client, { url: new URL(`${first.base}/a`) }));
    expect(error.code).toBe('FLK_HTTP_AUTH');
    expect(other.authorizations).toEqual([undefined]);
    expect(JSON.stringify([error.message, error.facts, error.hint])).not.toContain('secret');
  });

  it('lets a Git server ask first, and remembers that it did', async () => {
    const server = await Witness.start((_, authorized) => ({ status: authorized ? 200 : 401 }));
    const port = new URL(server.base).port;
    const client = new HttpClient({ credentials: credentials({ [`127.0.0.1:${port}`]: 'token' }) });
    const url = new URL(`${server.base}/a/b.git/git-upload-pack`);
    for (let i = 0; i < 2; i++) {
      const response = await client.send({ method: 'POST', url, body: Buffer.from('question') });
      expect(response.status).toBe(200);
    }
    const shown = basic('x-access-token', 'token');
    expect(server.authorizations).toEqual([undefined, shown, shown]);
  });

  it('asks no second time where what it has is refused, or where it has nothing', async () => {
    const server = await Witness.start(() => ({ status: 401 }));
    const url = new URL(`${server.base}/x`);
    await new HttpClient({ credentials: login() }).send({ method: 'GET', url });
    await new HttpClient({ credentials: credentials() }).send({ method: 'GET', url });
    await new HttpClient().send({ method: 'GET', url });
    expect(server.authorizations).toEqual([basic('ada', 'secret'), undefined, undefined]);
  });
});
