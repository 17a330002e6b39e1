/** How builds run: the command line over the settings. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { RealiseOptions } from '../build/realise.ts';
import { parseSize } from './amounts.ts';
import type { Context } from './context.ts';

type BuildOptions = Pick<
  RealiseOptions,
  'jobs' | 'cores' | 'timeout' | 'maxSilent' | 'maxLogBytes' | 'caps'
> & {
  /** For the engine. */
  readonly keepFailed: string | undefined;
};

/** Bytes of disk that builds leave alone, so that whoever works on this machine still can. */
const reserve = 256 * 2 ** 20;

export async function buildOptions(context: Context): Promise<BuildOptions> {
  const { flags, folders } = context;
  const set = await context.settings();
  const timeout = flags.timeout ?? set.timeout;
  const maxSilent = flags['max-silent-time'] ?? set.maxSilentTime;
  const given = flags['max-memory'];
  const maxMemory = given === undefined ? set.maxBuildMemory : parseSize('max-memory', given);
  const maxProcesses = flags['max-processes'] ?? set.maxBuildProcesses;
  const keeps = flags['keep-failed'] ?? set.keepFailed;
  return {
    jobs: flags['max-jobs'] || availableParallelism(),
    cores: flags.cores || availableParallelism(),
    ...(timeout === 0 ? {} : { timeout }),
    ...(maxSilent === 0 ? {} : { maxSilent }),
    maxLogBytes: set.maxBuildLogSize || Number.POSITIVE_INFINITY,
    caps: {
      minFreeBytes: reserve,
      ...(set.maxBuildSize === 0 ? {} : { maxDiskBytes: set.maxBuildSize }),
      ...(maxMemory === 0 ? {} : { maxMemory }),
      ...(maxProcesses === 0 ? {} : { maxProcesses }),
    },
    keepFailed: keeps ? join(folders.store, 'nix/var/flk/failed') : undefined,
  };
}
