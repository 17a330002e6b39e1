/** Every kind of source behind the one port: a reference goes to whoever fetches its type, once. */
import { OnceMap } from '../base/concurrency.ts';
import type { Reporter } from '../base/events.ts';
import { type FlakeRef, type ForgeRef, type GitRef, type IndirectRef, refKey } from '../flake/flake-ref.ts';
import type { Fetched, Registries, Source, SourceTree, Tag } from '../flake/source.ts';
import { ArchiveSource } from './archive-source.ts';
import type { Credentials } from './credentials.ts';
import { ForgeSource } from './forge.ts';
import { assertSupported, GitSource } from './git.ts';
import { HttpClient } from './http.ts';
import { MendingTree } from './mending-tree.ts';
import { fetchPath } from './path.ts';
import { FlakeRegistries } from './registry.ts';
import { fetchCurl } from './tarball.ts';
import { openWorkingTree, workingTreeOf } from './working-tree.ts';

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
  /** False: a repository of this machine with changes that are not committed is FLK_GIT_DIRTY. Default true. */
  readonly allowDirty?: boolean;
  /** Whether such changes are worth a notice. Default: they are. */
  readonly warnDirty?: () => Promise<boolean>;
  /** Requests in flight at once, over all servers. */
  readonly maxConnections?: number;
  /** What lets us in at servers. Default: nothing, but git's own helpers. */
  readonly credentials?: Credentials;
  /** A file of certificates (PEM) to trust instead of Node's own. */
  readonly caFile?: string | undefined;
  /** What names mean. Default: nothing. */
  readonly registries?: FlakeRegistries;
}

/** The world's sources, for one run of flk: within it, equal references have equal answers. */
export class Sources implements Source {
  readonly #options: SourcesOptions;
  readonly #registries: FlakeRegistries;
  readonly #git: GitSource;
  readonly #archives: ArchiveSource;
  readonly #forges: ForgeSource;
  readonly #fetched = new OnceMap<string, Fetched>();
  readonly #tags = new OnceMap<string, readonly Tag[]>();

  constructor(options: SourcesOptions) {
    this.#options = options;
    this.#registries = options.registries ?? new FlakeRegistries(async () => []);
    const { signal, maxConnections = 24, credentials, caFile } = options;
    const client = new HttpClient({
      signal,
      maxSockets: maxConnections,
      credentials,
      // What git has been told to trust, its archives may be signed with too.
      caFiles: [caFile, process.env.GIT_SSL_CAINFO].flatMap((path) => (path ? [path] : [])),
    });
    this.#git = new GitSource({ ...options, client });
    this.#archives = new ArchiveSource({
      ...options,
      client,
    });
    this.#forges = new ForgeSource({ ...options, git: this.#git, archives: this.#archives, client });
  }

  async fetch(ref: FlakeRef, registries: Registries = 'limited'): Promise<Fetched> {
    if (ref.type !== 'indirect')
      return await this.#fetched.get(refKey(ref), async () => this.#mending(await this.#fetch(ref)));
    const resolved = await this.#registries.lookup(ref, registries);
    return { ...(await this.fetch(resolved)), resolved };
  }

  /** What was fetched stays as it is within this run, so that whatever damage removed from the cache is fetched as by a new run. */
  #mending(fetched: Fetched): Fetched {
    const { locked, tree } = fetched;
    if (locked.type === 'indirect' || locked.type === 'path') return fetched;
    const again = async (): Promise<SourceTree> => (await new Sources(this.#options).#fetch(locked)).tree;
    return { ...fetched, tree: new MendingTree(tree, again) };
  }

  async #fetch(ref: Exclude<FlakeRef, IndirectRef>): Promise<Fetched> {
    switch (ref.type) {
      case 'git': {
        assertSupported(ref);
        const root = workingTreeOf(ref);
        return root === undefined
          ? await this.#git.fetch(ref)
          : await (await openWorkingTree(ref, root, { ...this.#options, source: this })).whole();
      }
      case 'path':
        return await fetchPath(ref, this.#options);
      case 'tarball':
      case 'file':
        return await fetchCurl(ref, this.#archives);
      case 'github':
      case 'gitlab':
      case 'sourcehut':
        return await this.#forges.fetch(ref);
    }
  }

  tags(ref: GitRef | ForgeRef): Promise<readonly Tag[]> {
    return this.#tags.get(refKey(ref), () =>
      ref.type === 'git' ? this.#git.tags(ref) : this.#forges.tags(ref),
    );
  }
}
