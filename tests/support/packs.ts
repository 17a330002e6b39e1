/** Git objects and packs made by hand, right and wrong ones, without git. */
import { createHash } from 'node:crypto';
import { deflateSync } from 'node:zlib';
import type { Node } from './trees.ts';

export type Kind = 'commit' | 'tree' | 'blob' | 'tag';

export type Piece =
  | { readonly kind: Kind; readonly content: Buffer; readonly level?: number }
  /** A delta of the piece at an index of the pack, further up. */
  | { readonly kind: 'offset-delta'; readonly of: number; readonly delta: Buffer }
  /** A delta of an object by its name, wherever it stands. */
  | { readonly kind: 'named-delta'; readonly of: string; readonly delta: Buffer };

const kindNumbers = { commit: 1, tree: 2, blob: 3, tag: 4, 'offset-delta': 6, 'named-delta': 7 };

/** An object's name: forty hex digits. */
export function objectId(kind: Kind, content: Buffer): string {
  return createHash('sha1').update(`${kind} ${content.length}\0`).update(content).digest('hex');
}

/** A pack of version 2; `count` and `checksum` to lie. */
export function makePack(
  pieces: readonly Piece[],
  lies: { readonly count?: number; readonly checksum?: Buffer } = {},
): Buffer {
  const head = Buffer.from('PACK\0\0\0\x02\0\0\0\0');
  head.writeUInt32BE(lies.count ?? pieces.length, 8);
  const parts = [head];
  const offsets: number[] = [];
  let offset = head.length;
  for (const piece of pieces) {
    offsets.push(offset);
    const content = 'content' in piece ? piece.content : piece.delta;
    const reference =
      piece.kind === 'offset-delta'
        ? distance(offset - offsets[piece.of]!)
        : piece.kind === 'named-delta'
          ? Buffer.from(piece.of, 'hex')
          : Buffer.alloc(0);
    const level = 'level' in piece ? piece.level : undefined;
    const bytes = Buffer.concat([
      objectHead(kindNumbers[piece.kind], content.length),
      reference,
      deflateSync(content, level === undefined ? {} : { level }),
    ]);
    parts.push(bytes);
    offset += bytes.length;
  }
  const body = Buffer.concat(parts);
  return Buffer.concat([body, lies.checksum ?? createHash('sha1').update(body).digest()]);
}

export function objectHead(kind: number, size: number): Buffer {
  const bytes = [(kind << 4) | (size & 15)];
  for (let rest = Math.floor(size / 16); rest > 0; rest = Math.floor(rest / 128)) {
    bytes[bytes.length - 1]! |= 0x80;
    bytes.push(rest % 128);
  }
  return Buffer.from(bytes);
}

function distance(value: number): Buffer {
  const bytes = [value & 0x7f];
  for (let rest = value >> 7; rest > 0; rest = (rest - 1) >> 7) bytes.unshift(0x80 | ((rest - 1) & 0x7f));
  // Each further byte stands for one more than its digits say, so the loop above counts down.
  return Buffer.from(bytes);
}

function deltaSize(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  do {
    bytes.push((rest % 128) | (rest >= 128 ? 0x80 : 0));
    rest = Math.floor(rest / 128);
  } while (rest > 0);
  return Buffer.from(bytes);
}

export const insert = (text: Buffer | string): Buffer =>
  Buffer.concat([Buffer.from([Buffer.byteLength(text)]), Buffer.from(text)]);

export function copy(offset: number, size: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes[0] = 0xff;
  bytes.writeUInt32LE(offset, 1);
  bytes.writeUIntLE(size, 5, 3);
  return bytes;
}

export const makeDelta = (baseSize: number, resultSize: number, ...instructions: Buffer[]): Buffer =>
  Buffer.concat([deltaSize(baseSize), deltaSize(resultSize), ...instructions]);

/** A delta that copies what the two have in common at their beginnings and inserts the rest. */
export function deltaBetween(base: Buffer, result: Buffer): Buffer {
  let same = 0;
  while (same < Math.min(base.length, result.length, 0xffff) && base[same] === result[same]) same++;
  const rest: Buffer[] = same > 0 ? [copy(0, same)] : [];
  for (let at = same; at < result.length; at += 127) rest.push(insert(result.subarray(at, at + 127)));
  return makeDelta(base.length, result.length, ...rest);
}

export interface Entry {
  readonly mode: string;
  /** latin1 */
  readonly name: string;
  readonly id: string;
}

/** In Git's own order, unless `asGiven`. */
export function treeContent(entries: readonly Entry[], asGiven = false): Buffer {
  const key = ({ mode, name }: Entry): string => (mode === '40000' ? `${name}/` : name);
  const sorted = asGiven ? entries : [...entries].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  return Buffer.concat(
    sorted.flatMap(({ mode, name, id }) => [
      Buffer.from(`${mode} ${name}\0`, 'latin1'),
      Buffer.from(id, 'hex'),
    ]),
  );
}

export const commitContent = (tree: string, time = 1700000000): Buffer =>
  Buffer.from(
    `tree ${tree}\nauthor A <a@example.org> 1 +0000\ncommitter C <c@example.org> ${time} +0000\n\nmessage\n`,
  );

/** All objects of a commit of this tree: the commit, its trees, its blobs; each once. */
export function objectsOf(root: Node): { readonly rev: string; readonly pieces: Piece[] } {
  const pieces = new Map<string, Piece>();
  const add = (kind: Kind, content: Buffer): string => {
    const id = objectId(kind, content);
    pieces.set(id, { kind, content });
    return id;
  };
  const write = (node: Node): { mode: string; id: string } => {
    if (node.type === 'file')
      return { mode: node.executable ? '100755' : '100644', id: add('blob', node.contents) };
    if (node.type === 'symlink') return { mode: '120000', id: add('blob', node.target) };
    const entries = [...node.entries].map(([name, child]) => ({ name, ...write(child) }));
    return { mode: '40000', id: add('tree', treeContent(entries)) };
  };
  const rev = add('commit', commitContent(write(root).id));
  return { rev, pieces: [...pieces.values()].reverse() };
}
