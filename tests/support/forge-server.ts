/**
 * A forge on loopback, with a certificate of its own: GitHub's, GitLab's and SourceHut's addresses, all for the same repositories, so
 * that Nix and flk can be asked to lock the same thing. Archives are `git archive`'s, as at the real ones.
 */
import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll } from 'vitest';
import { freshAddress } from './addresses.ts';
import { certificateFor, noCertificate } from './certificate.ts';
import { gitServer } from './git-server.ts';
import { gitEnvironment } from './repositories.ts';

export interface ForgeServer {
  /** An address of this machine, on port 443: a reference's `host` cannot name another. */
  readonly host: string;
  /** PEM; trust this. */
  readonly certificate: string;
  /** `METHOD PATH` of each request. */
  readonly log: string[];
  /** The `authorization` and `private-token` headers that came, beside their paths. */
  readonly secrets: string[];
  /** Answers instead of the forge where it gives something. */
  intercept:
    | ((request: IncomingMessage) => { status: number; headers?: Record<string, string> } | undefined)
    | undefined;
}

/** Why there can be no such server here; undefined where there can. */
export const noForgeServer: string | undefined = await whyNot();

/** For the title of a group of tests that needs it, so that a skip tells why. */
export const forgeReason = noForgeServer === undefined ? '' : `(skipped: ${noForgeServer})`;

async function whyNot(): Promise<string | undefined> {
  if (noCertificate !== undefined) return noCertificate;
  return await new Promise((resolve) => {
    const probe = createTcpServer();
    probe.on('error', () => resolve('port 443 of loopback is not ours to open'));
    probe.listen(443, freshAddress(), () => probe.close(() => resolve(undefined)));
  });
}

/** Serves the bare repositories `FOLDER/OWNER/REPO.git` until the test file ends. */
export async function forgeServer(folder: string): Promise<ForgeServer> {
  const host = freshAddress();
  const { file: certificate, cert, key } = certificateFor(host);
  const git = await gitServer(folder);
  const forge: ForgeServer = { host, certificate, log: [], secrets: [], intercept: undefined };
  const server = createServer({ key, cert }, (request, response) => {
    forge.log.push(`${request.method} ${request.url}`);
    for (const header of ['authorization', 'private-token']) {
      const value = request.headers[header];
      if (value !== undefined) forge.secrets.push(`${request.url} ${String(value)}`);
    }
    const instead = forge.intercept?.(request);
    if (instead) response.writeHead(instead.status, instead.headers).end();
    else
      answer(folder, git.base, request, response).catch((error: unknown) => {
        response.destroy(error instanceof Error ? error : undefined);
      });
  });
  await new Promise<void>((resolve) => server.listen(443, host, () => resolve()));
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  return forge;
}

async function answer(
  folder: string,
  gitBase: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? '/', gitBase);
  const path = url.pathname;
  const smart = /^\/(.+?)(?:\.git)?(\/info\/refs|\/git-upload-pack)$/.exec(path);
  if (smart && (url.search !== '' || smart[2] !== '/info/refs')) {
    passOn(new URL(`/${smart[1]}.git${smart[2]}${url.search}`, gitBase), request, response);
    return;
  }
  const text = (type: string, body: string): void => {
    response.writeHead(200, { 'content-type': type }).end(body);
  };
  const repository = (name: string): string => join(folder, `${decodeURIComponent(name)}.git`);
  const archive =
    /^\/(?:api\/v3\/repos\/)?([^/]+\/[^/]+)\/(?:archive|tarball)\/([0-9a-f]{40})(?:\.tar\.gz)?$/.exec(path) ??
    (/^\/api\/v4\/.*archive\.tar\.gz$/.test(path)
      ? ['', /projects\/(.+)\/repository/.exec(path)![1]!, url.searchParams.get('sha') ?? '']
      : null);
  const commit = /^\/api\/v3\/repos\/([^/]+\/[^/]+)\/commits\/(.+)$/.exec(path);
  const commits = /^\/api\/v4\/projects\/(.+)\/repository\/commits$/.exec(path);
  const dumb = /^\/(~[^/]+\/[^/]+)\/(HEAD|info\/refs)$/.exec(path);
  if (archive) sendArchive(repository(archive[1]!), archive[2]!, response);
  else if (commit) {
    const sha = await revParse(repository(commit[1]!), `${decodeURIComponent(commit[2]!)}^{commit}`);
    const tree = sha && (await revParse(repository(commit[1]!), `${sha}^{tree}`));
    if (tree) text('application/json', JSON.stringify({ sha, commit: { tree: { sha: tree } } }));
    else response.writeHead(422).end();
  } else if (commits) {
    const sha = await revParse(
      repository(commits[1]!),
      `${url.searchParams.get('ref_name') ?? 'HEAD'}^{commit}`,
    );
    text('application/json', JSON.stringify(sha ? [{ id: sha }] : []));
  } else if (dumb?.[2] === 'HEAD')
    text('text/plain', readFileSync(join(repository(dumb[1]!), 'HEAD'), 'utf8'));
  else if (dumb) {
    const refs = await gitText(repository(dumb[1]!), 'for-each-ref', '--format=%(objectname)%09%(refname)');
    text('text/plain', refs);
  } else response.writeHead(404).end();
}

function passOn(url: URL, request: IncomingMessage, response: ServerResponse): void {
  const inner = httpRequest(url, { method: request.method, headers: { ...request.headers, host: url.host } });
  inner.on('error', (error) => response.destroy(error));
  inner.on('response', (answered) => {
    response.writeHead(answered.statusCode ?? 502, answered.headers);
    answered.pipe(response);
  });
  request.pipe(inner);
}

function sendArchive(repository: string, rev: string, response: ServerResponse): void {
  const name = repository.replace(/^.*\/|\.git$/g, '');
  const child = spawn('git', ['archive', '--format=tar.gz', `--prefix=${name}-${rev}/`, rev], {
    cwd: repository,
    env: gitEnvironment,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  child.on('error', (error) => response.destroy(error));
  child.on('close', (status) => {
    if (status !== 0 && !response.headersSent) response.writeHead(404).end();
    else response.end();
  });
  child.stdout.on('data', (piece: Buffer) => response.write(piece));
}

async function revParse(repository: string, what: string): Promise<string | undefined> {
  const text = await gitText(repository, 'rev-parse', '--verify', '--quiet', what).catch(() => undefined);
  return text?.trim();
}

async function gitText(repository: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)('git', args, { cwd: repository, env: gitEnvironment })).stdout;
}
