/** The git program as a way to repositories: what it is allowed to do, when it is needed, and what its failures mean. */
import { createHash } from 'node:crypto';
import { access, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ErrorCode, FlkError, redactUrls } from '../base/errors.ts';
import { makeFolder, withFileLock } from '../base/files.ts';
import { type Finished, run, start } from '../base/process.ts';
import {
  fetchPack,
  type GitRemote,
  type GitTransport,
  type RefQuery,
  type RemoteRef,
  repositoryMissing,
  sha256Repository,
  shallowRepository,
} from './git-protocol.ts';
import { localBase } from './git-submodules.ts';

/** What of git's own environment a person sets on purpose; the rest would turn git to another repository. */
const keptVariables =
  /^GIT_(SSH|SSH_COMMAND|SSH_VARIANT|SSL_\w+|PROXY_\w+|EXEC_PATH|HTTP_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))$/;

/** This process's environment for git: no other repository, no questions, no replaced objects, messages in English. */
export function gitEnvironment(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const kept = Object.entries(env).filter(([name]) => !name.startsWith('GIT_') || keptVariables.test(name));
  return {
    ...Object.fromEntries(kept),
    LC_ALL: 'C',
    GIT_TERMINAL_PROMPT: '0',
    GIT_ASKPASS: '',
    SSH_ASKPASS_REQUIRE: 'never',
    GCM_INTERACTIVE: 'never',
    GIT_NO_REPLACE_OBJECTS: '1',
    GIT_ALLOW_PROTOCOL: 'https:http:ssh:git:file',
  };
}

/** The person's configuration holds, but nothing that would run programs or go elsewhere. */
const settings = [
  'core.hooksPath=/dev/null',
  'core.fsmonitor=false',
  'protocol.version=2',
  'protocol.ext.allow=never',
  'fetch.recurseSubmodules=false',
  'fetch.writeCommitGraph=false',
  'transfer.bundleURI=false',
  'gc.auto=0',
  'maintenance.auto=false',
  'http.lowSpeedLimit=1',
  'http.lowSpeedTime=60',
].flatMap((setting) => ['-c', setting]);

/** A repository on this machine, served by `git upload-pack` as a web server would have it served: one process for each request. */
export class LocalTransport implements GitTransport {
  readonly url: string;
  readonly #path: string;
  readonly #signal: AbortSignal | undefined;

  private constructor(path: string, signal: AbortSignal | undefined) {
    this.#path = path;
    this.url = path;
    this.#signal = signal;
  }

  /** Throws FLK_GIT_REPO_MISSING where there is no folder. */
  static async open(path: string, signal?: AbortSignal): Promise<LocalTransport> {
    const info = await stat(path).catch(() => undefined);
    if (!info?.isDirectory()) throw repositoryMissing(path);
    return new LocalTransport(path, signal);
  }

  async request(body: Buffer, take: (chunk: Buffer) => void): Promise<void> {
    const child = start('git', ['upload-pack', '--stateless-rpc', '--', this.#path], {
      env: { ...gitEnvironment(), GIT_PROTOCOL: 'version=2' },
      ...(this.#signal ? { signal: this.#signal } : {}),
    });
    child.stdin.on('error', () => {});
    child.stdin.end(body);
    try {
      for await (const chunk of child.stdout) take(chunk);
    } catch (error) {
      child.kill();
      await child.finished;
      throw error;
    }
    const { status, stderr } = await child.finished;
    if (status !== 0) throw classifyGitFailure(this.#path, stderr);
  }

  /** As `GitRemote.countCommits`, without a pack. */
  async countCommits(rev: string): Promise<number> {
    return await countIn(this.#path, this.#path, rev, this.#signal);
  }
}

/** The length of a revision's history in a repository on this machine, that stands for the one at `url`. */
async function countIn(
  path: string,
  url: string,
  rev: string,
  signal: AbortSignal | undefined,
): Promise<number> {
  const ask = (...args: string[]): Promise<Finished> =>
    run('git', [...settings, '-C', path, ...args], {
      env: gitEnvironment(),
      ...(signal ? { signal } : {}),
    });
  const [shallow, count] = await Promise.all([
    ask('rev-parse', '--is-shallow-repository'),
    ask('rev-list', '--count', rev, '--'),
  ]);
  if (shallow.stdout.toString().trim() === 'true') throw shallowRepository(url);
  if (count.status !== 0) throw classifyGitFailure(url, count.stderr);
  return Number(count.stdout.toString());
}

export interface GitProgramOptions {
  /** Where bare repositories are kept between fetches. */
  readonly folder: string;
  readonly signal?: AbortSignal | undefined;
}

export class GitProgram {
  readonly #folder: string;
  readonly #signal: AbortSignal | undefined;
  #version: Promise<boolean> | undefined;
  #config: Promise<Configuration> | undefined;

  constructor(options: GitProgramOptions) {
    this.#folder = options.folder;
    this.#signal = options.signal;
  }

  /** Whether this machine has a git program. */
  available(): Promise<boolean> {
    this.#version ??= run('git', ['--version'], { env: gitEnvironment() }).then(
      ({ status }) => status === 0,
      () => false,
    );
    return this.#version;
  }

  /**
   * Whether the person has set something up, in the environment or in git's configuration, that only git can follow on the way to
   * this URL: a proxy, certificates, headers, another URL instead.
   */
  async mustCarry(url: URL): Promise<boolean> {
    const told =
      proxyFor(url, process.env) ||
      (url.protocol === 'https:' && Object.keys(process.env).some(isCertificateVariable)) ||
      [...(await this.#configuration())].some(([key, values]) => concerns(key, values, url));
    return told && (await this.available());
  }

  /** What relative URLs in a repository start from: for one on this machine its `origin`, where it has one. */
  async originOf(url: string): Promise<string> {
    if (!url.startsWith('file:')) return url;
    const path = fileURLToPath(`file://${new URL(url).pathname}`);
    const { status, stdout } = await run(
      'git',
      [...settings, '-C', path, 'config', '--null', '--get', 'remote.origin.url'],
      { env: gitEnvironment() },
    );
    return localBase(path, status === 0 ? stdout.toString().split('\0')[0] : undefined);
  }

  /** A repository that git is to fetch from. Throws FLK_REF_INVALID for what git might take for an option. */
  remote(url: string): GitRemote {
    const host = URL.canParse(url) ? new URL(url).hostname : '-';
    if (
      url.startsWith('-') ||
      host.startsWith('-') ||
      /[\0\r\n]/.test(url) ||
      /^[a-z+]+:\/\/(-|[^/]*\/-)/.test(url)
    )
      throw new FlkError('FLK_REF_INVALID', `${redactUrls(url)} is not the URL of a Git repository`);
    return {
      lsRefs: (query) => this.#lsRefs(url, query),
      fetchPack: (rev, onPack) => this.#fetchPack(url, rev, onPack),
      countCommits: (rev) => this.#countCommits(url, rev),
    };
  }

  async #lsRefs(url: string, { prefixes }: RefQuery): Promise<RemoteRef[]> {
    const patterns = prefixes.flatMap((prefix) =>
      prefix.endsWith('/') ? [`${prefix}*`] : [prefix, `${prefix}^{}`],
    );
    // With one kind of refs asked for, git tells the server so; else the whole list comes over.
    const kind = ['heads', 'tags'].find((name) =>
      prefixes.every((prefix) => prefix.startsWith(`refs/${name}/`)),
    );
    const { stdout } = await this.#git(url, [
      'ls-remote',
      '--symref',
      ...(kind ? [`--${kind}`] : []),
      '--',
      url,
      ...patterns,
    ]);
    const targets = new Map<string, string>();
    const peeled = new Map<string, string>();
    const ids = new Map<string, string>();
    for (const line of stdout.toString().split('\n')) {
      const [id = '', name = ''] = line.split('\t');
      if (id.startsWith('ref: ')) targets.set(name, id.slice('ref: '.length));
      else if (/^[0-9a-f]{64}$/.test(id)) throw sha256Repository(redactUrls(url));
      else if (name.endsWith('^{}')) peeled.set(name.slice(0, -3), id);
      else if (/^[0-9a-f]{40}$/.test(id)) ids.set(name, id);
    }
    return [...ids].map(([name, id]) => {
      const target = targets.get(name);
      const stands = peeled.get(name);
      return {
        name,
        id,
        ...(stands === undefined ? {} : { peeled: stands }),
        ...(target === undefined ? {} : { target }),
      };
    });
  }

  async #fetchPack(url: string, rev: string, onPack: (piece: Buffer) => void): Promise<void> {
    const repository = this.#repository(url, 'git');
    await makeFolder(this.#folder);
    await withFileLock(`${repository}.lock`, () => this.#bring(url, rev, repository));
    await fetchPack(await LocalTransport.open(repository, this.#signal), rev, onPack);
  }

  /** Histories have a repository of their own: the other one is shallow, and would stay so. */
  async #countCommits(url: string, rev: string): Promise<number> {
    const repository = this.#repository(url, 'history.git');
    await makeFolder(this.#folder);
    await withFileLock(`${repository}.lock`, async () => {
      await this.#initialize(url, repository);
      const ref = `refs/flk/${rev}`;
      if (await this.#has(repository, ref)) return;
      // A server that does not filter sends everything, after a warning.
      const fetch = (...refs: string[]): Promise<Finished> =>
        this.#git(url, [
          ...['-C', repository, 'fetch', '--quiet', '--no-tags', '--no-write-fetch-head', '--filter=tree:0'],
          ...['--', url, ...refs],
        ]);
      await fetch(`+${rev}:${ref}`).catch(async (error: unknown) => {
        if (!mayHaveItUnderARef(error)) throw error;
        await fetch(...everyRef);
      });
    });
    return await countIn(repository, redactUrls(url), rev, this.#signal);
  }

  /** By a digest, for a URL may hold a password. */
  #repository(url: string, suffix: string): string {
    const name = createHash('sha256').update(url).digest('hex').slice(0, 40);
    return join(this.#folder, `${name}.${suffix}`);
  }

  async #initialize(url: string, repository: string): Promise<void> {
    if (!(await exists(join(repository, 'HEAD'))))
      await this.#git(url, ['init', '--quiet', '--bare', '--template=', '--', repository]);
  }

  /** Whether the ref is there: it is the last thing that a fetch writes. An object without one may lack what it needs. */
  async #has(repository: string, ref: string): Promise<boolean> {
    const { status } = await run('git', ['-C', repository, 'rev-parse', '--verify', '--quiet', ref], {
      env: gitEnvironment(),
    });
    return status === 0;
  }

  /** Makes the revision known to the bare repository. */
  async #bring(url: string, rev: string, repository: string): Promise<void> {
    const here = async (): Promise<boolean> =>
      (await run('git', ['-C', repository, 'cat-file', '-e', `${rev}^{tree}`], { env: gitEnvironment() }))
        .status === 0;
    await this.#initialize(url, repository);
    const ref = `refs/flk/${rev}`;
    if ((await this.#has(repository, ref)) && (await here())) return;
    const fetch = (...args: string[]): Promise<Finished> =>
      this.#git(url, ['-C', repository, 'fetch', '--quiet', '--no-tags', '--no-write-fetch-head', ...args]);
    try {
      await fetch('--depth=1', '--', url, `+${rev}:${ref}`);
      return;
    } catch (error) {
      if (!mayHaveItUnderARef(error)) throw error;
    }
    await fetch('--depth=2147483647', '--', url, ...everyRef);
    if (!(await here()))
      throw new FlkError('FLK_GIT_REV_GONE', `${redactUrls(url)} does not have revision ${rev}`);
    await this.#git(url, ['-C', repository, 'update-ref', ref, rev]);
  }

  async #git(url: string, args: readonly string[]): Promise<Finished> {
    const env = gitEnvironment();
    // ssh asks at the terminal, behind git's back, unless told not to; a person's own command is left alone.
    if (!env.GIT_SSH_COMMAND && !env.GIT_SSH && !(await this.#configuration()).has('core.sshcommand'))
      env.GIT_SSH_COMMAND = 'ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=20';
    const finished = await run('git', [...settings, ...args], {
      env,
      ...(this.#signal ? { signal: this.#signal } : {}),
    });
    if (finished.status !== 0) throw classifyGitFailure(redactUrls(url), finished.stderr);
    return finished;
  }

  #configuration(): Promise<Configuration> {
    this.#config ??= this.#readConfiguration();
    return this.#config;
  }

  async #readConfiguration(): Promise<Configuration> {
    const places = [
      '/etc/gitconfig',
      join(homedir(), '.gitconfig'),
      join(process.env.XDG_CONFIG_HOME ?? join(homedir(), '.config'), 'git', 'config'),
    ];
    const told = Object.keys(process.env).some((name) => name.startsWith('GIT_CONFIG_'));
    // Most machines in a CI have none of them, and then there is no program to wait for.
    if (!told && !(await Promise.all(places.map(exists))).includes(true)) return new Map();
    if (!(await this.available())) return new Map();
    const { status, stdout } = await run('git', ['config', '--null', '--list', '--includes'], {
      cwd: '/',
      env: gitEnvironment(),
    });
    if (status !== 0) return new Map();
    const configuration = new Map<string, string[]>();
    for (const entry of stdout.toString().split('\0').filter(Boolean)) {
      const [key = '', ...value] = entry.split('\n');
      configuration.set(key, [...(configuration.get(key) ?? []), value.join('\n')]);
    }
    return configuration;
  }
}

/** Old servers give out only what a ref names: then everything has to come. */
const mayHaveItUnderARef = (error: unknown): boolean =>
  error instanceof FlkError && (error.code === 'FLK_GIT_REMOTE' || error.code === 'FLK_GIT_REV_GONE');

const everyRef = ['+refs/heads/*:refs/flk/heads/*', '+refs/tags/*:refs/flk/tags/*'];

/** A person's settings, not those of any repository: keys with section and name in lower case, and all values given. */
type Configuration = ReadonlyMap<string, readonly string[]>;

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

/** `GIT_SSL_CAINFO` alone is followed by our own client too. */
const isCertificateVariable = (name: string): boolean =>
  name.startsWith('GIT_SSL_') && name !== 'GIT_SSL_CAINFO';

/** Settings below `http.` that change nothing about the way to a server. */
const harmlessHttp =
  /\.(postbuffer|lowspeedlimit|lowspeedtime|maxrequests|minsessions|useragent|version|followredirects)$/;

/** Whether a setting of git's changes how this URL is reached. */
function concerns(key: string, values: readonly string[], url: URL): boolean {
  const instead = /^url\.(.*)\.insteadof$/s.exec(key);
  if (instead) return values.some((value) => value !== '' && url.href.startsWith(value));
  if (!key.startsWith('http.') || harmlessHttp.test(key)) return false;
  if (url.protocol === 'http:' && /\.(ssl|schannel)[a-z]*$/.test(key)) return false;
  const scope = /^http\.(.+)\.[a-z]+$/s.exec(key)?.[1];
  return (
    scope === undefined ||
    !URL.canParse(scope) ||
    new URL(scope).hostname === url.hostname ||
    scope.includes('*')
  );
}

/** Whether curl, and so git, would go through a proxy. `http_proxy` counts in lower case only, as it can be set by a CGI's client. */
function proxyFor(url: URL, env: NodeJS.ProcessEnv): boolean {
  const proxy = url.protocol === 'https:' ? env.https_proxy || env.HTTPS_PROXY : env.http_proxy;
  if (!(proxy || env.all_proxy || env.ALL_PROXY)) return false;
  const spared = (env.no_proxy || env.NO_PROXY || '').split(/[\s,]+/).filter(Boolean);
  return !spared.some((name) => {
    const domain = name.replace(/^\*?\.?/, '').toLowerCase();
    return (
      name === '*' || url.hostname === domain || url.host === domain || url.hostname.endsWith(`.${domain}`)
    );
  });
}

type Failure = readonly [RegExp, ErrorCode, string];

/** What git says, in English, when it fails, and what it means. It has no other way to tell. The first that fits counts. */
const failures: readonly Failure[] = [
  [
    /mismatched object format/i,
    'FLK_REF_UNSUPPORTED',
    'names its objects by SHA-256, which flk does not read',
  ],
  [
    /not our ref|unadvertised object|no such remote ref|reference is not a tree|bad object/i,
    'FLK_GIT_REV_GONE',
    'does not have the revision',
  ],
  [/couldn't find remote ref|remote branch .* not found/i, 'FLK_GIT_REF_MISSING', 'does not have the ref'],
  [
    /could not read (username|password)|authentication failed|permission denied|terminal prompts disabled|host key verification failed|requested url returned error: (401|403|407)/i,
    'FLK_HTTP_AUTH',
    'wants credentials, or refuses those it has',
  ],
  [
    /repository .*not found|does not appear to be a git repository|not a git repository|no such file or directory|requested url returned error: 404/i,
    'FLK_GIT_REPO_MISSING',
    'is no Git repository',
  ],
  [
    /could not resolve|failed to connect|couldn't connect|connection (refused|timed out|reset|closed)|timed out|network is unreachable|no route to host|ssl|certificate|operation too slow/i,
    'FLK_NETWORK',
    'cannot be reached',
  ],
];

const unknownFailure: Failure = [/./, 'FLK_GIT_REMOTE', 'fails'];

function classifyGitFailure(url: string, stderr: string): FlkError {
  return sshFailure(url, stderr) ?? gitFailure(url, stderr);
}

/** What ssh says before git adds its own words, where that is about keys. */
function sshFailure(url: string, stderr: string): FlkError | undefined {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed?.protocol !== 'ssh:') return undefined;
  const host = parsed.port === '' ? parsed.hostname : `[${parsed.hostname}]:${parsed.port}`;
  const facts = { url };
  if (/REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed/i.test(stderr))
    return new FlkError(
      'FLK_SSH_HOST_KEY',
      `${parsed.host} shows another host key than the one that is known`,
      {
        facts,
        hint: `ask whoever runs it; if the change is right: ssh-keygen -R '${host}'`,
      },
    );
  if (/host key verification failed/i.test(stderr))
    return new FlkError('FLK_SSH_HOST_KEY', `the host key of ${parsed.host} is not known`, {
      facts,
      hint: `compare what ssh-keyscan${parsed.port ? ` -p ${parsed.port}` : ''} ${parsed.hostname} prints with what whoever runs it publishes, and add it to ~/.ssh/known_hosts`,
    });
  if (/permission denied \(/i.test(stderr))
    return new FlkError('FLK_SSH_AUTH', `${parsed.host} lets ssh in with none of your keys`, { facts });
  return undefined;
}

function gitFailure(url: string, stderr: string): FlkError {
  const lines = stderr
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
  const said =
    lines.filter((line) => /^(fatal|error|remote|ssh)\b/i.test(line)).join('; ') ||
    (lines.at(-1) ?? 'nothing');
  const [, code, meaning] = failures.find(([pattern]) => pattern.test(stderr)) ?? unknownFailure;
  return new FlkError(code, `${url} ${meaning}`, { facts: { git: said.slice(0, 1000) } });
}
