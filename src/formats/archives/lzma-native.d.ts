/** What lzma-native has below its streams, and its types leave out. At run time these are found by its default export only. */
import 'lzma-native';

declare module 'lzma-native' {
  export class Stream {
    /** Called with unpacked bytes, null at the stream's end; then with how many pieces of input were used, or what is wrong. */
    bufferHandler: (
      bytes: Buffer | null | undefined,
      used: number | undefined,
      error: Error | null | undefined,
    ) => void;
    streamDecoder_(memoryLimit: number, flags: number): void;
    /** Null: there is no more. */
    code(bytes: Buffer | null, async: boolean): void;
    resetUnderlying(): void;
  }
  export const CONCATENATED: number;
}
