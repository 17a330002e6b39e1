/** Downloads from hosts with names and TLS, which a server on loopback does not have: nock answers for them. */
import nock from 'nock';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Event } from '../../../src/base/events.ts';
import { downloader } from '../../../src/sources/download.ts';
import { errorOf } from '../../support/errors.ts';

const host = 'https://files.flk.example';
const events: Event[] = [];

beforeEach(() => {
  events.length = 0;
  nock.disableNetConnect();
});
afterEach(() => {
  expect(nock.pendingMocks()).toEqual([]);
  nock.cleanAll();
  nock.enableNetConnect();
});

async function download(url: string, options: { offline?: boolean } = {}): Promise<string> {
  const open = downloader({ reporter: { emit: (event) => void events.push(event) }, ...options });
  const chunks: Buffer[] = [];
  for await (const chunk of open(url, { total: (bytes) => expect(bytes).toBe(4) })) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

describe('downloader', () => {
  test('gives the body and announces its length', async () => {
    nock(host).get('/a').reply(200, 'flow', { 'content-length': '4' });
    expect(await download(`${host}/a`)).toBe('flow');
  });

  test('follows a redirect to another host, without taking headers along', async () => {
    nock(host).get('/a').reply(302, '', { location: 'https://mirror.flk.example/b' });
    nock('https://mirror.flk.example', { badheaders: ['authorization', 'cookie'] })
      .get('/b')
      .reply(200, 'flow');
    expect(await download(`${host}/a`)).toBe('flow');
  });

  test('tries again where a server is overloaded, when it says so, and tells it', async () => {
    nock(host).get('/a').reply(429, 'later', { 'retry-after': '0' });
    nock(host).get('/a').reply(503, 'later', { 'retry-after': '0' });
    nock(host).get('/a').reply(200, 'flow');
    expect(await download(`${host}/a`)).toBe('flow');
    expect(events.map((event) => event.kind === 'notice' && event.notice.type)).toEqual(['retry', 'retry']);
  });

  test('does not wait for an hour because a server asks for it', async () => {
    nock(host).get('/a').reply(429, 'later', { 'retry-after': '3600' });
    expect(await errorOf(download(`${host}/a`))).toMatchObject({
      code: 'FLK_HTTP_RATE_LIMIT',
      exitStatus: 3,
    });
  });

  test.each([
    [404, 'FLK_HTTP_STATUS'],
    [401, 'FLK_HTTP_AUTH'],
    [403, 'FLK_HTTP_AUTH'],
  ])('status %i is %s, at once', async (status, code) => {
    nock(host).get('/a').reply(status, 'no');
    const error = await errorOf(download(`${host}/a`));
    expect(error).toMatchObject({ code, facts: { status: String(status), url: `${host}/a` } });
  });

  test('keeps what a query may hold out of its errors', async () => {
    nock(host).get('/a').query({ token: 'secret' }).reply(404);
    const error = await errorOf(download(`${host}/a?token=secret`));
    expect(JSON.stringify([error.message, error.facts, error.hint])).not.toContain('secret');
  });

  test('leaves a circle of redirects', async () => {
    nock(host).get('/a').times(11).reply(301, '', { location: '/a' });
    expect(await errorOf(download(`${host}/a`))).toMatchObject({ code: 'FLK_HTTP_STATUS' });
  });

  test.each(['file:///etc/passwd', 'ftp://files.flk.example/a', 'nothing'])('refuses %s', async (url) => {
    expect(await errorOf(download(url))).toMatchObject({ code: 'FLK_USAGE' });
  });

  test('a redirect cannot lead to a file of this machine', async () => {
    nock(host).get('/a').reply(302, '', { location: 'file:///etc/passwd' });
    expect(await errorOf(download(`${host}/a`))).toMatchObject({ code: 'FLK_HTTP_STATUS' });
  });

  test('a redirect cannot lead off https', async () => {
    nock(host).get('/a').reply(302, '', { location: 'http://files.flk.example/a' });
    expect(await errorOf(download(`${host}/a`))).toMatchObject({ code: 'FLK_HTTP_STATUS' });
  });

  test('asks nobody when offline', async () => {
    expect(await errorOf(download(`${host}/a`, { offline: true }))).toMatchObject({ code: 'FLK_OFFLINE' });
  });
});
