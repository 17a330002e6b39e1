/** What a binary cache gives out, by its addresses below the cache's root: of a store as it is, or of a folder that is a cache already. */
import { createHash } from 'node:crypto';
import { createReadStream, constants as fsConstants } from 'node:fs';
import { open, realpath } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { Readable, type Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { FlkError, systemCode } from '../base/errors.ts';
import { digestOf, toNixBase32 } from '../formats/hash.ts';
import { parseNarInfo, printNarInfo } from '../formats/narinfo.ts';
import { hashPart, parseStorePath, storeDir } from '../formats/store-path.ts';
import type { Leases } from './leases.ts';
import { listNar, readNar } from './nar-stream.ts';
import type { PathInfo } from './path-info.ts';
import type { Store } from './store.ts';

/** One thing under an address. */
export interface Offer {
  /** For Content-Type. */
  readonly type: string;
  /** In bytes; undefined where it is packed on the way. */
  readonly size?: number;
  /** Equal tags mean equal bytes. */
  readonly tag?: string;
  /** Its address says which bytes it has: nobody need ask again. */
  readonly immutable?: true;
  /** The bytes from `from` up to `to`; all of them where there is no size. */
  read(from: number, to: number): AsyncIterable<Buffer>;
  /** In place of `read`, where something is open already. */
  readonly discard?: () => void;
}

export interface CacheOffers {
  /** What there is at an address: `nix-cache-info`, `HASH.narinfo`, `HASH.ls`, `nar/…`, `log/…`. Undefined: nothing. */
  find(address: string): Promise<Offer | undefined>;
  /** Throws when nothing could be given out: the store or the folder cannot be read. */
  check(): Promise<void>;
}

/** Nix asks its own cache, with 40, after this one. */
const defaultPriority = 30;

/** How archives are packed on their way out. */
export type ServedCompression = 'none' | 'xz' | 'zstd';

export interface OfferOptions {
  /** Lower is asked first. Nix's own cache says 40. Undefined: what a folder says, or 30. */
  readonly priority?: number;
  /** Gives a signature for what a narinfo says. */
  readonly sign?: (info: Pick<PathInfo, 'path' | 'narHash' | 'narSize' | 'references'>) => string;
}

export interface StoreOfferOptions extends OfferOptions {
  /** Default none. */
  readonly compression?: ServedCompression;
  /** Throws FLK_CACHE_HOST_TOOLCHAIN, or the like, for a valid path that is not for others: it is as if it were not there. */
  readonly assertShared?: (store: Store, info: PathInfo) => Promise<void>;
  /** The log of a derivation's build, by `HASH-NAME.drv`. */
  readonly readLog?: (name: string) => Promise<Readable | undefined>;
}

const types = {
  info: 'text/x-nix-cache-info',
  narinfo: 'text/x-nix-narinfo',
  nar: 'application/x-nix-nar',
  json: 'application/json',
  text: 'text/plain; charset=utf-8',
} as const;

const hash32 = '[0-9abcdfghijklmnpqrsvwxyz]{32}';
const hash52 = '[0-9abcdfghijklmnpqrsvwxyz]{52}';

/** What the end of an archive's name says of it. */
const suffixes: Readonly<Record<ServedCompression, string>> = { none: '', xz: '.xz', zstd: '.zst' };

/** Node has had it since 22.15; the types are those of the oldest Node that flk runs on. */
const nativeZstd = Reflect.get(zlib, 'createZstdCompress') as (() => Transform) | undefined;

/** Whether this Node can pack so. */
export const canPack = (compression: ServedCompression): boolean =>
  compression !== 'zstd' || nativeZstd !== undefined;

/**
 * Every valid path of a store, as it is at the moment of asking. Archives are written while they are sent: `none` has its size and can
 * be taken in parts; what is packed on the way has neither, and its narinfo no FileHash, which Nix and flk do not miss.
 */
export function storeOffers(leases: Leases, options: StoreOfferOptions = {}): CacheOffers {
  const compression = options.compression ?? 'none';
  const cacheInfo = text(types.info, printCacheInfo(options.priority ?? defaultPriority));
  const narinfo = (info: PathInfo): Offer =>
    text(types.narinfo, narInfoText(info, compression, options.sign));
  const withPath = (
    part: string,
    make: (info: PathInfo, store: Store) => Offer | Promise<Offer> | undefined,
  ) =>
    leases.use(async (store) => {
      const info = store.find(part);
      if (info) await options.assertShared?.(store, info);
      return info && make(info, store);
    });
  const patterns: readonly Pattern[] = [
    ['nix-cache-info', async () => cacheInfo],
    [`(${hash32})\\.narinfo`, (part) => withPath(part!, narinfo)],
    [
      `(${hash32})\\.ls`,
      (part) =>
        withPath(part!, async ({ path }, store) =>
          text(types.json, JSON.stringify({ version: 1, root: await listNar(store.physical(path)) })),
        ),
    ],
    [
      `nar/(${hash32})-(${hash52})\\.nar(\\.xz|\\.zst|)`,
      (part, narHash, suffix) =>
        withPath(part!, (info) => {
          const packed = compressions.find((name) => suffixes[name] === suffix)!;
          return toNixBase32(digestOf(info.narHash)) === narHash ? narOffer(leases, info, packed) : undefined;
        }),
    ],
    [
      `log/(${hash32}-[0-9a-zA-Z+\\-._?=]{1,211})`,
      async (name) => {
        const log = await options.readLog?.(name!);
        return log && { type: types.text, read: () => log, discard: () => log.destroy() };
      },
    ],
  ];
  return {
    find: (address) => firstMatch(patterns, address),
    check: () =>
      leases.use(async (store) => {
        store.memo('health');
        await realpath(join(store.root, storeDir));
      }),
  };
}

function narInfoText(info: PathInfo, compression: ServedCompression, sign: OfferOptions['sign']): string {
  const { path, narHash, narSize, references, deriver, signatures, ca } = info;
  const own = sign ? [sign(info)] : [];
  return printNarInfo({
    path,
    url: `nar/${hashPart(path)}-${toNixBase32(digestOf(narHash))}.nar${suffixes[compression]}`,
    compression,
    ...(compression === 'none' ? { fileHash: narHash, fileSize: narSize } : {}),
    narHash,
    narSize,
    references,
    signatures: [...new Set([...signatures, ...own])],
    ...(deriver === undefined ? {} : { deriver }),
    ...(ca === undefined ? {} : { ca }),
  });
}

/** The archive of a valid path; undefined where this Node cannot pack it so. */
export function narOffer(leases: Leases, info: PathInfo, packed: ServedCompression): Offer | undefined {
  if (!canPack(packed)) return undefined;
  const { path, narHash, narSize } = info;
  const read = (from: number, to: number): AsyncGenerator<Buffer> => heldNar(leases, info, from, to);
  if (packed !== 'none')
    return { type: types.nar, immutable: true, read: () => pack(read(0, narSize), packed) };
  return { type: types.nar, size: narSize, tag: `${hashPart(path)}-${narHash}`, immutable: true, read };
}

const compressions = ['none', 'xz', 'zstd'] as const satisfies readonly ServedCompression[];

/** Between the first byte and the last no sweep takes the path away. */
async function* heldNar(leases: Leases, info: PathInfo, from: number, to: number): AsyncGenerator<Buffer> {
  const { store, release } = await leases.take();
  try {
    store.hold([info.path]);
    if (store.query(info.path)?.narHash !== info.narHash)
      throw new FlkError('FLK_STORE_CORRUPT', `${info.path} is not valid any more`);
    // To the very end where the end is asked for, so that a path that grew shows; the last piece waits until it is known to be right.
    const end = to === info.narSize ? Number.POSITIVE_INFINITY : to;
    let size = from;
    let last: Buffer | undefined;
    for await (const chunk of readNar(store.physical(info.path), from, end)) {
      size += chunk.length;
      if (size > to) break;
      if (last) yield last;
      last = chunk;
    }
    if (size !== to)
      throw new FlkError('FLK_STORE_CORRUPT', `${info.path} does not have the size that its record promises`);
    if (last) yield last;
  } finally {
    release();
  }
}

async function* pack(source: AsyncIterable<Buffer>, compression: 'xz' | 'zstd'): AsyncGenerator<Buffer> {
  const packer = compression === 'zstd' ? nativeZstd!() : await xzPacker();
  const packed = Readable.from(source).on('error', (error) => packer.destroy(error));
  packed.pipe(packer);
  try {
    for await (const chunk of packer) yield chunk as Buffer;
  } finally {
    packed.destroy();
    packer.destroy();
  }
}

/** The quickest preset: somebody waits. */
async function xzPacker(): Promise<Transform> {
  const { createStream } = await import('lzma-native');
  return createStream('easyEncoder', { preset: 0 });
}

/**
 * A folder that is a binary cache, with what belongs to one in it; nothing else there is given out, and nothing that a symlink leads
 * out of it to.
 */
export function folderOffers(folder: string, options: OfferOptions = {}): CacheOffers {
  const patterns: readonly Pattern[] = [
    [
      'nix-cache-info',
      async () => {
        const bytes = await small(folder, 'nix-cache-info');
        if (!bytes) return text(types.info, printCacheInfo(options.priority ?? defaultPriority));
        if (options.priority === undefined) return text(types.info, bytes);
        const others = bytes
          .toString()
          .split('\n')
          .filter((line) => line !== '' && !line.startsWith('Priority:'));
        return text(types.info, `${[...others, `Priority: ${options.priority}`].join('\n')}\n`);
      },
    ],
    [
      `(${hash32}\\.narinfo)`,
      async (name) => {
        const bytes = await small(folder, name!);
        return bytes && text(types.narinfo, signed(bytes, options.sign));
      },
    ],
    [`(${hash32}\\.ls)`, (name) => file(folder, name!, types.json)],
    [`(nar/[0-9a-zA-Z][0-9a-zA-Z+\\-._=]{0,254})`, (name) => file(folder, name!, types.nar)],
    [`(log/${hash32}-[0-9a-zA-Z+\\-._?=]{1,211})`, (name) => file(folder, name!, types.text)],
    [`(realisations/[0-9a-zA-Z][0-9a-zA-Z+\\-._!:^=]{0,254})`, (name) => file(folder, name!, types.json)],
  ];
  return {
    find: (address) => firstMatch(patterns, address),
    check: async () => {
      await realpath(folder).catch((cause: Error) => {
        throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${folder}: ${cause.message}`, { cause });
      });
    },
  };
}

/** With a line more. What is no narinfo goes out as it is: whoever asked will say what is wrong with it. */
function signed(narinfo: Buffer, sign: OfferOptions['sign']): string | Buffer {
  const contents = narinfo.toString();
  const named = /^StorePath: (.*)$/m.exec(contents)?.[1] ?? '';
  if (!sign) return narinfo;
  try {
    const signature = sign(parseNarInfo(contents, parseStorePath(named)));
    return contents.includes(signature) ? contents : `${contents}Sig: ${signature}\n`;
  } catch (error) {
    if (error instanceof FlkError) return narinfo;
    throw error;
  }
}

/** What a narinfo or the like may have at most, in bytes. */
const maxSmall = 4 * 1024 * 1024;

async function small(folder: string, name: string): Promise<Buffer | undefined> {
  const offer = await file(folder, name, '');
  if (!offer) return undefined;
  if (offer.size! > maxSmall)
    throw new FlkError(
      'FLK_LIMIT',
      `${join(folder, name)} has ${offer.size} bytes; at most ${maxSmall} are read`,
    );
  const chunks: Buffer[] = [];
  for await (const chunk of offer.read(0, offer.size!)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function file(folder: string, name: string, type: string): Promise<Offer | undefined> {
  const place = join(folder, name);
  try {
    const [real, root] = await Promise.all([realpath(place), realpath(folder)]);
    if (!real.startsWith(root.endsWith(sep) ? root : root + sep)) return undefined;
    const handle = await open(place, fsConstants.O_RDONLY | fsConstants.O_NONBLOCK);
    try {
      const info = await handle.stat();
      if (!info.isFile()) return undefined;
      return {
        type,
        size: info.size,
        // A cache's files are renamed to their places: the same one, of the same time, has the same bytes.
        tag: `${info.ino.toString(36)}-${info.mtimeMs.toString(36)}-${info.size.toString(36)}`,
        ...(name.startsWith('nar/') ? { immutable: true } : {}),
        read: (from, to) =>
          to > from
            ? createReadStream(real, { start: from, end: to - 1, highWaterMark: 256 * 1024 })
            : Readable.from([]),
      };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(systemCode(error) ?? '')) return undefined;
    throw new FlkError('FLK_FILE_UNREADABLE', `cannot read ${place}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** An address as a regular expression, and what is there for its groups. */
type Pattern = readonly [string, (...groups: (string | undefined)[]) => Promise<Offer | undefined>];

async function firstMatch(patterns: readonly Pattern[], address: string): Promise<Offer | undefined> {
  for (const [pattern, offer] of patterns) {
    const groups = new RegExp(`^(?:${pattern})$`).exec(address);
    if (groups) return await offer(...groups.slice(1));
  }
  return undefined;
}

function text(type: string, contents: string | Buffer): Offer {
  const bytes = Buffer.from(contents as string);
  return {
    type,
    size: bytes.length,
    tag: createHash('sha256').update(bytes).digest('hex').slice(0, 32),
    read: (from, to) => Readable.from([bytes.subarray(from, to)]),
  };
}

const printCacheInfo = (priority: number): string =>
  `StoreDir: ${storeDir}\nWantMassQuery: 1\nPriority: ${priority}\n`;
