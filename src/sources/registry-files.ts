/** Where registries lie: the person's and the machine's file, which Nix shares, and the global one, which is downloaded. */
import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FlkError } from '../base/errors.ts';
import { type Reporter, span } from '../base/events.ts';
import { makeFolder, readFileIfExists, withFileLock, writeFileAtomic } from '../base/files.ts';
import { openUrl } from './download.ts';
import { HttpClient, readBody, withRetries } from './http.ts';
import { readNote, writeNote } from './notes.ts';
import { parseRegistry, printRegistry, type RegistryEntry, type RegistryLoader } from './registry.ts';

/** The real one has 14 kB. */
const maxSize = 4 * 2 ** 20;

export interface RegistryFiles {
  readonly userFile: string;
  readonly systemFile: string;
  /** The global registry: a URL (https, http, file) or an absolute path; empty for none. */
  readonly global: string;
  /** Holds the global one between runs; made when it is needed. */
  readonly cacheFolder: string;
  readonly reporter: Reporter;
  readonly signal?: AbortSignal;
  /** No network: the copy in the cache is used whatever its age; without one FLK_OFFLINE. */
  readonly offline?: boolean;
  /** Asks again, also where the copy is young. */
  readonly refresh?: boolean;
  /** Seconds for which a copy is young. */
  readonly ttl: number;
  /** Certificates (PEM) to trust instead of Node's own. */
  readonly caFile?: string;
}

/** Throws FLK_REGISTRY_INVALID, FLK_FILE_UNREADABLE, FLK_LIMIT, FLK_OFFLINE, and what a download does. */
export function registryLoader(files: RegistryFiles): RegistryLoader {
  return async (name) => {
    switch (name) {
      case 'user':
        return await readRegistry(files.userFile);
      case 'system':
        return await readRegistry(files.systemFile);
      case 'global':
        return await readGlobal(files);
    }
  };
}

/** A file's entries, none where there is no file. */
export async function readRegistry(path: string): Promise<RegistryEntry[]> {
  const bytes = await readFileIfExists(path, maxSize);
  return bytes ? parseRegistry(bytes.toString(), path) : [];
}

/**
 * Changes a registry's file in one step; makes it and its folder. A file that cannot be read is left as it is. Throws
 * FLK_REGISTRY_INVALID, FLK_FILE_UNREADABLE, FLK_FILE_UNWRITABLE, FLK_LOCK_BUSY.
 */
export async function editRegistry(
  path: string,
  change: (entries: readonly RegistryEntry[]) => readonly RegistryEntry[],
  signal?: AbortSignal,
): Promise<void> {
  await makeFolder(dirname(path));
  await withFileLock(
    `${path}.lock`,
    async () => {
      const entries = change(await readRegistry(path));
      // Who links to a file elsewhere wants it changed there.
      await writeFileAtomic(await realpath(path).catch(() => path), printRegistry(entries));
    },
    { signal },
  );
}

/** The global registry as it was downloaded. */
interface Kept {
  readonly url: string;
  readonly text: string;
  /** Ms since 1970. */
  readonly time: number;
  readonly etag?: string;
  readonly modified?: string;
}

async function readGlobal(files: RegistryFiles): Promise<readonly RegistryEntry[]> {
  const { global } = files;
  if (global === '') return [];
  if (isAbsolute(global)) return await readRegistry(global);
  const url = URL.canParse(global) ? new URL(global) : undefined;
  if (url?.protocol === 'file:' && url.host === '') return await readRegistry(fileURLToPath(url));
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:')
    throw new FlkError('FLK_REGISTRY_INVALID', `the global registry is neither a path nor a URL: ${global}`, {
      hint: 'set flakeRegistry to an https URL or to an absolute path; to nothing for none',
    });
  if (url.username !== '' || url.password !== '')
    throw new FlkError('FLK_REF_CREDENTIALS', `the global registry’s URL at ${url.host} holds credentials`);
  return await downloaded(files, url);
}

async function downloaded(files: RegistryFiles, url: URL): Promise<readonly RegistryEntry[]> {
  const path = join(
    files.cacheFolder,
    'registries',
    `${createHash('sha256').update(url.href).digest('hex').slice(0, 40)}.json`,
  );
  const note = await readNote<Kept>(path);
  const kept = note?.url === url.href ? note : undefined;
  const age = kept === undefined ? Number.POSITIVE_INFINITY : Date.now() - kept.time;
  const young = age >= 0 && age < files.ttl * 1000 && !files.refresh;
  if (kept && (files.offline || young)) return parseRegistry(kept.text, url.href);
  if (files.offline)
    throw new FlkError('FLK_OFFLINE', `the global registry ${url.href} would have to be downloaded`);
  try {
    const fresh = await span(files.reporter, { type: 'fetch', subject: url.href }, () =>
      download(files, url, kept),
    );
    const entries = parseRegistry(fresh.text, url.href);
    await writeNote(path, fresh);
    return entries;
  } catch (error) {
    // An old answer is better than none: what names mean changes seldom.
    if (!kept || !(error instanceof FlkError) || error.exitStatus !== 3) throw error;
    files.reporter.emit({
      kind: 'notice',
      notice: { type: 'old-answer', subject: url.href, reason: error.message },
    });
    return parseRegistry(kept.text, url.href);
  }
}

async function download(files: RegistryFiles, url: URL, kept: Kept | undefined): Promise<Kept> {
  const { signal, reporter, caFile } = files;
  const client = new HttpClient({ signal, caFiles: caFile === undefined ? [] : [caFile] });
  return await withRetries(url.href, { reporter, signal }, async (): Promise<Kept> => {
    const common = {
      'user-agent': 'flk',
      ...(kept?.etag !== undefined && { 'if-none-match': kept.etag }),
      ...(kept?.modified !== undefined && { 'if-modified-since': kept.modified }),
    };
    const { response, url: final } = await openUrl(client, { url, common });
    const body = await readBody(response, final, maxSize);
    if (response.status === 304 && kept) return { ...kept, time: Date.now() };
    const { etag, 'last-modified': modified } = response.headers;
    return {
      url: url.href,
      text: body.toString(),
      time: Date.now(),
      ...(etag !== undefined && { etag }),
      ...(modified !== undefined && { modified }),
    };
  });
}
