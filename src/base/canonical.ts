/** Order and JSON text that never depend on locale, insertion or platform. */

/** Compares two strings by their UTF-8 bytes, as Nix (std::string) and Git order names. */
export function compareBytes(a: string, b: string): number {
  if (a === b) return 0;
  // UTF-16 order equals UTF-8 order except where surrogates meet U+E000…U+FFFF.
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return bytesRank(x) - bytesRank(y);
  }
  return a.length - b.length;
}

const bytesRank = (unit: number): number => (unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit);

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** JSON with keys in byte order and two spaces of indentation, no newline at the end; what Nix prints for locks. */
export function canonicalJson(value: Json): string {
  return JSON.stringify(sorted(value), null, 2);
}

function sorted(value: Json): Json {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  const record = value as { readonly [key: string]: Json };
  const out: Record<string, Json> = Object.create(null) as Record<string, Json>;
  // Integer-like keys would jump the queue in a plain object; a Map-backed printer is not worth it for
  // lock files, whose keys are input names: those are checked to start with a letter or underscore.
  for (const key of Object.keys(record).sort(compareBytes)) out[key] = sorted(record[key] as Json);
  return out;
}
