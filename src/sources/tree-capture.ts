/** Picking single files out of a tree while it is walked: manifests and locks, which are read again and again; and any one file. */
import { FlkError } from '../base/errors.ts';
import type { TreeSink } from '../formats/nar.ts';
import { subtree } from '../formats/tree-sinks.ts';

/** A tree's manifests and locks, as far as they are few and small. */
export interface Manifests {
  /** Path from the root (`sub/flake.yaml`) to content in base64. */
  readonly files: Readonly<Record<string, string>>;
  /** Whether there are no others. */
  readonly complete: boolean;
}

const names: ReadonlySet<string> = new Set(['flake.yaml', 'flake.lock', 'flake.nix']);
const maxManifestSize = 512 * 1024;
const maxManifestsSize = 4 * 2 ** 20;
const maxManifests = 2000;

/** Whether a file at this path would have been captured. */
const isManifestPath = (path: string): boolean => names.has(path.slice(path.lastIndexOf('/') + 1));

/** Takes a walk and keeps the manifests that it passes. */
export class ManifestCapture implements TreeSink {
  readonly #files: Record<string, string> = {};
  #complete = true;
  #count = 0;
  #total = 0;
  /** Names of the open folders but the root. */
  readonly #folders: Buffer[] = [];
  #name: Buffer = Buffer.alloc(0);
  #root = true;
  #capturing: Buffer[] | undefined;

  get manifests(): Manifests {
    return { files: this.#files, complete: this.#complete };
  }

  directory(): void {
    if (!this.#root) this.#folders.push(this.#name);
    this.#root = false;
  }

  entry(name: Buffer): void {
    this.#name = Buffer.from(name);
  }

  endDirectory(): void {
    this.#folders.pop();
  }

  file(size: number): void {
    const { length } = this.#name;
    if (length < 9 || length > 10 || !names.has(this.#name.toString('latin1'))) return;
    this.#count++;
    this.#total += size;
    if (size <= maxManifestSize && this.#total <= maxManifestsSize && this.#count <= maxManifests)
      this.#capturing = [];
    else this.#complete = false;
  }

  data(chunk: Buffer): void {
    this.#capturing?.push(Buffer.from(chunk));
  }

  endFile(): void {
    if (!this.#capturing) return;
    const path = Buffer.concat(
      [...this.#folders, this.#name].flatMap((name, i) => (i === 0 ? [name] : [slash, name])),
    );
    const text = path.toString();
    // A path that is not UTF-8 is nobody's to ask for.
    if (Buffer.from(text).equals(path)) this.#files[text] = Buffer.concat(this.#capturing).toString('base64');
    this.#capturing = undefined;
  }

  symlink(): void {}
}

const slash = Buffer.from('/');
const maxFileSize = 16 * 2 ** 20;

/** Keeps the content of the one regular file that is sent to it; anything else is not a file. */
class FileContent implements TreeSink {
  readonly #path: string;
  #pieces: Buffer[] | undefined;
  #depth = 0;

  /** `path` is for messages. */
  constructor(path: string) {
    this.#path = path;
  }

  /** undefined where there was no regular file. */
  get bytes(): Buffer | undefined {
    return this.#pieces && Buffer.concat(this.#pieces);
  }

  directory(): void {
    this.#depth++;
  }

  entry(): void {}

  endDirectory(): void {
    this.#depth--;
  }

  file(size: number): void {
    if (this.#depth > 0) return;
    if (size > maxFileSize)
      throw new FlkError('FLK_LIMIT', `${this.#path} has ${size} bytes; at most ${maxFileSize} are read`);
    this.#pieces = [];
  }

  data(chunk: Buffer): void {
    if (this.#depth === 0) this.#pieces?.push(Buffer.from(chunk));
  }

  endFile(): void {}

  symlink(): void {}
}

/** As `SourceTree.readFile`: out of the manifests that were kept, else by a walk. */
export async function readThrough(
  { files, complete }: Manifests,
  path: string,
  walk: (sink: TreeSink) => Promise<void>,
): Promise<Buffer | undefined> {
  const known = Object.hasOwn(files, path) ? files[path] : undefined;
  if (known !== undefined) return Buffer.from(known, 'base64');
  if (complete && isManifestPath(path)) return undefined;
  const content = new FileContent(path);
  await walk(subtree(content, path));
  return content.bytes;
}
