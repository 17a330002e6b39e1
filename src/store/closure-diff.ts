/** What sets two closures apart, package by package. The rules are those of `nix store diff-closures` 2.34. */
import { compareBytes } from '../base/canonical.ts';
import { nameOf, type StorePath } from '../formats/store-path.ts';
import type { PathInfo } from './path-info.ts';

/** The paths of two closures that bear one package's name. */
export interface PackageChange {
  readonly name: string;
  /** Versions that only the closure before has; `''` where a path's name holds none. Sorted by bytes, as the others. */
  readonly removed: readonly string[];
  /** Versions that only the closure after has. */
  readonly added: readonly string[];
  /** Versions that both have. */
  readonly kept: readonly string[];
  /** Bytes of NAR, all versions together. */
  readonly sizeBefore: number;
  readonly sizeAfter: number;
}

export interface ClosureDiff {
  /** Packages whose versions differ, or whose size does by 8 KiB or more; sorted by name. */
  readonly packages: readonly PackageChange[];
  /** Paths that only one of the two has, sorted. */
  readonly pathsRemoved: readonly StorePath[];
  readonly pathsAdded: readonly StorePath[];
  /** Bytes of NAR of each closure. */
  readonly sizeBefore: number;
  readonly sizeAfter: number;
}

/** Smaller changes say nothing: other hashes in the same files compress no better or worse. */
const notedSize = 8 * 1024;

/**
 * A store name's package and version: they part at the first dash that no letter follows, `apache-httpd-2.0.48`. No such dash: the
 * version is `''`.
 */
export function parsePackageName(name: string): { readonly name: string; readonly version: string } {
  const at = /-[^a-zA-Z]/.exec(name)?.index;
  return at === undefined ? { name, version: '' } : { name: name.slice(0, at), version: name.slice(at + 1) };
}

/** The same for a store path that may be one of several outputs. Its last word counts as an output's name where it could be one. */
export function packageOf(path: StorePath): { readonly name: string; readonly version: string } {
  return parsePackageName(/^(.*)-(?:[a-z]+|lib32|lib64)$/.exec(nameOf(path))?.[1] ?? nameOf(path));
}

/** Compares two whole closures, each in any order. */
export function diffClosures(before: readonly PathInfo[], after: readonly PathInfo[]): ClosureDiff {
  const [old, young] = [groupByPackage(before), groupByPackage(after)];
  const packages = [...new Set([...old.keys(), ...young.keys()])]
    .sort(compareBytes)
    .map((name) => changeOf(name, old.get(name) ?? nothing, young.get(name) ?? nothing))
    .filter(
      ({ removed, added, sizeBefore, sizeAfter }) =>
        removed.length + added.length > 0 || Math.abs(sizeAfter - sizeBefore) >= notedSize,
    );
  return {
    packages,
    pathsRemoved: pathsWithout(before, after),
    pathsAdded: pathsWithout(after, before),
    sizeBefore: sizeOf(before),
    sizeAfter: sizeOf(after),
  };
}

interface Group {
  readonly versions: Set<string>;
  size: number;
}

const nothing: Group = { versions: new Set(), size: 0 };

function groupByPackage(infos: readonly PathInfo[]): Map<string, Group> {
  const groups = new Map<string, Group>();
  for (const { path, narSize } of infos) {
    const { name, version } = packageOf(path);
    const group = groups.get(name) ?? { versions: new Set(), size: 0 };
    group.versions.add(version);
    group.size += narSize;
    groups.set(name, group);
  }
  return groups;
}

function changeOf(name: string, before: Group, after: Group): PackageChange {
  const sorted = (versions: Set<string>, wanted: (version: string) => boolean): string[] =>
    [...versions].filter(wanted).sort(compareBytes);
  return {
    name,
    removed: sorted(before.versions, (version) => !after.versions.has(version)),
    added: sorted(after.versions, (version) => !before.versions.has(version)),
    kept: sorted(before.versions, (version) => after.versions.has(version)),
    sizeBefore: before.size,
    sizeAfter: after.size,
  };
}

function pathsWithout(infos: readonly PathInfo[], others: readonly PathInfo[]): StorePath[] {
  const known = new Set(others.map(({ path }) => path));
  return infos
    .map(({ path }) => path)
    .filter((path) => !known.has(path))
    .sort(compareBytes);
}

const sizeOf = (infos: readonly PathInfo[]): number => infos.reduce((sum, { narSize }) => sum + narSize, 0);
