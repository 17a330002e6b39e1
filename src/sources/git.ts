/** Git repositories as sources: ref → revision → tree, each asked for once, and never asked for again when the cache knows. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Limiter, limiter, OnceMap } from '../base/concurrency.ts';
import { nearest } from '../base/diagnostics.ts';
import { FlkError, redactUrls } from '../base/errors.ts';
import { type Reporter, type Span, span } from '../base/events.ts';
import type { GitRef, Rev } from '../flake/flake-ref.ts';
import type { Fetched, SourceTree, Tag } from '../flake/source.ts';
import { NarHasher } from '../formats/nar.ts';
import { PackTreeReader } from '../formats/pack-tree.ts';
import { tee } from '../formats/tree-sinks.ts';
import { type CachedCommit, FetchCache, type Question } from './fetch-cache.ts';
import { GitProgram } from './git-program.ts';
import type { GitRemote, RemoteRef } from './git-protocol.ts';
import { openRemote } from './git-transport.ts';
import { HttpClient, withRetries } from './http.ts';
import { ManifestCapture } from './tree-capture.ts';

export interface GitSourceOptions {
  readonly cacheFolder: string;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal | undefined;
  /** No network: what is not on this machine is FLK_OFFLINE. Repositories at `file:` are. */
  readonly offline?: boolean | undefined;
  /** Takes no earlier answer for what a ref is, however young. */
  readonly refresh?: boolean | undefined;
  /** Whether an unlocked reference learns how many commits lead up to its revision. Default true, as Nix 2.34 has it. */
  readonly revCount?: boolean | undefined;
  /** Repositories asked or fetched from at once. Default 24. */
  readonly maxConnections?: number | undefined;
  /** Seconds for which a server's answer about a ref is taken again. Default 0: locking asks each time, as Nix does. */
  readonly refTtl?: number | undefined;
  /** Milliseconds; for servers that do not answer. */
  readonly connectTimeout?: number | undefined;
  readonly idleTimeout?: number | undefined;
  /** Milliseconds before a failed request is tried again; more each time. */
  readonly retryDelay?: number | undefined;
  /** Where connections, certificates and credentials are shared with other sources. Default: its own, without credentials. */
  readonly client?: HttpClient | undefined;
}

/** What a ref turned out to be. */
interface Resolved {
  readonly rev: Rev;
  /** For HEAD: the branch it stands for. */
  readonly target?: string;
}

/** A reference with all that it is locked to. */
interface Pinned {
  readonly resolved: Resolved;
  readonly commit: CachedCommit;
  readonly revCount: number | undefined;
}

/** Milliseconds between two progress events of one fetch. */
const progressInterval = 100;

export class GitSource {
  readonly #options: GitSourceOptions;
  readonly #cache: FetchCache;
  readonly #http: HttpClient;
  readonly #program: GitProgram;
  readonly #limit: Limiter;
  readonly #remotes = new OnceMap<string, GitRemote>();
  readonly #answers = new OnceMap<string, unknown>();
  readonly #commits = new OnceMap<string, CachedCommit>();

  constructor(options: GitSourceOptions) {
    const { signal, connectTimeout, idleTimeout, maxConnections = 24 } = options;
    this.#options = options;
    this.#cache = new FetchCache(options.cacheFolder);
    this.#http =
      options.client ?? new HttpClient({ signal, connectTimeout, idleTimeout, maxSockets: maxConnections });
    this.#program = new GitProgram({ folder: this.#cache.repositories, signal });
    this.#limit = limiter(maxConnections);
  }

  /**
   * As `Source.fetch`. What is locked names the ref as it was written, HEAD's branch where none was, and the number of commits
   * unless `shallow`, as Nix 2.34 does. A reference with a `narHash` keeps what it says. Throws FLK_GIT_REF_MISSING, FLK_GIT_REV_GONE, FLK_GIT_REPO_MISSING, FLK_HTTP_AUTH, FLK_NETWORK,
   * FLK_OFFLINE, FLK_NAR_HASH_MISMATCH, and others for servers and packs that break the rules.
   */
  async fetch(ref: GitRef): Promise<Fetched> {
    assertSupported(ref);
    const { resolved, commit, revCount } = await this.#resolveAndFetch(ref);
    const tree = await this.#tree(ref, resolved.rev, commit);
    if (ref.narHash !== undefined && ref.narHash !== tree.narHash)
      throw new FlkError(
        'FLK_NAR_HASH_MISMATCH',
        `${shown(ref)} at ${resolved.rev} has other content than was locked`,
        {
          facts: { wanted: ref.narHash, found: tree.narHash },
        },
      );
    const name = ref.ref ?? resolved.target;
    return {
      locked: {
        ...ref,
        ...(name === undefined ? {} : { ref: name }),
        rev: resolved.rev,
        narHash: tree.narHash,
        lastModified: commit.lastModified,
        ...(revCount === undefined ? {} : { revCount }),
      },
      tree,
    };
  }

  /** The commit's tree as the reference's flags show it. */
  async #tree(ref: GitRef, rev: Rev, commit: CachedCommit): Promise<SourceTree> {
    const { submodules, lfs, exportIgnore } = ref;
    if (!submodules && !lfs && !exportIgnore) return commit;
    // Loaded for those who ask for it.
    const [{ openView }, { LfsClient }] = await Promise.all([
      import('./git-view.ts'),
      import('./git-lfs.ts'),
    ]);
    return await openView(commit, ref.url, rev, ref, {
      cache: this.#cache,
      lfs: new LfsClient({
        http: this.#http,
        folder: this.#cache.objects,
        offline: this.#options.offline,
        carry: (subject, work) =>
          this.#limit(() =>
            span(this.#options.reporter, { type: 'fetch', subject }, () =>
              withRetries(subject, this.#retries, work),
            ),
          ),
      }),
      commit: (url, submoduleRev) => this.#commit({ type: 'git', url }, submoduleRev),
      base: (url) => this.#program.originOf(url),
    });
  }

  /** As `Source.tags`. */
  async tags(ref: GitRef): Promise<readonly Tag[]> {
    const answer = await this.#ask<readonly Tag[]>(ref, 'tags', async (remote) => {
      const refs = await remote.lsRefs({ prefixes: [tagPrefix] });
      return refs.map(({ name, id, peeled }) => ({
        name: name.slice(tagPrefix.length),
        rev: (peeled ?? id) as Rev,
      }));
    });
    if (answer === undefined) throw notHere(ref, 'its tags');
    return answer;
  }

  /** The refs whose names begin with one of `prefixes`, asked for now; `subject` is what a person calls the repository. */
  refs(ref: GitRef, prefixes: readonly string[], subject: string): Promise<readonly RemoteRef[]> {
    return this.#limit(() =>
      span(this.#options.reporter, { type: 'resolve', subject }, () =>
        withRetries(subject, this.#retries, async () => (await this.#remote(ref.url)).lsRefs({ prefixes })),
      ),
    );
  }

  async #resolveAndFetch(ref: GitRef): Promise<Pinned> {
    if (ref.rev === undefined) {
      const resolved = await this.#resolve(ref, ref.ref ?? 'HEAD');
      if (resolved === undefined) throw notHere(ref, `its ${ref.ref ?? 'HEAD'}`);
      return { resolved, ...(await this.#commitAndCount(ref, resolved.rev)) };
    }
    const { rev } = ref;
    // A lock has all it needs. A person's bare revision gets HEAD's branch beside it, as Nix has it; meanwhile the pack comes.
    const branch = ref.ref === undefined && ref.narHash === undefined;
    const [pinned, head] = await Promise.all([
      this.#commitAndCount(ref, rev),
      branch ? this.#resolve(ref, 'HEAD') : undefined,
    ]);
    return { resolved: head?.target === undefined ? { rev } : { rev, target: head.target }, ...pinned };
  }

  /** Both are asked for at once; where both fail, it is the tree that a person misses. */
  async #commitAndCount(ref: GitRef, rev: Rev): Promise<Omit<Pinned, 'resolved'>> {
    const counting = this.#revCount(ref, rev);
    counting.catch(() => {});
    const commit = await this.#commit(ref, rev);
    return { commit, revCount: await counting };
  }

  /** undefined where the reference asks for no count. A history never changes, so what was counted once is known for good. */
  async #revCount(ref: GitRef, rev: Rev): Promise<number | undefined> {
    if (ref.narHash !== undefined || ref.revCount !== undefined) return ref.revCount;
    if (ref.shallow || this.#options.revCount === false) return undefined;
    const about = `revCount of ${rev}`;
    const earlier = await this.#cache.answer<number>({ url: ref.url, about });
    if (earlier) return earlier.answer;
    const count = await this.#ask(ref, about, (remote) => remote.countCommits(rev));
    if (count === undefined) throw notHere(ref, `the number of revisions before ${rev}`);
    return count;
  }

  /** undefined where flk is offline and has never asked. */
  #resolve(ref: GitRef, name: string): Promise<Resolved | undefined> {
    const names = fullNames(ref, name);
    return this.#ask<Resolved>(ref, names.length === 1 ? names[0]! : name, async (remote) => {
      const refs = await remote.lsRefs({ prefixes: names });
      const found = names.map((full) => refs.find((candidate) => candidate.name === full)).find(Boolean);
      if (!found) throw refMissing(ref, name, await remote.lsRefs({ prefixes: ['refs/heads/', tagPrefix] }));
      const rev = (found.peeled ?? found.id) as Rev;
      // A HEAD that is on no branch has no better name than its own.
      return name === 'HEAD' ? { rev, target: branchName(ref, found.target ?? 'HEAD') } : { rev };
    });
  }

  /** One question to a server, asked once in this run, and not at all where an earlier answer will do. */
  #ask<T>(ref: GitRef, about: string, ask: (remote: GitRemote) => Promise<T>): Promise<T | undefined> {
    const { reporter, offline, refresh, refTtl = 0 } = this.#options;
    const question: Question = { url: ref.url, about };
    // Each `about` has one type of answer, so what comes out is what went in.
    return this.#answers.get(`${ref.url}\n${about}`, async () => {
      const earlier = await this.#cache.answer<T>(question);
      const young = earlier !== undefined && Date.now() - earlier.time < refTtl * 1000;
      if (!isHere(ref) && (offline || (young && !refresh))) return earlier?.answer;
      const answer = await this.#limit(() =>
        span(reporter, { type: 'resolve', subject: shown(ref) }, () =>
          withRetries(shown(ref), this.#retries, async () => ask(await this.#remote(ref.url))),
        ),
      );
      await this.#cache.keepAnswer(question, answer);
      return answer;
    }) as Promise<T | undefined>;
  }

  #commit(ref: GitRef, rev: Rev): Promise<CachedCommit> {
    return this.#commits.get(`${ref.url}\n${rev}`, async () => {
      const known = await this.#cache.commit(rev);
      if (known) return known;
      if (this.#options.offline && !isHere(ref)) throw notHere(ref, `revision ${rev}`);
      return this.#limit(() =>
        this.#cache.whileFetching(rev, async () => {
          // Another process may have fetched it while this one waited.
          const meanwhile = await this.#cache.commit(rev);
          if (meanwhile) return meanwhile;
          return span(this.#options.reporter, { type: 'fetch', subject: shown(ref) }, (running) =>
            withRetries(shown(ref), this.#retries, () => this.#fetchCommit(ref, rev, running)),
          );
        }),
      );
    });
  }

  /** Spools, checks and hashes a pack while it arrives. */
  async #fetchCommit(ref: GitRef, rev: Rev, running: Span): Promise<CachedCommit> {
    const remote = await this.#remote(ref.url);
    const staged = await this.#cache.stage();
    try {
      const hasher = new NarHasher();
      const capture = new ManifestCapture();
      const reader = new PackTreeReader({
        rev,
        sink: tee(hasher, capture),
        reread: (offset, length) => staged.reread(offset, length),
      });
      let reported = Date.now();
      const report = (): void => {
        reported = Date.now();
        running.progress(staged.size, undefined, 'bytes');
        if (reader.progress.total !== undefined)
          running.progress(reader.progress.done, reader.progress.total, 'objects');
      };
      await remote.fetchPack(rev, (piece) => {
        staged.write(piece);
        reader.push(piece);
        if (Date.now() - reported >= progressInterval) report();
      });
      const { lastModified, checksum } = reader.end();
      report();
      const { narHash, narSize } = hasher.digest();
      return await this.#cache.keep(staged, {
        rev,
        narHash,
        narSize,
        lastModified,
        checksum,
        manifests: capture.manifests,
      });
    } finally {
      await staged.discard();
    }
  }

  #remote(url: string): Promise<GitRemote> {
    const { signal } = this.#options;
    return this.#remotes.get(url, () =>
      openRemote(url, { http: this.#http, program: this.#program, signal }),
    );
  }

  get #retries(): Parameters<typeof withRetries>[1] {
    const { reporter, signal, retryDelay } = this.#options;
    return { reporter, signal, firstDelay: retryDelay };
  }
}

const tagPrefix = 'refs/tags/';

/** A repository on this machine is asked every time: that takes no network, and its owner expects what was just committed. */
const isHere = (ref: GitRef): boolean => ref.url.startsWith('file:');

/**
 * What a short name may stand for, the likeliest first. For a server, a branch; for a repository somebody works in, and where all
 * refs are asked for, whatever git rev-parse would take it for, as Nix has it.
 */
function fullNames(ref: GitRef, name: string): readonly string[] {
  if (name === 'HEAD' || name.startsWith('refs/')) return [name];
  const isWorkedIn =
    isHere(ref) && existsSync(join(fileURLToPath(`file://${new URL(ref.url).pathname}`), '.git'));
  if (!isWorkedIn && !ref.allRefs) return [`refs/heads/${name}`];
  const folders = ['refs', 'refs/tags', 'refs/heads', 'refs/remotes'];
  return [...folders.map((folder) => `${folder}/${name}`), `refs/remotes/${name}/HEAD`];
}

const shown = (ref: GitRef): string => redactUrls(`git+${ref.url}`);

/** Throws FLK_REF_INVALID, and FLK_REF_UNSUPPORTED for exportIgnore and submodules together, as Nix. */
export function assertSupported(ref: GitRef): void {
  if (ref.exportIgnore && ref.submodules)
    throw new FlkError(
      'FLK_REF_UNSUPPORTED',
      `${shown(ref)}: exportIgnore and submodules do not go together, in Nix neither`,
    );
  if (ref.ref !== undefined && !isRefName(ref.ref))
    throw new FlkError('FLK_REF_INVALID', `${JSON.stringify(ref.ref)} cannot be the name of a branch or tag`);
  if (ref.rev !== undefined && !/^[0-9a-f]{40}$/.test(ref.rev))
    throw new FlkError('FLK_REF_INVALID', `${JSON.stringify(ref.rev)} is not a revision: forty hex digits`);
}

/** The rules of git-check-ref-format(1). */
function isRefName(name: string): boolean {
  return (
    name.length <= 1024 &&
    !/[\u0000-\u0020\u007f~^:?*[\\]|\.\.|@\{|\/\/|\.lock(\/|$)|(^|\/)\.|[./]$|^[-/]|^@$/.test(name) &&
    name !== ''
  );
}

/** What a server says that HEAD stands for; a lock would hold it. */
function branchName(ref: GitRef, target: string): string {
  if (isRefName(target)) return target;
  throw new FlkError('FLK_GIT_PROTOCOL', `${shown(ref)}: its HEAD stands for what no branch can be called`, {
    facts: { found: JSON.stringify(target.slice(0, 200)) },
  });
}

function notHere(ref: GitRef, what: string): FlkError {
  return new FlkError('FLK_OFFLINE', `${shown(ref)}: ${what} is not on this machine`);
}

function refMissing(ref: GitRef, name: string, refs: readonly RemoteRef[]): FlkError {
  const url = shown(ref);
  if (refs.length === 0)
    return new FlkError('FLK_GIT_REF_MISSING', `${url} is empty: it has no branch and no tag`);
  const branches = refs
    .filter((known) => known.name.startsWith('refs/heads/'))
    .map((known) => known.name.slice(11));
  if (refs.some((known) => known.name === tagPrefix + name))
    return new FlkError('FLK_GIT_REF_MISSING', `${url} has no branch ${name}, but a tag`, {
      hint: `write ref=${tagPrefix}${name}`,
    });
  const short = name.replace(/^refs\/(heads|tags)\//, '');
  const names = refs.map((known) => known.name.replace(/^refs\/heads\//, ''));
  const near = nearest(name, names) ?? nearest(short, branches);
  const list = branches.slice(0, 10).join(', ') + (branches.length > 10 ? ', …' : '');
  return new FlkError(
    'FLK_GIT_REF_MISSING',
    `${url} has no ${name.startsWith('refs/') ? 'ref' : 'branch'} ${name}`,
    {
      facts: { wanted: name, found: list },
      ...(near === undefined ? {} : { hint: `did you mean ref=${near}?` }),
    },
  );
}
