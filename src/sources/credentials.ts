/**
 * What lets flk in at a server: tokens and netrc logins, each for the place it was given for and for no other. Everything here is
 * looked up by the URL that is about to be asked, so nothing can travel along to another one.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { homeFolder, readFileIfExists } from '../base/files.ts';
import type { HttpCredentials } from './http.ts';
import { type NetrcEntry, parseNetrc } from './netrc.ts';

export interface CredentialsOptions {
  /** By host (with its port, where it is not 443), or host and path; the longest that fits is taken. */
  readonly accessTokens?: ReadonlyMap<string, string> | undefined;
  /** Absolute. Default: /etc/nix/netrc and ~/.netrc. */
  readonly netrcFile?: string | undefined;
  /** For GITHUB_TOKEN and the like, and for HOME. */
  readonly env: NodeJS.ProcessEnv;
  readonly reporter: Reporter;
}

type Headers = Readonly<Record<string, string>>;

/** The forges, by how they take a token; CI_JOB_TOKEN is GitLab's, in a header of its own. */
type Forge = 'github' | 'gitlab' | 'sourcehut';

interface Token {
  readonly value: string;
  readonly job?: boolean;
}

/** What a URL is to a forge. */
interface Place {
  readonly forge: Forge | undefined;
  /** `api` takes a token at once; `git` only when it asks, for an old token must not bar the way to what is public. */
  readonly use: 'api' | 'git' | 'other';
  /** `github.com/owner/repo/…`: what the names of tokens are compared with. */
  readonly path: string;
}

export class Credentials implements HttpCredentials {
  readonly #options: CredentialsOptions;
  readonly #tokens: ReadonlyMap<string, Token>;
  /** Where a server has asked for credentials: it is not made to ask again. */
  readonly #asked = new Set<string>();
  #netrc: Promise<readonly NetrcEntry[]> | undefined;

  constructor(options: CredentialsOptions) {
    this.#options = options;
    this.#tokens = new Map([...tokensFrom(options.env), ...given(options.accessTokens ?? new Map())]);
  }

  /** As `HttpCredentials.headers`: of a token, else of a netrc login. */
  async headers(url: URL, challenged: boolean): Promise<Headers | undefined> {
    const place = placeOf(url);
    const folder = url.origin + url.pathname.replace(/[^/]*$/, '');
    if (challenged) this.#asked.add(folder);
    const asked = challenged || this.#asked.has(folder);
    const token = isPrivate(url) ? this.#token(place.path) : undefined;
    if (token && (place.use === 'api' || (place.use === 'git' && asked))) return tokenHeaders(token, place);
    // As git and curl have it, each for its own: git waits to be asked.
    return place.use === 'git' && !asked ? undefined : await this.#login(url, asked);
  }

  /** Whether there is a token for a repository: `hostAndPath` is `github.com/owner/repo`. */
  hasToken(hostAndPath: string): boolean {
    return this.#token(hostAndPath) !== undefined;
  }

  #token(path: string): Token | undefined {
    let best: string | undefined;
    for (const name of this.#tokens.keys())
      if ((path === name || path.startsWith(`${name}/`)) && name.length > (best?.length ?? -1)) best = name;
    return best === undefined ? undefined : this.#tokens.get(best);
  }

  async #login(url: URL, asked: boolean): Promise<Headers | undefined> {
    this.#netrc ??= this.#readNetrc();
    const entry = (await this.#netrc).find(
      ({ machine }) => machine === undefined || machine === url.hostname.toLowerCase(),
    );
    // `default` means every host there is: only one that asks gets it.
    if (!entry || (entry.machine === undefined && !asked)) return undefined;
    const { login = '', password = '' } = entry;
    return login === '' && password === '' ? undefined : basic(login, password);
  }

  async #readNetrc(): Promise<NetrcEntry[]> {
    const { netrcFile, env, reporter } = this.#options;
    const home = homeFolder(env);
    const files = netrcFile === undefined ? ['/etc/nix/netrc', join(home, '.netrc')] : [netrcFile];
    const entries: NetrcEntry[] = [];
    for (const path of files) {
      const text = await readFileIfExists(path, 2 ** 20).catch((error: unknown) => {
        // The machine's own may be for the daemon's eyes only; one that was named is expected to be readable.
        if (netrcFile === undefined && error instanceof FlkError) return undefined;
        throw error;
      });
      if (text === undefined) continue;
      entries.push(...parseNetrc(text.toString()));
      const { mode } = await stat(path);
      if ((mode & 0o004) !== 0) reporter.emit({ kind: 'notice', notice: { type: 'netrc-readable', path } });
    }
    return entries;
  }
}

/** A token in clear text goes to no other machine. */
const isPrivate = (url: URL): boolean =>
  url.protocol === 'https:' || /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);

/** The environment's own; a job of GitLab's CI is let in at the GitLab that runs it. */
function tokensFrom(env: NodeJS.ProcessEnv): [string, Token][] {
  const tokens: [string, Token][] = [];
  const github = env.GITHUB_TOKEN || env.GH_TOKEN;
  if (github) tokens.push(['github.com', { value: github }]);
  const server = env.CI_SERVER_HOST || 'gitlab.com';
  const port = env.CI_SERVER_PORT;
  const host = port === undefined || port === '443' || port === '' ? server : `${server}:${port}`;
  if (env.CI_JOB_TOKEN) tokens.push([host, { value: env.CI_JOB_TOKEN, job: true }]);
  if (env.GITLAB_TOKEN) tokens.push([host, { value: env.GITLAB_TOKEN }]);
  // What no header can hold is no token.
  return tokens.filter(([, { value }]) => isHeaderText(value));
}

function given(tokens: ReadonlyMap<string, string>): [string, Token][] {
  return [...tokens].filter(([, value]) => isHeaderText(value)).map(([name, value]) => [name, { value }]);
}

const isHeaderText = (text: string): boolean => /^[\u0021-\u007e]+$/.test(text);

function placeOf(url: URL): Place {
  const own = { 'github.com': 'github', 'gitlab.com': 'gitlab', 'git.sr.ht': 'sourcehut' } as const;
  const forgeAt = (host: string): Forge | undefined =>
    Object.hasOwn(own, host) ? own[host as keyof typeof own] : undefined;
  const { host, pathname } = url;
  const git = /^(\/.+?)(\.git)?\/(info\/refs|git-upload-pack)$/.exec(pathname);
  if (git && (git[3] === 'git-upload-pack' || url.search !== ''))
    return { forge: forgeAt(host), use: 'git', path: host + git[1] };
  if (host === 'api.github.com') {
    const path = pathname.replace(/^\/repos\//, '/');
    return { forge: 'github', use: 'api', path: `github.com${path}` };
  }
  const github = /^\/api\/v3\/repos(\/.*)$/.exec(pathname);
  if (github) return { forge: 'github', use: 'api', path: host + github[1] };
  const gitlab = /^\/api\/v4\/projects\/([^/]+)/.exec(pathname);
  if (gitlab) return { forge: 'gitlab', use: 'api', path: `${host}/${decoded(gitlab[1]!)}` };
  const sourcehut = /^\/~[^/]+\/[^/]+\/(archive\/|HEAD$|info\/refs$)/.test(pathname);
  if (sourcehut) return { forge: 'sourcehut', use: 'api', path: host + pathname };
  return { forge: forgeAt(host), use: 'other', path: host + pathname };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * The forges' own rules: docs.github.com/rest/authentication, docs.gitlab.com/api/rest/authentication, man.sr.ht/meta.sr.ht. A token
 * for a GitLab may say what it is, as in Nix: `PAT:…`, `OAuth2:…`, or any header's name.
 */
function tokenHeaders({ value, job = false }: Token, { forge, use }: Place): Headers | undefined {
  const kind = forge === 'gitlab' || forge === undefined ? /^([A-Za-z0-9-]+):(.+)$/.exec(value) : null;
  const [, name = '', bare = value] = kind ?? [];
  if (use === 'git') {
    if (job) return basic('gitlab-ci-token', bare);
    return basic(forge === 'gitlab' || name !== '' ? 'oauth2' : 'x-access-token', bare);
  }
  if (forge === 'github') return { authorization: `token ${bare}` };
  if (forge !== 'gitlab') return { authorization: `Bearer ${bare}` };
  if (job) return { 'job-token': bare };
  if (name === 'OAuth2') return { authorization: `Bearer ${bare}` };
  if (name === '' || name === 'PAT') return { 'private-token': bare };
  return { [name.toLowerCase()]: bare };
}

const basic = (login: string, password: string): Headers => ({
  authorization: `Basic ${Buffer.from(`${login}:${password}`).toString('base64')}`,
});
