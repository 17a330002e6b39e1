import { describe, expect, test } from 'vitest';
import { followLinks, linksOf } from '../../../src/formats/tree-links.ts';

const links = new Map([
  ['flake.nix', 'real/flake.nix'],
  ['up/x/flake.nix', '../../flake.nix'],
  ['folder', 'real'],
  ['rooted', '/real/flake.nix'],
  ['above', '../../../real/flake.nix'],
  ['loop', 'loop'],
  ['growing', 'growing/x'],
]);

describe('links within a tree', () => {
  test.each([
    ['real/flake.nix', 'real/flake.nix'],
    ['flake.nix', 'real/flake.nix'],
    ['up/x/flake.nix', 'real/flake.nix'],
    ['folder/flake.nix', 'real/flake.nix'],
    ['folder/../flake.nix', 'real/flake.nix'],
    ['rooted', undefined],
    ['above', undefined],
    ['loop', undefined],
    ['growing', undefined],
  ])('%s leads to %s', (path, target) => {
    expect(followLinks(path, (at) => links.get(at))).toBe(target);
  });

  test('are found by their paths from the root', async () => {
    const found = await linksOf(async (sink) => {
      sink.directory();
      sink.entry(Buffer.from('a'));
      sink.directory();
      sink.entry(Buffer.from('b'));
      sink.directory();
      sink.entry(Buffer.from('deep'));
      sink.symlink(Buffer.from('../x'));
      sink.endDirectory();
      sink.entry(Buffer.from('mid'));
      sink.symlink(Buffer.from('b/deep'));
      sink.endDirectory();
      sink.entry(Buffer.from('top'));
      sink.symlink(Buffer.from('a'));
      sink.endDirectory();
    });
    expect(Object.fromEntries(found)).toEqual({ 'a/b/deep': '../x', 'a/mid': 'b/deep', top: 'a' });
  });

  test('that are a whole tree, or too many, are none', async () => {
    expect((await linksOf(async (sink) => sink.symlink(Buffer.from('x')))).has('flake.nix')).toBe(false);
    const many = linksOf(async (sink) => {
      sink.directory();
      for (let i = 0; i <= 100_000; i++) {
        sink.entry(Buffer.from(`${i}`));
        sink.symlink(Buffer.from('x'));
      }
    });
    await expect(many).rejects.toMatchObject({ code: 'FLK_LIMIT' });
  });
});
