/**
 * Half of a circle: `cycle-a` and `cycle-b` are inputs of each other.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'cycle-b',
  commits: [
    {
      id: 'first',
      date: '2024-01-07T12:00:00Z',
      files: flake({ description: 'half a circle', inputs: { a: { url: `git+${base}/cycle-a` } } }),
      expect: '95a6551ec077568e8c15790a1a6916603fb8ff1d',
    },
  ],
});
