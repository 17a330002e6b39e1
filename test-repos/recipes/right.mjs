/**
 * The right side of the diamond: stands on `base`.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => ({
  name: 'right',
  commits: [
    {
      id: 'first',
      date: '2024-01-04T12:00:00Z',
      files: {
        ...flake({ description: 'the right side', inputs: { base: { url: `git+${base}/base` } } }),
        'right.txt': 'right\n',
      },
      expect: 'b9a79abf90a5a838c8d5c32101e594bb33b5f9c3',
    },
  ],
});
