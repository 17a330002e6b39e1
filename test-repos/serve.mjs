/**
 * A real Git server on loopback: smart HTTP by `git http-backend` behind node:http, for tests, benchmarks and the demo. It can
 * be slow, break off, redirect or refuse on demand, and it remembers what it was asked.
 */
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';

/**
 * @typedef {object} LoggedRequest
 * @property {string} method
 * @property {string} path With the query.
 * @property {string} command `ls-refs`, `fetch` (protocol v2), `receive`, or '' for anything else.
 * @property {Record<string, string>} headers Those that tests look at: authorization, git-protocol, user-agent, cookie.
 * @property {Buffer} body As sent, decompressed.
 */

/**
 * What a server does to one request instead of, or on top of, answering it.
 * @typedef {object} Interference
 * @property {number} [status] Answers with this status and no content.
 * @property {Record<string, string>} [headers] Go with `status`, or over the real answer's headers.
 * @property {string} [redirect] Answers 302 with this location.
 * @property {number} [truncateAfter] Breaks the connection after so many bytes of the real answer's body.
 * @property {boolean} [hang] Never answers.
 * @property {number} [stallAfter] Stops sending after so many bytes, the connection stays open.
 * @property {(body: Buffer) => Buffer} [rewrite] Changes the real answer's body.
 */

/**
 * @typedef {object} GitServer
 * @property {string} base `http://127.0.0.1:PORT`; repositories lie at `BASE/NAME`.
 * @property {number} port
 * @property {LoggedRequest[]} log
 * @property {((request: LoggedRequest) => Interference | undefined) | undefined} interfere Asked for each request.
 * @property {number} delayMs Added to each request.
 * @property {boolean} filters Whether a client may ask for a part of the objects, as all large forges let it.
 * @property {number} inFlight How many requests are being answered now.
 * @property {number} maxInFlight The most there ever were at once.
 * @property {() => Promise<void>} close
 */

/** @type {NodeJS.ProcessEnv} */
const settings = {
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_CONFIG_COUNT: '3',
  GIT_CONFIG_KEY_0: 'uploadpack.allowAnySHA1InWant',
  GIT_CONFIG_VALUE_0: 'true',
  GIT_CONFIG_KEY_1: 'safe.directory',
  GIT_CONFIG_VALUE_1: '*',
  GIT_CONFIG_KEY_2: 'uploadpack.allowFilter',
};

/**
 * Serves every repository in `folder`.
 * @param {string} folder
 * @param {{ delayMs?: number, port?: number }} [options]
 * @returns {Promise<GitServer>}
 */
export async function serve(folder, options = {}) {
  /** @type {GitServer} */
  const state = {
    base: '',
    port: 0,
    log: [],
    interfere: undefined,
    delayMs: options.delayMs ?? 0,
    filters: true,
    inFlight: 0,
    maxInFlight: 0,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  const server = createServer((request, response) => {
    state.maxInFlight = Math.max(state.maxInFlight, ++state.inFlight);
    response.on('close', () => state.inFlight--);
    answer(folder, state, request, response).catch((error) => response.destroy(error));
  });
  await new Promise((resolve) => server.listen(options.port ?? 0, '127.0.0.1', () => resolve(undefined)));
  const address = server.address();
  state.port = typeof address === 'object' && address ? address.port : 0;
  state.base = `http://127.0.0.1:${state.port}`;
  return state;
}

/**
 * @param {string} folder
 * @param {GitServer} state
 * @param {import('node:http').IncomingMessage} request
 * @param {import('node:http').ServerResponse} response
 */
async function answer(folder, state, request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const sent = Buffer.concat(chunks);
  const body = request.headers['content-encoding'] === 'gzip' ? gunzipSync(sent) : sent;
  const url = new URL(request.url ?? '/', state.base);
  const logged = {
    method: request.method ?? 'GET',
    path: `${url.pathname}${url.search}`,
    command: /^....command=([a-z-]+)/.exec(body.subarray(0, 64).toString('latin1'))?.[1] ?? '',
    headers: /** @type {Record<string, string>} */ (
      Object.fromEntries(
        ['authorization', 'git-protocol', 'user-agent', 'cookie', 'host']
          .filter((name) => typeof request.headers[name] === 'string')
          .map((name) => [name, request.headers[name]]),
      )
    ),
    body,
  };
  state.log.push(logged);
  const interference = state.interfere?.(logged) ?? {};
  if (state.delayMs > 0) await sleep(state.delayMs);
  if (interference.hang) return;
  if (interference.redirect !== undefined) {
    response.writeHead(302, { ...interference.headers, location: interference.redirect }).end();
    return;
  }
  if (interference.status !== undefined) {
    response.writeHead(interference.status, interference.headers).end();
    return;
  }
  await backend(folder, url, logged, state.filters, request, response, interference);
}

/**
 * One run of `git http-backend`, which speaks CGI.
 * @param {string} folder
 * @param {URL} url
 * @param {LoggedRequest} logged
 * @param {boolean} filters
 * @param {import('node:http').IncomingMessage} request
 * @param {import('node:http').ServerResponse} response
 * @param {Interference} interference
 */
async function backend(folder, url, logged, filters, request, response, interference) {
  const child = spawn('git', ['http-backend'], {
    env: {
      PATH: process.env.PATH,
      ...settings,
      GIT_CONFIG_VALUE_2: String(filters),
      GIT_PROJECT_ROOT: folder,
      GIT_HTTP_EXPORT_ALL: '1',
      REQUEST_METHOD: logged.method,
      PATH_INFO: decodeURIComponent(url.pathname),
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: request.headers['content-type'] ?? '',
      CONTENT_LENGTH: String(logged.body.length),
      REMOTE_ADDR: '127.0.0.1',
      GIT_PROTOCOL: logged.headers['git-protocol'] ?? '',
    },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const failed = new Promise((_, reject) => child.on('error', reject));
  failed.catch(() => {});
  response.on('close', () => child.kill());
  child.stdin.on('error', () => {});
  child.stdin.end(logged.body);

  const output = child.stdout[Symbol.asyncIterator]();
  let head = Buffer.alloc(0);
  let end = -1;
  while (end < 0) {
    const next = await Promise.race([output.next(), failed]);
    if (next.done) break;
    head = Buffer.concat([head, next.value]);
    end = head.indexOf('\r\n\r\n');
  }
  if (end < 0) {
    response.writeHead(502).end();
    return;
  }
  /** @type {Record<string, string>} */
  const headers = {};
  let status = 200;
  for (const line of head.subarray(0, end).toString('latin1').split('\r\n')) {
    const [, name = '', value = ''] = /^([^:]+): *(.*)$/.exec(line) ?? [];
    if (name.toLowerCase() === 'status') status = Number.parseInt(value, 10);
    else headers[name] = value;
  }
  const { rewrite, truncateAfter = Infinity, stallAfter = Infinity } = interference;
  const limit = Math.min(truncateAfter, stallAfter);
  response.writeHead(status, { ...headers, ...interference.headers });

  let sent = 0;
  /** @param {Buffer} chunk @returns {Promise<boolean>} whether to go on */
  const send = async (chunk) => {
    const part = chunk.subarray(0, Math.max(0, limit - sent));
    sent += part.length;
    if (!response.write(part) && !response.destroyed)
      await new Promise((resolve) => {
        const go = () => {
          response.off('drain', go).off('close', go);
          resolve(undefined);
        };
        response.on('drain', go).on('close', go);
      });
    return part.length === chunk.length && !response.destroyed;
  };
  /** @type {Buffer[]} */
  const held = [];
  let going = true;
  for (let chunk = head.subarray(end + 4); going; ) {
    if (rewrite) held.push(chunk);
    else going = await send(chunk);
    const next = await output.next();
    if (next.done) break;
    chunk = next.value;
  }
  if (rewrite) going = await send(rewrite(Buffer.concat(held)));
  if (going) response.end();
  // What was written still leaves; then the connection breaks.
  else if (sent >= truncateAfter) response.socket?.destroySoon();
}
