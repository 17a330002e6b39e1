/** Derivations whose only output is known by its content before it is made. */
import { FlkError } from '../base/errors.ts';
import {
  type Derivation,
  type DerivationOutput,
  derivationPath,
  withOutputPaths,
} from '../formats/derivation.ts';
import { digestOf, type NarHash, narHashOf, toBase16, toNixBase32 } from '../formats/hash.ts';
import { hashTree } from '../formats/nar.ts';
import type { StorePath } from '../formats/store-path.ts';
import { canonicalise } from '../store/canonicalise.ts';
import type { Store } from '../store/store.ts';
import { walkPath } from '../store/tree-files.ts';

export interface FixedOutputSpec {
  readonly name: string;
  /** `builtin:…`: such a derivation runs on any system. */
  readonly builder: string;
  /** Of the NAR when `recursive`, else of the file's bytes. */
  readonly hash: NarHash;
  readonly recursive: boolean;
  /** Besides the attributes that every such derivation has: `name`, `system`, `builder`, `out` and `outputHash…`. */
  readonly env: ReadonlyMap<string, string>;
  readonly inputDrvs: ReadonlyMap<StorePath, readonly string[]>;
  readonly inputSrcs: readonly StorePath[];
}

/** How a derivation says what its only output hashes to: in its output, and to Nix in its environment. */
export function fixedAttributes({ hash, recursive }: Pick<FixedOutputSpec, 'hash' | 'recursive'>): {
  readonly output: Pick<DerivationOutput, 'hashAlgo' | 'hash'>;
  readonly variables: readonly (readonly [name: string, value: string])[];
} {
  return {
    output: { hashAlgo: recursive ? 'r:sha256' : 'sha256', hash: toBase16(digestOf(hash)) },
    variables: [
      ['outputHash', hash],
      ['outputHashAlgo', 'sha256'],
      ['outputHashMode', recursive ? 'recursive' : 'flat'],
    ],
  };
}

export function fixedOutputDerivation(spec: FixedOutputSpec): {
  readonly drvPath: StorePath;
  readonly derivation: Derivation;
} {
  const { name, builder, inputDrvs, inputSrcs } = spec;
  const { output, variables } = fixedAttributes(spec);
  const derivation = withOutputPaths(
    name,
    {
      outputs: new Map([['out', output]]),
      inputDrvs,
      inputSrcs,
      system: 'builtin',
      builder,
      args: [],
      env: new Map([...spec.env, ['name', name], ['system', 'builtin'], ['builder', builder], ...variables]),
    },
    () => {
      throw new FlkError('FLK_INTERNAL', 'a fixed output does not depend on its inputs');
    },
  );
  return { drvPath: derivationPath(name, derivation), derivation };
}

/** The output of a fixed-output derivation and the hash that it promises. */
export function fixedOutputOf(
  drvPath: StorePath,
  derivation: Derivation,
): { readonly output: DerivationOutput; readonly hash: NarHash } {
  const output = derivation.outputs.get('out');
  if (output === undefined || derivation.outputs.size !== 1 || !/^[0-9a-f]{64}$/.test(output.hash)) {
    throw new FlkError('FLK_DERIVATION_INVALID', `${drvPath} has no fixed output`);
  }
  return { output, hash: narHashOf(Buffer.from(output.hash, 'hex')) };
}

/** Moves a staged tree, whose hash the caller has checked, to the output's place. */
export async function registerFixedOutput(
  store: Store,
  output: DerivationOutput,
  staged: string,
  signal?: AbortSignal,
): Promise<void> {
  await canonicalise(staged);
  const { narHash, narSize } = await hashTree(walkPath(staged), signal);
  const method = output.hashAlgo === 'r:sha256' ? 'fixed:r:sha256' : 'fixed:sha256';
  await store.register([
    {
      staged,
      info: {
        path: output.path,
        narHash,
        narSize,
        references: [],
        registrationTime: Math.floor(Date.now() / 1000),
        ultimate: true,
        signatures: [],
        ca: `${method}:${toNixBase32(Buffer.from(output.hash, 'hex'))}`,
      },
    },
  ]);
}
