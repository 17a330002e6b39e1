import { describe, expect, it } from 'vitest';
import { flakeWorld } from '../support/cli.ts';

const manifest = `description: Everything
systems: [x86_64-linux, aarch64-linux]
packages:
  default: hello
  hello:
    version: "2.12"
    toolchain: host
    buildPhase: "true"
    meta: { description: Says hello }
  only:
    toolchain: host
    buildPhase: "true"
    perSystem: { aarch64-linux: { version: "1" } }
checks:
  runs: { toolchain: host, buildInputs: [hello], buildPhase: hello }
devShells:
  default: { packages: [hello] }
apps:
  default: { program: hello/bin/hello, meta: { description: Greets } }
  bare: { program: hello/bin/hello }
templates:
  default: { path: ./template, description: To start with }
`;

describe('flk show', () => {
  it('lists what a flake offers in the shape of nix flake show --json', async () => {
    const { flk } = flakeWorld(manifest);
    const { stdout, status } = await flk(['show', '--json']);
    expect(status).toBe(0);
    const shown = JSON.parse(stdout) as Record<string, Record<string, unknown>>;
    const hello = { description: 'Says hello', name: 'hello-2.12', type: 'derivation' };
    expect(Object.keys(shown)).toEqual(['apps', 'checks', 'devShells', 'packages', 'templates']);
    expect(shown.apps!['x86_64-linux']).toEqual({
      bare: { type: 'app' },
      default: { type: 'app', description: 'Greets' },
    });
    expect(shown.packages!['x86_64-linux']).toEqual({
      default: hello,
      hello,
      only: { description: '', name: 'only', type: 'derivation' },
    });
    expect(shown.packages!['aarch64-linux']).toMatchObject({ only: { name: 'only-1' } });
    expect(shown.checks!['aarch64-linux']).toEqual({
      runs: { description: '', name: 'runs', type: 'derivation' },
    });
    expect(shown.templates).toEqual({ default: { description: 'To start with', type: 'template' } });
  });

  it('draws the same as a tree for people', async () => {
    const { flk, folder } = flakeWorld(manifest);
    const { stdout } = await flk(['show']);
    expect(stdout.split('\n').slice(0, 5)).toEqual([
      `git+file://${folder}`,
      '├───apps',
      '│   ├───aarch64-linux',
      '│   │   ├───bare: app: no description',
      '│   │   └───default: app: Greets',
    ]);
    expect(stdout).toContain("│       └───default: development environment 'default'\n");
    expect(stdout).toContain("hello: package 'hello-2.12' - 'Says hello'\n");
    expect(stdout.trimEnd().split('\n').at(-1)).toBe('    └───default: template: To start with');
  });

  it('shows a flake without outputs as its name alone', async () => {
    const { flk, folder } = flakeWorld('description: Nothing yet\n');
    expect(await flk(['show'])).toMatchObject({ stdout: `git+file://${folder}\n`, status: 0 });
  });
});
