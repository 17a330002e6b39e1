/** A binary cache on loopback that may do all that a broken or malicious one can do; what is not said otherwise is honest. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { onTestFinished } from 'vitest';
import { narHashOf, sha256, toNixBase32 } from '../../src/formats/hash.ts';
import { NarWriter } from '../../src/formats/nar.ts';
import { fingerprint, type NarInfo, printNarInfo } from '../../src/formats/narinfo.ts';
import { type SecretKey, signText } from '../../src/formats/signature.ts';
import { hashPart, makeOutputPath, type StorePath } from '../../src/formats/store-path.ts';
import { type Node, treeFrom } from './trees.ts';

/** Answers in the place of an honest server that would give `bytes`. */
export type Trick = (request: IncomingMessage, response: ServerResponse, bytes: Buffer) => void;

interface Offered {
  readonly path: StorePath;
  readonly info: NarInfo;
}

export interface OfferTricks {
  /** Signs what the narinfo says, after `info`. */
  readonly key?: SecretKey;
  readonly info?: Partial<NarInfo>;
  /** On the narinfo's text, after signing. */
  readonly text?: (text: string) => string;
  /** The archive as it lies in the cache. */
  readonly pack?: (nar: Buffer) => Buffer;
  /** The NAR itself, in the place of the tree's; hashes are its own. */
  readonly nar?: Buffer;
  readonly serveNar?: Trick;
  readonly serveNarInfo?: Trick;
}

export interface HostileCache {
  readonly url: string;
  /** `METHOD /address RANGE`, in the order they came. */
  readonly requests: string[];
  /** At any address. */
  readonly tricks: Map<string, Trick>;
  /** Offers a path that its content does not prove, as that of a build. */
  offer(name: string, node: Node, tricks?: OfferTricks): Promise<Offered>;
}

/** Honest to the byte; knows ranges. */
const honest: Trick = (request, response, bytes) => {
  const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
  if (from === undefined) response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  else
    response
      .writeHead(206, {
        'content-length': bytes.length - Number(from),
        'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
      })
      .end(bytes.subarray(Number(from)));
};

export const tricks = {
  status:
    (status: number, headers: Record<string, string> = {}): Trick =>
    (_request, response) =>
      void response.writeHead(status, headers).end('no'),
  redirect: (to: string): Trick => tricks.status(302, { location: to }),
  /** Takes the request and says nothing. */
  silent: (() => {}) as Trick,
  stallsAfterHead: ((_request, response, bytes) => {
    response.writeHead(200, { 'content-length': bytes.length }).flushHeaders();
  }) as Trick,
  stallsInside: ((_request, response, bytes) => {
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, bytes.length >> 1));
  }) as Trick,
  /** Sends the same piece for ever. */
  endless:
    (piece: Buffer): Trick =>
    (_request, response) => {
      response.writeHead(200);
      const more = (): void => {
        while (!response.destroyed && response.write(piece));
      };
      response.on('drain', more);
      more();
    },
  /** Says another length than what it sends. */
  lengthLie:
    (difference: number): Trick =>
    (_request, response, bytes) => {
      const socket = response.socket as Socket;
      socket.end(
        Buffer.concat([
          Buffer.from(
            `HTTP/1.1 200 OK\r\ncontent-length: ${bytes.length + difference}\r\nconnection: close\r\n\r\n`,
          ),
          bytes,
        ]),
      );
    },
  /** Cuts the connection so many bytes after where the answer begins, so many times; then `after` answers. */
  drops: (size: number, times: number, after: Trick = honest): Trick => {
    let left = times;
    return (request, response, bytes) => {
      if (left-- <= 0) return after(request, response, bytes);
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, {
        'content-length': bytes.length - from,
        ...(from > 0 && { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }),
      });
      response.write(bytes.subarray(from, from + size), () => response.destroy());
    };
  },
  /** Has never heard of ranges. */
  ignoresRange: ((_request, response, bytes) => {
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  }) as Trick,
  /** Gives another part than it was asked for, and says so. */
  otherRange: ((_request, response, bytes) => {
    response
      .writeHead(206, {
        'content-length': bytes.length - 1,
        'content-range': `bytes 1-${bytes.length - 1}/${bytes.length}`,
      })
      .end(bytes.subarray(1));
  }) as Trick,
  /** Gives another part than it says. */
  lyingRange: ((request, response, bytes) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response
      .writeHead(206, {
        'content-length': bytes.length - from,
        'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
      })
      .end(bytes.subarray(0, bytes.length - from));
  }) as Trick,
};

/** Closed at the end of the test. */
export async function hostileCache(): Promise<HostileCache> {
  const files = new Map<string, Buffer>([
    ['/nix-cache-info', Buffer.from('StoreDir: /nix/store\nPriority: 10\n')],
  ]);
  const special = new Map<string, Trick>();
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const { method, url = '', headers } = request;
    requests.push(`${method} ${url}${headers.range === undefined ? '' : ` ${headers.range}`}`);
    response.on('error', () => {});
    const bytes = files.get(url);
    const trick = special.get(url) ?? (bytes ? honest : tricks.status(404));
    trick(request, response, bytes ?? Buffer.alloc(0));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const offer: HostileCache['offer'] = async (name, node, given = {}) => {
    const nar = given.nar ?? (await narOf(node));
    const packed = given.pack?.(nar) ?? nar;
    const path = makeOutputPath('out', sha256(name), name);
    const plain: NarInfo = {
      path,
      url: `nar/${toNixBase32(sha256(packed))}-${name}.nar`,
      compression: 'none',
      fileHash: narHashOf(sha256(packed)),
      fileSize: packed.length,
      narHash: narHashOf(sha256(nar)),
      narSize: nar.length,
      references: [],
      signatures: [],
      ...given.info,
    };
    const info = given.key ? { ...plain, signatures: [signText(fingerprint(plain), given.key)] } : plain;
    const text = printNarInfo(info);
    const note = `/${hashPart(path)}.narinfo`;
    files.set(note, Buffer.from(given.text?.(text) ?? text));
    files.set(`/${info.url}`, packed);
    if (given.serveNar) special.set(`/${info.url}`, given.serveNar);
    if (given.serveNarInfo) special.set(note, given.serveNarInfo);
    return { path, info };
  };
  return { url, requests, tricks: special, offer };
}

export async function narOf(node: Node): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const writer = new NarWriter((chunk) => chunks.push(Buffer.from(chunk)));
  await treeFrom(node).walk(writer);
  writer.end();
  return Buffer.concat(chunks);
}

/** A NAR by its strings, one after the other, whatever they are: for those that no writer would write. */
export function rawNar(...words: (string | Buffer)[]): Buffer {
  return Buffer.concat(
    words.map((word) => {
      const bytes = Buffer.from(word as string);
      const padded = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8);
      padded.writeUInt32LE(bytes.length);
      bytes.copy(padded, 8);
      return padded;
    }),
  );
}
