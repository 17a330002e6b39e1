/**
 * Overrides two levels down: another URL for one base, a `follows` for the other, and the diamond's own `follows` undone.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'nested-overrides',
  commits: [
    {
      id: 'first',
      date: '2024-01-06T12:00:00Z',
      files: flake({
        description: 'overrides below overrides',
        inputs: {
          ground: { url: `git+${base}/locked` },
          diamond: {
            url: `git+${base}/diamond`,
            inputs: {
              left: { inputs: { base: { url: `git+${base}/moved-branch` } } },
              right: { inputs: { base: { follows: 'ground' } } },
            },
          },
        },
      }),
      expect: '091f73f70ed86e1630167b6f0c8b78ccbd381393',
    },
  ],
});
