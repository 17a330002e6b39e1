/** `/nix/store/HASH-NAME`: rules, computation, parsing. */

/** A whole logical path, `/nix/store/<32 nixbase32 characters>-<name>`, wherever it physically lies. */
export type StorePath = string & { readonly __brand: 'StorePath' };
