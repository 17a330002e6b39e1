import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  delimiterPacket,
  flushPacket,
  maxPayload,
  PacketReader,
  payloadText,
  textPacket,
} from '../../../src/formats/pkt-line.ts';

/** What a reader makes of chunks: texts, and marks in angle brackets. */
function read(...chunks: (Buffer | string)[]): string[] {
  const seen: string[] = [];
  const reader = new PacketReader((packet) =>
    seen.push(packet.kind === 'data' ? packet.payload.toString('latin1') : `<${packet.kind}>`),
  );
  for (const chunk of chunks) reader.push(Buffer.from(chunk));
  reader.end();
  return seen;
}

describe('writing packets', () => {
  it('counts its own four bytes and ends text with a newline', () => {
    expect(textPacket('command=ls-refs').toString()).toBe('0014command=ls-refs\n');
  });

  it('refuses what does not fit', () => {
    expect(textPacket('x'.repeat(maxPayload - 1)).length).toBe(65520);
    expect(() => textPacket('x'.repeat(maxPayload))).toThrow(
      expect.objectContaining({ code: 'FLK_INTERNAL' }),
    );
  });
});

describe('reading packets', () => {
  it('gives texts and marks in order', () => {
    expect(
      read(Buffer.concat([textPacket('a'), delimiterPacket, textPacket(''), flushPacket]), '0002'),
    ).toEqual(['a\n', '<delimiter>', '\n', '<flush>', '<response-end>']);
  });

  it('takes an empty packet for data, not for a mark', () => {
    expect(read('00040000')).toEqual(['', '<flush>']);
  });

  it('gives the same packets however the bytes are cut', () => {
    const packet = fc.oneof(
      fc.uint8Array({ maxLength: 300 }).map((bytes) => ({ kind: 'data', bytes: Buffer.from(bytes) })),
      fc.constantFrom('0000', '0001', '0002').map((mark) => ({ kind: mark, bytes: Buffer.alloc(0) })),
    );
    fc.assert(
      fc.property(fc.array(packet), fc.array(fc.nat(2000)), (packets, cuts) => {
        const bytes = Buffer.concat(
          packets.map(({ kind, bytes }) =>
            kind === 'data'
              ? Buffer.concat([Buffer.from((bytes.length + 4).toString(16).padStart(4, '0')), bytes])
              : Buffer.from(kind),
          ),
        );
        const places = [0, ...cuts.filter((cut) => cut < bytes.length).sort((a, b) => a - b), bytes.length];
        const chunks = places.slice(1).map((end, i) => bytes.subarray(places[i], end));
        const marks: Record<string, string> = {
          '0000': '<flush>',
          '0001': '<delimiter>',
          '0002': '<response-end>',
        };
        expect(read(...chunks)).toEqual(
          packets.map(({ kind, bytes }) => marks[kind] ?? bytes.toString('latin1')),
        );
      }),
    );
  });

  it('takes a packet of the largest size, byte by byte', () => {
    const bytes = Buffer.concat([Buffer.from('FFF0'), Buffer.alloc(maxPayload, 'y')]);
    expect(read(...[...bytes].map((byte) => Buffer.from([byte])))).toEqual(['y'.repeat(maxPayload)]);
  });

  it.each([
    ['a web page', '<!DOCTYPE html>'],
    ['a sign before the digits', '+00f'],
    ['spaces for digits', '  1f'],
    ['length 3, which says nothing', '0003'],
    ['a length over the limit', 'fff1'],
    ['a length over the limit', 'ffff'],
  ])('refuses %s', (_, bytes) => {
    expect(() => read(bytes)).toThrow(expect.objectContaining({ code: 'FLK_GIT_PROTOCOL' }));
    expect(() => read(bytes.slice(0, 2), bytes.slice(2))).toThrow(
      expect.objectContaining({ code: 'FLK_GIT_PROTOCOL' }),
    );
  });

  it.each(['0', '000', '0008abc'])('refuses a stream that ends inside a packet: %s', (bytes) => {
    expect(() => read(bytes)).toThrow(expect.objectContaining({ code: 'FLK_GIT_PROTOCOL' }));
  });

  it('never throws anything but its own error, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        try {
          read(Buffer.from(bytes));
        } catch (error) {
          expect(error).toMatchObject({ code: 'FLK_GIT_PROTOCOL' });
        }
      }),
    );
  });
});

it('reads a payload’s text without its newline', () => {
  expect(payloadText(Buffer.from('main\n'))).toBe('main');
  expect(payloadText(Buffer.from('main'))).toBe('main');
  expect(payloadText(Buffer.alloc(0))).toBe('');
});
