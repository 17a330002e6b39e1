/** `--builders remote=…` by hand, with a real BuildBox behind it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { writePinnedFlake } from '../support/pinned-flake.ts';
import { type BuildBox, buildBox, freePort, noBuildBox } from '../support/reapi.ts';

describe.skipIf(noBuildBox)(
  `flk build --builders remote=…${noBuildBox ? ` (skipped: ${noBuildBox})` : ''}`,
  () => {
    let world: CliWorld;
    let server: BuildBox;
    beforeAll(async () => {
      world = cliWorld();
      server = await buildBox();
      await writePinnedFlake(world.folder, `remote ${process.pid} ${Date.now()}`);
    });
    afterAll(() => server.kill());

    it('gives the bytes that it gives here, and says where it builds', async () => {
      const builders = `remote=${server.address}`;
      const there = await world.flk(['build', '--builders', builders, '--no-link', '--json']);
      expect(there.status, there.stderr).toBe(0);
      expect(there.stderr).toContain(`building lib on remote ${server.address}\n`);
      const [{ outputs }] = JSON.parse(there.stdout);
      const other = join(world.home, 'other');
      mkdirSync(other);
      const here = await world.flk(['build', '--no-link', '--store', other]);
      expect(here.status, here.stderr).toBe(0);
      const infoOf = async (...store: string[]) =>
        JSON.parse((await world.flk(['store', 'path-info', '--json', outputs.out, ...store])).stdout)[
          outputs.out
        ];
      const [far, near] = [await infoOf(), await infoOf('--store', other)];
      expect(far.narHash).toBe(near.narHash);
      expect([far.ultimate, near.ultimate]).toEqual([false, true]);
    });

    it('is passed over where nobody answers, offline, and for this machine’s own programs', async () => {
      const nobody = `grpc://127.0.0.1:${await freePort()}`;
      const dry = async (builders: string, ...args: string[]) =>
        JSON.parse(
          (await world.flk(['build', '--dry-run', '--json', '--rebuild', '--builders', builders, ...args]))
            .stdout,
        ).build.at(-1);
      expect(await dry(`remote=${nobody},local`)).toMatchObject({
        builder: 'local',
        why: 'again',
        passedOver: [{ builder: `remote ${nobody}`, reason: expect.any(String) }],
      });
      expect(await dry(`remote=grpcs://build.example.org,local`, '--offline')).toMatchObject({
        builder: 'local',
        passedOver: [
          { builder: 'remote grpcs://build.example.org', reason: '--offline: no network is used' },
        ],
      });
      expect(await dry(`remote=${server.address},local`, '#host')).toMatchObject({
        builder: 'local',
        passedOver: [{ builder: `remote ${server.address}` }],
      });
    });

    it('takes what lets it in from a file or a variable, and shows neither', async () => {
      const config = join(world.home, 'config/flk');
      mkdirSync(config, { recursive: true });
      const write = (more: string): void =>
        writeFileSync(
          join(config, 'config.yaml'),
          `builders: [{ builder: "remote=${server.address}", ${more} }]\n`,
        );
      const token = join(world.home, 'token');
      writeFileSync(token, 'secret-word\n');
      write(`tokenFile: "${token}", headers: { x-key: secret-word }`);
      const build = (env = {}) =>
        world.flk(['build', '--no-link', '--rebuild', '--log-format', 'json'], { env });
      const { status, stdout, stderr } = await build();
      expect(status, stderr).toBe(0);
      expect(stdout + stderr).not.toContain('secret-word');
      write('tokenVariable: BUILD_TOKEN');
      expect((await build({ BUILD_TOKEN: 'secret-word' })).status).toBe(0);
      const unset = await build();
      expect([unset.status, unset.stderr]).toEqual([2, expect.stringContaining('BUILD_TOKEN is not set')]);
      write(`tokenFile: "${token}-gone"`);
      expect((await build()).status).toBe(2);
    });
  },
);
