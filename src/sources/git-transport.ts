/**
 * Ways to a Git repository: our own protocol v2 client over http(s); and, from git-program.ts, `git upload-pack` for a repository
 * on this machine, and the git program for ssh, proxies, credential helpers and old servers.
 */
import { fileURLToPath } from 'node:url';
import { FlkError, redactUrls } from '../base/errors.ts';
import { PacketReader, payloadText } from '../formats/pkt-line.ts';
import { type GitProgram, LocalTransport } from './git-program.ts';
import {
  type GitRemote,
  type GitTransport,
  overTransport,
  type RefQuery,
  type RemoteRef,
  repositoryMissing,
  sha256Repository,
} from './git-protocol.ts';
import {
  discard,
  type HttpClient,
  type HttpResponse,
  isCertificateError,
  readBody,
  statusError,
  TransientError,
} from './http.ts';

export interface RemoteOptions {
  readonly http: HttpClient;
  readonly program: GitProgram;
  readonly signal?: AbortSignal | undefined;
}

/** The best way to a URL (without `git+`). Throws FLK_REF_UNSUPPORTED for a scheme that flk does not fetch. */
export async function openRemote(url: string, options: RemoteOptions): Promise<GitRemote> {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  switch (parsed?.protocol) {
    case 'file:': {
      const local = await LocalTransport.open(fileURLToPath(`file://${parsed.pathname}`), options.signal);
      return { ...overTransport(local), countCommits: (rev) => local.countCommits(rev) };
    }
    case 'ssh:':
    case 'git:':
      return options.program.remote(url);
    case 'http:':
    case 'https:': {
      if (parsed.username !== '' || parsed.password !== '' || (await options.program.mustCarry(parsed)))
        return options.program.remote(url);
      return new HttpRemote(parsed, options);
    }
    default:
      throw new FlkError(
        'FLK_REF_UNSUPPORTED',
        `flk does not fetch Git repositories from ${redactUrls(url)}`,
        {
          facts: { wanted: 'https, http, ssh, git or file' },
        },
      );
  }
}

/**
 * http(s) by ourselves, and through the git program where the server wants what we do not have: credentials, or a protocol older
 * than version 2. The first contact decides.
 */
class HttpRemote implements GitRemote {
  readonly #transport: HttpTransport;
  readonly #url: URL;
  readonly #program: GitProgram;
  #fallback: GitRemote | undefined;

  constructor(url: URL, { http, program }: RemoteOptions) {
    this.#url = url;
    this.#program = program;
    this.#transport = new HttpTransport(url, http);
  }

  lsRefs(query: RefQuery): Promise<RemoteRef[]> {
    return this.#either((remote) => remote.lsRefs(query));
  }

  fetchPack(rev: string, onPack: (piece: Buffer) => void): Promise<void> {
    return this.#either((remote) =>
      remote.fetchPack(rev, (piece) => {
        this.#transport.trust();
        onPack(piece);
      }),
    );
  }

  countCommits(rev: string): Promise<number> {
    return this.#either((remote) => remote.countCommits(rev));
  }

  async #either<T>(work: (remote: GitRemote) => Promise<T>): Promise<T> {
    if (this.#fallback) return work(this.#fallback);
    try {
      const answer = await work(overTransport(this.#transport));
      this.#transport.trust();
      return answer;
    } catch (error) {
      const refusal = await this.#transport.explain(error);
      if (!(refusal instanceof NeedsGitProgram)) throw refusal;
      if (!(await this.#program.available())) throw refusal.why;
      this.#fallback = this.#program.remote(this.#url.href);
      try {
        return await work(this.#fallback);
      } catch (failure) {
        // We were there and git was not (it may trust other certificates): what we were told is the better reason.
        const away = failure instanceof FlkError && failure.code === 'FLK_NETWORK';
        if (!away || refusal.why.code !== 'FLK_HTTP_AUTH') throw failure;
        this.#fallback = undefined;
        throw refusal.why;
      }
    }
  }
}

/** This server is not for our own client; the git program may manage. */
class NeedsGitProgram {
  /** To be thrown where there is no git program. */
  readonly why: FlkError;

  constructor(why: FlkError) {
    this.why = why;
  }
}

const maxRedirects = 5;
const requestType = 'application/x-git-upload-pack-request';
const resultType = 'application/x-git-upload-pack-result';
const advertisementType = 'application/x-git-upload-pack-advertisement';

/** Posts requests straight away, without asking the server first what it can do: one round trip less for each repository. */
class HttpTransport implements GitTransport {
  readonly url: string;
  readonly #http: HttpClient;
  /** As it was asked for: credentials go nowhere else. */
  readonly #first: URL;
  #base: URL;
  #proven = false;
  /** Whether the server has been asked what it is since it last gave a verdict. Once in each attempt is enough. */
  #asked = false;

  constructor(url: URL, http: HttpClient) {
    this.#first = withoutTrailingSlash(url);
    this.#base = this.#first;
    this.url = this.#base.href;
    this.#http = http;
  }

  async request(body: Buffer, take: (chunk: Buffer) => void): Promise<void> {
    try {
      await this.#post(body, take);
    } catch (error) {
      if (this.#proven || this.#asked || !(error instanceof MovedError)) throw error;
      await this.#discover(error);
      await this.#post(body, take);
    }
  }

  /** The server has given a right answer: from now on its failures are what they say they are. */
  trust(): void {
    this.#proven = true;
  }

  async #post(body: Buffer, take: (chunk: Buffer) => void): Promise<void> {
    const url = below(this.#base, 'git-upload-pack');
    const response = await this.#http.send({
      method: 'POST',
      url,
      headers: { 'content-type': requestType, accept: resultType, 'git-protocol': 'version=2' },
      body,
      redirectedFrom: below(this.#first, 'git-upload-pack'),
    });
    if (response.status !== 200) {
      await discard(response);
      if (response.status >= 300 && response.status < 400) throw new MovedError(this.url);
      throw statusError(url, response);
    }
    if (mediaType(response) !== resultType)
      throw new FlkError('FLK_GIT_PROTOCOL', `${this.url} does not answer as a Git server`, {
        facts: { found: mediaType(response) ?? 'no content type', wanted: resultType },
      });
    for await (const chunk of response.body) take(chunk);
  }

  /** What a failure of the first contact means: asks the server, the way every Git client begins, what it is. */
  async explain(error: unknown): Promise<unknown> {
    if (this.#proven || !(error instanceof FlkError)) return error;
    if (error.code === 'FLK_HTTP_AUTH' || isCertificateError(error)) return new NeedsGitProgram(error);
    if (this.#asked) {
      this.#asked = false;
      return error;
    }
    const mayBeOld =
      error.code === 'FLK_GIT_PROTOCOL' ||
      error.code === 'FLK_GIT_REMOTE' ||
      error.code === 'FLK_HTTP_STATUS';
    if (!mayBeOld || (error instanceof TransientError && error.facts.status !== '500')) return error;
    try {
      await this.#discover(error);
      return error;
    } catch (found) {
      return found instanceof FlkError && found.code === 'FLK_HTTP_AUTH' ? new NeedsGitProgram(found) : found;
    } finally {
      this.#asked = false;
    }
  }

  /** Follows redirects to the repository; returns when a server of protocol v2 is there. */
  async #discover(reason: FlkError): Promise<void> {
    this.#asked = true;
    let url = below(this.#base, 'info/refs?service=git-upload-pack');
    for (let hops = 0; hops <= maxRedirects; hops++) {
      const response = await this.#http.send({
        method: 'GET',
        url,
        headers: { 'git-protocol': 'version=2' },
        redirectedFrom: below(this.#first, 'info/refs?service=git-upload-pack'),
      });
      const { location } = response.headers;
      if (response.status >= 300 && response.status < 400 && location !== undefined) {
        await discard(response);
        url = redirected(url, location);
        continue;
      }
      if (response.status === 404 || response.status === 410) {
        await discard(response);
        throw repositoryMissing(this.url, { status: String(response.status) });
      }
      if (response.status !== 200) {
        await discard(response);
        throw statusError(url, response);
      }
      await this.#judge(response, url, reason);
      const suffix = '/info/refs';
      this.#base = new URL(url.pathname.slice(0, -suffix.length), url.origin);
      return;
    }
    throw new FlkError('FLK_GIT_PROTOCOL', `${this.url} redirects more than ${maxRedirects} times`);
  }

  async #judge(response: HttpResponse, url: URL, reason: FlkError): Promise<void> {
    const type = mediaType(response);
    const body = await readBody(response, url, 64 * 2 ** 20);
    // A plain web server that holds a repository's files lists its refs as text.
    const dumb = /^[0-9a-f]{40}\trefs\//.test(body.toString('latin1', 0, 64));
    if (type !== advertisementType && !dumb)
      throw repositoryMissing(this.url, { found: type ?? 'no content type', wanted: advertisementType });
    const capabilities = dumb ? [] : advertised(body);
    if (capabilities.includes('object-format=sha256')) throw sha256Repository(this.url);
    if (!capabilities.includes('version 2')) throw new NeedsGitProgram(reason);
  }
}

class MovedError extends FlkError {
  constructor(url: string) {
    super('FLK_GIT_PROTOCOL', `${url} redirects`);
  }
}

/** The lines of an advertisement: of version 2 each is a capability. */
function advertised(body: Buffer): string[] {
  const lines: string[] = [];
  const reader = new PacketReader((packet) => {
    if (packet.kind === 'data') lines.push(payloadText(packet.payload));
  });
  reader.push(body);
  return lines;
}

/** As git does: only to another place that is asked the same, and never from https to http. */
function redirected(from: URL, location: string): URL {
  const to = URL.canParse(location, from.href) ? new URL(location, from.href) : undefined;
  if (
    !to ||
    !(to.protocol === 'https:' || (to.protocol === 'http:' && from.protocol === 'http:')) ||
    !to.pathname.endsWith('/info/refs') ||
    to.searchParams.get('service') !== 'git-upload-pack' ||
    to.username !== '' ||
    to.password !== ''
  )
    throw new FlkError(
      'FLK_GIT_PROTOCOL',
      `${from.origin}${from.pathname} redirects to what is no Git repository`,
      {
        facts: { found: location.slice(0, 500) },
      },
    );
  return to;
}

function withoutTrailingSlash(url: URL): URL {
  const bare = new URL(url.href);
  bare.hash = '';
  while (bare.pathname.length > 1 && bare.pathname.endsWith('/')) bare.pathname = bare.pathname.slice(0, -1);
  return bare;
}

function below(base: URL, path: string): URL {
  return new URL(`${base.origin}${base.pathname === '/' ? '' : base.pathname}/${path}`);
}

const mediaType = (response: HttpResponse): string | undefined =>
  response.headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase();
