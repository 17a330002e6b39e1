/** `tarball` and `file` references: an archive without its top folder, or one file, from a server or from this machine. */
import { pathToFileURL } from 'node:url';
import { FlkError, redactUrls } from '../base/errors.ts';
import { type CurlRef, parseFlakeRef } from '../flake/flake-ref.ts';
import { parseRefUrl, printRefUrl } from '../flake/ref-url.ts';
import type { Fetched, SourceTree } from '../flake/source.ts';
import type { NarHash } from '../formats/hash.ts';
import type { ArchiveSource } from './archive-source.ts';

/**
 * What a lock says of it is what Nix 2.34 says: of an archive its hash, the time of its newest entry unless that is 1970, and where
 * the server names an immutable URL, that one with what it tells in its query; of a file nothing but its hash.
 * Throws as `ArchiveSource.fetch`, and FLK_NAR_HASH_MISMATCH.
 */
export async function fetchCurl(ref: CurlRef, archives: ArchiveSource): Promise<Fetched> {
  const shown = redactUrls(ref.url);
  // As a lock has it: nothing about it is left to ask. What a person has written (a hash, but no time) may still become an immutable URL.
  if (ref.narHash !== undefined && (ref.type === 'file' || ref.lastModified !== undefined)) {
    const tree = await archives.byHash(ref.narHash);
    if (tree) return { locked: ref, tree };
  }
  const answer = await archives.fetch({ url: urlOf(ref), shown, narHash: ref.narHash, kind: ref.type });
  const { tree } = answer;
  verify(shown, tree, ref.narHash);
  if (ref.type === 'file') return { locked: { ...ref, narHash: tree.narHash }, tree };
  const pinned = answer.immutableUrl === undefined ? ref : immutableRef(ref, answer.immutableUrl);
  const lastModified = pinned.lastModified ?? (answer.lastModified > 0 ? answer.lastModified : undefined);
  return {
    locked: { ...pinned, narHash: tree.narHash, ...(lastModified === undefined ? {} : { lastModified }) },
    tree,
  };
}

function urlOf(ref: CurlRef): URL {
  if (ref.url.startsWith('/')) return pathToFileURL(ref.url);
  const url = URL.canParse(ref.url) ? new URL(ref.url) : undefined;
  if (url && /^(https?|file):$/.test(url.protocol)) return url;
  throw new FlkError('FLK_REF_UNSUPPORTED', `${redactUrls(ref.url)} is no http, https or file URL`);
}

/**
 * The reference that a server offers in place of the one that was asked for. Which folder holds the flake is not its to say: a `dir`
 * in its query stays there, and the hash there is not held against anything, for its own tree is what came.
 */
function immutableRef(ref: CurlRef, url: string): CurlRef {
  const { dir, narHash: _, ...pinned } = parseFlakeRef(url);
  if (pinned.type !== 'tarball')
    throw new FlkError(
      'FLK_REF_UNSUPPORTED',
      `${redactUrls(ref.url)} names ${redactUrls(url)} as its immutable URL`,
      {
        facts: { found: pinned.type, wanted: 'tarball' },
        hint: 'the server’s Link header must lead to an archive',
      },
    );
  const from = urlOf(ref).protocol;
  const to = urlOf(pinned).protocol;
  // The lock would make everybody read that: a file of their own, or what anyone on the way can change.
  if (from !== to && to !== 'https:')
    throw new FlkError(
      'FLK_REF_UNSUPPORTED',
      `${redactUrls(ref.url)} names ${redactUrls(url)} as its immutable URL`,
      {
        facts: { found: to, wanted: from },
        hint: 'the server’s Link header must lead to a URL that is as well protected',
      },
    );
  return {
    ...pinned,
    ...(dir === undefined ? {} : { url: withQuery(pinned.url, 'dir', dir) }),
    ...(ref.dir === undefined ? {} : { dir: ref.dir }),
  };
}

function withQuery(text: string, name: string, value: string): string {
  const url = parseRefUrl(text);
  return printRefUrl({ ...url, query: new Map([...url.query, [name, value]]) });
}

function verify(shown: string, tree: SourceTree, wanted: NarHash | undefined): void {
  if (wanted !== undefined && wanted !== tree.narHash)
    throw new FlkError('FLK_NAR_HASH_MISMATCH', `${shown} is not what was locked`, {
      facts: { wanted, found: tree.narHash },
    });
}
