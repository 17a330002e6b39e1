/** Digests and the three ways Nix prints them. */

/** `sha256-` and padded base64: how locks and manifests print a hash. */
export type NarHash = string & { readonly __brand: 'NarHash' };
