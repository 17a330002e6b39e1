/**
 * Repositories at GitHub, GitLab and SourceHut: what a ref is, their Git servers tell without a rate limit; the tree comes as the
 * archive that the forge offers, for its bytes are what Nix locks.
 */
import { type Limiter, limiter, OnceMap } from '../base/concurrency.ts';
import { nearest } from '../base/diagnostics.ts';
import { type ErrorCode, FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import type { ForgeRef, GitRef, Rev } from '../flake/flake-ref.ts';
import type { Fetched, SourceTree, Tag } from '../flake/source.ts';
import type { ArchiveSource } from './archive-source.ts';
import type { Credentials } from './credentials.ts';
import { openUrl } from './download.ts';
import { FetchCache, type Question } from './fetch-cache.ts';
import { type ForgePlace, forges, refNames } from './forges.ts';
import type { GitSource } from './git.ts';
import { type HttpClient, readBody, withRetries } from './http.ts';

export interface ForgeSourceOptions {
  readonly cacheFolder: string;
  readonly reporter: Reporter;
  readonly git: GitSource;
  readonly archives: ArchiveSource;
  /** For the API; sends the credentials itself. */
  readonly client: HttpClient;
  readonly credentials?: Credentials | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly offline?: boolean | undefined;
  readonly refresh?: boolean | undefined;
  /** Seconds for which an answer about a ref is young. Default 0. */
  readonly refTtl?: number | undefined;
  readonly maxConnections?: number | undefined;
  /** Milliseconds before a failed request is tried again; more each time. */
  readonly retryDelay?: number | undefined;
}

/** Bytes. GitHub tells of a commit's files and their changes, up to 300 of them. */
const maxAnswer = 16 * 2 ** 20;

/** The Git server does not want us, or there is none: the API may still know. */
const refusals: readonly ErrorCode[] = [
  'FLK_GIT_REPO_MISSING',
  'FLK_GIT_PROTOCOL',
  'FLK_GIT_REMOTE',
  'FLK_HTTP_AUTH',
  'FLK_HTTP_STATUS',
  'FLK_HTTP_RATE_LIMIT',
  'FLK_REF_UNSUPPORTED',
];

export class ForgeSource {
  readonly #options: ForgeSourceOptions;
  readonly #cache: FetchCache;
  readonly #limit: Limiter;
  readonly #revisions = new OnceMap<string, Rev>();

  constructor(options: ForgeSourceOptions) {
    this.#options = options;
    this.#cache = new FetchCache(options.cacheFolder);
    this.#limit = limiter(options.maxConnections ?? 24);
  }

  /**
   * As `Source.fetch`. What is locked has no `ref`, as in Nix 2.34. Throws FLK_GIT_REPO_MISSING, FLK_GIT_REF_MISSING, FLK_GIT_REV_GONE,
   * FLK_HTTP_AUTH, FLK_HTTP_RATE_LIMIT, FLK_FORGE_ANSWER, FLK_NAR_HASH_MISMATCH, and what `GitSource` and `ArchiveSource` throw.
   */
  async fetch(asked: ForgeRef): Promise<Fetched> {
    const at = placeOf(asked);
    const rev = asked.rev ?? (await this.#resolve(at, asked.ref ?? 'HEAD'));
    const { ref: _, ...pinned } = asked;
    const locked = (tree: SourceTree, lastModified: number): Fetched => ({
      locked: { ...pinned, rev, narHash: tree.narHash, lastModified },
      tree,
    });
    if (asked.narHash !== undefined) {
      const known = await this.#options.archives.byHash(asked.narHash);
      if (known) return locked(known, asked.lastModified ?? known.lastModified);
    }
    const { tree, lastModified, url } = await this.#archive(at, rev, asked);
    if (asked.narHash !== undefined && asked.narHash !== tree.narHash)
      throw new FlkError(
        'FLK_NAR_HASH_MISMATCH',
        `${shown(at)} at ${rev} has other content than was locked`,
        {
          facts: { wanted: asked.narHash, found: tree.narHash },
        },
      );
    if (asked.narHash === undefined) this.#tellOfMove(at, url);
    return locked(tree, lastModified);
  }

  /** As `Source.tags`, by the Git protocol alone. */
  async tags(asked: ForgeRef): Promise<readonly Tag[]> {
    const at = placeOf(asked);
    try {
      return await this.#options.git.tags(gitRef(at));
    } catch (error) {
      throw refusalOf(error) ? this.#explained(at, error) : error;
    }
  }

  /** A ref's revision, asked for once in this run, and not at all where an earlier answer will do. */
  #resolve(at: ForgePlace, ref: string): Promise<Rev> {
    const { offline, refresh, refTtl = 0 } = this.#options;
    const question: Question = { url: shown(at), about: ref };
    return this.#revisions.get(`${shown(at)}\n${ref}`, async () => {
      const earlier = await this.#cache.answer<Rev>(question);
      const young = earlier !== undefined && Date.now() - earlier.time < refTtl * 1000;
      if (earlier && (offline || (young && !refresh))) return earlier.answer;
      if (offline) throw new FlkError('FLK_OFFLINE', `${shown(at)}: its ${ref} is not on this machine`);
      const rev = await this.#ask(at, ref);
      await this.#cache.keepAnswer(question, rev);
      return rev;
    });
  }

  async #ask(at: ForgePlace, ref: string): Promise<Rev> {
    const { git } = this.#options;
    const names = refNames(ref);
    try {
      const refs = await git.refs(gitRef(at), names, shown(at));
      const found = names.flatMap((name) => refs.find((known) => known.name === name) ?? [])[0];
      const commit = forges[at.type].tagsMean === 'commit' ? found?.peeled : undefined;
      if (found) return (commit ?? found.id) as Rev;
    } catch (error) {
      if (!refusalOf(error)) throw error;
      return await this.#askApi(at, ref, error);
    }
    // The beginning of a revision is no ref, but the forge may know it.
    if (/^[0-9a-f]{4,39}$/.test(ref)) return await this.#askApi(at, ref);
    throw await this.#refMissing(at, ref);
  }

  /** `refused` is why the Git server was of no use. */
  async #askApi(at: ForgePlace, ref: string, refused?: FlkError): Promise<Rev> {
    const { client, reporter, signal, retryDelay } = this.#options;
    const ask = (url: URL): Promise<Buffer> =>
      withRetries(shown(at), { reporter, signal, firstDelay: retryDelay }, async () => {
        const opened = await openUrl(client, {
          url,
          common: { accept: 'application/json', 'user-agent': 'flk' },
        });
        return await readBody(opened.response, opened.url, maxAnswer);
      });
    const rev = await this.#limit(() =>
      span(reporter, { type: 'resolve', subject: shown(at) }, () =>
        forges[at.type].revision(at, ref, ask).catch((error: unknown) => {
          const status = statusOf(error);
          // GitHub's word for a ref that is none, in a repository that is there.
          if (status === '422') return undefined;
          if (status === '404' && !refused) return undefined;
          // Two refusals: the second one says no more than the first where nothing is there.
          const told = status === '404' ? (refused ?? error) : error;
          throw refusalOf(told) ? this.#explained(at, told) : told;
        }),
      ),
    );
    if (rev === undefined) throw refused ? missing(at, ref) : await this.#refMissing(at, ref);
    return rev;
  }

  async #archive(at: ForgePlace, rev: Rev, asked: ForgeRef): ReturnType<ArchiveSource['fetch']> {
    // Its Git server has just said so.
    const there = asked.rev === undefined;
    const { archiveUrl } = forges[at.type];
    const open = archiveUrl(at, rev, false);
    const url = archiveUrl(at, rev, this.#known(at));
    const fetch = (from: URL): ReturnType<ArchiveSource['fetch']> =>
      this.#options.archives.fetch({
        url: from,
        shown: `${shown(at)}/${rev}`,
        identity: `${at.type}:${at.host}/${at.owner}/${at.repo}/${rev}`,
        narHash: asked.narHash,
        kind: 'tarball',
      });
    try {
      return await fetch(url).catch((error: unknown) => {
        if (open.href === url.href || !refusalOf(error)) throw error;
        // A token that has expired, or has asked too often, does not bar the way to what is public.
        return fetch(open).catch(() => {
          throw error;
        });
      });
    } catch (error) {
      const status = statusOf(error);
      if (status === '404' || status === '410' || status === '422')
        throw there ? this.#noArchive(at, rev, error) : await this.#revMissing(at, rev, error);
      throw refusalOf(error) ? this.#explained(at, error) : error;
    }
  }

  #known({ host, owner, repo }: ForgePlace): boolean {
    return this.#options.credentials?.hasToken(`${host}/${owner}/${repo}`) ?? false;
  }

  /** Its Git server has the revision and lets us in, perhaps by git's own credentials; the forge does not. */
  #noArchive(at: ForgePlace, rev: Rev, cause: unknown): FlkError {
    return new FlkError('FLK_HTTP_AUTH', `${at.host} gives flk no archive of ${shown(at)} at ${rev}`, {
      cause,
      hint: forges[at.type].tokenHint(at),
    });
  }

  /** Why there is no archive: the repository is not there for us, or the revision is not in it. */
  async #revMissing(at: ForgePlace, rev: Rev, cause: unknown): Promise<FlkError> {
    try {
      await this.#options.git.refs(gitRef(at), ['HEAD'], shown(at));
    } catch (error) {
      if (refusalOf(error)) return this.#explained(at, error);
    }
    return new FlkError('FLK_GIT_REV_GONE', `${shown(at)} does not have revision ${rev}`, { cause });
  }

  async #refMissing(at: ForgePlace, ref: string): Promise<FlkError> {
    const refs = await this.#options.git.refs(gitRef(at), ['refs/heads/', 'refs/tags/'], shown(at));
    return missing(
      at,
      ref,
      refs.map(({ name }) => name.replace(/^refs\/(heads|tags)\//, '')),
    );
  }

  /** A server's refusal in the words of the forge, and how to be let in. A forge does not tell private from missing. */
  #explained(at: ForgePlace, error: FlkError): FlkError {
    const known = this.#known(at);
    const hint = known
      ? `the token for ${at.host} may have expired, or not be for this repository`
      : forges[at.type].tokenHint(at);
    const details = { facts: error.facts, cause: error };
    if (error.code === 'FLK_HTTP_RATE_LIMIT')
      return known
        ? error
        : new FlkError(error.code, error.message, { ...details, hint: `wait, or ${rateHint(at)}` });
    if (error.code === 'FLK_HTTP_AUTH' && known)
      return new FlkError('FLK_HTTP_AUTH', `${at.host} does not let flk in to ${shown(at)}`, {
        ...details,
        hint,
      });
    if (error.code === 'FLK_HTTP_AUTH' || error.code === 'FLK_GIT_REPO_MISSING' || statusOf(error) === '404')
      return new FlkError('FLK_GIT_REPO_MISSING', `there is no ${shown(at)}, or it is private`, {
        ...details,
        hint: `check the name; ${hint}`,
      });
    return error;
  }

  #tellOfMove(at: ForgePlace, url: URL): void {
    const to = forges[at.type].repositoryIn(url);
    if (to === undefined || to.toLowerCase() === `${at.owner}/${at.repo}`.toLowerCase()) return;
    this.#options.reporter.emit({
      kind: 'notice',
      notice: { type: 'repository-moved', from: shown(at), to: `${at.type}:${to}` },
    });
  }
}

const placeOf = ({ type, owner, repo, host }: ForgeRef): ForgePlace => ({
  type,
  host: host ?? forges[type].host,
  owner,
  repo,
});

const gitRef = (at: ForgePlace): GitRef => ({ type: 'git', url: forges[at.type].gitUrl(at) });

function shown({ type, host, owner, repo }: ForgePlace): string {
  return `${type}:${owner}/${repo}${host === forges[type].host ? '' : `?host=${host}`}`;
}

const refusalOf = (error: unknown): error is FlkError =>
  error instanceof FlkError && refusals.includes(error.code);

const statusOf = (error: unknown): string | undefined =>
  error instanceof FlkError && error.code === 'FLK_HTTP_STATUS' ? error.facts.status : undefined;

const rateHint = ({ type, host }: ForgePlace): string =>
  type === 'github' && host === forges.github.host
    ? 'set GITHUB_TOKEN: known users may ask more often'
    : `set a token for ${host}: known users may ask more often`;

function missing(at: ForgePlace, ref: string, names: readonly string[] = []): FlkError {
  const near = nearest(ref.replace(/^refs\/(heads|tags)\//, ''), names);
  const list = names.slice(0, 10).join(', ') + (names.length > 10 ? ', …' : '');
  return new FlkError('FLK_GIT_REF_MISSING', `${shown(at)} has no branch or tag ${ref}`, {
    facts: { wanted: ref, ...(list === '' ? {} : { found: list }) },
    ...(near === undefined ? {} : { hint: `did you mean ${at.type}:${at.owner}/${at.repo}/${near}?` }),
  });
}
