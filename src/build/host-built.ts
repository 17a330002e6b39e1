/** What was built with this machine's own programs, and so is worth nothing to others. */
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';
import { parseDerivation } from '../formats/derivation.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import type { PathInfo } from '../store/path-info.ts';
import type { Store } from '../store/store.ts';

type ReadStore = Pick<Store, 'query' | 'physical'>;

/** Bytes; a derivation with a hundred thousand inputs needs no more. */
const maxDerivation = 64 * 2 ** 20;
/** As many as a message may name. */
const maxNamed = 5;

/**
 * The names of builds with `toolchain: host` that these paths came out of, or anything that they were built from. What has a fixed
 * output is what it is, however it was made; of what was taken from a cache, or added, nothing is known here, and nothing is said.
 */
async function hostBuilt(store: ReadStore, paths: Iterable<StorePath>): Promise<string[]> {
  const drvPaths = new Set<StorePath>();
  for (const path of paths) {
    const info = store.query(path);
    if (info?.deriver !== undefined && info.ca === undefined) drvPaths.add(info.deriver);
  }
  const built: string[] = [];
  // Grows while it is walked.
  for (const drvPath of drvPaths) {
    const build = await readBuild(store, drvPath);
    if (build?.onHost) built.push(build.name);
    for (const input of build?.inputs ?? []) drvPaths.add(input);
  }
  return built;
}

/** Throws FLK_CACHE_HOST_TOOLCHAIN where `hostBuilt` finds any. */
export async function assertNotHostBuilt(store: ReadStore, paths: Iterable<StorePath>): Promise<void> {
  const built = await hostBuilt(store, paths);
  if (built.length === 0) return;
  const shown = built.slice(0, maxNamed).join(', ');
  const more = built.length > maxNamed ? ` and ${built.length - maxNamed} more` : '';
  throw new FlkError('FLK_CACHE_HOST_TOOLCHAIN', `built with this machine’s own programs: ${shown}${more}`);
}

/** The same for one path after another, as a server is asked for them: no derivation is read twice. */
export class HostBuilds {
  /** Derivation → the first that was found with `toolchain: host` among it and what it needs. */
  readonly #known = new Map<StorePath, Promise<string | undefined>>();

  /** Throws FLK_CACHE_HOST_TOOLCHAIN. */
  async assertNone(store: ReadStore, { deriver, ca }: Pick<PathInfo, 'deriver' | 'ca'>): Promise<void> {
    const name = deriver === undefined || ca !== undefined ? undefined : await this.#find(store, deriver);
    if (name !== undefined)
      throw new FlkError('FLK_CACHE_HOST_TOOLCHAIN', `built with this machine’s own programs: ${name}`);
  }

  #find(store: ReadStore, drvPath: StorePath): Promise<string | undefined> {
    const known = this.#known.get(drvPath) ?? this.#look(store, drvPath);
    this.#known.set(drvPath, known);
    return known;
  }

  async #look(store: ReadStore, drvPath: StorePath): Promise<string | undefined> {
    const build = await readBuild(store, drvPath);
    if (build?.onHost) return build.name;
    for (const input of build?.inputs ?? []) {
      const found = await this.#find(store, input);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}

interface Build {
  readonly name: string;
  readonly onHost: boolean;
  readonly inputs: Iterable<StorePath>;
}

/** Undefined for what has a fixed output, and for what is not there. */
async function readBuild(
  store: Pick<Store, 'query' | 'physical'>,
  drvPath: StorePath,
): Promise<Build | undefined> {
  if (!store.query(drvPath)) return undefined;
  const text = await readFileIfExists(store.physical(drvPath), maxDerivation);
  if (text === undefined) return undefined;
  const { env, outputs, inputDrvs } = parseDerivation(text.toString());
  if ([...outputs.values()].some(({ hash }) => hash !== '')) return undefined;
  const name = nameOf(drvPath).replace(/\.drv$/, '');
  return { name, onHost: env.get('toolchain') === 'host', inputs: inputDrvs.keys() };
}
