/**
 * Flake references: where a flake is (string form in manifests and on the command line, attribute form in locks), printed the
 * way Nix 2.34 prints them.
 */
import { posix } from 'node:path';
import type { Json } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { type NarHash, parseNarHash } from '../formats/hash.ts';
import { invalidRef, parseRefUrl, printQuery, printRefUrl, type RefUrl, shown } from './ref-url.ts';

/** Forty lower-case hex digits. */
export type Rev = string & { readonly __brand: 'Rev' };

/** What any reference may say beside where it leads; which of it a kind of reference takes, parsing decides. */
interface CommonRef {
  readonly rev?: Rev;
  /** Subfolder that holds the flake, no leading or trailing slash. */
  readonly dir?: string;
  readonly narHash?: NarHash;
  /** Seconds since 1970: the commit's (committer), an archive's newest entry's, a folder's newest mtime. */
  readonly lastModified?: number;
  readonly revCount?: number;
}

export interface GitRef extends CommonRef {
  readonly type: 'git';
  /** Without `git+`: `https://…`, `http://…`, `file:///…`, `ssh://…`. */
  readonly url: string;
  /** As written: `main`, `refs/tags/v1`. */
  readonly ref?: string;
  readonly shallow?: boolean;
  readonly submodules?: boolean;
  readonly lfs?: boolean;
  readonly exportIgnore?: boolean;
  readonly allRefs?: boolean;
}

export interface PathRef extends CommonRef {
  readonly type: 'path';
  /** Absolute, or relative to the manifest that names it (`./x`, `../x`). */
  readonly path: string;
}

/** A repository at a forge that offers every revision as an archive. */
export interface ForgeRef extends CommonRef {
  readonly type: 'github' | 'gitlab' | 'sourcehut';
  /** GitLab's may be several names: `group/subgroup`. SourceHut's begins with `~`. */
  readonly owner: string;
  readonly repo: string;
  /** Where it is not the forge's own: `gitlab.example.org`. */
  readonly host?: string;
  readonly ref?: string;
  readonly treeHash?: string;
}

/** An archive that is unpacked without its top folder, or one file as it is. */
export interface CurlRef extends CommonRef {
  readonly type: 'tarball' | 'file';
  /** Without `tarball+` or `file+`: `https://…`, `http://…`, `file:///…`. */
  readonly url: string;
  readonly name?: string;
  readonly unpack?: boolean;
}

/** A name that a registry leads on to another reference: `nixpkgs`, `flake:nixpkgs/release`. */
export interface IndirectRef extends CommonRef {
  readonly type: 'indirect';
  readonly id: string;
  readonly ref?: string;
}

export type FlakeRef = GitRef | PathRef | ForgeRef | CurlRef | IndirectRef;

export type RefAttributes = Readonly<Record<string, string | number | boolean>>;

const maxLength = 4096;
const flags = ['shallow', 'submodules', 'lfs', 'exportIgnore', 'allRefs'] as const;
/** Nix prints these in a URL; `allRefs` it forgets. */
const printedFlags = ['shallow', 'submodules', 'lfs', 'exportIgnore'] as const;
/** Promises about signatures: to read past one would be to break it. */
const signatureParameters = ['verifyCommit', 'publicKey', 'publicKeys', 'keytype'];

const unsupportedSchemes: Readonly<Record<string, string>> = {
  github: 'GitHub archives; write git+https://github.com/OWNER/REPO?ref=REF instead',
  gitlab: 'GitLab archives; write git+https://gitlab.com/OWNER/REPO?ref=REF instead',
  sourcehut: 'SourceHut archives; write git+https://git.sr.ht/~OWNER/REPO?ref=REF instead',
  flake: 'flake registries; write the whole reference instead',
  http: 'archives over http; write git+http:// for a Git repository',
  https: 'archives over https; write git+https:// for a Git repository',
  file: 'single files; write path: for a folder, git+file:// for a Git repository',
  git: 'the git:// protocol; write git+https:// instead',
  hg: 'Mercurial',
};

/**
 * The string form. Relative paths stay relative, unless `relativeTo` (an absolute folder) is given. Throws FLK_REF_INVALID,
 * FLK_REF_UNSUPPORTED or FLK_REF_CREDENTIALS.
 */
export function parseFlakeRef(text: string, options: { readonly relativeTo?: string } = {}): FlakeRef {
  const ref = parseRef(text);
  if (options.relativeTo === undefined || !isRelativePath(ref)) return ref;
  return { ...ref, path: posix.resolve(options.relativeTo, ref.path) };
}

function parseRef(text: string): FlakeRef {
  if (text.length > maxLength) throw invalidRef(text, `longer than ${maxLength} characters`);
  if (/[\u0000-\u001f\u007f]/.test(text)) throw invalidRef(text, 'it holds a control character');
  if (text === '') throw invalidRef(text, 'it is empty');
  if (text.includes('#')) throw invalidRef(text, 'a package name after # has no place here');
  if (/^[./]/.test(text)) return parsePath(`path:${text}`, text);
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):(?!:)/.exec(text)?.[1];
  if (scheme === undefined) throw withoutScheme(text);
  if (scheme === 'path') return parsePath(text, text);
  const transport = /^git\+(https?|ssh|file)$/.exec(scheme)?.[1];
  if (transport !== undefined) return parseGit(text, transport);
  const kind = unsupportedSchemes[/^(hg|tarball|file)\+/.exec(scheme)?.[1] ?? scheme];
  if (kind !== undefined) throw unsupported(text, kind);
  if (scheme.startsWith('tarball+')) throw unsupported(text, 'archives');
  throw invalidRef(text, `‘${shown(scheme)}:’ is not a kind of reference`);
}

function withoutScheme(text: string): FlkError {
  if (/^[A-Za-z][A-Za-z0-9_-]*(\/[^\s:]*)?$/.test(text))
    return unsupported(text, `flake registries; for a folder write ./${shown(text)}`);
  const scp = /^([A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+):(?!:)\/?(.*)$/.exec(text);
  if (scp) return invalidRef(text, 'no kind of reference', `write git+ssh://${scp[1]}/${scp[2]}`);
  return invalidRef(text, 'no kind of reference');
}

function unsupported(text: string, kind: string): FlkError {
  return new FlkError('FLK_REF_UNSUPPORTED', `flake reference ‘${shown(text)}’: flk does not fetch ${kind}`);
}

function parsePath(url: string, text: string): PathRef {
  const { authority, path, query } = parseRefUrl(url);
  if (authority) throw invalidRef(text, `a path has no host (‘${authority}’)`);
  const attributes: Record<string, string | number> = {
    type: 'path',
    // Nix joins what stands between slashes, so doubled ones vanish.
    path: path
      .join('/')
      .replace(/\/+/g, '/')
      .replace(/(?<=.)\/$/, ''),
  };
  for (const [name, value] of query) {
    if (name === 'revCount' || name === 'lastModified') attributes[name] = integer(text, name, value);
    else if (name === 'dir' || name === 'rev' || name === 'narHash') attributes[name] = value;
    else throw invalidRef(text, `a path takes no parameter ‘${shown(name)}’`);
  }
  return pathFrom(attributes, text);
}

function integer(text: string, name: string, value: string): number {
  if (!/^[0-9]{1,15}$/.test(value)) throw invalidRef(text, `${name} is not a number`);
  return Number(value);
}

function parseGit(text: string, transport: string): GitRef {
  const parsed = parseRefUrl(text);
  const attributes: Record<string, string | boolean> = { type: 'git' };
  const query = new Map<string, string>();
  for (const [name, value] of parsed.query) {
    if (name === 'dir' || name === 'ref' || name === 'rev') attributes[name] = value;
    else if (isFlag(name)) attributes[name] = value === '1';
    else if (signatureParameters.includes(name)) throw unsupported(text, `by commit signature (${name})`);
    else query.set(name, value);
  }
  // The rest is the server's own: it stays in the URL.
  attributes.url = printRefUrl({ ...parsed, scheme: transport, query });
  return gitFrom(attributes, text);
}

const isFlag = (name: string): name is (typeof flags)[number] => (flags as readonly string[]).includes(name);

/** As Nix prints it. What only a lock says (`narHash` and the like of a Git reference) is not part of it. */
export function printFlakeRef(ref: FlakeRef): string {
  const parameters = new Map<string, string>();
  const put = (name: string, value: string | number | undefined) => {
    if (value !== undefined) parameters.set(name, String(value));
  };
  put('dir', ref.dir);
  put('rev', ref.rev);
  if (ref.type === 'path') {
    put('narHash', ref.narHash);
    put('lastModified', ref.lastModified);
    put('revCount', ref.revCount);
    return printRefUrl({ scheme: 'path', path: ref.path.split('/'), query: parameters });
  }
  if (ref.type !== 'git') throw new FlkError('FLK_INTERNAL', `a ${ref.type} reference cannot be printed`);
  put('ref', ref.ref);
  for (const flag of printedFlags) if (ref[flag]) put(flag, '1');
  if (!ref.url.includes('?')) return `git+${ref.url}${printQuery(parameters)}`;
  const url = parseRefUrl(ref.url);
  return `git+${printRefUrl({ ...url, query: new Map([...url.query, ...parameters]) })}`;
}

/**
 * The attribute form, out of a lock or a manifest. `where` names its place in errors (`nodes.greet.locked`).
 * Throws as `parseFlakeRef` does.
 */
export function refFromAttributes(json: Json | undefined, where: string): FlakeRef {
  if (json === null || typeof json !== 'object' || Array.isArray(json))
    throw new FlkError('FLK_REF_INVALID', `${where} is not an object with a type`);
  const attributes: Record<string, string | number | boolean> = {};
  for (const [name, value] of Object.entries(json)) {
    if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean')
      throw new FlkError(
        'FLK_REF_INVALID',
        `${where}.${shown(name)} is neither a text nor a number nor a truth value`,
      );
    attributes[name] = value;
  }
  const { type } = attributes;
  if (type === 'git') return gitFrom(attributes, where);
  if (type === 'path') return pathFrom(attributes, where);
  const kind = type === 'indirect' ? 'flake' : type === 'tarball' ? 'https' : String(type);
  if (kind === 'mercurial') throw unsupported(where, 'Mercurial');
  const known = Object.hasOwn(unsupportedSchemes, kind) ? unsupportedSchemes[kind] : undefined;
  if (known !== undefined) throw unsupported(where, known);
  throw new FlkError('FLK_REF_INVALID', `${where}.type is not a kind of reference`, {
    facts: { found: shown(String(type)), wanted: 'git or path' },
  });
}

function gitFrom(attributes: Readonly<Record<string, unknown>>, where: string): GitRef {
  const read = new AttributeReader(attributes, where);
  const signature = signatureParameters.find((name) => attributes[name] !== undefined);
  if (signature) throw unsupported(where, `by commit signature (${signature})`);
  const url = normalGitUrl(read.text('url') ?? '', where);
  const ref: GitRef = {
    type: 'git',
    url,
    ...read.optional('ref', read.gitRef()),
    ...read.common(),
    ...Object.fromEntries(
      flags.flatMap((flag) => (attributes[flag] === undefined ? [] : [[flag, read.flag(flag)]])),
    ),
  };
  read.finish(['type', 'url', 'ref', ...commonNames, ...flags]);
  return ref;
}

function pathFrom(attributes: Readonly<Record<string, unknown>>, where: string): PathRef {
  const read = new AttributeReader(attributes, where);
  const path = read.text('path') ?? '';
  if (path === '') throw invalidRef(where, 'its path is empty', 'write ./ for the folder of the manifest');
  const ref: PathRef = { type: 'path', path, ...read.common() };
  read.finish(['type', 'path', ...commonNames]);
  return ref;
}

const commonNames = ['dir', 'rev', 'narHash', 'lastModified', 'revCount'];

/** Checks attributes from outside one by one, then that none is left over. */
class AttributeReader {
  readonly #attributes: Readonly<Record<string, unknown>>;
  readonly #where: string;

  constructor(attributes: Readonly<Record<string, unknown>>, where: string) {
    this.#attributes = attributes;
    this.#where = where;
  }

  text(name: string): string | undefined {
    const value = this.#attributes[name];
    if (value === undefined) return undefined;
    if (typeof value !== 'string') throw this.#fault(`${name} is not a text`);
    if (value.length > maxLength) throw this.#fault(`${name} is longer than ${maxLength} characters`);
    if (/[\u0000-\u001f\u007f]/.test(value)) throw this.#fault(`${name} holds a control character`);
    return value;
  }

  flag(name: string): boolean {
    const value = this.#attributes[name];
    if (typeof value !== 'boolean') throw this.#fault(`${name} is not true or false`);
    return value;
  }

  number(name: string): number | undefined {
    const value = this.#attributes[name];
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      throw this.#fault(`${name} is not a whole number`);
    return value;
  }

  gitRef(): string | undefined {
    const ref = this.text('ref');
    if (ref !== undefined && !isGitRefName(ref)) throw this.#fault(`‘${shown(ref)}’ is not a Git ref`);
    return ref;
  }

  common(): Pick<FlakeRef, 'dir' | 'rev' | 'narHash' | 'lastModified' | 'revCount'> {
    const rev = this.text('rev');
    const hash = this.text('narHash');
    return {
      ...this.optional('dir', this.#dir()),
      ...(rev === undefined ? {} : { rev: this.#rev(rev) }),
      ...(hash === undefined ? {} : { narHash: parseNarHash(hash) }),
      ...this.optional('lastModified', this.number('lastModified')),
      ...this.optional('revCount', this.number('revCount')),
    };
  }

  optional<K extends string, V>(name: K, value: V | undefined): { [P in K]?: V } {
    return value === undefined ? {} : ({ [name]: value } as { [P in K]?: V });
  }

  finish(known: readonly string[]): void {
    const extra = Object.keys(this.#attributes).find((name) => !known.includes(name));
    if (extra !== undefined) throw this.#fault(`it has an attribute that flk does not know: ${shown(extra)}`);
  }

  #rev(rev: string): Rev {
    if (!/^[0-9a-fA-F]{40}$/.test(rev)) throw this.#fault('rev is not 40 hex digits');
    return rev.toLowerCase() as Rev;
  }

  #dir(): string | undefined {
    const dir = this.text('dir')?.replace(/\/+$/, '');
    if (!dir) return undefined;
    if (dir.split('/').some((segment) => segment === '' || segment === '.' || segment === '..'))
      throw this.#fault(`dir ‘${shown(dir)}’ is not a folder within the source`);
    return dir;
  }

  #fault(why: string): FlkError {
    return invalidRef(this.#where, why);
  }
}

/** The rules of git-check-ref-format, except that one word without a slash is enough; and no leading dash. */
export function isGitRefName(name: string): boolean {
  return (
    name.length <= 1024 &&
    !/[\u0000-\u0020\u007f~^:?*[\\]|\.\.|@\{|\/\/|^[-/]|[/.]$|^@$/.test(name) &&
    name.split('/').every((part) => part !== '' && !part.startsWith('.') && !part.endsWith('.lock'))
  );
}

/** A lock may hold `file:/x`, or a bare path; what cannot be reached, and what hides an option or a command, is refused. */
function normalGitUrl(url: string, where: string): string {
  if (url === '') throw invalidRef(where, 'its url is missing');
  const parsed: RefUrl = parseRefUrl(
    url.startsWith('/') ? `file://${encodeURI(url).replaceAll('?', '%3F').replaceAll('#', '%23')}` : url,
  );
  if (!/^(https?|ssh|file)$/.test(parsed.scheme))
    throw new FlkError(
      'FLK_REF_UNSUPPORTED',
      `${shown(where)}: flk does not use Git over ${parsed.scheme}:`,
      {
        facts: { found: parsed.scheme, wanted: 'https, http, ssh or file' },
      },
    );
  if (parsed.scheme === 'file') {
    if (parsed.authority) throw invalidRef(where, `a file has no host (‘${parsed.authority}’)`);
    if (parsed.path[0] !== '' || parsed.path.length < 2)
      throw invalidRef(where, 'git+file needs an absolute path');
  } else if (!parsed.authority || parsed.authority.endsWith('@'))
    throw invalidRef(where, 'its host is missing');
  if (/^-/.test(parsed.path[1] ?? '') && parsed.scheme === 'ssh')
    throw invalidRef(where, 'its path begins with a dash');
  return printRefUrl(parsed);
}

/** The attribute form as locks hold it; what is undefined has no entry. */
export function refToAttributes(ref: FlakeRef): RefAttributes {
  return Object.fromEntries(Object.entries(ref).filter(([, value]) => value !== undefined)) as RefAttributes;
}

/** A path that only the manifest around it gives a meaning. */
export function isRelativePath(ref: FlakeRef): ref is PathRef {
  return ref.type === 'path' && !ref.path.startsWith('/');
}

/** Says exactly which bytes are meant: a revision, or for a path a hash. */
export function isLocked(ref: FlakeRef): boolean {
  return ref.type === 'git' ? ref.rev !== undefined : ref.narHash !== undefined;
}

const attributeNames = [
  'type',
  'url',
  'path',
  'ref',
  'rev',
  'dir',
  ...flags,
  'narHash',
  'lastModified',
  'revCount',
] as const;

type AnyAttributes = { readonly [name in (typeof attributeNames)[number]]?: string | number | boolean };

/** One text per reference, attributes and all; for keys of maps. */
export function refKey(ref: FlakeRef): string {
  const attributes: AnyAttributes = ref;
  // No attribute holds a control character.
  return attributeNames.map((name) => attributes[name] ?? '').join('\n');
}

/** Whether two references are written alike. Locks of old Nix repeat `dir` in the URL: that does not count. */
export function sameRef(a: FlakeRef, b: FlakeRef): boolean {
  return sameAttributes(a, b) || sameAttributes(withoutDirInUrl(a), withoutDirInUrl(b));
}

function sameAttributes(a: AnyAttributes, b: AnyAttributes): boolean {
  return a === b || attributeNames.every((name) => a[name] === b[name]);
}

function withoutDirInUrl(ref: FlakeRef): FlakeRef {
  if (ref.type !== 'git' || ref.dir === undefined || !ref.url.includes('?')) return ref;
  const url = parseRefUrl(ref.url);
  if (url.query.get('dir') !== ref.dir) return ref;
  return {
    ...ref,
    url: printRefUrl({ ...url, query: new Map([...url.query].filter(([name]) => name !== 'dir')) }),
  };
}

/** `.#hello` → `.` and `hello`, decoded; without `#` the fragment is undefined. Throws FLK_REF_INVALID. */
export function splitFragment(text: string): { readonly ref: string; readonly fragment?: string } {
  const hash = text.indexOf('#');
  if (hash < 0) return { ref: text };
  try {
    return { ref: text.slice(0, hash), fragment: decodeURIComponent(text.slice(hash + 1)) };
  } catch (cause) {
    throw new FlkError('FLK_REF_INVALID', `‘${shown(text)}’: what follows # is not UTF-8`, { cause });
  }
}
