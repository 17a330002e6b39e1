/** `flk build --rebuild`: what a build should not depend on is told, with its kind and what helps. */
import { spawnSync } from 'node:child_process';
import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { flakeWorld } from '../support/cli.ts';

const works = (...command: [string, ...string[]]): boolean =>
  spawnSync(command[0], command.slice(1)).status === 0;
const canSandbox =
  works('bwrap', '--version') || works('unshare', '--user', '--map-root-user', '--mount', 'true');

const manifest = `description: builds that write down too much
toolchain: host
packages:
  steady: { installPhase: echo steady > $out }
  late: { installPhase: 'mkdir $out; date > $out/when; echo same > $out/same' }
  where: { installPhase: uname -n > $out }
  who: { installPhase: id -un > $out }
  listed: { installPhase: 'for i in 1 2 3 4 5 6 7 8 9; do : > f$i; done; ls -U > $out' }
  named: { installPhase: 'mktemp -d /tmp/work.XXXXXXXX/../tmp.XXXXXXXX > $out 2>/dev/null || mktemp -d /tmp/x.XXXXXXXXXX > $out' }
  drawn: { installPhase: 'od -An -N16 -tx1 /dev/urandom | tr -d " " > $out' }
`;

/** TMPFS_MAGIC of statfs(2): where a folder lies in memory anyway, it is read in one order. */
const inMemory = statfsSync(tmpdir()).type === 0x01021994;

describe.skipIf(!canSandbox)(`flk build --rebuild${canSandbox ? '' : ' (skipped: no sandbox)'}`, () => {
  it.each([
    ['late', /^timestamp at byte \d+: “.+” became “.+”$/, 'SOURCE_DATE_EPOCH'],
    ['where', /^machine at byte 0: “localhost” became “rebuild-1”$/, 'host’s name'],
    ['who', /^machine at byte 0: “nixbld” became “rebuilder1”$/, 'user'],
    ['named', /^path at byte \d+: “.+” became “.+”$/, 'mktemp'],
    // Two that are drawn may begin alike.
    ['drawn', /^random at byte \d+: “[0-9a-f]+” became “[0-9a-f]+”$/, 'seed'],
  ])('tells what %s leaks', expectLeak);

  async function expectLeak(name: string, line: RegExp, hint: string): Promise<void> {
    const world = flakeWorld(manifest);
    const first = await world.flk(['build', '--no-link', `.#${name}`]);
    expect(first).toMatchObject({ status: 0 });
    const { status, stdout } = await world.flk(['build', '--no-link', '--rebuild', '--json', `.#${name}`]);
    const { error } = JSON.parse(stdout);
    expect([status, error.code]).toEqual([1, 'FLK_BUILD_NOT_REPRODUCIBLE']);
    expect(Object.values(error.facts)).toEqual([expect.stringMatching(line)]);
    expect(error.hint).toContain(hint);
  }

  it.skipIf(inMemory)(
    `tells the order of a folder${inMemory ? ' (the temporary folder is in memory)' : ''}`,
    async () => {
      await expectLeak('listed', /^order at byte \d+: “.+” became “.+”$/, 'sort');
    },
  );

  it('is content with what depends on nothing, as often as it is asked', async () => {
    const world = flakeWorld(manifest);
    const { status, stderr } = await world.flk([
      'build',
      '--no-link',
      '--rebuild',
      '--times',
      '3',
      '.#steady',
    ]);
    expect(status).toBe(0);
    expect(stderr.match(/built steady/g)).toHaveLength(4);
  });
});
