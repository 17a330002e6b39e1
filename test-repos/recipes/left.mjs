/**
 * The left side of the diamond: stands on `base`.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'left',
  commits: [
    {
      id: 'first',
      date: '2024-01-03T12:00:00Z',
      files: {
        ...flake({ description: 'the left side', inputs: { base: { url: `git+${base}/base` } } }),
        'left.txt': 'left\n',
      },
      expect: '477091872418c93fbb3abc2fb18ed3b0bd3e14f3',
    },
  ],
});
