/** Sinks that stand between a walk and other sinks: to several at once, to a part, from a part. */
import type { TreeSink } from './nar.ts';

/** One walk for several sinks, each called in turn. */
export function tee(...sinks: readonly TreeSink[]): TreeSink {
  return {
    directory: () => {
      for (const sink of sinks) sink.directory();
    },
    entry: (name) => {
      for (const sink of sinks) sink.entry(name);
    },
    endDirectory: () => {
      for (const sink of sinks) sink.endDirectory();
    },
    file: (size, executable) => {
      for (const sink of sinks) sink.file(size, executable);
    },
    data: (chunk) => {
      for (const sink of sinks) sink.data(chunk);
    },
    endFile: () => {
      for (const sink of sinks) sink.endFile();
    },
    symlink: (target) => {
      for (const sink of sinks) sink.symlink(target);
    },
  };
}

export type NodeKind = 'directory' | 'file' | 'symlink';

/** A node's way from the root: names joined by `/`, each byte one character (latin1), so that nothing is lost and ASCII stays ASCII. */
export type NodePath = string;

/**
 * Passes on what `keep` wants. It is asked for every node but the root, once, parents first; a directory that it does not want is
 * left out with everything in it. Folders in which nothing is left are left out too, those that were empty before included,
 * unless `keepEmpty`; the root always stays.
 */
export function filterTree(
  sink: TreeSink,
  keep: (path: NodePath, kind: NodeKind) => boolean,
  options: { readonly keepEmpty?: boolean } = {},
): TreeSink {
  const path: string[] = [];
  /** Folders announced to us and not yet to the sink: they wait for something to hold. */
  const waiting: (Buffer | undefined)[] = [];
  /** Depth of open folders (or one file) inside an unwanted node; 0 outside. */
  let skipping = 0;
  /** Of the node that comes next; undefined for the root. */
  let name: Buffer | undefined;

  const open = (): void => {
    for (const folder of waiting) {
      if (folder) sink.entry(folder);
      sink.directory();
    }
    waiting.length = 0;
  };
  const wanted = (kind: NodeKind): boolean => name === undefined || keep(path.join('/'), kind);
  const announce = (): void => {
    open();
    if (name) sink.entry(name);
  };

  return {
    directory: () => {
      if (skipping > 0) skipping++;
      else if (!wanted('directory')) skipping = 1;
      else {
        waiting.push(name);
        if (options.keepEmpty || name === undefined) open();
      }
    },
    entry: (next) => {
      if (skipping > 0) return;
      name = Buffer.from(next);
      path.push(next.toString('latin1'));
    },
    endDirectory: () => {
      if (skipping > 0) {
        skipping--;
        if (skipping === 0) path.pop();
        return;
      }
      // Folders that wait are the innermost ones: this one held nothing.
      if (waiting.length > 0) waiting.pop();
      else sink.endDirectory();
      path.pop();
    },
    file: (size, executable) => {
      if (skipping > 0 || !wanted('file')) skipping++;
      else {
        announce();
        sink.file(size, executable);
      }
    },
    data: (chunk) => {
      if (skipping === 0) sink.data(chunk);
    },
    endFile: () => {
      if (skipping > 0) {
        skipping--;
        if (skipping > 0) return;
      } else sink.endFile();
      path.pop();
    },
    symlink: (target) => {
      if (skipping > 0) return;
      if (wanted('symlink')) {
        announce();
        sink.symlink(target);
      }
      path.pop();
    },
  };
}

/** A sink that passes on one node of a tree and what lies below it. */
export interface Subtree extends TreeSink {
  /** Whether the walk came by the node. */
  readonly found: boolean;
}

/** Passes on only the node at `path` (`a/b`, UTF-8; empty for the root), as the root of a tree. Follows no symlinks. */
export function subtree(sink: TreeSink, path: string): Subtree {
  const way = path
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .map((part) => Buffer.from(part));
  /** Open folders: the length of the path of the node that comes next. */
  let depth = 0;
  /** How many names at the beginning of that path are those of the way. */
  let matched = 0;
  /** Open folders and files of the node that is passed on. */
  let inside = 0;
  let found = false;

  const begins = (): boolean => {
    if (inside > 0) return true;
    const arrived = depth === way.length && matched === way.length;
    found ||= arrived;
    return arrived;
  };

  return {
    get found() {
      return found;
    },
    directory: () => {
      if (begins()) {
        inside++;
        sink.directory();
      }
      depth++;
    },
    entry: (name) => {
      if (inside > 0) sink.entry(name);
      else if (matched >= depth - 1) matched = way[depth - 1]?.equals(name) ? depth : depth - 1;
    },
    endDirectory: () => {
      depth--;
      if (inside === 0) return;
      inside--;
      sink.endDirectory();
    },
    file: (size, executable) => {
      if (!begins()) return;
      inside++;
      sink.file(size, executable);
    },
    data: (chunk) => {
      if (inside > 0) sink.data(chunk);
    },
    endFile: () => {
      if (inside === 0) return;
      inside--;
      sink.endFile();
    },
    symlink: (target) => {
      if (begins()) sink.symlink(target);
    },
  };
}
