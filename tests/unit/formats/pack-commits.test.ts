import { describe, expect, it } from 'vitest';
import { CommitCounter, type CommitLimits, commitLimits } from '../../../src/formats/pack-commits.ts';
import { withCode } from '../../support/errors.ts';
import { commitContent, deltaBetween, makePack, objectId, type Piece } from '../../support/packs.ts';

const tree = objectId('tree', Buffer.alloc(0));
const commit = (i: number): Buffer =>
  Buffer.concat([Buffer.from(commitContent(tree)), Buffer.from(`${i}\n`.repeat(200))]);

function count(pack: Buffer, chunk = 65536, limits: Partial<CommitLimits> = {}): number {
  const counter = new CommitCounter({ ...commitLimits, ...limits });
  for (let at = 0; at < pack.length; at += chunk) {
    const piece = Buffer.from(pack.subarray(at, at + chunk));
    counter.push(piece);
    piece.fill(0xaa);
  }
  return counter.end();
}

/** Three commits, two of them deltas (one of a delta), among a tag, a tree, a file and a delta of the file. */
const pieces: readonly Piece[] = [
  { kind: 'tag', content: Buffer.from('object\n') },
  { kind: 'commit', content: commit(1) },
  { kind: 'offset-delta', of: 1, delta: deltaBetween(commit(1), commit(2)) },
  { kind: 'tree', content: Buffer.alloc(0) },
  { kind: 'blob', content: Buffer.alloc(700_000, 'text') },
  { kind: 'offset-delta', of: 2, delta: deltaBetween(commit(2), commit(3)) },
  { kind: 'offset-delta', of: 4, delta: deltaBetween(Buffer.alloc(700_000, 'text'), Buffer.from('x')) },
];
const pack = makePack(pieces);

describe('counting commits', () => {
  it.each([1, 2, 7, 100, 65536])(
    'counts deltas of commits, and nothing else, in pieces of %i bytes',
    (chunk) => {
      expect(count(pack, chunk)).toBe(3);
    },
  );

  it('finds none in a pack of nothing', () => {
    expect(count(makePack([]))).toBe(0);
  });

  it.each<[string, Buffer]>([
    ['cut short', pack.subarray(0, -30)],
    ['without its trailer', pack.subarray(0, -20)],
    ['longer', Buffer.concat([pack, Buffer.from('x')])],
    ['of another checksum', makePack(pieces, { checksum: Buffer.alloc(20) })],
    ['that promises more objects', makePack(pieces, { count: 9 })],
    ['that promises fewer objects', makePack(pieces, { count: 2 })],
    ['that is none', Buffer.from('HTTP/1.1 200 OK, and more of that')],
    ['with a delta by name', makePack([{ kind: 'named-delta', of: tree, delta: Buffer.from('x') }])],
  ])('refuses a pack %s', (_, bytes) => {
    expect(() => count(bytes)).toThrow(withCode('FLK_GIT_PACK'));
    expect(() => count(bytes, 3)).toThrow(withCode('FLK_GIT_PACK'));
  });

  it.each<[string, Partial<CommitLimits>]>([
    ['objects', { objects: 6 }],
    ['bytes', { size: 500 }],
    ['content', { work: 600_000 }],
  ])('has a limit of %s', (_, limits) => {
    expect(() => count(pack, 64, limits)).toThrow(withCode('FLK_LIMIT'));
  });
});
