/** `flk cache serve`: the store, or a folder that is a cache already, for others to take from and, with a token, to put into. */
import { readFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { readLog } from '../../build/build-log.ts';
import { HostBuilds } from '../../build/host-built.ts';
import { fingerprint, type NarInfo } from '../../formats/narinfo.ts';
import { parsePublicKey, printPublicKey, publicKeyOf, signText } from '../../formats/signature.ts';
import { parseStorePath, storeDir } from '../../formats/store-path.ts';
import { type CacheOffers, canPack, folderOffers, storeOffers } from '../../store/cache-offers.ts';
import { CacheServer } from '../../store/cache-server.ts';
import { CacheUploads } from '../../store/cache-uploads.ts';
import { packings } from '../../store/caches/cache.ts';
import { Leases } from '../../store/leases.ts';
import { openStore } from '../../store/store.ts';
import type { Context } from '../context.ts';
import { readSecretKey } from '../keys.ts';

/** After the first Ctrl-C, the time for transfers that run; the program ends by itself a second later. */
const graceMs = 4000;
/** Shorter ones could be guessed by who asks often. */
const shortestToken = 16;
const maxTokenFile = 64 * 1024;

/** Runs until it is interrupted, which is its good end. */
export async function runCacheServe(context: Context): Promise<number> {
  const { flags, signal, reporter } = context;
  const address = listenAddress(flags.listen);
  const key = flags.key === undefined ? undefined : await readSecretKey(context, flags.key);
  const sign =
    key &&
    ((info: Pick<NarInfo, 'path' | 'narHash' | 'narSize' | 'references'>) =>
      signText(fingerprint(info), key));
  const token = flags['token-file'] === undefined ? undefined : await readToken(context, flags['token-file']);
  const shared = { ...priorityOf(flags.priority), ...(sign && { sign }) };
  const leases = new Leases(() => openStore(context.folders.store));
  const uploads = token === undefined ? undefined : openUploads(context, leases, token);
  try {
    const offers =
      flags.folder === undefined ? openStoreOffers(context, leases, shared) : openFolder(context, shared);
    // What cannot be read is told now, not to the first client.
    await offers.check();
    const server = await CacheServer.listen(offers, { ...address, reporter, ...(uploads && { uploads }) });
    try {
      const publicKey = key && printPublicKey(publicKeyOf(key));
      const { url } = server;
      const source = flags.folder === undefined ? context.folders.store : resolve(context.cwd, flags.folder);
      context.answer(
        { url, source, ...(publicKey !== undefined && { publicKey }), takesUploads: token !== undefined },
        () => (publicKey === undefined ? url : `${url}\n${publicKey}`),
      );
      await interrupted(signal);
    } finally {
      await server.stop(graceMs);
    }
  } finally {
    await uploads?.taker.close();
    leases.close();
  }
  return 0;
}

function openStoreOffers(
  context: Context,
  leases: Leases,
  shared: Parameters<typeof folderOffers>[1],
): CacheOffers {
  const { compression: asked = 'none', 'allow-host': allowHost } = context.flags;
  const compression = packings.find((name) => name === asked);
  if (compression === undefined)
    throw new FlkError('FLK_USAGE', `there is no compression ${asked}`, {
      facts: { wanted: packings.join(', ') },
    });
  if (!canPack(compression))
    throw new FlkError('FLK_USAGE', `this Node, ${process.version}, cannot pack with ${compression}`, {
      hint: '--compression xz, or Node from 22.15 on',
    });
  const hostBuilds = new HostBuilds();
  return storeOffers(leases, {
    ...shared,
    compression,
    ...(allowHost ? {} : { assertShared: (store, info) => hostBuilds.assertNone(store, info) }),
    readLog: (name) => readLog(context.folders.store, parseStorePath(`${storeDir}/${name}`)),
  });
}

function openFolder(context: Context, shared: Parameters<typeof folderOffers>[1]): CacheOffers {
  const { flags, cwd } = context;
  for (const name of ['token-file', 'compression'] as const)
    if (flags[name] !== undefined)
      throw new FlkError('FLK_USAGE', `--${name} does not go with --folder, which is served as it is`, {
        hint: 'leave --folder out to serve the store; flk cache push fills a folder',
      });
  return folderOffers(resolve(cwd, flags.folder!), shared);
}

function openUploads(
  context: Context,
  leases: Leases,
  token: string,
): { taker: CacheUploads; token: string } {
  const trustedKeys = context.flags['trusted-public-key'].map(parsePublicKey);
  return { taker: new CacheUploads(leases, { trustedKeys }), token };
}

const interrupted = (signal: AbortSignal): Promise<void> =>
  new Promise((done) => {
    if (signal.aborted) done();
    else signal.addEventListener('abort', () => done(), { once: true });
  });

/** `HOST:PORT`, `PORT`, `[::1]:PORT`. Where nothing is said, only this machine is listened to. */
function listenAddress(text = '127.0.0.1:5000'): { host: string; port: number } {
  const [, bracketed, plain, digits] =
    /^(?:(?:\[([0-9a-f:.%]+)\]|([^\s:/[\]]*)):)?(\d{1,5})$/i.exec(text) ?? [];
  const port = Number(digits);
  if (digits === undefined || port > 65_535)
    throw new FlkError('FLK_USAGE', `--listen takes HOST:PORT, not '${text}'`, {
      hint: '--listen 127.0.0.1:5000',
    });
  return { host: bracketed ?? (plain || '127.0.0.1'), port };
}

function priorityOf(text: string | undefined): { priority?: number } {
  if (text === undefined) return {};
  if (!/^\d{1,6}$/.test(text))
    throw new FlkError('FLK_USAGE', `--priority takes a whole number, not '${text}'`);
  return { priority: Number(text) };
}

/** Throws FLK_FILE_UNREADABLE, and FLK_USAGE for what is too short to be a secret. What it says is never shown. */
async function readToken(context: Context, name: string): Promise<string> {
  const path = resolve(context.cwd, name);
  let text: string;
  try {
    const { mode, size } = await stat(path);
    if (size > maxTokenFile) throw new RangeError(`${size} bytes are more than any token has`);
    if ((mode & 0o004) !== 0)
      context.reporter.emit({ kind: 'notice', notice: { type: 'key-readable', path } });
    text = (await readFile(path, 'utf8')).trim();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : '';
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read the token in ${path}: ${reason}`, { cause });
  }
  if (text.length < shortestToken || /\s/.test(text))
    throw new FlkError(
      'FLK_USAGE',
      `${path} holds no token: one word of at least ${shortestToken} characters`,
      {
        hint: `head -c 32 /dev/urandom | base64 > ${name}`,
      },
    );
  return text;
}
