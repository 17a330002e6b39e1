import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { cliWorld, flakeWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';

let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(undefined, { phase: 1 });
});

const url = (name: string): string => `git+${served.server.base}/${name}`;

const packages = (body: string): string => `packages:\n${body.replace(/^/gm, '  ')}`;
const script = (name: string, line: string): string => `${name}:
  toolchain: host
  installPhase: |
    mkdir -p $out/bin
    printf '#!/bin/sh\\n%s\\n' '${line}' > $out/bin/${name}
    chmod +x $out/bin/${name}
`;

describe('flk build', () => {
  it('builds, links, says so once; the second time does nothing', async () => {
    const world = flakeWorld(packages(`default: hi\n${script('hi', 'echo hi')}`));
    const first = await world.flk(['build']);
    expect({ status: first.status, stdout: first.stdout }, first.stderr).toEqual({ status: 0, stdout: '' });
    expect(first.stderr).toMatch(/^building hi$/m);
    expect(first.stderr).toMatch(/^built hi \(/m);
    expect(first.stderr).toContain('impure: host toolchain for hi');
    expect(lstatSync(join(world.folder, 'result')).isSymbolicLink()).toBe(true);
    expect(readdirSync(join(world.folder, 'result/bin'))).toEqual(['hi']);
    const again = await world.flk(['build']);
    expect(again.status).toBe(0);
    expect(again.stderr).not.toMatch(/built|building|impure/);
    const rebuilt = await world.flk(['build', '--rebuild']);
    expect(rebuilt.status, rebuilt.stderr).toBe(0);
    expect(rebuilt.stderr).toMatch(/^built hi \(/m);
    expect(rebuilt.stderr).toMatch(/^built again: the same bytes$/m);
  });

  it('answers as nix build --json does, prints paths, names links as Nix does', async () => {
    const world = flakeWorld(packages(`default: a\n${script('a', 'echo a')}${script('b', 'echo b')}`));
    const { stdout } = await world.flk(['build', '.', '#b', '--json']);
    const answer = JSON.parse(stdout) as { drvPath: string; outputs: { out: string } }[];
    expect(answer).toHaveLength(2);
    for (const { drvPath, outputs } of answer) {
      expect(drvPath).toMatch(/^\/nix\/store\/[0-9a-z]{32}-[ab]\.drv$/);
      expect(outputs.out).toMatch(/^\/nix\/store\/[0-9a-z]{32}-[ab]$/);
    }
    expect(readlinkSync(join(world.folder, 'result-1'))).toContain(answer[1]!.outputs.out);
    rmSync(join(world.folder, 'result'));
    rmSync(join(world.folder, 'result-1'));
    const paths = await world.flk(['build', '#b', '--no-link', '--print-out-paths']);
    expect(paths.stdout).toBe(`${answer[1]!.outputs.out}\n`);
    expect(readdirSync(world.folder)).not.toContain('result');
    await world.flk(['build', '-o', 'here']);
    expect(readdirSync(world.folder)).toContain('here');
  });

  it('says with --dry-run what it would do, and does nothing', async () => {
    const text = `inputs: {}\n${packages(`default: a\n${script('a', 'echo a')}${script('b', 'echo b')}`)}`;
    const maker = flakeWorld(text);
    const cache = join(maker.folder, 'cache');
    const made = JSON.parse((await maker.flk(['build', '#a', '--json'])).stdout);
    const pushed = await maker.flk(['cache', 'push', '--allow-host', cache, made[0].outputs.out]);
    expect(pushed.status, pushed.stderr).toBe(0);
    const world = flakeWorld(text);
    const from = ['--substituters', `${cache}?trusted=true`];
    const taken = await world.flk(['build', '#a', '--no-link', '--store', join(world.folder, 's'), ...from]);
    expect(taken.status, taken.stderr).toBe(0);
    // Nothing of it saw this machine's tools: it was fetched.
    expect(taken.stderr).not.toContain('impure');
    const dry = ['build', '--dry-run', '#a', '#b', ...from];
    const { status, stdout, stderr } = await world.flk(dry);
    expect(status, stderr).toBe(0);
    expect(stdout).toMatch(
      /^would build 1 package:\n {2}\S+-b\.drv {2}on local: no cache has it\nwould take 1 path from .*cache \(.* B to download, /,
    );
    const answer = JSON.parse((await world.flk([...dry, '--json'])).stdout);
    expect(answer).toEqual({
      build: [
        {
          drvPath: expect.stringMatching(/-b\.drv$/),
          name: 'b',
          outputs: { out: expect.any(String) },
          builder: 'local',
          why: 'not-cached',
          passedOver: [],
        },
      ],
      fetch: [
        {
          path: made[0].outputs.out,
          url: expect.stringContaining(cache),
          fileSize: expect.any(Number),
          narSize: expect.any(Number),
        },
      ],
      sources: expect.any(Array),
      present: [],
    });
    expect(readdirSync(world.folder)).toEqual(expect.not.arrayContaining(['result', 'flake.lock']));
    await world.flk(['build', '--no-link', '#a', '#b']);
    const after = JSON.parse((await world.flk([...dry, '--json'])).stdout);
    expect(after).toMatchObject({ build: [], fetch: [], sources: [] });
    expect(after.present).toHaveLength(2);
  });

  it('shows the lines of a builder that fails once, with -L and without', async () => {
    const world = flakeWorld(
      packages('default: { toolchain: host, installPhase: "echo so it goes; false" }'),
    );
    for (const args of [['build'], ['build', '-L']]) {
      const { status, stderr } = await world.flk(args);
      expect(status).toBe(1);
      expect(stderr.match(/so it goes/g)).toHaveLength(1);
    }
  });

  it('builds on this machine only, and counts only what is built again', async () => {
    const world = flakeWorld(packages(`default: a\n${script('a', 'echo a')}`));
    const elsewhere = await world.flk(['build', '--builders', 'ssh://builder']);
    expect([elsewhere.status, elsewhere.stderr]).toEqual([2, expect.stringContaining('FLK_USAGE')]);
    expect(elsewhere.stderr).toContain('--builders local,nix');
    const times = await world.flk(['build', '--times', '2']);
    expect([times.status, times.stderr]).toEqual([2, expect.stringContaining('--rebuild --times 2')]);
    expect((await world.flk(['build', '--rebuild', '--times', '0'])).status).toBe(2);
    expect(readdirSync(world.folder)).not.toContain('flake.lock');
    expect((await world.flk(['build', '--builders', 'local'])).status).toBe(0);
    expect((await world.flk(['build', '--builders', ''])).status).toBe(0);
  });

  it.each([
    ['locl', 'did you mean local?'],
    ['local=here', 'local is this machine'],
    ['nix=here', 'absolute path'],
    ['local?max-jobs=0', 'max-jobs is a whole number'],
    ['local?max-job=2', 'did you mean max-jobs?'],
    ['remote=https://build.example.org', 'grpc://HOST:PORT'],
    ['local,,nix', 'there is no kind of builder'],
    ['remote=grpc://ada:secret@build.example.org:1', 'grpc://HOST:PORT'],
  ])('knows no builder %s', async (builders, message) => {
    const world = flakeWorld(packages(`default: a\n${script('a', 'echo a')}`));
    const { status, stderr } = await world.flk(['build', '--builders', builders]);
    expect(status).toBe(2);
    expect(stderr).toContain('FLK_USAGE');
    expect(stderr).toContain(message);
    expect(stderr).not.toContain('secret');
  });

  it('builds for another system, and with features, where a builder has them', async () => {
    const world = flakeWorld(
      packages(`default: a\n${script('a', 'echo a')}
fast: { toolchain: host, requiredSystemFeatures: [gpu], installPhase: ": > $out" }`),
    );
    const other = process.arch === 'arm64' ? 'x86_64-linux' : 'aarch64-linux';
    const nobody = await world.flk(['build', '--system', other]);
    expect([nobody.status, nobody.stderr]).toEqual([1, expect.stringContaining('FLK_BUILDER_MISSING')]);
    expect(nobody.stderr).toContain(`not for ${other}`);
    const dry = ['build', '--dry-run', '--json', '--builders', `local,local?system=${other}&feature=gpu`];
    const planned = JSON.parse((await world.flk([...dry, '--system', other])).stdout).build.at(-1);
    expect(planned).toMatchObject({ builder: 'local', passedOver: [{ builder: 'local' }] });
    expect((await world.flk(['build', '--system', 'here'])).status).toBe(2);
    const fast = await world.flk(['build', '#fast', '--no-link']);
    expect([fast.status, fast.stderr]).toEqual([1, expect.stringContaining('does not offer gpu')]);
    expect((await world.flk(['build', '#fast', '--no-link', '--builders', 'local?feature=gpu'])).status).toBe(
      0,
    );
  });

  it('tells apart, and sets apart, two instances of one server', async () => {
    const world = flakeWorld(packages(`default: a\n${script('a', 'echo a')}`));
    const config = join(world.home, 'config/flk');
    mkdirSync(config, { recursive: true });
    writeFileSync(
      join(config, 'config.yaml'),
      `builders:
  - { builder: "remote=grpc://h:1?instance=one", systems: [s390x-linux] }
  - { builder: "remote=grpc://h:1?instance=two", systems: [riscv64-linux] }
`,
    );
    const [one, two] = ['remote=grpc://h:1?instance=one', 'remote=grpc://h:1?instance=two'];
    for (const args of [[], ['--builders', `${two},${one}`]]) {
      const { status, stderr } = await world.flk(['build', ...args]);
      expect([status, stderr]).toEqual([1, expect.stringContaining('FLK_BUILDER_MISSING')]);
      expect(stderr).toMatch(/remote grpc:\/\/h:1\?instance=one +it builds for s390x-linux/);
      expect(stderr).toMatch(/remote grpc:\/\/h:1\?instance=two +it builds for riscv64-linux/);
    }
    const either = await world.flk(['build', '--builders', 'remote=grpc://h:1']);
    expect([either.status, either.stderr]).toEqual([2, expect.stringContaining('FLK_USAGE')]);
    expect(either.stderr).toContain(`${one} or ${two}`);
  });

  it('does not overwrite what is no link', async () => {
    const world = flakeWorld(packages(`default: a\n${script('a', 'echo a')}`));
    writeFileSync(join(world.folder, 'result'), 'mine');
    const { status, stderr } = await world.flk(['build']);
    expect(status).toBe(2);
    expect(stderr).toContain('error[FLK_FILE_UNWRITABLE]');
    expect(readFileSync(join(world.folder, 'result'), 'utf8')).toBe('mine');
  });

  it('shows what builders print with -L, without what would steer the terminal', async () => {
    const world = flakeWorld(
      packages(
        'default:\n  toolchain: host\n  installPhase: "printf \'\\\\033[31mred\\\\033[0m\\\\n\'; mkdir $out"\n',
      ),
    );
    const { stderr } = await world.flk(['build', '-L']);
    expect(stderr).toContain('default> red\n');
  });

  it('that fails: the phase, the last lines and status 1; nothing is left', async () => {
    const world = flakeWorld(packages('default:\n  toolchain: host\n  buildPhase: echo so far; exit 7\n'));
    const { status, stderr } = await world.flk(['build']);
    expect(status).toBe(1);
    expect(stderr).toContain('error[FLK_BUILD_FAILED]');
    expect(stderr).toMatch(/last lines .*\n? *.*so far/);
    expect(readdirSync(world.folder)).not.toContain('result');
  });

  it.each([
    [
      'an unknown package',
      '#nope',
      'a: { toolchain: host, installPhase: mkdir $out }\n',
      'FLK_PACKAGE_UNKNOWN',
      2,
    ],
    [
      'a circle',
      '#a',
      'a: { toolchain: host, installPhase: x, buildInputs: [b] }\nb: { toolchain: host, installPhase: x, buildInputs: [a] }\n',
      'FLK_PACKAGE_CYCLE',
      2,
    ],
    ['no output', '#a', 'a: { toolchain: host, buildPhase: "true" }\n', 'FLK_BUILD_OUTPUT_MISSING', 1],
    [
      'a builder that takes too long',
      '#a',
      'a: { toolchain: host, buildPhase: sleep 600 }\n',
      'FLK_BUILD_TIMEOUT',
      1,
    ],
    [
      'other bytes each time',
      '#a',
      'a: { toolchain: host, installPhase: "cat /proc/sys/kernel/random/uuid > $out" }\n',
      'FLK_BUILD_NOT_REPRODUCIBLE',
      1,
    ],
    ['a fetch without a hash', '#a', 'a: { fetch: { url: "http://127.0.0.1:1/x" } }\n', 'FLK_NETWORK', 3],
  ])('with %s', async (_, target, body, code, wanted) => {
    const world = flakeWorld(packages(body));
    const seconds = code === 'FLK_BUILD_TIMEOUT' ? '1' : '60';
    const { status, stderr } = await world.flk([
      'build',
      target,
      '--rebuild',
      '--timeout',
      seconds,
      '--no-link',
    ]);
    expect(/^error\[(FLK_[A-Z_]+)\]/m.exec(stderr)?.[1], stderr).toBe(code);
    expect(status).toBe(wanted);
  });

  it('goes on with --keep-going, and still fails', async () => {
    const world = flakeWorld(
      packages(`bad: { toolchain: host, buildPhase: exit 1 }\n${script('good', 'echo good')}`),
    );
    const stops = await world.flk(['build', '#bad', '#good', '--no-link', '-j', '1']);
    expect(stops.stderr).not.toContain('building good');
    const goes = await world.flk(['build', '#bad', '#good', '--keep-going', '--no-link']);
    expect(goes.status).toBe(1);
    expect(goes.stderr).toContain('built good');
  });

  it('tells with --keep-going of each failure', async () => {
    const world = flakeWorld(
      packages(
        'one: { toolchain: host, buildPhase: exit 3 }\ntwo: { toolchain: host, buildPhase: exit 4 }\n' +
          'needs-one: { toolchain: host, buildInputs: [one], buildPhase: exit 5 }\n',
      ),
    );
    const targets = ['#one', '#two', '#needs-one'];
    const { status, stdout } = await world.flk(['build', ...targets, '--keep-going', '--json', '--no-link']);
    expect(status).toBe(1);
    const { error } = JSON.parse(stdout) as { error: { message: string; facts: Record<string, string> } };
    expect(error.message).toBe('one: the builder ended with exit status 3 in buildPhase');
    expect(error.facts['failed too']).toBe('two: the builder ended with exit status 4 in buildPhase');
  });

  it('builds what several packages share once, also where it fails', async () => {
    const world = flakeWorld(
      packages(
        'bad: { toolchain: host, buildPhase: exit 3 }\n' +
          'one: { toolchain: host, buildInputs: [bad], buildPhase: exit 4 }\n',
      ),
    );
    const { status, stderr } = await world.flk([
      'build',
      '#one',
      '#bad',
      '--keep-going',
      '--no-link',
      '-j',
      '1',
    ]);
    expect(status).toBe(1);
    expect(stderr.match(/^building bad$/gm)).toHaveLength(1);
  });

  it('in CI does not change the lock, and says why', async () => {
    const world = flakeWorld(
      `inputs:\n  base: ${url('base')}\n${packages(`default: a\n${script('a', 'echo a')}`)}`,
    );
    const { status, stderr } = await world.flk(['build'], { env: { CI: 'true' } });
    expect(status).toBe(1);
    expect(stderr).toContain('error[FLK_LOCK_MISSING]');
    expect(stderr).toContain('--no-locked allows it');
  });
});

describe('flk run', () => {
  it('builds across repositories and runs, with arguments, input and exit status', async () => {
    const world = cliWorld();
    const { status, stdout, stderr } = await world.flk(['run', `${url('hello')}`, '--', 'Ada']);
    expect(status, stderr).toBe(0);
    expect(stdout).toContain('Hello, Ada. This is greet 1.2.0.');
    expect(readdirSync(world.folder)).toEqual([]);
  });

  it('passes on what the program is given and what it says', async () => {
    const world = flakeWorld(
      packages(`default: p\n${script('p', 'read line; echo "$line $PWD $1 $MINE"; exit 42')}`),
    );
    const { status, stdout } = await world.flk(['run', '.', '--', '-x'], {
      input: 'in\n',
      env: { MINE: 'yes' },
    });
    expect({ status, stdout }).toEqual({ status: 42, stdout: `in ${world.folder} -x yes\n` });
  });

  it('names the programs there are when it does not know which', async () => {
    const world = flakeWorld(
      packages('default:\n  toolchain: host\n  installPhase: mkdir $out; touch $out/x\n'),
    );
    const { status, stderr } = await world.flk(['run']);
    expect(status).toBe(2);
    expect(stderr).toContain('error[FLK_RUN_NO_PROGRAM]');
  });
});
