/**
 * Tags of every shape that people give to versions, and some that are none. Phase 2 releases 1.4.1.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ flake }) => ({
  name: 'semver-tags',
  commits: [
    {
      id: 'start',
      date: '2024-02-01T12:00:00Z',
      tags: ['v0.9.0', 'v1.0.0-rc.1'],
      files: { ...flake({ description: 'many releases' }), VERSION: 'start\n' },
      expect: '3be9a5a77b3b588b9721dd0a735c4582217b78d9',
    },
    {
      id: 'one',
      date: '2024-02-02T12:00:00Z',
      tags: ['v1.0.0', 'stable', 'nightly-2024-02-02', 'v1', '20240202'],
      files: { VERSION: '1.0.0\n' },
      expect: '69a68a681f1fc3df511cf789508dd06083c12493',
    },
    {
      id: 'one-two',
      date: '2024-02-03T12:00:00Z',
      tags: [
        { name: 'v1.2.0', message: 'version 1.2.0', expect: '41492a7f4ed48f24fbcf5acfe8df9782ceb2f8b4' },
        'v1.2.0-beta.2',
      ],
      files: { VERSION: '1.2.0\n' },
      expect: '2826eecccc0e4f1a97fd17365b6d22c86cc9d4d0',
    },
    {
      id: 'one-three',
      date: '2024-02-04T12:00:00Z',
      tags: ['1.3.0', 'v1.3.0+build.7', 'release/1.3.0'],
      files: { VERSION: '1.3.0\n' },
      expect: '10017601396d253936b5f839bb363f62d63fabd6',
    },
    {
      id: 'two',
      date: '2024-02-05T12:00:00Z',
      tags: [
        { name: 'release-2.0.0', message: 'version 2', expect: '4bb1f5904bc327386ea3e85529ec21211c18d213' },
        'v2.0.0-rc.1',
        'v2.0.0-rc.10',
      ],
      files: { VERSION: '2.0.0\n' },
      expect: '3c71e99b0e76dc287abbf6449d2a9ddfdadc225a',
    },
    {
      id: 'one-four',
      date: '2024-02-06T12:00:00Z',
      parent: 'one-three',
      branch: 'maintenance-1.x',
      tags: ['v1.4', 'not-a-version', 'v99999999999999999999.0.0', 'v1.2.3.4'],
      files: { VERSION: '1.4\n' },
      expect: '291ca39b3f37044de92bcaf3140c40e65aaa1804',
    },
    {
      id: 'one-four-one',
      date: '2024-02-07T12:00:00Z',
      parent: 'one-four',
      branch: 'maintenance-1.x',
      phase: 2,
      tags: [
        { name: 'v1.4.1', message: 'version 1.4.1', expect: '914c9af419ec65e0acf0bcfcb4c14cafc715ace3' },
      ],
      files: { VERSION: '1.4.1\n' },
      expect: '2e6c06c0d166e9b5604e74830f221f500bdac108',
    },
  ],
});
