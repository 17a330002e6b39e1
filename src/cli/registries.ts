/** The registries that a command asks: Nix's files, the settings' global one, and what the command line says. */
import { isAbsolute, join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import type { Reporter } from '../base/events.ts';
import { homeFolder } from '../base/files.ts';
import { type FlakeRef, parseFlakeRef } from '../flake/flake-ref.ts';
import { FlakeRegistries } from '../sources/registry.ts';
import { registryLoader } from '../sources/registry-files.ts';
import type { Flags } from './options.ts';
import type { Settings } from './settings.ts';

/** What of a command's context matters here. */
interface Asking {
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  readonly folders: { readonly cache: string };
  readonly flags: Pick<Flags, 'refresh' | 'no-registries' | 'override-flake'>;
  readonly offline: boolean;
  readonly signal: AbortSignal;
  readonly reporter: Reporter;
  settings(): Promise<Settings>;
}

/** Throws FLK_SETTINGS_INVALID and FLK_REF_INVALID. */
export async function openRegistries(context: Asking): Promise<FlakeRegistries> {
  const settings = await context.settings();
  const { env, signal, reporter, folders, offline, flags } = context;
  const registries = new FlakeRegistries(
    registryLoader({
      userFile: userRegistryFile(env),
      systemFile: join(env.NIX_CONF_DIR || '/etc/nix', 'registry.json'),
      global: settings.flakeRegistry,
      cacheFolder: folders.cache,
      ttl: settings.tarballTtl,
      ...(settings.sslCertFile === undefined ? {} : { caFile: settings.sslCertFile }),
      refresh: flags.refresh,
      reporter,
      signal,
      offline,
    }),
    { allowed: settings.useRegistries && !flags['no-registries'] },
  );
  for (const [name, text] of flags['override-flake'])
    registries.override(nameFromArgument(name), refOfEntry(context, text));
  return registries;
}

/** Where Nix keeps this person's registry. */
export function userRegistryFile(env: NodeJS.ProcessEnv): string {
  if (env.NIX_CONFIG_HOME) return join(env.NIX_CONFIG_HOME, 'registry.json');
  const home = homeFolder(env);
  const config = env.XDG_CONFIG_HOME;
  return join(
    config !== undefined && isAbsolute(config) ? config : join(home, '.config'),
    'nix/registry.json',
  );
}

/** A reference to be written down, where a relative path would mean something else to the next reader. */
export function refOfEntry(context: Pick<Asking, 'cwd'>, text: string): FlakeRef {
  return parseFlakeRef(text, { relativeTo: context.cwd });
}

function nameFromArgument(text: string): FlakeRef {
  const ref = parseFlakeRef(text);
  if (ref.type === 'path')
    throw new FlkError('FLK_REF_INVALID', `--override-flake ${text}: a path is no registry’s name`, {
      hint: 'write --override-flake NAME REF; for an input, --override-input PATH REF',
    });
  return ref;
}
