/** What is kept of a build that failed, so that one can look at it and go on by hand. */
import { chmod, mkdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { asFlkError, FlkError, systemCode } from '../../base/errors.ts';
import { unwritable } from '../../base/files.ts';
import { baseNameOf } from '../../formats/store-path.ts';
import type { BuildRequest } from './engine.ts';
import { builderEnvironment } from './environment.ts';
import type { Scratch } from './view.ts';

/** Builds of one name that are kept beside each other; then an old one must go first. */
const maxKept = 1000;

/**
 * Moves the build folder of a failed build to `PARENT/NAME-0`, or the first number that is free, and writes `env-vars` into it, to be
 * read by a shell: the builder's environment. Gives the error with the place in its facts; or as it was, where neither a builder nor
 * its output was at fault.
 */
export async function keepBuildFolder(
  parent: string,
  scratch: Scratch,
  request: BuildRequest,
  thrown: unknown,
): Promise<FlkError> {
  const error = asFlkError(thrown);
  if (!/^FLK_(BUILD_|FETCH_HASH_MISMATCH$)/.test(error.code)) return error;
  const name = baseNameOf(request.drvPath)
    .slice(33)
    .replace(/\.drv$/, '');
  const kept = await moveToFree(scratch.build, parent, name);
  await chmod(kept, 0o700);
  const file = join(kept, 'env-vars');
  // The builder may have put something in its place, a link that leads elsewhere for one.
  await rm(file, { recursive: true, force: true });
  const env = [...builderEnvironment(request, '/build')].map(([key, value]) => assignment(key, value));
  await writeFile(file, env.join(''), { flag: 'wx', mode: 0o600 });
  return new FlkError(error.code, error.message, {
    facts: { ...error.facts, kept },
    hint: error.hint,
    trail: error.trail,
    cause: error.cause,
  });
}

async function moveToFree(folder: string, parent: string, name: string): Promise<string> {
  try {
    await mkdir(parent, { recursive: true, mode: 0o700 });
    for (let number = 0; number < maxKept; number++) {
      const place = join(parent, `${name}-${number}`);
      try {
        // What an empty folder stands for is taken: two that fail at once do not meet.
        await mkdir(place);
      } catch (error) {
        if (systemCode(error) === 'EEXIST') continue;
        throw error;
      }
      // The builder owned it and may have shut it; a folder that moves must be writable.
      await chmod(folder, 0o700);
      await rename(folder, place).catch(async (error: unknown) => {
        await rmdir(place);
        throw error;
      });
      return place;
    }
  } catch (error) {
    throw unwritable(parent, error);
  }
  throw new FlkError('FLK_LIMIT', `${parent} holds ${maxKept} failed builds of ${name} already`, {
    hint: `remove those that you do not need: rm -r ${join(parent, name)}-*`,
  });
}

/** For a POSIX shell. Names that are none of its own are left out. */
function assignment(name: string, value: string): string {
  return /^[A-Za-z_]\w*$/.test(name) ? `export ${name}='${value.replaceAll("'", "'\\''")}'\n` : '';
}
