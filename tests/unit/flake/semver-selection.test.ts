import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import type { Rev } from '../../../src/flake/flake-ref.ts';
import { selectTag, tagSatisfies, versionOfTag } from '../../../src/flake/semver-selection.ts';
import { thrownBy } from '../../support/errors.ts';

const tagsOf = (names: readonly string[]) =>
  names.map((name, i) => ({ name, rev: `${i}`.padStart(40, '0') as Rev }));
const choose = (names: readonly string[], range: string, shape?: string) =>
  selectTag(tagsOf(names), range, shape).name;

describe('a tag is a version', () => {
  it.each([
    ['v1.2.3', '1.2.3'],
    ['1.2.3', '1.2.3'],
    ['V1.2.3', '1.2.3'],
    ['v1.4', '1.4.0'],
    ['2', '2.0.0'],
    ['2024.01.15', '2024.1.15'],
    ['v1.0.0-rc.1', '1.0.0-rc.1'],
    ['v1.2-beta', '1.2.0-beta'],
    ['1.0.0+build.5', '1.0.0'],
    ['release-1.2.3', undefined],
    ['v1.2.3.4', undefined],
    ['1.2.x', undefined],
    ['vv1', undefined],
    ['v', undefined],
    ['', undefined],
    ['lib/v1.2.3', undefined],
    ['99999999999999999999.0.0', undefined],
    [`1.0.0-${'x'.repeat(300)}`, undefined],
  ])('%.30s: %s', (name, version) => {
    expect(versionOfTag(name)?.version).toBe(version);
  });

  it.each([
    ['release-1.2', 'release-{version}', '1.2.0'],
    ['lib/v1.2.3', 'lib/{version}', '1.2.3'],
    ['1.2.3-final', '{version}-final', '1.2.3'],
    ['v1.2.3', 'release-{version}', undefined],
    ['ab', 'ab{version}ab', undefined],
  ])('%s in the shape %s: %s', (name, shape, version) => {
    expect(versionOfTag(name, shape)?.version).toBe(version);
  });
});

describe('the tag chosen', () => {
  it.each([
    [['v1.0.0', 'v1.3.0', 'v2.0.0', 'v1.2.9'], '^1', 'v1.3.0'],
    [['v1.9.0', 'v1.10.0'], '^1', 'v1.10.0'],
    [['v1.0.0', 'v1.1.0-rc.1'], '^1', 'v1.0.0'],
    [['v1.0.0', 'v1.1.0-rc.1', 'v1.1.0-rc.2'], '^1.1.0-rc.1', 'v1.1.0-rc.2'],
    [['v1.0.0', 'v2.0.0-rc.1'], '>=1.1.0-rc.1', 'none'],
    [['v2.0.0-rc.1'], '*', 'none'],
    [['v1.4', 'v1.4.0', '1.4.0'], '1.4', 'v1.4.0'],
    [['1.4', '1.4.0'], '1.4', '1.4.0'],
    [['1.0.0+1', '1.0.0+2'], '1', '1.0.0+2'],
    [['latest', 'v1.0.0', 'nightly'], '*', 'v1.0.0'],
    [['v0.2.0', 'v0.3.0'], '^0.2', 'v0.2.0'],
    [['v1.2.3', 'v3.0.0'], '1.x || >=3', 'v3.0.0'],
    [['v1.2.3'], '1.2.3', 'v1.2.3'],
    [['v1.2.3'], '', 'v1.2.3'],
  ])('of %j in %s is %s', (names, range, wanted) => {
    if (wanted === 'none') expect(thrownBy(() => choose(names, range)).code).toBe('FLK_VERSION_UNSATISFIED');
    else expect(choose(names, range)).toBe(wanted);
  });

  it('is the same in whatever order tags come', () => {
    const names = ['v1.4', 'v1.4.0', '1.4.0', 'V1.4.0', '1.4', 'v1.3.9', '1.4.0-rc1', 'v1.4.0+a', 'v1.4.0+b'];
    fc.assert(
      fc.property(fc.shuffledSubarray(names, { minLength: names.length }), (order) => {
        expect(choose(order, '^1')).toBe('v1.4.0+b');
        expect(
          choose(
            order.filter((name) => !name.includes('+')),
            '^1',
          ),
        ).toBe('V1.4.0');
      }),
    );
  });

  it('satisfies the range it was chosen for', () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^v?[0-3](\.[0-3](\.[0-3](-rc\.[0-2])?)?)?$/), { minLength: 1 }),
        (names) => {
          try {
            expect(tagSatisfies(choose(names, '^1.1 || 3.0.0-rc.1'), '^1.1 || 3.0.0-rc.1')).toBe(true);
          } catch (error) {
            expect(error).toBeInstanceOf(FlkError);
            expect(names.some((name) => tagSatisfies(name, '^1.1 || 3.0.0-rc.1'))).toBe(false);
          }
        },
      ),
    );
  });
});

describe('no tag', () => {
  it('lists the nearest below and above', () => {
    const names = ['v0.1.0', 'v0.2.0', 'v0.3.0', 'v0.4.0', 'v2.0.0', 'v3.0.0', 'v4.0.0', 'v5.0.0'];
    expect(thrownBy(() => choose(names, '^1')).message).toBe(
      'no tag satisfies ^1; nearest: v4.0.0, v3.0.0, v2.0.0, v0.4.0, v0.3.0, v0.2.0',
    );
  });

  it('points to a pre-release that would do', () => {
    expect(thrownBy(() => choose(['v1.0.0-rc.1'], '*')).hint).toContain('version: "1.0.0-rc.1"');
  });

  it('points to the shape where no tag reads as a version', () => {
    expect(thrownBy(() => choose(['release-1', 'a'], '^1'))).toMatchObject({
      hint: expect.stringContaining('release-{version}'),
      facts: { found: 'a, release-1' },
    });
  });

  it('is there where there are none, or where the range is none', () => {
    expect(thrownBy(() => choose([], '^1')).facts.found).toBe('no tags');
    expect(thrownBy(() => choose(['v1.0.0'], 'one')).message).toContain('is not a semver range');
  });
});
