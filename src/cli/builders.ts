/** The builders that the command line or the settings name, opened. */
import { FlkError } from '../base/errors.ts';
import { type Builder, Builders } from '../build/builders.ts';
import type { BuildRequest, Engine } from '../build/engines/engine.ts';
import { localEngine } from '../build/engines/local.ts';
import { type BuilderSpec, nameOfSpec, parseBuilders } from './builder-specs.ts';
import type { Context } from './context.ts';
import { hostSystem } from './targets.ts';

/** As Nix has them by default, of those that say something here. */
const usualFeatures = ['benchmark', 'big-parallel'];

interface OpenOptions {
  /** Builds at a time on this machine. */
  readonly jobs: number;
  readonly keepFailed: string | undefined;
  /** Told of each derivation that begins to be built on this machine. */
  begun(request: BuildRequest): void;
}

/** Those that are to build, in order of preference. Throws FLK_USAGE. */
export async function builderSpecs(context: Context): Promise<readonly BuilderSpec[]> {
  const { builders } = await context.settings();
  const asked = context.flags.builders;
  return asked === undefined ? builders : parseBuilders(asked, builders);
}

/** Throws FLK_USAGE, and FLK_FILE_UNREADABLE and FLK_SETTINGS_INVALID where what lets us in cannot be had. */
export async function openBuilders(context: Context, options: OpenOptions): Promise<Builders> {
  const specs = await builderSpecs(context);
  return new Builders(
    await Promise.all(specs.map((spec) => openBuilder(context, spec, options))),
    context.reporter,
  );
}

async function openBuilder(context: Context, spec: BuilderSpec, options: OpenOptions): Promise<Builder> {
  const { systems = [hostSystem()], features = spec.kind === 'remote' ? [] : usualFeatures, maxJobs } = spec;
  const engine = await openEngine(context, spec, { ...options, systems, features });
  return { engine, systems, features, jobs: maxJobs ?? (spec.kind === 'remote' ? 16 : options.jobs) };
}

async function openEngine(
  context: Context,
  spec: BuilderSpec,
  { keepFailed, begun, systems, features }: OpenOptions & Pick<Builder, 'systems' | 'features'>,
): Promise<Engine> {
  const { reporter } = context;
  const store = await context.store();
  switch (spec.kind) {
    case 'local': {
      const sandbox = context.flags['no-sandbox'] ? 'none' : 'auto';
      const local = localEngine({ store, reporter, sandbox, keepFailed });
      return {
        ...local,
        build: (request) => {
          begun(request);
          return local.build(request);
        },
      };
    }
    case 'nix': {
      const { nixEngine } = await import('../build/engines/nix.ts');
      return nixEngine({ store, program: spec.program, systems, features });
    }
    case 'remote':
      throw new FlkError('FLK_USAGE', `cannot build on ${nameOfSpec(spec)} yet`, {
        hint: '--builders local,nix',
      });
  }
}
