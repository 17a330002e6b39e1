/**
 * A library in shell, released as 1.2.0 and, in phase 2, as 1.3.0; another project builds a program from it without a compiler.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = () => ({
  name: 'greet',
  commits: [
    {
      id: 'one-two',
      date: '2024-04-01T12:00:00Z',
      tags: [
        { name: 'v1.2.0', message: 'version 1.2.0', expect: '990b11158a3a21220e2907ac7ee23a11a2af2df8' },
      ],
      files: {
        'flake.yaml': `description: Greetings for shell programs
packages:
  default: lib
  lib:
    version: 1.2.0
    src: .
    toolchain: host
    installPhase: |
      mkdir -p $out/share/greet
      cp greet.sh $out/share/greet/greet.sh
`,
        'greet.sh': `# greet NAME
greet() {
  printf 'Hello, %s. This is greet 1.2.0.\\n' "$1"
}
`,
      },
      expect: '426befc0be0358b02a7329af58f2e10ac7ac95f6',
    },
    {
      id: 'one-three',
      date: '2024-04-02T12:00:00Z',
      phase: 2,
      tags: [
        { name: 'v1.3.0', message: 'version 1.3.0', expect: '7f2e276b7e3f4a7577cb71cdc114f8aeb40268f0' },
      ],
      files: {
        'flake.yaml': `description: Greetings for shell programs
packages:
  default: lib
  lib:
    version: 1.3.0
    src: .
    toolchain: host
    installPhase: |
      mkdir -p $out/share/greet
      cp greet.sh $out/share/greet/greet.sh
`,
        'greet.sh': `# greet NAME
greet() {
  printf 'Good day, %s! This is greet 1.3.0.\\n' "$1"
}
`,
      },
      expect: '62587964356075906ee435dcec8faaf97774fe5d',
    },
  ],
});
