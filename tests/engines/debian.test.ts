/** A toolchain made of Debian's packages by `fetch` and `merge` alone, and a C library and program built by it, twice, and by each engine. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { limiter } from '../../src/base/concurrency.ts';
import { debianFlake, learnPackages, packageName } from '../../test-repos/debian/flake.mjs';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { fileServer } from '../support/file-server.ts';
import { nixAvailable, nixPrograms } from '../support/nix.ts';
import { type BuildBox, buildBox, noBuildBox } from '../support/reapi.ts';
import { temporaryFolder } from '../support/temp.ts';

const works = (...command: [string, ...string[]]): boolean =>
  spawnSync(command[0], command.slice(1), { timeout: 60_000 }).status === 0;

/** Why it cannot be tried here; undefined when it can. */
function obstacle(): string | undefined {
  if (!works('apt-get', 'download', '--print-uris', 'make')) return 'no apt that offers packages';
  if (!works('bwrap', '--version') && !works('unshare', '--user', '--map-root-user', '--mount', 'true'))
    return 'no sandbox';
  return undefined;
}
const reason = obstacle();

describe.skipIf(reason)(
  `a toolchain out of Debian's packages${reason ? ` (skipped: ${reason})` : ''}`,
  () => {
    let world: CliWorld;
    let packages: { readonly name: string; readonly url: string; readonly hash?: string }[];

    /** Writes the flake as it is known so far. */
    const write = (): void => {
      for (const [name, text] of Object.entries(debianFlake(packages)))
        writeFileSync(join(world.folder, name), text);
    };
    const flk = async (...args: string[]): Promise<string> => {
      const { status, stdout, stderr } = await world.flk(args);
      expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
      return stdout.trim();
    };
    const outOf = async (name: string): Promise<string> =>
      join(world.home, 'data/flk', await flk('build', '--no-link', '--print-out-paths', `.#${name}`));

    beforeAll(async () => {
      world = cliWorld();
      const folder = temporaryFolder();
      const server = await fileServer();
      const names = learnPackages(folder);
      packages = names.map((name) => {
        const file = readdirSync(folder).find((entry) => entry.startsWith(`${name}_`))!;
        server.files.set(`/${name}.deb`, { body: readFileSync(join(folder, file)) });
        return { name, url: `${server.base}/${name}.deb` };
      });
      write();
    }, 300_000);

    it('is told the hashes that are missing', async () => {
      const some = limiter(3);
      const learn = async (known: (typeof packages)[number]) => {
        const { status, stdout } = await world.flk(['build', '--json', `.#${packageName(known.name)}`]);
        const { error } = JSON.parse(stdout);
        expect([status, error.code]).toEqual([2, 'FLK_FETCH_HASH_MISSING']);
        expect(error.hint).toContain(error.facts.found);
        return { ...known, hash: error.facts.found };
      };
      packages = await Promise.all(packages.map((known) => some(() => learn(known))));
      write();
      expect(packages.map(({ hash }) => hash)).toEqual(packages.map(() => expect.stringMatching(/^sha256-/)));
    }, 300_000);

    it('builds with no file of this machine in sight', async () => {
      const out = await outOf('greet');
      // Of the root, what the sandbox has anywhere and what the packages brought.
      const root = readFileSync(join(out, 'share/root'), 'utf8').trim().split('\n');
      const brought = readdirSync(await outOf('toolchain'));
      expect(root.sort()).toEqual(
        [...new Set(['bin', 'build', 'dev', 'etc', 'nix', 'proc', 'tmp', ...brought])].sort(),
      );
      expect(readdirSync(join(out, 'lib')).sort()).toEqual(['libgreet.a', 'libgreet.so', 'libgreet.so.1']);
    }, 600_000);

    it('gives the same bytes again, also in another surrounding', async () => {
      await flk('build', '--no-link', '--rebuild', '--times', '2', '.#greet');
    }, 300_000);

    it('runs what it built where it was built: in the sandbox', async () => {
      expect(readFileSync(await outOf('checks.greets'), 'utf8')).toBe('Hello, flk!\n');
    }, 300_000);

    it('gives the same bytes in another store, from the same hashes', async () => {
      const out = await flk('build', '--no-link', '--print-out-paths', '.#greet');
      const other = join(world.home, 'other');
      mkdirSync(other);
      await flk('build', '--no-link', '--store', other, '.#greet');
      const hashOf = (store: string) => flk('hash', 'path', join(store, out));
      expect(await hashOf(other)).toBe(await hashOf(join(world.home, 'data/flk')));
    }, 600_000);

    const elsewhere = {
      Nix: {
        absent: nixAvailable() ? undefined : 'no Nix',
        builder: async () => `nix=${join(nixPrograms(), 'nix')}`,
      },
      BuildBox: {
        absent: noBuildBox,
        builder: async () => {
          box = await buildBox();
          return `remote=${box.address}`;
        },
      },
    };
    let box: BuildBox | undefined;
    afterAll(() => box?.kill());

    for (const [engine, { absent, builder }] of Object.entries(elsewhere))
      it.skipIf(absent)(
        `gives the same bytes from ${engine}${absent ? ` (skipped: ${absent})` : ''}`,
        async () => {
          const store = join(world.home, `store-${engine}`);
          const there = ['--store', store];
          const out = await flk(
            'build',
            '--no-link',
            '--print-out-paths',
            '--builders',
            await builder(),
            ...there,
            '.#greet',
          );
          const infoOf = async (...where: string[]) => {
            const { narHash, narSize, references } = JSON.parse(
              await flk('store', 'path-info', '--json', out, ...where),
            )[out];
            return { narHash, narSize, references };
          };
          expect(await infoOf(...there)).toEqual(await infoOf());
        },
        600_000,
      );
  },
);
