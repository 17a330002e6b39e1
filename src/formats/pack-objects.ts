/** What stands inside Git's objects: commits, tags and trees. Source: gitformat-pack(5), git-fsck(1) for what must be refused. */
import { FlkError } from '../base/errors.ts';
import { isNodeName } from './nar.ts';

/**
 * The name of an object, as 20 characters of one byte each (latin1): a quarter of the memory of a Buffer, half of hex, and a
 * key for a Map.
 */
export type ObjectId = string & { readonly __brand: 'ObjectId' };

/** From forty hex digits. */
export const objectIdOf = (hex: string): ObjectId => Buffer.from(hex, 'hex').toString('latin1') as ObjectId;

/** Forty hex digits. */
export const hexOf = (id: ObjectId): string => Buffer.from(id, 'latin1').toString('hex');

export interface Commit {
  readonly tree: ObjectId;
  /** The committer's time, seconds since 1970. */
  readonly time: number;
}

/** Throws FLK_GIT_PACK where the tree or the time cannot be found. */
export function parseCommit(data: Buffer, name: string): Commit {
  const header = headerOf(data);
  const tree = /^tree ([0-9a-f]{40})\n/.exec(header)?.[1];
  const time = /^committer [^\n]*> (\d{1,12}) [+-]\d{1,7}$/m.exec(header)?.[1];
  if (tree === undefined || time === undefined)
    throw new FlkError(
      'FLK_GIT_PACK',
      `commit ${name} has no ${tree === undefined ? 'tree' : 'committer time'}`,
    );
  return { tree: objectIdOf(tree), time: Number(time) };
}

/** The object that an annotated tag names. Throws FLK_GIT_PACK where there is none. */
export function parseTag(data: Buffer, name: string): ObjectId {
  const object = /^object ([0-9a-f]{40})\n/.exec(headerOf(data))?.[1];
  if (object === undefined) throw new FlkError('FLK_GIT_PACK', `tag ${name} names no object`);
  return objectIdOf(object);
}

/** The lines before the message; a commit's message may be long, its header is not. */
function headerOf(data: Buffer): string {
  const end = data.indexOf('\n\n');
  return data.toString('latin1', 0, Math.min(end < 0 ? data.length : end + 1, 1024 * 1024));
}

type EntryKind = 'directory' | 'file' | 'executable' | 'symlink' | 'gitlink';

export interface TreeEntry {
  readonly name: Buffer;
  readonly kind: EntryKind;
  readonly id: ObjectId;
}

/**
 * The entries in byte order of their names, which is the NAR's order and not the tree's own: Git sorts a folder as if its name
 * ended in `/`. Throws FLK_GIT_TREE for what no file system should be given: names like `..` or `.git`, two of one name,
 * modes that Git does not have.
 */
export function parseTree(data: Buffer, treeId: ObjectId): TreeEntry[] {
  const refuse = (what: string): FlkError => new FlkError('FLK_GIT_TREE', `tree ${hexOf(treeId)} ${what}`);
  const entries: TreeEntry[] = [];
  let sorted = true;
  let at = 0;
  while (at < data.length) {
    const space = data.indexOf(0x20, at);
    const nul = space < 0 ? -1 : data.indexOf(0, space);
    if (nul < 0 || nul + 21 > data.length) throw refuse('breaks off inside an entry');
    const kind = kindOf(data.toString('latin1', at, Math.min(space, at + 8)));
    const name = data.subarray(space + 1, nul);
    if (kind === undefined) throw refuse(`has an entry of mode ${quoted(data.subarray(at, space))}`);
    if (!isNodeName(name) || isDotGit(name)) throw refuse(`has an entry named ${quoted(name)}`);
    const previous = entries.at(-1);
    if (previous && Buffer.compare(previous.name, name) >= 0) sorted = false;
    entries.push({ name, kind, id: data.toString('latin1', nul + 1, nul + 21) as ObjectId });
    at = nul + 21;
  }
  if (sorted) return entries;
  entries.sort((a, b) => Buffer.compare(a.name, b.name));
  for (let i = 1; i < entries.length; i++) {
    const { name } = entries[i]!;
    if (name.equals(entries[i - 1]!.name)) throw refuse(`has two entries named ${quoted(name)}`);
  }
  return entries;
}

/** Early Git kept more permission bits and wrote leading zeros; only the owner's executable bit ever counted. */
function kindOf(mode: string): EntryKind | undefined {
  if (!/^0?[0-7]{5,6}$/.test(mode)) return undefined;
  const bits = Number.parseInt(mode, 8);
  switch (bits & 0o170000) {
    case 0o100000:
      return (bits & 0o7000) !== 0 ? undefined : bits & 0o100 ? 'executable' : 'file';
    case 0o040000:
      return bits === 0o040000 ? 'directory' : undefined;
    case 0o120000:
      return bits === 0o120000 ? 'symlink' : undefined;
    case 0o160000:
      return bits === 0o160000 ? 'gitlink' : undefined;
    default:
      return undefined;
  }
}

/** In any case of letters: some file systems take `.GIT` for `.git`. */
const isDotGit = (name: Buffer): boolean =>
  name.length === 4 && name.toString('latin1').toLowerCase() === '.git';

const quoted = (bytes: Buffer): string => JSON.stringify(bytes.toString('utf8', 0, 100));
