/** Every kind of source behind the one port: a reference goes to whoever fetches its type, once. */
import { OnceMap } from '../base/concurrency.ts';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { type FlakeRef, type GitRef, refKey } from '../flake/flake-ref.ts';
import type { Fetched, Source, Tag } from '../flake/source.ts';
import { ArchiveSource } from './archive-source.ts';
import { GitSource } from './git.ts';
import { HttpClient } from './http.ts';
import { fetchPath } from './path.ts';
import { fetchCurl } from './tarball.ts';

export interface SourcesOptions {
  /** Holds what was fetched, between runs and for all flakes; made when it is first needed. */
  readonly cacheFolder: string;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  /** No network: what is not on this machine is FLK_OFFLINE. */
  readonly offline?: boolean;
  /** Asks servers again for what a ref is, also where the answer is young. */
  readonly refresh?: boolean;
  /** Seconds for which an answer about a ref is young. Default 0. */
  readonly refTtl?: number;
  /** Whether what is locked says how many commits lead up to a Git revision. Default true, as Nix has it. */
  readonly revCount?: boolean;
  /** Requests in flight at once, over all servers. */
  readonly maxConnections?: number;
}

/** The world's sources, for one run of flk: within it, equal references have equal answers. */
export class Sources implements Source {
  readonly #options: SourcesOptions;
  readonly #git: GitSource;
  readonly #archives: ArchiveSource;
  readonly #fetched = new OnceMap<string, Fetched>();
  readonly #tags = new OnceMap<string, readonly Tag[]>();

  constructor(options: SourcesOptions) {
    this.#options = options;
    this.#git = new GitSource(options);
    const { signal, maxConnections } = options;
    this.#archives = new ArchiveSource({
      ...options,
      client: new HttpClient({ signal, maxSockets: maxConnections }),
    });
  }

  fetch(ref: FlakeRef): Promise<Fetched> {
    return this.#fetched.get(refKey(ref), () => this.#fetch(ref));
  }

  async #fetch(ref: FlakeRef): Promise<Fetched> {
    switch (ref.type) {
      case 'git':
        return await this.#git.fetch(ref);
      case 'path':
        return await fetchPath(ref, this.#options);
      case 'tarball':
      case 'file':
        return await fetchCurl(ref, this.#archives);
      case 'github':
      case 'gitlab':
      case 'sourcehut':
      case 'indirect':
        throw new FlkError('FLK_REF_UNSUPPORTED', `flk does not fetch ${ref.type} references`);
    }
  }

  tags(ref: GitRef): Promise<readonly Tag[]> {
    return this.#tags.get(ref.url, () => this.#git.tags(ref));
  }
}
