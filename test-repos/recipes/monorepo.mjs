/**
 * Several flakes in one repository: one in a subfolder is reached by `?dir=`, another through a relative path.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base, flake }) => {
  const inFolder = (/** @type {string} */ folder, /** @type {Record<string, string>} */ files) =>
    Object.fromEntries(Object.entries(files).map(([name, text]) => [`${folder}/${name}`, text]));
  return {
    name: 'monorepo',
    commits: [
      {
        id: 'first',
        date: '2024-06-01T12:00:00Z',
        files: {
          ...flake({ description: 'the whole', inputs: { part: { url: 'path:./part' } } }),
          ...inFolder(
            'part',
            flake({ description: 'a part', inputs: { base: { url: `git+${base}/base` } } }),
          ),
          ...inFolder(
            'other/deep',
            flake({ description: 'far down', inputs: { part: { url: 'path:../../part' } } }),
          ),
        },
        expect: 'f2307303aeadd9bade4d48c11d9e4d27bc1d5b85',
      },
    ],
  };
};
