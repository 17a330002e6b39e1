import { describe, expect, it } from 'vitest';
import { flakeWorld } from '../support/cli.ts';

const good = `packages:
  default: a
  a: { toolchain: host, installPhase: "echo a > $out" }
devShells: { default: { packages: [a] } }
apps: { say: { program: a/bin/a } }
formatter: a/bin/fmt
`;

interface Item {
  readonly name: string;
  readonly system: string;
  readonly ok: boolean;
  readonly drvPath: string | null;
  readonly error?: { readonly code: string; readonly message: string };
}

describe('flk check', () => {
  it('builds the checks, tells each, and counts what else is in order', async () => {
    const world = flakeWorld(
      `${good}checks:\n  b: { toolchain: host, buildInputs: [a], buildPhase: "cat $buildInputs > $out" }\n`,
    );
    const { status, stdout, stderr } = await world.flk(['check']);
    expect({ status, stdout }, stderr).toEqual({
      status: 0,
      stdout: 'ok      checks.b\n5 other things can be instantiated\n',
    });
    expect(stderr).toMatch(/^built b \(/m);
    const none = await world.flk(['check', '--no-build']);
    expect(none.stdout).toBe('6 things can be instantiated\n');
  });

  it('goes on after a failure, shows it, and ends with 1', async () => {
    const world = flakeWorld(
      `${good}checks:\n  bad: { toolchain: host, buildPhase: echo why; exit 3 }\n  fine: { toolchain: host, buildPhase: "echo > $out" }\n`,
    );
    const { status, stdout, stderr } = await world.flk(['check', '-j', '1']);
    expect(status).toBe(1);
    expect(stdout).toContain('failed  checks.bad: ');
    expect(stdout).toContain('ok      checks.fine\n');
    expect(stderr).toContain('error[FLK_BUILD_FAILED]');
    expect(stderr).toContain('why');
    const json = await world.flk(['check', '--json']);
    const items = JSON.parse(json.stdout) as Item[];
    expect(items.map(({ name }) => name)).toEqual([
      'packages.default',
      'packages.a',
      'checks.bad',
      'checks.fine',
      'devShells.default',
      'apps.say',
      'formatter',
    ]);
    expect(items.filter(({ ok }) => !ok).map(({ name, error }) => [name, error?.code])).toEqual([
      ['checks.bad', 'FLK_BUILD_FAILED'],
    ]);
  });

  it('finds what cannot be instantiated, wherever it stands', async () => {
    const world = flakeWorld(
      `${good.replace('packages: [a]', 'packages: [a], inputsFrom: [f]')}checks: {}\n`.replace(
        'packages:\n',
        'packages:\n  c: { toolchain: host, installPhase: x, buildInputs: [d] }\n  d: { toolchain: host, installPhase: x, buildInputs: [c] }\n  f: { fetch: { url: "http://127.0.0.1:1/x", hash: sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= } }\n',
      ),
    );
    const { status, stdout } = await world.flk(['check', '--no-build', '--json']);
    expect(status).toBe(1);
    const failed = (JSON.parse(stdout) as Item[]).filter(({ ok }) => !ok);
    expect(failed.map(({ name, error }) => [name, error?.code])).toEqual([
      ['packages.c', 'FLK_PACKAGE_CYCLE'],
      ['packages.d', 'FLK_PACKAGE_CYCLE'],
      ['devShells.default', 'FLK_PACKAGE_INVALID'],
    ]);
  });

  it('reads for another system, whose checks only a builder that has it can build', async () => {
    const world = flakeWorld(`${good}checks:\n  b: { toolchain: host, buildPhase: "echo > $out" }\n`);
    const check = ['check', '--json', '--system', 'riscv64-linux'];
    const { status, stdout } = await world.flk([...check, '--no-build']);
    expect([status, new Set((JSON.parse(stdout) as Item[]).map(({ system }) => system))]).toEqual([
      0,
      new Set(['riscv64-linux']),
    ]);
    const built = JSON.parse((await world.flk(check)).stdout) as Item[];
    expect(built.filter(({ ok }) => !ok).map(({ name, error }) => [name, error?.code])).toEqual([
      ['checks.b', 'FLK_BUILDER_MISSING'],
    ]);
  });

  it('reads for every system that is named, with --all-systems', async () => {
    const world = flakeWorld(`systems: [x86_64-linux, aarch64-linux, riscv64-linux]\n${good}`);
    const { status, stdout } = await world.flk(['check', '--all-systems', '--json']);
    expect(status).toBe(0);
    const items = JSON.parse(stdout) as Item[];
    expect(new Set(items.map(({ system }) => system))).toEqual(
      new Set(['aarch64-linux', 'riscv64-linux', 'x86_64-linux']),
    );
    const ofA = items.filter(({ name }) => name === 'packages.a');
    expect(new Set(ofA.map(({ drvPath }) => drvPath)).size).toBe(3);
  });

  it('with --reproducible builds packages and checks again', async () => {
    const world = flakeWorld(
      `${good}  random: { toolchain: host, installPhase: "cat /proc/sys/kernel/random/uuid > $out" }\n`
        .replace(/formatter.*\n/, '')
        .replace(/( {2}random.*\n)/, '')
        .replace(
          'packages:\n',
          'packages:\n  random: { toolchain: host, installPhase: "cat /proc/sys/kernel/random/uuid > $out" }\n',
        ),
    );
    expect((await world.flk(['check'])).status).toBe(0);
    const { status, stdout } = await world.flk(['check', '--reproducible', '--json']);
    expect(status).toBe(1);
    const failed = (JSON.parse(stdout) as Item[]).filter(({ ok }) => !ok);
    expect(failed.map(({ name, error }) => [name, error?.code])).toEqual([
      ['packages.random', 'FLK_BUILD_NOT_REPRODUCIBLE'],
    ]);
  });

  it('tells faults of the manifest as every command does', async () => {
    const world = flakeWorld('checks: { x: { buildPhas: y } }\n');
    const { status, stderr } = await world.flk(['check']);
    expect(status).toBe(2);
    expect(stderr).toContain('error[FLK_MANIFEST_INVALID]');
  });
});
