/** Buckets whose servers fail, lie or want something else; what a real one says is in tests/engines/s3.test.ts. */

import { writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { parseStorePath } from '../../../src/formats/store-path.ts';
import { errorOf } from '../../support/errors.ts';
import { bucketCache, s3Keys } from '../../support/s3.ts';
import { temporaryFolder } from '../../support/temp.ts';

type Answer = (request: IncomingMessage, response: ServerResponse, body: Buffer) => void;

interface Bucket {
  readonly address: string;
  readonly url: string;
  /** `METHOD /address`, with the query's first word. */
  readonly log: string[];
  readonly seen: IncomingMessage[];
}

const path = parseStorePath('/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1');
const info = 'StoreDir: /nix/store\n';

/** Closed at the end of the test. */
async function bucket(answer: Answer): Promise<Bucket> {
  const log: string[] = [];
  const seen: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    seen.push(request);
    log.push(`${request.method} ${(request.url ?? '').replace(/[=&].*/, '')}`);
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => answer(request, response, Buffer.concat(chunks)));
    request.on('error', () => {});
    response.on('error', () => {});
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { address: `s3://pail/p?endpoint=${url}`, url, log, seen };
}

const error = (code: string, more = ''): string =>
  `<?xml version="1.0"?>\n<Error><Code>${code}</Code><Message>no</Message>${more}</Error>`;
const says =
  (status: number, text = '', headers: Record<string, string> = {}): Answer =>
  (_request, response) =>
    void response.writeHead(status, headers).end(text);

function fileOf(size: number): string {
  const file = join(temporaryFolder(), 'archive');
  writeFileSync(file, Buffer.alloc(size, 'x'));
  return file;
}

describe('a bucket', () => {
  it('is asked again where its server is overloaded, each time with a new signature', async () => {
    let asked = 0;
    const events: Event[] = [];
    const { address, seen } = await bucket((request, response, body) =>
      asked++ < 2
        ? says(503, error('SlowDown'))(request, response, body)
        : says(200, info)(request, response, body),
    );
    const cache = bucketCache(address, { reporter: { emit: (event) => events.push(event) } });
    expect(await cache.info()).toMatchObject({ priority: 50 });
    expect(seen).toHaveLength(3);
    expect(JSON.stringify(events)).toContain('SlowDown');
    for (const { headers } of seen)
      expect(headers.authorization).toMatch(
        /^AWS4-HMAC-SHA256 Credential=test:tester\/\d{8}\/eu-test-1\/s3\//,
      );
  });

  it('may be read by anybody: then nothing is signed', async () => {
    const { address, seen } = await bucket(says(200, info));
    await bucketCache(address, { keys: null }).info();
    expect(seen[0]!.headers.authorization).toBeUndefined();
    expect(Object.keys(seen[0]!.headers).filter((name) => name.startsWith('x-amz'))).toEqual([]);
  });

  it('gives a session’s token to its server, and nothing to another one', async () => {
    const other = await bucket(says(200, info));
    const keys = { ...s3Keys, sessionToken: 'session-hush' };
    for (const status of [301, 302, 303, 307, 308]) {
      const first = await bucket(says(status, '', { location: `${other.url}/pail/p/nix-cache-info` }));
      const thrown = await errorOf(bucketCache(first.address, { keys }).info());
      expect(thrown.code).toBe('FLK_HTTP_STATUS');
      expect(thrown.hint).toContain('endpoint=');
      expect(first.seen[0]!.headers['x-amz-security-token']).toBe('session-hush');
      expect(JSON.stringify(thrown)).not.toMatch(/hush|testing/);
    }
    expect(other.log).toEqual([]);
  });

  it.each<readonly [what: string, answer: Answer, code: string, message: RegExp]>([
    [
      'in another region, told in the header',
      says(301, error('PermanentRedirect'), { 'x-amz-bucket-region': 'eu-west-3' }),
      'FLK_HTTP_STATUS',
      /in the region eu-west-3/,
    ],
    [
      'in another region, told in the text',
      says(400, error('AuthorizationHeaderMalformed', '<Region>eu-west-3</Region>')),
      'FLK_HTTP_STATUS',
      /in the region eu-west-3/,
    ],
    ['that is not there', says(404, error('NoSuchBucket')), 'FLK_HTTP_STATUS', /has no bucket pail/],
    [
      'that refuses the signature',
      says(403, error('SignatureDoesNotMatch')),
      'FLK_HTTP_AUTH',
      /does not take the signature: the secret key/,
    ],
    [
      'that does not know the key',
      says(403, error('InvalidAccessKeyId')),
      'FLK_HTTP_AUTH',
      /does not know the access key/,
    ],
    [
      'whose clock is another',
      says(403, error('RequestTimeTooSkewed'), { date: 'Thu, 01 Jan 2015 00:00:00 GMT' }),
      'FLK_HTTP_AUTH',
      /\d{7,} minutes apart/,
    ],
    ['whose session is over', says(400, error('ExpiredToken')), 'FLK_HTTP_AUTH', /session token/],
    ['that wants a login', says(401), 'FLK_HTTP_AUTH', /may not read the bucket pail/],
    [
      'that is not told from a missing one',
      says(403, error('AccessDenied')),
      'FLK_CACHE_INVALID',
      /no binary/,
    ],
    ['that answers with nonsense', says(418, 'tea'), 'FLK_HTTP_STATUS', /answers 418/],
    [
      'that fails again and again',
      says(500, error('InternalError')),
      'FLK_HTTP_STATUS',
      /answers 500 \(InternalError\)/,
    ],
  ])('%s', async (_what, answer, code, message) => {
    const { address } = await bucket(answer);
    const thrown = await errorOf(bucketCache(address).info());
    expect(thrown).toMatchObject({ code, message: expect.stringMatching(message) });
    expect(JSON.stringify([thrown.facts, thrown.hint])).not.toContain(s3Keys.secretAccessKey);
  });

  it('has no more of an error read than an error has', async () => {
    const piece = Buffer.alloc(64 * 1024, '<Code>');
    let sent = 0;
    const { address } = await bucket((_request, response) => {
      response.writeHead(418);
      const more = (): void => {
        while (!response.destroyed && sent < 2 ** 30 && response.write(piece)) sent += piece.length;
      };
      response.on('drain', more);
      more();
    });
    expect((await errorOf(bucketCache(address).info())).code).toBe('FLK_HTTP_STATUS');
    expect(sent).toBeLessThan(64 * 2 ** 20);
  });

  it('is as one without the path where it refuses to say', async () => {
    const { address } = await bucket(says(403, error('AccessDenied')));
    expect(await bucketCache(address).narInfo(path)).toBeUndefined();
  });
});

describe('putting into a bucket', () => {
  /** Takes everything, and is told of each request; gives the answer of `special` where there is one. */
  const taking =
    (special: (method: string, url: string) => Answer | undefined): Answer =>
    (request, response, body) => {
      const { method = '', url = '' } = request;
      const answer = special(method, url);
      if (answer) answer(request, response, body);
      else if (method === 'HEAD') says(404)(request, response, body);
      else if (url.endsWith('?uploads=')) says(200, '<UploadId>id&amp;1</UploadId>')(request, response, body);
      else says(200, '', { etag: '"tag"' })(request, response, body);
    };
  const big = 12 * 2 ** 20;
  const large = '&multipart-threshold=1';

  it('does so under the condition that nothing is there, or without where that is not known', async () => {
    for (const [status, requests] of [
      [412, 1],
      [501, 2],
    ] as const) {
      const { address, seen } = await bucket((request, response, body) =>
        request.method === 'HEAD'
          ? says(404)(request, response, body)
          : says(request.headers['if-none-match'] === '*' ? status : 200)(request, response, body),
      );
      const cache = bucketCache(address);
      await cache.putNar('nar/x.nar', fileOf(10));
      const puts = seen.filter(({ method }) => method === 'PUT');
      expect(puts).toHaveLength(requests);
      // What was learnt stays known.
      await cache.putNar('nar/y.nar', fileOf(10));
      expect(seen.filter(({ method }) => method === 'PUT')).toHaveLength(requests + 1);
    }
  });

  it('signs what it sends where nothing else protects it', async () => {
    const { address, seen } = await bucket(taking(() => undefined));
    await bucketCache(address).putNar('nar/x.nar', fileOf(3));
    const put = seen.find(({ method }) => method === 'PUT')!;
    expect(put.headers['x-amz-content-sha256']).toBe(
      'cd2eb0837c9b4c962c22d2ff8b5441b7b45805887f051d39bf133b583baf6860',
    );
    expect(put.headers.authorization).toContain('x-amz-content-sha256');
  });

  it('sends large files in parts, and ends the upload with their tags in order', async () => {
    let ended = '';
    const { address, log } = await bucket(
      taking((method, url) => {
        if (method === 'PUT') return says(200, '', { etag: `"tag-${/partNumber=(\d+)/.exec(url)?.[1]}"` });
        if (method === 'POST' && url.includes('uploadId'))
          return (request, response, body) => {
            ended = body.toString();
            says(200, '<CompleteMultipartUploadResult/>')(request, response, body);
          };
        return undefined;
      }),
    );
    await bucketCache(`${address}${large}`).putNar('nar/x.nar', fileOf(big));
    expect(log.filter((line) => line.startsWith('PUT'))).toHaveLength(3);
    expect(log.at(-1)).toBe('POST /pail/p/nar/x.nar?uploadId');
    expect(ended.match(/tag-\d/g)).toEqual(['tag-1', 'tag-2', 'tag-3']);
    expect(log).not.toContain('DELETE /pail/p/nar/x.nar?uploadId');
  });

  it('keeps to whole files where parts are not wanted', async () => {
    const { address, log } = await bucket(taking(() => undefined));
    await bucketCache(`${address}${large}&multipart-upload=false`).putNar('nar/x.nar', fileOf(big));
    expect(log).toEqual(['HEAD /pail/p/nar/x.nar', 'PUT /pail/p/nar/x.nar']);
  });

  it.each<readonly [what: string, special: (method: string, url: string) => Answer | undefined]>([
    ['a part is refused', (_method, url) => (/partNumber=2/.test(url) ? says(400, error('No')) : undefined)],
    ['a part gets no tag', (method) => (method === 'PUT' ? says(200) : undefined)],
    [
      'it cannot be put together, which is said after 200',
      (method, url) =>
        method === 'POST' && url.includes('uploadId')
          ? says(200, `   \n${error('InternalError')}`)
          : undefined,
    ],
  ])('gives an upload up when %s', async (_what, special) => {
    const { address, log } = await bucket(taking(special));
    const thrown = await errorOf(bucketCache(`${address}${large}`).putNar('nar/x.nar', fileOf(big)));
    expect(['FLK_HTTP_STATUS', 'FLK_CACHE_INVALID']).toContain(thrown.code);
    expect(log.at(-1)).toBe('DELETE /pail/p/nar/x.nar?uploadId');
  });

  it('gives an upload up when it is interrupted', async () => {
    const stop = new AbortController();
    const { address, log } = await bucket(
      taking((_method, url) => (/partNumber/.test(url) ? () => void stop.abort() : undefined)),
    );
    const cache = bucketCache(`${address}${large}`, { signal: stop.signal });
    expect((await errorOf(cache.putNar('nar/x.nar', fileOf(big)))).code).toBe('FLK_INTERRUPTED');
    expect(log.at(-1)).toBe('DELETE /pail/p/nar/x.nar?uploadId');
  });

  it('takes an upload for done whose last answer was lost', async () => {
    let ends = 0;
    const { address, log } = await bucket(
      taking((method, url) => {
        if (method === 'HEAD') return ends > 0 ? says(200) : says(404);
        if (method !== 'POST' || !url.includes('uploadId')) return undefined;
        return ends++ === 0
          ? (_request, response) => void response.destroy()
          : says(404, error('NoSuchUpload'));
      }),
    );
    await bucketCache(`${address}${large}`).putNar('nar/x.nar', fileOf(big));
    expect(log.filter((line) => line.startsWith('POST'))).toHaveLength(3);
  });

  it('says who may not write', async () => {
    const { address } = await bucket(
      taking((method) => (method === 'PUT' ? says(403, error('AccessDenied')) : undefined)),
    );
    const thrown = await errorOf(bucketCache(address).putNar('nar/x.nar', fileOf(1)));
    expect(thrown).toMatchObject({
      code: 'FLK_HTTP_AUTH',
      message: 'these credentials may not write to the bucket pail',
    });
    const anonymous = await errorOf(bucketCache(address, { keys: null }).putNar('nar/x.nar', fileOf(1)));
    expect(anonymous.message).toBe('not everybody may write to the bucket pail: nobody gave any');
    expect(anonymous.hint).toContain('AWS_ACCESS_KEY_ID');
  });
});
