/**
 * Semver ranges over tags. A tag is a version when it is one after an optional `v`; `v1.4` counts as 1.4.0 and `1` as 1.0.0, since
 * many projects tag so, and leading zeros are read past (`2024.01.15`). Where a shape is given (`release-{version}`), only what
 * stands in the hole counts. Pre-releases match only where the range names one of the same version, as in npm and cargo.
 */
import semver from 'semver';
import { FlkError } from '../base/errors.ts';
import type { Tag } from './source.ts';

interface Candidate {
  readonly tag: Tag;
  readonly version: semver.SemVer;
  /** Of tags for one version the most exact wins: `v1.4.0` or `1.4.0` before `v1.4`. */
  readonly exact: boolean;
}

/** The version that a tag's name says, in that shape; undefined when it says none. */
export function versionOfTag(name: string, shape = '{version}'): semver.SemVer | undefined {
  const text = holeOf(name, shape);
  if (text === undefined || text.length > 256) return undefined;
  const parts = /^[vV]?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?([-+][0-9A-Za-z.+-]*)?$/.exec(text);
  if (!parts) return undefined;
  const [, major = '0', minor = '0', patch = '0', rest = ''] = parts;
  const plain = [major, minor, patch].map((number) => number.replace(/^0+(?=[0-9])/, '')).join('.');
  return semver.parse(`${plain}${rest}`) ?? undefined;
}

/** What of the name fills the shape's hole. */
function holeOf(name: string, shape: string): string | undefined {
  const [before = '', after = ''] = shape.split('{version}');
  if (name.length < before.length + after.length || !name.startsWith(before) || !name.endsWith(after))
    return undefined;
  return name.slice(before.length, name.length - after.length);
}

/** Throws FLK_VERSION_UNSATISFIED when the range is not one. */
export function tagSatisfies(name: string, range: string, shape?: string): boolean {
  const version = versionOfTag(name, shape);
  return version !== undefined && parseRange(range).test(version);
}

function parseRange(range: string): semver.Range {
  try {
    return new semver.Range(range);
  } catch (cause) {
    throw new FlkError('FLK_VERSION_UNSATISFIED', `‘${range.slice(0, 100)}’ is not a semver range`, {
      hint: 'for example ^1.2, ~1.4.0 or >=2 <4',
      cause,
    });
  }
}

/**
 * The tag of the highest version in the range, whatever order they come in. Throws FLK_VERSION_UNSATISFIED, which lists the
 * nearest tags.
 */
export function selectTag(tags: readonly Tag[], range: string, shape?: string): Tag {
  const wanted = parseRange(range);
  const candidates = tags
    .flatMap((tag): Candidate[] => {
      const version = versionOfTag(tag.name, shape);
      if (!version) return [];
      const exact = version.raw === holeOf(tag.name, shape ?? '{version}')?.replace(/^[vV]/, '');
      return [{ tag, version, exact }];
    })
    .sort(highestFirst);
  const best = candidates.find(({ version }) => wanted.test(version));
  if (best) return best.tag;
  throw unsatisfied(tags, candidates, wanted, range, shape);
}

function highestFirst(a: Candidate, b: Candidate): number {
  return (
    semver.compareBuild(b.version, a.version) ||
    Number(b.exact) - Number(a.exact) ||
    // `v1.0.0` before `1.0.0`: the longer name says more plainly that it is a version.
    b.tag.name.length - a.tag.name.length ||
    (a.tag.name < b.tag.name ? -1 : 1)
  );
}

function unsatisfied(
  tags: readonly Tag[],
  candidates: readonly Candidate[],
  wanted: semver.Range,
  range: string,
  shape: string | undefined,
): FlkError {
  const near = nearestTo(candidates, wanted);
  const names =
    near.length > 0
      ? near.map(({ tag }) => tag.name)
      : tags
          .map(({ name }) => name)
          .sort()
          .slice(0, 6);
  const prerelease = candidates.find(({ version }) =>
    semver.satisfies(version, wanted, { includePrerelease: true }),
  );
  const hint =
    prerelease !== undefined
      ? `only a pre-release fits: write version: "${prerelease.version.version}" to take ${prerelease.tag.name}`
      : tags.length > 0 && candidates.length === 0
        ? 'no tag reads as a version: give the shape, for example tag: "release-{version}"'
        : '';
  return new FlkError(
    'FLK_VERSION_UNSATISFIED',
    `no tag satisfies ${range}${names.length > 0 ? `; nearest: ${names.join(', ')}` : ''}`,
    {
      facts: {
        wanted: shape === undefined ? range : `${range} in tags like ${shape}`,
        found: names.length > 0 ? names.join(', ') : 'no tags',
      },
      hint,
    },
  );
}

/** The three highest below the range and the three lowest above it; for a range with gaps, the highest of all. */
function nearestTo(candidates: readonly Candidate[], wanted: semver.Range): readonly Candidate[] {
  const below = candidates.filter(({ version }) => semver.ltr(version, wanted)).slice(0, 3);
  const above = candidates.filter(({ version }) => semver.gtr(version, wanted)).slice(-3);
  const near = [...above, ...below];
  return near.length > 0 ? near : candidates.slice(0, 6);
}
