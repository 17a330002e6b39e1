/**
 * Requests to a bucket, signed (AWS Signature Version 4), and what its server means by an error. Signed for one origin alone: no request
 * follows a redirect, so no key, token or signature gets to any other host.
 */
import type { AwsV4Signer } from 'aws4fetch';
import { FlkError } from '../base/errors.ts';
import type { AwsIdentity } from './aws-credentials.ts';
import { type HttpClient, type HttpRequest, type HttpResponse, statusError, TransientError } from './http.ts';

export interface S3ClientOptions {
  /** Where the bucket's server is. */
  readonly origin: string;
  readonly bucket: string;
  readonly region: string;
  readonly identity: AwsIdentity;
}

/** Bytes of an error's text that are read. */
const maxError = 64 * 1024;

/** Errors that are gone at another attempt. */
const passing = new Set([
  'InternalError',
  'SlowDown',
  'ServiceUnavailable',
  'RequestTimeout',
  'OperationAborted',
  'ConditionalRequestConflict',
]);

export class S3Client implements Pick<HttpClient, 'send'> {
  readonly #client: Pick<HttpClient, 'send'>;
  readonly #options: S3ClientOptions;
  /** Signing keys, which hold for a day. */
  readonly #signingKeys = new Map<string, ArrayBuffer>();

  constructor(client: Pick<HttpClient, 'send'>, options: S3ClientOptions) {
    this.#client = client;
    this.#options = options;
  }

  /**
   * An answer of status 2xx, or one that says that there is no such object (404; 403 to who reads and may not know), that there is one
   * already (412), or that the server cannot do what was asked (501). Throws FLK_HTTP_STATUS, FLK_HTTP_AUTH, and what HttpClient does.
   */
  async send(request: HttpRequest): Promise<HttpResponse> {
    if (request.url.origin !== this.#options.origin)
      throw new FlkError('FLK_HTTP_STATUS', `${request.url.host} is not the bucket’s own server`);
    const signed = await this.#signed({ ...request, url: spelledOut(request.url) });
    const response = await this.#client.send(signed);
    const { status, headers } = response;
    if (status >= 200 && status < 300) return response;
    const said = await beginning(response);
    const code = textIn(said, 'Code') ?? '';
    const reads = request.method === 'GET' || request.method === 'HEAD';
    const isAnswer =
      (status === 404 && code !== 'NoSuchBucket') ||
      (status === 403 && reads && (code === 'AccessDenied' || code === '')) ||
      status === 412 ||
      status === 501;
    if (isAnswer) return { status, headers, body: bytes(said) };
    throw this.#failure(request, response, said, code);
  }

  async #signed(request: HttpRequest): Promise<HttpRequest> {
    const { identity, region } = this.#options;
    const { keys } = identity;
    if (!keys) return request;
    const { AwsV4Signer } = await import('aws4fetch');
    const { method, url, headers = {} } = request;
    const signer: AwsV4Signer = new AwsV4Signer({
      method,
      url: url.href,
      headers: { ...headers },
      ...keys,
      region,
      service: 's3',
      cache: this.#signingKeys,
    });
    const signed = await signer.sign();
    return { ...request, headers: Object.fromEntries(signed.headers) };
  }

  #failure(request: HttpRequest, response: HttpResponse, said: string, code: string): FlkError {
    const { url, method } = request;
    const { bucket, region, identity } = this.#options;
    const { status, headers } = response;
    const credentials = identity.origin;
    const facts = {
      status: String(status),
      url: `${url.origin}${url.pathname}`,
      ...(/^[A-Za-z0-9.]{1,80}$/.test(code) ? { code } : {}),
    };
    const wanted = [headers['x-amz-bucket-region'], textIn(said, 'Region')].find(
      (name): name is string => typeof name === 'string' && /^[a-z0-9-]{1,64}$/i.test(name),
    );
    if ([301, 307, 400].includes(status) && wanted !== undefined && wanted !== region)
      return new FlkError('FLK_HTTP_STATUS', `the bucket ${bucket} is in the region ${wanted}`, {
        facts: { found: region, wanted },
        hint: `name it in the cache’s address: region=${wanted}`,
      });
    if (status >= 300 && status < 400)
      return new FlkError('FLK_HTTP_STATUS', `${url.host} redirects, and signed requests are not sent on`, {
        facts,
        hint: 'name the server and the region of the bucket: endpoint=HOST and region=REGION',
      });
    if (code === 'NoSuchBucket')
      return new FlkError('FLK_HTTP_STATUS', `${url.host} has no bucket ${bucket}`, {
        facts,
        hint: 'check its name, region and endpoint; flk makes no buckets',
      });
    if (passing.has(code) || (status >= 500 && status !== 505)) {
      const { message, retryAfter, hint } = transientOf(statusError(url, { status: 503, headers }));
      const shown = message.replace(/503$/, `${status}${facts.code ? ` (${facts.code})` : ''}`);
      return new TransientError('FLK_HTTP_STATUS', shown, { facts, retryAfter, hint });
    }
    const fault = identity.keys ? faults[code]?.(headers.date) : undefined;
    if (fault)
      return new FlkError('FLK_HTTP_AUTH', `${url.host} ${fault.what}`, {
        facts: { ...facts, credentials },
        hint: fault.hint,
      });
    if (status !== 401 && status !== 403) return statusError(url, response);
    const what = method === 'GET' || method === 'HEAD' ? 'read' : 'write to';
    return identity.keys
      ? new FlkError('FLK_HTTP_AUTH', `these credentials may not ${what} the bucket ${bucket}`, {
          facts: { ...facts, credentials },
          hint: 'its policy has to allow s3:GetObject, and to who pushes s3:PutObject and s3:AbortMultipartUpload',
        })
      : new FlkError('FLK_HTTP_AUTH', `not everybody may ${what} the bucket ${bucket}: ${credentials}`, {
          facts,
          hint: 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials',
        });
  }
}

interface Fault {
  readonly what: string;
  readonly hint: string;
}

const expired: Fault = {
  what: 'does not take the session token: it has run out, or belongs to another key',
  hint: 'log in again, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN together',
};

/** What is wrong with credentials, by the server's word for it. */
const faults: Readonly<Record<string, (date: string | undefined) => Fault>> = {
  SignatureDoesNotMatch: () => ({
    what: 'does not take the signature: the secret key does not belong to the access key',
    hint: 'check the secret key; a proxy that changes requests on their way has the same effect',
  }),
  InvalidAccessKeyId: () => ({
    what: 'does not know the access key',
    hint: 'check the access key, and that it is one of this server',
  }),
  RequestTimeTooSkewed: (date) => ({
    what: `does not take the signature: its clock and this machine’s are ${apart(date)} apart`,
    hint: 'set the clock of this machine right',
  }),
  ExpiredToken: () => expired,
  InvalidToken: () => expired,
  TokenRefreshRequired: () => expired,
};

function apart(date: string | undefined): string {
  const minutes = Math.round(Math.abs(Date.parse(date ?? '') - Date.now()) / 60_000);
  return Number.isNaN(minutes) ? 'too far' : `${minutes} minutes`;
}

const transientOf = (error: FlkError) => ({
  message: error.message,
  hint: error.hint,
  retryAfter: error instanceof TransientError ? error.retryAfter : undefined,
});

/** Its path with every character escaped that a server might read in two ways: it is signed as it is sent. */
function spelledOut(url: URL): URL {
  const spelled = new URL(url);
  spelled.pathname = url.pathname
    .split('/')
    .map((word) =>
      encodeURIComponent(decoded(word)).replace(
        /[!'()*]/g,
        (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
      ),
    )
    .join('/');
  return spelled;
}

function decoded(word: string): string {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

/** Never more than `maxError`, however much follows. */
async function beginning({ body }: HttpResponse): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > maxError) break;
  }
  return Buffer.concat(chunks).toString('utf8', 0, maxError);
}

/**
 * The text of the first element of that name. Not a parser of XML, which could be made to work for ever: answers of this protocol have
 * each name that is asked for here at one place.
 */
export function textIn(xml: string, name: string): string | undefined {
  const text = new RegExp(`<${name}>([^<]{0,2048})</${name}>`).exec(xml)?.[1];
  return text?.replace(/&(lt|gt|quot|apos|amp);/g, (_, entity: string) => entities[entity] ?? '');
}

const entities: Readonly<Record<string, string>> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' };

async function* bytes(text: string): AsyncGenerator<Buffer> {
  yield Buffer.from(text);
}
