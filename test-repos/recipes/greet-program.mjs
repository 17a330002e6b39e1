/**
 * A program in C that links the library of another repository.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = ({ base }) => ({
  name: 'greet-program',
  commits: [
    {
      id: 'first',
      date: '2024-05-02T12:00:00Z',
      files: {
        'flake.yaml': `description: A program in C
inputs:
  greet-lib: git+${base}/greet-lib
packages:
  default: greet-program
  greet-program:
    version: "0.1"
    src: .
    toolchain: host
    buildInputs: [greet-lib#lib]
    buildPhase: cc -O2 main.c -lgreet -o greet-program
    installPhase: |
      mkdir -p $out/bin
      cp greet-program $out/bin/greet-program
    meta: { mainProgram: greet-program }
`,
        'main.c': `#include <greet.h>

int main(int argc, char **argv) {
  greet(argc > 1 ? argv[1] : "world");
  return 0;
}
`,
      },
      expect: '91142c3614996c1d4a971e5ed1badadf2b779a49',
    },
  ],
});
