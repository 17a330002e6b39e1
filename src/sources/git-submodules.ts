/** Where a repository's submodules are: `.gitmodules` comes from outside, and may try to lead anywhere. */
import { isAbsolute, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { FlkError, redactUrls } from '../base/errors.ts';
import type { Rev } from '../flake/flake-ref.ts';
import { parseGitmodules } from '../formats/git-modules.ts';
import { isNodeName } from '../formats/nar.ts';
import type { NodePath } from '../formats/tree-sinks.ts';

export interface SubmodulePlace {
  readonly path: NodePath;
  /** Without `git+`. */
  readonly url: string;
  readonly rev: Rev;
}

const maxSubmodules = 1000;
/** Submodules of submodules. */
export const maxSubmoduleDepth = 16;

/**
 * Those submodules of a commit that `.gitmodules` knows, as Nix takes them: others stay empty folders, and entries for what is no
 * submodule do not count. `parent` is the repository's own URL. Throws FLK_GIT_SUBMODULE, FLK_REF_CREDENTIALS, FLK_LIMIT.
 */
export function submodulesOf(
  parent: string,
  modules: string | undefined,
  gitlinks: ReadonlyMap<NodePath, string>,
): readonly SubmodulePlace[] {
  if (modules === undefined) return [];
  const places = new Map<NodePath, SubmodulePlace>();
  for (const { name, path, url } of parseGitmodules(modules)) {
    const at = submodulePath(name, path);
    const rev = gitlinks.get(at);
    if (rev === undefined) continue;
    if (places.has(at)) throw refused(name, `another submodule has its path ${path}, too`);
    if (places.size >= maxSubmodules)
      throw new FlkError('FLK_LIMIT', `${redactUrls(parent)} has more than ${maxSubmodules} submodules`);
    places.set(at, { path: at, url: submoduleUrl(parent, name, url), rev: rev as Rev });
  }
  return [...places.values()];
}

/** Throws FLK_GIT_SUBMODULE for a path that leaves the repository or reaches into its `.git`. */
export function submodulePath(name: string, path: string): NodePath {
  const names = path.replace(/\/+$/, '').split('/');
  const safe = names.every((part) => isNodeName(Buffer.from(part)) && part.toLowerCase() !== '.git');
  if (!safe) throw refused(name, `its path is ${JSON.stringify(path.slice(0, 200))}`);
  return Buffer.from(names.join('/')).toString('latin1');
}

/** An absolute URL that flk fetches from, out of what `.gitmodules` says. */
export function submoduleUrl(parent: string, name: string, url: string): string {
  if (url === '') throw refused(name, 'it has no URL');
  if (/[\u0000-\u001f\u007f]/.test(url) || url.length > 4096)
    throw refused(name, 'its URL is longer than any, or holds a control character');
  const full = /^\.\.?(\/|$)/.test(url) ? relativeUrl(parent, name, url) : absoluteUrl(name, url);
  const parsed = URL.canParse(full) ? new URL(full) : undefined;
  const shown = JSON.stringify(redactUrls(url).slice(0, 200));
  if (!parsed || !/^(https?|ssh|git|file):$/.test(parsed.protocol))
    throw refused(name, `its URL is ${shown}`, 'https, http, ssh, git or file');
  if (parsed.protocol === 'file:') {
    if (!parent.startsWith('file:'))
      throw refused(name, `its URL leads from a server to this machine: ${shown}`);
  } else {
    const names = parsed.pathname.split('/');
    if (parsed.hostname === '' || parsed.hostname.startsWith('-') || names[1]?.startsWith('-'))
      throw refused(name, `its URL is ${shown}`);
    const inherited = parent.startsWith(`${parsed.protocol}//`) && new URL(parent).host === parsed.host;
    if (!inherited && (parsed.password !== '' || (parsed.username !== '' && parsed.protocol !== 'ssh:')))
      throw new FlkError('FLK_REF_CREDENTIALS', `submodule ${name} has credentials in its URL: ${shown}`);
  }
  return full;
}

function absoluteUrl(name: string, url: string): string {
  if (isAbsolute(url)) return pathToFileURL(url).href;
  const scp = /^([A-Za-z0-9_.][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9_.-]*):(?!\/\/)(.+)$/.exec(url);
  if (scp) return `ssh://${scp[1]}/${scp[2]!.replace(/^\/+/, '')}`;
  if (!/^[A-Za-z][A-Za-z0-9+.-]*:\/\//.test(url))
    throw refused(name, `its URL is ${JSON.stringify(url.slice(0, 200))}`, 'https, http, ssh, git or file');
  return url.replace(/^git\+(?=[a-z]+:)/, '');
}

/** As Git has it: each `../` takes one name off the repository's own URL. */
function relativeUrl(parent: string, name: string, url: string): string {
  const [, origin = '', path = ''] = /^([a-z]+:\/\/[^/]*)(\/[^?#]*)/.exec(parent) ?? [];
  const names = path.split('/').filter(Boolean);
  for (const part of url.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') names.push(part);
    else if (names.pop() === undefined)
      throw refused(name, `its URL ${JSON.stringify(url.slice(0, 200))} goes above the server’s root`);
  }
  return `${origin}/${names.join('/')}`;
}

/** Where a submodule's URL starts from, for a repository on this machine: its own `origin`, else its folder. */
export function localBase(root: string, origin: string | undefined): string {
  if (origin === undefined || origin === '') return pathToFileURL(root).href;
  if (/^\.\.?(\/|$)/.test(origin)) return pathToFileURL(resolve(root, origin)).href;
  return absoluteUrl('origin', origin);
}

function refused(name: string, why: string, wanted?: string): FlkError {
  return new FlkError('FLK_GIT_SUBMODULE', `submodule ${JSON.stringify(name.slice(0, 200))}: ${why}`, {
    ...(wanted === undefined ? {} : { facts: { wanted } }),
  });
}
