/** The attribute form of flake references, out of a lock, a manifest or a registry: every attribute checked, none left over. */
import type { Json } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import { parseNarHash } from '../formats/hash.ts';
import type {
  CurlRef,
  FlakeRef,
  ForgeRef,
  GitRef,
  IndirectRef,
  PathRef,
  RefAttributes,
  Rev,
} from './ref-model.ts';
import { invalidRef, parseRefUrl, printRefUrl, type RefUrl, shown } from './ref-url.ts';

/** Of a reference, and of each attribute. */
export const maxRefLength = 4096;

export const gitFlags = ['shallow', 'submodules', 'lfs', 'exportIgnore', 'allRefs'] as const;
/** Promises about signatures: to read past one would be to break it. */
export const signatureParameters = ['verifyCommit', 'publicKey', 'publicKeys', 'keytype'];

/** Names of attributes and what they hold, before anybody has looked at them. */
type Raw = Readonly<Record<string, unknown>>;

/**
 * The attribute form. `where` names its place in errors (`nodes.greet.locked`). Throws FLK_REF_INVALID, FLK_REF_UNSUPPORTED,
 * FLK_REF_CREDENTIALS or FLK_HASH_INVALID.
 */
export function refFromAttributes(json: Json | undefined, where: string): FlakeRef {
  if (json === null || typeof json !== 'object' || Array.isArray(json))
    throw new FlkError('FLK_REF_INVALID', `${where} is not an object with a type`);
  const attributes: Raw = { ...json };
  const { type } = attributes;
  switch (type) {
    case 'git':
      return gitFrom(attributes, where);
    case 'path':
      return pathFrom(attributes, where);
    case 'github':
    case 'gitlab':
    case 'sourcehut':
      return forgeFrom(type, attributes, where);
    case 'tarball':
    case 'file':
      return curlFrom(type, attributes, where);
    case 'indirect':
      return indirectFrom(attributes, where);
    case 'hg':
    case 'mercurial':
      throw unsupportedRef(where, 'Mercurial');
    default:
      throw new FlkError('FLK_REF_INVALID', `${where}.type is not a kind of reference`, {
        facts: {
          found: shown(JSON.stringify(type) ?? 'nothing'),
          wanted: 'git, path, github, gitlab, sourcehut, tarball, file or indirect',
        },
      });
  }
}

/** The attribute form as locks hold it; what is undefined has no entry. */
export function refToAttributes(ref: FlakeRef): RefAttributes {
  return Object.fromEntries(Object.entries(ref).filter(([, value]) => value !== undefined)) as RefAttributes;
}

export function unsupportedRef(text: string, kind: string): FlkError {
  return new FlkError('FLK_REF_UNSUPPORTED', `flake reference ‘${shown(text)}’: flk does not fetch ${kind}`);
}

function gitFrom(attributes: Raw, where: string): GitRef {
  const read = new AttributeReader(attributes, where);
  const signature = signatureParameters.find((name) => attributes[name] !== undefined);
  if (signature) throw unsupportedRef(where, `by commit signature (${signature})`);
  const ref: GitRef = {
    type: 'git',
    url: normalGitUrl(read.text('url') ?? '', where),
    ...read.optional('ref', read.gitRef()),
    ...read.common(),
    ...read.revCount(),
    ...read.flags(gitFlags),
    ...read.optional('name', read.storeName()),
    ...read.optional('dirtyRev', read.text('dirtyRev')),
    ...read.optional('dirtyShortRev', read.text('dirtyShortRev')),
  };
  read.finish();
  return ref;
}

function pathFrom(attributes: Raw, where: string): PathRef {
  const read = new AttributeReader(attributes, where);
  const path = read.text('path') ?? '';
  if (path === '') throw invalidRef(where, 'its path is empty', 'write ./ for the folder of the manifest');
  const ref: PathRef = { type: 'path', path, ...read.common(), ...read.revCount() };
  read.finish();
  return ref;
}

function forgeFrom(type: ForgeRef['type'], attributes: Raw, where: string): ForgeRef {
  const read = new AttributeReader(attributes, where);
  const owner = read.required('owner');
  const repo = read.required('repo');
  for (const [what, name] of [
    ['owner', owner],
    ['repo', repo],
  ] as const) {
    const parts = type === 'gitlab' && what === 'owner' ? name.split('/') : [name];
    if (!parts.every((part) => /^[A-Za-z0-9_.~+-]+$/.test(part) && !/^(\.{1,2}$|-)/.test(part)))
      throw invalidRef(
        where,
        `‘${shown(name)}’ is not the name of ${what === 'owner' ? 'an owner' : 'a repository'}`,
      );
  }
  const ref: ForgeRef = {
    type,
    owner,
    repo,
    ...read.optional('host', read.host()),
    ...read.optional('ref', read.gitRef()),
    ...read.common(),
    ...read.optional('treeHash', read.text('treeHash')),
  };
  if (ref.ref !== undefined && ref.rev !== undefined)
    throw invalidRef(where, 'it names a ref and a rev', 'keep one of them');
  read.finish();
  return ref;
}

function curlFrom(type: CurlRef['type'], attributes: Raw, where: string): CurlRef {
  const read = new AttributeReader(attributes, where);
  const url = read.required('url');
  const { scheme } = checkTransport(parseRefUrl(url), where);
  if (!/^(https?|file)$/.test(scheme)) throw unsupportedRef(where, `a ${type} over ${scheme}:`);
  const ref: CurlRef = {
    type,
    url,
    ...read.common(),
    ...read.revCount(),
    ...read.optional('name', read.storeName()),
    ...read.flags(['unpack']),
  };
  read.finish();
  return ref;
}

function indirectFrom(attributes: Raw, where: string): IndirectRef {
  const read = new AttributeReader(attributes, where);
  const id = read.required('id');
  if (!isFlakeId(id)) throw invalidRef(where, `‘${shown(id)}’ is not an id of registries`);
  const ref: IndirectRef = {
    type: 'indirect',
    id,
    ...read.optional('ref', read.gitRef()),
    ...read.pin(),
  };
  read.finish();
  return ref;
}

/** Names that registries know. */
export function isFlakeId(text: string): boolean {
  return /^[a-zA-Z][a-zA-Z0-9_-]*$/.test(text);
}

/** Checks attributes from outside one by one, then that none is left over. */
class AttributeReader {
  readonly #attributes: Raw;
  readonly #where: string;
  readonly #seen = new Set(['type']);

  constructor(attributes: Raw, where: string) {
    this.#attributes = attributes;
    this.#where = where;
  }

  text(name: string): string | undefined {
    const value = this.#value(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'string') throw this.#fault(`${name} is not a text`);
    if (value.length > maxRefLength) throw this.#fault(`${name} is longer than ${maxRefLength} characters`);
    if (/[\u0000-\u001f\u007f]/.test(value)) throw this.#fault(`${name} holds a control character`);
    return value;
  }

  required(name: string): string {
    const value = this.text(name);
    if (value === undefined || value === '') throw this.#fault(`its ${name} is missing`);
    return value;
  }

  number(name: string): number | undefined {
    const value = this.#value(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      throw this.#fault(`${name} is not a whole number`);
    return value;
  }

  flags<K extends string>(names: readonly K[]): { readonly [P in K]?: boolean } {
    const found = names.flatMap((name) => {
      const value = this.#value(name);
      if (value === undefined) return [];
      if (typeof value !== 'boolean') throw this.#fault(`${name} is not true or false`);
      return [[name, value]];
    });
    return Object.fromEntries(found) as { [P in K]?: boolean };
  }

  gitRef(): string | undefined {
    const ref = this.text('ref');
    if (ref !== undefined && !isGitRefName(ref)) throw this.#fault(`‘${shown(ref)}’ is not a Git ref`);
    return ref;
  }

  /** A port has no place here, as in Nix. */
  host(): string | undefined {
    const host = this.text('host');
    if (host !== undefined && !/^[a-zA-Z0-9][a-zA-Z0-9.-]{0,252}$/.test(host))
      throw this.#fault(`‘${shown(host)}’ is not a host`);
    return host;
  }

  storeName(): string | undefined {
    const name = this.text('name');
    if (name !== undefined && !/^(?!\.{1,2}(-|$))[A-Za-z0-9+._?=-]{1,211}$/.test(name))
      throw this.#fault(`‘${shown(name)}’ cannot name a store path`);
    return name;
  }

  /** What every kind takes. */
  pin(): Pick<FlakeRef, 'dir' | 'rev' | 'narHash'> {
    const rev = this.text('rev');
    const hash = this.text('narHash');
    return {
      ...this.optional('dir', this.#dir()),
      ...(rev === undefined ? {} : { rev: this.#rev(rev) }),
      ...(hash === undefined ? {} : { narHash: parseNarHash(hash) }),
    };
  }

  /** What every kind takes that is fetched. */
  common(): Pick<FlakeRef, 'dir' | 'rev' | 'narHash' | 'lastModified'> {
    return { ...this.pin(), ...this.optional('lastModified', this.number('lastModified')) };
  }

  revCount(): { readonly revCount?: number } {
    return this.optional('revCount', this.number('revCount'));
  }

  optional<K extends string, V>(name: K, value: V | undefined): { [P in K]?: V } {
    return value === undefined ? {} : ({ [name]: value } as { [P in K]?: V });
  }

  finish(): void {
    const extra = Object.keys(this.#attributes).find(
      (name) => this.#attributes[name] !== undefined && !this.#seen.has(name),
    );
    if (extra === undefined) return;
    const { type } = this.#attributes;
    throw this.#fault(`a ${String(type)} reference takes no ‘${shown(extra)}’`);
  }

  #value(name: string): unknown {
    this.#seen.add(name);
    return Object.hasOwn(this.#attributes, name) ? this.#attributes[name] : undefined;
  }

  #rev(rev: string): Rev {
    if (!/^[0-9a-fA-F]{40}$/.test(rev)) throw this.#fault('rev is not 40 hex digits');
    return rev.toLowerCase() as Rev;
  }

  #dir(): string | undefined {
    const dir = this.text('dir');
    if (!dir) return undefined;
    const whole = dir.replace(/\/+$/, '');
    if (whole.split('/').some((segment) => segment === '' || segment === '.' || segment === '..'))
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

/**
 * The attribute form takes what people give to Git, too: a bare path, `user@host:path`, a `git+` too much. What cannot be reached,
 * and what hides an option or a command, is refused.
 */
function normalGitUrl(url: string, where: string): string {
  if (url === '') throw invalidRef(where, 'its url is missing');
  const scp = /^([A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+):(?!:)(.*)$/.exec(url);
  const asPath = url.startsWith('/')
    ? `file://${encodeURI(url).replaceAll('?', '%3F').replaceAll('#', '%23')}`
    : url.replace(/^git\+/, '');
  const parsed: RefUrl = parseRefUrl(scp ? `ssh://${scp[1]}/${scp[2]}` : asPath);
  if (!/^(https?|ssh|file|git)$/.test(parsed.scheme))
    throw new FlkError(
      'FLK_REF_UNSUPPORTED',
      `${shown(where)}: flk does not use Git over ${parsed.scheme}:`,
      { facts: { found: parsed.scheme, wanted: 'https, http, ssh, git or file' } },
    );
  return printRefUrl(checkTransport(parsed, where));
}

function checkTransport(parsed: RefUrl, where: string): RefUrl {
  if (parsed.scheme === 'file') {
    if (parsed.authority) throw invalidRef(where, `a file has no host (‘${parsed.authority}’)`);
    if (parsed.path[0] !== '' || parsed.path.length < 2)
      throw invalidRef(where, 'a file needs an absolute path');
  } else if (!parsed.authority || parsed.authority.endsWith('@'))
    throw invalidRef(where, 'its host is missing');
  if (/^-/.test(parsed.path[1] ?? '') && /^(ssh|git)$/.test(parsed.scheme))
    throw invalidRef(where, 'its path begins with a dash');
  return parsed;
}
