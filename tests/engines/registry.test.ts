/** Registries lead names where Nix leads them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { silent } from '../../src/base/events.ts';
import { parseFlakeRef, printFlakeRef } from '../../src/flake/flake-ref.ts';
import { FlakeRegistries } from '../../src/sources/registry.ts';
import { registryLoader } from '../../src/sources/registry-files.ts';
import { nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

describe.skipIf(!nixAvailable())(`registries ${nixReason}`, () => {
  it('lead the same names to the same places, at random', async () => {
    const id = fc.constantFrom('a', 'b', 'c', 'd');
    const rev = '0123456789abcdef0123456789abcdef01234567';
    const part = fc.constantFrom('', '', '', '', '/x', '/y', `/${rev}`, `/x/${rev}`);
    const name = fc.tuple(id, part).map((parts) => parts.join(''));
    const indirect = fc.record(
      {
        type: fc.constant('indirect'),
        id,
        ref: fc.constantFrom('x', 'y'),
        rev: fc.constant(rev),
        dir: fc.constant('i'),
      },
      { requiredKeys: ['type', 'id'] },
    );
    const plain = fc.record({ type: fc.constant('indirect'), id });
    const from = fc.oneof(
      { weight: 4, arbitrary: plain },
      {
        weight: 1,
        arbitrary: fc.record(
          { type: fc.constant('indirect'), id, ref: fc.constantFrom('x', 'y'), rev: fc.constant(rev) },
          { requiredKeys: ['type', 'id'] },
        ),
      },
    );
    const place = fc.oneof(
      fc.record(
        {
          type: fc.constant('github'),
          owner: fc.constant('o'),
          repo: fc.constant('r'),
          ref: fc.constant('m'),
          dir: fc.constant('g'),
        },
        { requiredKeys: ['type', 'owner', 'repo'] },
      ),
      fc.record(
        {
          type: fc.constant('git'),
          url: fc.constant('https://h/x'),
          ref: fc.constant('m'),
          dir: fc.constant('t'),
        },
        { requiredKeys: ['type', 'url'] },
      ),
      fc.record({ type: fc.constant('path'), path: fc.constant('/p') }),
      fc.record({ type: fc.constant('tarball'), url: fc.constant('https://h/x.tgz') }),
    );
    const entry = fc.record(
      {
        from,
        to: fc.oneof(indirect, plain, place, place, place),
        exact: fc.constantFrom(true, false, false, false),
      },
      { requiredKeys: ['from', 'to'] },
    );
    const registry = fc
      .array(entry, { maxLength: 5 })
      .map((flakes) => JSON.stringify({ flakes, version: 2 }));
    const lookup = fc
      .tuple(name, fc.constantFrom('', '', '?dir=own'))
      .map(([text, query]) => `flake:${text}${query}`);
    const cases = fc.sample(fc.tuple(registry, registry, fc.array(lookup, { minLength: 6, maxLength: 6 })), {
      numRuns: 60,
      seed: 20260103,
    });
    const script = 'for ref in "$@"; do nix registry resolve "$ref" 2>/dev/null || echo refused; done';
    const found: string[] = [];
    for (const [user, global, lookups] of cases) {
      const folder = temporaryFolder();
      mkdirSync(join(folder, 'nix'));
      const userFile = join(folder, 'nix/registry.json');
      const globalFile = join(folder, 'global.json');
      writeFileSync(userFile, user);
      writeFileSync(globalFile, global);
      const { stdout } = await nixCommand('bash', ['-c', script, 'bash', ...lookups], {
        env: { HOME: folder, XDG_CONFIG_HOME: folder, NIX_CONFIG_EXTRA: `flake-registry = ${globalFile}` },
      });
      const load = registryLoader({
        userFile,
        systemFile: join(folder, 'none.json'),
        global: globalFile,
        cacheFolder: folder,
        reporter: silent,
        ttl: 0,
      });
      const registries = new FlakeRegistries(load);
      const ours = lookups.map(async (text) => {
        const meant = await registries.lookup(parseFlakeRef(text), 'all').then(printFlakeRef, String);
        return `${text} ${/FlkError/.test(meant) ? 'refused' : meant}`;
      });
      const theirs = stdout.trimEnd().split('\n');
      expect(await Promise.all(ours), `${user}\n${global}`).toEqual(
        lookups.map((text, index) => `${text} ${theirs[index]}`),
      );
      found.push(...theirs.filter((line) => line !== 'refused'));
    }
    expect(found.length).toBeGreaterThan(100);
  }, 300_000);
});
