/**
 * A library in C: a header and a static archive, found by its users through `buildInputs`.
 * @type {import('../build.mjs').RecipeMaker}
 */
export const recipe = () => ({
  name: 'greet-lib',
  commits: [
    {
      id: 'one',
      date: '2024-05-01T12:00:00Z',
      tags: ['v1.0.0'],
      files: {
        'flake.yaml': `description: Greetings for C programs
packages:
  default: lib
  lib:
    version: 1.0.0
    src: .
    toolchain: host
    buildPhase: |
      cc -O2 -c greet.c -o greet.o
      ar rcsD libgreet.a greet.o
    installPhase: |
      mkdir -p $out/include $out/lib
      cp greet.h $out/include/
      cp libgreet.a $out/lib/
`,
        'greet.h': `#ifndef GREET_H
#define GREET_H
/* Prints a greeting to standard output. */
void greet(const char *name);
#endif
`,
        'greet.c': `#include "greet.h"
#include <stdio.h>

void greet(const char *name) { printf("Hello, %s, from C.\\n", name); }
`,
      },
      expect: 'eda3707da5d237f0c60cbb49f160c78da9ee76b5',
    },
  ],
});
