/**
 * Files that Git LFS keeps outside the repository: their pointers, and a client for the batch API that brings them.
 * Source: git-lfs's docs/spec.md, docs/api/batch.md and docs/api/server-discovery.md.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FlkError, redactUrls } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';
import { StageFolder } from '../base/stages.ts';
import { type HttpClient, type HttpResponse, readBody, statusError } from './http.ts';

export interface LfsPointer {
  /** The content's SHA-256 in hex. */
  readonly oid: string;
  /** Its bytes. */
  readonly size: number;
}

/** From here on a file is no pointer. */
export const maxPointerSize = 1024;

/** What a pointer file says; undefined for any other file. */
export function parsePointer(content: Buffer): LfsPointer | undefined {
  if (content.length >= maxPointerSize) return undefined;
  const text = content.toString('latin1');
  if (!text.startsWith('version https://git-lfs.github.com/spec/v1')) return undefined;
  const oid = text.match(/^oid sha256:([0-9a-fA-F]{64})$/m)?.[1];
  const size = text.match(/^size ([0-9]{1,15})$/m)?.[1];
  return oid === undefined || size === undefined ? undefined : { oid: oid.toLowerCase(), size: Number(size) };
}

export interface LfsOptions {
  readonly http: HttpClient;
  /** Where objects are kept, by their SHA-256. */
  readonly folder: string;
  /** No network: what is neither here nor in a repository on this machine is FLK_OFFLINE. */
  readonly offline?: boolean | undefined;
  /** Does one batch's work: again where it may succeed, and not too many at once. Default: just does it. */
  readonly carry?: ((subject: string, work: () => Promise<void>) => Promise<void>) | undefined;
}

const mediaType = 'application/vnd.git-lfs+json';
/** Objects asked for in one request: what servers take at least. */
const batchSize = 100;
const maxAnswer = 16 * 2 ** 20;
const maxRedirects = 5;

/** Where an object can be had, as a batch's answer says. */
interface Action {
  readonly href: string;
  readonly header: Readonly<Record<string, string>>;
}

export class LfsClient {
  readonly #http: HttpClient;
  readonly #folder: string;
  readonly #stages: StageFolder;
  readonly #offline: boolean;
  readonly #carry: (subject: string, work: () => Promise<void>) => Promise<void>;

  constructor(options: LfsOptions) {
    this.#http = options.http;
    this.#folder = options.folder;
    this.#stages = new StageFolder(join(options.folder, 'stage'));
    this.#offline = options.offline ?? false;
    this.#carry = options.carry ?? ((_, work) => work());
  }

  /** Where an object lies once it has been brought. */
  path(oid: string): string {
    return join(this.#folder, oid.slice(0, 2), oid);
  }

  /**
   * Brings the objects of the repository at `url` (without `git+`) that are not here, verified. Throws FLK_GIT_LFS for one that
   * the server does not have or that is another, FLK_REF_UNSUPPORTED for a way that offers no batch API, and as HTTP does.
   */
  async bring(url: string, pointers: Iterable<LfsPointer>): Promise<void> {
    const missing = new Map<string, LfsPointer>();
    for (const pointer of pointers) if (!(await this.#has(pointer))) missing.set(pointer.oid, pointer);
    if (missing.size === 0) return;
    const parsed = new URL(url);
    if (parsed.protocol === 'file:') {
      await this.#fromThisMachine(fileURLToPath(`file://${parsed.pathname}`), missing);
      return;
    }
    if (this.#offline)
      throw new FlkError('FLK_OFFLINE', `${redactUrls(url)}: files of Git LFS are not on this machine`);
    if (parsed.protocol !== 'http:' && parsed.protocol !== 'https:')
      throw new FlkError(
        'FLK_REF_UNSUPPORTED',
        `flk does not fetch files of Git LFS over ${parsed.protocol}//: ${redactUrls(url)}`,
        { hint: 'name the repository by its https:// URL' },
      );
    const wanted = [...missing.values()];
    for (let at = 0; at < wanted.length; at += batchSize)
      await this.#carry(redactUrls(url), () =>
        this.#batch(lfsEndpoint(parsed), wanted.slice(at, at + batchSize)),
      );
  }

  /** What git-lfs itself has fetched into a repository on this machine. */
  async #fromThisMachine(repository: string, missing: ReadonlyMap<string, LfsPointer>): Promise<void> {
    for (const pointer of missing.values()) {
      const { oid } = pointer;
      const places = ['.git/lfs', 'lfs'].map((folder) =>
        join(repository, folder, 'objects', oid.slice(0, 2), oid.slice(2, 4), oid),
      );
      const sizes = await Promise.all(places.map((place) => sizeOf(place)));
      const place = places.find((_, i) => sizes[i] !== undefined);
      if (place === undefined)
        throw lost(pointer, `${repository} does not hold it`, {
          hint: `run git lfs fetch --all in ${repository}`,
        });
      await this.#keep(pointer, createReadStream(place));
    }
  }

  async #batch(endpoint: URL, pointers: readonly LfsPointer[]): Promise<void> {
    const url = new URL(`${endpoint.href}/objects/batch`);
    const body = { operation: 'download', transfers: ['basic'], objects: pointers };
    const response = await this.#http.send({
      method: 'POST',
      url,
      headers: { 'content-type': mediaType, accept: mediaType },
      body: Buffer.from(JSON.stringify(body)),
    });
    if (response.status !== 200) throw statusError(url, response);
    const answer = actionsOf(url, (await readBody(response, url, maxAnswer)).toString());
    for (const pointer of pointers) {
      if (await this.#has(pointer)) continue;
      const action = answer.get(pointer.oid);
      if (action === undefined) throw lost(pointer, `${url.host} does not have it`);
      if (typeof action === 'string') throw lost(pointer, `${url.host} says: ${action}`);
      await this.#download(url, pointer, action);
    }
  }

  async #download(api: URL, pointer: LfsPointer, action: Action): Promise<void> {
    let url = URL.canParse(action.href) ? new URL(action.href) : undefined;
    for (let hops = 0; hops <= maxRedirects; hops++) {
      // From an encrypted connection to a plain one nobody goes; nor to anything else than a web server.
      if (!url || !(url.protocol === 'https:' || (url.protocol === 'http:' && api.protocol === 'http:')))
        throw new FlkError('FLK_GIT_LFS', `${api.host} gives no web address for an LFS object`, {
          facts: { found: redactUrls(action.href).slice(0, 200) },
        });
      const response = await this.#http.send({
        method: 'GET',
        url,
        // What the server gave for this address is for its host alone.
        headers: url.origin === new URL(action.href).origin ? action.header : {},
        redirectedFrom: new URL(action.href),
      });
      const { location } = response.headers;
      if (response.status >= 300 && response.status < 400 && location !== undefined) {
        await readBody(response, url, maxAnswer);
        url = URL.canParse(location, url.href) ? new URL(location, url.href) : undefined;
        continue;
      }
      await this.#take(url, pointer, response);
      return;
    }
    throw new FlkError('FLK_GIT_LFS', `${api.host} redirects more than ${maxRedirects} times`);
  }

  async #take(url: URL, pointer: LfsPointer, response: HttpResponse): Promise<void> {
    if (response.status === 404 || response.status === 410)
      throw lost(pointer, `${url.host} answers ${response.status}`);
    if (response.status !== 200) throw statusError(url, response);
    await this.#keep(pointer, response.body);
  }

  /** Writes an object elsewhere, and puts it there once it is known to be the one. */
  async #keep(pointer: LfsPointer, content: AsyncIterable<Buffer>): Promise<void> {
    const path = this.path(pointer.oid);
    const staged = await this.#stages.next();
    await makeFolder(join(this.#folder, pointer.oid.slice(0, 2)));
    const hash = createHash('sha256');
    let size = 0;
    const file = await open(staged, 'wx');
    try {
      for await (const chunk of content) {
        size += chunk.length;
        if (size > pointer.size)
          throw other(pointer, `more than ${pointer.size} bytes`, `${pointer.size} bytes`);
        hash.update(chunk);
        await file.write(chunk);
      }
      if (size !== pointer.size) throw other(pointer, `${size} bytes`, `${pointer.size} bytes`);
      const found = hash.digest('hex');
      if (found !== pointer.oid) throw other(pointer, found, pointer.oid);
      await file.close();
      await rename(staged, path);
    } catch (error) {
      await file.close().catch(() => {});
      await rm(staged, { force: true });
      throw error;
    }
  }

  async #has(pointer: LfsPointer): Promise<boolean> {
    return (await sizeOf(this.path(pointer.oid))) === pointer.size;
  }
}

const sizeOf = (path: string): Promise<number | undefined> =>
  stat(path).then(
    (info) => (info.isFile() ? info.size : undefined),
    () => undefined,
  );

/** `https://host/repo` and `https://host/repo.git` have their objects below `https://host/repo.git/info/lfs`. */
function lfsEndpoint(url: URL): URL {
  const path = url.pathname.replace(/\/+$/, '');
  return new URL(`${url.origin}${path.endsWith('.git') ? path : `${path}.git`}/info/lfs`);
}

/** By object: where it is, or why it is nowhere. */
function actionsOf(url: URL, text: string): Map<string, Action | string> {
  const wrong = (cause?: unknown): FlkError =>
    new FlkError('FLK_GIT_LFS', `${url.host} does not answer as an LFS server`, {
      facts: { found: text.slice(0, 200) },
      hint: 'check that the server offers Git LFS for this repository',
      cause,
    });
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch (error) {
    throw wrong(error);
  }
  const objects = member(answer, 'objects');
  if (!Array.isArray(objects)) throw wrong();
  const actions = new Map<string, Action | string>();
  for (const object of objects as readonly unknown[]) {
    const oid = member(object, 'oid');
    if (typeof oid !== 'string') throw wrong();
    const refusal = member(member(object, 'error'), 'message');
    const download = member(member(object, 'actions'), 'download');
    const href = member(download, 'href');
    if (typeof refusal === 'string') actions.set(oid, refusal.slice(0, 500));
    else if (typeof href === 'string')
      actions.set(oid, { href, header: headersOf(member(download, 'header')) });
  }
  return actions;
}

function member(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? Object.entries(value).find(([key]) => key === name)?.[1]
    : undefined;
}

/** Headers that a server may have us send: never those that shape the request itself. */
function headersOf(value: unknown): Readonly<Record<string, string>> {
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, text]): [string, string][] =>
      typeof text === 'string' &&
      /^(authorization|accept|x-[a-z0-9-]+)$/i.test(name) &&
      /^[\t\x20-\x7e]{0,8192}$/.test(text)
        ? [[name.toLowerCase(), text]]
        : [],
    ),
  );
}

const lost = (pointer: LfsPointer, why: string, details: { hint?: string } = {}): FlkError =>
  new FlkError('FLK_GIT_LFS', `the LFS object ${pointer.oid} cannot be had: ${why}`, details);

const other = (pointer: LfsPointer, found: string, wanted: string): FlkError =>
  new FlkError('FLK_GIT_LFS', `what the server gives for the LFS object ${pointer.oid} is another`, {
    facts: { found, wanted },
    hint: 'the file was damaged, or changed by someone: ask whoever runs the server',
  });
