/** Repositories in memory: a Source whose answers come when a test lets them, and the manifests to put there. */
import { createHash } from 'node:crypto';
import type { SourceFile } from '../../src/base/diagnostics.ts';
import { FlkError } from '../../src/base/errors.ts';
import {
  type FlakeRef,
  type ForgeRef,
  type GitRef,
  parseFlakeRef,
  type Rev,
} from '../../src/flake/flake-ref.ts';
import type { FlakeManifest, InputDeclaration } from '../../src/flake/manifest-model.ts';
import type { Fetched, Source, SourceTree, Tag } from '../../src/flake/source.ts';
import { narHashOf, sha256 } from '../../src/formats/hash.ts';
import type { TreeSink } from '../../src/formats/nar.ts';

export interface FakeInput {
  readonly url?: string;
  readonly version?: string;
  readonly tag?: string;
  readonly follows?: string;
  readonly flake?: boolean;
  readonly frozen?: boolean;
  readonly groups?: readonly string[];
  readonly inputs?: FakeInputs;
}

/** A string is short for `{ url }`. */
export type FakeInputs = Readonly<Record<string, FakeInput | string>>;

type Files = Readonly<Record<string, string>>;

interface Commit {
  readonly rev: Rev;
  readonly files: Files;
  readonly count: number;
}

/** `flake.yaml` with these inputs: JSON is YAML, and quicker to read. */
export function flakeYaml(inputs: FakeInputs): Files {
  return fakeManifest('flake.yaml', inputs);
}

/** A manifest in JSON, whatever its name. */
export function fakeManifest(
  name: 'flake.yaml' | 'flake.nix',
  inputs: FakeInputs,
  self?: FlakeManifest['self'],
): Files {
  return { [name]: JSON.stringify({ inputs, self }) };
}

/** Reads what `fakeManifest` makes; each input's range is where its name stands first. */
export function readFakeManifest(file: SourceFile): FlakeManifest {
  const { inputs = {}, self } = JSON.parse(file.text) as {
    inputs?: FakeInputs;
    self?: NonNullable<FlakeManifest['self']>;
  };
  return {
    kind: file.path.endsWith('flake.nix') ? 'nix' : 'yaml',
    file,
    inputs: declarations(inputs, file.text),
    ...(self && { self }),
  };
}

function declarations(inputs: FakeInputs, text: string): Map<string, InputDeclaration> {
  return new Map(
    Object.entries(inputs).map(([name, input]): [string, InputDeclaration] => {
      const given = typeof input === 'string' ? { url: input } : input;
      const { url, version, tag, follows, flake = true, frozen = false, groups = [] } = given;
      const start = text.indexOf(`"${name}"`);
      return [
        name,
        {
          ...(url === undefined ? {} : { ref: parseFlakeRef(url) }),
          ...(version === undefined ? {} : { version }),
          ...(tag === undefined ? {} : { tag }),
          ...(follows === undefined ? {} : { follows: follows === '' ? [] : follows.split('/') }),
          flake,
          frozen,
          groups,
          inputs: declarations(given.inputs ?? {}, text),
          range: { start, end: start + name.length + 2 },
        },
      ];
    }),
  );
}

export class FakeSource implements Source {
  /** What was asked for, in order: `fetch URL REF-OR-REV` and `tags URL`. */
  readonly requests: string[] = [];
  readonly #repositories = new Map<string, { refs: Map<string, Commit>; commits: Map<string, Commit> }>();
  readonly #folders = new Map<string, Files>();
  readonly #names = new Map<string, FlakeRef>();
  readonly #wait: (request: string) => Promise<void>;

  /** `wait` holds an answer back. */
  constructor(wait: (request: string) => Promise<void> = async () => {}) {
    this.#wait = wait;
  }

  /** A commit on a branch, with tags. `url` is what follows `git+`. */
  commit(
    url: string,
    files: Files,
    { branch = 'main', tags = [] }: { branch?: string; tags?: readonly string[] } = {},
  ): Rev {
    const repository = this.#repositories.get(url) ?? { refs: new Map(), commits: new Map() };
    this.#repositories.set(url, repository);
    const count = repository.commits.size + 1;
    const rev = createHash('sha1')
      .update(JSON.stringify([url, count, files]))
      .digest('hex') as Rev;
    const commit = { rev, files, count };
    repository.commits.set(rev, commit);
    repository.refs.set(`refs/heads/${branch}`, commit);
    for (const tag of tags) repository.refs.set(`refs/tags/${tag}`, commit);
    return rev;
  }

  /** A folder, for absolute `path:` references. */
  folder(path: string, files: Files): void {
    this.#folders.set(path, files);
  }

  /** What a registry says of a name. */
  register(id: string, to: FlakeRef): void {
    this.#names.set(id, to);
  }

  /** The repository forgets everything, refs and revisions. */
  forget(url: string): void {
    this.#repositories.delete(url);
  }

  async fetch(ref: FlakeRef): Promise<Fetched> {
    if (ref.type === 'indirect') {
      const resolved = this.#names.get(ref.id);
      if (!resolved) throw new FlkError('FLK_REGISTRY_UNKNOWN', `nobody knows ${ref.id}`);
      return { ...(await this.fetch(resolved)), resolved };
    }
    if (ref.type !== 'git' && ref.type !== 'path')
      throw new FlkError('FLK_REF_UNSUPPORTED', `a fake source has no ${ref.type}`);
    const where = ref.type === 'git' ? `${ref.url} ${ref.rev ?? ref.ref ?? 'HEAD'}` : ref.path;
    const request = `fetch ${where}`;
    this.requests.push(request);
    await this.#wait(request);
    if (ref.type === 'path') {
      const files = this.#folders.get(ref.path);
      if (!files) throw new FlkError('FLK_FILE_UNREADABLE', `there is no folder ${ref.path}`);
      const tree = new FakeTree(files);
      return { locked: { ...ref, narHash: tree.narHash, lastModified: 1_700_000_000 }, tree };
    }
    const repository = this.#repositories.get(ref.url);
    if (!repository) throw new FlkError('FLK_GIT_REPO_MISSING', `there is no repository ${ref.url}`);
    const name = ref.ref === undefined || ref.ref === 'HEAD' ? 'refs/heads/main' : ref.ref;
    const full = [name, `refs/heads/${name}`, `refs/tags/${name}`].find((one) => repository.refs.has(one));
    const commit = ref.rev ? repository.commits.get(ref.rev) : full && repository.refs.get(full);
    if (!commit)
      throw new FlkError(ref.rev ? 'FLK_GIT_REV_GONE' : 'FLK_GIT_REF_MISSING', `${where} is not there`);
    const tree = new FakeTree(ref.submodules ? { ...commit.files, 'sub/file': '' } : commit.files);
    if (ref.narHash !== undefined && ref.narHash !== tree.narHash)
      throw new FlkError('FLK_NAR_HASH_MISMATCH', `${where} has other bytes`);
    return {
      locked: {
        ...ref,
        ref: ref.ref !== undefined && ref.rev !== undefined ? ref.ref : (full ?? name),
        rev: commit.rev,
        narHash: tree.narHash,
        lastModified: 1_700_000_000 + commit.count * 86_400,
        revCount: commit.count,
      },
      tree,
    };
  }

  async tags(ref: GitRef | ForgeRef): Promise<readonly Tag[]> {
    if (ref.type !== 'git') throw new Error('there is no forge here');
    const request = `tags ${ref.url}`;
    this.requests.push(request);
    await this.#wait(request);
    const refs = this.#repositories.get(ref.url)?.refs ?? new Map<string, Commit>();
    return [...refs]
      .filter(([name]) => name.startsWith('refs/tags/'))
      .map(([name, { rev }]) => ({ name: name.slice('refs/tags/'.length), rev }));
  }
}

class FakeTree implements SourceTree {
  readonly #files: Files;

  constructor(files: Files) {
    this.#files = files;
  }

  get narHash() {
    return narHashOf(sha256(JSON.stringify(this.#files)));
  }

  get narSize(): number {
    return JSON.stringify(this.#files).length;
  }

  async readFile(path: string): Promise<Buffer | undefined> {
    return fakeFile(this.#files, path);
  }

  /** The locker walks a tree only to look for symlinks, and there are none. */
  async walk(sink: TreeSink): Promise<void> {
    sink.directory();
    sink.endDirectory();
  }
}

export function fakeFile(files: Files, path: string): Buffer | undefined {
  const text = Object.hasOwn(files, path) ? files[path] : undefined;
  return text === undefined ? undefined : Buffer.from(text);
}
