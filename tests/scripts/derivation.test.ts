import { describe, expect, it } from 'vitest';
import { flakeWorld } from '../support/cli.ts';

const manifest = `toolchain: host
packages:
  default: app
  lib: { buildPhase: "echo lib > $out" }
  app: { version: "1", buildInputs: [lib], buildPhase: "echo app > $out" }
  gcc: { storePath: /nix/store/00000000000000000000000000000000-gcc, narHash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", cache: "https://c.example", publicKey: "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }
`;

interface Shown {
  readonly version: number;
  readonly derivations: Readonly<
    Record<string, { readonly name: string; readonly system: string; readonly env: Record<string, string> }>
  >;
}
const read = (text: string): Shown => JSON.parse(text) as Shown;

describe('flk derivation show', () => {
  it('shows what a package becomes, and with -r what that stands on', async () => {
    const { flk } = flakeWorld(manifest);
    const one = read((await flk(['derivation', 'show'])).stdout);
    expect(one.version).toBe(4);
    expect(Object.values(one.derivations).map(({ name }) => name)).toEqual(['app-1']);
    const all = read((await flk(['derivation', 'show', '-r', '.#app'])).stdout);
    expect(
      Object.values(all.derivations)
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['app-1', 'lib']);
    expect(all.derivations).toMatchObject(one.derivations);
  });

  it('shows what a package becomes on another system', async () => {
    const { flk } = flakeWorld(manifest);
    const { stdout } = await flk(['derivation', 'show', '-r', '--system', 'riscv64-linux']);
    const systems = Object.values(read(stdout).derivations).map(({ system }) => system);
    expect(systems).toEqual(['riscv64-linux', 'riscv64-linux']);
    expect((await flk(['derivation', 'show', '--system', 'here'])).status).toBe(2);
  });

  it('reads the .drv in the store, and the one that made a path', async () => {
    const { flk } = flakeWorld(manifest);
    const built = await flk(['build', '.#app', '--json', '--no-link']);
    const [{ drvPath, outputs }] = JSON.parse(built.stdout) as [
      { drvPath: string; outputs: { out: string } },
    ];
    const wanted = await flk(['derivation', 'show', '.#app']);
    expect((await flk(['derivation', 'show', drvPath])).stdout).toBe(wanted.stdout);
    expect((await flk(['derivation', 'show', outputs.out])).stdout).toBe(wanted.stdout);
    await flk(['build', '.#app']);
    expect((await flk(['derivation', 'show', './result'])).stdout).toBe(wanted.stdout);
    expect((await flk(['derivation', 'show', '--recursive', drvPath])).stdout).toBe(
      (await flk(['derivation', 'show', '--recursive', '.#app'])).stdout,
    );
  });

  it('refuses what no derivation makes, and other words', async () => {
    const { flk } = flakeWorld(manifest);
    const path = await flk(['derivation', 'show', '.#gcc']);
    expect([path.status, path.stderr]).toEqual([2, expect.stringContaining('which no derivation makes')]);
    expect(await flk(['derivation', 'add'])).toMatchObject({ status: 2 });
  });
});
