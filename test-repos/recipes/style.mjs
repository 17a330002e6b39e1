/**
 * A shell library without inputs, at the bottom of `hello` → `greet` → `style`.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = () => ({
  name: 'style',
  commits: [
    {
      id: 'first',
      date: '2024-03-30T12:00:00Z',
      files: {
        'flake.yaml': `description: Frames around text
packages:
  default: lib
  lib:
    src: .
    toolchain: host
    installPhase: |
      mkdir -p $out/share/style
      cp style.sh $out/share/style/style.sh
`,
        'style.sh': `# frame TEXT
frame() {
  line= count=\${#1}
  while [ "$count" -gt -2 ]; do
    line=$line- count=$((count - 1))
  done
  printf '+%s+\\n| %s |\\n+%s+\\n' "$line" "$1" "$line"
}
`,
      },
      expect: '1f6e42e72b5e45b479c7743cef83c0b682146f89',
    },
  ],
});
