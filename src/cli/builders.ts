/** The builders that the command line or the settings name, opened. */
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';
import { type Builder, Builders } from '../build/builders.ts';
import type { BuildRequest, Engine } from '../build/engines/engine.ts';
import { localEngine } from '../build/engines/local.ts';
import { parseAddress, type RemoteCredentials } from '../build/engines/remote/address.ts';
import { type BuilderSpec, nameOfSpec, parseBuilders, type RemoteSpec } from './builder-specs.ts';
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
  const isRemote = spec.kind === 'remote';
  const { systems = [hostSystem()], features = isRemote ? [] : usualFeatures } = spec;
  const jobs = spec.maxJobs ?? (isRemote ? remoteJobs : options.jobs);
  const place = { systems, features, jobs };
  if (!isRemote) return { engine: await openHere(context, spec, { ...options, ...place }), ...place };
  const { remoteEngine } = await import('../build/engines/remote/remote.ts');
  const { address, instance, platform } = spec;
  const engine = remoteEngine({
    store: await context.store(),
    reporter: context.reporter,
    address,
    instance,
    platform,
    jobs,
    credentials: await credentialsOf(spec, context.env),
  });
  const isBarred = context.offline && !parseAddress(address).local;
  return { engine, ...place, ...(isBarred ? { barred: '--offline: no network is used' } : {}) };
}

const remoteJobs = 16;

async function openHere(
  context: Context,
  spec: Exclude<BuilderSpec, { readonly kind: 'remote' }>,
  { keepFailed, begun, systems, features }: OpenOptions & Pick<Builder, 'systems' | 'features'>,
): Promise<Engine> {
  const { reporter } = context;
  const store = await context.store();
  if (spec.kind === 'nix') {
    const { nixEngine } = await import('../build/engines/nix.ts');
    return nixEngine({ store, program: spec.program, systems, features });
  }
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

/** Far more than any token. */
const maxToken = 64 * 1024;

/** Throws FLK_FILE_UNREADABLE, FLK_LIMIT, and FLK_SETTINGS_INVALID where a variable is not set. */
async function credentialsOf(spec: RemoteSpec, env: NodeJS.ProcessEnv): Promise<RemoteCredentials> {
  const { tokenFile, tokenVariable, headers, caFile, certFile, keyFile, allowPlaintext } = spec;
  const of = nameOfSpec(spec);
  let token = tokenVariable === undefined ? undefined : env[tokenVariable];
  if (tokenVariable !== undefined && (token === undefined || token === ''))
    throw new FlkError(
      'FLK_SETTINGS_INVALID',
      `${tokenVariable} is not set, which holds the token for ${of}`,
    );
  if (tokenFile !== undefined) {
    const bytes = await readFileIfExists(tokenFile, maxToken);
    if (!bytes)
      throw new FlkError('FLK_FILE_UNREADABLE', `there is no ${tokenFile}, which holds the token for ${of}`);
    token = bytes.toString().trim();
  }
  return { token, headers, caFile, certFile, keyFile, allowPlaintext };
}
