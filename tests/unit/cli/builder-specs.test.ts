/** Which settings count for a builder that `--builders` names, and by what name it is told from others. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type BuilderSpec, nameOfSpec, parseBuilders } from '../../../src/cli/builder-specs.ts';
import { thrownBy } from '../../support/errors.ts';

const remote = (address: string, instance?: string, maxJobs?: number): BuilderSpec => ({
  kind: 'remote',
  address,
  ...(instance === undefined ? {} : { instance }),
  ...(maxJobs === undefined ? {} : { maxJobs }),
});

const entries = fc
  .uniqueArray(
    fc.tuple(
      fc.constantFrom('grpc://h:1', 'grpc://h:2', 'unix:/s'),
      fc.constantFrom('', 'a', 'b', 'a/b', 'a,b', 'a&max-jobs=9', 'ä ?#%+'),
    ),
    { selector: ([address, instance]) => `${address} ${instance}`, minLength: 1 },
  )
  .map((pairs) =>
    pairs.map(([address, instance], at) =>
      remote(address, instance === '' && at % 2 === 0 ? undefined : instance, at + 1),
    ),
  );

describe('a builder of the settings', () => {
  it('is found by its name, and no other is', () => {
    fc.assert(
      fc.property(entries, (configured) => {
        for (const spec of configured) {
          const name = nameOfSpec(spec);
          const others = configured.filter((other) => other !== spec);
          const [found] = parseBuilders(name, configured);
          expect(found).toMatchObject({ maxJobs: (spec as { maxJobs: number }).maxJobs });
          expect(nameOfSpec(found!)).toBe(name);
          expect(others.map(nameOfSpec)).not.toContain(name);
          if (name.includes('?'))
            expect(parseBuilders(name, others)).not.toMatchObject([{ maxJobs: expect.anything() }]);
        }
      }),
    );
  });

  it('needs no instance where there is one of that address', () => {
    const a = remote('grpc://h:1', 'a', 7);
    const configured = [remote('grpc://h:2', 'x', 1), a, remote('grpc://h:3', 'y', 2)];
    expect(parseBuilders('remote=grpc://h:1', configured)).toEqual([a]);
    expect(parseBuilders('remote=grpc://h:1?max-jobs=9', configured)).toEqual([{ ...a, maxJobs: 9 }]);
    // Two ways to that instance: the first of them, as of all that are named alike.
    expect(parseBuilders('remote=grpc://h:1', [...configured, { ...a, maxJobs: 8 }])).toEqual([a]);
  });

  it('is the one without an instance, where there are more', () => {
    const bare = remote('grpc://h:1', undefined, 7);
    const empty = remote('grpc://h:1', '', 7);
    for (const one of [bare, empty])
      for (const asked of ['remote=grpc://h:1', 'remote=grpc://h:1?instance='])
        expect(parseBuilders(asked, [remote('grpc://h:1', 'a', 1), one])).toMatchObject([{ maxJobs: 7 }]);
  });

  it('is not another instance of that address', () => {
    const configured = [remote('grpc://h:1', 'a', 7)];
    for (const asked of ['b', ''])
      expect(parseBuilders(`remote=grpc://h:1?instance=${asked}`, configured)).toEqual([
        remote('grpc://h:1', asked),
      ]);
    expect(parseBuilders('remote=grpc://h:1?instance=a', [remote('grpc://h:1', undefined, 7)])).toEqual([
      remote('grpc://h:1', 'a'),
    ]);
  });

  it('has to be named by its instance where several others have one', () => {
    const configured = [remote('grpc://h:1', 'a'), remote('grpc://h:2', 'c'), remote('grpc://h:1', 'b/x')];
    const error = thrownBy(() => parseBuilders('local,remote=grpc://h:1', configured));
    expect(error).toMatchObject({ code: 'FLK_USAGE', message: expect.stringContaining('remote=grpc://h:1') });
    expect(error.hint).toContain('remote=grpc://h:1?instance=a');
    expect(error.hint).toContain('remote=grpc://h:1?instance=b/x');
    expect(error.hint).not.toContain('h:2');
  });
});
