/**
 * Half of a circle: `cycle-a` and `cycle-b` are inputs of each other.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'cycle-a',
  commits: [
    {
      id: 'first',
      date: '2024-01-07T12:00:00Z',
      files: flake({ description: 'half a circle', inputs: { b: { url: `git+${base}/cycle-b` } } }),
      expect: 'b428eadc5df51e47dcbf879ebd37dd3c801229a4',
    },
  ],
});
