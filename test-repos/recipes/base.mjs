/**
 * A flake without inputs, the ground that others stand on. Phase 2 adds a commit.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ flake }) => ({
  name: 'base',
  commits: [
    {
      id: 'first',
      date: '2024-01-01T12:00:00Z',
      files: { ...flake({ description: 'the ground' }), 'ground.txt': 'stone\n' },
      expect: '68e1117fe38502573e161582f42bb7dac1ec0bba',
    },
    {
      id: 'second',
      date: '2024-01-02T12:00:00Z',
      phase: 2,
      files: { 'ground.txt': 'granite\n' },
      expect: '857b5b95125376d7a65b24a6349cc66cc4866088',
    },
  ],
});
