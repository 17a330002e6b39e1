/** What a server says that it can, checked against what flk needs. */
import type { Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { FlkError } from '../../../base/errors.ts';
import {
  Compressor,
  DigestFunction,
  type ServerCapabilities,
  SymlinkAbsolutePathStrategy,
} from '../../../generated/remote-execution.ts';

/** What follows from it for us. */
export interface Abilities {
  /** Bytes of blobs in one call. */
  readonly batchBytes: number;
  /** Bytes of one blob. */
  readonly maxBlobBytes: number;
  /** Outputs are named by `output_paths`, whatever they will be; before 2.1 each kind had a list of its own. */
  readonly outputPaths: boolean;
  /** Large blobs may travel packed. */
  readonly zstd: boolean;
}

/** Node has it since 22.15; the types are those of the oldest Node that flk runs on. */
export const zstdEncoder = Reflect.get(zlib, 'createZstdCompress') as (() => Transform) | undefined;

/** gRPC's own limit on a message is 4 MiB, of which a part is not blobs. */
const mostBatchBytes = 4 * 2 ** 20 - 64 * 1024;
/** Where a server names no limit it may have one: 2 MiB have been seen. */
const usualBatchBytes = 2 ** 20;
const outputPathsSince = 1;

/** Throws FLK_BUILDER_UNAVAILABLE, with the reason, where the server cannot do what a build needs. */
export function abilitiesOf(capabilities: ServerCapabilities, builder: string): Abilities {
  const { cacheCapabilities: cache, executionCapabilities: execution } = capabilities;
  const refuse = (reason: string): never => {
    throw new FlkError('FLK_BUILDER_UNAVAILABLE', `the remote builder cannot be used: ${reason}`, {
      facts: { builder, reason },
      hint: '',
    });
  };
  if (!execution?.execEnabled) return refuse('it keeps blobs, but runs nothing');
  const own = execution.digestFunctions;
  const functions = own.length > 0 ? own : [execution.digestFunction];
  if (!cache?.digestFunctions.includes(DigestFunction.SHA256) || !functions.includes(DigestFunction.SHA256))
    return refuse('it does not name blobs by SHA-256');
  if (cache.symlinkAbsolutePathStrategy === SymlinkAbsolutePathStrategy.DISALLOWED)
    return refuse('it takes no absolute symlinks, of which store paths are full');
  const { highApiVersion: high } = capabilities;
  if (high && high.major < 2) return refuse(`it speaks version ${high.major} of the API, flk version 2`);
  const { maxBatchTotalSizeBytes: batch, maxCasBlobSizeBytes: blob } = cache;
  return {
    batchBytes: batch > 0 ? Math.min(batch, mostBatchBytes) : usualBatchBytes,
    maxBlobBytes: blob > 0 ? blob : Number.POSITIVE_INFINITY,
    outputPaths: high !== undefined && (high.major > 2 || high.minor >= outputPathsSince),
    zstd: cache.supportedCompressors.includes(Compressor.ZSTD) && zstdEncoder !== undefined,
  };
}
