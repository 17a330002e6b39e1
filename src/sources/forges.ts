/**
 * The three kinds of forge: where each keeps a repository's Git server, API and archives. URLs as Nix 2.34 asks for them, so that both
 * get the same archives.
 */
import { FlkError } from '../base/errors.ts';
import type { ForgeRef, Rev } from '../flake/flake-ref.ts';

/** A repository at a forge. */
export interface ForgePlace {
  readonly type: ForgeRef['type'];
  readonly host: string;
  readonly owner: string;
  readonly repo: string;
}

export interface Forge {
  /** The host where none is named. */
  readonly host: string;
  readonly gitUrl: (at: ForgePlace) => string;
  /** What an annotated tag is locked to: the commit that it marks, or itself, as SourceHut's list of refs has it. */
  readonly tagsMean: 'commit' | 'tag';
  /** Where `rev` is offered as an archive; `known` says that we have a token to show. */
  readonly archiveUrl: (at: ForgePlace, rev: Rev, known: boolean) => URL;
  /** Asks the API what a ref is. `ask` gives the body of a 2xx answer. Undefined where it says that there is none. */
  readonly revision: (
    at: ForgePlace,
    ref: string,
    ask: (url: URL) => Promise<Buffer>,
  ) => Promise<Rev | undefined>;
  /** `OWNER/REPO` as the URL of an archive names it, in the end; undefined where it does not say. */
  readonly repositoryIn: (url: URL) => string | undefined;
  /** What a person does to let flk in. */
  readonly tokenHint: (at: ForgePlace) => string;
}

const segments = (text: string): string => text.split('/').map(encodeURIComponent).join('/');
const repositoryPath = ({ owner, repo }: ForgePlace): string => segments(`${owner}/${repo}`);
const configured = (host: string, token: string): string =>
  `accessTokens: { ${host}: ${token} } in config.yaml`;

const github: Forge = {
  host: 'github.com',
  gitUrl: (at) => `https://${at.host}/${repositoryPath(at)}.git`,
  tagsMean: 'commit',
  archiveUrl: (at, rev, known) => {
    if (at.host === github.host && !known)
      return new URL(`https://${at.host}/${repositoryPath(at)}/archive/${rev}.tar.gz`);
    return new URL(`${githubApi(at)}/tarball/${rev}`);
  },
  revision: async (at, ref, ask) => {
    const answer = parseAnswer(at, await ask(new URL(`${githubApi(at)}/commits/${segments(ref)}`)));
    return revIn(at, isObject(answer) ? answer.sha : undefined);
  },
  repositoryIn: (url) =>
    /^\/(?:api\/v3\/)?(?:repos\/)?([^/]+\/[^/]+)\/(?:archive|tarball|(?:legacy\.)?tar\.gz)\//.exec(
      url.pathname,
    )?.[1],
  tokenHint: ({ host }) =>
    host === github.host
      ? `if it is private, set GITHUB_TOKEN, or ${configured(host, 'ghp_…')}`
      : `if it is private, set ${configured(host, 'ghp_…')}`,
};

const githubApi = (at: ForgePlace): string =>
  `https://${at.host === github.host ? `api.${at.host}` : `${at.host}/api/v3`}/repos/${repositoryPath(at)}`;

const gitlab: Forge = {
  host: 'gitlab.com',
  gitUrl: (at) => `https://${at.host}/${repositoryPath(at)}.git`,
  tagsMean: 'commit',
  archiveUrl: (at, rev) => new URL(`${gitlabApi(at)}/archive.tar.gz?sha=${rev}`),
  revision: async (at, ref, ask) => {
    const url = new URL(`${gitlabApi(at)}/commits?ref_name=${encodeURIComponent(ref)}`);
    const answer = parseAnswer(at, await ask(url));
    if (!Array.isArray(answer)) throw odd(at, 'something else than a list of commits');
    if (answer.length === 0) return undefined;
    const newest: unknown = answer[0];
    return revIn(at, isObject(newest) ? newest.id : undefined);
  },
  repositoryIn: (url) => {
    const name = /^\/api\/v4\/projects\/([^/]+)\/repository\//.exec(url.pathname)?.[1];
    return name?.includes('%2F') ? name.replaceAll('%2F', '/') : undefined;
  },
  tokenHint: ({ host }) =>
    host === gitlab.host
      ? `if it is private, set GITLAB_TOKEN, or ${configured(host, 'PAT:glpat-…')}`
      : `if it is private, set ${configured(host, 'PAT:glpat-…')}`,
};

const gitlabApi = ({ host, owner, repo }: ForgePlace): string =>
  `https://${host}/api/v4/projects/${encodeURIComponent(`${owner}/${repo}`)}/repository`;

const sourcehut: Forge = {
  host: 'git.sr.ht',
  gitUrl: (at) => `https://${at.host}/${repositoryPath(at)}`,
  tagsMean: 'tag',
  archiveUrl: (at, rev) => new URL(`${sourcehut.gitUrl(at)}/archive/${rev}.tar.gz`),
  // It has no API for this without a login: a plain Git server's two files will do.
  revision: async (at, ref, ask) => {
    const base = sourcehut.gitUrl(at);
    let names = refNames(ref);
    if (ref === 'HEAD') {
      const head = (await ask(new URL(`${base}/HEAD`))).toString().trimEnd();
      const target = /^ref: (refs\/\S+)$/.exec(head)?.[1];
      if (target === undefined) return revIn(at, head);
      names = [target];
    }
    const lines = (await ask(new URL(`${base}/info/refs`))).toString().split('\n');
    const refs = new Map(lines.map((line): [string, string] => [line.slice(41), line.slice(0, 40)]));
    const id = names.flatMap((name) => refs.get(name) ?? [])[0];
    return id === undefined ? undefined : revIn(at, id);
  },
  repositoryIn: (url) => /^\/(~[^/]+\/[^/]+)\/archive\//.exec(url.pathname)?.[1],
  tokenHint: () =>
    'SourceHut offers archives of public repositories only: for a private one write git+ssh://',
};

export const forges: Readonly<Record<ForgeRef['type'], Forge>> = { github, gitlab, sourcehut };

/** The full names that a ref may have, in the order in which forges look: a branch comes before a tag of that name. */
export function refNames(ref: string): string[] {
  if (ref === 'HEAD' || ref.startsWith('refs/')) return [ref];
  return [`refs/heads/${ref}`, `refs/tags/${ref}`, `refs/${ref}`];
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null;

function parseAnswer(at: ForgePlace, body: Buffer): unknown {
  try {
    return JSON.parse(body.toString()) as unknown;
  } catch {
    throw odd(at, 'something else than JSON');
  }
}

function revIn(at: ForgePlace, value: unknown): Rev {
  if (typeof value === 'string' && /^[0-9a-f]{40}$/.test(value)) return value as Rev;
  throw odd(at, 'no revision of forty hex digits');
}

function odd({ type, host, owner, repo }: ForgePlace, what: string): FlkError {
  return new FlkError(
    'FLK_FORGE_ANSWER',
    `${host} answers a question about ${type}:${owner}/${repo} with ${what}`,
  );
}
