/** An HTTP server on loopback that gives out what a test puts there, and remembers what it was asked. */
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll } from 'vitest';

export interface ServedFile {
  readonly body?: Buffer | string;
  readonly status?: number;
  readonly headers?: OutgoingHttpHeaders;
  /** Does all by itself. */
  readonly answer?: (request: IncomingMessage, response: ServerResponse) => void;
}

export interface FileServer {
  /** `http://127.0.0.1:PORT`. */
  readonly base: string;
  /** By path with its query, from the slash on. */
  readonly files: Map<string, ServedFile>;
  readonly log: { readonly url: string; readonly status: number; readonly headers: IncomingHttpHeaders }[];
}

/** Closed at the end of the test file. A file with an `etag` answers 304 to whoever has it. */
export async function fileServer(): Promise<FileServer> {
  const files = new Map<string, ServedFile>();
  const log: FileServer['log'] = [];
  const server = createServer((request, response) => {
    const file = files.get(request.url ?? '') ?? { status: 404 };
    const known = file.headers?.etag !== undefined && request.headers['if-none-match'] === file.headers.etag;
    const status = known ? 304 : (file.status ?? 200);
    log.push({ url: request.url ?? '', status, headers: request.headers });
    if (file.answer) return file.answer(request, response);
    const body = Buffer.from(file.body ?? '');
    response.writeHead(status, known ? file.headers : { 'content-length': body.length, ...file.headers });
    response.end(known ? undefined : body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  return { base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, files, log };
}
