/**
 * A library in shell, released as 1.2.0 and, in phase 2, as 1.3.0; it is built from `style`. No compiler is needed.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base }) => {
  const files = (/** @type {string} */ version, /** @type {string} */ greeting) => ({
    'flake.yaml': `description: Greetings for shell programs
inputs:
  style: git+${base}/style
packages:
  default: lib
  lib:
    version: ${version}
    src: .
    toolchain: host
    installPhase: |
      mkdir -p $out/share/greet
      cat "{{style#lib}}/share/style/style.sh" greet.sh > $out/share/greet/greet.sh
`,
    'greet.sh': `# greet NAME
greet() {
  frame "${greeting} This is greet ${version}."
}
`,
  });
  return {
    name: 'greet',
    commits: [
      {
        id: 'one-two',
        date: '2024-04-01T12:00:00Z',
        tags: [
          { name: 'v1.2.0', message: 'version 1.2.0', expect: 'edefc35b42c9da99fd3747f11ac065223ac608fd' },
        ],
        files: files('1.2.0', 'Hello, $1.'),
        expect: '845016422e4284e47cd06108fc147c94ad3ab3e5',
      },
      {
        id: 'one-three',
        date: '2024-04-02T12:00:00Z',
        phase: 2,
        tags: [
          { name: 'v1.3.0', message: 'version 1.3.0', expect: 'a9de621414801497aa5ce94a82a6b04bb274c50d' },
        ],
        files: files('1.3.0', 'Good day, $1!'),
        expect: '1c60a2a2f635055894653023f40f86baae3ae997',
      },
    ],
  };
};
