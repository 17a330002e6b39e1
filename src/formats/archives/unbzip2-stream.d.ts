declare module 'unbzip2-stream' {
  /** An old-style stream: what is written comes out as `data` events before `write` returns. */
  export default function unbzip2(): NodeJS.ReadWriteStream;
}
