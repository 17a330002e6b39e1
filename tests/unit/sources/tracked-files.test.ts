import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { asFlkError } from '../../../src/base/errors.ts';
import { silent } from '../../../src/base/events.ts';
import { instantiate } from '../../../src/build/instantiate.ts';
import { Selector } from '../../../src/build/selection.ts';
import { parseManifest, type SelfSelection } from '../../../src/flake/manifest.ts';
import type { SourceTree, WorkingFiles } from '../../../src/flake/source.ts';
import { printDerivation } from '../../../src/formats/derivation.ts';
import { NarHasher } from '../../../src/formats/nar.ts';
import { TrackedFiles } from '../../../src/sources/tracked-files.ts';
import { openStore } from '../../../src/store/store.ts';
import { errorOf } from '../../support/errors.ts';
import { lockedWorld } from '../../support/locked-flakes.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file } from '../../support/trees.ts';

const later = (ms: number): void => {
  const now = Date.now() + ms;
  vi.spyOn(Date, 'now').mockReturnValue(now);
};

beforeEach(() => later(3_600_000));
afterEach(() => vi.restoreAllMocks());

let edits = 0;
/** As if somebody had written it at another time than any before: two writes in one tick of the clock bear the same time. */
function write(path: string, text: string): void {
  rmSync(path, { recursive: true, force: true });
  writeFileSync(path, text);
  edits += 1;
  utimesSync(path, edits, edits);
}

/** `a/one`, `a/two` and `b`. */
function small(): string {
  const root = temporaryFolder();
  mkdirSync(join(root, 'a'));
  for (const path of ['a/one', 'a/two', 'b']) write(join(root, path), path);
  return root;
}

const tracked = ['a/one', 'a/two', 'b', 'sub'];
const open = (root: string, paths: readonly string[] = tracked): TrackedFiles =>
  new TrackedFiles(
    root,
    paths.map((path) => ({ path, submodule: path === 'sub' })),
    { reporter: silent },
  );

describe('a stamp', () => {
  test('stays while nothing changes, and is another once something does', () => {
    const root = small();
    const first = open(root).stamp('a');
    expect(first).toBeDefined();
    const changes: Readonly<Record<string, () => void>> = {
      nothing: () => {},
      'something else': () => write(join(root, 'b'), 'other'),
      'a file of the same size': () => write(join(root, 'a/one'), 'a/own'),
      'a mode': () => chmodSync(join(root, 'a/one'), 0o755),
      'one less': () => rmSync(join(root, 'a/two')),
      'a link in its place': () => symlinkSync('one', join(root, 'a/two')),
      'a file in its place': () => write(join(root, 'a/two'), 'a/two'),
    };
    const seen = new Set<string | undefined>([first]);
    const isNew = Object.entries(changes).map(([what, change]) => {
      change();
      const stamp = open(root).stamp('a');
      const before = seen.size;
      seen.add(stamp);
      return [what, seen.size > before];
    });
    expect(Object.fromEntries(isNew)).toEqual({
      nothing: false,
      'something else': false,
      'a file of the same size': true,
      'a mode': true,
      'one less': true,
      'a link in its place': true,
      'a file in its place': true,
    });
    expect(seen).not.toContain(undefined);
    expect(open(root, ['a/one', 'b']).stamp('a')).not.toBe(open(root).stamp('a'));
  });

  test('is not given where nothing is, and not through links', () => {
    const root = small();
    for (const path of ['c', 'a/three', 'a/one/x', 'sub', 'sub/x'])
      expect(open(root).stamp(path)).toBeUndefined();
    mkdirSync(join(root, 'sub'));
    expect(open(root).stamp('sub')).toBeDefined();
    renameSync(join(root, 'a'), join(root, 'elsewhere'));
    symlinkSync('elsewhere', join(root, 'a'));
    for (const path of ['a', 'a/one']) expect(open(root).stamp(path)).toBeUndefined();
    for (const path of ['a/one', 'a/two', 'b']) rmSync(join(root, path));
    expect(open(root, ['a/one', 'b']).stamp('')).toBeUndefined();
  });

  test('is not given of what was written so lately that the next change could bear the same time', () => {
    const root = small();
    const { ctimeMs } = lstatSync(join(root, 'a/one'));
    for (const [age, known] of [
      [0, false],
      [2000, false],
      [-5000, false],
      [10_000, true],
    ] as const) {
      vi.spyOn(Date, 'now').mockReturnValue(ctimeMs + age);
      expect(open(root).stamp('a') !== undefined).toBe(known);
    }
    const inAnHour = Date.now() / 1000 + 3600;
    utimesSync(join(root, 'a/one'), inAnHour, inAnHour);
    expect(open(root).stamp('a')).toBeUndefined();
  });
});

describe('a walk of a part', () => {
  const hashAt = async (files: WorkingFiles, path: string): Promise<string | undefined> => {
    const hasher = new NarHasher();
    return (await files.walkAt(path, hasher)) ? hasher.digest().narHash : undefined;
  };

  test('gives what is tracked there, and nothing else', async () => {
    const root = small();
    writeFileSync(join(root, 'a/untracked'), '');
    const alone = small();
    expect(await hashAt(open(root), 'a')).toBe(await hashAt(open(join(alone, 'a'), ['one', 'two']), ''));
    expect(await hashAt(open(root), '')).toBe((await open(alone).hashed()).narHash);
    for (const path of ['a/untracked', 'c', 'sub']) expect(await hashAt(open(root), path)).toBeUndefined();
    symlinkSync('a', join(root, 'link'));
    expect(await hashAt(open(root, ['link', 'link/one']), 'link/one')).toBeUndefined();
  });

  test.each([['a/../b'], ['a/.git/config'], ['/a'], ['a//b'], ['.'], [`a/${'x'.repeat(256)}`]])(
    'is not had of an index with %s',
    (path) => {
      expect(() => open(small(), [path])).toThrowError(expect.objectContaining({ code: 'FLK_GIT_TREE' }));
    },
  );
});

class Memo {
  readonly known = new Map<string, string>();
  readonly memo = (key: string) => this.known.get(key);
  readonly setMemo = (key: string, value: string) => void this.known.set(key, value);
}

const part = (path: string): SelfSelection => ({ kind: 'self', path, include: [], exclude: [] });

async function select(files: SourceTree | WorkingFiles, memo: Memo, selection = part('a')) {
  const selector = new Selector({ tree: files, dir: '' }, { store: memo, reporter: silent });
  const { narHash } = await selector.select(selection);
  selector.remember();
  return { narHash, selector };
}

const unread = (files: TrackedFiles): TrackedFiles =>
  Object.assign(files, { walkAt: () => expect.unreachable('it was read') });

describe('a selection of a working tree', () => {
  test('is not read again while its files are as they were, whatever else changes', async () => {
    const root = small();
    const memo = new Memo();
    const { narHash } = await select(open(root), memo);
    write(join(root, 'b'), 'changed');
    expect((await select(unread(open(root)), memo)).narHash).toBe(narHash);
    write(join(root, 'a/one'), 'other');
    expect((await select(open(root), memo)).narHash).not.toBe(narHash);
    // One note for the whole life of a working tree.
    expect(memo.known.size).toBe(1);
  });

  test('reads nothing but its own files', async () => {
    const root = small();
    const files = open(root);
    const walked: string[] = [];
    const walkAt = files.walkAt.bind(files);
    files.walkAt = (path, ...rest) => {
      walked.push(path);
      return walkAt(path, ...rest);
    };
    const selector = new Selector({ tree: files, dir: '' }, { store: new Memo(), reporter: silent });
    await Promise.all(['a', 'a/one', 'b'].map((path) => selector.select(part(path))));
    expect(walked).toEqual(['a', 'b']);
  });

  test('is read again when it was read just after a change', async () => {
    const root = small();
    const memo = new Memo();
    vi.spyOn(Date, 'now').mockReturnValue(lstatSync(join(root, 'a/one')).ctimeMs + 1000);
    const { narHash } = await select(open(root), memo);
    expect(memo.known.size).toBe(0);
    expect((await select(open(root), memo)).narHash).toBe(narHash);
  });

  test.each<[string, (note: string) => string]>([
    ['nothing', () => ''],
    ['no JSON', () => 'x'.repeat(200)],
    ['half of it', (note) => note.slice(0, note.length / 2)],
    ['another hash', (note) => note.replace(/sha256-..../, 'sha256-AAAA')],
  ])('is read again where the note holds %s', async (_what, damage) => {
    const root = small();
    const memo = new Memo();
    const { narHash } = await select(open(root), memo);
    for (const [key, note] of memo.known) memo.known.set(key, damage(note));
    expect((await select(open(root), memo)).narHash).toBe(narHash);
    await select(unread(open(root)), memo);
  });

  test('is forgotten when it turns out to be another', async () => {
    const root = small();
    const memo = new Memo();
    await select(open(root), memo);
    (await select(unread(open(root)), memo)).selector.forget(part('a'));
    const read = vi.fn(async () => false);
    const files = Object.assign(open(root), { walkAt: read });
    expect((await errorOf(select(files, memo))).code).toBe('FLK_PACKAGE_INVALID');
    expect(read).toHaveBeenCalledOnce();
  });
});

const folders = ['p0', 'p1', 'p2', 'p3'] as const;

interface PackageShape {
  readonly needs: readonly number[];
  readonly note: number;
  readonly wide: boolean;
}

const shape: fc.Arbitrary<PackageShape> = fc.record({
  needs: fc.uniqueArray(fc.nat(3), { maxLength: 3 }),
  note: fc.nat(2),
  wide: fc.boolean(),
});

const edit = fc.oneof(
  fc.record({
    kind: fc.constantFrom('write', 'remove', 'mode', 'link', 'gone' as const),
    at: fc.nat(3),
    name: fc.constantFrom('one', 'two', 'in/deep'),
    text: fc.nat(2),
  }),
  fc.record({ kind: fc.constant('package' as const), at: fc.nat(3), shape }),
);

function manifestOf(shapes: readonly PackageShape[]): string {
  const packages = shapes.map(({ needs, note, wide }, at) => {
    const own = folders[at]!;
    const src = wide ? `{ path: ., include: [${own}], exclude: [two] }` : `./${own}`;
    const inputs = needs.filter((need) => need < at).map((need) => folders[need]);
    return `  ${own}: { src: ${src}, buildInputs: [${inputs.join(', ')}], env: { NOTE: note${note} }, installPhase: cp one $out }`;
  });
  return `packages:\n${packages.join('\n')}\n`;
}

function apply(
  root: string,
  { kind, at, name, text }: { kind: string; at: number; name: string; text: number },
): void {
  const folder = join(root, folders[at]!);
  const place = join(folder, name);
  // What a link stands for is never written through; it may stand for nothing.
  if (lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink()) rmSync(folder);
  if (kind === 'gone') rmSync(folder, { recursive: true, force: true });
  else if (kind === 'remove') rmSync(place, { recursive: true, force: true });
  else if (kind === 'mode') {
    if (existsSync(place)) chmodSync(place, lstatSync(place).mode ^ 0o100);
  } else if (kind === 'link' && name === 'one') {
    rmSync(folder, { recursive: true, force: true });
    symlinkSync(folders[(at + 1) % 4]!, folder);
  } else {
    mkdirSync(join(place, '..'), { recursive: true });
    write(place, `text ${text}`);
  }
}

test('what is remembered of a working tree is what reading it gives, derivation for derivation', async () => {
  const store = await openStore(temporaryFolder());
  const { lock, source } = await lockedWorld(directory({ 'flake.yaml': file('packages: {}\n') }));
  await fc.assert(
    fc.asyncProperty(
      fc.array(shape, { minLength: 4, maxLength: 4 }),
      fc.array(edit, { maxLength: 8 }),
      async (first, changes) => {
        const root = temporaryFolder();
        const shapes = [...first];
        const paths = folders.flatMap((folder) =>
          ['one', 'two', 'in/deep'].map((name) => `${folder}/${name}`),
        );
        for (const at of folders.keys())
          for (const name of ['one', 'two', 'in/deep']) apply(root, { kind: 'write', at, name, text: 0 });
        const made = async (tree: SourceTree | WorkingFiles) => {
          const manifest = parseManifest({ path: 'flake.yaml', text: manifestOf(shapes) });
          const context = {
            lock,
            source,
            parseManifest,
            root: { manifest, tree, dir: '' },
            store,
            system: 'x86_64-linux',
            reporter: silent,
            download: () => expect.unreachable('a download'),
          };
          try {
            const { top, derivations, sources } = await instantiate(context, { inputs: [], name: 'p3' });
            const texts = [...derivations].map(([path, { derivation }]) => [
              path,
              printDerivation(derivation),
            ]);
            return { top, texts, sources: [...sources.keys()] };
          } catch (error) {
            return asFlkError(error).code;
          }
        };
        for (const change of [undefined, ...changes, undefined]) {
          if (change?.kind === 'package') shapes[change.at] = change.shape;
          else if (change) apply(root, change);
          expect(await made(open(root, paths))).toEqual(await made(await open(root, paths).hashed()));
        }
      },
    ),
    { numRuns: 25 },
  );
  store.close();
});
