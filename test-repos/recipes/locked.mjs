/**
 * A flake with a lock of its own: whoever uses it gets the first `base`, also when `base` has moved on.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake, manifest }) => {
  // The first commit of `base`: the expected id in its recipe, and what `nix hash path` says of its files.
  const first = {
    'flake.yaml': {
      narHash: 'sha256-nJH0uPsGZSTuR64TTqr0yunqP8jYaj7BPA2Zkej7SE4=',
      rev: '68e1117fe38502573e161582f42bb7dac1ec0bba',
    },
    'flake.nix': {
      narHash: 'sha256-7liM7kNHuKVqxpCre8Ax+/diIWV6a2FAgw4/je1idn8=',
      rev: '74af1877fd061494045e2a626e02842531bc4e74',
    },
  }[manifest];
  const url = `${base}/base`;
  const lock = {
    nodes: {
      base: {
        locked: {
          lastModified: 1704110400,
          narHash: first.narHash,
          ref: 'refs/heads/main',
          rev: first.rev,
          revCount: 1,
          type: 'git',
          url,
        },
        original: { type: 'git', url },
      },
      root: { inputs: { base: 'base' } },
    },
    root: 'root',
    version: 7,
  };
  return {
    name: 'locked',
    commits: [
      {
        id: 'first',
        date: '2024-01-08T12:00:00Z',
        files: {
          ...flake({ description: 'brings its own lock', inputs: { base: { url: `git+${url}` } } }),
          'flake.lock': `${JSON.stringify(lock, null, 2)}\n`,
        },
        expect: '0483216c35340372444daff322a3baa1b5fb6c9a',
      },
    ],
  };
};
