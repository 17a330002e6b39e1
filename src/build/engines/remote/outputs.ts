/** What a server says that a build left, fetched into a folder. All of it is checked as it comes: it is a stranger's word. */
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { limiter } from '../../../base/concurrency.ts';
import { FlkError } from '../../../base/errors.ts';
import { isNodeName, maxDepth, maxTargetLength } from '../../../formats/nar.ts';
import {
  type ActionResult,
  type Codec,
  type Digest,
  Directory,
  decode,
  type OutputDirectory,
  Tree,
} from '../../../generated/remote-execution.ts';
import type { Blobs } from './blobs.ts';
import { blobDigest, checkedDigest, keyOf } from './digest.ts';

/** Far more than a build has, far less than memory. */
const maxNodes = 1_000_000;
const maxTreeBytes = 256 * 2 ** 20;
/** Small ones travel together: the more wait, the fewer calls; each may be held whole meanwhile. */
const filesAtOnce = 512;

export interface FetchOptions {
  readonly blobs: Blobs;
  /** Where the outputs are made, by their names. */
  readonly folder: string;
  /** Where the server was told to look → the output's name. */
  readonly places: ReadonlyMap<string, string>;
  /** Of all files together. */
  readonly maxBytes: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Output name → where it lies now; one that the server does not have is not there. Throws FLK_REMOTE_INTEGRITY,
 * FLK_BUILD_OUTPUT_LIMIT, and what calls do.
 */
export async function fetchOutputs(
  result: ActionResult,
  options: FetchOptions,
): Promise<Map<string, string>> {
  return await new Fetch(options).all(result);
}

class Fetch {
  readonly #options: FetchOptions;
  #nodes = 0;
  #bytes = 0;
  /** Files, one after the other as they are met. */
  readonly #files: {
    readonly digest: Digest;
    readonly path: string | Buffer;
    readonly executable: boolean;
  }[] = [];
  readonly #made = new Map<string, string>();

  constructor(options: FetchOptions) {
    this.#options = options;
  }

  async all(result: ActionResult): Promise<Map<string, string>> {
    for (const { path, digest, isExecutable } of result.outputFiles) {
      const place = this.#place(path);
      if (place === undefined) continue;
      this.#count(1);
      this.#file(place, checkedDigest(digest, 'an output'), isExecutable);
    }
    const links = [...result.outputSymlinks, ...result.outputFileSymlinks, ...result.outputDirectorySymlinks];
    const told = new Map<string, Buffer>();
    for (const { path, target } of links) {
      // Older and newer lists may name the same one.
      if (told.get(path)?.equals(target)) continue;
      told.set(path, target);
      const place = this.#place(path);
      if (place === undefined) continue;
      this.#count(1);
      await makeLink(place, target);
    }
    for (const output of result.outputDirectories) {
      const place = this.#place(output.path);
      if (place !== undefined) await this.#tree(output, place);
    }
    const { blobs, signal } = this.#options;
    const some = limiter(filesAtOnce);
    await Promise.all(
      this.#files.map(({ digest, path, executable }) =>
        some(() => blobs.readInto(digest, path, executable, signal)),
      ),
    );
    return this.#made;
  }

  /** Where an output is made; undefined for what nobody asked for. */
  #place(path: string): string | undefined {
    const name = this.#options.places.get(path);
    if (name === undefined) return undefined;
    if (this.#made.has(name)) throw impossible(`the output ${name} twice`);
    const place = join(this.#options.folder, name);
    this.#made.set(name, place);
    return place;
  }

  #file(path: string | Buffer, digest: Digest, executable: boolean): void {
    this.#bytes += digest.sizeBytes;
    if (this.#bytes > this.#options.maxBytes)
      throw new FlkError(
        'FLK_BUILD_OUTPUT_LIMIT',
        `outputs of more than ${this.#options.maxBytes} bytes are not kept`,
      );
    this.#files.push({ digest, path, executable });
  }

  async #tree({ treeDigest, rootDirectoryDigest }: OutputDirectory, place: string): Promise<void> {
    const { blobs, signal } = this.#options;
    if (treeDigest) {
      const digest = checkedDigest(treeDigest, 'an output');
      if (digest.sizeBytes > maxTreeBytes) throw tooMany();
      const { root, children } = decoded(Tree, await blobs.read(digest, signal));
      await this.#folder(blobDigest(root), byHash([root, ...children]), place);
      return;
    }
    const root = checkedDigest(rootDirectoryDigest, 'an output');
    await this.#folder(root, byHash(await blobs.tree(root, maxTreeBytes, signal)), place);
  }

  /** Names become paths here, so they are names, and no two are the same: nothing is ever made through a link. */
  async #folder(root: Digest, folders: Folders, place: string): Promise<void> {
    this.#count(nodesIn(root, folders));
    const waiting: Waiting[] = [{ digest: root, path: Buffer.from(place) }];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const { path } = next;
      const { files, symlinks, directories } = folderOf(folders, next.digest);
      const names = new Set<string>();
      const within = (name: Buffer): Buffer => {
        const key = name.toString('latin1');
        if (!isNodeName(name)) throw impossible(`the name ${JSON.stringify(name.toString().slice(0, 300))}`);
        if (names.has(key)) throw impossible(`two entries named ${JSON.stringify(name.toString())}`);
        names.add(key);
        return Buffer.concat([path, slash, name]);
      };
      await mkdir(path);
      for (const { name, digest, isExecutable } of files)
        this.#file(within(name), checkedDigest(digest, 'a file'), isExecutable);
      for (const { name, target } of symlinks) await makeLink(within(name), target);
      for (const { name, digest } of directories)
        waiting.push({ digest: checkedDigest(digest, 'a folder'), path: within(name) });
    }
  }

  #count(nodes: number): void {
    this.#nodes += nodes;
    if (this.#nodes > maxNodes) throw tooMany();
  }
}

interface Waiting {
  readonly digest: Digest;
  readonly path: Buffer;
}

/** Encoded folders by their digests. */
type Folders = ReadonlyMap<string, Buffer>;

/** How many nodes a folder is when it is laid out: a few folders that hold each other often would be more than any disk has. */
function nodesIn(root: Digest, folders: Folders): number {
  const known = new Map<string, { readonly nodes: number; readonly height: number }>();
  const measure = (digest: Digest, depth: number): { readonly nodes: number; readonly height: number } => {
    const key = keyOf(digest);
    const before = known.get(key);
    if (before) return before;
    if (depth > maxDepth) throw tooDeep();
    const { files, symlinks, directories } = folderOf(folders, digest);
    let nodes = 1 + files.length + symlinks.length;
    let height = 0;
    for (const each of directories) {
      const below = measure(checkedDigest(each.digest, 'a folder'), depth + 1);
      nodes += below.nodes;
      height = Math.max(height, below.height);
    }
    const found = { nodes, height: height + 1 };
    known.set(key, found);
    return found;
  };
  const { nodes, height } = measure(root, 1);
  if (height > maxDepth) throw tooDeep();
  return nodes;
}

async function makeLink(path: string | Buffer, target: Buffer): Promise<void> {
  if (target.length === 0 || target.length > maxTargetLength || target.includes(0))
    throw impossible('a symlink to nowhere');
  await symlink(target, path);
}

const slash = Buffer.from('/');

const byHash = (directories: readonly Buffer[]): Map<string, Buffer> =>
  new Map(directories.map((bytes) => [keyOf(blobDigest(bytes)), bytes]));

function folderOf(folders: Folders, digest: Digest): Directory {
  const bytes = folders.get(keyOf(digest));
  if (!bytes) throw impossible('a folder that is nowhere in its tree');
  return decoded(Directory, bytes);
}

function decoded<T>(codec: Codec<T>, bytes: Buffer): T {
  try {
    return decode(codec, bytes);
  } catch (error) {
    throw new FlkError('FLK_REMOTE_INTEGRITY', 'the server sent something that is no tree of files', {
      cause: error,
    });
  }
}

const impossible = (found: string): FlkError =>
  new FlkError('FLK_REMOTE_INTEGRITY', 'the server tells of outputs that cannot be', { facts: { found } });

const tooDeep = (): FlkError => impossible(`more than ${maxDepth} folders in each other`);

const tooMany = (): FlkError =>
  new FlkError('FLK_BUILD_OUTPUT_LIMIT', `outputs of more than ${maxNodes} files and folders are not kept`);
