/** flk and Nix read references alike: what each says of a text, as attributes and printed again. */
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../src/base/errors.ts';
import {
  type FlakeRef,
  parseFlakeRef,
  printFlakeRef,
  type RefAttributes,
  refFromAttributes,
  refToAttributes,
} from '../../src/flake/flake-ref.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';

/** What a text means, and how that is printed. */
interface Reading {
  readonly attributes: RefAttributes;
  readonly printed: string;
}

const nixString = (text: string): string => `"${text.replace(/[\\"]|\$(?=\{)/g, '\\$&')}"`;

/** One Nix for all of them; undefined where it refuses. */
async function evaluate(expressions: readonly string[]): Promise<(unknown | undefined)[]> {
  const input = expressions
    .map((expression, index) => `"@${index}"\nbuiltins.toJSON (${expression})\n`)
    .join('');
  const { stdout } = await nix(['repl', '--quiet'], { input, env: { NO_COLOR: '1' } });
  const parts = stdout.replace(/\u001b\[[0-9;]*m/g, '').split(/^"@(\d+)"$/m);
  const answers = new Map<number, unknown>();
  for (let at = 1; at < parts.length; at += 2) {
    const json = /^"(.*)"$/m.exec(parts[at + 1]!)?.[1];
    if (json !== undefined)
      answers.set(Number(parts[at]), JSON.parse(JSON.parse(`"${json.replaceAll('\\$', '$')}"`) as string));
  }
  return expressions.map((_, index) => answers.get(index));
}

async function readWithNix(texts: readonly string[]): Promise<(Reading | undefined)[]> {
  const answers = await evaluate(
    texts.map(
      (text) => `let a = builtins.parseFlakeRef ${nixString(text)}; in [ a (builtins.flakeRefToString a) ]`,
    ),
  );
  return answers.map((answer) => {
    if (!Array.isArray(answer)) return undefined;
    return { attributes: answer[0] as RefAttributes, printed: answer[1] as string };
  });
}

const readWithFlk = (text: string): Answer => answerOf(() => parseFlakeRef(text));

function answerOf(read: () => FlakeRef): Answer {
  try {
    const ref = read();
    return { attributes: refToAttributes(ref), printed: printFlakeRef(ref) };
  } catch (error) {
    if (error instanceof FlkError) return error;
    throw error;
  }
}

/** What flk refuses on purpose, though Nix takes it at first; docs/references.md says why. */
const stricter: readonly RegExp[] = [
  // Credentials would end up in locks.
  /FLK_REF_CREDENTIALS/,
  // Kinds that flk does not fetch.
  /FLK_REF_UNSUPPORTED/,
  // Hashes that no bytes can have.
  /FLK_HASH_INVALID|rev is not 40 hex digits/,
  // Names that would lead elsewhere in a URL, or out of the source.
  /is not the name of an owner|is not the name of a repository|is not a host|is not a folder within the source/,
  // URLs that cannot be opened.
  /its path begins with a dash|its (owner|repo|id|url|host) is missing|its host is not one|a file needs an absolute path|its path is empty/,
  // Text that hides something.
  /holds a control character|is not UTF-8|longer than/,
  // The page about a repository, which is not its archive.
  /it leads to a page about a repository/,
  // A host that Nix would read past.
  /its host belongs at its end/,
  // Names that no store path can have, and what Nix does not look at before it fetches.
  /cannot name a store path|is not a Git ref|is not true or false|is not a text|is not a whole number/,
  // Numbers that no lock can hold.
  /is not a number/,
];

type Answer = Reading | FlkError;

const told = (answer: Answer | undefined): string => {
  if (answer === undefined) return 'refused';
  if (answer instanceof FlkError) return `refused (${answer.code} ${answer.message})`;
  return `${answer.printed} ${JSON.stringify(answer.attributes)}`;
};

/** Undefined where flk and Nix agree, or differ as they should. */
function difference(text: string, fromNix: Reading | undefined, fromFlk: Answer): string | undefined {
  const both = `${text}\n  nix ${told(fromNix)}\n  flk ${told(fromFlk)}`;
  if (fromFlk instanceof FlkError) {
    const known = stricter.some((pattern) => pattern.test(`${fromFlk.code} ${fromFlk.message}`));
    return fromNix === undefined || known ? undefined : both;
  }
  // Nix has no folder here from which a relative path could be meant.
  if (fromNix === undefined) return text.startsWith('.') ? undefined : both;
  // flk writes revisions in lower case at once, Nix when it fetches them.
  const lower = (from: string): string => from.replace(/[0-9a-f]{40}/gi, (hex) => hex.toLowerCase());
  const same =
    isDeepStrictEqual({ ...fromFlk.attributes, rev: 0 }, { ...fromNix.attributes, rev: 0 }) &&
    lower(String(fromFlk.attributes.rev)) === lower(String(fromNix.attributes.rev)) &&
    lower(fromFlk.printed) === lower(fromNix.printed);
  return same ? undefined : both;
}

/** Fails with all differences at once. `accepted`: as many must mean something to both, or nothing was compared. */
function compare(
  texts: readonly string[],
  answers: readonly (Reading | undefined)[],
  readings: readonly Answer[],
  accepted: number,
): void {
  const differences = texts.flatMap(
    (text, index) => difference(text, answers[index], readings[index]!) ?? [],
  );
  expect(differences.slice(0, 20).join('\n')).toBe('');
  const both = readings.filter((reading, index) => !(reading instanceof FlkError) && answers[index]);
  expect(both.length).toBeGreaterThanOrEqual(accepted);
}

describe.skipIf(!nixAvailable())(`references ${nixReason}`, () => {
  it('mean the same as text', async () => {
    compare(known, await readWithNix(known), known.map(readWithFlk), 100);
  });

  it('mean the same as text, made at random', async () => {
    const texts = fc.sample(reference, { numRuns: 5000, seed: 20260101 });
    compare(texts, await readWithNix(texts), texts.map(readWithFlk), 1000);
  }, 120_000);

  it('are printed alike from attributes, made at random', async () => {
    const sets = fc.sample(attributes, { numRuns: 2000, seed: 20260102 });
    const texts = sets.map((set) => nixSet(set));
    const answers = await evaluate(texts.map((text) => `builtins.flakeRefToString ${text}`));
    compare(
      texts,
      answers.map((printed, index) =>
        typeof printed === 'string' ? { attributes: asKept(sets[index]!), printed } : undefined,
      ),
      sets.map((set) => answerOf(() => refFromAttributes(set, 'here'))),
      500,
    );
  }, 120_000);
});

const rev = '0123456789abcdef0123456789ABCDEF01234567';
const narHash = 'sha256-47DEQpj8HBSa%2B/TImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D';

const word = fc.oneof(
  {
    weight: 24,
    arbitrary: fc.constantFrom('a', 'nixpkgs', 'lib-x', 'r_2', 'main', 'v1.2', 'feature', 'x.y', '~u'),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      '..',
      '.',
      '',
      '-x',
      'a%2Fb',
      'a%20b',
      '@',
      'x@{',
      'a+b',
      'HEAD',
      'é',
      "q'",
      'a:b',
      '%C3%A9',
    ),
  },
  { weight: 2, arbitrary: fc.constant(rev) },
);
const words = fc.array(word, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'));
const ending = fc.constantFrom('', '', '.tar.gz', '.tgz', '.zip', '.tar', '.git', '/');
const parameter = fc.oneof(
  fc
    .tuple(fc.constantFrom('ref', 'dir', 'host', 'foo', 'url', 'name', 'a b', 'unpack', 'type'), words)
    .map(([name, value]) => `${name}=${value}`),
  fc.constantFrom(
    `rev=${rev}`,
    'rev=abc',
    `narHash=${narHash}`,
    'narHash=x',
    'lastModified=12',
    'revCount=007',
    'revCount=x',
  ),
  fc
    .tuple(
      fc.constantFrom('submodules', 'shallow', 'lfs', 'allRefs', 'exportIgnore'),
      fc.constantFrom('1', '0', 'true', ''),
    )
    .map(([name, value]) => `${name}=${value}`),
  fc.constantFrom(
    '',
    'x',
    '=',
    'a=b=c',
    'q="x y"',
    'z=%zz',
    'z=%0A',
    'host=git.example.org',
    'host=h:80',
    'host=h/../x',
  ),
);
const query = fc
  .array(parameter, { maxLength: 3 })
  .map((parameters) => (parameters.length === 0 ? '' : `?${parameters.join('&')}`));
const start = fc.oneof(
  fc.constantFrom(
    'github:',
    'gitlab:',
    'sourcehut:',
    'flake:',
    '',
    'https://h/',
    'git+https://h/',
    'git+ssh://git@h/',
    'path:./',
    '/a/',
  ),
  fc.constantFrom(
    'github:',
    'gitlab:',
    'sourcehut:',
    'flake:',
    'path:',
    '',
    './',
    '/',
    '../',
    'github:/',
    'github://',
  ),
  fc
    .tuple(
      fc.constantFrom('', 'git+', 'git+', 'tarball+', 'file+', 'hg+', 'path+', 'git+git+'),
      fc.constantFrom('https', 'http', 'ssh', 'file', 'git', 'ftp', 'HTTPS'),
      fc.constantFrom(
        '://h/',
        '://git.example.org:8080/',
        '://u@h/',
        '://u:p@h/',
        ':/',
        ':///',
        '://',
        ':',
        '://[::1]/',
      ),
    )
    .map((parts) => parts.join('')),
);
const reference = fc
  .tuple(start, words, ending, query, fc.constantFrom('', '', '', '', '', '', '#x'))
  .map((parts) => parts.join(''));

const attributes: fc.Arbitrary<RefAttributes> = fc
  .record(
    {
      type: fc.constantFrom(
        'git',
        'git',
        'path',
        'github',
        'gitlab',
        'sourcehut',
        'tarball',
        'file',
        'indirect',
        'zzz',
      ),
      url: fc.oneof(
        fc.constantFrom(
          'https://h/x.tar.gz',
          'file:///a/b',
          'file:/a',
          '/a b%20c?d#e',
          "https://h/x'(y)?a='b'&dir=old",
          'ssh://git@h/~/x',
          'git@h:a/b.git',
          'git@h:/a/b.git',
          'git+https://h/x',
          'ext::sh -c x',
          'https://u:p@h/x',
          'ftp://h/x',
        ),
        fc.tuple(words, ending, query).map((parts) => `https://h/${parts.join('')}`),
      ),
      path: fc.oneof(words, fc.constantFrom('/a', './a b', '../x?y', '/a//b', '/')),
      owner: fc.oneof(word, fc.constantFrom('group/sub', 'acme')),
      repo: word,
      id: word,
      ref: fc.oneof(words, fc.constantFrom('main', 'feature/x', 'refs/tags/v1')),
      rev: fc.constantFrom(rev.toLowerCase(), rev.toLowerCase(), 'abc', rev),
      dir: fc.oneof(words, fc.constantFrom('sub', 'a/b', 'sub/', '')),
      host: fc.constantFrom('git.example.org', 'h:80', '', 'h/../x', 'h@x'),
      narHash: fc.constantFrom(decodeURIComponent(narHash), decodeURIComponent(narHash), 'sha256-x'),
      lastModified: fc.constantFrom(0, 12, 1700000000),
      revCount: fc.constantFrom(1, 7),
      submodules: fc.boolean(),
      shallow: fc.boolean(),
      lfs: fc.boolean(),
      exportIgnore: fc.boolean(),
      allRefs: fc.boolean(),
      name: word,
      unpack: fc.boolean(),
      treeHash: fc.constant(rev),
      other: fc.constant('x'),
    },
    { requiredKeys: ['type'] },
  )
  // Most attributes at once suit no kind: leave the kind a few of its own.
  .chain((set) => {
    const own = kinds[set.type] ?? Object.keys(set);
    const stray = fc.constantFrom(...Object.keys(set)).map((name) => [name]);
    return fc
      .tuple(
        fc.subarray([...own]),
        fc.oneof({ weight: 9, arbitrary: fc.constant<string[]>([]) }, { weight: 1, arbitrary: stray }),
      )
      .map(([some, more]) => {
        const needed = ['type', 'url', 'path', 'owner', 'repo', 'id'].filter((name) => own.includes(name));
        const names = new Set([...needed, ...some, ...more]);
        return Object.fromEntries(Object.entries(set).filter(([name]) => names.has(name))) as RefAttributes;
      });
  });

const pins = ['type', 'dir', 'rev', 'narHash'];
const kinds: Readonly<Record<string, readonly string[]>> = {
  git: [
    ...pins,
    'url',
    'ref',
    'lastModified',
    'revCount',
    'submodules',
    'shallow',
    'lfs',
    'exportIgnore',
    'allRefs',
    'name',
  ],
  path: [...pins, 'path', 'lastModified', 'revCount'],
  github: [...pins, 'owner', 'repo', 'ref', 'host', 'lastModified', 'treeHash'],
  gitlab: [...pins, 'owner', 'repo', 'ref', 'host', 'lastModified'],
  sourcehut: [...pins, 'owner', 'repo', 'ref', 'host'],
  tarball: [...pins, 'url', 'lastModified', 'revCount', 'name', 'unpack'],
  file: [...pins, 'url', 'lastModified', 'name'],
  indirect: [...pins, 'id', 'ref'],
};

function nixSet(set: RefAttributes): string {
  const words = Object.entries(set).map(
    ([name, value]) => `${name} = ${typeof value === 'string' ? nixString(value) : value};`,
  );
  return `{ ${words.join(' ')} }`;
}

/** Nix keeps attributes as they are, but for Git's URL, which flk and Nix write anew, and an empty `dir`. */
function asKept({ dir, ...set }: RefAttributes): RefAttributes {
  const kept = dir === '' || dir === undefined ? set : { ...set, dir };
  const reading = set.type === 'git' ? answerOf(() => refFromAttributes(kept, 'here')) : undefined;
  return reading === undefined || reading instanceof FlkError
    ? kept
    : { ...kept, url: reading.attributes.url! };
}

const plain = rev.toLowerCase();

/** One of each, and what comes near it. */
const known: readonly string[] = [
  'github:a/b',
  'github:a/b/main',
  'github:a/b/feature/x',
  `github:a/b/${plain}`,
  'github:a/b?ref=x',
  `github:a/b?rev=${plain}`,
  `github:a/b/main?rev=${plain}`,
  'github:a/b/main?ref=x',
  'github:a/b?host=h.org&dir=d',
  'github:a/b?host=h/../@x',
  'github:a/b?host=',
  `github:a/b?narHash=${narHash}`,
  'github:a/b?narHash=',
  'github:a/b?lastModified=3',
  'github:a/b?foo=1',
  'github:a',
  'github:a/',
  'github:a//b',
  'github:/a/b',
  'github://a/b',
  'github:///a/b',
  'github:a%2Fc/b',
  'github:a/b%2Fc',
  'github:-a/b',
  'github:../..',
  'github:a b/c',
  'github:a/b/..',
  'github:a/b/-x',
  'github:a/b/refs/heads/x',
  'github:a/b/0123456789ABCDEF0123456789abcdef01234567',
  'github:a/b?rev=abc',
  'github:a/b#frag',
  'github:a/b?dir=../x',
  'github:a/b?dir=/x',
  'github:a/b?dir=x/',
  'gitlab:g%2Fs/r',
  'gitlab:g/s/r',
  'sourcehut:~u/r',
  `sourcehut:~u/r/${plain}?host=hg.sr.ht`,
  'sourcehut:u/r',
  'https://h/x.tar.gz',
  'https://h/x.tgz?a=b',
  'https://h/x.zip#a',
  'https://h/x',
  'http://h/x.txt',
  'file:///x/y.tar',
  'file:/x/y.tar',
  'file:///x/y',
  'tarball+https://h/x',
  'tarball+file:///x',
  'tarball+file:/x',
  'tarball+http://h',
  'tarball+ftp://h/x',
  'tarball+https://u:p@h/x',
  'file+https://h/x.tar.gz',
  'file+file:///x',
  `https://h/x.tar.gz?rev=${plain}&revCount=3&lastModified=9&narHash=${narHash}&dir=d&foo=1`,
  'https://h/x.tar.gz?rev=abc',
  'https://h/x.tar.gz?revCount=x',
  'https://h/x.tar.gz?narHash=abc',
  'https://h/x.tar.gz?name=n&unpack=1&url=u&type=t',
  'https://h/x.TAR.GZ',
  'https://h/.tar.gz',
  'https:///x.tar.gz',
  'https:x.tar.gz',
  'nixpkgs',
  'nixpkgs/master',
  'nixpkgs/a/b',
  `nixpkgs/master/${plain}`,
  `nixpkgs/${plain}`,
  `nixpkgs/${plain}/master`,
  'nixpkgs#hello',
  'nixpkgs?dir=x',
  'flake:nixpkgs',
  'flake:nixpkgs/master',
  'flake:nixpkgs/a%2Fb',
  'flake:nixpkgs?dir=x',
  'flake:nixpkgs?ref=x',
  'flake:nixpkgs?foo=x',
  'flake:nixpkgs//master',
  'flake:/nixpkgs',
  'flake://nixpkgs',
  'flake:a.b',
  'flake:0a',
  'flake:',
  'flake:a/..',
  'flake:a/b/c',
  'flake:a/b/c/d',
  '0a',
  'a.b',
  'A-b_9',
  'a/b.c',
  `a/b_c/${plain}`,
  'a/-b',
  'a/b/',
  'git://h/x',
  'git://h/x?ref=a',
  'git+git://h/x',
  'git+git+https://h/x',
  'git+ext::sh',
  'git:x',
  'git+https://h/x?rev=ABCDEF0123456789012345678901234567890123',
  `git+https://h/x?rev=${plain}012345678901234567890123`,
  'hg+https://h/x',
  `hg+https://h/x?rev=${plain}`,
  'hg+file:///x',
  'GITHUB:a/b',
  'Github:a/b',
  'git@github.com:a/b',
  'github.com/a/b',
  'https://github.com/a/b',
  'https://github.com/a/b/archive/main.tar.gz',
  '/x/y',
  '/x/y?dir=d',
  '/x y',
  `/x/y?rev=${plain}`,
  '/x/y?foo=1',
  'path:/x?rev=abc',
  'path:/x?revCount=07',
  'path:/x?narHash=abc',
  './x',
  'x/./y',
  'git+https://h/x?keytype=a',
  'git+https://h/x?verifyCommit=0',
  'git+https://h/x?publicKey=aa',
  'git+https://user@h/x',
  'git+https://h/x y',
  'git+https://h/x?a="b c"',
  'github:a/b?dir=a b',
  'github:a/b?ref=a b',
  'flake:a?ref="',
  'svn://h/x',
  'foo:bar',
  'path:',
  'path:.',
  'path:./a%20b',
  'path:a%2Fb',
  'path:/x/',
  'path:/x//',
  'path:/x//y/',
  'path:/x/./y/.',
  'path:/x/..',
  'path:./x/',
  'path:x/',
  'path:/',
  'path://',
  'path:///',
  'path:./',
  'path:..',
  'path:../',
  '/x/',
  '/x//',
  '/x//y',
  '/x//y//',
  '/x/.',
  '/',
  '//',
  '//x',
  '/x y/?dir=a b/',
  '/x%20y',
  '/x?dir=a%20b',
  '/x?dir="a"',
  '/x^y',
  '/é',
  'path:/%C3%A9',
  'path:/x?dir=d&dir=e',
  `path:/x?narHash=${narHash}&lastModified=1&revCount=1`,
  'path:/x?lastModified=99999999999999999999',
  'path:/x?lastModified=-1',
  'path:/x?lastModified=+1',
  'https://h/x.tgz?lastModified=+1',
  'https://h/x.tgz?revCount=1234567890123456789',
  'https://h/x.tgz?dir=d&dir=e',
  'git+https://h/x?dir=d&ref=a&ref=b',
  'git+file:///x//y/',
  'file:///x//y.tgz',
];
