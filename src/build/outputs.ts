/** What a builder left, taken over: canonical, hashed, scanned for references; and compared with what was built before. */
import { createHash, type Hash } from 'node:crypto';
import { compareBytes } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import type { Derivation } from '../formats/derivation.ts';
import { narHashOf, toNixBase32 } from '../formats/hash.ts';
import { NarWriter } from '../formats/nar.ts';
import { ReferenceScanner } from '../formats/references.ts';
import { hashPart, type StorePath } from '../formats/store-path.ts';
import { canonicalise } from '../store/canonicalise.ts';
import type { PathInfo } from '../store/path-info.ts';
import { walkPath } from '../store/tree-files.ts';

/** An output in its staging place, ready for `Store.register`. */
export interface TakenOutput {
  readonly info: PathInfo;
  readonly staged: string;
}

export interface TakeOptions {
  readonly drvPath: StorePath;
  readonly derivation: Derivation;
  /** What the builder could see; with the outputs themselves, all that it can refer to. */
  readonly closure: readonly StorePath[];
  /** Of all outputs' NARs together. */
  readonly maxBytes: number;
  /** As the engine that built them has it. */
  readonly ultimate: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Makes outputs canonical where they lie and computes their records, in the order of the derivation. `built`: output name → physical
 * path. Throws FLK_BUILD_OUTPUT_MISSING, FLK_BUILD_OUTPUT_INVALID, FLK_BUILD_OUTPUT_LIMIT and, for a fixed output,
 * FLK_FETCH_HASH_MISMATCH.
 */
export async function takeOutputs(
  built: ReadonlyMap<string, string>,
  options: TakeOptions,
): Promise<TakenOutput[]> {
  const { derivation, drvPath } = options;
  const missing = [...derivation.outputs].filter(([name]) => !built.has(name));
  if (missing.length > 0) {
    const names = missing.map(([name]) => name).join(', ');
    throw new FlkError('FLK_BUILD_OUTPUT_MISSING', `the builder ended well but did not create ${names}`, {
      facts: { wanted: missing.map(([, { path }]) => path).join('\n') },
      hint: `installPhase must create ${missing.map(([name]) => `$${name}`).join(' and ')}`,
    });
  }
  const candidates = [...options.closure, ...[...derivation.outputs.values()].map(({ path }) => path)];
  const byHashPart = new Map(candidates.map((path) => [hashPart(path), path]));
  const taken: TakenOutput[] = [];
  let left = options.maxBytes;
  for (const [name, output] of derivation.outputs) {
    const staged = built.get(name)!;
    try {
      await canonicalise(staged);
      const { digest, size, found, fileDigest } = await readOutput(
        staged,
        byHashPart.keys(),
        left,
        options.signal,
      );
      left -= size;
      if (output.hash !== '' && found.length > 0)
        throw new FlkError('FLK_BUILD_OUTPUT_INVALID', 'a package with outputHash may not name store paths', {
          facts: { found: found.map((part) => byHashPart.get(part)!).join('\n') },
          hint: 'its path must follow from its bytes alone: leave outputHash out, or keep those paths out of $out',
        });
      const ca = output.hash === '' ? undefined : await assertFixed(output, digest, fileDigest);
      taken.push({
        staged,
        info: {
          path: output.path,
          narHash: narHashOf(digest),
          narSize: size,
          references: found.map((part) => byHashPart.get(part)!).sort(compareBytes),
          deriver: drvPath,
          registrationTime: Math.floor(Date.now() / 1000),
          ultimate: options.ultimate,
          signatures: [],
          ...(ca === undefined ? {} : { ca }),
        },
      });
    } catch (error) {
      throw error instanceof FlkError ? error.within(`output ${name}`) : error;
    }
  }
  assertNoCycle(taken);
  return taken;
}

/** One walk for the NAR's hash, its references, its size and, where it is a single file, the file's own hash. */
async function readOutput(
  path: string,
  hashParts: Iterable<string>,
  maxBytes: number,
  signal: AbortSignal | undefined,
) {
  const hash = createHash('sha256');
  const scanner = new ReferenceScanner(hashParts);
  let size = 0;
  const writer = new NarWriter((chunk) => {
    size += chunk.length;
    if (size > maxBytes)
      throw new FlkError('FLK_BUILD_OUTPUT_LIMIT', `outputs of more than ${maxBytes} bytes are not kept`);
    hash.update(chunk);
    scanner.update(chunk);
  });
  await walkPath(path).walk(writer, signal);
  writer.end();
  return {
    digest: hash.digest(),
    size,
    found: scanner.found(),
    fileDigest: () => fileDigestOf(path, signal),
  };
}

/** Checks a fixed output against the hash that it promises; gives its content address. */
async function assertFixed(
  output: { readonly hashAlgo: string; readonly hash: string },
  narDigest: Buffer,
  fileDigest: () => Promise<Buffer>,
): Promise<string> {
  const recursive = output.hashAlgo === 'r:sha256';
  const found = recursive ? narDigest : await fileDigest();
  const wanted = Buffer.from(output.hash, 'hex');
  if (!found.equals(wanted))
    throw new FlkError('FLK_FETCH_HASH_MISMATCH', 'the output is not the one that its derivation promises', {
      facts: { found: narHashOf(found), wanted: narHashOf(wanted) },
    });
  return `fixed:${recursive ? 'r:' : ''}sha256:${toNixBase32(wanted)}`;
}

async function fileDigestOf(path: string, signal: AbortSignal | undefined): Promise<Buffer> {
  let hash: Hash | undefined;
  const refuse = (): never => {
    throw new FlkError('FLK_BUILD_OUTPUT_INVALID', 'an output with a flat hash must be a plain file');
  };
  await walkPath(path).walk(
    {
      directory: refuse,
      entry: refuse,
      endDirectory: refuse,
      symlink: refuse,
      file: (_size, executable) => {
        if (executable) refuse();
        hash = createHash('sha256');
      },
      data: (chunk) => void hash?.update(chunk),
      endFile: () => {},
    },
    signal,
  );
  return hash?.digest() ?? refuse();
}

/** A store keeps paths alive by their references; two that hold each other would never go. */
function assertNoCycle(taken: readonly TakenOutput[]): void {
  const own = new Map(taken.map(({ info }) => [info.path, info]));
  const done = new Set<StorePath>();
  const visit = (path: StorePath, trail: readonly StorePath[]): void => {
    if (trail.includes(path))
      throw new FlkError('FLK_BUILD_OUTPUT_INVALID', 'outputs refer to each other in a circle', {
        facts: { found: [...trail.slice(trail.indexOf(path)), path].join('\n') },
      });
    if (done.has(path)) return;
    for (const reference of own.get(path)?.references ?? [])
      if (reference !== path && own.has(reference)) visit(reference, [...trail, path]);
    done.add(path);
  };
  for (const path of own.keys()) visit(path, []);
}
