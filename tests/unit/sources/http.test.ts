import { createHash, randomBytes } from 'node:crypto';
import { getEventListeners } from 'node:events';
import { createServer, type RequestListener, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { type AddressInfo, createServer as createRawServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HttpClient, statusError, TransientError } from '../../../src/sources/http.ts';
import { certificateFor, noCertificate } from '../../support/certificate.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

const url = new URL('https://ada:secret@api.flk.example/path?token=secret');
const inAnHour = String(Math.ceil(Date.now() / 1000) + 3600);

describe('statusError', () => {
  it.each([
    [401, {}, 'FLK_HTTP_AUTH', false],
    [403, {}, 'FLK_HTTP_AUTH', false],
    [407, {}, 'FLK_HTTP_AUTH', false],
    [403, { 'x-ratelimit-remaining': '12' }, 'FLK_HTTP_AUTH', false],
    [403, { 'x-ratelimit-remaining': '0' }, 'FLK_HTTP_RATE_LIMIT', true],
    [403, { 'retry-after': '5' }, 'FLK_HTTP_RATE_LIMIT', true],
    [429, {}, 'FLK_HTTP_RATE_LIMIT', true],
    [404, {}, 'FLK_HTTP_STATUS', false],
    [500, {}, 'FLK_HTTP_STATUS', true],
    [501, {}, 'FLK_HTTP_STATUS', false],
    [503, {}, 'FLK_HTTP_STATUS', true],
  ])('%i with %j is %s', (status, headers, code, transient) => {
    const error = statusError(url, { status, headers });
    expect(error.code).toBe(code);
    expect(error instanceof TransientError).toBe(transient);
    expect(error.facts.status).toBe(String(status));
    expect(JSON.stringify([error.message, error.facts])).not.toContain('secret');
  });

  it.each([
    [{ 'retry-after': '7' }, 7000],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': 'soon' }, undefined],
    [{ 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': inAnHour }, 3600_000],
    [{ 'ratelimit-reset': inAnHour }, 3600_000],
    [{ 'x-ratelimit-reset': 'never' }, undefined],
    [{ 'x-ratelimit-reset': '0' }, 0],
    [{ 'retry-after': '999999999' }, 999_999_999_000],
    [{ 'retry-after': new Date(Date.now() + 3600_000).toUTCString() }, 3600_000],
  ])('429 with %j waits for %s ms', (headers, wait) => {
    const error = statusError(url, { status: 429, headers }) as TransientError;
    if (wait === undefined) expect(error.retryAfter).toBeUndefined();
    else expect(Math.abs((error.retryAfter ?? Number.NaN) - wait)).toBeLessThan(60_000);
    expect(error.facts.until === undefined).toBe(wait === undefined || wait > 1e11);
  });

  it('takes a time that no calendar has', () => {
    const headers = { 'x-ratelimit-reset': '999999999999' };
    const error = statusError(url, { status: 429, headers });
    expect(error.facts.until).toBeUndefined();
    expect(error.message).toBe('api.flk.example answers no more requests for now');
  });
});

it('names a file of certificates that cannot be read', async () => {
  const missing = join(temporaryFolder(), 'certificates.pem');
  const client = new HttpClient({ caFiles: [missing] });
  const error = await errorOf(client.send({ method: 'GET', url: new URL('https://127.0.0.1:1/') }));
  expect(error.code).toBe('FLK_FILE_UNREADABLE');
  expect(error.message).toContain(missing);
});

async function serving(listener: RequestListener): Promise<URL> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  await new Promise((resolve) => server.once('listening', resolve));
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
}

describe('a body', () => {
  const large = randomBytes(8_000_000);

  it('is whole, however slowly it is read', async () => {
    const place = await serving((_, response) => response.end(large));
    const { body } = await new HttpClient().send({ method: 'GET', url: place });
    const chunks: Buffer[] = [];
    for await (const chunk of body) {
      chunks.push(chunk);
      if (chunks.length % 30 === 0) await sleep(10);
    }
    expect(Buffer.concat(chunks).equals(large)).toBe(true);
  });

  it('makes the server wait for a reader that does not come', async () => {
    let sent = 0;
    const place = await serving(async (_, response) => {
      for (let i = 0; i < 4000 && !response.destroyed; i++) {
        const goesOn = response.write(large.subarray(0, 64 * 1024));
        sent += 64 * 1024;
        if (!goesOn)
          await Promise.race([new Promise((resolve) => response.once('drain', resolve)), sleep(300)]);
        if (response.writableNeedDrain) return;
      }
    });
    const { body } = await new HttpClient().send({ method: 'GET', url: place });
    const chunks = body[Symbol.asyncIterator]();
    await chunks.next();
    await sleep(700);
    expect(sent).toBeLessThan(40_000_000);
    await chunks.return?.();
  });

  it('that ends early gives what came, and an error that passes', async () => {
    const place = await serving((_, response) => {
      response.writeHead(200, { 'content-length': 1000 });
      response.write('some');
      setTimeout(() => response.destroy(), 50);
    });
    const { body } = await new HttpClient().send({ method: 'GET', url: place });
    const chunks: Buffer[] = [];
    const error = await errorOf(
      (async () => {
        for await (const chunk of body) chunks.push(chunk);
      })(),
    );
    expect(Buffer.concat(chunks).toString()).toBe('some');
    expect(error).toBeInstanceOf(TransientError);
  });

  it('that has come and is left leaves the connection for the next one', async () => {
    const ports = new Set<number | undefined>();
    const place = await serving(({ socket }, response) => {
      ports.add(socket.remotePort);
      response.end('short');
    });
    const client = new HttpClient({ maxSockets: 1 });
    for (let i = 0; i < 5; i++) {
      const { body } = await client.send({ method: 'GET', url: place });
      await sleep(20);
      for await (const _ of body) break;
    }
    expect(ports.size).toBe(1);
  });
});

describe('a large body that is lent', () => {
  const large = randomBytes(20_000_000);
  const digest = createHash('sha256').update(large).digest('hex');
  /** With its length, so that it is read past the parser. */
  const send = (response: ServerResponse, bytes = large): unknown =>
    response.writeHead(200, { 'content-length': large.length }).end(bytes);
  const get = (client: HttpClient, url: URL): ReturnType<HttpClient['send']> =>
    client.send({ method: 'GET', url, lent: true });

  /** Its hash, as it is read; now and then slowly. */
  async function hashed(body: AsyncIterable<Buffer>): Promise<string> {
    const hash = createHash('sha256');
    let chunks = 0;
    for await (const chunk of body) {
      if (chunks++ % 20 === 0) await sleep(5);
      hash.update(chunk);
    }
    return hash.digest('hex');
  }

  it('is whole, one after the other and beside each other', async () => {
    const place = await serving((_, response) => send(response));
    const client = new HttpClient();
    for (let round = 0; round < 3; round++) {
      const all = await Promise.all([1, 2, 3].map(async () => hashed((await get(client, place)).body)));
      expect(all).toEqual([digest, digest, digest]);
    }
  });

  it('is whole where its length is not said, or is small', async () => {
    const place = await serving((request, response) => {
      if (request.url === '/small') response.end('small');
      else response.end(large);
    });
    const client = new HttpClient({ maxSockets: 1 });
    expect(await hashed((await get(client, place)).body)).toBe(digest);
    for await (const chunk of (await get(client, new URL('small', place))).body)
      expect(chunk.toString()).toBe('small');
  });

  it.skipIf(noCertificate)(`is whole over TLS (${noCertificate ?? 'openssl'})`, async () => {
    const { cert, key, file } = certificateFor('127.0.0.1');
    const server = createSecureServer({ cert, key }, (_, response) => send(response));
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const place = new URL(`https://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    const client = new HttpClient({ caFiles: [file] });
    for (let round = 0; round < 2; round++)
      expect(await hashed((await get(client, place)).body)).toBe(digest);
  });

  it('comes in the same memory again and again', async () => {
    const place = await serving((_, response) => send(response));
    const memory = new Set<ArrayBufferLike>();
    for await (const chunk of (await get(new HttpClient(), place)).body) memory.add(chunk.buffer);
    expect(memory.size).toBeLessThanOrEqual(3);
  });

  it('makes the server wait for a reader that does not come, and goes where the reader goes', async () => {
    let closed = false;
    let written = 0;
    const place = await serving((_, response) => {
      response.writeHead(200, { 'content-length': large.length }).on('close', () => {
        closed = true;
      });
      const more = (): void => {
        while (written < large.length) {
          written += 100_000;
          if (!response.write(large.subarray(written - 100_000, written))) return;
        }
      };
      response.on('drain', more);
      more();
    });
    const chunks = (await get(new HttpClient(), place)).body[Symbol.asyncIterator]();
    await chunks.next();
    await sleep(500);
    expect(written).toBeLessThan(large.length);
    expect(closed).toBe(false);
    await chunks.return?.();
    await expect.poll(() => closed).toBe(true);
  });

  it('that ends early gives what came, and an error that passes', async () => {
    const place = await serving((_, response) => {
      response.writeHead(200, { 'content-length': large.length });
      response.write(large.subarray(0, 1_000_000), () => setTimeout(() => response.destroy(), 50));
    });
    const { body } = await get(new HttpClient(), place);
    let size = 0;
    const error = await errorOf(
      (async () => {
        for await (const chunk of body) size += chunk.length;
      })(),
    );
    expect(error).toBeInstanceOf(TransientError);
    expect(size).toBe(1_000_000);
  });

  it('ends where the server said that it would, whatever it sends after that', async () => {
    const server = createRawServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => {
        socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${large.length}\r\n\r\n`);
        socket.write(large);
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore');
      });
    }).listen(0, '127.0.0.1');
    onTestFinished(() => void server.close());
    await new Promise((resolve) => server.once('listening', resolve));
    const place = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    const client = new HttpClient({ maxSockets: 1 });
    for (let round = 0; round < 2; round++)
      expect(await hashed((await get(client, place)).body)).toBe(digest);
  });

  it.each([true, false])('is given up where the server falls silent, lent: %s', async (lent) => {
    const place = await serving((_, response) => {
      response.writeHead(200, { 'content-length': large.length });
      response.write(large.subarray(0, 1_000_000));
    });
    const client = new HttpClient({ idleTimeout: 300 });
    const { body } = await client.send({ method: 'GET', url: place, lent });
    expect((await errorOf(hashed(body))).message).toContain('was silent for 0.3 s');
  });
});

describe('a signal', () => {
  it('ends all that is on its way, is listened to once, and not any more afterwards', async () => {
    const place = await serving((request, response) => {
      response.write('begun');
      if (request.url === '/short') response.end();
    });
    const abort = new AbortController();
    const client = new HttpClient({ signal: abort.signal, maxSockets: 40 });
    const short = await client.send({ method: 'GET', url: new URL('short', place) });
    for await (const chunk of short.body) expect(chunk.toString()).toBe('begun');
    await expect.poll(() => getEventListeners(abort.signal, 'abort').length).toBe(0);
    const bodies = await Promise.all(
      Array.from({ length: 30 }, async () => {
        const { body } = await client.send({ method: 'GET', url: place });
        const chunks = body[Symbol.asyncIterator]();
        await chunks.next();
        return errorOf(chunks.next());
      }).map(async (ended, i) => {
        if (i === 29) {
          await sleep(200);
          expect(getEventListeners(abort.signal, 'abort')).toHaveLength(1);
          abort.abort();
        }
        return (await ended).code;
      }),
    );
    expect(new Set(bodies)).toEqual(new Set(['FLK_INTERRUPTED']));
    await expect.poll(() => getEventListeners(abort.signal, 'abort').length).toBe(0);
    expect((await errorOf(client.send({ method: 'GET', url: place }))).code).toBe('FLK_INTERRUPTED');
  });
});
