import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import {
  type FlakeRef,
  isGitRefName,
  isLocked,
  isRelativePath,
  parseFlakeRef,
  printFlakeRef,
  refFromAttributes,
  refKey,
  refToAttributes,
  sameRef,
  splitFragment,
} from '../../../src/flake/flake-ref.ts';

const rev = '0123456789012345678901234567890123456789';
const narHash = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=';

const codeOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof FlkError) return error.code;
    throw error;
  }
  return 'none';
};

// Made with Nix 2.34: builtins.parseFlakeRef TEXT, then builtins.flakeRefToString of that.
const asNix: readonly [text: string, printed: string, attributes: Record<string, unknown>][] = [
  [
    `git+https://host/x?ref=main&dir=a&rev=${rev}`,
    `git+https://host/x?dir=a&ref=main&rev=${rev}`,
    { dir: 'a', ref: 'main', rev, type: 'git', url: 'https://host/x' },
  ],
  [
    'git+https://host/a%20b/x?dir=a%20b%2Fc&ref=f%2Fx%2By',
    'git+https://host/a%20b/x?dir=a%20b/c&ref=f/x%2By',
    { dir: 'a b/c', ref: 'f/x+y', type: 'git', url: 'https://host/a%20b/x' },
  ],
  [
    'git+https://h/x?shallow=1&submodules=true&unknown=3&lfs=1',
    'git+https://h/x?lfs=1&shallow=1&unknown=3',
    { lfs: true, shallow: true, submodules: false, type: 'git', url: 'https://h/x?unknown=3' },
  ],
  ['git+https://h/x?shallow=0', 'git+https://h/x', { shallow: false, type: 'git', url: 'https://h/x' }],
  ['git+ssh://git@h/x.git', 'git+ssh://git@h/x.git', { type: 'git', url: 'ssh://git@h/x.git' }],
  ['git+ssh://user@h:22/~/x', 'git+ssh://user@h:22/~/x', { type: 'git', url: 'ssh://user@h:22/~/x' }],
  ['git+file:/x/y', 'git+file:/x/y', { type: 'git', url: 'file:/x/y' }],
  ['git+file:///x/y', 'git+file:///x/y', { type: 'git', url: 'file:///x/y' }],
  ['git+file:///x%20y', 'git+file:///x%20y', { type: 'git', url: 'file:///x%20y' }],
  [
    'git+https://h/x?narHash=a%2Bb&lastModified=3&revCount=7',
    'git+https://h/x?lastModified=3&narHash=a%2Bb&revCount=7',
    { type: 'git', url: 'https://h/x?lastModified=3&narHash=a%2Bb&revCount=7' },
  ],
  ['git+https://HoSt/x/', 'git+https://HoSt/x/', { type: 'git', url: 'https://HoSt/x/' }],
  ['git+https://h', 'git+https://h', { type: 'git', url: 'https://h' }],
  ['git+https://h/x?ref=a&ref=b', 'git+https://h/x?ref=a', { ref: 'a', type: 'git', url: 'https://h/x' }],
  ['git+https://[::1]:80/x', 'git+https://[::1]:80/x', { type: 'git', url: 'https://[::1]:80/x' }],
  [
    'git+https://h/x?allRefs=1&exportIgnore=1&ref=HEAD',
    'git+https://h/x?exportIgnore=1&ref=HEAD',
    { allRefs: true, exportIgnore: true, ref: 'HEAD', type: 'git', url: 'https://h/x' },
  ],
  [
    "git+https://h/x'y(z)~!$*,;:@",
    'git+https://h/x%27y%28z%29~%21%24%2A%2C%3B:@',
    { type: 'git', url: 'https://h/x%27y%28z%29~%21%24%2A%2C%3B:@' },
  ],
  [
    'git+https://h/x?dir=a&url=foo',
    'git+https://h/x?dir=a&url=foo',
    { dir: 'a', type: 'git', url: 'https://h/x?url=foo' },
  ],
  ['git+https://h/x?ref=%C3%A9', 'git+https://h/x?ref=%C3%A9', { ref: 'é', type: 'git', url: 'https://h/x' }],
  ['git+https://h/x?a+b=c', 'git+https://h/x?a%2Bb=c', { type: 'git', url: 'https://h/x?a%2Bb=c' }],
  ['git+https://h/x?', 'git+https://h/x', { type: 'git', url: 'https://h/x' }],
  ['git+https://h/x?dir=', 'git+https://h/x', { type: 'git', url: 'https://h/x' }],
  ['git+https://h:/x', 'git+https://h/x', { type: 'git', url: 'https://h/x' }],
  ['git+https://h:0443//x', 'git+https://h:443//x', { type: 'git', url: 'https://h:443//x' }],
  ['git+https://h/./x/../y', 'git+https://h/./x/../y', { type: 'git', url: 'https://h/./x/../y' }],
  [
    'git+https://h/a&b=c+d?e=f',
    'git+https://h/a%26b%3Dc%2Bd?e=f',
    { type: 'git', url: 'https://h/a%26b%3Dc%2Bd?e=f' },
  ],
  ['git+https://h/a%2Fb', 'git+https://h/a%2Fb', { type: 'git', url: 'https://h/a%2Fb' }],
  ['git+https://h/a%3Fb%23c', 'git+https://h/a%3Fb%23c', { type: 'git', url: 'https://h/a%3Fb%23c' }],
  [
    'git+https://h/x?q=a:b@c/d?e',
    'git+https://h/x?q=a:b@c/d?e',
    { type: 'git', url: 'https://h/x?q=a:b@c/d?e' },
  ],
  [
    "git+https://h/x?q=a'b=c!",
    'git+https://h/x?q=a%27b%3Dc%21',
    { type: 'git', url: 'https://h/x?q=a%27b%3Dc%21' },
  ],
  ['git+https://h/x?z&y=', 'git+https://h/x?y=', { type: 'git', url: 'https://h/x?y=' }],
  ['path:./x', 'path:./x', { path: './x', type: 'path' }],
  ['path:x', 'path:x', { path: 'x', type: 'path' }],
  ['path:../x', 'path:../x', { path: '../x', type: 'path' }],
  ['path:/a/../b/./c//d', 'path:/a/../b/./c/d', { path: '/a/../b/./c/d', type: 'path' }],
  ['path:///x', 'path:/x', { path: '/x', type: 'path' }],
  ['path:a:b', 'path:a:b', { path: 'a:b', type: 'path' }],
  ['path:./a%3fb', 'path:./a%3Fb', { path: './a?b', type: 'path' }],
  ['path:/a%20b/c?dir=d%20e', 'path:/a%20b/c?dir=d%20e', { dir: 'd e', path: '/a b/c', type: 'path' }],
  [
    "path:/a'b(c)&d=e+f,g;h~!",
    'path:/a%27b%28c%29%26d%3De%2Bf%2Cg%3Bh~%21',
    { path: "/a'b(c)&d=e+f,g;h~!", type: 'path' },
  ],
  [
    `path:/x?rev=${rev}&lastModified=1&narHash=sha256-47DEQpj8HBSa%2B%2FTImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D`,
    `path:/x?lastModified=1&narHash=sha256-47DEQpj8HBSa%2B/TImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D&rev=${rev}`,
    { lastModified: 1, narHash, path: '/x', rev, type: 'path' },
  ],
  ['/abs/y?dir=q', 'path:/abs/y?dir=q', { dir: 'q', path: '/abs/y', type: 'path' }],
];

describe('the string form', () => {
  it.each(asNix)('%s is read and printed as Nix does', (text, printed, attributes) => {
    const ref = parseFlakeRef(text);
    expect({ ...refToAttributes(ref) }).toEqual(attributes);
    expect(printFlakeRef(ref)).toBe(printed);
    expect(refFromAttributes(attributes as Record<string, string>, 'here')).toEqual(ref);
  });

  it.each(['.', '..', './x', '../x', './a/b?dir=c'])('%s is a relative path', (text) => {
    const ref = parseFlakeRef(text);
    expect(isRelativePath(ref)).toBe(true);
    expect(ref).toMatchObject({ type: 'path', path: text.split('?')[0] });
  });

  it('makes a relative path absolute where told to', () => {
    expect(parseFlakeRef('../x?dir=d', { relativeTo: '/a/b' })).toEqual({
      type: 'path',
      path: '/a/x',
      dir: 'd',
    });
    expect(parseFlakeRef('/x', { relativeTo: '/a/b' })).toEqual({ type: 'path', path: '/x' });
  });

  it.each([
    'hg+https://h/x',
    'git+ftp://h/x',
    'git+HTTPS://h/x',
    'git+git+https://h/x',
    'git+https://h/x?verifyCommit=1',
    'git+https://h/x?publicKeys=%5B%5D',
  ])('%s is known, and not fetched', (text) => {
    expect(codeOf(() => parseFlakeRef(text))).toBe('FLK_REF_UNSUPPORTED');
  });

  it.each([
    ['github.com/a/b', 'did you mean github:a/b, or git+https://github.com/a/b?'],
    ['https://github.com/a/b.git', 'did you mean github:a/b, or git+https://github.com/a/b.git?'],
    ['https://git.sr.ht/~a/b/', 'did you mean sourcehut:~a/b, or git+https://git.sr.ht/~a/b?'],
    ['a.b/c', 'write ./a.b/c for a folder'],
    ['github://host/a/b', 'write github:OWNER/REPO?host=HOST'],
    ['nixpkgs/a/b', 'write a / within a ref as %2F'],
    ['github:owner', 'write github:OWNER/REPO, or github:OWNER/REPO/REF'],
    ['flake:a.b', 'write flake:ID, flake:ID/REF or flake:ID/REF/REV'],
  ])('knows what %s should have been', (text, hint) => {
    expect(() => parseFlakeRef(text)).toThrow(expect.objectContaining({ code: 'FLK_REF_INVALID', hint }));
  });

  it('points from scp form to ssh', () => {
    expect(() => parseFlakeRef('git@host:a/b.git')).toThrow(
      expect.objectContaining({ hint: 'write git+ssh://git@host/a/b.git' }),
    );
  });

  it.each([
    '',
    ' ',
    'a b',
    'path:',
    'path:a b',
    'path://h/x',
    'path:./x?ref=main',
    'path:/x?lastModified=x',
    'path:/x?foo=1',
    'git+https://h/a b',
    'git+https://h/é',
    'git+https://h/x%zz',
    'git+https://h/%00',
    'git+https://h/x%0Ay',
    'git+https://h/%ff',
    'git+https:///x',
    'git+https://-h/x',
    'git+ssh://-oProxyCommand=x/y',
    'git+ssh://git@-h/x',
    'git+ssh://-x@h/y',
    'git+ssh://h/-x',
    'git+https://h:99999/x',
    'git+https:h',
    'git+https://h/x#frag',
    'git+https://h/x\n',
    'git+https://h\0/x',
    'git+file:x/y',
    'git+file:./x',
    'git+file://h/x',
    'ext::sh -c x',
    'git+ext::sh',
    'git+https://h/x?rev=abc',
    `git+https://h/x?rev=${rev}0`,
    'git+https://h/x?ref=..',
    'git+https://h/x?ref=a%0ab',
    'git+https://h/x?ref=a..b',
    'git+https://h/x?ref=-x',
    'git+https://h/x?ref=a:b@c',
    'git+https://h/x?ref=',
    'git+https://h/x?dir=../a',
    'git+https://h/x?dir=/a',
    'git+https://h/x?dir=a%2F%2Fb',
    `git+https://h/${'x'.repeat(4097)}`,
  ])('%.40j is refused', (text) => {
    expect(codeOf(() => parseFlakeRef(text))).toBe('FLK_REF_INVALID');
  });

  it('takes a plain URL for an archive where a flake is wanted, else by its ending', () => {
    const typeOf = (text: string, flake: boolean) => parseFlakeRef(text, { flake }).type;
    expect(typeOf('https://h/x', true)).toBe('tarball');
    expect(typeOf('https://h/x', false)).toBe('file');
    for (const ending of ['zip', 'tar', 'tgz', 'tar.gz', 'tar.xz', 'tar.bz2', 'tar.zst'])
      expect(typeOf(`https://h/x.${ending}?a=b`, false)).toBe('tarball');
    expect(typeOf('https://h/x.tar.lz', false)).toBe('file');
    expect(typeOf('file+https://h/x.tar', true)).toBe('file');
    expect(typeOf('tarball+https://h/x', false)).toBe('tarball');
  });

  it.each([
    'github:a/b?host=h/../x',
    'github:a/b?host=evil.org:80',
    'github:a/b?host=u@h',
    'github:a/b?host=-h',
    'github:a/b?host=',
    'github:../b',
    'github:a/..%2F..%2Fb',
    'github:a/b%3Fc',
    'github:-a/b',
    'github:a%2Fc/b',
    'gitlab:a%2F../b',
    'github:a/b/..',
    'github:a/b/-x',
    `github:a/b/x?rev=${rev}`,
    'github:a/b/x?ref=y',
    'github:a',
    'github:a/b?dir=../x',
    'flake:a/b/c',
    'flake:',
    'tarball+ftp://h/x',
    'tarball:x',
    'file+ssh://h/x',
    'https:///x',
    'https:x.tar.gz',
    'file://h/x.tar',
    'file:x.tar',
    'path+https://h/x',
    'https://h/x.tar?rev=abc',
    'https://h/x.tar?revCount=1234567890123456',
    'github:a/b?narHash=sha256-x',
  ])('%s is refused, too', (text) => {
    expect(codeOf(() => parseFlakeRef(text))).toMatch(/^FLK_(REF|HASH)_INVALID$/);
  });

  it.each([
    'git+https://u:sEcret@h:8080/x',
    'https://u:sEcret@h/x.tar.gz',
    'tarball+https://sEcret@h/x',
    'file+http://sEcret@h/x',
    'git+https://sEcret@h/x',
    'git+http://sEcret@h/x',
    'git+ssh://u:sEcret@h/x',
  ])('%s holds credentials, which the error does not repeat', (text) => {
    expect(codeOf(() => parseFlakeRef(text))).toBe('FLK_REF_CREDENTIALS');
    expect(() => parseFlakeRef(text)).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('sEcret') }),
    );
  });

  it('never fails but with an FlkError of a reference', () => {
    const piece = fc.constantFrom(
      'git+https://',
      'git+ssh://',
      'path:',
      'h',
      '/',
      '..',
      '?',
      'ref=',
      'rev=',
      '&',
      '%',
      '%2',
      '@',
      ':',
      '#',
      '-',
      '\0',
      'é',
      '[',
      ' ',
      rev,
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(piece, { maxLength: 12 }).map((p) => p.join('')),
        ),
        (text) => {
          expect([
            'none',
            'FLK_REF_INVALID',
            'FLK_REF_UNSUPPORTED',
            'FLK_REF_CREDENTIALS',
            'FLK_HASH_INVALID',
          ]).toContain(codeOf(() => printFlakeRef(parseFlakeRef(text))));
        },
      ),
    );
  });

  it('reads what it prints', () => {
    const word = fc.stringMatching(/^[A-Za-z0-9_é ñ+!=&;'"%?]{1,12}$/u);
    const flag = fc.option(fc.constant(true), { nil: undefined });
    const gitName = word.map((w) => w.replace(/[ ?]/g, '')).filter(isGitRefName);
    const dir = fc.array(word, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
    const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
    const git = fc.record({
      type: fc.constant('git'),
      url: fc.constantFrom('https://h/x', 'ssh://git@h:2/x', 'file:///a%20b', 'http://[::1]/x/?q=a%2Bb&z=1'),
      ref: optional(gitName),
      rev: optional(fc.constant(rev)),
      dir: optional(dir),
      shallow: flag,
      lfs: flag,
      submodules: flag,
      exportIgnore: flag,
    });
    const path = fc.record({
      type: fc.constant('path'),
      path: fc.tuple(fc.constantFrom('/', './', '../'), dir).map(([start, rest]) => start + rest),
      dir: optional(dir),
      narHash: optional(fc.constant(narHash)),
      lastModified: optional(fc.nat()),
    });
    fc.assert(
      fc.property(fc.oneof(git, path), (attributes) => {
        const present = Object.fromEntries(
          Object.entries(attributes).filter(([, value]) => value !== undefined),
        );
        const ref: FlakeRef = refFromAttributes(present as Record<string, string>, 'here');
        expect(parseFlakeRef(printFlakeRef(ref))).toEqual(ref);
        expect(refToAttributes(ref)).toEqual(present);
      }),
    );
  });
});

describe('the attribute form', () => {
  it('takes what only locks hold', () => {
    const attributes = {
      type: 'git',
      url: 'https://h/x',
      rev,
      narHash,
      lastModified: 3,
      revCount: 7,
      ref: 'main',
    };
    const ref = refFromAttributes(attributes, 'here');
    expect(refToAttributes(ref)).toEqual(attributes);
    expect(printFlakeRef(ref)).toBe(`git+https://h/x?ref=main&rev=${rev}`);
    expect(isLocked(ref)).toBe(true);
  });

  it.each([
    [{ type: 'hg', url: 'https://h/x' }, 'FLK_REF_UNSUPPORTED'],
    [{ type: 'github', owner: 'a' }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: 'a/b', repo: 'c' }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: '..', repo: 'c' }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: 'a', repo: 'b?c' }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: 'a', repo: 'b', host: 'h/../@evil' }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: 'a', repo: 'b', host: 'h:80' }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: 'a', repo: 'b', ref: 'x', rev }, 'FLK_REF_INVALID'],
    [{ type: 'github', owner: 'a', repo: 'b', revCount: 3 }, 'FLK_REF_INVALID'],
    [{ type: 'gitlab', owner: 'a/../b', repo: 'c' }, 'FLK_REF_INVALID'],
    [{ type: 'tarball' }, 'FLK_REF_INVALID'],
    [{ type: 'tarball', url: 'https://u:p@h/x' }, 'FLK_REF_CREDENTIALS'],
    [{ type: 'tarball', url: 'ftp://h/x' }, 'FLK_REF_UNSUPPORTED'],
    [{ type: 'file', url: 'https://h/x', name: '../x' }, 'FLK_REF_INVALID'],
    [{ type: 'indirect', id: 'a.b' }, 'FLK_REF_INVALID'],
    [{ type: 'indirect', id: 'a', lastModified: 1 }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'git:///x' }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'ext::sh' }, 'FLK_REF_UNSUPPORTED'],
    [{ type: 'git', url: 'https://u:p@h/x' }, 'FLK_REF_CREDENTIALS'],
    [{ type: 'git' }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'https://h/x', foo: 'x' }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'https://h/x', lastModified: -1 }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'https://h/x', lastModified: 1.5 }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'https://h/x', lastModified: '3' }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'https://h/x', shallow: 'yes' }, 'FLK_REF_INVALID'],
    [{ type: 'git', url: 'https://h/x', narHash: 'sha256-zzz' }, 'FLK_HASH_INVALID'],
    [{ type: 'path', path: '' }, 'FLK_REF_INVALID'],
    [{ type: 'toString' }, 'FLK_REF_INVALID'],
    [{}, 'FLK_REF_INVALID'],
    [[], 'FLK_REF_INVALID'],
    [null, 'FLK_REF_INVALID'],
    [undefined, 'FLK_REF_INVALID'],
  ])('%j is %s', (attributes, code) => {
    expect(codeOf(() => refFromAttributes(attributes, 'nodes.x.locked'))).toBe(code);
  });

  // Written by Nix 2.34 into flake.lock.
  it.each([
    { type: 'github', owner: 'o', repo: 'r', rev, narHash, lastModified: 3 },
    {
      type: 'gitlab',
      owner: 'g/s',
      repo: 'r',
      rev,
      narHash,
      lastModified: 3,
      host: 'git.example.org',
      dir: 'sub',
    },
    { type: 'sourcehut', owner: '~u', repo: 'r', rev, narHash, lastModified: 3 },
    { type: 'tarball', url: "https://h/x'.tar.gz?a=b", rev, revCount: 2, narHash, lastModified: 3 },
    { type: 'file', url: 'file:///a/flake.nix', narHash, lastModified: 7 },
    { type: 'path', path: '/a/', narHash, lastModified: 3 },
    { type: 'git', url: 'https://h/x', dirtyRev: `${rev}-dirty`, dirtyShortRev: '0123456-dirty', narHash },
    { type: 'indirect', id: 'nixpkgs', ref: 'stable', rev },
  ])('keeps all that %j says', (attributes) => {
    const ref = refFromAttributes(attributes, 'here');
    expect(refToAttributes(ref)).toEqual(attributes);
    expect(sameRef(ref, refFromAttributes({ ...attributes }, 'there'))).toBe(true);
  });

  it.each([
    [`github:o/r/${rev}`, true],
    ['github:o/r/main', false],
    ['github:o/r?narHash=sha256-47DEQpj8HBSa%2B/TImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D', false],
    [`gitlab:o/r/${rev}`, true],
    [`sourcehut:~o/r/${rev}`, true],
    [`git+https://h/x?rev=${rev}`, true],
    [`git+https://h/x?rev=${'0'.repeat(40)}`, false],
    ['git+https://h/x?ref=main', false],
    [`https://h/x.zip?rev=${rev}`, false],
    ['https://h/x.zip?narHash=sha256-47DEQpj8HBSa%2B/TImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D', true],
    ['path:/x', false],
    [`path:/x?rev=${rev}`, false],
    ['path:/x?narHash=sha256-47DEQpj8HBSa%2B/TImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D', true],
    [`nixpkgs/${rev}`, false],
  ])('%s is locked: %s', (text, locked) => {
    expect(isLocked(parseFlakeRef(text))).toBe(locked);
  });

  it('has another key for each reference', () => {
    const texts = [
      'a',
      'a/b',
      'github:a/b',
      'gitlab:a/b',
      'github:a/b/c',
      'github:a/b?dir=c',
      'path:a',
      'path:/a',
    ];
    const more = [
      'https://h/a',
      'file+https://h/a',
      'git+https://h/a',
      'git+https://h/a?submodules=1',
      'path:a/',
    ];
    const keys = [...texts, ...more].map((text) => refKey(parseFlakeRef(text)));
    expect(new Set(keys).size).toBe(texts.length + more.length);
    expect(refKey({ type: 'github', repo: 'b', owner: 'a' })).toBe(refKey(parseFlakeRef('github:a/b')));
  });

  it('reads what people give to Git', () => {
    const url = (text: string) => refToAttributes(refFromAttributes({ type: 'git', url: text }, 'here')).url;
    expect(url('git@host:a/b.git')).toBe('ssh://git@host/a/b.git');
    expect(url('/a b')).toBe('file:///a%20b');
    expect(url('git+https://h/x')).toBe('https://h/x');
  });

  it('counts a reference with dir in its URL as the same', () => {
    const modern = refFromAttributes({ type: 'git', url: 'https://h/x', dir: 'd' }, 'here');
    const old = refFromAttributes({ type: 'git', url: 'https://h/x?dir=d', dir: 'd' }, 'here');
    expect(sameRef(modern, old)).toBe(true);
    expect(sameRef(modern, refFromAttributes({ type: 'git', url: 'https://h/x' }, 'here'))).toBe(false);
  });
});

describe('what a command line says', () => {
  it.each([
    ['.#hello', { ref: '.', fragment: 'hello' }],
    ['.', { ref: '.' }],
    ['#x', { ref: '', fragment: 'x' }],
    ['git+https://h/x?dir=a#checks.runs', { ref: 'git+https://h/x?dir=a', fragment: 'checks.runs' }],
    ['.#a%20b#c', { ref: '.', fragment: 'a b#c' }],
  ])('%s', (text, parts) => {
    expect(splitFragment(text)).toEqual(parts);
  });
});
