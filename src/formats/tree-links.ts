/** Symlinks within one tree: where a path leads through them, as Nix follows them to a flake's manifest. */
import { posix } from 'node:path';
import { FlkError } from '../base/errors.ts';
import type { Tree, TreeSink } from './nar.ts';

/** Linux follows as many. */
const maxHops = 40;
/** A tree with more has none that lead to a manifest, as far as flk looks. */
const maxLinks = 100_000;

/**
 * The path that `path` stands for, from the tree's root, when every link on the way is followed; undefined where they lead on
 * without end, or out of the tree: an absolute one does, wherever the tree lies.
 */
export function followLinks(
  path: string,
  targetAt: (path: string) => string | undefined,
): string | undefined {
  let at = '';
  const ahead = path.split('/').reverse();
  for (let hops = 0; ahead.length > 0; ) {
    const name = ahead.pop()!;
    if (name === '' || name === '.') continue;
    if (name === '..' && at === '') return undefined;
    const next = name === '..' ? posix.dirname(at).replace(/^\.$/, '') : posix.join(at, name);
    const target = name === '..' ? undefined : targetAt(next);
    if (target === undefined) {
      at = next;
      continue;
    }
    if (++hops > maxHops || target.startsWith('/')) return undefined;
    ahead.push(...target.split('/').reverse());
  }
  return at;
}

/** All symlinks of a tree, in one walk: each one's path from the root, and its target. Throws FLK_LIMIT. */
export async function linksOf(walk: Tree['walk']): Promise<ReadonlyMap<string, string>> {
  const sink = new LinkSink();
  await walk(sink);
  return sink.links;
}

class LinkSink implements TreeSink {
  readonly links = new Map<string, string>();
  readonly #folders: string[] = [];
  #name: string | undefined;

  directory(): void {
    if (this.#name !== undefined) this.#folders.push(this.#name);
    else this.#folders.push('');
  }

  entry(name: Buffer): void {
    this.#name = name.toString();
  }

  endDirectory(): void {
    this.#folders.pop();
  }

  symlink(target: Buffer): void {
    if (this.links.size >= maxLinks)
      throw new FlkError('FLK_LIMIT', `there are more than ${maxLinks} symlinks in one tree`);
    this.links.set(posix.join(...this.#folders, this.#name ?? ''), target.toString());
  }

  file(): void {}
  data(): void {}
  endFile(): void {}
}
