/**
 * Git's protocol version 2, the client's side, over anything that carries one request and its answer.
 * Source: gitprotocol-v2(5). Two commands are enough: `ls-refs`, and `fetch` of one revision, at depth 1 or its history.
 */
import { FlkError } from '../base/errors.ts';
import { CommitCounter } from '../formats/pack-commits.ts';
import {
  delimiterPacket,
  flushPacket,
  type Packet,
  PacketReader,
  payloadText,
  textPacket,
} from '../formats/pkt-line.ts';

/** Carries requests to one repository. */
export interface GitTransport {
  /** For messages, without secrets. */
  readonly url: string;
  /** Sends one request; hands over the answer as it comes, and resolves at its end. Chunks may be reused after the call. */
  request(body: Buffer, take: (chunk: Buffer) => void): Promise<void>;
}

export interface RemoteRef {
  /** `HEAD`, `refs/heads/main`. */
  readonly name: string;
  /** Forty hex digits. */
  readonly id: string;
  /** For an annotated tag: what it stands for in the end. */
  readonly peeled?: string;
  /** For a symbolic ref, such as HEAD: the ref it points to. */
  readonly target?: string;
}

export interface RefQuery {
  /** Only refs whose names begin with one of these. */
  readonly prefixes: readonly string[];
}

/** One repository, however it is reached. */
export interface GitRemote {
  /** The refs asked for; those that do not exist are just not there. */
  lsRefs(query: RefQuery): Promise<RemoteRef[]>;
  /** The pack of one revision at depth 1. Pieces are only good during the call. FLK_GIT_REV_GONE where it is not there. */
  fetchPack(rev: string, onPack: (piece: Buffer) => void): Promise<void>;
  /** How many commits the revision's history has, itself included. FLK_GIT_SHALLOW where the repository does not hold it all. */
  countCommits(rev: string): Promise<number>;
}

/** Both commands over one transport. */
export function overTransport(transport: GitTransport): GitRemote {
  return {
    lsRefs: (query) => lsRefs(transport, query),
    fetchPack: (rev, onPack) => fetchPack(transport, rev, onPack),
    countCommits: (rev) => countCommits(transport, rev),
  };
}

/** Above this a listing of refs is no listing: some 600,000 refs. */
const maxListing = 64 * 2 ** 20;
/** What a server may say besides the pack. */
const maxChatter = 16 * 2 ** 20;

const opening = (command: string): Buffer[] => [
  textPacket(`command=${command}`),
  textPacket('agent=flk'),
  textPacket('object-format=sha1'),
  delimiterPacket,
];

/** The refs asked for, symbolic refs and annotated tags resolved; those that do not exist are just not there. */
async function lsRefs(transport: GitTransport, query: RefQuery): Promise<RemoteRef[]> {
  const body = Buffer.concat([
    ...opening('ls-refs'),
    textPacket('peel'),
    textPacket('symrefs'),
    ...query.prefixes.map((prefix) => textPacket(`ref-prefix ${prefix}`)),
    flushPacket,
  ]);
  const refs: RemoteRef[] = [];
  let size = 0;
  await exchange(transport, body, (packet) => {
    if (packet.kind !== 'data') throw unexpected(transport, `a ${packet.kind} packet among refs`);
    size += packet.payload.length;
    if (size > maxListing)
      throw new FlkError('FLK_LIMIT', `${transport.url} lists more than ${maxListing} bytes of refs`);
    refs.push(parseRef(transport, payloadText(packet.payload)));
  });
  // A prefix is a hint: a server may send more than was asked for.
  return refs.filter((ref) => query.prefixes.some((prefix) => ref.name.startsWith(prefix)));
}

function parseRef(transport: GitTransport, line: string): RemoteRef {
  const [id = '', name = '', ...attributes] = line.split(' ');
  if (/^[0-9a-f]{64}$/.test(id)) throw sha256Repository(transport.url);
  const facts = new Map(
    attributes.map((attribute): [string, string] => {
      const colon = attribute.indexOf(':');
      return [attribute.slice(0, colon), attribute.slice(colon + 1)];
    }),
  );
  const peeled = facts.get('peeled');
  const target = facts.get('symref-target');
  if (!isObjectName(id) || name === '' || (peeled !== undefined && !isObjectName(peeled)))
    throw unexpected(transport, `the ref ${JSON.stringify(line.slice(0, 200))}`);
  return {
    name,
    id,
    ...(peeled === undefined ? {} : { peeled }),
    ...(target === undefined ? {} : { target }),
  };
}

const isObjectName = (text: string): boolean => /^[0-9a-f]{40}$/.test(text);

/** The code is the same wherever it turns out. */
export function sha256Repository(url: string): FlkError {
  return new FlkError('FLK_REF_UNSUPPORTED', `${url} names its objects by SHA-256, which flk does not read`);
}

/**
 * The pack of one revision and all that its tree needs, without history. `onPack` gets it piece by piece, each only good during
 * the call. A revision that the server does not have is FLK_GIT_REV_GONE.
 */
export function fetchPack(
  transport: GitTransport,
  rev: string,
  onPack: (piece: Buffer) => void,
): Promise<void> {
  return fetch(transport, rev, { arguments: ['deepen 1'], onPack });
}

/**
 * Counts the commits in the pack of a whole history. Commits alone are asked for; where a server does not filter, everything
 * comes and is read past: that is what a clone would cost.
 */
async function countCommits(transport: GitTransport, rev: string): Promise<number> {
  const count = async (...args: string[]): Promise<number> => {
    const counter = new CommitCounter();
    await fetch(transport, rev, {
      arguments: args,
      onPack: (piece) => counter.push(piece),
      onBoundary: () => {
        throw shallowRepository(transport.url);
      },
    });
    return counter.end();
  };
  try {
    return await count('filter tree:0');
  } catch (error) {
    // A server that does not know the word says so, or just breaks off.
    const refused =
      error instanceof FlkError && (error.code === 'FLK_GIT_PROTOCOL' || error.code === 'FLK_GIT_REMOTE');
    if (!refused) throw error;
    return await count();
  }
}

interface FetchRequest {
  readonly arguments: readonly string[];
  readonly onPack: (piece: Buffer) => void;
  /** Told of each commit that the server has without its parents. */
  readonly onBoundary?: () => void;
}

async function fetch(transport: GitTransport, rev: string, request: FetchRequest): Promise<void> {
  const { onPack, onBoundary } = request;
  const body = Buffer.concat([
    ...opening('fetch'),
    textPacket('no-progress'),
    textPacket('ofs-delta'),
    ...request.arguments.map(textPacket),
    textPacket(`want ${rev}`),
    textPacket('done'),
    flushPacket,
  ]);
  let section: string | undefined;
  let chatter = 0;
  let began = false;
  const talk = (size: number): void => {
    chatter += size;
    if (chatter > maxChatter)
      throw new FlkError('FLK_LIMIT', `${transport.url} talks without sending a pack`);
  };
  await exchange(
    transport,
    body,
    (packet) => {
      if (packet.kind === 'delimiter') section = undefined;
      else if (packet.kind !== 'data') throw unexpected(transport, `a ${packet.kind} packet before the end`);
      else if (section === undefined) section = payloadText(packet.payload);
      else if (section !== 'packfile') {
        if (section === 'shallow-info') onBoundary?.();
        talk(packet.payload.length);
      } else {
        const band = packet.payload[0];
        const content = packet.payload.subarray(1);
        if (band === 1) {
          began ||= content.length > 0;
          if (content.length > 0) onPack(content);
          else talk(5);
        } else if (band === 2) talk(packet.payload.length);
        else
          throw new FlkError(
            'FLK_GIT_REMOTE',
            `${transport.url} gave up: ${payloadText(content).slice(0, 500)}`,
          );
      }
    },
    (message) =>
      message.includes(rev)
        ? new FlkError('FLK_GIT_REV_GONE', `${transport.url} does not have revision ${rev}`, {
            facts: { answer: message },
          })
        : undefined,
  );
  if (!began) throw unexpected(transport, 'an answer without a pack');
}

/** Sends a request and reads packets up to the flush that ends the answer; then nothing may follow. */
async function exchange(
  transport: GitTransport,
  body: Buffer,
  take: (packet: Packet) => void,
  /** What an `ERR` packet means, where the command knows. */
  refusal: (message: string) => FlkError | undefined = () => undefined,
): Promise<void> {
  let ended = false;
  const reader = new PacketReader((packet) => {
    if (ended) throw unexpected(transport, 'something after the end');
    if (packet.kind === 'flush') ended = true;
    else if (packet.kind === 'data' && packet.payload.toString('latin1', 0, 4) === 'ERR ') {
      const message = payloadText(packet.payload.subarray(4)).slice(0, 500);
      throw refusal(message) ?? new FlkError('FLK_GIT_REMOTE', `${transport.url} refuses: ${message}`);
    } else take(packet);
  });
  await transport.request(body, (chunk) => reader.push(chunk));
  reader.end();
  if (!ended) throw unexpected(transport, 'an answer that breaks off');
}

function unexpected(transport: GitTransport, what: string): FlkError {
  return new FlkError('FLK_GIT_PROTOCOL', `${transport.url} sends ${what}`);
}

export function repositoryMissing(url: string, facts: Readonly<Record<string, string>> = {}): FlkError {
  return new FlkError('FLK_GIT_REPO_MISSING', `there is no Git repository at ${url}`, { facts });
}

/** The code is the same wherever it turns out. */
export function shallowRepository(url: string): FlkError {
  return new FlkError(
    'FLK_GIT_SHALLOW',
    `${url} is a shallow clone, so the revisions before one cannot be counted`,
  );
}
