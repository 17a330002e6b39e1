/**
 * `fetch`: a file or an unpacked archive, known by its hash before it is there. It becomes a fixed-output derivation, so that where it
 * comes from is of no meaning for what is built with it.
 *
 * Its attributes, all in the environment: `name`, `system` (`builtin`), `builder`, `out`, `urls` (separated by spaces, tried in
 * order), `outputHash` (SRI), `outputHashAlgo` (`sha256`), `outputHashMode` (`flat`, or `recursive` for an unpacked archive and for
 * an executable file); `unpack`, `stripRoot` and `executable`, each `1` or empty.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { throwIfAborted } from '../base/concurrency.ts';
import type { Diagnostic } from '../base/diagnostics.ts';
import { asFlkError, FlkError, redactUrls, systemCode } from '../base/errors.ts';
import { type Reporter, type Span, span } from '../base/events.ts';
import type { Derivation } from '../formats/derivation.ts';
import { type NarHash, narHashOf } from '../formats/hash.ts';
import { hashTree } from '../formats/nar.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import type { Store } from '../store/store.ts';
import { walkPath } from '../store/tree-files.ts';
import { fixedOutputDerivation, fixedOutputOf, registerFixedOutput } from './fixed-output.ts';
import { unpack } from './unpack.ts';

export const fetchBuilder = 'builtin:flk-fetch';

/** Of one download. */
const maxBytes = 16 * 2 ** 30;

/**
 * Opens a URL (`http:`, `https:`) and gives its bytes: redirects followed, retried where that helps, credentials and limits its own
 * business. `total` is told the length once it is known. Throws FLK_NETWORK, FLK_HTTP_STATUS, FLK_HTTP_AUTH, FLK_OFFLINE.
 */
export type Download = (
  url: string,
  options: { readonly signal?: AbortSignal; total?(bytes: number): void },
) => AsyncIterable<Buffer>;

export interface FetchContext {
  readonly store: Store;
  readonly reporter: Reporter;
  readonly download: Download;
  readonly signal?: AbortSignal;
}

export interface FetchSpec {
  /** The store path's. */
  readonly name: string;
  readonly urls: readonly string[];
  readonly unpack: boolean;
  readonly stripRoot: boolean;
  readonly executable: boolean;
}

/** The derivation that `hash` pins; its `.drv` path with it. */
export function fetchDerivation(spec: FetchSpec, hash: NarHash): ReturnType<typeof fixedOutputDerivation> {
  const flag = (on: boolean) => (on ? '1' : '');
  return fixedOutputDerivation({
    name: spec.name,
    builder: fetchBuilder,
    hash,
    recursive: spec.unpack || spec.executable,
    env: new Map([
      ['urls', spec.urls.join(' ')],
      ['unpack', flag(spec.unpack)],
      ['stripRoot', flag(spec.stripRoot)],
      ['executable', flag(spec.executable)],
    ]),
    inputDrvs: new Map(),
    inputSrcs: [],
  });
}

/** Makes the output valid; see `runBuiltin`. */
export async function runFetch(
  drvPath: StorePath,
  derivation: Derivation,
  context: FetchContext,
): Promise<void> {
  const { output, hash } = fixedOutputOf(drvPath, derivation);
  const env = (key: string) => derivation.env.get(key) ?? '';
  if (env('urls') === '') throw new FlkError('FLK_DERIVATION_INVALID', `${drvPath} has no urls`);
  const spec: FetchSpec = {
    name: nameOf(output.path),
    urls: env('urls').split(' '),
    unpack: env('unpack') === '1',
    stripRoot: env('stripRoot') === '1',
    executable: env('executable') === '1',
  };
  await withFetched(spec, hash, context, ({ path }) =>
    registerFixedOutput(context.store, output, path, context.signal),
  );
}

/**
 * For a fetch whose author has not written a hash: fetches it and always throws, FLK_FETCH_HASH_MISSING with the hash to paste, or why
 * it could not be had. `place`: where the author wrote it.
 */
export async function tellHash(
  spec: FetchSpec,
  context: FetchContext,
  place?: Pick<Diagnostic, 'file' | 'range'>,
): Promise<never> {
  const { hash, url } = await withFetched(spec, undefined, context, async (fetched) => fetched);
  throw new FlkError('FLK_FETCH_HASH_MISSING', `the fetch ${spec.name} has no hash`, {
    facts: { url, found: hash },
    hint: `hash: ${hash}`,
    diagnostics: place ? [{ ...place, message: 'its fetch has no hash', suggestion: `hash: ${hash}` }] : [],
  });
}

interface Fetched {
  /** In a staging folder. */
  readonly path: string;
  /** Of the file's bytes, or of the tree's NAR where the output is recursive. */
  readonly hash: NarHash;
  readonly url: string;
}

/**
 * Downloads from the first URL that has the wanted bytes, unpacks and hashes; `use` may take the result away, what is left is removed
 * afterwards.
 */
async function withFetched<T>(
  spec: FetchSpec,
  wanted: NarHash | undefined,
  context: FetchContext,
  use: (fetched: Fetched) => Promise<T>,
): Promise<T> {
  const failures: FlkError[] = [];
  for (const url of spec.urls) {
    const stage = await context.store.stage();
    try {
      const fetched = await fetchOne(url, spec, stage.path, context).catch((error: unknown) => {
        const failure = asFlkError(error);
        if (failure.code === 'FLK_INTERRUPTED' || failure.code === 'FLK_INTERNAL') throw failure;
        failures.push(failure);
        return undefined;
      });
      if (fetched === undefined) continue;
      if (wanted === undefined || fetched.hash === wanted) return await use(fetched);
      failures.push(mismatch(spec, fetched, wanted));
    } finally {
      await stage.dispose();
    }
  }
  // Of several failures, the one about wrong bytes tells more than those about no bytes.
  const worst = failures.find((failure) => failure.exitStatus !== 3) ?? failures[0]!;
  throw worst;
}

async function fetchOne(
  url: string,
  spec: FetchSpec,
  folder: string,
  context: FetchContext,
): Promise<Fetched> {
  const file = join(folder, 'download');
  const digest = await span(context.reporter, { type: 'fetch', subject: redactUrls(url) }, (progress) =>
    downloadTo(file, url, context, progress),
  );
  if (!spec.unpack) {
    if (!spec.executable) return { path: file, hash: narHashOf(digest), url };
    await chmod(file, 0o755);
    const { narHash } = await hashTree(walkPath(file), context.signal);
    return { path: file, hash: narHash, url };
  }
  return span(context.reporter, { type: 'unpack', subject: spec.name }, async (progress) => {
    const into = join(folder, 'tree');
    await mkdir(into);
    const path = await unpack(file, into, {
      stripRoot: spec.stripRoot,
      ...(context.signal === undefined ? {} : { signal: context.signal }),
      progress: everyMegabyte((bytes) => progress.progress(bytes, undefined, 'bytes')),
    });
    const { narHash } = await hashTree(walkPath(path), context.signal);
    return { path, hash: narHash, url };
  });
}

/** Writes the URL's bytes into a new file and returns their SHA-256. */
async function downloadTo(file: string, url: string, context: FetchContext, progress: Span): Promise<Buffer> {
  let total: number | undefined;
  const { signal } = context;
  const bytes = url.startsWith('file:')
    ? localFile(url)
    : context.download(url, {
        ...(signal === undefined ? {} : { signal }),
        total: (length) => {
          total = length;
        },
      });
  const report = everyMegabyte((done) => progress.progress(done, total, 'bytes'));
  const hash = createHash('sha256');
  const handle = await open(file, 'wx', 0o644);
  try {
    let done = 0;
    for await (const chunk of bytes) {
      throwIfAborted(signal);
      done += chunk.length;
      if (done > maxBytes) throw new FlkError('FLK_LIMIT', `${url} has more than ${maxBytes} bytes`);
      hash.update(chunk);
      for (let at = 0; at < chunk.length; ) at += (await handle.write(chunk, at)).bytesWritten;
      report(done);
    }
    progress.progress(done, total, 'bytes');
  } finally {
    await handle.close();
  }
  return hash.digest();
}

async function* localFile(url: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(fileURLToPath(url), { highWaterMark: 256 * 1024 })) {
      yield chunk as Buffer;
    }
  } catch (error) {
    if (systemCode(error) === undefined) throw error;
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${url}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function everyMegabyte(report: (bytes: number) => void): (bytes: number) => void {
  let next = 0;
  return (bytes) => {
    if (bytes < next) return;
    next = bytes + 2 ** 20;
    report(bytes);
  };
}

function mismatch(spec: FetchSpec, fetched: Fetched, wanted: NarHash): FlkError {
  return new FlkError(
    'FLK_FETCH_HASH_MISMATCH',
    `${spec.name} from ${fetched.url} is not what the manifest promises`,
    {
      facts: { found: fetched.hash, wanted },
      hint: `if you trust what is there now: hash: ${fetched.hash}`,
    },
  );
}
