/**
 * A file tree as Nix sees it (names, bytes, executable bits, symlinks; nothing else), walked once, in byte order of names;
 * and the NAR archive, its serialisation. Format: the Nix thesis, section 5.2.1; checked against Nix 2.34.
 */

/**
 * Takes one walk of a tree. The caller keeps the order: a node is `directory … endDirectory`, `file data… endFile` or `symlink`;
 * in a directory each node is announced by `entry`, names ascending by bytes. Calls are synchronous; a sink may throw.
 * Buffers belong to the caller and may be reused after the call: a sink that keeps bytes copies them.
 */
export interface TreeSink {
  directory(): void;
  entry(name: Buffer): void;
  endDirectory(): void;
  /** The `data` calls that follow add up to `size` bytes. */
  file(size: number, executable: boolean): void;
  data(chunk: Buffer): void;
  endFile(): void;
  symlink(target: Buffer): void;
}

/** Something that can be walked, again and again, giving the same nodes each time. */
export interface Tree {
  walk(sink: TreeSink, signal?: AbortSignal): Promise<void>;
}
