/** What a forecast says, over graphs made by hand: the decisions of realise.ts without a store, a cache or a builder. */
import { describe, expect, it } from 'vitest';
import type { Toolchain } from '../../../src/build/engines/engine.ts';
import { forecast } from '../../../src/build/forecast.ts';
import type { Instantiation, PlannedDerivation } from '../../../src/build/instantiation.ts';
import type { StorePath } from '../../../src/formats/store-path.ts';
import type { OfferedPath } from '../../../src/store/substituter.ts';

const path = (name: string): StorePath => `/nix/store/${'0'.repeat(32)}-${name}` as StorePath;
const drv = (name: string): StorePath => path(`${name}.drv`);

interface Spec {
  readonly needs?: readonly string[];
  readonly sources?: readonly string[];
  readonly outputs?: readonly string[];
  readonly toolchain?: Toolchain;
}

/** Output `out` of NAME is NAME, others are NAME-OUTPUT. */
function graph(specs: Readonly<Record<string, Spec>>, top: string): Instantiation {
  const derivations = new Map<StorePath, PlannedDerivation>();
  for (const [name, { needs = [], sources = [], outputs = ['out'], toolchain }] of Object.entries(specs)) {
    const outputPath = (output: string) => path(output === 'out' ? name : `${name}-${output}`);
    derivations.set(drv(name), {
      name,
      toolchain: toolchain ?? { kind: 'host' },
      derivation: {
        outputs: new Map(outputs.map((out) => [out, { path: outputPath(out), hashAlgo: '', hash: '' }])),
        inputDrvs: new Map(needs.map((need) => [drv(need), ['out']])),
        inputSrcs: sources.map(path),
        system: 'x86_64-linux',
        builder: '/bin/sh',
        args: [],
        env: new Map(),
      },
    });
  }
  return { top: drv(top), derivations, sources: new Map() };
}

const cached = (...references: string[]): Omit<OfferedPath, 'url'> => ({
  fileSize: 10,
  narSize: 20,
  references: references.map(path),
});

/** What is there, and what a cache has. */
function world(
  valid: readonly string[] = [],
  offered: Readonly<Record<string, Omit<OfferedPath, 'url'>>> = {},
) {
  const asked: StorePath[][] = [];
  const offers = async (paths: readonly StorePath[]) => {
    asked.push([...paths]);
    const found = Object.entries(offered).filter(([name]) => paths.includes(path(name)));
    return new Map(found.map(([name, offer]) => [path(name), { url: 'https://cache', ...offer }]));
  };
  return { asked, offers, isValid: (one: StorePath) => valid.includes(one.slice(44)) };
}

const namesOf = (paths: readonly StorePath[]): string[] => paths.map((one) => one.slice(44));

async function foreseen(instantiation: Instantiation, sources: ReturnType<typeof world>, rebuild = false) {
  const { build, fetch, sources: added, present } = await forecast([instantiation], sources, { rebuild });
  return {
    build: build.map(({ name }) => name),
    fetch: namesOf(fetch.map((one) => one.path)),
    sources: namesOf(added),
    present: namesOf(present),
  };
}

const diamond = {
  base: { sources: ['src'] },
  left: { needs: ['base'] },
  right: { needs: ['base'] },
  top: { needs: ['left', 'right'] },
};

describe('forecast', () => {
  it('builds what is missing, inputs first, each once', async () => {
    expect(await foreseen(graph(diamond, 'top'), world())).toEqual({
      build: ['base', 'left', 'right', 'top'],
      fetch: [],
      sources: ['src'],
      present: [],
    });
  });

  it('looks at nothing below what is there, and asks no cache', async () => {
    const there = world(['top']);
    expect(await foreseen(graph(diamond, 'top'), there)).toEqual({
      build: [],
      fetch: [],
      sources: [],
      present: ['top'],
    });
    expect(there.asked.flat()).toEqual([]);
  });

  it('fetches what a cache has, with all that it refers to and is not there', async () => {
    const offered = { left: cached('libc', 'zlib'), zlib: cached('zlib-data'), 'zlib-data': cached() };
    expect(await foreseen(graph(diamond, 'top'), world(['right', 'libc'], offered))).toEqual({
      build: ['top'],
      fetch: ['left', 'zlib', 'zlib-data'],
      sources: [],
      present: [],
    });
  });

  it('builds what a cache has without all that it refers to', async () => {
    const offered = { left: cached('middle'), middle: cached('gone'), right: cached() };
    expect(await foreseen(graph(diamond, 'top'), world([], offered))).toEqual({
      build: ['base', 'left', 'top'],
      fetch: ['right'],
      sources: ['src'],
      present: [],
    });
  });

  it('takes all outputs of a package from caches, or builds it', async () => {
    const two = { top: { outputs: ['out', 'dev'] } };
    expect((await foreseen(graph(two, 'top'), world([], { top: cached() }))).build).toEqual(['top']);
    const both = { top: cached(), 'top-dev': cached('top') };
    expect((await foreseen(graph(two, 'top'), world([], both))).fetch).toEqual(['top', 'top-dev']);
    expect((await foreseen(graph(two, 'top'), world(['top'], { 'top-dev': cached('top') }))).fetch).toEqual([
      'top-dev',
    ]);
  });

  it('needs a toolchain, made or put in', async () => {
    const made = { gcc: {}, top: { toolchain: { kind: 'path', path: path('gcc') } } } as const;
    expect((await foreseen(graph(made, 'top'), world())).build).toEqual(['gcc', 'top']);
    const put = { top: { toolchain: { kind: 'path', path: path('debian') } } } as const;
    expect((await foreseen(graph(put, 'top'), world())).sources).toEqual(['debian']);
  });

  it('with rebuild builds what is there once more, but nothing below it', async () => {
    expect(await foreseen(graph(diamond, 'top'), world(['top', 'left', 'right']), true)).toEqual({
      build: ['top'],
      fetch: [],
      sources: [],
      present: ['top'],
    });
  });

  it('of a package that lies in a cache says that it is put in', async () => {
    const pinned: Instantiation = { top: path('pinned'), derivations: new Map(), sources: new Map() };
    expect((await foreseen(pinned, world())).sources).toEqual(['pinned']);
    expect((await foreseen(pinned, world(['pinned']))).present).toEqual(['pinned']);
  });

  it('asks caches once for each path, many at a time', async () => {
    const shared = world([], {});
    await foreseen(graph(diamond, 'top'), shared);
    expect(shared.asked.filter((paths) => paths.length > 0).map(namesOf)).toEqual([
      ['top'],
      ['left', 'right'],
      ['base'],
    ]);
  });

  it('takes a chain that is deeper than the stack', async () => {
    const names = Array.from({ length: 20_000 }, (_, i) => `p${i}`);
    const chain = Object.fromEntries(names.map((name, i) => [name, i === 0 ? {} : { needs: [`p${i - 1}`] }]));
    const { build } = await foreseen(graph(chain, 'p19999'), world());
    expect(build).toEqual(names);
  });
});
