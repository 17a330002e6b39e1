/**
 * A repository that is no flake: the manifest has nearly the right name.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = () => ({
  name: 'no-manifest',
  commits: [
    {
      id: 'first',
      date: '2024-04-05T12:00:00Z',
      files: { 'README.md': '# nothing to lock here\n', 'flake.yml': 'description: nearly\n' },
      expect: 'e63b54939444c9dd8e71e6a8c9daa924707d3bed',
    },
  ],
});
