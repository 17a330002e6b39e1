declare module 'unbzip2-stream/lib/bit_iterator.js' {
  interface BitReader {
    /** The next bits as a number; null: on to the next whole byte. */
    (count: number | null): number;
    readonly bytesRead: number;
  }
  /** Past the last chunk reading throws a TypeError. */
  export default function bitIterator(nextChunk: () => Uint8Array | undefined): BitReader;
}

declare module 'unbzip2-stream/lib/bzip2.js' {
  import type bitIterator from 'unbzip2-stream/lib/bit_iterator.js';

  type BitReader = ReturnType<typeof bitIterator>;

  const bzip2: {
    /** Blocks have up to this many times 100,000 bytes before the runs in them are unfolded. */
    header(bits: BitReader): number;
    /** One block, byte by byte; the checksum up to here, or null where the stream's end stood instead. */
    decompress(
      bits: BitReader,
      emit: (byte: number) => void,
      scratch: Int32Array,
      size: number,
      checksum: number,
    ): number | null;
  };
  export default bzip2;
}
