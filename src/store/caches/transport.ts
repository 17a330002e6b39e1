/** How a binary cache on a server is reached: what the store wants of HTTP, whoever brings it. */

export interface CacheTransport {
  /**
   * The bytes of what lies at a URL, from `from` on; undefined where there is nothing, or nothing that we may see (404, 410, 403). A
   * connection that breaks is taken up again where it broke, so the bytes are those of one file, or an error: FLK_NETWORK,
   * FLK_HTTP_…, FLK_OFFLINE, FLK_CACHE_INVALID, FLK_INTERRUPTED. Whoever leaves the bytes early ends the connection. A chunk
   * is only good until the next one is asked for.
   */
  get(url: URL): Promise<AsyncIterable<Buffer> | undefined>;
  has(url: URL): Promise<boolean>;
  /** Puts a file or some bytes there. Throws as `get`, and FLK_HTTP_STATUS where the server takes nothing. */
  put(url: URL, content: Upload, type: string): Promise<void>;
}

/** Opened anew for each attempt. */
export interface Upload {
  readonly size: number;
  /** The bytes from `from` up to `to`; all of them by default. */
  open(from?: number, to?: number): AsyncIterable<Buffer>;
}
