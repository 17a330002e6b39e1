/** Locks, registries and manifests that want to be more than text. What grows with the square of its length runs into the time limit. */
import { describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { refFromAttributes } from '../../../src/flake/flake-ref.ts';
import { parseLockFile } from '../../../src/flake/lock-file.ts';
import { parseManifest } from '../../../src/flake/manifest.ts';
import { parseFlakeNix } from '../../../src/flake/nix-inputs.ts';
import { GitAttributes } from '../../../src/formats/git-attributes.ts';
import { parseGitmodules } from '../../../src/formats/git-modules.ts';
import { submodulePath, submoduleUrl } from '../../../src/sources/git-submodules.ts';
import { parseNetrc } from '../../../src/sources/netrc.ts';
import { parseRegistry } from '../../../src/sources/registry.ts';

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return error instanceof FlkError ? error.code : `not ours: ${error}`;
  }
  return 'taken';
}

const lock = (nodes: string, root = 'root') =>
  parseLockFile({ path: 'flake.lock', text: `{"version":7,"root":"${root}","nodes":${nodes}}` });
const registry = (flakes: string) => parseRegistry(`{"version":2,"flakes":${flakes}}`, 'registry.json');

describe('names that every object has', () => {
  test.each<[string, () => unknown, string]>([
    ['as a lock’s root', () => lock('{}', '__proto__'), 'FLK_LOCK_INVALID'],
    ['as a lock’s root, by inheritance', () => lock('{}', 'constructor'), 'FLK_LOCK_INVALID'],
    [
      'as an input of a lock',
      () => lock('{"root":{"inputs":{"__proto__":"constructor"}}}'),
      'FLK_LOCK_INVALID',
    ],
    [
      'in a reference',
      () => refFromAttributes(JSON.parse('{"__proto__":{"type":"path","path":"/etc"}}'), 'locked'),
      'FLK_REF_INVALID',
    ],
    [
      'in a registry',
      () =>
        registry('[{"from":{"__proto__":{"type":"indirect","id":"x"}},"to":{"type":"path","path":"/x"}}]'),
      'FLK_REGISTRY_INVALID',
    ],
    [
      'in flake.yaml',
      () => parseManifest({ path: 'flake.yaml', text: 'inputs:\n  __proto__: { url: "github:a/b" }\n' }),
      'FLK_MANIFEST_INVALID',
    ],
  ])('mean nothing %s', (_, work, code) => {
    expect(codeOf(work)).toBe(code);
    expect(({} as Record<string, unknown>).inputs).toBeUndefined();
  });
});

describe('a text without end is refused:', () => {
  const deep = (open: string, close: string, depth = 1_000_000) => open.repeat(depth) + close.repeat(depth);
  test.each<[string, () => unknown, string]>([
    ['a lock of lists', () => lock(deep('[', ']')), 'FLK_LOCK_INVALID'],
    ['a registry of lists', () => registry(deep('[', ']')), 'FLK_REGISTRY_INVALID'],
    [
      'flake.yaml of quotes',
      () => parseManifest({ path: 'flake.yaml', text: '"'.repeat(400_000) }),
      'FLK_MANIFEST_INVALID',
    ],
    [
      'flake.nix of brackets',
      () => parseFlakeNix({ path: 'flake.nix', text: `{ outputs = ${'('.repeat(500_000)}; }` }),
      'FLK_MANIFEST_INVALID',
    ],
    [
      'flake.nix of strings in strings',
      () => parseFlakeNix({ path: 'flake.nix', text: `{ outputs = ${'"${'.repeat(300_000)}; }` }),
      'FLK_MANIFEST_INVALID',
    ],
    ['.gitmodules', () => parseGitmodules(`[submodule "${'\\"'.repeat(500_000)}`), 'FLK_GIT_SUBMODULE'],
    ['.gitattributes', () => new GitAttributes(new Map([['', 'a b\n'.repeat(100_001)]])), 'FLK_LIMIT'],
    ['a netrc of quotes', () => parseNetrc('"'.repeat(1_000_000)), 'taken'],
  ])('%s', (_, work, code) => {
    expect(codeOf(work)).toBe(code);
  });
});

describe('a submodule is refused', () => {
  test.each([
    'ext::sh -c true',
    'fd::17',
    '--upload-pack=true',
    'ssh://-oProxyCommand=true/x',
    'ssh://host.example/-x',
    'user@-host:x',
    '-x@host.example:y',
    'file:///etc',
    'git+file:///etc',
    '/etc',
    'ftp://host.example/x',
    'https://host.example/\n--x',
    '../../../../x',
  ])('at %j', (url) => {
    expect(codeOf(() => submoduleUrl('https://host.example/a/b', 'name', url))).toBe('FLK_GIT_SUBMODULE');
  });

  test.each(['.git', '.GIT/hooks', 'a/.git/b', '../x', '/x', 'a/../../b', 'a//b', '.', '', 'a\0b'])(
    'in the folder %j',
    (path) => {
      expect(codeOf(() => submodulePath('name', path))).toBe('FLK_GIT_SUBMODULE');
    },
  );
});
