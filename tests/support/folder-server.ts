/** A folder given out by HTTP as a plain web server does it, with ranges and PUT; and whatever a test wants it to do wrong. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { afterAll } from 'vitest';

export interface CacheFolderServer {
  /** `http://127.0.0.1:PORT`. */
  readonly base: string;
  readonly log: {
    readonly method: string;
    readonly url: string;
    readonly status: number;
    readonly headers: IncomingHttpHeaders;
  }[];
  /** Answers instead of the server where it returns true. */
  fault: ((request: IncomingMessage, response: ServerResponse, body: Buffer) => boolean) | undefined;
  /** Whether Range is heeded. */
  ranges: boolean;
  close(): Promise<void>;
}

/** Closed at the end of the test file, too. */
export async function serveFolder(folder: string): Promise<CacheFolderServer> {
  const log: CacheFolderServer['log'] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => answer(request, response, Buffer.concat(chunks)));
  });
  const answer = (request: IncomingMessage, response: ServerResponse, sent: Buffer): void => {
    const { method = '', url = '', headers } = request;
    response.on('close', () => log.push({ method, url, status: response.statusCode, headers }));
    const file = join(folder, decodeURIComponent(new URL(url, 'http://x').pathname));
    const body = existsSync(file) ? readFileSync(file) : undefined;
    if (state.fault?.(request, response, body ?? Buffer.alloc(0))) return;
    if (method === 'PUT') {
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, sent);
      response.writeHead(201).end();
    } else if (!body) response.writeHead(404).end('nothing');
    else {
      const start = state.ranges ? /^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] : undefined;
      const part = body.subarray(Number(start ?? 0));
      response.writeHead(start === undefined ? 200 : 206, {
        'content-length': part.length,
        ...(start === undefined
          ? {}
          : { 'content-range': `bytes ${start}-${body.length - 1}/${body.length}` }),
      });
      response.end(method === 'HEAD' ? undefined : part);
    }
  };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = (): Promise<void> => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(() => resolve()));
  };
  afterAll(close);
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const state: CacheFolderServer = { base, log, fault: undefined, ranges: true, close };
  return state;
}
