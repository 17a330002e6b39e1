/**
 * The phases runners, `setup/N.sh`: frozen files that are part of the hash of every package built with them. Old ones are kept for ever,
 * so that a new flk rebuilds nothing.
 */
import { fileURLToPath } from 'node:url';
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';
import type { NarHash } from '../formats/hash.ts';
import type { Tree } from '../formats/nar.ts';
import { makeSourcePath, type StorePath } from '../formats/store-path.ts';

/** NAR hashes of the runners: what a runner's text is, however it got onto this machine. */
const runners: ReadonlyMap<number, NarHash> = new Map([
  [1, 'sha256-lSKD25CmY2gW3TfW19x/r0HJJKe5cV23gy4QVcHw230=' as NarHash],
]);

export const latestSetup = Math.max(...runners.keys());

export interface Setup {
  /** `setup-N.sh`. */
  readonly name: string;
  readonly narHash: NarHash;
  readonly path: StorePath;
  /** The file, read from where flk is installed. */
  readonly tree: Tree;
}

/** Each package asks for one. */
const known = new Map<number, Setup>();

/** The runner that a manifest's `setup: N` chooses. Throws FLK_PACKAGE_INVALID. */
export function setupRunner(version: number): Setup {
  const setup = known.get(version) ?? makeSetup(version);
  known.set(version, setup);
  return setup;
}

function makeSetup(version: number): Setup {
  const narHash = runners.get(version);
  if (narHash === undefined) {
    throw new FlkError('FLK_PACKAGE_INVALID', `setup: ${version} is unknown to this flk`, {
      hint: `setup: ${latestSetup} is the newest one here`,
    });
  }
  const name = `setup-${version}.sh`;
  return {
    name,
    narHash,
    path: makeSourcePath(name, narHash),
    tree: {
      walk: async (sink) => {
        const text = await runnerText(version);
        sink.file(text.length, false);
        sink.data(text);
        sink.endFile();
      },
    },
  };
}

/** Beside this file in the repository; in a package, where this is bundled into `dist/`, below `src/`. */
async function runnerText(version: number): Promise<Buffer> {
  for (const place of ['./setup/', '../src/build/setup/']) {
    const text = await readFileIfExists(fileURLToPath(new URL(`${place}${version}.sh`, import.meta.url)));
    if (text !== undefined) return text;
  }
  throw new FlkError('FLK_INTERNAL', `setup/${version}.sh is missing from this installation of flk`);
}
