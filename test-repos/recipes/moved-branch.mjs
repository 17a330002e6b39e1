/**
 * A branch that is rewritten: in phase 2 `main` no longer descends from what it was, the old commit is gone, and so is the
 * branch `doomed`'s content; the tag `moving` names another commit.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ flake }) => ({
  name: 'moved-branch',
  commits: [
    {
      id: 'root',
      date: '2024-03-01T12:00:00Z',
      files: { ...flake({ description: 'a branch that moves' }), state: 'root\n' },
      expect: '2aab25f70ad3079c7fa06a1e0a27409e5ba36f43',
    },
    {
      id: 'before',
      date: '2024-03-02T12:00:00Z',
      tags: ['moving'],
      files: { state: 'before\n' },
      expect: '61ff8b859eecc30a56c3628c7b41eb6893539b28',
    },
    {
      id: 'after',
      date: '2024-03-03T12:00:00Z',
      parent: 'root',
      phase: 2,
      tags: ['moving'],
      files: { state: 'after\n' },
      expect: 'e405f36927fedbd07a3a8bb5e7afee76913e2bcc',
    },
  ],
});
