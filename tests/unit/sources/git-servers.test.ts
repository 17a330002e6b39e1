import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import type { GitRef, Rev } from '../../../src/flake/flake-ref.ts';
import { flushPacket, textPacket } from '../../../src/formats/pkt-line.ts';
import { GitSource, type GitSourceOptions } from '../../../src/sources/git.ts';
import { gitEnvironment } from '../../../src/sources/git-program.ts';
import { withCode } from '../../support/errors.ts';
import { type GitServer, gitServer } from '../../support/git-server.ts';
import { commitContent, makePack, objectId, objectsOf } from '../../support/packs.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file } from '../../support/trees.ts';

/** One commit on `main`, in a bare repository. */
const world = (() => {
  const folder = temporaryFolder();
  const { rev, pieces } = objectsOf(
    directory({ 'flake.yaml': file('description: x\n'), data: file('x'.repeat(5000)) }),
  );
  const run = (args: string[], input?: Buffer): void => {
    execFileSync('git', args, {
      cwd: folder,
      stdio: ['pipe', 'ignore', 'pipe'],
      ...(input ? { input } : {}),
    });
  };
  run(['init', '-q', '--bare', '-b', 'main', 'repo.git']);
  run(['-C', 'repo.git', 'unpack-objects', '-q'], makePack(pieces));
  run(['-C', 'repo.git', 'update-ref', 'refs/heads/main', rev]);
  run(['-C', 'repo.git', 'update-server-info']);
  return { folder, rev: rev as Rev };
})();

interface Rig {
  readonly server: GitServer;
  readonly ref: GitRef;
  readonly cacheFolder: string;
  readonly events: Event[];
  source(options?: Partial<GitSourceOptions>): GitSource;
}

async function rig(): Promise<Rig> {
  const server = await gitServer(world.folder);
  const cacheFolder = join(temporaryFolder(), 'cache');
  const events: Event[] = [];
  const source = (options?: Partial<GitSourceOptions>): GitSource =>
    new GitSource({
      cacheFolder,
      reporter: { emit: (event) => events.push(event) },
      retryDelay: 1,
      idleTimeout: 20_000,
      // Counting has tests of its own; here it would only be one request more.
      revCount: false,
      ...options,
    });
  return { server, ref: { type: 'git', url: `${server.base}/repo.git` }, cacheFolder, events, source };
}

const retries = (events: readonly Event[]): number =>
  events.filter((event) => event.kind === 'notice' && event.notice.type === 'retry').length;

const stops: (() => void)[] = [];
afterEach(() => {
  for (const stop of stops.splice(0)) stop();
  vi.unstubAllEnvs();
});

/** A server of our own making; gives its address. */
async function impostor(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<string> {
  const server = createServer((request, response) => {
    request.resume();
    request.on('end', () => answer(request, response));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stops.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const resultType = { 'content-type': 'application/x-git-upload-pack-result' };
/** A packet of bytes. */
const packet = (payload: Buffer): Buffer =>
  Buffer.concat([Buffer.from((payload.length + 4).toString(16).padStart(4, '0')), payload]);
const band = (number: number, content: Buffer | string): Buffer =>
  packet(Buffer.concat([Buffer.from([number]), Buffer.from(content)]));

/** The whole answer to a fetch that holds this pack. */
function packAnswer(pack: Buffer): Buffer {
  const bands: Buffer[] = [];
  for (let at = 0; at < pack.length; at += 60_000) bands.push(band(1, pack.subarray(at, at + 60_000)));
  return Buffer.concat([textPacket('packfile'), ...bands, flushPacket]);
}

/** Answers every POST with these bytes, and says in between that it is a server of version 2. */
const saying =
  (bytes: Buffer | string) =>
  (request: IncomingMessage, response: ServerResponse): void => {
    if (request.method === 'POST') response.writeHead(200, resultType).end(bytes);
    else
      response
        .writeHead(200, { 'content-type': 'application/x-git-upload-pack-advertisement' })
        .end(
          Buffer.concat([
            textPacket('# service=git-upload-pack'),
            flushPacket,
            textPacket('version 2'),
            flushPacket,
          ]),
        );
  };

describe('a server in trouble', () => {
  it.each([
    ['502', { status: 502 }],
    ['503', { status: 503, headers: { 'retry-after': '0' } }],
    ['429', { status: 429, headers: { 'retry-after': '0' } }],
    ['breaking off', { truncateAfter: 30 }],
  ])('%s is asked again, and said to be', async (_, interference) => {
    const { server, ref, events, source } = await rig();
    const troubled = new Set(['ls-refs', 'fetch']);
    server.interfere = ({ command }) => (troubled.delete(command) ? interference : undefined);
    await source().fetch(ref);
    expect(server.log.map(({ command }) => command)).toEqual(['ls-refs', 'ls-refs', 'fetch', 'fetch']);
    expect(retries(events)).toBe(2);
  });

  it('is given up on in the end', async () => {
    const { server, ref, source } = await rig();
    server.interfere = () => ({ status: 503 });
    await expect(source().fetch(ref)).rejects.toMatchObject({
      code: 'FLK_HTTP_STATUS',
      facts: { status: '503' },
    });
    expect(server.log).toHaveLength(4);
  });

  it('that wants us to wait for long is not waited for', async () => {
    const { server, ref, source } = await rig();
    server.interfere = () => ({ status: 429, headers: { 'retry-after': '3600' } });
    await expect(source().fetch(ref)).rejects.toEqual(withCode('FLK_HTTP_RATE_LIMIT'));
    expect(server.log).toHaveLength(1);
  });

  it.each([
    ['never answers', { hang: true }],
    ['stops in the middle', { stallAfter: 20 }],
  ])('that %s is left', async (_, interference) => {
    const { server, ref, events, source } = await rig();
    server.interfere = () => interference;
    await expect(source({ idleTimeout: 60 }).fetch(ref)).rejects.toEqual(withCode('FLK_NETWORK'));
    expect(retries(events)).toBe(3);
  });

  it('breaking off anywhere in a pack leaves nothing behind', async () => {
    const { server, ref, cacheFolder, source } = await rig();
    for (const truncateAfter of [0, 3, 20, 40, 60, 150, 300]) {
      server.interfere = () => ({ truncateAfter });
      await expect(source().fetch({ ...ref, ref: 'main', rev: world.rev })).rejects.toEqual(
        withCode('FLK_NETWORK'),
      );
    }
    expect(readdirSync(join(cacheFolder, 'git'))).toEqual([]);
  });

  it('is not waited for when flk is stopped', async () => {
    const { server, ref, source } = await rig();
    const controller = new AbortController();
    server.interfere = () => {
      controller.abort();
      return { hang: true };
    };
    await expect(source({ signal: controller.signal }).fetch(ref)).rejects.toEqual(
      withCode('FLK_INTERRUPTED'),
    );
  });
});

it('says what is wrong with an address: no such host, nothing listens', async () => {
  const { source } = await rig();
  const base = await impostor(() => {});
  for (const stop of stops.splice(0)) stop();
  await expect(source().fetch({ type: 'git', url: `${base}/x` })).rejects.toMatchObject({
    code: 'FLK_NETWORK',
    facts: { reason: 'ECONNREFUSED' },
  });
  await expect(source().fetch({ type: 'git', url: 'http://no-such-host.invalid/x' })).rejects.toEqual(
    withCode('FLK_NETWORK'),
  );
});

describe('a server that does not speak as it should', () => {
  const ask = async (answer: (request: IncomingMessage, response: ServerResponse) => void, rev?: string) => {
    const { source } = await rig();
    const url = `${await impostor(answer)}/repo`;
    return source({ idleTimeout: 500 }).fetch(
      rev === undefined ? { type: 'git', url } : { type: 'git', url, ref: 'main', rev: rev as Rev },
    );
  };
  const someRev = '1'.repeat(40);

  it('but shows a web page', async () => {
    await expect(
      ask((_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<!DOCTYPE html>')),
    ).rejects.toEqual(withCode('FLK_GIT_REPO_MISSING'));
  });

  it.each<[string, Buffer | string, string]>([
    ['text', 'Hello, world', 'FLK_GIT_PROTOCOL'],
    ['nothing', '', 'FLK_GIT_PROTOCOL'],
    ['an answer without an end', textPacket(`${someRev} HEAD`), 'FLK_GIT_PROTOCOL'],
    ['refs after the end', Buffer.concat([flushPacket, textPacket(`${someRev} HEAD`)]), 'FLK_GIT_PROTOCOL'],
    ['a ref that is none', Buffer.concat([textPacket('zz HEAD'), flushPacket]), 'FLK_GIT_PROTOCOL'],
    ['an error of its own', Buffer.concat([textPacket('ERR \u001b[31mout of cheese')]), 'FLK_GIT_REMOTE'],
  ])('but gives %s for refs', async (_, bytes, code) => {
    await expect(ask(saying(bytes))).rejects.toEqual(withCode(code));
  });

  it.each<[string, Buffer, string]>([
    ['no pack', flushPacket, 'FLK_GIT_PROTOCOL'],
    ['an empty pack', packAnswer(makePack([])), 'FLK_GIT_PACK'],
    ['half a pack', packAnswer(makePack([]).subarray(0, 20)), 'FLK_GIT_PACK'],
    [
      'garbage for a pack',
      packAnswer(Buffer.from('not a pack at all, but long enough to be one')),
      'FLK_GIT_PACK',
    ],
    [
      'the pack of another commit',
      packAnswer(makePack([{ kind: 'commit', content: commitContent('2'.repeat(40)) }])),
      'FLK_GIT_PACK',
    ],
    ['an error in the middle', Buffer.concat([textPacket('packfile'), band(3, 'gave up')]), 'FLK_GIT_REMOTE'],
    ['an unknown band', Buffer.concat([textPacket('packfile'), band(9, 'x')]), 'FLK_GIT_REMOTE'],
    ['that it has no such revision', textPacket(`ERR want ${someRev} not valid`), 'FLK_GIT_REV_GONE'],
  ])('but gives %s', async (_, bytes, code) => {
    await expect(ask(saying(bytes), someRev)).rejects.toEqual(withCode(code));
  });

  it('but lists a commit that the pack then lacks a file of', async () => {
    const { rev, pieces } = objectsOf(directory({ a: file('a'), b: file('b') }));
    const pack = makePack(pieces.filter(({ kind }, i) => kind !== 'blob' || i === pieces.length - 1));
    await expect(ask(saying(packAnswer(pack)), rev)).rejects.toEqual(withCode('FLK_GIT_PACK'));
    expect(objectId('blob', Buffer.from('a'))).toHaveLength(40);
  });

  const endless =
    (head: Buffer, piece: Buffer) =>
    (_: IncomingMessage, response: ServerResponse): void => {
      response.writeHead(200, resultType);
      response.write(head);
      const more = (): void => {
        while (!response.destroyed && response.write(piece));
        if (!response.destroyed) response.once('drain', more);
      };
      more();
    };
  const many = (one: Buffer, times: number): Buffer => Buffer.concat(Array<Buffer>(times).fill(one));

  it('but lists refs without end', async () => {
    const refs = many(textPacket(`${someRev} refs/heads/${'x'.repeat(1000)}`), 500);
    await expect(ask(endless(Buffer.alloc(0), refs))).rejects.toEqual(withCode('FLK_LIMIT'));
  });

  it.each([
    ['talks', band(2, 'x'.repeat(60_000))],
    ['only keeps the connection alive', many(band(1, ''), 5000)],
  ])('but %s without end', async (_, piece) => {
    await expect(ask(endless(textPacket('packfile'), piece), someRev)).rejects.toEqual(withCode('FLK_LIMIT'));
  });
});

describe('redirects', () => {
  it('are followed to the same question elsewhere, and no further request goes the long way', async () => {
    const { server, source } = await rig();
    let asked = 0;
    const base = await impostor((request, response) => {
      asked++;
      response
        .writeHead(302, { location: `${server.base}${request.url?.replace('/old', '/repo.git')}` })
        .end();
    });
    const { locked } = await source().fetch({ type: 'git', url: `${base}/old` });
    expect(locked).toMatchObject({ url: `${base}/old`, rev: world.rev });
    expect(asked).toBe(2);
    expect(server.log.map(({ method, command }) => `${method} ${command}`)).toEqual([
      'GET ',
      'POST ls-refs',
      'POST fetch',
    ]);
  });

  it.each([
    ['to another question', '/somewhere/else'],
    ['with a password', 'http://user:secret@127.0.0.1:1/x/info/refs?service=git-upload-pack'],
    ['to another protocol', 'file:///etc/info/refs?service=git-upload-pack'],
    ['to nowhere', 'http://'],
  ])('are not followed %s', async (_, location) => {
    const { source } = await rig();
    const base = await impostor((__, response) => response.writeHead(301, { location }).end());
    const error = await source()
      .fetch({ type: 'git', url: `${base}/x` })
      .catch((thrown: unknown) => thrown);
    expect(error).toEqual(withCode('FLK_GIT_PROTOCOL'));
    expect(JSON.stringify(error)).not.toContain('secret');
  });

  it('are not followed for ever', async () => {
    const { source } = await rig();
    let asked = 0;
    const base = await impostor((request, response) => {
      asked++;
      response.writeHead(302, { location: request.url?.replace('/x', '/xx') }).end();
    });
    await expect(source().fetch({ type: 'git', url: `${base}/x` })).rejects.toEqual(
      withCode('FLK_GIT_PROTOCOL'),
    );
    expect(asked).toBeLessThan(10);
  });
});

describe('the git program', () => {
  it('is asked where a server is older than protocol v2', async () => {
    const { server, ref, source } = await rig();
    server.interfere = (request) => {
      delete request.headers['git-protocol'];
      return undefined;
    };
    const shared = source();
    const { locked, tree } = await shared.fetch(ref);
    expect(locked).toMatchObject({ ref: 'refs/heads/main', rev: world.rev });
    expect((await tree.readFile('flake.yaml'))?.toString()).toBe('description: x\n');
    await expect(shared.fetch({ ...ref, ref: 'nope' })).rejects.toEqual(withCode('FLK_GIT_REF_MISSING'));
    await expect(shared.fetch({ ...ref, ref: 'main', rev: '1'.repeat(40) as Rev })).rejects.toEqual(
      withCode('FLK_GIT_REV_GONE'),
    );
  });

  it.each([401, 403])(
    'is asked where the answer is %i, and says that there are no credentials',
    async (status) => {
      vi.stubEnv('HOME', temporaryFolder());
      vi.stubEnv('GIT_CONFIG_NOSYSTEM', '1');
      const { server, ref, source } = await rig();
      server.interfere = () => ({ status, headers: { 'www-authenticate': 'Basic realm="x"' } });
      await expect(source().fetch(ref)).rejects.toEqual(withCode('FLK_HTTP_AUTH'));
      expect(server.log.some(({ headers }) => headers['user-agent']?.startsWith('git/2.') ?? false)).toBe(
        true,
      );
    },
  );

  it('brings the credentials that it has, to the server that wants them', async () => {
    const { server, ref, source } = await rig();
    vi.stubEnv('GIT_CONFIG_COUNT', '1');
    vi.stubEnv('GIT_CONFIG_KEY_0', `credential.${server.base}.helper`);
    vi.stubEnv('GIT_CONFIG_VALUE_0', '!f() { echo username=u; echo password=p; }; f');
    server.interfere = ({ headers }) =>
      headers.authorization === `Basic ${Buffer.from('u:p').toString('base64')}`
        ? undefined
        : { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } };
    const { locked } = await source().fetch(ref);
    expect(locked).toMatchObject({ rev: world.rev });
  });

  it.each<[string, (base: string) => Record<string, string>]>([
    ['a proxy in the environment', (base) => ({ http_proxy: base, no_proxy: '' })],
    [
      'another URL in its configuration',
      (base) => ({
        GIT_CONFIG_COUNT: '1',
        GIT_CONFIG_KEY_0: `url.${base}/.insteadOf`,
        GIT_CONFIG_VALUE_0: 'http://git.example.invalid/',
      }),
    ],
  ])('is asked from the start where there is %s', async (_, environment) => {
    const { server, source } = await rig();
    for (const [name, value] of Object.entries(environment(server.base))) vi.stubEnv(name, value);
    const { locked } = await source().fetch({ type: 'git', url: 'http://git.example.invalid/repo.git' });
    expect(locked).toMatchObject({ url: 'http://git.example.invalid/repo.git', rev: world.rev });
  });

  it('never gets what it would take for an option, or run', async () => {
    const { source } = await rig();
    for (const url of ['ssh://-oProxyCommand=touch%20x/x', 'ext::sh -c "touch x"', '--upload-pack=x'])
      await expect(source().fetch({ type: 'git', url })).rejects.toMatchObject({
        code: expect.stringMatching(/^FLK_REF_(INVALID|UNSUPPORTED)$/),
      });
  });

  it('runs without a way to another repository, to questions or to other programs', () => {
    const env = gitEnvironment({
      PATH: '/bin',
      GIT_DIR: '/x',
      GIT_INDEX_FILE: '/y',
      GIT_SSH_COMMAND: 'ssh -v',
      GIT_TRACE: '1',
    });
    expect(env).toMatchObject({
      PATH: '/bin',
      GIT_SSH_COMMAND: 'ssh -v',
      GIT_TERMINAL_PROMPT: '0',
      GIT_ASKPASS: '',
    });
    expect(Object.keys(env)).not.toEqual(expect.arrayContaining(['GIT_DIR']));
    expect(env.GIT_INDEX_FILE ?? env.GIT_TRACE).toBeUndefined();
    expect(env.GIT_ALLOW_PROTOCOL).not.toContain('ext');
  });

  it('is not needed for http; without it a repository on this machine says what is missing', async () => {
    const { source } = await rig();
    const { rev, pieces } = objectsOf(directory({ a: file('a') }));
    const base = await impostor(saying(packAnswer(makePack(pieces))));
    vi.stubEnv('PATH', temporaryFolder());
    const { tree } = await source().fetch({ type: 'git', url: `${base}/x`, ref: 'main', rev: rev as Rev });
    expect((await tree.readFile('a'))?.toString()).toBe('a');
    await expect(source().fetch({ type: 'git', url: `file://${world.folder}/repo.git` })).rejects.toEqual(
      withCode('FLK_GIT_MISSING'),
    );
  });
});
