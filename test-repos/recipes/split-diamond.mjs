/**
 * The diamond without `follows`: `base` is locked twice, as `base` and `base_2`.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'split-diamond',
  commits: [
    {
      id: 'first',
      date: '2024-01-05T13:00:00Z',
      files: flake({
        description: 'a diamond with two grounds',
        inputs: { left: { url: `git+${base}/left` }, right: { url: `git+${base}/right` } },
      }),
      expect: '5c27888b38ae46cb6546d88d73271bded940d417',
    },
  ],
});
