/**
 * Flake references: where a flake is (string form in manifests and on the command line, attribute form in locks), printed the
 * way Nix 2.34 prints them.
 */
import { posix } from 'node:path';
import { FlkError } from '../base/errors.ts';
import {
  gitFlags,
  isFlakeId,
  isGitRefName,
  maxRefLength,
  refFromAttributes,
  refToAttributes,
  signatureParameters,
  unsupportedRef,
} from './ref-attributes.ts';
import type { CurlRef, FlakeRef, ForgeRef, GitRef, IndirectRef, PathRef } from './ref-model.ts';
import { decodeQuery, invalidRef, parseRefUrl, parseTypedUrl, printRefUrl, shown } from './ref-url.ts';

export type {
  CurlRef,
  FlakeRef,
  ForgeRef,
  GitRef,
  IndirectRef,
  PathRef,
  RefAttributes,
  Rev,
} from './ref-model.ts';
export { isGitRefName, refFromAttributes, refToAttributes };

/** Nix prints these in a URL; `allRefs` it forgets. */
const printedFlags = ['shallow', 'submodules', 'lfs', 'exportIgnore'] as const;

export interface ParseRefOptions {
  /** An absolute folder, from which relative paths are made absolute. Without it they stay relative. */
  readonly relativeTo?: string;
  /** False where only files are wanted: then a plain URL is an archive only by its ending, and else one file. Default true. */
  readonly flake?: boolean;
}

/** The string form. Throws FLK_REF_INVALID, FLK_REF_UNSUPPORTED, FLK_REF_CREDENTIALS or FLK_HASH_INVALID. */
export function parseFlakeRef(text: string, options: ParseRefOptions = {}): FlakeRef {
  const ref = parseRef(text, options.flake ?? true);
  if (options.relativeTo === undefined || !isRelativePath(ref)) return ref;
  return { ...ref, path: posix.resolve(options.relativeTo, ref.path) };
}

function parseRef(text: string, flake: boolean): FlakeRef {
  if (text.length > maxRefLength) throw invalidRef(text, `longer than ${maxRefLength} characters`);
  if (/[\u0000-\u001f\u007f]/.test(text)) throw invalidRef(text, 'it holds a control character');
  if (text === '') throw invalidRef(text, 'it is empty');
  if (text.includes('#')) throw invalidRef(text, 'a package name after # has no place here');
  if (/^[./]/.test(text)) return parseBarePath(text);
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):(?!:)/.exec(text)?.[1];
  if (scheme === undefined) return parseWithoutScheme(text);
  const [, application = '', transport = scheme] = /^([^+]+)\+(.*)$/.exec(scheme) ?? [];
  const isWeb = /^(https?|file)$/.test(transport);
  switch (application) {
    case 'git':
      if (!/^(https?|ssh|file|git)$/.test(transport))
        throw unsupportedRef(text, `Git over ${shown(transport)}:; write git+https:// or git+ssh:// instead`);
      return parseGit(text, transport);
    case 'tarball':
    case 'file':
      if (isWeb) return parseCurl(text, application, transport);
      break;
    case 'hg':
      throw unsupportedRef(text, 'Mercurial');
    case '':
      if (isWeb) return parsePlainUrl(text, transport, flake);
      if (scheme === 'path') return parsePath(text);
      if (scheme === 'flake') return parseIndirect(text);
      if (isForge(scheme)) return parseForge(text, scheme);
      if (scheme === 'git' && /^git:\/\//.test(text)) return parseGit(text, scheme);
  }
  throw invalidRef(text, `‘${shown(scheme)}:’ is not a kind of reference`);
}

function parseWithoutScheme(text: string): FlakeRef {
  // What follows an id is a ref, a rev, or both.
  if (/^[a-zA-Z][a-zA-Z0-9_-]*(\/[a-zA-Z0-9@][a-zA-Z0-9_./@+-]*)?$/.test(text))
    return parseIndirect(`flake:${text}`);
  const scp = /^([A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+):(?!:)\/?(.*)$/.exec(text);
  if (scp) throw invalidRef(text, 'no kind of reference', `write git+ssh://${scp[1]}/${scp[2]}`);
  const forge = /^(?:www\.)?(github\.com|gitlab\.com|git\.sr\.ht)\/(.+)$/.exec(text);
  if (forge) throw invalidRef(text, 'no kind of reference', forgeHint(forge[1]!, forge[2]!));
  if (/^[A-Za-z0-9_./-]+$/.test(text))
    throw invalidRef(text, 'no kind of reference', `write ./${shown(text)} for a folder`);
  throw invalidRef(text, 'no kind of reference');
}

const forgeOfHost: Readonly<Record<string, ForgeRef['type']>> = {
  'github.com': 'github',
  'gitlab.com': 'gitlab',
  'git.sr.ht': 'sourcehut',
};

function forgeHint(host: string, path: string): string {
  const repository = path.replace(/\/+$/, '');
  return `did you mean ${forgeOfHost[host]}:${repository.replace(/\.git$/, '')}, or git+https://${host}/${repository}?`;
}

/** Without a scheme nothing is decoded, as a shell's words are not. */
function parseBarePath(text: string): PathRef {
  const mark = text.indexOf('?');
  const path = mark < 0 ? text : text.slice(0, mark);
  return pathWith(text, path.split('/'), decodeQuery(text, mark < 0 ? '' : text.slice(mark + 1)));
}

function parsePath(text: string): PathRef {
  const { authority, path, query } = parseTypedUrl(text);
  if (authority) throw invalidRef(text, `a path has no host (‘${authority}’)`);
  if (path.some((segment) => segment.includes('/')))
    throw invalidRef(text, 'a name in its path holds a slash (%2F)');
  return pathWith(text, path, query);
}

function pathWith(text: string, path: readonly string[], query: ReadonlyMap<string, string>): PathRef {
  const attributes: Record<string, string | number> = {
    type: 'path',
    // Nix joins what stands between slashes, so doubled ones vanish.
    path: path.join('/').replace(/\/+/g, '/'),
  };
  for (const [name, value] of query) {
    if (name === 'revCount' || name === 'lastModified') attributes[name] = integer(text, name, value);
    else if (name === 'dir' || name === 'rev' || name === 'narHash') attributes[name] = value;
    else throw invalidRef(text, `a path takes no parameter ‘${shown(name)}’`);
  }
  return refFromAttributes(attributes, text) as PathRef;
}

function integer(text: string, name: string, value: string): number {
  if (!/^\+?[0-9]{1,15}$/.test(value)) throw invalidRef(text, `${name} is not a number`);
  return Number(value);
}

function parseGit(text: string, transport: string): GitRef {
  const parsed = parseTypedUrl(text);
  const attributes: Record<string, string | boolean> = { type: 'git' };
  const query = new Map<string, string>();
  for (const [name, value] of parsed.query) {
    if (name === 'dir' || name === 'ref' || name === 'rev') attributes[name] = value;
    else if (isFlag(name)) attributes[name] = value === '1';
    else if (signatureParameters.includes(name)) throw unsupportedRef(text, `by commit signature (${name})`);
    else query.set(name, value);
  }
  // The rest is the server's own: it stays in the URL.
  attributes.url = printRefUrl({ ...parsed, scheme: transport, query });
  return refFromAttributes(attributes, text) as GitRef;
}

const isFlag = (name: string): name is (typeof gitFlags)[number] =>
  (gitFlags as readonly string[]).includes(name);

const isForge = (type: string): type is ForgeRef['type'] =>
  Object.values(forgeOfHost).some((forge) => forge === type);

function parseForge(text: string, type: ForgeRef['type']): ForgeRef {
  const { authority, path, query } = parseTypedUrl(text);
  if (authority) throw invalidRef(text, 'its host belongs at its end', `write ${type}:OWNER/REPO?host=HOST`);
  const [owner, repo, ...rest] = path.filter((segment) => segment !== '');
  if (owner === undefined || repo === undefined)
    throw invalidRef(text, 'it names no repository', `write ${type}:OWNER/REPO, or ${type}:OWNER/REPO/REF`);
  const attributes: Record<string, string> = { type, owner, repo };
  if (rest.length === 1 && /^[0-9a-fA-F]{40}$/.test(rest[0]!)) attributes.rev = rest[0]!;
  else if (rest.length > 0) attributes.ref = rest.join('/');
  for (const [name, value] of query) {
    if ((name === 'ref' || name === 'rev') && attributes[name] !== undefined)
      throw invalidRef(text, `it names two ${name}s`, 'keep one of them');
    // Nix reads past whatever else a query holds.
    if (['ref', 'rev', 'host', 'narHash', 'dir'].includes(name)) attributes[name] = value;
  }
  return refFromAttributes(attributes, text) as ForgeRef;
}

function parseIndirect(text: string): IndirectRef {
  const { authority, path, query } = parseTypedUrl(text);
  if (authority) throw invalidRef(text, `an id of registries has no host (‘${authority}’)`);
  const [id, ...rest] = path.filter((segment) => segment !== '');
  if (id === undefined || !isFlakeId(id))
    throw invalidRef(
      text,
      'it names no id of registries',
      'write flake:ID, flake:ID/REF or flake:ID/REF/REV',
    );
  const isRev = (word: string | undefined) => word !== undefined && /^[0-9a-fA-F]{40}$/.test(word);
  const attributes: Record<string, string> = { type: 'indirect', id };
  const rev = rest.length === 2 || isRev(rest[0]) ? rest.pop() : undefined;
  if (rev !== undefined) {
    if (!isRev(rev))
      throw invalidRef(text, `‘${shown(rev)}’ is not a commit’s hash`, 'write a / within a ref as %2F');
    attributes.rev = rev;
  }
  if (rest.length > 1)
    throw invalidRef(text, 'an id takes a ref and a rev, no more', 'write a / within a ref as %2F');
  if (rest[0] !== undefined) attributes.ref = rest[0];
  const dir = query.get('dir');
  if (dir !== undefined) attributes.dir = dir;
  return refFromAttributes(attributes, text) as IndirectRef;
}

function parsePlainUrl(text: string, transport: string, flake: boolean): CurlRef {
  const { authority, path } = parseTypedUrl(text);
  const repository = path.filter((segment) => segment !== '');
  // The page of a repository is never what is meant.
  if (authority !== undefined && Object.hasOwn(forgeOfHost, authority) && repository.length === 2)
    throw invalidRef(
      text,
      'it leads to a page about a repository',
      forgeHint(authority, repository.join('/')),
    );
  const archive = /\.(zip|tar|tgz|tar\.(gz|xz|bz2|zst))$/.test(path.at(-1) ?? '');
  return parseCurl(text, flake || archive ? 'tarball' : 'file', transport);
}

function parseCurl(text: string, type: CurlRef['type'], transport: string): CurlRef {
  const parsed = parseTypedUrl(text);
  const attributes: Record<string, string | number> = { type };
  const query = new Map<string, string>();
  for (const [name, value] of parsed.query) {
    if (name === 'dir' || name === 'rev' || name === 'narHash') attributes[name] = value;
    else if (name === 'revCount' || name === 'lastModified') {
      // Nix reads past what is no number.
      if (/^\+?[0-9]+$/.test(value)) attributes[name] = integer(text, name, value);
    } else if (name !== 'url' && name !== 'name' && name !== 'unpack') query.set(name, value);
  }
  attributes.url = printRefUrl({ ...parsed, scheme: transport, query });
  return refFromAttributes(attributes, text) as CurlRef;
}

/** As Nix prints it. What only a lock says (`narHash` and the like of a Git reference) is not part of it. */
export function printFlakeRef(ref: FlakeRef): string {
  const parameters = new Map<string, string>();
  const put = (name: string, value: string | number | undefined) => {
    if (value !== undefined) parameters.set(name, String(value));
  };
  switch (ref.type) {
    case 'path':
      put('dir', ref.dir);
      put('rev', ref.rev);
      put('narHash', ref.narHash);
      put('lastModified', ref.lastModified);
      put('revCount', ref.revCount);
      return printRefUrl({ scheme: 'path', path: ref.path.split('/'), query: parameters });
    case 'git':
      put('rev', ref.rev);
      put('ref', ref.ref);
      for (const flag of printedFlags) if (ref[flag]) put(flag, '1');
      // Git's own protocol says already that it is Git's.
      return `${ref.url.startsWith('git:') ? '' : 'git+'}${withParameters(ref.url, parameters, ref.dir)}`;
    case 'tarball':
    case 'file':
      put('narHash', ref.narHash);
      return withParameters(ref.url, parameters, ref.dir);
    case 'github':
    case 'gitlab':
    case 'sourcehut': {
      put('dir', ref.dir);
      put('host', ref.host);
      put('narHash', ref.narHash);
      return printRefUrl({
        scheme: ref.type,
        path: pathOf(ref.owner, ref.repo, ref.ref, ref.rev),
        query: parameters,
      });
    }
    case 'indirect':
      put('dir', ref.dir);
      return printRefUrl({ scheme: 'flake', path: pathOf(ref.id, ref.ref, ref.rev), query: parameters });
  }
}

const pathOf = (...parts: readonly (string | undefined)[]): string[] =>
  parts.filter((part) => part !== undefined);

/** A `dir` that the URL holds already stays what it is. */
function withParameters(
  url: string,
  parameters: ReadonlyMap<string, string>,
  dir: string | undefined,
): string {
  const parsed = parseRefUrl(url);
  const start = dir === undefined ? [] : [['dir', dir] as const];
  return printRefUrl({ ...parsed, query: new Map([...start, ...parsed.query, ...parameters]) });
}

/** A path that only the manifest around it gives a meaning. */
export function isRelativePath(ref: FlakeRef): ref is PathRef {
  return ref.type === 'path' && !ref.path.startsWith('/');
}

/** A repository, with branches, tags and revisions. */
export function isRepository(ref: FlakeRef): ref is GitRef | ForgeRef {
  return ref.type === 'git' || isForge(ref.type);
}

/** Says exactly which bytes are meant: a repository by its revision, everything else by its hash. */
export function isLocked(ref: FlakeRef): boolean {
  switch (ref.type) {
    case 'git':
    case 'github':
    case 'gitlab':
    case 'sourcehut':
      return ref.rev !== undefined && !/^0+$/.test(ref.rev);
    case 'path':
    case 'tarball':
    case 'file':
      return ref.narHash !== undefined;
    case 'indirect':
      return false;
  }
}

/** One text per reference, attributes and all; for keys of maps. */
export function refKey(ref: FlakeRef): string {
  // No attribute holds a control character.
  return Object.entries(refToAttributes(ref))
    .map(([name, value]) => `${name}=${value}`)
    .sort()
    .join('\n');
}

/** Whether two references are written alike. Locks of old Nix repeat `dir` in the URL: that does not count. */
export function sameRef(a: FlakeRef, b: FlakeRef): boolean {
  return a === b || refKey(a) === refKey(b) || refKey(withoutDirInUrl(a)) === refKey(withoutDirInUrl(b));
}

function withoutDirInUrl(ref: FlakeRef): FlakeRef {
  if (!('url' in ref)) return ref;
  const url = parseRefUrl(ref.url);
  const query = new Map(url.query);
  if (ref.dir !== undefined && query.get('dir') === ref.dir) query.delete('dir');
  return { ...ref, url: printRefUrl({ ...url, query }) };
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
