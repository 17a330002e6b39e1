/**
 * Files without a manifest, for `flake: false`.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = () => ({
  name: 'assets',
  commits: [
    {
      id: 'first',
      date: '2024-04-04T12:00:00Z',
      files: { 'words/default': 'world\n', 'fonts/plain.txt': 'ABC\n', LICENSE: 'free\n' },
      expect: '8b5c06bbd1b030c7698b39a1f1d78dca85340487',
    },
  ],
});
