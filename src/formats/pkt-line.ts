/**
 * pkt-line, the framing of Git's wire protocol: four hex digits of length (their own four bytes included), then the payload;
 * lengths 0 to 2 are marks. Source: gitprotocol-common(5), gitprotocol-v2(5).
 */
import { FlkError } from '../base/errors.ts';

/** The most bytes one packet may carry. */
export const maxPayload = 65_516;

/** Ends a request or a whole answer. */
export const flushPacket: Buffer = Buffer.from('0000');
/** Stands between sections. */
export const delimiterPacket: Buffer = Buffer.from('0001');

/** One packet of text, ended by a newline as Git's own client does. */
export function textPacket(text: string): Buffer {
  const payload = Buffer.from(`${text}\n`);
  if (payload.length > maxPayload)
    throw new FlkError('FLK_INTERNAL', `a packet of ${payload.length} bytes; at most ${maxPayload} fit`);
  return Buffer.concat([Buffer.from((payload.length + 4).toString(16).padStart(4, '0')), payload]);
}

export type Packet =
  /** The payload is only good during the call that hands it out. */
  | { readonly kind: 'data'; readonly payload: Buffer }
  | { readonly kind: 'flush' | 'delimiter' | 'response-end' };

const marks: readonly Packet[] = [{ kind: 'flush' }, { kind: 'delimiter' }, { kind: 'response-end' }];

/** The text of a payload, without the newline that may end it. Bytes that are not UTF-8 become U+FFFD. */
export function payloadText(payload: Buffer): string {
  const end = payload.at(-1) === 0x0a ? payload.length - 1 : payload.length;
  return payload.toString('utf8', 0, end);
}

/** Cuts a stream of bytes into packets, whatever the chunks. Throws FLK_GIT_PROTOCOL for anything that is not pkt-line. */
export class PacketReader {
  readonly #take: (packet: Packet) => void;
  /** A packet that began in an earlier chunk: its bytes so far. */
  readonly #partial = Buffer.allocUnsafeSlow(maxPayload + 4);
  #held = 0;

  constructor(take: (packet: Packet) => void) {
    this.#take = take;
  }

  push(chunk: Buffer): void {
    let at = 0;
    if (this.#held > 0) {
      at = this.#fill(chunk, 0, 4);
      if (this.#held < 4) return;
      const length = packetLength(this.#partial, 0);
      at = this.#fill(chunk, at, length);
      if (this.#held < length) return;
      this.#held = 0;
      this.#hand(this.#partial, 0, length);
    }
    while (chunk.length - at >= 4) {
      const length = packetLength(chunk, at);
      if (chunk.length - at < length) break;
      this.#hand(chunk, at, length);
      at += length;
    }
    if (at < chunk.length) this.#held = chunk.copy(this.#partial, 0, at);
  }

  /** The stream has ended; a packet that has not is FLK_GIT_PROTOCOL. */
  end(): void {
    if (this.#held > 0) throw new FlkError('FLK_GIT_PROTOCOL', 'the answer breaks off inside a packet');
  }

  /** Copies until `wanted` bytes are held; where the chunk's next byte is. */
  #fill(chunk: Buffer, from: number, wanted: number): number {
    if (this.#held >= wanted) return from;
    const copied = chunk.copy(this.#partial, this.#held, from, from + wanted - this.#held);
    this.#held += copied;
    return from + copied;
  }

  #hand(bytes: Buffer, at: number, length: number): void {
    const mark = bytes[at + 3]! - 0x30;
    if (length > 4 || mark === 4) this.#take({ kind: 'data', payload: bytes.subarray(at + 4, at + length) });
    else this.#take(marks[mark]!);
  }
}

/** Bytes up to the next packet: 4 for a mark. */
function packetLength(bytes: Buffer, at: number): number {
  let length = 0;
  for (let i = at; i < at + 4; i++) {
    const digit = hexValue(bytes[i]!);
    if (digit < 0) {
      const found = bytes.toString('latin1', at, Math.min(bytes.length, at + 40)).slice(0, 40);
      throw new FlkError('FLK_GIT_PROTOCOL', 'the answer is not the Git protocol', {
        facts: { found: JSON.stringify(found), wanted: 'a packet’s length in four hex digits' },
      });
    }
    length = length * 16 + digit;
  }
  if (length === 3 || length > maxPayload + 4)
    throw new FlkError('FLK_GIT_PROTOCOL', `the answer has a packet of length ${length}`);
  return Math.max(4, length);
}

function hexValue(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}
