/** The walls of the house (docs/architecture.md): an arrow upward or sideways is an error. */
const layer = (name, allowed) => ({
  name: `${name}-walls`,
  severity: 'error',
  comment: `src/${name} may import only: ${[name, ...allowed].join(', ')}`,
  from: { path: `^src/${name}/` },
  to: { path: '^src/', pathNot: `^src/(${[name, ...allowed].join('|')})/` },
});

const below = {
  base: [],
  nix: ['base'],
  formats: ['base'],
  store: ['formats', 'base'],
  flake: ['nix', 'formats', 'base', 'generated'],
};

export default {
  forbidden: [
    layer('base', below.base),
    layer('nix', below.nix),
    layer('formats', below.formats),
    layer('store', below.store),
    layer('flake', below.flake),
    layer('sources', ['store', 'flake', 'formats', 'base']),
    layer('build', ['store', 'flake', 'nix', 'formats', 'base', 'generated']),
    layer('report', ['base']),
    {
      name: 'sources-see-only-the-port',
      severity: 'error',
      comment: 'sources may import of flake only the reference types and the Source port',
      from: { path: '^src/sources/' },
      to: { path: '^src/flake/', pathNot: '^src/flake/(flake-ref|ref-model|ref-url|source)\\.ts$' },
    },
    {
      name: 'engines-see-no-manifest',
      severity: 'error',
      comment: 'an engine knows derivations and the store, never a manifest or a lock',
      from: { path: '^src/build/engines/' },
      to: { path: '^src/(flake|sources|report|cli)/' },
    },
    {
      name: 'formats-do-no-io',
      severity: 'error',
      comment: 'formats are bytes and values',
      from: { path: '^src/formats/' },
      to: { path: '^(fs|fs/promises|child_process|net|http|https|os|worker_threads)$' },
    },
    { name: 'no-cycles', severity: 'error', from: { path: '^src/' }, to: { circular: true } },
    { name: 'no-unresolved', severity: 'error', from: { path: '^src/' }, to: { couldNotResolve: true } },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
