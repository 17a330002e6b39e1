import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { HttpClient, statusError, TransientError } from '../../../src/sources/http.ts';
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
