/** One walk of a commit's tree that notes what decides how the tree looks with submodules, with LFS or without what is not exported. */
import { FlkError } from '../base/errors.ts';
import type { TreeSink } from '../formats/nar.ts';
import type { NodePath } from '../formats/tree-sinks.ts';
import { type LfsPointer, maxPointerSize, parsePointer } from './git-lfs.ts';

const maxNoted = 64 * 2 ** 20;

export class CommitSurvey implements TreeSink {
  /** By folder ('' for the root), one character for each byte. */
  readonly attributes = new Map<NodePath, string>();
  /** What look like pointers to files kept by Git LFS. */
  readonly pointers = new Map<NodePath, LfsPointer>();
  /** Submodules' revisions by path. */
  readonly gitlinks = new Map<NodePath, string>();
  /** The root's `.gitmodules`. */
  modules: string | undefined;
  /** Names of the open folders, and of the node that comes next. */
  readonly #path: string[] = [];
  #root = true;
  #open: Buffer[] | undefined;
  #noted = 0;

  directory(): void {
    this.#root = false;
  }

  entry(name: Buffer): void {
    this.#path.push(name.toString('latin1'));
  }

  endDirectory(): void {
    this.#path.pop();
  }

  /** The folder that has just been opened is a submodule. */
  gitlink(rev: string): void {
    this.gitlinks.set(this.#path.join('/'), rev);
  }

  file(size: number): void {
    const name = this.#path.at(-1);
    const noted =
      !this.#root &&
      (name === '.gitattributes' ||
        (name === '.gitmodules' && this.#path.length === 1) ||
        size < maxPointerSize);
    if (!noted) return;
    this.#open = [];
  }

  data(chunk: Buffer): void {
    this.#open?.push(Buffer.from(chunk));
  }

  endFile(): void {
    if (this.#open) this.#note(Buffer.concat(this.#open));
    this.#open = undefined;
    this.#path.pop();
  }

  symlink(): void {
    this.#path.pop();
  }

  #note(content: Buffer): void {
    const name = this.#path.at(-1);
    const pointer = parsePointer(content);
    if (name !== '.gitattributes' && name !== '.gitmodules' && !pointer) return;
    this.#noted += content.length;
    if (this.#noted > maxNoted)
      throw new FlkError('FLK_LIMIT', `the repository has more than ${maxNoted} bytes of .gitattributes`);
    if (name === '.gitattributes')
      this.attributes.set(this.#path.slice(0, -1).join('/'), content.toString('latin1'));
    else if (name === '.gitmodules') this.modules = content.toString();
    if (pointer) this.pointers.set(this.#path.join('/'), pointer);
  }
}
