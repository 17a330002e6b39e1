/**
 * A program in shell that is built from the library in `greet`, which stands on `style`, and from the words in `assets`; no compiler is needed.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base }) => ({
  name: 'hello',
  commits: [
    {
      id: 'first',
      date: '2024-04-03T12:00:00Z',
      files: {
        'flake.yaml': `description: A program that greets
inputs:
  greet:
    url: git+${base}/greet
    version: ^1.2
  assets:
    url: git+${base}/assets
    flake: false
packages:
  default: hello
  hello:
    version: "1.0"
    src: { path: ., include: [src/**] }
    toolchain: host
    env:
      WORDS: "{{assets}}/words"
    buildPhase: |
      echo "#!/bin/sh" > hello
      cat "{{greet#lib}}/share/greet/greet.sh" src/hello.sh >> hello
    installPhase: |
      mkdir -p $out/bin $out/share/hello
      cp hello $out/bin/hello
      chmod 755 $out/bin/hello
      cp "$WORDS/default" $out/share/hello/default
    meta: { mainProgram: hello }
`,
        'src/hello.sh': `here=\${0%/*}
read -r word < "$here/../share/hello/default"
greet "\${1:-$word}"
`,
      },
      expect: '22c1e8c2aba5aed7e5da59f14b4b2008cfc2059b',
    },
  ],
});
