import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { positionOf } from '../../../src/base/diagnostics.ts';
import { FlkError } from '../../../src/base/errors.ts';
import { parseFlakeRef } from '../../../src/flake/flake-ref.ts';
import {
  type BuiltPackage,
  decodeManifest,
  type FetchedPackage,
  type Manifest,
  onSystem,
  packagesFor,
  parseManifest,
} from '../../../src/flake/manifest.ts';
import { thrownBy } from '../../support/errors.ts';

const path = 'flake.yaml';

/** Each fault as `LINE:COLUMN «what is underlined» message → suggestion`. */
function faultsOf(text: string): string[] {
  const error = thrownBy(() => parseManifest({ path, text }));
  expect(error.code).toBe('FLK_MANIFEST_INVALID');
  return error.diagnostics.map(({ range, message, suggestion }) => {
    const { line, column } = positionOf(text, range.start);
    const advice = suggestion === undefined ? '' : ` → ${suggestion}`;
    return `${line}:${column} «${text.slice(range.start, range.end).trimEnd()}» ${message}${advice}`;
  });
}

type Faults = readonly (readonly [what: string, text: string, faults: readonly string[]])[];

const syntax: Faults = [
  [
    'a value that begins with *',
    'packages:\n  a:\n    src: { include: [*.c] }\n',
    ['3:22 «*.c» to YAML, * repeats a value marked &.c, and there is none → quote it: "*.c"'],
  ],
  [
    'a block value that begins with *',
    'x-a: *.txt # all\n',
    ['1:6 «*.txt» to YAML, * repeats a value marked &.txt, and there is none → quote it: "*.txt"'],
  ],
  [
    'a value that begins with {{',
    'packages:\n  a:\n    env:\n      F: {{assets}}/fonts\n    buildPhase: make\n',
    [
      '4:10 «{{assets}}/fonts» a value that begins with {{ is a mapping to YAML → quote it: "{{assets}}/fonts"',
    ],
  ],
  [
    '{{ in a flow mapping',
    'packages: { a: { env: { F: {{assets}} } } }\n',
    ['1:28 «{{assets}}» a value that begins with {{ is a mapping to YAML → quote it: "{{assets}}"'],
  ],
  [
    'a value that begins with @',
    'inputs:\n  a: @acme/base\n',
    ['2:6 «@acme/base» a value cannot begin with @ → quote it: "@acme/base"'],
  ],
  [
    'a value that begins with `',
    'x-a: `date`\n',
    ['1:6 «`date`» a value cannot begin with ` → quote it: "`date`"'],
  ],
  [
    'a # in a list in brackets',
    'packages:\n  a:\n    buildInputs: [#bb]\n    env: {}\n',
    ['3:19 «#bb» to YAML, # begins a comment → quote it: "#bb"'],
  ],
  ['a value that begins with %', 'x-a: %x\n', ['1:6 «%x» a value cannot begin with % → quote it: "%x"']],
  [
    'a colon in a value',
    'packages:\n  a:\n    buildPhase: echo a: b\n',
    [
      '3:17 «echo a: b» a value with ": " in it is a mapping to YAML → quote it: "echo a: b", or use a block: |',
    ],
  ],
  ['a tab as indentation', 'packages:\n\ta: b\n', ['2:1 «» a tab cannot indent → indent with spaces']],
  ['an open quote', 'description: "abc\nx-a: 1\n', ['3:1 «» missing closing "quote']],
  [
    'an open bracket',
    'systems: [x86_64-linux\nx-a: 1\n',
    ['2:1 «x» a [ or { above is not closed, or what is in it not indented'],
  ],
  [
    'two documents',
    'x-a: 1\n---\nx-b: 2\n',
    ['2:1 «---» a second YAML document begins here → keep one document per manifest'],
  ],
  [
    'a directive',
    '%YAML 1.1\n---\nx-a: yes\n',
    [
      '1:1 «%YAML 1.1» YAML directives have no meaning in a manifest → remove the line; if it is a value, quote it',
    ],
  ],
  [
    'a tag',
    'description: !secret abc\n',
    [
      '1:14 «!secret» YAML tags (!…) have no meaning in a manifest → if the ! belongs to the value, quote the value',
    ],
  ],
  [
    'a merge key',
    'x-a: &a { x: 1 }\npackages:\n  b:\n    <<: *a\n',
    ['4:5 «<<» YAML 1.2 has no merge key << → repeat the keys, or alias each value: key: *anchor'],
  ],
  ['a key that is a list', '? [a]\n: b\n', ['1:3 «[» a key must be a word → quote the key']],
  [
    'a key twice',
    'description: a\nx-a: 1\ndescription: b\n',
    ['3:1 «description» "description" is set twice, first on line 1 → keep one of them'],
  ],
  [
    'a key twice, deep',
    'packages:\n  a: &x { src: ., src: ./b }\n',
    ['2:19 «src» "src" is set twice, first on line 2 → keep one of them'],
  ],
  [
    'an alias inside its own anchor',
    'x-a: &a [1, *a]\n',
    ['1:13 «*a» *a stands inside the very value it repeats → write the value out'],
  ],
  [
    'a control character',
    'description: a\u0007b\n',
    ['1:15 \u00ab\u0007\u00bb control character U+0007 \u2192 remove it'],
  ],
  [
    'a NUL by escape',
    'description: "a\\0b"\n',
    ['1:14 «"a\\0b"» a NUL, or half of a surrogate pair, by escape → remove it'],
  ],
  [
    'half a character by escape',
    'description: "a\\ud800b"\n',
    ['1:14 «"a\\ud800b"» a NUL, or half of a surrogate pair, by escape → remove it'],
  ],
  ['after a byte order mark', '\ufeffx-a: @b\n', ['1:7 «@b» a value cannot begin with @ → quote it: "@b"']],
  ['after CRLF', 'x-a: 1\r\nx-b: @c\r\n', ['2:6 «@c» a value cannot begin with @ → quote it: "@c"']],
  [
    'after characters outside the basic plane',
    'x-a: "\ud83d\udc4b\ud83d\udc4b"\nx-b: { "\ud83d\udc4b\ud83d\udc4b": @c }\n',
    ['2:14 «@c» a value cannot begin with @ → quote it: "@c"'],
  ],
];

const shape: Faults = [
  ['no mapping', '- a\n', ['1:1 «- a» the manifest must be a mapping, not a list']],
  ['text', 'hello\n', ['1:1 «hello» the manifest must be a mapping, not text']],
  [
    'an unknown key',
    'descripton: x\n',
    ['1:1 «descripton» unknown key "descripton" → did you mean description?'],
  ],
  [
    'an unknown key far from all',
    'colour: x\n',
    ['1:1 «colour» unknown key "colour" → keys of your own begin with x-'],
  ],
  [
    'an unknown key in an input',
    'inputs:\n  a: { url: path:./a, folow: b }\n',
    ['2:23 «folow» unknown key "folow" in inputs.a → did you mean follows?'],
  ],
  [
    'an unknown key in a package',
    'packages:\n  a: { buildphase: make, src: . }\n',
    ['2:8 «buildphase» unknown key "buildphase" in packages.a → did you mean buildPhase?'],
  ],
  [
    'an unknown key in a fetch',
    'packages:\n  a: { fetch: { url: "https://x/y", sha256: abc } }\n',
    ['2:37 «sha256» unknown key "sha256" in packages.a.fetch → keys of your own begin with x-'],
  ],
  [
    'a number as version',
    'packages:\n  a:\n    version: 2.10\n    src: .\n',
    ['3:14 «2.10» packages.a.version must be text, not the number 2.10 → quote it: "2.10"'],
  ],
  [
    'a number as range',
    'inputs:\n  a: { url: "git+https://git.example.org/a", version: 1.10 }\n',
    ['2:55 «1.10» inputs.a.version must be text, not the number 1.10 → quote it: "1.10"'],
  ],
  [
    'a comment as reference',
    'packages:\n  default: #bb\n  a: { buildInputs: [ #x\n    b ], src: . }\n  b: {src: .}\n',
    ['2:12 «#bb» packages.default has no value: to YAML, # begins a comment → quote it: "#bb"'],
  ],
  [
    'nothing as input',
    'inputs:\n  a:\n',
    ['2:3 «a» inputs.a has no value → give it text or a mapping, or remove it'],
  ],
  [
    'yes for true',
    'inputs:\n  a: { url: path:./a, flake: yes }\n',
    ['2:30 «yes» inputs.a.flake must be true or false, not text → write true'],
  ],
  [
    'a word for a list',
    'systems: x86_64-linux\n',
    ['1:10 «x86_64-linux» systems must be a list, not text → write a list: [x86_64-linux]'],
  ],
  ['a list for a mapping', 'inputs:\n  - a\n', ['2:3 «- a» inputs must be a mapping, not a list']],
  [
    'a mapping for text',
    'description: { a: b }\n',
    ['1:14 «{ a: b }» description must be text, not a mapping'],
  ],
  [
    'true as an env value',
    'packages:\n  a: { src: ., env: { DEBUG: true } }\n',
    ['2:30 «true» packages.a.env.DEBUG must be text, not the boolean true → quote it: "true"'],
  ],
  [
    'a bad hash',
    'packages:\n  a: { fetch: { url: "https://x/y", hash: sha256-abc } }\n',
    [
      '2:43 «sha256-abc» packages.a.fetch.hash is not well formed → a hash is sha256- and 44 characters of base64',
    ],
  ],
  [
    'another scheme',
    'packages:\n  a: { fetch: { url: "ftp://x/y" } }\n',
    [
      '2:22 «"ftp://x/y"» packages.a.fetch.url is not well formed → a fetch takes an http://, https:// or file:// URL',
    ],
  ],
  [
    'no out',
    'packages:\n  a: { src: ., outputs: [dev] }\n',
    ['2:25 «[dev]» packages.a.outputs must hold out → add out'],
  ],
  [
    'an output twice',
    'packages:\n  a: { src: ., outputs: [out, dev, dev] }\n',
    ['2:36 «dev» packages.a.outputs holds the same item twice'],
  ],
  ['an unknown setup', 'setup: 2\n', ['1:8 «2» setup must be at most 1']],
  [
    'a bad name of a package',
    'packages:\n  a.b: { src: . }\n',
    [
      '2:3 «a.b» "a.b" cannot be a name in packages → a package’s name is made of letters, digits, _, - and +',
    ],
  ],
  [
    'a bad name of an input',
    'inputs:\n  _a: path:./a\n',
    ['2:3 «_a» "_a" cannot be a name in inputs → an input’s name is a letter, then letters, digits, _ and -'],
  ],
  [
    'an app without program',
    'apps:\n  a: {}\n',
    ['2:3 «a» apps.a has no program → program: PACKAGE/bin/PROGRAM'],
  ],
  ['an empty reference', 'toolchain: ""\n', ['1:12 «""» toolchain is empty']],
];

const inputs: Faults = [
  [
    'url and follows',
    'inputs:\n  b: path:./b\n  a: { url: path:./a, follows: b }\n',
    ['3:8 «url» input a has a source of its own and follows another → keep url or follows, not both'],
  ],
  [
    'no source',
    'inputs:\n  a: { flake: false }\n',
    ['2:3 «a» input a has no source → give it a url, or follows'],
  ],
  [
    'an empty override',
    'inputs:\n  a: { url: path:./a, inputs: { b: {} } }\n',
    ['2:33 «b» input b has no source → give it a url, or follows'],
  ],
  [
    'self',
    'inputs:\n  self: path:./a\n',
    ['2:3 «self» self is this flake, and cannot name an input → choose another name'],
  ],
  [
    'a bad reference',
    'inputs:\n  a: "foo bar"\n',
    [
      '2:6 «"foo bar"» flake reference ‘foo bar’: no kind of reference → for example git+https://host/owner/repo?ref=main, or path:./lib',
    ],
  ],
  [
    'a kind that is not fetched',
    'inputs:\n  a: { url: "hg+https://git.example.org/a" }\n',
    [
      '2:13 «"hg+https://git.example.org/a"» flake reference ‘hg+https://git.example.org/a’: flk does not fetch Mercurial',
    ],
  ],
  [
    'a password',
    'inputs:\n  a: git+https://me:secret@git.example.org/a\n',
    [
      '2:6 «git+https://me:secret@git.example.org/a» flake reference to git.example.org holds a password → use a git credential helper or netrc instead',
    ],
  ],
  [
    'a bad range',
    'inputs:\n  a: { url: "git+https://git.example.org/a", version: latest }\n',
    ['2:55 «latest» "latest" is not a semver range → write ^1.2, ~1.4, >=2 <4 or 1.x'],
  ],
  [
    'an empty range',
    'inputs:\n  a: { url: "git+https://git.example.org/a", version: "" }\n',
    ['2:55 «""» "" is not a semver range → write ^1.2, ~1.4, >=2 <4 or 1.x'],
  ],
  [
    'a range over a path',
    'inputs:\n  a: { url: path:./a, version: ^1 }\n',
    [
      '2:23 «version» version chooses among a repository’s tags, and this input is of type path → remove version',
    ],
  ],
  [
    'a range beside a ref',
    'inputs:\n  a: { url: "git+https://git.example.org/a?ref=main", version: ^1 }\n',
    ['2:55 «version» version chooses the tag, and ref has chosen already → keep one of them'],
  ],
  [
    'a range without a repository',
    'inputs:\n  b: path:./b\n  a: { follows: b, version: ^1 }\n',
    ['3:20 «version» version chooses among the tags of a repository, and there is none → add a url'],
  ],
  [
    'a tag without a range',
    'inputs:\n  a: { url: "git+https://git.example.org/a", tag: "r-{version}" }\n',
    ['2:46 «tag» tag shapes the tags that version looks at → add a version'],
  ],
  [
    'a tag without its hole',
    'inputs:\n  a: { url: "git+https://git.example.org/a", tag: release, version: ^1 }\n',
    ['2:51 «release» inputs.a.tag is not well formed → a tag shape holds {version} once'],
  ],
  [
    'two refs',
    'inputs:\n  a: { url: "git+https://git.example.org/a?ref=main", ref: dev }\n',
    ['2:55 «ref» the url says ref too, and something else → keep one of them'],
  ],
  [
    'a bad revision',
    'inputs:\n  a: { url: "git+https://git.example.org/a", rev: abc }\n',
    ['2:51 «abc» inputs.a.rev is not well formed → a revision is 40 lower-case hex digits'],
  ],
  [
    'a bad revision among others',
    'inputs:\n  a: { url: "git+https://git.example.org/a", rev: abc, dir: x }\n',
    ['2:51 «abc» inputs.a.rev is not well formed → a revision is 40 lower-case hex digits'],
  ],
  [
    'a bad follows',
    'inputs:\n  a: { follows: b//c }\n',
    ['2:17 «b//c» follows is a path over inputs’ names, and "" is none → write base or greet/base'],
  ],
  [
    'what is not there yet',
    'inputs:\n  a: { url: path:./a, minAge: 7d, mirrors: [x], patches: [y] }\n',
    [
      '2:23 «minAge» minAge is not supported yet by this version of flk → remove it',
      '2:35 «mirrors» mirrors is not supported yet by this version of flk → remove it',
      '2:49 «patches» patches is not supported yet by this version of flk → remove it',
    ],
  ],
  [
    'a bad attribute form',
    'inputs:\n  a: { type: git, ref: main }\n',
    [
      '2:14 «git» flake reference ‘input a’: its url is missing → for example git+https://host/owner/repo?ref=main, or path:./lib',
    ],
  ],
  [
    'an attribute that a path has not',
    'inputs:\n  a: { url: path:./a, submodules: true }\n',
    [
      '2:35 «true» flake reference ‘input a’: a path reference takes no ‘submodules’ → for example git+https://host/owner/repo?ref=main, or path:./lib',
    ],
  ],
];

const packages: Faults = [
  [
    'an alias to nowhere',
    'packages:\n  default: helo\n  hello: { src: . }\n',
    ['2:12 «helo» there is no package "helo" in this flake → did you mean hello?'],
  ],
  [
    'aliases in a circle',
    'packages:\n  a: b\n  b: "#c"\n  c: b\n',
    ['3:3 «b» aliases go in a circle: b → c → b → point one of them at a package'],
  ],
  [
    'an alias of itself',
    'packages:\n  a: a\n',
    ['2:3 «a» aliases go in a circle: a → a → point one of them at a package'],
  ],
  [
    'an input as a package',
    'inputs: { greet: path:./g }\npackages:\n  default: greet\n',
    ['3:12 «greet» there is no package "greet" in this flake → the default package of that input is greet#'],
  ],
  [
    'a package as an input',
    'packages:\n  a: { src: b }\n  b: { src: . }\n',
    ['2:13 «b» there is no input "b" → the package of that name is #b'],
  ],
  [
    'an unknown input',
    'inputs: { greet: path:./g }\npackages:\n  a: { src: ., buildInputs: [gret#lib] }\n',
    ['3:30 «gret#lib» there is no input "gret" → did you mean greet?'],
  ],
  [
    'an unknown input in env',
    'inputs: { assets: path:./g }\npackages:\n  a: { src: ., env: { A: "x {{assets}} {{asets}}/y" } }\n',
    ['3:42 «asets» there is no input "asets" → did you mean assets?'],
  ],
  [
    'an unknown package in a block',
    'packages:\n  a:\n    buildPhase: |\n      make\n      cp {{#hello}} {{ #helo.dev }}\n  hello: { src: . }\n',
    ['5:24 «#helo» there is no package "helo" in this flake → did you mean hello?'],
  ],
  [
    'a hole that is none',
    "packages:\n  a:\n    buildPhase: |\n      awk '{{print}}' {{$x}} {{\n",
    [
      '4:14 «print» there is no input "print" → declare it under inputs',
      '4:23 «{{$x}}» "$x" is no reference: "$x" cannot be an input’s name → for two braces write {{{{',
      '4:30 «{{» {{ is never closed → for two braces write {{{{',
    ],
  ],
  [
    'an unknown output',
    'packages:\n  a: { src: ., buildInputs: [b.dvl, "#b.dev"] }\n  b: { src: ., outputs: [out, dev] }\n',
    ['2:30 «b.dvl» package b has no output "dvl" → it has out, dev'],
  ],
  [
    'outside the flake',
    'packages:\n  a: { src: ../x }\n  b: { src: /x }\n  c: { src: ./a/../b }\n',
    [
      '2:13 «../x» src must lie inside this flake → write ./dir, or add an input for what lies elsewhere',
      '3:13 «/x» src must lie inside this flake → write ./dir, or add an input for what lies elsewhere',
      '4:13 «./a/../b» src must lie inside this flake → write ./dir, or add an input for what lies elsewhere',
    ],
  ],
  [
    'a patch without ./',
    'packages:\n  a: { src: ., patches: [fix.patch] }\n',
    ['2:26 «fix.patch» there is no input "fix.patch" → a file of this flake is ./fix.patch'],
  ],
  [
    'a patch without source',
    'packages:\n  a: { patches: [./fix.patch], buildPhase: make }\n',
    ['2:8 «patches» there is no src to patch → add src'],
  ],
  [
    'include beside an input',
    'inputs: { g: path:./g }\npackages:\n  a: { src: { path: g, include: [x] } }\n',
    ['3:24 «include» include picks among this flake’s own files → remove it, or use path: ./dir'],
  ],
  [
    'patterns',
    'packages:\n  a: { src: { include: ["!x", ../y, "#z"], exclude: ["a\\\\"] } }\n',
    [
      '2:25 «"!x"» a pattern cannot be negated here → put it under exclude',
      '2:31 «../y» a pattern has no . or .. in it → write it from the folder itself: src/**',
      '2:37 «"#z"» gitignore reads # as a comment → write \\#',
      '2:54 «"a\\\\"» a pattern cannot end in a backslash → remove it',
    ],
  ],
  [
    'reserved variables',
    'packages:\n  a:\n    src: .\n    outputs: [out, dev]\n    env: { out: x, dev: x, name: x, outputHashMode: x, __json: x, allowedReferences: x, buildPhase: x, PATH: x }\n',
    [
      '5:12 «out» env cannot set out: the builder needs it → choose another name',
      '5:20 «dev» env cannot set dev: the builder needs it → choose another name',
      '5:28 «name» env cannot set name: the builder needs it → choose another name',
      '5:37 «outputHashMode» env cannot set outputHashMode: the builder needs it → choose another name',
      '5:56 «__json» env cannot set __json: the builder needs it → choose another name',
      '5:67 «allowedReferences» env cannot set allowedReferences: the builder needs it → choose another name',
      '5:89 «buildPhase» env cannot set buildPhase: the builder needs it → choose another name',
    ],
  ],
  [
    'a variable with a dash',
    'packages:\n  a: { src: ., env: { A-B: x } }\n',
    [
      '2:23 «A-B» "A-B" cannot be a name in packages.a.env → a variable’s name is a letter or _, then letters, digits and _',
    ],
  ],
  [
    'an output called drv',
    'packages:\n  a: { src: ., outputs: [out, drv] }\n',
    ['2:25 «[out, drv]» no output can be called drv → rename it'],
  ],
  [
    'nothing to do',
    'packages:\n  a: {}\n',
    ['2:3 «a» a makes nothing → give it an installPhase, or make it with fetch or merge'],
  ],
  [
    'a phase beside fetch',
    'packages:\n  a: { fetch: { url: "https://x/y" }, buildPhase: make }\n',
    [
      '2:39 «buildPhase» buildPhase has no meaning beside fetch → make a second package, and refer to it as #NAME',
    ],
  ],
  [
    'links without merge',
    'packages:\n  a: { src: ., links: { a: b } }\n',
    ['2:16 «links» links belongs to merge, and a has none → add merge'],
  ],
  [
    'a link outside',
    'packages:\n  a: { merge: ["#b"], links: { ../a: b } }\n  b: { src: . }\n',
    ['2:32 «../a» "../a" is not a path inside the tree → write it like bin/cc'],
  ],
  [
    'a fetch from nowhere',
    'packages:\n  a: { fetch: { unpack: true } }\n',
    ['2:8 «fetch» a is fetched from nowhere → add url'],
  ],
  [
    'unpacked and executable',
    'packages:\n  a: { fetch: { url: "https://x/y", unpack: true, executable: true } }\n',
    ['2:51 «executable» an archive is unpacked or executable, not both'],
  ],
  [
    'a long name',
    'packages:\n  a: { src: ., version: "1.0" }\n  bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb: { src: ., version: "1" }\n',
    [
      '3:3 «bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb» a store path’s name has at most 207 characters → shorten it',
    ],
  ],
  [
    'what is not there yet',
    'modules: {}\n',
    ['1:1 «modules» modules is not supported yet by this version of flk → remove it'],
  ],
  [
    'a system that is none',
    'systems: [x86_64-linx, linux]\n',
    [
      '1:11 «x86_64-linx» "x86_64-linx" is no system flk knows → did you mean x86_64-linux?',
      '1:24 «linux» systems[1] is not well formed → a system is CPU-KERNEL, like x86_64-linux',
    ],
  ],
  [
    'a system that the flake has not',
    'systems: [x86_64-linux]\npackages:\n  a: { src: ., perSystem: { x86_64-linus: {}, aarch64-linux: {} } }\n',
    [
      '3:29 «x86_64-linus» x86_64-linus is none of this flake’s systems → did you mean x86_64-linux?',
      '3:47 «aarch64-linux» aarch64-linux is none of this flake’s systems → did you mean x86_64-linux?',
    ],
  ],
  [
    'a fault in one system',
    'packages:\n  a: { src: ., perSystem: { aarch64-linux: { buildInputs: [x], env: { A: 1 } } } }\n',
    [
      '2:60 «x» there is no package "x" in this flake',
      '2:74 «1» packages.a.perSystem.aarch64-linux.env.A must be text, not the number 1 → quote it: "1"',
    ],
  ],
  [
    'the same fault once',
    'packages:\n  a: { src: ., buildInputs: [x], perSystem: { aarch64-linux: { env: { A: b } } } }\n',
    ['2:30 «x» there is no package "x" in this flake'],
  ],
  [
    'in checks and shells',
    'checks: { a: { buildInputs: [x], buildPhase: "{{y}}" } }\ndevShells: { default: { packages: [z], shellHook: "{{w}}" } }\n',
    [
      '1:30 «x» there is no package "x" in this flake',
      '1:49 «y» there is no input "y" → declare it under inputs',
      '2:36 «z» there is no package "z" in this flake',
      '2:54 «w» there is no input "w" → declare it under inputs',
    ],
  ],
  [
    'store paths',
    'packages:\n  a: { storePath: /nix/store/x, narHash: y }\n  b: { narHash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", src: . }\n',
    [
      '2:8 «storePath» storePath needs cache, publicKey too → flk store path-info --json tells narHash; cache is the URL, publicKey its NAME:KEY',
      '2:19 «/nix/store/x» packages.a.storePath is not well formed → a store path is /nix/store/HASH-NAME',
      '2:42 «y» packages.a.narHash is not well formed → a hash is sha256- and 44 characters of base64',
      '3:8 «narHash» narHash belongs to storePath, and b has none → add storePath',
    ],
  ],
  [
    'known results',
    'packages:\n  a: { src: ., outputHashMode: flat }\n  b: { src: ., outputs: [out, dev], outputHash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", contentAddressed: true, outputHashMode: nar }\n',
    [
      '2:16 «outputHashMode» there is no outputHash whose mode this is → add outputHash',
      '3:37 «outputHash» only a package with one output has an outputHash → outputs: [out]',
      '3:104 «contentAddressed» only a package with one output is contentAddressed → outputs: [out]',
      '3:144 «nar» packages.b.outputHashMode must be flat or recursive',
    ],
  ],
  [
    'programs that are not there',
    'apps: { a: { program: x/bin/x }, b: { program: "i#x" }, c: { program: ../x } }\nformatter: y\n',
    [
      '1:23 «x/bin/x» there is no package "x" in this flake',
      '1:48 «"i#x"» there is no input "i" → declare it under inputs',
      '1:71 «../x» ".." is no reference: a package’s name is missing → write #package, input#package or input#package.output',
      '2:12 «y» there is no package "y" in this flake',
    ],
  ],
  [
    'what a shell sets itself',
    'devShells: { a: { env: { shellHook: x, name: y } } }\n',
    [
      '1:26 «shellHook» env cannot set shellHook: the builder needs it → choose another name',
      '1:40 «name» env cannot set name: the builder needs it → choose another name',
    ],
  ],
  [
    'a toolchain that is not there',
    'toolchain: tools\n',
    ['1:12 «tools» there is no package "tools" in this flake'],
  ],
  [
    'a bad requireVersion',
    'requireVersion: soon\n',
    ['1:17 «soon» "soon" is not a semver range → write ">=0.1"'],
  ],
];

describe.each([
  ['what YAML does not allow, or a manifest not', syntax] as const,
  ['what the schema does not allow', shape] as const,
  ['inputs that mean nothing', inputs] as const,
  ['packages that mean nothing', packages] as const,
])('%s', (_, table) => {
  it.each(table)('%s', (_what, text, faults) => expect(faultsOf(text)).toEqual(faults));
});
describe('parseManifest', () => {
  const read = (text: string): Manifest => parseManifest({ path, text });
  const built = (manifest: Manifest, name: string): BuiltPackage => {
    const found = manifest.packages.get(name);
    if (found?.kind !== 'build') throw new Error(`${name} is ${found?.kind}`);
    return found;
  };

  it('reads everything the format has', () => {
    const text = `# yaml-language-server: $schema=flake.schema.json
description: A greeter
requireVersion: ">=0.1"
systems: [x86_64-linux, aarch64-linux]
toolchain: "#tools"
inputs:
  greet:
    url: git+https://git.example.org/greet
    version: ^1.2
    tag: release-{version}
    inputs: { base: { follows: base, inputs: { deep: { url: "path:./deep", flake: false } } } }
  base: git+https://git.example.org/base?ref=stable
  assets: { url: "git+ssh://git@git.example.org/assets", flake: false, lfs: true, groups: [dev], frozen: true }
  libfoo: { url: path:./libfoo }
  whole: { follows: "" }
packages:
  default: hello
  lib: greet/base#lib.dev
  hello:
    version: "2.12"
    src: { path: ./src/, include: ["*.c", Makefile], exclude: [old] }
    toolchain: host
    buildInputs: [greet#lib, "#helper.dev", helper]
    env: { FONTS: "{{assets/fonts}}:{{ #helper }}", EMPTY: "" }
    patches: [./fix.patch, assets/p.patch]
    buildPhase: make
    installPhase: |
      echo '{{{{'
    outputs: [out, dev]
    meta: { description: d, license: MIT, homepage: h, mainProgram: m }
  helper: { src: assets, outputs: [out, dev] }
  tools: { merge: ["#busybox", base#libc, assets/fonts], links: { bin/cc: gcc-12 } }
  busybox: { fetch: { url: "https://x/y", hash: "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73", unpack: true } }
  script: { fetch: { urls: ["https://x/y", "https://z/y"], executable: true } }
devShells: { default: { packages: [hello, greet#lib], env: { A: b }, shellHook: echo } }
apps: { default: { program: hello/bin/hello } }
checks: { runs: { buildInputs: [hello], buildPhase: hello > $out } }
templates: { default: { path: ./template, description: d, welcomeText: w } }
x-mine: [1, { a: null }]
`;
    const manifest = read(text);
    expect(manifest).toMatchObject({
      description: 'A greeter',
      requireVersion: '>=0.1',
      systems: ['x86_64-linux', 'aarch64-linux'],
      toolchain: { kind: 'package', ref: { inputs: [], name: 'tools' } },
      setup: 1,
    });
    const inputs = [...manifest.inputs].map(([name, { range, ...input }]) => {
      expect(text.slice(range.start, range.end)).toBe(name);
      return [name, input];
    });
    const plain = { flake: true, frozen: false, groups: [], inputs: new Map() };
    expect(inputs).toMatchObject([
      [
        'greet',
        {
          ref: { type: 'git', url: 'https://git.example.org/greet' },
          version: '^1.2',
          tag: 'release-{version}',
        },
      ],
      ['base', { ...plain, ref: { type: 'git', url: 'https://git.example.org/base', ref: 'stable' } }],
      [
        'assets',
        {
          ref: { type: 'git', url: 'ssh://git@git.example.org/assets', lfs: true },
          flake: false,
          frozen: true,
          groups: ['dev'],
        },
      ],
      ['libfoo', { ...plain, ref: { type: 'path', path: './libfoo' } }],
      ['whole', { ...plain, follows: [] }],
    ]);
    const override = manifest.inputs.get('greet')?.inputs.get('base');
    expect(override).toMatchObject({ follows: ['base'] });
    expect(override?.ref).toBeUndefined();
    expect(override?.inputs.get('deep')).toMatchObject({ ref: { path: './deep' }, flake: false });

    const { range, ...hello } = built(manifest, 'hello');
    expect(text.slice(range.start, range.end)).toBe('hello');
    expect(hello).toEqual({
      kind: 'build',
      name: 'hello',
      version: '2.12',
      meta: { description: 'd', license: 'MIT', homepage: 'h', mainProgram: 'm' },
      src: { kind: 'self', path: 'src', include: ['*.c', 'Makefile'], exclude: ['old'] },
      toolchain: { kind: 'host' },
      buildInputs: [
        { inputs: ['greet'], name: 'lib' },
        { inputs: [], name: 'helper', output: 'dev' },
        { inputs: [], name: 'helper' },
      ],
      env: new Map([
        ['FONTS', [{ inputs: ['assets'], subpath: 'fonts' }, ':', { inputs: [], name: 'helper' }]],
        ['EMPTY', []],
      ]),
      patches: [
        { kind: 'self', path: 'fix.patch', include: [], exclude: [] },
        { kind: 'ref', ref: { inputs: ['assets'], subpath: 'p.patch' } },
      ],
      phases: new Map([
        ['buildPhase', ['make']],
        ['installPhase', ["echo '{{'\n"]],
      ]),
      outputs: ['out', 'dev'],
      contentAddressed: false,
      requiredFeatures: [],
    });
    expect(manifest.packages.get('default')).toMatchObject({ kind: 'alias', target: { name: 'hello' } });
    expect(manifest.packages.get('lib')).toMatchObject({
      kind: 'alias',
      target: { inputs: ['greet', 'base'], name: 'lib', output: 'dev' },
    });
    expect(built(manifest, 'helper').src).toEqual({ kind: 'ref', ref: { inputs: ['assets'] } });
    expect(manifest.packages.get('tools')).toMatchObject({
      kind: 'merge',
      parts: [
        { ref: { inputs: [], name: 'busybox' }, priority: 5 },
        { ref: { inputs: ['base'], name: 'libc' }, priority: 5 },
        { ref: { inputs: ['assets'], subpath: 'fonts' }, priority: 5 },
      ],
      links: new Map([['bin/cc', 'gcc-12']]),
    });
    expect(manifest.packages.get('busybox')).toMatchObject({
      kind: 'fetch',
      urls: ['https://x/y'],
      hash: 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=',
      unpack: true,
      stripRoot: true,
      executable: false,
    });
    const script = manifest.packages.get('script') as FetchedPackage;
    expect(script).toMatchObject({ urls: ['https://x/y', 'https://z/y'], executable: true });
    expect(script.hash).toBeUndefined();
  });

  it('reads an empty manifest, and sections that are still empty', () => {
    for (const text of [
      '',
      '# nothing\n',
      '---\n',
      '{}',
      'inputs:\npackages:\n',
      '\ufeff',
      'inputs: {}\r\n',
    ]) {
      const manifest = read(text);
      expect([manifest.inputs.size, manifest.packages.size, manifest.systems]).toEqual([0, 0, []]);
    }
  });

  it('reads attribute forms as it reads URLs', () => {
    const manifest = read(`inputs:
  a: { type: git, url: "https://git.example.org/a", ref: main }
  b: { url: "git+https://git.example.org/a", ref: main }
  c: "git+https://git.example.org/a?ref=main"
  d: { type: path, path: ./d }
`);
    const [a, b, c, d] = [...manifest.inputs.values()].map(({ ref }) => ref);
    expect(a).toEqual(c);
    expect(b).toEqual(c);
    expect(d).toEqual({ type: 'path', path: './d' });
  });

  it.each([
    [
      '{ type: github, owner: o, repo: r, ref: v1, host: git.example.org }',
      'github:o/r/v1?host=git.example.org',
    ],
    ['{ url: "gitlab:g%2Fs/r", ref: main, dir: sub }', 'gitlab:g%2Fs/r/main?dir=sub'],
    ['{ type: sourcehut, owner: "~u", repo: r }', 'sourcehut:~u/r'],
    ['{ type: indirect, id: nixpkgs, ref: stable }', 'nixpkgs/stable'],
    ['{ url: nixpkgs, dir: lib }', 'flake:nixpkgs?dir=lib'],
    ['{ type: tarball, url: "https://h/x" }', 'tarball+https://h/x'],
    ['{ type: file, url: "https://h/x.zip" }', 'file+https://h/x.zip'],
    ['https://h/x', 'tarball+https://h/x'],
    ['{ url: "https://h/x", flake: false }', 'file+https://h/x'],
    ['{ url: "https://h/x.zip", flake: false }', 'tarball+https://h/x.zip'],
  ])('reads %s as %s', (text, same) => {
    expect(read(`inputs:\n  a: ${text}\n`).inputs.get('a')?.ref).toEqual(parseFlakeRef(same));
  });

  it('looks for versions at forges, too', () => {
    const input = read('inputs:\n  a: { url: "github:o/r", version: ^1.2 }\n').inputs.get('a');
    expect(input).toMatchObject({ version: '^1.2', ref: { type: 'github', owner: 'o', repo: 'r' } });
  });

  it('repeats aliased values', () => {
    const manifest = read('x-v: &v "1.0"\npackages:\n  a: &a { src: ., version: *v }\n  b: *a\n');
    expect(built(manifest, 'b')).toMatchObject({ name: 'b', version: '1.0' });
  });

  it('reads keys that objects are born with', () => {
    const manifest = read(
      'packages:\n  __proto__: { src: . }\n  constructor: __proto__\nx-a: { __proto__: { polluted: true } }\n',
    );
    expect([...manifest.packages.keys()]).toEqual(['__proto__', 'constructor']);
    expect('polluted' in {}).toBe(false);
    expect(faultsOf('__proto__: 1\n')[0]).toContain('unknown key "__proto__"');
    expect(faultsOf('packages:\n  a: { src: ., toString: 1 }\n')[0]).toContain('unknown key "toString"');
    expect(faultsOf('packages:\n  a: toString\n')[0]).toContain('there is no package "toString"');
  });

  it('shows a dependency’s manifest by its address', () => {
    const file = { path: 'git+https://git.example.org/a/flake.yaml', text: 'x: 1\n' };
    const error = thrownBy(() => parseManifest(file));
    expect(error.message).toBe('1 fault in git+https://git.example.org/a/flake.yaml');
    expect(error.diagnostics[0]?.file).toBe(file);
  });
});

describe('words that env may not set', () => {
  it.each([
    ...[
      'name',
      'system',
      'builder',
      'args',
      'outputs',
      'out',
      'src',
      'requiredSystemFeatures',
      'allowedReferences',
    ],
    ...[
      'allowedRequisites',
      'allowSubstitutes',
      'disallowedReferences',
      'disallowedRequisites',
      'outputHash',
    ],
    ...[
      'outputHashAlgo',
      'outputHashMode',
      '__structuredAttrs',
      '__json',
      '__noChroot',
      '__impure',
      'passAsFile',
    ],
    ...[
      'impureEnvVars',
      'exportReferencesGraph',
      'preferLocalBuild',
      'buildPhase',
      'toolchain',
      'NIX_BUILD_TOP',
    ],
  ])('%s', (word) => {
    expect(faultsOf(`packages: { a: { src: ., env: { ${word}: x } } }\n`)).toEqual([
      expect.stringContaining(`env cannot set ${word}`),
    ]);
  });
});

describe('offers', () => {
  const manifest = parseManifest({
    path,
    text: `inputs: { i: "path:./i" }
packages:
  hello: { src: ., outputs: [out, bin] }
checks:
  hello: hello
  only: { perSystem: { aarch64-linux: { buildInputs: [hello], buildPhase: x } } }
devShells:
  default:
    description: d
    packages: [hello, i#jq]
    inputsFrom: ["#hello"]
    env: { H: "{{#hello}}/x" }
    shellHook: echo {{i}}
    toolchain: host
    perSystem: { aarch64-linux: { packages: [hello] } }
apps:
  default: { program: hello.bin/bin/hello, description: d }
  main: { program: i#jq, meta: { description: m } }
formatter: i#fmt/bin/fmt
`,
  });
  const { checks, devShells, apps, formatter } = manifest.offers;

  it('are shells with their references', () => {
    expect(onSystem(devShells, 'x86_64-linux').get('default')).toMatchObject({
      description: 'd',
      packages: [
        { inputs: [], name: 'hello' },
        { inputs: ['i'], name: 'jq' },
      ],
      buildInputs: [],
      inputsFrom: [{ inputs: [], name: 'hello' }],
      env: new Map([['H', [{ inputs: [], name: 'hello' }, '/x']]]),
      shellHook: ['echo ', { inputs: ['i'] }],
      toolchain: { kind: 'host' },
    });
    expect(onSystem(devShells, 'aarch64-linux').get('default')).toMatchObject({
      packages: [{ inputs: [], name: 'hello' }],
      toolchain: { kind: 'host' },
    });
  });

  it('are programs: a package’s output, and maybe a path in it', () => {
    expect([...apps.everywhere.values()]).toMatchObject([
      { description: 'd', program: { ref: { inputs: [], name: 'hello', output: 'bin' }, path: 'bin/hello' } },
      { description: 'm', program: { ref: { inputs: ['i'], name: 'jq' } } },
    ]);
    expect(apps.everywhere.get('main')!.program.path).toBeUndefined();
    expect(formatter).toEqual({ ref: { inputs: ['i'], name: 'fmt' }, path: 'bin/fmt' });
  });

  it('are checks, of which an alias names a package and no check', () => {
    expect(checks.everywhere.get('hello')).toMatchObject({ kind: 'alias', target: { name: 'hello' } });
    expect(checks.everywhere.has('only')).toBe(false);
    expect(onSystem(checks, 'aarch64-linux').get('only')).toMatchObject({ kind: 'build' });
  });

  it('say whose output is not there on any system', () => {
    expect(
      faultsOf(
        'packages: { a: { src: ., perSystem: { aarch64-linux: { outputs: [out, arm] } } } }\nchecks: { a: a.arm, b: a.dev }\n',
      ),
    ).toEqual([expect.stringContaining('package a has no output "dev"')]);
  });
});

describe('perSystem', () => {
  const manifest = parseManifest({
    path,
    text: `packages:
  hello:
    src: { path: ., include: [a] }
    env: { A: a, B: b }
    outputs: [out, dev]
    perSystem:
      aarch64-linux:
        env: { B: arm }
        outputs: [out]
        src: { exclude: [b] }
        buildInputs: [tool]
  tool:
    version: "1"
    fetch: { unpack: true }
    perSystem:
      x86_64-linux: { fetch: { url: "https://x/x86" } }
      aarch64-linux: { fetch: { url: "https://x/arm", unpack: false } }
  plain: { src: . }
`,
  });
  const on = (system: string) => packagesFor(manifest, system);

  it('merges mappings and replaces the rest', () => {
    expect(on('aarch64-linux').get('hello')).toMatchObject({
      env: new Map([
        ['A', ['a']],
        ['B', ['arm']],
      ]),
      outputs: ['out'],
      src: { kind: 'self', path: '', include: ['a'], exclude: ['b'] },
      buildInputs: [{ inputs: [], name: 'tool' }],
    });
    expect(on('x86_64-linux').get('hello')).toBe(manifest.packages.get('hello'));
    expect(on('aarch64-linux').get('plain')).toBe(manifest.packages.get('plain'));
  });

  it('makes a package that is only there', () => {
    expect(manifest.packages.has('tool')).toBe(false);
    expect(on('riscv64-linux').has('tool')).toBe(false);
    expect(on('x86_64-linux').get('tool')).toMatchObject({
      urls: ['https://x/x86'],
      unpack: true,
      version: '1',
    });
    expect(on('aarch64-linux').get('tool')).toMatchObject({ urls: ['https://x/arm'], unpack: false });
  });
});

describe('requireVersion', () => {
  const read = (text: string, flkVersion: string) => parseManifest({ path, text }, { flkVersion });
  it('takes a version inside the range', () => {
    expect(read('requireVersion: ">=0.1 <2"', '1.4.0').requireVersion).toBe('>=0.1 <2');
    expect(read('requireVersion: ">=0.1"', '0.2.0-rc.1').requireVersion).toBe('>=0.1');
  });
  it('refuses another, before it complains about what only that one knows', () => {
    const error = thrownBy(() => read('requireVersion: ">=2"\nnovelty: 1\n', '1.0.0'));
    expect(error.code).toBe('FLK_MANIFEST_VERSION');
    expect(error.facts).toEqual({ found: '1.0.0', wanted: '>=2' });
    expect(error.diagnostics).toHaveLength(1);
  });
});

describe('decodeManifest', () => {
  it('gives the text as it is', () => {
    const text = '\ufeffdescription: é 👋\r\n';
    expect(decodeManifest(path, Buffer.from(text))).toEqual({ path, text });
  });
  it.each([
    ['Latin-1', Buffer.from('description: caf\xe9\n', 'latin1'), 16, 'these bytes are not UTF-8'],
    ['UTF-16', Buffer.from('\ufeffdescription: x\n', 'utf16le'), 0, 'the file is UTF-16'],
  ])('points at %s', (_, bytes, start, message) => {
    const error = thrownBy(() => decodeManifest(path, bytes));
    expect(error.code).toBe('FLK_MANIFEST_INVALID');
    expect(error.diagnostics).toMatchObject([{ range: { start }, message }]);
  });
});

describe('hostile text', () => {
  const laughs = (levels: number): string =>
    `x-0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n${Array.from({ length: levels }, (_, i) => {
      const items = Array.from({ length: 9 }, () => `*l${i}`).join(', ');
      return `x-${i + 1}: &l${i + 1} [${items}]\n`;
    }).join('')}`;
  const deeper = (levels: number): string =>
    `x-0: &d0 [a]\n${Array.from({ length: levels }, (_, i) => `x-${i + 1}: &d${i + 1} [*d${i}]\n`).join('')}`;
  const table: readonly [what: string, text: string, message: RegExp][] = [
    ['a billion laughs', laughs(9), /aliases expand/],
    ['aliases that nest without end', deeper(200), /aliases expand/],
    ['open brackets without end', '['.repeat(1_000_000), /nested more than/],
    ['closed brackets without end', `${'['.repeat(5000)}${']'.repeat(5000)}`, /nested more than/],
    ['open braces without end', '{a: '.repeat(200_000), /nested more than/],
    ['lists in lists without end', '- '.repeat(400_000), /nested more than/],
    [
      'mappings in mappings without end',
      Array.from({ length: 1000 }, (_, i) => `${' '.repeat(i)}a:\n`).join(''),
      /nested more than/,
    ],
    ['keys without end', Array.from({ length: 300_000 }, (_, i) => `k${i}: 1\n`).join(''), /words and signs/],
    ['one key again and again', 'x-a: 1\n'.repeat(30_000), /is set twice/],
    [
      'unknown keys without end',
      Array.from({ length: 20_000 }, (_, i) => `k${i}: 1\n`).join(''),
      /unknown key/,
    ],
    ['empty lines without end', '\n'.repeat(2_000_000), /words and signs/],
    ['more text than a manifest has', `description: ${'x'.repeat(4_200_000)}\n`, /characters/],
    ['holes without end', `packages: { a: { buildPhase: "${'{{x}}'.repeat(50_000)}" } }\n`, /no input "x"/],
    [
      'unknown packages without end',
      `packages: {${Array.from({ length: 6000 }, (_, i) => ` pack${i}: { src: ., buildInputs: [none${i}] },`).join('\n')} }\n`,
      /no package "none0"/,
    ],
    [
      'systems without end',
      `packages: { a: { src: ., perSystem: {${Array.from({ length: 500 }, (_, i) => ` "cpu${i}-kernel": {},`).join('')} } } }\n`,
      /at most 50 systems/,
    ],
    [
      'aliases of packages without end',
      `packages:\n${Array.from({ length: 5000 }, (_, i) => `  p${i}: p${(i + 1) % 5000}\n`).join('')}`,
      /circle/,
    ],
  ];
  it.each(table)('%s', (_, text, message) => {
    const error = thrownBy(() => parseManifest({ path, text }));
    expect(error.code).toBe('FLK_MANIFEST_INVALID');
    expect(error.diagnostics[0]?.message).toMatch(message);
    expect(error.diagnostics.length).toBeLessThanOrEqual(100);
  });

  it('reads numbers of any size as what they are: not text', () => {
    for (const number of ['1e999', '9'.repeat(400), '0x'.padEnd(400, 'f'), '.inf', '.nan', '-0']) {
      expect(faultsOf(`description: ${number}\n`)[0]).toContain('must be text, not the number');
    }
  });

  it('throws nothing but FlkError, whatever the text', () => {
    const good =
      'inputs:\n  a: { url: "path:./a", inputs: { b: { follows: c } } }\npackages:\n  default: x\n  x:\n    env: &e { A: "{{a}}" }\n    perSystem: { x86_64-linux: { env: *e } }\n    buildPhase: |\n      make\n';
    const sign = fc.constantFrom(
      ...[
        '{',
        '}',
        '[',
        ']',
        '*a',
        '&a ',
        '- ',
        ': ',
        '\n',
        '  ',
        '"',
        "'",
        '|',
        '>',
        '#',
        '{{',
        '}}',
        '!',
        '%',
        '@',
      ],
      ...[
        '\t',
        '? ',
        ',',
        '---\n',
        '...\n',
        '<<',
        'null',
        '1',
        '\r',
        '\0',
        '\ud800',
        '\ufeff',
        'inputs',
        'packages',
      ],
    );
    const mutated = fc
      .array(fc.tuple(fc.nat(good.length), fc.nat(4), sign), { minLength: 1, maxLength: 4 })
      .map((edits) =>
        edits.reduce((text, [at, cut, put]) => text.slice(0, at) + put + text.slice(at + cut), good),
      );
    const random = fc.array(sign, { maxLength: 40 }).map((signs) => signs.join(''));
    fc.assert(
      fc.property(fc.oneof(mutated, random, fc.string({ unit: 'binary' })), (text) => {
        try {
          parseManifest({ path, text });
        } catch (error) {
          if (!(error instanceof FlkError)) throw error;
          expect(error.code).toBe('FLK_MANIFEST_INVALID');
          expect(error.diagnostics.length).toBeGreaterThan(0);
          for (const { range } of error.diagnostics) {
            expect(range.start).toBeGreaterThanOrEqual(0);
            expect(range.end).toBeGreaterThanOrEqual(range.start);
            expect(range.start).toBeLessThanOrEqual(text.length);
          }
        }
      }),
      { numRuns: 1000 },
    );
  });
});
