import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { LockGraph } from '../../../src/flake/graph.ts';
import { lockLimits, parseLockFile, printLockFile } from '../../../src/flake/lock-file.ts';
import { thrownBy } from '../../support/errors.ts';

const rev = '6955f5000036d0bb141d8d2167e3980f874ce177';
const narHash = 'sha256-9rRgDTjZD4d/EkvgUPBw6pq3Us+uCtenoylg2SuQI8I=';
const locked = {
  lastModified: 1795350141,
  narHash,
  ref: 'refs/heads/main',
  rev,
  revCount: 1,
  type: 'git',
  url: 'https://h/a',
};
const original = { type: 'git', url: 'https://h/a' };
const node = (inputs?: object, more: object = {}) => ({
  ...(inputs && { inputs }),
  locked,
  original,
  ...more,
});

// Written by Nix 2.34: relative inputs, one with dir, a follows, flake = false; the names of hosts are changed.
const byNix = `{
  "nodes": {
    "a": {
      "inputs": {
        "c": "c"
      },
      "locked": {
        "lastModified": 1795350141,
        "narHash": "${narHash}",
        "ref": "refs/heads/main",
        "rev": "${rev}",
        "revCount": 1,
        "type": "git",
        "url": "https://h/a"
      },
      "original": {
        "type": "git",
        "url": "https://h/a"
      }
    },
    "c": {
      "locked": {
        "lastModified": 1795350141,
        "narHash": "sha256-XfGQbVzBJ16Z1VRub+tLUDgaacX8m4FfxmQguXnFKK4=",
        "ref": "refs/heads/main",
        "rev": "acde999ad4707741311f19ec5f35cb745965fac7",
        "revCount": 1,
        "type": "git",
        "url": "https://h/c"
      },
      "original": {
        "type": "git",
        "url": "https://h/c"
      }
    },
    "q": {
      "locked": {
        "path": "../other",
        "type": "path"
      },
      "original": {
        "path": "../other",
        "type": "path"
      },
      "parent": [
        "s"
      ]
    },
    "root": {
      "inputs": {
        "a": "a",
        "s": "s",
        "t": "t",
        "y": [
          "a",
          "c"
        ]
      }
    },
    "s": {
      "inputs": {
        "q": "q"
      },
      "locked": {
        "path": "./sub",
        "type": "path"
      },
      "original": {
        "path": "./sub",
        "type": "path"
      },
      "parent": []
    },
    "t": {
      "flake": false,
      "locked": {
        "dir": "x",
        "path": "sub",
        "type": "path"
      },
      "original": {
        "dir": "x",
        "path": "sub",
        "type": "path"
      },
      "parent": []
    }
  },
  "root": "root",
  "version": 7
}
`;

const read = (text: string) => parseLockFile({ path: 'flake.lock', text });
const readJson = (json: object) => read(JSON.stringify(json));
const withRoot = (inputs: object, nodes: object = {}) => ({
  nodes: { root: { inputs }, ...nodes },
  root: 'root',
  version: 7,
});

describe('a lock', () => {
  it('that Nix wrote is printed byte for byte', () => {
    expect(printLockFile(read(byNix))).toBe(byNix);
  });

  it('keeps what only flk knows', () => {
    const lock = readJson(
      withRoot({ a: 'a' }, { a: node(undefined, { flk: { version: '^1', tag: 'v1.2.0' } }) }),
    );
    expect(lock.nodes.get('a')?.flk).toEqual({ version: '^1', tag: 'v1.2.0' });
    expect(read(printLockFile(lock))).toEqual(lock);
  });

  it('sorts by bytes, not by locale or code unit', () => {
    const names = ['a', 'B', '_', 'é', '\u{1F600}', '\uFFFD'];
    const lock = readJson(withRoot(Object.fromEntries(names.map((name) => [name, ['x']]))));
    const printed = [...printLockFile(lock).matchAll(/^ {8}"(.+)": \[/gm)].map((match) => match[1]);
    expect(printed).toEqual(['B', '_', 'a', 'é', '\uFFFD', '\u{1F600}']);
  });

  it('of version 5 keeps hash and date apart from the rest', () => {
    const { lastModified, narHash: hash, ...rest } = locked;
    const old = {
      ...withRoot({ a: 'a' }, { a: { info: { lastModified, narHash: hash }, locked: rest, original } }),
      version: 5,
    };
    expect(readJson(old)).toEqual(readJson(withRoot({ a: 'a' }, { a: node() })));
  });

  it('loses nodes that nobody asks for, whatever is in them', () => {
    expect([...readJson(withRoot({ a: 'a' }, { a: node(), b: { locked: 3 } })).nodes.keys()]).toEqual([
      'root',
      'a',
    ]);
  });

  it('may share a node', () => {
    expect(
      readJson(withRoot({ a: 'a', b: 'b' }, { a: node({ c: 'c' }), b: node({ c: 'c' }), c: node() })).nodes
        .size,
    ).toBe(4);
  });
});

describe('the schema', () => {
  const text = readFileSync(new URL('../../../schemas/flake.lock.schema.json', import.meta.url), 'utf8');
  const validate = new Ajv2020({ strict: true, strictRequired: false }).compile(JSON.parse(text) as object);

  it('takes what Nix and flk write', () => {
    expect(validate(JSON.parse(byNix))).toBe(true);
    expect(validate(withRoot({ a: 'a' }, { a: node({}, { flk: { version: '^1', tag: 'v1.2.0' } }) }))).toBe(
      true,
    );
  });

  it.each([
    ['no version', { nodes: {}, root: 'root' }],
    ['an unknown key', { ...withRoot({}), more: 1 }],
    ['a rev that is none', withRoot({ a: 'a' }, { a: node({}, { locked: { ...locked, rev: 'main' } }) })],
    ['original without locked', withRoot({ a: 'a' }, { a: { original } })],
  ])('refuses %s', (_, json) => {
    expect(validate(json)).toBe(false);
  });
});

describe('a lock is refused', () => {
  const deep = Object.fromEntries(
    Array.from({ length: 150 }, (_, i) => [`n${i}`, node(i < 149 ? { n: `n${i + 1}` } : undefined)]),
  );
  it.each<[string, string, string, string]>([
    ['empty', '', 'FLK_LOCK_INVALID', 'it is empty'],
    ['cut off', byNix.slice(0, 700), 'FLK_LOCK_INVALID', 'it breaks off'],
    ['not JSON', '{ "a": x }', 'FLK_LOCK_INVALID', 'it is not JSON'],
    ['in conflict', `{\n<<<<<<< HEAD\n}\n=======\n>>>>>>> x\n`, 'FLK_LOCK_CONFLICT', 'flake.lock:2'],
    ['a list', '[]', 'FLK_LOCK_INVALID', 'the file is not an object'],
    ['without version', '{}', 'FLK_LOCK_INVALID', 'version is missing'],
    ['too new', JSON.stringify({ ...withRoot({}), version: 8 }), 'FLK_LOCK_INVALID', 'its version'],
    ['too old', JSON.stringify({ ...withRoot({}), version: 4 }), 'FLK_LOCK_INVALID', 'its version'],
    ['without root', '{"version":7,"nodes":{}}', 'FLK_LOCK_INVALID', 'root does not name'],
    ['without nodes', '{"version":7,"root":"root"}', 'FLK_LOCK_INVALID', 'nodes is missing'],
    ['naming a missing root', '{"version":7,"root":"r","nodes":{}}', 'FLK_LOCK_INVALID', 'missing node ‘r’'],
    [
      'naming what all objects have',
      '{"version":7,"root":"toString","nodes":{}}',
      'FLK_LOCK_INVALID',
      'missing node',
    ],
    [
      'naming a missing node',
      JSON.stringify(withRoot({ a: 'b' })),
      'FLK_LOCK_INVALID',
      'an input of nodes.root names the missing node ‘b’',
    ],
    [
      'leading back to the root',
      JSON.stringify(withRoot({ a: 'root' })),
      'FLK_LOCK_INVALID',
      'in a circle: root → root',
    ],
    [
      'going round',
      JSON.stringify(withRoot({ a: 'a' }, { a: node({ b: 'b' }), b: node({ a: 'a' }) })),
      'FLK_LOCK_INVALID',
      'in a circle: a → b → a',
    ],
    [
      'with a key twice',
      byNix.replace('"version": 7', '"version": 7,\n  "root": "root"'),
      'FLK_LOCK_INVALID',
      'twice',
    ],
    [
      'with an edge to nothing',
      JSON.stringify(withRoot({ a: 3 })),
      'FLK_LOCK_INVALID',
      'nodes.root.inputs.a',
    ],
    [
      'with an edge of numbers',
      JSON.stringify(withRoot({ a: [3] })),
      'FLK_LOCK_INVALID',
      'nodes.root.inputs.a',
    ],
    [
      'with a control character in a name',
      JSON.stringify(withRoot({ 'a\u009b2J': 'a' }, { a: node() })),
      'FLK_LOCK_INVALID',
      'is no name of an input or node',
    ],
    [
      'with a name like a path',
      JSON.stringify(withRoot({ 'a/b': 'a' }, { a: node() })),
      'FLK_LOCK_INVALID',
      'a/b',
    ],
    [
      'with an escape sequence',
      JSON.stringify(withRoot({ '\u001b[2J': 'a' }, { a: node() })),
      'FLK_LOCK_INVALID',
      'no name',
    ],
    [
      'without locked',
      JSON.stringify(withRoot({ a: 'a' }, { a: { original } })),
      'FLK_LOCK_INVALID',
      'nodes.a.locked',
    ],
    [
      'without original',
      JSON.stringify(withRoot({ a: 'a' }, { a: { locked } })),
      'FLK_LOCK_INVALID',
      'nodes.a.original',
    ],
    [
      'not locked',
      JSON.stringify(withRoot({ a: 'a' }, { a: { original, locked: original } })),
      'FLK_LOCK_INVALID',
      'is not locked',
    ],
    [
      'with a rev that is none',
      JSON.stringify(withRoot({ a: 'a' }, { a: node(undefined, { locked: { ...locked, rev: 'main' } }) })),
      'FLK_LOCK_INVALID',
      'nodes.a.locked',
    ],
    [
      'with a hash that is none',
      JSON.stringify(withRoot({ a: 'a' }, { a: node(undefined, { locked: { ...locked, narHash: 'x' } }) })),
      'FLK_LOCK_INVALID',
      'nodes.a.locked',
    ],
    [
      'with a kind that is not fetched',
      JSON.stringify(withRoot({ a: 'a' }, { a: { locked: { type: 'hg' }, original } })),
      'FLK_REF_UNSUPPORTED',
      'Mercurial',
    ],
    [
      'with a password',
      JSON.stringify(
        withRoot({ a: 'a' }, { a: { locked, original: { type: 'git', url: 'https://u:p@h/x' } } }),
      ),
      'FLK_REF_CREDENTIALS',
      'password',
    ],
    [
      'with flake: "no"',
      JSON.stringify(withRoot({ a: 'a' }, { a: node(undefined, { flake: 'no' }) })),
      'FLK_LOCK_INVALID',
      'nodes.a.flake',
    ],
    [
      'with a parent that is no path',
      JSON.stringify(withRoot({ a: 'a' }, { a: node(undefined, { parent: 'x' }) })),
      'FLK_LOCK_INVALID',
      'nodes.a.parent',
    ],
    [
      'with a tag that is no text',
      JSON.stringify(withRoot({ a: 'a' }, { a: node(undefined, { flk: { tag: 3 } }) })),
      'FLK_LOCK_INVALID',
      'nodes.a.flk.tag',
    ],
    ['too deep', JSON.stringify(withRoot({ n: 'n0' }, deep)), 'FLK_GRAPH_LIMIT', 'deeper'],
    ['too long', ' '.repeat(lockLimits.length + 1), 'FLK_GRAPH_LIMIT', 'characters'],
    ['nested without end', '['.repeat(100_000), 'FLK_LOCK_INVALID', 'it breaks off'],
  ])('when it is %s', (_, text, code, message) => {
    const error = thrownBy(() => read(text));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  it('and never in any other way, whatever is changed in it', () => {
    const value = fc.constantFrom('null', '3', '"x"', '[]', '{}', '["a"]', '"root"', '"a"', 'true', '');
    const places = [...byNix.matchAll(/: ("[^"]*"|\d+|\[[^\]]*\]|false)/g)];
    fc.assert(
      fc.property(fc.nat({ max: places.length - 1 }), value, (index, text) => {
        const { 0: found, index: at = 0 } = places[index]!;
        const changed = `${byNix.slice(0, at)}: ${text}${byNix.slice(at + found.length)}`;
        try {
          const lock = read(changed);
          expect(read(printLockFile(lock))).toEqual(lock);
          new LockGraph(lock).check();
        } catch (error) {
          expect(error).toBeInstanceOf(FlkError);
          expect((error as FlkError).code).not.toBe('FLK_INTERNAL');
        }
      }),
    );
  });
});
