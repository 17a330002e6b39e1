/** `flk store …`: what lies in the store, whether it is whole, and how it comes and goes. As Nix has these, where it has them. */
import { common, network } from '../command-table.ts';
import type { Context } from '../context.ts';
import { runSubCommand, type SubCommand } from '../subcommands.ts';

/** Each group is loaded when one of it is called. */
const table: Readonly<Record<string, SubCommand>> = {
  add: {
    args: 'PATH…',
    min: 1,
    options: ['name', 'mode', 'dry-run'],
    run: async (...call) => (await import('./store/transfer.ts')).runAdd(...call),
  },
  'path-info': {
    args: 'PATH…',
    min: 0,
    options: ['recursive', 'size', 'closure-size', 'sigs', 'all', 'json-format'],
    run: async (...call) => (await import('./store/query.ts')).runPathInfo(...call),
  },
  ls: {
    args: 'PATH',
    min: 1,
    max: 1,
    options: ['long', 'recursive', 'list-recursive', 'directory'],
    run: async (...call) => (await import('./store/look.ts')).runLs(...call),
  },
  cat: {
    args: 'PATH',
    min: 1,
    max: 1,
    options: [],
    run: async (...call) => (await import('./store/look.ts')).runCat(...call),
  },
  references: {
    args: 'PATH…',
    min: 1,
    options: [],
    run: async (...call) => (await import('./store/query.ts')).runReferences(...call),
  },
  referrers: {
    args: 'PATH…',
    min: 1,
    options: ['recursive'],
    run: async (...call) => (await import('./store/query.ts')).runReferrers(...call),
  },
  requisites: {
    args: 'PATH…',
    min: 1,
    options: [],
    run: async (...call) => (await import('./store/query.ts')).runRequisites(...call),
  },
  'path-from-hash-part': {
    args: 'HASH-PART',
    min: 1,
    max: 1,
    options: [],
    run: async (...call) => (await import('./store/query.ts')).runPathFromHashPart(...call),
  },
  export: {
    args: 'PATH…',
    min: 1,
    options: ['recursive'],
    run: async (...call) => (await import('./store/transfer.ts')).runExport(...call),
  },
  import: {
    args: '< FILE',
    min: 0,
    max: 0,
    options: ['no-check-sigs'],
    run: async (context) => (await import('./store/transfer.ts')).runImport(context),
  },
  verify: {
    args: '[PATH…]',
    min: 0,
    options: ['all', 'recursive', 'no-contents', 'no-trust', 'trusted-public-keys'],
    run: async (...call) => (await import('./store/check.ts')).runVerify(...call),
  },
  repair: {
    args: 'PATH…',
    min: 0,
    options: ['all', 'substituters', 'trusted-public-keys', 'substitute'],
    run: async (...call) => (await import('./store/check.ts')).runRepair(...call),
  },
  optimise: {
    args: '[PATH…]',
    min: 0,
    options: [],
    run: async (...call) => (await import('./store/check.ts')).runOptimise(...call),
  },
  delete: {
    args: 'PATH…',
    min: 1,
    options: [],
    run: async (...call) => (await import('./store/check.ts')).runDelete(...call),
  },
  'why-depends': {
    args: 'PATH DEPENDENCY',
    min: 2,
    max: 2,
    options: ['all', 'precise'],
    run: async (...call) => (await import('./store/compare.ts')).runWhyDepends(...call),
  },
  diff: {
    args: 'BEFORE AFTER',
    min: 2,
    max: 2,
    options: ['files'],
    run: async (...call) => (await import('./store/compare.ts')).runDiff(...call),
  },
  du: {
    args: '[PATH…]',
    min: 0,
    options: ['recursive'],
    run: async (...call) => (await import('./store/compare.ts')).runDu(...call),
  },
  'dump-path': {
    args: 'PATH',
    min: 1,
    max: 1,
    options: [],
    run: async (...call) => (await import('./store/transfer.ts')).runDumpPath(...call),
  },
  restore: {
    args: 'DIR < NAR',
    min: 1,
    max: 1,
    options: [],
    run: async (...call) => (await import('./store/transfer.ts')).runRestore(...call),
  },
};

export async function runStore(context: Context): Promise<number> {
  return await runSubCommand(context, table, [...common, ...network]);
}
