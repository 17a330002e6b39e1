/**
 * Two inputs that need the same third one, and share the root's: `base` is locked once.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'diamond',
  commits: [
    {
      id: 'first',
      date: '2024-01-05T12:00:00Z',
      files: flake({
        description: 'a diamond',
        inputs: {
          base: { url: `git+${base}/base` },
          left: { url: `git+${base}/left`, inputs: { base: { follows: 'base' } } },
          right: { url: `git+${base}/right`, inputs: { base: { follows: 'left/base' } } },
        },
      }),
      expect: '9727d38f2b99620a5b71dd1eb80c9291675d8d63',
    },
  ],
});
