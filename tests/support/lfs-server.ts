/** A Git server that also keeps files for Git LFS: the batch API before `git http-backend`, on loopback. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll } from 'vitest';
import { type GitServer, gitServer } from './git-server.ts';

export interface LfsServer {
  /** `http://127.0.0.1:PORT`: repositories and their objects. */
  readonly base: string;
  readonly git: GitServer;
  /** By SHA-256. */
  readonly objects: Map<string, Buffer>;
  /** Each request that was not Git's: `POST /repo.git/info/lfs/objects/batch`, with its `authorization`. */
  readonly log: { readonly request: string; readonly authorization: string | undefined }[];
  /** Keeps the content; gives the text of its pointer. */
  add(content: Buffer | string): string;
  /** Instead of the batch's own answer for an object. */
  answer?: (oid: string, size: number) => object | undefined;
}

const open: (() => void)[] = [];

afterAll(() => {
  for (const close of open.splice(0)) close();
});

export const pointerTo = (content: Buffer | string): string =>
  `version https://git-lfs.github.com/spec/v1\noid sha256:${oidOf(content)}\nsize ${Buffer.from(content).length}\n`;

export const oidOf = (content: Buffer | string): string => createHash('sha256').update(content).digest('hex');

/** Serves the repositories in `folder` until the test file ends. Call it in a hook or a test. */
export async function lfsServer(folder: string): Promise<LfsServer> {
  const git = await gitServer(folder);
  const http = createServer((incoming, response) => {
    handle(state, incoming, response).catch((error: Error) => response.destroy(error));
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  open.push(() => {
    http.closeAllConnections();
    http.close();
  });
  const state: LfsServer = {
    base: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    git,
    objects: new Map(),
    log: [],
    add: (content) => {
      state.objects.set(oidOf(content), Buffer.from(content));
      return pointerTo(content);
    },
  };
  return state;
}

async function handle(state: LfsServer, incoming: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method = '', url = '', headers } = incoming;
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  const body = Buffer.concat(chunks);
  const isBatch = /^\/[^?]*\.git\/info\/lfs\/objects\/batch$/.test(url);
  const oid = /^\/objects\/([0-9a-f]{64})$/.exec(url)?.[1];
  if (isBatch || oid !== undefined)
    state.log.push({ request: `${method} ${url}`, authorization: headers.authorization });
  if (isBatch) {
    const asked = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
    const objects = asked.objects.map(
      (object) =>
        state.answer?.(object.oid, object.size) ??
        (state.objects.has(object.oid)
          ? { ...object, actions: { download: { href: `${state.base}/objects/${object.oid}` } } }
          : { ...object, error: { code: 404, message: 'Object does not exist' } }),
    );
    response
      .writeHead(200, { 'content-type': 'application/vnd.git-lfs+json' })
      .end(JSON.stringify({ transfer: 'basic', objects }));
  } else if (oid !== undefined) {
    const content = state.objects.get(oid);
    response.writeHead(content ? 200 : 404).end(content);
  } else {
    const inner = request(`${state.git.base}${url}`, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    inner.on('error', (error) => response.destroy(error));
    inner.end(body);
  }
}
