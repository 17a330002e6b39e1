/** A derivation as the action that a server runs. Equal builds are equal bytes, whoever asks: they share the server's cache. */
import { compareBytes } from '../../../base/canonical.ts';
import { FlkError } from '../../../base/errors.ts';
import { Action, Command, type Digest, encode, type Property } from '../../../generated/remote-execution.ts';
import type { BuildRequest } from '../engine.ts';
import { builderEnvironment } from '../environment.ts';
import type { Blob } from './blobs.ts';
import type { Abilities } from './capabilities.ts';
import { blobDigest } from './digest.ts';

/**
 * Sets what a server does not promise, then becomes the builder: umask, an empty stdin, one stream for what it prints, so that lines
 * keep their order, and /build as the working folder. What a shell itself adds to the environment goes.
 */
const launcher =
  'umask 022; [ ! -c /dev/null ] || exec </dev/null; cd /build || exit 127; unset OLDPWD SHLVL _; exec "$0" "$@" 2>&1';

export interface ActionOptions {
  readonly inputRoot: Digest;
  readonly abilities: Abilities;
  readonly platform: readonly Property[];
  readonly cores: number;
}

/** The action, and what of it the server needs to have besides the input root: the action last. */
export function actionOf(request: BuildRequest, options: ActionOptions): { digest: Digest; blobs: Blob[] } {
  const { derivation, variation, limits } = request;
  if (!derivation.builder.startsWith('/'))
    throw new FlkError(
      'FLK_DERIVATION_INVALID',
      `a builder must be an absolute path, not ${derivation.builder}`,
    );
  const properties = [...options.platform].sort((a, b) => compareBytes(a.name, b.name));
  const platform = properties.length > 0 ? { platform: { properties } } : {};
  const command = blobOf(
    encode(Command, {
      arguments: ['/bin/sh', '-c', launcher, derivation.builder, ...derivation.args],
      environmentVariables: environmentOf(request, options.cores),
      ...outputsOf(request, options.abilities),
      ...platform,
    }),
  );
  const action = blobOf(
    encode(Action, {
      commandDigest: command.digest,
      inputRootDigest: options.inputRoot,
      ...(limits.timeout === undefined ? {} : { timeout: { seconds: limits.timeout } }),
      ...(variation === undefined ? {} : { doNotCache: true, salt: Buffer.from(`rebuild ${variation}`) }),
      ...platform,
    }),
  );
  return { digest: action.digest, blobs: [command, action] };
}

/** How many processors a worker has, no client knows; told otherwise, each kind of client would build anew. */
function environmentOf(request: BuildRequest, cores: number): Property[] {
  const told = request.variation === undefined ? cores : cores + 1;
  const env = builderEnvironment({ derivation: request.derivation, cores: told }, '/build');
  for (const name of env.keys()) {
    // A shell may drop what it could not name itself.
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw new FlkError(
        'FLK_BUILDER_UNAVAILABLE',
        `a remote builder cannot be given a variable named “${name}”`,
      );
  }
  return [...env].map(([name, value]) => ({ name, value })).sort((a, b) => compareBytes(a.name, b.name));
}

function outputsOf({ derivation }: BuildRequest, { outputPaths }: Abilities): Partial<Command> {
  const paths = [...derivation.outputs.values()].map(({ path }) => path.slice(1)).sort(compareBytes);
  return outputPaths ? { outputPaths: paths } : { outputFiles: paths, outputDirectories: paths };
}

function blobOf(content: Buffer): Blob {
  return { digest: blobDigest(content), content };
}

/** Where the server says that an output lies → the output's name. */
export const placesOf = ({ derivation }: BuildRequest): Map<string, string> =>
  new Map([...derivation.outputs].map(([name, { path }]) => [path.slice(1), name]));
