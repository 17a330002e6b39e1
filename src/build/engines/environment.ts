/** The environment in which a builder starts: the derivation's own, within what Nix 2.34 sets, so that one `.drv` means one thing. */
import { FlkError } from '../../base/errors.ts';
import { storeDir } from '../../formats/store-path.ts';
import type { BuildRequest } from './engine.ts';

/** `buildFolder` as the builder sees it. Names and values are checked: neither holds NUL, no name holds `=` or is empty. */
export function builderEnvironment(
  { derivation, cores }: Pick<BuildRequest, 'derivation' | 'cores'>,
  buildFolder: string,
): Map<string, string> {
  const env = new Map([
    // Values that are wrong on purpose: a builder that needs them must set them.
    ['PATH', '/path-not-set'],
    ['HOME', '/homeless-shelter'],
    ['NIX_STORE', storeDir],
    ['NIX_BUILD_CORES', String(cores)],
    ...derivation.env,
    ['NIX_BUILD_TOP', buildFolder],
    ['TMPDIR', buildFolder],
    ['TEMPDIR', buildFolder],
    ['TMP', buildFolder],
    ['TEMP', buildFolder],
    ['PWD', buildFolder],
    ['NIX_LOG_FD', '2'],
    ['TERM', 'xterm-256color'],
  ]);
  for (const [name, value] of env) {
    if (name === '' || /[=\0]/.test(name) || value.includes('\0'))
      throw new FlkError(
        'FLK_DERIVATION_INVALID',
        `no environment variable can be named “${name}”, or hold NUL`,
      );
  }
  return env;
}
