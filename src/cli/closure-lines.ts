/** What sets two closures apart, for people. */
import { formatBytes, type Palette } from '../report/text.ts';
import type { ClosureDiff, PackageChange } from '../store/closure-diff.ts';

/** One line a package: `hello: 2.10 → 2.12, +1.2 MB`. ∅: none at all; ε: a version that is not told. Sizes below 8 KiB are left out. */
export function closureLines({ packages }: Pick<ClosureDiff, 'packages'>, paint: Palette): string[] {
  return packages.map((change) => `${change.name}: ${changeParts(change, paint).join(', ')}`);
}

const notedSize = 8 * 1024;

function changeParts(change: PackageChange, paint: Palette): string[] {
  const { removed, added, sizeBefore, sizeAfter } = change;
  const parts: string[] = [];
  if (removed.length + added.length > 0) parts.push(`${versions(removed)} → ${versions(added)}`);
  if (Math.abs(sizeAfter - sizeBefore) >= notedSize) parts.push(sizeChange(sizeAfter - sizeBefore, paint));
  return parts;
}

const versions = (list: readonly string[]): string =>
  list.length === 0 ? '∅' : list.map((version) => (version === '' ? 'ε' : version)).join(', ');

/** `+1.4 MB`, `−20 kB`. */
function sizeChange(bytes: number, paint: Palette): string {
  const text = `${bytes < 0 ? '−' : '+'}${formatBytes(Math.abs(bytes))}`;
  return bytes > 0 ? paint.bad(text) : paint.good(text);
}
