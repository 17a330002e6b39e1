/** A real S3-compatible server, OpenStack Swift from the engines root, and a door to it for clients that sign nothing. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { AwsV4Signer } from 'aws4fetch';
import { onTestFinished } from 'vitest';
import { type Reporter, silent } from '../../src/base/events.ts';
import type { AwsKeys } from '../../src/sources/aws-credentials.ts';
import { HttpClient } from '../../src/sources/http.ts';
import { S3Client } from '../../src/sources/s3-client.ts';
import { S3Transport } from '../../src/sources/s3-transport.ts';
import { HttpCache } from '../../src/store/caches/http-cache.ts';
import { parseS3Address, s3Base, s3Name } from '../../src/store/caches/s3-address.ts';
import { temporaryFolder } from './temp.ts';

const enginesRoot = process.env.FLK_ENGINES ?? '/opt/flk-engines';
const runner = fileURLToPath(new URL('../engines/nix', import.meta.url));
const program = fileURLToPath(new URL('swift-s3.py', import.meta.url));

export const s3Available =
  existsSync(`${enginesRoot}/.complete`) &&
  existsSync(`${enginesRoot}/usr/lib/python3/dist-packages/swift/obj/mem_server.py`);

/** For the title of a group of tests that needs it. */
export const s3Reason = s3Available
  ? '(with OpenStack Swift)'
  : '(skipped: no OpenStack Swift, tests/engines/install gives one)';

/** The only ones that it knows. */
export const s3Keys = { accessKeyId: 'test:tester', secretAccessKey: 'testing' };
const s3Region = 'eu-test-1';

export interface S3Server {
  readonly url: string;
  /** The environment of a client that may do everything. */
  readonly env: Readonly<Record<string, string>>;
  /** The address of a cache in its bucket `caches`. */
  address(prefix: string, options?: string): string;
  /** `"METHOD /address HTTP/1.1" STATUS`. */
  requests(): string[];
}

/** Runs until the test ends, with an empty bucket `caches`. */
export async function startS3(): Promise<S3Server> {
  const folder = temporaryFolder();
  const child = spawn(runner, [program, folder], {
    env: { ...process.env, FLK_ENGINES: enginesRoot, NIX_COMMAND: 'python3' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said: string[] = [];
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk.toString()));
  const over = new Promise((done) => child.once('exit', done));
  onTestFinished(async () => {
    child.kill('SIGTERM');
    await over;
  });
  const port = await new Promise<string>((ready, fail) => {
    createInterface({ input: child.stdout }).once('line', ready);
    child.once('exit', (status) => fail(new Error(`Swift ended with ${status}: ${said.join('')}`)));
  });
  const url = `http://127.0.0.1:${port}`;
  const made = await signed('PUT', `${url}/caches`);
  if (made !== 200) throw new Error(`Swift answers ${made} when a bucket is made`);
  return {
    url,
    env: {
      AWS_ACCESS_KEY_ID: s3Keys.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s3Keys.secretAccessKey,
      AWS_REGION: s3Region,
    },
    address: (prefix, options = '') => `s3://caches/${prefix}?endpoint=${url}${options}`,
    requests: () =>
      readFileSync(join(folder, 'requests'), 'utf8')
        .split('\n')
        .filter((line) => line.startsWith('"')),
  };
}

async function signed(method: string, url: string): Promise<number> {
  const signer = new AwsV4Signer({ ...s3Keys, method, url, region: s3Region, service: 's3' });
  const { headers } = await signer.sign();
  return (await fetch(url, { method, headers })).status;
}

/** A server in front of it that signs whatever comes: Debian's Nix is built without Amazon's code, and so comes without keys. */
export async function signingDoor(target: string): Promise<string> {
  const server = createServer(async (incoming, outgoing) => {
    const { method = 'GET', url = '/', headers } = incoming;
    const kept = ['range', 'content-type', 'content-length', 'content-encoding'].flatMap((name) =>
      typeof headers[name] === 'string' ? [[name, headers[name]]] : [],
    );
    const place = `${target}${url}`;
    const signer = new AwsV4Signer({
      ...s3Keys,
      method,
      url: place,
      headers: Object.fromEntries(kept) as Record<string, string>,
      region: s3Region,
      service: 's3',
    });
    const sent = Object.fromEntries((await signer.sign()).headers);
    const onward = httpRequest(place, { method, headers: sent }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    onward.on('error', () => outgoing.destroy());
    incoming.pipe(onward);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A cache in a bucket as the command line opens it, but for where the keys come from; what is slow is given up soon. */
export function bucketCache(address: string, options: BucketOptions = {}): HttpCache {
  const { keys = s3Keys, region = s3Region, reporter = silent, signal, idleTimeout = 5_000 } = options;
  const place = parseS3Address(new URL(address));
  const base = s3Base(place, region);
  const identity = keys === null ? { origin: 'nobody gave any' } : { keys, origin: 'a test' };
  const signing = { origin: base.origin, bucket: place.bucket, region, identity };
  const client = new S3Client(new HttpClient({ signal, idleTimeout }), signing);
  const cleaner = new S3Client(new HttpClient({ idleTimeout }), signing);
  const transport = new S3Transport(client, { ...place, reporter, signal, firstDelay: 1, cleaner });
  return new HttpCache(base, transport, { url: s3Name(place) });
}

interface BucketOptions {
  /** Null: requests go out unsigned. */
  readonly keys?: AwsKeys | null;
  readonly region?: string;
  readonly reporter?: Reporter;
  readonly signal?: AbortSignal;
  /** Milliseconds. */
  readonly idleTimeout?: number;
}
