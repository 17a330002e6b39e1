import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseCacheAddress } from '../../../src/store/caches/cache.ts';
import { type S3Place, s3Base, s3Name } from '../../../src/store/caches/s3-address.ts';
import { thrownBy } from '../../support/errors.ts';

function placeOf(text: string): S3Place {
  const { place } = parseCacheAddress(text, '/');
  if (place.kind !== 's3') return expect.unreachable('it is read as another kind of cache');
  return place;
}

const baseOf = (text: string): string => {
  const place = placeOf(text);
  return s3Base(place, place.region ?? 'us-east-1').href;
};

describe('s3:// addresses', () => {
  it.each([
    ['s3://cache', 'https://cache.s3.us-east-1.amazonaws.com/'],
    ['s3://cache/team/x86?region=eu-west-2', 'https://cache.s3.eu-west-2.amazonaws.com/team/x86/'],
    ['s3://cache?scheme=http', 'http://cache.s3.us-east-1.amazonaws.com/'],
    ['s3://cache?region=cn-north-1', 'https://cache.s3.cn-north-1.amazonaws.com.cn/'],
    // The certificate of *.s3… does not cover a name with dots.
    ['s3://cache.example.org', 'https://s3.us-east-1.amazonaws.com/cache.example.org/'],
    ['s3://cache?addressing-style=path', 'https://s3.us-east-1.amazonaws.com/cache/'],
    ['s3://cache?endpoint=minio.example.org', 'https://minio.example.org/cache/'],
    ['s3://cache/a//b/?endpoint=localhost:9000&scheme=http', 'http://localhost:9000/cache/a/b/'],
    ['s3://cache?endpoint=http://localhost:9000', 'http://localhost:9000/cache/'],
    ['s3://cache/p?endpoint=r2.example.org&addressing-style=virtual', 'https://cache.r2.example.org/p/'],
  ])('%s is at %s', (text, base) => {
    expect(baseOf(text)).toBe(base);
  });

  it('have the options of every cache, too', () => {
    expect(parseCacheAddress('s3://cache?priority=7&trusted=true&compression=xz', '/')).toMatchObject({
      priority: 7,
      trusted: true,
      packing: 'xz',
    });
  });

  it('have parts as Nix has them, but send large files in parts unless told not to', () => {
    expect(placeOf('s3://cache')).toMatchObject({ multipartThreshold: 100 * 2 ** 20, partSize: 5 * 2 ** 20 });
    expect(placeOf('s3://cache?multipart-upload=false').multipartThreshold).toBeUndefined();
    expect(placeOf('s3://cache?multipart-chunk-size=8000000&multipart-threshold=9000000')).toMatchObject({
      multipartThreshold: 9_000_000,
      partSize: 8_000_000,
    });
    // A server refuses smaller ones.
    expect(placeOf('s3://cache?multipart-chunk-size=1').partSize).toBe(5 * 2 ** 20);
    expect(placeOf('s3://cache?buffer-size=16777216').partSize).toBe(2 ** 24);
  });

  it('are told apart by their server, and show no option else', () => {
    expect(s3Name(placeOf('s3://cache?region=eu-west-2&profile=me'))).toBe('s3://cache');
    expect(s3Name(placeOf('s3://cache/a/?profile=me&endpoint=h:1&scheme=http'))).toBe(
      's3://cache/a?endpoint=http://h:1',
    );
  });

  it.each([
    's3://',
    's3:bucket',
    's3://a',
    's3://a..b',
    's3://cache:80',
    's3://cache#x',
    's3://cache/a%2Fb',
    's3://cache/a?scheme=ftp',
    's3://cache?endpoint=host/path',
    's3://cache?endpoint=ftp://host',
    's3://cache?endpoint=me:pw@host',
    's3://cache?region=eu west',
    's3://cache?region=a.example.org/',
    's3://cache?addressing-style=other',
    's3://a.b?addressing-style=virtual',
    's3://cache?multipart-threshold=-1',
    's3://cache?storage-class=glacier',
    's3://cache?compression=br',
  ])('%s is refused', (text) => {
    expect(thrownBy(() => parseCacheAddress(text, '/')).code).toBe('FLK_USAGE');
  });

  it('hold no keys, and do not repeat them', () => {
    const thrown = thrownBy(() => parseCacheAddress('s3://AKIA:hush@cache', '/'));
    expect(thrown.code).toBe('FLK_USAGE');
    expect(JSON.stringify([thrown.message, thrown.facts, thrown.hint])).not.toContain('hush');
  });

  it('lead to the server that they name, whatever they say', () => {
    fc.assert(
      fc.property(
        fc
          .array(fc.string({ maxLength: 20 }))
          .map((words) => words.map((word) => `/${word.replace(/[?#]/g, '')}`).join('')),
        fc.constantFrom('region', 'profile', 'endpoint', 'scheme', 'addressing-style', 'x'),
        fc.string(),
        (path, name, value) => {
          let place: S3Place;
          try {
            place = placeOf(
              `s3://cache${path}?endpoint=good.example.org&${name}=${encodeURIComponent(value)}`,
            );
          } catch {
            return;
          }
          const { hostname, search, hash } = s3Base(place, place.region ?? 'us-east-1');
          expect(['good.example.org', 'cache.good.example.org']).toContain(hostname);
          expect(search + hash).toBe('');
        },
      ),
    );
  });
});
